"""Verifies finished segments, a piece at a time. Runs in the background's thread.

Decides what is bad in a segment and how far the flaw reaches. A segment's batches are walked
from its header to its end, each checksum is checked, and a walk goes on behind a flaw: the
offsets say where the next record is, a batch's header where the next batch is. Of the two
only one is expected to be bad at a place; where both are, more than the flaw is reported.

Headers are a function of what stands around them, so they need no peer: the walk itself
finds what a bad one said. Entries need one.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import msgspec

from crowd.errors import DamagedError, NoSpaceError
from crowd.raft.journal.recovery import scan_segment
from crowd.raft.journal.rewrite import Rewrite
from crowd.raft.journal.shape import (
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    BatchHeader,
    Kind,
    check_record,
    decode_batch_header,
    encode_batch_header,
    encode_segment_header,
    record_bytes,
)
from crowd.raft.journal.sidecar import load_index, write_index

if TYPE_CHECKING:
    from array import array

    from crowd.raft.journal.ports import File, FileSystem
    from crowd.raft.journal.shape import SegmentHeader
    from crowd.raft.journal.summary import Summary

PIECE_BYTES: Final = 512 << 10
"""One read. About 4 ms of a thread that shares the interpreter with the reactor."""


class Flaw(msgspec.Struct, frozen=True):
    """A bad place: the entries that lie there, `first_index` to `last_index`.

    None, ``last_index == first_index - 1``, if it hit a record that no entry is read from.
    """

    place: str
    first_index: int
    last_index: int


class Target(msgspec.Struct, frozen=True):
    """A finished segment, and its summary if that is in memory."""

    name: str
    header: SegmentHeader
    summary: Summary | None


class Scrubbed(msgspec.Struct):
    """What one piece showed. ``finished``: the segment's last one."""

    read_bytes: int = 0
    flaws: list[Flaw] = []
    rewrites: list[Rewrite] = []
    finished: bool = False
    index_mended: bool = False


class Scrubber:
    """One walk. `step` takes it a piece further."""

    def __init__(self, filesystem: FileSystem, directory: str) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._walk: _Walk | None = None

    def step(self, target: Target) -> Scrubbed:
        """Verify the next piece of a segment, or the first one of it. Raises OSError.

        A segment that is gone is finished, and nothing is wrong with it.
        """
        result = Scrubbed()
        walk = self._walk
        if walk is None or walk.header != target.header:
            self.close()
            try:
                walk = self._begin(target, result)
            except FileNotFoundError:
                walk = None
            if walk is None:
                result.finished = True
                return result
            self._walk = walk
        walk.step(result)
        if result.finished:
            self.close()
        return result

    def forget(self, numbers: range) -> None:
        """Let go of a segment that was removed: as long as it is open, it takes its room."""
        if self._walk is not None and self._walk.header.number in numbers:
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._walk is not None:
            self._walk.file.close()
            self._walk = None

    def _begin(self, target: Target, result: Scrubbed) -> _Walk | None:
        path = f"{self._directory}/{target.name}"
        summary = target.summary
        file = self._filesystem.open(path)
        try:
            # The disk is to be read, not what the system's memory still holds of it.
            file.uncache()
            if summary is None:
                summary = self._index(target, result)
        except BaseException:
            file.close()
            raise
        if summary is None:
            file.close()
            return None
        return _Walk(file, path, target.name, summary)

    def _index(self, target: Target, result: Scrubbed) -> Summary | None:
        """Return what the index file says; make it anew if it is bad."""
        summary = load_index(self._filesystem, self._directory, target.header, uncached=True)
        if summary is not None:
            return summary
        try:
            summary = scan_segment(self._filesystem, self._directory, target.header)
            write_index(self._filesystem, self._directory, summary)
            result.index_mended = True
        except NoSpaceError:
            pass  # the next round finds it bad again
        except DamagedError as error:
            # Both the segment and its index file: which entries are hit cannot be told here.
            first = target.header.next_index
            result.flaws.append(Flaw(error.place, first, first - 1))
        return summary


class _Walk:
    """A place in a segment.

    ``_body_end`` is None behind a bad header: that batch ends where the next one's header is.
    """

    def __init__(self, file: File, path: str, name: str, summary: Summary) -> None:
        assert summary.offsets is not None
        self.file = file
        self.header = summary.header
        self._path = path
        self._name = name
        self._summary = summary
        self._offsets: array[int] = summary.offsets
        self._salt = summary.header.salt
        self._at = SEGMENT_HEADER_BYTES
        self._batch = summary.header.first_batch
        self._body_end: int | None = SEGMENT_HEADER_BYTES
        # Of a batch whose header is bad: where it starts, and its records so far. Of all such
        # batches in a row: what their headers said, and whether their records are good.
        self._bad_start = 0
        self._records = 0
        self._guessed: list[Rewrite] = []
        self._clean = True
        self._checked_header = False

    def step(self, result: Scrubbed) -> None:
        """Walk through the next piece."""
        used_bytes = self._summary.used_bytes
        if not self._checked_header:
            self._check_segment_header(result)
        start = self._at
        size_bytes = min(PIECE_BYTES, used_bytes - start)
        data = self._read(start, size_bytes)
        while self._at < used_bytes:
            missing_bytes = self._look(data, start, result)
            if missing_bytes:
                if self._at > start:
                    break
                # One record is longer than a piece.
                data = self._read(start, len(data) + missing_bytes)
        result.read_bytes += len(data)
        if self._at >= used_bytes:
            self._end_bad_batches(used_bytes, self._summary.end_batch, result)
            result.finished = True

    def _read(self, start: int, size_bytes: int) -> bytes:
        # A file that lost its end reads as zeros there, which are no record and no header.
        return self.file.read(size_bytes, start).ljust(size_bytes, b"\0")

    def _check_segment_header(self, result: Scrubbed) -> None:
        self._checked_header = True
        data = encode_segment_header(self.header)
        if self.file.read(len(data), 0) != data:
            result.rewrites.append(self._rewrite(0, data))

    def _look(self, data: bytes, base: int, result: Scrubbed) -> int:
        """Verify what is next. Returns how many more bytes that takes than `data` has, if it does."""
        at = self._at
        here = at - base
        if self._body_end is None or at == self._body_end:
            left = self._summary.used_bytes - at
            missing = min(left, BATCH_HEADER_BYTES) - (len(data) - here)
            if missing > 0:
                return missing
            header = decode_batch_header(data, self._salt, here)
            if header is not None and self._is_next(header, at):
                self._end_bad_batches(at, header.number, result)
                self._at += BATCH_HEADER_BYTES
                self._batch = header.number + 1
                self._body_end = self._at + header.body_bytes
                return 0
            if self._body_end is not None:
                self._clean = True  # whatever was bad in batches with good headers
                self._begin_bad_batch(at)
                return 0
        return self._look_at_record(data, base, result)

    def _is_next(self, header: BatchHeader, at: int) -> bool:
        if at + BATCH_HEADER_BYTES + header.body_bytes > self._summary.used_bytes:
            return False
        if self._body_end is None:
            return header.number >= self._batch  # more than one flaw: go on where it can
        return header.number == self._batch

    def _look_at_record(self, data: bytes, base: int, result: Scrubbed) -> int:
        at = self._at
        here = at - base
        place = bisect_left(self._offsets, at)
        known = place < len(self._offsets) and self._offsets[place] == at
        following = place + known
        limit = self._summary.used_bytes if self._body_end is None else self._body_end
        if following < len(self._offsets):
            limit = min(limit, self._offsets[following])
        header = data[here : here + RECORD_HEADER_BYTES]
        need = min(record_bytes(header), limit - at)
        if need > len(data) - here:
            return need - (len(data) - here)
        found = check_record(data, self._salt, here)
        if found is not None and base + found[3] <= limit:
            kind, index, _, end = found
            if not known or (kind == Kind.ENTRY and index == self._summary.base + place):
                self._at = base + end
                self._records += 1
                return 0
        if not known and self._clean and self._body_end is None and self._is_gap(limit - at):
            # As long as headers without a record between are: another bad header.
            self._end_bad_batch(at)
            self._begin_bad_batch(at)
            return 0
        self._clean = False
        index = self._summary.base + place
        last = index if known else index - 1
        result.flaws.append(Flaw(self._place(at), index, last))
        self._at = self._after_flaw(data, base, limit)
        return 0

    def _is_gap(self, gap_bytes: int) -> bool:
        """Tell whether headers, the last one perhaps with a cut, make up a gap."""
        return gap_bytes >= BATCH_HEADER_BYTES and gap_bytes % BATCH_HEADER_BYTES in (
            0,
            RECORD_HEADER_BYTES,
        )

    def _after_flaw(self, data: bytes, base: int, limit: int) -> int:
        """Return where to go on: the next known record, or the end of the batch.

        Where that is not known, the next thing that looks like a batch's header is as good.
        """
        if self._body_end is not None:
            return limit
        at = self._at - base
        while (at := data.find(BATCH_MAGIC, at + 1, limit - base)) >= 0:
            header = decode_batch_header(data, self._salt, at)
            if header is not None and header.number >= self._batch:
                return base + at
        return limit

    def _begin_bad_batch(self, at: int) -> None:
        self._bad_start, self._records = at, 0
        self._batch += 1
        self._body_end = None
        self._at = at + BATCH_HEADER_BYTES

    def _end_bad_batch(self, end: int) -> None:
        """Note what a bad header said, now that all is known of its batch."""
        body_bytes = end - self._bad_start - BATCH_HEADER_BYTES
        if body_bytes < 0:  # something else stood there
            self._clean = False
            return
        header = BatchHeader(self._batch - 1, 0, body_bytes, self._records)
        data = encode_batch_header(self._salt, header)
        self._guessed.append(self._rewrite(self._bad_start, data))

    def _end_bad_batches(self, end: int, next_batch: int, result: Scrubbed) -> None:
        """Have bad headers written again, if their numbers lead to that of the next batch."""
        if self._body_end is not None:
            return
        self._end_bad_batch(end)
        if self._clean and self._batch == next_batch:
            result.rewrites += self._guessed
        else:
            first = self._summary.base
            result.flaws.append(Flaw(self._place(self._bad_start), first, first - 1))
        self._guessed = []

    def _rewrite(self, start: int, data: bytes) -> Rewrite:
        return Rewrite(self._name, self._salt, start, data, start + len(data))

    def _place(self, offset: int) -> str:
        return f"{self._path}, offset {offset}"
