"""The ledger against a simple model: lists and sets of positions, kept one by one."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import example, given, settings
from hypothesis import strategies as st

from crowd.command import Control, Enroll, Release
from crowd.ledger import Ledger
from crowd.ledger.head import DIGEST_EVERY, DIGESTS_KEPT
from tests.unit.ledger.history import History, consumer, route

PATHS = ("/r1", "/r2", "/r3")
NAMES = ("c1", "c2")
CHOSEN = st.sets(st.sampled_from(PATHS)).map(lambda paths: tuple(sorted(paths)))

STEP = st.one_of(
    st.tuples(
        st.just("accept"),
        st.lists(st.integers(1, 3), min_size=1, max_size=6),
        st.sampled_from([0, 1, 2]),  # how often the same proposal comes again
    ),
    st.tuples(
        st.just("define"),
        st.sampled_from(NAMES),
        CHOSEN,
        st.sampled_from(["now", "beginning"]),
    ),
    st.tuples(
        st.just("settle"),
        st.integers(1, 2),
        st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=3),
    ),
    st.tuples(st.just("release"), st.integers(0, 8)),  # how many entries below the newest
    st.tuples(st.just("skip")),
)


class Model:
    """Each consumer's own and settled positions as plain sets."""

    def __init__(self):
        self.route_of = []
        self.sizes = []
        self.index_of = []
        self.own, self.done, self.takes = {}, {}, {}
        self.released, self.beginning = 0, 0

    def accept(self, index, routes, sizes):
        for route_id, size in zip(routes, sizes, strict=True):
            self.route_of.append(route_id)
            self.sizes.append(size)
            self.index_of.append(index)
            for name, takes in self.takes.items():
                if not takes or route_id in takes:
                    self.own[name].add(len(self.route_of))

    def define(self, name, paths, from_):
        self.takes[name] = {PATHS.index(path) + 1 for path in paths}
        if name not in self.own:
            self.own[name], self.done[name] = set(), set()
            if from_ == "beginning":
                takes = self.takes[name]
                self.own[name] = {
                    position
                    for position, route_id in enumerate(self.route_of, 1)
                    if position > self.beginning and (not takes or route_id in takes)
                }

    def release(self, floor):
        through = sum(index <= floor for index in self.index_of)
        lowest = min(map(self.watermark, self.own), default=None)
        if floor > self.released and lowest is not None and through <= lowest:
            self.released, self.beginning = floor, through

    def watermark(self, name):
        left = self.own[name] - self.done[name]
        return min(left) - 1 if left else len(self.route_of)


def play(steps, *, chunk_rows=3):
    """Play steps to a ledger and to the model; yield both after each."""
    history, model = History(chunk_rows=chunk_rows), Model()
    history.define(*map(route, PATHS))
    session = history.open()
    for what, *given_ in steps:
        if what == "accept":
            routes, repeats = given_
            history.accept(session, *routes, size=len(model.route_of) % 7)
            index = history.ledger.applied_index
            again = history.commands[-1]
            for _ in range(repeats):
                history.apply(again)
            model.accept(index, routes, [len(model.route_of) % 7] * len(routes))
        elif what == "define":
            name, paths, from_ = given_
            history.define(consumer(name, *paths, from_=from_))
            model.define(name, paths, from_)
        elif what == "settle":
            consumer_id, jumps = given_
            ranges, last = [], 0
            for jump, length in jumps:
                ranges.append((last + jump, last + jump + length))
                last = ranges[-1][1]
            history.settle(consumer_id, *ranges)
            for name, own in model.own.items():
                if history.ledger.consumer_id(name) == consumer_id:
                    inside = {p for a, b in ranges for p in range(a, b + 1)}
                    model.done[name] |= own & inside
        elif what == "release":
            floor = history.ledger.applied_index - given_[0]
            if floor > 0:
                history.apply(Release(floor))
                model.release(floor)
        else:
            history.ledger.skip(history.ledger.applied_index + 1, 1)
        yield history, model


def check(ledger: Ledger, model: Model) -> None:
    tip = len(model.route_of)
    assert ledger.tip == tip
    assert (ledger.released_index, ledger.beginning) == (model.released, model.beginning)
    for position in range(model.beginning + 1, tip + 1):
        place = ledger.place(position)
        assert (place.route, place.index) == (
            model.route_of[position - 1],
            model.index_of[position - 1],
        )
    for name in model.own:
        consumer_id = ledger.consumer_id(name)
        left = sorted(model.own[name] - model.done[name])
        assert ledger.pending(consumer_id, 0, tip + 1) == left
        assert ledger.pending(consumer_id, tip // 2, 2) == [p for p in left if p > tip // 2][:2]
        assert ledger.pending(consumer_id, 0, tip + 1) == left
        assert ledger.backlog(consumer_id) == len(left)
        assert ledger.watermark(consumer_id) == model.watermark(name)
        assert [p for p in range(1, tip + 1) if not ledger.is_settled(consumer_id, p)] == left
        check_ranges(ledger, consumer_id, left)
    lowest = min(map(model.watermark, model.own), default=0)
    assert ledger.lowest_watermark == lowest
    assert ledger.backlog_bytes == sum(model.sizes[lowest:])


def check_ranges(ledger, consumer_id, left):
    """Each settled range lies above the watermark and begins right behind an unsettled one."""
    for first, last in ledger.consumers[consumer_id].settled:
        assert ledger.watermark(consumer_id) < first <= last <= ledger.tip
        assert first - 1 in left


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=40))
@example([("define", "c1", ("/r1",), "now"), ("accept", [1, 2, 1, 2], 0), ("settle", 1, [(3, 0)])])
def test_i3_the_ledger_is_what_its_model_is_after_every_entry(steps):
    for history, model in play(steps):
        check(history.ledger, model)


@settings(deadline=None)
@given(st.lists(STEP, max_size=30), st.data())
def test_i5_one_history_is_one_digest_whatever_was_asked_meanwhile(steps, data):
    """Ledgers with other chunks, asked, cut and restored at other times, are the same state."""
    asked = []
    for history, model in play(steps, chunk_rows=2):
        ledger = history.ledger
        for consumer_id in ledger.consumers:
            after = data.draw(st.integers(0, 20))
            ledger.pending(consumer_id, after, data.draw(st.integers(1, 5)))
        if data.draw(st.booleans()):
            ledger.forget(data.draw(st.integers(0, ledger.released_index + 1)))
        if data.draw(st.booleans()):
            history.ledger = Ledger(chunk_rows=data.draw(st.integers(1, 5)))
            history.ledger.restore(ledger.capture())
            ledger = history.ledger
        check(ledger, model)
        asked.append(ledger.digest())
    assert asked == [history.ledger.digest() for history, _ in play(steps, chunk_rows=100)]


@settings(deadline=None)
@given(st.lists(STEP, min_size=1, max_size=15), st.integers(0, 14))
def test_i5_another_history_is_another_digest(steps, drop):
    """One message more, anywhere, shows in the digest for ever after."""
    place = drop % (len(steps) + 1)
    longer = [*steps[:place], ("accept", [1], 0), *steps[place:]]
    shorter = [*steps[:place], ("skip",), *steps[place:]]
    digests = [[history.ledger.digest() for history, _ in play(s)][-1] for s in (longer, shorter)]
    assert digests[0] != digests[1]


def test_i5_the_messages_themselves_are_in_the_digest():
    """Other bodies, and other bounds between them, are another history."""
    digests = set()
    for batch in ((b"one", b"three"), (b"two", b"three"), (b"onet", b"hree"), (b"o", b"nethree")):
        history = History()
        history.define(route("/x"))
        session = history.open()
        history.accept(session, 1)
        accept = history.commands[-1]
        history.apply(type(accept)(session, 2, 2, (1, 1), batch))
        digests.add(history.ledger.digest())
    assert len(digests) == 4


def scripted() -> Ledger:
    """Return a ledger of a history with something of everything, always the same."""
    steps = [("define", "c1", ("/r3", "/r1"), "now"), ("define", "c2", (), "beginning")]
    for n in range(60):
        steps.append(("accept", [1 + (n + k) % 3 for k in range(1 + n % 4)], n % 2))
        steps.append(("settle", 1 + n % 2, [(n, n % 3), (2, 1)] if n else [(1, 0)]))
    steps += [("settle", 1, [(1, 50)]), ("settle", 2, [(1, 30)]), ("release", 100)]
    *_, (history, _) = play(steps)
    assert history.ledger.beginning > 0
    history.apply(Enroll("d", "d:2104", history.ledger.members_index))
    for node in "cb":
        history.define(route("/more"), consumer("c3", "/more"), node=node)
        history.accept(history.open(node), 1, 4)
    for nonce in (b"2" * 16, b"3" * 16):
        history.accept(history.open("b", nonce), 2, 4)
    history.apply(Control(2, "pause"))
    return history.ledger


def test_i5_every_process_finds_the_same_digest():
    """The order of hash tables, which differs between processes, does not show."""
    script = "from tests.unit.ledger.test_model import scripted; print(scripted().digest().hex())"
    root = os.fspath(__file__).split("/tests/", maxsplit=1)[0]
    expected = scripted().digest().hex()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.strip() == expected


def test_digests_are_remembered_at_multiples():
    ledger = Ledger()
    for index in range(1, DIGEST_EVERY * (DIGESTS_KEPT + 2) + 1):
        ledger.skip(index, 0)
        if index == DIGEST_EVERY * 3:
            third = ledger.digest()
    assert list(ledger.digests) == [DIGEST_EVERY * n for n in (3, 4, 5, 6)]
    assert ledger.digests[DIGEST_EVERY * 3] == third
