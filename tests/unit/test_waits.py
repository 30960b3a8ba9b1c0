"""Waits on three members in one process: who is asked, what comes back, and when a wait ends."""

from __future__ import annotations

import msgspec
import pytest

from crowd.command import Define, Settle
from crowd.delivery.awaited import Awaited, Ending
from crowd.message import ConsumerId, Position
from crowd.raft.wire import Await, AwaitEnded
from crowd.waits import WAITS_MAX, EngineWaits
from tests.unit.raft.cluster import LEADS, REST_API, Cluster

DONE = Ending("delivered", 201, ((b"X-A", b"b"),), b"made")
FIRST = ConsumerId(1)


@pytest.fixture
def cluster():
    made = Cluster().start().run(4)
    made.awaited = {name: Awaited() for name in made.names}
    made.waits = {
        name: EngineWaits(made.clock, made.engines[name], made.awaited[name]) for name in made.names
    }
    return made


def wait(cluster, name, position, within_s=2.0, of=FIRST):
    told = []
    cluster.waits[name].wait(Position(position), of, within_s).addCallback(told.append)
    return told


def end(cluster, position, ending=DONE):
    cluster.awaited[cluster.leader].delivered(
        FIRST, Position(position), ending, cluster.clock.seconds()
    )


def test_the_leader_and_a_follower_hear_the_same(cluster):
    cluster.fill(1)
    told = [wait(cluster, name, 1) for name in cluster.names]
    cluster.run(0.1)
    assert told == [[], [], []]
    end(cluster, 1)
    cluster.run(0.1)
    assert told == [[DONE]] * 3
    assert [waits.in_flight for waits in cluster.waits.values()] == [0, 0, 0]
    assert [waits.tally.delivered for waits in cluster.waits.values()] == [1, 1, 1]


def test_a_follower_that_asks_when_it_is_over_hears_it_too(cluster):
    """The leader applies before a follower does, and may have its consumer's answer by then."""
    cluster.fill(1)
    end(cluster, 1)
    told = wait(cluster, cluster.followers[0], 1)
    cluster.run(0.1)
    assert told == [DONE]


def test_time_that_is_over(cluster):
    cluster.fill(1)
    told = wait(cluster, cluster.followers[0], 1, within_s=1.0)
    cluster.run(0.9)
    assert told == []
    cluster.run(0.2)
    assert told == [None]
    assert cluster.waits[cluster.followers[0]].tally.late == 1
    end(cluster, 1)
    cluster.run(0.1)
    assert told == [None]


def test_what_was_settled_long_ago_is_not_waited_for(cluster):
    cluster.fill(1)
    cluster.engines[cluster.leader].propose(Settle(consumer=FIRST, ranges=((1, 1),)))
    cluster.run(0.5)
    told = wait(cluster, cluster.followers[0], 1)
    cluster.run(0.1)
    assert told == [Ending("delivered")]


def test_a_message_that_the_leader_has_not_applied_yet_is_waited_for(cluster):
    """A follower can apply an entry before its leader does."""
    told = wait(cluster, cluster.followers[0], 1)
    cluster.run(0.1)
    assert told == []
    cluster.fill(1)
    end(cluster, 1)
    cluster.run(0.1)
    assert told == [DONE]


def test_a_consumer_that_is_none_is_not_waited_for(cluster):
    cluster.fill(1)
    told = wait(cluster, cluster.leader, 1, of=ConsumerId(9))
    assert told == [None]


@pytest.mark.parametrize("leads", [True, False])
def test_who_waits_for_another_consumer_hears_nothing_of_this_one(cluster, leads):
    """A key may come again once another consumer is the first of the file."""
    second = msgspec.structs.replace(REST_API, name="second")
    cluster.engines[cluster.leader].propose(Define("a", b"g" * 32, (LEADS,), (REST_API, second)))
    cluster.run(0.1)
    cluster.fill(1)
    name = cluster.leader if leads else cluster.followers[0]
    told = [wait(cluster, name, 1), wait(cluster, name, 1, of=ConsumerId(2))]
    cluster.run(0.1)
    end(cluster, 1)
    cluster.run(0.1)
    assert told == [[DONE], []]


@pytest.mark.parametrize("leads", [True, False])
def test_a_producer_that_is_gone_gives_its_place_back(cluster, leads):
    """At once, on its node and on the leader; the others that wait for the same go on."""
    cluster.fill(1)
    name = cluster.leader if leads else cluster.followers[0]
    waits, awaited = cluster.waits[name], cluster.awaited[cluster.leader]
    waiting = [waits.wait(Position(1), FIRST, 60.0) for _ in range(2)]
    told = [[], []]
    for ended, heard in zip(waiting, told, strict=True):
        ended.addCallback(heard.append)
    cluster.run(0.1)
    waits.leave(Position(1), FIRST, waiting[0])
    waits.leave(Position(1), FIRST, waiting[0])
    cluster.run(0.1)
    assert (waits.in_flight, awaited.asked) == (1, 1)
    waits.leave(Position(1), FIRST, waiting[1])
    cluster.run(0.1)
    assert (waits.in_flight, awaited.asked) == (0, 0)
    assert (told, waits.tally.gone) == ([[], []], 2)
    waits.leave(Position(7), FIRST, waiting[0])


def test_a_leader_that_dies_ends_the_waits(cluster):
    cluster.fill(1)
    follower = cluster.followers[0]
    told = wait(cluster, follower, 1, within_s=60.0)
    cluster.crash(cluster.leader)
    cluster.run(5)
    assert told == [None]
    assert cluster.waits[follower].tally.unknown == 1


def test_a_node_that_does_not_lead_says_so(cluster):
    one, two = cluster.followers
    cluster.engines[two].peer_message(one, Await(1, 1, 1000))
    answers = [m for _, to, m in cluster.wires.sent if isinstance(m, AwaitEnded) and to == one]
    assert answers == [AwaitEnded(1, 1, "unknown", 0, (), b"")]


def test_i7_waits_are_bounded(cluster):
    cluster.fill(1)
    follower = cluster.followers[0]
    told = [wait(cluster, follower, 1) for _ in range(WAITS_MAX + 1)]
    assert told == [[]] * WAITS_MAX + [[None]]
    end(cluster, 1)
    cluster.run(0.1)
    assert told[:-1] == [[DONE]] * WAITS_MAX


def test_a_node_that_stops_ends_its_waits_and_takes_no_more(cluster):
    cluster.fill(1)
    told = wait(cluster, cluster.leader, 1)
    cluster.waits[cluster.leader].close()
    assert told == [None]
    assert wait(cluster, cluster.leader, 1) == [None]


def test_the_first_consumer_of_the_file_that_takes_the_route(cluster):
    waits = cluster.waits["a"]
    assert waits.consumer_of(1) == FIRST
    waits.first = ["nobody", "rest-api"]
    assert waits.consumer_of(1) == FIRST
