"""Where a message's processor time goes, in microseconds, by node and room.

    .venv/bin/python -m tests.bench.profile_request [--seconds 8]
    .venv/bin/python -m tests.bench.profile_request --rate 3000 --deliver [--functions 40]

Starts three nodes and samples each (`sampling/sitecustomize.py`). Without `--rate` the first node is
posted to as fast as it answers, on 64 connections; with it all nodes are, at that rate, on 256. The
consumer is down, or with `--deliver` a fast one. A node's processor time, as the system counts it, is
shared out among rooms by what its samples were doing, calls of the system included.

Prints the nodes' shares a message accepted; and how often a second each process was switched to, which on
a machine with fewer processors than processes costs more than most of what they do then.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from crowd.tools.status import gather
from tests.bench.backlog_memory import BODY
from tests.bench.sustained import processor_s
from tests.integration.cluster import Nodes, eventually, free_ports

ROOMS = (
    (r"crowd/delivery/|/treq/", "delivery: plan, treq, connections"),
    (r"crowd/web/|klein/|werkzeug/|crowd/message\.py", "web: parse, Klein, encode, answer"),
    (r"crowd/raft/proposer\.py", "proposer"),
    (r"crowd/raft/journal/", "journal"),
    (r"crowd/raft/(wire|frames|link|links|tls)\.py|protocols/tls\.py|OpenSSL/", "peers and TLS"),
    (r"crowd/ledger/|crowd/command\.py|crowd/codec\.py", "ledger and commands"),
    (r"crowd/raft/|pysyncobj/", "engine"),
    (r"twisted/web/", "delivery: plan, treq, connections"),
)
SAMPLING = Path(__file__).parent / "sampling"


def room(stack):
    """Return the room of the innermost frame that belongs to one."""
    for frame in reversed(stack.split(";")):
        for pattern, name in ROOMS:
            if re.search(pattern, frame):
                return name
    return "reactor, and threads"


def switches(pid):
    """Return how often a process's threads were switched to (proc(5))."""
    words = "".join((task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int(count) for count in re.findall(r"ctxt_switches:\s*(\d+)", words))


class Profile:
    """Three nodes that are sampled while a load runs."""

    def __init__(self, directory, options):
        self.directory = Path(directory)
        self.options = options
        os.environ["CROWD_SAMPLES"] = str(directory)
        paths = [str(SAMPLING), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        port = free_ports(1) + 5
        self.nodes = Nodes(directory, upstream=f"http://127.0.0.1:{port}")
        if options.deliver:
            self.nodes.spawn("sink", "--port", str(port))

    def run(self):
        """Load and sample; print the table."""
        nodes, options = self.nodes, self.options
        leader = nodes.leader()
        body = self.directory / "body"
        body.write_bytes(BODY % (b"x" * (327 - len(BODY) + 2)))
        urls = [node.http + "/leads" for node in nodes.nodes.values()]
        load = nodes.spawn(
            "load", "--url", *(urls if options.rate else urls[:1]), "--rate", str(options.rate),
            "--seconds", str(options.seconds + 3), "--body", str(body), "--json",
            "--connections", "256" if options.rate else "64", stdout=-1,
        )  # fmt: skip
        time.sleep(2)
        pids = {name: node.pid for name, node in nodes.nodes.items()}
        before = self._look(leader, pids)
        for pid in pids.values():
            os.kill(pid, signal.SIGUSR1)
        time.sleep(options.seconds)
        for pid in pids.values():
            os.kill(pid, signal.SIGUSR2)
        after = self._look(leader, pids)
        nodes.finish(load)
        took_s, accepted, delivered = (max(1e-9, after[n] - before[n]) for n in range(3))
        print(
            f"{leader} leads; {accepted / took_s:.0f} accepted and {delivered / took_s:.0f} "
            "delivered a second; µs of CPU for each accepted"
        )
        for name, pid in pids.items():
            spent_s = after[3][name] - before[3][name]
            switched = (after[4][name] - before[4][name]) / took_s
            print(
                f"\n{name}: {spent_s / accepted * 1e6:.1f}, switched to {switched:.0f} times a second"
            )
            self._print_rooms(pid, spent_s / accepted * 1e6, functions=name == leader)

    def _look(self, leader, pids):
        """Return time, accepted, delivered, and each node's processor time and switches."""
        (status,) = gather([self.nodes.nodes[leader].admin])["nodes"]
        return (
            time.monotonic(),
            status["position"],
            status["consumers"][0]["watermark"],
            {name: processor_s(pid) for name, pid in pids.items()},
            {name: switches(pid) for name, pid in pids.items()},
        )

    def _print_rooms(self, pid, spent_us, *, functions):
        samples = self.directory / str(pid)
        eventually("the samples", samples.exists)
        rooms, within = Counter(), Counter()
        for line in samples.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            rooms[room(stack)] += int(count)
            for frame in set(stack.split(";")):
                within[frame] += int(count)
        for what, count in rooms.most_common():
            print(f"  {spent_us * count / rooms.total():6.1f}  {what}")
        for frame, count in within.most_common(self.options.functions) if functions else ():
            path, _, function = frame.rpartition(":")
            where = "/".join(path.split("/")[-2:])
            print(f"    {spent_us * count / rooms.total():6.1f}  in {function} ({where})")


def main():
    """Measure, and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second (default: all)")
    parser.add_argument("--deliver", action="store_true", help="to a fast consumer")
    parser.add_argument("--functions", type=int, default=0, help="so many of the leader's, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crowd-profile-") as directory:
        profile = Profile(directory, options)
        try:
            profile.run()
        finally:
            profile.nodes.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
