"""Where each accepted message stands: position to entry, place in the batch, and route.

Decides how that map is held in memory. A row is a run of messages of one route within one
entry; rows tile the positions without gaps, so a row needs no end. An entry may have places
without a position (a repeated idempotency key), which end a run: a row knows how many stand
before it. Rows are gathered in columns; `CHUNK_ROWS` of them are then sealed, with a summary (span, routes as a bit mask,
bytes) that lets a search pass over the whole chunk. Leaves to ``chunk`` how that is done, to
``ledger`` what is accepted, and when the log no longer holds an entry.

Memory: below 3 bytes a row for entries of one message, measured by
tests/unit/ledger/test_rows.py, and about 1 MiB for what was looked at last.

Invariant: rows rise in position and never fall in index; the last row ends at `last`; an
entry's rows are all in one chunk.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd.command import Index
from crowd.ledger.chunk import CHUNK_ROWS, Columns, read_chunk, seal
from crowd.ledger.head import expect
from crowd.message import Position, RouteId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crowd.ledger.chunk import Chunk
    from crowd.ledger.head import Head, RowsPart

_OPENED_MAX: Final = 8
"""Chunks kept open after a look: 30 bytes a row, so about 1 MiB together. Consumers look
near their watermarks and near the tip, a few places at a time."""


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a message is: its entry's index, its offset in that batch (from 0), its route."""

    index: Index
    offset: int
    route: RouteId


class Run(msgspec.Struct, frozen=True, gc=False):
    """A row: the messages at ``first``-``last``, which are one behind the other in one entry.

    ``offset`` is the first one's in that batch (from 0).
    """

    first: Position
    last: Position
    index: Index
    offset: int
    route: RouteId


class Rows:
    """The rows of all entries not forgotten. Ranges of positions are inclusive.

    `chunk_rows` is how many rows are sealed together.
    """

    def __init__(self, *, chunk_rows: int = CHUNK_ROWS) -> None:
        self._chunk_rows = chunk_rows
        self.first = Position(1)
        """The lowest position that still has a row, or the next one to come if none has."""
        self.last = Position(0)
        """The highest position there is."""
        self.bytes_total = 0
        """Bytes of all messages ever appended, forgotten ones too."""
        self._chunks: list[Chunk] = []
        self._starts = array("Q")  # each chunk's first position, for bisection
        self._open = Columns()
        self._open_routes = 0
        self._open_bytes_before = 0
        self._sealed_rows = 0
        self._opened: OrderedDict[int, Columns] = OrderedDict()  # by first position

    def append(
        self,
        index: Index,
        routes: Sequence[RouteId],
        sizes: Sequence[int],
        left_out: Sequence[int] = (),
    ) -> Position:
        """Add one entry's messages, in order, and return the first one's position.

        `sizes` are the messages' bytes. `index` is above every index before it; a route is
        below 65 536. The places `left_out`, from 0 and rising, take no position; if all are,
        what comes back is the next message's. Costs a step for each run of one route.
        """
        first = Position(self.last + 1)
        if left_out:
            self._append_around(index, routes, sizes, left_out)
        elif routes.count(routes[0]) == len(routes):
            self._append_row(index, first, routes[0], sum(sizes))
        else:
            self._append_runs(index, first, routes, sizes)
        self.last = Position(self.last + len(routes) - len(left_out))
        if len(self._open.firsts) >= self._chunk_rows:
            self._seal()
        return first

    def _append_around(
        self, index: Index, routes: Sequence[RouteId], sizes: Sequence[int], left_out: Sequence[int]
    ) -> None:
        """Append the runs between places that are left out."""
        first, start, gap = self.last + 1, 0, 0
        for stop in (*left_out, len(routes)):
            if start < stop:
                self._append_runs(index, first, routes[start:stop], sizes[start:stop], gap)
                first, gap = first + stop - start, 0
            start, gap = stop + 1, gap + 1

    def _append_runs(
        self,
        index: Index,
        first: int,
        routes: Sequence[RouteId],
        sizes: Sequence[int],
        gap: int = 0,
    ) -> None:
        start = 0
        for route, run in groupby(routes):
            stop = start + sum(1 for _ in run)
            self._append_row(index, first + start, route, sum(sizes[start:stop]), gap)
            start, gap = stop, 0

    def _append_row(self, index: int, first: int, route: int, size: int, gap: int = 0) -> None:
        columns = self._open
        columns.indexes.append(index)
        columns.firsts.append(first)
        columns.routes.append(route)
        columns.sizes.append(size)
        columns.gaps.append(gap)
        self.bytes_total += size
        columns.through.append(self.bytes_total - self._open_bytes_before)
        self._open_routes |= 1 << route

    def _seal(self) -> None:
        chunk = seal(self._open, self.last, self._open_routes, self._open_bytes_before)
        self._chunks.append(chunk)
        self._starts.append(chunk.first)
        self._sealed_rows += chunk.rows
        self._open = Columns()
        self._open_routes = 0
        self._open_bytes_before = self.bytes_total

    def _columns_of(self, chunk: int) -> Columns:
        """Return a chunk's columns; the chunk behind the last sealed one is the open one."""
        if chunk == len(self._chunks):
            return self._open
        sealed = self._chunks[chunk]
        columns = self._opened.get(sealed.first)
        if columns is not None:
            self._opened.move_to_end(sealed.first)
            return columns
        columns = sealed.open()
        self._opened[sealed.first] = columns
        if len(self._opened) > _OPENED_MAX:
            self._opened.popitem(last=False)
        return columns

    def _chunk_of(self, position: int) -> int:
        """Return the number of the chunk that `position` is in."""
        if self._open.firsts and position >= self._open.firsts[0]:
            return len(self._chunks)
        return max(0, bisect_right(self._starts, position) - 1)

    def place(self, position: Position) -> Place:
        """Return where the message at `position` is; LookupError if no row (any more) knows."""
        run = self.run(position)
        return Place(run.index, run.offset + position - run.first, run.route)

    def run(self, position: Position) -> Run:
        """Return the row that the message at `position` is in; LookupError as `place`.

        It stays true: a row never changes once it is there.
        """
        if not self.first <= position <= self.last:
            raise LookupError(f"position {position} is not within {self.first}-{self.last}")
        chunk = self._chunk_of(position)
        columns = self._columns_of(chunk)
        row = bisect_right(columns.firsts, position) - 1
        return Run(
            Position(columns.firsts[row]),
            Position(self._row_end(chunk, columns, row)),
            Index(columns.indexes[row]),
            columns.offset(row),
            RouteId(columns.routes[row]),
        )

    def matches(self, first: int, last: int, routes: int) -> Iterator[tuple[int, int]]:
        """Yield the runs within first-last whose route is in `routes`, rising.

        `routes` is a bit mask by route id. Chunks without any of them are passed over by
        their summary. Nothing may be appended while this is being read.
        """
        first, last = max(first, self.first), min(last, self.last)
        if first > last:
            return
        for chunk in range(self._chunk_of(first), len(self._chunks) + 1):
            if not routes & self._routes_in(chunk):
                continue
            columns = self._columns_of(chunk)
            firsts = columns.firsts
            row = max(0, bisect_right(firsts, first) - 1)
            for place, route in enumerate(columns.routes[row:], row):
                if firsts[place] > last:
                    return
                if routes >> route & 1:
                    yield max(first, firsts[place]), min(last, self._row_end(chunk, columns, place))

    def last_match(self, first: int, last: int, routes: int) -> int | None:
        """Return the highest position within first-last whose route is in `routes`, or None."""
        first, last = max(first, self.first), min(last, self.last)
        if first > last:
            return None
        for chunk in range(self._chunk_of(last), self._chunk_of(first) - 1, -1):
            if not routes & self._routes_in(chunk):
                continue
            columns = self._columns_of(chunk)
            for row in range(bisect_right(columns.firsts, last) - 1, -1, -1):
                if routes >> columns.routes[row] & 1:
                    end = min(last, self._row_end(chunk, columns, row))
                    return end if end >= first else None
        return None

    def _routes_in(self, chunk: int) -> int:
        is_open = chunk == len(self._chunks)
        return self._open_routes if is_open else self._chunks[chunk].routes

    def _row_end(self, chunk: int, columns: Columns, row: int) -> int:
        if row + 1 < len(columns.firsts):
            return columns.firsts[row + 1] - 1
        return self._last_of(chunk)

    def _last_of(self, chunk: int) -> int:
        return self.last if chunk == len(self._chunks) else self._chunks[chunk].last

    def amount(self, first: int, last: int, routes: int) -> tuple[int, int]:
        """Return the messages within first-last whose route is in `routes`, and their bytes.

        Opens the two chunks at the ends; those between are counted by their summaries, in
        about a microsecond each. Bytes of a row that is cut are as `bytes_through` has them.
        """
        first, last = max(first, self.first), min(last, self.last)
        if first > last:
            return 0, 0
        low, high = self._chunk_of(first), self._chunk_of(last)
        count, size = self._columns_of(high).amount(first, last, self._last_of(high), routes)
        for chunk in self._chunks[low + 1 : high]:
            more, bytes_more = chunk.amount(routes)
            count += more
            size += bytes_more
        if low < high:
            end = self._last_of(low)
            more, bytes_more = self._columns_of(low).amount(first, end, end, routes)
            count += more
            size += bytes_more
        return count, size

    def last_through(self, index: Index) -> Position:
        """Return the last position in the entries up to `index`, inclusive.

        Rows of later entries than `index` must not be forgotten. Costs a search.
        """
        chunk = bisect_right(self._chunks, index, key=attrgetter("last_index"))
        columns = self._columns_of(chunk)
        row = bisect_right(columns.indexes, index)
        return Position(columns.firsts[row] - 1) if row < len(columns.firsts) else self.last

    def bytes_through(self, position: int) -> int:
        """Return the bytes of all messages up to `position`, from the very first one.

        Exact where a row ends; within a row its bytes count as spread evenly, rounded down.
        """
        if position >= self.last:
            return self.bytes_total
        if position < self.first:
            return self._bytes_before(0)
        chunk = self._chunk_of(position)
        columns = self._columns_of(chunk)
        row = bisect_right(columns.firsts, position) - 1
        before = columns.through[row] - columns.sizes[row]
        part = columns.part(row, position, self._last_of(chunk))
        return self._bytes_before(chunk) + before + part

    def _bytes_before(self, chunk: int) -> int:
        is_open = chunk == len(self._chunks)
        return self._open_bytes_before if is_open else self._chunks[chunk].bytes_before

    def forget(self, below: Index) -> None:
        """Drop the rows of entries below `below`, as far as whole sealed chunks are."""
        count = 0
        while count < len(self._chunks) and self._chunks[count].last_index < below:
            self._opened.pop(self._chunks[count].first, None)
            self._sealed_rows -= self._chunks[count].rows
            count += 1
        if count:
            self.first = Position(self._chunks[count - 1].last + 1)
            del self._chunks[:count]
            del self._starts[:count]

    @property
    def held(self) -> int:
        """How many rows are held, those that could be forgotten included."""
        return self._sealed_rows + len(self._open.firsts)

    # --- Captured and restored --------------------------------------------------------------------

    def sections(self) -> Iterator[bytes]:
        """Yield each sealed chunk, rising: bytes that were made when it was sealed."""
        return (chunk.section for chunk in self._chunks)

    def state(self) -> list[Any]:
        """Return what else there is of the rows, as values that CBOR can say."""
        return [self.first, *self._open.state()]

    def restore(self, head: Head, sections: Sequence[bytes]) -> None:
        """Become, from empty, the rows whose state `head` holds and whose chunks `sections` are.

        Raises MalformedError if they cannot be: this object is of no use then. Costs half a
        millisecond for each chunk, as every row is checked.
        """
        self.first, self.last = head.rows.first, head.accepted.tip
        self.bytes_total = head.accepted.bytes_total
        following, index, bytes_before = int(self.first), 0, 0
        for section in sections:
            chunk, size = read_chunk(section)
            if following == self.first > 1:
                bytes_before = chunk.bytes_before  # those of forgotten rows, which nobody knows
            expect(
                chunk.first == following,
                chunk.first_index > index,
                chunk.bytes_before == bytes_before,
                chunk.routes >> (len(head.routes) + 1) == 0,
                what="order of chunks",
            )
            following, index = chunk.last + 1, chunk.last_index
            bytes_before += size
            self._chunks.append(chunk)
            self._starts.append(chunk.first)
            self._sealed_rows += chunk.rows
        self._restore_open(head.rows)
        opened = self._open
        expect(
            following == (opened.firsts[0] if opened.firsts else self.last + 1),
            not opened.indexes or opened.indexes[0] > index,
            (opened.indexes[-1] if opened.indexes else index) <= head.applied.index,
            self._open_bytes_before == bytes_before or (not sections and self.first > 1),
            self._open_bytes_before >= 0,
            self._open_routes >> (len(head.routes) + 1) == 0,
            what="open rows",
        )

    def _restore_open(self, part: RowsPart) -> None:
        self._open.restore(part, self.last)
        self._open_bytes_before = self.bytes_total - sum(self._open.sizes)
        self._open_routes = sum(1 << route for route in set(self._open.routes))
