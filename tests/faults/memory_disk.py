"""A disk that knows what is durable: it keeps what was written and what was promised apart.

Decides what a power loss leaves. Of the bytes written to a file since its last completed
flush any subset survives, by sectors of 512 bytes; a change of length survives or does not,
whatever happened to the bytes. Of the names made, replaced and removed since their
directory's last flush those up to a random moment survive, in the order in which they were
made, as in a file system with a journal. What a flush covered when it was asked for survives
once that flush has been answered. A file's own flush does not keep its name.

Pure: no clock, no files; chance is handed in.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

SECTOR_BYTES = 512
ROOT = 1
CAPACITY_BYTES = 8 << 30
DIRECTORY_MODE, FILE_MODE = 0o040000, 0o100000


@dataclass
class Change:
    """Something done to a file that no flush has covered: bytes put at a place, or a length set.

    ``old`` are the bytes that stood at ``offset`` before; ``old_size`` and ``size`` the length
    before and after.
    """

    number: int
    offset: int
    old: bytes
    new: bytes
    old_size: int
    size: int


@dataclass
class Naming:
    """A name that was set to another inode, or to none, in a directory; both may be several."""

    number: int
    sets: list[tuple[int, str, int | None, int | None]]
    """(directory, name, inode before, inode after)."""


@dataclass
class Inode:
    """A file or a directory."""

    number: int
    mode: int
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    opened: int = 0

    @property
    def is_directory(self) -> bool:
        return self.mode & 0o170000 == DIRECTORY_MODE


@dataclass
class Lost:
    """What a power loss took."""

    sectors: int = 0
    sectors_kept: int = 0
    names: int = 0
    lengths: int = 0


class MemoryDisk:
    """The whole disk. Every call that fails raises OSError with the number for the caller."""

    def __init__(self) -> None:
        self.inodes = {ROOT: Inode(ROOT, DIRECTORY_MODE | 0o750)}
        self._next = ROOT + 1
        self._number = 0
        self._namings: list[Naming] = []
        self.lies = False
        """Answer every flush and keep nothing by it: what the checker then has to find."""

    # --- Names ----------------------------------------------------------------------------------

    def inode(self, number: int) -> Inode:
        try:
            return self.inodes[number]
        except KeyError:
            raise OSError(errno.ESTALE, "no such inode") from None

    def lookup(self, parent: int, name: str) -> Inode:
        number = self.inode(parent).names.get(name)
        if number is None:
            raise OSError(errno.ENOENT, name)
        return self.inodes[number]

    def make(self, parent: int, name: str, mode: int) -> Inode:
        """Make a file or directory, by its mode."""
        if name in self.inode(parent).names:
            raise OSError(errno.EEXIST, name)
        inode = self.inodes[self._next] = Inode(self._next, mode)
        self._next += 1
        self._name([(parent, name, inode.number)])
        return inode

    def remove(self, parent: int, name: str, *, directory: bool) -> None:
        inode = self.lookup(parent, name)
        if inode.is_directory != directory:
            raise OSError(errno.ENOTDIR if directory else errno.EISDIR, name)
        if inode.names:
            raise OSError(errno.ENOTEMPTY, name)
        self._name([(parent, name, None)])

    def rename(self, parent: int, name: str, new_parent: int, new_name: str) -> None:
        """Rename; what had the new name is replaced, in one."""
        inode = self.lookup(parent, name)
        replaced = self.inode(new_parent).names.get(new_name)
        if replaced is not None and self.inodes[replaced].names:
            raise OSError(errno.ENOTEMPTY, new_name)
        self._name([(parent, name, None), (new_parent, new_name, inode.number)])

    def link(self, number: int, parent: int, name: str) -> Inode:
        if name in self.inode(parent).names:
            raise OSError(errno.EEXIST, name)
        self._name([(parent, name, number)])
        return self.inode(number)

    def links(self, number: int) -> int:
        """Return how many names an inode has."""
        return sum(
            other == number for inode in self.inodes.values() for other in inode.names.values()
        )

    # --- Bytes ----------------------------------------------------------------------------------

    def read(self, number: int, offset: int, size_bytes: int) -> bytes:
        return bytes(self.inode(number).data[offset : offset + size_bytes])

    def write(self, number: int, offset: int, data: bytes) -> None:
        inode = self.inode(number)
        if self.used_bytes() + len(data) > CAPACITY_BYTES:
            raise OSError(errno.ENOSPC, "the disk is full")
        size = len(inode.data)
        old = bytes(inode.data[offset : offset + len(data)])
        self._put(inode, offset, data)
        inode.changes.append(Change(self._count(), offset, old, data, size, len(inode.data)))

    def resize(self, number: int, size_bytes: int) -> None:
        """Set a file's length."""
        inode = self.inode(number)
        old_size = len(inode.data)
        if size_bytes == old_size:
            return
        cut = bytes(inode.data[size_bytes:])
        self._set_size(inode, size_bytes)
        offset = min(size_bytes, old_size)
        inode.changes.append(Change(self._count(), offset, cut, b"", old_size, size_bytes))

    def used_bytes(self) -> int:
        return sum(len(inode.data) for inode in self.inodes.values())

    # --- What lasts -----------------------------------------------------------------------------

    def flush(self, number: int) -> Callable[[], None]:
        """Begin a flush of a file or directory; what it covers lasts once the result is called."""
        covered = self._number
        inode = self.inode(number)

        def done() -> None:
            if self.lies:
                return
            if inode.is_directory:
                self._namings = [
                    one for one in self._namings
                    if one.number > covered or all(number != each[0] for each in one.sets)
                ]  # fmt: skip
                self._forget()
            else:
                inode.changes = [one for one in inode.changes if one.number > covered]

        return done

    def lose(self, chance: Random) -> Lost:
        """Lose the power: drop what no flush has covered, as far as chance has it."""
        lost = Lost()
        survive = chance.choice([0, len(self._namings), chance.randint(0, len(self._namings))])
        for naming in reversed(self._namings[survive:]):
            for directory, name, before, _ in reversed(naming.sets):
                self._set(directory, name, before)
            lost.names += 1
        self._namings = []
        for inode in self.inodes.values():
            if inode.changes:
                _lose_bytes(inode, chance, lost)
            inode.opened = 0
        self._forget()
        return lost

    # --- Parts ----------------------------------------------------------------------------------

    def _count(self) -> int:
        self._number += 1
        return self._number

    def _name(self, sets: list[tuple[int, str, int | None]]) -> None:
        done = []
        for directory, name, after in sets:
            before = self.inode(directory).names.get(name)
            self._set(directory, name, after)
            done.append((directory, name, before, after))
        self._namings.append(Naming(self._count(), done))

    def _set(self, directory: int, name: str, number: int | None) -> None:
        names = self.inodes[directory].names
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number

    def _forget(self) -> None:
        """Give back what has no name, is not open, and cannot come back."""
        named = {number for inode in self.inodes.values() for number in inode.names.values()}
        named |= {
            number
            for naming in self._namings
            for each in naming.sets
            for number in each[2:]
            if number is not None
        }
        for number in list(self.inodes):
            if number != ROOT and number not in named and not self.inodes[number].opened:
                del self.inodes[number]

    @staticmethod
    def _put(inode: Inode, offset: int, data: bytes) -> None:
        if offset > len(inode.data):
            inode.data.extend(bytes(offset - len(inode.data)))
        inode.data[offset : offset + len(data)] = data

    @staticmethod
    def _set_size(inode: Inode, size_bytes: int) -> None:
        if size_bytes < len(inode.data):
            del inode.data[size_bytes:]
        else:
            inode.data.extend(bytes(size_bytes - len(inode.data)))


def _lose_bytes(inode: Inode, chance: Random, lost: Lost) -> None:
    """Undo a file's changes down to its last flush, then bring a random part of them back."""
    data, changes = inode.data, inode.changes
    inode.changes = []
    for change in reversed(changes):
        # A longer file is cut first; a cut one has its bytes at its end again.
        if len(data) > change.old_size:
            del data[change.old_size :]
        data.extend(bytes(change.old_size - len(data)))
        data[change.offset : change.offset + len(change.old)] = change.old
    sizes = [len(data), *(change.size for change in changes)]
    size = chance.choice([sizes[0], sizes[-1], chance.choice(sizes)])
    lost.lengths += size != sizes[-1]
    share = chance.choice([0.0, 0.5, 1.0, chance.random()])
    for change in changes:
        if not change.new and change.size < change.old_size and size <= change.size:
            # A cut that lasts takes the bytes behind it along.
            data[change.size :] = bytes(max(0, len(data) - change.size))
        start, end = change.offset, change.offset + len(change.new)
        while start < end:
            stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
            if chance.random() < share:
                piece = change.new[start - change.offset : stop - change.offset]
                MemoryDisk._put(inode, start, piece)
                lost.sectors_kept += 1
            else:
                lost.sectors += 1
            start = stop
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))
