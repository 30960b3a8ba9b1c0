"""Memory does not grow with the backlog (I7).

    .venv/bin/python -m tests.bench.backlog_memory [--messages 1000000] [--size 327]

Accepts the messages on three nodes while the consumer is down, reports each node's resident
memory before, with the backlog, and after delivery, starts the consumer and waits until the
ledger says that everything is settled. Prints one JSON object; exit status 0 only if no node
grew by more than `--bound` MiB and all was delivered.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.integration.cluster import Nodes, eventually, free_ports

BODY = b'{"message":"this is a lead message", "shop": "a23m07b23", "pad":"%s"}'


def resident_mib(pid):
    """Return a process's resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def run(options, directory):
    """Play it once; return the figures."""
    consumer = free_ports(1) + 5
    nodes = Nodes(directory, upstream=f"http://127.0.0.1:{consumer}")
    body = Path(directory) / "body"
    body.write_bytes(BODY % (b"x" * (options.size - len(BODY) + 2)))
    figures = {"messages": options.messages, "size": body.stat().st_size}

    def memory():
        return {name: round(resident_mib(node.pid), 1) for name, node in nodes.nodes.items()}

    def backlogs():
        return [node["consumers"][0]["backlog"] for node in nodes.status()["nodes"]]

    try:
        nodes.finish(nodes.load("--body", str(body), rate=0, seconds=2))  # warm, and idle again
        time.sleep(3)
        figures["idle_mib"] = memory()
        report = nodes.fill(body, options.messages)
        time.sleep(3)
        figures["accepted"] = report["succeeded"]
        figures["accepted_per_s"] = report["requests_per_s"]
        figures["backlog_mib"] = memory()
        figures["backlog_messages"] = max(backlogs())
        begun_s = time.monotonic()
        nodes.spawn("sink", "--port", str(consumer))
        eventually("an empty backlog", lambda: max(backlogs()) == 0, 1800)
        figures["delivered_per_s"] = round(report["succeeded"] / (time.monotonic() - begun_s), 1)
        figures["delivered_mib"] = memory()
        nodes.same_ledgers()
    finally:
        nodes.close()
    figures["growth_mib"] = {
        name: round(figures["backlog_mib"][name] - idle, 1)
        for name, idle in figures["idle_mib"].items()
    }
    return figures


def main():
    """Run with the command line's options; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=327)
    parser.add_argument("--bound", type=float, default=60.0, help="MiB a node may grow by")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crowd-backlog-") as directory:
        figures = run(options, directory)
    print(json.dumps(figures, indent=1))
    grown = max(figures["growth_mib"].values())
    return 1 if grown > options.bound or figures["accepted"] < options.messages else 0


if __name__ == "__main__":
    sys.exit(main())
