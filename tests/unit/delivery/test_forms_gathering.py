"""Which messages go together, and when."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.definition import Batch
from crowd.delivery.forms.gathering import Gathering


def gathering(count=3, bytes_max=100, linger_us=50_000):
    return Gathering(Batch("ndjson", count, bytes_max, linger_us))


def test_a_batch_goes_when_it_has_its_count():
    """The third of three is waited for no longer."""
    made = gathering()
    full = [made.add(1, 7.0) and made.ready(7.0) for _ in range(3)]
    assert full == [False, False, True]
    assert made.is_full
    assert not made.add(1, 7.0)
    assert len(made) == 3


def test_a_batch_goes_when_its_first_has_waited():
    """What comes later does not make it wait longer."""
    made = gathering()
    assert made.due_s is None
    assert not made.ready(9.0)
    assert made.add(1, 7.0)
    assert made.due_s == pytest.approx(7.05)
    assert made.add(1, 7.04)
    assert made.due_s == pytest.approx(7.05)
    assert not made.ready(7.049)
    assert made.ready(7.051)
    assert not made.is_full


def test_without_linger_each_goes_as_it_comes():
    """A batch is then what came in one turn."""
    made = gathering(linger_us=0)
    assert made.add(1, 7.0)
    assert made.ready(7.0)
    assert made.add(1, 7.0)
    assert made.ready(7.0)


def test_a_batch_has_its_bytes():
    """One that does not fit waits for the next batch; one too large for any goes alone."""
    made = gathering()
    assert made.add(60, 7.0)
    assert not made.add(41, 7.0)
    assert made.add(40, 7.0)
    assert made.is_full
    alone = gathering()
    assert alone.add(1_000, 7.0)
    assert alone.is_full
    assert not alone.add(0, 7.0)


@given(st.lists(st.integers(0, 150), max_size=30), st.integers(1, 5))
def test_batches_are_within_their_bounds(sizes, count):
    """By count and by bytes, in order, and none is ended before the next message is too much."""
    batch = Batch("json", count, 100, 10**6)
    made, batches = Gathering(batch), [[]]
    for size in sizes:
        if not made.add(size, 1.0):
            made = Gathering(batch)
            assert made.add(size, 1.0)
            batches.append([])
        batches[-1].append(size)
        assert made.is_full == (len(batches[-1]) == count or sum(batches[-1]) >= 100)
    for each in batches:
        assert len(each) <= count
        assert sum(each) <= 100 or len(each) == 1
    for each, (following, *_) in pairwise(batches):
        assert len(each) == count or sum(each) >= 100 or sum(each) + following > 100
