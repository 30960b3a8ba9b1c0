"""Where in their segments old entries start: read from the index files when asked for.

Decides how many segments' offsets are in memory, so that memory does not grow with the
backlog. In the reactor only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from crowd.errors import DamagedEntryError, DamagedError, StorageFailedError
from crowd.raft.journal.recovery import scan_segment
from crowd.raft.journal.sidecar import load_index

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

    from crowd.raft.journal.places import Segment
    from crowd.raft.journal.ports import FileSystem

LOADED_MAX: Final = 8
"""As many as files that are read from; 190 000 entries a segment are 6 MB in all."""


class Offsets:
    """A segment's offsets, in memory or from its index file."""

    _log = Logger()

    def __init__(self, filesystem: FileSystem, directory: str) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._loaded: OrderedDict[int, array[int]] = OrderedDict()
        self.on_rebuilt: Callable[[], object] = lambda: None
        """Called when a segment got a summary again, whose index file is to be written."""

    def of(self, segment: Segment, index: int) -> array[int]:
        """Return where each entry from the segment's first live one starts.

        A bad index file is made good from the segment, all of which is read for it: half a
        second for one of 64 MiB. Raises DamagedEntryError for `index`, which is asked for, if
        the segment is bad as well, and StorageFailedError.
        """
        if segment.summary is not None:
            assert segment.summary.offsets is not None
            return segment.summary.offsets
        found = self._loaded.get(segment.number)
        if found is not None:
            self._loaded.move_to_end(segment.number)
            return found
        try:
            return self._load(segment)
        except DamagedError as error:
            raise DamagedEntryError(error.what, place=error.place, index=index) from error
        except OSError as error:
            raise StorageFailedError(
                f"{self._directory}/{segment.name}: could not read: {error}"
            ) from error

    def keep(self, number: int, offsets: array[int]) -> None:
        """Take a segment's offsets, which its index file has."""
        self._loaded[number] = offsets
        self._loaded.move_to_end(number)
        if len(self._loaded) > LOADED_MAX:
            self._loaded.popitem(last=False)

    def forget(self, segments: list[Segment]) -> None:
        """Forget segments that are removed."""
        for segment in segments:
            self._loaded.pop(segment.number, None)

    def _load(self, segment: Segment) -> array[int]:
        summary = load_index(self._filesystem, self._directory, segment.header)
        if summary is None:
            self._log.warn(
                "{directory}: the index file of {name} is bad; the segment is read for another",
                directory=self._directory,
                name=segment.name,
            )
            summary = scan_segment(self._filesystem, self._directory, segment.header)
            segment.summary = summary
            self.on_rebuilt()
        else:
            assert summary.offsets is not None
            self.keep(segment.number, summary.offsets)
        assert summary.offsets is not None
        return summary.offsets
