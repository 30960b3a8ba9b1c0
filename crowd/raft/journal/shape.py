"""The journal's bytes: segments, batches and records. Pure.

Decides how they are laid out and what makes them valid; ``docs/reference/journal-format.md``
draws them. Leaves to others which file they stand in and when they are durable.

A segment is a header and then batches, back to back, up to its first zero byte. A batch is
what one write put there: a header and its records. A record is an entry, or says that the
log was cut. All integers are little-endian. Every checksum is CRC-32C (RFC 3720, B.4)
started with the segment's salt: bytes of an older file, or a batch that a producer forged
in a message's body, check as false even where they lie at the right place.
"""

from __future__ import annotations

import enum
import struct
from array import array
from typing import TYPE_CHECKING, Final

import msgspec
from google_crc32c import extend as crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

Entry = tuple[bytes, int, int]
"""(command, index, term), as pysyncobj has it."""

SEGMENT_MAGIC: Final = b"\x89crowdJ\n"
"""Not text, and changed by a transfer that believes it is (the idea is PNG's)."""
BATCH_MAGIC: Final = b"\xb1BAT"
FORMAT: Final = 1

_SEGMENT: Final = struct.Struct("<8sIIQQQ16s")  # magic, format, salt, number, batch, index, journal
_CRC: Final = struct.Struct("<I")
SEGMENT_HEADER_BYTES: Final = _SEGMENT.size + _CRC.size

_BATCH: Final = struct.Struct("<QQII")  # number, commit index, body bytes, records
_BATCH_PREFIX_BYTES: Final = 8  # magic and checksum
BATCH_HEADER_BYTES: Final = _BATCH_PREFIX_BYTES + _BATCH.size

_RECORD: Final = struct.Struct("<IQQB")  # payload bytes, index, term, kind
_RECORD_ALL: Final = struct.Struct("<IIQQB")  # the same after its checksum
RECORD_HEADER_BYTES: Final = _RECORD_ALL.size

COMMAND_BYTES_MAX: Final = 1 << 26
"""The longest command, 64 MiB: four times the largest message, and a bound for a reader."""


class Kind(enum.IntEnum):
    """What a record says. Zero is none, so that a run of zeros is no record."""

    ENTRY = 1
    """The payload is the command of the entry at this index."""
    CUT = 2
    """Entries above this index are gone; the next one has the index after it."""
    RESET = 3
    """All entries are gone; the next one has this index."""


class Cut(msgspec.Struct, frozen=True, gc=False):
    """A batch's first record, where it is no entry."""

    kind: Kind
    index: int


class SegmentHeader(msgspec.Struct, frozen=True, gc=False):
    """What a segment's first bytes say.

    ``number`` counts the journal's segments from 1. ``first_batch`` and ``next_index`` are
    what its first batch's number and its first entry's index will be, unless that batch
    begins with a cut; so a missing or shortened segment before this one shows.
    """

    salt: int
    number: int
    first_batch: int
    next_index: int
    journal_id: bytes


class BatchHeader(msgspec.Struct, frozen=True, gc=False):
    """What a batch's first bytes say. Batches are numbered from 1 through all segments."""

    number: int
    commit_index: int
    body_bytes: int
    records: int


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Return the first `SEGMENT_HEADER_BYTES` of a segment."""
    data = _SEGMENT.pack(
        SEGMENT_MAGIC, FORMAT, header.salt, header.number, header.first_batch,
        header.next_index, header.journal_id,
    )  # fmt: skip
    return data + _CRC.pack(crc32c(0, data))


def decode_segment_header(data: bytes) -> SegmentHeader | str:
    """Return the header that `data` begins with, or what is wrong with it."""
    if len(data) < SEGMENT_HEADER_BYTES:
        return f"a segment of {len(data)} bytes; expected at least {SEGMENT_HEADER_BYTES}"
    magic, version, salt, number, batch, index, journal_id = _SEGMENT.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        return "no segment of a journal (its first eight bytes are wrong)"
    if crc32c(0, data[: _SEGMENT.size]) != _CRC.unpack_from(data, _SEGMENT.size)[0]:
        return "a segment's header does not match its checksum"
    if version != FORMAT:
        return f"a segment of format {version}; expected {FORMAT}"
    return SegmentHeader(salt, number, batch, index, journal_id)


def encode_batch(
    salt: int, number: int, commit_index: int, cut: Cut | None, entries: Sequence[Entry]
) -> tuple[bytes, array[int]]:
    """Return a batch's bytes, and where in them each entry's record starts.

    About 1.5 µs an entry and 0.05 µs a KiB: this runs in the writer's thread, but takes the
    interpreter's lock from the reactor.
    """
    parts: list[bytes] = [b""]
    offset = BATCH_HEADER_BYTES
    offsets = array("I")
    if cut is not None:
        head = _RECORD.pack(0, cut.index, 0, cut.kind)
        parts += (_CRC.pack(crc32c(salt, head)), head)
        offset += RECORD_HEADER_BYTES
    pack, pack_crc, kind = _RECORD.pack, _CRC.pack, int(Kind.ENTRY)
    for command, index, term in entries:
        head = pack(len(command), index, term, kind)
        parts += (pack_crc(crc32c(crc32c(salt, head), command)), head, command)
        offsets.append(offset)
        offset += RECORD_HEADER_BYTES + len(command)
    records = len(entries) + (cut is not None)
    parts[0] = encode_batch_header(
        salt, BatchHeader(number, commit_index, offset - BATCH_HEADER_BYTES, records)
    )
    return b"".join(parts), offsets


def encode_batch_header(salt: int, header: BatchHeader) -> bytes:
    """Return a batch's first `BATCH_HEADER_BYTES`."""
    head = _BATCH.pack(header.number, header.commit_index, header.body_bytes, header.records)
    return BATCH_MAGIC + _CRC.pack(crc32c(salt, head)) + head


def encode_record(salt: int, entry: Entry) -> bytes:
    """Return an entry's record: the same bytes wherever it stands in a segment of this salt."""
    command, index, term = entry
    head = _RECORD.pack(len(command), index, term, Kind.ENTRY)
    return _CRC.pack(crc32c(crc32c(salt, head), command)) + head + command


def decode_batch_header(data: bytes, salt: int, start: int = 0) -> BatchHeader | None:
    """Return the header at `start` of `data`; None if there is none or its checksum is false."""
    end = start + BATCH_HEADER_BYTES
    if data[start : start + 4] != BATCH_MAGIC or len(data) < end:
        return None
    (stored,) = _CRC.unpack_from(data, start + 4)
    if crc32c(salt, data[start + _BATCH_PREFIX_BYTES : end]) != stored:
        return None
    return BatchHeader(*_BATCH.unpack_from(data, start + _BATCH_PREFIX_BYTES))


def check_record(data: bytes, salt: int, start: int) -> tuple[int, int, int, int] | None:
    """Return (kind, index, term, end) of the record at `start` of `data`.

    None if it is cut short or its checksum is false.
    """
    body = start + RECORD_HEADER_BYTES
    if len(data) < body:
        return None
    stored, size, index, term, kind = _RECORD_ALL.unpack_from(data, start)
    end = body + size
    if len(data) < end or crc32c(salt, data[start + _CRC.size : end]) != stored:
        return None
    return kind, index, term, end


def decode_entry(data: bytes, salt: int, start: int) -> tuple[Entry, int] | None:
    """Return the entry whose record is at `start` of `data`, and where it ends; None as above."""
    found = check_record(data, salt, start)
    if found is None or found[0] != Kind.ENTRY:
        return None
    _, index, term, end = found
    return (data[start + RECORD_HEADER_BYTES : end], index, term), end


def record_bytes(header: bytes) -> int:
    """Return the length that a record's header claims, the header's own included. Not verified."""
    if len(header) < RECORD_HEADER_BYTES:
        return RECORD_HEADER_BYTES
    return RECORD_HEADER_BYTES + int(_RECORD_ALL.unpack(header)[1])
