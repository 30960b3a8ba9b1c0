"""A set of positions, kept as ranges: what a consumer has settled above its watermark.

Decides how such a set is held: a sorted array of boundaries, 16 bytes a range, where a
range's first position and the position behind its last alternate. A settled set is dense
(positions have no gaps), so it is a few ranges however many positions it holds.

Invariant: the boundaries rise strictly and are even in number. So no range is empty, no two
touch, and equal sets are equal arrays.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from itertools import chain
from operator import lt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class RangeSet:
    """A set of integers from 0 to 2**63 - 1. All ranges that it takes and gives are inclusive."""

    __slots__ = ("_bounds",)

    def __init__(self) -> None:
        self._bounds = array("Q")

    def __contains__(self, value: int) -> bool:
        return bisect_right(self._bounds, value) % 2 == 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield each range, rising. The set must not change meanwhile."""
        bounds = self._bounds
        for place in range(0, len(bounds), 2):
            yield bounds[place], bounds[place + 1] - 1

    def __len__(self) -> int:
        """Return the number of ranges, not of values."""
        return len(self._bounds) // 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._bounds == other._bounds

    __hash__ = None  # type: ignore[assignment]  # mutable; mypy types object.__hash__ as a method

    def __repr__(self) -> str:
        return f"RangeSet({', '.join(f'{first}-{last}' for first, last in self)})"

    def add(self, first: int, last: int) -> None:
        """Add every value of the range. Costs a search, and moving what lies above."""
        assert 0 <= first <= last, (first, last)
        bounds = self._bounds
        left = bisect_left(bounds, first)
        right = bisect_right(bounds, last + 1)
        # An even place is outside every range, so a boundary begins or ends there; at an odd
        # place the range that is already there goes on and swallows it.
        new = array("Q")
        if left % 2 == 0:
            new.append(first)
        if right % 2 == 0:
            new.append(last + 1)
        bounds[left:right] = new

    def discard_through(self, last: int) -> None:
        """Remove every value up to and including `last`."""
        bounds = self._bounds
        place = bisect_right(bounds, last + 1)
        if place % 2 == 0:
            del bounds[:place]
        else:
            bounds[:place] = array("Q", (last + 1,))

    def discard(self, first: int, last: int) -> None:
        """Remove every value of the range. Costs a search, and moving what lies above."""
        assert 0 <= first <= last, (first, last)
        bounds = self._bounds
        left = bisect_left(bounds, first)
        right = bisect_right(bounds, last + 1)
        # At an odd place a range is cut: what is left of it ends, or begins, there.
        new = array("Q")
        if left % 2:
            new.append(first)
        if right % 2:
            new.append(last + 1)
        bounds[left:right] = new

    def unite(self, other: RangeSet) -> None:
        """Add every value of `other`, which has none in common. Costs a sort of two runs."""
        new = array("Q")
        for bound in sorted(chain(self._bounds, other._bounds)):
            if new and new[-1] == bound:  # where two ranges touch, none begins and none ends
                new.pop()
            else:
                new.append(bound)
        self._bounds = new

    def values(self, after: int, limit: int) -> list[int]:
        """Return the lowest values above `after`, rising, at most `limit`."""
        bounds = self._bounds
        place = bisect_right(bounds, after + 1)
        found = list(range(after + 1, min(bounds[place], after + 1 + limit))) if place % 2 else []
        for start in range(place + place % 2, len(bounds), 2):
            if len(found) >= limit:
                break
            first = bounds[start]
            found.extend(range(first, min(bounds[start + 1], first + limit - len(found))))
        return found

    def count(self) -> int:
        """Return the number of values. Costs a step for each range."""
        return sum(self._bounds[1::2]) - sum(self._bounds[::2])

    def meets(self, first: int, last: int) -> bool:
        """Return whether any value of the range is in the set."""
        place = bisect_right(self._bounds, first)
        return place % 2 == 1 or place < bisect_right(self._bounds, last)

    def end_of_range(self, value: int) -> int | None:
        """Return the last value of the range that holds `value`, or None if none does."""
        place = bisect_right(self._bounds, value)
        return self._bounds[place] - 1 if place % 2 else None

    def next_start(self, value: int) -> int | None:
        """Return the first value of the lowest range that begins above `value`, or None."""
        place = bisect_right(self._bounds, value)
        place += place % 2
        return self._bounds[place] if place < len(self._bounds) else None

    def previous_end(self, value: int) -> int | None:
        """Return the last value of the highest range that ends below `value`, or None."""
        place = bisect_left(self._bounds, value + 1)
        place -= place % 2
        return self._bounds[place - 1] - 1 if place else None

    def gaps(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges within first-last that are not in the set, rising.

        The set must not change meanwhile.
        """
        bounds = self._bounds
        place = bisect_right(bounds, first)
        if place % 2:
            first = bounds[place]
            place += 1
        for following in range(place, len(bounds), 2):
            start = bounds[following]
            if start > last:
                break
            yield first, start - 1
            first = bounds[following + 1]
        if first <= last:
            yield first, last

    def to_bytes(self) -> bytes:
        """Return the boundaries as big-endian integers of eight bytes: equal for equal sets."""
        if sys.byteorder == "big":
            return self._bounds.tobytes()
        swapped = array("Q", self._bounds)
        swapped.byteswap()
        return swapped.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> RangeSet:
        """Return the set whose `to_bytes` is `data`; raise ValueError if none's is."""
        ranges = cls()
        bounds = ranges._bounds
        bounds.frombytes(data)
        if sys.byteorder == "little":
            bounds.byteswap()
        if len(bounds) % 2 or not all(map(lt, bounds, bounds[1:])):
            raise ValueError("no rising ranges")
        return ranges
