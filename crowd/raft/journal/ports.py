"""What the journal asks of the world: a file system, and a thread to write in.

Decides the contract that the real ones (``filesystem``, ``writer``) and the tests' fakes
keep; the same contract tests run on both. Decides nothing about bytes.

What is durable, in the words used here: bytes written to a file are durable once `sync` of
that file has returned; a file's name is durable once `sync_directory` of its directory has
returned. A crash before that may keep any part of what was written, or garble it, but never
touches bytes outside the range of an unsynced write (SQLite calls this powersafe overwrite).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Lock(Protocol):
    """A lock that this process holds."""

    def close(self) -> None:
        """Let go of it."""


class File(Protocol):
    """An open file. Any method may raise OSError. Threads may read while one thread writes."""

    def read(self, size_bytes: int, offset: int) -> bytes:
        """Return the bytes at `offset`: `size_bytes` of them, fewer only at the file's end."""

    def write(self, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`; not durable at return. The file grows as needed.

        After an error any part of `data` may have been written.
        """

    def allocate(self, size_bytes: int) -> None:
        """Make the file at least this long, its new part zeros with room on the disk kept."""

    def truncate(self, size_bytes: int) -> None:
        """Cut the file to this length; not durable at return."""

    def sync(self) -> None:
        """Make all that was written to this file durable, and its length."""

    def uncache(self) -> None:
        """Have the next read come from the disk, where `sync` has returned before."""

    def size(self) -> int:
        """Return the file's length in bytes."""

    def close(self) -> None:
        """Close it; makes nothing durable."""


class FileSystem(Protocol):
    """The journal's directory. Any method may raise OSError. Names are absolute paths."""

    def make_directory(self, path: str) -> None:
        """Create the directory and its missing parents, durably; fine if it exists."""

    def names(self, path: str) -> list[str]:
        """Return the names of a directory's files, sorted."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open for reading and writing. With `create` the file is new and empty.

        Raises FileNotFoundError without `create` if there is none.
        """

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, in place of any that has it; not durable at return."""

    def remove(self, path: str) -> None:
        """Remove a file; not durable at return. Raises FileNotFoundError if there is none."""

    def sync_directory(self, path: str) -> None:
        """Make the names in this directory durable."""

    def lock(self, path: str) -> Lock:
        """Take the lock file at `path` for this process and write its id there.

        Raises DirectoryError, which names the process that holds it.
        """

    def free_bytes(self, path: str) -> int:
        """Return what this process may still write to the disk that holds `path`."""


class Writer(Protocol):
    """One thread that does jobs in the order of their submission."""

    def submit(self, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        """Do `job` off the reactor; then, in the reactor, call `done` with what it returned.

        Or with the exception that it raised. `done` is never called from within `submit`.
        """

    def soon(self, call: Callable[[], object]) -> None:
        """Call this in the reactor after what runs now, so that a turn's entries gather."""

    def close(self) -> None:
        """Wait for the jobs submitted so far, then end the thread. Jobs after that raise."""
