"""Which segment has which entries, and their terms. Pure.

Decides how little of an old entry stays in memory: nothing. A segment is a run of indices;
where in it each entry starts is in its summary, or on the disk in its index file
(``offsets``). A term is kept once for each run of equal terms.

The places mirror what is on the disk, batch by batch in the order written; the journal
itself may be ahead of them by what it has not written yet.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crowd.raft.journal.shape import SegmentHeader
    from crowd.raft.journal.summary import Summary


class Segment:
    """One segment's live entries: `count` of them from `base` on.

    ``summary`` is there until the segment's index file is; without it the offsets are read
    from that file when they are asked for. The last segment always has it.
    """

    __slots__ = ("base", "count", "header", "name", "number", "salt", "summary", "used_bytes")

    def __init__(self, header: SegmentHeader, name: str, summary: Summary | None) -> None:
        self.header = header
        self.number = header.number
        self.name = name
        self.salt = header.salt
        self.base = header.next_index
        self.count = 0
        self.used_bytes = 0
        self.summary = summary

    @property
    def last_index(self) -> int:
        """The last live entry here; `base` - 1 if there is none."""
        return self.base + self.count - 1


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

    def extend(self, count: int, used_bytes: int) -> None:
        """Take so many entries that were written to the last segment, and where it ends now."""
        segment = self.segments[-1]
        segment.count += count
        segment.used_bytes = used_bytes

    def cut(self, last_kept: int) -> None:
        """Forget the entries above this index."""
        for place in range(len(self.segments) - 1, -1, -1):
            segment = self.segments[place]
            if segment.base <= last_kept + 1:
                segment.count = min(segment.count, last_kept + 1 - segment.base)
                return
            # A run of none keeps its place in the order: the base moves to where the next is.
            segment.base = self._bases[place] = last_kept + 1
            segment.count = 0

    def reset(self, next_index: int) -> None:
        """Forget all entries; the next one has this index."""
        for place, segment in enumerate(self.segments):
            segment.base = self._bases[place] = next_index
            segment.count = 0

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

    def drop_below(self, index: int, segments_max: int) -> list[Segment]:
        """Forget the oldest segments whose entries are all below `index`; return them.

        The last segment is written to, so it always stays.
        """
        count = 0
        most = min(segments_max, len(self.segments) - 1)
        while count < most and self._bases[count + 1] <= index:
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
    def runs(self) -> list[tuple[int, int]]:
        """Each run's first index and its term."""
        return list(zip(self._firsts, self._terms, strict=True))

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
