"""A consumer's progress: which messages are its own, and which of those are settled.

Decides the watermark, what is pending and how much is left. Leaves to ``ledger`` when a
consumer is defined, and to ``crowd/delivery`` when a pending message is attempted.

Invariant: whose a message is was decided when it was accepted and never changes. A consumer
whose routes are changed takes the messages accepted from then on by its new routes; what it
had before stays its own. So counting is arithmetic: own messages minus settled ones, and so
are their bytes.

Invariant: every position up to the watermark is settled or not this consumer's; the position
behind it is unsettled and this consumer's, or does not exist yet.

Invariant: a settled range above the watermark begins right behind an unsettled message of
this consumer, as positions that are not its own are taken into the range that follows them.
So there are no more ranges than unsettled messages between settled ones, however the
consumer's messages lie among others'.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd.errors import MalformedError
from crowd.ledger.head import expect
from crowd.ledger.ranges import RangeSet
from crowd.message import Position
from crowd.value import INTEGER_MAX

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from crowd.definition import ConsumerDefinition
    from crowd.ledger.head import ConsumerPart, Head
    from crowd.ledger.rows import Rows
    from crowd.message import ConsumerId, RouteId

ALL_ROUTES: Final = -1
"""The bit mask of a consumer that takes every route, those to come included."""

SPAN_MAX: Final = 16_384
"""How far behind the first pending position others are looked for in one call. With entries
of one message that is four chunks to open, about a millisecond."""


class _Epoch(msgspec.Struct, frozen=True, gc=False):
    """From behind `after` on, the consumer takes `routes` (a bit mask by route id)."""

    after: int
    routes: int


class Consumer:
    """One consumer, as the ledger knows it. Only the ledger changes it.

    ``from_position`` is the last position before it began: it takes none up to there.
    ``own`` counts its messages accepted so far, ``done`` those of them that are settled,
    ``skipped`` those of the settled that nobody attempted any more.
    """

    def __init__(
        self,
        consumer: ConsumerId,
        definition: ConsumerDefinition,
        from_position: Position,
        routes: int,
    ) -> None:
        self.id = consumer
        self.redefine(definition)
        self.from_position = from_position
        self.watermark = from_position
        self.settled = RangeSet()
        self.paused = False
        self.own = 0
        self.done = 0
        self.skipped = 0
        self.backlog_bytes = 0
        """Bytes of its own messages that are not settled.

        Exact for whole runs of one route in one entry; those of a run that is settled in part
        count as spread evenly, and it adds up once all of it is settled.
        """
        self.settled_bytes = 0
        """Bytes of its own messages settled by this ledger. Not state: for how fast it drains."""
        self.passed = Position(0)
        """Through which position an operator last skipped. Not state: for who holds positions."""
        self._epochs = [_Epoch(from_position, routes)]
        # Not state: nothing of it is pending within this span. What is accepted later lies
        # above, and settling or defining makes nothing pending that was not.
        self._clear = (0, 0)

    def begin(self, rows: Rows) -> None:
        """Count what it begins with: its messages from ``from_position`` on to the last one."""
        self.own, self.backlog_bytes = self._amount_own(self.from_position + 1, rows.last, rows)
        self.advance(rows)

    def redefine(self, definition: ConsumerDefinition) -> None:
        """Be delivered to as `definition` says from here on."""
        self.definition = definition
        self._bytes_full = definition.backlog_bytes or INTEGER_MAX
        self._messages_full = definition.backlog_messages or INTEGER_MAX
        self._skips = definition.when_full == "skip"

    @property
    def is_full(self) -> bool:
        """Whether its backlog is at its bound of bytes or of messages; a bound of 0 is none."""
        return self.backlog_bytes >= self._bytes_full or self.backlog >= self._messages_full

    @property
    def routes(self) -> int:
        """The bit mask of the routes whose messages it takes now."""
        return self._epochs[-1].routes

    def take(self, routes: int, after: Position) -> None:
        """Take the messages of `routes` (a bit mask) that are accepted behind `after`."""
        if routes == self.routes:
            return
        ends = [following.after for following in self._epochs[1:]] + [after]
        # An epoch that is empty, or ends at or below the watermark, decides nothing any more.
        self._epochs = [
            epoch
            for epoch, end in zip(self._epochs, ends, strict=True)
            if end > max(epoch.after, self.watermark)
        ]
        self._epochs.append(_Epoch(after, routes))

    @property
    def routes_known_after(self) -> Position:
        """Behind which position `owns` is certain: up to there it may have taken other routes."""
        return Position(self._epochs[0].after)

    @property
    def backlog(self) -> int:
        """The number of its own messages that are not settled."""
        return self.own - self.done

    def accepted(
        self, amounts: Iterable[tuple[RouteId, int, int]], before: Position, rows: Rows
    ) -> None:
        """Count a batch that followed position `before`: its routes' messages and their bytes.

        A full consumer that skips is given none of it: its own are settled at once.
        """
        routes = self._epochs[-1].routes
        is_skipped = self._skips and self.is_full
        for route, messages, size in amounts:
            if routes >> route & 1:
                self.own += messages
                self.backlog_bytes += size
        if self.watermark == before:
            self.advance(rows)
        if is_skipped:
            self.skip(Position(before + 1), rows.last, rows)

    def pass_over(self, through: Position, rows: Rows) -> None:
        """Skip all of its own up to `through` that are there, by an operator's order."""
        self.passed = min(through, rows.last)
        self.skip(Position(1), through, rows)

    def skip(self, first: Position, last: Position, rows: Rows) -> None:
        """Settle what of its own is not settled within first-last, and count it as skipped."""
        before = self.done
        self.settle([(first, last)], rows)
        self.skipped += self.done - before

    def settle(self, ranges: Iterable[tuple[Position, Position]], rows: Rows) -> None:
        """Settle every message of its own in `ranges`; others in them are none of its own.

        Positions that do not exist yet are ignored: none can have been delivered.
        """
        for start, end in ranges:
            first, last = max(start, self.watermark + 1), min(end, rows.last)
            if first > last:
                continue
            for a, b in self.settled.gaps(first, last):
                messages, size = self._amount_own(a, b, rows)
                self.done += messages
                self.backlog_bytes -= size
                self.settled_bytes += size
            self.settled.add(self._behind_unsettled(first, rows), last)
        self.advance(rows)

    def _behind_unsettled(self, first: int, rows: Rows) -> int:
        """Return the position from which on all below `first` is settled or not its own."""
        below = max(self.watermark, self.settled.previous_end(first - 1) or 0)
        if first - 1 in self.settled:  # the usual case: what follows would find the same
            return first
        for epoch, until in reversed(self._spans(below + 1, first - 1)):
            if epoch.routes == ALL_ROUTES:
                return until + 1
            found = rows.last_match(max(below, epoch.after) + 1, until, epoch.routes)
            if found is not None:
                return found + 1
        return below + 1

    def advance(self, rows: Rows) -> None:
        """Raise the watermark as far as nothing of its own is unsettled below it."""
        before = watermark = int(self.watermark)
        while True:
            end = self.settled.end_of_range(watermark + 1)
            start = (watermark if end is None else end) + 1
            following = next(self._own(start, rows.last, rows), None)
            reached = rows.last if following is None else following[0] - 1
            if reached == watermark:
                break
            watermark = reached
        if watermark > before:
            self.watermark = Position(watermark)
            self.settled.discard_through(watermark)

    def pending(self, after: Position, limit: int, rows: Rows) -> list[Position]:
        """Return the next own unsettled positions above `after`, rising, at most `limit`.

        None come back only if there are none. Fewer than `limit` may come back while there
        are more: positions more than `SPAN_MAX` above the first found wait for the next call.
        """
        first = max(after, self.watermark) + 1
        clear_from, clear_to = self._clear
        start = clear_to + 1 if clear_from <= first <= clear_to else first
        found: list[Position] = []
        until = rows.last
        for gap_first, gap_last in self.settled.gaps(start, rows.last):
            for a, b in self._own(gap_first, gap_last, rows):
                if not found:
                    until = Position(min(rows.last, a + SPAN_MAX))
                stop = min(b, until, a + limit - len(found) - 1)
                found.extend(map(Position, range(a, stop + 1)))
                if len(found) >= limit or b >= until:
                    return found
        if not found and rows.last >= first:
            self._clear = (first, rows.last)
        return found

    def is_settled(self, position: Position, rows: Rows) -> bool:
        """Return whether `position` needs no attempt: settled, or none of its own."""
        return (
            position <= self.watermark
            or position in self.settled
            or next(self._own(position, position, rows), None) is None
        )

    def settled_of(self, positions: Collection[Position]) -> list[Position]:
        """Return those of `positions`, at least one and all its own, that are settled."""
        first, last = min(positions), max(positions)
        if first > self.watermark and not self.settled.meets(first, last):
            return []  # nearly always
        return [position for position in positions if self.has_settled(position)]

    def owns(self, position: Position, rows: Rows) -> bool:
        """Return whether the message at `position` is, or was, its own.

        Where it took other routes then, which is known above its watermark alone, the present
        ones are gone by.
        """
        if not self.from_position < position <= rows.last:
            return False
        if position > self._epochs[0].after:
            return next(self._own(position, position, rows), None) is not None
        return bool(self.routes >> rows.place(position).route & 1)

    def has_settled(self, position: Position) -> bool:
        """Return whether `position` is settled, or not its own below a settled one."""
        return position <= self.watermark or position in self.settled

    def _spans(self, first: int, last: int) -> list[tuple[_Epoch, int]]:
        """Return the epochs that first-last meets, rising, each with its last position in it."""
        if first > last:
            return []
        if len(self._epochs) == 1:
            return [(self._epochs[0], last)] if self._epochs[0].after < last else []
        ends = [following.after for following in self._epochs[1:]] + [last]
        return [
            (epoch, min(end, last))
            for epoch, end in zip(self._epochs, ends, strict=True)
            if epoch.after < last and end >= first
        ]

    def _own(self, first: int, last: int, rows: Rows) -> Iterator[tuple[int, int]]:
        """Yield the runs of own positions, settled or not, within first-last, rising."""
        for epoch, end in self._spans(first, last):
            start = max(first, epoch.after + 1)
            if epoch.routes == ALL_ROUTES:
                if start <= min(end, rows.last):
                    yield start, min(end, rows.last)
            elif epoch.routes:
                yield from rows.matches(start, end, epoch.routes)

    def _amount_own(self, first: int, last: int, rows: Rows) -> tuple[int, int]:
        """Return how many positions within first-last are its own, and their bytes.

        All of them exist, and none was forgotten, as they lie above the watermark.
        """
        count = size = 0
        for epoch, end in self._spans(first, last):
            start = max(first, epoch.after + 1)
            if epoch.routes == ALL_ROUTES:
                count += end - start + 1
                size += rows.bytes_through(end) - rows.bytes_through(start - 1)
            elif epoch.routes:
                more, bytes_more = rows.amount(start, end, epoch.routes)
                count += more
                size += bytes_more
        return count, size

    def state(self) -> list[Any]:
        """Return the consumer as values that CBOR can say, the same on every node."""
        return [
            self.id,
            msgspec.to_builtins(self.definition, builtin_types=(bytes,)),
            self.from_position,
            self.watermark,
            self.settled.to_bytes(),
            self.paused,
            self.own,
            self.done,
            self.skipped,
            self.backlog_bytes,
            [[epoch.after, f"{epoch.routes:x}"] for epoch in self._epochs],
        ]

    def restore(self, part: ConsumerPart, head: Head) -> None:
        """Become, from new, the consumer whose state `part` is, a part of `head`.

        Raises MalformedError if it cannot be: this object is of no use then.
        """
        self.watermark, self.paused = part.watermark, part.paused
        self.own, self.done, self.skipped = part.own, part.done, part.skipped
        self.backlog_bytes = part.backlog_bytes
        self._epochs = [_Epoch(after, int(routes, 16)) for after, routes in part.epochs]
        try:
            self.settled = RangeSet.from_bytes(part.settled)
        except ValueError as error:
            raise MalformedError(f"a consumer's settled messages: {error}") from error
        settled = list(self.settled)
        tip = head.accepted.tip
        expect(
            part.from_position <= part.watermark <= tip,
            head.rows.first <= part.watermark + 1,
            not settled or part.watermark + 1 < settled[0][0] <= settled[-1][1] <= tip,
            part.skipped <= part.done <= part.own <= tip - part.from_position,
            part.backlog_bytes <= head.accepted.bytes_total,
            part.backlog_bytes == 0 or part.done < part.own,
            self._epochs[0].after <= part.watermark,
            self._epochs[-1].after <= tip,
            all(a.after < b.after for a, b in pairwise(self._epochs)),
            all(
                epoch.routes >> (len(head.routes) + 1) in {0, ALL_ROUTES} for epoch in self._epochs
            ),
            what="consumer",
        )
