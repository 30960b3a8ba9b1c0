"""One consumer's lane: its plan, its courier, and what has been seen of it.

Decides nothing that ``plan`` can decide. Starts the attempts that the plan names, hands it
their answers, and proposes its outcomes. One lane never waits for another; whose turn it is
the dispatcher says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from twisted.logger import Logger

from crowd.command import Settle
from crowd.delivery.backoff import Backoff
from crowd.delivery.outcome import Answered, Failed, FailureKind, Outcome
from crowd.delivery.pace import Rate
from crowd.delivery.plan import Plan
from crowd.delivery.request import Naming
from crowd.errors import DamagedEntryError, FatalError, MalformedMessageError
from crowd.message import decode_message, message_id

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from crowd.clock import Clock
    from crowd.command import ConsumerDefinition
    from crowd.delivery.entries import Entries
    from crowd.delivery.outcome import Answer
    from crowd.delivery.plan import Attempt
    from crowd.delivery.ports import Courier, CourierFactory, Leadership, LedgerView
    from crowd.message import ConsumerId, Position

SETTLE_EVERY_S: Final = 0.1
"""Outcomes wait this long for others: at most ten entries a second for each consumer, and a
leader's death repeats no more than a tenth of a second's deliveries."""

SETTLE_AT: Final = 500
"""Outcomes that do not wait longer: about 5 000 deliveries a second make an entry each 0.1 s."""

MEND_S: Final = 0.1
"""How soon a message is looked at again whose bytes were damaged: a peer's copy comes in less."""

SETTLE_PROPOSED_MAX: Final = 8
"""Proposals of one lane under way. While commits stand still, outcomes gather instead."""


class Surroundings(NamedTuple):
    """What every lane is given.

    `wake` asks the dispatcher for a turn soon; `fail` tells it that the node must end.
    """

    clock: Clock
    chance: random.Random
    ledger: LedgerView
    leadership: Leadership
    entries: Entries
    couriers: CourierFactory
    wake: Callable[[], None]
    fail: Callable[[FatalError], None]


class Counts(msgspec.Struct):
    """What a lane did since this node leads."""

    attempts: int = 0
    delivered: int = 0
    retried: int = 0
    unknown: int = 0


class Lane:
    """Delivery to one consumer, for as long as this node leads."""

    _log = Logger()

    def __init__(
        self, consumer: ConsumerId, definition: ConsumerDefinition, around: Surroundings
    ) -> None:
        self.consumer = consumer
        self.definition = definition
        self.counts = Counts()
        self.last_problem = ""
        self._around = around
        self._couriers: list[Courier] = []  # the present one, and the one before it
        self._courier: Courier | None = None
        self._settle_due_s: float | None = None
        self._closed = False
        self._more = False
        watermark = around.ledger.watermark(consumer)
        self.plan = Plan(
            Backoff.from_definition(definition.retry), definition.concurrency, watermark
        )
        self._rate_text = ""
        self._make_courier()

    def redefine(self, definition: ConsumerDefinition) -> None:
        """Follow a changed definition; attempts under way end as they began."""
        self.definition = definition
        self.plan.backoff = Backoff.from_definition(definition.retry)
        self.plan.concurrency = definition.concurrency
        self._make_courier()

    def _make_courier(self) -> None:
        if self._courier is not None:
            self._courier.close()
        try:
            self._keep_rate()
            self._courier = self._around.couriers(self.definition)
        except ValueError as error:
            # A node's file was checked before it was proposed; this is one that checked less.
            self._courier = None
            self._trouble(f"cannot be attempted: {error}")
        else:
            for older in self._couriers[:-1]:
                older.abort()
            self._couriers = [*self._couriers[-1:], self._courier]

    def _keep_rate(self) -> None:
        """Follow the definition's rate; raise ValueError for a text that is none."""
        text = self.definition.rate or ""
        if text != self._rate_text:
            # A definition that left the rate as it was must not forgive what was taken of it.
            now_s = self._around.clock.seconds()
            self.plan.rate = Rate.from_text(text, now_s) if text else None
            self._rate_text = text

    # --- A turn -----------------------------------------------------------------------------------

    def look(self) -> None:
        """Take from the ledger what was applied meanwhile, and new messages if there is room."""
        ledger, plan = self._around.ledger, self.plan
        plan.applied(
            ledger.watermark(self.consumer),
            lambda position: ledger.is_settled(self.consumer, position),
        )
        wanted = plan.wants()
        if wanted > 0:
            pending = ledger.pending(self.consumer, plan.cursor, wanted)
            plan.take(pending)
            self._more = bool(pending)  # there may be more behind those

    def start_one(self, now_s: float) -> bool:
        """Start one attempt if one is due; return whether one was."""
        if self._courier is None or self._held:
            return False
        attempt = self.plan.next_attempt(now_s)
        if attempt is None:
            return False
        self._start(attempt, self._courier, now_s)
        return True

    def next_due_s(self) -> float | None:
        """Return when a turn is wanted next, or None if only an event asks for one."""
        due_s = None
        if self._courier is not None and not self._held:
            due_s = self.plan.next_due_s()
            if self._more and self.plan.has_room and self.plan.wants():
                return float("-inf")
        if self._settle_due_s is None or self.plan.proposed >= SETTLE_PROPOSED_MAX:
            return due_s
        return self._settle_due_s if due_s is None else min(due_s, self._settle_due_s)

    @property
    def _held(self) -> bool:
        return self._around.ledger.consumers[self.consumer].paused

    # --- Attempts -----------------------------------------------------------------------------------

    def _start(self, attempt: Attempt, courier: Courier, now_s: float) -> None:
        """Make an attempt, or put it off until damaged bytes of the log are mended."""
        around, position = self._around, attempt.position
        tag = around.ledger.tag
        assert tag is not None, "a message was accepted, so the cluster is born"
        place = around.ledger.place(position)
        try:
            stored = around.entries.message(place.index, place.offset)
        except DamagedEntryError as error:
            around.leadership.damaged(error)
            self.plan.postpone(position, now_s + MEND_S)
            return
        self.counts.attempts += 1
        try:
            message = decode_message(stored)
        except MalformedMessageError as error:
            self._answered(Failed(FailureKind.UNDELIVERABLE, str(error)), position)
            return
        naming = Naming(message_id(tag, position), position, attempt.number)
        answered = courier.attempt(message, naming)
        answered.addCallback(self._answered, position).addErrback(self._broke)

    def _answered(self, answer: Answer, position: Position) -> None:
        """Take an answer. Called once for each attempt, in the reactor."""
        if self._closed:
            return
        around, plan = self._around, self.plan
        now_s = around.clock.seconds()
        silent = plan.silent
        outcome = plan.answered(position, answer, now_s, around.chance.random())
        if outcome is Outcome.DELIVERED:
            self.counts.delivered += 1
            self.last_problem = ""
            if self._settle_due_s is None:
                self._settle_due_s = now_s + SETTLE_EVERY_S
        else:
            if outcome is Outcome.UNKNOWN:
                self.counts.unknown += 1
            else:
                self.counts.retried += 1
            self.last_problem = _words(answer)
        if silent != plan.silent:
            self._turned(silent=plan.silent)
        around.wake()

    def _broke(self, failure: Failure) -> None:
        """End the node: the plan is not what the attempts are, which is never to be."""
        self._log.failure("an answer could not be taken", failure)
        self._around.fail(FatalError(f"delivery failed: {failure.getErrorMessage()}"))

    def _turned(self, *, silent: bool) -> None:
        if silent:
            self._trouble(f"gives no sign of life: {self.last_problem}")
        else:
            self._log.info("consumer {consumer} is back", consumer=self.definition.name)

    def _trouble(self, words: str) -> None:
        self.last_problem = words
        self._log.warn("consumer {consumer} {words}", consumer=self.definition.name, words=words)

    # --- Outcomes -------------------------------------------------------------------------------------

    def settle(self, now_s: float, *, at_once: bool = False) -> None:
        """Propose outcomes if they are due, enough of them, or to go `at_once`."""
        plan = self.plan
        while plan.delivered and plan.proposed < SETTLE_PROPOSED_MAX:
            due = self._settle_due_s is not None and self._settle_due_s <= now_s
            if not (due or at_once or plan.delivered >= SETTLE_AT):
                return
            if not self._around.leadership.propose(Settle(self.consumer, plan.to_settle())):
                self._settle_due_s = now_s + SETTLE_EVERY_S
                return  # no longer the leader: `close` follows, or the next turn asks again
            plan.settle_proposed()
            self._settle_due_s = now_s + SETTLE_EVERY_S if plan.delivered else None

    # --- Ends ---------------------------------------------------------------------------------------

    def close(self, *, at_once: bool = False) -> None:
        """End the lane. What is under way ends by itself, unheard, or is cut off `at_once`."""
        self._closed = True
        for courier in self._couriers:
            if at_once:
                courier.abort()
            else:
                courier.close()


def _words(answer: Answer) -> str:
    if isinstance(answer, Answered):
        return f"answered {answer.status}"
    return f"{answer.kind}: {answer.words}"
