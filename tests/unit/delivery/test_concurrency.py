"""How many attempts at a consumer are under way at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crowd.delivery.concurrency import Concurrency


def succeed(pace, count, took_s=0.01):
    for _ in range(count):
        pace.succeeded(took_s, pace.limit - 1)


def test_it_begins_at_the_consumers_own_bound():
    assert Concurrency(32, adaptive=True).limit == 32


def test_overload_halves_it_once_for_all_that_began_before():
    """Thirty 429s that answer one moment are one sign, not thirty."""
    pace = Concurrency(32, adaptive=True)
    for _ in range(30):
        pace.overloaded(10.0, 9.9)
    assert pace.limit == 16
    pace.overloaded(11.0, 10.5)
    assert pace.limit == 8
    for second in range(12, 40):
        pace.overloaded(second, second - 0.1)
    assert pace.limit == 1


def test_successes_add_one_a_window():
    """What a consumer bears is approached again step by step, up to its bound."""
    pace = Concurrency(16, adaptive=True)
    pace.overloaded(1.0, 0.5)
    limits = []
    for _ in range(20):
        succeed(pace, pace.limit)
        limits.append(pace.limit)
    assert limits == [9, 10, 11, 12, 13, 14, 15] + [16] * 13


def test_a_limit_that_is_not_used_does_not_grow():
    """A quiet time says nothing about what a consumer bears."""
    pace = Concurrency(16, adaptive=True)
    pace.overloaded(1.0, 0.5)
    for _ in range(1_000):
        pace.succeeded(0.01, 0)
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
    pace.overloaded(1.0, 0.5)
    for second in range(2, 9):
        pace.overloaded(second, second - 0.5)
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
    pace.overloaded(1.0, 0.9)
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
    pace.overloaded(1.0, 0.5)
    pace.follow(20, adaptive=True)
    assert pace.limit == 2


@given(
    bound=st.integers(1, 1_000),
    adaptive=st.booleans(),
    events=st.lists(
        st.tuples(
            st.sampled_from(["ok", "over", "restart", "follow"]),
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
            succeed(pace, number % 50, took_s=seconds)
        elif event == "over":
            pace.overloaded(now_s, now_s - seconds)
        elif event == "restart":
            pace.restart(now_s)
        else:
            bound = number
            pace.follow(bound, adaptive=adaptive)
        assert 1 <= pace.limit <= bound
