"""What goes in one request, and what becomes of it, checked against a small model of a ledger."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from crowd.definition import Answers, Batch
from crowd.definition import Breaker as BreakerDefinition
from crowd.delivery.backlog import WINDOW
from crowd.delivery.backoff import Backoff
from crowd.delivery.batch_plan import BatchPlan
from crowd.delivery.order import Order
from crowd.delivery.outcome import Answered, Outcome
from crowd.delivery.pace import Rate
from crowd.delivery.rules import Rules
from crowd.delivery.trial import letter_place
from crowd.message import Position
from tests.unit.delivery.test_plan import BAD, DOWN, FENCED, OK, REFUSED, PlanMachine, positions

BATCH = Batch("bulk", 4, 100, 1_000_000)
BACKOFF = Backoff(1.0, 2.0, 300.0)


def plan_of(concurrency=4, batch=BATCH, rate=None, *, backoff=BACKOFF, **rules):
    return BatchPlan(Rules(backoff, concurrency, batch=batch, **rules), Position(0), rate)


def gathered(plan, now_s=0.0, size=1):
    """Gather all that there is to gather; return the positions."""
    found = []
    for trial in plan.choose(now_s):
        plan.gather(trial, size, now_s)
        found.append(trial.position)
    return found


def sent(plan, now_s=0.0):
    """Return the batch that goes now, or None."""
    batch = plan.next_batch(now_s, lambda _: [])
    return None if batch is None else [attempt.position for attempt in batch]


def test_a_batch_gathers_while_others_are_under_way():
    """It is ready when a request may start, and no more is chosen than goes in it."""
    plan = plan_of(concurrency=1)
    plan.take(positions(1, 20))
    assert gathered(plan) == [1, 2, 3, 4]
    assert sent(plan) == [1, 2, 3, 4]
    assert gathered(plan) == [5, 6, 7, 8]
    assert sent(plan) is None
    assert plan.next_due_s() is None
    plan.answered_batch(Position(1), [OK] * 4, 0.0, 0.5)
    assert sent(plan) == [5, 6, 7, 8]


def test_a_batch_goes_when_the_next_message_lies_past_the_window():
    """It waits for no message that cannot be taken before those gathered are done."""
    plan = plan_of(batch=Batch("bulk", 4, 100, 0))
    plan.take([*positions(1, 2), Position(WINDOW + 1)])
    assert gathered(plan) == [1, 2]
    assert not plan.wants()
    assert sent(plan) == [1, 2]


def test_a_message_does_not_age_while_it_is_gathered():
    """Its age counts from its first attempt on, however long its batch waited for its turn."""
    plan = BatchPlan(Rules(Backoff(1.0, 2.0, 300.0, for_s=10.0), 1, batch=BATCH), Position(0))
    plan.take(positions(1, 8))
    assert gathered(plan) == [1, 2, 3, 4]
    assert sent(plan) == [1, 2, 3, 4]
    assert gathered(plan) == [5, 6, 7, 8]
    plan.answered_batch(Position(1), [OK] * 4, 9.0, 0.5)
    assert sent(plan, 9.0) == [5, 6, 7, 8]
    plan.answered_batch(Position(5), [Answered(500), OK, OK, OK], 18.0, 0.5)
    assert not plan.endings.dead
    assert plan.waiting == 1


def test_when_there_is_something_to_do():
    """At once while there is something to gather, and then when the linger is over."""
    plan = plan_of()
    assert plan.next_due_s() is None
    plan.take(positions(1, 2))
    assert plan.next_due_s() < 5.0
    gathered(plan, 5.0)
    assert plan.next_due_s() == 6.0
    assert sent(plan, 5.9) is None
    assert sent(plan, 6.0) == [1, 2]


def test_what_is_asked_holds_what_has_gathered():
    """Retry-After holds a batch that was ready."""
    plan = plan_of(concurrency=2)
    plan.take(positions(1, 8))
    gathered(plan)
    sent(plan)
    gathered(plan)
    plan.answered_batch(Position(1), [Answered(503, 30.0)] * 4, 0.0, 0.5)
    assert plan.next_due_s() == 30.0
    assert sent(plan, 29.9) is None
    assert sent(plan, 30.0) == [5, 6, 7, 8]


def test_halves_and_then_alone():
    """The company of what failed together shrinks until the culprit is alone, which dies."""
    plan = plan_of(concurrency=1)
    plan.take(positions(1, 4))
    seen = []
    for _ in range(6):
        gathered(plan)
        batch = sent(plan)
        if batch is None:
            break
        seen.append(batch)
        answer = BAD if 3 in batch else OK
        plan.answered_batch(Position(batch[0]), [answer] * len(batch), 0.0, 0.5)
    assert seen == [[1, 2, 3, 4], [1, 2], [3, 4], [3], [4]]
    assert [(dead.position, dead.attempts) for dead in plan.endings.dead] == [(3, 3)]


def test_one_item_delivered_is_a_sign_of_life():
    """A request of which a part was refused for now says nothing against the consumer."""
    plan = plan_of(breaker=BreakerDefinition(1))
    plan.take(positions(1, 4))
    gathered(plan)
    sent(plan)
    answers = [OK, Answered(500), Answered(401), Answered(400)]
    outcomes = plan.answered_batch(Position(1), answers, 0.0, 0.5)
    assert outcomes == [Outcome.DELIVERED, Outcome.RETRY, Outcome.HOLD, Outcome.DEAD]
    assert plan.breaker.closed
    assert plan.waiting == 2


def test_items_that_hold_go_before_others():
    """If none lives, the one that holds the consumer says why."""
    plan = plan_of()
    plan.take(positions(1, 2))
    gathered(plan)
    sent(plan, 1.0)
    plan.answered_batch(Position(1), [Answered(500), Answered(401)], 1.0, 0.5)
    assert plan.held(1.0)[0] == "answered 401"


def test_letters_go_alone_beside_batches():
    """One in a few requests is a letter's, and all are while there is nothing else."""
    plan = plan_of(concurrency=1_000)
    plan.take_letters([3, 7], 0.0)
    assert plan.next_letter(0.0).position == letter_place(3)
    plan.take(positions(1, 100))
    requests = 0
    while plan.next_letter(0.0) is None:
        gathered(plan)
        assert sent(plan)
        requests += 1
        assert requests < 20
    assert requests > 4
    assert plan.next_letter(0.0) is None
    plan.answered(letter_place(3), OK, 0.0, 0.5)
    assert list(plan.endings.concluded) == [3]


def test_a_letter_beside_batches_ages_from_its_first_attempt_on():
    backoff = Backoff(1.0, 2.0, 60.0, for_s=3_600.0)
    plan = plan_of(backoff=backoff, answers=Answers(retry=("422",)))
    plan.take_letters([3], 0.0)
    assert plan.next_letter(7_200.0).position == letter_place(3)
    plan.answered(letter_place(3), REFUSED, 7_200.0, 0.5)
    assert not plan.endings.dead
    assert plan.next_letter(7_300.0).number == 2
    plan.answered(letter_place(3), REFUSED, 10_800.0, 0.5)
    assert [dead.reason for dead in plan.endings.dead] == ["age"]


def test_what_gathers_is_told_to_the_next_leader():
    """A message that waits for others has its attempts behind it all the same."""
    plan = plan_of()
    plan.take(positions(1, 1))
    gathered(plan)
    sent(plan, 1.0)
    plan.answered_batch(Position(1), [Answered(500)], 1.0, 0.0)
    assert gathered(plan, 2.0) == [1]
    assert [trial.position for trial in plan.remember(2.0).trials] == [1]


class BatchMachine(PlanMachine):
    """The same ledger, beside a plan for batches. ``in_flight`` has each request's positions."""

    @initialize(
        concurrency=st.integers(1, 4),
        settled=st.sets(st.integers(1, 30)),
        rate=st.none() | st.floats(0.1, 50),
        attempts=st.sampled_from([0, 1, 3]),
        keys=st.sampled_from([None, 2, 5]),
        holds=st.booleans(),
        count=st.sampled_from([1, 2, 7]),
    )
    def begin(self, concurrency, settled, rate, attempts, keys, holds, count):
        self.now_s = 0.0
        self.accepted = 30
        self.settled, self.ended = set(settled), set(settled)
        self.letters, self.attempted = set(), set()
        self.keys, self.rate, self.counted = keys, rate, {}
        self.rules = Rules(
            Backoff(1.0, 2.0, 300.0, attempts_max=attempts),
            concurrency,
            breaker=BreakerDefinition(4, 0.9),
            answers=Answers(retry=("422",)),
            order=Order("none" if keys is None else "path"),
            holds_dead=holds,
            batch=Batch("bulk", count, 100, 1_000_000),
        )
        self.lead(None)

    def lead(self, remembered):
        self.log, self.in_flight = [], {}
        rate = None if self.rate is None else Rate(self.rate, 2, self.now_s)
        self.plan = BatchPlan(self.rules, Position(self.watermark()), rate, self.now_s, remembered)
        if self.keys is not None and self.rules.holds_dead:
            for position in sorted(self.letters):
                self.plan.hold_key(position, self.key(position))

    @rule()
    def start(self):
        due_s = self.plan.next_due_s()
        assert self.turn() == (due_s is not None and due_s <= self.now_s)

    def turn(self):
        """Do what a lane does in its turn; return whether that was anything."""
        plan, now_s = self.plan, self.now_s
        if not plan.breaker.closed:
            attempt = plan.next_attempt(now_s)
            self.begun([] if attempt is None else [attempt.position])
            return attempt is not None
        trial = next(plan.choose(now_s), None)
        if trial is not None:
            plan.gather(trial, trial.position * 7 % 60, now_s)
            return True
        batch = plan.next_batch(now_s, lambda those: sorted(self.settled.intersection(those)))
        self.begun([attempt.position for attempt in batch or ()])
        return batch is not None

    def begun(self, several):
        assert len(several) <= self.rules.batch.count
        assert len(several) <= 1 or sum(p * 7 % 60 for p in several) <= 100
        named = [key for key in map(self.key, several) if key is not None]
        assert len(named) == len(set(named)), "one of a key in a request"
        for position in several:
            assert all(position not in each for each in self.in_flight.values())
            assert position not in self.settled, "never attempted once settled"
            assert position not in self.ended or position in self.lost
            key = self.key(position)
            if key is not None and position not in self.attempted:
                for other in range(1, position):
                    if self.key(other) == key:
                        assert other in self.ended, f"{position} is begun before {other} ended"
            self.attempted.add(position)
        if several:
            self.in_flight[several[0]] = several

    @rule(
        said=st.lists(
            st.sampled_from([OK, OK, DOWN, REFUSED, BAD, Answered(401), Answered(429)]),
            min_size=7, max_size=7,
        ),
        whole=st.sampled_from([None, None, OK, DOWN, BAD, Answered(500), FENCED]),
        chance=st.floats(0, 1, exclude_max=True),
        data=st.data(),
    )  # fmt: skip
    def answer(self, said, whole, chance, data):
        if self.in_flight:
            first = data.draw(st.sampled_from(sorted(self.in_flight)))
            several = self.in_flight.pop(first)
            answers = said[: len(several)] if whole is None else [whole] * len(several)
            died = len(self.plan.endings.dead)
            outcomes = self.plan.answered_batch(first, answers, self.now_s, chance)
            for position, outcome in zip(several, outcomes, strict=True):
                if outcome is Outcome.DELIVERED:
                    self.ended.add(position)
            dead = {dead.position for dead in self.plan.endings.dead[died:]}
            assert dead <= set(several)
            if len(several) > 1 and whole is not None:
                assert not dead, "none dies of an answer that is not its own"
            self.ended |= dead

    @invariant()
    def is_bounded_and_complete(self):
        plan = self.plan
        assert plan.in_flight == len(self.in_flight) <= self.rules.concurrency
        assert plan.endings.proposed == len(self.log)
        assert plan.gathered <= self.rules.batch.count + 1
        places = [
            [trial.position for trial in plan.backlog.waiting],
            list(plan.backlog.fresh),
            [trial.position for trial in plan._kept_apart()],
            *self.in_flight.values(),
            [p for batch, _ in self.log for a, b in batch for p in range(a, b + 1)],
            list(plan.endings.delivered),
            [dead.position for dead in plan.endings.dead],
        ]
        if plan.backlog.lines is not None:
            places.append([p for line in plan.backlog.lines._lines.values() for p in line or ()])
        held = [position for place in places for position in place]
        assert len(held) == len(set(held)), "nothing is in two places"
        known = set(held) | self.settled
        assert set(range(self.watermark() + 1, plan.cursor + 1)) <= known, "nothing is lost"

    def teardown(self):
        """Whatever came before: of a consumer that answers, everything ends."""
        if not hasattr(self, "plan"):
            return
        for _ in range(4_000):
            for first, several in list(self.in_flight.items()):
                del self.in_flight[first]
                self.plan.answered_batch(first, [OK] * len(several), self.now_s, 0.5)
                self.ended.update(several)
            self.propose()
            while self.log:
                self.apply()
            self.apply()
            self.letters.clear()
            for position in self.plan.holding:
                self.plan.release_key(position)
            self.take(20)
            if self.turn():
                continue
            due_s = self.plan.next_due_s()
            if due_s is None and self.watermark() == self.accepted:
                break
            self.now_s = max(self.now_s, due_s or 0.0)
        assert self.watermark() == self.accepted, "every message ends"


TestBatchPlan = BatchMachine.TestCase
TestBatchPlan.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
