"""Records of letters, packed: what the ledger remembers of each, as sections of a capture.

Decides how records are held: as the bytes that a capture takes, `LEAF_MAX` of them in a leaf,
so that neither a capture nor a digest makes anything of those that did not change. Leaves to
``letters`` what becomes of a letter.

The leaves are those of a tree of one level (Bayer and McCreight, 1972): one that has shrunk is
joined with its neighbour.

Invariant: records rise in number. No leaf is empty or has more than `LEAF_MAX`, and two that
stand side by side have more than `JOINED_MAX` together. So there are few leaves, and which
there are depends on nothing but what was added and removed, in its order.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate, groupby, pairwise
from operator import sub
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from crowd.codec import pack, unpack
from crowd.command import WORDS_MAX
from crowd.errors import MalformedError
from crowd.ledger.head import expect
from crowd.message import ConsumerId, Position
from crowd.value import INTEGER_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LEAF_MAX: Final = 64
"""Records in a leaf: some 15 KB, made anew in microseconds when one of them goes."""

JOINED_MAX: Final = LEAF_MAX // 2
"""Records that two neighbours have together at most when they are joined."""

RECORDS_MAX: Final = 200_000
"""Letters of a cluster. With what ``letters`` keeps of each that is about 100 MB, measured by
tests/unit/ledger/test_letters.py as under 500 bytes a letter."""

RECORDS_BYTES_MAX: Final = 96 << 20
"""Their records together: so that words of the longest kind, 4 KiB, take no more than that."""

_FIXED_BYTES: Final = 136
"""A record without its words at most: eight integers of nine bytes, a hash, a reason, heads."""

_Amount = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
_Counted = Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
_ConsumerId = Annotated[ConsumerId, Meta(ge=1, le=INTEGER_MAX)]
_Position = Annotated[Position, Meta(ge=1, le=INTEGER_MAX)]


class Record(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """What never changes of a letter. Times are the log's, in microseconds since 1970.

    ``size`` and ``sha256`` are of the message's stored bytes. The rest is `Burial`'s.
    """

    number: _Counted
    consumer: _ConsumerId
    position: _Position
    reason: Literal["answer", "attempts", "age", "undeliverable", "operator", "window"]
    status: Annotated[int, Meta(ge=0, le=999)]
    words: Annotated[str, Meta(max_length=WORDS_MAX)]
    attempts: _Amount
    first_us: _Amount
    last_us: _Amount
    buried_us: _Amount
    size: _Counted
    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]


class _Leaf:
    """Some records: ``section`` is a CBOR array of them, ``ends`` where in it each one ends."""

    __slots__ = ("ends", "numbers", "section", "sha256")

    def __init__(self, numbers: Iterable[int], sizes: Iterable[int], body: bytes) -> None:
        """Make a leaf of records with these numbers, of so many bytes each, `body` in all."""
        self.numbers = array("Q", numbers)
        count = len(self.numbers)
        head = bytes((0x80 | count,)) if count < 24 else bytes((0x98, count))  # RFC 8949, 3.1
        self.ends = array("I", accumulate(sizes, initial=len(head)))
        self.section = head + body
        self.sha256 = hashlib.sha256(self.section).digest()

    @property
    def body(self) -> bytes:
        """All records' bytes."""
        return self.section[self.ends[0] :]

    def sizes(self) -> list[int]:
        """Return each record's bytes."""
        return list(map(sub, self.ends[1:], self.ends))

    def without(self, rows: Sequence[int]) -> _Leaf:
        """Return a leaf of all but the records in these rows, which rise."""
        edges = (-1, *rows, len(self.numbers))
        pieces = [self.section[self.ends[a + 1] : self.ends[b]] for a, b in pairwise(edges)]
        numbers, sizes = self.numbers[:], self.sizes()
        for row in reversed(rows):
            del numbers[row], sizes[row]
        return _Leaf(numbers, sizes, b"".join(pieces))

    def joined(self, other: _Leaf) -> _Leaf:
        """Return a leaf of this one's records and of the other's, which follow them."""
        sizes = [*self.sizes(), *other.sizes()]
        return _Leaf(self.numbers + other.numbers, sizes, self.body + other.body)


def _leaf_of(records: Sequence[Record]) -> _Leaf:
    packed = [pack(msgspec.structs.astuple(record)) for record in records]
    numbers = (record.number for record in records)
    return _Leaf(numbers, map(len, packed), b"".join(packed))


class Records:
    """All records, at most `count_max` of them, and `bytes_max` together. Not for threads."""

    def __init__(self, *, count_max: int = RECORDS_MAX, bytes_max: int = RECORDS_BYTES_MAX) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self.count = 0
        self._bytes = 0
        self._leaves: list[_Leaf] = []
        self._digest: bytes | None = None

    def has_room(self, count: int, words_bytes: int) -> bool:
        """Return whether `count` more lie within the bounds, which have such words together."""
        more = count * _FIXED_BYTES + words_bytes
        return self.count + count <= self._count_max and self._bytes + more <= self._bytes_max

    def add(self, records: Sequence[Record]) -> None:
        """Add records, whose numbers rise and are above all that ever were."""
        leaves, start = self._leaves, 0
        while start < len(records):
            room = LEAF_MAX - len(leaves[-1].numbers) if leaves else 0
            more = _leaf_of(records[start : start + (room or LEAF_MAX)])
            if room:
                leaves[-1] = leaves[-1].joined(more)
            else:
                leaves.append(more)
            start += room or LEAF_MAX
            self._bytes += len(more.body)
        self.count += len(records)
        self._digest = None

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove records, which are all there, by their rising numbers.

        Costs some ten microseconds for each leaf that holds any of them.
        """
        groups = [(place, list(group)) for place, group in groupby(numbers, self._place_of)]
        for place, group in reversed(groups):
            leaf = self._leaves[place]
            left = leaf.without([bisect_left(leaf.numbers, number) for number in group])
            self._bytes -= len(leaf.body) - len(left.body)
            self._leaves[place : place + 1] = [left] if left.numbers else []
            self._join(place)
        self.count -= len(numbers)
        self._digest = None

    def _join(self, place: int) -> None:
        """Join the leaf at `place` with its neighbours, as long as both together are small."""
        leaves = self._leaves
        for low in (place, place - 1):
            while 0 <= low < len(leaves) - 1:
                one, other = leaves[low], leaves[low + 1]
                if len(one.numbers) + len(other.numbers) > JOINED_MAX:
                    break
                leaves[low : low + 2] = [one.joined(other)]

    def _place_of(self, number: int) -> int:
        return max(0, bisect_right(self._leaves, number, key=lambda leaf: leaf.numbers[0]) - 1)

    def __contains__(self, number: int) -> bool:
        return self._find(number) is not None

    def _find(self, number: int) -> tuple[_Leaf, int] | None:
        if not self._leaves:
            return None
        leaf = self._leaves[self._place_of(number)]
        row = bisect_left(leaf.numbers, number)
        return (leaf, row) if row < len(leaf.numbers) and leaf.numbers[row] == number else None

    def get(self, number: int) -> Record | None:
        """Return a record by its number, or None if there is none. Costs some microseconds."""
        found = self._find(number)
        if found is None:
            return None
        leaf, row = found
        fields = unpack(leaf.section[leaf.ends[row] : leaf.ends[row + 1]])
        return Record(*fields)

    def after(self, number: int, limit: int) -> list[int]:
        """Return the next records' numbers above `number`, rising, at most `limit`.

        Costs what it returns, wherever among all of them that begins.
        """
        found: list[int] = []
        place = self._place_of(number)
        while place < len(self._leaves) and len(found) < limit:
            numbers = self._leaves[place].numbers
            row = bisect_right(numbers, number)
            found.extend(numbers[row : row + limit - len(found)])
            place += 1
        return found

    def numbers(self) -> Iterator[int]:
        """Yield every record's number, rising. Nothing may change meanwhile."""
        for leaf in self._leaves:
            yield from leaf.numbers

    # --- Captured and restored --------------------------------------------------------------------

    def sections(self) -> list[bytes]:
        """Return the leaves, as they were made when a record came or went."""
        return [leaf.section for leaf in self._leaves]

    def digest(self) -> bytes:
        """Return the SHA-256 of all sections' SHA-256."""
        if self._digest is None:
            self._digest = hashlib.sha256(b"".join(leaf.sha256 for leaf in self._leaves)).digest()
        return self._digest

    def restore(self, sections: Sequence[bytes]) -> Iterator[Record]:
        """Become, from empty, the records of `sections`, and yield each one meanwhile.

        Raises MalformedError if they cannot be: this object is of no use then. Costs some ten
        microseconds a record.
        """
        before = 0
        for section in sections:
            try:
                records = msgspec.convert(unpack(section), tuple[Record, ...])
            except msgspec.ValidationError as error:
                raise MalformedError(f"a section of letters: {error}") from error
            expect(0 < len(records) <= LEAF_MAX, what="section of letters")
            for record in records:
                expect(before < record.number, what="letters' numbers")
                before = record.number
            leaf = _leaf_of(records)
            previous = len(self._leaves[-1].numbers) if self._leaves else LEAF_MAX
            expect(leaf.section == section, what="byte form of letters")
            expect(previous + len(records) > JOINED_MAX, what="sections of letters")
            self._leaves.append(leaf)
            self._bytes += len(leaf.body)
            self.count += len(records)
            yield from records
        expect(self.count <= self._count_max, self._bytes <= self._bytes_max, what="letters")
