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

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from crowd.command import (
    FORMAT,
    Accept,
    Birth,
    Define,
    Demote,
    Enroll,
    Expel,
    Index,
    Once,
    OpenSession,
    Promote,
    Release,
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
    DamagedEntryError,
    DamagedError,
    FatalError,
    MalformedError,
    NeedsNewerCrowdError,
    PeerRejectedError,
)
from crowd.ledger import Ledger
from crowd.raft.changes import Changes
from crowd.raft.compaction import Compaction
from crowd.raft.guard import GuardedRaft
from crowd.raft.letters import Letters
from crowd.raft.logclock import LogClock
from crowd.raft.membership import Membership, Standing
from crowd.raft.ports import REGULAR
from crowd.raft.proposer import Proposer
from crowd.raft.repairs import Repairs
from crowd.raft.room import Room
from crowd.raft.scrubbing import Scrubbing
from crowd.raft.snapshots import Snapshots
from crowd.raft.wire import (
    PROTOCOL,
    Await,
    AwaitEnded,
    Fetch,
    Fetched,
    FetchLetter,
    Hello,
    LetterFetched,
    Offer,
    SnapshotPiece,
    SnapshotWanted,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from twisted.python.failure import Failure

    from crowd.clock import Clock, Timer
    from crowd.command import Command
    from crowd.raft.checkpoints import Checkpoint, Loaded
    from crowd.raft.seams import Bounds, Identity, Links, Seams
    from crowd.raft.storage import Storage
    from crowd.raft.wire import PeerMessage

TICK_S: Final = 0.02
"""The slow clock: a fifth of a heartbeat, so that one is late by no more than that."""
HOUSEKEEPING_S: Final = 0.5
"""How often disk space, bounds, and what the log still lacks are looked at."""
WAVES_APART_S: Final = 0.02
"""Producers who were answered post again within so long, or are not in a hurry."""
FENCE_S: Final = 0.5
"""A majority must have answered a heartbeat sent within this time for an attempt to start."""
LEASE_S: Final = 0.55
"""How long a leader that was elected attempts nothing. Each of its voters answered the leader
before it for the last time before it voted, so by then that one's fence has closed, even if
nobody could tell it so: no two leaders deliver at once. The excess is for clocks that run at
different speeds."""
HAND_OVER_S: Final = 2.0
"""How long a stopping leader waits for a follower that can take over."""
OFFERED_BY_PEERS: Final = (Accept, OpenSession, Define, Enroll, Expel, Once)
"""What a follower may put into the log; the rest is the leader's own to propose."""
BIRTH: Final = "birth"
CHANGES: Final = (Enroll, Promote, Demote, Expel)
"""What changes the members: one at a time (D14)."""


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
        self._housekeeping = _loop(clock, lambda: self._or_die(self._keep_house))
        self._log_clock = LogClock()
        self._appended: set[tuple[int, int]] = set()
        self._proposed: deque[tuple[bytes, Command]] = deque()  # in this term, and not applied yet
        self._newest: tuple[int, tuple[bytes, ...]] = 0, ()  # applied last while leading
        self._installing: Checkpoint | None = None
        self._wanted: dict[str, tuple[Callable[[Ledger], bool], Callable[[], Command]]] = {}
        self._seen_applied = 0
        self._standing = Standing.UNBORN
        self._leading = False
        self._handing_over = False
        self._dead = False
        self._urgent = False
        self._offered: dict[str, int] = {}  # the index that each peer's last offer has
        self._waited_s = float("-inf")
        self._quorum_s = float("-inf")
        self._fence_s = float("-inf")  # until when a majority surely follows, as far as was looked
        self.applied_hooks: list[Callable[[], None]] = []
        """Called after entries were applied, coalesced."""
        self.leading_hooks: list[Callable[[bool], None]] = []
        """Called with True once this node leads and has applied all before its term, and with
        False once it no longer leads."""
        self.letter_hooks: list[Callable[[], None]] = []
        """Called when letters that `letter` was asked for may be at hand."""
        self.leaving_hooks: list[Callable[[], None]] = []
        """Called before a leader hands leadership over: the last moment to propose."""
        self.leader_hooks: list[Callable[[], None]] = []
        """Called when term, role or leader changed, in the middle of a tick: to be asked for a turn."""
        self.await_hooks: list[Callable[[str, Await | AwaitEnded], None]] = []
        """Called with what a peer said of answers that are awaited."""
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
        storage = self._seams.open_storage()
        self.journal, self.store = storage.journal, storage.store
        self.journal.on_durable = self._durable
        self.journal.on_fatal = self.store.on_fatal = storage.letters.on_fatal = self._die
        self.membership = Membership(
            self.member.cluster,
            self.member.node,
            self.journal.journal_id,
            self.member.peers,
            self.journal.founding,
        )
        self.changes = Changes(
            self.membership, self.journal, self.ledger, self._members_in_force, self.want
        )
        self.compaction = Compaction(
            self.ledger, self.journal, self.store,
            pace=self._bounds.checkpoints, retention_us=self._bounds.retention_us,
            letters_durable=storage.letters.durable_through,
        )  # fmt: skip
        self._letter_store = storage.letters
        self.letters = Letters(
            self._clock, storage.letters, self.ledger, self.send, self._connected,
            self._letters_changed,
        )  # fmt: skip
        self.repairs = Repairs(self._clock, self.journal, self.send, self._connected, self._mended)
        self.snapshots = Snapshots(
            self._clock,
            self.store,
            self.send,
            self.writable,
            self._received,
            piece_bytes=self._bounds.piece_bytes,
        )
        self.room = Room(self._clock, self.journal, self.ledger, self._bounds, self._seams.space)
        self._scrubbing = Scrubbing(
            self.journal, self.store, self.damaged,
            checkpoints_every=self._bounds.checkpoints_every,
        )  # fmt: skip
        self._begin(storage)
        if self._seams.make_links is not None:
            self._links = self._seams.make_links(self, self._hello)
            self._links.follow(self.membership.addresses, self.membership.dialled)
            self._links.startService()
        self.proposer.start(self.ledger)
        self._ticking.start(TICK_S, now=False)
        self._housekeeping.start(HOUSEKEEPING_S, now=False)
        self._found()
        self.wake()

    def _begin(self, storage: Storage) -> None:
        """Take up where the directory ends."""
        if storage.restored is None:
            self.ledger.skip(Index(1), Term(0))  # any log's first entry is a no-op
            self.letters.begin()
            applied_index = 1
        else:
            checkpoint, loaded = storage.restored
            self._restore(checkpoint, loaded)
            applied_index = checkpoint.index
            if not checkpoint.installed:
                self._installing = checkpoint
        self.raft = GuardedRaft(
            self.member.node,
            self.journal,
            self,
            self,
            applied_index=applied_index,
            window=self._bounds.window,
        )
        self.changes.follow_ledger()

    def _restore(self, checkpoint: Checkpoint, loaded: Loaded) -> None:
        """Have the ledger be what a checkpoint holds; raises DamagedError if it holds none."""
        try:
            self.ledger.restore(loaded.sections)
        except MalformedError as error:
            raise DamagedError(str(error), place=f"checkpoint {checkpoint.index}") from error
        if self.ledger.applied_index != checkpoint.index:
            raise DamagedError(
                f"a ledger at index {self.ledger.applied_index}",
                place=f"checkpoint {checkpoint.index}",
            )
        self._log_clock.follow(self.ledger.log_time_us)
        self.compaction.restored()
        self.letters.begin()

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
            self._letter_store.close()
            self.store.close()
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

    async def _hand_over(self) -> bool:
        """Stop proposing, and ask a follower that has everything to lead; tell if one was."""
        if self.raft.is_leader:
            for hook in self.leaving_hooks:
                hook()
        self._handing_over = True
        until_s = self._clock.seconds() + HAND_OVER_S
        asked = False
        while self._may_hand_over(asked=asked) and self._clock.seconds() < until_s:
            # What was proposed and is not in the log yet would leave the heir's log behind.
            whole = not self.raft.gathered and self.raft.applied_index == self.journal.last_index
            if whole and not asked:
                target = self.raft.hand_over()
                asked = target is not None
                if asked:
                    self._log.info("hands leadership over to {peer}", peer=target)
            passed: Deferred[None] = Deferred()
            self._clock.callLater(TICK_S, passed.callback, None)
            await passed
        return asked

    def _may_hand_over(self, *, asked: bool) -> bool:
        """Tell whether there is somebody left to ask; or, once `asked`, to wait for.

        The one who was asked may need this node's vote, which must be on disk before it leaves.
        """
        if asked and self.raft.leader is None:
            return True
        return bool(self.membership.followers) and self.raft.is_leader

    def _step_down(self) -> None:
        """Have another member lead, as this one is to leave."""

        def go_on(asked: bool) -> None:  # noqa: FBT001  a Deferred's result
            if asked and self.raft.is_leader:
                # Whoever was asked may lead yet, and deliver at once: not beside this one.
                self.raft.step_down()
            self._handing_over = False

        def failed(failure: Failure) -> None:
            self._die(FatalError(f"the engine failed: {failure.getErrorMessage()}"))

        if not self._handing_over:
            Deferred.fromCoroutine(self._hand_over()).addCallback(go_on).addErrback(failed)

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
        self._or_die(self._do_tick)

    def _or_die(self, call: Callable[[], None]) -> None:
        """Do a turn's work; whatever goes wrong in it, what follows is not to be trusted."""
        if self._dead:
            return
        try:
            call()
        except FatalError as error:
            self._die(error)
        except Exception as error:  # noqa: BLE001  whatever it is
            self._log.failure("the engine failed")
            self._die(FatalError(f"the engine failed: {error!r}"))

    def _do_tick(self) -> None:
        more = self.raft.tick()
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
        if self.raft.is_leader:  # also before its first commit, which may need who needs a snapshot
            self.snapshots.send_due(self.raft.acked)
        if self.raft.applied_index != self._seen_applied:
            self._seen_applied = self.raft.applied_index
            if self.room.is_full and not self.proposer.retry_after_s:
                self._mind_door()  # it closes at once, and opens when the house is kept
            self.proposer.applied()
            for applied in self.applied_hooks:
                applied()
            if self._installing is None:
                self.compaction.look()

    def _durable(self) -> None:
        """Take what the journal's writer made durable."""
        self._or_die(self._use_durable)

    def _use_durable(self) -> None:
        self._finish_install()
        self.store.poke()
        if self.raft.durable():
            self.wake()

    def _letters_changed(self) -> None:
        """Take that more letters are durable, or that one was read."""
        self._or_die(self._use_letters)

    def _use_letters(self) -> None:
        """Go on where letters were waited for."""
        self.store.poke()
        for changed in self.letter_hooks:
            changed()
        self.wake()  # perhaps nothing was applied meanwhile

    def _finish_install(self) -> None:
        """Use a received snapshot for good once the log that begins with it is on disk."""
        if self._installing is not None and self.journal.durable_index >= self._installing.index:
            installed, self._installing = self._installing, None
            self.store.installed(installed)

    def _keep_house(self) -> None:
        """Look at the bounds, and propose what the log still lacks."""
        self.letters.look()
        if self.room.look() or self.letters.stuck:
            self.raft.step_down()  # nothing commits here, and others may have room
        self._mind_door()
        # A start may find that log on disk already, and nothing may become durable ever after:
        # not if what comes next is behind another snapshot, which waits for this one.
        self._finish_install()
        self._want_birth()
        if self._leading:
            self._propose_changes()
        self.repairs.look()
        if self.repairs.highest > self.raft.commit_index:
            self.raft.step_down()  # perhaps no other has that entry: those who vote decide
        self.compaction.mind(self._clock.seconds(), short=self.room.is_short)
        if self._installing is None:
            self.compaction.follow()
            self.compaction.look()
            self._scrubbing.step(doubtful=self.snapshots.doubtful)
        self._let_go()
        for name, (_, make) in list(self._wanted.items()):
            if name == BIRTH:
                self.propose(make())  # a leader's own: one that was deposed must not offer it
            elif self.ledger.tag is not None:
                command = make()
                self.offer(command, encode_command(command))

    def _mind_door(self) -> None:
        """Have the proposer refuse what there is no room for, and nothing else."""
        if isinstance(self.proposer.refusal, (type(None), BacklogFullError)):
            self.proposer.refusal = self.room.refusal()
        self.proposer.refusals = self.room.refusals()

    def _let_go(self) -> None:
        """Want no longer what is done."""
        for name, (done, _) in list(self._wanted.items()):
            if done(self.ledger):
                del self._wanted[name]

    def _propose_changes(self) -> None:
        """Propose what the log's state asks for: a change of members, and what it may forget."""
        change = self.membership.next_change(
            lambda name: self.raft.has_all(name, self.raft.commit_index)
        )
        release = self.compaction.release() or self.compaction.nudge()
        if release is not None and not self.raft.majority_has_all(release.floor):
            release = None  # what it lets go, letters' bytes among it, must be with a majority
        for command in (change, release):
            if command is not None:
                self.propose(command)

    # --- What enters the log --------------------------------------------------------------------

    def offer(self, command: Command, encoded: bytes) -> bool:
        """Bring this node's command to the leader; `encoded` are its bytes.

        True if it was appended or sent there, which promises nothing.
        """
        if self._dead or self._handing_over:
            return False
        if self.raft.is_leader:
            if not self.room.for_offers:
                return False
            self._append(command, encoded)
            return True
        leader = self.raft.leader
        return (
            leader is not None
            and self._links is not None
            and self._links.send(leader, Offer(command=encoded))
        )

    def propose(self, command: Command) -> bool:
        """Append one of the leader's own commands; False if this node does not lead.

        Raises MalformedError if it is none that could be applied: this node is wrong then, and
        an entry that holds it would end every node (D13).
        """
        if self._dead or self._handing_over or not self.raft.is_leader:
            return False
        encoded = encode_command(command)
        decode_command(encoded)
        self._append(command, encoded)
        return True

    def proposed_index(self) -> Index:
        """Return the index that the last command proposed here has, or is to have."""
        return Index(self.journal.last_index + self.raft.gathered)

    def want(self, name: str, done: Callable[[Ledger], bool], make: Callable[[], Command]) -> None:
        """Offer what `make` returns, again and again, until `done` is true of the ledger."""
        if name not in self._wanted:
            self._urgent = True
        self._wanted[name] = (done, make)

    def _append(self, command: Command, encoded: bytes) -> None:
        """Stamp and append a checked command; a proposal that is under way is not repeated."""
        if isinstance(command, Accept):
            proposal = (command.session, command.number)
            if proposal in self._appended:
                return
            self._appended.add(proposal)
        elif isinstance(command, CHANGES) and not self._may_change(command):
            return  # it is offered again
        log_time_us = self._log_clock.stamp(self._wall_us(), self._clock.seconds())
        self.raft.propose(stamp(log_time_us), encoded)
        self._proposed.append((encoded, command))
        self.wake()

    def _may_change(self, command: Enroll | Promote | Demote | Expel) -> bool:
        """Tell whether the leader may append a change of members now (D14)."""
        if isinstance(command, Expel | Demote) and command.name == self.member.node:
            self._step_down()
            return False
        return command.after == self.membership.roster.index and self.raft.roster_is_settled

    # --- What the log says: the guard's host ------------------------------------------------------

    def apply(self, index: int, term: int, command: bytes) -> None:
        """Apply a committed entry to the ledger. Any failure is fatal, with its index (D13)."""
        if command[:1] != REGULAR:
            self.ledger.skip(Index(index), Term(term))
            self.compaction.applied(len(command))
            return
        try:
            log_time_us, body = open_entry(command, len(REGULAR))
            value = self._command_in(body)
            unborn = self.ledger.tag is None
            self.ledger.apply(Index(index), Term(term), log_time_us, value)
        except NeedsNewerCrowdError as error:
            raise NeedsNewerCrowdError(f"entry {index} needs a newer crowd: {error}") from error
        except MalformedError as error:
            raise DamagedError(str(error), place=f"entry {index}") from error
        self._log_clock.follow(log_time_us)
        self.compaction.applied(len(command))
        kept, gone = self.ledger.take_letter_changes()
        if kept or gone:
            self.letters.apply(index, kept, gone)
        if isinstance(value, Accept):
            self._appended.discard((value.session, value.number))
            if self._leading:
                self._newest = index, value.messages  # delivery asks for these first
        elif isinstance(value, CHANGES):
            self._let_go()  # now: a later order, which undoes this one, must not be undone
            self.changes.follow_ledger()
        elif isinstance(value, Birth) and unborn:
            self.changes.follow_ledger()
            self._urgent = True
            self.proposer.leader_changed()  # what was offered before the birth is void
        elif isinstance(value, Release):
            self._urgent = True

    def _command_in(self, body: bytes) -> Command:
        """Return the command that an entry's `body` holds: the very one, if it was proposed here."""
        if self._proposed and self._proposed[0][0] == body:
            return self._proposed.popleft()[1]
        return read_command(body)

    def message(self, index: int, offset: int) -> bytes:
        """Return the stored message at a place in the log; raise DamagedEntryError on bad bytes."""
        return self.messages(index)[offset]

    def messages(self, index: int) -> tuple[bytes, ...]:
        """Return the stored messages of an accepted entry; raise DamagedEntryError on bad bytes."""
        newest, messages = self._newest
        if index == newest:
            return messages
        command, _, _ = self.journal.entry(index)
        value = read_command(open_entry(command, len(REGULAR))[1])
        if not isinstance(value, Accept):
            raise DamagedError("an entry that should hold messages", place=f"entry {index}")
        return value.messages

    def letter(self, number: int) -> bytes | None:
        """Return a letter's stored bytes, verified; None if they are not at hand.

        Then they are read from the disk, or fetched from a peer, and `letter_hooks` are called
        when they may be there: ask again. None for a number that the ledger does not have.
        """
        return self.letters.letter(number)

    def may_apply(self) -> bool:
        """Tell whether more may be applied: not while too many letters wait for the disk."""
        return not self.letters.holds

    def has_letters(self) -> bool:
        """Tell whether this node has the bytes of every letter of its ledger."""
        return self.letters.whole

    def log_time_us(self) -> int:
        """Return the log's time now, in microseconds since 1970: what an entry would be stamped."""
        return self._log_clock.read(self._wall_us(), self._clock.seconds())

    def is_voter(self, name: str) -> bool:
        """Tell whether a member's copy counts."""
        return self.membership.is_voter(name)

    def voters(self) -> AbstractSet[str]:
        """Return the members that vote."""
        return self.membership.voters

    def followers(self) -> AbstractSet[str]:
        """Return all other members."""
        return self.membership.followers

    def roster_index(self) -> int:
        """Return the index of the last change of members that is durable here."""
        return self.membership.roster.index

    def roster_term(self) -> int:
        """Return the term of that change's entry, 0 if it is not known."""
        return self.membership.roster.term

    def may_stand(self) -> bool:
        """Tell whether this node could lead: not with a hole in its log, nor with a full disk.

        Of letters, nothing waits that it could not apply any more. (A leader may lack letters:
        it fetches them.)

        One that hands over does not lead again: it would refuse what it is offered.
        """
        if self._handing_over:
            return False
        return not self.repairs.holes and not self.journal.full and not self.letters.stuck

    def wants_snapshot(self, name: str) -> None:
        """Begin to send a follower what the log no longer has, or let another one do so."""
        if not self.snapshots.wanted_by(name, self.raft.term):
            self._step_down()

    def damaged(self, error: DamagedEntryError) -> None:
        """Have a damaged entry mended."""
        self.repairs.damaged(error)

    def _mended(self) -> None:
        self.raft.mended()
        self.wake()

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
        self._fence_s = float("-inf")
        self._appended.clear()
        self._proposed.clear()
        self._newest = 0, ()
        self._offered.clear()
        self.snapshots.reset()
        for hook in self.leader_hooks:
            hook()
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
        now_s = self._clock.seconds()
        if now_s >= self._fence_s:
            self._fence_s = self.raft.quorum_heard_s() + FENCE_S
        return self._leading and now_s - self.raft.led_since_s >= LEASE_S and now_s < self._fence_s

    # --- Members --------------------------------------------------------------------------------

    def _found(self) -> None:
        if self.membership.found():
            self._log.info("founds the cluster {cluster}", cluster=self.member.cluster)
            self.changes.remember(self._founded)

    def _members_in_force(self) -> None:
        """Count by the roster that is now durable."""
        if self._dead:
            return
        if self.membership.standing is not self._standing:
            self._standing = self.membership.standing
            self._log.info("this node is {standing} now", standing=self._standing.value)
        self._fence_s = float("-inf")  # who counts is another majority
        self.raft.members_changed()
        if self._links is not None:
            self._links.follow(self.membership.addresses, self.membership.dialled)
        self.wake()

    def _founded(self) -> None:
        """Let every member say hello anew: this node's hello now holds the roster."""
        for name in sorted(self.membership.followers):
            self._disconnect(name, "the cluster is founded, and says hello again")

    def _want_birth(self) -> None:
        if self.ledger.tag is None and self.raft.is_leader and BIRTH not in self._wanted:
            self.want(BIRTH, lambda ledger: ledger.tag is not None, self._birth)

    def _birth(self) -> Birth:
        return self.changes.birth(self.member.cluster, self._chance.randbytes(4).hex())

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
            roster=self.membership.names,
            roster_index=self.membership.roster.index,
            founding=self.journal.founding,
            empty=self.journal.last_index == 1,
        )

    def peer_connected(self, name: str, hello: Hello) -> None:
        """Take up a peer: its journal id says whether it counts."""
        try:
            taken = self.membership.arrived(name, hello)
        except MalformedError as error:
            self._disconnect(name, str(error))
            return
        self.raft.connected(name)
        if taken:
            self.changes.remember(self._joined)
        else:
            self._found()
        self.wake()

    def _joined(self) -> None:
        self._log.info(
            "joins the cluster {cluster} as {standing}",
            cluster=self.member.cluster,
            standing=self.membership.standing.value,
        )

    def _connected(self) -> list[str]:
        return [n for n in sorted(self.membership.followers) if self.membership.is_present(n)]

    def peer_disconnected(self, name: str, why: str) -> None:
        """Let go of a peer; the links have logged `why`."""
        del why
        self.membership.left(name)
        self.snapshots.left(name)
        if not self._dead:
            self.letters.left(name)
            self.raft.disconnected(name)
            self.wake()

    def peer_message(self, name: str, message: PeerMessage) -> None:
        """Take a peer's message; one that cannot be right ends the link, not the node."""
        self._or_die(lambda: self._use_message(name, message))

    def _use_message(self, name: str, message: PeerMessage) -> None:
        try:
            due = self._take_message(name, message)
        except PeerRejectedError as error:
            self._disconnect(name, str(error))
            return
        self.journal.flush()
        if due:
            self.wake()

    def _take_message(self, name: str, message: PeerMessage) -> bool:
        """Hand a message to who it is for; return whether a tick has to do."""
        match message:
            case Offer():
                self._on_offer(name, message.command)
            case SnapshotPiece():
                wanted = message.index > self.raft.applied_index and self._installing is None
                if wanted and name == self.raft.leader and message.term == self.raft.term:
                    self.snapshots.piece(name, message)
            case SnapshotWanted():
                if message.term == self.raft.term and self.raft.is_leader:
                    self.snapshots.wanted(name, message)
            case Fetch():
                self.repairs.asked(name, message.index, self.raft.commit_index)
            case Fetched():
                self.repairs.fetched(message)
            case FetchLetter():
                self.letters.asked(name, message)
            case LetterFetched():
                self.letters.fetched(name, message)
            case Await() | AwaitEnded():
                for hook in self.await_hooks:
                    hook(name, message)
            case _:
                return self.raft.receive(name, message)
        return False

    def _received(self, checkpoint: Checkpoint) -> None:
        """Go on from a snapshot that is whole and durable here."""
        self._or_die(lambda: self._install(checkpoint))

    def _install(self, checkpoint: Checkpoint) -> None:
        if checkpoint.index <= self.raft.applied_index:
            self.store.discard()
            return
        loaded = self.store.load(checkpoint)
        self._restore(checkpoint, loaded)
        self._log.info("goes on from the leader's ledger at {index}", index=checkpoint.index)
        self._installing = checkpoint
        self.raft.install(loaded.entry)
        self.changes.follow_ledger()
        self.journal.flush()
        self.wake()

    def _on_offer(self, name: str, encoded: bytes) -> None:
        """Check a follower's proposal before it may enter the log (D13)."""
        if not self.raft.is_leader or self._handing_over or not self.room.for_offers:
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
        self._offered[name] = self.proposed_index()

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
