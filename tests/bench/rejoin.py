"""A wiped follower comes back over a large backlog, while the others go on (I7).

    .venv/bin/python -m tests.bench.rejoin [--gib 5] [--size 65536] [--rate 500]

First 512 MiB are delivered, so that the log no longer begins at its beginning; then the consumer
goes, and three nodes are filled with a backlog of so many GiB. One follower is killed, its
directory deleted, and it is started again under an open-loop load of 327-byte messages over the
two living nodes. Waits until it votes and its ledger is the others'. Prints one JSON object: how long
it took, the load's figures meanwhile, and each node's resident memory: before, at its highest
meanwhile, and after. Exit status 0 only if it came back, no request failed on a living node,
and no node's memory grew by more than `--bound` MiB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from crowd.config import load_file
from tests.bench.backlog_memory import BODY, resident_mib
from tests.integration.cluster import Nodes, eventually, free_ports


def run(options, directory):
    """Play it once; return the figures."""
    port = free_ports(1) + 5
    nodes = Nodes(directory, upstream=f"http://127.0.0.1:{port}")
    body = Path(directory) / "body"
    body.write_bytes(BODY % (b"x" * (options.size - len(BODY) + 2)))
    small = Path(directory) / "small"
    small.write_bytes(BODY % (b"x" * (327 - len(BODY) + 2)))
    count = int(options.gib * (1 << 30) / options.size)
    figures = {"gib": options.gib, "messages": count}

    def released():
        return all(node.get("first_index", 1) > 1 for node in nodes.status()["nodes"])

    def memory():
        return {name: round(resident_mib(node.pid), 1) for name, node in nodes.nodes.items()}

    try:
        sink = nodes.sink(port)
        nodes.fill(body, (512 << 20) // options.size, connections=24)
        eventually("a log that was cut", released)
        sink.terminate()
        sink.wait(20)
        figures["idle_mib"] = memory()
        begun_s = time.monotonic()
        report = nodes.fill(body, count, connections=24)
        figures["filled"] = report["succeeded"]
        figures["filled_s"] = round(time.monotonic() - begun_s, 1)
        time.sleep(3)
        figures["filled_mib"] = memory()
        leader = nodes.leader()
        wiped = next(name for name in nodes.nodes if name != leader)
        living = [name for name in nodes.nodes if name != wiped]
        nodes.kill(wiped)
        shutil.rmtree(load_file(nodes.nodes[wiped].config).node.directory)
        load = nodes.load(
            "--body", str(small), names=living, rate=options.rate, seconds=options.seconds
        )
        nodes.start()
        begun_s = time.monotonic()
        highest = dict(figures["filled_mib"])
        highest[wiped] = 0.0
        while time.monotonic() - begun_s < options.seconds:
            time.sleep(0.25)
            for name, mib in memory().items():
                highest[name] = max(highest[name], mib)
            status = nodes.status()
            states = {node["name"]: node for node in status["nodes"] if "role" in node}
            if states.get(wiped, {}).get("role") == "follower":
                break
        figures["log"] = {
            name: [node["first_index"], node["last_index"], node["checkpoints"]]
            for name, node in states.items()
        }
        figures["snapshot"] = "goes on from the leader's ledger" in nodes.log(wiped)
        figures["rejoined_s"] = round(time.monotonic() - begun_s, 1)
        figures["rejoined"] = states.get(wiped, {}).get("role") == "follower"
        figures["load"] = nodes.finish(load, within_s=options.seconds + 60)
        figures["highest_mib"] = highest
        time.sleep(2)
        figures["after_mib"] = memory()
        nodes.same_ledgers()
    finally:
        nodes.close()
    figures["growth_mib"] = {
        name: round(highest[name] - figures["idle_mib"][name], 1) for name in highest
    }
    return figures


def main():
    """Run with the command line's options; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=65_536)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--seconds", type=float, default=240.0, help="the load's length")
    parser.add_argument("--bound", type=float, default=200.0, help="MiB a node may grow by")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crowd-rejoin-") as directory:
        figures = run(options, directory)
    print(json.dumps(figures, indent=1))
    bounded = max(figures["growth_mib"].values()) <= options.bound
    well = figures["rejoined"] and figures["load"]["failed"] == 0
    return 0 if bounded and well else 1


if __name__ == "__main__":
    sys.exit(main())
