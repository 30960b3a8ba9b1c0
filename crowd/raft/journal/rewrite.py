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

from crowd.raft.journal.shape import BATCH_HEADER_BYTES, decode_batch_header
from crowd.raft.journal.spare import NO_SPACE

if TYPE_CHECKING:
    from crowd.raft.journal.ports import File, FileSystem


class Rewrite(msgspec.Struct, frozen=True):
    """Bytes and their place in a segment's file.

    ``next_start`` is where the next known record starts, None if there is none: an end at
    neither that nor `used_bytes` must be the start of a batch, known by ``salt``. A header,
    whose length is fixed, has ``next_start`` at its end.
    """

    name: str
    salt: int
    start: int
    data: bytes
    next_start: int | None
    used_bytes: int

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
        if end in (self.next_start, self.used_bytes):
            return True
        if end > (self.used_bytes if self.next_start is None else self.next_start):
            return False
        return decode_batch_header(file.read(BATCH_HEADER_BYTES, end), self.salt) is not None

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
