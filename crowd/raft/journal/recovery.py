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
from crowd.raft.journal.appender import SUFFIX, Tail, after_cut, segment_name
from crowd.raft.journal.places import Places, Segment, Terms
from crowd.raft.journal.shape import (
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    SEGMENT_HEADER_BYTES,
    BatchHeader,
    Cut,
    Kind,
    SegmentHeader,
    check_record,
    decode_batch_header,
    decode_segment_header,
)
from crowd.raft.journal.sidecar import (
    INDEX_SUFFIX,
    encode_index,
    load_index,
    open_index,
    read_head,
)
from crowd.raft.journal.spare import NEW_SUFFIX
from crowd.raft.journal.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crowd.raft.journal.memory import Memory
    from crowd.raft.journal.ports import File, FileSystem

_CHUNK_BYTES: Final = 1 << 20
"""The rest of a segment is looked through in pieces of this size."""
_SEGMENT_NAME: Final = re.compile(r"[0-9]{16}" + re.escape(SUFFIX))
_INDEX_NAME: Final = re.compile(r"[0-9]{16}" + re.escape(INDEX_SUFFIX))
_ZEROS: Final = bytes(_CHUNK_BYTES)


class Found(msgspec.Struct):
    """What a journal's files hold.

    ``torn_bytes``: the last segment's, to be cut away. ``bad_headers``: those of segments
    whose first bytes are bad and known from the index file, to be written anew.
    ``last_start``: where the last segment's last batch starts.
    """

    places: Places
    terms: Terms
    tail: Tail
    commit_index: int = 0
    confirmed: bool = False
    last_start: int = 0
    torn_bytes: int = 0
    stray: tuple[str, ...] = ()
    bad_headers: list[SegmentHeader] = []
    unread: int = 0


class FoundBatch(msgspec.Struct, frozen=True):
    """A good batch: from `start` to `end`, with each record's kind, index, term and start."""

    start: int
    end: int
    header: BatchHeader
    records: list[tuple[int, int, int, int]]


def recover(
    filesystem: FileSystem, directory: str, memory: Memory, checkpoint_index: int = 0
) -> Found:
    """Read and verify every segment, but those that a checkpoint and an index file vouch for.

    A segment is not read if its entries are all at or below `checkpoint_index` and its index
    file is good: a start needs none of them, the scrub verifies them later, and so does every
    read.

    Raises DamagedError, which names the file, the offset and the index, and OSError.
    """
    names, stray = segments_expected(filesystem, directory, memory)
    found = Found(Places(), Terms(), Tail(0, 0, 0, 1, 1), stray=stray)
    for number, name in enumerate(names, memory.first_segment):
        reading = _Reading(filesystem, directory, memory, found, number, is_last=name == names[-1])
        file = filesystem.open(reading.path)
        try:
            if reading.is_last:
                # What a killed process wrote may stand in the system's memory only: it must
                # be durable before it is believed. And what a failed sync left there, marked
                # clean, must not be believed at all: read what the disk has.
                file.sync()
                file.uncache()
            reading.read(file, checkpoint_index)
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
    stray += [
        name
        for name in names
        if name.endswith(NEW_SUFFIX)
        # The last segment has no index file either: it is still written to.
        or (_INDEX_NAME.fullmatch(name) and int(name[:16]) not in expected[:-1])
    ]
    return tuple(segment_name(number) for number in expected), tuple(stray)


class _Reading:
    """One segment, read into what was found before it."""

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        memory: Memory,
        found: Found,
        number: int,
        *,
        is_last: bool,
    ) -> None:
        self.path = f"{directory}/{segment_name(number)}"
        self.is_last = is_last
        self._filesystem = filesystem
        self._directory = directory
        self._number = number
        self._is_first = not found.places.segments
        self._memory = memory
        self._found = found

    def read(self, file: File, checkpoint_index: int) -> None:
        """Read what must be read of it. Raises DamagedError."""
        head = None if self.is_last else self._head()
        header = self._header(file, head)
        if head is not None and head.header == header and head.last_index <= checkpoint_index:
            self._found.unread += 1
            self._found.confirmed = False
            self._apply(head, None)
            return
        scan = Scan(self.path, header)
        self._found.torn_bytes = scan.read(file, is_last=self.is_last)
        self._found.confirmed, self._found.last_start = scan.confirmed, scan.last_start
        summary = scan.summary
        kept = None if head is not None and self._is_indexed(summary) else summary
        self._apply(summary, kept)

    def _head(self) -> Summary | None:
        file = open_index(self._filesystem, self._directory, self._number)
        if file is None:
            return None
        try:
            return read_head(file)
        finally:
            file.close()

    def _is_indexed(self, summary: Summary) -> bool:
        """Tell whether the segment's index file says what was read."""
        found = load_index(self._filesystem, self._directory, summary.header)
        return found is not None and encode_index(found) == encode_index(summary)

    def _header(self, file: File, head: Summary | None) -> SegmentHeader:
        header = decode_segment_header(file.read(SEGMENT_HEADER_BYTES, 0))
        if isinstance(header, str):
            # The index file has a second copy of it, under a checksum of its own.
            if head is None:
                raise self._damaged(header)
            header = head.header
            self._found.bad_headers.append(header)
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
        return header

    def _apply(self, summary: Summary, kept: Summary | None) -> None:
        """Take a segment's entries, and what it takes away of those before it."""
        found, tail, header = self._found, self._found.tail, summary.header
        places, terms = found.places, found.terms
        places.add_segment(Segment(header, segment_name(self._number), kept))
        if summary.reset:
            places.reset(summary.base)
            terms.cut(-1)
        elif summary.base < header.next_index:
            places.cut(summary.base - 1)
            terms.cut(summary.base - 1)
        for first, term in summary.terms.runs:
            if term < terms.last:
                raise self._damaged(f"entry {first} of term {term} is misplaced")
            terms.add(first, term)
        places.extend(summary.count, summary.used_bytes)
        tail.number, tail.salt, tail.used_bytes = self._number, header.salt, summary.used_bytes
        tail.batch, tail.next_index = summary.end_batch, summary.last_index + 1
        found.commit_index = max(found.commit_index, summary.commit_index)

    def _damaged(self, what: str) -> DamagedError:
        next_index = self._found.tail.next_index
        place = f"{self.path}, offset 0, where index {next_index} belongs"
        return DamagedError(what, place=place)


class Scan:
    """Reads a segment's batches into its ``summary``, each verified.

    ``confirmed`` says that the last one has no records, so that the one before it was
    durable; ``last_start`` is where it starts.
    """

    def __init__(self, path: str, header: SegmentHeader) -> None:
        self._path = path
        self._offset = SEGMENT_HEADER_BYTES
        self.summary = Summary(header, SEGMENT_HEADER_BYTES)
        self.confirmed = False
        self.last_start = 0

    def read(self, file: File, *, is_last: bool) -> int:
        """Read all of it; return how many bytes of a torn batch follow. Raises DamagedError."""
        summary = self.summary
        salt = summary.header.salt
        for batch in batches(file, salt, summary.end_batch):
            self._offset = self.last_start = batch.start
            self._read_batch(batch)
            self._offset = batch.end
        torn_bytes = rest(file, salt, summary.used_bytes, summary.end_batch)
        if torn_bytes is None:
            raise self._damaged("a batch does not match its checksum, and later ones follow")
        if torn_bytes and not is_last:
            raise self._damaged("a batch does not match its checksum, and a segment follows")
        return torn_bytes

    def _read_batch(self, batch: FoundBatch) -> None:
        summary = self.summary
        records = batch.records
        cut = None
        if records and records[0][0] != Kind.ENTRY:
            kind, index, _, _ = records[0]
            if kind not in (Kind.CUT, Kind.RESET) or (
                kind == Kind.CUT and index > summary.last_index
            ):
                raise self._damaged(f"a record of kind {kind} is misplaced")
            cut = Cut(Kind(kind), index)
            records = records[1:]
        offsets = array("I")
        next_index, last_term = after_cut(cut, summary.last_index + 1), summary.terms.last
        if cut is not None:
            last_term = 0  # what is left before it is known when all is put together
        for kind, index, term, start in records:
            if kind != Kind.ENTRY:
                raise self._damaged(f"a record of kind {kind} is misplaced")
            if index != next_index or term < last_term:
                raise self._damaged(f"entry {index} of term {term} is misplaced")
            offsets.append(start - batch.start)
            next_index, last_term = index + 1, term
        summary.take(
            batch.start, batch.end, batch.header.commit_index, cut, offsets,
            [(None, index, term) for _, index, term, _ in records],
        )  # fmt: skip
        self.confirmed = not batch.records

    def _damaged(self, what: str) -> DamagedError:
        place = (
            f"{self._path}, offset {self._offset}, "
            f"where index {self.summary.last_index + 1} belongs"
        )
        return DamagedError(what, place=place)


def scan_segment(filesystem: FileSystem, directory: str, header: SegmentHeader) -> Summary:
    """Return a finished segment's summary, read from all of it. Raises DamagedError, OSError."""
    path = f"{directory}/{segment_name(header.number)}"
    scan = Scan(path, header)
    file = filesystem.open(path)
    try:
        scan.read(file, is_last=False)
    finally:
        file.close()
    return scan.summary


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
