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
from collections import Counter
from itertools import accumulate, pairwise
from operator import sub
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from crowd.codec import pack, unpack
from crowd.command import INTEGER_MAX, MESSAGES_MAX
from crowd.errors import MalformedError
from crowd.ledger.head import ROUTES_MAX, expect

if TYPE_CHECKING:
    from crowd.ledger.head import RowsPart

CHUNK_ROWS: Final = 4_096
"""Rows in a chunk. Sealing or opening one takes under a millisecond, well inside a tick of
5 ms, and 40 million rows are some ten thousand summaries, passed over in a millisecond."""

ROWS_MAX: Final = CHUNK_ROWS + MESSAGES_MAX
"""Rows that a chunk can have: an entry's rows all go where its first one goes."""

_LEVEL: Final = 1  # the columns are nearly constant differences: more effort gains little

_ROW_BYTES: Final = 8 + 2 + 2 + 4
"""A sealed row before it is compressed: step of the index, messages, route, bytes."""

_Amount = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
_Counted = Annotated[int, Meta(ge=1, le=INTEGER_MAX)]


class Columns:
    """Rows in the open. ``sizes`` are the bytes of each row's messages together."""

    __slots__ = ("firsts", "indexes", "routes", "sizes")

    def __init__(self) -> None:
        self.indexes = array("Q")
        self.firsts = array("Q")
        self.routes = array("H")
        self.sizes = array("I")

    def state(self) -> list[bytes]:
        """Return the columns as little-endian integers of 8, 8, 2 and 4 bytes."""
        columns = (self.indexes, self.firsts, self.routes, self.sizes)
        return [_swapped(column).tobytes() for column in columns]

    def restore(self, part: RowsPart, last: int) -> None:
        """Become, from empty, the columns whose state `part` holds; their rows end at `last`.

        Raises MalformedError if they cannot be: this object is of no use then.
        """
        given = (part.indexes, part.firsts, part.routes, part.sizes)
        columns = (self.indexes, self.firsts, self.routes, self.sizes)
        for column, data in zip(columns, given, strict=True):
            expect(len(data) % column.itemsize == 0, what="open rows")
            column.frombytes(data)
            if sys.byteorder == "big":
                column.byteswap()
        rows = len(self.firsts)
        expect(all(len(column) == rows for column in columns), rows < ROWS_MAX, what="open rows")
        if rows:
            counts = [b - a for a, b in pairwise((*self.firsts, last + 1))]
            expect(
                0 < min(counts) <= max(counts) <= MESSAGES_MAX,
                min(self.routes) > 0,
                all(a <= b for a, b in pairwise(self.indexes)),
                what="open rows",
            )


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A sealed chunk: what a search must know of it, and the section that it is.

    Positions are ``first``-``last``, entries ``first_index``-``last_index``, ``routes`` a bit
    mask; ``columns_at`` is where in the section the compressed columns begin. ``counts`` are
    the messages of each route in the mask, rising, so that a new consumer's are counted
    without a look at every row: 4 bytes for each route that a chunk has.
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

    def count(self, routes: int) -> int:
        """Return how many of the messages have a route that is in `routes`, a bit mask."""
        if not self.routes & ~routes:
            return self.last - self.first + 1
        left, count = self.routes & routes, 0
        while left:
            bit = left & -left
            count += self.counts[(self.routes & (bit - 1)).bit_count()]
            left ^= bit
        return count

    def open(self) -> Columns:
        """Return the columns that were sealed."""
        steps, counts, routes, sizes = _inflated(self.section, self.columns_at, self.rows)
        columns = Columns()
        columns.routes, columns.sizes = routes, sizes
        columns.indexes = array("Q", accumulate(steps[1:], initial=self.first_index))
        columns.firsts = array("Q", accumulate(counts[:-1], initial=self.first))
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
            _swapped(column).tobytes() for column in (steps, counts, columns.routes, columns.sizes)
        ),
        _LEVEL,
    )
    mask = routes.to_bytes((routes.bit_length() + 7) // 8, "big")
    section = pack(
        [firsts[0], last, mask, indexes[0], indexes[-1], bytes_before, len(firsts), packed]
    )
    return Chunk(
        firsts[0], last, routes, indexes[0], indexes[-1], bytes_before, len(firsts),
        section, len(section) - len(packed), _counted(counts, columns.routes),
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
    steps, counts, routes, sizes = _inflated(section, columns_at, head.rows)
    mask = int.from_bytes(head.routes, "big")
    expect(
        steps[0] == 0,
        sum(steps) == head.last_index - head.first_index,
        min(counts) > 0,
        sum(counts) == head.last - head.first + 1,
        min(routes) > 0,
        sum(1 << route for route in set(routes)) == mask,
        what="chunk of rows",
    )
    chunk = Chunk(
        head.first, head.last, mask, head.first_index, head.last_index, head.bytes_before,
        head.rows, section, columns_at, _counted(counts, routes),
    )  # fmt: skip
    return chunk, sum(sizes)


def _counted(counts: array[int], routes: array[int]) -> array[int]:
    """Return the messages of each route, rising, of rows given by their counts and routes."""
    if sum(counts) == len(counts):  # entries of one message: counted without a loop of ours
        totals = Counter(routes)
    else:
        totals = Counter()
        for route, count in zip(routes, counts, strict=True):
            totals[route] += count
    return array("I", (totals[route] for route in sorted(totals)))


def _inflated(
    section: bytes, columns_at: int, rows: int
) -> tuple[array[int], array[int], array[int], array[int]]:
    """Return steps, counts, routes and sizes. Inflates no more than the rows can take."""
    whole = rows * _ROW_BYTES
    inflater = zlib.decompressobj()
    try:
        packed = inflater.decompress(memoryview(section)[columns_at:], whole + 1)
    except zlib.error as error:
        raise MalformedError(f"a chunk of rows: {error}") from error
    expect(len(packed) == whole, inflater.eof, not inflater.unused_data, what="chunk of rows")
    columns = array("Q"), array("H"), array("H"), array("I")
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
