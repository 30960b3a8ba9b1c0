"""How fast delivery goes: its share of the reactor's time, and a consumer's own rate.

Decides whether delivery may work now. While producers wait it has what the reactor's other
work leaves, and a small share at the least, as its every other microsecond is theirs; otherwise
it takes what it needs. A token bucket, counted in seconds of work.

Decides too when a consumer that has a rate may be attempted again. That is GCRA, the generic
cell rate algorithm (ITU-T I.371, annex A, as virtual scheduling): one moment to remember,
and none of a bucket's refills. Pure: time is an argument.
"""

from __future__ import annotations

import math
from typing import Final

from crowd.quantity import rate_per_s

SHARE: Final = 0.2
"""Of the reactor's time while producers wait and it has no moment to spare. With what is not
counted, the start of a slice and the reactor's own share of each answer, delivery then takes at
most 30 %."""

BURST_S: Final = 0.002
"""The most that is saved up: some twenty attempts in a row, which delay an answer to a
producer by less than the fsync that it waits for."""

TURN_S: Final = 0.002
"""While producers wait, what others leave of so long a time is delivery's, whatever its share: the
reactor would sleep through it. As long as a burst, so that nobody waits longer for it."""

RATE_BURST_S: Final = 0.1
"""A tenth of a second's attempts may come together: what was late for a slice, a timer or a
busy reactor is made up for, and a consumer's rate is reached, not only approached."""


class TimeBudget:
    """Seconds of work that delivery may still do while producers wait.

    Two bounds, of which the larger holds: a share of the time, which is delivery's even where the
    reactor is never done, and what all others left of the last turn. So delivery takes all that
    is to spare, and nothing of what producers need beyond its share.

    Invariant: over any span in which `slice_s` was obeyed, the work done is at most `share`
    of the span, plus what others left of it, plus one burst, plus the last slice's overrun.
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

    def slice_s(self, now_s: float, others_s: float) -> float:
        """Return for how long to work now; 0 or less for not at all.

        `others_s` is what all others worked since delivery did last, or was last told to wait.
        """
        self._accrue(now_s)
        return max(self._left_s, TURN_S - others_s)

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until it is worth asking again: a turn, or half a burst is left."""
        self._accrue(now_s)
        return max(0.0, min(TURN_S, (self._burst_s / 2 - self._left_s) / self._share))


class Rate:
    """When the next attempt at one consumer may start.

    Invariant: if an attempt is taken only when one is available, then over any window of
    w seconds at most ``per_s`` * w + ``burst`` are, and what the others of one batch are.

    Counted in whole nanoseconds, and an interval is rounded up: many roundings do not add up
    to more than the rate, as sums of binary fractions might.
    """

    def __init__(self, per_s: float, burst: int, start_s: float) -> None:
        """Make a rate with one attempt available at `start_s`, not a whole burst.

        So a leader that follows another one goes on at about the rate, and adds no burst to
        the one just made. `per_s` is above 0, `burst` at least 1.
        """
        assert per_s > 0
        assert burst >= 1
        self.per_s = per_s
        self.burst = burst
        self._interval_ns = math.ceil(1e9 / per_s)
        self._tolerance_ns = (burst - 1) * self._interval_ns
        # GCRA's theoretical arrival time: when the next would be due were all evenly spaced.
        self._even_ns = math.ceil(start_s * 1e9) + self._tolerance_ns

    @classmethod
    def from_text(cls, text: str, start_s: float) -> Rate:
        """Return the rate that a definition's ``"200/s"`` means; ValueError if it is none."""
        per_s = rate_per_s(text)
        return cls(per_s, max(1, int(per_s * RATE_BURST_S)), start_s)

    def due_s(self) -> float:
        """Return when one is available, which may be past."""
        return (self._even_ns - self._tolerance_ns) / 1e9

    def available(self, now_s: float) -> bool:
        """Return whether an attempt may start now."""
        return self.due_s() <= now_s

    def take(self, now_s: float, count: int = 1) -> None:
        """Count `count` that start now together, while one is available; the rest is owed."""
        assert self.available(now_s), "an attempt waits for its rate"
        self._even_ns = max(self._even_ns, math.ceil(now_s * 1e9)) + self._interval_ns * count
