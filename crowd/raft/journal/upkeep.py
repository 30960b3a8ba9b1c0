"""Keeps finished segments in order: their index files, the scrub, mending in place.

Decides what is done when, in the reactor; ``sidecar`` and ``scrub`` do it in the
background's thread, ``rewrite`` in the writer's, which alone changes segments.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
from twisted.logger import Logger

from crowd.errors import DamagedError, NoSpaceError
from crowd.raft.journal.rewrite import Rewrite
from crowd.raft.journal.scrub import Flaw, Scrubbed, Scrubber, Target
from crowd.raft.journal.shape import encode_record
from crowd.raft.journal.sidecar import index_name, remove_if_there, write_index

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.raft.journal.appender import Appender
    from crowd.raft.journal.offsets import Offsets
    from crowd.raft.journal.places import Places, Segment
    from crowd.raft.journal.ports import FileSystem, Writer
    from crowd.raft.journal.reader import Reader
    from crowd.raft.journal.shape import Entry


class ScrubResult(msgspec.Struct, frozen=True):
    """What one piece of the scrub found. ``flaws`` are what only a peer can mend."""

    read_bytes: int
    flaws: tuple[Flaw, ...]


class UpkeepCounters(msgspec.Struct):
    """Since the start, for metrics. A pass is once through all finished segments.

    ``mended`` are entries, headers and index files that were bad and are good again.
    """

    scrubbed_bytes: int = 0
    passes: int = 0
    flaws: int = 0
    mended: int = 0


class Upkeep:
    """In the reactor only. `fail` is told of what ends the journal (I8)."""

    _log = Logger()

    def __init__(  # noqa: PLR0913, PLR0917  the parts that it keeps in order
        self,
        filesystem: FileSystem,
        directory: str,
        places: Places,
        offsets: Offsets,
        reader: Reader,
        appender: Appender,
        writer: Writer,
        background: Writer,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._filesystem, self._directory = filesystem, directory
        self._places, self._offsets, self._reader = places, offsets, reader
        self._appender, self._writer, self._background = appender, writer, background
        self._fail = fail
        self._scrubber = Scrubber(filesystem, directory)
        self._scrub_number = 0
        self._scrubbing = False
        self._indexing = False
        self._refused = False
        self._closed = False
        self.last_start = 0
        """Where the log's last batch starts: from there on nothing is ever written again."""
        self.counters = UpkeepCounters()
        offsets.on_rebuilt = self.write_indexes

    # --- Index files --------------------------------------------------------------------------

    def write_indexes(self, *, again: bool = False) -> None:
        """Start writing the index files that are missing, one after the other.

        After one found no space, not before `again`.
        """
        self._refused = self._refused and not again
        if self._indexing or self._refused or self._closed:
            return
        for segment in self._places.segments[:-1]:
            if segment.summary is not None:
                self._indexing = True
                job = partial(write_index, self._filesystem, self._directory, segment.summary)
                self._background.submit(job, partial(self._indexed, segment))
                return

    def dropped(self, numbers: range) -> None:
        """Have the index files of removed segments removed, and nothing of them open.

        In the background's thread, where one that is just being written is done by then.
        """
        if not self._closed:
            self._background.submit(partial(self._remove, numbers), self._removed)

    def _remove(self, numbers: range) -> None:
        self._scrubber.forget(numbers)
        for number in numbers:
            remove_if_there(self._filesystem, f"{self._directory}/{index_name(number)}")

    def _removed(self, result: BaseException | None) -> None:
        if result is not None:
            self._fail(result)

    def _indexed(self, segment: Segment, result: BaseException | None) -> None:
        self._indexing = False
        if isinstance(result, NoSpaceError):
            self._refused = True
            self._log.warn("{error}; a start will read the segment", error=result)
            return
        if result is not None:
            self._fail(result)
            return
        summary, segment.summary = segment.summary, None
        if summary is not None and summary.offsets is not None:
            self._offsets.keep(segment.number, summary.offsets)
        self.write_indexes()

    # --- The scrub ----------------------------------------------------------------------------

    def scrub(self, done: Callable[[ScrubResult], object]) -> None:
        """Verify the next piece; `done` hears of it, from the reactor, never from within."""
        finished = self._places.segments[:-1]
        assert not self._scrubbing, "one piece at a time"
        if not finished or self._closed:
            self._writer.soon(partial(done, ScrubResult(0, ())))
            return
        segment = next((one for one in finished if one.number >= self._scrub_number), None)
        if segment is None:
            self.counters.passes += 1
            segment = finished[0]
        self._scrubbing = True
        self._scrub_number = segment.number
        target = Target(segment.name, segment.header, segment.summary)
        self._background.submit(
            partial(self._scrubber.step, target), partial(self._scrubbed, segment, done)
        )

    def _scrubbed(
        self,
        segment: Segment,
        done: Callable[[ScrubResult], object],
        result: Scrubbed | BaseException,
    ) -> None:
        self._scrubbing = False
        if self._closed:
            return
        if isinstance(result, BaseException):
            self._fail(result)
            return
        if result.finished:
            self._scrub_number = segment.number + 1
        flaws = tuple(self._alive(segment, flaw) for flaw in result.flaws)
        if segment not in self._places.segments:
            flaws = ()
        counters = self.counters
        counters.scrubbed_bytes += result.read_bytes
        counters.flaws += len(flaws) + len(result.rewrites) + result.index_mended
        counters.mended += result.index_mended
        for flaw in flaws:
            self._log.error(
                "damaged: {place}, entries {first} to {last}",
                place=flaw.place, first=flaw.first_index, last=flaw.last_index,
            )  # fmt: skip
        told = ScrubResult(result.read_bytes, flaws)
        if not result.rewrites:
            done(told)
            return
        for rewrite in result.rewrites:
            is_last = rewrite is result.rewrites[-1]
            self._rewrite(rewrite, partial(self._header_mended, done if is_last else None, told))

    def _alive(self, segment: Segment, flaw: Flaw) -> Flaw:
        """Leave out the entries that are no longer in the log, or are in a later segment."""
        first = max(flaw.first_index, segment.base)
        last = max(first - 1, min(flaw.last_index, segment.last_index))
        return Flaw(flaw.place, first, last)

    def _header_mended(
        self,
        done: Callable[[ScrubResult], object] | None,
        told: ScrubResult,
        good: bool,  # noqa: FBT001
    ) -> None:
        if not good:
            self._log.warn("{directory}: a header is still bad", directory=self._directory)
        if done is not None:
            done(told)

    # --- Mending ------------------------------------------------------------------------------

    def repair(self, entry: Entry, term: int, done: Callable[[bool], object]) -> None:
        """Write an entry of the log, whose term is `term`, again at its place."""
        index = entry[1]
        try:
            segment, start, next_start = self._reader.place(index)
        except (DamagedError, IndexError):
            segment = None
        is_last = segment is not None and segment is self._places.segments[-1]
        if segment is None or entry[2] != term or (is_last and start >= self.last_start):
            self._writer.soon(partial(done, False))
            return
        data = encode_record(segment.salt, entry)
        self._rewrite(Rewrite(segment.name, segment.salt, start, data, next_start), done)

    def _rewrite(self, rewrite: Rewrite, done: Callable[[bool], object]) -> None:
        def written(result: bool | BaseException) -> None:  # noqa: FBT001  a writer's report
            if self._closed:
                return
            if isinstance(result, BaseException):
                self._fail(result)
                return
            if result:
                self.counters.mended += 1
                self._log.info(
                    "mended {name} at offset {offset}", name=rewrite.name, offset=rewrite.start
                )
            done(result)

        self._writer.submit(partial(self._appender.rewrite, rewrite), written)

    def stop(self) -> None:
        """Begin nothing more, and report nothing: the journal failed (I8)."""
        self._closed = True

    def close(self) -> None:
        """Wait for the background's thread. Nothing is reported after this."""
        self.stop()
        self._background.close()
        self._scrubber.close()
