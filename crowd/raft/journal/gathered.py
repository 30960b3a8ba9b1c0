"""What gathers while the disk is busy: the next batches. Pure.

Decides what of it goes into one write, and how a later cut of the log changes it. A cut
stands before the entries that come after it; entries that it takes away before they were
handed to the writer never reach the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crowd.raft.journal.appender import Batch
from crowd.raft.journal.shape import Cut, Kind

if TYPE_CHECKING:
    from crowd.raft.journal.shape import Entry

BATCH_BYTES_MAX: Final = 8 << 20
"""One write, beyond its first entry: tens of milliseconds of a disk. The rest comes next."""


class Gathered:
    """A cut, if any, and then entries; ``size_bytes`` are the entries' commands."""

    __slots__ = ("cut", "entries", "size_bytes")

    def __init__(self) -> None:
        self.cut: Cut | None = None
        self.entries: list[Entry] = []
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self.entries) or self.cut is not None

    def cut_above(self, last_kept: int) -> None:
        """Take away the entries above this index, and have what is on the disk cut, too."""
        self._drop_above(last_kept)
        if self.entries or (self.cut is not None and self.cut.kind is Kind.RESET):
            return  # all that went was here
        if self.cut is None or last_kept < self.cut.index:
            self.cut = Cut(Kind.CUT, last_kept)

    def clear(self) -> None:
        """Take everything away, a cut as well."""
        self.cut, self.entries, self.size_bytes = None, [], 0

    def reset_to(self, next_index: int) -> None:
        """Have the log begin anew with the entry at this index, in its batch (D5)."""
        assert not self.entries
        self.cut = Cut(Kind.RESET, next_index)

    def take(self, commit_index: int) -> Batch:
        """Return the next batch: all of it, or as much as one write takes."""
        cut, self.cut = self.cut, None
        entries = self.entries
        if self.size_bytes <= BATCH_BYTES_MAX:
            self.entries, self.size_bytes = [], 0
            return Batch(cut, entries, commit_index)
        count = size_bytes = 0
        while count < len(entries) and (
            count == 0 or size_bytes + len(entries[count][0]) <= BATCH_BYTES_MAX
        ):
            size_bytes += len(entries[count][0])
            count += 1
        self.entries = entries[count:]
        self.size_bytes -= size_bytes
        return Batch(cut, entries[:count], commit_index)

    def put_back(self, batch: Batch, last_kept: int) -> None:
        """Take a batch back whose write was undone, without its entries above `last_kept`."""
        if self.cut is not None and self.cut.kind is Kind.RESET:
            return  # nothing before it matters
        kept = [entry for entry in batch.entries if entry[1] <= last_kept]
        self.entries[:0] = kept
        self.size_bytes += sum(len(entry[0]) for entry in kept)
        before, after = batch.cut, self.cut
        # What both took away is taken away by the one that took more.
        if after is None or (
            before is not None and (before.kind is Kind.RESET or before.index < after.index)
        ):
            self.cut = before

    def _drop_above(self, last_kept: int) -> None:
        entries = self.entries
        while entries and entries[-1][1] > last_kept:
            self.size_bytes -= len(entries.pop()[0])
