"""Nodes with 0, 1 and 2 workers side by side: rate, latency, and processor time by process.

    .venv/bin/python -m tests.bench.workers [--workers 0 1 2] [--rounds 2] [--seconds 8] [--nodes 3]

For each, in turns, starts nodes whose consumer is down (so that nothing but accepting is
measured), posts 327 bytes at a time to all of them on 64 connections for `--seconds` after 2 s of
warmth, and stops them. Prints, as the middle of the rounds, the rate, the latencies, and the seconds
of processor time that 1 000 messages took: in the leader's engine process, in a follower's, in all
workers, in the load. Ratios are to the first of `--workers`.

The rate is one of a machine that all of them share: with as many cores as one node has processes it
cannot rise. What a message costs the leader's engine process is what bounds the rate on a machine
where that process has a core of its own (docs/explanation/more-cores.md).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from crowd.tools.status import gather
from tests.bench.backlog_memory import BODY
from tests.bench.sustained import processor_s
from tests.integration.cluster import Nodes, eventually, free_ports

WARM_S = 2.0
CPU = ("leader_engine", "follower_engine", "all_workers", "load")


class Stage:
    """Nodes with so many workers each, and one load over them."""

    def __init__(self, directory, options, workers):
        self.nodes = Nodes(
            directory, size=options.nodes, upstream=f"http://127.0.0.1:{free_ports(1) + 5}",
            extra={"node": {"workers": workers}},
        )  # fmt: skip
        self._body = Path(directory) / "body"
        self._body.write_bytes(BODY % (b"x" * (327 - len(BODY) + 2)))
        self._options = options
        self._workers = workers

    def _pids(self):
        """Return every worker's process id once all of them take requests."""
        nodes = self.nodes.status()["nodes"]
        found = [each for node in nodes for each in node["workers"]]
        ready = len(found) == self._workers * len(nodes) and all(each["ready"] for each in found)
        return ([each["pid"] for each in found],) if ready else None

    def measure(self):
        """Return what one load came to."""
        nodes, options = self.nodes, self._options
        (workers,) = eventually("all workers", self._pids)
        leader = nodes.leader()
        load = nodes.load(
            "--connections", str(options.connections), "--body", str(self._body),
            rate=0, seconds=options.seconds + WARM_S + 1,
        )  # fmt: skip
        engines = {name: node.pid for name, node in nodes.nodes.items()}

        def spent():
            by_node = {name: processor_s(pid) for name, pid in engines.items()}
            return {
                "leader_engine": by_node.pop(leader),
                "follower_engine": sum(by_node.values()) / max(1, len(by_node)),
                "all_workers": sum(map(processor_s, workers)),
                "load": processor_s(load.pid),
            }

        def accepted():
            (status,) = gather([nodes.nodes[leader].admin])["nodes"]
            return status["position"]

        time.sleep(WARM_S)
        before, first, begun_s = spent(), accepted(), time.monotonic()
        time.sleep(options.seconds)
        after, last, took_s = spent(), accepted(), time.monotonic() - begun_s
        assert nodes.leader() == leader, "an election: measure again"
        spread = [
            [each["connections"] for each in node["workers"]] for node in nodes.status()["nodes"]
        ]
        report = nodes.finish(load)
        thousands = (last - first) / 1000
        return {
            "workers": self._workers,
            "per_s": round((last - first) / took_s),
            "p50_ms": report["p50_ms"],
            "p99_ms": report["p99_ms"],
            "failed": report["failed"],
            "connections": spread,
            **{name: round((after[name] - before[name]) / thousands, 4) for name in CPU},
        }


def table(found, first):
    """Return the lines of the table: the middle of each one's rounds, and its ratio to `first`."""
    columns = ("per_s", "p50_ms", "p99_ms", *CPU)
    yield "workers " + " ".join(f"{name:>22}" for name in columns)
    middle = {
        workers: {name: median(each[name] for each in rounds) for name in columns}
        for workers, rounds in found.items()
    }
    for workers, values in middle.items():
        cells = []
        for name in columns:
            base = middle[first][name]
            ratio = f" ({values[name] / base:.2f})" if base else ""
            cells.append(f"{values[name]:g}{ratio}")
        yield f"{workers:>7} " + " ".join(f"{cell:>22}" for cell in cells)
    yield "processor seconds are for 1 000 messages; in brackets the ratio to the first line"


def main():
    """Run with the command line's options; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    found: dict[int, list[dict[str, object]]] = {workers: [] for workers in options.workers}
    for _ in range(options.rounds):
        for workers in options.workers:
            with tempfile.TemporaryDirectory(prefix="crowd-workers-") as directory:
                stage = Stage(directory, options, workers)
                try:
                    found[workers].append(stage.measure())
                finally:
                    stage.nodes.close()
                print(json.dumps(found[workers][-1]), flush=True)
    print(f"\n{os.cpu_count()} cores, {options.nodes} nodes, {options.connections} connections")
    for line in table(found, options.workers[0]):
        print(line)
    return 0 if not any(each["failed"] for rounds in found.values() for each in rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
