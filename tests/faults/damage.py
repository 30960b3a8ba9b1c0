"""Bytes that change on the disk: above the newest checkpoint, and in an old segment.

A flipped bit is never served: the node says where it is. What stands above the newest
checkpoint keeps the node from starting until ``crowd repair``; what stands below is mended
from the others while it runs.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.faults.nodes import ROOT, last_words
from tests.faults.stage import Fault
from tests.faults.waiting import FaultError, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.stage import Stage

BEHIND_BYTES = 16 << 10
"""How far before its end the log is damaged: some batches stand behind it, and no checkpoint
is likely to be newer."""

LARGE_BODY_BYTES = 200_000
"""A segment of 64 MiB is full after some six seconds."""

LARGE_RATE = 60.0
ENDS_WITHIN_S = 20.0
SCRUBBED_SOON_BYTES = 8 << 20
MENDED_WITHIN_S = 60.0


def command_exists(name: str) -> bool:
    """Say whether this tree's `crowd` has the command."""
    return not _crowd(name, "--help").returncode


def lack() -> str | None:
    """Return why damage cannot be repaired by this tree, or None."""
    return None if command_exists("repair") else "not built yet: crowd repair"


def repair_rounds(stage: Stage, rounds: int) -> None:
    """Flip a byte near the end of a killed node's log; it must say so, and be repaired."""
    for _ in range(rounds):
        stage.pause(1.0, 1.5)
        name = stage.chance.choice(stage.others(stage.cluster.leader()))
        node = stage.cluster.nodes[name]
        with stage.down(name):
            stage.cluster.kill(name)
            segment = segments(node.directory)[-1]
            flip(segment, max(used_bytes(segment) - BEHIND_BYTES, 4096))
            said = node.said()
            stage.cluster.start(name)
            eventually(
                f"{name} ends or is ready",
                lambda node=node: not node.runs or node.ready(),
                ENDS_WITHIN_S,
            )
            if node.runs:
                stage.note("mended_at_start")
            else:
                if segment.name not in node.words(said):
                    raise FaultError(f"{name} does not name the damage: {last_words(node)}")
                done = _crowd("repair", str(node.directory), "--yes")
                if done.returncode:
                    raise FaultError(f"crowd repair: {done.stderr.strip()}")
                stage.note("repaired")
                stage.cluster.start(name)
        stage.traffic.wait_acknowledged(20)
        stage.rounds += 1


def rot_rounds(stage: Stage, rounds: int) -> None:
    """Flip a byte in a full segment of a running follower, then in one of the leader's.

    The consumer is held, so every entry there is still needed. Nobody reads it on a follower:
    its scrub must find the byte. The leader has to read what was damaged in order to deliver
    it. The byte on the disk must be the old one again; the leader may also have compacted it
    away once it was delivered.
    """
    body = stage.ground.directory / "body"
    body.write_bytes(b'{"pad": "%s"}' % (b"x" * LARGE_BODY_BYTES))
    urls = [stage.url(name) for name in stage.names]
    for number in range(rounds):
        with stage.traffic.held():
            leader = stage.cluster.leader()
            name = leader if number else stage.chance.choice(stage.others(leader))
            directory = stage.cluster.nodes[name].directory
            last = segments(directory)[-1]
            full = 1 if number else 0
            large = stage.traffic.load_body(urls, body, rate=LARGE_RATE)
            _wait_segments(directory, last, full + 1)
            # A scrub begins with the first segment as soon as that is full, at 1 MiB a second,
            # and a new cluster has only one: there it meets the byte soon.
            segment = _from(directory, last)[full]
            place = used_bytes(segment) // 2 if full else SCRUBBED_SOON_BYTES
            good = flip(segment, place)
            stage.traffic.end_loads(large)
            if not full:
                _wait_mended(name, segment, place, good)
                stage.note("mended_by_the_scrub")
        if full:
            _wait_mended(name, segment, place, good)
            stage.note("mended_by_reading" if segment.exists() else "mended_and_compacted_away")
        stage.cluster.wait_ready()
        stage.traffic.wait_acknowledged(20)
        stage.rounds += 1


def _from(directory: Path, last: Path) -> list[Path]:
    """Return the segments from one on; all but the newest of them are full."""
    return [one for one in segments(directory) if one.name >= last.name]


def _wait_segments(directory: Path, last: Path, full: int) -> None:
    eventually(f"{full} full segments", lambda: len(_from(directory, last)) > full, 60, every_s=0.1)


def _wait_mended(name: str, segment: Path, place: int, good: bytes) -> None:
    eventually(
        f"{name} mends {segment.name} at offset {place}",
        lambda: not segment.exists() or read(segment, place) == good,
        MENDED_WITHIN_S,
        every_s=0.2,
    )


def segments(directory: Path) -> list[Path]:
    """Return the files of a node's log, oldest first."""
    return sorted(directory.rglob("*.segment"))


def used_bytes(segment: Path) -> int:
    """Return where a segment's last byte that is not zero ends."""
    return len(segment.read_bytes().rstrip(b"\0"))


def flip(path: Path, place: int) -> bytes:
    """Change one bit; return the byte as it was."""
    with path.open("r+b") as file:
        file.seek(place)
        good = file.read(1)
        file.seek(place)
        file.write(bytes([good[0] ^ 0x10]))
    return good


def read(path: Path, place: int) -> bytes:
    with path.open("rb") as file:
        file.seek(place)
        return file.read(1)


def _crowd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crowd.cli", *arguments],
        check=False, capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip


REPAIR = Fault("repair", 2, repair_rounds, lack=lack)
ROT = Fault("rot", 2, rot_rounds)
