"""How many attempts at one consumer are under way at once.

Decides a number between 1 and the consumer's own bound, by additive increase and multiplicative
decrease (V. Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988): one more after a window
of successes that used what there was, half as many when the consumer says that it has too much,
a fifth less when its answers take much longer than they did at their quickest. Decides the slow
start after an outage: one, two, four and so on. Pure: time is an argument.

Invariant: 1 <= limit <= bound.
"""

from __future__ import annotations

from typing import Final

WINDOW_MIN: Final = 8
"""Successes in a window, at least: the mean of fewer answers says little of their time."""

SLOWER: Final = 3.0
"""Answers count as slow at so many times the quickest window's mean, and `SLACK_S` more."""

SLACK_S: Final = 0.05
"""What a busy reactor, or one lost packet, may add to an answer's time without meaning anything."""

ALONE: Final = 1 / 4
"""The share by which the quickest mean follows a slower one while attempts go one by one: then
nothing of ours makes the consumer slow. It is believed only then, as queueing would be otherwise."""


class Concurrency:
    """The number of attempts that may be under way, ``limit``, as it is now."""

    def __init__(self, bound: int, *, adaptive: bool) -> None:
        """Begin at `bound`: it is what the consumer was said to bear. It is at least 1."""
        self.limit = self._bound = bound
        self._slow_start = False
        self._quickest_s: float | None = None
        self._lowered_s = float("-inf")
        self.follow(bound, adaptive=adaptive)
        self._begin_window()

    def follow(self, bound: int, *, adaptive: bool) -> None:
        """Go by another bound from here on. Without `adaptive` only a slow start is below it."""
        assert bound >= 1
        below = (adaptive or self._slow_start) and self.limit < self._bound
        self.limit = min(self.limit, bound) if below else bound
        self._bound = bound
        self._adaptive = adaptive
        self._double_to = bound

    def restart(self, now_s: float) -> None:
        """Begin again at 1: the consumer has just come back. Doubles up to half of what it was."""
        self._double_to = max(1, self.limit // 2) if self._adaptive else self._bound
        self.limit = 1
        self._slow_start = True
        self._lowered_s = now_s
        self._begin_window()

    def _begin_window(self) -> None:
        self._count = 0
        self._sum_s = 0.0
        self._full = False
        self._window = self.limit if self._slow_start else max(WINDOW_MIN, self.limit)

    def succeeded(self, took_s: float, in_flight: int) -> None:
        """Count a success that took so many seconds, with `in_flight` others then under way."""
        self._count += 1
        self._sum_s += took_s
        if in_flight + 1 >= self.limit:
            self._full = True
        if self._count >= self._window:
            self._end_window()

    def _end_window(self) -> None:
        mean_s = self._sum_s / self._count
        quickest_s = self._quickest_s
        if quickest_s is None or mean_s < quickest_s:
            quickest_s = mean_s
        elif self.limit == 1:
            quickest_s += (mean_s - quickest_s) * ALONE
        self._quickest_s = quickest_s
        if self._adaptive and mean_s > SLOWER * quickest_s + SLACK_S:
            self.limit = max(1, self.limit * 4 // 5)
            self._slow_start = False
        elif self._full and self.limit < self._bound:
            self._raise()
        self._begin_window()

    def _raise(self) -> None:
        if self._slow_start and self.limit < self._double_to:
            self.limit = min(self._bound, self._double_to, self.limit * 2)
        else:
            self._slow_start = False
            self.limit += 1
        if not self._adaptive and self.limit >= self._bound:
            self._slow_start = False

    def overloaded(self, now_s: float, started_s: float) -> None:
        """Halve it: an attempt that began at `started_s` was too much.

        Those that began before it was lowered last had their part in that already.
        """
        if not self._adaptive or started_s < self._lowered_s:
            return
        self.limit = max(1, self.limit // 2)
        self._slow_start = False
        self._lowered_s = now_s
        self._begin_window()
