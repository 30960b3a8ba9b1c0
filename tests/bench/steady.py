"""Open loop, for long, with the leader killed half way: latencies, and what became of each request.

    .venv/bin/python -m tests.bench.steady [--rate 500] [--seconds 600] [--beside 60]

Starts three nodes that deliver to a fast consumer, sends so many requests a second to all of them, each
due at its time whatever became of those before, and kills the leader (SIGKILL) in the middle; it is
started again after 3 s. A request's latency counts from when it was due. Prints latencies without the
two seconds from the kill on, the longest time without a success, requests that failed on nodes that
live, and whether all that was acknowledged arrived. Exit status 0 if nothing is missing and nothing
failed on the living.

With `--beside` the same load goes to the leader of three etcd nodes first, for so many seconds. etcd
delivers nothing and nobody is killed: it shows how much of the latencies is the machine's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time

from tests.bench.peers import peers
from tests.checker import Outage, failures_on_the_living, lines
from tests.integration.cluster import Nodes, eventually, free_ports

KILLED_FOR_S = 3.0
APART_S = 2.0
"""After a kill, latencies are counted apart for so long."""
WARM_S = 3.0


def quantile_ms(latencies, share):
    """Return the latency below which this share lies, in ms; `latencies` are sorted, in seconds."""
    return round(latencies[int(len(latencies) * share)] * 1000, 2) if latencies else None


def play(nodes, port, options):
    """Load, kill, and return the figures."""
    nodes.sink(port)
    nodes.finish(nodes.load(rate=options.rate, seconds=WARM_S))
    load = nodes.load(rate=options.rate, seconds=options.seconds)
    time.sleep(options.seconds / 2)
    leader = nodes.leader()
    url, killed_s = nodes.nodes[leader].http, time.time()
    nodes.kill(leader)
    time.sleep(KILLED_FOR_S)
    nodes.start()
    eventually("the killed node's return", lambda: len(nodes.status()["nodes"]) == len(nodes.nodes))
    back_s = time.time()
    report = nodes.finish(load, within_s=options.seconds + 120)
    answers = list(lines([nodes.loads[-1]]))
    good = [one for one in answers if 200 <= one["status"] < 300]
    apart = [one for one in good if not killed_s <= one["time"] < killed_s + APART_S]
    latencies = sorted(one["latency"] for one in apart)
    ids = {one["id"] for log in nodes.loads for one in lines([log]) if 200 <= one["status"] < 300}

    def missing():
        return ids - {one["id"] for one in lines(nodes.sinks)}

    eventually("all that was acknowledged at the consumer", lambda: not missing(), 120)
    outage = Outage(url, killed_s, back_s)
    failed = len(failures_on_the_living([nodes.loads[-1]], [outage]))
    return {
        "requests": report["requests"],
        "succeeded": report["succeeded"],
        "failed_on_the_living": failed,
        "failed_with_their_node": report["failed"] - failed,
        "p50_ms": quantile_ms(latencies, 0.5),
        "p99_ms": quantile_ms(latencies, 0.99),
        "p999_ms": quantile_ms(latencies, 0.999),
        "longest_pause_s": report["longest_pause_s"],
        "missing": len(missing()),
        "duplicates": sum(1 for _ in lines(nodes.sinks)) - len(ids),
    }


def play_etcd(rate, seconds):
    """Put to the leader of three etcd nodes, with the same open loop; return the figures."""
    bench = peers.Bench("etcd", argparse.Namespace(tmp=None, keep=False))
    try:
        target = peers.etcd(bench, leader=True)
        body = bench.write("body", target.probe.decode("ascii"))
        load = [sys.executable, "-m", "crowd.cli", "load", "--url", target.url, "--json"]
        load += ["--rate", str(rate), "--body", str(body), "--seconds"]
        for each in (WARM_S, seconds):
            ended = subprocess.run([*load, str(each)], stdout=subprocess.PIPE, check=True)
        report = json.loads(ended.stdout)
        return {name: report[name] for name in ("requests", "succeeded", "p50_ms", "p99_ms")}
    finally:
        bench.stop()


def main():
    """Run with the command line's options; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument(
        "--beside", type=float, default=0.0, help="seconds for etcd (default: none)"
    )
    options = parser.parse_args()
    etcd = play_etcd(options.rate, options.beside) if options.beside else None
    with tempfile.TemporaryDirectory(prefix="crowd-steady-") as directory:
        port = free_ports(3) + 35
        nodes = Nodes(directory, upstream=f"http://127.0.0.1:{port}")
        try:
            found = play(nodes, port, options)
            nodes.same_ledgers()
        finally:
            nodes.close()
    print(json.dumps({"crowd": found, "etcd-leader": etcd} if etcd else found, indent=1))
    return 1 if found["missing"] or found["failed_on_the_living"] else 0


if __name__ == "__main__":
    sys.exit(main())
