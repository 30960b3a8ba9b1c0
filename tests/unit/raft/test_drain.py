"""How long producers are told to wait: tables of what drained, and what follows from it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.raft.drain import (
    LONG_S,
    MARGIN_S,
    SPREAD,
    STALLED_S,
    WAIT_MAX_S,
    WAIT_MIN_S,
    Drain,
    Level,
    in_turn,
    wait_s,
)

MIB = 1 << 20


def drained(*figures, every_s=1.0, since_s=100.0):
    """Return a drain that was told of these figures, one after the other."""
    drain = Drain()
    for turn, gone in enumerate(figures):
        drain.note(since_s + turn * every_s, gone)
    return drain


def steady(rate, seconds, *, since=0):
    return [since + rate * second for second in range(seconds + 1)]


@pytest.mark.parametrize(
    ("figures", "rate"),
    [
        ([], 0),
        ([7], 0),
        ([7, 7, 7], 0),
        ([7, 107], 100),
        (steady(100, 5), 100),
        (steady(100, 300), 100),
        ([0] * 61 + steady(100, 10)[1:], 100),  # back after an outage: the last 10 s count
        (steady(100, 60) + [6_000] * 20, 40 * 100 / 60),  # silent for 20 s: the last minute counts
        (steady(100, 60) + [6_000] * 30, 50.0),
        (steady(100, 60) + [6_000] * 60, 0),  # silent for a minute: nothing drains
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 300] + [300] * 3, 30),  # in lumps
        ([*steady(100, 30), 0, 5, 10], 5),  # the ledger was replaced: all begins anew
        ([*steady(100, 30), 0], 0),
    ],
)
def test_the_rate_is_that_of_the_last_seconds_or_of_the_last_minute(figures, rate):
    assert drained(*figures).rate == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize(
    ("figures", "still_s", "wait"),
    [
        ([], 0, 1),
        ([7], 0, 1),
        ([7, 7], 1, 1),
        ([7] * 13, 12, 12),
        ([7, 8] + [9] * 71, 60, STALLED_S),
        ([7] * 600, 60, STALLED_S),
    ],
)
def test_what_stands_still_is_waited_for_as_long_again_and_a_minute_at_most(figures, still_s, wait):
    drain = drained(*figures)
    assert drain.rate == 0
    assert drain.still_s == still_s
    assert Level(10, 10, drain.rate, 1, drain.still_s).wait_s == wait


def test_time_without_anything_to_drain_says_nothing():
    """A quiet hour, and then more at once than there is room for."""
    drain = drained(*range(60))
    drain.note(200.0, 60, idle=True)
    assert (drain.rate, drain.still_s) == (0, 0)
    drain.note(202.0, 100)
    assert drain.rate == 20


def test_a_figure_may_be_told_as_often_as_one_likes():
    """The door looks twice a second, and more often when something is urgent."""
    often = drained(*range(6_000), every_s=0.1)
    assert often.rate == pytest.approx(10, rel=0.02)
    assert len(often._samples) <= LONG_S + 2


@pytest.mark.parametrize(
    ("held", "bound", "rate", "least", "wait"),
    [
        (64 * MIB, 64 * MIB, MIB, 1, 1),  # a 64th of the bound drains in a second
        (640 * MIB, 640 * MIB, MIB, 1, 10),
        (6_400 * MIB, 6_400 * MIB, MIB, 1, 10),  # no margin takes longer than 10 s
        (6_500 * MIB, 6_400 * MIB, MIB, 1, 110),  # above its bound: all that first
        (20_480 * MIB, 20_480 * MIB, 1_000 * MIB, 1, 1),  # never below a second
        (100, 100, 50, 1, 1),
        (100, 100, 1, 1, 2),
        (100, 100, 0.1, 1, 10),  # a message every ten seconds
        (10, 10, 0.05, 1, 20),  # one message is the least that makes room
        (10_000, 10_000, 10, 4_000, 400),  # and so are one message's bytes
        (100, 100, 1e-9, 1, WAIT_MAX_S),
        (100, 100, 0, 1, STALLED_S),
        (10**15, 10**6, 0.5, 1, WAIT_MAX_S),
    ],
)
def test_a_wait_is_what_is_over_and_a_margin_by_the_rate(held, bound, rate, least, wait):
    level = Level(held, bound, rate, least)
    assert level.is_full
    assert level.wait_s == wait


def test_what_has_room_is_not_waited_for():
    """A bound of 0 is none; of several that are full the slowest decides."""
    assert wait_s([Level(9, 10, 1.0), Level(10**9, 0, 0.0)]) == 0
    assert wait_s([]) == 0
    assert wait_s([Level(10, 10, 0.1), Level(10, 10, 1.0), Level(9, 10, 0.0)]) == 10


@given(
    st.integers(0, 1 << 62),
    st.integers(1, 1 << 50),
    st.floats(0, 1e12, allow_nan=False),
    st.integers(1, 1 << 24),
)
def test_any_wait_is_within_its_bounds_and_long_enough(held, bound, rate, least):
    level = Level(held, bound, rate, least)
    wait = level.wait_s
    assert WAIT_MIN_S <= wait <= WAIT_MAX_S
    if rate and wait < WAIT_MAX_S:
        assert rate * wait >= held - bound
        over_s = max(0, held - bound) / rate
        assert wait <= math.ceil(over_s + max(MARGIN_S, least / rate)) + 1


@pytest.mark.parametrize(
    ("wait", "heard"),
    [(1, {1, 2}), (2, {2, 3}), (4, {4, 5, 6}), (10, set(range(10, 16))), (60, None)],
)
def test_those_who_are_refused_together_do_not_come_back_together(wait, heard):
    """Half as long again at most, and as many in each group as in another."""
    said = [in_turn(wait, turn) for turn in range(7, 7 + SPREAD)]
    assert min(said) == wait
    assert max(said) <= wait + max(1, wait // 2)
    assert len(set(said)) == min(SPREAD, max(1, wait // 2) + 1)
    assert heard is None or set(said) == heard
    assert max(map(said.count, said)) - min(map(said.count, said)) <= 1
