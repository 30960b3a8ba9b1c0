"""What is attempted next, checked against a small model of a ledger."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.task import Clock

from crowd.definition import Answers
from crowd.definition import Breaker as BreakerDefinition
from crowd.delivery.backlog import (
    FRESH_MAX,
    LETTER_EVERY,
    LINES_MAX,
    READ_MAX,
    RECALL_S,
    REMEMBERED_MAX,
    WINDOW,
)
from crowd.delivery.backoff import Backoff
from crowd.delivery.endings import DEAD_MAX, ranges_of
from crowd.delivery.order import Order
from crowd.delivery.outcome import Answered, Failed, FailureKind, Outcome
from crowd.delivery.pace import Rate
from crowd.delivery.plan import Plan
from crowd.delivery.rules import Rules
from crowd.delivery.trial import letter_place
from crowd.message import Position

BACKOFF = Backoff(1.0, 2.0, 300.0)
OK = Answered(200)
DOWN = Failed(FailureKind.CONNECT, "refused")
REFUSED = Answered(422)
"""Retried at the consumers of these tests, and a sign of life."""
BAD = Answered(400)
FENCED = Failed(FailureKind.FENCED, "")


def plan_of(concurrency, watermark=0, rate=None, *, backoff=BACKOFF, **rules):
    rules = {"answers": Answers(retry=("422",))} | rules
    return Plan(Rules(backoff, concurrency, **rules), Position(watermark), rate)


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
    plan = plan_of(3, 10)
    plan.take(positions(11, 20))
    assert started(plan) == [11, 12, 13]
    plan.answered(Position(12), OK, 0.0, 0.5)
    assert started(plan) == [14]


def test_a_failed_message_comes_back_with_the_next_number():
    """Attempts count from 1, and a retry waits as long as its backoff says."""
    plan = plan_of(1, 0)
    plan.take(positions(1, 1))
    assert plan.next_attempt(0.0).number == 1
    plan.answered(Position(1), REFUSED, 0.0, 0.5)
    assert plan.next_attempt(0.4) is None
    assert plan.next_due_s() == 0.5
    again = plan.next_attempt(0.5)
    assert (again.position, again.number) == (1, 2)


def test_a_retry_that_is_due_goes_before_fresh_messages():
    """A message that failed is not starved by those that come after it."""
    plan = plan_of(1, 0)
    plan.take(positions(1, 5))
    started(plan)
    plan.answered(Position(1), REFUSED, 0.0, 0.0)
    assert started(plan) == [1]


def test_a_fenced_attempt_was_none():
    """What was not sent keeps its number, and says nothing about the consumer."""
    plan = plan_of(1, 0)
    plan.take(positions(1, 1))
    for _ in range(50):
        assert plan.next_attempt(0.0).number == 1
        plan.answered(Position(1), Failed(FailureKind.FENCED, ""), 0.0, 0.9)
    assert plan.breaker.closed


def test_an_unknown_outcome_is_attempted_again():
    """A timeout may have been a delivery; the message is delivered at least once."""
    plan = plan_of(1, 0)
    plan.take(positions(1, 1))
    started(plan)
    outcome = plan.answered(Position(1), Failed(FailureKind.TIMEOUT, ""), 0.0, 0.0)
    assert outcome is Outcome.UNKNOWN
    assert plan.next_attempt(0.0).number == 2


def test_attempts_and_retries_keep_the_rate():
    """Waiting to be told "now" costs no slot, and a retry counts like a first attempt."""
    clock, taken_s = Clock(), []
    plan = plan_of(100, 0, Rate(10.0, 2, 0.0))
    plan.take(positions(1, 40))
    while len(plan.endings.delivered) < 40:
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


def test_probes_of_a_consumer_that_is_down_keep_the_rate():
    """A rate below the breaker's probes holds while the consumer is down, too."""
    breaker = BreakerDefinition(10, 2.0, 1_000_000, 1_000_000)
    plan = plan_of(4, 0, Rate(0.2, 1, 0.0), breaker=breaker)
    plan.take(positions(1, 20))
    taken_s = []
    for second in range(300):
        for position in started(plan, float(second)):
            taken_s.append(second)
            plan.answered(position, DOWN, float(second), 0.0)
    assert not plan.breaker.closed
    assert taken_s == list(range(0, 300, 5))


# --- An outage ------------------------------------------------------------------------------------


def downed(concurrency=4, **rules):
    """Return a plan whose breaker has just opened, and when that was."""
    plan = plan_of(concurrency, **rules)
    plan.take(positions(1, 200))
    now_s = 0.0
    while plan.breaker.closed:
        for position in started(plan, now_s):
            plan.answered(position, DOWN, now_s, 0.99)
        now_s += 0.001
    return plan, now_s


def test_a_consumer_that_is_down_is_probed_and_not_flooded():
    """An outage of a minute costs five attempts and a handful of waiting messages."""
    plan, now_s = downed()
    assert plan.waiting <= 12
    assert plan.next_attempt(now_s) is None
    attempts = 0
    for _ in range(600):  # a minute in tenths of a second
        now_s += 0.1
        for position in started(plan, now_s):
            attempts += 1
            assert plan.in_flight == 1
            plan.answered(position, DOWN, now_s, 0.99)
    assert attempts == 5
    assert plan.waiting <= 12 + 5


def test_one_success_calls_the_waiting_back_bit_by_bit():
    """A consumer that is back gets what waited soon, and is not flattened by it."""
    plan, now_s = downed(concurrency=8, adaptive=True)
    now_s += 1.0
    (probe,) = started(plan, now_s)
    plan.answered(probe, OK, now_s, 0.5)
    assert plan.breaker.closed
    waves = []
    while plan.waiting and now_s < 100:
        now_s += 0.2
        wave = started(plan, now_s)
        waves.append(len(wave))
        for position in wave:
            plan.answered(position, OK, now_s, 0.5)
    assert waves[:3] == [2, 4, 5], "the probe was the one"
    assert now_s <= 2.0 + RECALL_S + 0.5


def test_refusals_are_no_outage():
    """Messages that a consumer refuses do not stop the ones after them."""
    plan = plan_of(4)
    plan.take(positions(1, 250))
    for _ in range(50):
        for position in started(plan):
            plan.answered(position, REFUSED, 0.0, 0.99)
    assert plan.breaker.closed


def test_one_message_that_is_not_found_holds_others_up_for_a_while_only():
    """A 404 may be a wrong address or a wrong message; another message's success tells which."""
    plan = plan_of(1)
    plan.take(positions(1, 3))
    assert started(plan) == [1]
    assert plan.answered(Position(1), Answered(404), 0.0, 0.5) is Outcome.HOLD
    assert plan.held(0.1) == ("answered 404", 1.0)
    assert started(plan, 0.9) == []
    assert started(plan, 1.0) == [2]
    plan.answered(Position(2), OK, 1.0, 0.5)
    assert plan.breaker.closed
    assert sorted(started(plan, 1.0) + started(plan, 1.0)) in ([1], [3])


def test_a_held_consumer_loses_nothing_however_long():
    """A wrong password of a week throws no message away, whatever `attempts` and `for` say."""
    backoff = Backoff(1.0, 2.0, 60.0, attempts_max=2, for_s=3_600.0)
    plan = plan_of(4, backoff=backoff)
    plan.take(positions(1, 10))
    now_s = 0.0
    while now_s < 7 * 86_400:
        for position in started(plan, now_s):
            plan.answered(position, Answered(401), now_s, 0.5)
        now_s = max(now_s, plan.next_due_s())
    assert not plan.endings.dead
    plan.take(positions(11, 12))
    for position in started(plan, now_s):
        plan.answered(position, OK, now_s, 0.5)
    assert plan.breaker.closed


def test_a_consumers_wish_holds_it_as_a_whole():
    """Retry-After stops attempts of every message, and is capped by `asked_most`."""
    plan = plan_of(4, backoff=Backoff(1.0, 2.0, 300.0, asked_most_s=60.0))
    plan.take(positions(1, 10))
    first, second = started(plan)[:2]
    plan.answered(first, Answered(503, 30.0), 0.0, 0.0)
    assert plan.next_due_s() == 30.0
    assert started(plan, 29.9) == []
    assert plan.held(1.0) == ("answered 503, and asked for 30 s", 30.0)
    plan.answered(second, Answered(429, 1e6), 10.0, 0.0)
    assert plan.next_due_s() == 70.0


def test_a_probe_waits_for_what_the_consumer_asked_for():
    """Retry-After holds the probes too."""
    plan, now_s = downed()
    (probe,) = started(plan, now_s + 1.0)
    plan.answered(probe, Answered(503, 30.0), now_s, 0.5)
    assert plan.next_due_s() == now_s + 30.0


# --- The end of a message -------------------------------------------------------------------------


def test_a_message_dies_by_attempts():
    """`attempts = 3` is three attempts, and what the last one came to is told."""
    plan = plan_of(1, backoff=Backoff(1.0, 2.0, 300.0, attempts_max=3))
    plan.take(positions(1, 1))
    for now_s in (0.0, 10.0, 20.0):
        assert started(plan, now_s) == [1]
        plan.answered(Position(1), Answered(500, None, b"no\r\n"), now_s, 0.5)
    (dead,) = plan.endings.dead
    assert (dead.reason, dead.status, dead.words, dead.attempts) == ("attempts", 500, "no", 3)
    assert (dead.first_s, dead.last_s) == (0.0, 20.0)
    assert plan.next_due_s() is None


def test_a_message_that_is_refused_for_good_dies_at_once():
    plan = plan_of(1)
    plan.take(positions(1, 2))
    started(plan)
    assert plan.answered(Position(1), BAD, 0.0, 0.5) is Outcome.DEAD
    assert [(dead.position, dead.reason) for dead in plan.endings.dead] == [(1, "answer")]
    assert started(plan) == [2]


def test_a_message_ages_only_while_its_consumer_answers():
    """With `for = "1 h"` an outage, a pause and a hold of days kill nothing."""
    plan = plan_of(2, backoff=Backoff(1.0, 2.0, 60.0, for_s=3_600.0))
    plan.take(positions(1, 2))
    first, second = started(plan)
    plan.answered(first, REFUSED, 0.0, 0.5)
    plan.answered(second, Answered(429, 3_000.0), 0.0, 0.5)  # held until 3 000 s
    plan.set_paused(4_000.0, paused=True)  # 1 000 s old
    plan.set_paused(90_000.0, paused=False)
    now_s = 90_000.0
    while not plan.endings.dead:
        for position in started(plan, now_s):
            plan.answered(position, REFUSED, now_s, 0.5)
        if not plan.endings.dead:
            now_s = plan.next_due_s()
    assert {dead.reason for dead in plan.endings.dead} == {"age"}
    assert 90_000 + 2_600 <= now_s <= 90_000 + 2_600 + 60
    assert plan.aged_s(now_s) == pytest.approx(1_000 + now_s - 90_000)


def test_attempts_of_an_outage_do_not_count():
    """Probes are numbered and told of, and bring no message nearer to its end."""
    plan = plan_of(1, backoff=Backoff(0.0, 2.0, 0.0, attempts_max=2), breaker=BreakerDefinition(1))
    plan.take(positions(1, 1))
    now_s, numbers = 0.0, []
    for _ in range(20):
        attempt = plan.next_attempt(now_s)
        numbers.append(attempt.number)
        plan.answered(attempt.position, DOWN, now_s, 0.5)
        now_s = plan.next_due_s()
    assert numbers == list(range(1, 21))
    assert not plan.endings.dead


def test_the_dead_do_not_gather_without_bound():
    """I7: while none of them finds its way into the log, no more can die."""
    plan = plan_of(1_000)
    for _ in range(40):
        if plan.wants():
            plan.take(positions(plan.cursor + 1, plan.cursor + plan.wants()))
        for position in started(plan):
            plan.answered(position, BAD, 0.0, 0.5)
    assert DEAD_MAX <= len(plan.endings.dead) <= DEAD_MAX + 1_000
    plan.endings.bury_proposed(len(plan.endings.dead), 0.0)
    plan.take(positions(plan.cursor + 1, plan.cursor + plan.wants()))
    assert started(plan) != []


def test_a_full_house_holds_the_consumer():
    """At the bound of dead letters nothing is attempted, and nothing ages."""
    plan = plan_of(1)
    plan.take(positions(1, 5))
    plan.set_full(10.0, full=True)
    assert (plan.next_attempt(10.0), plan.next_due_s()) == (None, None)
    assert plan.aged_s(99.0) == 10.0
    assert plan.held(99.0)[0] == "its dead letters are at their bound"
    plan.set_full(100.0, full=False)
    assert started(plan, 100.0) == [1]


# --- Shares ---------------------------------------------------------------------------------------


def test_new_messages_and_retries_take_turns():
    """Neither a stream of new messages nor a heap of old ones keeps the other out."""
    plan = plan_of(1)
    plan.take(positions(1, 100))
    for _ in range(50):
        (position,) = started(plan)
        plan.answered(position, REFUSED, 0.0, 0.0)  # due again at once
    kinds = []
    for _ in range(10):
        attempt = plan.next_attempt(0.0)
        kinds.append(attempt.number == 1)
        plan.answered(attempt.position, OK, 0.0, 0.0)
    assert kinds in ([True, False] * 5, [False, True] * 5)


def test_letters_have_their_turn_behind_the_others():
    """What was parked or replayed is brought too, an attempt in nine while there is other work."""
    plan = plan_of(1)
    plan.take(positions(1, 200))
    plan.take_letters(range(1, 6), 0.0)
    kinds = []
    for _ in range(60):
        attempt = plan.next_attempt(0.0)
        kinds.append(attempt.letter)
        plan.answered(attempt.position, OK, 0.0, 0.0)
    assert [letter for letter in kinds if letter] == [1, 2, 3, 4, 5]
    gaps = [kinds.index(n + 1) - kinds.index(n) for n in range(1, 5)]
    assert gaps == [LETTER_EVERY + 1] * 4
    assert list(plan.endings.concluded) == [1, 2, 3, 4, 5]


def test_letters_that_fail_come_back_and_those_gone_do_not():
    plan = plan_of(4)
    plan.take_letters([3, 7], 0.0)
    assert started(plan) == [letter_place(3), letter_place(7)]
    plan.answered(letter_place(3), DOWN, 0.0, 0.5)
    plan.answered(letter_place(7), DOWN, 0.0, 0.5)
    plan.take_letters([7], 0.0)
    assert started(plan, 1.0) == [letter_place(7)]
    plan.take_letters([], 1.0)
    plan.answered(letter_place(7), OK, 1.0, 0.5)
    assert list(plan.endings.concluded) == []


def test_in_an_outage_a_letter_goes_as_soon_as_its_bytes_are_here():
    """Otherwise each letter would cost the time in which bytes may come, and be gone by its turn."""
    plan = plan_of(1, breaker=BreakerDefinition(failures=1, ratio=2.0))
    plan.take_letters([3, 7, 9], 0.0)
    assert started(plan) == [letter_place(3)]
    plan.answered(letter_place(3), DOWN, 0.0, 0.5)
    now_s = plan.breaker.until_s
    assert plan.next_attempt(now_s).letter == 7
    plan.postpone(letter_place(7), now_s + 1.5)  # its bytes have to be read
    assert plan.next_attempt(now_s) is None
    plan.hasten({letter_place(7)}, now_s)
    assert plan.next_due_s() <= now_s
    assert plan.next_attempt(now_s).letter == 7


def test_a_letter_ages_from_its_first_attempt_on():
    """What waits for its turn, or for its bytes, is not nearer to its end for that."""
    for full in (False, True):
        plan = plan_of(4, backoff=Backoff(1.0, 2.0, 60.0, for_s=3_600.0))
        plan.take_letters([3], 0.0)
        plan.set_full(7_200.0, full=full)
        assert started(plan, 7_200.0) == [letter_place(3)]
        plan.set_full(7_200.0, full=False)
        plan.answered(letter_place(3), REFUSED, 7_200.0, 0.5)
        assert started(plan, 9_000.0) == [letter_place(3)]
        plan.answered(letter_place(3), REFUSED, 10_800.0, 0.5)
        (dead,) = plan.endings.dead
        assert (dead.reason, dead.attempts, dead.first_s) == ("age", 2, 7_200.0)


def test_a_letter_can_die_again():
    """What was replayed and is refused again goes back where it came from."""
    plan = plan_of(4)
    plan.take_letters([3], 0.0)
    started(plan)
    plan.answered(letter_place(3), BAD, 0.0, 0.5)
    assert [(dead.position, dead.reason) for dead in plan.endings.dead] == [
        (letter_place(3), "answer")
    ]
    plan.endings.bury_proposed(1, 0.0)
    plan.take_letters([3], 0.1)
    assert (plan.endings.proposed, started(plan, 9.0)) == (0, [])
    plan.take_letters([], 0.2)
    plan.take_letters([4], 0.3)
    assert started(plan, 9.0) == [letter_place(4)]


def test_a_burial_without_effect_is_tried_again():
    """The ledger may have no room for more letters: the messages stay the consumer's."""
    plan = plan_of(4)
    plan.take(positions(1, 3))
    started(plan)
    plan.answered(Position(1), BAD, 0.0, 0.5)
    plan.answered(Position(2), OK, 0.0, 0.5)
    plan.endings.bury_proposed(1, 0.0)
    plan.endings.settle_proposed()
    plan.applied(Position(0), lambda position: position == 2)
    assert [dead.position for dead in plan.endings.dead] == [1]
    plan.applied(Position(0), lambda position: position == 2)
    assert plan.endings.proposed == 0


def test_the_next_leader_makes_one_more_attempt_with_what_found_no_room():
    """That it is dead is in no entry of the log; how often it was attempted is."""
    backoff = Backoff(0.0, 2.0, 60.0, attempts_max=3)
    plan = plan_of(1, backoff=backoff)
    plan.take(positions(1, 1))
    for _ in range(3):
        assert plan.next_attempt(0.0) is not None
        plan.answered(Position(1), REFUSED, 0.0, 0.5)
    assert [dead.attempts for dead in plan.endings.dead] == [3]
    heir = Plan(plan.rules, Position(0), None, 5.0, plan.remember(5.0))
    heir.take(positions(1, 1))
    assert heir.next_attempt(5.0).number == 4
    heir.answered(Position(1), REFUSED, 5.0, 0.5)
    (dead,) = heir.endings.dead
    assert (dead.reason, dead.attempts, dead.first_s) == ("attempts", 4, 0.0)


# --- Order ----------------------------------------------------------------------------------------


def ordered(concurrency=4, by="path", **rules):
    return plan_of(concurrency, order=Order(by), **rules)


def test_one_at_a_time_in_the_order_of_acceptance():
    """`order = "all"`: a message is attempted when the one before it is delivered, not earlier."""
    plan = ordered(by="all")
    plan.take(positions(1, 4))
    assert started(plan) == [1]
    plan.answered(Position(1), REFUSED, 0.0, 0.5)
    assert started(plan, 0.4) == []
    assert started(plan, 0.5) == [1]
    plan.answered(Position(1), OK, 0.5, 0.5)
    assert started(plan, 0.5) == [2]


def test_a_keys_trouble_holds_that_key_only():
    plan = ordered()
    plan.take(positions(1, 6), [b"a", b"b", b"a", b"b", None, None])
    assert started(plan) == [1, 2, 5, 6]
    plan.answered(Position(1), REFUSED, 0.0, 0.99)
    plan.answered(Position(2), OK, 0.0, 0.5)
    assert started(plan) == [4]
    assert plan.in_line == 1


def test_a_dead_message_releases_its_key_once_it_is_a_letter():
    """Before the log has it a new leader would attempt it again: what follows waits until then."""
    plan = ordered()
    plan.take(positions(1, 2), [b"a", b"a"])
    started(plan)
    plan.answered(Position(1), BAD, 0.0, 0.5)
    plan.endings.bury_proposed(1, 0.0)
    assert started(plan) == []
    plan.applied(Position(1), lambda position: position == 1)
    assert started(plan) == [2]


def test_a_dead_message_holds_its_key_where_that_is_wanted():
    """`on_dead = "hold"`: what follows waits until the letter is gone."""
    plan = ordered(holds_dead=True)
    plan.take(positions(1, 3), [b"a", b"a", b"b"])
    assert started(plan) == [1, 3]
    plan.answered(Position(1), BAD, 0.0, 0.5)
    plan.endings.bury_proposed(1, 0.0)
    plan.applied(Position(1), lambda position: position == 1)
    assert started(plan) == []
    assert list(plan.holding) == [1]
    plan.release_key(Position(1))
    assert started(plan) == [2]


def test_a_key_is_held_from_before():
    """A new leader knows which keys dead letters hold."""
    plan = plan_of(4, 10, order=Order("path"), holds_dead=True)
    plan.hold_key(Position(4), b"a")
    plan.take(positions(11, 12), [b"a", b"b"])
    assert started(plan) == [12]
    plan.release_key(Position(4))
    assert started(plan) == [11]


def test_a_key_is_held_until_the_last_of_its_letters_is_gone():
    """Several letters may hold one key: those of a time in which the dead let it go."""
    plan = plan_of(4, order=Order("path"), holds_dead=True)
    for position in positions(1, 3):
        plan.hold_key(position, b"one")
    plan.take(positions(4, 5), [b"one", b"other"])
    assert started(plan) == [5]
    plan.release_key(Position(1))
    plan.release_key(Position(3))
    assert started(plan) == []
    plan.release_key(Position(2))
    assert started(plan) == [3], "which is settled, and dropped when it is to be attempted"
    plan.drop(Position(3))
    assert started(plan) == [4]


def test_i7_a_blocked_key_is_looked_behind_within_bounds():
    """One key's trouble lets a bounded number of later messages be taken, and not a backlog."""
    plan = ordered()
    while plan.wants():
        count = plan.wants()
        assert count <= READ_MAX
        plan.take(positions(plan.cursor + 1, plan.cursor + count), [b"a"] * count)
        for position in started(plan):
            plan.answered(position, REFUSED, 0.0, 0.99)
    assert LINES_MAX - READ_MAX < plan.cursor <= LINES_MAX


# --- Bounds ---------------------------------------------------------------------------------------


def test_the_cursor_stays_within_the_window():
    """I7: what a plan holds is bounded, whatever the backlog."""
    plan = plan_of(1, 5)
    taken = 0
    while plan.wants():
        count = plan.wants()
        assert count <= FRESH_MAX
        plan.take(positions(plan.cursor + 1, plan.cursor + count))
        taken += count
        plan.backlog.fresh.clear()
    assert taken == WINDOW
    plan.take([Position(plan.cursor + 1)])
    assert plan.cursor == 5 + WINDOW


def test_i7_a_full_window_is_small():
    """A hundred thousand messages that a consumer refuses cost the leader less than 25 MB."""
    tracemalloc.start()
    plan = plan_of(100, 0)
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


def test_one_straggler_pins_nothing():
    """A message that fails for as long as a window of others is done makes room for more."""
    plan = plan_of(300)
    while plan.wants():
        plan.take(positions(plan.cursor + 1, plan.cursor + plan.wants()))
        for position in started(plan):
            answer = REFUSED if position % 40_000 == 1 else OK
            plan.answered(position, answer, 0.0, 0.99)
    plan.park(1.0, 16)
    assert [(dead.position, dead.reason) for dead in plan.endings.dead] == [(1, "window")]
    assert plan.waiting == 2
    plan.endings.bury_proposed(1, 0.0)
    plan.applied(Position(40_000), lambda position: position == 1)
    plan.park(1.0, 16)
    assert not plan.endings.dead
    assert plan.wants()


def test_a_straggler_is_parked_where_the_next_message_lies_past_the_window():
    """The window is full when its end is reached, though no message stands right at that end."""
    plan = plan_of(4)
    plan.take([*positions(1, 2), Position(WINDOW + 1)])
    for position in started(plan):
        plan.answered(position, REFUSED if position == 1 else OK, 0.0, 0.99)
    assert plan.cursor == 2
    assert not plan.wants(), "it would be told of the same message again and again"
    plan.park(0.5, 16)
    assert [dead.position for dead in plan.endings.dead] == [1]
    plan.endings.bury_proposed(1, 0.5)
    plan.applied(Position(2), lambda position: position <= 2)
    assert plan.wants()


def test_an_outage_parks_nothing():
    """What waits for a consumer that is down holds up nobody, and stays where it is."""
    plan = plan_of(4, breaker=BreakerDefinition(4))
    plan.take(positions(1, 8))
    for position in started(plan):
        plan.answered(position, DOWN, 0.0, 0.99)
    plan.backlog.cursor = Position(WINDOW)
    plan.backlog.fresh.clear()
    assert plan.backlog.is_crowded
    plan.park(1.0, 16)
    assert not plan.endings.dead


# --- A new leader ---------------------------------------------------------------------------------


def test_a_new_leader_goes_on_where_the_one_before_it_was():
    """Attempts, due times, ages and the breaker are as they were; nothing begins anew."""
    backoff = Backoff(100.0, 2.0, 300.0, attempts_max=3)
    plan = plan_of(4, backoff=backoff)
    plan.take(positions(1, 4))
    started(plan)
    plan.answered(Position(1), REFUSED, 5.0, 0.5)  # due at 55 s
    plan.answered(Position(2), OK, 5.0, 0.5)
    told = plan.remember(6.0)
    assert [trial.position for trial in told.trials] == [1]
    assert told.aged_s == 6.0
    heir = Plan(plan.rules, Position(0), None, 6.0, told)
    heir.take(positions(1, 1) + positions(3, 5))
    assert started(heir, 6.0) == [3, 4, 5]
    assert heir.next_attempt(54.9) is None
    attempt = heir.next_attempt(55.0)
    assert (attempt.position, attempt.number) == (1, 2)
    heir.answered(Position(1), REFUSED, 55.0, 0.5)
    heir.next_attempt(1_000.0)
    heir.answered(Position(1), REFUSED, 1_000.0, 0.5)
    assert [(dead.position, dead.attempts) for dead in heir.endings.dead] == [(1, 3)]


def test_a_new_leader_knows_that_a_consumer_is_down():
    plan, now_s = downed()
    told = plan.remember(now_s)
    heir = Plan(plan.rules, Position(0), None, now_s, told)
    heir.take(positions(1, 20))
    assert heir.next_due_s() == plan.next_due_s()
    assert started(heir, now_s) == []
    assert heir.aged_s(now_s + 50) == told.aged_s


def test_a_new_leader_keeps_to_what_the_consumer_asked_for():
    plan = plan_of(4)
    plan.take(positions(1, 2))
    started(plan)
    plan.answered(Position(1), Answered(429, 60.0), 0.0, 0.5)
    heir = Plan(plan.rules, Position(0), None, 1.0, plan.remember(1.0))
    heir.take(positions(1, 2))
    assert heir.next_due_s() == 60.0


def test_what_a_leader_says_is_bounded_and_new_with_each_failure():
    """I7: an entry of what waits is small, however much waits; without failures there is none."""
    plan = plan_of(1_000)
    for _ in range(20):
        plan.take(positions(plan.cursor + 1, plan.cursor + 250))
        for position in started(plan):
            plan.answered(position, OK, 0.0, 0.5)
    assert plan.revision == 0
    for _ in range(20):
        plan.take(positions(plan.cursor + 1, plan.cursor + 250))
        for position in started(plan):
            plan.answered(position, REFUSED, 0.0, 0.99)
    assert plan.revision == 5_000
    told = plan.remember(0.0)
    assert [trial.position for trial in told.trials] == positions(5_001, 5_000 + REMEMBERED_MAX)


class PlanMachine(RuleBasedStateMachine):
    """A plan beside a ledger that is sets: accepted, settled, and what the next leader knows."""

    @initialize(
        concurrency=st.integers(1, 12),
        settled=st.sets(st.integers(1, 30)),
        rate=st.none() | st.floats(0.1, 50),
        adaptive=st.booleans(),
        attempts=st.sampled_from([0, 1, 3]),
        keys=st.sampled_from([None, 1, 2, 5]),
        holds=st.booleans(),
    )
    def begin(self, concurrency, settled, rate, adaptive, attempts, keys, holds):
        self.now_s = 0.0
        self.accepted = 30
        self.settled = set(settled)
        self.letters = set()
        self.keys = keys
        self.rate = rate
        self.ended = set(settled)  # delivered or dead, at any leader
        self.attempted = set()
        self.counted = {}
        self.rules = Rules(
            Backoff(1.0, 2.0, 300.0, attempts_max=attempts),
            concurrency,
            adaptive,
            BreakerDefinition(4, 0.9),
            Answers(retry=("422",)),
            Order("none" if keys is None else "path"),
            holds,
        )
        self.lead(None)

    def lead(self, remembered):
        self.log = []
        self.in_flight = {}
        rate = None if self.rate is None else Rate(self.rate, 2, self.now_s)
        self.plan = Plan(self.rules, Position(self.watermark()), rate, self.now_s, remembered)
        if self.keys is not None and self.rules.holds_dead:
            for position in sorted(self.letters):
                self.plan.hold_key(position, self.key(position))

    def key(self, position):
        return None if self.keys is None or position % 7 == 0 else b"%d" % (position % self.keys)

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
        ][:wanted]
        keys = () if self.keys is None else [self.key(position) for position in pending]
        self.plan.take(pending, keys)

    @rule(seconds=st.floats(0, 20))
    def pass_time(self, seconds):
        self.now_s += seconds

    @rule()
    def start(self):
        due_s = self.plan.next_due_s()
        attempt = self.plan.next_attempt(self.now_s)
        assert (attempt is not None) == (due_s is not None and due_s <= self.now_s)
        if attempt is not None:
            position = attempt.position
            assert position not in self.in_flight, "one attempt at a time"
            assert position not in self.settled, "never attempted once settled"
            if position in self.ended:
                # Only if its outcome was lost with a leader: then it is as if it had none.
                assert position in self.lost, "never attempted once delivered or dead"
            self.in_flight[position] = self.plan.breaker.closed
            key = self.key(position)
            if key is not None and position not in self.attempted:
                for other in range(1, position):
                    if self.key(other) == key:
                        assert other in self.ended, f"{position} is begun before {other} ended"
                        assert not self.rules.holds_dead or other not in self.letters
            self.attempted.add(position)

    lost = frozenset()

    @rule(
        answer=st.sampled_from([OK, OK, OK, DOWN, REFUSED, REFUSED, BAD, Answered(401), FENCED]),
        chance=st.floats(0, 1, exclude_max=True),
        data=st.data(),
    )
    def answer(self, answer, chance, data):
        if self.in_flight:
            position = data.draw(st.sampled_from(sorted(self.in_flight)))
            in_time = self.in_flight.pop(position) and self.plan.breaker.closed
            dead = len(self.plan.endings.dead)
            outcome = self.plan.answered(position, answer, self.now_s, chance)
            # What nobody answered may count or not: it takes a sign of life in between.
            if in_time and outcome is Outcome.RETRY and answer not in (FENCED, DOWN):
                self.counted[position] = self.counted.get(position, 0) + 1
            if position <= self.plan.backlog.passed:
                assert len(self.plan.endings.dead) == dead
            elif outcome is Outcome.DELIVERED or len(self.plan.endings.dead) > dead:
                self.ended.add(position)
            elif self.rules.backoff.attempts_max:
                assert self.counted.get(position, 0) < self.rules.backoff.attempts_max

    @rule()
    def propose(self):
        if self.plan.endings.delivered:
            self.log.append((self.plan.endings.to_settle(), False))
            self.plan.endings.settle_proposed()
        if self.plan.endings.dead:
            self.log.append((tuple((d.position, d.position) for d in self.plan.endings.dead), True))
            self.plan.endings.bury_proposed(len(self.plan.endings.dead), 0.0)

    @rule()
    def apply(self):
        if self.log:
            ranges, dead = self.log.pop(0)
            for first, last in ranges:
                settled = set(range(first, last + 1))
                if dead:
                    self.letters |= settled - self.settled
                self.settled |= settled
        self.plan.applied(Position(self.watermark()), lambda p: p in self.settled)

    @rule(data=st.data())
    def skip(self, data):
        """An operator's order, which the plan hears of as soon as it is applied."""
        mark = self.watermark()
        through = data.draw(st.integers(mark, min(self.accepted, mark + 15)))
        self.settled.update(range(1, through + 1))
        self.ended.update(range(1, through + 1))
        self.plan.applied(Position(self.watermark()), lambda p: p in self.settled)
        self.plan.pass_over(Position(through), self.now_s)

    @rule(data=st.data())
    def purge(self, data):
        if self.letters:
            self.letters.remove(data.draw(st.sampled_from(sorted(self.letters))))
        for position in self.plan.holding:
            if position not in self.letters:
                self.plan.release_key(position)

    @rule(told=st.booleans())
    def change_leader(self, told):
        """What was in no entry is lost, and what was in flight is unknown."""
        self.lost = set(self.ended - self.settled)
        self.lead(self.plan.remember(self.now_s) if told else None)
        if not told:
            self.counted.clear()

    @invariant()
    def is_bounded_and_complete(self):
        plan = self.plan
        assert plan.in_flight == len(self.in_flight) <= self.rules.concurrency
        assert plan.endings.proposed <= len(self.log)  # a skip may have settled what is in one
        assert all(position > plan.backlog.passed for position in plan.endings.delivered)
        waiting = {trial.position for trial in plan.backlog.waiting}
        in_line = set()
        if plan.backlog.lines is not None:
            in_line = {p for line in plan.backlog.lines._lines.values() for p in line or ()}
            assert len(in_line) == plan.in_line
        held = waiting | set(plan.backlog.fresh) | set(self.in_flight) | in_line
        assert len(held) == (
            plan.waiting + len(plan.backlog.fresh) + plan.in_flight + plan.in_line
        ), "nothing is in two places"
        done = {p for batch, _ in self.log for a, b in batch for p in range(a, b + 1)}
        done |= set(plan.endings.delivered) | {dead.position for dead in plan.endings.dead}
        known = held | done | self.settled
        assert set(range(self.watermark() + 1, plan.cursor + 1)) <= known, "nothing is lost"
        # What was skipped is let go of at once, but for attempts under way.
        skipped = {p for p in self.in_flight if p <= plan.backlog.passed}
        assert not (held - skipped) & (done | self.settled), "nothing is in two places"

    def teardown(self):
        """Whatever came before: of a consumer that answers, everything ends."""
        if not hasattr(self, "plan"):
            return
        for position in list(self.in_flight):
            self.in_flight.pop(position)
            self.plan.answered(position, OK, self.now_s, 0.5)
            self.ended.add(position)
        for _ in range(4_000):
            self.propose()
            while self.log:
                self.apply()
            self.apply()
            self.letters.clear()
            for position in self.plan.holding:
                self.plan.release_key(position)
            self.take(20)
            due_s = self.plan.next_due_s()
            if due_s is None and self.watermark() == self.accepted:
                break
            self.now_s = max(self.now_s, due_s or 0.0)
            while self.plan.next_due_s() is not None and self.plan.next_due_s() <= self.now_s:
                before = set(self.in_flight)
                self.start()
                for position in set(self.in_flight) - before:
                    self.in_flight.pop(position)
                    self.plan.answered(position, OK, self.now_s, 0.5)
                    self.ended.add(position)
        assert self.watermark() == self.accepted, "every message ends"


TestPlan = PlanMachine.TestCase
TestPlan.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
