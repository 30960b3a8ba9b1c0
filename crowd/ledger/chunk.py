"""Chunks of rows: columns in the open, and sealed ones as bytes with a summary.

Decides how the columns of some thousand rows become bytes once, when they are sealed, and
stay these bytes in memory, in a checkpoint and on the way to a peer. Leaves to ``rows`` when
a chunk is sealed and what is looked for in it.

A section, drawn in docs/reference/ledger.md, is a CBOR array of the summary's fields and,
last, the columns: differences in little-endian order, compressed.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate, chain, compress, pairwise
from operator import sub
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from crowd.codec import pack, unpack
from crowd.command import MESSAGES_MAX
from crowd.errors import MalformedError
from crowd.ledger.head import ROUTES_MAX, expect
from crowd.value import INTEGER_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crowd.ledger.head import RowsPart

CHUNK_ROWS: Final = 4_096
"""Rows in a chunk. Sealing or opening one takes under a millisecond, well inside a tick of
5 ms, and 40 million rows are some ten thousand summaries, passed over in a millisecond."""

ROWS_MAX: Final = CHUNK_ROWS + MESSAGES_MAX
"""Rows that a chunk can have: an entry's rows all go where its first one goes."""

_LEVEL: Final = 1  # the columns are nearly constant differences: more effort gains little

_FEW: Final = 4
"""Routes up to which passing over all rows once for each is quicker than a loop over them."""

_ROW_BYTES: Final = 8 + 2 + 2 + 4 + 2
"""A sealed row before it is compressed: step of the index, messages, route, bytes, gap."""

_Amount = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
_Counted = Annotated[int, Meta(ge=1, le=INTEGER_MAX)]


class Columns:
    """Rows in the open. ``sizes`` are the bytes of each row's messages together.

    ``gaps`` count the messages of the entry that stand before a row and took no position: those
    behind the row before it in that entry. ``through`` sums them up: the bytes of all rows up to each one, it included. It is made
    of the others.
    """

    __slots__ = ("firsts", "gaps", "indexes", "routes", "sizes", "through")

    def __init__(self) -> None:
        self.indexes = array("Q")
        self.firsts = array("Q")
        self.routes = array("H")
        self.sizes = array("I")
        self.gaps = array("H")
        self.through = array("Q")

    def offset(self, row: int) -> int:
        """Return the place in its batch, from 0, of this row's first message."""
        start = bisect_left(self.indexes, self.indexes[row])
        return self.firsts[row] - self.firsts[start] + sum(self.gaps[start : row + 1])

    def amount(self, first: int, last: int, end: int, routes: int) -> tuple[int, int]:
        """Return the messages within first-last whose route is in `routes`, and their bytes.

        The rows, of which there are some, end at `end`, and `last` is no higher. What of
        first-last lies below them counts for nothing. A row that is cut counts as `part` says.
        """
        firsts = self.firsts
        first = max(first, firsts[0])
        start, stop = bisect_right(firsts, first) - 1, bisect_right(firsts, last)
        held = self.routes[start:stop]
        wanted = {route for route in set(held) if routes >> route & 1}
        chosen = list(map(wanted.__contains__, held))
        starts = firsts[start:stop]
        starts[0] = first
        count = sum(compress(map(sub, chain(starts[1:], (last + 1,)), starts), chosen))
        size = sum(compress(self.sizes[start:stop], chosen))
        if chosen[0]:
            size -= self.part(start, first - 1, end)
        if chosen[-1]:
            size -= self.sizes[stop - 1] - self.part(stop - 1, last, end)
        return count, size

    def part(self, row: int, position: int, end: int) -> int:
        """Return the bytes of this row's messages up to `position`, which is in it or before it.

        They count as spread evenly, rounded down: so parts of a row add up to the whole.
        """
        start = self.firsts[row]
        behind = self.firsts[row + 1] if row + 1 < len(self.firsts) else end + 1
        return self.sizes[row] * (position - start + 1) // (behind - start)

    def state(self) -> list[bytes]:
        """Return the columns as little-endian integers of 8, 8, 2, 4 and 2 bytes."""
        columns = (self.indexes, self.firsts, self.routes, self.sizes, self.gaps)
        return [_swapped(column).tobytes() for column in columns]

    def restore(self, part: RowsPart, last: int) -> None:
        """Become, from empty, the columns whose state `part` holds; their rows end at `last`.

        Raises MalformedError if they cannot be: this object is of no use then.
        """
        given = (part.indexes, part.firsts, part.routes, part.sizes, part.gaps)
        columns = (self.indexes, self.firsts, self.routes, self.sizes, self.gaps)
        for column, data in zip(columns, given, strict=True):
            expect(len(data) % column.itemsize == 0, what="open rows")
            column.frombytes(data)
            if sys.byteorder == "big":
                column.byteswap()
        self.through.extend(accumulate(self.sizes))
        rows = len(self.firsts)
        expect(all(len(column) == rows for column in columns), rows < ROWS_MAX, what="open rows")
        if rows:
            counts = [b - a for a, b in pairwise((*self.firsts, last + 1))]
            expect(
                0 < min(counts) <= max(counts) <= MESSAGES_MAX,
                min(self.routes) > 0,
                all(a <= b for a, b in pairwise(self.indexes)),
                _fit(self.indexes, counts, self.gaps),
                what="open rows",
            )


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A sealed chunk: what a search must know of it, and the section that it is.

    Positions are ``first``-``last``, entries ``first_index``-``last_index``, ``routes`` a bit
    mask; ``columns_at`` is where in the section the compressed columns begin. ``counts`` are
    the messages of each route in the mask, rising, and ``sizes`` their bytes, so that a new
    consumer's are counted without a look at every row: 12 bytes for each route of a chunk.
    """

    first: int
    last: int
    routes: int
    first_index: int
    last_index: int
    bytes_before: int
    rows: int
    section: bytes
    columns_at: int
    counts: array[int]
    sizes: array[int]

    def amount(self, routes: int) -> tuple[int, int]:
        """Return the messages whose route is in `routes`, a bit mask, and their bytes."""
        if not self.routes & ~routes:
            return self.last - self.first + 1, sum(self.sizes)
        left, count, size = self.routes & routes, 0, 0
        while left:
            bit = left & -left
            place = (self.routes & (bit - 1)).bit_count()
            count += self.counts[place]
            size += self.sizes[place]
            left ^= bit
        return count, size

    def open(self) -> Columns:
        """Return the columns that were sealed."""
        steps, counts, routes, sizes, gaps = _inflated(self.section, self.columns_at, self.rows)
        columns = Columns()
        columns.routes, columns.sizes, columns.gaps = routes, sizes, gaps
        columns.indexes = array("Q", accumulate(steps[1:], initial=self.first_index))
        columns.firsts = array("Q", accumulate(counts[:-1], initial=self.first))
        columns.through = array("Q", accumulate(sizes))
        return columns


class _Section(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """A chunk's section. ``routes`` is the mask as big-endian bytes."""

    first: _Counted
    last: _Counted
    routes: Annotated[bytes, Meta(max_length=ROUTES_MAX // 8 + 1)]
    first_index: _Counted
    last_index: _Counted
    bytes_before: _Amount
    rows: Annotated[int, Meta(ge=1, le=ROWS_MAX)]
    columns: bytes


def seal(columns: Columns, last: int, routes: int, bytes_before: int) -> Chunk:
    """Return the chunk of `columns`, which are not empty and end at position `last`."""
    indexes, firsts = columns.indexes, columns.firsts
    steps = array("Q", (0, *map(sub, indexes[1:], indexes)))
    counts = array("H", (*map(sub, firsts[1:], firsts), last + 1 - firsts[-1]))
    packed = zlib.compress(
        b"".join(
            _swapped(column).tobytes()
            for column in (steps, counts, columns.routes, columns.sizes, columns.gaps)
        ),
        _LEVEL,
    )
    mask = routes.to_bytes((routes.bit_length() + 7) // 8, "big")
    section = pack(
        [firsts[0], last, mask, indexes[0], indexes[-1], bytes_before, len(firsts), packed]
    )
    return Chunk(
        firsts[0], last, routes, indexes[0], indexes[-1], bytes_before, len(firsts),
        section, len(section) - len(packed), *_totals(counts, columns.routes, columns.sizes),
    )  # fmt: skip


def read_chunk(section: bytes) -> tuple[Chunk, int]:
    """Return the chunk that `section` is, whoever it is from, and its messages' bytes.

    Raises MalformedError if it is none. Takes about half a millisecond, as every row is read.
    """
    try:
        head = msgspec.convert(unpack(section), _Section)
    except msgspec.ValidationError as error:
        raise MalformedError(f"a chunk of rows: {error}") from error
    columns_at = len(section) - len(head.columns)
    steps, counts, routes, sizes, gaps = _inflated(section, columns_at, head.rows)
    mask = int.from_bytes(head.routes, "big")
    expect(
        steps[0] == 0,
        sum(steps) == head.last_index - head.first_index,
        min(counts) > 0,
        sum(counts) == head.last - head.first + 1,
        min(routes) > 0,
        sum(1 << route for route in set(routes)) == mask,
        _fit(accumulate(steps), counts, gaps),
        what="chunk of rows",
    )
    chunk = Chunk(
        head.first, head.last, mask, head.first_index, head.last_index, head.bytes_before,
        head.rows, section, columns_at, *_totals(counts, routes, sizes),
    )  # fmt: skip
    return chunk, sum(sizes)


def _fit(indexes: Iterable[int], counts: Sequence[int], gaps: array[int]) -> bool:
    """Return whether no entry has more places than a batch can, those left out among them."""
    if not any(gaps):
        return True  # an entry's messages are bounded by whoever counted them
    places: dict[int, int] = {}
    for index, count, gap in zip(indexes, counts, gaps, strict=True):
        places[index] = places.get(index, 0) + count + gap
    return max(places.values()) <= MESSAGES_MAX


def _totals(
    counts: array[int], routes: array[int], sizes: array[int]
) -> tuple[array[int], array[int]]:
    """Return the messages of each route, rising, and their bytes, of rows given by columns."""
    there = sorted(set(routes))
    chosen = [list(map(route.__eq__, routes)) for route in there] if len(there) <= _FEW else []
    if chosen:  # without a loop of ours over the rows
        return (
            array("I", (sum(compress(counts, rows)) for rows in chosen)),
            array("Q", (sum(compress(sizes, rows)) for rows in chosen)),
        )
    messages, held = dict.fromkeys(there, 0), dict.fromkeys(there, 0)
    for route, count, size in zip(routes, counts, sizes, strict=True):
        messages[route] += count
        held[route] += size
    return array("I", messages.values()), array("Q", held.values())


def _inflated(
    section: bytes, columns_at: int, rows: int
) -> tuple[array[int], array[int], array[int], array[int], array[int]]:
    """Return steps, counts, routes, sizes and gaps. Inflates no more than the rows can take."""
    whole = rows * _ROW_BYTES
    inflater = zlib.decompressobj()
    try:
        packed = inflater.decompress(memoryview(section)[columns_at:], whole + 1)
    except zlib.error as error:
        raise MalformedError(f"a chunk of rows: {error}") from error
    expect(len(packed) == whole, inflater.eof, not inflater.unused_data, what="chunk of rows")
    columns = array("Q"), array("H"), array("H"), array("I"), array("H")
    start = 0
    for column in columns:
        stop = start + rows * column.itemsize
        column.frombytes(packed[start:stop])
        if sys.byteorder == "big":
            column.byteswap()
        start = stop
    return columns


def _swapped(column: array[int]) -> array[int]:
    """Return `column`, or on a big-endian machine a copy, whose bytes are little-endian."""
    if sys.byteorder == "little":
        return column
    swapped = array(column.typecode, column)
    swapped.byteswap()
    return swapped
