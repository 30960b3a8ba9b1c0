"""One consumer's lane: its plan, its courier, and what has been seen of it.

Decides nothing that ``plan`` can decide. Starts the attempts that the plan names, hands it
their answers, and has ``reports`` propose what came of them. One lane never waits for another;
whose turn it is the dispatcher says.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from twisted.logger import Logger

from crowd.delivery.awaited import Ending, ending_of
from crowd.delivery.backlog import LETTERS_MAX
from crowd.delivery.order import Order
from crowd.delivery.outcome import Answered, Failed, FailureKind, Outcome, in_words
from crowd.delivery.pace import Rate
from crowd.delivery.plan import Plan
from crowd.delivery.reports import BURY_AWAITED_S, Reports, remembered_of
from crowd.delivery.request import Naming
from crowd.delivery.rules import Rules
from crowd.delivery.trial import letter_number, letter_place
from crowd.errors import DamagedEntryError, FatalError, MalformedMessageError
from crowd.message import decode_message, message_id, wait_mark

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from crowd.clock import Clock
    from crowd.definition import ConsumerDefinition
    from crowd.delivery.awaited import Awaited, State
    from crowd.delivery.entries import Entries
    from crowd.delivery.outcome import Answer
    from crowd.delivery.ports import Courier, CourierFactory, Leadership, LedgerView, RunView
    from crowd.delivery.trial import Attempt, Remembered, Trial
    from crowd.message import ConsumerId, Message, Position

MEND_S: Final = 0.1
"""How soon a message is looked at again whose bytes were damaged: a peer's copy comes in less."""

LEASE_S: Final = 1.5
"""How long a new leader waits before it attempts what is in order. The leader before it starts
nothing more half a second after it last heard a majority (`crowd.raft.engine.FENCE_S`); the rest
is for what it had just begun to send. A new lane for another order waits as long."""

READ_BYTES_MAX: Final = 256 << 10
"""Bytes of messages read in one look to learn their keys: about a millisecond of decoding."""

HOLDING_MAX: Final = 1_000
"""Dead letters whose keys a new leader reads. With more, whose keys it does not know, it holds
the consumer as a whole."""

LETTERS_EVERY_S: Final = 0.1
"""How often letters are looked through, if there are any: a millisecond for the most of them."""

CAME_MAX: Final = 4
"""Letters that are looked at again when bytes came. They come mostly one by one, in the order in
which they were asked for; what is passed over is looked at again after `LEASE_S`."""


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
    awaited: Awaited
    wake: Callable[[], None]
    fail: Callable[[FatalError], None]


class Counts(msgspec.Struct):
    """What a lane did since this node leads. ``unknown`` ones may have been had twice."""

    attempts: int = 0
    delivered: int = 0
    retried: int = 0
    unknown: int = 0
    dead: int = 0


class Lane:
    """Delivery to one consumer, for as long as this node leads."""

    _log = Logger()

    def __init__(
        self,
        consumer: ConsumerId,
        definition: ConsumerDefinition,
        around: Surroundings,
        before: Remembered | None = None,
    ) -> None:
        """Begin at what the ledger shows, or take the place of a lane with that plan `before`."""
        self.consumer = consumer
        self.definition = definition
        self.counts = Counts()
        self.last_problem = ""
        self.stirred = True
        """Whether something happened since its last turn: it wants another one."""
        self.due_s: float | None = None
        """When it wants its next turn in any case, as of its last one."""
        self._around = around
        self._couriers: list[Courier] = []  # the present one, and the one before it
        self._courier: Courier | None = None
        self._closed = False
        self._more = False
        self._letters_s = float("-inf")  # when letters are looked at again
        self._letters_skipped = False
        self._lacking: dict[Position, None] = {}  # letters whose bytes are not here yet
        self._came = 0  # how many of those may be here by now
        self._rate_text = ""
        self._run: RunView | None = None  # the messages around the one that was read last
        self._mark = (wait_mark(consumer),)
        ledger, leadership = around.ledger, around.leadership
        now_s = around.clock.seconds()
        rules = _rules_of(definition)
        remembered = before
        if before is None:
            log_us = leadership.log_time_us()
            remembered = remembered_of(ledger.remembered(consumer), now_s, log_us)
        if remembered is not None:
            waiting = tuple(filter(self._still_waits, remembered.trials))
            remembered = msgspec.structs.replace(remembered, trials=waiting)
        watermark = ledger.watermark(consumer)
        self.plan = self._plan_from(rules, watermark, now_s, remembered)
        self._passed = ledger.consumers[consumer].passed  # which lies below the watermark
        self._read_from_s = float("-inf")
        if before is not None or rules.order.any:
            self._more = True
            self._read_from_s = now_s + LEASE_S
            self.plan.begin_at(self._read_from_s, "waits for the leader before to end", now_s)
        self._reports = Reports(consumer, self.plan, ledger, leadership, self._bytes_of)
        self._reports.dead_bytes_max = definition.dead.bytes_max
        self._read: set[int] = set()  # letters whose keys are known, of those
        self._keys_unknown = rules.order.any and rules.holds_dead  # of letters from before
        self._told = leadership.proposed_index()  # what a lane before this one told the log, too
        self._make_courier()

    def _plan_from(
        self, rules: Rules, watermark: Position, now_s: float, remembered: Remembered | None
    ) -> Plan:
        return Plan(rules, watermark, None, now_s, remembered)

    def _still_waits(self, trial: Trial) -> bool:
        """Return whether what was remembered did not end after it was told: else it is never taken."""
        ledger, number = self._around.ledger, letter_number(trial.position)
        if not number:
            return not ledger.is_settled(self.consumer, trial.position)
        return number in ledger.letters and ledger.letters[number].target == self.consumer

    def fits(self, definition: ConsumerDefinition) -> bool:
        """Return whether `redefine` can follow a definition.

        Its order is the same, messages still go in batches, or still each alone, and no letter
        from before begins to hold its key.
        """
        ours = self.definition
        same_way = (definition.batch is None) == (ours.batch is None)
        same_way = same_way and definition.order == ours.order
        begins_to_hold = definition.on_dead == "hold" and ours.on_dead != "hold"
        return same_way and not (begins_to_hold and self.plan.rules.order.any)

    def redefine(self, definition: ConsumerDefinition) -> None:
        """Follow a changed definition that fits; attempts under way end as they began."""
        self.definition = definition
        self.plan.follow(_rules_of(definition))
        self._reports.dead_bytes_max = definition.dead.bytes_max
        self.stirred = True
        self._make_courier()

    def _make_courier(self) -> None:
        if self._courier is not None:
            self._courier.close()
        try:
            Order.from_text(self.definition.order)
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

    def wants_turn(self, now_s: float) -> bool:
        """Return whether a turn could change anything: what it asks for has happened, or is due."""
        return self.stirred or (self.due_s is not None and self.due_s <= now_s)

    def look(self, now_s: float) -> None:
        """Take from the ledger what was applied meanwhile, and new messages if there is room."""
        ledger, plan = self._around.ledger, self.plan
        known = ledger.consumers[self.consumer]
        paused = known.paused or self._courier is None
        if paused != plan.paused:
            plan.set_paused(now_s, paused=paused)
        plan.applied(
            ledger.watermark(self.consumer),
            lambda position: ledger.is_settled(self.consumer, position),
        )
        if known.passed != self._passed:
            self._passed = known.passed
            plan.pass_over(known.passed, now_s)
        self._around.awaited.look(self.consumer, ledger, now_s)
        self._look_at_letters(now_s)
        if self._came:
            self._hasten_letters(now_s)
        if now_s < self._read_from_s or self._keys_unknown:
            return
        wanted = plan.wants()
        if wanted > 0:
            pending = ledger.pending(self.consumer, plan.cursor, wanted)
            if plan.rules.order.reads:
                self._take_with_keys(pending, now_s)
            else:
                plan.take(pending)
            self._more = bool(pending)  # there may be more behind those

    def start_one(self, now_s: float) -> bool:
        """Start one attempt if one is due; return whether one was."""
        courier = self._courier
        if courier is None:
            return False
        attempt = self.plan.next_attempt(now_s)
        if attempt is None:
            return False
        if attempt.position < 0:
            self._start_letter(attempt, courier)
        else:
            self._start(attempt, courier, now_s)
        return True

    def next_due_s(self) -> float | None:
        """Return when a turn is wanted next, or None if only an event asks for one."""
        plan = self.plan
        dues = [self._reports.due_s(), plan.next_due_s()]
        if self._more and not plan.paused and plan.has_room and plan.wants():
            dues.append(self._read_from_s)
        if self._keys_unknown:
            dues.append(self._read_from_s)
        if self._letters_skipped:
            dues.append(self._letters_s)
        dues += plan.endings.letters_due_s(), self._around.awaited.due_s(self.consumer)
        return min((due_s for due_s in dues if due_s is not None), default=None)

    # --- Order --------------------------------------------------------------------------------------

    def _take_with_keys(self, pending: Sequence[Position], now_s: float) -> None:
        """Take messages with their keys, as far as they can be read now."""
        keys: list[bytes | None] = []
        read_bytes = 0
        for position in pending:
            stored = self._stored(position)
            if stored is None:
                self._read_from_s = now_s + MEND_S
                break
            keys.append(self._key(stored))
            read_bytes += len(stored)
            if read_bytes > READ_BYTES_MAX:
                break
        self.plan.take(pending[: len(keys)], keys)

    def _key(self, stored: bytes) -> bytes | None:
        try:
            return self.plan.rules.order.key(decode_message(stored))
        except MalformedMessageError:
            return None  # it will be found undeliverable, on its own

    def _stored(self, position: Position) -> bytes | None:
        """Return a stored message; None, having asked for help, if its bytes are damaged."""
        around, run = self._around, self._run
        if run is None or not run.first <= position <= run.last:
            run = self._run = around.ledger.run(position)
        try:
            return around.entries.message(run.index, run.offset + position - run.first)
        except DamagedEntryError as error:
            around.leadership.damaged(error)
            return None

    def _bytes_of(self, place: Position) -> bytes | None:
        """Return the stored message of a position, or of the letter that stands for one."""
        if place > 0:
            return self._stored(place)
        return self._around.leadership.letter(letter_number(place))

    def _learn_held_keys(self, now_s: float) -> None:
        """Learn which keys are held from before, once all those letters are there and can be read.

        What a lane before this one buried is among them, and becomes a letter when it is applied.
        """
        if now_s < self._read_from_s:
            return
        ledger = self._around.ledger
        unread = list(ledger.letters_of(self.consumer, 0, HOLDING_MAX + 1))
        if len(unread) <= HOLDING_MAX:
            unread = [n for n in unread if n not in self._read and not self._holds(n)]
        self._keys_unknown = bool(unread) or ledger.applied_index < self._told
        if self._keys_unknown:
            self._read_from_s = now_s + LEASE_S
            self.plan.begin_at(self._read_from_s, "cannot tell yet what its letters hold", now_s)

    def _holds(self, number: int) -> bool:
        """Have a letter hold its key; False if its bytes are not here yet."""
        stored = self._around.leadership.letter(number)
        if stored is None:
            return False
        self.plan.hold_key(self._around.ledger.letters[number].position, self._key(stored))
        self._read.add(number)
        return True

    # --- Letters ------------------------------------------------------------------------------------

    def _look_at_letters(self, now_s: float) -> None:
        """Take letters that are to be attempted; let keys go whose letter is gone."""
        ledger, plan = self._around.ledger, self.plan
        if self._keys_unknown:
            self._learn_held_keys(now_s)
        self._letters_skipped = now_s < self._letters_s
        if self._letters_skipped:
            return
        numbers = ledger.letters_due(self.consumer, 0, LETTERS_MAX)
        if numbers or plan.knows_letters:
            plan.take_letters(numbers, now_s)
        if self._lacking:
            there = {letter_place(number) for number in numbers}
            self._lacking = {place: None for place in self._lacking if place in there}
        for position in plan.holding if plan.holds else ():
            if not plan.rules.holds_dead or not ledger.is_letter(self.consumer, position):
                plan.release_key(position)
        if numbers or plan.holds:
            self._letters_s = now_s + LETTERS_EVERY_S

    def letters_came(self) -> bool:
        """Look again, at the next turn, at letters whose bytes were not here; False if none is."""
        self._came += CAME_MAX
        self.stirred = True
        return bool(self._lacking)

    def _hasten_letters(self, now_s: float) -> None:
        """Have letters attempted that may be here now, those first which were asked for first."""
        if self._lacking:
            here = set(islice(self._lacking, self._came))
            for place in here:
                del self._lacking[place]
            self.plan.hasten(here, now_s)
        self._came = 0

    def _start_letter(self, attempt: Attempt, courier: Courier) -> None:
        around, number = self._around, attempt.letter
        letter = around.ledger.letters.get(number)
        if letter is None or letter.target != self.consumer:  # letters are looked at now and then
            self._lacking.pop(attempt.position, None)
            self.plan.drop(attempt.position)
            return
        stored = around.leadership.letter(number)
        if stored is None:
            self._lacking[attempt.position] = None
            self.plan.postpone(attempt.position, around.clock.seconds() + LEASE_S)
            return
        self._lacking.pop(attempt.position, None)
        self._send(attempt, courier, stored, letter.position, replay=letter.state == "replay")

    # --- Attempts -----------------------------------------------------------------------------------

    def _is_settled_meanwhile(self, position: Position, *, again: bool) -> bool:
        """Tell whether a message was settled after the plan took it; `again`, if it was attempted.

        What was just taken is pending. What waited may have been settled by an operator, or by the
        lane before this one, whose last outcomes were under way.
        """
        plan = self.plan
        return (
            again or plan.rules.order.any or position <= plan.backlog.watermark
        ) and self._around.ledger.is_settled(self.consumer, position)

    def _start(self, attempt: Attempt, courier: Courier, now_s: float) -> None:
        """Make an attempt, or put it off until damaged bytes of the log are mended."""
        plan, position = self.plan, attempt.position
        if self._is_settled_meanwhile(position, again=attempt.number > 1):
            plan.drop(position)
            return
        stored = self._stored(position)
        if stored is None:
            plan.postpone(position, now_s + MEND_S)
            return
        self._send(attempt, courier, stored, position)

    def _send(
        self, attempt: Attempt, courier: Courier, stored: bytes, position: Position,
        *, replay: bool = False,
    ) -> None:  # fmt: skip
        self.counts.attempts += 1
        try:
            message: Message = decode_message(stored)
        except MalformedMessageError as error:
            self._answered(Failed(FailureKind.UNDELIVERABLE, str(error)), attempt.position)
            return
        tag = self._around.ledger.tag
        assert tag is not None, "a message was accepted, so the cluster is born"
        # Only of its own: of a letter the producer heard long ago.
        awaited = message.headers[-1:] == self._mark and attempt.position > 0
        naming = Naming(message_id(tag, position), position, attempt.number, replay, awaited)
        answered = self._ask(courier, message, naming)
        answered.addCallback(self._answered, attempt.position, awaited=awaited)
        answered.addErrback(self._broke)

    def _ask(self, courier: Courier, message: Message, naming: Naming) -> Deferred[Answer]:
        return courier.attempt(message, naming)

    def _answered(self, answer: Answer, position: Position, *, awaited: bool = False) -> None:
        """Take an answer. Called once for each attempt, in the reactor."""
        if self._closed:
            return
        around, plan, counts = self._around, self.plan, self.counts
        now_s = around.clock.seconds()
        closed, dead = plan.breaker.closed, len(plan.endings.dead)
        outcome = plan.answered(position, answer, now_s, around.chance.random())
        if outcome is Outcome.DELIVERED:
            counts.delivered += 1
            self.last_problem = ""
            self._reports.heard(now_s)
        else:
            if len(plan.endings.dead) > dead:
                counts.dead += 1
                self._reports.heard(now_s)
            elif outcome is Outcome.UNKNOWN:
                counts.unknown += 1
            else:
                counts.retried += 1
            self.last_problem = in_words(answer)
        if awaited or around.awaited.asks(self.consumer, position):
            if outcome is Outcome.DELIVERED:
                around.awaited.delivered(self.consumer, position, told("delivered", answer), now_s)
            elif len(plan.endings.dead) > dead:
                self._died(position, answer, now_s)
        if closed != plan.breaker.closed:
            self._turned(now_s)
        self.stirred = True
        around.wake()

    def _died(self, position: Position, answer: Answer, now_s: float) -> None:
        """Have who waits for a message told that it died, soon: once it is a letter."""
        self._around.awaited.died(self.consumer, position, told("dead", answer), now_s)
        self._reports.heard(now_s, BURY_AWAITED_S)

    def _broke(self, failure: Failure) -> None:
        """End the node: the plan is not what the attempts are, which is never to be."""
        self._log.failure("an answer could not be taken", failure)
        self._around.fail(FatalError(f"delivery failed: {failure.getErrorMessage()}"))

    def _turned(self, now_s: float) -> None:
        breaker = self.plan.breaker
        if breaker.closed:
            self._log.info("consumer {consumer} is back", consumer=self.definition.name)
        else:
            wait_s = max(0.0, breaker.until_s - now_s)
            self._trouble(f"is left alone for {wait_s:.1f} s: {breaker.why}")

    def _trouble(self, words: str) -> None:
        self.last_problem = words
        self._log.warn("consumer {consumer} {words}", consumer=self.definition.name, words=words)

    # --- Outcomes -------------------------------------------------------------------------------------

    def settle(self, now_s: float, *, at_once: bool = False) -> None:
        """Propose outcomes, and what the next leader should know, if due or to go `at_once`."""
        full = self.plan.full
        self._reports.send(now_s, at_once=at_once)
        if self.plan.full and not full:
            self._log.error(
                "consumer {consumer} is held: {why}; replay or purge some, or raise dead.bytes if that "
                "is the bound",
                consumer=self.definition.name,
                why=self._reports.no_room,
            )

    # --- Ends ---------------------------------------------------------------------------------------

    def close(self, *, at_once: bool = False) -> None:
        """End the lane. What is under way ends by itself, unheard, or is cut off `at_once`."""
        self._closed = True
        for courier in self._couriers:
            if at_once:
                courier.abort()
            else:
                courier.close()


def told(state: State, answer: Answer) -> Ending:
    """Return what is told of an attempt that ended a message so."""
    if isinstance(answer, Answered) and answer.whole is not None:
        return ending_of(state, answer.status, *answer.whole)
    return Ending(state)


def _rules_of(definition: ConsumerDefinition) -> Rules:
    """Return a definition's rules. An order that is none stands for all: no courier is made then."""
    try:
        return Rules.from_definition(definition)
    except ValueError:
        return Rules.from_definition(msgspec.structs.replace(definition, order="all"))
