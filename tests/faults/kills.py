"""kill -9, SIGSTOP and SIGCONT, and restarts in good order: faults that need no privilege."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.faults.nodes import now
from tests.faults.stage import Fault
from tests.faults.waiting import FaultError, eventually

if TYPE_CHECKING:
    from tests.faults.stage import Stage

STOPPED_S = 2.5
"""Beyond every election timeout (1.2 s at most), so that another node leads by then."""

POSTS_WHILE_STOPPED = 8
"""Requests that a stopped leader finds in its sockets when it wakes: what it reads first."""

WATCHED_S = 1.5
"""How long a woken leader is watched. It steps down within milliseconds, or never."""

IN_THE_MAKING_MAX = 1
"""A leader may be stopped after it has made sure that it leads and before the request is
written: nothing can close that gap. It holds one message, as they are sent one by one."""


def kill_rounds(stage: Stage, rounds: int) -> None:
    """Kill random nodes, the leader every other time; now and then two of them, or all.

    In every other round the consumer is held: what is acknowledged before the kill is then
    not delivered yet, and arrives from what the nodes kept, or never.
    """
    for number in range(rounds):
        many = 3 if number % 7 == 6 else 2 if number % 4 == 3 else 1
        victims = stage.chance.sample(stage.names, many)
        if many == 1 and number % 2 == 0:
            victims = [stage.cluster.leader()]
        with stage.held_every_other(number):
            stage.pause(0.3, 1.0)
            with stage.down(*victims):
                stage.cluster.kill(*victims)
                stage.pause(0.1, 1.0)
                stage.cluster.start(*victims)
        stage.note("killed", many)
        stage.traffic.wait_acknowledged(20)
        stage.rounds += 1


def pause_rounds(stage: Stage, rounds: int) -> None:
    """Stop the leader past the election timeout, wake it, and see that it does not lead on.

    Posts wait in its sockets when it wakes. What it answers with 200 must arrive, under that
    id and with those bytes: an answer out of its old leadership would name a position that
    belongs to another message. And it must deliver nothing: the others have delivered all that
    it knew of by then, so anything of its would be a second delivery. One is let pass a round
    (see `IN_THE_MAKING_MAX`).
    """
    for _ in range(rounds):
        leader = stage.cluster.leader()
        url = stage.url(leader)
        others = stage.others(leader)
        term = stage.cluster.status(leader)[leader]["term"]
        with stage.traffic.outage(url):
            stage.cluster.stop(leader)
            begun_s = time.monotonic()
            try:
                posts = [
                    threading.Thread(
                        target=stage.traffic.post,
                        args=(url, f'{{"round": {stage.rounds}, "post": {number}}}'.encode()),
                        daemon=True,
                    )
                    for number in range(POSTS_WHILE_STOPPED)
                ]
                for post in posts:
                    post.start()
                successor = stage.cluster.leader(*others)
                time.sleep(max(0.0, begun_s + STOPPED_S - time.monotonic()))
            finally:
                woken = now()
                stage.cluster.wake(leader)
            leads_again = _watch(stage, leader, term)
            stage.cluster.wait_ready(leader)
        for post in posts:
            post.join(15)
        again = stage.traffic.second_deliveries(woken, leads_again or now())
        if again and stage.cluster.leader() == successor:
            stage.note("sent_in_the_making", len(again))
            if len(again) > IN_THE_MAKING_MAX:
                raise FaultError(f"{leader} delivered {again} after it woke in {successor}'s term")
        stage.traffic.wait_acknowledged(20)
        stage.rounds += 1


def _watch(stage: Stage, name: str, term: int) -> float | None:
    """Wait until a woken leader knows its place; return when it leads again, if it does."""

    def knows() -> bool:
        said = stage.cluster.status(name).get(name)
        return said is not None and said["term"] > term and said["leader"] is not None

    eventually(f"{name} learns of its successor", knows, 5)
    until_s = time.monotonic() + WATCHED_S
    while time.monotonic() < until_s:
        if stage.cluster.status(name).get(name, {}).get("role") == "leader":
            return now()
        time.sleep(0.1)
    return None


def rolling_rounds(stage: Stage, rounds: int) -> None:
    """Restart every node in good order, one after the other. Nothing is excused."""
    for _ in range(rounds):
        for name in stage.names:
            stage.cluster.terminate(name)
            stage.cluster.start(name)
            stage.cluster.wait_ready(name)
            stage.pause(0.2, 0.5)
        stage.rounds += 1


KILL = Fault("kill", 20, kill_rounds)
PAUSE = Fault("pause", 5, pause_rounds)
ROLLING = Fault("rolling", 4, rolling_rounds)
