"""A load over three nodes while the leader is killed -9, again and again.

    .venv/bin/python -m tests.faults.leader_kills [--requests 100000] [--kills 3] [--rate 2000]

Starts a cluster and a consumer in a temporary directory, sends the requests through all
three nodes, kills the leader every few seconds and starts it again, and waits until
everything that was acknowledged has arrived. Prints one JSON object: the load's figures, the
failed requests on nodes that were alive, the longest pause, and the checker's figures. Exit
status 0 only if nothing is missing, no living node failed a request, and the ledgers agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time

from tests.checker import Outage, check_deliveries, failures_on_the_living, verdict
from tests.integration.cluster import Nodes, eventually, free_ports

DOWN_S = 2.0
"""How long a killed node stays away."""


def run(options, directory):
    """Play it once; return the figures and what is wrong."""
    consumer = free_ports(1) + 5
    nodes = Nodes(directory, upstream=f"http://127.0.0.1:{consumer}")
    outages = []
    try:
        nodes.sink(consumer)
        load = nodes.load(
            "--requests", str(options.requests), rate=options.rate, seconds=options.seconds
        )
        for _ in range(options.kills):
            time.sleep(options.every)
            leader = nodes.leader()
            url, since = nodes.nodes[leader].http, time.time()
            nodes.kill(leader)
            time.sleep(DOWN_S)
            nodes.up()
            outages.append(Outage(url, since, time.time()))
        report = nodes.finish(load, within_s=options.seconds + 60)

        def all_arrived():
            figures = check_deliveries(nodes.loads, nodes.sinks)
            return figures if figures["missing"] == 0 else None

        try:
            figures = eventually("every delivery", all_arrived, 120)
        except AssertionError:
            figures = check_deliveries(nodes.loads, nodes.sinks)
        index, digest = nodes.same_ledgers()
        failed = len(failures_on_the_living(nodes.loads, outages))
    finally:
        nodes.close()
    wrong = verdict(figures, None)
    if failed:
        wrong.append(f"{failed} requests failed on nodes that were alive")
    shown = {
        "requests": report["requests"],
        "succeeded": report["succeeded"],
        "failed_with_their_node": report["failed"] - failed,
        "failed_on_the_living": failed,
        "requests_per_s": report["requests_per_s"],
        "longest_pause_s": report["longest_pause_s"],
        "p50_ms": report["p50_ms"],
        "p99_ms": report["p99_ms"],
        "kills": len(outages),
        **figures,
        "ledgers": {"index": index, "sha256": digest},
    }
    return shown, wrong


def main():
    """Run with the command line's options; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=2_000.0, help="0: closed loop")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between kills")
    parser.add_argument("--seconds", type=float, default=300.0, help="the load's bound")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crowd-kills-") as directory:
        shown, wrong = run(options, directory)
    print(json.dumps(shown, indent=1))
    print("\n".join(wrong) or "all is well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
