"""Cuts between nodes: the leader alone, one way only, and a bridge.

A node that reaches no majority is excused while the cut lasts and until it is ready again;
every other node has to answer every request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults import networks
from tests.faults.networks import Network
from tests.faults.stage import Fault

if TYPE_CHECKING:
    from tests.faults.stage import Stage

CUT_S = (2.5, 3.5)
"""Beyond the election timeout and a leader's patience without a majority (1.5 s)."""


def alone_rounds(stage: Stage, rounds: int) -> None:
    """Cut the leader off from both others, both ways. They elect another one; it steps down."""
    for _ in range(rounds):
        leader = stage.cluster.leader()
        others = stage.others(leader)
        with stage.traffic.outage(stage.url(leader)):
            for other in others:
                _network(stage).part(leader, other)
            stage.pause(*CUT_S)
            stage.cluster.leader(*others)
            stage.traffic.wait_acknowledged(20)
            _heal(stage, leader)
        _go_on(stage)


def one_way_rounds(stage: Stage, rounds: int) -> None:
    """Cut one direction between the leader and both others: it hears nothing, or is not heard."""
    for number in range(rounds):
        leader = stage.cluster.leader()
        others = stage.others(leader)
        with stage.traffic.outage(stage.url(leader)):
            for other in others:
                if number % 2:
                    _network(stage).cut(leader, other)
                else:
                    _network(stage).cut(other, leader)
            stage.pause(*CUT_S)
            stage.cluster.leader(*others)
            stage.traffic.wait_acknowledged(20)
            _heal(stage, leader)
        _go_on(stage)


def bridge_rounds(stage: Stage, rounds: int) -> None:
    """Cut one pair, so that the third node is the only bridge between them.

    The leader and a follower first, then two followers, in turn. Every node reaches a
    majority, so none is excused: a request waits for the time that the cut takes.
    """
    for number in range(rounds):
        leader = stage.cluster.leader()
        one, other = stage.others(leader)
        pair = (one, other) if number % 2 else (leader, stage.chance.choice([one, other]))
        _network(stage).part(*pair)
        stage.pause(*CUT_S)
        stage.traffic.wait_acknowledged(20)
        _heal(stage, *pair)
        _go_on(stage)


def _network(stage: Stage) -> Network:
    assert isinstance(stage.ground, Network)
    return stage.ground


def _heal(stage: Stage, *names: str) -> None:
    _network(stage).heal()
    stage.cluster.wait_ready(*names)


def _go_on(stage: Stage) -> None:
    stage.cluster.leader()
    stage.traffic.wait_acknowledged(20)
    stage.rounds += 1


ALONE = Fault("alone", 4, alone_rounds, Network, networks.lack)
ONE_WAY = Fault("one-way", 4, one_way_rounds, Network, networks.lack)
BRIDGE = Fault("bridge", 4, bridge_rounds, Network, networks.lack)
