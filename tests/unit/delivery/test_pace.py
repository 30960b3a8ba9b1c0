"""Delivery's share of the reactor while producers wait, and a consumer's rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.delivery.pace import BURST_S, SHARE, Rate, TimeBudget


@given(st.lists(st.tuples(st.floats(0, 0.01), st.floats(0, BURST_S)), max_size=200))
def test_work_stays_within_its_share(steps):
    """Over any span delivery takes its share of the time, plus a burst and a last slice."""
    budget, now_s, worked_s = TimeBudget(), 0.0, 0.0
    budget.may_work(0.0)
    for pause_s, slice_s in steps:
        now_s += pause_s
        if budget.may_work(now_s):
            worked_s += slice_s
            now_s += slice_s
            budget.work(slice_s)
    assert worked_s <= SHARE * now_s + 2 * BURST_S + 1e-9


@given(st.floats(0, 1), st.floats(0, 100))
def test_after_its_wait_there_is_something_left(spent_s, now_s):
    """A budget is never exhausted for good: whoever waits as told may work."""
    budget = TimeBudget()
    budget.may_work(now_s)
    budget.work(spent_s)
    assert budget.may_work(now_s + budget.wait_s(now_s) + 1e-6)


def test_debt_is_bounded():
    """Work while nobody waited does not stop delivery when somebody does."""
    budget = TimeBudget()
    budget.may_work(0.0)
    budget.work(3_600.0)
    assert budget.wait_s(0.0) <= 0.02


@given(
    per_s=st.floats(0.01, 5_000),
    burst=st.integers(1, 30),
    start_s=st.floats(0, 1e7),
    pauses=st.lists(st.tuples(st.integers(0, 40), st.floats(0, 3)), max_size=40),
)
def test_no_window_has_more_attempts_than_the_rate_and_a_burst(per_s, burst, start_s, pauses):
    """Over any w seconds at most rate * w + burst attempts start, however they are asked for."""
    rate, now_s, taken_s = Rate(per_s, burst, start_s), start_s, []
    for tries, intervals in pauses:
        for _ in range(tries):
            if rate.available(now_s):
                rate.take(now_s)
                taken_s.append(now_s)
        now_s = now_s + intervals / per_s if intervals > 1 else max(now_s, rate.due_s())
    clock_s = 1e-7  # a float of seconds is no finer than this at the times above
    for first, start in enumerate(taken_s):
        for count, end in enumerate(taken_s[first:], 1):
            assert count <= per_s * (end - start + clock_s) + burst + 1e-6


@given(st.floats(0.01, 5_000), st.integers(1, 30), st.floats(0, 1e7))
def test_whoever_waits_as_told_reaches_the_rate(per_s, burst, start_s):
    """A rate is no less than it says: a hundred attempts take a hundred intervals."""
    rate, now_s = Rate(per_s, burst, start_s), start_s
    for _ in range(100):
        now_s = max(now_s, rate.due_s())
        assert rate.available(now_s)
        rate.take(now_s)
    assert now_s - start_s <= 99 / per_s + 1e-6


def test_a_rate_begins_with_one_and_saves_up_a_burst():
    """The first attempt starts at once; after a quiet time a tenth of a second's come together."""
    rate = Rate.from_text("200/s", 50.0)

    def burst(now_s):
        count = 0
        while rate.available(now_s):
            rate.take(now_s)
            count += 1
        return count

    assert burst(50.0) == 1
    assert rate.due_s() == 50.005
    assert burst(51.0) == 20
    assert burst(60.0) == 20
    assert burst(60.0025) == 0
    assert burst(60.005) == 1


@pytest.mark.parametrize(
    ("text", "burst"), [("10/h", 1), ("10/s", 1), ("25/s", 2), ("2000/s", 200)]
)
def test_a_burst_is_a_tenth_of_a_second(text, burst):
    assert Rate.from_text(text, 0.0).burst == burst
