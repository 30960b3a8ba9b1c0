"""What a leader keeps of answers that producers wait for, and whom it tells."""

from __future__ import annotations

import pytest

from crowd.definition import Answers, Batch
from crowd.delivery.awaited import (
    ASKED_MAX,
    BODY_BYTES_MAX,
    KEPT_BYTES_MAX,
    KEPT_MAX,
    KEPT_S,
    UNKNOWN,
    Awaited,
    Ending,
    ending_of,
)
from crowd.delivery.outcome import Answered
from crowd.message import ConsumerId, Position, wait_mark
from tests.unit.delivery.rig import DOWN, OK, Cluster, Node, consumer, stored

DONE = Ending("delivered", 201, ((b"X-A", b"b"),), b"made")
CREATED = Answered(201, whole=(((b"X-A", b"b"), (b"Content-Length", b"4")), b"made"))


def ask(awaited, position=1, now_s=0.0, until_s=10.0, *, settled=False):
    told = []
    awaited.ask(Position(position), now_s, until_s, told.append, settled=settled)
    return told


def test_who_asks_early_is_told_and_who_asks_late_finds_it():
    awaited = Awaited()
    early = ask(awaited)
    assert (early, awaited.asked) == ([], 1)
    awaited.ended(Position(1), DONE, 1.0)
    assert early == [DONE]
    assert ask(awaited, now_s=1.0 + KEPT_S - 0.01) == [DONE]
    assert (awaited.asked, awaited.kept) == (0, 1)


def test_an_answer_is_kept_for_a_while():
    awaited = Awaited()
    awaited.ended(Position(1), DONE, 1.0)
    assert ask(awaited, now_s=1.0 + KEPT_S, settled=True) == [UNKNOWN]
    assert awaited.kept == 0


def test_what_is_settled_and_not_kept_is_unknown_at_once():
    assert ask(Awaited(), settled=True) == [UNKNOWN]


def test_a_leader_that_is_none_any_more_tells_all_that_it_does_not_know():
    awaited = Awaited()
    told = [ask(awaited, position) for position in (1, 2, 2)]
    awaited.ended(Position(9), DONE, 0.0)
    awaited.clear()
    assert told == [[UNKNOWN]] * 3
    assert (awaited.asked, awaited.kept) == (0, 0)


def test_i7_what_is_kept_is_bounded_in_number_and_bytes():
    awaited = Awaited()
    for position in range(1, KEPT_MAX + 3):
        awaited.ended(Position(position), DONE, 0.0)
    assert awaited.kept == KEPT_MAX
    assert ask(awaited, 2, settled=True) == [UNKNOWN]
    large = Ending("delivered", 200, (), bytes(BODY_BYTES_MAX))
    for position in range(1000, 1000 + KEPT_MAX):
        awaited.ended(Position(position), large, 0.0)
    assert awaited.kept == KEPT_BYTES_MAX // BODY_BYTES_MAX


def test_i7_who_waits_is_bounded_and_those_whose_time_is_over_make_room():
    awaited = Awaited()
    for position in range(1, ASKED_MAX + 1):
        assert ask(awaited, position, until_s=float(position)) == []
    assert ask(awaited, 9999) == [UNKNOWN]
    assert ask(awaited, 9999, now_s=5.0) == []
    assert awaited.asked == ASKED_MAX - 5 + 1


def test_what_is_passed_back_of_an_answer():
    """End-to-end fields in their order and case; not framing, nor what only crowd says."""
    headers = [
        (b"X-B", b"1"), (b"content-length", b"4"), (b"x-a", b"2"), (b"Date", b"now"),
        (b"Connection", b"close, X-Hop"), (b"X-Hop", b"3"), (b"Keep-Alive", b"4"),
        (b"Transfer-Encoding", b"chunked"), (b"Crowd-State", b"forged"), (b"Set-Cookie", b"a=b"),
        (b"Set-Cookie", b"c=d"), (b"Location", b"/made/1"),
    ]  # fmt: skip
    ending = ending_of("delivered", 201, headers, b"made")
    assert ending.headers == (
        (b"X-B", b"1"), (b"x-a", b"2"), (b"Set-Cookie", b"a=b"), (b"Set-Cookie", b"c=d"),
        (b"Location", b"/made/1"), (b"Via", b"1.1 crowd"),
    )  # fmt: skip
    assert (ending.status, ending.body) == (201, b"made")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([(b"A", b"b")] * 256, b""),
        ([(b"A", bytes(33 << 10))], b""),
        ([], bytes(BODY_BYTES_MAX + 1)),
    ],
)
def test_an_answer_over_the_bounds_is_left_out(headers, body):
    assert ending_of("dead", 422, headers, body) == Ending("dead")


# --- On the leader ----------------------------------------------------------------------------------


def delivered(answer, *, mark=1, more=b"", **definition):
    """Accept one message that is awaited; return what is told, the node and its cluster."""
    cluster = Cluster(consumer("c", **definition), consumer("other"))
    node = Node(cluster, answer=answer)
    node.dispatcher.lead()
    headers = ((b"X-A", b"b"), wait_mark(ConsumerId(mark)))
    cluster.accept(stored(b"x", headers=headers), *([more] if more else []))
    told = ask(node.dispatcher.awaited, now_s=cluster.clock.seconds())
    node.pass_s(0.5)
    return told, node


def test_a_delivery_is_told_with_its_answer():
    told, node = delivered(lambda *_: CREATED)
    assert told == [ending_of("delivered", 201, *CREATED.whole)]
    assert {(name, naming.awaited) for name, _, naming in node.attempts} == {
        ("c", True), ("other", False),
    }  # fmt: skip


def test_a_message_that_dies_is_told_with_its_answer():
    refused = Answered(422, whole=(((b"A", b"b"),), b"no"))
    told, _ = delivered(lambda *_: refused)
    assert [(ending.state, ending.status, ending.body) for ending in told] == [("dead", 422, b"no")]


def test_what_is_tried_again_is_told_once_it_ends():
    answers = iter([DOWN, CREATED])
    told, node = delivered(lambda name, *_: next(answers) if name == "c" else OK)
    node.pass_s(3)
    assert [name for name, _, _ in node.attempts].count("c") == 2
    assert [ending.state for ending in told] == ["delivered"]


def test_another_consumers_answer_is_not_told():
    told, _ = delivered(lambda name, *_: DOWN if name == "c" else CREATED)
    assert told == []


def test_messages_that_nobody_waits_for_leave_nothing_behind():
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"one", stored(b"two", headers=((b"Crowd-Wait", b"7"),)))
    node.pass_s(0.5)
    assert node.dispatcher.awaited.kept == 0
    assert not any(naming.awaited for _, _, naming in node.attempts)


def test_a_batch_tells_that_it_was_delivered_and_nothing_more():
    batch = Batch("ndjson", 10, 1 << 20, 0)
    told, node = delivered(lambda *_: OK, more=b"another", batch=batch)
    assert len(node.batches[0][1]) == 2
    assert told == [Ending("delivered")]


def test_of_a_batch_that_is_refused_only_what_died_is_told():
    """A batch that is refused as a whole is halved until the guilty one is alone."""
    batch = Batch("ndjson", 10, 1 << 20, 0)
    told, _ = delivered(
        lambda *_: Answered(422), more=b"another", batch=batch, answers=Answers(dead=("422",))
    )
    assert told == [Ending("dead")]


def test_who_leads_no_more_tells_so():
    cluster = Cluster(consumer("c"))
    node = Node(cluster)
    node.dispatcher.lead()
    cluster.accept(stored(b"x", headers=(wait_mark(ConsumerId(1)),)))
    told = ask(node.dispatcher.awaited)
    node.pass_s(0.1)
    node.dispatcher.unlead()
    assert told == [UNKNOWN]
