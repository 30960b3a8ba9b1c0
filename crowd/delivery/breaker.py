"""A consumer's circuit breaker: when attempts stop, and when one message tries again.

Decides, from what single attempts showed of the consumer as a whole, whether it is attempted
at all (M. Nygard, "Release It!", "Circuit Breaker"). Pure: time is an argument. Leaves which
message is the probe, and the time that a consumer asks for, to ``plan``.

    CLOSED --too many failures, or an answer that holds--> OPEN     wait: first
    OPEN   --the wait is over, and an attempt starts-----> PROBING
    PROBING --a sign of life-----------------------------> CLOSED
    PROBING --a failure----------------------------------> OPEN     wait: doubled, up to most
    PROBING --nothing was sent after all-----------------> OPEN     no wait, or a short one

Invariant: in OPEN and PROBING only the probe's answer counts. What was under way when it opened
belongs to the time before.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crowd.definition import Breaker as BreakerDefinition

SEEN_MAX: Final = 50
"""Attempts that the share of failures is taken of: few enough that a consumer which went
down is noticed within seconds at 10 attempts a second."""

_MASK: Final = (1 << SEEN_MAX) - 1


class BreakerState(StrEnum):
    """Whether attempts are made."""

    CLOSED = "closed"
    """They are."""
    OPEN = "open"
    """None is, before a wait is over."""
    PROBING = "probing"
    """One is under way, and decides."""


class Breaker:
    """The state of one consumer's breaker. ``why`` says what opened it last, in words.

    ``opened`` counts the waits in a row, 0 while it is closed; the present one ends at
    ``until_s``.
    """

    def __init__(self, definition: BreakerDefinition) -> None:
        """Make a closed breaker."""
        self.state = BreakerState.CLOSED
        self.closed = True
        self.opened = 0
        self.until_s = self._own_until_s = 0.0
        self.why = ""
        self.follow(definition)
        self._clear()

    def follow(self, definition: BreakerDefinition) -> None:
        """Go by another definition from here on; a wait that has begun stays as it is."""
        self._run_max = definition.failures
        self._seen_min = min(definition.failures, SEEN_MAX)
        self._ratio = definition.ratio
        self._first_s = definition.first_us / 1e6
        self._most_s = definition.most_us / 1e6

    def restore(self, opened: int, until_s: float, why: str) -> None:
        """Go on where another leader's breaker was, in its `opened`-th wait; 0 for closed."""
        if opened:
            self.opened, self.until_s, self.why = opened, until_s, why
            self._own_until_s = until_s
            self._set(BreakerState.OPEN)

    def _set(self, state: BreakerState) -> None:
        self.state = state
        self.closed = state is BreakerState.CLOSED

    def _clear(self) -> None:
        self._run = 0
        self._seen = 0
        self._failed = 0  # one bit for each attempt seen, the newest lowest; 1 is a failure

    def started(self) -> None:
        """Take note that a probe starts: it is open, and the wait is over."""
        assert self.state is BreakerState.OPEN, "one probe at a time"
        self._set(BreakerState.PROBING)

    def abandoned(self, until_s: float = 0.0) -> None:
        """Take note that the probe was not sent, or says nothing of the consumer.

        The next one may be at once, or from `until_s` on.
        """
        assert self.state is BreakerState.PROBING
        self.until_s = max(self.until_s, until_s)
        self._set(BreakerState.OPEN)

    def hasten(self) -> None:
        """Take note that what a probe lacked is here: the next one need not wait for that."""
        self.until_s = min(self.until_s, self._own_until_s)

    def lived(self, *, probe: bool) -> bool:
        """Count a sign of life; return whether it closed the breaker."""
        if self.closed:
            self._run = 0
            if self._seen < SEEN_MAX:
                self._seen += 1
            if self._failed:
                self._failed = self._failed << 1 & _MASK
            return False
        if not probe:
            return False
        self.opened, self.why = 0, ""
        self.until_s = self._own_until_s = 0.0
        self._set(BreakerState.CLOSED)
        self._clear()
        return True

    def failed(self, now_s: float, why: str, *, probe: bool, holds: bool) -> bool:
        """Count a failure of the consumer as a whole; return whether it opened the breaker.

        `holds` says that one such answer is enough. A probe's failure begins the next wait.
        """
        if not self.closed:
            if probe:
                self._open(now_s, why)
            return False
        self._run += 1
        self._seen = min(SEEN_MAX, self._seen + 1)
        self._failed = (self._failed << 1 | 1) & _MASK
        too_many = self._run >= self._run_max or (
            self._seen >= self._seen_min and self._failed.bit_count() >= self._ratio * self._seen
        )
        if too_many or holds:
            self._open(now_s, why)
        return too_many or holds

    def _open(self, now_s: float, why: str) -> None:
        # The doubling stops long before the power could become too large to be a float.
        wait_s = min(self._most_s, self._first_s * 2.0 ** min(self.opened, 64))
        self.opened += 1
        self.until_s = self._own_until_s = now_s + wait_s
        self.why = why
        self._set(BreakerState.OPEN)
