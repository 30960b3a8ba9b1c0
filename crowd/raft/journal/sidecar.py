"""A finished segment's index file: its summary, so that a start need not read the segment.

Decides its bytes, how it comes to the disk, and what makes it usable. It is never needed:
without a good one the segment is read, and the file is written anew. So it may be lost at any
moment, and no sync of its directory waits for its name.

Two checksums cover all of it. The head's is checked at every start, the one of the offsets,
which are nearly all of the file, when they are first asked for.
"""

from __future__ import annotations

import struct
import sys
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from google_crc32c import extend as crc32c

from crowd.errors import NoSpaceError
from crowd.raft.journal.shape import SegmentHeader
from crowd.raft.journal.spare import NEW_SUFFIX, NO_SPACE
from crowd.raft.journal.summary import Summary

if TYPE_CHECKING:
    from crowd.raft.journal.ports import File, FileSystem

INDEX_SUFFIX: Final = ".index"
_MAGIC: Final = b"\x89crowdI\n"
_FORMAT: Final = 1
_PREFIX: Final = struct.Struct("<8sI")  # magic, checksum of the rest of the head
_HEAD: Final = struct.Struct("<IIQQQ16sQQQQIIII")
# format, salt, number, first batch, next index, journal (these five as in the segment), end
# batch, used bytes, base, commit index, reset, count, runs, checksum of the offsets
_RUN: Final = struct.Struct("<QQ")  # first index, term
HEAD_BYTES: Final = _PREFIX.size + _HEAD.size
_OFFSET_BYTES: Final = 4


def index_name(number: int) -> str:
    """Return the file name of a segment's index."""
    return f"{number:016d}{INDEX_SUFFIX}"


def encode_index(summary: Summary) -> bytes:
    """Return an index file's bytes. About 0.2 ms for 190 000 entries."""
    assert summary.offsets is not None
    assert len(summary.offsets) == summary.count
    header, runs = summary.header, summary.terms.runs
    offsets = _little_endian(summary.offsets).tobytes()
    rest = _HEAD.pack(
        _FORMAT, header.salt, header.number, header.first_batch, header.next_index,
        header.journal_id, summary.end_batch, summary.used_bytes, summary.base,
        summary.commit_index, summary.reset, summary.count, len(runs), crc32c(0, offsets),
    ) + b"".join(_RUN.pack(first, term) for first, term in runs)  # fmt: skip
    return _PREFIX.pack(_MAGIC, crc32c(0, rest)) + rest + offsets


def read_head(file: File) -> Summary | None:
    """Return what an index file says, without the offsets; None if it is not good."""
    found = _read_head(file)
    return found[0] if found is not None else None


def read_index(file: File) -> Summary | None:
    """Return what an index file says, offsets included; None if it is not good."""
    found = _read_head(file)
    if found is None:
        return None
    summary, start, stored = found
    data = file.read(_OFFSET_BYTES * summary.count, start)
    if crc32c(0, data) != stored:
        return None
    offsets = array("I")
    offsets.frombytes(data)
    summary.offsets = _little_endian(offsets)
    return summary


def open_index(filesystem: FileSystem, directory: str, number: int) -> File | None:
    """Open a segment's index file; None if there is none."""
    try:
        return filesystem.open(f"{directory}/{index_name(number)}")
    except FileNotFoundError:
        return None


def load_index(
    filesystem: FileSystem, directory: str, header: SegmentHeader, *, uncached: bool = False
) -> Summary | None:
    """Return the whole of a segment's index file; None if it is missing, bad or another's.

    `uncached` has it read from the disk, where the system's memory may still show it whole.
    """
    file = open_index(filesystem, directory, header.number)
    if file is None:
        return None
    try:
        if uncached:
            file.uncache()
        summary = read_index(file)
    finally:
        file.close()
    return summary if summary is not None and summary.header == header else None


def write_index(filesystem: FileSystem, directory: str, summary: Summary) -> None:
    """Make a segment's index file, in place of any that is there.

    Raises NoSpaceError if there is no room (nothing changed), OSError.
    """
    path = f"{directory}/{index_name(summary.header.number)}"
    try:
        file = filesystem.open(path + NEW_SUFFIX, create=True)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise NoSpaceError(f"no space for {path}") from error
    try:
        try:
            file.write(encode_index(summary), 0)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            remove_if_there(filesystem, path + NEW_SUFFIX)
            raise NoSpaceError(f"no space for {path}") from error
        # The bytes before the name: a file with an index file's name was whole once. Its
        # name is not waited for: if a crash forgets it the segment is read. An error of it
        # is final even if it says "no space" (I8).
        file.sync()
    finally:
        file.close()
    filesystem.rename(path + NEW_SUFFIX, path)


def remove_if_there(filesystem: FileSystem, path: str) -> None:
    """Remove a file that may not be there."""
    with suppress(FileNotFoundError):
        filesystem.remove(path)


def _read_head(file: File) -> tuple[Summary, int, int] | None:
    """Return the summary, where the offsets start, and their checksum."""
    data = file.read(HEAD_BYTES, 0)
    if len(data) < HEAD_BYTES:
        return None
    magic, stored = _PREFIX.unpack_from(data)
    (
        version, salt, number, first_batch, next_index, journal_id, end_batch, used_bytes, base,
        commit_index, reset, count, runs, offsets_crc,
    ) = _HEAD.unpack_from(data, _PREFIX.size)  # fmt: skip
    start = HEAD_BYTES + _RUN.size * runs
    # The size first: it bounds what a bad count could have us read.
    if magic != _MAGIC or file.size() != start + _OFFSET_BYTES * count:
        return None
    data += file.read(start - HEAD_BYTES, HEAD_BYTES)
    if crc32c(0, data[_PREFIX.size :]) != stored or version != _FORMAT:
        return None
    summary = Summary(SegmentHeader(salt, number, first_batch, next_index, journal_id), used_bytes)
    summary.end_batch, summary.base, summary.commit_index = end_batch, base, commit_index
    summary.reset, summary.count, summary.offsets = bool(reset), count, None
    for place in range(HEAD_BYTES, start, _RUN.size):
        summary.terms.add(*_RUN.unpack_from(data, place))
    return summary, start, offsets_crc


def _little_endian(offsets: array[int]) -> array[int]:
    if sys.byteorder != "little":  # pragma: no cover
        offsets = array("I", offsets)
        offsets.byteswap()
    return offsets
