"""What a lane does about letters for which the cluster has no room."""

from __future__ import annotations

from crowd.command import Purge
from crowd.delivery.outcome import Answered
from crowd.delivery.reports import BURIED_S
from crowd.ledger.records import Records
from tests.unit.delivery.rig import OK, Cluster, Node, consumer

BAD = Answered(400)


def with_room_for(count, *consumers):
    """Return a cluster that keeps so many letters."""
    cluster = Cluster(*consumers)
    cluster.ledger._letters._records = Records(count_max=count)
    node = Node(cluster, answer=lambda *_: BAD)
    node.dispatcher.lead()
    return cluster, node


def held(node):
    return {each.name: (each.held, each.alarm) for each in node.dispatcher.progress()}


FULL = ("the cluster's letters are at their bound", True)


def test_a_consumer_is_held_while_the_cluster_has_no_room_for_its_letter():
    """It stands with an alarm, keeps the message, and goes on once letters are purged."""
    cluster, node = with_room_for(2, consumer("c", concurrency=1))
    cluster.accept(b"1", b"2", b"3", b"4")
    node.pass_s(1)
    assert len(cluster.ledger.letters) == 2
    assert held(node) == {"c": FULL}
    attempts = len(node.attempts)
    node.answer = lambda *_: OK
    node.pass_s(60)
    assert len(node.attempts) == attempts
    cluster.append(Purge("operator", (1, 2)))
    node.pass_s(1)
    assert held(node) == {"c": ("", False)}
    assert cluster.ledger.lowest_watermark == 4
    letters = {letter.position for letter in cluster.ledger.letters.values()}
    assert letters == set(range(3, attempts + 1))
    assert node.fatal == []


def test_two_consumers_that_want_the_last_place():
    """The one whose burial the ledger ignored is held too, and nothing of it is lost."""
    cluster, node = with_room_for(1, consumer("b"), consumer("c"))
    cluster.accept(b"1")
    node.pass_s(1)
    assert len(cluster.ledger.letters) == 1
    assert set(held(node).values()) == {("", False)}
    node.pass_s(BURIED_S)
    assert sorted(held(node).values()) == [("", False), FULL]
    cluster.append(Purge("operator", (1,)))
    node.pass_s(1)
    assert len(cluster.ledger.letters) == 1
    assert cluster.ledger.lowest_watermark == 1
    assert set(held(node).values()) == {("", False)}


def test_a_burial_of_which_only_a_part_found_room():
    """The rest is buried later; those that are letters are not looked at again."""
    cluster, node = with_room_for(3, consumer("b", concurrency=2), consumer("c", concurrency=2))
    cluster.accept(b"1", b"2")
    node.pass_s(1 + BURIED_S)
    assert len(cluster.ledger.letters) == 3
    assert FULL in held(node).values()
    cluster.append(Purge("operator", (1, 2)))
    node.pass_s(1)
    assert cluster.ledger.lowest_watermark == 2
    assert [letter.consumer for letter in cluster.ledger.letters.values()] == [2, 2]
    assert set(held(node).values()) == {("", False)}
