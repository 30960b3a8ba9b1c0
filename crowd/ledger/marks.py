"""Marks: which position the log had reached when, so that a consumer can begin at a time.

Decides how many such pairs are kept and what a time resolves to. Leaves to ``definitions``
what a consumer does with it.

Invariant: a mark (t, p) says that every position up to p was accepted at or before t, and
every one behind it at or after t. Times never fall, and positions rise.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from crowd.ledger.head import MARKS_MAX, expect
from crowd.message import Position

if TYPE_CHECKING:
    from crowd.ledger.head import Head

MARK_EVERY_US: Final = 60_000_000
"""A quiet log is marked once a minute of log time, with the first message of each,"""

MARK_EVERY: Final = 4_096
"""and a busy one after so many positions: less than a consumer takes in some seconds."""


class Marks:
    """At most `MARKS_MAX` marks; the older, the farther apart they are."""

    def __init__(self) -> None:
        self._times_us = array("Q")
        self._positions = array("Q")
        self.due_us = 0
        """The next mark is due at this log time, or at the tip `due_position`."""
        self.due_position = 0

    def note(self, log_time_us: int, tip: int) -> None:
        """Mark that what comes behind `tip` is accepted at or after `log_time_us`.

        To be called when a mark is due, before a batch is accepted. At the bound every other
        one of the older half goes: a mark less only lets a consumer begin earlier.
        """
        if len(self._positions) == MARKS_MAX:
            del self._times_us[1 : MARKS_MAX // 2 : 2]
            del self._positions[1 : MARKS_MAX // 2 : 2]
        self._times_us.append(log_time_us)
        self._positions.append(tip)
        self._look()

    def before(self, time_us: int) -> Position:
        """Return a position below which nothing was accepted at or after `time_us`.

        Every message accepted at `time_us` or later lies behind it; 0 if no mark is older.
        """
        place = bisect_left(self._times_us, time_us)
        return Position(self._positions[place - 1] if place else 0)

    def forget(self, beginning: Position) -> None:
        """Drop the marks up to `beginning`: no consumer begins there any more."""
        place = bisect_right(self._positions, beginning)
        del self._times_us[:place], self._positions[:place]
        self._look()

    def _look(self) -> None:
        if self._positions:
            self.due_us = self._times_us[-1] + MARK_EVERY_US
            self.due_position = self._positions[-1] + MARK_EVERY
        else:
            self.due_us = self.due_position = 0

    def state(self) -> bytes:
        """Return the times, then the positions, as big-endian integers of eight bytes."""
        both = self._times_us + self._positions
        if sys.byteorder == "little":
            both.byteswap()
        return both.tobytes()

    def restore(self, head: Head) -> None:
        """Become, from empty, the marks that `head` holds.

        Raises MalformedError if they cannot be: this object is of no use then.
        """
        expect(len(head.marks) % 16 == 0, what="marks")
        both = array("Q", head.marks)
        if sys.byteorder == "little":
            both.byteswap()
        half = len(both) // 2
        self._times_us, self._positions = both[:half], both[half:]
        expect(
            all(one <= other for one, other in pairwise(self._times_us)),
            all(one < other for one, other in pairwise(self._positions)),
            not half or self._times_us[-1] <= head.applied.log_time_us,
            not half or head.released.beginning <= self._positions[0],
            not half or self._positions[-1] < head.accepted.tip,
            what="marks",
        )
        self._look()
