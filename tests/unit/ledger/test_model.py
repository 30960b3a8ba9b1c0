"""The ledger against a simple model: lists and sets of positions, kept one by one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from hashlib import sha256

from hypothesis import example, given, settings
from hypothesis import strategies as st

from crowd.command import (
    Conclude,
    Control,
    Dismiss,
    Enroll,
    Once,
    Purge,
    Release,
    Remember,
    Replay,
    Skip,
    Trial,
)
from crowd.idempotency import left_out_spans
from crowd.ledger import Ledger
from crowd.ledger.head import DIGEST_EVERY, DIGESTS_KEPT
from tests.unit.ledger.history import History, burial, consumer, route

PATHS = ("/r1", "/r2", "/r3")
NAMES = ("c1", "c2")
CHOSEN = st.sets(st.sampled_from(PATHS)).map(lambda paths: tuple(sorted(paths)))
FEW = st.sets(st.integers(1, 12), min_size=1, max_size=5).map(sorted)
DEAD_FOR_US = 20_000_000
"""Twenty entries of a history."""

STEP = st.one_of(
    st.tuples(
        st.just("accept"),
        st.lists(st.integers(1, 3), min_size=1, max_size=6),
        st.sampled_from([0, 1, 2]),  # how often the same proposal comes again
    ),
    st.tuples(
        st.just("keyed"),
        st.lists(
            st.tuples(
                st.integers(1, 3),
                st.none() | st.integers(1, 40),
                st.sampled_from("rrrs"),
                st.sampled_from([1, 1, 1, 2, 5]),  # so many in one request
            ),
            min_size=1,
            max_size=6,
        ),
        st.sampled_from([0, 1]),
    ),
    st.tuples(
        st.just("bound"),
        st.sampled_from([3, 8, 100]),  # entries
        st.sampled_from([0, 1, 2, 7, 40, 500]),
    ),
    st.tuples(
        st.just("define"),
        st.sampled_from(NAMES),
        CHOSEN,
        st.sampled_from(["now", "beginning", "position:7", "1970-01-01T00:00:15Z"]),
        st.sampled_from(
            [
                (0, 0, "refuse"),
                (0, 0, "refuse"),
                (9, 0, "refuse"),
                (9, 0, "skip"),
                (0, 3, "refuse"),
                (0, 3, "skip"),
                (9, 3, "skip"),
            ]
        ),
    ),
    st.tuples(
        st.just("settle"),
        st.integers(1, 3),
        st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=3),
    ),
    st.tuples(st.just("release"), st.integers(0, 8)),  # how many entries below the newest
    st.tuples(st.just("skip")),
    st.tuples(
        st.just("bury"),
        st.integers(1, 3),
        FEW,
        st.sampled_from(["dead", "parked"]),
        st.sampled_from([0, 0, 0, 1, 2, 3]),  # who it waits for
    ),
    st.tuples(st.just("replay"), st.integers(1, 3), FEW),
    st.tuples(st.just("conclude"), st.integers(1, 3), FEW),
    st.tuples(st.just("purge"), st.sampled_from(["operator", "age"]), FEW),
    st.tuples(st.just("remember"), st.integers(1, 3), FEW),
    st.tuples(st.just("pass"), st.integers(1, 3), st.integers(1, 20)),
    st.tuples(st.just("dismiss"), st.integers(1, 3), st.sampled_from(["drop", "refuse"])),
)


class Model:
    """Each consumer's own and settled positions as plain sets, by its name while it lives.

    Letters are ``[consumer, position, state, target, message, when]`` by number.
    """

    def __init__(self):
        self.route_of = []
        self.sizes = []
        self.index_of = []
        self.offset_of = []
        self.own, self.done, self.takes, self.full = {}, {}, {}, {}
        self.skipped, self.ids, self.gone = {}, {}, {}
        self.letters, self.last_letter, self.tallies = {}, 0, {}
        self.came, self.went = {}, []
        self.remembered = {}
        self.released, self.beginning = 0, 0
        self.keys = KeyModel()

    def name_of(self, consumer_id):
        return next((name for name, known in self.ids.items() if known == consumer_id), None)

    def left(self, name):
        return sorted(self.own[name] - self.done[name])

    def bytes_left(self, name):
        return sum(self.sizes[position - 1] for position in self.left(name))

    def is_full(self, name):
        bytes_max, count_max, _ = self.full[name]
        over = 0 < bytes_max <= self.bytes_left(name)
        return over or 0 < count_max <= len(self.left(name))

    def accept(self, index, routes, sizes, left_out=()):
        skips = {
            name
            for name, (_, _, when_full) in self.full.items()
            if when_full == "skip" and self.is_full(name)
        }
        for place, (route_id, size) in enumerate(zip(routes, sizes, strict=True)):
            if place in left_out:
                continue
            self.offset_of.append(place)
            self.route_of.append(route_id)
            self.sizes.append(size)
            self.index_of.append(index)
            for name, takes in self.takes.items():
                if not takes or route_id in takes:
                    self.own[name].add(len(self.route_of))
                    if name in skips:
                        self.done[name].add(len(self.route_of))
                        self.skipped[name] += 1

    def define(self, name, paths, from_, full, begins):
        """Begin behind `begins`, where that is not for the model to say."""
        takes = self.takes[name] = {PATHS.index(path) + 1 for path in paths}
        self.full[name] = full
        if name in self.own:
            return
        self.ids[name] = max([*self.ids.values(), *self.gone], default=0) + 1
        self.own[name], self.done[name], self.skipped[name] = set(), set(), 0
        begins = {"now": len(self.route_of), "beginning": self.beginning}.get(from_, begins)
        self.own[name] = {
            position
            for position, route_id in enumerate(self.route_of, 1)
            if position > begins and (not takes or route_id in takes)
        }

    def settle(self, name, positions):
        self.done[name] |= self.own[name] & set(positions)

    def skip(self, name, through):
        more = {position for position in self.left(name) if position <= through}
        self.skipped[name] += len(more)
        self.done[name] |= more

    def dismiss(self, name, index, backlog):
        left = len(self.left(name))
        if backlog == "refuse" and left:
            return
        consumer_id = self.ids[name]
        for state in (self.own, self.done, self.takes, self.full, self.skipped, self.ids):
            del state[name]
        self.gone[consumer_id] = (name, index, left)
        self.remembered.pop(consumer_id, None)
        for letter in self.letters.values():
            if letter[3] == consumer_id:
                letter[2:4] = "dead", 0

    def count(self, consumer_id, what):
        self.tallies.setdefault(consumer_id, dict.fromkeys(TALLY, 0))[what] += 1

    def bury(self, consumer_id, positions, state, target, index, messages):
        name = self.name_of(consumer_id)
        left = [] if name is None else self.left(name)
        for position, message in zip(positions, messages, strict=True):
            older = self.letter_of(consumer_id, position)
            waits = older is not None and self.letters[older][3] == (target or consumer_id)
            if position in left:
                self.count(consumer_id, state)
            elif waits and state == "dead":
                del self.letters[older]
                self.went.append(older)
                self.count(consumer_id, "again")
            else:
                continue
            self.last_letter += 1
            waits_for = consumer_id if state == "parked" else 0
            self.letters[self.last_letter] = [
                consumer_id, position, state, waits_for, message, index
            ]  # fmt: skip
            self.came[self.last_letter] = message
            if name is not None:
                self.done[name].add(position)

    def letter_of(self, consumer_id, position):
        return next(
            (n for n, known in self.letters.items() if known[:2] == [consumer_id, position]), None
        )

    def replay(self, target, numbers):
        for number in numbers:
            if number in self.letters and self.letters[number][2] != "parked":
                self.letters[number][2:4] = "replay", target

    def remove(self, numbers, what, may):
        for number in numbers:
            if number in self.letters and may(self.letters[number]):
                self.count(self.letters.pop(number)[0], what)
                self.went.append(number)

    def release(self, floor):
        through = sum(index <= floor for index in self.index_of)
        if floor > self.released and self.own and through <= min(map(self.watermark, self.own)):
            self.released, self.beginning = floor, through

    def watermark(self, name):
        left = self.left(name)
        return left[0] - 1 if left else len(self.route_of)


class KeyModel:
    """Known keys as dictionaries, one for each segment; the newest one is still open.

    A segment is ``[since, last, {key: (request, position)}]``, its times in entries.
    """

    def __init__(self):
        self.segments, self.opened = [], None
        self.window, self.count_max = 86_400, 500_000
        self.replays = self.mismatches = self.evicted = 0

    @property
    def room(self):
        return max(1, min(4_096, self.count_max // 16))

    def bound(self, window, count_max, now):
        self.window, self.count_max = window, count_max
        if self.opened and len(self.opened[2]) >= self.room:
            self.seal(now)

    def take(self, messages, tip, now):
        """Return what is left out: a first position by its place, or 0."""
        if self.opened and self.opened[0] + self.window / 16 <= now:
            self.seal(now)
        else:
            self.drop(now)
        left_out, behind = {}, 0
        for _, key, request, *more in messages:
            count = more[0] if more else 1
            place, behind = behind, behind + count
            if key is None or not self.count_max:
                continue
            opened = [self.opened] if self.opened else []
            known = [keys[key] for _, _, keys in [*self.segments, *opened] if key in keys]
            if not known:
                self.remember(key, (request, count), tip + 1 + place - len(left_out), now)
                continue
            ((first, position),) = known
            same = first == (request, count)
            left_out |= {place + n: position + n if same else 0 for n in range(count)}
            self.replays += count * same
            self.mismatches += count * (not same)
        return left_out

    def remember(self, key, request, position, now):
        self.opened = self.opened or [now, now, {}]
        self.opened[1] = now
        self.opened[2][key] = request, position
        if len(self.opened[2]) >= self.room:
            self.seal(now)

    def seal(self, now):
        self.segments.append(self.opened)
        self.opened = None
        self.drop(now)

    def drop(self, now):
        while self.segments:
            early = self.segments[0][1] + self.window > now
            if early and sum(map(len, self.all_sealed)) + self.room <= self.count_max:
                break
            self.evicted += early * len(self.segments.pop(0)[2])

    @property
    def all_sealed(self):
        return [keys for _, _, keys in self.segments]

    @property
    def held(self):
        return sum(map(len, self.all_sealed)) + len(self.opened[2] if self.opened else ())


TALLY = ("dead", "parked", "again", "concluded", "purged", "expired")


def play(steps, *, chunk_rows=3):
    """Play steps to a ledger and to the model; yield both after each."""
    history, model = History(chunk_rows=chunk_rows), Model()
    history.define(*map(route, PATHS))
    session = history.open()
    for step in steps:
        play_one(history, model, session, *step)
        yield history, model


def play_one(history, model, session, what, *given_):
    """Play one step to both."""
    following = history.ledger.applied_index + 1
    if what == "accept":
        routes, repeats = given_
        size = 1 + len(model.route_of) % 7
        history.accept(session, *routes, size=size)
        again = history.commands[-1]
        for _ in range(repeats):
            history.apply(again)
        model.keys.take((), len(model.route_of), following)
        model.accept(following, routes, [size] * len(routes))
    elif what == "keyed":
        play_keyed(history, model, session, following, *given_)
    elif what == "bound":
        window, count_max = given_
        history.bound(window * 1_000_000, count_max)
        model.keys.bound(window, count_max, following)
    elif what == "define":
        name, paths, from_, (bytes_max, count_max, when_full) = given_
        known = name in model.own
        definition = consumer(
            name, *paths, from_=from_, backlog_bytes=bytes_max, when_full=when_full,
            dead_for_us=DEAD_FOR_US, backlog_messages=count_max,
        )  # fmt: skip
        history.define(definition)
        begins = history.ledger.consumers[history.ledger.consumer_id(name)].from_position
        if not known:
            check_beginning(model, from_, begins)
        model.define(name, paths, from_, (bytes_max, count_max, when_full), begins)
    elif what == "release":
        floor = history.ledger.applied_index - given_[0]
        if floor > 0:
            history.apply(Release(floor))
            model.release(floor)
    elif what == "conclude":
        consumer_id, numbers = given_
        history.apply(Conclude(consumer_id, tuple(numbers)))
        model.remove(numbers, "concluded", lambda letter: letter[3] == consumer_id)
    elif what == "purge":
        reason, numbers = given_
        history.apply(Purge(reason, tuple(numbers)))
        if reason == "operator":
            model.remove(numbers, "purged", lambda letter: True)
        else:
            young = following - DEAD_FOR_US // 1_000_000
            model.remove(
                numbers, "expired", lambda letter: letter[2] == "dead" and letter[5] <= young
            )
    elif what == "skip":
        history.ledger.skip(following, 1)
    else:
        play_to_one(history, model, following, what, *given_)


def play_keyed(history, model, session, index, messages, repeats):
    """Accept messages of which some have keys; what is offered again has the same results."""
    left_out = model.keys.take(messages, len(model.route_of), index)
    number = history.accept_keyed(session, *messages)
    again = history.commands[-1]
    for _ in range(repeats + 1):
        packed = history.ledger.left_out(session, number)
        assert spread(left_out_spans(packed)) == left_out
        assert history.ledger.acceptance(session, number) == len(model.route_of) + 1
        history.apply(again)
    routes = [route for route, *_, count in spelt_out(messages) for _ in range(count)]
    model.accept(index, routes, [3] * len(routes), left_out)


def spelt_out(messages):
    """Return each message, or group, with its count."""
    return [(*each, 1)[:4] for each in messages]


def spread(spans):
    """Return the position under its key of each message that was left out, 0 for a refusal."""
    return {
        place + n: position and position + n
        for place, count, position in spans
        for n in range(count)
    }


def play_to_one(history, model, index, what, consumer_id, *given_):
    """Play a step that is about one consumer, which may not be there."""
    name = model.name_of(consumer_id)
    if what == "settle":
        ranges, last = [], 0
        for jump, length in given_[0]:
            ranges.append((last + jump, last + jump + length))
            last = ranges[-1][1]
        history.settle(consumer_id, *ranges)
        if name is not None:
            model.settle(name, {p for a, b in ranges for p in range(a, b + 1)})
    elif what == "bury":
        positions, state, target = given_
        target = 0 if target == consumer_id else target
        messages = [b"m" * (1 + position % 3) for position in positions]
        both = zip(positions, messages, strict=True)
        burials = [burial(p, state, message=m) for p, m in both]
        history.bury(consumer_id, *burials, target=target)
        model.bury(consumer_id, positions, state, target, index, messages)
    elif what == "replay":
        history.apply(Replay(consumer_id, tuple(given_[0])))
        if name is not None:
            model.replay(consumer_id, given_[0])
    elif what == "remember":
        trials = tuple(Trial(position, 0, 1, 5, index) for position in given_[0])
        command = Remember(consumer_id, 1, 2, index, trials)
        history.apply(command)
        if name is not None:
            model.remembered[consumer_id] = command
    elif what == "pass":
        history.apply(Skip(consumer_id, given_[0]))
        if name is not None:
            model.skip(name, given_[0])
    else:
        history.apply(Dismiss(consumer_id, given_[0]))
        if name is not None:
            model.dismiss(name, index, given_[0])


def check_beginning(model, from_, begins):
    """A time takes all that was accepted at it or later; a position is the first one taken."""
    tip = len(model.route_of)
    assert model.beginning <= begins <= tip
    if from_ == "position:7":
        assert begins == min(max(6, model.beginning), tip)
    elif "T" in from_:
        assert all(index < 15 for index in model.index_of[:begins]) or begins == model.beginning


def check(ledger: Ledger, model: Model) -> None:
    tip = len(model.route_of)
    assert ledger.tip == tip
    assert (ledger.released_index, ledger.beginning) == (model.released, model.beginning)
    for position in range(model.beginning + 1, tip + 1):
        place = ledger.place(position)
        assert (place.route, place.index, place.offset) == (
            model.route_of[position - 1],
            model.index_of[position - 1],
            model.offset_of[position - 1],
        )
    assert list(ledger.consumers) == sorted(model.ids.values())
    for name, consumer_id in model.ids.items():
        assert ledger.consumer_id(name) == consumer_id
        left = model.left(name)
        assert ledger.pending(consumer_id, 0, tip + 1) == left
        assert ledger.pending(consumer_id, tip // 2, 2) == [p for p in left if p > tip // 2][:2]
        assert ledger.pending(consumer_id, 0, tip + 1) == left
        assert ledger.backlog(consumer_id) == len(left)
        assert ledger.watermark(consumer_id) == model.watermark(name)
        assert [p for p in range(1, tip + 1) if not ledger.is_settled(consumer_id, p)] == left
        own = sorted(model.own[name])
        for some in filter(None, (own, own[::3], own[-2:])):
            assert ledger.settled_of(consumer_id, some) == [p for p in some if p not in left]
        check_ranges(ledger, consumer_id, left)
        check_bounds(ledger, model, name)
    lowest = min(map(model.watermark, model.own), default=model.beginning)
    assert ledger.lowest_watermark == lowest
    assert ledger.backlog_bytes == sum(model.sizes[lowest:])
    assert ledger.backlog_messages == len(model.sizes[lowest:])
    assert ledger.passed_bytes == sum(model.sizes[:lowest])
    check_letters(ledger, model)
    tally, keys = ledger.key_tally, model.keys
    assert ledger.keys_held == keys.held
    assert (tally.replays, tally.mismatches) == (keys.replays, keys.mismatches)
    assert tally.evicted == keys.evicted


def check_bounds(ledger, model, name):
    known = ledger.consumers[model.ids[name]]
    when_full = model.full[name][2]
    assert known.backlog_bytes == model.bytes_left(name)
    assert known.is_full == model.is_full(name)
    assert known.skipped == model.skipped[name]
    for route_id in (1, 2, 3):
        takes = not model.takes[name] or route_id in model.takes[name]
        refuses = known.is_full and when_full == "refuse" and takes
        assert (name in ledger.full_consumers(route_id)) == refuses


def check_letters(ledger, model):
    assert list(ledger.letters) == sorted(model.letters)
    for number, (consumer_id, position, state, target, message, index) in model.letters.items():
        letter = ledger.letters[number]
        assert (letter.number, letter.consumer, letter.position) == (number, consumer_id, position)
        assert (letter.state, letter.target) == (state, target)
        assert (letter.size, letter.sha256) == (len(message), sha256(message).digest())
        assert letter.buried_us == index * 1_000_000
        assert ledger.letter_at(consumer_id, position) == number
        assert ledger.is_letter(consumer_id, position)
    for consumer_id in {*model.ids.values(), *model.gone}:
        letters = {n: known for n, known in model.letters.items() if known[0] == consumer_id}
        counts = Counter(letter[2] for letter in letters.values())
        assert +Counter(ledger.letter_counts(consumer_id)) == counts
        assert ledger.dead_bytes(consumer_id) == sum(len(known[4]) for known in letters.values())
        due = sorted(n for n, letter in model.letters.items() if letter[3] == consumer_id)
        assert ledger.letters_due(consumer_id, 0, 999) == due
        assert ledger.letters_due(consumer_id, 2, 2) == [n for n in due if n > 2][:2]
        tally = ledger.letter_tally(consumer_id)
        wanted = model.tallies.get(consumer_id, dict.fromkeys(TALLY, 0))
        assert {what: getattr(tally, what) for what in TALLY} == wanted
        assert tally.held == len(letters)
        assert ledger.remembered(consumer_id) == model.remembered.get(consumer_id)
        assert not ledger.is_letter(consumer_id, 999)
    assert ledger.letters_after(0, 999) == sorted(model.letters)
    assert ledger.letters_after(2, 2) == sorted(n for n in model.letters if n > 2)[:2]
    young = ledger.log_time_us - DEAD_FOR_US
    old = sorted(
        n for n, known in model.letters.items() if known[2] == "dead" and known[5] * 1e6 <= young
    )
    assert ledger.expired(ledger.log_time_us, 999) == old
    assert ledger.expired(ledger.log_time_us, 1) == old[:1]
    assert {
        consumer_id: (gone.name, gone.index, gone.dropped)
        for consumer_id, gone in ledger.gone.items()
    } == model.gone


def check_ranges(ledger, consumer_id, left):
    """Each settled range lies above the watermark and begins right behind an unsettled one."""
    for first, last in ledger.consumers[consumer_id].settled:
        assert ledger.watermark(consumer_id) < first <= last <= ledger.tip
        assert first - 1 in left


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=40))
@example(
    [
        ("define", "c1", ("/r1",), "now", (0, 0, "refuse")),
        ("accept", [1, 2, 1, 2], 0),
        ("settle", 1, [(3, 0)]),
    ]
)
def test_i3_the_ledger_is_what_its_model_is_after_every_entry(steps):
    for history, model in play(steps):
        check(history.ledger, model)
        came, went = history.ledger.take_letter_changes()
        assert (dict(came), sorted(went)) == (model.came, sorted(model.went))
        model.came, model.went = {}, []


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
    unbounded = (0, 0, "refuse")
    steps = [
        ("define", "c1", ("/r3", "/r1"), "now", unbounded),
        ("define", "c2", (), "beginning", unbounded),
    ]
    for n in range(60):
        steps.append(("accept", [1 + (n + k) % 3 for k in range(1 + n % 4)], n % 2))
        steps.append(("settle", 1 + n % 2, [(n, n % 3), (2, 1)] if n else [(1, 0)]))
    steps += [("settle", 1, [(1, 50)]), ("settle", 2, [(1, 30)]), ("release", 100)]
    # Keys in segments, of which the oldest went early; then known ones of either kind.
    steps.append(("bound", 10_000, 96))
    steps += [("keyed", [(1 + n % 3, n, "r"), (1, n + 20, "r"), (2, n, "r")], 0) for n in range(20)]
    steps.append(("bound", 10_000, 32))
    steps.append(("keyed", [(2, 18, "r"), (1, 39, "s"), (3, 99, "r"), (3, 19, "r")], 0))
    *_, (history, _) = play(steps)
    assert history.ledger.beginning > 0
    history.apply(Enroll("d", "d:2104", history.ledger.members_index))
    for node in "cb":
        history.define(route("/more"), consumer("c3", "/more"), node=node)
        history.accept(history.open(node), 1, 4)
    for nonce in (b"2" * 16, b"3" * 16):
        history.accept(history.open("b", nonce), 2, 4)
    history.apply(Control(2, "pause"))
    bury_some(history)
    return history.ledger


def bury_some(history: History) -> None:
    """Have letters of each state in several sections, and consumers with and without memory."""
    ledger = history.ledger
    history.define(consumer("c4", from_="beginning"), consumer("c5", from_="beginning"))
    first = ledger.beginning + 1
    for state, begin, end in (("dead", 0, 50), ("parked", 50, 60), ("dead", 60, 75)):
        history.bury(4, *(burial(first + n, state, words="w" * n) for n in range(begin, end)))
    history.bury(5, first + 3, first + 7)
    history.apply(Replay(2, (1, 2, 5)))
    history.apply(Replay(5, (7, 76)))
    history.apply(Conclude(2, (2,)))
    history.apply(Conclude(4, (51,)))
    history.apply(Purge("operator", (10,)))
    history.bury(4, burial(first + 53))
    history.apply(Skip(4, first + 90))
    for consumer_id, trials in ((1, ()), (4, (Trial(first + 95, 0, 3, 5, 9),))):
        history.apply(Remember(consumer_id, 0, 5, 7, trials))
    for name in (b"1" * 16, b"2" * 16, b"1" * 16):
        history.apply(Once(name, Dismiss(5, "drop")))


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
