"""Writes again, at its place, what a finished batch held. Runs in the writer's thread.

Decides whether bytes belong at a place. The bytes are always those that once stood there:
an entry's record is a function of the entry and the segment's salt, a header of what its
neighbours say. So a mended segment is byte for byte what it was (but for the commit index
in a mended batch header, a lower bound anyway).

Order of effects: write, fdatasync, drop from the system's cache, read back. A crash at any
step leaves in that range some mixture of the old bytes, which were bad, and the right ones:
bad or good, never another entry, as the checksum covers all of it. No byte outside the range
is touched, and the last batch of the log never is: a tear there would look like a torn
write, and be cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from crowd.raft.journal.shape import (
    BATCH_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    check_record,
    decode_batch_header,
    record_bytes,
)
from crowd.raft.journal.spare import NO_SPACE

if TYPE_CHECKING:
    from crowd.raft.journal.ports import File, FileSystem


class Rewrite(msgspec.Struct, frozen=True):
    """Bytes and their place in a segment's file.

    ``next_start`` is where the next known record starts, `used_bytes` if there is none. The
    bytes fit if they end there, or if what begins at their end is whole (a batch, or an entry
    that was cut off), or if just a batch's header has room between: one that is bad as well,
    as both lay in one sector.
    """

    name: str
    salt: int
    start: int
    data: bytes
    next_start: int

    def do(self, filesystem: FileSystem, directory: str) -> bool:
        """Write the bytes durably if they fit; tell whether the disk has them. Raises OSError."""
        try:
            file = filesystem.open(f"{directory}/{self.name}")
        except FileNotFoundError:
            return False  # removed meanwhile: there is nothing left to mend
        try:
            return self._fits(file) and self._write(file)
        finally:
            file.close()

    def _fits(self, file: File) -> bool:
        end = self.start + len(self.data)
        gap_bytes = self.next_start - end
        if gap_bytes in (0, BATCH_HEADER_BYTES, BATCH_HEADER_BYTES + RECORD_HEADER_BYTES):
            return True
        if gap_bytes < RECORD_HEADER_BYTES:
            return False
        head = file.read(BATCH_HEADER_BYTES, end)
        if decode_batch_header(head, self.salt) is not None:
            return True
        size_bytes = min(record_bytes(head[:RECORD_HEADER_BYTES]), gap_bytes)
        return check_record(file.read(size_bytes, end), self.salt, 0) is not None

    def _write(self, file: File) -> bool:
        file.uncache()  # the flaw may be the disk's, while memory still shows the right bytes
        if file.read(len(self.data), self.start) == self.data:
            return True
        try:
            file.write(self.data, self.start)
        except OSError as error:
            if error.errno not in NO_SPACE:  # a file system that writes every block anew
                raise
            return False
        # Durable before anyone is told that the entry is good again.
        file.sync()
        file.uncache()
        return file.read(len(self.data), self.start) == self.data
