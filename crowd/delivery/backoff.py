"""How long a message waits before its next attempt.

Decides exponential backoff with full jitter: the wait is drawn evenly between nothing and a
ceiling that grows with each failure, so that messages that failed together do not come back
together (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015). Pure:
the random number is an argument.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from crowd.command import Retry


class Backoff(msgspec.Struct, frozen=True, gc=False):
    """``first_s`` is the first ceiling, multiplied by ``factor`` each time, up to ``most_s``.

    ``first_s`` is 0 or at least a microsecond, the unit that definitions count in.
    """

    first_s: float
    factor: float
    most_s: float

    @classmethod
    def from_definition(cls, retry: Retry) -> Backoff:
        """Return the backoff that a consumer's definition asks for."""
        return cls(retry.first_us / 1e6, retry.factor, retry.most_us / 1e6)

    def ceiling_s(self, failures: int) -> float:
        """Return the longest wait after so many failures (from 1), in seconds."""
        if self.first_s <= 0:
            return 0.0
        if self.first_s >= self.most_s:
            return self.most_s
        # Compared as logarithms: the power itself would overflow after enough failures.
        if (failures - 1) * math.log(self.factor) >= math.log(self.most_s / self.first_s):
            return self.most_s
        return min(self.most_s, self.first_s * self.factor ** (failures - 1))

    def delay_s(self, failures: int, chance: float, asked_s: float | None = None) -> float:
        """Return the wait in seconds after so many failures (from 1).

        `chance` is a random number in [0, 1). `asked_s` is the consumer's own Retry-After: the
        wait is never shorter, but that never makes it longer than ``most_s``.
        """
        delay_s = chance * self.ceiling_s(failures)
        return delay_s if asked_s is None else max(delay_s, min(asked_s, self.most_s))
