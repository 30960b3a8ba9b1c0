"""What to attempt next at one consumer, and what to settle.

Decides, of one consumer: whether anything is attempted now, when a message that failed comes
back, when it is dead, and which outcomes go into the log together. Pure: time and chance are
arguments. Leaves attempts to ``lane``, what is pending to the ledger, and each single question
to the module that is named after it: whose turn it is to ``backlog``, what ended to ``endings``,
whether a failure counts to ``blame``, and others to ``outcome``, ``backoff``, ``breaker``,
``concurrency``, ``order`` and ``pace``.

Theory of operation. A position that the ledger names as pending is *taken* once, in rising
order; the cursor is the last one taken. From then on it is in exactly one place:

    in line -> fresh -> in flight -> delivered -> proposed -> (gone: the ledger shows it settled)
       |                |  ^    |                    ^
       +----------------+->waiting, dead ------------+

*In line* are messages that wait for an earlier one of their key. That one leaves its line when
it is delivered, and when the ledger shows it buried: a leader that dies before that has its
successor attempt it again, and nothing behind it was attempted meanwhile.

Letters, which the ledger keeps outside the backlog, are attempted too: a number below zero stands
then where a position would.

Invariant: a position leaves only when the ledger shows it settled. What a lost leadership
makes of this plan is nothing: it is thrown away, and the next leader begins at its ledger, and
at what this one had it remember.

Invariant: with a *rate* every attempt, probes and retries among them, is taken from it when
it starts. What waits for the rate is not in flight: it stays fresh or waiting.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from msgspec.structs import replace

from crowd.delivery.backlog import Backlog
from crowd.delivery.backoff import AnsweringClock
from crowd.delivery.blame import Blame
from crowd.delivery.breaker import Breaker, BreakerState
from crowd.delivery.concurrency import Concurrency
from crowd.delivery.endings import Endings
from crowd.delivery.outcome import (
    Answered,
    FailureKind,
    Outcome,
    asks_for_less,
    in_words,
    is_of_content,
    is_overload,
    is_there,
    last_words,
    outcome_of,
    shows_life,
)
from crowd.delivery.trial import Attempt, Dead, Flight, Remembered, Trial, letter_number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Sequence

    from crowd.delivery.outcome import Answer
    from crowd.delivery.pace import Rate
    from crowd.delivery.rules import Rules
    from crowd.delivery.trial import DeathReason
    from crowd.message import Position


class Plan:
    """The state of one consumer's delivery, on the leader, for as long as it leads."""

    def __init__(
        self,
        rules: Rules,
        watermark: Position,
        rate: Rate | None = None,
        now_s: float = 0.0,
        remembered: Remembered | None = None,
    ) -> None:
        """Begin at `now_s` behind `watermark`, and where another leader's plan was."""
        self.rules = rules
        self.rate = rate
        trials = remembered.trials if remembered is not None else ()
        self.backlog = Backlog(rules.order, watermark, trials)
        self.endings = Endings()
        self.breaker = Breaker(rules.breaker)
        self.blame = Blame()
        self.pace = Concurrency(rules.concurrency, adaptive=rules.adaptive)
        self.full = False
        """No more dead letters may be kept: nothing is attempted until there is room again."""
        self._full_why = ""
        self.paused = False
        self.revision = 0
        """Grows with all that the next leader should know of."""
        self._in_flight: dict[Position, Flight] = {}
        self._asked_until_s = -math.inf  # a Retry-After's, or a beginning's
        self._asked_why = ""
        self._aged = AnsweringClock(remembered.aged_s if remembered else 0.0)
        if remembered is not None:
            until_s, opened = remembered.held_until_s, remembered.opened
            self.breaker.restore(opened, until_s, "as the leader before this one saw it")
            if not opened:
                self._ask(until_s, "asked to wait")
        self._count_time(now_s)

    # --- What is where ----------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """The most attempts that may ever be under way at once."""
        return self.rules.concurrency

    @property
    def cursor(self) -> Position:
        """The last position taken."""
        return self.backlog.cursor

    @property
    def in_flight(self) -> int:
        """Attempts that were started and have not ended."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """Messages that failed and come back later."""
        return len(self.backlog.waiting)

    @property
    def in_line(self) -> int:
        """Messages that wait for another one of their key."""
        lines = self.backlog.lines
        return 0 if lines is None else lines.waiting

    @property
    def has_room(self) -> bool:
        """Whether another attempt may be in flight."""
        return len(self._in_flight) < self.pace.limit

    def aged_s(self, now_s: float) -> float:
        """Return how long the consumer as a whole answered, in seconds."""
        return self._aged.aged_s(now_s)

    def held(self, now_s: float) -> tuple[str, float | None]:
        """Return why nothing is attempted now, "" for no reason, and until when, if that is known."""
        if self.full:
            return self._full_why, None
        if not self.breaker.closed:
            return self.breaker.why, max(self.breaker.until_s, self._asked_until_s)
        if now_s < self._asked_until_s:
            return self._asked_why, self._asked_until_s
        return "", None

    # --- Told by an operator ----------------------------------------------------------------------

    def follow(self, rules: Rules) -> None:
        """Go by other rules from here on, whose order is the same; what is under way stays."""
        assert rules.order == self.rules.order
        self.rules = rules
        self.breaker.follow(rules.breaker)
        self.pace.follow(rules.concurrency, adaptive=rules.adaptive)

    def set_paused(self, now_s: float, *, paused: bool) -> None:
        """Attempt nothing while `paused`, and let nothing age."""
        if paused != self.paused:
            self.paused = paused
            self._count_time(now_s)

    def set_full(
        self, now_s: float, *, full: bool, why: str = "its dead letters are at their bound"
    ) -> None:
        """Attempt no message while no more letters may be kept; `why` is for people.

        Letters are attempted: those that are delivered make room, and none takes more of it.
        """
        self._full_why = why
        if full != self.full:
            self.full = full
            self._count_time(now_s)

    def begin_at(self, until_s: float, why: str, now_s: float) -> None:
        """Attempt nothing before `until_s`."""
        self._ask(until_s, why)
        self._count_time(now_s)

    def _ask(self, until_s: float, why: str) -> None:
        if until_s > self._asked_until_s:
            self._asked_until_s, self._asked_why = until_s, why

    def _count_time(self, now_s: float) -> None:
        """Let messages age from now on if, and as soon as, the consumer as a whole answers."""
        answers = self.breaker.closed or self.blame.blamed is not None
        stands = self.paused or self.full or not answers
        self._aged.run_from(math.inf if stands else self._asked_until_s, now_s)

    # --- From the ledger --------------------------------------------------------------------------

    def wants(self) -> int:
        """Return how many pending positions to ask for behind the cursor; 0 for none now."""
        return self.backlog.wants(closed=self.breaker.closed)

    def take(self, positions: Iterable[Position], keys: Sequence[bytes | None] = ()) -> None:
        """Take pending positions as `Backlog.take` does."""
        self.backlog.take(positions, keys)

    def applied(self, watermark: Position, is_settled: Callable[[Position], bool]) -> None:
        """Forget what the ledger shows to have ended."""
        self.backlog.watermark = watermark
        self._are_letters(self.endings.applied(is_settled))

    def bury_again(self, is_settled: Callable[[Position], bool]) -> None:
        """Have the oldest burials be proposed again that had no effect."""
        self._are_letters(self.endings.bury_again(is_settled))

    def _are_letters(self, positions: Sequence[Position]) -> None:
        """Let go of positions that the ledger shows buried, or have them hold their keys."""
        backlog = self.backlog
        if self.rules.holds_dead and backlog.lines is not None:
            backlog.holding.update(filter(backlog.lines.is_head, positions))
        else:
            backlog.leave(positions)

    def pass_over(self, through: Position, now_s: float) -> None:
        """Let go of what an operator skipped, up to `through`; attempts under way end first."""
        self.revision += 1
        self.backlog.pass_over(through)
        self._acquit(now_s)
        gone = self.endings.pass_over(through)
        self.backlog.leave(gone)
        if gone and not self.endings.dead:
            self.set_full(now_s, full=False)

    def hold_key(self, position: Position, key: bytes | None) -> None:
        """Have a dead letter from before hold its key, before anything is taken."""
        assert self.backlog.lines is not None
        if key is not None:
            self.backlog.lines.enter(position, key)
            self.backlog.holding.add(position)

    @property
    def holds(self) -> bool:
        """Whether a dead message holds its key."""
        return bool(self.backlog.holding)

    @property
    def holding(self) -> Sequence[Position]:
        """Dead messages that hold their keys, rising."""
        return sorted(self.backlog.holding)

    def release_key(self, position: Position) -> None:
        """Let go on what is behind a dead message: its letter is gone."""
        self.backlog.holding.discard(position)
        self.backlog.leave((position,))

    @property
    def knows_letters(self) -> bool:
        """Whether any letter was taken that is not known to be gone."""
        return bool(self.backlog.letters_known)

    def take_letters(self, numbers: Collection[int], now_s: float) -> None:
        """Take letters as `Backlog.take_letters` does; those too whose end had no effect."""
        left = self.endings.letters_without_end(numbers, now_s)
        self.backlog.letters_known.difference_update(left)
        self.backlog.take_letters(numbers, now_s, self._in_flight)

    def park(self, now_s: float, most: int) -> None:
        """Have the oldest messages that wait become letters, if they hold up all others.

        So one straggler pins neither the log nor the window. They are tried on as letters. Not
        in an outage, in which nothing is held up by them; and not where there is an order.
        """
        if self.breaker.closed and self.backlog.is_crowded and not self.endings.dead:
            for trial in self.backlog.take_away(most):
                parked = Dead(
                    trial.position, "window", 0, "", trial.attempts, trial.first_s, now_s,
                    trial.spared, trial.aged_s,
                )  # fmt: skip
                self.endings.die(parked)

    # --- Attempts -----------------------------------------------------------------------------------

    def next_attempt(self, now_s: float) -> Attempt | None:
        """Return an attempt to start now, which counts as in flight from here on, or None."""
        closed = self.breaker.closed
        if not self._may_start(now_s, closed=closed):
            return None
        aged_s = self._aged.aged_s(now_s)
        if self.full:
            trial = self.backlog.choose_letter(now_s, aged_s, closed=closed, alone=True)
        else:
            trial = self.backlog.choose(now_s, aged_s, closed=closed)
        if trial is None:
            return None
        if self.rate is not None:
            self.rate.take(now_s)
        if not closed:
            self.breaker.started()
        position = trial.position
        self._in_flight[position] = Flight(trial, now_s, not closed, (), self.blame.lives)
        return Attempt(position, trial.attempts + 1)

    def _may_start(self, now_s: float, *, closed: bool) -> bool:
        if closed:
            if len(self._in_flight) >= self.pace.limit:
                return False
        elif not self._may_probe or now_s < self.breaker.until_s:
            return False
        if now_s < self._asked_until_s or self._stands:
            return False
        return self.rate is None or self.rate.available(now_s)

    @property
    def _stands(self) -> bool:
        """Whether nothing is attempted, and no time changes that."""
        return self.paused or self.endings.is_full

    @property
    def _may_probe(self) -> bool:
        return (
            self.breaker.state is BreakerState.OPEN
            and len(self._in_flight) < self.rules.concurrency
        )

    def postpone(self, position: Position, due_s: float) -> None:
        """Put back what `next_attempt` returned last, as nothing was sent, until `due_s`."""
        self._put_back(self._in_flight.pop(position), due_s)

    def hasten(self, places: Container[Position], now_s: float) -> None:
        """Have the letters at these places attempted first: the bytes that they lacked are here."""
        self.backlog.hasten(places, now_s)
        self.breaker.hasten()

    def _put_back(self, flight: Flight, due_s: float) -> None:
        if flight.probe:
            self.breaker.abandoned(due_s)
        self.backlog.wait(replace(flight.trial, due_s=due_s))

    def drop(self, position: Position) -> None:
        """Forget what `next_attempt` returned last: the ledger settled it meanwhile.

        Or it is a letter that is gone, or waits for another consumer; it may be ordered back.
        """
        if self._in_flight.pop(position).probe:
            self.breaker.abandoned()
        self.backlog.leave((position,))
        self.backlog.letters_known.discard(letter_number(position))

    def next_due_s(self) -> float | None:
        """Return when `next_attempt` has something, or None if only an event brings it.

        A time that is past means that it has something now.
        """
        due_s = self._message_due_s()
        if due_s is None:
            return None
        due_s = max(due_s, self._asked_until_s)
        return due_s if self.rate is None else max(due_s, self.rate.due_s())

    def _message_due_s(self) -> float | None:
        """Return when a message is there to attempt, whatever the rate says."""
        if self._stands:
            return None
        if not self.breaker.closed:
            nothing = not self._may_probe or self._backlog_due_s(closed=False) is None
            return None if nothing else self.breaker.until_s
        if len(self._in_flight) >= self.pace.limit:
            return None
        return self._backlog_due_s(closed=True)

    def _backlog_due_s(self, *, closed: bool) -> float | None:
        backlog = self.backlog
        return backlog.letter_due_s(closed=closed) if self.full else backlog.due_s(closed=closed)

    # --- Answers --------------------------------------------------------------------------------------

    def answered(self, position: Position, answer: Answer, now_s: float, chance: float) -> Outcome:
        """End an attempt; `chance` is a random number in [0, 1). Return what it came to."""
        flight = self._in_flight.pop(position)
        if not isinstance(answer, Answered) and answer.kind is FailureKind.FENCED:
            # Nothing was sent: not an attempt, and no word about the consumer.
            self._put_back(flight, now_s)
            return Outcome.RETRY
        outcome = outcome_of(answer, self.rules.answers)
        in_time = self.breaker.closed
        if flight.probe:
            self._look_for_blame(position, answer, outcome, now_s)
        if outcome is Outcome.DELIVERED:
            self._lived(flight, now_s)
            self.pace.succeeded(now_s, flight.started_s, len(self._in_flight))
            self._done(position, flight.trial)
        else:
            self._hear(answer, outcome, flight, now_s)
            self._failed(flight, flight.trial, answer, outcome, now_s, chance, in_time=in_time)
        return outcome

    def _look_for_blame(
        self, position: Position, answer: Answer, outcome: Outcome, now_s: float
    ) -> None:
        """Take a probe's answer as a sign of whether the message is to blame, or the consumer."""
        backlog = self.backlog
        beside = backlog.fresh or backlog.waiting or backlog.letters or self._in_flight
        alone = self.in_line > 0 and not beside
        failed = outcome is Outcome.RETRY and is_there(answer)
        self.blame.probed(position, suspicious=alone and failed)
        self._count_time(now_s)

    def _acquit(self, now_s: float) -> None:
        """Blame nobody (any more)."""
        self.blame.acquit()
        self._count_time(now_s)

    def _lived(self, flight: Flight, now_s: float) -> None:
        """Take note of a sign of life."""
        self.blame.lives += 1
        if self.breaker.lived(probe=flight.probe):
            self._came_back(now_s)

    def _hear(self, answer: Answer, outcome: Outcome, flight: Flight, now_s: float) -> None:
        """Take what a failure says of the consumer as a whole."""
        alive = shows_life(answer, outcome)
        if alive:
            self._lived(flight, now_s)
        elif alive is None:
            if flight.probe:
                self.breaker.abandoned()
        else:
            holds, why = outcome is Outcome.HOLD, in_words(answer)
            if self.breaker.failed(now_s, why, probe=flight.probe, holds=holds):
                self.backlog.prefer_fresh()
                self._count_time(now_s)
            if is_overload(answer):
                self.pace.overloaded(now_s, flight.started_s, asked=asks_for_less(answer))

    def _came_back(self, now_s: float) -> None:
        self.revision += 1
        self.pace.restart(now_s)
        self.backlog.recall(now_s)
        self._acquit(now_s)

    def _done(self, position: Position, trial: Trial) -> None:
        """Take note of a delivery."""
        if trial.attempts:
            self.revision += 1
        if position < 0:
            number = letter_number(position)
            if number in self.backlog.letters_known:
                self.endings.concluded.append(number)
            return
        if position > self.backlog.passed:  # else the ledger shows it settled: it was skipped
            self.endings.delivered.append(position)
        if self.backlog.lines is not None:
            self.backlog.leave((position,))

    def _failed(
        self, flight: Flight, trial: Trial, answer: Answer, outcome: Outcome, now_s: float,
        chance: float, *, in_time: bool, company: int = 0,
    ) -> None:  # fmt: skip
        """Have a message wait once more, or die. `in_time` says that the breaker was closed.

        `company` is above 0 if the answer was to several in one request: none of them dies of it,
        and if it may be for one of them, so many at most go together when they come back.
        """
        self.revision += 1
        shared_end = company > 0 and outcome is Outcome.DEAD
        counts = self.blame.counts(flight, trial, answer, in_time=in_time)
        spares = not counts or outcome is Outcome.HOLD or shared_end
        attempts, spared = trial.attempts + 1, trial.spared + spares
        asked_s = answer.retry_after_s if isinstance(answer, Answered) else None
        if asked_s is not None and outcome is not Outcome.DEAD:
            why = f"{in_words(answer)}, and asked for {asked_s:g} s"
            self._ask(now_s + self.rules.backoff.honoured_s(asked_s), why)
            self._count_time(now_s)
        if 0 < trial.position <= self.backlog.passed:
            self.backlog.leave((trial.position,))
            self._acquit(now_s)
            return
        reason = self._end_of(trial, answer, outcome, now_s, attempts - spared, counts=counts)
        if reason is not None and not company:
            self._acquit(now_s)
            if trial.position > 0 or letter_number(trial.position) in self.backlog.letters_known:
                status = answer.status if isinstance(answer, Answered) else 0
                dead = Dead(
                    trial.position, reason, status, last_words(answer), attempts, trial.first_s,
                    now_s, spared, trial.aged_s,
                )  # fmt: skip
                self.endings.die(dead)
            return
        due_s = now_s
        if outcome is not Outcome.DEAD:
            due_s += self.rules.backoff.delay_s(max(1, attempts - spared), chance)
        if reason is None and not (in_time and is_of_content(answer)):
            company = 0
        self.backlog.wait(
            replace(
                trial,
                due_s=due_s,
                attempts=attempts,
                spared=spared,
                company=company or trial.company,
                lives=self.blame.lives,
            )
        )

    def _end_of(
        self, trial: Trial, answer: Answer, outcome: Outcome, now_s: float, counted: int,
        *, counts: bool,
    ) -> DeathReason | None:  # fmt: skip
        """Return why a message is dead that failed once more, or None if it is not."""
        if outcome is Outcome.DEAD:
            return "answer" if isinstance(answer, Answered) else "undeliverable"
        if not counts:
            return None  # the consumer as a whole did not answer
        age_s = self._aged.aged_s(now_s) - trial.aged_s
        return self.rules.backoff.spent(counted, age_s)

    # --- For the next leader ----------------------------------------------------------------------

    def remember(self, now_s: float) -> Remembered:
        """Return what the next leader should know."""
        under_way = [
            replace(trial, due_s=now_s)
            for flight in self._in_flight.values()
            for trial in (flight.trial, *flight.mates)
            if trial.attempts
        ]
        # Of what is dead and in no letter yet the log knows nothing else: it may find no room.
        dead = [
            Trial(now_s, each.position, each.attempts, each.spared, each.first_s, each.aged_s)
            for each in self.endings.dead
        ]
        until_s = self._asked_until_s
        if not self.breaker.closed:
            until_s = max(until_s, self.breaker.until_s)
        tried = self.backlog.tried([*under_way, *self._kept_apart(), *dead])
        return Remembered(self.breaker.opened, until_s, self._aged.aged_s(now_s), tried)

    def _kept_apart(self) -> Iterable[Trial]:
        """Return what is neither in the backlog nor in flight."""
        return ()
