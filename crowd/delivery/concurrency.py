"""How many attempts at one consumer are under way at once.

Decides a number between 1 and the consumer's own bound, by additive increase and multiplicative
decrease (V. Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988): one more after a window
of successes that used what there was with few failures, half as many when the consumer asks for it, a fifth less
when its answers take much longer than they did at their quickest. Decides the slow start after an
outage: one, two, four and so on. Pure: time is an argument.

Failures alone say little: a consumer may fail as often whatever it is given. The limiters that are
known best (Netflix's concurrency-limits, Envoy's adaptive concurrency) go by time and by explicit
refusals for that. Here a share of attempts that were too much starts a *trial*: half as many, and
if then the share is not clearly smaller, the load was not the reason. It goes back to what it was,
and that share is the *usual* one from then on, until it has faded: only a larger one begins a trial.

Invariant: 1 <= limit <= bound.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WINDOW_MIN: Final = 8
"""Successes in a window, at least: the mean of fewer answers says little of their time."""

SLOWER: Final = 3.0
"""Answers count as slow at so many times the quickest window's mean, and `SLACK_S` more."""

SLACK_S: Final = 0.05
"""What a busy reactor, or one lost packet, may add to an answer's time without meaning anything."""

ALONE: Final = 1 / 4
"""The share by which the quickest mean follows a slower one while attempts go one by one: then
nothing of ours makes the consumer slow. It is believed only then, as queueing would be otherwise."""

SEEN_MIN: Final = 50
"""Attempts that a share is taken of, at least: by chance one of 0.3 is below 0.15, or above 0.5,
less than once in a hundred times. As many as the breaker's."""

MORE: Final = 0.2
"""A share that is so much above the usual one begins a trial."""

USUAL_MAX: Final = 0.5
"""No larger share is taken for usual: so one of 0.7 and more has trials again and again. At 0.9 the
breaker opens."""

FADES: Final = 0.98
"""What is left of the usual share with each later one, so that it is tried anew from time to time: what
a trial said may have been chance, or true then. Of 0.3 that is after some fifty, of 0.5 after some 25."""


class _Trial(NamedTuple):
    """What was before it: the limit, and the share of attempts that were too much."""

    limit: int
    share: float

    def helped(self, share: float) -> bool:
        """Return whether half as many had a clearly smaller share.

        A consumer that takes so many at once and no more would have 0 then, or 2 x - 1 where more
        than half were too much; one that fails by chance the same. Clearly is half way.
        """
        return share < self.share - min(self.share, 1 - self.share) / 2


class Concurrency:
    """The number of attempts that may be under way, ``limit``, as it is now."""

    def __init__(self, bound: int, *, adaptive: bool) -> None:
        """Begin at `bound`: it is what the consumer was said to bear. It is at least 1."""
        self.limit = self._bound = bound
        self._slow_start = False
        self._quickest_s: float | None = None
        self._usual = 0.0
        self._trial: _Trial | None = None
        self._since_s = float("-inf")  # what began earlier belongs to another limit
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
        self._trial = None
        self._seen = self._over = 0

    def restart(self, now_s: float) -> None:
        """Begin again at 1: the consumer has just come back. Doubles up to half of what it was."""
        was = self.limit if self._trial is None else self._trial.limit
        self._double_to = max(1, was // 2) if self._adaptive else self._bound
        self._set(1, now_s)
        self._slow_start = True
        self._begin_window()

    def _set(self, limit: int, now_s: float) -> None:
        """Have another limit, on purpose, and count anew for it."""
        self.limit = max(1, min(limit, self._bound))
        self._trial = None
        self._since_s = now_s
        self._seen = self._over = 0
        self._begin_window()

    # --- Successes: their time, and more attempts ---------------------------------------------------

    def _begin_window(self) -> None:
        self._count = 0
        self._sum_s = 0.0
        self._failed = 0
        self._full = False
        self._window = self.limit if self._slow_start else max(WINDOW_MIN, self.limit)

    def succeeded(self, now_s: float, started_s: float, in_flight: int) -> None:
        """Count a success of an attempt that began at `started_s`, with so many others under way."""
        self._count += 1
        self._sum_s += now_s - started_s
        if in_flight + 1 >= self.limit:
            self._full = True
        if self._count >= self._window:
            self._end_window(now_s)
        self._see(now_s, started_s, over=False)

    def _end_window(self, now_s: float) -> None:
        mean_s = self._sum_s / self._count
        quickest_s = self._quickest_s
        if quickest_s is None or mean_s < quickest_s:
            quickest_s = mean_s
        elif self.limit == 1:
            quickest_s += (mean_s - quickest_s) * ALONE
        self._quickest_s = quickest_s
        if self._adaptive and mean_s > SLOWER * quickest_s + SLACK_S:
            self._slow_start = False
            self._set(self.limit * 4 // 5, now_s)
        elif self._full and self.limit < self._bound and self._trial is None and not self._fails:
            self._raise()
        self._begin_window()

    @property
    def _fails(self) -> bool:
        """Whether more than usual of this window was too much."""
        return self._failed > (self._usual + MORE) * (self._failed + self._count)

    def _raise(self) -> None:
        if self._slow_start and self.limit < self._double_to:
            self.limit = min(self._bound, self._double_to, self.limit * 2)
        else:
            self._slow_start = False
            self.limit += 1
        if not self._adaptive and self.limit >= self._bound:
            self._slow_start = False

    # --- What was too much: fewer attempts ----------------------------------------------------------

    def overloaded(self, now_s: float, started_s: float, *, asked: bool) -> None:
        """Count an attempt that began at `started_s` and was too much.

        If the consumer `asked` for less, halve it at once; those that began before it was
        lowered last had their part in that already.
        """
        self._failed += 1
        if not asked:
            self._see(now_s, started_s, over=True)
        elif self._adaptive and started_s >= self._since_s:
            self._slow_start = False
            self._set(self.limit // 2, now_s)

    def _see(self, now_s: float, started_s: float, *, over: bool) -> None:
        """Count an attempt towards the share of those that were too much."""
        if not self._adaptive or started_s < self._since_s:
            return
        self._seen += 1
        self._over += over
        if self._seen >= max(SEEN_MIN, self.limit):
            share = self._over / self._seen
            self._seen = self._over = 0
            self._judge(share, now_s)

    def _judge(self, share: float, now_s: float) -> None:
        trial = self._trial
        if trial is not None:
            if trial.helped(share):
                self._slow_start = False
                self._trial = None
            else:
                self._usual = min(USUAL_MAX, max(share, trial.share))
                self._set(trial.limit, now_s)
        elif share > self._usual + MORE and self.limit > 1:
            limit = self.limit
            self._set(limit // 2, now_s)
            self._trial = _Trial(limit, share)
        self._usual *= FADES
