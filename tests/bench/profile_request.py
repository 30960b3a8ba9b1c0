"""Where one request's CPU time goes, in microseconds, by node and room.

    .venv/bin/python -m tests.bench.profile_request [--seconds 8]

Starts three nodes whose consumer is down, posts to the first one on 64 connections, and samples
every node with py-spy (``pip install -e '.[bench]'``). A node's user time, as the system counts
it, is shared out among rooms by what its samples were doing; system time is a row of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.bench.backlog_memory import BODY
from tests.integration.cluster import Nodes, free_ports

ROOMS = (
    (r"crowd/web/|klein/|werkzeug/|crowd/message\.py", "web: parse, Klein, encode, answer"),
    (r"crowd/raft/proposer\.py", "proposer"),
    (r"crowd/raft/journal/", "journal"),
    (r"crowd/raft/(wire|frames|link|links|tls)\.py|protocols/tls\.py|OpenSSL/", "peers and TLS"),
    (r"crowd/ledger/|crowd/command\.py|crowd/codec\.py", "ledger and commands"),
    (r"crowd/raft/|pysyncobj/", "engine"),
    (r"crowd/delivery/", "delivery"),
)
TICK = os.sysconf("SC_CLK_TCK")


def room(stack):
    """Return the room of the innermost frame that belongs to one."""
    for frame in reversed(stack.split(";")):
        for pattern, name in ROOMS:
            if re.search(pattern, frame):
                return name
    return "reactor"


def cpu_s(pid):
    """Return a process's (user, system) seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICK, int(fields[12]) / TICK


def main():
    """Measure, and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=8)
    options = parser.parse_args()
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if spy is None:
        print("found no py-spy; pip install -e '.[bench]'", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="crowd-profile-") as directory:
        nodes = Nodes(directory, upstream=f"http://127.0.0.1:{free_ports(1) + 5}")
        body = Path(directory) / "body"
        body.write_bytes(BODY % (b"x" * (327 - len(BODY) + 2)))
        try:
            leader = nodes.leader()
            load = nodes.load("--body", str(body), names=["a"], rate=0, seconds=options.seconds + 2)
            time.sleep(1)
            before = {name: cpu_s(node.pid) for name, node in nodes.nodes.items()}
            accepted = nodes.status()["nodes"][0]["position"]
            spies = [
                subprocess.Popen(
                    [spy, "record", "--gil", "-r", "200", "-d", str(options.seconds),
                     "-f", "raw", "-o", f"{directory}/{name}.raw", "--pid", str(node.pid)],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
                for name, node in nodes.nodes.items()
            ]  # fmt: skip
            for each in spies:
                each.wait()
            accepted = nodes.status()["nodes"][0]["position"] - accepted
            after = {name: cpu_s(node.pid) for name, node in nodes.nodes.items()}
            nodes.finish(load)
            print(f"{accepted} requests to a; {leader} leads; µs of CPU for each request")
            for name in nodes.nodes:
                user, system = (
                    (ended - begun) / accepted * 1e6
                    for begun, ended in zip(before[name], after[name], strict=True)
                )
                rooms: Counter[str] = Counter()
                for line in Path(f"{directory}/{name}.raw").read_text().splitlines():
                    stack, _, count = line.rpartition(" ")
                    rooms[room(stack)] += int(count)
                print(f"\n{name}: {user + system:.1f}")
                print(f"  {system:6.1f}  kernel: sockets, disk, wake-ups")
                for what, count in rooms.most_common():
                    print(f"  {user * count / rooms.total():6.1f}  {what}")
        finally:
            nodes.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
