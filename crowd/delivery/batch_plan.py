"""What to attempt next at a consumer that takes batches, and with what together.

Decides as ``plan`` does, but that messages are *gathered* between their turn and their flight:
chosen like any, and held until so many are there, or so many bytes, or the first of them has
waited for the linger. Pure. Leaves whether a batch is full to ``forms.gathering``, and reading
messages and sending them to ``batch_lane``.

    fresh, waiting -> gathered -> in flight     many become one request
    gathered -> fresh, waiting                  the breaker opened, or the definition changed

One batch gathers at a time, whether or not a request may start; `concurrency` and its limit
count requests, and the rate counts messages. Letters and probes are requests of one message.

A request that fails as a whole may have failed for one of its messages. None dies of that: they
come back, and go then in requests of half as many at most, and so on, until the one that is to
blame is alone. So a culprit among n costs about log n failing requests, and n of them 2 n. What
says "not now", or did not arrive, is nobody's fault, and they come back as many as they were.
What a leader learnt of that its successor learns anew.

Invariant: at most one message of a key is in a batch, as only the first of each key's line is
ever chosen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from msgspec.structs import replace

from crowd.delivery.forms.batch import is_shared
from crowd.delivery.forms.gathering import Gathering
from crowd.delivery.outcome import (
    Answered,
    FailureKind,
    Outcome,
    asks_for_less,
    is_overload,
    outcome_of,
    shows_life,
)
from crowd.delivery.plan import Plan
from crowd.delivery.trial import Attempt, Flight, Remembered

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from crowd.delivery.outcome import Answer
    from crowd.delivery.pace import Rate
    from crowd.delivery.rules import Rules
    from crowd.delivery.trial import Trial
    from crowd.message import Position


class BatchPlan(Plan):
    """The state of delivery in batches. ``in_flight`` and what bounds it are requests."""

    def __init__(
        self,
        rules: Rules,
        watermark: Position,
        rate: Rate | None = None,
        now_s: float = 0.0,
        remembered: Remembered | None = None,
    ) -> None:
        """Begin as `Plan` does; `rules` are for batches."""
        super().__init__(rules, watermark, rate, now_s, remembered)
        self._gathered: dict[Position, Trial] = {}
        self._over: tuple[Trial, int] | None = None  # did not fit, and begins the next batch
        self.is_full = False
        """The batch that gathers takes no more, and waits only until a request may start."""
        self._begin_batch()

    def _begin_batch(self) -> None:
        assert self.rules.batch is not None
        self._gathering = Gathering(self.rules.batch)
        self._company = self.rules.batch.count  # the least of those that its members may be in
        self.is_full = False

    @property
    def gathered(self) -> int:
        """How many messages wait for their batch to go."""
        return len(self._gathered) + (self._over is not None)

    @property
    def has_room(self) -> bool:
        """Whether more messages are of use: for the batch that gathers, or for a request."""
        return not self.is_full or super().has_room

    def follow(self, rules: Rules) -> None:
        """Go by other rules from here on, which are for batches too."""
        self._give_back()
        super().follow(rules)
        self._begin_batch()

    def pass_over(self, through: Position, now_s: float) -> None:
        """Let go of what an operator skipped, of what has gathered too."""
        self._give_back()
        super().pass_over(through, now_s)

    # --- Gathering --------------------------------------------------------------------------------

    def choose(self, now_s: float) -> Iterator[Trial]:
        """Yield the next messages for the batch that gathers, until it is full or none is due.

        Each is nowhere else then, and the caller says, before it asks for another one, what is to
        become of it: `gather`; or `set_out`, and then `postpone`, `drop`, or `answered` if it cannot
        be sent.
        """
        if not self.breaker.closed or now_s < self._asked_until_s or self._stands:
            return
        if self.is_full or self.full:
            return
        aged_s = self._aged.aged_s(now_s)
        for trial in self.backlog.choose_messages(now_s, aged_s, turn=not self._gathered):
            yield trial
            if self.is_full or self.endings.is_full:
                return

    def gather(self, trial: Trial, size: int, now_s: float) -> None:
        """Put a message that was chosen with those gathered; `size` is its body's."""
        alone_enough = self._gathered and 0 < trial.company <= len(self._gathered)
        if alone_enough or not self._gathering.add(size, now_s):
            self._over = trial, size
            self.is_full = True
        else:
            self._keep(trial)

    def _keep(self, trial: Trial) -> None:
        """Keep a message for which there was room."""
        self._gathered[trial.position] = trial
        if trial.company:
            self._company = min(self._company, trial.company)
        self.is_full = len(self._gathered) >= self._company or self._gathering.is_full

    def set_out(self, trial: Trial, now_s: float) -> None:
        """Count a message that was chosen as in flight, alone."""
        self._in_flight[trial.position] = Flight(trial, now_s, False, (), self.blame.lives)

    def _give_back(self) -> None:
        """Have those gathered be chosen anew."""
        if self._gathered:
            trials = list(self._gathered.values())
            if self._over is not None:
                trials.append(self._over[0])
            self._gathered, self._over = {}, None
            self._begin_batch()
            self.backlog.put_back(trials)

    def _kept_apart(self) -> Iterable[Trial]:
        return [*self._gathered.values(), *([self._over[0]] if self._over is not None else ())]

    # --- Attempts -----------------------------------------------------------------------------------

    def next_batch(
        self, now_s: float, settled_of: Callable[[Collection[Position]], Sequence[Position]]
    ) -> list[Attempt] | None:
        """Return a batch to start now, one request in flight from here on, or None.

        What is settled meanwhile, as `settled_of` says, is left out; nothing may be left then.
        """
        if self.full or not (self.is_full or self._gathering.ready(now_s)):
            return None
        if not self._may_start(now_s, closed=self.breaker.closed):
            return None
        gathered, over = self._gathered, self._over
        self._gathered, self._over = {}, None
        self._begin_batch()
        if over is not None:
            trial, size = over
            self._gathering.add(size, now_s)  # as there is room for any that is the first
            self._keep(trial)
        settled = settled_of(gathered)
        for position in settled:
            del gathered[position]
        self.backlog.leave(settled)
        if gathered:
            if self.rate is not None:
                self.rate.take(now_s, len(gathered))
            # A message ages from its first attempt on, and not while it is gathered.
            aged_s = self._aged.aged_s(now_s)
            first, *mates = (
                trial if trial.attempts else replace(trial, first_s=now_s, aged_s=aged_s)
                for trial in gathered.values()
            )
            self._in_flight[first.position] = Flight(
                first, now_s, False, tuple(mates), self.blame.lives
            )
        return [Attempt(trial.position, trial.attempts + 1) for trial in gathered.values()]

    def next_letter(self, now_s: float) -> Attempt | None:
        """Return a letter to attempt now, alone, or None. While the breaker is closed."""
        if not self.backlog.letters or not self._may_start(now_s, closed=True):
            return None
        aged_s = self._aged.aged_s(now_s)
        trial = self.backlog.choose_letter(now_s, aged_s, closed=True, alone=self.full)
        if trial is None:
            return None
        if self.rate is not None:
            self.rate.take(now_s)
        self._in_flight[trial.position] = Flight(trial, now_s, False, (), self.blame.lives)
        return Attempt(trial.position, trial.attempts + 1)

    def next_due_s(self) -> float | None:
        """Return when there is something to choose or to start, or None for only an event."""
        if self._stands:
            return None
        if not self.breaker.closed:
            return super().next_due_s()
        due_s = math.inf if self.is_full or self.full else self.backlog.message_due_s()
        if len(self._in_flight) < self.pace.limit:
            start_s = math.inf if self.full else self._batch_due_s()
            if self.backlog.letters:
                start_s = min(start_s, self.backlog.letters[0].due_s)
            if self.rate is not None:
                start_s = max(start_s, self.rate.due_s())
            due_s = min(due_s, start_s)
        return None if due_s == math.inf else max(due_s, self._asked_until_s)

    def _batch_due_s(self) -> float:
        """Return when the batch that gathers is to go."""
        if self.is_full:
            return -math.inf
        due_s = self._gathering.due_s
        return math.inf if due_s is None else due_s

    # --- Answers --------------------------------------------------------------------------------------

    def answered(self, position: Position, answer: Answer, now_s: float, chance: float) -> Outcome:
        """End an attempt with one message, as `Plan.answered` does."""
        outcome = super().answered(position, answer, now_s, chance)
        if not self.breaker.closed:
            self._give_back()
        return outcome

    def answered_batch(
        self, first: Position, answers: Sequence[Answer], now_s: float, chance: float
    ) -> list[Outcome]:
        """End the request whose first message is at `first`; return what came to each message.

        `answers` are theirs, in their order. One `chance` is for all: those that wait alike
        come back together.
        """
        if len(answers) == 1:
            return [self.answered(first, answers[0], now_s, chance)]
        flight = self._in_flight.pop(first)
        trials = (flight.trial, *flight.mates)
        shared, count = is_shared(answers), len(trials)
        if not isinstance(answers[0], Answered) and answers[0].kind is FailureKind.FENCED:
            self.backlog.put_back(trials)  # nothing was sent
            return [Outcome.RETRY] * count
        rules = self.rules.answers
        if shared:
            outcomes = [outcome_of(answers[0], rules)] * count
        else:
            outcomes = [outcome_of(answer, rules) for answer in answers]
        in_time = self.breaker.closed
        self._hear_all(answers[:1] if shared else answers, outcomes, flight, now_s)
        company = (count + 1) // 2 if shared else 0
        for trial, answer, outcome in zip(trials, answers, outcomes, strict=True):
            if outcome is Outcome.DELIVERED:
                self._done(trial.position, trial)
            else:
                self._failed(
                    flight, trial, answer, outcome, now_s, chance, in_time=in_time, company=company
                )
        if not self.breaker.closed:
            self._give_back()
        return outcomes

    def _hear_all(
        self, answers: Sequence[Answer], outcomes: Sequence[Outcome], flight: Flight, now_s: float
    ) -> None:
        """Take what one request's answers say of the consumer as a whole: one word.

        It lives if any message shows it. Otherwise an answer that holds it goes before others.
        """
        delivered = Outcome.DELIVERED in outcomes
        heard = list(zip(answers, outcomes, strict=False))
        if delivered or any(shows_life(answer, outcome) for answer, outcome in heard):
            self._lived(flight, now_s)
            over = [a for a, o in heard if o is not Outcome.DELIVERED and is_overload(a)]
            if over:
                asked = any(map(asks_for_less, over))
                self.pace.overloaded(now_s, flight.started_s, asked=asked)
            elif delivered:
                self.pace.succeeded(now_s, flight.started_s, len(self._in_flight))
            return
        holding = [each for each in heard if each[1] is Outcome.HOLD]
        answer, outcome = (holding or heard)[0]
        self._hear(answer, outcome, flight, now_s)
