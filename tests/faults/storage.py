"""A full disk, a flush that fails, a directory that is gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.faults.disks import FailingSyncs, SmallDisks, lack_of_compiler, lack_of_mounts
from tests.faults.nodes import last_words
from tests.faults.stage import Fault
from tests.faults.waiting import FaultError, eventually

if TYPE_CHECKING:
    from tests.faults.stage import Stage

MIB = 1 << 20
LEFT_BYTES = (6 * MIB, 0)
"""Far below the floor of 256 MiB, and not one block."""

CLOSED_WITHIN_S = 5.0
OPEN_WITHIN_S = 8.0
"""A node looks at its disk twice a second; without a leader meanwhile it takes an election."""

FAILED_SYNC_WITHIN_S = 10.0
READMITTED_WITHIN_S = 20.0
HELD_S = 1.0
"""How long the consumer is held, so that there is a backlog when the disk fills."""


def full_disk_rounds(stage: Stage, rounds: int) -> None:
    """Fill all nodes' disks, the leader's, and a follower's in turn; then take the ballast away.

    A full node refuses with 503 and Retry-After; nobody else fails; what was accepted before
    is delivered meanwhile; with space the door opens again.
    """
    ground = stage.ground
    assert isinstance(ground, SmallDisks)
    for number in range(rounds):
        leader = stage.cluster.leader()
        follower = stage.chance.choice(stage.others(leader))
        full = [stage.names, [leader], [follower]][number % 3]
        urls = [stage.url(name) for name in full]
        with stage.traffic.outage(*urls, statuses=frozenset({503})):
            with stage.traffic.held():
                stage.pause(HELD_S, HELD_S)
                before = stage.traffic.delivered()
                for name in full:
                    ground.fill(name, LEFT_BYTES[number % 2])
                for name in full:
                    _wait_refused(stage, name)
                waiting = stage.traffic.acknowledged() - before
            if len(full) == len(stage.names):
                _wait_drained(stage, before, waiting)
            else:
                stage.traffic.wait_acknowledged(30)
            for name in full:
                ground.free(name)
            for name in full:
                _wait_taken(stage, name)
        stage.traffic.wait_acknowledged(30)
        stage.rounds += 1


def _wait_refused(stage: Stage, name: str) -> None:
    """Wait for 503; it must say when to come again."""

    def refused() -> bool:
        status, headers = stage.post(name)
        if status == 503 and "Retry-After" not in headers:
            raise FaultError(f"{name} answered 503 without Retry-After")
        return status == 503

    eventually(f"{name} refuses on its full disk", refused, CLOSED_WITHIN_S, every_s=0.1)


def _wait_taken(stage: Stage, name: str) -> None:
    eventually(
        f"{name} accepts again", lambda: stage.post(name)[0] == 200, OPEN_WITHIN_S, every_s=0.1
    )


def _wait_drained(stage: Stage, before: int, waiting: int) -> None:
    """Wait until what was accepted and held has arrived, with the disks full."""
    eventually(
        f"{waiting} messages arrive while all disks are full",
        lambda: stage.traffic.delivered() >= before + waiting,
        20,
        every_s=0.2,
    )
    stage.note("delivered_on_full_disks", waiting)


def failed_sync_rounds(stage: Stage, rounds: int) -> None:
    """Fail the log's flush on the leader, on a follower, on all nodes, in turn.

    The node must end by itself, and its last words must say why (I8). The others go on.
    """
    ground = stage.ground
    assert isinstance(ground, FailingSyncs)
    for number in range(rounds):
        leader = stage.cluster.leader()
        follower = stage.chance.choice(stage.others(leader))
        failing = [[leader], [follower], stage.names][number % 3]
        with stage.down(*failing):
            for name in failing:
                ground.fail(name)
            for name in failing:
                _wait_ended(stage, name)
            stage.pause(0.2, 1.0)
            for name in failing:
                ground.mend(name)
            stage.cluster.start(*failing)
        stage.traffic.wait_acknowledged(20)
        stage.rounds += 1


def _wait_ended(stage: Stage, name: str) -> None:
    node = stage.cluster.nodes[name]
    eventually(f"{name} ends itself", lambda: not node.runs, FAILED_SYNC_WITHIN_S)
    assert node.process is not None
    words = last_words(node)
    if node.process.returncode != 1 or "Input/output error" not in words:
        raise FaultError(f"{name} ended with {node.process.returncode} and said {words!r}")


def wiped_rounds(stage: Stage, rounds: int) -> None:
    """Delete a node's directory, the leader's too; then one that is needed for a majority.

    It must come back under a new journal id, as one that does not vote until a committed
    entry readmits it. So with one member that remembers and one that does not there is no
    majority: nothing may be acknowledged until the third one is back.
    """
    for number in range(rounds):
        leader = stage.cluster.leader()
        wiped = leader if number % 3 == 2 else stage.chance.choice(stage.others(leader))
        before = stage.cluster.status(wiped)[wiped]["journal_id"]
        said = stage.cluster.nodes[wiped].said()
        away = [*stage.others(leader, wiped)] if number % 3 == 1 else []
        with stage.down(wiped, *away):
            stage.cluster.kill(wiped, *away)
            stage.cluster.wipe(wiped)
            stage.cluster.start(wiped)
            if away:
                _see_no_majority(stage, wiped, leader)
                stage.cluster.start(*away)
        if stage.cluster.status(wiped)[wiped]["journal_id"] == before:
            raise FaultError(f"{wiped} has its old journal id after its directory was deleted")
        if "as learner" not in stage.cluster.nodes[wiped].words(said):
            raise FaultError(f"{wiped} does not say that it came back as a learner")
        _wait_vote(stage, wiped)
        stage.traffic.wait_acknowledged(20)
        stage.rounds += 1


def _wait_vote(stage: Stage, name: str) -> None:
    """Wait until the leader counts a node's vote again."""

    def votes() -> bool:
        leader = stage.cluster.leader()
        if leader == name:
            return True
        said = stage.cluster.status(leader).get(leader, {})
        return bool(said.get("peers", {}).get(name, {}).get("votes"))

    eventually(f"{name} votes again", votes, READMITTED_WITHIN_S, every_s=0.1)


def _see_no_majority(stage: Stage, wiped: str, other: str) -> None:
    """See that a member and one that forgot everything acknowledge nothing together."""
    eventually(f"{wiped} answers", lambda: stage.cluster.status(wiped), 20)
    time.sleep(1.0)  # what was under way when the others went has its answer by now
    before = stage.traffic.acknowledged()
    until_s = time.monotonic() + 3.0
    while time.monotonic() < until_s:
        said = stage.cluster.status(wiped, other)
        if said.get(wiped, {}).get("role") == "leader":
            raise FaultError(f"{wiped} leads without a memory")
        time.sleep(0.1)
    if stage.traffic.acknowledged() != before:
        raise FaultError(f"{other} acknowledged on the vote of {wiped}, which forgot everything")


FULL_DISK = Fault("full-disk", 6, full_disk_rounds, SmallDisks, lack_of_mounts)
FAILED_SYNC = Fault("failed-sync", 3, failed_sync_rounds, FailingSyncs, lack_of_compiler)
WIPED = Fault("wiped", 3, wiped_rounds)
