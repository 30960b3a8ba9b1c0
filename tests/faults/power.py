"""Power loss on all nodes at once: what no flush has covered is gone, in part or whole.

Each node's directory is on a `MemoryDisk` of its own, mounted by ``fuse``: every system call
that reaches the node's files passes through it, whichever library or thread made it. All
disks lose their power within a millisecond of each other; then all nodes are killed, and
started again on what is left.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.faults.leftovers import unmount
from tests.faults.nodes import Ground, end, spawn
from tests.faults.stage import Fault
from tests.faults.waiting import FaultError, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.stage import Stage

SYNC_MS = 8
"""As a disk without a cache takes it, and long beside the write before it: so at any moment
something is unflushed on nearly every node."""

MOUNTED_WITHIN_S = 10.0
ANSWER_WITHIN_S = 30.0


def lack() -> str | None:
    """Return what is missing for FUSE, or None."""
    if os.geteuid():
        return "needs root, to mount a FUSE file system"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"needs FUSE in the kernel; /dev/fuse: {error.strerror}"
    return None


class ForgetfulDisks(Ground):
    """Each node's directory is on a disk that keeps what was flushed and no more."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._mounted: list[Path] = []

    def prepare(self, name: str, directory: Path) -> None:
        directory.mkdir()
        self._mounted.append(directory)
        log = (self.directory / f"{name}.disk.log").open("wb")
        with log:
            self._servers[name] = spawn(
                [sys.executable, "-m", "tests.faults.fuse", str(directory), str(SYNC_MS)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        eventually(f"{name}'s disk", directory.is_mount, MOUNTED_WITHIN_S)

    def tell(self, words: str, *names: str) -> list[dict[str, Any]]:
        """Tell these disks something, all before one is waited for; return their answers."""
        for name in names:
            stdin = self._servers[name].stdin
            assert stdin is not None
            stdin.write(f"{words}\n".encode())
            stdin.flush()
        return [self._answer(name) for name in names]

    def _answer(self, name: str) -> dict[str, Any]:
        stdout = self._servers[name].stdout
        assert stdout is not None
        if not select.select([stdout], [], [], ANSWER_WITHIN_S)[0]:
            raise FaultError(f"{name}'s disk does not answer")
        said: dict[str, Any] = json.loads(stdout.readline())
        return said

    def close(self) -> None:
        # The server first: a process that waits for it is then let go by the kernel.
        for server in self._servers.values():
            end(server)
            for pipe in (server.stdin, server.stdout):
                if pipe is not None:
                    pipe.close()
        for directory in self._mounted:
            unmount(directory)


def power_loss_rounds(stage: Stage, rounds: int) -> None:
    """Cut the power of all disks in the middle of the load, kill all nodes, start again.

    In every other round the consumer is held before: what is acknowledged then has not been
    delivered when the power goes, and can only come from what the disks kept.
    """
    for number in range(rounds):
        with stage.held_every_other(number):
            stage.pause(0.7, 1.5)
            with stage.down(*stage.names):
                _lose_power(stage, f"{stage.chance.random()}")
                stage.cluster.start()
        stage.traffic.wait_acknowledged(20)
        stage.rounds += 1


def lying_disk_rounds(stage: Stage, rounds: int) -> None:
    """The same on disks that begin to lie before: a check worth its name has to find losses."""
    ground = stage.ground
    assert isinstance(ground, ForgetfulDisks)
    for _ in range(rounds):
        with stage.traffic.held():
            ground.tell("lie", *stage.names)
            stage.pause(1.0, 1.0)
            with stage.down(*stage.names):
                _lose_power(stage, "lies")
                stage.cluster.start()
        stage.rounds += 1


def _lose_power(stage: Stage, seed: str) -> None:
    ground = stage.ground
    assert isinstance(ground, ForgetfulDisks)
    lost = ground.tell(f"off {seed}", *stage.names)
    stage.cluster.kill(*stage.names)
    ground.tell("on", *stage.names)
    for one in lost:
        for key, count in one.items():
            stage.note(key, count)


BODY_BYTES = 3_000
"""Some sectors a message, so that a write can be torn within one."""

POWER_LOSS = Fault("power-loss", 8, power_loss_rounds, ForgetfulDisks, lack, body_bytes=BODY_BYTES)
LYING_DISK = Fault("lying-disk", 1, lying_disk_rounds, ForgetfulDisks, lack, must_lose=True)
"""No fault to bear but a check of the check: see docs/how-to/faults.md."""
