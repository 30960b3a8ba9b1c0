"""The node's checkpoints: durable copies of the ledger.

Decides which are kept (by ``policy``), when one counts, and when the floor moves. Leaves to
``files`` the order of effects on the disk, to ``shape`` their bytes, to the engine when one
is taken and what the log does.

Theory of operation. The reactor says what is to be done and hears when it is durable; all
between is done in the background, a step at a time, so that the thread is never held for
long and several pieces of work share it. What holds at all times:

- What `checkpoints` lists was whole, and durable under its name, when it was first listed.
- A checkpoint is listed only when the log's entries up to its index are durable: a restart
  never finds a ledger that is ahead of its log.
- `floor` moves only when the disk says so: nothing older is believed by any later start.
- The floor is never beyond what was `released`.

Everything here runs in the reactor's thread.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from twisted.logger import Logger

from crowd.errors import DamagedError, NoSpaceError, StorageFailedError
from crowd.raft.checkpoints.background import Background
from crowd.raft.checkpoints.files import CHECKPOINT, FLOOR, RECEIVED, Files
from crowd.raft.checkpoints.incoming import Incoming
from crowd.raft.checkpoints.policy import next_floor, superfluous
from crowd.raft.checkpoints.shape import Checkpoint, Encoding, Head
from crowd.raft.checkpoints.taking import Taking

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from crowd.errors import FatalError
    from crowd.raft.journal.ports import File, Writer
    from crowd.raft.journal.shape import Entry

READ_BYTES_MAX: Final = 256 << 10
"""The reactor waits for it: a piece of a transfer, as in ``crowd/raft/wire.py``."""


class Loaded(msgspec.Struct, frozen=True):
    """What a checkpoint holds: the entry at its index, and the ledger's sections."""

    entry: Entry
    sections: tuple[bytes, ...]


class Found(msgspec.Struct):
    """What was found in the directory; ``condemned`` are the names of bad files."""

    kept: list[Checkpoint]
    floor: Checkpoint | None
    received: Checkpoint | None
    damaged: list[str]
    condemned: list[str]


class CheckpointStore:
    """The checkpoints of one node. Made by `open_store`.

    ``received`` is one that came from a peer and is not installed: the node crashed between
    the two, or is about to install it. ``floor`` is None until something was released.
    The engine sets `on_fatal(error)`: a write or fsync failed, nothing more is written and
    the process must end (I8); called once, never from within a call to this.
    """

    _log = Logger()

    def __init__(self, files: Files, writer: Writer, found: Found) -> None:
        self._files = files
        self._background = Background(writer, self._fail)
        self._kept = found.kept
        self.floor = found.floor
        self.received = found.received
        self._damaged = found.damaged
        self._condemned = found.condemned
        self._released = -1
        self._next_floor: Checkpoint | None = None  # while its new name becomes durable
        self._taking: Taking | None = None
        self._incoming: Incoming | None = None
        self._pins: Counter[bytes] = Counter()
        self._readers: dict[bytes, File] = {}
        self._scrubbing = False
        self._scrubbed_index = -1
        self.on_fatal: Callable[[FatalError], None] = lambda _: None
        for place in found.damaged:
            self._log.error("found damage: {place}", place=place)
        self._tidy()

    # --- What there is ------------------------------------------------------------------------

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints in use, by rising index."""
        return tuple(self._kept)

    @property
    def newest(self) -> Checkpoint | None:
        """The one that a restart begins at."""
        return self._kept[-1] if self._kept else None

    @property
    def damaged(self) -> tuple[str, ...]:
        """What was found damaged since the start, with file and offset."""
        return tuple(self._damaged)

    @property
    def busy(self) -> bool:
        """Whether one is being taken; there is at most one."""
        return self._taking is not None

    def load(self, checkpoint: Checkpoint) -> Loaded:
        """Return what a checkpoint holds, all of it verified. Blocks: about 2 ms for a MiB.

        Raises DamagedError with file and offset: that checkpoint is not listed any more.
        Raises StorageFailedError if it cannot be read.
        """
        try:
            file, path = self._files.open(checkpoint)
            try:
                reading = self._files.read(file, path, keep=True)
                while True:
                    next(reading)
            except StopIteration as end:
                verifier = end.value
            finally:
                file.close()
        except DamagedError as error:
            self._condemn(checkpoint, str(error))
            raise
        except OSError as error:
            raise StorageFailedError(
                f"could not read the checkpoint at {checkpoint.index}: {error}"
            ) from error
        command, *sections = verifier.bodies
        return Loaded((command, checkpoint.index, checkpoint.term), tuple(sections))

    # --- Taking one ---------------------------------------------------------------------------

    def take(
        self,
        head: Head,
        entry: Entry,
        sections: Sequence[bytes],
        *,
        durable: Callable[[], bool],
        done: Callable[[Checkpoint | NoSpaceError], None],
    ) -> None:
        """Make `sections`, the ledger at `head`, a checkpoint. Not while `busy`.

        `entry` is the one at its index. `durable` tells whether the log's entries up to that
        index are durable; asked when all is written and at each `poke`. `done` is called when
        the checkpoint is durable and listed, or with NoSpaceError: nothing changed then. It
        is not called if one that is ahead is installed meanwhile.
        """
        assert self._taking is None, "one at a time"
        assert entry[1:] == (head.index, head.term), "the entry at the checkpoint's index"
        assert self.newest is None or head.index > self.newest.index
        files = self._files
        encoding = Encoding(head, files.cluster, entry[0], sections, piece_bytes=files.piece_bytes)
        self._taking = Taking(
            files, self._background, head, encoding, durable=durable, done=partial(self._took, done)
        )

    def poke(self) -> None:
        """Say that more of the log is durable: a checkpoint that is written may wait for it."""
        if self._taking is not None:
            self._taking.poke()

    def _took(
        self,
        done: Callable[[Checkpoint | NoSpaceError], None],
        result: Checkpoint | NoSpaceError,
    ) -> None:
        taking, self._taking = self._taking, None
        assert taking is not None
        if isinstance(result, Checkpoint):
            self._kept.append(result)
            self._purge(spare=taking.name)
            self._tidy()
            self._advance()
        done(result)

    # --- The floor ----------------------------------------------------------------------------

    def released(self, index: int) -> None:
        """Say that entries up to `index` may leave the log: the floor may move up to there.

        It moves when that is durable, so look at `floor` later; and not while it is pinned.
        """
        self._released = max(self._released, index)
        self._advance()

    def _advance(self) -> None:
        if self._next_floor is not None or self._pins:
            return
        floor = None if self.floor is None else self.floor.index
        index = next_floor([kept.index for kept in self._kept], floor, self._released)
        if index is None:
            return
        self._next_floor = next(kept for kept in self._kept if kept.index == index)
        self._background.do(
            "make a checkpoint the floor",
            partial(self._files.make_floor, index, CHECKPOINT),
            partial(self._moved, self._next_floor),
        )

    def _moved(self, checkpoint: Checkpoint, _: None) -> None:
        self._next_floor = None
        if checkpoint in self._kept:  # it was not found damaged, or overtaken, meanwhile
            self.floor = checkpoint
        self._tidy()
        self._advance()

    def _tidy(self) -> None:
        if self._next_floor is not None:
            return  # it may be the one in the middle; `_moved` comes back to this
        floor = None if self.floor is None else self.floor.index
        indices = superfluous([kept.index for kept in self._kept], floor)
        if not indices:
            return
        self._kept = [kept for kept in self._kept if kept.index not in indices]
        self._remove(name for index in indices for name in self._files.names(index))

    def _remove(self, names: Iterable[str]) -> None:
        job = partial(self._files.remove, tuple(names))
        self._background.do("remove a checkpoint", job, lambda _: None)

    # --- Sending one --------------------------------------------------------------------------

    def pin(self, checkpoint: Checkpoint) -> None:
        """Keep the floor where it is while it is being sent, and the log with it.

        Raises StorageFailedError if its file cannot be opened. Each pin takes an `unpin`.
        """
        if checkpoint.digest not in self._readers:
            try:
                self._readers[checkpoint.digest], _ = self._files.open(checkpoint)
            except OSError as error:
                raise StorageFailedError(f"could not open a checkpoint: {error}") from error
        self._pins[checkpoint.digest] += 1

    def unpin(self, checkpoint: Checkpoint) -> None:
        """Let go of a pinned one."""
        self._pins[checkpoint.digest] -= 1
        if not self._pins[checkpoint.digest]:
            del self._pins[checkpoint.digest]
            self._readers.pop(checkpoint.digest).close()
            self._advance()

    def read(self, checkpoint: Checkpoint, offset: int, size_bytes: int) -> bytes:
        """Return bytes of a pinned one, not verified: whoever receives all of it does that.

        Raises StorageFailedError. Blocks for a read of at most `READ_BYTES_MAX`.
        """
        assert size_bytes <= READ_BYTES_MAX
        try:
            return self._readers[checkpoint.digest].read(size_bytes, offset)
        except OSError as error:
            raise StorageFailedError(f"could not read a checkpoint: {error}") from error

    # --- Receiving one ------------------------------------------------------------------------

    def receive(self, digest: bytes, total_bytes: int) -> Incoming:
        """Begin to receive a checkpoint; one that was under way is cancelled.

        Raises MalformedError if no checkpoint has `total_bytes`.
        """
        incoming = Incoming(self._files, self._background, digest, total_bytes, self._received)
        if self._incoming is not None:
            self._incoming.cancel()
        self._incoming = incoming
        return incoming

    def installed(self, checkpoint: Checkpoint) -> Checkpoint:
        """Say that ledger and log begin at `received` now; return it as it is listed.

        It is the newest and the floor at once, and the only one. Should the process end
        before its name is durable, the next start finds it as `received` again.
        """
        assert checkpoint == self.received
        if self._taking is not None:
            self._taking.abandon()
            self._taking = None
        old = self._kept
        self.received = None
        self.floor = msgspec.structs.replace(checkpoint, installed=True)
        self._kept = [self.floor]
        self._released = max(self._released, checkpoint.index)
        self._background.do(
            "install a checkpoint",
            partial(self._files.make_floor, checkpoint.index, RECEIVED),
            lambda _: None,
        )
        name = f"{checkpoint.index:016d}{FLOOR}"
        names = {name for kept in old for name in self._files.names(kept.index)}
        self._remove(sorted(names - {name}))
        self._purge(spare=name)
        return self.floor

    def discard(self) -> None:
        """Remove `received`: it is not wanted."""
        if self.received is not None:
            self._remove([f"{self.received.index:016d}{RECEIVED}"])
            self.received = None

    def _received(self, checkpoint: Checkpoint) -> None:
        if self.received is not None and self.received.index != checkpoint.index:
            self.discard()
        self.received = checkpoint
        self._incoming = None

    # --- Damage -------------------------------------------------------------------------------

    def scrub(self, done: Callable[[tuple[str, ...]], None]) -> None:
        """Verify one checkpoint on the disk, each in its turn; not while this is under way.

        `done` is called with where it is damaged, which is empty if it is not. A damaged one
        is not listed any more, and removed as soon as there is another.
        """
        assert not self._scrubbing
        if not self._kept:
            self._background.soon(partial(done, ()))
            return
        later = [kept for kept in self._kept if kept.index > self._scrubbed_index]
        checkpoint = (later or self._kept)[0]
        self._scrubbed_index = checkpoint.index
        self._scrubbing = True
        self._background.run(
            "scrub a checkpoint", self._scrub(checkpoint), partial(self._checked, checkpoint, done)
        )

    def _scrub(self, checkpoint: Checkpoint) -> Generator[None, None, str]:
        path = self._files.path(checkpoint.index, CHECKPOINT)
        try:
            file, path = self._files.open(checkpoint)
            try:
                yield from self._files.read(file, path, keep=False)
            finally:
                file.close()
        except DamagedError as error:
            return str(error)
        except OSError as error:  # a sector that cannot be read is damage like any other
            return f"{error} at {path}"
        return ""

    def _checked(
        self,
        checkpoint: Checkpoint,
        done: Callable[[tuple[str, ...]], None],
        place: str | None,
    ) -> None:
        self._scrubbing = False
        if not place or checkpoint not in self._kept:
            done(())  # whole, or of no use any more
            return
        self._condemn(checkpoint, place)
        done((place,))

    def _condemn(self, checkpoint: Checkpoint, place: str) -> None:
        self._log.error("found damage: {place}", place=place)
        self._damaged.append(place)
        if checkpoint == self.received:
            self.discard()
            return
        self._kept = [kept for kept in self._kept if kept != checkpoint]
        if self.floor == checkpoint:
            self.floor = None  # no other one is known to be released; the next one will be
        self._condemned += self._files.names(checkpoint.index)
        if self._kept:
            self._purge()

    def _purge(self, spare: str = "") -> None:
        """Remove bad files; `spare` is a good one that has taken the name of one."""
        names = [name for name in self._condemned if name != spare]
        self._condemned = []
        if names:
            self._remove(names)

    # --- The end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Report nothing more. The writer is closed by whoever made it, after this."""
        if self._incoming is not None:
            self._incoming.cancel()
        self._background.closed = True
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._pins.clear()

    def _fail(self, error: StorageFailedError) -> None:
        self._log.critical("the checkpoints failed: {error}", error=error)
        self.on_fatal(error)
