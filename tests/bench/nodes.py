"""Three nodes in the foreground, for a benchmark that starts and ends them.

    python -m tests.bench.nodes DIRECTORY PORT [--deliver [--sink-python PYTHON]] [--bearer]

Prints nothing and ends at SIGTERM. Without `--deliver` the one consumer is down, so that all
accepted messages are backlog; with it a sink on PORT+5 answers 200 at once: crowd's, or with a
`PYTHON` that has what it needs the one that the peers deliver to, which tells how many came. With
`--bearer` producers have to show `KEY`.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

from crowd.tools.init import ClusterPlan
from crowd.tools.local_cluster import down, up

SINK = Path(__file__).parent / "peers/apps/sink.py"
KEY = b"a-key-for-benchmarks-alone"


def main():
    """Start, wait for SIGTERM, and stop what was started."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--deliver", action="store_true")
    parser.add_argument("--sink-python")
    parser.add_argument("--bearer", action="store_true")
    options = parser.parse_args()
    key = {"name": "bench", "sha256": [hashlib.sha256(KEY).hexdigest()]}
    route = {"path": "/<path:rest>", **({"key": [key]} if options.bearer else {})}
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    sink = options.port + 5
    consumer = None
    if options.deliver:
        command = [sys.executable, "-m", "crowd.cli", "sink", "--port", str(sink)]
        if options.sink_python:
            command = [options.sink_python, str(SINK), str(sink)]
        consumer = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    plan = ClusterPlan(
        nodes=options.nodes, port=options.port, upstream=f"http://127.0.0.1:{sink}",
        extra={"route": [route]},
    )  # fmt: skip
    try:
        up(options.directory, plan)
        while not stopped:
            time.sleep(0.1)
    finally:
        down(options.directory)
        if consumer is not None:
            consumer.kill()
            consumer.wait()


if __name__ == "__main__":
    main()
