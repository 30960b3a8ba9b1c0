"""What is attempted next, checked against a small model of a ledger."""

from __future__ import annotations

import tracemalloc

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.task import Clock

from crowd.delivery.backoff import Backoff
from crowd.delivery.outcome import Answered, Failed, FailureKind, Outcome
from crowd.delivery.pace import Rate
from crowd.delivery.plan import (
    FRESH_MAX,
    PROBE_S,
    RECALL_S,
    SILENT_RUN_MIN,
    WINDOW,
    Plan,
    ranges_of,
)
from crowd.message import Position

BACKOFF = Backoff(1.0, 2.0, 300.0)
OK = Answered(200)
DOWN = Failed(FailureKind.CONNECT, "refused")
REFUSED = Answered(422)


def positions(first, last):
    return [Position(n) for n in range(first, last + 1)]


def started(plan, now_s=0.0):
    """Start all that is due; return the positions."""
    found = []
    while (attempt := plan.next_attempt(now_s)) is not None:
        found.append(attempt.position)
    return found


def test_at_most_concurrency_attempts_are_in_flight():
    """`concurrency = 3` means three at a time, in the order of acceptance."""
    plan = Plan(BACKOFF, 3, Position(10))
    plan.take(positions(11, 20))
    assert started(plan) == [11, 12, 13]
    plan.answered(Position(12), OK, 0.0, 0.5)
    assert started(plan) == [14]


def test_a_failed_message_comes_back_with_the_next_number():
    """Attempts count from 1, and a retry waits as long as its backoff says."""
    plan = Plan(BACKOFF, 1, Position(0))
    plan.take(positions(1, 1))
    assert plan.next_attempt(0.0).number == 1
    plan.answered(Position(1), REFUSED, 0.0, 0.5)
    assert plan.next_attempt(0.4) is None
    assert plan.next_due_s() == 0.5
    again = plan.next_attempt(0.5)
    assert (again.position, again.number) == (1, 2)


def test_a_retry_that_is_due_goes_before_fresh_messages():
    """A message that failed is not starved by those that come after it."""
    plan = Plan(BACKOFF, 1, Position(0))
    plan.take(positions(1, 5))
    started(plan)
    plan.answered(Position(1), REFUSED, 0.0, 0.0)
    assert started(plan) == [1]


def test_a_fenced_attempt_was_none():
    """What was not sent keeps its number, and says nothing about the consumer."""
    plan = Plan(BACKOFF, 1, Position(0))
    plan.take(positions(1, 1))
    for _ in range(50):
        assert plan.next_attempt(0.0).number == 1
        plan.answered(Position(1), Failed(FailureKind.FENCED, ""), 0.0, 0.9)
    assert not plan.silent


def test_an_unknown_outcome_is_attempted_again():
    """A timeout may have been a delivery; the message is delivered at least once."""
    plan = Plan(BACKOFF, 1, Position(0))
    plan.take(positions(1, 1))
    started(plan)
    outcome = plan.answered(Position(1), Failed(FailureKind.TIMEOUT, ""), 0.0, 0.0)
    assert outcome is Outcome.UNKNOWN
    assert plan.next_attempt(0.0).number == 2


def test_attempts_and_retries_keep_the_rate():
    """Waiting to be told "now" costs no slot, and a retry counts like a first attempt."""
    clock, taken_s = Clock(), []
    plan = Plan(BACKOFF, 100, Position(0), Rate(10.0, 2, 0.0))
    plan.take(positions(1, 40))
    while plan.delivered < 40:
        attempt = plan.next_attempt(clock.seconds())
        if attempt is None:
            assert plan.in_flight == 0
            due_s = plan.next_due_s()
            assert due_s > clock.seconds()
            clock.advance(due_s - clock.seconds())
            continue
        taken_s.append(clock.seconds())
        answer = OK if attempt.number == 2 else REFUSED
        plan.answered(attempt.position, answer, clock.seconds(), 0.1)
    assert len(taken_s) == 80
    assert taken_s[-1] < 80 / 10.0 + 0.2
    for first, start in enumerate(taken_s):
        for count, end in enumerate(taken_s[first:], 1):
            assert count <= 10.0 * (end - start) + 2 + 1e-6


def test_probes_of_a_silent_consumer_keep_the_rate():
    """A rate below a probe a second holds while the consumer is down, too."""
    plan = Plan(BACKOFF, 4, Position(0), Rate(0.2, 1, 0.0))
    plan.take(positions(1, 20))
    taken_s = []
    for second in range(300):
        for position in started(plan, float(second)):
            taken_s.append(second)
            plan.answered(position, DOWN, float(second), 0.0)
    assert plan.silent
    assert taken_s == list(range(0, 300, 5))


def silenced(concurrency=4):
    plan = Plan(BACKOFF, concurrency, Position(0))
    plan.take(positions(1, 200))
    now_s = 0.0
    while not plan.silent:
        for position in started(plan, now_s):
            plan.answered(position, DOWN, now_s, 0.99)
        now_s += 0.001
    return plan, now_s


def test_a_silent_consumer_is_probed_and_not_flooded():
    """An outage costs one attempt a second and a handful of waiting messages."""
    plan, now_s = silenced()
    assert plan.waiting < SILENT_RUN_MIN + 4
    assert plan.wants() == 0
    assert plan.next_attempt(now_s) is None
    attempts = 0
    for _ in range(600):  # a minute in tenths of a second
        now_s += 0.1
        for position in started(plan, now_s):
            attempts += 1
            plan.answered(position, DOWN, now_s, 0.99)
    assert 50 <= attempts <= 60
    assert plan.waiting < SILENT_RUN_MIN + 4


def test_one_sign_of_life_calls_the_waiting_back():
    """A consumer that is back gets what waited within about a second, not in five minutes."""
    plan, now_s = silenced()
    now_s += PROBE_S
    (probe,) = started(plan, now_s)
    plan.answered(probe, OK, now_s, 0.5)
    assert not plan.silent
    waiting, seen = plan.waiting, 0
    while plan.waiting:
        now_s += 0.01
        for position in started(plan, now_s):
            seen += 1
            plan.answered(position, OK, now_s, 0.5)
    assert seen >= waiting
    assert now_s <= PROBE_S + RECALL_S + 0.1


def test_refusals_are_no_silence():
    """A thousand messages that a consumer refuses do not stop the ones after them."""
    plan = Plan(BACKOFF, 4, Position(0))
    plan.take(positions(1, 250))
    for _ in range(50):
        for position in started(plan):
            plan.answered(position, REFUSED, 0.0, 0.99)
    assert not plan.silent


def test_a_probe_waits_for_what_the_consumer_asked_for():
    """Retry-After of a silent consumer holds the probes too."""
    plan, now_s = silenced()
    (probe,) = started(plan, now_s + PROBE_S)
    plan.answered(probe, Answered(503, 30.0), now_s, 0.5)
    assert plan.next_due_s() == now_s + 30.0


def test_the_cursor_stays_within_the_window():
    """I7: what a plan holds is bounded, whatever the backlog."""
    plan = Plan(BACKOFF, 1, Position(5))
    taken = 0
    while plan.wants():
        count = plan.wants()
        assert count <= FRESH_MAX
        plan.take(positions(plan.cursor + 1, plan.cursor + count))
        taken += count
        plan._fresh.clear()
    assert taken == WINDOW
    plan.take([Position(plan.cursor + 1)])
    assert plan.cursor == 5 + WINDOW


def test_i7_a_full_window_is_small():
    """A hundred thousand messages that a consumer refuses cost the leader less than 25 MB."""
    tracemalloc.start()
    plan = Plan(BACKOFF, 100, Position(0))
    while plan.wants():
        plan.take(positions(plan.cursor + 1, plan.cursor + plan.wants()))
        for batch in iter(lambda: started(plan), []):
            for position in batch:
                plan.answered(position, REFUSED, 0.0, 0.99)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.waiting == WINDOW
    assert held_bytes < 25_000_000


def test_settled_in_ranges():
    """Outcomes go into the log as few ranges."""
    assert ranges_of([]) == ()
    assert ranges_of(positions(3, 5) + positions(7, 7) + positions(9, 10)) == (
        (3, 5),
        (7, 7),
        (9, 10),
    )


class PlanMachine(RuleBasedStateMachine):
    """A plan beside a ledger that is two sets: accepted, and settled."""

    @initialize(
        concurrency=st.integers(1, 12),
        settled=st.sets(st.integers(1, 30)),
        rate=st.none() | st.builds(Rate, st.floats(0.1, 50), st.integers(1, 5), st.just(0.0)),
    )
    def begin(self, concurrency, settled, rate):
        self.now_s = 0.0
        self.accepted = 30
        self.settled = set(settled)
        self.log = []
        self.in_flight = set()
        self.delivered = []
        self.plan = Plan(BACKOFF, concurrency, Position(self.watermark()), rate)
        self.concurrency = concurrency

    def watermark(self):
        mark = 0
        while mark + 1 in self.settled:
            mark += 1
        return mark

    @rule(count=st.integers(1, 40))
    def accept(self, count):
        self.accepted += count

    @rule(limit=st.integers(1, 20))
    def take(self, limit):
        wanted = min(limit, self.plan.wants())
        pending = [
            Position(p)
            for p in range(self.plan.cursor + 1, self.accepted + 1)
            if p not in self.settled
        ]
        self.plan.take(pending[:wanted])

    @rule(seconds=st.floats(0, 20))
    def pass_time(self, seconds):
        self.now_s += seconds

    @rule()
    def start(self):
        due_s = self.plan.next_due_s()
        attempt = self.plan.next_attempt(self.now_s)
        assert (attempt is not None) == (due_s is not None and due_s <= self.now_s)
        if attempt is not None:
            assert attempt.position not in self.in_flight, "one attempt at a time"
            assert attempt.position not in self.settled, "never attempted once settled"
            assert attempt.position not in self.delivered, "never attempted once delivered"
            self.in_flight.add(attempt.position)

    @rule(
        answer=st.sampled_from([OK, OK, DOWN, REFUSED, Failed(FailureKind.FENCED, "")]),
        chance=st.floats(0, 1, exclude_max=True),
        data=st.data(),
    )
    def answer(self, answer, chance, data):
        if self.in_flight:
            position = data.draw(st.sampled_from(sorted(self.in_flight)))
            self.in_flight.remove(position)
            self.plan.answered(position, answer, self.now_s, chance)
            if answer == OK:
                self.delivered.append(position)

    @rule()
    def propose(self):
        if self.plan.delivered:
            self.log.append(self.plan.to_settle())
            self.plan.settle_proposed()

    @rule()
    def apply(self):
        if self.log:
            for first, last in self.log.pop(0):
                self.settled.update(range(first, last + 1))
        self.plan.applied(Position(self.watermark()), lambda p: p in self.settled)

    @invariant()
    def is_bounded_and_complete(self):
        plan = self.plan
        assert plan.in_flight == len(self.in_flight) <= self.concurrency
        assert plan.proposed == len(self.log)
        assert set(self.delivered) == (
            {p for batch in self.log for a, b in batch for p in range(a, b + 1)}
            | set(plan._delivered)
            | (set(self.delivered) & self.settled)
        )
        held = {p for _, p, _ in plan._waiting} | set(plan._fresh) | self.in_flight
        known = held | set(self.delivered) | self.settled
        assert set(range(self.watermark() + 1, plan.cursor + 1)) <= known, "nothing is lost"
        assert not held & (set(self.delivered) | self.settled), "nothing is in two places"


TestPlan = PlanMachine.TestCase
TestPlan.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
