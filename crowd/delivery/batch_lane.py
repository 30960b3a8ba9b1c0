"""The lane of a consumer that takes batches.

Decides nothing that ``batch_plan`` can decide. Reads the messages that are gathered, a portion a
turn, and starts the requests that the plan names. Every request is in the form of a batch: a
probe, a letter, and a message that goes alone are batches of one.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from crowd.delivery.batch_plan import BatchPlan
from crowd.delivery.lane import MEND_S, Lane, told
from crowd.delivery.outcome import Failed, FailureKind, Outcome, in_words
from crowd.delivery.request import Naming
from crowd.errors import MalformedMessageError
from crowd.message import decode_message, message_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.defer import Deferred

    from crowd.delivery.outcome import Answer
    from crowd.delivery.ports import Courier
    from crowd.delivery.rules import Rules
    from crowd.delivery.trial import Attempt, Remembered
    from crowd.message import Message, Position

PORTION: Final = 64
"""Messages read in one turn: about half a millisecond for usual ones, as other lanes wait."""

PORTION_BYTES_MAX: Final = 256 << 10
"""And of what size, as decoding copies."""

HEAD_SHARE: Final = 4
"""A message counts as a quarter of its stored bytes where that is more than its body: so what is
held of a batch is at most four times its bound, however large the heads of the messages are."""


class BatchLane(Lane):
    """Delivery in batches to one consumer, for as long as this node leads."""

    plan: BatchPlan

    def _plan_from(
        self, rules: Rules, watermark: Position, now_s: float, remembered: Remembered | None
    ) -> BatchPlan:
        self._messages: dict[Position, Message] = {}  # of those gathered
        return BatchPlan(rules, watermark, None, now_s, remembered)

    def start_one(self, now_s: float) -> bool:
        """Start one request if one is due, or gather for the next; return whether it did."""
        courier, plan = self._courier, self.plan
        if courier is None:
            return False
        if not plan.breaker.closed:
            return super().start_one(now_s)
        letter = plan.next_letter(now_s)
        if letter is not None:
            self._start_letter(letter, courier)
            return True
        if not plan.is_full:
            if self._gather(now_s):
                return True
            if self._more and self._read_from_s <= now_s and plan.wants():
                return False  # the next look at the ledger brings more, or shows that it was all
        return self._start_batch(courier, now_s)

    def _gather(self, now_s: float) -> bool:
        """Read messages for the batch that gathers; return whether there were any."""
        plan, messages = self.plan, self._messages
        if messages and not plan.gathered:
            messages.clear()  # they were given back
        read_bytes = count = 0
        for count, trial in enumerate(islice(plan.choose(now_s), PORTION), 1):  # noqa: B007
            position = trial.position
            if self._is_settled_meanwhile(position, again=trial.attempts > 0):
                plan.set_out(trial, now_s)
                plan.drop(position)
                continue
            stored = self._stored(position)
            if stored is None:
                plan.set_out(trial, now_s)
                plan.postpone(position, now_s + MEND_S)
                continue
            read_bytes += len(stored)
            try:
                message = decode_message(stored)
            except MalformedMessageError as error:
                self.counts.attempts += 1
                plan.set_out(trial, now_s)
                self._answered(Failed(FailureKind.UNDELIVERABLE, str(error)), position)
                continue
            messages[position] = message
            plan.gather(trial, max(len(message.body), len(stored) // HEAD_SHARE), now_s)
            if read_bytes >= PORTION_BYTES_MAX:
                break
        return count > 0

    def _start_batch(self, courier: Courier, now_s: float) -> bool:
        """Start the batch that has gathered, if it is to go; return whether it was."""
        ledger = self._around.ledger
        batch = self.plan.next_batch(
            now_s, lambda positions: ledger.settled_of(self.consumer, positions)
        )
        if batch is None:
            return False
        if batch:
            self._send_batch(batch, courier)
        return True

    def _send_batch(self, batch: Sequence[Attempt], courier: Courier) -> None:
        self.counts.attempts += len(batch)
        tag, messages = self._around.ledger.tag, self._messages
        assert tag is not None, "a message was accepted, so the cluster is born"
        awaited = [
            (place, attempt.position)
            for place, attempt in enumerate(batch)
            if messages[attempt.position].headers[-1:] == self._mark
        ]
        items = [
            (messages.pop(position), Naming(message_id(tag, position), position, attempt.number))
            for attempt in batch
            for position in (attempt.position,)
        ]
        answered = courier.attempt_batch(items)
        answered.addCallback(self._batch_answered, batch[0].position, awaited)
        answered.addErrback(self._broke)

    def _ask(self, courier: Courier, message: Message, naming: Naming) -> Deferred[Answer]:
        return courier.attempt_batch([(message, naming)]).addCallback(lambda answers: answers[0])

    def _batch_answered(
        self, answers: Sequence[Answer], first: Position,
        awaited: Sequence[tuple[int, Position]] = (),
    ) -> None:  # fmt: skip
        """Take the answers to one request. Called once for each, in the reactor.

        `awaited` are the places and positions of messages whose producers wait.
        """
        if self._closed:
            return
        around, plan, counts = self._around, self.plan, self.counts
        now_s = around.clock.seconds()
        closed, dead = plan.breaker.closed, len(plan.endings.dead)
        outcomes = plan.answered_batch(first, answers, now_s, around.chance.random())
        delivered, died = outcomes.count(Outcome.DELIVERED), len(plan.endings.dead) - dead
        failed = len(outcomes) - delivered - died
        unknown = min(failed, outcomes.count(Outcome.UNKNOWN))
        counts.delivered += delivered
        counts.dead += died
        counts.unknown += unknown
        counts.retried += failed - unknown
        if delivered or died:
            self._reports.heard(now_s)
        pairs = zip(answers, outcomes, strict=True)
        bad = next((answer for answer, outcome in pairs if outcome is not Outcome.DELIVERED), None)
        self.last_problem = "" if bad is None else in_words(bad)
        for place, position in awaited:
            answer = answers[place]
            if outcomes[place] is Outcome.DELIVERED:
                around.awaited.delivered(self.consumer, position, told("delivered", answer), now_s)
            elif any(each.position == position for each in plan.endings.dead[dead:]):
                self._died(position, answer, now_s)
        if closed != plan.breaker.closed:
            self._turned(now_s)
        self.stirred = True
        around.wake()
