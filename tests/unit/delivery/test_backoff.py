"""How long a failed message waits."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.definition import Retry
from crowd.delivery.backoff import AnsweringClock, Backoff

BACKOFFS = st.builds(
    Backoff,
    first_s=st.just(0.0) | st.floats(1e-6, 1e6),  # definitions count in microseconds
    factor=st.floats(1, 1_000),
    most_s=st.floats(0, 1e7),
)
CHANCES = st.floats(0, 1, exclude_max=True)


def test_ceilings_double_up_to_the_most():
    """The defaults: 1 s, 2 s, 4 s and so on, never above 5 minutes."""
    backoff = Backoff.from_definition(Retry(1_000_000, 2.0, 300_000_000, 10**12))
    assert [backoff.ceiling_s(n) for n in (1, 2, 3, 9, 10, 10**9)] == [1, 2, 4, 256, 300, 300]


@given(BACKOFFS, st.integers(1, 10**9), CHANCES)
def test_a_wait_is_within_its_bounds(backoff, failures, chance):
    """No wait is negative or above the most, after any number of failures."""
    assert 0 <= backoff.delay_s(failures, chance) <= backoff.most_s


@given(BACKOFFS, st.integers(1, 1_000))
def test_ceilings_never_shrink(backoff, failures):
    """Each failure makes the next wait's ceiling as long or longer."""
    assert backoff.ceiling_s(failures) <= backoff.ceiling_s(failures + 1) * (1 + 1e-9)


@given(BACKOFFS, st.integers(1, 1_000), CHANCES, st.floats(0, 1))
def test_chance_decides_of_no_more_than_its_share(backoff, failures, chance, jitter):
    """With `jitter = 0.2` a wait is at least four fifths of its ceiling."""
    backoff = msgspec.structs.replace(backoff, jitter=jitter)
    ceiling_s = backoff.ceiling_s(failures)
    delay_s = backoff.delay_s(failures, chance)
    assert (1 - jitter) * ceiling_s * (1 - 1e-9) <= delay_s <= ceiling_s


def test_a_schedule_names_its_waits_and_ends():
    """`schedule = ["5 s", "5 min"]` is three attempts, and the message is dead."""
    retry = Retry(1, 2.0, 2, 10**12, jitter=0.0, schedule_us=(5_000_000, 300_000_000))
    backoff = Backoff.from_definition(retry)
    assert [backoff.delay_s(n, 0.3) for n in (1, 2)] == [5, 300]
    assert [backoff.spent(n, 0.0) for n in (1, 2, 3)] == [None, None, "attempts"]


@pytest.mark.parametrize(
    ("attempts", "schedule", "bound"),
    [(0, 0, 0), (4, 0, 4), (0, 7, 8), (4, 7, 4), (9, 7, 8)],
)
def test_the_lower_bound_of_attempts_counts(attempts, schedule, bound):
    retry = Retry(1, 2.0, 2, 10**12, attempts, schedule_us=(1,) * schedule)
    assert Backoff.from_definition(retry).attempts_max == bound


def test_a_message_is_dead_by_attempts_or_by_age():
    """Whichever of `attempts` and `for` is reached first; without them neither ever is."""
    backoff = Backoff(1.0, 2.0, 300.0, attempts_max=3, for_s=60.0)
    assert backoff.spent(2, 59.9) is None
    assert backoff.spent(3, 0.0) == "attempts"
    assert backoff.spent(1, 60.0) == "age"
    assert Backoff(1.0, 2.0, 300.0).spent(10**9, 10.0**9) is None


def test_a_consumers_wish_is_kept_up_to_its_cap():
    """Retry-After is honoured, but no consumer stops its own deliveries for days."""
    assert Backoff(1.0, 2.0, 300.0).honoured_s(900.0) == 900.0
    assert Backoff(1.0, 2.0, 300.0, asked_most_s=30.0).honoured_s(900.0) == 30.0


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["stand", "run", "later"]))))
def test_the_answering_clock_counts_what_was_answered(steps):
    """Time that a consumer was held is never counted, and all other time is."""
    clock, now_s, counted_s, runs_from_s = AnsweringClock(), 0.0, 0.0, math.inf
    for seconds, what in steps:
        counted_s += max(0.0, now_s + seconds - max(now_s, runs_from_s))
        now_s += seconds
        assert clock.aged_s(now_s) == pytest.approx(counted_s)
        runs_from_s = {"stand": math.inf, "run": now_s, "later": now_s + 7.0}[what]
        clock.run_from(runs_from_s, now_s)
