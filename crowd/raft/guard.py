"""pysyncobj, guarded: the one module that names it.

pysyncobj 0.3.17 brings Raft's state machine (Ongaro and Ousterhout, "In Search of an
Understandable Consensus Algorithm", figure 2). Its elections, commit rule and state
changes are used as they are; what breaks crowd's promise is overridden here. Each override
names the defect that it closes (``D1`` … ``L13``: ``docs/explanation/engine-defects.md``).

Decides what a node may count, truncate and believe. Leaves to others what a leader sends
(``replication``), bytes on disk (`ports.Log`), bytes on the wire (`ports.Outbox`), what an
entry means and who the members are (`ports.Host`), and when to tick (``engine``).

The order of effects is the contract:

- Entries leave for the followers while this node's own write is under way.
- Commit passes an index only if a majority has it on disk, this node among them (I1).
- A vote, a vote request or an acknowledgement leaves after the term and vote are on disk.
- No callback of pysyncobj's is relied on; no bytes are ever unpickled (I6).

Everything here runs in the reactor's thread.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from crowd.errors import DamagedEntryError, FatalError, PeerRejectedError
from crowd.raft.following import check_terms, take, where_to_join
from crowd.raft.ports import HEARTBEAT_S, REGULAR, Role
from crowd.raft.replication import BATCH_BYTES_MAX, WINDOW, Replication, Window
from crowd.raft.wire import (
    AppendEntries,
    NextIndex,
    PreVote,
    PreVoteAnswer,
    RequestVote,
    ResponseVote,
    TimeoutNow,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from crowd.raft.ports import Host, Log, Outbox
    from crowd.raft.wire import PeerMessage

    RaftMessage = (
        AppendEntries
        | NextIndex
        | RequestVote
        | ResponseVote
        | TimeoutNow
        | PreVote
        | PreVoteAnswer
    )

SUPPORTED_VERSION: Final = "0.3.17"
"""The overrides depend on this version's text, so no other one is accepted."""

ELECTION_MIN_S: Final = 0.6
"""Six heartbeats: a loaded machine that delays one or two starts no election."""
ELECTION_MAX_S: Final = 1.2
ORPHAN_MIN_S: Final = 0.05
ORPHAN_MAX_S: Final = 0.25
"""A follower whose link to the leader broke asks this soon; pre-vote protects a live leader."""
PRE_VOTE_ROUND_S: Final = 0.15
"""How long a pre-vote's answers are waited for before it is asked again."""
LEADER_FALLBACK_S: Final = 1.5
"""A leader that hears no majority for so long follows again (L5)."""
GATHER_S: Final = 0.005
"""How long a proposal waits for entries before it: a disk or a network may be slow. The tick after
that appends it, which is the slow clock's, 20 ms later at most, where nothing else asks for one."""
GATHER_BYTES: Final = 1 << 13
"""So much that gathered goes at once: it is worth a message and a write of its own."""
APPLY_SLICE_S: Final = 0.005
"""Applying holds the reactor no longer than this at a time."""


_LEADER: Final = Role.LEADER.value


class _Transport:
    """pysyncobj's transport: takes its callbacks, and its two messages that stay in use.

    No utility callback is kept: nobody can command the engine over the wire (D16).
    """

    ready = True

    def __init__(
        self, send: Callable[[str, RaftMessage], None], roster_index: Callable[[], int]
    ) -> None:
        self._send = send
        self._roster_index = roster_index

    def send(self, node: Any, message: dict[str, Any]) -> None:
        """Translate what stock code sends. ``apply_command`` is dropped: see ``proposer``."""
        if message["type"] == "request_vote":
            request = RequestVote(
                term=message["term"],
                last_index=message["last_log_index"],
                last_term=message["last_log_term"],
                roster=self._roster_index(),
            )
            self._send(node.id, request)
        elif message["type"] == "timeout_now":
            self._send(node.id, TimeoutNow(term=message["term"]))

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("setOn") or name in {"addNode", "dropNode", "destroy"}:
            return lambda *_: None
        raise AttributeError(name)


class _Member(Node):  # type: ignore[misc]  # pysyncobj has no types
    """A member by its name, with a hash that is the same in every process.

    pysyncobj keeps members in sets and goes through them: their order must not be chance's,
    or a simulated run could not be repeated.
    """

    def __hash__(self) -> int:
        return zlib.crc32(self.id.encode())


class _NullPoller:
    """The reactor polls; pysyncobj has no descriptors of its own."""

    def poll(self, timeout: float) -> None:
        """Do nothing."""


def install(clock: Callable[[], float], chance: random.Random) -> None:
    """Hand pysyncobj its time (seconds, monotonic) and its chance. Process-wide.

    Raises FatalError if another version of pysyncobj is installed.
    """
    if VERSION != SUPPORTED_VERSION:
        raise FatalError(
            f"pysyncobj {VERSION} is installed; crowd's guarantees rest on {SUPPORTED_VERSION}"
        )
    pysyncobj.syncobj.monotonicTime = clock
    pysyncobj.syncobj.random = chance


class GuardedRaft(SyncObj):  # type: ignore[misc]  # pysyncobj has no types
    """One member's Raft, safe on real disks and networks.

    Ticks come from outside through :meth:`tick`, peers' messages through :meth:`receive`.
    `applied_index` is that of the checkpoint which the ledger was restored from, else 1;
    `gather_s` bounds how long a proposal waits for entries before it.
    """

    def __init__(
        self,
        name: str,
        log: Log,
        outbox: Outbox,
        host: Host,
        *,
        applied_index: int = 1,
        window: Window = WINDOW,
        gather_s: float = GATHER_S,
    ) -> None:
        self._log = log
        self._outbox = outbox
        self._host = host
        self._replication = Replication(log, outbox, host, self._now, window)
        self._held: list[tuple[str, RaftMessage]] = []
        self._votes: set[str] = set()
        self._pre_votes: set[str] = set()
        self._pre_vote_term = 0
        self._pre_vote_until_s = 0.0
        self._heard_s = 0.0
        self._handed_term = 0
        self.led_since_s = float("-inf")
        """When this member won its election, on the installed clock; minus infinity where the
        leader before gave the lead up to it, or where no other one can be."""
        self._matched = 0
        self._acked = 0
        self._stuck = False
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._gathers_s = 0.0
        self._gather_s = gather_s
        self._seen: tuple[Any, ...] = ()
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,
            appendEntriesPeriod=HEARTBEAT_S,
            appendEntriesBatchSizeBytes=BATCH_BYTES_MAX,
            raftMinTimeout=ELECTION_MIN_S,
            raftMaxTimeout=ELECTION_MAX_S,
            leaderFallbackTimeout=LEADER_FALLBACK_S,
            commandsWaitLeader=False,  # L6: nothing queues for a leader to come
            logCompactionMinEntries=10**9,  # L13: compaction is crowd's own
            logCompactionMinTime=10**9,
            useFork=False,
        )
        super().__init__(
            _Member(name), [], conf=conf, transport=_Transport(self._dispatch, host.roster_index)
        )
        self._poller = _NullPoller()
        # The journal holds term, vote, commit index and entries together (D6-D9).
        self._SyncObj__raftLog = log
        self._SyncObj__raftCurrentTerm = max(log.getCurrentTerm(), log.last_term)
        self._SyncObj__votedForNodeId = log.getVotedForNodeId()
        self._SyncObj__raftCommitIndex = max(applied_index, log.getRaftCommitIndex())
        self._SyncObj__raftLastApplied = applied_index
        # A change of members that is in force is committed, and was asked for by its index: who
        # refuses an older roster must be able to say what is committed, or nobody could lead.
        self._believe(host.roster_index(), host.roster_term())
        self._count_by_roster()
        if self._alone:
            self._SyncObj__raftElectionDeadline = 0.0  # nobody else could lead

    # --- What the engine reads --------------------------------------------------------------

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def role(self) -> Role:
        """This member's role in the current term."""
        return Role(self._SyncObj__raftState)

    @property
    def is_leader(self) -> bool:
        """Whether this member leads its term, perhaps a past one: see `quorum_heard_s`."""
        return bool(self._SyncObj__raftState == _LEADER)

    @property
    def leads_fully(self) -> bool:
        """Whether this member leads and has applied all that was committed before its term."""
        return self.is_leader and self.applied_index >= self._SyncObj__noopIDx

    @property
    def leader(self) -> str | None:
        """The leader's name, if one is known."""
        node: Any = self._SyncObj__raftLeader
        return None if node is None else str(node.id)

    @property
    def commit_index(self) -> int:
        """All entries up to it are on a majority's disks."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        """All entries up to it were handed to `Host.apply`."""
        return int(self._SyncObj__raftLastApplied)

    @property
    def gathered(self) -> int:
        """How many proposed commands are not in the log yet."""
        return len(self._gathered)

    def acked(self, name: str) -> int:
        """Return the highest index known to be on a follower's disk (leader only, else 0)."""
        progress = self._replication.followers.get(name)
        return progress.acked if progress is not None and self.is_leader else 0

    def has_all(self, name: str, index: int) -> bool:
        """Return whether a follower has all up to `index`: entries and letters (leader only).

        What is behind that is in this leader's log, or comes with a snapshot, whose receiver
        answers anew what it has: its answers arrive in their order.
        """
        progress = self._replication.followers.get(name)
        return self.acked(name) >= index and progress is not None and progress.whole

    def majority_has_all(self, index: int) -> bool:
        """Return whether a majority, this leader included, has all up to `index`."""
        has = sum(
            self._host.is_voter(name) and self.has_all(name, index)
            for name in self._replication.followers
        )
        mine = (
            self._votes_itself() and self._host.has_letters() and self._log.durable_index >= index
        )
        return self._alone or self._majority(has + mine)

    @property
    def roster_is_settled(self) -> bool:
        """Whether a majority has the last change of members on disk (leader only; D14).

        Only then may the next one be proposed: whoever still counts by the roster before the
        last is then refused by one of every majority that it could ask.
        """
        mine = self._host.roster_index()
        known = 1 + sum(
            progress.roster >= mine
            for name, progress in self._replication.followers.items()
            if self._host.is_voter(name)
        )
        return self.leads_fully and self._majority(known)

    def quorum_heard_s(self) -> float:
        """Return the latest time by which a majority, this leader included, answered.

        It is the moment at which the heartbeats were *sent* that a majority has answered, on
        the installed clock, so it stays true for a process that was stopped and woken. Minus
        infinity for one who does not lead.
        """
        if not self.is_leader:
            return float("-inf")
        needed = len(self._host.voters()) // 2
        if not needed:
            return self._now()
        stamps = sorted(
            (
                progress.stamp
                for name, progress in self._replication.followers.items()
                if self._host.is_voter(name)
            ),
            reverse=True,
        )
        if len(stamps) < needed or stamps[needed - 1] == 0:
            return float("-inf")
        return stamps[needed - 1] / 1e6

    # --- Driving ------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Do what is due: stand for election, commit, apply a slice, send.

        Returns True if committed entries are left to apply: tick again soon. Exceptions come
        through to the caller, who ends the node.
        """
        if self._alone and self._writes_pending():
            return False  # alone, an entry commits with the tick: so only when it is on disk
        self.doTick(0)
        self._replicate()
        self._notice()
        left = self.commit_index > self.applied_index
        return left and not self._stuck and self._host.may_apply()

    def propose(self, *parts: bytes) -> None:
        """Append a checked command, whose bytes these are, at a tick, the next or one soon.

        Only on a leader, who wakes it.
        """
        if not self._gathered:
            self._gathers_s, self._gathered_bytes = self._now(), 0
        entry = b"".join((REGULAR, *parts))
        self._gathered.append(entry)
        self._gathered_bytes += len(entry)

    def durable(self) -> bool:
        """Use that the durable index, or term and vote, moved. True if a tick has to do."""
        if not self._log.vote_pending:
            held, self._held = self._held, []
            for name, message in held:
                if message.term == self.term:
                    self._outbox.send(name, message)
            if self._elected():
                self._SyncObj__onBecomeLeader()
        if not self.is_leader:
            self._acknowledge()
            return self._alone
        self._count_all()
        return self._alone or self._may_commit()

    def connected(self, name: str) -> None:
        """Note a link to a peer (again): nothing sent on the last one may be relied on."""
        self._SyncObj__connectedNodes.add(_Member(name))
        self._replication.connected(name)
        if self.is_leader:
            self._count_all()

    def disconnected(self, name: str) -> None:
        """Note a lost link. A follower that lost its leader asks around soon."""
        self._SyncObj__connectedNodes.discard(_Member(name))
        self._replication.disconnected(name)
        self._held = [(peer, message) for peer, message in self._held if peer != name]
        if self.leader == name:
            self._SyncObj__raftLeader = None
            self._heard_s = float("-inf")
            wait_s = ORPHAN_MIN_S + (ORPHAN_MAX_S - ORPHAN_MIN_S) * self._chance()
            self._SyncObj__raftElectionDeadline = self._now() + wait_s
            self._notice()

    def members_changed(self) -> None:
        """Count anew: the roster that is durable here changed, or who of it is there."""
        self._count_by_roster()
        if not self._votes_itself():
            self.step_down()  # it was demoted or expelled: another one leads
        if self._alone and self._votes_itself() and not self.is_leader:
            self._SyncObj__raftElectionDeadline = 0.0

    def install(self, entry: tuple[bytes, int, int]) -> None:
        """Go on from a snapshot whose last entry is this one: it is durable, and restored.

        What the log has behind that entry stays, if the entry is in it (D10); else the log
        begins with it, and what it held was of no leader's since (D5).
        """
        _, index, term = entry
        log = self._log
        assert index > self.applied_index
        if not (log.first_index <= index <= log.last_index and log.term_at(index) == term):
            log.clear()
            log.add(*entry)
        self._matched = max(self._matched, index)
        self._SyncObj__raftLastApplied = index
        self._raise_commit(index)
        self._acknowledge()

    def step_down(self) -> None:
        """Lead no more, if there is anybody else to lead."""
        if self.is_leader and not self._alone:
            self._rest_election()
            self._SyncObj__setState(Role.FOLLOWER.value)  # term and vote stay: it voted for itself
            self._SyncObj__raftLeader = None
            self._matched = self._acked = 0
            self._notice()

    def mended(self) -> None:
        """Try again to apply what could not be read."""
        self._stuck = False

    def hand_over(self, to: str | None = None) -> str | None:
        """Ask a follower that has everything to lead, `to` if given; return its name, if any.

        Call it only while nothing is being proposed: the target must have the whole log.
        """
        ready = [
            name
            for name, progress in self._replication.followers.items()
            if self._host.is_voter(name)
            and self._replication.is_connected(name)
            and progress.acked == self._log.last_index
            and to in {None, name}
        ]
        if not self.is_leader or not ready:
            return None
        self._outbox.send(ready[0], TimeoutNow(term=self.term))
        return ready[0]

    # --- Peers' messages ----------------------------------------------------------------------

    def receive(self, name: str, message: PeerMessage) -> bool:
        """Take a peer's message. True if a tick has to do; most need none.

        Raises PeerRejectedError for what no peer that follows the rules can say; nothing has
        changed then. FatalError says that the two logs cannot both be right.
        """
        check_terms(message, self.term)
        due = True
        match message:
            case AppendEntries():
                self._on_append_entries(name, message)
                due = self.commit_index > self.applied_index
            case NextIndex():
                self._on_next_index(name, message)
                due = self._may_commit() or (
                    self.is_leader and self._replication.has_more_for(name)
                )
            case RequestVote():
                self._on_request_vote(name, message)
            case ResponseVote():
                self._on_response_vote(name, message)
            case PreVote():
                self._on_pre_vote(name, message)
            case PreVoteAnswer():
                self._on_pre_vote_answer(name, message)
            case TimeoutNow():
                if message.term == self.term and self.leader == name:
                    self._SyncObj__raftElectionDeadline = 0.0
                    self._SyncObj__transferInProgress = True
                    self._handed_term = self.term + 1
        self._notice()
        return due

    def _on_append_entries(self, name: str, message: AppendEntries) -> None:
        if message.term < self.term:
            # L5: say so, or a leader of the past would not learn that it is one.
            self._answer(name, success=False, next_index=self._log.last_index + 1, stamp=0)
            return
        if message.term > self.term:
            self._SyncObj__transferInProgress = False
            self._follow(message.term)
        elif self.leader not in {None, name}:
            raise PeerRejectedError(f"it leads in term {message.term}, as {self.leader} does")
        elif self.role is Role.CANDIDATE:
            self._SyncObj__setState(Role.FOLLOWER.value)
        self._heard_s = self._now()
        if not self._SyncObj__transferInProgress:
            self._rest_election()
        if self.leader != name:
            self._lead_by(name)
            self._matched = self._acked = 0
        mismatch = where_to_join(
            self._log, self.commit_index, message.prev_index, message.prev_term
        )
        if mismatch:
            self._answer(name, success=False, next_index=mismatch, stamp=message.stamp)
            return
        take(self._log, self.commit_index, message.entries)
        matched = message.prev_index + len(message.entries)
        self._matched = max(self._matched, matched)
        # D2: only what this message proved to match may commit here.
        self._raise_commit(min(message.commit_index, matched))
        self._SyncObj__leaderCommitIndex = message.commit_index
        self._acknowledge(message.stamp)

    def _on_next_index(self, name: str, message: NextIndex) -> None:
        if message.term > self.term:
            self._follow(message.term)
            return
        # D3: an acknowledgement counts only in the term that it was given in.
        if message.term < self.term or not self.is_leader:
            return
        more = self._replication.answered(name, message)
        if self._host.is_voter(name):
            self._SyncObj__lastResponseTime[_Member(name)] = self._now()
        if more:
            self._count(name)

    def _on_request_vote(self, name: str, message: RequestVote) -> None:
        if not self._host.is_voter(name) and message.roster <= self._host.roster_index():
            return  # it stands without a right to: not even its term is believed
        if message.term > self.term:
            self._follow(message.term)
        if message.term < self.term or not self._may_vote_for(name, message):
            return
        if self._SyncObj__votedForNodeId not in {None, name} or self.role is not Role.FOLLOWER:
            return
        self._SyncObj__setCurrentTerm(message.term, name)
        self._rest_election()
        self._dispatch(name, ResponseVote(term=message.term))

    def _on_response_vote(self, name: str, message: ResponseVote) -> None:
        if message.term > self.term:
            self._follow(message.term)
        if message.term != self.term or self.role is not Role.CANDIDATE:
            return
        if self._host.is_voter(name):
            self._votes.add(name)  # D15: voters, not votes
            self._SyncObj__votesCount = 1 + len(self._votes)
            if self._elected():
                self._SyncObj__onBecomeLeader()

    def _on_pre_vote(self, name: str, message: PreVote) -> None:
        """Would this member vote for it? Changes nothing here (Ongaro's thesis, 9.6)."""
        leads = self.is_leader and self._now() - self.quorum_heard_s() < ELECTION_MIN_S
        led = self.leader is not None and self._now() - self._heard_s < ELECTION_MIN_S
        granted = (
            not leads
            and not (led and self.leader != name)
            and message.term > self.term
            and self._may_vote_for(name, message)
        )
        if granted and (self._pre_vote_term == 0 or name < self.selfNode.id):
            # Two that stand at once split the votes: the one that asked first, or whose name
            # sorts first, goes ahead.
            self._pre_vote_term = 0
            wait_s = ORPHAN_MAX_S * (1 + self._chance())
            deadline_s = max(self._SyncObj__raftElectionDeadline, self._now() + wait_s)
            self._SyncObj__raftElectionDeadline = deadline_s
        answer = PreVoteAnswer(
            term=message.term if granted else self.term,
            granted=granted,
            commit_index=self.commit_index,
            commit_term=self._log.term_at(self.commit_index),
        )
        self._outbox.send(name, answer)

    def _on_pre_vote_answer(self, name: str, message: PreVoteAnswer) -> None:
        self._believe(message.commit_index, message.commit_term)
        if message.granted and message.term == self._pre_vote_term == self.term + 1:
            if self._host.is_voter(name):
                self._pre_votes.add(name)
        elif not message.granted and message.term > self.term:
            self._follow(message.term)

    # --- Rules --------------------------------------------------------------------------------

    def _now(self) -> float:
        return float(pysyncobj.syncobj.monotonicTime())

    def _chance(self) -> float:
        return float(pysyncobj.syncobj.random.random())

    def _votes_itself(self) -> bool:
        return self._host.is_voter(self.selfNode.id)

    @property
    def _alone(self) -> bool:
        """Whether no other member votes."""
        return not self._SyncObj__otherNodes

    def _majority(self, count: int) -> bool:
        return count > len(self._host.voters()) // 2

    def _lead_by(self, name: str) -> None:
        leader: Any = _Member(name)
        self._SyncObj__raftLeader = leader

    def _count_by_roster(self) -> None:
        """Have pysyncobj count the voters of the durable roster, and replicate to all members."""
        others = sorted(self._host.voters() - {self.selfNode.id})
        self._SyncObj__otherNodes = {_Member(name) for name in others}
        if self.is_leader:
            self._replication.follow(self._host.followers())
            for node in self._SyncObj__otherNodes:
                self._SyncObj__lastResponseTime.setdefault(node, self._now())
            self._count_all()

    def _believe(self, index: int, term: int) -> None:
        """Take as committed what another one knows to be, if this log has that entry.

        Equal entries have equal prefixes (log matching).
        """
        log = self._log
        if log.first_index <= index <= log.last_index and log.term_at(index) == term:
            self._raise_commit(index)

    def _raise_commit(self, index: int) -> None:
        if index > self.commit_index:
            self._SyncObj__raftCommitIndex = index
            self._log.setRaftCommitIndex(index)

    def _writes_pending(self) -> bool:
        return self._log.vote_pending or self._log.durable_index < self._log.last_index

    def _rest_election(self) -> None:
        self._SyncObj__raftElectionDeadline = self._now() + self._SyncObj__generateRaftTimeout()

    def _may_vote_for(self, name: str, message: RequestVote | PreVote) -> bool:
        """Tell whether the candidate's log and roster are as new as this member's (D14).

        By one roster both have to be voters. A newer one than this member's may have changed
        that: then the candidate knows, and counts no vote that is none by its own.
        """
        mine = self._host.roster_index()
        entitled = self._votes_itself() and self._host.is_voter(name)
        asks = (message.last_term, message.last_index)
        return (entitled if message.roster == mine else message.roster > mine) and asks >= (
            self._log.last_term,
            self._log.last_index,
        )

    def _follow(self, term: int) -> None:
        """Enter a newer term as a follower of nobody yet."""
        if self.is_leader:
            self._rest_election()  # its own deadline passed long ago
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(Role.FOLLOWER.value)
        self._SyncObj__raftLeader = None
        self._matched = self._acked = 0

    def _elected(self) -> bool:
        return (
            self.role is Role.CANDIDATE
            and not self._log.vote_pending
            and self._majority(1 + len(self._votes))
        )

    def _count_all(self) -> None:
        for node in self._SyncObj__otherNodes:
            self._count(node.id)

    def _count(self, name: str) -> None:
        """Give pysyncobj what may count: on that disk, on this disk, and of a voter (I1)."""
        progress = self._replication.followers.get(name)
        acked = progress.acked if progress is not None and self._host.is_voter(name) else 0
        durable = min(acked, self._log.durable_index)
        self._SyncObj__raftMatchIndex[_Member(name)] = durable

    def _may_commit(self) -> bool:
        """Tell whether more than what is committed may be on a majority's disks."""
        matched = self._SyncObj__raftMatchIndex.values()
        return self.is_leader and max(matched, default=0) > self.commit_index

    def _dispatch(self, name: str, message: RaftMessage) -> None:
        """Send, or hold until term and vote are on disk (D7, D8)."""
        if self._log.vote_pending:
            self._held.append((name, message))
        else:
            self._outbox.send(name, message)

    def _answer(self, name: str, *, success: bool, next_index: int, stamp: int) -> None:
        answer = NextIndex(
            term=self.term,
            next_index=next_index,
            success=success,
            reset=not success,
            stamp=stamp,
            roster=self._host.roster_index(),
            whole=self._host.has_letters(),
        )
        self._dispatch(name, answer)

    def _acknowledge(self, stamp: int = 0) -> None:
        """Tell the leader what is on this disk: when asked, and whenever it grows (I1)."""
        leader = self.leader
        if leader is None or leader == self.selfNode.id or self.is_leader:
            return
        acked = min(self._matched, self._log.durable_index)
        if stamp or acked > self._acked:
            self._acked = acked
            self._answer(leader, success=True, next_index=acked + 1, stamp=stamp)

    def _notice(self) -> None:
        now = (self.term, self._SyncObj__raftState, self._SyncObj__raftLeader)
        if now != self._seen:
            self._seen = now
            self._host.role_changed()

    def _replicate(self) -> None:
        if self.is_leader:
            self._replication.commit_index = self.commit_index
            self._replication.replicate()

    # --- pysyncobj's own methods, overridden ----------------------------------------------------

    def _SyncObj__sendAppendEntries(self) -> None:
        """Heartbeats to all (L3, L4, L10): bounded, windowed, never spinning."""
        self._SyncObj__newAppendEntriesTime = self._now() + HEARTBEAT_S
        self._replication.commit_index = self.commit_index
        self._replication.heartbeat()

    def _SyncObj__getCurrentLogIndex(self) -> int:
        return self._log.last_index

    def _SyncObj__getCurrentLogTerm(self) -> int:
        return self._log.last_term

    def _SyncObj__getEntries(
        self, fromIDx: int, count: int | None = None, maxSizeBytes: int | None = None
    ) -> list[tuple[bytes, int, int]]:
        """Return an entry for the commit rule, which looks at its term alone (L10)."""
        assert count == 1
        return [(b"", fromIDx, self._log.term_at(fromIDx))]

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Stand for election now? Only a voter, and only after a majority said yes (L5, D8)."""
        if not self._votes_itself() or not self._host.may_stand():
            self._rest_election()
            return False
        if self._alone or self._SyncObj__transferInProgress:
            self._votes.clear()
            return True
        if self._pre_vote_term == self.term + 1 and self._majority(1 + len(self._pre_votes)):
            self._pre_vote_term = 0
            self._votes.clear()
            return True
        if self._now() >= self._pre_vote_until_s:
            self._pre_votes.clear()
            self._pre_vote_term = self.term + 1
            self._pre_vote_until_s = self._now() + PRE_VOTE_ROUND_S * (1 + self._chance())
            question = PreVote(
                term=self.term + 1,
                last_index=self._log.last_index,
                last_term=self._log.last_term,
                roster=self._host.roster_index(),
            )
            for name in sorted(node.id for node in self._SyncObj__otherNodes):
                self._outbox.send(name, question)
        return False

    def _SyncObj__onBecomeLeader(self) -> None:
        """Lead, once this member's own vote is on disk (D8)."""
        if not self._elected():
            return
        self._replication.begin(self.term)
        is_sole = self._alone or self.term == self._handed_term
        self.led_since_s = float("-inf") if is_sole else self._now()
        super()._SyncObj__onBecomeLeader()

    def _checkCommandsToApply(self) -> None:
        """Append what was proposed, or have it gather while entries before it are under way.

        An entry costs every member much the same whatever is sent and written with it. So what
        comes while entries are on their way to the disks goes together, once they are committed:
        at once where nothing is under way, and the more at a time the longer that takes.
        """
        gathered = self._gathered
        if gathered and self.is_leader:
            is_under_way = self._log.last_index > self.commit_index
            is_due = (
                self._gathered_bytes >= GATHER_BYTES
                or self._now() - self._gathers_s >= self._gather_s
            )
            if is_under_way and not is_due:
                return
            for entry in gathered:
                self._log.add(entry, self._log.last_index + 1, self.term)
        gathered.clear()  # of one who leads no more nothing is appended: it is offered again

    def _SyncObj__applyLogEntries(self) -> bool:
        """Apply for at most `APPLY_SLICE_S`; never twice, never past a failure (D13)."""
        # What gathered, and the commit index that its followers wait for, go in one message.
        self._checkCommandsToApply()
        self._replicate()  # followers first: their producers wait for the commit index
        until = self._now() + APPLY_SLICE_S
        while self.commit_index > self.applied_index and self._host.may_apply():
            index = self.applied_index + 1
            try:
                command, _, term = self._log.entry(index)
            except DamagedEntryError as error:
                self._stuck = True  # until it is mended; nothing is applied past it
                self._host.damaged(error)
                break
            self._host.apply(index, term, command)
            self._SyncObj__raftLastApplied = index
            if self._now() >= until:
                break
        return False

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        """Stock code would unpickle here (I6)."""
        raise FatalError("pysyncobj's own apply was reached; entries are applied by the engine")

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:  # noqa: FBT001
        """Stock code would unpickle here (I6, D4, D5)."""
        raise FatalError("pysyncobj's own snapshot was reached; checkpoints are the engine's")

    def _SyncObj__onMessageReceived(self, node: Any, message: Any) -> None:
        """Stock handling is replaced by :meth:`receive` (D1, D2, D3, D12, L6)."""
        raise FatalError("pysyncobj's own message handling was reached")
