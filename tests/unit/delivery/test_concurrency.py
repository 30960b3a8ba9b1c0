"""How many attempts at a consumer are under way at once."""

from __future__ import annotations

import heapq
import random
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.delivery.concurrency import Concurrency


def succeed(pace, count, took_s=0.01, now_s=1_000.0):
    for _ in range(count):
        pace.succeeded(now_s + took_s, now_s, pace.limit - 1)


def asks(pace, now_s, started_s):
    pace.overloaded(now_s, started_s, asked=True)


def run(pace, says, seconds, *, rejects_in_s=0.1, chance=None, from_s=2_000.0):
    """Use all that may be under way for so long; return the limits, one for each answer.

    `says` tells whether an attempt with so many others being worked on succeeds, which takes 0.1 s.
    """
    chance = chance or random.Random(1)
    now_s, under_way, limits = from_s, [], []
    while now_s < from_s + seconds:
        while len(under_way) < pace.limit:
            good = says(sum(good for _, _, good in under_way), chance)
            took_s = (0.1 if good else rejects_in_s) * chance.uniform(0.9, 1.1)
            heapq.heappush(under_way, (now_s + took_s, now_s, good))
        now_s, started_s, good = heapq.heappop(under_way)
        if good:
            pace.succeeded(now_s, started_s, len(under_way))
        else:
            pace.overloaded(now_s, started_s, asked=False)
        limits.append(pace.limit)
    return limits


def test_it_begins_at_the_consumers_own_bound():
    assert Concurrency(32, adaptive=True).limit == 32


def test_overload_halves_it_once_for_all_that_began_before():
    """Thirty 429s that answer one moment are one sign, not thirty."""
    pace = Concurrency(32, adaptive=True)
    for _ in range(30):
        asks(pace, 10.0, 9.9)
    assert pace.limit == 16
    asks(pace, 11.0, 10.5)
    assert pace.limit == 8
    for second in range(12, 40):
        asks(pace, second, second - 0.1)
    assert pace.limit == 1


def test_successes_add_one_a_window():
    """What a consumer bears is approached again step by step, up to its bound."""
    pace = Concurrency(16, adaptive=True)
    asks(pace, 1.0, 0.5)
    limits = []
    for _ in range(20):
        succeed(pace, pace.limit)
        limits.append(pace.limit)
    assert limits == [9, 10, 11, 12, 13, 14, 15] + [16] * 13


def test_a_limit_that_is_not_used_does_not_grow():
    """A quiet time says nothing about what a consumer bears."""
    pace = Concurrency(16, adaptive=True)
    asks(pace, 1.0, 0.5)
    for _ in range(1_000):
        pace.succeeded(1_000.01, 1_000.0, 0)
    assert pace.limit == 8


def test_slow_answers_lower_it_and_a_slow_consumer_keeps_it():
    """Queueing shows as answers that take several times as long; a steady 300 ms does not."""
    pace = Concurrency(32, adaptive=True)
    succeed(pace, 320, took_s=0.3)
    assert pace.limit == 32
    succeed(pace, 100, took_s=2.0)
    assert pace.limit < 20


def test_a_consumer_that_queues_gets_about_what_it_can_serve():
    """One that serves one request at a time in 20 ms is not sent 32 at once."""
    pace = Concurrency(32, adaptive=True)
    succeed(pace, 1, took_s=0.02)
    asks(pace, 1.0, 0.5)
    for second in range(2, 9):
        asks(pace, second, second - 0.5)
    limits = []
    for _ in range(4_000):
        succeed(pace, 1, took_s=0.02 * pace.limit)
        limits.append(pace.limit)
    assert max(limits[1_000:]) <= 10
    assert min(limits[1_000:]) >= 3


def test_a_consumer_that_became_slow_for_good_is_believed():
    """One that takes ten times as long from today on has its full concurrency again soon."""
    pace = Concurrency(16, adaptive=True)
    succeed(pace, 200, took_s=0.1)
    limits = []
    for _ in range(2_000):
        succeed(pace, 1, took_s=1.0)
        limits.append(pace.limit)
    assert min(limits) == 1
    assert limits[-1] == 16


def test_after_an_outage_it_starts_slowly():
    """A consumer that has just come back gets one request, then two, four, eight."""
    pace = Concurrency(32, adaptive=True)
    pace.restart(10.0)
    limits = [pace.limit]
    for _ in range(6):
        succeed(pace, 40)
        limits.append(pace.limit)
    assert limits[0] == 1
    assert limits[1] >= 8
    assert limits == sorted(limits)


def test_a_slow_start_is_made_without_adapting_too_and_ends_at_the_bound():
    """`adaptive = false` means the bound, but for the moment after an outage."""
    pace = Concurrency(10, adaptive=False)
    asks(pace, 1.0, 0.9)
    succeed(pace, 100, took_s=9.0)
    assert pace.limit == 10
    pace.restart(2.0)
    limits = []
    while pace.limit < 10:
        limits.append(pace.limit)
        succeed(pace, pace.limit)
    assert limits == [1, 2, 4, 8]


def test_another_bound_counts_at_once():
    pace = Concurrency(10, adaptive=True)
    pace.follow(20, adaptive=True)
    assert pace.limit == 20
    pace.follow(4, adaptive=True)
    assert pace.limit == 4
    asks(pace, 1.0, 0.5)
    pace.follow(20, adaptive=True)
    assert pace.limit == 2


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), bound=st.integers(2, 64), share=st.floats(0.05, 0.4))
def test_failures_that_more_or_fewer_attempts_do_not_change_cost_no_throughput(seed, bound, share):
    """A consumer that answers 503 by chance, to three in ten say, is used as fully as before."""
    pace = Concurrency(bound, adaptive=True)
    limits = run(pace, lambda _, chance: chance.random() > share, 120, chance=random.Random(seed))
    assert mean(limits) >= 0.75 * bound


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), bound=st.integers(2, 64), data=st.data())
def test_an_overload_brings_it_down_to_what_the_consumer_takes(seed, bound, data):
    """One that takes so many at once, and answers 503 to any more, is given about so many."""
    takes = data.draw(st.integers(max(1, bound // 8), bound))
    pace = Concurrency(bound, adaptive=True)
    limits = run(pace, lambda now, _: now < takes, 120, chance=random.Random(seed))
    settled = limits[len(limits) // 2 :]
    assert 0.6 * takes <= mean(settled) <= 1.4 * takes + 1
    assert max(settled) <= 2 * takes + 1


def test_refusals_that_come_at_once_are_seen_through_too():
    """They come ten times as fast as work is done, and so are most of the answers."""
    pace = Concurrency(16, adaptive=True)
    limits = run(pace, lambda now, _: now < 8, 120, rejects_in_s=0.01)
    assert 5 <= mean(limits[len(limits) // 2 :]) <= 11


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_an_overload_is_seen_beside_failures_by_chance(share):
    """What is usual at a consumer is no excuse for what comes on top of it."""
    pace = Concurrency(32, adaptive=True)
    run(pace, lambda _, chance: chance.random() > share, 60)
    assert pace.limit == 32
    limits = run(pace, lambda now, chance: now < 8 and chance.random() > share, 240, from_s=3_000.0)
    assert mean(limits[len(limits) // 2 :]) <= 16


def test_once_the_failures_end_it_is_at_its_bound_again_soon():
    pace = Concurrency(32, adaptive=True)
    run(pace, lambda now, _: now < 4, 60)
    assert pace.limit <= 8
    run(pace, lambda *_: True, 10, from_s=3_000.0)
    assert pace.limit == 32


@given(
    bound=st.integers(1, 1_000),
    adaptive=st.booleans(),
    events=st.lists(
        st.tuples(
            st.sampled_from(["ok", "over", "asks", "restart", "follow"]),
            st.floats(0, 20),
            st.integers(1, 1_000),
        ),
        max_size=100,
    ),
)
def test_it_is_always_between_one_and_the_bound(bound, adaptive, events):
    """Whatever happens, attempts go on, and never more than the consumer was said to bear."""
    pace, now_s = Concurrency(bound, adaptive=adaptive), 0.0
    for event, seconds, number in events:
        now_s += seconds
        if event == "ok":
            succeed(pace, number % 50, seconds, now_s - seconds)
        elif event == "over":
            for _ in range(number % 80):
                pace.overloaded(now_s, now_s - seconds, asked=False)
        elif event == "asks":
            asks(pace, now_s, now_s - seconds)
        elif event == "restart":
            pace.restart(now_s)
        else:
            bound = number
            pace.follow(bound, adaptive=adaptive)
        assert 1 <= pace.limit <= bound
