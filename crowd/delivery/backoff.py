"""How long a message waits before its next attempt, and when it has been tried for long enough.

Decides exponential backoff with jitter: of each wait a share is drawn evenly by chance, all of
it by default, so that messages that failed together do not come back together (M. Brooker,
"Exponential Backoff and Jitter", AWS Architecture Blog, 2015); or a schedule of waits. Decides
after which attempt, or at which age, a message is dead. Pure: the random number is an argument.

A message ages only while its consumer as a whole answers; `AnsweringClock` says how long that
was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from crowd.definition import Retry

Spent: TypeAlias = Literal["attempts", "age"]


class Backoff(msgspec.Struct, frozen=True, gc=False):
    """``first_s`` is the first ceiling, multiplied by ``factor`` each time, up to ``most_s``.

    ``first_s`` is 0 or at least a microsecond, the unit that definitions count in. ``jitter``
    is the share of a wait that is drawn by chance. A ``schedule_s`` names the ceilings instead.
    ``attempts_max`` is 0 for any number. ``asked_most_s`` caps a consumer's Retry-After.
    """

    first_s: float
    factor: float
    most_s: float
    jitter: float = 1.0
    schedule_s: tuple[float, ...] = ()
    attempts_max: int = 0
    for_s: float = math.inf
    asked_most_s: float = 3_600.0

    @classmethod
    def from_definition(cls, retry: Retry) -> Backoff:
        """Return the backoff that a consumer's definition asks for."""
        schedule_s = tuple(wait_us / 1e6 for wait_us in retry.schedule_us)
        bounds = [retry.attempts] if retry.attempts else []
        if schedule_s:
            bounds.append(len(schedule_s) + 1)  # a wait stands between two attempts
        return cls(
            retry.first_us / 1e6,
            retry.factor,
            retry.most_us / 1e6,
            retry.jitter,
            schedule_s,
            min(bounds, default=0),
            retry.for_us / 1e6,
            retry.asked_most_us / 1e6,
        )

    def ceiling_s(self, failures: int) -> float:
        """Return the longest wait after so many failures (from 1), in seconds."""
        if self.schedule_s:
            return self.schedule_s[min(failures, len(self.schedule_s)) - 1]
        if self.first_s <= 0:
            return 0.0
        if self.first_s >= self.most_s:
            return self.most_s
        # Compared as logarithms: the power itself would overflow after enough failures.
        if (failures - 1) * math.log(self.factor) >= math.log(self.most_s / self.first_s):
            return self.most_s
        return min(self.most_s, self.first_s * self.factor ** (failures - 1))

    def delay_s(self, failures: int, chance: float) -> float:
        """Return the wait in seconds after so many failures (from 1).

        `chance` is a random number in [0, 1).
        """
        return self.ceiling_s(failures) * (1.0 - self.jitter * (1.0 - chance))

    def honoured_s(self, asked_s: float) -> float:
        """Return how much of a consumer's Retry-After is kept to: all of it, up to the cap."""
        return min(asked_s, self.asked_most_s)

    def spent(self, attempts: int, age_s: float) -> Spent | None:
        """Return why a message is dead that failed once more, or None if it is not.

        `attempts` that count, this one among them; `age_s` of answering time since its first.
        """
        if self.attempts_max and attempts >= self.attempts_max:
            return "attempts"
        return "age" if age_s >= self.for_s else None


class AnsweringClock:
    """How long a consumer as a whole answered: no time held, paused, or with an open breaker.

    Invariant: it never goes back, and never runs faster than the time it is told.
    """

    def __init__(self, aged_s: float = 0.0) -> None:
        """Make a clock that stands, at `aged_s` seconds."""
        self._aged_s = aged_s
        self._runs_from_s = math.inf

    def aged_s(self, now_s: float) -> float:
        """Return the seconds that it has counted."""
        runs_from_s = self._runs_from_s
        return self._aged_s + (now_s - runs_from_s if now_s > runs_from_s else 0.0)

    def run_from(self, from_s: float, now_s: float) -> None:
        """Stand from `now_s` on, and run again from `from_s`, which may be ``math.inf``."""
        self._aged_s = self.aged_s(now_s)
        self._runs_from_s = max(from_s, now_s)
