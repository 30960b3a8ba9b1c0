"""How much of the reactor's time delivery takes.

Decides whether delivery may work now. While producers wait it has a share of the time and
no more, as its every microsecond is theirs; otherwise it takes what it needs. A token
bucket, counted in seconds of work. Pure: time is an argument.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.3
"""DESIGN.md's bound: 30 % of the reactor's time while producers wait."""

BURST_S: Final = 0.002
"""The most that is saved up: some twenty attempts in a row, which delay an answer to a
producer by less than the fsync that it waits for."""


class TimeBudget:
    """Seconds of work that delivery may still do while producers wait.

    Invariant: over any span in which `may_work` was obeyed, the work done is at most `share`
    of the span, plus one burst, plus the last slice's overrun.
    """

    def __init__(self, share: float = SHARE, burst_s: float = BURST_S) -> None:
        """Make a full budget; `share` in (0, 1], `burst_s` in seconds."""
        self._share = share
        self._burst_s = burst_s
        self._left_s = burst_s
        self._seen_s = float("-inf")

    def _accrue(self, now_s: float) -> None:
        if now_s > self._seen_s:
            gained_s = (now_s - self._seen_s) * self._share
            self._left_s = min(self._burst_s, self._left_s + gained_s)
            self._seen_s = now_s

    def work(self, seconds: float) -> None:
        """Count work that was done. More than is left becomes a debt, of one burst at most.

        The bound on the debt matters after a time without producers, in which work is
        counted but not limited: it delays delivery by some 10 ms then, not by minutes.
        """
        self._left_s = max(-self._burst_s, self._left_s - seconds)

    def may_work(self, now_s: float) -> bool:
        """Return whether anything is left now."""
        self._accrue(now_s)
        return self._left_s > 0

    @property
    def left_s(self) -> float:
        """The seconds of work that were left when it was last asked; negative is debt."""
        return self._left_s

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until half a burst is left, so that slices are worth their start."""
        self._accrue(now_s)
        return max(0.0, (self._burst_s / 2 - self._left_s) / self._share)
