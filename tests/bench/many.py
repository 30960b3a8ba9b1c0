"""How many messages a second three nodes accept when a request has many of them.

    .venv/bin/python -m tests.bench.many [--elements 100] [--connections 64] [--seconds 8] [--keys]

Starts three nodes whose consumer is down, and posts NDJSON to the leader, of so many elements of
327 bytes, on so many connections, each again as soon as it is answered. Prints the messages
acknowledged a second, answers' latency, and each node's processor time for 1 000 messages. With
`--profile` it prints where each node's goes as well, by room, sampled from within, and for the
leader by function, as `tests.bench.profile_request` does. `--keys` sends each request under a key.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.profile_request import SAMPLING, room
from tests.bench.sustained import processor_s
from tests.integration.cluster import Nodes, free_ports

ELEMENT = b'{"message":"this is a lead message","shop":"a23m07b23","pad":"%b"}'
ELEMENT_BYTES = 327
WARM_S = 2.0


class Connection:
    """One connection that posts the same body, over and over, and waits for each answer."""

    def __init__(self, address, body, *, keyed, number):
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._body, self._keyed, self._number, self._sent = body, keyed, number, 0
        self._came = b""
        self.since_s = 0.0

    def post(self):
        """Send a request whole; the system's buffers take it, or this waits for them."""
        self._sent += 1
        key = b""
        if self._keyed:
            key = b"Idempotency-Key: %d-%d\r\n" % (self._number, self._sent)
        head = (
            b"POST /leads HTTP/1.1\r\nHost: crowd.test\r\nContent-Type: application/x-ndjson\r\n"
            b"%bContent-Length: %d\r\n\r\n" % (key, len(self._body))
        )
        self.since_s = time.monotonic()
        self.socket.sendall(head + self._body)

    def read(self):
        """Return whether an answer is whole now. Raises RuntimeError if it is not 200."""
        self._came += self.socket.recv(1 << 18)
        head, mark, body = self._came.partition(b"\r\n\r\n")
        if not mark:
            return False
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(self._came[:400].decode("utf-8", "replace"))
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return False
        self._came = b""
        return True


def load(connections, seconds):
    """Post on all connections for so long; return the answers, the time, and their latencies."""
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.post()
    began_s = time.monotonic()
    took: list[float] = []
    waiting = len(connections)
    while waiting:
        for key, _ in selector.select(30):
            connection = key.data
            if connection.read():
                now_s = time.monotonic()
                took.append(now_s - connection.since_s)
                if now_s - began_s < seconds:
                    connection.post()
                else:
                    waiting -= 1
    selector.close()
    return len(took), time.monotonic() - began_s, sorted(took)


def print_rooms(directory, pid, spent_us, *, functions):
    """Print a node's sampled processor time by room, and by function if asked for."""
    lines = (Path(directory) / str(pid)).read_text().splitlines()
    stacks = [(stack, int(count)) for stack, _, count in (line.rpartition(" ") for line in lines)]
    total = sum(count for _, count in stacks) or 1
    rooms: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for stack, count in stacks:
        rooms[room(stack)] += count
        places[stack.rpartition(";")[2]] += count
    for counted in (rooms, places) if functions else (rooms,):
        for name, count in counted.most_common(30):
            print(f"    {count / total * spent_us:8.2f}  {count / total:4.0%}  {name}")


def main():
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--elements", type=int, default=100)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    element = ELEMENT % (b"x" * (ELEMENT_BYTES - len(ELEMENT) + 2))
    body = (element + b"\n") * options.elements
    extra = {"route": [{"path": "/<path:rest>", "many": True}]}
    with tempfile.TemporaryDirectory(prefix="crowd-many-") as directory:
        if options.profile:
            os.environ["CROWD_SAMPLES"] = directory
            paths = [str(SAMPLING), *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        nodes = Nodes(directory, upstream=f"http://127.0.0.1:{free_ports(1) + 5}", extra=extra)
        try:
            leader = nodes.leader()
            parts = urlsplit(nodes.nodes[leader].http)
            connections = [
                Connection((parts.hostname, parts.port), body, keyed=options.keys, number=n)
                for n in range(options.connections)
            ]
            pids = {name: node.pid for name, node in nodes.nodes.items()}
            load(connections, WARM_S)
            before = {name: processor_s(pid) for name, pid in pids.items()}
            for pid in pids.values() if options.profile else ():
                os.kill(pid, signal.SIGUSR1)
            count, took_s, latencies = load(connections, options.seconds)
            for pid in pids.values() if options.profile else ():
                os.kill(pid, signal.SIGUSR2)
            spent = {name: processor_s(pid) - before[name] for name, pid in pids.items()}
            time.sleep(1.0 if options.profile else 0.0)
            messages = count * options.elements
            p50, p99 = (latencies[int(len(latencies) * share)] * 1e3 for share in (0.5, 0.99))
            print(f"{messages / took_s:8.0f} messages/s, {count / took_s:.0f} requests/s, "
                  f"p50 {p50:.1f} ms, p99 {p99:.1f} ms")  # fmt: skip
            for name, pid in pids.items():
                role = "leads" if name == leader else "follows"
                own_us = spent[name] / messages * 1e6
                print(f"  {name} {role}: {own_us:.2f} ms of CPU for 1 000 messages")
                if options.profile:
                    print_rooms(directory, pid, own_us, functions=name == leader)
        finally:
            nodes.close()


if __name__ == "__main__":
    main()
