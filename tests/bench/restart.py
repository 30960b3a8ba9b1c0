"""A restart is short, whatever the backlog (docs/explanation/guarantees.md).

    .venv/bin/python -m tests.bench.restart [--messages 1000000] [--size 327] [--rounds 3]

Accepts the messages on three nodes while the consumer is down, then kills one node after the
other, starts it again, and takes the time until its ``/readyz`` answers 200. The other two stay,
so this is the node's own start and catching up. Prints one JSON object; exit status 0 only if
the median start is within `--bound` seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.backlog_memory import BODY, resident_mib
from tests.integration.cluster import Nodes, free_ports


def run(options, directory):
    """Play it once; return the figures."""
    nodes = Nodes(directory, upstream=f"http://127.0.0.1:{free_ports(1) + 5}")
    body = Path(directory) / "body"
    body.write_bytes(BODY % (b"x" * (options.size - len(BODY) + 2)))
    figures = {"messages": options.messages, "size": body.stat().st_size, "starts_s": []}
    try:
        report = nodes.fill(body, options.messages)
        figures["accepted"] = report["succeeded"]
        for _ in range(options.rounds):
            for name in nodes.nodes:
                nodes.kill(name)
                begun_s = time.monotonic()
                nodes.up()
                figures["starts_s"].append(round(time.monotonic() - begun_s, 2))
                time.sleep(1)
        figures["resident_mib"] = {n: round(resident_mib(x.pid)) for n, x in nodes.nodes.items()}
        figures["checkpoints"] = {
            node["name"]: node["checkpoints"] for node in nodes.status()["nodes"]
        }
        nodes.same_ledgers()
    finally:
        nodes.close()
    figures["median_s"] = statistics.median(figures["starts_s"])
    return figures


def main():
    """Run with the command line's options; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=327)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bound", type=float, default=5.0, help="seconds until it is ready")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crowd-restart-") as directory:
        figures = run(options, directory)
    print(json.dumps(figures, indent=1))
    short = figures["median_s"] <= options.bound
    return 0 if short and figures["accepted"] == options.messages else 1


if __name__ == "__main__":
    sys.exit(main())
