"""Members that come, go and are replaced under load, by the operator's commands."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from crowd.raft.certificates import make_node
from crowd.tools.init import node_content, node_plans
from crowd.tools.toml_text import toml_text
from tests.checker import Outage
from tests.faults.damage import command_exists
from tests.faults.nodes import ROOT, now
from tests.faults.stage import Fault
from tests.faults.waiting import FaultError, eventually

if TYPE_CHECKING:
    from tests.faults.stage import Stage

ALL = "abcd"
CHANGED_WITHIN_S = 30.0


def lack() -> str | None:
    """Return why members cannot be changed by this tree, or None."""
    return None if command_exists("member") else "not built yet: crowd member"


def member_rounds(stage: Stage, rounds: int) -> None:
    """Add a fourth node, remove one of the four (the leader at times), replace a dead one."""
    for number in range(rounds):
        if number % 3 == 0:
            _add(stage, _spare(stage))
        elif number % 3 == 1:
            leader = stage.cluster.leader()
            gone = leader if number % 2 else stage.chance.choice(stage.others(leader))
            _remove(stage, gone)
            stage.cluster.terminate(gone)
            _forget(stage, gone)
        else:
            dead = stage.chance.choice(stage.names)
            since = now()
            stage.cluster.kill(dead)
            stage.traffic.outages.append(Outage(stage.url(dead), since, since + 1e9))
            stage.cluster.leader(*stage.others(dead))
            _remove(stage, dead)
            _forget(stage, dead)
            _add(stage, _spare(stage, dead))
        stage.traffic.wait_acknowledged(20)
        stage.rounds += 1


def _spare(stage: Stage, *but: str) -> str:
    """Return a name that is free."""
    return next(name for name in ALL if name not in stage.names and name not in but)


def _add(stage: Stage, name: str) -> None:
    """Write a new node's file, have the cluster take it in, start it, and wait for its vote."""
    path = stage.cluster.directory / f"{name}.toml"
    hosts = stage.ground.hosts(ALL)
    plan = msgspec.structs.replace(stage.cluster.plan, nodes=len(ALL), hosts=hosts)
    plans = node_plans(plan)
    mine = plans[ALL.index(name)]
    members = tuple(one for one in plans if one.name in stage.names or one is mine)
    directory = stage.cluster.directory
    if not path.exists():
        certificate, key = make_node(
            (directory / "authority.pem").read_bytes(),
            (directory / "authority.key").read_bytes(),
            plan.cluster, name, [mine.host],
        )  # fmt: skip
        (directory / f"{name}.pem").write_bytes(certificate)
        (directory / f"{name}.key").write_bytes(key)
    path.write_text(toml_text(node_content(plan, mine, members)), "utf-8")
    node = stage.cluster.adopt(path)
    if node.directory.exists():
        stage.cluster.wipe(name)  # it was a member once: it begins anew
    with stage.traffic.outage(node.http):
        stage.cluster.start(name)
        _member(stage, "add", name, mine.peer)  # ends when the new member votes
        stage.cluster.wait_ready(name, within_s=CHANGED_WITHIN_S)
    others = stage.others(name)
    _wait_members(stage, others[0], lambda voters: name in voters, f"{name} votes")
    stage.traffic.load([node.http], rate=20)


def _remove(stage: Stage, name: str) -> None:
    since = now()
    _member(stage, "remove", name)
    others = stage.others(name)
    stage.traffic.outages.append(Outage(stage.url(name), since, since + 1e9))
    _wait_members(stage, others[0], lambda voters: name not in voters, f"{name} votes no more")


def _forget(stage: Stage, name: str) -> None:
    """Take a node that is gone off the stage."""
    del stage.cluster.nodes[name]


def _wait_members(stage: Stage, asked: str, condition: Any, what: str) -> None:
    def holds() -> bool:
        said = stage.cluster.status(asked).get(asked)
        if said is None:
            return False
        voters = {name for name, peer in said["peers"].items() if peer["votes"]}
        return bool(condition(voters))

    eventually(what, holds, CHANGED_WITHIN_S, every_s=0.1)


def _member(stage: Stage, *words: str) -> None:
    """Run ``crowd member``, as an operator does beside the nodes' files."""
    done = subprocess.run(
        [sys.executable, "-m", "crowd.cli", "member", *words, "--directory",
         str(stage.cluster.directory), "--wait", f"{CHANGED_WITHIN_S:g}s"],
        check=False, capture_output=True, text=True, timeout=2 * CHANGED_WITHIN_S, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        raise FaultError(f"crowd member {' '.join(words)}: {done.stderr.strip()}")


MEMBERS = Fault("members", 5, member_rounds, lack=lack)
