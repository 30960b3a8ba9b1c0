"""Reads entries that are no longer in memory, and verifies each one.

Decides how the reactor reads from the disk: in place, a few files open at a time. These
reads are of a lagging follower or consumer, mostly from the system's page cache; one read
is at most what was asked for, so the reactor waits for one seek, not for many.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from crowd.errors import DamagedEntryError, StorageFailedError
from crowd.raft.journal.shape import RECORD_HEADER_BYTES, decode_entry, record_bytes

if TYPE_CHECKING:
    from array import array

    from crowd.raft.journal.offsets import Offsets
    from crowd.raft.journal.places import Places, Segment
    from crowd.raft.journal.ports import File, FileSystem
    from crowd.raft.journal.shape import Entry

_OPEN_FILES_MAX: Final = 8
"""A lagging follower and a few consumers each read in one place."""


class Reader:
    """Entries on the disk. In the reactor only."""

    def __init__(
        self, filesystem: FileSystem, directory: str, places: Places, offsets: Offsets
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._places = places
        self._offsets = offsets
        self._files: OrderedDict[int, File] = OrderedDict()

    def entries(self, index: int, last_index: int, bytes_max: int) -> list[Entry]:
        """Return consecutive entries from `index` on, of one segment, at least one.

        At most to `last_index`, at most `bytes_max` of their records beyond the first, and up
        to one that does not match its checksum. Raises DamagedEntryError if that is the first
        one, StorageFailedError, and IndexError if the entry is not on the disk.
        """
        segment, place = self._places.find(index)
        offsets = self._offsets.of(segment, index)
        stop = min(segment.count, place + last_index - index + 1)
        start, end = offsets[place], self._end(segment, offsets, place)
        most = end + bytes_max
        count = 1
        while place + count < stop:
            next_end = self._end(segment, offsets, place + count)
            if next_end > most:
                break
            end = next_end
            count += 1
        data = self._read(segment, start, end - start)
        found: list[Entry] = []
        for step in range(count):
            entry = decode_entry(data, segment.salt, offsets[place + step] - start)
            if entry is None or entry[0][1] != index + step:
                break
            found.append(entry[0])
        if not found:
            raise DamagedEntryError(
                "an entry does not match its checksum",
                place=f"{self._directory}/{segment.name}, offset {start}, index {index}",
                index=index,
            )
        return found

    def place(self, index: int) -> tuple[Segment, int, int]:
        """Return an entry's segment, where its record starts, and where the next one does.

        Where the segment's batches end, if there is no next one.

        Raises as `entries` does.
        """
        segment, place = self._places.find(index)
        offsets = self._offsets.of(segment, index)
        following = offsets[place + 1] if place + 1 < len(offsets) else segment.used_bytes
        return segment, offsets[place], following

    def forget(self, segments: list[Segment]) -> None:
        """Close the files of segments that are removed."""
        self._offsets.forget(segments)
        for segment in segments:
            file = self._files.pop(segment.number, None)
            if file is not None:
                file.close()

    def close(self) -> None:
        """Close all files."""
        while self._files:
            self._files.popitem()[1].close()

    def _end(self, segment: Segment, offsets: array[int], place: int) -> int:
        """Return where a record ends at the latest; the next batch's header may follow it."""
        if place + 1 < len(offsets):
            return offsets[place + 1]
        # The last one of the run says itself how long it is: what follows it may be megabytes
        # that were cut off. The length is not verified yet, so it is bounded.
        start = offsets[place]
        size_bytes = record_bytes(self._read(segment, start, RECORD_HEADER_BYTES))
        return min(start + size_bytes, segment.used_bytes)

    def _read(self, segment: Segment, start: int, size_bytes: int) -> bytes:
        try:
            file = self._files.get(segment.number)
            if file is None:
                file = self._filesystem.open(f"{self._directory}/{segment.name}")
                self._files[segment.number] = file
                if len(self._files) > _OPEN_FILES_MAX:
                    self._files.popitem(last=False)[1].close()
            else:
                self._files.move_to_end(segment.number)
            return file.read(size_bytes, start)
        except OSError as error:
            raise StorageFailedError(
                f"{self._directory}/{segment.name}: could not read: {error}"
            ) from error
