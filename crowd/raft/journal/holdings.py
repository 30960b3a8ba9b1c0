"""The log's entries, wherever they are: in memory, on the disk, or both.

Decides where an entry is read from, and keeps the places of what was written. Leaves to
``journal`` which entries are in the log at all. In the reactor only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from crowd.errors import DamagedEntryError
from crowd.raft.journal.places import Segment
from crowd.raft.journal.recent import Recent
from crowd.raft.journal.shape import SEGMENT_HEADER_BYTES, Kind
from crowd.raft.journal.summary import Summary

if TYPE_CHECKING:
    from crowd.raft.journal.appender import Appended, Batch
    from crowd.raft.journal.places import Places
    from crowd.raft.journal.reader import Reader
    from crowd.raft.journal.shape import Entry


class Counters(msgspec.Struct):
    """What was made durable since the start; for metrics. A write includes its fdatasync."""

    batches: int = 0
    entries: int = 0
    written_bytes: int = 0
    write_s: float = 0.0


class Holdings:
    """Entries by index. `recent` ends with the log's last one; older ones are on the disk."""

    def __init__(self, places: Places, reader: Reader, cache_bytes: int) -> None:
        self._places = places
        self._reader = reader
        self.recent = Recent(cache_bytes)
        self.counters = Counters()

    @property
    def first_index(self) -> int:
        """The first entry on the disk."""
        return self._places.first_index

    @property
    def stored_bytes(self) -> int:
        """What is written, without the room that is kept for more."""
        return sum(segment.used_bytes for segment in self._places.segments)

    def entry(self, index: int) -> Entry:
        """Return an entry of the log. Raises as `Reader.entries` does."""
        return self.recent.get(index) or self._reader.entries(index, index, 0)[0]

    def entries(self, from_index: int, last_index: int, bytes_max: int) -> list[Entry]:
        """Return consecutive entries, at least one, and at most `bytes_max` beyond the first.

        `last_index` is the log's last one. Ends before a damaged one. Raises as `Reader.entries` does.
        """
        found = [self.entry(from_index)]
        index = from_index + 1
        recent_index = self.recent.first_index(last_index + 1)
        while index < recent_index and bytes_max > 0:
            try:
                more = self._reader.entries(index, recent_index - 1, bytes_max)
            except DamagedEntryError:
                return found  # who asks for the next one hears of it
            for entry in more:
                bytes_max -= len(entry[0])
                if bytes_max < 0:
                    return found
                found.append(entry)
            index += len(more)
        if index >= recent_index:
            recent = self.recent.entries
            for place in range(index - recent_index, len(recent)):
                bytes_max -= len(recent[place][0])
                if bytes_max < 0:
                    break
                found.append(recent[place])
        return found

    def take(self, batch: Batch, appended: Appended) -> None:
        """Note where a durable batch stands: segments, cut and entries in the order written."""
        places = self._places
        for begun in appended.begun:
            places.add_segment(
                Segment(begun.header, begun.name, Summary(begun.header, SEGMENT_HEADER_BYTES))
            )
        if batch.cut is not None:
            if batch.cut.kind is Kind.RESET:
                places.reset(batch.cut.index)
            else:
                places.cut(batch.cut.index)
        places.extend(len(batch.entries), appended.end)
        summary = places.segments[-1].summary
        assert summary is not None, "the last segment has no index file"
        summary.take(
            appended.start, appended.end, batch.commit_index, batch.cut, appended.offsets,
            batch.entries,
        )  # fmt: skip
        counters = self.counters
        counters.batches += 1
        counters.entries += len(batch.entries)
        counters.written_bytes += appended.end - appended.start
        counters.write_s += appended.took_s

    def drop_below(self, index: int, segments_max: int) -> range:
        """Forget the oldest segments whose entries are all below `index`; return their numbers."""
        dropped = self._places.drop_below(index, segments_max)
        if not dropped:
            return range(0)
        self._reader.forget(dropped)
        self.recent.drop_below(self._places.first_index)
        return range(dropped[0].number, dropped[-1].number + 1)

    def close(self) -> None:
        """Close the files that are read from."""
        self._reader.close()
