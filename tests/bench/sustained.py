"""The rate at which three nodes accept and deliver one by one, and the backlog does not grow.

    .venv/bin/python -m tests.bench.sustained [--from 3000] [--seconds 20] [--steps 6]

Three nodes, a load over all of them and a fast consumer share one machine. Each step is an
open-loop load at one rate for `--seconds`, 2 s of warmth before it not counted. A step holds if all
requests succeed, at that rate, and the backlog at its end is no more than what is accepted in
`BACKLOG_S`, or no larger than it was at the step's beginning. The first rate is `--from`; a rate that
holds is followed by one a third higher, until one does not; what is left of `--steps` halves the
span between the two.

Prints each step and, as one JSON object, the highest rate that held. With each goes what a message
cost in processor time, the leader's and all processes' together, in microseconds: a machine that has other
things to do moves the rate, and hardly these. And of the machine's processors the shares that were `idle`,
and that `others` had, processes which are no part of this: only figures without others are to be believed.
Exit status 0 only if the rate is at least `--bound`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from crowd.tools.status import gather
from tests.bench.backlog_memory import BODY
from tests.integration.cluster import Nodes, eventually, free_ports

WARM_S = 2.0
BACKLOG_S = 0.1
"""How long after its acceptance a message may arrive: two slices of a busy leader, many times over."""
CONNECTIONS = 256
"""So many that it is the rate which is asked for: 64 that wait 20 ms each ask for 3 200 a second."""
REACHED = 0.98
"""The share of a rate that was reached: a load on a busy machine is a little late itself."""
FASTER = 4 / 3


class Stage:
    """Three nodes, a fast consumer, and steps of load."""

    def __init__(self, directory, seconds):
        port = free_ports(1) + 5
        self.seconds = seconds
        self.nodes = Nodes(directory, upstream=f"http://127.0.0.1:{port}")
        self._body = Path(directory) / "body"
        self._body.write_bytes(BODY % (b"x" * (327 - len(BODY) + 2)))
        self._sink = self.nodes.spawn("sink", "--port", str(port))

    def consumer(self):
        """Return the consumer as the leader has it; no other node is asked."""
        node = self.nodes.nodes[self._leader]
        (status,) = gather([node.admin])["nodes"]
        return status["consumers"][0]

    def _spent_s(self, load):
        """Return the processor time that each process has had, by its name."""
        pids = {name: node.pid for name, node in self.nodes.nodes.items()}
        return {
            name: processor_s(pid)
            for name, pid in {**pids, "load": load.pid, "sink": self._sink.pid}.items()
        }

    def step(self, rate):
        """Return what one rate came to."""
        self._leader = self.nodes.leader()
        eventually("an empty backlog", lambda: self.consumer()["backlog"] == 0, 300)
        urls = [node.http + "/leads" for node in self.nodes.nodes.values()]
        load = self.nodes.spawn(
            "load", "--url", *urls, "--rate", str(rate), "--seconds", str(self.seconds + WARM_S),
            "--body", str(self._body), "--connections", str(CONNECTIONS), "--json", stdout=-1,
        )  # fmt: skip
        time.sleep(WARM_S)
        spent_s, machine_s = self._spent_s(load), processors_s()
        begun_s, first = time.monotonic(), self.consumer()
        time.sleep(self.seconds - 0.5)  # at the end some connections have nothing to send
        last, took_s = self.consumer(), time.monotonic() - begun_s
        spent_s = {name: now_s - spent_s[name] for name, now_s in self._spent_s(load).items()}
        idle_s, busy_s = (now_s - s for now_s, s in zip(processors_s(), machine_s, strict=True))
        others_s = max(0.0, busy_s - sum(spent_s.values()))
        report = self.nodes.finish(load, within_s=self.seconds + 120)
        delivered = last["watermark"] - first["watermark"]
        bound = max(BACKLOG_S * rate, first["backlog"])
        return {
            "rate": round(rate),
            "accepted_per_s": round(report["requests_per_s"]),
            "delivered_per_s": round(delivered / took_s),
            "backlog": [first["backlog"], last["backlog"]],
            "leader_cpu_us": round(spent_s[self._leader] * 1e6 / max(1, delivered)),
            "all_cpu_us": round(sum(spent_s.values()) * 1e6 / max(1, delivered)),
            "cpu_s": {name: round(s, 1) for name, s in spent_s.items()},
            "idle": round(idle_s / (idle_s + busy_s), 2),
            "others": round(others_s / (idle_s + busy_s), 2),
            "p50_ms": report["p50_ms"],
            "p99_ms": report["p99_ms"],
            "failed": report["failed"] + report["unsent"],
            "holds": report["failed"] + report["unsent"] == 0
            and report["requests_per_s"] >= REACHED * rate
            and last["backlog"] <= bound,
        }


def processor_s(pid):
    """Return how long a process has run, its calls of the system included (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processors_s():
    """Return how long all processors together were idle, and how long busy (proc(5))."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    seconds = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
    idle_s = seconds[3] + seconds[4]
    return idle_s, sum(seconds) - idle_s


def search(options, stage):
    """Look for the highest rate that holds; yield each step."""
    good, bad, rate = 0.0, None, options.first
    for _ in range(options.steps):
        found = stage.step(rate)
        yield found
        if found["holds"]:
            good = rate
        else:
            bad = rate
        rate = good * FASTER if bad is None else (good + bad) / 2


def main():
    """Run with the command line's options; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="first", type=float, default=3_000.0, metavar="RATE")
    parser.add_argument("--seconds", type=float, default=20.0, help="a step's length (default 20)")
    parser.add_argument("--steps", type=int, default=6, help="at most (default 6)")
    parser.add_argument("--bound", type=float, default=5_000.0, help="what is wanted, a second")
    options = parser.parse_args()
    best: dict[str, object] = {"rate": 0}
    with tempfile.TemporaryDirectory(prefix="crowd-sustained-") as directory:
        stage = Stage(directory, options.seconds)
        try:
            for found in search(options, stage):
                print(json.dumps(found), flush=True)
                if found["holds"] and found["rate"] > best["rate"]:
                    best = found
        finally:
            stage.nodes.close()
    print(json.dumps({"sustained": best}, indent=1))
    return 0 if best["rate"] >= options.bound else 1


if __name__ == "__main__":
    sys.exit(main())
