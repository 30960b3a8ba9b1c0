"""The dispatcher: delivery, on the leader only (docs/explanation/delivery.md).

Decides when lanes get their turns and how long a turn is. Leaves what is attempted to each
lane's plan, and an attempt to its courier.

It works in *slices*: a slice lets every lane to which something happened, or whose time has come,
look at the ledger, gives each of them one attempt, and then the rest of its time to them in the order
of their backlogs, the smallest first.
What was applied has a slice at once; one is asked for by an answer, and by the earliest due time
of any lane; when there is nothing to do, no timer runs. While producers wait, a budget bounds the
time that slices and answers take together: by what the reactor's other work leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from crowd.command import Purge
from crowd.delivery.awaited import Awaited
from crowd.delivery.batch_lane import BatchLane
from crowd.delivery.breaker import BreakerState
from crowd.delivery.entries import Entries
from crowd.delivery.lane import Counts, Lane, Surroundings
from crowd.delivery.pace import TimeBudget
from crowd.errors import FatalError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from crowd.clock import Clock, Timer
    from crowd.definition import ConsumerDefinition
    from crowd.delivery.ports import CourierFactory, Leadership, LedgerView
    from crowd.delivery.trial import Remembered
    from crowd.message import ConsumerId, Position

SLICE_S: Final = 0.005
"""The longest slice, as long as one of applying; a tenth of a heartbeat."""

FENCED_S: Final = 0.05
"""How soon a closed fence is looked at again: a heartbeat's interval or less."""

DRAIN_S: Final = 3.0
"""How long a stopping dispatcher waits for attempts under way. What ends later is repeated."""

DRAIN_LOOK_S: Final = 0.02

EXPIRE_EVERY_S: Final = 60.0
"""How often it is asked which dead letters are past their age, which is days. Only when there is
something to do anyway: the log's time moves with its entries."""

EXPIRE_MAX: Final = 100
"""Letters given up at once: looking at them costs a millisecond. More follow a second later."""


class Progress(msgspec.Struct, frozen=True):
    """One consumer's delivery, for people and metrics. Counts begin anew with each leadership.

    ``held`` says why nothing is attempted now, "" for no reason; ``held_for_s`` how long yet, if
    that is known. ``alarm``: dead letters are at their bound, and an operator has to act.
    ``limit`` is how many attempts may be in flight now.
    """

    consumer: ConsumerId
    name: str
    paused: bool
    breaker: str
    held: str
    held_for_s: float | None
    alarm: bool
    watermark: Position
    cursor: Position
    backlog: int
    limit: int
    in_flight: int
    waiting: int
    in_line: int
    attempts: int
    delivered: int
    retried: int
    unknown: int
    dead: int
    last_problem: str


class Dispatcher(Service):
    """Delivers accepted messages while this node leads. All in the reactor's thread."""

    _log = Logger()
    name = "dispatcher"

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        ledger: LedgerView,
        leadership: Leadership,
        couriers: CourierFactory,
        producers_wait: Callable[[], bool],
        on_fatal: Callable[[FatalError], None],
        worked_s: Callable[[], float] | None = None,
    ) -> None:
        """Make a dispatcher that does nothing before it is told to `lead`.

        `clock` is monotonic. `on_fatal` hears, once, why the node must end. `worked_s` is the
        processor time of the reactor's thread, in seconds since any moment; without it all
        time counts as worked.
        """
        self._clock = clock
        self._ledger = ledger
        self._leadership = leadership
        self._producers_wait = producers_wait
        self._on_fatal = on_fatal
        self._worked_s = worked_s or clock.seconds
        self._left_off_s = 0.0  # what the thread had worked when delivery last did, or was to wait
        self._answers_s = 0.0  # what answers took of its time since then
        self._entries = Entries(leadership.messages)
        self.awaited = Awaited()
        self._around = Surroundings(
            clock, chance, ledger, leadership, self._entries, couriers, self.awaited, self._wake,
            self._fail,
        )  # fmt: skip
        self._lanes: dict[ConsumerId, Lane] = {}
        self._leads = False
        self._draining = False
        self._failed = False
        self._working = False
        self._next: Timer | None = None
        self._next_s = 0.0
        self._first = 0
        self._passed_over = False
        self._expire_s = float("-inf")
        self.budget = TimeBudget()

    # --- Told by others ---------------------------------------------------------------------------

    def lead(self) -> None:
        """Begin to deliver, from what the ledger shows.

        To be called once this node leads *and* its ledger has applied every entry of earlier
        terms: then only outcomes that never reached the log are repeated (I4).
        """
        if self._leads or self._draining or self._failed:
            return
        self._leads = True
        self._log.info("delivers from here on")
        self.advanced()

    def unlead(self) -> None:
        """Stop delivering. Attempts under way end unheard; the next leader repeats them."""
        if not self._leads:
            return
        self._leads = False
        self._log.info("delivers no more")
        self._close_lanes(at_once=False)

    def leading(self, leads: bool) -> None:  # noqa: FBT001  the shape of the engine's hook
        """Call `lead` or `unlead`."""
        if leads:
            self.lead()
        else:
            self.unlead()

    def advanced(self) -> None:
        """Have a slice now: entries were applied, and whose producers are here was told.

        In a turn of its own a new message would wait until a busy leader has read all that came
        meanwhile, which takes a millisecond or two.
        """
        if self._leads:
            self._follow_definitions()
            for lane in self._lanes.values():
                lane.stirred = True
            if not self._working:
                self._ask_nothing()
                self._slice()

    def letters_came(self) -> None:
        """Look again at letters whose bytes were not on this node: some may be now."""
        for lane in self._lanes.values():
            if lane.letters_came():
                self._wake()

    def report(self) -> None:
        """Propose all that the next leader should know: this one is about to make way."""
        for lane in self._lanes.values():
            lane.settle(self._clock.seconds(), at_once=True)

    def spent(self, seconds: float) -> None:
        """Count time that answers took, outside of slices."""
        self.budget.work(seconds)
        self._answers_s += seconds

    # --- Life -------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Start no attempt, wait a while for those under way, propose outcomes, and end.

        To be stopped before the engine, which can then hand a complete log over.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        self._draining = True
        drained: Deferred[None] = Deferred()
        self._drain(self._clock.seconds() + DRAIN_S, drained)
        return drained

    def _drain(self, until_s: float, drained: Deferred[None]) -> None:
        now_s = self._clock.seconds()
        if now_s < until_s and any(lane.plan.in_flight for lane in self._lanes.values()):
            self._clock.callLater(DRAIN_LOOK_S, self._drain, until_s, drained)
            return
        self.report()
        self._leads = False
        self._close_lanes(at_once=True)
        drained.callback(None)

    def _close_lanes(self, *, at_once: bool) -> None:
        for lane in self._lanes.values():
            lane.close(at_once=at_once)
        self._lanes.clear()
        self._entries.clear()
        self.awaited.clear()
        self._ask_nothing()

    def _follow_definitions(self) -> None:
        """Have a lane for each consumer, as it is defined now, and for no other."""
        for gone in self._lanes.keys() - self._ledger.consumers.keys():
            self._lanes.pop(gone).close()
            self.awaited.gone(gone)
        for consumer, known in self._ledger.consumers.items():
            lane = self._lanes.get(consumer)
            if lane is None:
                self._lanes[consumer] = _lane_of(consumer, known.definition, self._around)
            elif lane.definition is known.definition:
                continue
            elif lane.fits(known.definition):
                lane.redefine(known.definition)
            else:
                # What is under way was taken by another order: it ends unheard, and is repeated.
                now_s = self._clock.seconds()
                lane.settle(now_s, at_once=True)
                lane.close()
                before = lane.plan.remember(now_s)
                self._lanes[consumer] = _lane_of(consumer, known.definition, self._around, before)

    # --- Slices -------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Ask for a slice now; many calls make one. A slice under way looks again by itself."""
        if not self._working:
            self._ask(0.0)

    def _ask(self, delay_s: float) -> None:
        """Have the next slice after `delay_s` at the latest."""
        next_s = self._clock.seconds() + delay_s
        if self._next is not None:
            if self._next_s <= next_s:
                return
            self._next.cancel()
        self._next_s = next_s
        self._next = self._clock.callLater(delay_s, self._slice)

    def _ask_nothing(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _slice(self) -> None:
        self._next = None
        if not self._leads:
            return
        started_s = self._clock.seconds()
        slice_s = SLICE_S
        if self._producers_wait():
            slice_s = self.budget.slice_s(started_s, self._others_s())
            if slice_s <= 0:
                self._leave_off()
                self._ask(self.budget.wait_s(started_s))
                return
        self._working = True
        try:
            delay_s = self._work(started_s, slice_s)
        except FatalError as error:
            self._fail(error)
            return
        except Exception as error:  # noqa: BLE001  whatever it is, what follows is not to be trusted
            self._log.failure("delivery failed")
            self._fail(FatalError(f"delivery failed: {error!r}"))
            return
        finally:
            self._working = False
            self.budget.work(self._clock.seconds() - started_s)
            self._leave_off()
        if delay_s is not None:
            self._ask(delay_s)

    def _others_s(self) -> float:
        """Return what all others worked in this thread since delivery left off."""
        return max(0.0, self._worked_s() - self._left_off_s - self._answers_s)

    def _leave_off(self) -> None:
        self._left_off_s = self._worked_s()
        self._answers_s = 0.0

    def _fail(self, error: FatalError) -> None:
        if self._failed:
            return
        self._failed = True
        self._leads = False
        self._close_lanes(at_once=True)
        self._on_fatal(error)

    def _work(self, started_s: float, slice_s: float) -> float | None:
        """Do one slice's work; return the seconds until the next one, or None for none."""
        known = self._ledger.consumers
        there = [lane for consumer, lane in self._lanes.items() if consumer in known]
        lanes = self._in_turn([lane for lane in there if lane.wants_turn(started_s)])
        if started_s >= self._expire_s and not self._draining:
            self._expire(started_s)
        may_start = self._give_turns(lanes, started_s, started_s + slice_s)
        if self._draining:
            return None
        for lane in lanes:
            lane.due_s = lane.next_due_s()
        if not may_start:
            return FENCED_S
        if any(lane.stirred for lane in lanes):
            return 0.0  # an attempt ended as soon as it began
        dues = [lane.due_s for lane in there if lane.due_s is not None]
        return max(0.0, min(dues) - self._clock.seconds()) if dues else None

    def _in_turn(self, lanes: list[Lane]) -> list[Lane]:
        """Return the lanes in the order of their first attempts: who keeps up is first.

        Where time was too short for some last time, another lane is first each time, so that a
        short slice passes none over for long.
        """
        if not self._passed_over:
            known = self._ledger.consumers
            return sorted(lanes, key=lambda lane: known[lane.consumer].backlog)
        self._first = (self._first + 1) % max(1, len(lanes))
        return [*lanes[self._first :], *lanes[: self._first]]

    def _give_turns(self, lanes: Sequence[Lane], now_s: float, until_s: float) -> bool:
        """Have each lane look at the ledger, and start attempts until none is due, or no time.

        First one of each lane. Then all of the lane with the smallest backlog, and of the next:
        where time is short, what is short of it is the consumer that is behind, and not those that
        keep up. Returns False if none may start (I4).
        """
        may_start, still = not self._draining, []
        self._passed_over = False
        for lane in lanes:
            lane.stirred = False
            lane.look(now_s)
            lane.settle(now_s)
            if may_start and now_s >= until_s:
                self._passed_over = True
                continue
            may_start = may_start and self._leadership.may_attempt()
            if may_start and lane.start_one(now_s):
                still.append(lane)
            now_s = self._clock.seconds()
        known = self._ledger.consumers
        for lane in sorted(still, key=lambda lane: known[lane.consumer].backlog):
            while now_s < until_s:
                if not self._leadership.may_attempt():
                    return False
                if not lane.start_one(now_s):
                    break
                now_s = self._clock.seconds()
        return may_start

    def _expire(self, now_s: float) -> None:
        """Propose that dead letters go which were kept for as long as their consumers say."""
        numbers = self._ledger.expired(self._leadership.log_time_us(), EXPIRE_MAX)
        if numbers and self._leadership.propose(Purge("age", tuple(numbers))):
            self._log.info(
                "dead letters {first} to {last} are past their age: {count} are given up",
                first=numbers[0],
                last=numbers[-1],
                count=len(numbers),
            )
        self._expire_s = now_s + (1.0 if len(numbers) == EXPIRE_MAX else EXPIRE_EVERY_S)

    # --- What others read -----------------------------------------------------------------------

    def progress(self) -> tuple[Progress, ...]:
        """Return each consumer's delivery, in the order of their ids; idle ones on a follower."""
        return tuple(self._progress(consumer) for consumer in sorted(self._ledger.consumers))

    def _progress(self, consumer: ConsumerId) -> Progress:
        known = self._ledger.consumers[consumer]
        watermark = self._ledger.watermark(consumer)
        lane = self._lanes.get(consumer)
        now_s = self._clock.seconds()
        plan = lane.plan if lane is not None else None
        held, until_s = plan.held(now_s) if plan is not None else ("", None)
        counts = lane.counts if lane is not None else Counts()
        return Progress(
            consumer=consumer,
            name=known.definition.name,
            paused=known.paused,
            breaker=plan.breaker.state.value if plan is not None else BreakerState.CLOSED.value,
            held=held,
            held_for_s=None if until_s is None else max(0.0, until_s - now_s),
            alarm=plan is not None and plan.full,
            watermark=watermark,
            cursor=plan.cursor if plan is not None else watermark,
            backlog=known.backlog,
            limit=plan.pace.limit if plan is not None else known.definition.concurrency,
            in_flight=plan.in_flight if plan is not None else 0,
            waiting=plan.waiting if plan is not None else 0,
            in_line=plan.in_line if plan is not None else 0,
            last_problem=lane.last_problem if lane is not None else "",
            **msgspec.structs.asdict(counts),
        )


def _lane_of(
    consumer: ConsumerId,
    definition: ConsumerDefinition,
    around: Surroundings,
    before: Remembered | None = None,
) -> Lane:
    """Return the lane that fits a definition; `before` as `Lane` takes it."""
    lane = Lane if definition.batch is None else BatchLane
    return lane(consumer, definition, around, before)
