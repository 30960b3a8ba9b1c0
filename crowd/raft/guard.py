"""pysyncobj, guarded: the one module that names it.

pysyncobj 0.3.17 brings Raft's state machine (Ongaro and Ousterhout, "In Search of an
Understandable Consensus Algorithm", figure 2). Its elections, commit rule and state
changes are used as they are; what breaks crowd's promise is overridden here. Each override
names the defect that it closes (``D1`` … ``L13``: ``docs/explanation/engine-defects.md``).

Decides what a node may send, count, truncate and believe. Leaves to others: bytes on disk
(:class:`Log`), bytes on the wire (:class:`Outbox`), what an entry means and who the members
are (:class:`Host`), and when to tick (``engine``).

The order of effects is the contract:

- Entries leave for the followers while this node's own write is under way.
- Commit passes an index only if a majority has it on disk, this node among them (I1).
- A vote, a vote request or an acknowledgement leaves after the term and vote are on disk.
- No callback of pysyncobj's is relied on; no bytes are ever unpickled (I6).

Everything here runs in the reactor's thread.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from crowd.errors import FatalError
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
    from collections.abc import Callable, Sequence

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

HEARTBEAT_S: Final = 0.1
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
BATCH_BYTES_MAX: Final = 1 << 20
"""Entries in one message, beyond the first: a message stays near 1 MiB."""
WINDOW_MESSAGES: Final = 64
WINDOW_BYTES: Final = 8 << 20
"""Entries under way to one follower (L3): enough for a slow fsync, little for a dead link."""
APPLY_SLICE_S: Final = 0.005
"""Applying holds the reactor no longer than this at a time."""

REGULAR: Final = b"\x00"
"""The first byte of an entry that holds a command; any other kind is Raft's own."""


class Log(Protocol):
    """What the guard asks of the journal. Indices are absolute; all calls are in the reactor."""

    first_index: int
    last_index: int
    last_term: int
    durable_index: int
    vote_pending: bool

    def entry(self, index: int) -> tuple[bytes, int, int]:
        """Return (command, index, term); raise DamagedError if its bytes are bad."""

    def entries(self, from_index: int, bytes_max: int) -> Sequence[tuple[bytes, int, int]]:
        """Return consecutive entries: at least one, and no more than `bytes_max` beyond it."""

    def term_at(self, index: int) -> int:
        """Return the term of the entry at `index`, which must be in the log."""

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append; not durable at return."""

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Truncate from this place, counted from the first entry."""

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Start writing term and vote; `vote_pending` until they are durable."""

    def getCurrentTerm(self) -> int:
        """Return the stored term."""

    def getVotedForNodeId(self) -> str | None:
        """Return the stored vote."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Remember the commit index; written with the next other write."""

    def getRaftCommitIndex(self) -> int:
        """Return the stored commit index, never above the last durable entry."""


class Outbox(Protocol):
    """What the guard asks of the links to the peers. Nothing is delivered within `send`."""

    def send(self, name: str, message: PeerMessage) -> bool:
        """Queue a message; False if the peer is not connected or its buffer is full."""

    def writable(self, name: str) -> bool:
        """Tell whether there is room for entries; if not, the peer lags (back-pressure)."""


class Host(Protocol):
    """What the guard asks of the engine."""

    def apply(self, index: int, term: int, command: bytes) -> None:
        """Apply a committed entry. Any exception ends the node (D13)."""

    def is_voter(self, name: str) -> bool:
        """Tell whether this member's copy counts; a learner's does not (D8)."""

    def waits(self, name: str, after: int) -> bool:
        """Tell whether producers of that member wait for an entry behind index `after`.

        If none do, the next entries or heartbeat bring it early enough.
        """

    def role_changed(self) -> None:
        """Term, role or leader changed."""


class Role(enum.Enum):
    """Raft's three roles."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2


class Progress:
    """What a leader knows of one follower.

    Invariant: acked < next. Probing, nothing but one empty message is under way, and `next`
    only falls; replicating, `next` only rises (L1).
    """

    __slots__ = ("acked", "awaiting", "commit_sent", "next", "probing", "stamp", "under_way")

    def __init__(self, next_index: int) -> None:
        self.next = next_index
        self.acked = 0
        self.probing = True
        self.awaiting = False
        self.commit_sent = 0
        self.stamp = 0
        self.under_way: deque[tuple[int, int]] = deque()

    def probe(self, next_index: int) -> None:
        """Ask anew where the follower's log joins this one, from `next_index` downwards."""
        self.next = max(self.acked + 1, next_index)
        self.probing = True
        self.awaiting = False
        self.under_way.clear()

    @property
    def bytes_under_way(self) -> int:
        """Entries' bytes sent and not yet acknowledged."""
        return sum(size for _, size in self.under_way)


class _Transport:
    """pysyncobj's transport: takes its callbacks, and its two messages that stay in use.

    No utility callback is kept: nobody can command the engine over the wire (D16).
    """

    ready = True

    def __init__(self, send: Callable[[str, RaftMessage], None]) -> None:
        self._send = send

    def send(self, node: Any, message: dict[str, Any]) -> None:
        """Translate what stock code sends. ``apply_command`` is dropped: see ``proposer``."""
        if message["type"] == "request_vote":
            request = RequestVote(
                term=message["term"],
                last_index=message["last_log_index"],
                last_term=message["last_log_term"],
            )
            self._send(node.id, request)
        elif message["type"] == "timeout_now":
            self._send(node.id, TimeoutNow(term=message["term"]))

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("setOn") or name in {"addNode", "dropNode", "destroy"}:
            return lambda *_: None
        raise AttributeError(name)


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

    `name` and `others` are the members' names. Ticks come from outside through
    :meth:`tick`, peers' messages through :meth:`receive`.
    """

    def __init__(
        self, name: str, others: Sequence[str], log: Log, outbox: Outbox, host: Host
    ) -> None:
        self._log = log
        self._outbox = outbox
        self._host = host
        self._progress: dict[str, Progress] = {}
        self._held: list[tuple[str, RaftMessage]] = []
        self._votes: set[str] = set()
        self._pre_votes: set[str] = set()
        self._pre_vote_term = 0
        self._pre_vote_until_s = 0.0
        self._heard_s = 0.0
        self._matched = 0
        self._acked = 0
        self._applying = False
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
        nodes = [Node(other) for other in sorted(others)]
        super().__init__(Node(name), nodes, conf=conf, transport=_Transport(self._dispatch))
        self._poller = _NullPoller()
        self._nodes = {node.id: node for node in nodes}
        # The journal holds term, vote, commit index and entries together (D6-D9).
        self._SyncObj__raftLog = log
        self._SyncObj__raftCurrentTerm = max(log.getCurrentTerm(), log.last_term)
        self._SyncObj__votedForNodeId = log.getVotedForNodeId()
        self._SyncObj__raftCommitIndex = max(1, log.getRaftCommitIndex())
        if not nodes:
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
        return bool(self._SyncObj__raftState == Role.LEADER.value)

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

    def acked(self, name: str) -> int:
        """Return the highest index known to be on a follower's disk (leader only, else 0)."""
        progress = self._progress.get(name)
        return progress.acked if progress is not None and self.is_leader else 0

    def quorum_heard_s(self) -> float:
        """Return the latest time by which a majority, this leader included, answered.

        It is the moment at which the heartbeats were *sent* that a majority has answered, on
        the installed clock, so it stays true for a process that was stopped and woken. Minus
        infinity for one who does not lead.
        """
        if not self.is_leader:
            return float("-inf")
        if not self._nodes:
            return self._now()
        stamps = sorted(
            (p.stamp for name, p in self._progress.items() if self._host.is_voter(name)),
            reverse=True,
        )
        needed = (len(self._nodes) + 1) // 2
        if len(stamps) < needed or stamps[needed - 1] == 0:
            return float("-inf")
        return stamps[needed - 1] / 1e6

    # --- Driving ------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Do what is due: stand for election, commit, apply a slice, send.

        Returns True if committed entries are left to apply: tick again soon. Exceptions come
        through to the caller, who ends the node.
        """
        if not self._nodes and self._writes_pending():
            return False  # alone, an entry commits with the tick: so only when it is on disk
        self.doTick(0)
        self._replicate()
        self._notice()
        return self.commit_index > self.applied_index

    def propose(self, payload: bytes) -> None:
        """Append a checked command at the next tick; only on a leader, who wakes the tick."""
        self._applyCommand(payload, None, REGULAR[0])

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
            return not self._nodes
        for name in self._progress:
            self._count(name)
        return not self._nodes or self._may_commit()

    def connected(self, name: str) -> None:
        """Note a link to a peer (again): nothing sent on the last one may be relied on."""
        self._SyncObj__connectedNodes.add(self._nodes[name])
        if self.is_leader:
            self._progress[name] = Progress(self._log.last_index + 1)
            self._SyncObj__raftMatchIndex[self._nodes[name]] = 0

    def disconnected(self, name: str) -> None:
        """Note a lost link. A follower that lost its leader asks around soon."""
        node = self._nodes[name]
        self._SyncObj__connectedNodes.discard(node)
        self._held = [(peer, message) for peer, message in self._held if peer != name]
        if self.leader == name:
            self._SyncObj__raftLeader = None
            self._heard_s = float("-inf")
            wait_s = ORPHAN_MIN_S + (ORPHAN_MAX_S - ORPHAN_MIN_S) * self._chance()
            self._SyncObj__raftElectionDeadline = self._now() + wait_s
            self._notice()

    def members_changed(self) -> None:
        """Count anew, as the answers of `Host.is_voter` changed."""
        for name in self._progress:
            self._count(name)

    def hand_over(self) -> str | None:
        """Ask the most advanced follower that has everything to lead; return its name, if any.

        Call it only while nothing is being proposed: the target must have the whole log.
        """
        ready = [
            name
            for name, progress in self._progress.items()
            if self._host.is_voter(name)
            and self._nodes[name] in self._SyncObj__connectedNodes
            and progress.acked == self._log.last_index
        ]
        if not self.is_leader or not ready:
            return None
        self._outbox.send(ready[0], TimeoutNow(term=self.term))
        return ready[0]

    # --- Peers' messages ----------------------------------------------------------------------

    def receive(self, name: str, message: PeerMessage) -> bool:
        """Take a peer's message. True if a tick has to do; most need none."""
        due = True
        match message:
            case AppendEntries():
                self._on_append_entries(name, message)
                due = self.commit_index > self.applied_index
            case NextIndex():
                self._on_next_index(name, message)
                due = self._may_commit() or self._has_more_for(name)
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
        elif self.is_leader:
            raise FatalError(f"{name} also leads in term {message.term}: two leaders in one term")
        elif self.role is Role.CANDIDATE:
            self._SyncObj__setState(Role.FOLLOWER.value)
        self._heard_s = self._now()
        if not self._SyncObj__transferInProgress:
            self._rest_election()
        if self.leader != name:
            self._SyncObj__raftLeader = self._nodes[name]
            self._matched = self._acked = 0
        mismatch = self._mismatch(message.prev_index, message.prev_term)
        if mismatch:
            self._answer(name, success=False, next_index=mismatch, stamp=message.stamp)
            return
        self._take(message.entries)
        matched = message.prev_index + len(message.entries)
        self._matched = max(self._matched, matched)
        # D2: only what this message proved to match may commit here.
        commit = min(message.commit_index, matched)
        if commit > self.commit_index:
            self._SyncObj__raftCommitIndex = commit
            self._log.setRaftCommitIndex(commit)
        self._SyncObj__leaderCommitIndex = message.commit_index
        self._acknowledge(message.stamp)

    def _mismatch(self, prev_index: int, prev_term: int) -> int:
        """Return 0 if the log has that entry, else the index from which to send (L2)."""
        last = self._log.last_index
        if prev_index > last:
            return last + 1
        if prev_index < self._log.first_index:
            return 0  # compacted here, so committed, so the same everywhere
        term = self._log.term_at(prev_index)
        if term == prev_term:
            return 0
        if prev_index <= self.commit_index:
            raise FatalError(
                f"the leader's entry {prev_index} has term {prev_term}, the committed one here "
                f"has {term}: one of the two logs is wrong"
            )
        index = prev_index
        while index - 1 > self.commit_index and self._log.term_at(index - 1) == term:
            index -= 1
        return max(self.commit_index + 1, index)

    def _take(self, entries: Sequence[tuple[bytes, int, int]]) -> None:
        """Append what the log lacks; truncate only at the first real conflict (D1)."""
        log = self._log
        for place, (_, index, term) in enumerate(entries):
            if index <= self.commit_index and index < log.first_index:
                continue
            if index <= log.last_index:
                if log.term_at(index) == term:
                    continue
                if index <= self.commit_index:
                    raise FatalError(
                        f"the leader's entry {index} has term {term}, the committed one here "
                        f"has {log.term_at(index)}: one of the two logs is wrong"
                    )
                log.deleteEntriesFrom(index - log.first_index)
            for entry in entries[place:]:
                log.add(*entry)
            return

    def _on_next_index(self, name: str, message: NextIndex) -> None:
        if message.term > self.term:
            self._follow(message.term)
            return
        progress = self._progress.get(name)
        # D3: an acknowledgement counts only in the term that it was given in.
        if message.term < self.term or not self.is_leader or progress is None:
            return
        if message.stamp:
            progress.stamp = max(progress.stamp, message.stamp)
            progress.awaiting = False
        if self._host.is_voter(name):
            self._SyncObj__lastResponseTime[self._nodes[name]] = self._now()
        if not message.success:
            if message.next_index > progress.acked:  # D10: never below what it acknowledged
                progress.probe(min(message.next_index, progress.next))
            return
        if message.stamp:
            progress.probing = False
        progress.acked = max(progress.acked, message.next_index - 1)
        progress.next = max(progress.next, message.next_index)
        while progress.under_way and progress.under_way[0][0] <= progress.acked:
            progress.under_way.popleft()
        self._count(name)

    def _on_request_vote(self, name: str, message: RequestVote) -> None:
        if not self._host.is_voter(name):
            return
        if message.term > self.term:
            self._follow(message.term)
        if message.term < self.term or not self._votes_itself():
            return
        if self._SyncObj__votedForNodeId not in {None, name} or self.role is not Role.FOLLOWER:
            return
        if not self._up_to_date(message.last_index, message.last_term):
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
            and self._host.is_voter(name)
            and self._votes_itself()
            and self._up_to_date(message.last_index, message.last_term)
        )
        if granted and (self._pre_vote_term == 0 or name < self.selfNode.id):
            # Two that stand at once split the votes: the one that asked first, or whose name
            # sorts first, goes ahead.
            self._pre_vote_term = 0
            wait_s = ORPHAN_MAX_S * (1 + self._chance())
            deadline_s = max(self._SyncObj__raftElectionDeadline, self._now() + wait_s)
            self._SyncObj__raftElectionDeadline = deadline_s
        answer = PreVoteAnswer(term=message.term if granted else self.term, granted=granted)
        self._outbox.send(name, answer)

    def _on_pre_vote_answer(self, name: str, message: PreVoteAnswer) -> None:
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

    def _majority(self, count: int) -> bool:
        return count > (len(self._nodes) + 1) / 2

    def _writes_pending(self) -> bool:
        return self._log.vote_pending or self._log.durable_index < self._log.last_index

    def _rest_election(self) -> None:
        self._SyncObj__raftElectionDeadline = self._now() + self._SyncObj__generateRaftTimeout()

    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        return (last_term, last_index) >= (self._log.last_term, self._log.last_index)

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

    def _count(self, name: str) -> None:
        """Give pysyncobj what may count: on that disk, on this disk, and of a voter (I1)."""
        acked = self._progress[name].acked if self._host.is_voter(name) else 0
        durable = min(acked, self._log.durable_index)
        self._SyncObj__raftMatchIndex[self._nodes[name]] = durable

    def _may_commit(self) -> bool:
        """Tell whether more than what is committed may be on a majority's disks."""
        matched = self._SyncObj__raftMatchIndex.values()
        return self.is_leader and max(matched, default=0) > self.commit_index

    def _has_more_for(self, name: str) -> bool:
        """Tell whether a follower waits for entries, or for a probe."""
        progress = self._progress.get(name)
        return (
            progress is not None
            and self.is_leader
            and (progress.next <= self._log.last_index or progress.probing)
        )

    def _dispatch(self, name: str, message: RaftMessage) -> None:
        """Send, or hold until term and vote are on disk (D7, D8)."""
        if self._log.vote_pending:
            self._held.append((name, message))
        else:
            self._outbox.send(name, message)

    def _answer(self, name: str, *, success: bool, next_index: int, stamp: int) -> None:
        answer = NextIndex(
            term=self.term, next_index=next_index, success=success, reset=not success, stamp=stamp
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
        """Send at once what followers lack: entries, or a commit index that moved (L7)."""
        if self.is_leader:
            for name in self._progress:
                self._send_to(name, heartbeat=False)

    def _send_to(self, name: str, *, heartbeat: bool) -> None:
        progress = self._progress[name]
        if self._nodes[name] not in self._SyncObj__connectedNodes:
            return
        stamp = int(self._now() * 1e6) if heartbeat else 0
        if progress.probing:
            if heartbeat or not progress.awaiting:
                progress.awaiting = True
                self._append(name, progress, (), stamp or int(self._now() * 1e6))
            return
        sent = False
        while (
            progress.next <= self._log.last_index
            and len(progress.under_way) < WINDOW_MESSAGES
            and progress.bytes_under_way < WINDOW_BYTES
            and self._outbox.writable(name)
        ):
            entries = tuple(self._log.entries(progress.next, BATCH_BYTES_MAX))
            self._append(name, progress, entries, stamp)
            stamp, sent = 0, True
        if not sent and (
            stamp
            or (
                progress.commit_sent < self.commit_index
                and self._host.waits(name, progress.commit_sent)
            )
        ):
            self._append(name, progress, (), stamp)

    def _append(
        self,
        name: str,
        progress: Progress,
        entries: tuple[tuple[bytes, int, int], ...],
        stamp: int,
    ) -> None:
        prev_index = progress.next - 1
        if prev_index < self._log.first_index:
            raise FatalError(
                f"{name} needs entry {prev_index}, but this journal begins at "
                f"{self._log.first_index}"
            )
        message = AppendEntries(
            term=self.term,
            commit_index=self.commit_index,
            prev_index=prev_index,
            prev_term=self._log.term_at(prev_index),
            stamp=stamp,
            entries=entries,
        )
        if self._outbox.send(name, message):
            progress.commit_sent = self.commit_index
            if entries:
                progress.next = entries[-1][1] + 1
                size = sum(len(entry[0]) for entry in entries)
                progress.under_way.append((progress.next - 1, size))

    # --- pysyncobj's own methods, overridden ----------------------------------------------------

    def _SyncObj__sendAppendEntries(self) -> None:
        """Heartbeats to all (L3, L4, L10): bounded, windowed, never spinning."""
        self._SyncObj__newAppendEntriesTime = self._now() + HEARTBEAT_S
        for name in self._progress:
            self._send_to(name, heartbeat=True)

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Stand for election now? Only a voter, and only after a majority said yes (L5, D8)."""
        if not self._votes_itself():
            self._rest_election()
            return False
        if not self._nodes or self._SyncObj__transferInProgress:
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
                term=self.term + 1, last_index=self._log.last_index, last_term=self._log.last_term
            )
            for name in self._nodes:
                self._outbox.send(name, question)
        return False

    def _SyncObj__onBecomeLeader(self) -> None:
        """Lead, once this member's own vote is on disk (D8)."""
        if not self._elected():
            return
        self._progress = {name: Progress(self._log.last_index + 1) for name in self._nodes}
        super()._SyncObj__onBecomeLeader()

    def _SyncObj__applyLogEntries(self) -> bool:
        """Apply for at most `APPLY_SLICE_S`; never twice, never past a failure (D13)."""
        self._replicate()  # followers first: their producers wait for the commit index
        until = self._now() + APPLY_SLICE_S
        while self.commit_index > self.applied_index:
            index = self.applied_index + 1
            command, _, term = self._log.entry(index)
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
