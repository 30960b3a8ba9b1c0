"""Rows against a plain list of (index, offset, route, size) by position."""

from __future__ import annotations

import random
import tracemalloc
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.ledger.rows import Place, Rows

MESSAGE = st.tuples(
    st.integers(1, 4), st.integers(0, 9), st.sampled_from([True, True, True, False])
)
BATCHES = st.lists(
    st.tuples(st.integers(1, 3), st.lists(MESSAGE, min_size=1, max_size=6)), max_size=30
)
"""Steps of the index, and of each message its route, its size, and whether it is stored."""


def built(batches):
    rows, model, index = Rows(chunk_rows=5), [], 0
    for step, batch in batches:
        index += step
        routes, sizes, stored = zip(*batch, strict=True)
        left_out = [place for place, kept in enumerate(stored) if not kept]
        if len(left_out) == len(batch):
            continue
        first = rows.append(index, routes, sizes, left_out)
        assert first == len(model) + 1
        model += [
            (index, offset, route, size) for offset, (route, size, kept) in enumerate(batch) if kept
        ]
    return rows, model


def rows_of(model):
    """Yield a run of messages of one route, next to each other in one entry, for each there is."""

    def run(numbered):
        position, (index, offset, route_id, _) = numbered
        return index, route_id, offset - position

    return groupby(enumerate(model), key=run)


@given(BATCHES)
def test_every_position_has_its_place(batches):
    rows, model = built(batches)
    assert rows.last == len(model)
    for position, (index, offset, route, _) in enumerate(model, 1):
        assert rows.place(position) == Place(index, offset, route)
        run = rows.run(position)
        assert run.first <= position <= run.last
        assert {rows.run(p) for p in range(run.first, run.last + 1)} == {run}
    for beyond in (0, len(model) + 1):
        with pytest.raises(LookupError):
            rows.place(beyond)


@given(BATCHES, st.integers(0, 31), st.integers(1, 80), st.integers(0, 80))
def test_matches_are_the_positions_of_those_routes(batches, routes, first, length):
    rows, model = built(batches)
    last = first + length
    wanted = [
        position
        for position, (_, _, route, _) in enumerate(model, 1)
        if first <= position <= last and routes >> route & 1
    ]
    runs = list(rows.matches(first, last, routes))
    assert [position for a, b in runs for position in range(a, b + 1)] == wanted
    assert rows.last_match(first, last, routes) == (wanted[-1] if wanted else None)
    count, size = rows.amount(first, last, routes)
    assert count == len(wanted)
    # Rows that are cut share their bytes evenly; so parts of a span add up to the whole.
    assert size == sum(rows.amount(position, position, routes)[1] for position in wanted)
    if first == 1 and last >= len(model):
        assert size == sum(size for _, _, route, size in model if routes >> route & 1)
    if routes & 0b11110 == 0b11110:
        assert size == rows.bytes_through(last) - rows.bytes_through(first - 1)


@given(BATCHES, st.integers(0, 90), st.integers(0, 90))
def test_the_last_position_through_an_entry(batches, below, index):
    """Forgotten rows do not change it, as long as those above the entry are there."""
    rows, model = built(batches)
    wanted = sum(at <= index for at, *_ in model)
    assert rows.last_through(index) == wanted
    rows.forget(min(below, index + 1))
    assert rows.last_through(index) == wanted


@given(BATCHES)
def test_bytes_are_exact_where_an_entry_ends(batches):
    rows, model = built(batches)
    total = 0
    assert rows.bytes_through(0) == 0
    for position, (index, _, _, size) in enumerate(model, 1):
        before, total = total, total + size
        if position == len(model) or model[position][0] != index:
            assert rows.bytes_through(position) == total
        assert rows.bytes_through(position) >= rows.bytes_through(position - 1)
        assert before <= total
    assert rows.bytes_total == total


@given(BATCHES, st.integers(0, 90))
def test_forgetting_drops_only_what_is_below(batches, below):
    rows, model = built(batches)
    whole = [rows.bytes_through(position) for position in range(len(model) + 1)]
    rows.forget(below)
    assert all(index < below for index, *_ in model[: rows.first - 1])
    for position in range(rows.first, len(model) + 1):
        index, offset, route, _ = model[position - 1]
        assert rows.place(position) == Place(index, offset, route)
        assert rows.bytes_through(position) == whole[position]
    if rows.first > 1:
        with pytest.raises(LookupError):
            rows.place(rows.first - 1)
    assert rows.bytes_through(rows.first - 1) == whole[rows.first - 1]
    assert rows.held == sum(1 for _ in rows_of(model[rows.first - 1 :]))
    kept = [p for a, b in rows.matches(1, len(model), -1) for p in range(a, b + 1)]
    assert kept == list(range(rows.first, len(model) + 1))


def test_a_row_costs_less_than_three_bytes():
    """A backlog of messages that came one by one fits in memory, by the million (I7).

    What is still open costs the same for any backlog; of so many rows it does not decide.
    """
    chance = random.Random(1)
    count, index = 300_000, 0
    rows = Rows()
    tracemalloc.start()
    try:
        for _ in range(count):
            index += chance.choice((1, 1, 1, 2))
            rows.append(index, (chance.choice((1, 2)),), (chance.randrange(300, 400),))
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < count * 3
