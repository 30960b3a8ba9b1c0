"""``cluster/demo``: the main job before one's eyes.

Three nodes, a consumer that fails now and then, and requests to every node; the leader is
killed once and started again. Every message is shown when it is accepted and when it is
delivered. The exit status is 0 only if each accepted message was delivered and a leader was
killed meanwhile.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from crowd.errors import CrowdError
from crowd.tools.init import PORTS_APART, ClusterPlan
from crowd.tools.local_cluster import LocalNode, down, is_free, start, up
from crowd.tools.status import gather
from crowd.tools.terminal import port_number

if TYPE_CHECKING:
    from collections.abc import Sequence

POST_EVERY_S: Final = 0.4
ANSWER_WITHIN_S: Final = 15.0
"""Longer than a node waits for a quorum by default, so that it is the node who answers."""

DELIVERED_WITHIN_S: Final = 20.0
"""For what is left at the end: the second attempt comes after a second, the third after two."""

FAIL: Final = 0.1
"""The share of attempts that the consumer fails, so that there are retries to see."""

_NODES: Final = 3
_KILL_AT_S: Final = 10.0
_RESTART_AT_S: Final = 16.0


class Example(msgspec.Struct, frozen=True):
    """One request to show."""

    method: str
    target: str
    kind: str
    body: bytes


EXAMPLES: Final = (
    Example(
        "POST", "/leads", "application/json",
        b'{"message":"this is a lead message", "shop": "a23m07b23"}',
    ),
    Example("PUT", "/orders/4711?notify=yes", "application/json", b'{"state": "paid"}'),
    Example("POST", "/contact", "application/x-www-form-urlencoded", b"name=Ada&topic=engines"),
    Example("POST", "/readings", "application/octet-stream", bytes(range(256))),
    Example("DELETE", "/carts/a23m07b23", "application/json", b"{}"),
)  # fmt: skip


class Accepted(msgspec.Struct, frozen=True):
    """A message that a node has taken: what it was, and when it was posted (since 1970)."""

    title: str
    posted_s: float


class Demonstration:
    """One run. ``play`` it between the start of the cluster and its end."""

    def __init__(
        self, directory: Path, plan: ClusterPlan, nodes: list[LocalNode], sink_log: Path
    ) -> None:
        self._directory = directory
        self._plan = plan
        self._nodes = nodes
        self._deliveries = sink_log.open("rb")
        self._begin_s = time.monotonic()
        self._turn = 0
        self._waiting: dict[str, Accepted] = {}
        self._done: set[str] = set()
        self._rest = b""
        self.accepted = 0
        self.delivered = 0
        self.refused = 0
        self.killed: str | None = None

    def play(self, seconds: float | None) -> None:
        """Post, show and kill for `seconds`, or until KeyboardInterrupt."""
        span_s = float("inf") if seconds is None else seconds
        kill_at_s, restart_at_s = min(_KILL_AT_S, 0.3 * span_s), min(_RESTART_AT_S, 0.6 * span_s)
        restarted = False
        while (passed_s := self._passed_s()) < span_s:
            if self.killed is None and passed_s >= kill_at_s:
                self._kill_leader()
            if self.killed is not None and not restarted and passed_s >= restart_at_s:
                restarted = True
                self.show("started", self.killed, "again; it catches up from its peers")
                self._nodes = start(self._directory, self._plan)
            self._post(EXAMPLES[self._turn % len(EXAMPLES)], self._turn)
            self._turn += 1
            self._follow(time.monotonic() + POST_EVERY_S)

    def settle(self) -> bool:
        """Wait until all that was accepted is delivered; say whether it is."""
        deadline_s = time.monotonic() + DELIVERED_WITHIN_S
        while self._waiting and time.monotonic() < deadline_s:
            self._follow(time.monotonic() + 0.1)
        for message_id, message in self._waiting.items():
            self.show("MISSING", "", f"{message.title}  {message_id}")
        return not self._waiting

    def show(self, what: str, where: str, words: str) -> None:
        """Print one line of the story."""
        print(f"{self._passed_s():7.2f} s  {what:<10} {where:<3} {words}", flush=True)

    def _passed_s(self) -> float:
        return time.monotonic() - self._begin_s

    def _kill_leader(self) -> None:
        leader = gather([node.admin for node in self._nodes])["leader"]
        for node in self._nodes:
            if node.name == leader:
                os.kill(node.pid, signal.SIGKILL)
                self.killed = node.name
                self.show("KILLED", node.name, "the leader, with kill -9; the others go on")

    def _post(self, example: Example, turn: int) -> None:
        """Post to the nodes in turn; a node that is down costs a look at the next one."""
        title = f"{example.method} {example.target}"
        for number in range(turn, turn + len(self._nodes)):
            node = self._nodes[number % len(self._nodes)]
            begin_s = time.time()
            try:
                status, message_id, words = _request(node, example)
            except ConnectionRefusedError:
                self.show("down", node.name, "the producer asks the next node")
                continue
            except (OSError, HTTPException) as error:
                self.show("no answer", node.name, f"{title}: {error}; its outcome is unknown")
                return
            if status != 200 or message_id is None:
                self.refused += 1
                self.show("refused", node.name, f"{title}: {status} {words}")
                return
            self.accepted += 1
            self._waiting[message_id] = Accepted(title, begin_s)
            took_ms = (time.time() - begin_s) * 1e3
            self.show("accepted", node.name, f"{title:<30} {took_ms:8.1f} ms  {message_id}")
            return

    def _follow(self, until_s: float) -> None:
        """Show what the consumer gets, until `until_s`."""
        while True:
            *lines, self._rest = (self._rest + self._deliveries.read()).split(b"\n")
            for line in lines:
                self._delivery(msgspec.json.decode(line))
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(left_s, 0.02))

    def _delivery(self, record: dict[str, Any]) -> None:
        attempt = next((v for n, v in record["headers"] if n.lower() == "crowd-attempt"), "?")
        title = f"{record['method']} {record['target']}"
        if record["status"] != 200:
            words = f"{title:<30} attempt {attempt} answered {record['status']}"
            self.show("to retry", "", words)
            return
        message = self._waiting.pop(record["id"], None)
        if message is None:
            what = "again" if record["id"] in self._done else "unanswered"  # it was accepted, too
            self.show(what, "", f"{title:<30} attempt {attempt}  {record['id']}")
            return
        self._done.add(record["id"])
        self.delivered += 1
        after_ms = (record["time"] - message.posted_s) * 1e3
        self.show("delivered", "", f"{title:<30} {after_ms:8.1f} ms  attempt {attempt}")


def _request(node: LocalNode, example: Example) -> tuple[int, str | None, str]:
    parts = urlsplit(node.http)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_WITHIN_S)
    try:
        headers = {"Content-Type": example.kind, "Accept": "application/json"}
        connection.request(example.method, example.target, example.body, headers)
        response = connection.getresponse()
        words = response.read(1 << 16).decode("utf-8", "replace")
        return response.status, response.getheader("Crowd-Message-Id"), words
    finally:
        connection.close()


def free_port(wanted: int, nodes: int) -> int:
    """Return `wanted`, or the next hundred after it, from which all nodes' ports are free."""
    last = 65_535 - PORTS_APART * nodes
    for base in range(max(wanted, 1), min(wanted + 5_000, last), 100):
        ports = [base + PORTS_APART * node + offset for node in range(nodes) for offset in range(3)]
        if all(map(is_free, ports)):
            return base
    raise CrowdError(f"found no free ports from {wanted} on; expected nine, or another --port")


def _start_sink(log: Path) -> tuple[subprocess.Popen[str], str]:
    log.touch()
    command = [sys.executable, "-m", "crowd.cli", "sink", "--port", "0"]
    process = subprocess.Popen(  # noqa: S603 - our own program and a path we made
        [*command, "--fail", str(FAIL), "--log", str(log)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if "http://" not in line:
        raise CrowdError("the sink did not start")
    return process, line.split()[-1]


def run(seconds: float | None, port: int, directory: Path) -> int:
    """Play the whole demonstration in `directory`; return the exit status."""
    port = free_port(port, _NODES)  # first: nothing has to be ended where there is none
    sink, url = _start_sink(directory / "sink.log")
    plan = ClusterPlan(cluster="demo", nodes=_NODES, port=port, upstream=url)
    try:
        print(f"starting three nodes, with their files in {directory}", flush=True)
        nodes = up(directory, plan)
        for node in nodes:
            print(f"node {node.name}: producers {node.http}, dashboard {node.admin}/", flush=True)
        print(f"consumer: {url}, which fails {FAIL:.0%} of all attempts", flush=True)
        demonstration = Demonstration(directory, plan, nodes, directory / "sink.log")
        try:
            demonstration.play(seconds)
        except KeyboardInterrupt:
            demonstration.show("ending", "", "waiting for the last deliveries")
        whole = demonstration.settle()
    finally:
        down(directory)
        sink.terminate()
        sink.wait()
    print(
        f"{demonstration.accepted} accepted, {demonstration.delivered} of them delivered, "
        f"{demonstration.refused} refused; leader killed: {demonstration.killed or 'none'}"
    )
    shown = demonstration.killed is not None or seconds is None
    return 0 if whole and demonstration.accepted and shown else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return the exit status."""
    parser = argparse.ArgumentParser(prog="cluster/demo", description=__doc__)
    parser.add_argument("--seconds", type=float, metavar="N", help="end by itself after N seconds")
    parser.add_argument("--port", type=port_number, default=2104, help="the first, if it is free")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="crowd-demo-"))
    try:
        status = run(options.seconds, options.port, directory)
    except (CrowdError, OSError) as error:
        print(error, file=sys.stderr)
        if not any(directory.iterdir()):
            directory.rmdir()
        return 1
    except KeyboardInterrupt:
        return 130
    if status == 0:
        shutil.rmtree(directory)
    else:
        print(f"the nodes' output is in {directory}/*.log", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
