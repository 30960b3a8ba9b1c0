"""What goes through the cluster while it suffers: a load, a consumer, and posts of our own.

Decides what counts as a failure on a node that should have answered. What arrived and what is
missing is `tests.checker`'s.
"""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from crowd.tools.load import BODY_DEFAULT
from tests.checker import Outage, check_deliveries, failures_on_the_living, lines, longest_pause_s
from tests.faults.nodes import end, spawn
from tests.faults.waiting import FaultError, eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from subprocess import Popen

PATH = "/leads"
SECONDS_MAX = 1_000
"""A load's bound, should nobody end it."""


class Tally:
    """Counts the lines with a 2xx of logs that grow, and reads each of them once."""

    def __init__(self) -> None:
        self._offsets: dict[str, int] = {}
        self._count = 0

    def count(self, logs: Iterable[str]) -> int:
        """Return how many there are by now."""
        for log in logs:
            path = Path(log)
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._offsets.get(log, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offsets[log] = self._offsets.get(log, 0) + len(line)
                    self._count += 200 <= json.loads(line)["status"] < 300
        return self._count


class Traffic:
    """Everything that posts and everything that receives. All logs are in `directory`."""

    def __init__(self, directory: Path, sink_host: str, sink_port: int) -> None:
        self._directory = directory
        self._sink_host, self._sink_port = sink_host, sink_port
        self._children: list[Popen[bytes]] = []
        self._loads: list[Popen[bytes]] = []
        self.load_logs: list[str] = [str(directory / "posts.jsonl")]
        self.sink_logs: list[str] = []
        self._posts = (directory / "posts.jsonl").open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._acknowledged, self._delivered = Tally(), Tally()
        self._known = {hashlib.sha256(BODY_DEFAULT).hexdigest()}
        """The hashes of all bodies that were ever sent."""
        self.outages: list[Outage] = []
        self.sink_process: Popen[bytes] | None = None

    def sink(self, *arguments: str) -> None:
        """Start the consumer and wait until it listens."""
        log = str(self._directory / f"sink{len(self.sink_logs)}.jsonl")
        self.sink_logs.append(log)
        address = (self._sink_host, self._sink_port)
        self.sink_process = self._crowd(
            "sink", "--host", address[0], "--port", str(address[1]), "--log", log, *arguments
        )

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(address) == 0

        eventually("the consumer", listens, 15)

    def load(self, urls: Iterable[str], *arguments: str, rate: float = 150) -> Popen[bytes]:
        """Start a load over these nodes; it goes on until `end_loads`."""
        log = str(self._directory / f"load{len(self.load_logs)}.jsonl")
        Path(log).touch()
        self.load_logs.append(log)
        load = self._crowd(
            "load", "--url", *(url + PATH for url in urls), "--rate", str(rate),
            "--seconds", str(SECONDS_MAX), "--log", log, "--json", *arguments,
        )  # fmt: skip
        self._loads.append(load)
        return load

    def load_body(self, urls: Iterable[str], file: Path, *, rate: float) -> Popen[bytes]:
        """Start a load of the file's bytes."""
        self._known.add(hashlib.sha256(file.read_bytes()).hexdigest())
        return self.load(urls, "--body", str(file), rate=rate)

    def end_loads(self, *loads: Popen[bytes]) -> None:
        """End these loads, or all. What is under way has no answer, and nobody relies on it."""
        ending = loads or tuple(self._loads)
        for load in ending:
            if load.poll() is None:
                load.send_signal(signal.SIGINT)
        for load in ending:
            load.wait(10)
            self._loads.remove(load)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stop the consumer meanwhile (SIGSTOP): a backlog gathers."""
        assert self.sink_process is not None
        self.sink_process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.sink_process.send_signal(signal.SIGCONT)

    def post(self, url: str, body: bytes, *, timeout_s: float = 20.0) -> tuple[int, dict[str, str]]:
        """Post one message of our own and log its fate; return status and headers, 0 if none.

        Every body must be another one: the checker then sees under which id it arrived. May
        be called from any thread.
        """
        sha256 = hashlib.sha256(body).hexdigest()
        self._known.add(sha256)
        parts = urlsplit(url)
        begun = time.time()
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        try:
            connection.request("POST", PATH, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            status, headers = answer.status, dict(answer.getheaders())
        except (OSError, HTTPException):
            status, headers = 0, {}
        finally:
            connection.close()
        ended = time.time()
        line = {
            "time": ended, "id": headers.get("Crowd-Message-Id"), "status": status,
            "latency": ended - begun, "url": url + PATH, "sha256": sha256,
        }  # fmt: skip
        with self._lock:
            self._posts.write(json.dumps(line) + "\n")
            self._posts.flush()
        return status, headers

    @contextmanager
    def outage(self, *urls: str, statuses: frozenset[int] | None = None) -> Iterator[None]:
        """Excuse the nodes of these URLs, or all nodes if none is given, meanwhile."""
        since = time.time()
        try:
            yield
        finally:
            until = time.time()
            self.outages += [Outage(url, since, until, statuses) for url in urls or ("",)]

    def acknowledged(self) -> int:
        """Return how many messages were acknowledged up to now."""
        return self._acknowledged.count(self.load_logs)

    def wait_acknowledged(self, more: int, within_s: float = 15.0) -> None:
        """Wait until so many more messages were acknowledged than now."""
        wanted = self.acknowledged() + more
        eventually(f"{more} more acknowledgements", lambda: self.acknowledged() >= wanted, within_s)

    def delivered(self) -> int:
        """Return how many requests the consumer took up to now."""
        return self._delivered.count(self.sink_logs)

    def second_deliveries(self, since: float, until: float) -> list[str]:
        """Return the ids that arrived in this time and had arrived before."""
        seen: set[str] = set()
        again = []
        for one in lines(self.sink_logs):
            if one["id"] in seen and since <= one["time"] <= until:
                again.append(one["id"])
            seen.add(one["id"])
        return again

    def wait_delivered(self, within_s: float = 60.0) -> dict[str, int]:
        """Wait until everything acknowledged has arrived; return the checker's figures anyway."""

        def all_there() -> dict[str, int] | None:
            figures = check_deliveries(self.load_logs, self.sink_logs)
            return figures if not figures["missing"] else None

        try:
            return eventually("every delivery", all_there, within_s, every_s=0.3) or {}
        except FaultError:
            return check_deliveries(self.load_logs, self.sink_logs)

    def foreign_bodies(self) -> int:
        """Return how many bodies arrived that nobody ever sent."""
        return sum(one["sha256"] not in self._known for one in lines(self.sink_logs))

    def failed_on_the_living(self) -> list[dict[str, Any]]:
        """Return the failed requests that no outage explains."""
        return failures_on_the_living(self.load_logs, self.outages)

    def longest_pause_s(self) -> float:
        """Return the longest time without an acknowledgement."""
        return longest_pause_s(self.load_logs)

    def close(self) -> None:
        """End every process."""
        for child in self._children:
            end(child)
        self._posts.close()

    def _crowd(self, *arguments: str) -> Popen[bytes]:
        log = (self._directory / f"{arguments[0]}{len(self._children)}.out").open("wb")
        with log:
            child = spawn([sys.executable, "-m", "crowd.cli", *arguments], stdout=log, stderr=log)
        self._children.append(child)
        return child
