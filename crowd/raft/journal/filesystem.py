"""The real file system: the one module of crowd's journal that names ``os``.

Decides which system call stands for each word of ``ports``; leaves to others what is
written and when it must be durable.

Linux is what this is built for. ``fdatasync`` makes a file's bytes durable and as much
about the file as is needed to read them back, its length included; it leaves out the time
stamps, which saves a second write. An error of it is never retried: Linux drops the dirty
pages and reports the error once, so that a second call would lie (I8).
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from crowd.errors import DirectoryError

_NO_PREALLOCATION: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What a file system without preallocation answers; then the file grows as it is written."""


class DiskFile:
    """A file on the disk."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size_bytes: int, offset: int) -> bytes:
        """Return the bytes at `offset`, fewer than asked only at the end of the file."""
        data = os.pread(self._descriptor, size_bytes, offset)
        if len(data) == size_bytes or not data:
            return data
        parts = [data]
        while data:  # a read may come back short at a signal, not only at the end
            size_bytes -= len(data)
            offset += len(data)
            data = os.pread(self._descriptor, size_bytes, offset)
            parts.append(data)
        return b"".join(parts)

    def write(self, data: bytes, offset: int) -> None:
        """Write all of `data`; a short write goes on where it stopped, so ENOSPC shows."""
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            count = os.pwrite(self._descriptor, data[written:], offset + written)
            if count == 0:
                raise OSError(errno.EIO, "the disk takes no more of a write and gives no reason")
            written += count

    def allocate(self, size_bytes: int) -> None:
        """Reserve room up to this length, so that a write within it finds space."""
        try:
            os.posix_fallocate(self._descriptor, 0, size_bytes)
        except OSError as error:
            if error.errno not in _NO_PREALLOCATION:
                raise

    def truncate(self, size_bytes: int) -> None:
        """Cut the file."""
        os.ftruncate(self._descriptor, size_bytes)

    def sync(self) -> None:
        """Wait until the disk has all of it."""
        os.fdatasync(self._descriptor)

    def uncache(self) -> None:
        """Drop the clean pages that the system holds of this file.

        After a failed fdatasync Linux keeps the pages, marked clean: another process would
        read from memory what the disk never got.
        """
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def size(self) -> int:
        """Return the file's length in bytes."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class DiskLock:
    """An exclusive ``flock``: the system lets go of it when the process ends, however it does."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go. The file stays: to remove it would race with one who waits for it."""
        os.close(self._descriptor)


class DiskFileSystem:
    """The disk."""

    def make_directory(self, path: str) -> None:
        """Create the directory and its parents, each name durable before this returns."""
        if Path(path).is_dir():
            return
        parent = str(Path(path).absolute().parent)
        self.make_directory(parent)
        Path(path).mkdir(0o750)
        # The new directory's name is in its parent: without this a crash forgets it, and
        # with it all that was ever made durable inside.
        self.sync_directory(parent)

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(entry.name for entry in Path(path).iterdir())

    def open(self, path: str, *, create: bool = False) -> DiskFile:
        """Open a file; it is not inherited by a process that this one starts."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        return DiskFile(os.open(path, flags, 0o640))

    def rename(self, old: str, new: str) -> None:
        """Rename atomically."""
        Path(old).replace(new)

    def remove(self, path: str) -> None:
        """Remove a file."""
        Path(path).unlink()

    def sync_directory(self, path: str) -> None:
        """Make the directory's names durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: str) -> DiskLock:
        """Take the lock, or say which process has it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise DirectoryError(
                f"{Path(path).parent}: found it in use by process {holder}; "
                "expected a directory that no other process uses"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return DiskLock(descriptor)

    def free_bytes(self, path: str) -> int:
        """Return the free space that an ordinary process may use."""
        state = os.statvfs(path)
        return state.f_bavail * state.f_frsize
