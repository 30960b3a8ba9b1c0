"""Delivery's share of the reactor while producers wait, and a consumer's rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.delivery.pace import BURST_S, SHARE, TURN_S, Rate, TimeBudget


@given(
    st.lists(st.tuples(st.floats(0, 0.01), st.floats(0, 1), st.floats(0, BURST_S)), max_size=200)
)
def test_work_stays_within_its_share_and_what_others_leave(steps):
    """Over any span delivery takes its share, what others left, a burst and a last slice."""
    budget, now_s, worked_s, left_s = TimeBudget(), 0.0, 0.0, 0.0
    budget.slice_s(0.0, 1.0)
    for pause_s, busy, wanted_s in steps:
        now_s += pause_s
        others_s = pause_s * busy
        slice_s = budget.slice_s(now_s, others_s)
        if slice_s > 0:
            left_s += max(0.0, TURN_S - others_s)
            took_s = min(slice_s, wanted_s)
            worked_s += took_s
            now_s += took_s
            budget.work(took_s)
    assert worked_s <= SHARE * now_s + left_s + 2 * BURST_S + 1e-9


@given(st.floats(0, 1), st.floats(0, 100))
def test_who_waits_as_told_has_a_slice_in_the_end(spent_s, now_s):
    """A budget is never exhausted for good, however much others have to do."""
    budget = TimeBudget()
    budget.slice_s(now_s, 1.0)
    budget.work(spent_s)
    for _ in range(20):
        now_s += budget.wait_s(now_s) + 1e-6
    assert budget.slice_s(now_s, 1.0) > 0


def test_what_others_leave_of_a_turn_is_free():
    """A reactor that has next to nothing else to do delivers nearly all the time."""
    budget = TimeBudget()
    budget.slice_s(0.0, 1.0)
    budget.work(3_600.0)
    assert budget.slice_s(0.0, 0.0001) == pytest.approx(TURN_S - 0.0001)
    assert budget.slice_s(0.0, TURN_S) <= 0


def test_debt_is_bounded():
    """Work while nobody waited does not stop delivery when somebody does."""
    budget = TimeBudget()
    budget.slice_s(0.0, 1.0)
    budget.work(3_600.0)
    assert budget.slice_s(0.0101, 1.0) > 0


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
