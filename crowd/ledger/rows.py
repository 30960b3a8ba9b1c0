"""Where each accepted message stands: position to entry, place in the batch, and route.

Decides how that map is held in memory. A row is a run of messages of one route within one
entry; rows tile the positions without gaps, so a row needs no end. Rows are gathered in
columns; `CHUNK_ROWS` of them are then sealed: written as differences and compressed, with
a summary (span, routes as a bit mask, bytes) that lets a search pass over the whole chunk.
Leaves to ``ledger`` what is accepted, and when the log no longer holds an entry.

Memory: below 3 bytes a row for entries of one message, measured by
tests/unit/ledger/test_rows.py, and about 1 MiB for what was looked at last.

Invariant: rows rise in position and never fall in index; the last row ends at `last`; an
entry's rows are all in one chunk.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from itertools import accumulate, groupby
from operator import sub
from typing import TYPE_CHECKING, Final

import msgspec

from crowd.command import Index
from crowd.message import Position, RouteId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK_ROWS: Final = 4_096
"""Rows in a chunk. Sealing or opening one takes under a millisecond, well inside a tick of
5 ms, and 40 million rows are some ten thousand summaries, passed over in a millisecond."""

_OPENED_MAX: Final = 8
"""Chunks kept open after a look: 22 bytes a row, so under 1 MiB together. Consumers look
near their watermarks and near the tip, a few places at a time."""

_LEVEL: Final = 1  # the columns are nearly constant differences: more effort gains little


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a message is: its entry's index, its offset in that batch (from 0), its route."""

    index: Index
    offset: int
    route: RouteId


class _Summary(msgspec.Struct, frozen=True, gc=False):
    """A sealed chunk: what a search must know of it, and its columns compressed."""

    first: int
    last: int
    routes: int
    first_index: int
    last_index: int
    bytes_before: int
    rows: int
    columns: bytes


class _Columns:
    """Rows in the open. ``sizes`` are the bytes of each row's messages together."""

    __slots__ = ("firsts", "indexes", "routes", "sizes")

    def __init__(self) -> None:
        self.indexes = array("Q")
        self.firsts = array("Q")
        self.routes = array("H")
        self.sizes = array("I")


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
        self._summaries: list[_Summary] = []
        self._starts = array("Q")  # each summary's first position, for bisection
        self._open = _Columns()
        self._open_routes = 0
        self._open_bytes_before = 0
        self._opened: OrderedDict[int, _Columns] = OrderedDict()  # by first position

    def append(self, index: Index, routes: Sequence[RouteId], sizes: Sequence[int]) -> Position:
        """Add one entry's messages, in order, and return the first one's position.

        `sizes` are the messages' bytes. `index` is above every index before it; a route is
        below 65 536. Costs a step for each run of one route.
        """
        first = Position(self.last + 1)
        if routes.count(routes[0]) == len(routes):
            self._append_row(index, first, routes[0], sum(sizes))
        else:
            start = 0
            for route, run in groupby(routes):
                stop = start + sum(1 for _ in run)
                self._append_row(index, first + start, route, sum(sizes[start:stop]))
                start = stop
        self.last = Position(self.last + len(routes))
        if len(self._open.firsts) >= self._chunk_rows:
            self._seal()
        return first

    def _append_row(self, index: int, first: int, route: int, size: int) -> None:
        columns = self._open
        columns.indexes.append(index)
        columns.firsts.append(first)
        columns.routes.append(route)
        columns.sizes.append(size)
        self._open_routes |= 1 << route
        self.bytes_total += size

    def _seal(self) -> None:
        columns = self._open
        indexes, firsts = columns.indexes, columns.firsts
        steps = array("Q", (0, *map(sub, indexes[1:], indexes)))
        counts = array("H", (*map(sub, firsts[1:], firsts), self.last + 1 - firsts[-1]))
        packed = b"".join(
            column.tobytes() for column in (steps, counts, columns.routes, columns.sizes)
        )
        self._summaries.append(
            _Summary(
                firsts[0], self.last, self._open_routes, indexes[0], indexes[-1],
                self._open_bytes_before, len(firsts), zlib.compress(packed, _LEVEL),
            )
        )  # fmt: skip
        self._starts.append(firsts[0])
        self._open = _Columns()
        self._open_routes = 0
        self._open_bytes_before = self.bytes_total

    def _columns_of(self, chunk: int) -> _Columns:
        """Return a chunk's columns; the chunk behind the last sealed one is the open one."""
        if chunk == len(self._summaries):
            return self._open
        summary = self._summaries[chunk]
        columns = self._opened.get(summary.first)
        if columns is not None:
            self._opened.move_to_end(summary.first)
            return columns
        columns = _unpack(summary)
        self._opened[summary.first] = columns
        if len(self._opened) > _OPENED_MAX:
            self._opened.popitem(last=False)
        return columns

    def _chunk_of(self, position: int) -> int:
        """Return the number of the chunk that `position` is in."""
        if self._open.firsts and position >= self._open.firsts[0]:
            return len(self._summaries)
        return max(0, bisect_right(self._starts, position) - 1)

    def place(self, position: Position) -> Place:
        """Return where the message at `position` is; LookupError if no row (any more) knows."""
        if not self.first <= position <= self.last:
            raise LookupError(f"position {position} is not within {self.first}-{self.last}")
        columns = self._columns_of(self._chunk_of(position))
        row = bisect_right(columns.firsts, position) - 1
        index = columns.indexes[row]
        start = columns.firsts[bisect_left(columns.indexes, index)]
        return Place(Index(index), position - start, RouteId(columns.routes[row]))

    def matches(self, first: int, last: int, routes: int) -> Iterator[tuple[int, int]]:
        """Yield the runs within first-last whose route is in `routes`, rising.

        `routes` is a bit mask by route id. Chunks without any of them are passed over by
        their summary. Nothing may be appended while this is being read.
        """
        first, last = max(first, self.first), min(last, self.last)
        if first > last:
            return
        for chunk in range(self._chunk_of(first), len(self._summaries) + 1):
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
        is_open = chunk == len(self._summaries)
        return self._open_routes if is_open else self._summaries[chunk].routes

    def _row_end(self, chunk: int, columns: _Columns, row: int) -> int:
        if row + 1 < len(columns.firsts):
            return columns.firsts[row + 1] - 1
        return self.last if chunk == len(self._summaries) else self._summaries[chunk].last

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
        start, end = columns.firsts[row], self._row_end(chunk, columns, row)
        part = columns.sizes[row] * (position - start + 1) // (end - start + 1)
        return self._bytes_before(chunk) + sum(columns.sizes[:row]) + part

    def _bytes_before(self, chunk: int) -> int:
        is_open = chunk == len(self._summaries)
        return self._open_bytes_before if is_open else self._summaries[chunk].bytes_before

    def forget(self, below: Index) -> None:
        """Drop the rows of entries below `below`, as far as whole sealed chunks are."""
        count = 0
        while count < len(self._summaries) and self._summaries[count].last_index < below:
            self._opened.pop(self._summaries[count].first, None)
            count += 1
        if count:
            self.first = Position(self._summaries[count - 1].last + 1)
            del self._summaries[:count]
            del self._starts[:count]


def _unpack(summary: _Summary) -> _Columns:
    """Return the columns that `Rows._seal` packed."""
    packed = memoryview(zlib.decompress(summary.columns))
    steps, counts = array("Q"), array("H")
    columns = _Columns()
    start = 0
    for column in (steps, counts, columns.routes, columns.sizes):
        stop = start + summary.rows * column.itemsize
        column.frombytes(packed[start:stop])
        start = stop
    columns.indexes = array("Q", accumulate(steps[1:], initial=summary.first_index))
    columns.firsts = array("Q", accumulate(counts[:-1], initial=summary.first))
    return columns
