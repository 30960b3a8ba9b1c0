"""What an Idempotency-Key costs: three nodes' rate with keys, beside the same without.

    .venv/bin/python -m tests.bench.idempotency [--seconds 8] [--rounds 3]

Starts three nodes whose consumer is down and loads the leader with wrk on 64 connections, in turns:
with a header of the same length that means nothing (plain), with a new key for each request
(new), and with one of 1 000 keys that are known (known: nothing is stored). Prints each one's
rate, median latency and ratio to plain, from the sums of all rounds.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.cluster import Nodes, free_ports

SCRIPT = Path(__file__).with_suffix(".lua")
MODES = ("plain", "new", "known")


def loaded(url: str, mode: str, run: str, seconds: int) -> tuple[int, float, int]:
    """Return the requests answered, the seconds they took, and the median latency in µs."""
    argv = ["wrk", "-t1", "-c64", f"-d{seconds}s", "-s", str(SCRIPT), url, "--", mode, run]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds + 60)
    requests, took_us, errors, median_us = map(int, out.stdout.splitlines()[-1].split())
    if errors:
        raise RuntimeError(f"{errors} of {requests} requests were not answered with 200")
    return requests, took_us / 1e6, median_us


def main() -> int:
    """Measure, and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("found no wrk; expected it on the path", file=sys.stderr)
        return 1
    requests, took_s = dict.fromkeys(MODES, 0), dict.fromkeys(MODES, 0.0)
    medians: dict[str, list[int]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory(prefix="crowd-keys-") as directory:
        nodes = Nodes(directory, upstream=f"http://127.0.0.1:{free_ports(1) + 5}")
        try:
            url = nodes.nodes[nodes.leader()].http + "/leads"
            for mode in MODES:
                loaded(url, mode, "warm" if mode != "known" else "known", 2)
            for number in range(options.rounds):
                for mode in MODES[number % 3 :] + MODES[: number % 3]:
                    run = "known" if mode == "known" else f"{number}"
                    count, seconds, median_us = loaded(url, mode, run, options.seconds)
                    requests[mode] += count
                    took_s[mode] += seconds
                    medians[mode].append(median_us)
            (leader,) = [node for node in nodes.status()["nodes"] if node["role"] == "leader"]
        finally:
            nodes.close()
    rates = {mode: requests[mode] / took_s[mode] for mode in MODES}
    for mode in MODES:
        ratio, median_ms = (
            rates[mode] / rates["plain"],
            sorted(medians[mode])[len(medians) // 2] / 1e3,
        )
        print(
            f"  {mode:6} {rates[mode]:8.0f} requests/s, median {median_ms:.1f} ms, ratio {ratio:.2f}"
        )
    held = leader["idempotency"]
    print(f"  {held['held']} keys held, {held['replays']} replays, {held['evicted']} went early")
    return 0


if __name__ == "__main__":
    sys.exit(main())
