"""Reads a journal from the disk and decides what of it is good.

Decides what is a torn tail and what is damage; changes nothing on the disk.

A batch is begun only when the one before it is durable. So at most one batch can be torn,
the last; it was told to nobody, and it is cut. A bad batch with the header of a later one
after it was durable once: that is damage, whatever the cause, and the journal is not used.
So is all else that a crash cannot leave: a bad header of a segment, a missing segment, an
index or a batch number out of order. (Alagappan et al., "Protocol-Aware Recovery for
Consensus-Based Storage", FAST '18, tells why the two must be told apart.)

A flaw in the very last batch cannot be told from a tear. That is why the journal adds an
empty batch within a second (`Journal.onOneSecondTimer`): then it is not the last any more.
"""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING, Final

import msgspec

from crowd.errors import DamagedError
from crowd.raft.journal.appender import SUFFIX, Tail, segment_name
from crowd.raft.journal.places import Places, Segment, Terms
from crowd.raft.journal.shape import (
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    SEGMENT_HEADER_BYTES,
    BatchHeader,
    Kind,
    check_record,
    decode_batch_header,
    decode_segment_header,
)
from crowd.raft.journal.spare import NEW_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crowd.raft.journal.memory import Memory
    from crowd.raft.journal.ports import File, FileSystem

_CHUNK_BYTES: Final = 1 << 20
"""The rest of a segment is looked through in pieces of this size."""
_SEGMENT_NAME: Final = re.compile(r"[0-9]{16}" + re.escape(SUFFIX))
_ZEROS: Final = bytes(_CHUNK_BYTES)


class Found(msgspec.Struct):
    """What a journal's files hold. ``torn_bytes``: the last segment's, to be cut away."""

    places: Places
    terms: Terms
    tail: Tail
    commit_index: int = 0
    confirmed: bool = True
    torn_bytes: int = 0
    stray: tuple[str, ...] = ()


class FoundBatch(msgspec.Struct, frozen=True):
    """A good batch: from `start` to `end`, with each record's kind, index, term and start."""

    start: int
    end: int
    header: BatchHeader
    records: list[tuple[int, int, int, int]]


def recover(filesystem: FileSystem, directory: str, memory: Memory) -> Found:
    """Read and verify every segment.

    Raises DamagedError, which names the file, the offset and the index, and OSError.
    """
    names, stray = segments_expected(filesystem, directory, memory)
    found = Found(Places(), Terms(), Tail(0, 0, 0, 1, 1), stray=stray)
    for number, name in enumerate(names, memory.first_segment):
        reading = _Reading(directory, memory, found, number, is_last=name == names[-1])
        file = filesystem.open(reading.path)
        try:
            if reading.is_last:
                # What a killed process wrote may stand in the system's memory only: it must
                # be durable before it is believed. And what a failed sync left there, marked
                # clean, must not be believed at all: read what the disk has.
                file.sync()
                file.uncache()
            reading.read(file)
        finally:
            file.close()
    found.commit_index = min(found.commit_index, found.tail.next_index - 1)
    return found


def segments_expected(
    filesystem: FileSystem, directory: str, memory: Memory
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the segments to read, and of the files that a crash left behind.

    Raises DamagedError if one is missing.
    """
    names = filesystem.names(directory)
    present = {int(name[:16]) for name in names if _SEGMENT_NAME.fullmatch(name)}
    # One more than expected may be there, made just before a crash.
    expected = range(memory.first_segment, max(memory.last_segment, *present, 0) + 1)
    for number in expected:
        if number not in present:
            raise DamagedError(
                "a segment is missing", place=f"{directory}/{segment_name(number)}, offset 0"
            )
    stray = [segment_name(number) for number in sorted(present) if number not in expected]
    stray += [name for name in names if name.endswith(NEW_SUFFIX)]
    return tuple(segment_name(number) for number in expected), tuple(stray)


class _Reading:
    """One segment, read into what was found before it."""

    def __init__(
        self, directory: str, memory: Memory, found: Found, number: int, *, is_last: bool
    ) -> None:
        self.path = f"{directory}/{segment_name(number)}"
        self.is_last = is_last
        self._number = number
        self._is_first = not found.places.segments
        self._memory = memory
        self._found = found
        self._offset = 0

    def read(self, file: File) -> None:
        """Read all of it. Raises DamagedError."""
        self._read_header(file)
        tail = self._found.tail
        for batch in batches(file, tail.salt, tail.batch):
            self._offset = batch.start
            self._read_batch(batch)
            tail.batch += 1
            self._offset = tail.used_bytes = batch.end
        self._found.places.segments[-1].used_bytes = tail.used_bytes
        torn_bytes = rest(file, tail.salt, tail.used_bytes, tail.batch)
        if torn_bytes is None:
            raise self._damaged("a batch does not match its checksum, and later ones follow")
        if torn_bytes and not self.is_last:
            raise self._damaged("a batch does not match its checksum, and a segment follows")
        self._found.torn_bytes = torn_bytes

    def _read_header(self, file: File) -> None:
        header = decode_segment_header(file.read(SEGMENT_HEADER_BYTES, 0))
        if isinstance(header, str):
            raise self._damaged(header)
        tail = self._found.tail
        if self._is_first:
            tail.batch, tail.next_index = header.first_batch, header.next_index
        if (header.number, header.journal_id) != (self._number, self._memory.journal_id):
            raise self._damaged("a segment of another journal, or with another's name")
        if (header.first_batch, header.next_index) != (tail.batch, tail.next_index):
            raise self._damaged(
                f"batches {tail.batch} to {header.first_batch - 1}, up to index "
                f"{header.next_index - 1}, are missing before this"
            )
        tail.number, tail.salt, tail.used_bytes = self._number, header.salt, SEGMENT_HEADER_BYTES
        segment = Segment(
            self._number, segment_name(self._number), header.salt, tail.next_index,
            SEGMENT_HEADER_BYTES,
        )  # fmt: skip
        self._found.places.add_segment(segment)

    def _read_batch(self, batch: FoundBatch) -> None:
        found, tail = self._found, self._found.tail
        offsets = array("I")
        for place, (kind, index, term, start) in enumerate(batch.records):
            if kind == Kind.ENTRY:
                if index != tail.next_index or term < found.terms.last:
                    raise self._damaged(f"entry {index} of term {term} is misplaced")
                offsets.append(start - batch.start)
                found.terms.add(index, term)
                tail.next_index += 1
            elif kind == Kind.CUT and not place and index < tail.next_index:
                found.places.cut(index)
                found.terms.cut(index)
                tail.next_index = index + 1
            elif kind == Kind.RESET and not place:
                found.places.reset(index)
                found.terms.cut(-1)
                tail.next_index = index
            else:
                raise self._damaged(f"a record of kind {kind} is misplaced")
        found.places.extend(batch.start, offsets)
        found.commit_index = max(found.commit_index, batch.header.commit_index)
        found.confirmed = not batch.records

    def _damaged(self, what: str) -> DamagedError:
        next_index = self._found.tail.next_index
        place = f"{self.path}, offset {self._offset}, where index {next_index} belongs"
        return DamagedError(what, place=place)


def batches(file: File, salt: int, number: int) -> Iterator[FoundBatch]:
    """Yield a segment's good batches, counted from `number`, up to the first that is not."""
    start = SEGMENT_HEADER_BYTES
    while True:
        data = file.read(BATCH_HEADER_BYTES, start)
        header = decode_batch_header(data, salt)
        if header is None or header.number != number:
            return
        body_start = start + BATCH_HEADER_BYTES
        body = file.read(header.body_bytes, body_start)
        records = _records(body, header, salt, body_start)
        if records is None:
            return
        yield FoundBatch(start, body_start + len(body), header, records)
        start = body_start + len(body)
        number += 1


def _records(
    body: bytes, header: BatchHeader, salt: int, body_start: int
) -> list[tuple[int, int, int, int]] | None:
    """Return a batch's records, or None if they are not all good, or not all there is."""
    records = []
    end = 0
    for _ in range(header.records):
        start = end
        found = check_record(body, salt, start)
        if found is None:
            return None
        kind, index, term, end = found
        records.append((kind, index, term, body_start + start))
    return records if end == len(body) == header.body_bytes else None


def rest(file: File, salt: int, start: int, number: int) -> int | None:
    """Look through a segment after its good batches, from `start` to its end.

    Returns 0 if there are only zeros; the number of bytes to its end if there is something
    else, a torn batch; None if there is the header of a batch after the one that is bad,
    whose number is `number`: nothing was written after a batch that was not durable.
    """
    overlap = BATCH_HEADER_BYTES - 1  # so that a header across two pieces is seen
    blank = True
    offset = start
    while chunk := file.read(_CHUNK_BYTES, offset):
        if chunk != _ZEROS[: len(chunk)]:
            blank = False
            place = chunk.find(BATCH_MAGIC)
            while place >= 0:
                header = decode_batch_header(chunk, salt, place)
                if header is not None and header.number > number:
                    return None
                place = chunk.find(BATCH_MAGIC, place + 1)
        if len(chunk) < _CHUNK_BYTES:
            break
        offset += _CHUNK_BYTES - overlap
    return 0 if blank else file.size() - start
