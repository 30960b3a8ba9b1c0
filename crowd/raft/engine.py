"""The engine: one member of the cluster, from the journal to the applied ledger.

Decides when the guarded Raft ticks, what may enter the log, who is told what was applied,
and when the node must end. Leaves the rules of Raft to ``guard``, bytes on disk to
``journal``, bytes on the wire to ``links``, batches and answers to ``proposer``, and what a
command means to ``crowd/ledger``.

A tick is asked for (`wake`) by a proposal, a peer's message or an fsync, and coalesced; a
slow clock ticks as well, for elections and heartbeats. Everything runs in the reactor's
thread; only the journal's writer has another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from crowd.command import (
    FORMAT,
    Accept,
    Birth,
    Define,
    Index,
    Member,
    OpenSession,
    Readmit,
    Term,
    decode_command,
    encode_command,
    open_entry,
    read_command,
    stamp,
)
from crowd.errors import (
    BacklogFullError,
    CrowdError,
    DamagedError,
    FatalError,
    MalformedError,
    NeedsNewerCrowdError,
)
from crowd.ledger import Ledger
from crowd.raft.guard import REGULAR, GuardedRaft
from crowd.raft.logclock import LogClock
from crowd.raft.membership import Membership, Standing
from crowd.raft.proposer import Proposer
from crowd.raft.wire import PROTOCOL, Hello, Offer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from crowd.clock import Clock, Timer
    from crowd.command import Command
    from crowd.raft.guard import Log
    from crowd.raft.wire import PeerMessage

TICK_S: Final = 0.02
"""The slow clock: a fifth of a heartbeat, so that one is late by no more than that."""
HOUSEKEEPING_S: Final = 0.5
"""How often disk space, bounds, and what the log still lacks are looked at."""
WAVES_APART_S: Final = 0.02
"""Producers who were answered post again within so long, or are not in a hurry."""
FENCE_S: Final = 0.5
"""A majority must have answered a heartbeat sent within this time for an attempt to start.
It is shorter than the shortest election, so no two leaders deliver at once."""
HAND_OVER_S: Final = 2.0
"""How long a stopping leader waits for a follower that can take over."""
OFFERED_BY_PEERS: Final = (Accept, OpenSession, Define)
"""What a follower may put into the log; the rest is the leader's own to propose."""


class DurableLog(Protocol):
    """The journal, beyond what the guard asks of it (:class:`crowd.raft.guard.Log`)."""

    journal_id: bytes
    founding: bytes
    full: bool
    on_durable: Callable[[], None]
    on_fatal: Callable[[FatalError], None]

    def remember(self, data: bytes, done: Callable[[], None]) -> None:
        """Make `data` the node's memory; `done` is called once it is durable."""

    def flush(self) -> None:
        """Start to write what was added, instead of in the reactor's next turn."""

    def retry(self) -> None:
        """Try again to write what found no space."""

    def close(self) -> None:
        """Write what is pending and let go of the directory."""


class Links(Protocol):
    """The links to the peers; a Service."""

    def send(self, name: str, message: PeerMessage) -> bool:
        """Queue a message to a peer; False if it is not connected or lags too far."""

    def writable(self, name: str) -> bool:
        """Tell whether the peer keeps up."""

    def disconnect(self, name: str, why: str) -> None:
        """End the link; it is dialled again."""

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Listen and dial."""

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Close all links; fire when that is done."""


class Space(NamedTuple):
    """A file system's size and what is free of it, in bytes."""

    free_bytes: int
    total_bytes: int


class Bounds(NamedTuple):
    """What ends waiting (`acknowledge_within_s`) and acceptance (the others; I7)."""

    acknowledge_within_s: float
    backlog_bytes: int
    free_bytes_min: int = 256 << 20
    free_share_min: float = 0.02

    def floor(self, space: Space) -> int:
        """Return how many bytes must stay free on this file system."""
        return max(self.free_bytes_min, int(space.total_bytes * self.free_share_min))


class Identity(NamedTuple):
    """Who this member is: its name, its cluster's, and the other members' names."""

    node: str
    cluster: str
    others: tuple[str, ...]


class Seams(NamedTuple):
    """What the engine is built upon, and whom it tells of its end.

    `open_journal` opens the node's directory; `make_links` is None for a node without peers;
    `space` looks at the journal's file system; `on_fatal` is called once when the node must
    end (I8).
    """

    open_journal: Callable[[], Any]
    make_links: Callable[[Engine, Callable[[], Hello]], Links] | None
    space: Callable[[], Space]
    on_fatal: Callable[[FatalError], None]


class Engine(Service):
    """One member of a cluster; alone, the whole cluster."""

    _log = Logger()
    name = "engine"

    def __init__(
        self,
        clock: Clock,
        wall_us: Callable[[], int],
        chance: random.Random,
        member: Identity,
        seams: Seams,
        bounds: Bounds,
    ) -> None:
        """Make the engine; nothing is opened, and no thread started, before startService.

        `clock` is monotonic, `wall_us` the wall clock in microseconds since 1970.
        """
        self._clock = clock
        self._wall_us = wall_us
        self._chance = chance
        self.member = member
        self._seams = seams
        self._bounds = bounds
        self._links: Links | None = None
        self._waking: Timer | None = None
        self._ticking = _loop(clock, self._tick)
        self._housekeeping = _loop(clock, self._keep_house)
        self._log_clock = LogClock()
        self._appended: set[tuple[int, int]] = set()
        self._wanted: dict[str, tuple[Callable[[Ledger], bool], Callable[[], Command]]] = {}
        self._seen_applied = 0
        self._leading = False
        self._handing_over = False
        self._dead = False
        self._urgent = False
        self._remembering = False
        self._offered: dict[str, int] = {}  # the index that each peer's last offer has
        self._queued = 0  # appended at the next tick
        self._waited_s = float("-inf")
        self._after_remembering: list[Callable[[], None]] = []
        self._quorum_s = float("-inf")
        self.applied_hooks: list[Callable[[], None]] = []
        """Called after entries were applied, coalesced."""
        self.leading_hooks: list[Callable[[bool], None]] = []
        """Called with True once this node leads and has applied all before its term, and with
        False once it no longer leads."""
        self.ledger = Ledger()
        self.proposer = Proposer(
            member.node, clock, self.offer, lambda: chance.randbytes(16),
            acknowledge_within_s=bounds.acknowledge_within_s,
        )  # fmt: skip

    # --- Life ---------------------------------------------------------------------------------

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Open the journal, take up where it ends, and join the cluster.

        Raises FatalError if the journal is damaged, foreign, or in use.
        """
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        self.journal = self._seams.open_journal()
        self.journal.on_durable = self._durable
        self.journal.on_fatal = self._die
        self.membership = Membership(
            self.member.cluster,
            self.member.node,
            self.journal.journal_id,
            self.member.others,
            self.journal.founding,
        )
        log: Log = self.journal
        self.raft = GuardedRaft(self.member.node, self.member.others, log, self, self)
        self.ledger.skip(Index(1), Term(0))  # any log's first entry is a no-op
        if self._seams.make_links is not None:
            self._links = self._seams.make_links(self, self._hello)
            self._links.startService()
        self.proposer.start(self.ledger)
        self._ticking.start(TICK_S, now=False)
        self._housekeeping.start(HOUSEKEEPING_S, now=False)
        self._found()
        self.wake()

    async def stop(self) -> None:
        """Answer what is in flight, hand leadership over where that is possible, and end."""
        if not self._dead:
            await self.proposer.drain()
            await self._hand_over()
        self._rest()
        self.proposer.stop()
        if self._links is not None:
            await self._links.stopService()
        if hasattr(self, "journal"):
            self.journal.close()

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """End as :meth:`stop` does."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        return Deferred.fromCoroutine(self.stop())

    def _rest(self) -> None:
        """Tick no more."""
        self._dead = True
        for loop in (self._ticking, self._housekeeping):
            if loop.running:
                loop.stop()
        if self._waking is not None and self._waking.active():
            self._waking.cancel()

    async def _hand_over(self) -> None:
        """Stop proposing, and ask a follower that has everything to lead."""
        self._handing_over = True
        until_s = self._clock.seconds() + HAND_OVER_S
        asked = False
        while self.member.others and self.raft.is_leader and self._clock.seconds() < until_s:
            if not asked and self.raft.applied_index == self.journal.last_index:
                target = self.raft.hand_over()
                asked = target is not None
                if asked:
                    self._log.info("hands leadership over to {peer}", peer=target)
            passed: Deferred[None] = Deferred()
            self._clock.callLater(TICK_S, passed.callback, None)
            await passed

    def _die(self, error: FatalError) -> None:
        """End the node: nothing is acknowledged from here on (I8)."""
        if self._dead:
            return
        self._rest()
        self._log.critical("the node ends: {error}", error=str(error))
        self._seams.on_fatal(error)

    # --- Ticking ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Tick soon; many calls make one tick."""
        if self._waking is None and not self._dead:
            self._waking = self._clock.callLater(0, self._wakened)

    def _wakened(self) -> None:
        self._waking = None
        self._tick()

    def _tick(self) -> None:
        if self._dead:
            return
        try:
            more = self.raft.tick()
        except FatalError as error:
            self._die(error)
            return
        except Exception as error:  # noqa: BLE001  whatever it is, the state is not to be trusted
            self._log.failure("a tick failed")
            self._die(FatalError(f"the engine failed: {error!r}"))
            return
        self._queued = 0
        self.journal.flush()  # after the followers have it: their disks work side by side
        if more:
            self.wake()
        self._spread()

    def _spread(self) -> None:
        """Tell who waits for it what was applied, and whether this node leads."""
        if self.raft.leader is not None:
            self._quorum_s = self._clock.seconds()
        leading = self.raft.leads_fully and not self._handing_over
        if leading != self._leading:
            self._leading = leading
            for led in self.leading_hooks:
                led(leading)
        if self._urgent:
            self._urgent = False
            self._keep_house()
        if self.raft.applied_index != self._seen_applied:
            self._seen_applied = self.raft.applied_index
            self.proposer.applied()
            for applied in self.applied_hooks:
                applied()

    def _durable(self) -> None:
        """Take what the journal's writer made durable."""
        if not self._dead and self.raft.durable():
            self.wake()

    def _keep_house(self) -> None:
        """Look at the bounds, and propose what the log still lacks."""
        if self._dead:
            return
        if self.journal.full:
            self.journal.retry()
        self._bound()
        self._want_birth()
        self._want_readmissions()
        for name, (done, make) in list(self._wanted.items()):
            if done(self.ledger):
                del self._wanted[name]
            elif self.ledger.tag is not None or name == "birth":
                command = make()
                self.offer(command, encode_command(command))

    def _bound(self) -> None:
        """Open or close the door (I7)."""
        if isinstance(self.proposer.refusal, (type(None), BacklogFullError)):
            space = self._seams.space()
            if self.journal.full or space.free_bytes < self._bounds.floor(space):
                words = "the disk's floor of free space is reached"
                self.proposer.refusal = BacklogFullError(words, retry_after_s=10)
            elif self.ledger.backlog_bytes > self._bounds.backlog_bytes:
                words = "the configured backlog is reached"
                self.proposer.refusal = BacklogFullError(words, retry_after_s=10)
            else:
                self.proposer.refusal = None

    # --- What enters the log --------------------------------------------------------------------

    def offer(self, command: Command, encoded: bytes) -> bool:
        """Bring this node's command to the leader; `encoded` are its bytes.

        True if it was appended or sent there, which promises nothing.
        """
        if self._dead or self._handing_over:
            return False
        if self.raft.is_leader:
            self._append(command, encoded)
            return True
        leader = self.raft.leader
        return (
            leader is not None
            and self._links is not None
            and self._links.send(leader, Offer(command=encoded))
        )

    def propose(self, command: Command) -> bool:
        """Append one of the leader's own commands; False if this node does not lead."""
        if self._dead or self._handing_over or not self.raft.is_leader:
            return False
        self._append(command, encode_command(command))
        return True

    def want(self, name: str, done: Callable[[Ledger], bool], make: Callable[[], Command]) -> None:
        """Offer what `make` returns, again and again, until `done` is true of the ledger."""
        self._wanted[name] = (done, make)

    def _append(self, command: Command, encoded: bytes) -> None:
        """Stamp and append a checked command; a proposal that is under way is not repeated."""
        if isinstance(command, Accept):
            proposal = (command.session, command.number)
            if proposal in self._appended:
                return
            self._appended.add(proposal)
        log_time_us = self._log_clock.stamp(self._wall_us(), self._clock.seconds())
        self.raft.propose(stamp(log_time_us, encoded))
        self._queued += 1
        self.wake()

    # --- What the log says: the guard's host ------------------------------------------------------

    def apply(self, index: int, term: int, command: bytes) -> None:
        """Apply a committed entry to the ledger. Any failure is fatal, with its index (D13)."""
        if command[:1] != REGULAR:
            self.ledger.skip(Index(index), Term(term))
            return
        try:
            log_time_us, body = open_entry(command[1:])
            value = read_command(body)
            self.ledger.apply(Index(index), Term(term), log_time_us, value)
        except NeedsNewerCrowdError as error:
            raise NeedsNewerCrowdError(f"entry {index} needs a newer crowd: {error}") from error
        except MalformedError as error:
            raise DamagedError(str(error), place=f"entry {index}") from error
        self._log_clock.follow(log_time_us)
        if isinstance(value, Accept):
            self._appended.discard((value.session, value.number))
        elif isinstance(value, Readmit):
            self._readmitted(value)
        elif isinstance(value, Birth):
            self._urgent = True
            self.proposer.leader_changed()  # what was offered before the birth is void

    def message(self, index: int, offset: int) -> bytes:
        """Return the stored message at a place in the log; raise DamagedError on bad bytes."""
        return self.messages(index)[offset]

    def messages(self, index: int) -> tuple[bytes, ...]:
        """Return the stored messages of an accepted entry; raise DamagedError on bad bytes."""
        command, _, _ = self.journal.entry(index)
        value = read_command(open_entry(command[1:])[1])
        if not isinstance(value, Accept):
            raise DamagedError("an entry that should hold messages", place=f"entry {index}")
        return value.messages

    def is_voter(self, name: str) -> bool:
        """Tell whether a member's copy counts."""
        return self.membership.is_voter(name)

    def waits(self, name: str, after: int) -> bool:
        """Tell whether a peer offered an entry that stands behind index `after`."""
        return self._offered.get(name, 0) > after

    @property
    def producers_wait(self) -> bool:
        """Whether any node's producers wait for this one, its own or a peer's, or just did.

        Between two waves of producers nobody waits for a moment, and they are still busy.
        """
        now_s, committed = self._clock.seconds(), self.raft.commit_index
        if self.proposer.waiting or any(self.waits(name, committed) for name in self._offered):
            self._waited_s = now_s
        return now_s - self._waited_s < WAVES_APART_S

    def role_changed(self) -> None:
        """Note that term, role or leader changed: what the last leader had may be lost."""
        self._appended.clear()
        self._offered.clear()
        self._log.info(
            "{role} in term {term}, leader {leader}",
            role=self.raft.role.name.lower(),
            term=self.raft.term,
            leader=self.raft.leader,
        )
        if self.raft.leader is not None:
            self._urgent = True
            self.proposer.leader_changed()

    def may_attempt(self) -> bool:
        """Tell whether a delivery may start now: this node surely leads (I4)."""
        return self._leading and self._clock.seconds() - self.raft.quorum_heard_s() < FENCE_S

    # --- Members --------------------------------------------------------------------------------

    def _found(self) -> None:
        if self.membership.found():
            self._log.info("founds the cluster {cluster}", cluster=self.member.cluster)
            self._remember(self._founded)

    def _remember(self, then: Callable[[], None] | None = None) -> None:
        """Make the roster durable, one record after the other, and use it then."""
        if then is not None:
            self._after_remembering.append(then)
        if not self._remembering:
            self._remembering = True
            self.journal.remember(self.membership.memory, self._remembered)

    def _remembered(self) -> None:
        """Use the roster that is now durable."""
        self._remembering = False
        if self._dead:
            return
        if self.journal.founding != self.membership.memory:
            self._remember()
            return
        self.raft.members_changed()
        after, self._after_remembering = self._after_remembering, []
        for then in after:
            then()
        self.wake()

    def _founded(self) -> None:
        """Let every member say hello anew: this node's hello now holds the roster."""
        for name in self.member.others:
            self._disconnect(name, "the cluster is founded, and says hello again")

    def _readmitted(self, readmit: Readmit) -> None:
        self._log.info("{peer} votes again", peer=readmit.name)
        self.membership.readmitted(readmit.name, readmit.journal_id)
        self._remember()

    def _want_birth(self) -> None:
        if self.ledger.tag is None and self.raft.is_leader:
            self.want("birth", lambda ledger: ledger.tag is not None, self._birth)

    def _birth(self) -> Birth:
        members = tuple(Member(n, j) for n, j in sorted(self.membership.roster.items()))
        tag = self._chance.randbytes(4).hex()
        return Birth(cluster=self.member.cluster, tag=tag, members=members, format=FORMAT)

    def _want_readmissions(self) -> None:
        """Let a learner vote again once it has nearly everything."""
        if not self._leading:
            return
        for name, journal_id in self.membership.learners():
            if self.raft.acked(name) >= self.raft.commit_index > 0:
                self.propose(Readmit(name=name, journal_id=journal_id))

    # --- Peers: the guard's outbox and the links' listener ------------------------------------------

    def send(self, name: str, message: PeerMessage) -> bool:
        """Send to a peer, if it is connected."""
        return self._links is not None and self._links.send(name, message)

    def writable(self, name: str) -> bool:
        """Tell whether a peer keeps up."""
        return self._links is not None and self._links.writable(name)

    def _hello(self) -> Hello:
        return Hello(
            protocol=PROTOCOL,
            format=FORMAT,
            cluster=self.member.cluster,
            node=self.member.node,
            journal_id=self.journal.journal_id,
            roster=tuple(sorted((self.member.node, *self.member.others))),
            founding=self.journal.founding,
            empty=self.journal.last_index == 1,
        )

    def peer_connected(self, name: str, hello: Hello) -> None:
        """Take up a peer: its journal id says whether it counts."""
        try:
            taken = self.membership.arrived(
                name, hello.journal_id, hello.founding, empty=hello.empty
            )
        except MalformedError as error:
            self._disconnect(name, str(error))
            return
        self.raft.connected(name)
        if taken:
            self._log.info(
                "joins the cluster {cluster} as {standing}",
                cluster=self.member.cluster,
                standing=self.membership.standing.value,
            )
            self._remember()
        else:
            self._found()
        self.wake()

    def peer_disconnected(self, name: str, why: str) -> None:
        """Let go of a peer; the links have logged `why`."""
        del why
        self.membership.left(name)
        if not self._dead:
            self.raft.disconnected(name)
            self.wake()

    def peer_message(self, name: str, message: PeerMessage) -> None:
        """Take a peer's message; one that cannot be right ends the link, not the node."""
        if self._dead:
            return
        if isinstance(message, Offer):
            self._on_offer(name, message.command)
            return
        try:
            due = self.raft.receive(name, message)
        except FatalError as error:
            self._die(error)
            return
        self.journal.flush()
        if due:
            self.wake()

    def _on_offer(self, name: str, encoded: bytes) -> None:
        """Check a follower's proposal before it may enter the log (D13)."""
        if not self.raft.is_leader or self._handing_over:
            return  # it is offered again, to whoever leads then
        try:
            command = decode_command(encoded)
        except CrowdError as error:
            self._disconnect(name, f"it offered what is no command: {error}")
            return
        if not isinstance(command, OFFERED_BY_PEERS):
            self._disconnect(name, f"it offered a {type(command).__name__}, a leader's own command")
            return
        self._append(command, encoded)
        self._offered[name] = self.journal.last_index + self._queued

    def _disconnect(self, name: str, why: str) -> None:
        if self._links is not None:
            self._links.disconnect(name, why)

    # --- What others read -----------------------------------------------------------------------

    @property
    def without_quorum_s(self) -> float:
        """Seconds since a leader was last known (a leader without a majority steps down)."""
        return self._clock.seconds() - self._quorum_s

    @property
    def role(self) -> str:
        """Raft's role in small letters, or ``learner`` or ``unborn``."""
        standing = self.membership.standing
        return self.raft.role.name.lower() if standing is Standing.VOTER else standing.value


def _loop(clock: Any, call: Callable[[], None]) -> LoopingCall:
    looping = LoopingCall(call)
    looping.clock = clock
    return looping
