"""The next segment's file, made ready before it is needed. Runs in the writer's thread.

Decides how a segment comes by its blocks. A write to blocks that were reserved but never
written must also change the file system's own records before it is durable; on ext4 that
makes a batch's fdatasync half as long again, or worse where other nodes share the disk
(``tests/unit/journal/measure.py``). So zeros are written there ahead, a piece after a
batch: a few batches wait about a millisecond, and none waits for all of it. Behind a large
batch nothing is: it hardly notices the blocks, and zeros are as much again for the disk to
write.

Its room is kept from the start, long before the zeros: that is the reserve from which a
node on a full disk still writes what lets room be made.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crowd.raft.journal.ports import File, FileSystem

NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
NEW_SUFFIX: Final = ".new"
"""A file that has no final name yet: what a crash leaves of it is removed at the next start."""
PIECE_BYTES: Final = 512 << 10
"""About a millisecond of a disk."""
_ZEROS: Final = bytes(PIECE_BYTES)
BULK_BYTES: Final = 256 << 10
"""From here on a batch is a large one: as many zeros cost more than they save it."""


class Spare:
    """At most one file, under a name of its own until it is taken.

    Errors are OSError. One that says that there is no space leaves no file behind, unless
    room was kept before.
    """

    def __init__(self, filesystem: FileSystem, directory: str) -> None:
        self._filesystem = filesystem
        self.path = f"{directory}/spare{NEW_SUFFIX}"
        self._file: File | None = None
        self._written_bytes = 0
        self._refused = False
        self._reserved_bytes = 0

    @property
    def reserved(self) -> bool:
        """Whether room is kept for the next file."""
        return self._reserved_bytes > 0

    @property
    def is_unasked(self) -> bool:
        """Whether room was not asked for since the last file was taken."""
        return not (self.reserved or self._refused)

    def is_wanted(self, size_bytes: int) -> bool:
        """Tell whether there are zeros left to write for a file of this size."""
        return self._written_bytes < size_bytes and not self._refused

    def reserve(self, size_bytes: int) -> None:
        """Keep room for a file of this size, if the disk has it; nothing of it is durable.

        It need not be: the reserve is for a disk that fills while this process runs.
        """
        if self.reserved:
            return
        try:
            self._open().allocate(size_bytes)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self.discard()
            self._refused = True
            return
        self._reserved_bytes, self._refused = size_bytes, False

    def prepare(self, size_bytes: int) -> None:
        """Write the next piece of zeros, durably. Without space this waits for `take`."""
        if not self.is_wanted(size_bytes):
            return
        try:
            file = self._open()
            piece_bytes = min(PIECE_BYTES, size_bytes - self._written_bytes)
            file.write(_ZEROS[:piece_bytes], self._written_bytes)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            if not self.reserved:
                self.discard()
            self._refused = True
            return
        self._written_bytes += piece_bytes
        # Piece by piece, not at the end: one sync of it all would hold up the batch behind it.
        file.sync()

    def take(self, size_bytes: int, header: bytes) -> File:
        """Return the file, at least this long, ready or not, with `header` in front.

        Nothing of it is durable yet, and it has the spare's name until the caller gives it
        its own and calls `taken`.
        """
        try:
            file = self._open()
            if size_bytes > self._reserved_bytes:
                file.allocate(size_bytes)
            file.write(header, 0)
        except OSError as error:
            # What is kept stays kept, be it too small for this file.
            if error.errno in NO_SPACE and not self.reserved:
                self.discard()
            raise
        return file

    def taken(self) -> None:
        """Forget the file: it has another name now."""
        self._file, self._written_bytes, self._reserved_bytes = None, 0, 0
        self._refused = False

    def discard(self) -> None:
        """Remove the file, if there is one."""
        file = self._file
        self.taken()
        if file is not None:
            file.close()
            self._filesystem.remove(self.path)

    def close(self) -> None:
        """Close the file; the next start removes it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> File:
        if self._file is None:
            self._file = self._filesystem.open(self.path, create=True)
        return self._file
