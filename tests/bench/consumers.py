"""Four consumers beside each other, of which one is fast: what the others cost it.

    .venv/bin/python -m tests.bench.consumers [--seconds 60] [--rate 500] [--alone 15]

Three nodes accept an open-loop load of `--rate` requests a second. First there is one consumer,
``fast``, for `--alone` seconds. Then three more come: ``flaky`` answers 503 to 30 %, ``down`` has
nobody listening, ``slow`` takes 300 ms and may be asked 50 times a second; they stay for
`--seconds`, a third into which the leader is killed (and started again 3 s later). Then they
go, and fast is alone once more, as machines have moods.

Prints, for each consumer: messages delivered, repeated, dead, left in its backlog, and `missing`:
those that it has had by the ledger's word (up to its watermark) but of which its own log knows
nothing. And fast's delay, from the answer that accepts a message to the message's arrival:
medians alone and beside the others, and their ratio. Exit status 0 only if nothing is missing, no
request failed on a living node, and the ratio is at most `--bound`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from crowd.cli import main as crowd
from crowd.message import parse_message_id
from tests.checker import lines
from tests.integration.cluster import Nodes, eventually, free_ports

SETTLED_WITHIN_S = 90.0
"""How long fast and flaky may take for what is left when the load ends."""

RETRY_MOST = "5 s"
"""The longest wait before flaky's next attempt. By default it doubles up to 5 min: of 30 000 messages
one is refused nine times, and that one alone would take minutes."""

KILLED_FOR_S = 3.0


class Run:
    """A cluster, its four consumers and what they were sent."""

    def __init__(self, directory, rate):
        self.directory = Path(directory)
        self.rate = rate
        base = free_ports(1) + 3  # the node that would have the ports before it takes three
        self.ports = {name: base + n for n, name in enumerate(("fast", "flaky", "slow", "down"))}
        fast = {"name": "fast", "url": self.url("fast")}
        self.nodes = Nodes(directory, extra={"consumer": [fast]})
        self.sinks: dict[str, str] = {}
        self.sink("fast")

    def url(self, name):
        """Return where a consumer listens."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def sink(self, name, *arguments):
        """Start a consumer that records."""
        self.nodes.sink(self.ports[name], *arguments)
        self.sinks[name] = self.nodes.sinks[-1]

    def operate(self, *words):
        """Run a command on the cluster."""
        if crowd([*words, "--directory", str(self.directory / "nodes")]):
            raise RuntimeError(f"crowd {' '.join(words)} failed")

    def apply(self, name, **keys):
        """Define one more consumer."""
        file = self.directory / f"{name}.toml"
        words = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        text = "\n".join([f'name = "{name}"', f'url = "{self.url(name)}"', *words])
        file.write_text(f"[[consumer]]\n{text}\n")
        self.operate("consumer", "apply", str(file))

    def consumer(self, name):
        """Return what the leader says of a consumer."""
        leader = self.nodes.leader()
        (status,) = [one for one in self.nodes.status()["nodes"] if one["name"] == leader]
        (known,) = [one for one in status["consumers"] if one["name"] == name]
        return known

    def settled(self, *names):
        """Wait until these consumers have had everything."""
        for name in names:
            eventually(
                f"an empty backlog of {name}",
                lambda name=name: self.consumer(name)["backlog"] == 0,
                SETTLED_WITHIN_S,
            )

    def load(self, seconds, during=lambda: None):
        """Send for so long; return the load's log and report."""
        load = self.nodes.load(rate=self.rate, seconds=seconds)
        during()
        report = self.nodes.finish(load, within_s=seconds + 60)
        return self.nodes.loads[-1], report


def accepted(log):
    """Return when each message was accepted, by id."""
    return {one["id"]: one["time"] for one in lines([log]) if 200 <= one["status"] < 300}


def arrivals(log):
    """Return when each message first came and was taken, by id, and how often any came again."""
    first: dict[str, float] = {}
    again = 0
    for one in lines([log]):
        if 200 <= one["status"] < 300:
            again += one["id"] in first
            first.setdefault(one["id"], one["time"])
    return first, again


def delays_ms(log, arrived):
    """Return from the answer that accepted to the arrival, for all messages of a load."""
    return [(arrived[one] - at) * 1000 for one, at in accepted(log).items() if one in arrived]


def figures_of(run, name, ids, through):
    """Return a consumer's figures for these accepted ids, due up to the position `through`."""
    arrived, again = arrivals(run.sinks[name]) if name in run.sinks else ({}, 0)
    known = run.consumer(name)
    due = {one for one in ids if parse_message_id(one)[1] <= through}
    dead = known["letters"]["dead"] + known["letters"]["parked"]
    return {
        "delivered": len(arrived.keys() & ids),
        "duplicates": again,
        "due": len(due),
        "missing": max(0, len(due - arrived.keys()) - dead),
        "dead": dead,
        "backlog": known["backlog"],
        "breaker": known["delivery"]["breaker"],
    }


def play(options, directory) -> dict[str, Any]:
    """Play it once; return the figures."""
    run = Run(directory, options.rate)
    nodes = run.nodes
    outage: dict[str, Any] = {}

    def kill_the_leader():
        time.sleep(options.seconds / 3)
        leader = outage["leader"] = nodes.leader()
        outage["url"] = nodes.nodes[leader].http
        nodes.kill(leader)
        time.sleep(KILLED_FOR_S)
        nodes.start()

    try:
        nodes.finish(nodes.load(rate=options.rate, seconds=3))  # warm
        before, _ = run.load(options.alone)
        run.sink("flaky", "--fail", "0.3", "--fail-status", "503")
        run.sink("slow", "--delay", "300ms")
        run.apply("flaky", **{"retry.most": RETRY_MOST})
        run.apply("down")
        run.apply("slow", rate="50/s")
        beside, report = run.load(options.seconds, kill_the_leader)
        at_end = {name: run.consumer(name)["backlog"] for name in run.ports}
        begun_s = time.monotonic()
        run.settled("fast", "flaky")
        settled_s = time.monotonic() - begun_s
        # What a ledger has as settled has arrived before; the sinks' logs are 0.1 s behind.
        through = {name: run.consumer(name)["watermark"] for name in run.ports}
        time.sleep(0.5)
        ids = accepted(beside).keys()
        figures = {name: figures_of(run, name, ids, through[name]) for name in run.ports}
        for name in ("flaky", "down", "slow"):
            run.operate("consumer", "remove", name, "--backlog", "drop")
        after, _ = run.load(options.alone)
        run.settled("fast")
        time.sleep(0.5)
        nodes.same_ledgers()
    finally:
        nodes.close()
    arrived, _ = arrivals(run.sinks["fast"])
    alone_ms = delays_ms(before, arrived) + delays_ms(after, arrived)
    beside_ms = delays_ms(beside, arrived)
    living = {url: n["failed"] for url, n in report["urls"].items() if outage["url"] not in url}
    for name, backlog in at_end.items():
        figures[name]["backlog_when_load_ended"] = backlog
    return {
        "accepted": report["succeeded"],
        "failed_on_the_living": sum(living.values()),
        "longest_pause_s": round(report["longest_pause_s"], 2),
        "settled_s": round(settled_s, 1),
        "consumers": figures,
        "fast_alone_ms": [
            round(statistics.median(delays_ms(one, arrived)), 3) for one in (before, after)
        ],
        "fast_beside_ms": round(statistics.median(beside_ms), 3),
        "fast_p99_ms": [round(quantile(each, 0.99), 1) for each in (alone_ms, beside_ms)],
        "ratio": round(statistics.median(beside_ms) / statistics.median(alone_ms), 2),
    }


def quantile(values, share):
    """Return the value below which this share of `values` lies."""
    return sorted(values)[int(len(values) * share)]


def main():
    """Run with the command line's options; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="with all four (default 60)")
    parser.add_argument("--alone", type=float, default=15.0, help="twice, with one (default 15)")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    parser.add_argument("--bound", type=float, default=1.5, help="what the ratio may be at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crowd-consumers-") as directory:
        found = play(options, directory)
    print(json.dumps(found, indent=1))
    missing = sum(one["missing"] for one in found["consumers"].values())
    well = missing == 0 and found["failed_on_the_living"] == 0
    return 0 if well and found["ratio"] <= options.bound else 1


if __name__ == "__main__":
    sys.exit(main())
