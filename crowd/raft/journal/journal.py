"""The journal: Raft's log, term and vote, behind the interface that pysyncobj asks for.

Decides what is in the log, what of it is durable, and when the next write starts. Leaves
the order of effects on the disk to ``appender``, their bytes to ``shape``.

Theory of operation. The reactor appends to lists in memory and is done. What gathers in one
turn of the reactor, and while a write is under way, becomes one batch: one write and one
fdatasync in the writer's thread (group commit). When that has returned, `durable_index`
moves and the engine is told. Three marks, and what holds between them at all times:

- ``durable_index <= last_index``: an entry is durable if the disk has it and it was not cut
  off since. A write under way at a cut makes durable only what the cut left.
- The entries above `durable_index` are in memory; so are the newest below it, within
  ``cache_bytes``; older ones are read from the disk, and verified each time.
- What is durable was never told before it was: `on_durable` is called from no other place
  than the report of a write.

Everything here runs in the reactor's thread.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, overload

import msgspec
from twisted.logger import Logger

from crowd.errors import FatalError, NoSpaceError, StorageFailedError
from crowd.raft.journal.appender import Appended, Batch
from crowd.raft.journal.memory import FOUNDING_BYTES_MAX
from crowd.raft.journal.places import Segment
from crowd.raft.journal.shape import COMMAND_BYTES_MAX, SEGMENT_HEADER_BYTES, Cut, Kind
from crowd.raft.journal.view import EntryView

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.raft.journal.appender import Appender
    from crowd.raft.journal.memory import Memory
    from crowd.raft.journal.ports import Lock, Writer
    from crowd.raft.journal.reader import Reader
    from crowd.raft.journal.recovery import Found
    from crowd.raft.journal.shape import Entry

BATCH_BYTES_MAX: Final = 8 << 20
"""One write, beyond its first entry: about 10 ms of a disk; what else gathered comes next."""
ENTRY_OVERHEAD_BYTES: Final = 200
"""What an entry costs in memory besides its command: a tuple, a bytes object, two integers."""
_EVICT_AT_ONCE: Final = 1024
"""Entries leave the memory in groups, since taking them off a list's front moves the rest."""
_NO_LIMIT: Final = 1 << 63


def _ignore(*_: object) -> None:
    pass


class Counters(msgspec.Struct):
    """What the writer did since the start; for metrics."""

    batches: int = 0
    entries: int = 0
    bytes: int = 0
    write_s: float = 0.0
    slowest_write_s: float = 0.0


class Journal:
    """The log of one node. Made by `open_journal`.

    ``first_index``, ``last_index`` and ``last_term`` include what is not durable yet; an
    empty log has ``last_index == first_index - 1``. All attributes are to be read only, but
    for the callbacks `on_durable` and `on_fatal`.
    """

    log = Logger()

    def __init__(
        self,
        found: Found,
        memory: Memory,
        appender: Appender,
        reader: Reader,
        writer: Writer,
        lock: Lock,
        *,
        cache_bytes: int,
    ) -> None:
        self._places, self._terms = found.places, found.terms
        self._appender, self._reader = appender, reader
        self._writer, self._lock = writer, lock
        self._cache_bytes = cache_bytes
        self.journal_id = memory.journal_id
        self.memory = memory.founding

        self.first_index = found.places.first_index
        self.last_index = found.places.last_index
        self.last_term = found.terms.last
        self.durable_index = self.last_index
        self._commit_index = max(1, found.commit_index)
        self._recent: list[Entry] = []  # the newest entries, ending with the last one
        self._recent_bytes = 0
        self._first: Entry | None = None
        self._last: Entry | None = None

        self._pending: list[Entry] = []  # not yet handed to the writer
        self.pending_bytes = 0
        self._cut: Cut | None = None  # to be written before them
        self._cleared = False
        self._scheduled = False
        self._in_flight: Batch | None = None
        self._flight_limit = _NO_LIMIT
        self._confirmed = found.confirmed
        self._written_commit_index = found.commit_index

        self._term, self._vote = memory.term, memory.vote
        if self.last_term > self._term:
            # An entry of a later term reached the disk before that term itself did. No vote
            # of that term was given away, as a vote leaves only when it is durable.
            self._term, self._vote = self.last_term, None
        self._stored_vote = (memory.term, memory.vote)
        self._memory_in_flight = False
        self._founding_wanted: tuple[bytes, Callable[[], object]] | None = None
        self.vote_pending = False

        self.full = False
        self.counters = Counters()
        self.on_durable: Callable[[], object] = _ignore
        self.on_fatal: Callable[[FatalError], object] = _ignore
        self._failed = self._closed = False

    # --- The log, as pysyncobj reads it ------------------------------------------------------

    def __len__(self) -> int:
        return self.last_index - self.first_index + 1

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> EntryView: ...
    def __getitem__(self, place: int | slice) -> Entry | EntryView:
        """Return the entry at a place counted from the first one, or a lazy view of a slice.

        Raises IndexError if there is none, and what `entry` raises. `[-1]` and `[0]` take
        0.1 µs: pysyncobj asks for them several times a message.
        """
        if place == -1 and self._last is not None:
            return self._last
        if place == 0 and self._first is not None:
            return self._first
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            assert step == 1, "entries are taken in their order"
            return EntryView(self.entry, self.first_index + start, max(0, stop - start))
        size = len(self)
        if not -size <= place < size:
            raise IndexError(f"no entry at place {place} of {size}")
        entry = self.entry(self.first_index + (place if place >= 0 else size + place))
        if place in (-1, size - 1):
            self._last = entry
        if place == 0:
            self._first = entry
        return entry
