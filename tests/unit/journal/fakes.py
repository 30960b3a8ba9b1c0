"""A disk that forgets, tears and fails, and a writer whose jobs run when the test says.

`FaultyFileSystem` keeps what the system's memory holds apart from what the disk holds.
`crash` ends in one of the states that a power cut may leave: of what was not synced, any
sectors may have reached the disk, others hold garbage; any of the directory's changes may
have happened. It passes the same contract tests as the real file system.
"""

from __future__ import annotations

import errno
import os
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakSet

from crowd.errors import DirectoryError

if TYPE_CHECKING:
    from collections.abc import Callable

SECTOR_BYTES = 16
"""Far smaller than a disk's, so that a small batch tears in many places."""


class PowerCutError(BaseException):
    """The machine is off. Nothing of crowd's may catch it."""


@dataclass
class Inode:
    """A file: what a reader sees, what the disk has, and the changes between the two."""

    seen: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    changes: list[tuple[str, int, bytes]] = field(default_factory=list)


def change(content: bytearray, kind: str, number: int, data: bytes) -> None:
    if kind == "truncate":
        del content[number:]
    elif kind == "allocate":
        content.extend(bytes(max(0, number - len(content))))
    else:
        content.extend(bytes(max(0, number - len(content))))
        content[number : number + len(data)] = data


class FaultyFile:
    def __init__(self, system: FaultyFileSystem, inode: Inode) -> None:
        self._system = system
        self._inode = inode
        self.closed = False
        system.open_files.add(self)

    @property
    def is_removed(self) -> bool:
        """Whether no name leads to it: its room comes back when it is closed."""
        return all(inode is not self._inode for inode in self._system.inodes.values())

    def read(self, size_bytes: int, offset: int) -> bytes:
        self._system.step("read")
        return bytes(self._inode.seen[offset : offset + size_bytes])

    def write(self, data: bytes, offset: int) -> None:
        self._change("write", offset, data)

    def allocate(self, size_bytes: int) -> None:
        self._change("allocate", size_bytes, b"")

    def truncate(self, size_bytes: int) -> None:
        self._change("truncate", size_bytes, b"")

    def sync(self) -> None:
        try:
            self._system.step("sync")
        except OSError:
            # What Linux does: the pages stay, marked clean, and the disk never gets them.
            self._inode.changes.clear()
            raise
        for kind, number, data in self._inode.changes:
            change(self._inode.disk, kind, number, data)
        self._inode.changes.clear()

    def uncache(self) -> None:
        if not self._inode.changes:
            self._inode.seen[:] = self._inode.disk

    def size(self) -> int:
        return len(self._inode.seen)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self._system.open_files.discard(self)

    def _change(self, kind: str, number: int, data: bytes) -> None:
        inode = self._inode
        try:
            self._system.step(kind)
        except (OSError, PowerCutError):
            if kind == "write":  # a part of it was written
                part = data[: len(data) // 2]
                change(inode.seen, kind, number, part)
                inode.changes.append((kind, number, part))
            raise
        change(inode.seen, kind, number, data)
        inode.changes.append((kind, number, data))


class FaultyLock:
    def __init__(self, held: set[str], path: str) -> None:
        self._held = held
        self._path = path

    def close(self) -> None:
        self._held.remove(self._path)


class FaultyFileSystem:
    """One directory tree in memory."""

    def __init__(self) -> None:
        self.inodes: dict[str, Inode] = {}
        self.open_files: WeakSet[FaultyFile] = WeakSet()
        self._on_disk: dict[str, Inode] = {}
        self._name_changes: list[tuple[str, str, str, Inode | None]] = []
        self.directories: set[str] = set()
        self._held: set[str] = set()
        self.log: list[str] = []
        self.letters: dict = {}
        """What the table of letters on this disk has committed."""
        self.letters_damaged = False
        """Whether that table can be read no more."""
        self.steps_left: int | None = None
        """Steps until the power goes; None: it stays."""
        self.faults: dict[str, deque[OSError | None]] = {}
        """By kind of step: what the next ones raise."""

    def fail(self, kind: str, code: int, *, after: int = 0, times: int = 1) -> None:
        """Let steps of this kind fail, after so many that do not."""
        self.faults[kind] = deque([None] * after + [OSError(code, os.strerror(code))] * times)

    def step(self, kind: str) -> None:
        self.log.append(kind)
        if self.steps_left is not None and kind != "read":  # to read changes nothing
            if self.steps_left == 0:
                raise PowerCutError
            self.steps_left -= 1
        queue = self.faults.get(kind)
        if queue:
            error = queue.popleft()
            if error is not None:
                raise error

    def make_directory(self, path: str) -> None:
        self.directories.add(path)

    def names(self, path: str) -> list[str]:
        prefix = path + "/"
        names = (name.removeprefix(prefix) for name in self.inodes if name.startswith(prefix))
        return sorted(name for name in names if "/" not in name)

    def open(self, path: str, *, create: bool = False) -> FaultyFile:
        if create:
            self.step("create")
            inode = self.inodes[path] = Inode()
            self._name_changes.append(("create", path, "", inode))
        return FaultyFile(self, self._find(path))

    def rename(self, old: str, new: str) -> None:
        self.step("rename")
        self._find(old)
        inode = self.inodes[new] = self.inodes.pop(old)
        self._name_changes.append(("rename", old, new, inode))

    def remove(self, path: str) -> None:
        self.step("remove")
        self._find(path)
        del self.inodes[path]
        self._name_changes.append(("remove", path, "", None))

    def sync_directory(self, path: str) -> None:
        self.step("sync_directory")
        self._settle_names(lambda: True)

    def lock(self, path: str) -> FaultyLock:
        if path in self._held:
            raise DirectoryError(f"{path}: found it in use by process {os.getpid()}")
        self._held.add(path)
        return FaultyLock(self._held, path)

    def free_bytes(self, path: str) -> int:
        return 1 << 40

    def _find(self, path: str) -> Inode:
        if path not in self.inodes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.inodes[path]

    # --- What tests do with it ----------------------------------------------------------------

    def kill(self) -> None:
        """End the process, not the machine: the system keeps all that was written."""
        self._held.clear()
        self.steps_left = None
        self.faults.clear()

    def damage(self, path: str, offset: int, data: bytes) -> None:
        """Let the disk hold other bytes than were written; what was not synced is on it then."""
        inode = self.inodes[path]
        inode.disk[:] = inode.seen
        inode.disk[offset : offset + len(data)] = data
        inode.seen[:] = inode.disk
        inode.changes.clear()

    def flip(self, path: str, bit: int) -> None:
        """Let one bit on the disk be another."""
        before = self.inodes[path].seen[bit // 8]
        self.damage(path, bit // 8, bytes([before ^ 1 << bit % 8]))

    def crash(self, chance: random.Random) -> None:
        """End in one of the states that a power cut may leave."""
        self.kill()
        likely = chance.choice([0.0, 0.5, 1.0])
        self._settle_names(lambda: chance.random() < likely)
        self.inodes = dict(self._on_disk)
        for inode in self.inodes.values():
            self._tear(inode, chance)

    def _settle_names(self, happens: Callable[[], bool]) -> None:
        """Let changes of names reach the disk, each if it `happens`: none waits for another."""
        names = self._on_disk
        for kind, path, new, inode in self._name_changes:
            if not happens():
                continue
            if kind == "create":
                assert inode is not None
                names[path] = inode
            elif kind == "rename":
                assert inode is not None
                names.pop(path, None)
                names[new] = inode
            else:
                names.pop(path, None)
        self._name_changes.clear()

    def _tear(self, inode: Inode, chance: random.Random) -> None:
        fate = chance.choice(["none", "all", "some", "some"])
        for kind, number, data in inode.changes:
            if fate == "none" or (fate == "some" and kind != "write" and chance.random() < 0.5):
                continue
            if fate == "all" or kind != "write":
                change(inode.disk, kind, number, data)
                continue
            start = 0
            while start < len(data):  # by sectors, as they lie on the disk
                end = min(len(data), start + SECTOR_BYTES - (number + start) % SECTOR_BYTES)
                piece = data[start:end]
                state = chance.choice(["old", "new", "new", "garbage"])
                if state != "old":
                    change(
                        inode.disk,
                        "write",
                        number + start,
                        piece if state == "new" else chance.randbytes(len(piece)),
                    )
                start = end
        inode.changes.clear()
        inode.seen[:] = inode.disk


class ManualWriter:
    """A `Writer` without a thread: the test runs the jobs."""

    def __init__(self) -> None:
        self._soon: deque = deque()
        self._jobs: deque = deque()
        self.closed = False

    def submit(self, job, done) -> None:
        if self.closed:
            raise RuntimeError("a job for a closed writer")
        self._jobs.append((job, done))

    def soon(self, call) -> None:
        self._soon.append(call)

    def close(self) -> None:
        self.closed = True
        self.finish()

    @property
    def busy(self) -> bool:
        """Whether there is anything left to do."""
        return bool(self._soon or self._jobs)

    @property
    def waiting(self) -> int:
        """The jobs that were submitted and not begun."""
        return len(self._jobs)

    def turn(self) -> None:
        """The reactor's next turn."""
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def work(self) -> None:
        """Do one job in the "thread" and report it in the "reactor"."""
        self.report(*self.do())

    def do(self):
        """Do one job; return its report, which the test makes later."""
        job, done = self._jobs.popleft()
        try:
            return done, job()
        except Exception as error:  # noqa: BLE001  a result like any other
            return done, error

    def report(self, done, result) -> None:
        done(result)

    def finish(self) -> None:
        """Go on until there is nothing left to do."""
        while self._soon or self._jobs:
            self.turn()
            if self._jobs:
                self.work()
