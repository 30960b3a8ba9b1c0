"""What a node remembers besides its log: who it is, its term, its vote.

Decides how that survives: two slots in one file, each with a checksum, written one after
the other and each durable before the other is touched. So whenever one slot is bad, torn
by a crash or damaged later, the other one holds everything that was ever promised: a vote
counts as durable only when both have it, and a bad slot can never bring back an older vote
(Raft, figure 2: a server votes at most once in a term; pysyncobj's defect D8).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec
from google_crc32c import value as crc32c

from crowd.codec import pack, unpack
from crowd.errors import DamagedError, MalformedError

if TYPE_CHECKING:
    from crowd.raft.journal.ports import File, FileSystem

FILE_NAME: Final = "memory"
SLOT_BYTES: Final = 8192
"""Two pages, so that no write to one slot shares a page with the other."""
FOUNDING_BYTES_MAX: Final = 7 << 10
"""What others may keep here: the roster, which the ledger keeps below 6 KiB. A slot has room."""

_MAGIC: Final = b"\x89crowdM\n"
_FORMAT: Final = 1
_HEADER: Final = struct.Struct("<8sIIQI")  # magic, checksum of what follows, format, sequence, size


class Memory(msgspec.Struct, frozen=True, array_like=True):
    """All of it. Replaced as a whole.

    ``first_segment`` and ``last_segment`` say which files must be there, so that one that
    vanished is noticed; a later one than ``last_segment`` may be, made just before a crash.
    ``founding`` is the engine's own, opaque here.
    """

    journal_id: bytes
    cluster: str
    node: str
    term: int = 0
    vote: str | None = None
    first_segment: int = 1
    last_segment: int = 0
    founding: bytes = b""


def _encode(memory: Memory, sequence: int) -> bytes:
    body = pack(msgspec.structs.astuple(memory))
    rest = struct.pack("<IQI", _FORMAT, sequence, len(body)) + body
    data = _MAGIC + struct.pack("<I", crc32c(rest)) + rest
    assert len(data) <= SLOT_BYTES
    return data.ljust(SLOT_BYTES, b"\0")


def _decode(slot: bytes) -> tuple[int, Memory] | None:
    if len(slot) < _HEADER.size:
        return None
    magic, stored, version, sequence, size = _HEADER.unpack_from(slot)
    end = _HEADER.size + size
    if magic != _MAGIC or version != _FORMAT or end > SLOT_BYTES:
        return None
    if crc32c(slot[12:end]) != stored or slot[end:].strip(b"\0"):
        return None
    try:
        return sequence, Memory(*unpack(slot[_HEADER.size : end]))
    except (MalformedError, TypeError):
        return None


class MemoryFile:
    """The file. Not safe to share between threads: the journal's writer has it to itself."""

    def __init__(self, file: File, memory: Memory, sequence: int, newest_slot: int) -> None:
        self._file = file
        self._sequence = sequence
        self._newest_slot = newest_slot
        self.memory = memory

    def write(self, memory: Memory) -> None:
        """Make `memory` durable. Raises OSError; what is durable then is either the old or the new."""
        self._sequence += 1
        data = _encode(memory, self._sequence)
        for slot in (1 - self._newest_slot, self._newest_slot):
            self._file.write(data, slot * SLOT_BYTES)
            # Each slot is durable before the other is touched: a crash tears at most one.
            self._file.sync()
        self.memory = memory

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def create_memory(filesystem: FileSystem, directory: str, memory: Memory) -> MemoryFile:
    """Make the file, durably, with both slots written. Raises OSError."""
    path = f"{directory}/{FILE_NAME}"
    file = filesystem.open(f"{path}.new", create=True)
    file.write(_encode(memory, 1) * 2, 0)
    # The bytes before the name: a file with this name is always whole.
    file.sync()
    filesystem.rename(f"{path}.new", path)
    # The name, before anything rests on this journal's id.
    filesystem.sync_directory(directory)
    return MemoryFile(file, memory, 1, 0)


def read_slots(file: File) -> list[tuple[int, Memory] | None]:
    """Return what each slot holds: its sequence and memory, or None where it is bad."""
    return [_decode(file.read(SLOT_BYTES, slot * SLOT_BYTES)) for slot in (0, 1)]


def open_memory(filesystem: FileSystem, directory: str) -> tuple[MemoryFile, bool]:
    """Return the file and whether a slot was bad or behind and has been written anew.

    Raises FileNotFoundError if there is none, DamagedError if neither slot is good, OSError.
    """
    path = f"{directory}/{FILE_NAME}"
    file = filesystem.open(path)
    # What a killed process wrote may stand in the system's memory only: make it durable
    # before it is believed, and then believe the disk, not the memory.
    file.sync()
    file.uncache()
    slots = read_slots(file)
    good = [(*found, slot) for slot, found in enumerate(slots) if found is not None]
    if not good:
        file.close()
        raise DamagedError("neither copy of term and vote is whole", place=f"{path}, offset 0")
    sequence, memory, newest = max(good, key=lambda found: found[0])
    opened = MemoryFile(file, memory, sequence, newest)
    mended = slots[0] != slots[1]
    if mended:
        opened.write(memory)
    return opened, mended
