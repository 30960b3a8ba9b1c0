"""A node's checkpoints on a faulty disk, with all that a test wants to hold of them."""

from __future__ import annotations

import hashlib

from crowd.raft.checkpoints import Checkpoint, CheckpointStore, Head, Loaded, open_store
from tests.unit.journal.fakes import FaultyFileSystem, ManualWriter

DIRECTORY = "/node"


def content(index: int) -> tuple[Head, tuple[bytes, int, int], tuple[bytes, ...]]:
    """What a ledger at this index looks like: the same for an index each time."""
    seed = hashlib.sha256(b"%d" % index).digest()
    head = Head(index, 1 + index // 10, 3 * index, 1_000_000 + index)
    sections = (seed * 3, b"", seed[: index % 32])
    return head, (b"command %d" % index + seed, index, head.term), sections


def loaded(index: int) -> Loaded:
    _, entry, sections = content(index)
    return Loaded(entry, sections)


class Rig:
    """One node's store; `open` starts it again on what the disk holds."""

    def __init__(self, *, piece_bytes: int = 64, system: FaultyFileSystem | None = None) -> None:
        self.system = system or FaultyFileSystem()
        self.system.make_directory(DIRECTORY)
        self.piece_bytes = piece_bytes
        self.durable_index = 1 << 40
        self.open()

    def open(self, *, cluster: str = "leads") -> CheckpointStore:
        self.writer = ManualWriter()
        self.fatal: list[Exception] = []
        self.done: list[object] = []
        self.store = open_store(
            DIRECTORY,
            cluster=cluster,
            filesystem=self.system,
            background=self.writer,
            piece_bytes=self.piece_bytes,
        )
        self.store.on_fatal = self.fatal.append
        return self.store

    def kill_and_open(self) -> CheckpointStore:
        self.system.kill()
        return self.open()

    def begin(self, index: int) -> None:
        """Begin to take one; its fate comes in `done`."""
        head, entry, sections = content(index)
        self.store.take(
            head,
            entry,
            sections,
            durable=lambda: self.durable_index >= index,
            done=self.done.append,
        )

    def take(self, index: int) -> Checkpoint:
        self.begin(index)
        self.writer.finish()
        taken = self.done.pop()
        assert isinstance(taken, Checkpoint), taken
        return taken

    def release(self, index: int) -> None:
        self.store.released(index)
        self.writer.finish()

    @property
    def indices(self) -> list[int]:
        return [checkpoint.index for checkpoint in self.store.checkpoints]

    @property
    def floor(self) -> int | None:
        return self.store.floor.index if self.store.floor else None

    @property
    def names(self) -> list[str]:
        return self.system.names(DIRECTORY)

    def inode(self, name: str):
        return self.system.inodes[f"{DIRECTORY}/{name}"]

    def damage(self, name: str, offset: int, data: bytes) -> None:
        """Let the disk hold other bytes than were written."""
        inode = self.inode(name)
        inode.disk[:] = inode.seen
        inode.disk[offset : offset + len(data)] = data
        inode.seen[:] = inode.disk
        inode.changes.clear()

    def flip(self, name: str, bit: int) -> None:
        """Let one bit on the disk be another."""
        self.damage(name, bit // 8, bytes([self.inode(name).seen[bit // 8] ^ 1 << bit % 8]))

    def file(self, checkpoint: Checkpoint) -> bytes:
        """All bytes of one, as a sender reads them."""
        self.store.pin(checkpoint)
        data = self.store.read(checkpoint, 0, checkpoint.size_bytes)
        self.store.unpin(checkpoint)
        return data

    def receive(self, digest: bytes, data: bytes, *, piece_bytes: int = 64) -> list[object]:
        """Take in all of `data` as the checkpoint `digest`; return what `finish` said."""
        incoming = self.store.receive(digest, len(data))
        for offset in range(0, len(data), piece_bytes):
            incoming.add(offset, data[offset : offset + piece_bytes], lambda _: None)
            self.writer.finish()
        said: list[object] = []
        incoming.finish(said.append)
        self.writer.finish()
        return said
