"""Checkpoints and compaction: what keeps a restart short and the disk bounded (I3, I7).

Decides when a checkpoint is taken, when the log's beginning may be released on every node, and
when this node cuts its own. Leaves the files to ``checkpoints`` and ``journal``, and what a
release means to the ledger (`crowd.command.Release`).

- A checkpoint holds the ledger as of an applied entry and becomes one when that entry is durable,
  and the letters of all entries up to it: the log may lose their bytes then.
- The leader proposes a release up to a checkpoint below which every message is settled by every
  consumer and old enough: then a node that begins from that checkpoint lacks nothing.
- Each node's floor is its newest checkpoint at or below what was released; its log begins there.
- All this follows the log's growth. On a disk that is short the door is closed, and the log does not
  grow: there a checkpoint is due with each entry, and the leader makes entries, until all that is
  settled is released. Otherwise the door would stay closed for good.

In the reactor only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from twisted.logger import Logger

from crowd.command import Index, Release
from crowd.errors import DamagedEntryError, NoSpaceError
from crowd.raft.checkpoints import Head

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.ledger import Ledger
    from crowd.raft.checkpoints import Checkpoint, CheckpointStore
    from crowd.raft.journal import Journal

SIZE_FACTOR: Final = 2
"""The log grows by twice a checkpoint's size before the next: its cost stays a third of all
writing, however large a ledger with a long backlog becomes."""
STILL_S: Final = 5.0
"""No message for so long, on a disk that is short: the log's growth releases nothing any more."""
AGAIN_S: Final = 20.0
ROUNDS_MAX: Final = 3
"""How often, and how many times more, it is released on a short disk, for a node that came later."""
NUDGE_S: Final = 10.0
"""Between two entries that only move the log on, and its time, while what is settled is retained."""
SEGMENTS_AT_ONCE: Final = 4
"""Files removed in one job of the journal's writer: tens of milliseconds, between two batches."""


class Pace(NamedTuple):
    """How far the log may grow until the next checkpoint: what a restart has to apply again.

    16 384 entries or 64 MiB are applied in about a second.
    """

    entries: int = 16_384
    size_bytes: int = 64 << 20


class Compaction:
    """Takes this node's checkpoints and cuts its log."""

    _log = Logger()

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        store: CheckpointStore,
        *,
        pace: Pace,
        retention_us: int,
        letters_durable: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """`letters_durable` tells whether all letters of entries up to an index are durable."""
        self._ledger = ledger
        self._journal = journal
        self._store = store
        self._pace = pace
        self._retention_us = retention_us
        self._letters_durable = letters_durable
        self._grown_entries = 0
        self._grown_bytes = 0
        self._forgotten = 0
        self._now_s = self._still_since_s = 0.0
        self._nudged_s = -NUDGE_S
        self._tip = -1
        self._owed = False
        self._goal: int | None = None  # the entry that releases are to go beyond
        self._goal_s = 0.0
        self._rounds = 0

    def restored(self) -> None:
        """Begin to count anew: the ledger is as a checkpoint has it."""
        self._grown_entries = self._grown_bytes = self._forgotten = 0

    def applied(self, size_bytes: int) -> None:
        """Count an applied entry."""
        self._grown_entries += 1
        self._grown_bytes += size_bytes

    @property
    def is_due(self) -> bool:
        """Whether the next checkpoint should be taken."""
        store = self._store
        newest = store.newest
        if self._owed and (
            newest is None or newest.tip < self._ledger.tip or newest.log_time_us <= self._until_us
        ):
            return self._grown_entries > 0
        if store.floor is None and len(store.checkpoints) < 2 and self._ledger.released_index:
            # The floor was damaged, and the next one is to come soon: one that a release can
            # reach, as it reaches none that is the newest.
            return self._grown_entries > 0
        if newest is not None and self._grown_bytes < SIZE_FACTOR * newest.size_bytes:
            return False
        return (
            self._grown_entries >= self._pace.entries or self._grown_bytes >= self._pace.size_bytes
        )

    def look(self) -> None:
        """Take a checkpoint if one is due; hand on those that wait for the journal."""
        self._store.poke()
        if self.is_due and not self._store.busy:
            self._take()

    def mind(self, now_s: float, *, short: bool) -> None:
        """Note whether the disk is `short` of room that a release would make. `now_s` is monotonic.

        That is so while no message comes, all are settled, and the log still holds them. It goes
        on until what is released is beyond the entry by which this node's is cut, and some times
        more: other nodes' checkpoints are at other entries, and may come later.
        """
        ledger = self._ledger
        self._now_s = now_s
        if ledger.tip != self._tip:
            self._tip, self._still_since_s, self._rounds = ledger.tip, now_s, 0
        floor = self._store.floor
        if floor is None or floor.tip < ledger.tip:
            self._goal = None
        elif self._goal is None:
            self._goal, self._goal_s = ledger.applied_index, now_s
        elif short and now_s - self._goal_s >= AGAIN_S and self._rounds < ROUNDS_MAX:
            self._goal, self._goal_s = ledger.applied_index, now_s
            self._rounds += 1
        goal = self._goal
        self._owed = (
            short
            and bool(ledger.consumers)
            and ledger.lowest_watermark >= ledger.tip
            and now_s - self._still_since_s >= STILL_S
            and (goal is None or ledger.released_index < goal)
        )

    def _take(self) -> None:
        ledger, journal = self._ledger, self._journal
        index = ledger.applied_index
        try:
            entry = journal.entry(index)
        except DamagedEntryError:
            return  # whoever reads it next has it mended; then it is taken
        self._grown_entries = self._grown_bytes = 0
        head = Head(index, entry[2], ledger.tip, ledger.log_time_us)
        self._store.take(
            head,
            entry,
            ledger.capture(),
            durable=lambda: journal.durable_index >= index and self._letters_durable(index),
            done=self._taken,
        )

    def _taken(self, result: Checkpoint | NoSpaceError) -> None:
        if isinstance(result, NoSpaceError):
            self._log.warn("no checkpoint was taken: {error}", error=result)
        else:
            self.follow()

    # --- Releases ---------------------------------------------------------------------------------

    def release(self) -> Release | None:
        """Return what a leader should propose now, or None.

        Never up to the newest checkpoint: should that one turn out to be damaged, the one
        before it and the log bring the same ledger back.
        """
        ledger = self._ledger
        lowest, until_us = ledger.lowest_watermark, self._until_us
        for checkpoint in reversed(self._store.checkpoints[:-1]):
            if checkpoint.index <= ledger.released_index:
                return None
            if checkpoint.tip <= lowest and checkpoint.log_time_us <= until_us:
                return Release(floor=Index(checkpoint.index)) if ledger.consumers else None
        return None

    def nudge(self) -> Release | None:
        """Return what a leader should propose to move a log on that does not grow, or None.

        It releases nothing that was not released before; a checkpoint at it lets the one before go.
        """
        waits = self._now_s - self._nudged_s < NUDGE_S
        if not self._owed or waits or self._store.busy or self.is_due:
            return None
        self._nudged_s = self._now_s
        return Release(floor=Index(max(1, self._ledger.released_index)))

    @property
    def _until_us(self) -> int:
        """The log time up to which what is settled was retained long enough."""
        return self._ledger.log_time_us - self._retention_us

    def follow(self) -> None:
        """Move the floor to what was released, and cut the log behind it, a few files at a time."""
        self._store.released(self._ledger.released_index)
        floor = self._store.floor
        if floor is None:
            return
        if floor.index > self._journal.first_index:
            self._journal.deleteEntriesTo(
                floor.index - self._journal.first_index, segments_max=SEGMENTS_AT_ONCE
            )
        # A snapshot's ledger may have to apply the release that let it become the floor.
        forgotten = min(floor.index, self._ledger.released_index)
        if forgotten > self._forgotten:
            self._forgotten = forgotten
            self._ledger.forget(Index(forgotten))
