"""Where among the remembered idempotency keys one stands: found in microseconds, or not there.

Decides how a key is looked up among half a million of them, in segments of thousands, without
a search in each. Nothing of it is state: it is made anew from the segments, differs from
process to process, and tells only where to look. Leaves the segments to ``keys``.

Every key is in one of `PARTS` strings of eight bytes for each: four that tell it from the
others there, the number of its segment, and its row. Which part, and which four bytes, comes
from the interpreter's own hash of bytes, which is keyed anew in every process (SipHash): nobody
can choose keys that share a part.

Invariant: a part has its keys in the order in which they came. So the oldest segment's stand
before all others, and dropping it cuts something off the front of each part.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING, Final

from crowd.idempotency import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD_BYTES: Final = 2 * DIGEST_BYTES + 8
"""A remembered key: its digest, its request's, and a position."""

PARTS: Final = 4_096
"""Half a million keys are 122 in a part: a kilobyte, searched by `bytearray.find`."""

_PART_BITS: Final = 12
_TELLING: Final = 0xFFFF_FFFF
_ENTRY: Final = Struct("<IHH")  # what tells it, its segment's number, its row
_PLACE: Final = Struct("<HH")
_AHEAD_OF_PLACE: Final = 4
_KEYS: Final = Struct(f"{DIGEST_BYTES}s{RECORD_BYTES - DIGEST_BYTES}x")

NUMBERS: Final = 1 << 16
"""Segments' numbers, counted on from 0 and over again: there are never so many at once."""


class KeyIndex:
    """All keys by their digests. ``segments`` are the records of each segment, by number."""

    def __init__(self) -> None:
        self.segments: dict[int, bytes | bytearray] = {}
        self._parts: list[bytearray] = []

    def add(self, key: bytes, segment: int, row: int) -> None:
        """Add the key of this row, which is the newest of all."""
        if not self._parts:
            self._make_parts()
        hashed = hash(key)
        part = self._parts[hashed % PARTS]
        part += _ENTRY.pack(hashed >> _PART_BITS & _TELLING, segment, row)

    def add_all(self, segment: int, records: bytes) -> None:
        """Add a segment, whose keys are the newest of all. Costs about a microsecond a key."""
        self.segments[segment] = records
        if not self._parts:
            self._make_parts()
        parts, entry = self._parts, _ENTRY.pack
        for row, hashed in enumerate(map(hash, keys_of(records))):
            part = parts[hashed % PARTS]
            part += entry(hashed >> _PART_BITS & _TELLING, segment, row)

    def _make_parts(self) -> None:
        self._parts = [bytearray() for _ in range(PARTS)]

    def find(self, key: bytes) -> bytes | bytearray | None:
        """Return the record of `key`, or None if it is not known."""
        if not self._parts:
            return None
        hashed = hash(key)
        part = self._parts[hashed % PARTS]
        telling = (hashed >> _PART_BITS & _TELLING).to_bytes(_AHEAD_OF_PLACE, "little")
        at = part.find(telling)
        while at >= 0:
            if at % _ENTRY.size == 0:
                segment, row = _PLACE.unpack_from(part, at + _AHEAD_OF_PLACE)
                records, start = self.segments[segment], row * RECORD_BYTES
                if records[start : start + DIGEST_BYTES] == key:
                    return records[start : start + RECORD_BYTES]
            at = part.find(telling, at + 1)
        return None

    def drop(self, segment: int) -> None:
        """Drop the oldest segment. Costs less than a microsecond a key."""
        parts = self._parts
        places = map((PARTS - 1).__and__, map(hash, keys_of(self.segments.pop(segment))))
        for place, count in Counter(places).items():
            del parts[place][: count * _ENTRY.size]


def keys_of(records: bytes | bytearray) -> Iterator[bytes]:
    """Yield each record's key."""
    return chain.from_iterable(_KEYS.iter_unpack(records))
