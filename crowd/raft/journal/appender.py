"""Writes the log: batches, segments, the memory file. Runs in the journal's one thread.

Decides the order of effects on the disk; the comment at each sync says what rests on it.
Decides nothing about when to write or who may be told; that is ``journal``.

The log is only ever added to (`repair` writes again what was there). A batch stands after the last one and is durable before the
next one is begun, so at most the last batch on the disk is torn, whenever the power goes. A
cut of the log's tail is a record too: it lies before the entries that come after it, so
they cannot be durable without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from crowd.errors import NoSpaceError, StorageFailedError
from crowd.raft.journal.shape import (
    SEGMENT_HEADER_BYTES,
    Cut,
    Kind,
    SegmentHeader,
    encode_batch,
    encode_segment_header,
)
from crowd.raft.journal.spare import BULK_BYTES, NO_SPACE, Spare

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

    from crowd.raft.journal.memory import MemoryFile
    from crowd.raft.journal.ports import File, FileSystem
    from crowd.raft.journal.rewrite import Rewrite
    from crowd.raft.journal.shape import Entry

SUFFIX: Final = ".segment"


class Batch(msgspec.Struct, frozen=True):
    """What one write puts on the disk: a cut, if any, then entries. Neither: a confirmation."""

    cut: Cut | None
    entries: list[Entry]
    commit_index: int


class Begun(msgspec.Struct, frozen=True):
    """A segment that was begun."""

    name: str
    header: SegmentHeader


class Appended(msgspec.Struct, frozen=True):
    """A batch that is durable: where it starts and ends, and where in it each record is.

    ``begun`` are the segments begun since the last such report; it stands in the last one.
    ``prepare`` asks for a call of `Appender.prepare` when nothing is more urgent.
    """

    begun: tuple[Begun, ...]
    start: int
    end: int
    offsets: array[int]
    took_s: float
    prepare: bool


class Tail(msgspec.Struct):
    """Where the log ends: what the next batch continues. ``batch`` is its number."""

    number: int
    salt: int
    used_bytes: int
    batch: int
    next_index: int


def segment_name(number: int) -> str:
    """Return the file name of a segment: names sort as their numbers do."""
    return f"{number:016d}{SUFFIX}"


class Appender:
    """The end of the log. After any error but NoSpaceError every call fails (I8)."""

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        memory_file: MemoryFile,
        tail: Tail,
        file: File | None,
        *,
        segment_bytes: int,
        seconds: Callable[[], float],
        draw: Callable[[int], bytes],
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._memory_file = memory_file
        self._tail = tail
        self._file = file
        self._segment_bytes = segment_bytes
        self._seconds = seconds
        self._draw = draw
        self._begun: list[Begun] = []
        self._spare = Spare(filesystem, directory)
        self.failed = False

    def append(self, batch: Batch) -> Appended:
        """Make a batch durable.

        Raises NoSpaceError if there is no room: nothing changed, and it may be tried again.
        Raises StorageFailedError at any other error: what the disk holds is then unknown.
        """
        self._check()
        began_s = self._seconds()
        try:
            return self._append(batch, began_s)
        except OSError as error:
            raise self._fail("append to the log", error) from error

    def prepare(self, *, wholly: bool = False) -> None:
        """Make the next segment's file ready, a piece of it or all. Raises StorageFailedError."""
        self._check()
        try:
            self._spare.reserve(self._segment_bytes)
            if self._is_zeroing or wholly:
                self._spare.prepare(self._segment_bytes)
            while wholly and self._spare.is_wanted(self._segment_bytes):
                self._spare.prepare(self._segment_bytes)
        except OSError as error:
            raise self._fail("prepare a segment", error) from error

    @property
    def reserved(self) -> bool:
        """Whether the disk's room for the next segment is kept. May be read in the reactor."""
        return self._spare.reserved

    def reserve(self) -> None:
        """Keep the room for the next segment, if there is any. Raises StorageFailedError."""
        self._check()
        try:
            self._spare.reserve(self._segment_bytes)
        except OSError as error:
            raise self._fail("keep room for a segment", error) from error

    def change_memory(self, **changes: object) -> None:
        """Make changed fields of the node's memory durable. Raises StorageFailedError."""
        self._check()
        try:
            self._memory_file.write(msgspec.structs.replace(self._memory_file.memory, **changes))
        except OSError as error:
            # "No space" is no way out here: both slots were written when the file was made.
            raise self._fail("write term and vote", error) from error

    def remove_segments(self, numbers: range) -> None:
        """Remove the oldest segments and give their room back. Raises StorageFailedError."""
        # Durable before a file goes, as a file that is missing otherwise is damage.
        self.change_memory(first_segment=numbers.stop)
        try:
            for number in numbers:
                self._filesystem.remove(f"{self._directory}/{segment_name(number)}")
            # No sync: a file that a crash brings back is removed at the next start.
        except OSError as error:
            raise self._fail("remove old segments", error) from error

    def rewrite(self, rewrite: Rewrite) -> bool:
        """Write again what a finished batch held; tell whether the disk has it now.

        Raises StorageFailedError at any error but of space.
        """
        self._check()
        try:
            return rewrite.do(self._filesystem, self._directory)
        except OSError as error:
            raise self._fail("mend the log", error) from error

    def close(self) -> None:
        """Close the files."""
        self._spare.close()
        if self._file is not None:
            self._file.close()
        self._memory_file.close()

    def _append(self, batch: Batch, began_s: float) -> Appended:
        tail = self._tail
        cut = batch.cut
        if cut is not None and cut.kind is Kind.CUT and cut.index >= tail.next_index - 1:
            cut = None  # what it cuts never reached the disk
        next_index = after_cut(cut, tail.next_index)
        assert not batch.entries or batch.entries[0][1] == next_index, "a gap in the log"
        data, offsets = self._encode(batch, cut)
        if self._file is None or tail.used_bytes + len(data) > self._segment_bytes:
            self._begin_segment(len(data))
            data, offsets = self._encode(batch, cut)  # again: another salt, other checksums
        assert self._file is not None
        start = tail.used_bytes
        try:
            self._file.write(data, start)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            # Undone, so that the next try starts clean. No sync is needed: if a crash brings
            # these bytes back they are a torn tail, and nobody was told of them.
            self._file.truncate(start)
            raise NoSpaceError(f"no space for a batch of {len(data)} bytes") from error
        # The promise itself (I1): once this returns, and not before, the batch may be told
        # of. Its error is final even if it says "no space": the pages may be gone (I8).
        self._file.sync()
        tail.used_bytes = start + len(data)
        tail.batch += 1
        tail.next_index = next_index + len(batch.entries)
        begun, self._begun = tuple(self._begun), []
        took_s = self._seconds() - began_s
        # The room at once: it is the reserve of a full disk. Its zeros not before this one is
        # half full, as the batches of a burst would wait for them.
        prepare = self._spare.is_unasked or (
            self._is_zeroing
            and len(data) < BULK_BYTES
            and self._spare.is_wanted(self._segment_bytes)
        )
        return Appended(begun, start, tail.used_bytes, offsets, took_s, prepare)

    @property
    def _is_zeroing(self) -> bool:
        return self._tail.used_bytes > self._segment_bytes // 2

    def _encode(self, batch: Batch, cut: Cut | None) -> tuple[bytes, array[int]]:
        tail = self._tail
        return encode_batch(tail.salt, tail.batch, batch.commit_index, cut, batch.entries)

    def _begin_segment(self, batch_bytes: int) -> None:
        tail = self._tail
        number = tail.number + 1
        salt = int.from_bytes(self._draw(4), "little")
        memory = self._memory_file.memory
        header = SegmentHeader(salt, number, tail.batch, tail.next_index, memory.journal_id)
        path = f"{self._directory}/{segment_name(number)}"
        # A batch stands in one segment, so a larger one gets a larger segment.
        size_bytes = max(self._segment_bytes, SEGMENT_HEADER_BYTES + batch_bytes)
        file = self._make_file(path, size_bytes, encode_segment_header(header))
        # The name, before any batch in it is told of: a crash that forgot the name would
        # forget them all.
        self._filesystem.sync_directory(self._directory)
        # Durable before a batch in it is told of, so that its loss would show. A crash in
        # between leaves an empty segment that is not yet expected; it is taken as it is.
        self.change_memory(last_segment=number)
        if self._file is not None:
            # Its batches are durable. What was kept for more goes back to the disk; a crash
            # that undoes this leaves zeros, which end a segment as well.
            self._file.truncate(tail.used_bytes)
            self._file.close()
        self._file = file
        tail.number, tail.salt, tail.used_bytes = number, salt, SEGMENT_HEADER_BYTES
        self._begun.append(Begun(segment_name(number), header))

    def _make_file(self, path: str, size_bytes: int, header: bytes) -> File:
        try:
            file = self._spare.take(size_bytes, header)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise NoSpaceError(f"no space for a segment of {size_bytes} bytes") from error
        # The bytes and the length before the name: a file with a segment's name always has
        # its header, so a bad header is damage and never a crash's doing.
        file.sync()
        self._filesystem.rename(self._spare.path, path)
        self._spare.taken()
        return file

    def _check(self) -> None:
        if self.failed:
            raise StorageFailedError("the journal failed before; nothing is written any more")

    def _fail(self, what: str, error: OSError) -> StorageFailedError:
        self.failed = True
        return StorageFailedError(f"{self._directory}: could not {what}: {error}")


def after_cut(cut: Cut | None, next_index: int) -> int:
    """Return the next entry's index after a cut."""
    if cut is None:
        return next_index
    return cut.index if cut.kind is Kind.RESET else cut.index + 1
