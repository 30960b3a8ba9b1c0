"""What a leader keeps of answers that producers wait for, and whom it tells."""

from __future__ import annotations

import pytest

from crowd.command import Dismiss, Settle, Skip
from crowd.definition import Answers, Batch
from crowd.delivery.awaited import (
    ASKED_MAX,
    BODY_BYTES_MAX,
    KEPT_BYTES_MAX,
    KEPT_MAX,
    KEPT_S,
    LOOK_EVERY_S,
    UNKNOWN,
    Awaited,
    Ending,
    ending_of,
)
from crowd.delivery.outcome import Answered
from crowd.ledger.records import Records
from crowd.message import ConsumerId, Position, wait_mark
from tests.unit.delivery.rig import DOWN, OK, Cluster, Node, consumer, stored

DONE = Ending("delivered", 201, ((b"X-A", b"b"),), b"made")
CREATED = Answered(201, whole=(((b"X-A", b"b"), (b"Content-Length", b"4")), b"made"))


FIRST, OTHER = ConsumerId(1), ConsumerId(2)


def ask(awaited, position=1, now_s=0.0, until_s=10.0, *, end=None, who="a", of=FIRST):
    told = []
    awaited.ask(of, Position(position), who, told.append, now_s, until_s, end)
    return told


def deliver(awaited, position=1, now_s=0.0, ending=DONE):
    awaited.delivered(FIRST, Position(position), ending, now_s)


def test_who_asks_early_is_told_and_who_asks_late_finds_it():
    awaited = Awaited()
    early = ask(awaited)
    assert (early, awaited.asked) == ([], 1)
    deliver(awaited, now_s=1.0)
    assert early == [DONE]
    assert ask(awaited, now_s=1.0 + KEPT_S - 0.01) == [DONE]
    assert (awaited.asked, awaited.kept) == (0, 1)


def test_an_answer_is_kept_for_a_while():
    awaited = Awaited()
    deliver(awaited, now_s=1.0)
    assert ask(awaited, now_s=1.0 + KEPT_S, end="delivered") == [Ending("delivered")]
    assert awaited.kept == 0


@pytest.mark.parametrize("end", ["delivered", "dead", "settled", "unknown"])
def test_what_ended_and_is_not_kept_is_what_the_ledger_shows_at_once(end):
    assert ask(Awaited(), end=end) == [Ending(end)]


def test_a_node_is_told_once_for_all_of_its_producers():
    awaited = Awaited()
    first, again, elsewhere = ask(awaited), ask(awaited), ask(awaited, who="b")
    assert awaited.asked == 2
    deliver(awaited)
    assert (first, again, elsewhere) == ([], [DONE], [DONE])


def test_who_waits_for_another_consumer_hears_nothing_of_this_one():
    awaited = Awaited()
    told = ask(awaited, of=OTHER)
    deliver(awaited)
    assert told == []


def test_a_node_whose_producers_are_gone_keeps_no_place():
    awaited = Awaited()
    gone, told = ask(awaited), ask(awaited, who="b")
    awaited.leave(FIRST, Position(1), "a")
    awaited.leave(FIRST, Position(9), "a")
    awaited.leave(OTHER, Position(1), "a")
    assert awaited.asked == 1
    deliver(awaited)
    assert (gone, told) == ([], [DONE])


def test_a_leader_that_is_none_any_more_tells_all_that_it_does_not_know():
    awaited = Awaited()
    told = [ask(awaited, 1), ask(awaited, 2), ask(awaited, 2, who="b")]
    deliver(awaited, 9)
    awaited.clear()
    assert told == [[UNKNOWN]] * 3
    assert (awaited.asked, awaited.kept) == (0, 0)


def test_i7_what_is_kept_is_bounded_in_number_and_bytes():
    awaited = Awaited()
    for position in range(1, KEPT_MAX + 3):
        deliver(awaited, position)
    assert awaited.kept == KEPT_MAX
    assert ask(awaited, 2, end="delivered") == [Ending("delivered")]
    large = Ending("delivered", 200, (), bytes(BODY_BYTES_MAX))
    for position in range(1000, 1000 + KEPT_MAX):
        deliver(awaited, position, ending=large)
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
        (b"Set-Cookie", b"c=d"), (b"Location", b"/made/1"), (b"Crowdfunding", b"yes"), (b"Idempotent-Replayed", b"true"),
    ]  # fmt: skip
    ending = ending_of("delivered", 201, headers, b"made")
    assert ending.headers == (
        (b"X-B", b"1"), (b"x-a", b"2"), (b"Set-Cookie", b"a=b"), (b"Set-Cookie", b"c=d"),
        (b"Location", b"/made/1"), (b"Crowdfunding", b"yes"), (b"Via", b"1.1 crowd"),
    )  # fmt: skip
    assert (ending.status, ending.body) == (201, b"made")


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"gzip", b"chunked, chunked"])
def test_an_answer_in_another_coding_than_chunked_is_left_out(coding):
    """Without its field nobody could read the body."""
    headers = [(b"transfer-encoding", coding), (b"A", b"b")]
    assert ending_of("delivered", 200, headers, b"\x1f\x8b") == Ending("delivered")
    twice = [(b"Transfer-Encoding", b"gzip"), (b"Transfer-Encoding", b"chunked")]
    assert ending_of("delivered", 200, twice, b"\x1f\x8b") == Ending("delivered")


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


def test_i3_a_death_is_told_once_the_ledger_shows_it():
    """A leader that ended before would have told what the next one, which knows nothing of it, undoes."""
    refused = Answered(422, whole=(((b"A", b"b"),), b"no"))
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: refused)
    node.dispatcher.lead()
    cluster.held = True
    cluster.accept(stored(b"x", headers=(wait_mark(FIRST),)))
    told = ask(node.dispatcher.awaited)
    node.pass_s(3)
    assert len(node.attempts) == 1
    assert told == []
    assert ask(node.dispatcher.awaited, now_s=cluster.clock.seconds(), who="b") == []
    cluster.commit()
    node.pass_s(0.1)
    assert told == [ending_of("dead", 422, *refused.whole)]


def test_a_death_that_is_waited_for_goes_into_the_log_soon():
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: Answered(422))
    node.dispatcher.lead()
    cluster.accept(stored(b"x", headers=(wait_mark(FIRST),)))
    told = ask(node.dispatcher.awaited)
    node.pass_s(0.03)
    assert told == [Ending("dead")]


def test_a_death_without_a_letter_is_told_to_nobody():
    """The new leader of a consumer that has no room for letters attempts it again."""
    cluster = Cluster(consumer("c"))
    cluster.ledger._letters._records = Records(count_max=0)
    node = Node(cluster, answer=lambda *_: Answered(422))
    node.dispatcher.lead()
    cluster.accept(stored(b"x", headers=(wait_mark(FIRST),)))
    told = ask(node.dispatcher.awaited)
    node.pass_s(1)
    assert told == []
    node.dispatcher.unlead()
    assert told == [UNKNOWN]


def test_of_a_message_without_a_mark_it_is_told_that_it_was_delivered():
    """Its producer did not wait; one that comes with its key does."""
    told, node = delivered(lambda *_: CREATED, mark=2)
    assert told == [Ending("delivered")]
    assert node.dispatcher.awaited.asked == 0


def test_what_a_batch_delivers_without_a_mark_is_told_once_it_is_settled():
    batch = Batch("ndjson", 10, 1 << 20, 0)
    told, _ = delivered(lambda *_: OK, mark=2, batch=batch)
    assert told == [Ending("delivered")]


def test_what_an_operator_skips_is_told():
    told, node = delivered(lambda *_: DOWN)
    assert told == []
    node.cluster.append(Skip(FIRST, 1))
    node.pass_s(0.2)
    assert told == [Ending("settled")]


def test_what_the_leader_before_settled_is_told():
    """It was asked for before this leader had applied that."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster)
    node.dispatcher.lead()
    told = ask(node.dispatcher.awaited)
    with cluster.one_turn():
        cluster.accept(b"x")
        cluster.append(Settle(FIRST, ((Position(1), Position(1)),)))
    node.pass_s(0.2)
    assert told == [Ending("delivered")]
    assert node.attempts == []


def test_what_the_ledger_shows_is_looked_at_now_and_then():
    cluster = Cluster(consumer("c"))
    node = Node(cluster)
    node.dispatcher.lead()
    cluster.accept(b"x", b"y")
    told = [ask(node.dispatcher.awaited, position) for position in (1, 2)]
    for position in (1, 2):
        cluster.append(Settle(FIRST, ((Position(position), Position(position)),)))
    assert told == [[Ending("delivered")], []]
    node.pass_s(LOOK_EVERY_S + 0.02)
    assert told[1] == [Ending("delivered")]


def test_a_consumer_that_is_removed_tells_nobody_anything():
    told, node = delivered(lambda *_: DOWN)
    node.cluster.append(Dismiss(FIRST, "drop"))
    node.pass_s(0.1)
    assert told == [UNKNOWN]
