"""Delivery's share of the reactor while producers wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crowd.delivery.pace import BURST_S, SHARE, TimeBudget


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
