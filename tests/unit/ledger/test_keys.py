"""Idempotency keys: for how long they are known, what they cost, and where one is found."""

from __future__ import annotations

import random
import tracemalloc
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.command import Define
from crowd.definition import KeyBounds
from crowd.idempotency import (
    Grouped,
    is_keyed,
    is_left_out,
    keyed,
    keyed_messages,
    left_out_places,
    left_out_spans,
    moved,
    pack_left_out,
    without_first,
)
from crowd.ledger import Ledger
from crowd.ledger.key_index import RECORD_BYTES, KeyIndex
from crowd.ledger.keys import DROPPED_MAX, SEGMENT_KEYS_MAX, SHARES, Keys
from crowd.message import Position
from tests.unit.ledger.history import History, digests, route

WINDOW_US = 1_600


def take(keys: Keys, *named: object, first: int, now_us: int) -> dict[int, int]:
    """Have a batch of messages, each with a key called so; return what is left out of it."""
    if now_us >= keys.due_us:
        keys.tidy(now_us)
    packed = b"".join(keyed(place, digests(key)) for place, key in enumerate(named))
    spans = left_out_spans(keys.take(packed, first, now_us))
    return {place: position for place, _, position in spans}


@settings(deadline=None)
@given(
    st.sampled_from([1, 16, 40, 100, 500]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(50, 1_100), st.integers(0, 130)), max_size=99),
)  # fmt: skip
def test_a_key_is_known_for_its_window_and_among_the_newest_seven_eighths(count_max, steps):
    """Whatever is stored between: and it is not known for ever."""
    keys, now_us, position = Keys(), 0, 0
    keys.bound(KeyBounds(WINDOW_US, count_max), 0)
    stored: list[tuple[int, int]] = []  # key and time, in their order
    for step_us, base, key in steps:
        now_us += step_us * step_us
        sure = max(0, count_max - 2 * max(1, count_max // SHARES))
        newest = [other for other, _ in stored[max(0, len(stored) - sure) :]]
        times = dict(stored)
        must_know = key in newest and now_us < times[key] + WINDOW_US
        may_know = key in times and now_us < times[key] + WINDOW_US + WINDOW_US // SHARES + 1
        left_out = take(keys, key, first=position + 1, now_us=now_us)
        assert bool(left_out) >= must_know
        assert bool(left_out) <= may_know
        if not left_out:
            position += 1
            stored.append((key, now_us))
        for other in range(base % 7):  # others come, too
            if not take(keys, base + other, first=position + 1, now_us=now_us):
                position += 1
                stored.append((base + other, now_us))
        assert keys.held <= count_max


def test_segments_that_are_past_go_whole_and_are_not_early():
    keys = Keys()
    keys.bound(KeyBounds(WINDOW_US, 1_000), 0)
    for n in range(100):
        take(keys, n, first=n + 1, now_us=n * 10)
    assert keys.held == 100
    take(keys, "late", first=200, now_us=10_000)
    assert keys.held == 1
    assert keys.tally.evicted == 0


def test_what_goes_for_lack_of_room_is_counted_with_its_time():
    keys = Keys()
    keys.bound(KeyBounds(WINDOW_US, 160), 0)
    for n in range(150):
        take(keys, n, first=n + 1, now_us=3)
    assert (keys.tally.evicted, keys.tally.evicted_us) == (0, 0)
    for n in range(150, 170):
        take(keys, n, first=n + 1, now_us=7)
    assert (keys.tally.evicted, keys.tally.evicted_us) == (20, 7)
    assert take(keys, 0, first=999, now_us=7) == {}


def filled(count: int) -> Keys:
    keys, chance = Keys(), random.Random(7)
    keys.bound(KeyBounds(10**12, count), 0)
    for start in range(0, count, 1_000):
        packed = b"".join(keyed(n, chance.randbytes(32)) for n in range(1_000))
        if keys.due_us <= 5:
            keys.tidy(5)
        keys.take(packed, start + 1, 5)
    return keys


def test_a_lower_bound_is_reached_over_several_entries():
    """No entry drops more than a tick has time for, and the keys that come are fewer."""
    keys = filled(8 * DROPPED_MAX)
    keys.bound(KeyBounds(10**12, DROPPED_MAX), 6)
    held = [keys.held]
    while keys.due_us <= 6:
        take(keys, *(f"{len(held)}.{n}" for n in range(500)), first=10**9, now_us=6)
        held.append(keys.held)
        assert held[-2] - held[-1] < 2 * (DROPPED_MAX + SEGMENT_KEYS_MAX)
    assert held[-1] <= DROPPED_MAX
    assert len(held) > 3


def test_i7_a_key_costs_less_than_64_bytes():
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        keys = filled(200_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert keys.held > 190_000
    assert (after - before) / keys.held < 64


def test_a_capture_has_the_same_segments_each_time():
    """A sealed segment is made once: it is not copied, and nothing that comes changes it."""
    history = History()
    history.define(route("/x"))
    session = history.open()
    history.bound(10**12, 160)
    for n in range(30):
        history.accept_keyed(session, (1, n, "r"))
    first = list(history.ledger._keys.sections())
    for n in range(30, 60):
        history.accept_keyed(session, (1, n, "r"))
    second = list(history.ledger._keys.sections())
    assert all(one is other for one, other in zip(first, second, strict=False))
    assert len(second) == 6


def test_i5_keys_alone_make_another_digest():
    """The same messages at the same positions, under one key or another, are two states."""
    seen = set()
    for key, request in (("k", "r"), ("l", "r"), ("k", "s"), (None, None)):
        history = History()
        history.define(route("/x"))
        history.accept_keyed(history.open(), (1, key, request))
        seen.add(history.ledger.digest())
    assert len(seen) == 4


def test_the_newest_file_that_was_applied_bounds_keys():
    """Nodes' files may differ; an order without bounds, and an older file again, change nothing."""
    history = History()
    history.define(route("/x"))
    assert history.ledger.key_bounds == KeyBounds()
    history.bound(7_000_000, 100, node="a")
    older = history.commands[-1]
    history.bound(9_000_000, 200, node="b")
    history.apply(older)
    history.apply(Define("a", bytes(32), (), ()))
    assert history.ledger.key_bounds == KeyBounds(9_000_000, 200)
    restored = Ledger()
    restored.restore(history.ledger.capture())
    assert restored.key_bounds == KeyBounds(9_000_000, 200)


def test_with_a_bound_of_none_keys_are_not_looked_at():
    history = History()
    history.define(route("/x"))
    session = history.open()
    history.bound(7_000_000, 0)
    for _ in range(2):
        history.accept_keyed(session, (1, "k", "r"), (1, "k", "s"))
    assert (history.ledger.tip, history.ledger.keys_held) == (4, 0)


def test_a_batch_that_is_refused_leaves_no_key():
    """It took no position; its proposer offers it again under an open session."""
    history = History()
    history.define(route("/x"))
    old = history.open("a", b"1" * 16)
    new = history.open("a", b"2" * 16)
    history.accept_keyed(old, (1, "k", "r"))
    assert (history.ledger.tip, history.ledger.keys_held, history.ledger.refused) == (0, 0, 1)
    history.accept_keyed(new, (1, "k", "r"))
    assert (history.ledger.tip, history.ledger.keys_held) == (1, 1)


def test_results_are_forgotten_with_their_proposals():
    history = History()
    history.define(route("/x"))
    session = history.open()
    for _ in range(5):
        number = history.accept_keyed(session, (1, "k", "r"), (1, "k", "s"))
        assert (1, 1, 0) in left_out_spans(history.ledger.left_out(session, number))
        assert history.ledger.left_out(session, number - 1) == b""


# --- Where a key is found -------------------------------------------------------------------------


class Sharing(bytes):
    """A key whose part, and all that tells it from others there, is the same for all."""

    __slots__ = ()

    def __hash__(self):
        return 5


def record(n: int) -> bytes:
    return sha256(b"%d" % n).digest()[:16] + bytes(16) + n.to_bytes(8, "big")


def test_keys_that_share_all_that_tells_them_apart_are_found_by_themselves():
    index = KeyIndex()
    index.segments[3] = b"".join(map(record, range(50)))
    for n in range(50):
        index.add(Sharing(record(n)[:16]), 3, n)
    for n in range(50):
        assert index.find(Sharing(record(n)[:16])) == record(n)
    assert index.find(Sharing(b"another key 1234")) is None
    assert index.find(b"another key 1234") is None


def test_the_oldest_segment_goes_and_the_others_stay():
    index = KeyIndex()
    for segment in range(3):
        numbers = range(segment * 4_000, segment * 4_000 + 4_000)
        index.segments[segment] = b"".join(map(record, numbers))
        for row, n in enumerate(numbers):
            index.add(record(n)[:16], segment, row)
    index.drop(0)
    for n in range(12_000):
        assert index.find(record(n)[:16]) == (record(n) if n >= 4_000 else None)
    assert len(record(0)) == RECORD_BYTES


# --- How batches say it ---------------------------------------------------------------------------

SPANS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), max_size=6)
"""Each span's gap to the one before, and its count."""


def placed(spans):
    """Return spans as places and counts."""
    found, end = [], 0
    for gap, count in spans:
        found.append((end + gap, count))
        end += gap + count
    return found


@given(SPANS, st.integers(1, 60), st.integers(0, 60))
def test_a_batchs_keys_are_those_of_its_messages(spans, messages, by):
    spans = placed(spans)
    packed = b"".join(keyed(place, digests(place), count) for place, count in spans)
    fits = all(count for _, count in spans) and sum(spans[-1] if spans else ()) <= messages
    assert is_keyed(packed, messages) == fits
    assert [(place, count) for place, count, *_ in keyed_messages(packed)] == spans
    further = list(keyed_messages(moved(packed, by)))
    assert [(place, count) for place, count, *_ in further] == [(n + by, m) for n, m in spans]
    assert all(key + request == digests(place - by) for place, _, key, request in further)
    assert without_first(moved(packed, by), by) == packed
    first = spans[0][0] + 1 if spans else 0
    assert len(list(keyed_messages(without_first(packed, first)))) == sum(
        n >= first for n, _ in spans
    )


@pytest.mark.parametrize(
    "packed",
    [
        b"x",
        keyed(0, bytes(32))[:-1],
        keyed(1, bytes(32)) * 2,
        keyed(2, bytes(32)) + keyed(1, bytes(32)),
        keyed(0, bytes(32), 0),
        keyed(0, bytes(32), 3) + keyed(2, bytes(32)),
        keyed(8, bytes(32), 3),
    ],
)
def test_keys_that_do_not_rise_are_none(packed):
    assert not is_keyed(packed, 10)


@given(SPANS, st.lists(st.integers(0, 50), min_size=6, max_size=6))
def test_what_was_left_out_rises_and_lies_in_the_ledger(spans, positions):
    spans = [(*span, at) for span, at in zip(placed(spans), positions, strict=False)]
    packed = pack_left_out(spans)
    assert list(left_out_spans(packed)) == spans
    places = [n for place, count, _ in spans for n in range(place, place + count)]
    assert left_out_places(packed) == places
    fits = bool(spans) and all(
        count and place + count <= 20 and (at == 0 or at + count - 1 <= 40)
        for place, count, at in spans
    )
    assert is_left_out(packed, 20, 40) == fits
    assert not is_left_out(packed + b"x", 20, 40)
    assert not is_left_out(pack_left_out([(3, 2, 1), (4, 1, 9)]), 20, 40)


@given(SPANS, st.integers(0, 20), st.integers(1, 90))
def test_a_groups_positions_are_those_of_its_messages(spans, rest, first):
    """What was stored takes the next position; what was known has that of its key's."""
    spans = [(place, count, 100 + 10 * place) for place, count in placed(spans) if count]
    count = sum(spans[-1][:2]) + rest if spans else rest
    known = {place + n: at + n for place, size, at in spans for n in range(size)}
    expected, at = [], first
    for place in range(count):
        expected.append(known.get(place, at))
        at += place not in known
    assert Grouped(Position(first), count, tuple(spans)).positions() == expected


def test_a_group_under_a_known_key_takes_no_position():
    """All of it, or nothing: and those around it are stored without a gap."""
    history = History()
    history.define(route("/x"))
    session = history.open()
    history.accept_keyed(session, (1, None, ""), (1, "k", "r", 3), (1, None, ""))
    assert history.ledger.tip == 5
    number = history.accept_keyed(session, (1, "new", "r", 2), (1, "k", "r", 3), (1, "late", "r"))
    assert list(left_out_spans(history.ledger.left_out(session, number))) == [(2, 3, 2)]
    assert history.ledger.tip == 8
    assert history.ledger.key_tally.replays == 3
    number = history.accept_keyed(session, (1, "late", "r"), (1, "k", "s", 3))
    assert list(left_out_spans(history.ledger.left_out(session, number))) == [(0, 1, 8), (1, 3, 0)]
    assert history.ledger.tip == 8
    assert history.ledger.key_tally.mismatches == 3


# --- Asked without an entry -------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1), st.integers(0, 130)), max_size=99))
def test_what_is_known_is_what_the_next_batch_would_leave_out(steps):
    """While there is room for all; and asking changes nothing."""
    keys, now_us, position = Keys(), 0, 0
    keys.bound(KeyBounds(WINDOW_US, 1_000), 0)
    for key, request, step_us in steps:
        now_us += step_us * step_us
        packed = keyed(0, digests(key, request))
        before = keys.state(), list(keys.sections())
        known = keys.known(packed, now_us)
        assert (keys.state(), list(keys.sections())) == before
        if now_us >= keys.due_us:
            keys.tidy(now_us)
        assert known == keys.take(packed, position + 1, now_us)
        position += not known


def test_keys_that_are_past_the_window_are_not_known_though_nothing_came_since():
    """Sealed ones and open ones, which only the next batch drops."""
    keys = Keys()
    keys.bound(KeyBounds(WINDOW_US, 32), 0)
    for n in range(3):
        take(keys, n, first=n + 1, now_us=n)

    def known(key: int, now_us: int) -> bool:
        return bool(keys.known(keyed(0, digests(key)), now_us))

    assert [known(n, WINDOW_US) for n in range(3)] == [True] * 3
    assert [known(n, WINDOW_US + 1) for n in range(3)] == [False, False, True]
    assert [known(n, WINDOW_US + 2) for n in range(3)] == [False] * 3
    assert keys.held == 3


def test_messages_are_known_if_all_of_them_are():
    """Where the first ones stand, or that one key came with another request."""
    history = History()
    history.define(route("/x"))
    session = history.open()
    history.accept_keyed(session, (1, "k", "r", 2), (1, "l", "r"))
    whole, reused = (keyed(0, digests("k", (request, 2)), 2) for request in "rs")
    single, new = (keyed(0, digests(key, ("r", 1))) for key in "lm")

    def known(messages: int, *packed: bytes) -> list[tuple[int, int, int]]:
        return list(left_out_spans(history.ledger.known(b"".join(packed), messages)))

    assert known(2, whole) == [(0, 2, 1)]
    assert known(2, reused) == [(0, 2, 0)]
    assert known(3, single, moved(whole, 1)) == [(0, 1, 3), (1, 2, 1)]
    assert known(2, single, moved(new, 1)) == []
    assert known(3, whole) == []
    assert known(1) == []
    history.bound(7_000_000, 0)
    assert known(1, single) == []
