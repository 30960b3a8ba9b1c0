"""What one segment does to the log, all its batches together. Pure.

Decides what of a segment must be known without reading it: where its batches end, which
entries it leaves and where each starts, their terms, and what it takes away of the segments
before it. A summary tells only of its own segment's file; a later segment's cut is in that
one's summary. So summaries applied in the order of their segments give the same log as all
batches read in their order.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from crowd.raft.journal.places import Terms
from crowd.raft.journal.shape import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.raft.journal.shape import Cut, SegmentHeader


class Summary:
    """A segment's batches, up to `end_batch` (the next one's number) and `used_bytes`.

    Everything at or above `base` in earlier segments is gone, or everything at all if
    `reset`; then `count` entries follow from `base` on. ``offsets`` says where each one's
    record starts; None while only the index file's head was read.
    """

    __slots__ = (
        "base", "commit_index", "count", "end_batch", "header", "offsets", "reset", "terms",
        "used_bytes",
    )  # fmt: skip

    def __init__(self, header: SegmentHeader, used_bytes: int) -> None:
        self.header = header
        self.used_bytes = used_bytes
        self.end_batch = header.first_batch
        self.reset = False
        self.base = header.next_index
        self.count = 0
        self.commit_index = 0
        self.offsets: array[int] | None = array("I")
        self.terms = Terms()

    @property
    def last_index(self) -> int:
        """The last entry that the segment leaves; `base` - 1 if there is none."""
        return self.base + self.count - 1

    def take(
        self,
        start: int,
        end: int,
        commit_index: int,
        cut: Cut | None,
        offsets: Sequence[int],
        terms: Sequence[tuple[object, int, int]],
    ) -> None:
        """Take the next batch, with its entries' offsets in it and (anything, index, term)."""
        assert self.offsets is not None
        if cut is not None:
            self._cut(cut)
        if offsets:
            self.offsets.extend(array("I", [start + offset for offset in offsets]))
            self.count += len(offsets)
            self._take_terms(terms)
        self.end_batch += 1
        self.used_bytes = end
        self.commit_index = max(self.commit_index, commit_index)

    def _cut(self, cut: Cut) -> None:
        assert self.offsets is not None
        next_index = cut.index if cut.kind is Kind.RESET else cut.index + 1
        if cut.kind is Kind.RESET:
            self.reset = True
            self.terms.cut(-1)
        else:
            self.terms.cut(cut.index)
        if cut.kind is Kind.RESET or next_index < self.base:
            self.base, self.count = next_index, 0
        else:
            self.count = next_index - self.base
        del self.offsets[self.count :]

    def _take_terms(self, terms: Sequence[tuple[object, int, int]]) -> None:
        first, last = terms[0], terms[-1]
        self.terms.add(first[1], first[2])
        if first[2] != last[2]:  # terms do not fall, so all between two equal ones are equal
            for _, index, term in terms:
                self.terms.add(index, term)
