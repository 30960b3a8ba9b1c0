"""A journal on a faulty disk, with all that a test wants to hold of it."""

from __future__ import annotations

import errno
import itertools

import pytest

from crowd.raft.journal import Journal, open_journal
from tests.unit.journal.fakes import FaultyFileSystem, ManualWriter, PowerCutError

DIRECTORY = "/node"


class Rig:
    """One node's journal; `reopen` starts it again on what the disk holds."""

    def __init__(
        self, *, segment_bytes: int = 1 << 12, cache_bytes: int = 1 << 12, reserve: bool = True
    ) -> None:
        self.system = FaultyFileSystem()
        self.segment_bytes = segment_bytes
        self.cache_bytes = cache_bytes
        self._numbers = itertools.count(1)
        if not reserve:  # the first one is the first segment's
            self.system.fail("allocate", errno.ENOSPC, after=1)
        self.open()

    def open(
        self, *, cluster: str = "leads", node: str = "a", checkpoint_index: int = 0
    ) -> Journal:
        self.writer = ManualWriter()
        self.background = ManualWriter()
        self.told: list[int] = []
        self.fatal: list[Exception] = []
        self.journal = open_journal(
            DIRECTORY,
            cluster=cluster,
            node=node,
            filesystem=self.system,
            writer=self.writer,
            background=self.background,
            checkpoint_index=lambda: checkpoint_index,
            segment_bytes=self.segment_bytes,
            cache_bytes=self.cache_bytes,
            seconds=lambda: 0.0,
            draw=lambda size: next(self._numbers).to_bytes(size, "big"),
        )
        self.journal.on_durable = lambda: self.told.append(self.journal.durable_index)
        self.journal.on_fatal = self.fatal.append
        return self.journal

    def kill_and_open(self, *, checkpoint_index: int = 0) -> Journal:
        self.system.kill()
        return self.open(checkpoint_index=checkpoint_index)

    def add(self, *commands: bytes, term: int = 1) -> None:
        for command in commands:
            self.journal.add(command, self.journal.last_index + 1, term)

    def write(self) -> None:
        """Everything that gathered reaches the disk."""
        self.writer.finish()

    def settle(self) -> None:
        """Everything is done, in the background as well."""
        while self.writer.busy or self.background.busy:
            self.writer.finish()
            self.background.finish()

    def start(self) -> None:
        """The write of what gathered is under way."""
        self.writer.turn()

    @property
    def log(self) -> list[tuple[bytes, int, int]]:
        return list(self.journal[:])

    def segments(self) -> list[str]:
        return [name for name in self.system.names(DIRECTORY) if name.endswith(".segment")]

    def indexes(self) -> list[str]:
        return [name for name in self.system.names(DIRECTORY) if name.endswith(".index")]

    def inode(self, name: str):
        return self.system.inodes[f"{DIRECTORY}/{name}"]

    def damage(self, name: str, offset: int, data: bytes) -> None:
        """Let the disk hold other bytes than were written."""
        self.system.damage(f"{DIRECTORY}/{name}", offset, data)

    def flip(self, name: str, bit: int) -> None:
        """Let one bit on the disk be another."""
        self.system.flip(f"{DIRECTORY}/{name}", bit)

    def cut_off(self) -> None:
        """Lose the power between the write of what gathered and its sync."""
        self.start()
        self.system.steps_left = 1
        with pytest.raises(PowerCutError):
            self.writer.work()
        self.system.kill()
