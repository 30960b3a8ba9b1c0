"""The ledger: what the log's entries add up to, the same on every node (I5).

Decides what each command changes: who the members are, which proposals are accepted (I2)
and at which positions, which routes and consumers there are, what is settled (I3), and which
entries may leave the log.
Leaves the messages in the journal: it holds positions, never bodies. Leaves what can be asked
to ``questions``; the log, and when an entry is committed, to ``crowd/raft``; attempts to
``crowd/delivery``.

The model is the replicated state machine of the Raft paper, section 2.

Invariant: the state is a function of the entries applied, in their order, and of nothing
else: no clock, no chance, no order of a hash table, no call of a method that asks. What is
kept only for speed is never part of `state`.

Invariant: `apply` either raises before it changed anything, or has applied the entry whole.
A command without effect (a repeat, a stranger's, one before birth) moves the index only; a
proposal that is refused is counted too.

Invariant: positions are dense. An accepted batch of n messages takes the n positions behind
`tip`; a refused one takes none, nor does a message whose idempotency key is known.

Invariant: every position in the entries up to `released_index` is at or below `beginning`,
and no consumer needs one of those, now or ever. Rows of later entries are never forgotten.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from crowd.codec import pack
from crowd.command import (
    FORMAT,
    Accept,
    Birth,
    Bury,
    Command,
    Conclude,
    Control,
    Define,
    Demote,
    Dismiss,
    Enroll,
    Expel,
    Index,
    Once,
    OpenSession,
    Promote,
    Purge,
    RaiseFormat,
    Release,
    Remember,
    Replay,
    SessionId,
    Settle,
    Skip,
    Term,
)
from crowd.errors import MalformedError, NeedsNewerCrowdError
from crowd.idempotency import left_out_places
from crowd.ledger.definitions import Starts
from crowd.ledger.head import DIGEST_EVERY, DIGESTS_KEPT, GONE_MAX, Head, expect, read_head
from crowd.ledger.questions import Questions
from crowd.message import Position

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crowd.ledger.consumers import Consumer
    from crowd.message import RouteId


T = TypeVar("T")


class Ledger(Questions):
    """The state machine. Not for threads: the reactor applies and asks."""

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
            self._apply_to_one(command)
        elif not isinstance(command, Once):
            self._apply_rare(command)
        elif self.tag is not None and self._heard.hear(command):
            self._apply_rare(command.command)
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
                starts = Starts(self.beginning, self.log_time_us, self._marks)
                if self._definitions.define(command, self._rows, starts) and command.keys:
                    self._keys.bound(command.keys, self.log_time_us)
        elif isinstance(command, Enroll | Promote | Demote | Expel):
            self._change_members(command)
        elif isinstance(command, Release):
            self._release(command.floor)
        elif isinstance(command, RaiseFormat):
            self.format = max(self.format, command.version)
        elif isinstance(command, Conclude | Purge):
            self._let_letters_go(command)
        elif not isinstance(command, Accept | Once):
            self._apply_to_one(command)

    def _apply_to_one(
        self, command: Settle | Control | Bury | Replay | Remember | Dismiss | Skip
    ) -> None:
        """Apply what is said of one consumer, if it is there."""
        consumer = self.consumers.get(command.consumer)
        if isinstance(command, Bury):  # letters outlive their consumer
            self._letters.bury(command, consumer, self._rows, self.log_time_us)
        if consumer is None:
            return
        if isinstance(command, Settle):
            consumer.settle(command.ranges, self._rows)
        elif isinstance(command, Remember):
            self._memories.keep(command)
        elif isinstance(command, Replay):
            self._letters.replay(consumer.id, command.letters)
        elif isinstance(command, Control):
            consumer.paused = command.action == "pause"
        elif isinstance(command, Skip):
            consumer.pass_over(command.through, self._rows)
        elif isinstance(command, Dismiss):
            self._dismiss(consumer, command)

    def _let_letters_go(self, command: Conclude | Purge) -> None:
        if isinstance(command, Conclude):
            self._letters.conclude(command.consumer, command.letters)
        elif command.reason == "age":
            self._letters.expire(command.letters, self._buried_until_us(self.log_time_us))
        else:
            self._letters.purge(command.letters)

    def _dismiss(self, consumer: Consumer, command: Dismiss) -> None:
        if command.backlog == "refuse" and consumer.backlog:
            return
        gone = self._definitions.gone
        if len(gone) >= GONE_MAX:
            oldest = next((one for one in gone if not self._letters.tally_of(one).held), None)
            if oldest is None:
                return
            del gone[oldest]
            self._letters.forget_consumer(oldest)
        self._definitions.dismiss(consumer, self.applied_index, self.log_time_us)
        self._letters.dismiss(consumer.id)
        self._memories.forget(consumer.id)

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
            self._marks.forget(through)

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
        if self.log_time_us >= self._keys.due_us:
            self._keys.tidy(self.log_time_us)
        first, left_out = Position(self.tip + 1), b""
        if batch.keys:
            left_out = self._keys.take(batch.keys, first, self.log_time_us)
        session.accepted[batch.number] = first
        if left_out:
            session.left_out[batch.number] = left_out
        session.raise_low(batch.low)
        sizes = [len(message) for message in batch.messages]
        self._store(batch.routes, sizes, counts, left_out)
        # The messages themselves are in the chain, so that equal digests mean equal messages.
        head = pack(
            [self.applied_index, batch.session, batch.number, batch.routes, sizes, left_out]
        )  # fmt: skip
        chain = hashlib.sha256(self._history)
        chain.update(head)
        chain.update(b"".join(batch.messages))
        self._history = chain.digest()

    def _store(
        self,
        routes: Sequence[RouteId],
        sizes: Sequence[int],
        counts: Mapping[RouteId, int],
        left_out: bytes,
    ) -> None:
        """Give a batch's messages their positions, all but those that are left out.

        `counts` are the messages of each route, those that are left out among them.
        """
        before, without = self.tip, left_out_places(left_out)
        if len(without) == len(routes):
            return
        if self.log_time_us >= self._marks.due_us or before >= self._marks.due_position:
            self._marks.note(self.log_time_us, before)
        self._rows.append(self.applied_index, routes, sizes, without)
        if without:
            routes, sizes = _without(routes, without), _without(sizes, without)
            counts = Counter(routes)
        for route, count in counts.items():
            self._definitions.accepted[route] += count
        amounts = _amounts(routes, sizes, counts)
        for consumer in self.consumers.values():
            consumer.accepted(amounts, before, self._rows)

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
            self._letters.state(),
            self._memories.state(),
            self._marks.state(),
            self._heard.state(),
            self._keys.state(),
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
        """Return the whole state as sections: the head, then rows, keys, letters, memories.

        They are immutable, and all but the head were made before: a million entries of one
        message, all letters that there may be, or half a million keys cost well below 5 ms,
        measured by ``tests/unit/ledger/measure.py``. What a section holds is drawn in
        docs/reference/ledger.md.
        """
        return (
            self._head(),
            *self._rows.sections(),
            *self._keys.sections(),
            *self._letters.sections(),
            *self._memories.sections(),
        )

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

    def _become(self, head: Head, sections: Sequence[bytes]) -> None:
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
        memories = len(sections) - len(head.memories)
        letters = memories - head.letters.sections
        keys = letters - len(head.keys.segments)
        expect(keys >= 0, what="number of sections")
        self._rows.restore(head, sections[:keys])
        self._keys.restore(head, sections[keys:letters])
        consumers = self.consumers
        self._letters.restore(head, sections[letters:memories], consumers, self.gone)
        self._memories.restore(head, sections[memories:], consumers)
        self._marks.restore(head)
        self._heard.restore(head.heard)


def _without(values: Sequence[T], places: Sequence[int]) -> list[T]:
    """Return `values` without those at `places`."""
    gone = set(places)
    return [value for place, value in enumerate(values) if place not in gone]


def _amounts(
    routes: Sequence[RouteId], sizes: Sequence[int], counts: Mapping[RouteId, int]
) -> list[tuple[RouteId, int, int]]:
    """Return each route of a batch with its messages and their bytes."""
    if len(counts) == 1:
        return [(routes[0], len(routes), sum(sizes))]
    held = dict.fromkeys(counts, 0)
    for route, size in zip(routes, sizes, strict=True):
        held[route] += size
    return [(route, count, held[route]) for route, count in counts.items()]
