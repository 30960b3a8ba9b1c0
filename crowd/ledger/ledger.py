"""The ledger: what the log's entries add up to, the same on every node (I5).

Decides what each command changes: who the members are, which proposals are accepted (I2)
and at which positions, which routes and consumers there are, what is settled (I3), and which
entries may leave the log.
Leaves the messages in the journal: it holds positions, never bodies. Leaves the log, and
when an entry is committed, to ``crowd/raft``; attempts to ``crowd/delivery``.

The model is the replicated state machine of the Raft paper, section 2.

Invariant: the state is a function of the entries applied, in their order, and of nothing
else: no clock, no chance, no order of a hash table, no call of a method that asks. What is
kept only for speed is never part of `state`.

Invariant: `apply` either raises before it changed anything, or has applied the entry whole.
A command without effect (a repeat, a stranger's, one before birth) moves the index only; a
proposal that is refused is counted too.

Invariant: positions are dense. An accepted batch of n messages takes the n positions behind
`tip`; a refused one takes none.

Invariant: every position in the entries up to `released_index` is at or below `beginning`,
and no consumer needs one of those, now or ever. Rows of later entries are never forgotten.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from crowd.codec import pack
from crowd.command import (
    FORMAT,
    Accept,
    Birth,
    Command,
    Control,
    Define,
    Demote,
    Enroll,
    Expel,
    Index,
    OpenSession,
    Promote,
    RaiseFormat,
    Release,
    SessionId,
    Settle,
    Term,
)
from crowd.errors import MalformedError, NeedsNewerCrowdError
from crowd.ledger.chunk import CHUNK_ROWS
from crowd.ledger.definitions import Definitions, Route
from crowd.ledger.head import DIGEST_EVERY, DIGESTS_KEPT, Head, expect, read_head
from crowd.ledger.members import Members, MemberState
from crowd.ledger.rows import Place, Rows
from crowd.ledger.sessions import Sessions
from crowd.message import ConsumerId, Position, RouteId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crowd.command import Remember
    from crowd.ledger.consumers import Consumer


class Ledger:
    """The state machine. Not for threads: the reactor applies and asks.

    `chunk_rows`, at most `CHUNK_ROWS`, is for tests that want many chunks of a short history.
    """

    def __init__(self, *, chunk_rows: int = CHUNK_ROWS) -> None:
        self._chunk_rows = chunk_rows
        self.applied_index = Index(0)
        self.applied_term = Term(0)
        self.log_time_us = 0
        """The newest log time applied, in microseconds since 1970. It never goes back."""
        self.format = 0
        """The version of this state's shape; 0 before birth."""
        self.cluster: str | None = None
        self.tag: str | None = None
        self.refused = 0
        """Proposals refused so far: repeats, and those of closed sessions."""
        self.released_index = Index(0)
        """Entries up to here, inclusive, may leave every node's log."""
        self.beginning = Position(0)
        """The last position in those entries: the first that is kept stands behind it."""
        self.digests: dict[Index, bytes] = {}
        """The newest `DIGESTS_KEPT` digests at multiples of `DIGEST_EVERY`, rising."""
        self._members = Members()
        self._definitions = Definitions()
        self._sessions = Sessions()
        self._rows = Rows(chunk_rows=chunk_rows)
        self._history = bytes(32)  # a hash chain over every accepted batch
        self._bytes_below = (Position(0), 0)  # not state: a watermark and the bytes up to it

    # --- Applying -------------------------------------------------------------------------------

    def apply(self, index: Index, term: Term, log_time_us: int, command: Command) -> None:
        """Apply the entry at `index`, which must be the one behind `applied_index`.

        Raises AssertionError if it is another one, or its term is lower than the last;
        NeedsNewerCrowdError, which is fatal, if the command asks for a format that this
        version does not know. Nothing has changed then. Costs a few microseconds and less
        than one for each message; `Define` and, on an entry in `DIGEST_EVERY`, the digest
        cost up to a few milliseconds.
        """
        self._expect(index, term)
        self._check_format(command)
        self.applied_index, self.applied_term = index, term
        self.log_time_us = max(self.log_time_us, log_time_us)
        if isinstance(command, Accept):  # first: nearly every entry is one
            self._accept(command)
        elif isinstance(command, Settle):
            self._settle(command)
        else:
            self._apply_rare(command)
        self._remember_digest()

    def skip(self, index: Index, term: Term) -> None:
        """Pass the no-op entry at `index`, under the same conditions as `apply`."""
        self._expect(index, term)
        self.applied_index, self.applied_term = index, term
        self._remember_digest()

    def forget(self, below: Index) -> None:
        """Drop the rows of entries below `below`, which this node's log no longer holds.

        Not part of the state: a node's log begins where that node cut it. Raises
        AssertionError above ``released_index + 1``: what no entry has released is needed, by
        a consumer that is there or by one to come. What is left of a chunk of rows that
        `below` cuts through stays.
        """
        assert below <= self.released_index + 1, (below, self.released_index)
        self._rows.forget(below)

    def _expect(self, index: Index, term: Term) -> None:
        if index != self.applied_index + 1 or term < self.applied_term:
            raise AssertionError(
                f"entry {index} of term {term} after {self.applied_index} of {self.applied_term}"
            )

    def _check_format(self, command: Command) -> None:
        version = 0
        if isinstance(command, Birth):
            version = command.format
        elif isinstance(command, RaiseFormat):
            version = command.version
        if version > FORMAT:
            raise NeedsNewerCrowdError(
                f"the log asks for format {version}; this version knows 1-{FORMAT}"
            )

    def _apply_rare(self, command: Command) -> None:
        """Apply what is neither accepted nor settled. Before birth, only birth has effect."""
        if isinstance(command, Birth):
            self._be_born(command)
        elif self.tag is None:
            return
        elif isinstance(command, OpenSession):
            if command.node in self.members:
                self._sessions.open(SessionId(self.applied_index), command.node, command.nonce)
        elif isinstance(command, Define):
            if command.node in self.members:
                self._definitions.define(command, self._rows, self.beginning)
        elif isinstance(command, Enroll | Promote | Demote | Expel):
            self._change_members(command)
        elif isinstance(command, Release):
            self._release(command.floor)
        elif isinstance(command, Control):
            consumer = self.consumers.get(command.consumer)
            if consumer is not None:
                consumer.paused = command.action == "pause"
        elif isinstance(command, RaiseFormat):
            self.format = max(self.format, command.version)

    def _be_born(self, birth: Birth) -> None:
        if self.tag is None:
            self.cluster, self.tag, self.format = birth.cluster, birth.tag, birth.format
            self._members.be_born(birth.members, self.applied_index)

    def _change_members(self, command: Enroll | Promote | Demote | Expel) -> None:
        changed = self._members.change(command, self.applied_index)
        if changed and isinstance(command, Expel):
            self._sessions.close_all(command.name)
            self._definitions.file_hashes.pop(command.name, None)

    def _release(self, floor: Index) -> None:
        """Let entries up to `floor` go, if all of them are applied and none is needed.

        Rows up to `released_index` may be forgotten, on some nodes and not on others; what is
        asked here of the rows lies above.
        """
        if not self.released_index < floor <= self.applied_index or not self.consumers:
            return
        through = self._rows.last_through(floor)
        if through <= self.lowest_watermark:
            self.released_index, self.beginning = floor, through

    def _accept(self, batch: Accept) -> None:
        session = self._sessions.get(batch.session)
        counts = Counter(batch.routes)
        if (
            session is None
            or not session.admits(batch.number)
            or not counts.keys() <= self._definitions.accepted.keys()
        ):
            self.refused += 1
            if session is not None and session.is_open:
                session.raise_low(batch.low)
            return
        before = self.tip
        sizes = [len(message) for message in batch.messages]
        first = self._rows.append(self.applied_index, batch.routes, sizes)
        session.accepted[batch.number] = first
        session.raise_low(batch.low)
        for route, count in counts.items():
            self._definitions.accepted[route] += count
        for consumer in self.consumers.values():
            consumer.accepted(counts.items(), before, self._rows)
        # The messages themselves are in the chain, so that equal digests mean equal messages.
        head = pack([self.applied_index, batch.session, batch.number, batch.routes, sizes])
        chain = hashlib.sha256(self._history)
        chain.update(head)
        chain.update(b"".join(batch.messages))
        self._history = chain.digest()

    def _settle(self, command: Settle) -> None:
        consumer = self.consumers.get(command.consumer)
        if consumer is not None:
            consumer.settle(command.ranges, self._rows)

    # --- Asking: who, and which proposals ----------------------------------------------------------

    @property
    def members(self) -> Mapping[str, MemberState]:
        """Every member, voters and learners, by its name."""
        return self._members.states

    @property
    def members_index(self) -> Index:
        """The index of the last change of members that had an effect; Birth's is the first."""
        return self._members.index

    @property
    def tip(self) -> Position:
        """The position of the message accepted last; 0 if there is none."""
        return self._rows.last

    def session_of(self, node: str, nonce: bytes) -> SessionId | None:
        """Return the id of the open session that `node` opened with `nonce`.

        None if it was not opened yet, or was closed by a newer one of the same node; a
        closed nonce never opens again.
        """
        session = self._sessions.of(node, nonce)
        return None if session is None else session.id

    def session_is_open(self, session: SessionId) -> bool:
        """Return whether proposals of this session can still be accepted."""
        known = self._sessions.get(session)
        return known is not None and known.is_open

    def acceptance(self, session: SessionId, number: int) -> Position | None:
        """Return the first position of the batch proposed as `number`, if it was accepted.

        Known while `number` is at or above the session's low mark, and, for a session that
        was closed, until its node opens one more. None from a closed session means that it
        never will be accepted; None from an open one, that it was not yet.
        """
        known = self._sessions.get(session)
        return None if known is None else known.accepted.get(number)

    # --- Asking: routes, consumers, messages -------------------------------------------------------

    @property
    def routes(self) -> Mapping[str, Route]:
        """Every route by its path, in the order of their ids."""
        return self._definitions.routes

    @property
    def consumers(self) -> Mapping[ConsumerId, Consumer]:
        """Every consumer by its id, rising."""
        return self._definitions.consumers

    @property
    def file_hashes(self) -> Mapping[str, bytes]:
        """The hash of the configuration file that each node last had applied, by its name."""
        return self._definitions.file_hashes

    def route_id(self, path: str) -> RouteId | None:
        """Return the id of the route defined with `path`, or None if none is."""
        route = self._definitions.routes.get(path)
        return None if route is None else route.id

    def consumer_id(self, name: str) -> ConsumerId | None:
        """Return the id of the consumer called `name`, or None if none is."""
        return self._definitions.consumer_ids.get(name)

    def place(self, position: Position) -> Place:
        """Return where the message at `position` is in the log.

        Raises LookupError above `tip`, and where rows were forgotten.
        """
        return self._rows.place(position)

    def pending(self, consumer: ConsumerId, after: Position, limit: int) -> list[Position]:
        """Return the consumer's next unsettled positions above `after`, rising.

        At most `limit`, which is at least 1. An empty list means that there is none now.
        Fewer than `limit` do not mean that there are no more: one call looks at most
        `consumers.SPAN_MAX` positions beyond the first that it found. Costs microseconds for
        each position, and a few milliseconds at most for an unlucky consumer among others'
        messages. KeyError if there is no such consumer.
        """
        return self.consumers[consumer].pending(after, limit, self._rows)

    def is_settled(self, consumer: ConsumerId, position: Position) -> bool:
        """Return whether `position` needs no attempt: it is settled, or not this consumer's."""
        return self.consumers[consumer].is_settled(position, self._rows)

    def watermark(self, consumer: ConsumerId) -> Position:
        """Return the highest position up to which (inclusive) this consumer needs no message."""
        return self.consumers[consumer].watermark

    def backlog(self, consumer: ConsumerId) -> int:
        """Return how many of this consumer's messages are not settled."""
        return self.consumers[consumer].backlog

    @property
    def letters(self) -> Mapping[int, Any]:
        """Every letter by its number: none are kept yet."""
        return {}

    def letters_due(self, consumer: ConsumerId) -> Sequence[int]:  # noqa: ARG002  none are kept
        """Return the numbers of the letters that are to be attempted at this consumer."""
        return ()

    def letters_of(self, consumer: ConsumerId) -> Sequence[int]:  # noqa: ARG002  none are kept
        """Return the numbers of all of this consumer's letters."""
        return ()

    def is_letter(self, consumer: ConsumerId, position: Position) -> bool:  # noqa: ARG002
        """Return whether this consumer has a letter of `position`."""
        return False

    def dead_bytes(self, consumer: ConsumerId) -> int:  # noqa: ARG002  none are kept
        """Return how many bytes of this consumer's letters are kept."""
        return 0

    def remembered(self, consumer: ConsumerId) -> Remember | None:  # noqa: ARG002  nothing is kept
        """Return what a leader last said of its delivery to this consumer."""
        return None

    @property
    def lowest_watermark(self) -> Position:
        """The position up to which (inclusive) no consumer needs a message.

        0 while there is no consumer: then no message has been anywhere, and all are kept.
        """
        if not self.consumers:
            return Position(0)
        return min(consumer.watermark for consumer in self.consumers.values())

    @property
    def backlog_bytes(self) -> int:
        """Bytes of the messages above the lowest watermark, which the log has to keep.

        Exact where that watermark is at the end of an entry's run of one route; otherwise
        that run's bytes count as spread evenly.
        """
        lowest = self.lowest_watermark
        if self._bytes_below[0] != lowest:
            self._bytes_below = (lowest, self._rows.bytes_through(lowest))
        return self._rows.bytes_total - self._bytes_below[1]

    @property
    def live_rows(self) -> int:
        """How many rows are held: runs of messages of one route in one entry, not forgotten."""
        return self._rows.held

    # --- One history ---------------------------------------------------------------------------------

    def state(self) -> list[Any]:
        """Return the whole state but the rows as values that CBOR can say.

        The rows stand in it as a hash chain over every batch accepted: session, number,
        routes, sizes and messages. Equal states are equal values, in any process.
        """
        return [
            self.format,
            self.cluster,
            self.tag,
            self._members.state(),
            [self.applied_index, self.applied_term, self.log_time_us],
            [self.tip, self._rows.bytes_total, self._history, self.refused],
            [self.released_index, self.beginning],
            self._sessions.state(),
            *self._definitions.state(),
        ]

    def digest(self) -> bytes:
        """Return the SHA-256 of the state now: nodes at the same index have the same (I5)."""
        return hashlib.sha256(pack(self.state())).digest()

    def _remember_digest(self) -> None:
        if self.applied_index % DIGEST_EVERY == 0:
            self.digests[self.applied_index] = self.digest()
            while len(self.digests) > DIGESTS_KEPT:
                del self.digests[min(self.digests)]

    # --- Captured and restored -----------------------------------------------------------------------

    def capture(self) -> tuple[bytes, ...]:
        """Return the whole state as sections: the head, then each sealed chunk of rows.

        They are immutable, and all but the head were made before: a million entries of one
        message cost well below 5 ms, measured by ``tests/unit/ledger/measure.py``. What a
        section holds is drawn in docs/reference/ledger.md.
        """
        return self._head(), *self._rows.sections()

    def _head(self) -> bytes:
        return pack([*self.state(), self._rows.state(), list(self.digests.items())])

    def restore(self, sections: Sequence[bytes]) -> None:
        """Replace the whole state by the one that `sections` were captured of.

        They may come from anyone. Raises MalformedError if they are not what `capture`
        returns, and NeedsNewerCrowdError if their format is newer than this version knows;
        nothing has changed then. What was asked for before (a `Consumer`, a `Mapping`) is of
        the old state. Costs half a millisecond for each sealed chunk: every row is checked.
        """
        if not sections:
            raise MalformedError("a captured ledger without a section")
        head = read_head(sections[0])
        ledger = Ledger(chunk_rows=self._chunk_rows)
        ledger._become(head, sections[1:])
        # A head has one byte form, as a command has. This also finds what is there twice or
        # out of order.
        expect(ledger._head() == sections[0], what="byte form")
        vars(self).update(vars(ledger))

    def _become(self, head: Head, chunks: Sequence[bytes]) -> None:
        """Take over what was captured; raise MalformedError where the parts do not fit."""
        self.format, self.cluster, self.tag = head.format, head.cluster, head.tag
        self.applied_index, self.applied_term = head.applied.index, head.applied.term
        self.log_time_us = head.applied.log_time_us
        self._history, self.refused = head.accepted.history, head.accepted.refused
        self.released_index, self.beginning = head.released.index, head.released.beginning
        self.digests = dict(head.digests)
        self._members.restore(head.members, born=self.tag is not None)
        self._sessions.restore(head)
        self._definitions.restore(head)
        self._rows.restore(head, chunks)
