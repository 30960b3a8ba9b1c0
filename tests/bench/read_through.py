"""Reads of any length cost a node no memory, however slow the reader (I7).

    .venv/bin/python -m tests.bench.read_through [--mib 1024] [--rate 64] [--stalled 64]

One node in front of an upstream that sends as fast as it is let. Measured in this order:

- a download of so many MiB, directly and through crowd, as fast as it comes;
- the same through crowd, by a reader that takes `--rate` MiB a second: how much the node's
  resident memory grew meanwhile at most, and how far the upstream was ahead (sockets included);
- `--stalled` readers that ask for it and take nothing for some seconds: the same growth;
- small reads, one after the other on one connection, directly and through crowd.

Prints one JSON object; exit status 0 only if every body was whole, the downloads grew the node
by less than `--bound` MiB, its very first read included, and the stalled ones by less than 200 KiB each.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import tempfile
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.integration.cluster import Nodes

PIECE = bytes(range(256)) * 256  # 64 KiB
MIB = 2**20
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + b"x" * 300


class Upstream:
    """Sends ``/N``, a body of N bytes, to each connection as fast as it is taken."""

    def __init__(self):
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.sent = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while head := connection.recv(65_536):
                size = int(head.split()[1][1:])
                if size == 0:
                    connection.sendall(SMALL)
                    continue
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                while size:
                    piece = PIECE[:size]
                    connection.sendall(piece)
                    size -= len(piece)
                    self.sent += len(piece)

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


class Memory:
    """A process's resident memory, looked at twenty times a second."""

    def __init__(self, pid):
        self._pid = pid
        self._stop = threading.Event()
        self.before_mib = self.most_mib = self.now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def now(self):
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def _watch(self):
        while not self._stop.wait(0.05):
            self.most_mib = max(self.most_mib, self.now())

    def grown_mib(self):
        """Return by how much it was larger than in the beginning, at most."""
        self._stop.set()
        self._thread.join()
        return round(self.most_mib - self.before_mib, 2)


def checksum(size):
    """Return what a body of `size` bytes has."""
    found = 0
    for _ in range(size // len(PIECE)):
        found = zlib.crc32(PIECE, found)
    return zlib.crc32(PIECE[: size % len(PIECE)], found)


def connect(port, target, receive_bytes=None):
    """Ask for `target`; return the socket."""
    reader = socket.socket()
    if receive_bytes is not None:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    reader.settimeout(60)
    reader.connect(("127.0.0.1", port))
    reader.sendall(b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % str(target).encode())
    return reader


def download(port, size, rate=None, told=lambda _: None):
    """Take a body of `size` bytes; return its checksum and the MiB/s. `told` hears how many so far."""
    with connect(port, size, None if rate is None else 65_536) as reader:
        begun_s = time.monotonic()
        head, _, body = reader.recv(65_536).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        taken, found = len(body), zlib.crc32(body)
        while taken < size:
            piece = reader.recv(262_144)
            if not piece:
                break
            taken += len(piece)
            found = zlib.crc32(piece, found)
            told(taken)
            if rate is not None:
                time.sleep(max(0.0, begun_s + taken / MIB / rate - time.monotonic()))
        return found, round(taken / MIB / (time.monotonic() - begun_s), 1)


def small_reads(port, count):
    """Return how many small reads a second one connection makes, one after the other."""
    with connect(port, 0) as reader:
        begun_s = time.monotonic()
        for _ in range(count):
            answer = b""
            while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < 300:
                answer += reader.recv(65_536)
            reader.sendall(b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n")
        return round(count / (time.monotonic() - begun_s))


class Stage:
    """The upstream, and one node in front of it."""

    def __init__(self, directory):
        self.upstream = Upstream()
        route = {
            "path": "/<path:rest>", "methods": ["POST"], "reads": "proxy",
            "upstream": self.upstream.url,
        }  # fmt: skip
        self.nodes = Nodes(directory, size=1, extra={"route": [route]})
        (self.node,) = self.nodes.nodes.values()
        self.port = urlsplit(self.node.http).port

    def slowly(self, size, rate):
        """Take a body of `size` bytes at `rate` MiB/s; return checksum, growth and lead in MiB."""
        memory = Memory(self.node.pid)
        before, ahead = self.upstream.sent, [0]

        def told(taken):
            ahead[0] = max(ahead[0], self.upstream.sent - before - taken)

        found, _ = download(self.port, size, rate, told)
        return found, memory.grown_mib(), round(ahead[0] / MIB, 2)

    def stalled(self, count, size, seconds):
        """Have so many readers take nothing for `seconds`; return the node's growth in MiB."""
        memory = Memory(self.node.pid)
        readers = [connect(self.port, size, 4_096) for _ in range(count)]
        time.sleep(seconds)
        grown = memory.grown_mib()
        for reader in readers:
            reader.close()
        return grown

    def close(self):
        self.nodes.close()
        self.upstream.close()


def run(options, directory):
    """Play it once; return the figures."""
    size = options.mib * MIB
    right = checksum(size)
    stage = Stage(directory)
    try:
        all_reads = Memory(stage.node.pid)  # from a node that has passed on nothing yet
        direct, direct_rate = download(stage.upstream.port, size)
        through, through_rate = download(stage.port, size)
        slow, grown, ahead = stage.slowly(size, options.rate)
        first_too = all_reads.grown_mib()
        time.sleep(1)
        stalled = stage.stalled(options.stalled, size, 5)
        time.sleep(1)
        return {
            "mib": options.mib,
            "whole": [direct, through, slow] == [right] * 3,
            "direct_mib_per_s": direct_rate,
            "through_mib_per_s": through_rate,
            "slow_reader_mib_per_s": options.rate,
            "slow_reader_growth_mib": grown,
            "growth_since_the_start_mib": first_too,
            "upstream_ahead_mib": ahead,
            "stalled_readers": options.stalled,
            "stalled_readers_growth_mib": stalled,
            "small_reads_per_s": {
                "direct": small_reads(stage.upstream.port, 2_000),
                "through": small_reads(stage.port, 2_000),
            },
        }
    finally:
        stage.close()


def main():
    """Run with the command line's options; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1_024)
    parser.add_argument("--rate", type=float, default=64.0, help="MiB/s of the slow reader")
    parser.add_argument("--stalled", type=int, default=64)
    parser.add_argument("--bound", type=float, default=8.0, help="MiB that the node may grow by")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crowd-reads-") as directory:
        figures = run(options, directory)
    print(json.dumps(figures, indent=1))
    good = (
        figures["whole"]
        and figures["growth_since_the_start_mib"] < options.bound
        and figures["stalled_readers_growth_mib"] < options.stalled * 0.2
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
