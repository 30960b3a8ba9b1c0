"""The scrub: what nobody reads is verified all the same, a piece at a time.

Decides whose turn it is, the log's or a checkpoint's. Leaves the reading to ``journal`` and
``checkpoints``, the pace to whoever calls `step`, and mending to ``repairs``.

In the reactor only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crowd.errors import DamagedEntryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.raft.checkpoints import CheckpointStore
    from crowd.raft.journal import Journal, ScrubResult


class Scrubbing:
    """Verifies what is stored. `damaged` hears of each entry that is bad."""

    def __init__(
        self,
        journal: Journal,
        store: CheckpointStore,
        damaged: Callable[[DamagedEntryError], object],
        *,
        checkpoints_every: int,
    ) -> None:
        """Verify a checkpoint after each `checkpoints_every` pieces of the log."""
        self._journal = journal
        self._store = store
        self._damaged = damaged
        self._every = checkpoints_every
        self._pieces = 0
        self._busy = False

    def step(self, *, doubtful: bool) -> None:
        """Verify the next piece, if the last one is done.

        A checkpoint's, if one is `doubtful`: somebody whom it was sent found it bad.
        """
        if self._busy:
            return
        self._busy = True
        self._pieces += 1
        if self._pieces % self._every and not doubtful:
            self._journal.scrub(self._scrubbed)
        else:
            self._store.scrub(self._checked)

    def _scrubbed(self, result: ScrubResult) -> None:
        self._busy = False
        for flaw in result.flaws:
            for index in range(flaw.first_index, flaw.last_index + 1):
                words = "found by the scrub"
                self._damaged(DamagedEntryError(words, place=flaw.place, index=index))

    def _checked(self, _: object) -> None:
        self._busy = False  # the store has said what it found, and uses it no more
