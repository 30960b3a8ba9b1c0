"""How long until there is room again: what ``Retry-After`` says, from how fast a backlog drains. Pure.

Decides the rate at which something goes, and the wait that follows from it. Leaves what is full,
and who is told, to ``room``. What goes is the ledger's own figure, which entries settle: every
node applies the same ones, so every node says nearly the same.

A rate is the mean of the last `SHORT_S` or of the last `LONG_S`, whichever is higher. The short
one hears at once of a consumer that is back; the long one bridges pauses of one that takes its
messages in lumps. Too high a rate costs a producer one more refusal, too low a one its patience.
Time in which there was nothing to drain says nothing of the rate, and is left out.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORT_S: Final = 10.0
LONG_S: Final = 60.0
STEP_S: Final = 1.0
"""Samples stand so far apart, so that there are about 60 of each figure; below it there is no rate."""
WAIT_MIN_S: Final = 1
WAIT_MAX_S: Final = 3_600
"""After an hour things are otherwise than any estimate has them."""
STALLED_S: Final = 60
"""What is said at most where nothing drains. What has stood still for 3 s may go on in another 3 s."""
MARGIN_SHARE: Final = 64
"""A producer is to come when the backlog is so small a part of its bound below it, so that those
who came a little earlier have not filled it again; but see `MARGIN_S`."""
MARGIN_S: Final = 10.0
"""No margin takes longer than this to drain: with room for some there is no sense in waiting on."""
SPREAD: Final = 16
"""Producers who are refused together come back in so many groups."""
_STRIDE: Final = 5
"""Has no factor in common with `SPREAD`: neighbours stand far apart, and each group has its turn."""


class Sample(msgspec.Struct, frozen=True, gc=False):
    """What had gone until when."""

    at_s: float
    gone: int


class Drain:
    """How fast one figure grows that counts what has gone: bytes, or messages, settled so far."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def note(self, now_s: float, gone: int, *, idle: bool = False) -> None:
        """Take note of the figure at `now_s` (monotonic); as often as one likes.

        `idle`: there is nothing to drain. All begins anew then, and with a figure that falls,
        which counts something else: the ledger was replaced.
        """
        samples = self._samples
        if idle or (samples and gone < samples[-1].gone):
            samples.clear()
        if len(samples) > 1 and samples[-1].at_s - samples[-2].at_s < STEP_S:
            samples.pop()
        samples.append(Sample(now_s, gone))
        while now_s - samples[0].at_s > LONG_S:
            samples.popleft()

    @property
    def rate(self) -> float:
        """What goes in a second; 0 where nothing does, or nothing is known yet."""
        samples = self._samples
        if not samples:
            return 0.0
        since_s = samples[-1].at_s - SHORT_S
        recent = next(each for each in samples if each.at_s >= since_s)
        return max(_slope(samples[0], samples[-1]), _slope(recent, samples[-1]))

    @property
    def still_s(self) -> float:
        """For how long nothing has gone, as far as is known: about `LONG_S` at most."""
        samples = self._samples
        if not samples:
            return 0.0
        first = next(each for each in samples if each.gone == samples[-1].gone)
        return samples[-1].at_s - first.at_s


def _slope(first: Sample, last: Sample) -> float:
    elapsed_s = last.at_s - first.at_s
    return (last.gone - first.gone) / elapsed_s if elapsed_s >= STEP_S else 0.0


class Level(msgspec.Struct, frozen=True, gc=False):
    """How full something is: `held` of at most `bound`, and the `rate` at which it drains.

    `least` is the least that makes room, about one message. Without a rate, `still_s` is for how
    long nothing has drained.
    """

    held: int
    bound: int
    rate: float
    least: int = 1
    still_s: float = LONG_S

    @property
    def is_full(self) -> bool:
        """Whether nothing more is taken; a bound of 0 is none."""
        return 0 < self.bound <= self.held

    @property
    def wait_s(self) -> int:
        """In how many seconds there is room, `WAIT_MIN_S` to `WAIT_MAX_S`."""
        if self.rate <= 0:
            return min(max(math.ceil(self.still_s), WAIT_MIN_S), STALLED_S)
        margin = max(self.least, min(self.bound / MARGIN_SHARE, self.rate * MARGIN_S))
        left = max(0, self.held - self.bound) + margin
        return max(math.ceil(min(left / self.rate, WAIT_MAX_S)), WAIT_MIN_S)


def wait_s(levels: Sequence[Level]) -> int:
    """Return in how many seconds none of these is full any more; 0 if none is now."""
    return max((level.wait_s for level in levels if level.is_full), default=0)


def in_turn(wait: int, turn: int) -> int:
    """Return what the producer hears who is refused as number `turn`, counted from anywhere.

    From `wait` to half as long again, at least a second more: in groups, so that not all of
    them are back in the same second.
    """
    return wait + (turn * _STRIDE % SPREAD) * (max(1, wait // 2) + 1) // SPREAD
