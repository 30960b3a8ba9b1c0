"""A checkpoint that comes from a peer, piece by piece.

Decides what of it is in memory (a few pieces at most) and when it is believed (when it was
read back from the disk and is what was announced). Leaves to ``crowd/raft/transfer.py``
what is said to the sender.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from crowd.errors import MalformedError, NoSpaceError
from crowd.raft.checkpoints.background import sync
from crowd.raft.checkpoints.files import RECEIVED, SYNC_EVERY_PIECES, verified
from crowd.raft.checkpoints.shape import SIZE_BYTES_MIN, Checkpoint
from crowd.raft.journal.spare import NO_SPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from crowd.raft.checkpoints.background import Background, Work
    from crowd.raft.checkpoints.files import Files
    from crowd.raft.journal.ports import File

PENDING_PIECES_MAX: Final = 4
"""As many as a sender has under way: 1 MiB of memory."""
TOTAL_BYTES_MAX: Final = 4 << 30
"""A ledger has a few bytes for an entry, so a billion entries fit; more is an error."""

Received = Checkpoint | MalformedError | NoSpaceError


class Incoming:
    """One checkpoint under way. Made by `CheckpointStore.receive`; in the reactor.

    ``offset`` is what came so far, and so the next piece's; ``written`` is what of it is
    written, though not durable.
    """

    def __init__(
        self,
        files: Files,
        background: Background,
        digest: bytes,
        total_bytes: int,
        on_received: Callable[[Checkpoint], None],
    ) -> None:
        if not SIZE_BYTES_MIN <= total_bytes <= TOTAL_BYTES_MAX:
            raise MalformedError(
                f"a checkpoint of {total_bytes} bytes is announced; expected "
                f"{SIZE_BYTES_MIN} to {TOTAL_BYTES_MAX}"
            )
        self.digest = digest
        self.total_bytes = total_bytes
        self.offset = self.written = 0
        self._files, self._background, self._on_received = files, background, on_received
        self._pending = 0
        self._cancelled = False
        self._work: Work[Received] | None = None
        # Of the thread, from here on.
        self._path = files.new_part()
        self._file: File | None = None
        self._pieces = 0

    @property
    def complete(self) -> bool:
        """Whether all bytes came."""
        return self.offset == self.total_bytes

    def add(self, offset: int, data: bytes, done: Callable[[int | NoSpaceError], None]) -> int:
        """Take a piece if it is the next one and there is room for it; else ignore it.

        Returns the offset of the piece that is wanted next. `done` is called with the offset
        up to which all is written (not durable), or once with NoSpaceError: then the transfer
        is cancelled. Raises MalformedError if the piece goes past the end.
        """
        if self._cancelled or offset != self.offset or self._pending == PENDING_PIECES_MAX:
            return self.offset
        if offset + len(data) > self.total_bytes:
            raise MalformedError(f"a piece beyond the end of a checkpoint, at {self.total_bytes}")
        self._pending += 1
        self.offset += len(data)
        self._background.do(
            "write a received checkpoint",
            partial(self._write, data, offset),
            partial(self._wrote, self.offset, done),
        )
        return self.offset

    def finish(self, done: Callable[[Received], None]) -> None:
        """Verify all of it and give it its name, durably; then call `done`.

        With MalformedError if it is not what was announced, or of another cluster or format:
        it is removed then. Must be `complete`.
        """
        assert self.complete
        assert self._work is None
        what = "verify a received checkpoint"
        self._work = self._background.run(what, self._finish(), partial(self._finished, done))

    def cancel(self) -> None:
        """Forget it, and remove what is there. Nothing is called any more."""
        if self._cancelled:
            return
        self._cancelled = True
        if self._work is None:
            self._discard()
        else:
            self._work.stop()  # and then `_finished` discards

    def _wrote(
        self, offset: int, done: Callable[[int | NoSpaceError], None], result: NoSpaceError | None
    ) -> None:
        self._pending -= 1
        if self._cancelled:
            return
        if result is None:
            self.written = offset
        else:
            self.cancel()
        done(offset if result is None else result)

    def _finished(self, done: Callable[[Received], None], result: Received | None) -> None:
        if self._cancelled:
            self._discard()
            return
        assert result is not None
        self._cancelled = True  # it is over
        if isinstance(result, Checkpoint):
            self._on_received(result)
        else:
            self._discard()
        done(result)

    def _discard(self) -> None:
        self._background.do("remove a received checkpoint", self._remove, lambda _: None)

    # --- In the thread ------------------------------------------------------------------------

    def _write(self, data: bytes, offset: int) -> NoSpaceError | None:
        try:
            if self._file is None:
                self._file = self._files.filesystem.open(self._path, create=True)
                self._file.allocate(self.total_bytes)
            self._file.write(data, offset)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            return NoSpaceError(f"no space for a checkpoint of {self.total_bytes} bytes")
        self._pieces += 1
        if self._pieces % SYNC_EVERY_PIECES == 0:
            sync(self._file)
        return None

    def _finish(self) -> Generator[None, None, Received]:
        file = self._file
        assert file is not None
        # The bytes before the name, and before they are read back: what is verified is what
        # the disk has.
        sync(file)
        yield
        result = yield from verified(self._files, file, self._path, self.digest, self.total_bytes)
        if isinstance(result, MalformedError):
            return result
        self._close()
        path = self._files.path(result.index, RECEIVED)
        if (no_space := self._files.publish(self._path, path)) is not None:
            return no_space
        self._path = path
        return Checkpoint(
            result.index, result.term, result.tip, result.log_time_us, result.size_bytes,
            result.digest, installed=False,
        )  # fmt: skip

    def _remove(self) -> None:
        self._close()
        self._files.remove([self._path.rpartition("/")[2]])

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
