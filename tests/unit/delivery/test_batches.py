"""Consumers that take many messages in one request: what goes together, when, and who dies."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.command import Accept, Settle
from crowd.definition import Batch, Breaker, Retry
from crowd.delivery.outcome import Answered, Failed, FailureKind
from tests.unit.delivery.rig import DOWN, OK, RETRY, Cluster, Node, consumer, stored

BY_THREE = Batch("ndjson", 3, 1 << 20, 100_000)
MANY = Batch("ndjson", 500, 1 << 20, 100_000)


def led(*consumers, answer=None):
    cluster = Cluster(*consumers)
    node = Node(cluster, answer=answer)
    node.dispatcher.lead()
    node.pass_s(0.01)
    return cluster, node


def positions(node):
    return [[naming.position for naming in batch] for _, batch in node.batches]


def dead(cluster):
    return sorted(letter.position for letter in cluster.ledger.letters.values())


def test_a_full_batch_goes_at_once_and_another_after_the_linger():
    """`count = 3`: three go together; two wait 100 ms for a third one."""
    cluster, node = led(consumer("c", batch=BY_THREE), answer=lambda *_: OK)
    cluster.accept(b"1", b"2", b"3", b"4", b"5")
    node.pass_s(0.05)
    assert positions(node) == [[1, 2, 3]]
    node.pass_s(0.1)
    assert positions(node) == [[1, 2, 3], [4, 5]]
    node.pass_s(0.2)
    assert cluster.ledger.lowest_watermark == 5


def test_one_poisoned_message_dies_alone():
    """A 400 to 500 messages kills none of them before it was alone; 499 are delivered."""

    def answer(name, messages, namings):
        return Answered(400) if any(m.body == b"7" for m in messages) else OK

    cluster, node = led(consumer("c", batch=MANY), answer=answer)
    cluster.accept(*[b"%d" % n for n in range(1, 501)])
    node.pass_s(5)
    assert dead(cluster) == [7]
    assert cluster.ledger.lowest_watermark == 500
    assert len(node.batches) <= 2 * 9 + 2
    assert node.fatal == []


def test_without_linger_what_is_there_goes_together():
    """`linger = 0` waits for nothing, and a backlog still goes in full batches."""
    batch = Batch("ndjson", 400, linger_us=0)
    cluster, node = led(consumer("c", batch=batch), answer=lambda *_: OK)
    cluster.accept(*[b"%d" % n for n in range(1, 1_001)])
    node.pass_s(0.01)
    assert [len(each) for each in positions(node)] == [400, 400, 200]
    cluster.accept(b"1")
    node.pass_s(0.01)
    assert positions(node)[3:] == [[1_001]]


def test_messages_with_retries_join_again():
    """What was refused for now comes back together with what is new meanwhile."""
    said = iter([Answered(503)])
    cluster, node = led(
        consumer("c", batch=BY_THREE, retry=RETRY), answer=lambda *_: next(said, OK)
    )
    cluster.accept(b"1", b"2")
    node.pass_s(0.12)
    assert positions(node) == [[1, 2]]
    node.pass_s(1.5)
    assert sorted(position for batch in positions(node)[1:] for position in batch) == [1, 2]
    assert cluster.ledger.lowest_watermark == 2
    assert node.batches[-1][1][0].attempt == 2


def test_each_message_has_its_own_answer_where_there_is_one():
    """Of a bulk request one item is delivered, one dies, and one is tried again."""
    said = iter([[OK, Answered(400), Answered(429)]])
    cluster, node = led(consumer("c", batch=Batch("bulk", 3)), answer=lambda *_: next(said, OK))
    cluster.accept(b"1", b"2", b"3")
    node.pass_s(0.2)
    progress = node.dispatcher.progress()[0]
    assert (progress.delivered, progress.dead, progress.retried) == (1, 1, 1)
    assert progress.last_problem == "answered 400"
    assert dead(cluster) == [2]
    node.pass_s(2)
    assert positions(node) == [[1, 2, 3], [3]]
    assert cluster.ledger.lowest_watermark == 3


def test_concurrency_counts_requests_and_counts_count_messages():
    """`concurrency = 2` with batches of 3 is six messages under way, and no seventh."""
    cluster, node = led(consumer("c", batch=BY_THREE, concurrency=2))
    cluster.accept(*[b"%d" % n for n in range(1, 10)])
    node.pass_s(0.5)
    assert positions(node) == [[1, 2, 3], [4, 5, 6]]
    progress = node.dispatcher.progress()[0]
    assert (progress.in_flight, progress.attempts) == (2, 6)
    node.end()
    node.pass_s(0.1)
    assert positions(node)[2:] == [[7, 8, 9]]
    assert node.dispatcher.progress()[0].delivered == 6


def test_the_rate_counts_messages():
    """`rate = "10/s"` with batches of 5 is two requests a second."""
    cluster, node = led(
        consumer("c", batch=Batch("ndjson", 5, linger_us=1_000), rate="10/s"), answer=lambda *_: OK
    )
    cluster.accept(*[b"%d" % n for n in range(1, 51)])
    node.pass_s(2.95)
    assert [len(batch) for batch in positions(node)] == [5] * 6
    node.pass_s(2.5)
    assert cluster.ledger.lowest_watermark == 50


def test_a_batch_ends_at_its_bytes():
    """A message larger than a batch goes alone, and one that does not fit begins the next."""
    cluster, node = led(consumer("c", batch=Batch("ndjson", 10, 100)), answer=lambda *_: OK)
    cluster.accept(b"a" * 60, b"b" * 60, b"c" * 20, b"d" * 500, b"e" * 10)
    node.pass_s(0.5)
    assert positions(node) == [[1], [2, 3], [4], [5]]


def test_heads_count_when_they_are_large():
    """Messages of little body and much else do not gather without bound."""
    heads = ((b"Cookie", b"x" * 4_000),)
    cluster, node = led(consumer("c", batch=Batch("ndjson", 10, 3_000)), answer=lambda *_: OK)
    cluster.accept(*[stored(b"%d" % n, headers=heads) for n in range(6)])
    node.pass_s(0.5)
    assert max(map(len, positions(node))) == 2


def test_a_down_consumer_is_probed_with_one_message_alone():
    """While the breaker is open nothing is risked but one message, in the form of a batch."""
    cluster, node = led(consumer("c", batch=BY_THREE, breaker=Breaker(1)), answer=lambda *_: DOWN)
    cluster.accept(*[b"%d" % n for n in range(1, 8)])
    node.pass_s(10)
    first, *probes = positions(node)
    assert first == [1, 2, 3]
    assert len(probes) == 3
    assert all(len(probe) == 1 for probe in probes)
    node.answer = lambda *_: OK
    node.pass_s(20)
    assert cluster.ledger.lowest_watermark == 7
    assert dead(cluster) == []


def test_one_message_that_breaks_its_consumer_is_found_too():
    """A 500 for one of many has the others delivered, and that one dies of its attempts alone."""

    def answer(name, messages, namings):
        return Answered(500) if any(m.body == b"7" for m in messages) else OK

    retry = Retry(100_000, 1.0, 100_000, 10**12, 3)
    cluster, node = led(consumer("c", batch=MANY, retry=retry), answer=answer)
    cluster.accept(*[b"%d" % n for n in range(1, 101)])
    node.pass_s(10)
    assert dead(cluster) == [7]
    assert cluster.ledger.lowest_watermark == 100


def test_too_much_to_do_does_not_make_more_requests():
    """429 for a batch is about all of it: it comes back as one."""
    said = iter([Answered(429, 1.0)] * 3)
    cluster, node = led(
        consumer("c", batch=BY_THREE, breaker=Breaker(100)), answer=lambda *_: next(said, OK)
    )
    cluster.accept(b"1", b"2", b"3")
    node.pass_s(60)
    assert positions(node) == [[1, 2, 3]] * 4


def test_all_messages_refused_one_by_one():
    """Of a consumer that says 400 to everything all die, with two requests for each at most."""
    cluster, node = led(consumer("c", batch=MANY), answer=lambda *_: Answered(400))
    cluster.accept(*[b"%d" % n for n in range(1, 101)])
    node.pass_s(5)
    assert dead(cluster) == list(range(1, 101))
    assert len(node.batches) <= 200


def test_a_fence_that_closes_is_no_attempt():
    said = iter([Failed(FailureKind.FENCED, "")])
    cluster, node = led(consumer("c", batch=BY_THREE), answer=lambda *_: next(said, OK))
    cluster.accept(b"1", b"2", b"3")
    node.pass_s(0.2)
    assert [[n.attempt for n in batch] for _, batch in node.batches] == [[1, 1, 1]] * 2
    assert cluster.ledger.lowest_watermark == 3


def test_what_an_operator_skips_leaves_the_batch_that_gathers():
    """A message that is settled while it waits for others is not sent."""
    cluster, node = led(consumer("c", batch=Batch("ndjson", 10)), answer=lambda *_: OK)
    cluster.accept(b"1", b"2", b"3")
    node.pass_s(0.01)
    cluster.append(Settle(cluster.ledger.consumer_id("c"), ((2, 2),)))
    node.pass_s(0.2)
    assert positions(node) == [[1, 3]]
    node.pass_s(0.1)
    assert cluster.ledger.lowest_watermark == 3


def test_what_is_settled_before_it_is_gathered_is_not_read():
    """As by the lane before, whose last outcomes were under way: its entries may be gone by then."""
    cluster, node = led(consumer("c", batch=Batch("ndjson", 2), concurrency=1))
    for body in (b"1", b"2", b"3", b"4", b"5", b"6", b"7"):
        cluster.accept(body)
    node.pass_s(0.1)
    assert positions(node) == [[1, 2]]
    cluster.append(Settle(cluster.ledger.consumer_id("c"), ((1, 6),)))
    for index in [index for index, command in cluster.log.items() if isinstance(command, Accept)][
        :6
    ]:
        del cluster.log[index]
    node.end()
    node.pass_s(0.2)
    assert positions(node) == [[1, 2], [7]]


def test_a_batch_changes_its_shape_while_messages_gather():
    """A new `count` holds for what is gathered already; without `batch` each goes alone."""
    cluster, node = led(consumer("c", batch=Batch("ndjson", 10, linger_us=10**7)))
    cluster.accept(b"1", b"2", b"3", b"4")
    node.pass_s(0.1)
    assert node.batches == []
    cluster.define(consumer("c", batch=Batch("ndjson", 2)))
    node.pass_s(0.1)
    assert positions(node) == [[1, 2], [3, 4]]
    cluster.define(consumer("c"))
    node.pass_s(2)
    assert len(node.batches) == 2
    assert len(node.attempts) == 8


def test_a_message_that_does_not_decode_dies_on_its_own():
    """Damage to one is no reason to keep the others."""
    cluster, node = led(consumer("c", batch=BY_THREE), answer=lambda *_: OK)
    cluster.accept(b"1", b"\x88\x00", b"3", b"4")
    node.pass_s(0.5)
    assert positions(node) == [[1, 3, 4]]
    assert dead(cluster) == [2]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 60),
    poison=st.sets(st.integers(1, 60)),
    together=st.integers(1, 40),
    status=st.sampled_from([400, 500]),
    concurrency=st.integers(1, 4),
)
def test_exactly_the_poisoned_die(count, poison, together, status, concurrency):
    """Whichever messages make a request fail: those die, and no other, each alone at the end."""

    def answer(name, messages, namings):
        return Answered(status) if any(int(m.body) in poison for m in messages) else OK

    batch = Batch("ndjson", together, linger_us=10_000)
    retry = Retry(100_000, 1.0, 100_000, 10**12, 2)
    cluster, node = led(
        consumer(
            "c", batch=batch, retry=retry, concurrency=concurrency, breaker=Breaker(10_000, 2.0)
        ),
        answer=answer,
    )
    cluster.accept(*[b"%d" % n for n in range(1, count + 1)])
    node.pass_s(60, step=0.05)
    assert node.fatal == []
    assert dead(cluster) == sorted(n for n in poison if n <= count)
    assert cluster.ledger.lowest_watermark == count
    for position in dead(cluster):
        last = [batch for batch in positions(node) if position in batch][-1]
        assert last == [position]
