"""Which messages go together, and when."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.definition import Batch
from crowd.delivery.forms.gathering import Gathering
from crowd.message import Position


def gathering(count=3, bytes_max=100, linger_us=50_000):
    return Gathering(Batch("ndjson", count, bytes_max, linger_us))


def test_a_batch_goes_when_it_has_its_count():
    """The third of three is waited for no longer."""
    made = gathering()
    assert [made.add(Position(n), 1, 7.0) for n in (5, 6, 9)] == [False, False, True]
    assert not made.has_room(1)
    assert made.take() == [5, 6, 9]
    assert len(made) == 0
    assert made.due_s is None


def test_a_batch_goes_when_its_first_has_waited():
    """What comes later does not make it wait longer."""
    made = gathering()
    assert not made.add(Position(1), 1, 7.0)
    assert made.due_s == pytest.approx(7.05)
    assert not made.add(Position(2), 1, 7.04)
    assert made.due_s == pytest.approx(7.05)
    assert not made.ready(7.049)
    assert made.ready(7.051)
    assert made.take() == [1, 2]
    assert not made.ready(9.0)


def test_without_linger_each_goes_as_it_comes():
    """A batch is then what came in one turn."""
    made = gathering(linger_us=0)
    assert made.add(Position(1), 1, 7.0)
    assert made.add(Position(2), 1, 7.0)
    assert made.take() == [1, 2]


def test_a_batch_has_its_bytes():
    """One that does not fit waits for the next batch; one too large for any goes alone."""
    made = gathering()
    assert not made.add(Position(1), 60, 7.0)
    assert made.has_room(40)
    assert not made.has_room(41)
    assert made.add(Position(2), 40, 7.0)
    made.take()
    assert made.has_room(1_000)
    assert made.add(Position(3), 1_000, 7.0)
    assert not made.has_room(0)


@given(st.lists(st.integers(0, 150), max_size=30), st.integers(1, 5))
def test_batches_are_within_their_bounds(sizes, count):
    """By count and by bytes, in order, and none is ended before the next message is too much."""
    batch = Batch("json", count, 100, 10**6)
    made, batches = Gathering(batch), []
    for position, size in enumerate(sizes, 1):
        if not made.has_room(size):
            batches.append(made.take())
        if made.add(Position(position), size, 1.0):
            batches.append(made.take())
    batches.append(made.take())
    assert [position for each in batches for position in each] == list(range(1, len(sizes) + 1))
    for each in batches:
        bytes_total = sum(sizes[position - 1] for position in each)
        assert len(each) <= count
        assert bytes_total <= 100 or len(each) == 1
    for each, following in pairwise(each for each in batches if each):
        bytes_total = sum(sizes[position - 1] for position in [*each, following[0]])
        assert (
            len(each) == count or bytes_total > 100 or bytes_total - sizes[following[0] - 1] == 100
        )
