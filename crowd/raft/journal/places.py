"""Where each entry stands: tables of offsets, and of terms. Pure.

Decides how few bytes an entry costs in memory: four for its offset, none for its term,
which is kept once for each run of equal terms. A million entries are 4 MB.

The places mirror what is on the disk, batch by batch in the order written; the journal
itself may be ahead of them by what it has not written yet.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right


class Segment:
    """One segment's live entries: a run of indices from `base`, and where each one starts."""

    __slots__ = ("base", "name", "number", "offsets", "salt", "used_bytes")

    def __init__(self, number: int, name: str, salt: int, base: int, used_bytes: int) -> None:
        self.number = number
        self.name = name
        self.salt = salt
        self.base = base
        self.offsets = array("I")
        self.used_bytes = used_bytes

    @property
    def last_index(self) -> int:
        """The last live entry here; `base` - 1 if there is none."""
        return self.base + len(self.offsets) - 1


class Places:
    """All segments, oldest first. Invariant: each one's base follows the last index before it."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self._bases: list[int] = []

    @property
    def first_index(self) -> int:
        """The first entry on the disk; one above `last_index` if there is none."""
        return self._bases[0]

    @property
    def last_index(self) -> int:
        """The last entry on the disk."""
        return self.segments[-1].last_index

    def add_segment(self, segment: Segment) -> None:
        """Take a new segment, which follows the last one."""
        assert not self.segments or segment.base == self.last_index + 1
        self.segments.append(segment)
        self._bases.append(segment.base)

    def extend(self, start: int, offsets: array[int]) -> None:
        """Take entries that were written to the last segment, `offsets` bytes after `start`."""
        self.segments[-1].offsets.extend(array("I", [start + offset for offset in offsets]))

    def cut(self, last_kept: int) -> None:
        """Forget the entries above this index."""
        for place in range(len(self.segments) - 1, -1, -1):
            segment = self.segments[place]
            if segment.base <= last_kept + 1:
                del segment.offsets[last_kept + 1 - segment.base :]
                return
            # A run of none keeps its place in the order: the base moves to where the next is.
            segment.base = self._bases[place] = last_kept + 1
            segment.offsets = array("I")

    def reset(self, next_index: int) -> None:
        """Forget all entries; the next one has this index."""
        for place, segment in enumerate(self.segments):
            segment.base = self._bases[place] = next_index
            segment.offsets = array("I")

    def find(self, index: int) -> tuple[Segment, int]:
        """Return an entry's segment and its place in that segment's run.

        Raises IndexError if the entry is not on the disk.
        """
        place = bisect_right(self._bases, index) - 1
        if place >= 0:
            segment = self.segments[place]
            if index <= segment.last_index:
                return segment, index - segment.base
        raise IndexError(f"entry {index} is not on the disk")

    def drop_below(self, index: int) -> list[Segment]:
        """Forget the oldest segments whose entries are all below `index`; return them.

        The last segment is written to, so it always stays.
        """
        count = 0
        while count < len(self.segments) - 1 and self._bases[count + 1] <= index:
            count += 1
        dropped = self.segments[:count]
        del self.segments[:count], self._bases[:count]
        return dropped


class Terms:
    """The terms of a run of entries, which never fall with the index (Raft, figure 3)."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._terms: list[int] = []

    @property
    def last(self) -> int:
        """The last entry's term; 0 if there is no entry."""
        return self._terms[-1] if self._terms else 0

    def add(self, index: int, term: int) -> None:
        """Take the term of an appended entry."""
        if not self._terms or self._terms[-1] != term:
            self._firsts.append(index)
            self._terms.append(term)

    def cut(self, last_kept: int) -> None:
        """Forget the entries above this index."""
        keep = bisect_right(self._firsts, last_kept)
        del self._firsts[keep:], self._terms[keep:]

    def drop_below(self, index: int) -> None:
        """Forget the runs that ended below this index."""
        keep = max(0, bisect_right(self._firsts, index) - 1)
        del self._firsts[:keep], self._terms[:keep]

    def at(self, index: int) -> int:
        """Return the term of an entry, which must be there."""
        return self._terms[bisect_right(self._firsts, index) - 1]
