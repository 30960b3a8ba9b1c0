"""Operators' changes on their way to the log: a real ledger, and a node that notes its wishes."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest
from twisted.internet.task import Clock

from crowd.archive import EngineArchive
from crowd.command import (
    FORMAT,
    NO_FILE,
    Accept,
    Birth,
    Burial,
    Bury,
    Control,
    Define,
    Dismiss,
    Index,
    Member,
    OpenSession,
    Purge,
    Replay,
    SessionId,
    Skip,
    Term,
)
from crowd.config import read_consumer
from crowd.consumers import EngineConsumers
from crowd.definition import RouteDefinition
from crowd.errors import (
    BacklogLeftError,
    ChangeRefusedError,
    ConfigurationError,
    UnknownConsumerError,
    UnknownLetterError,
    UnknownOrderError,
)
from crowd.ledger import Ledger
from crowd.letters import WAITING_MAX, EngineLetters
from crowd.message import ConsumerId, Position, RouteId
from crowd.orders import ORDERS_MAX, SLICE_MAX, Orders
from crowd.web.dead import Selection
from crowd.wishes import PATIENCE_S, Wishes
from tests.unit.archives import NoLetters

LEADS = RouteDefinition("/leads", ("POST",), "refuse", None)


def definition(name, **keys):
    return read_consumer({"name": name, "url": "http://h", **keys}, "t", None)


class Node:
    """A ledger, and what is wanted of it; `commit` applies what is wanted, as a log would."""

    def __init__(self, *consumers, born=True):
        self.ledger = Ledger()
        self.ledger.skip(Index(1), Term(0))
        self.wanted = {}
        self.offered = []
        if born:
            member = Member("a", "", b"j" * 16)
            self.apply(Birth(cluster="c", tag="0123abcd", members=(member,), format=FORMAT))
            self.apply(Define("a", b"h" * 32, (LEADS,), tuple(map(definition, consumers))))
            self.apply(OpenSession("a", b"n" * 16))

    def apply(self, command):
        self.ledger.apply(Index(self.ledger.applied_index + 1), Term(1), 0, command)

    def accept(self, count):
        session, number = SessionId(4), len(self.ledger.digests) + 1
        self.apply(Accept(session, number, 1, (RouteId(1),) * count, (b"m",) * count))

    def want(self, name, done, make):
        self.wanted[name] = (done, make)

    def commit(self):
        """Offer what is wanted and apply it, unless it is done."""
        for name, (done, make) in list(self.wanted.items()):
            if not done(self.ledger):
                once = make()
                self.offered.append(once.command)
                self.apply(once)
            if done(self.ledger):
                del self.wanted[name]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def node():
    return Node("first")


@pytest.fixture
def consumers(node, clock):
    return EngineConsumers(Wishes(node, clock.seconds, random.Random(1)), "a", NoLetters(), list)


# --- Consumers ------------------------------------------------------------------------------------


def test_a_consumer_is_added_by_the_log_and_leaves_the_files_as_they_are(node, consumers):
    table = {"name": "second", "url": "http://h", "routes": ["/leads"], "rate": "5/s"}
    assert consumers.apply(table) == "second"
    node.commit()
    (command,) = node.offered
    assert (command.file_hash, command.routes, len(command.consumers)) == (NO_FILE, (), 1)
    assert [one["name"] for one in consumers.describe()] == ["first", "second"]
    assert node.ledger.file_hashes == {"a": b"h" * 32}
    assert node.wanted == {}


def test_a_node_that_starts_with_its_file_does_not_undo_what_was_applied(node, consumers):
    consumers.apply({"name": "first", "url": "http://h", "rate": "5/s"})
    node.commit()
    node.apply(Define("a", b"h" * 32, (LEADS,), (definition("first"),)))
    (first,) = node.ledger.consumers.values()
    assert first.definition.rate == "5/s"


def test_what_holds_already_is_asked_all_the_same(node, consumers):
    """Another order may be under way, and the one given last counts."""
    consumers.apply({"name": "first", "url": "http://h"})
    node.commit()
    assert (len(node.offered), node.wanted) == (1, {})


def test_a_consumer_that_was_added_and_removed_does_not_come_back(node, consumers):
    """Though it was offered twice before the log had it, and once more when it was gone again."""
    consumers.apply({"name": "second", "url": "http://h"})
    ((added, make),) = node.wanted.values()
    node.apply(make())
    consumers.remove("second", drop=False)
    node.apply(node.wanted["removal of second"][1]())
    node.apply(make())
    assert [one["name"] for one in consumers.describe()] == ["first"]
    assert added(node.ledger), "and is not offered again"
    node.commit()
    consumers.apply({"name": "second", "url": "http://h"})
    node.commit()
    assert [one["name"] for one in consumers.describe()] == ["first", "second"]


def test_of_two_orders_the_later_one_holds_though_the_earlier_one_comes_twice(node, consumers):
    """Paused and resumed again: a second copy of the first order does not stop it."""
    consumers.control("first", "pause")
    pause = node.wanted["control of first"][1]()
    node.apply(pause)
    consumers.control("first", "resume")
    node.apply(pause)
    node.commit()
    node.apply(pause)
    assert consumers.describe()[0]["paused"] is False


def test_an_order_holds_though_the_one_before_it_is_not_in_the_log_yet(node, consumers):
    """Resumed at once: the ledger does not show the pause yet, and that is not the end of it."""
    consumers.control("first", "pause")
    pause = node.wanted["control of first"][1]()
    consumers.control("first", "resume")
    assert not node.wanted["control of first"][0](node.ledger)
    node.apply(pause)
    node.commit()
    assert consumers.describe()[0]["paused"] is False


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "name: found nothing"),
        ({"name": "x", "url": "http://h", "routes": ["/gone"]}, "paths of routes that are known"),
        ({"name": "x", "url": "http://h", "colour": 1}, "colour: found an unknown key"),
        ({"name": "x", "url": None}, "url: found None; expected a URL"),
        ({"name": "x", "url": "http://h", "retry": []}, "retry: found []; expected a table"),
        ({"name": ["x"], "url": "http://h"}, "name: found"),
    ],
)
def test_a_table_with_a_problem_asks_nothing(node, consumers, table, words):
    with pytest.raises(ConfigurationError, match=words.replace("[", r"\[")):
        consumers.apply(table)
    assert node.wanted == {}


def test_there_are_at_most_256_consumers(clock):
    node = Node(*(f"c{number}" for number in range(256)))
    consumers = EngineConsumers(
        Wishes(node, clock.seconds, random.Random(1)), "a", NoLetters(), list
    )
    with pytest.raises(ChangeRefusedError, match="found 256 consumers"):
        consumers.apply({"name": "one-more", "url": "http://h"})
    consumers.apply({"name": "c7", "url": "http://other"})
    assert len(node.wanted) == 1


def test_a_consumer_is_paused_and_resumed(node, consumers):
    consumers.control("first", "pause")
    node.commit()
    assert consumers.describe()[0]["paused"] is True
    consumers.control("first", "resume")
    node.commit()
    assert node.offered == [Control(ConsumerId(1), "pause"), Control(ConsumerId(1), "resume")]
    assert node.wanted == {}


def test_the_newest_wish_for_a_consumer_holds(node, consumers):
    consumers.control("first", "pause")
    consumers.control("first", "resume")
    node.commit()
    assert node.offered == [Control(ConsumerId(1), "resume")]


def test_messages_are_skipped_up_to_what_there_is(node, consumers):
    with pytest.raises(ChangeRefusedError, match="nothing to skip"):
        consumers.skip("first", None)
    node.accept(9)
    with pytest.raises(ChangeRefusedError, match="found position 10; expected 9 at most"):
        consumers.skip("first", 10)
    assert consumers.skip("first", 4) == 4
    assert consumers.skip("first", None) == 9
    ((done, make),) = node.wanted.values()
    assert make().command == Skip(ConsumerId(1), Position(9))
    assert not done(node.ledger)


def test_a_consumer_with_messages_left_goes_only_if_they_may_be_dropped(node, consumers):
    node.accept(9)
    with pytest.raises(BacklogLeftError, match="found 9 messages") as refused:
        consumers.remove("first", drop=False)
    assert (refused.value.backlog, node.wanted) == (9, {})
    consumers.remove("first", drop=True)
    ((done, make),) = node.wanted.values()
    assert make().command == Dismiss(ConsumerId(1), "drop")
    assert not done(node.ledger)


def test_a_consumer_without_messages_goes_as_long_as_none_come(node, consumers):
    consumers.remove("first", drop=False)
    ((_, make),) = node.wanted.values()
    assert make().command == Dismiss(ConsumerId(1), "refuse")


def test_who_is_no_consumer_cannot_be_changed(node, consumers):
    for change in (
        lambda: consumers.control("x" * 999, "pause"),
        lambda: consumers.skip("other", None),
        lambda: consumers.remove("other", drop=True),
    ):
        with pytest.raises(UnknownConsumerError, match="expected one of first"):
            change()
    assert node.wanted == {}


def test_before_birth_nothing_can_be_changed(clock):
    node = Node(born=False)
    consumers = EngineConsumers(
        Wishes(node, clock.seconds, random.Random(1)), "a", NoLetters(), list
    )
    for change in (
        lambda: consumers.apply({"name": "x", "url": "http://h"}),
        lambda: consumers.control("x", "pause"),
    ):
        with pytest.raises(ChangeRefusedError, match="not born yet"):
            change()
    assert consumers.describe() == []


def test_a_definition_is_shown_by_its_fields_and_without_a_secret(node, consumers):
    consumers.apply(
        {"name": "first", "url": "http://h", "secrets": ["env:X"], "retry": {"schedule": ["5 s"]}}
    )
    node.commit()
    shown = json.loads(json.dumps(consumers.describe()))[0]["definition"]
    assert (shown["from"], shown["secrets"]) == ("now", ["env:X"])
    assert shown["retry"]["schedule_us"] == [5_000_000]


def test_a_wish_is_given_up_after_a_minute(node, consumers, clock):
    consumers.control("first", "pause")
    ((done, _),) = node.wanted.values()
    clock.advance(PATIENCE_S - 0.1)
    assert not done(node.ledger)
    clock.advance(0.1)
    assert done(node.ledger)


def test_what_no_leader_takes_is_not_wished_for(node, clock):
    with pytest.raises(ChangeRefusedError, match="what the log does not take"):
        Wishes(node, clock.seconds, random.Random(1)).ask("x", Purge("operator", (2, 1)))
    assert node.wanted == {}


# --- Letters --------------------------------------------------------------------------------------


def letter(number, consumer=1, state="dead", buried_us=0, reason="answer", target=0):
    return SimpleNamespace(
        number=number, consumer=ConsumerId(consumer), position=Position(number), state=state,
        target=ConsumerId(target), reason=reason, status=422, words="no", attempts=1, first_us=1,
        last_us=2, buried_us=buried_us, size=3, sha256=b"s" * 32,
    )  # fmt: skip


class Archive:
    """Letters that a test sets; consumer 9, `old`, is gone."""

    def __init__(self, *letters):
        self.letters = {one.number: one for one in letters}
        self.messages = {}
        self.calls = []

    def letter(self, number):
        return self.letters.get(number)

    def after(self, number, limit):
        return [one for one in sorted(self.letters) if one > number][:limit]

    def counts(self, consumer):
        return {"dead": len(self.letters)}

    def gone(self):
        return {ConsumerId(9): "old"}

    def message(self, number):
        return self.messages.get(number)

    def on_messages(self, call):
        self.calls.append(call)


class Desk:
    """Letters, orders and the log between them: `turn` lets the log apply what is wanted."""

    def __init__(self, clock, *letters):
        self.clock = clock
        self.node = Node("first", "second")
        self.archive = Archive(*letters)
        wishes = Wishes(self.node, clock.seconds, random.Random(1))
        self.orders = Orders(clock, wishes)
        self.letters = EngineLetters(clock, wishes, self.archive, self.orders)
        self.asked = []

    def turn(self, seconds=0.1):
        for name, (done, make) in list(self.node.wanted.items()):
            if not done(self.node.ledger):
                self.apply(make())
            assert done(self.node.ledger)
            del self.node.wanted[name]
        self.clock.advance(seconds)

    def apply(self, once):
        command = once.command
        self.asked.append(command)
        for number in command.letters:
            if isinstance(command, Purge):
                self.archive.letters.pop(number, None)
            else:
                old = self.archive.letters[number]
                self.archive.letters[number] = SimpleNamespace(
                    **vars(old) | {"state": "replay", "target": command.consumer}
                )

    def order(self):
        return self.orders.describe()[-1]


def test_letters_are_listed_by_what_is_asked(clock):
    desk = Desk(
        clock, letter(1), letter(2, consumer=2), letter(3, reason="age", buried_us=50),
        letter(4, state="parked", target=1), letter(9, consumer=9),
    )  # fmt: skip

    def numbers(**wanted):
        return [one["number"] for one in desk.letters.page(Selection(**wanted), 0, 100)[0]]

    assert numbers() == [1, 2, 3, 4, 9]
    assert numbers(consumer="first") == [1, 3, 4]
    assert numbers(consumer="old") == [9]
    assert numbers(reason="age") == [3]
    assert numbers(state="parked") == [4]
    assert numbers(since_us=50) == [3]
    assert numbers(until_us=50) == [1, 2, 4, 9]
    assert desk.letters.page(Selection(), 2, 2)[1] == 4
    assert desk.letters.page(Selection(), 4, 100)[1] is None
    with pytest.raises(UnknownConsumerError):
        numbers(consumer="nobody")
    shown = desk.letters.show(4)
    assert (shown["consumer"], shown["target"], shown["id"]) == (
        "first", "first", "0123abcd-0000000000000004",
    )  # fmt: skip
    assert json.loads(json.dumps(shown)) == shown
    with pytest.raises(UnknownLetterError):
        desk.letters.show(5)


def test_a_page_looks_at_a_bounded_number_of_letters(clock):
    desk = Desk(
        clock, *(letter(number, consumer=1 + number // 1_500) for number in range(1, 2_000))
    )
    found, following = desk.letters.page(Selection(consumer="second"), 0, 10)
    assert (found, following) == ([], 1_000)
    found, following = desk.letters.page(Selection(consumer="second"), 1_000, 10)
    assert (found[0]["number"], following) == (1_500, 1_509)


def test_a_message_that_is_not_at_hand_is_waited_for(clock):
    desk = Desk(clock, letter(1))
    came = []
    desk.letters.message(1).addCallback(came.append)
    (arrived,) = desk.archive.calls
    arrived()
    assert came == []
    desk.archive.messages[1] = b"stored"
    arrived()
    assert came == [b"stored"]
    desk.letters.message(1).addCallback(came.append)
    desk.letters.message(2).addCallback(came.append)
    clock.advance(3.0)
    assert came == [b"stored", b"stored", None]
    waiting = [desk.letters.message(2) for _ in range(WAITING_MAX)]
    assert not any(each.called for each in waiting)
    assert desk.letters.message(2).called, "more answers wait for nothing"
    clock.advance(3.0)
    assert clock.getDelayedCalls() == []


def test_letters_are_replayed_to_their_own_consumers(clock):
    desk = Desk(clock, letter(1), letter(2, consumer=2), letter(3))
    order = desk.letters.replay((1, 2, 3), to=None, rate=None)
    desk.turn()
    desk.turn()
    assert desk.asked == [Replay(ConsumerId(1), (1, 3)), Replay(ConsumerId(2), (2,))]
    desk.turn()
    assert desk.order() == {
        "order": order, "kind": "replay", "rate": None, "done": 3, "ended": True, "problem": None,
    }  # fmt: skip


def test_a_selection_means_dead_letters_that_are_there_when_it_begins(clock):
    """So it ends, even if what it replays dies again at once."""
    desk = Desk(
        clock, letter(1), letter(2, state="parked", target=1), letter(3), letter(4, buried_us=1)
    )
    desk.letters.replay(Selection(consumer="first"), to="second", rate=None)
    for _ in range(3):
        desk.turn()
    assert desk.asked == [Replay(ConsumerId(2), (1, 3))]
    assert desk.order()["ended"]


def test_many_letters_are_asked_for_in_slices(clock):
    count = 2 * SLICE_MAX + 1
    desk = Desk(clock, *(letter(number) for number in range(1, count + 1)))
    desk.letters.purge(Selection(consumer="first"), rate=None)
    for _ in range(8):
        desk.turn()
    assert [len(command.letters) for command in desk.asked] == [SLICE_MAX, SLICE_MAX, 1]
    assert (desk.order()["done"], desk.order()["ended"]) == (count, True)


def test_an_order_keeps_its_pace(clock):
    desk = Desk(clock, *(letter(number) for number in range(1, 31)))
    desk.letters.replay(Selection(consumer="first"), to=None, rate=10.0)
    counts = []
    for _ in range(40):
        counts.append(sum(len(command.letters) for command in desk.asked))
        desk.turn(0.1)
    assert all(count <= 10 * (1 + second // 10) for second, count in enumerate(counts))
    assert desk.order()["done"] == 30
    slow = Desk(clock, letter(1), letter(2))
    slow.letters.purge((1, 2), rate=0.01)
    slow.turn(1)
    slow.turn(98)
    assert len(slow.asked) == 1
    slow.turn(2)
    slow.turn(1)
    assert len(slow.asked) == 2


def test_letters_that_cannot_be_replayed_are_told_and_nothing_is_asked(clock):
    desk = Desk(clock, letter(1), letter(2, state="parked", target=1), letter(3, consumer=9))
    for letters, to, words in (
        ((1, 2), None, "found letter 2 parked"),
        ((3,), None, "found letter 3 of old, which was removed"),
        (Selection(consumer="old"), None, "found old removed"),
        ((1,), "nobody", "found no consumer 'nobody'"),
        ((1, 4), None, "found no letter 4"),
        (Selection(consumer="nobody"), None, "found no consumer 'nobody'"),
    ):
        with pytest.raises(ChangeRefusedError, match=words):
            desk.letters.replay(letters, to=to, rate=None)
    with pytest.raises(UnknownLetterError):
        desk.letters.purge((4,), rate=None)
    assert desk.orders.describe() == []
    assert desk.node.wanted == {}


def test_letters_of_a_consumer_that_is_gone_go_to_another(clock):
    desk = Desk(clock, letter(3, consumer=9))
    desk.letters.replay(Selection(consumer="old"), to="first", rate=None)
    desk.turn()
    assert desk.asked == [Replay(ConsumerId(1), (3,))]


def test_an_order_that_is_not_heard_ends_and_says_so(clock):
    desk = Desk(clock, letter(1))
    desk.letters.purge((1,), rate=None)
    for _ in range(700):
        clock.advance(0.1)
    assert desk.order()["problem"] == "not done within 60 s; ask again"
    ((done, _),) = desk.node.wanted.values()
    assert done(desk.node.ledger)


def test_an_order_is_stopped(clock):
    desk = Desk(clock, *(letter(number) for number in range(1, 31)))
    order = desk.letters.purge(Selection(consumer="first"), rate=10.0)
    desk.turn()
    desk.letters.stop(order)
    desk.letters.stop(order)
    clock.advance(60)
    assert len(desk.asked) == 1
    assert (desk.order()["ended"], desk.order()["problem"]) == (True, "stopped")
    with pytest.raises(UnknownOrderError):
        desk.letters.stop(order + 1)
    assert clock.getDelayedCalls() == []


def test_orders_have_a_bound_and_old_ones_are_forgotten(clock):
    desk = Desk(clock, letter(1))
    for _ in range(ORDERS_MAX):
        desk.letters.replay((1,), to=None, rate=None)
    with pytest.raises(ChangeRefusedError, match="found 16 orders under way"):
        desk.letters.purge((1,), rate=None)
    desk.orders.close()
    for _ in range(ORDERS_MAX):
        desk.letters.stop(desk.letters.purge((1,), rate=None))
    assert len(desk.orders.describe()) == ORDERS_MAX
    assert desk.node.wanted != {}, "given up by their own word"


def test_an_engines_letters_are_asked_where_they_are():
    tally = SimpleNamespace(purged=4, expired=5)
    ledger = SimpleNamespace(
        letters={1: letter(1), 3: letter(3)},
        letters_after=lambda number, limit: [n for n in (1, 3) if n > number][:limit],
        letter_tally=lambda _: tally,
        letter_counts=lambda _: {"dead": 2, "parked": 0, "replay": 0},
        dead_bytes=lambda _: 6,
        consumers={ConsumerId(1): SimpleNamespace(skipped=7)},
        gone={ConsumerId(9): SimpleNamespace(id=ConsumerId(9), name="old")},
    )
    engine = SimpleNamespace(ledger=ledger, letter=lambda number: b"m%d" % number, letter_hooks=[])
    archive = EngineArchive(engine)
    assert (archive.letter(1).number, archive.letter(2)) == (1, None)
    assert [archive.after(0, 9), archive.after(1, 9), archive.after(0, 1)] == [[1, 3], [3], [1]]
    assert archive.counts(ConsumerId(1)) == {
        "dead": 2, "parked": 0, "replay": 0, "bytes": 6, "purged": 4, "expired": 5, "skipped": 7,
    }  # fmt: skip
    assert archive.gone() == {ConsumerId(9): "old"}
    assert archive.message(3) == b"m3"
    archive.on_messages(print)
    assert engine.letter_hooks == [print]


def test_orders_are_worked_through_by_a_real_ledger(clock):
    """Buried, listed, replayed elsewhere, purged; and a removed consumer's letters are its own."""
    node = Node("first", "second")
    node.accept(9)
    burials = tuple(
        Burial(Position(n), "dead", "answer", 422, "no", 1, 1, 2, b"m") for n in range(1, 6)
    )
    node.apply(Bury(ConsumerId(1), burials))
    wishes = Wishes(node, clock.seconds, random.Random(1))
    engine = SimpleNamespace(ledger=node.ledger, letter={1: b"m"}.get, letter_hooks=[])
    archive = EngineArchive(engine)
    orders = Orders(clock, wishes)
    letters = EngineLetters(clock, wishes, archive, orders)
    consumers = EngineConsumers(wishes, "a", archive, list)

    def numbers(**wanted):
        return [one["number"] for one in letters.page(Selection(**wanted), 0, 100)[0]]

    def work():
        for _ in range(3):
            node.commit()
            clock.advance(0.1)
        assert orders.describe()[-1]["ended"]
        assert orders.describe()[-1]["problem"] is None

    assert numbers(consumer="first", state="dead") == [1, 2, 3, 4, 5]
    assert consumers.describe()[0]["letters"]["dead"] == 5
    letters.replay((1, 2), to="second", rate=None)
    work()
    assert (numbers(state="replay"), letters.show(1)["target"]) == ([1, 2], "second")
    letters.purge((3,), rate=None)
    work()
    assert consumers.describe()[0]["letters"]["purged"] == 1
    consumers.skip("second", 5)
    node.commit()
    assert consumers.describe()[1]["letters"]["skipped"] == 5
    consumers.remove("second", drop=True)
    node.commit()
    assert [one["name"] for one in consumers.describe()] == ["first"]
    assert numbers(state="dead") == [1, 2, 4, 5]
    consumers.remove("first", drop=True)
    node.commit()
    assert numbers(consumer="first") == [1, 2, 4, 5]
    with pytest.raises(ChangeRefusedError, match="found first removed"):
        letters.replay(Selection(consumer="first"), to=None, rate=None)
    letters.purge(Selection(consumer="first"), rate=None)
    work()
    assert numbers() == []
