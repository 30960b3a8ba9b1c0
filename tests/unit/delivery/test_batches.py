"""Consumers that take many messages in one request: what goes together, when, and who dies."""

from __future__ import annotations

from crowd.command import Batch, Breaker
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
