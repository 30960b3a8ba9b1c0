"""The checkpoints' files: their names, and what is done to them in the background.

Decides the order of effects on the disk; the comment at each sync says what rests on it.
Decides nothing about when, or about which are kept.

A file's name says what it is. It is made under a name that no start believes (``.part``),
and gets its own only when all its bytes are durable; so a file with a checkpoint's name is
whole, and one that is not was damaged later. The floor has a name of its own: that it is
the floor, and that all older ones are useless, is one durable fact.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from crowd.errors import DamagedError, MalformedError, NeedsNewerCrowdError, NoSpaceError
from crowd.raft.checkpoints.background import sync
from crowd.raft.checkpoints.shape import Checkpoint, Verifier
from crowd.raft.journal.spare import NO_SPACE

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from crowd.raft.checkpoints.shape import Encoding
    from crowd.raft.journal.ports import File, FileSystem

CHECKPOINT: Final = ".checkpoint"
FLOOR: Final = ".floor"
RECEIVED: Final = ".install"
PART: Final = ".part"
NAME: Final = re.compile(r"([0-9]{16,19})(\.checkpoint|\.floor|\.install)")

SYNC_EVERY_PIECES: Final = 16
"""4 MiB: one sync at the end would have the disk write all of it before a batch of the log."""


class Files:
    """The directory, as checkpoints use it. Its methods may raise OSError; see each."""

    def __init__(
        self, filesystem: FileSystem, directory: str, cluster: str, piece_bytes: int
    ) -> None:
        self.filesystem = filesystem
        self.directory = directory
        self.cluster = cluster
        self.piece_bytes = piece_bytes
        self._parts = 0

    def path(self, index: int, suffix: str) -> str:
        """Return the path of a checkpoint's file."""
        return f"{self.directory}/{index:016d}{suffix}"

    def new_part(self) -> str:
        """Return a path that no other work of this process uses. In the reactor."""
        self._parts += 1
        return f"{self.directory}/{self._parts:016d}{PART}"

    def open(self, checkpoint: Checkpoint) -> tuple[File, str]:
        """Open a checkpoint under whichever name it has; return its path too. Any thread.

        Raises FileNotFoundError if it has none.
        """
        # Twice round: it may be given another name while this looks.
        for suffix in (CHECKPOINT, FLOOR, RECEIVED) * 2:
            path = self.path(checkpoint.index, suffix)
            try:
                return self.filesystem.open(path), path
            except FileNotFoundError:
                pass
        raise FileNotFoundError(f"{self.path(checkpoint.index, CHECKPOINT)}: no such file")

    def read(self, file: File, path: str, *, keep: bool) -> Generator[None, None, Verifier]:
        """Read a file from the disk and verify it, a piece a step.

        Raises DamagedError with file and offset, NeedsNewerCrowdError, OSError.
        """
        # What a failed sync left in the system's memory must not be believed.
        file.uncache()
        verifier = Verifier(path, self.cluster, keep=keep)
        offset = 0
        while data := file.read(self.piece_bytes, offset):
            verifier.feed(data)
            offset += len(data)
            yield
        verifier.end()
        return verifier

    def write(self, path: str, encoding: Encoding) -> Generator[None, None, NoSpaceError | None]:
        """Write a checkpoint under a name for parts, durably, a piece a step.

        Returns NoSpaceError, and leaves no file, if there is no room.
        """
        file: File | None = None
        try:
            file = self.filesystem.open(path, create=True)
            # Room for all of it at once: without it this ends before a byte is written.
            file.allocate(encoding.size_bytes)
            offset = 0
            for number, piece in enumerate(encoding, 1):
                file.write(piece, offset)
                offset += len(piece)
                yield
                if number % SYNC_EVERY_PIECES == 0:
                    sync(file)
                    yield
            # The bytes before the name: a file with a checkpoint's name was whole once.
            sync(file)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            if file is not None:
                self.filesystem.remove(path)
            return NoSpaceError(f"no space for a checkpoint of {encoding.size_bytes} bytes")
        finally:
            if file is not None:
                file.close()
        return None

    def publish(self, part: str, path: str) -> NoSpaceError | None:
        """Give a whole file its name, durably. Raises OSError and StorageFailedError."""
        try:
            self.filesystem.rename(part, path)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self.filesystem.remove(part)
            return NoSpaceError(f"no space for the name {path}")
        # Before anybody is told: the log may be cut as soon as they are.
        self.filesystem.sync_directory(self.directory)
        return None

    def make_floor(self, index: int, suffix: str) -> None:
        """Make a checkpoint the floor, durably. Raises OSError."""
        self.filesystem.rename(self.path(index, suffix), self.path(index, FLOOR))
        # Before the log is cut to it and older checkpoints go. A start that found an older
        # floor would offer followers a checkpoint that the log does not begin at.
        self.filesystem.sync_directory(self.directory)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, those of them that are there. Raises OSError."""
        present = set(self.filesystem.names(self.directory))
        for name in names:
            if name in present:
                self.filesystem.remove(f"{self.directory}/{name}")
        # No sync: a file that a crash brings back is removed at the next start.

    def names(self, index: int) -> tuple[str, ...]:
        """Return the names that a checkpoint in use may have."""
        return tuple(f"{index:016d}{suffix}" for suffix in (CHECKPOINT, FLOOR))


def verified(
    files: Files, file: File, path: str, digest: bytes, total: int
) -> Generator[None, None, Checkpoint | MalformedError]:
    """Read back a received file; return what it is, or what is wrong with it. Raises OSError."""
    try:
        verifier = yield from files.read(file, path, keep=False)
    except (DamagedError, NeedsNewerCrowdError) as error:
        return MalformedError(f"received a bad checkpoint: {error}")
    checkpoint = verifier.end()
    if (checkpoint.digest, checkpoint.size_bytes) != (digest, total):
        return MalformedError(
            f"received checkpoint {checkpoint.digest.hex()} of {checkpoint.size_bytes} bytes; "
            f"expected {digest.hex()} of {total}"
        )
    return checkpoint
