"""What to attempt next at one consumer, and what to settle.

Decides, of one consumer: which message is attempted next, when a failed one comes back, when
the consumer as a whole counts as silent, and which outcomes go into the log together. Pure:
time and chance are arguments. Leaves attempts to ``lane``, and what is pending to the ledger.

Theory of operation. A position that the ledger names as pending is *taken* once, in rising
order; the cursor is the last one taken. From then on it is in exactly one place:

    fresh -> in flight -> delivered -> proposed -> (gone: the ledger shows it settled)
                 |  ^
                 v  |
               waiting

Invariant: cursor - watermark <= WINDOW, so what is held here is bounded whatever the backlog.

Invariant: a position leaves only when the ledger shows it settled. What a lost leadership
makes of this plan is nothing: it is thrown away, and the next leader begins at its ledger.

A consumer is *silent* after a run of attempts of which none showed life. Then there is one
attempt in flight at most, one probe a second, and no fresh message is begun: an outage costs
a handful of waiting messages, not a window full of them, and hits a consumer that comes up
with one request, not with thousands. The first sign of life calls the waiting ones back.

Invariant: with a *rate* every attempt, probes and retries among them, is taken from it when
it starts. What waits for the rate is not in flight: it stays fresh or waiting.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

import msgspec

from crowd.delivery.outcome import Answered, FailureKind, Outcome, outcome_of, shows_life

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crowd.delivery.backoff import Backoff
    from crowd.delivery.outcome import Answer
    from crowd.delivery.pace import Rate
    from crowd.message import Position

WINDOW: Final = 100_000
"""How far the cursor runs ahead of the watermark (docs/explanation/delivery.md). About 25 MB at the worst."""

FRESH_MAX: Final = 256
"""Positions asked of the ledger at once: many attempts to one question, few to remember."""

SILENT_RUN_MIN: Final = 8
"""Lifeless attempts in a row, at least, before a consumer counts as silent. With many in
flight it takes as many as that, because those all meet the same moment."""

PROBE_S: Final = 1.0
"""Between probes of a silent consumer: its return is noticed within about a second."""

RECALL_MAX: Final = 1_000
"""Waiting messages called back at the first sign of life. More have failed one by one."""

RECALL_S: Final = 1.0
"""The time over which those are spread, in their order."""

SETTLE_MAX: Final = 4_096
"""Positions in one `Settle`; a quarter of what a command may hold."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One attempt to start: the message's position, and its attempts' number from 1."""

    position: Position
    number: int


class Plan:
    """The state of one consumer's delivery, on the leader, for as long as it leads."""

    def __init__(
        self,
        backoff: Backoff,
        concurrency: int,
        watermark: Position,
        rate: Rate | None = None,
    ) -> None:
        """Begin behind `watermark`, with at most `concurrency` attempts in flight."""
        self.backoff = backoff
        self.concurrency = concurrency
        self.rate = rate
        self.cursor = watermark
        self._watermark = watermark
        self._fresh: deque[Position] = deque()
        self._in_flight: dict[Position, int] = {}
        self._waiting: list[tuple[float, Position, int]] = []  # a heap: due time, attempts so far
        self._delivered: list[Position] = []
        self._proposed: deque[tuple[Position, ...]] = deque()
        self._lifeless_run = 0
        self._probe_s = float("-inf")

    # --- What is where ----------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Attempts that were started and have not ended."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """Messages that failed and come back later."""
        return len(self._waiting)

    @property
    def delivered(self) -> int:
        """Outcomes that are in no proposal yet."""
        return len(self._delivered)

    @property
    def proposed(self) -> int:
        """Proposals whose effect the ledger does not show yet."""
        return len(self._proposed)

    @property
    def has_room(self) -> bool:
        """Whether another attempt may be in flight."""
        return len(self._in_flight) < self.concurrency

    @property
    def silent(self) -> bool:
        """Whether the consumer as a whole gives no sign of life."""
        return self._lifeless_run >= max(SILENT_RUN_MIN, self.concurrency)

    # --- From the ledger --------------------------------------------------------------------------

    def wants(self) -> int:
        """Return how many pending positions to ask for behind the cursor; 0 for none now."""
        if self._fresh or self.silent:
            return 0
        return max(0, min(FRESH_MAX, self._watermark + WINDOW - self.cursor))

    def take(self, positions: Iterable[Position]) -> None:
        """Take pending positions, rising, all above the cursor; those past the window stay."""
        for position in positions:
            assert position > self.cursor, "a position is taken once"
            if position > self._watermark + WINDOW:
                break
            self._fresh.append(position)
            self.cursor = position

    def applied(self, watermark: Position, is_settled: Callable[[Position], bool]) -> None:
        """Forget the proposals whose effect the ledger shows. They take effect in their order."""
        self._watermark = watermark
        while self._proposed and is_settled(self._proposed[0][-1]):
            self._proposed.popleft()

    # --- Attempts -----------------------------------------------------------------------------------

    def next_attempt(self, now_s: float) -> Attempt | None:
        """Return an attempt to start now, which counts as in flight from here on, or None."""
        if self.silent:
            if self._in_flight or now_s < self._probe_s:
                return None
        elif len(self._in_flight) >= self.concurrency:
            return None
        if self.rate is not None and not self.rate.available(now_s):
            return None
        if self._waiting and (self.silent or self._waiting[0][0] <= now_s):
            _, position, before = heappop(self._waiting)
        elif self._fresh:
            position, before = self._fresh.popleft(), 0
        else:
            return None
        if self.rate is not None:
            self.rate.take(now_s)
        self._in_flight[position] = before + 1
        return Attempt(position, before + 1)

    def postpone(self, position: Position, due_s: float) -> None:
        """Put back what `next_attempt` returned last, as nothing was sent, until `due_s`."""
        number = self._in_flight.pop(position)
        heappush(self._waiting, (due_s, position, number - 1))

    def next_due_s(self) -> float | None:
        """Return when `next_attempt` has something, or None if only an event brings it.

        A time that is past means that it has something now.
        """
        due_s = self._message_due_s()
        return due_s if due_s is None or self.rate is None else max(due_s, self.rate.due_s())

    def _message_due_s(self) -> float | None:
        """Return when a message is there to attempt, whatever the rate says."""
        if self.silent:
            if self._in_flight or not (self._waiting or self._fresh):
                return None
            return self._probe_s
        if len(self._in_flight) >= self.concurrency:
            return None
        if self._fresh:
            return float("-inf")
        return self._waiting[0][0] if self._waiting else None

    def answered(self, position: Position, answer: Answer, now_s: float, chance: float) -> Outcome:
        """End an attempt; `chance` is a random number in [0, 1). Return what it came to."""
        number = self._in_flight.pop(position)
        if not isinstance(answer, Answered) and answer.kind is FailureKind.FENCED:
            # Nothing was sent: not an attempt, and no word about the consumer.
            heappush(self._waiting, (now_s, position, number - 1))
            return Outcome.RETRY
        asked_s = answer.retry_after_s if isinstance(answer, Answered) else None
        self._hear(now_s, asked_s, alive=shows_life(answer))
        outcome = outcome_of(answer)
        if outcome is Outcome.DELIVERED:
            self._delivered.append(position)
        else:
            # There is no place for the dead yet, and nothing accepted is dropped: DEAD waits too.
            delay_s = self.backoff.delay_s(number, chance, asked_s)
            heappush(self._waiting, (now_s + delay_s, position, number))
        return outcome

    def _hear(self, now_s: float, asked_s: float | None, *, alive: bool) -> None:
        if not alive:
            self._lifeless_run += 1
            self._probe_s = now_s + max(PROBE_S, min(asked_s or 0.0, self.backoff.most_s))
            return
        if self.silent:
            self._recall(now_s)
        self._lifeless_run = 0

    def _recall(self, now_s: float) -> None:
        """Bring the next waiting messages forward: what they waited for has happened."""
        count = min(RECALL_MAX, len(self._waiting))
        called = [heappop(self._waiting) for _ in range(count)]
        self._waiting.extend(
            (min(due_s, now_s + RECALL_S * place / count), position, before)
            for place, (due_s, position, before) in enumerate(called)
        )
        heapify(self._waiting)

    # --- Outcomes -------------------------------------------------------------------------------------

    def to_settle(self) -> tuple[tuple[Position, Position], ...]:
        """Return the delivered positions of the next proposal as inclusive ranges, rising.

        They stay delivered until `settle_proposed` says that the proposal was appended.
        """
        return ranges_of(sorted(self._delivered[:SETTLE_MAX]))

    def settle_proposed(self) -> None:
        """Take note that what `to_settle` returned last was appended to the log."""
        self._proposed.append(tuple(self._delivered[:SETTLE_MAX]))
        del self._delivered[:SETTLE_MAX]


def ranges_of(positions: list[Position]) -> tuple[tuple[Position, Position], ...]:
    """Return rising, distinct `positions` as inclusive ranges."""
    ranges: list[tuple[Position, Position]] = []
    for position in positions:
        if ranges and position == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], position)
        else:
            ranges.append((position, position))
    return tuple(ranges)
