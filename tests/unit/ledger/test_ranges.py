"""RangeSet against a plain set of integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crowd.ledger.ranges import RangeSet

TOP = 60
RANGE = st.tuples(st.integers(0, TOP), st.integers(0, 12)).map(lambda r: (r[0], r[0] + r[1]))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "discard", "cut"]), RANGE), max_size=25)


def built(steps):
    ranges, model = RangeSet(), set()
    for what, (first, last) in steps:
        if what == "add":
            ranges.add(first, last)
            model |= set(range(first, last + 1))
        elif what == "discard":
            ranges.discard(first, last)
            model -= set(range(first, last + 1))
        else:
            ranges.discard_through(first)
            model = {value for value in model if value > first}
    return ranges, model


def runs(values):
    """Return the maximal runs of consecutive values, as inclusive ranges."""
    found = []
    for value in sorted(values):
        if found and found[-1][1] == value - 1:
            found[-1] = (found[-1][0], value)
        else:
            found.append((value, value))
    return found


@given(STEPS)
def test_it_holds_what_a_set_would_hold(steps):
    ranges, model = built(steps)
    assert [value for value in range(TOP + 15) if value in ranges] == sorted(model)
    assert list(ranges) == runs(model)
    assert len(ranges) == len(runs(model))
    assert ranges.count() == len(model)


@given(STEPS, STEPS)
def test_equal_sets_are_equal_bytes_however_they_came_about(one, other):
    (left, left_model), (right, right_model) = built(one), built(other)
    assert (left == right) == (left_model == right_model)
    assert (left.to_bytes() == right.to_bytes()) == (left_model == right_model)
    again = RangeSet()
    for value in sorted(left_model, reverse=True):
        again.add(value, value)
    assert again.to_bytes() == left.to_bytes()


@given(STEPS, STEPS)
def test_sets_without_common_values_are_united(one, other):
    (left, left_model), (right, right_model) = built(one), built(other)
    for first, last in runs(left_model):
        right.discard(first, last)
    left.unite(right)
    assert list(left) == runs(left_model | right_model)


@given(STEPS, RANGE)
def test_gaps_are_what_is_missing(steps, asked):
    ranges, model = built(steps)
    first, last = asked
    assert list(ranges.gaps(first, last)) == runs(set(range(first, last + 1)) - model)
    assert ranges.meets(first, last) == bool(model.intersection(range(first, last + 1)))


@given(STEPS, st.integers(0, TOP + 15), st.integers(0, 20))
def test_values_are_the_lowest_above(steps, after, limit):
    ranges, model = built(steps)
    assert ranges.values(after, limit) == [v for v in sorted(model) if v > after][:limit]


@given(STEPS, st.integers(0, TOP + 15))
def test_neighbours_of_a_value(steps, value):
    ranges, model = built(steps)
    held = runs(model)
    assert ranges.end_of_range(value) == next((b for a, b in held if a <= value <= b), None)
    assert ranges.next_start(value) == next((a for a, _ in held if a > value), None)
    assert ranges.previous_end(value) == next((b for _, b in reversed(held) if b < value), None)


def test_bytes_are_big_endian_pairs_of_first_and_behind_last():
    ranges = RangeSet()
    ranges.add(3, 4)
    assert ranges.to_bytes() == (3).to_bytes(8, "big") + (5).to_bytes(8, "big")
    assert repr(ranges) == "RangeSet(3-4)"
