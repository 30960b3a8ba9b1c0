"""Real nodes, a real consumer and a real load, for tests that end what they start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from crowd.tools.init import ClusterPlan
from crowd.tools.local_cluster import configurations, down, is_running, start, up
from crowd.tools.status import gather

WITHIN_S = 60.0


def eventually(what, condition, within_s=WITHIN_S):
    """Wait for real processes to get somewhere; they report to nobody."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s:g} s: {what}")


def free_ports(size):
    """Return a port such that it and its neighbours, as a cluster needs them, are free.

    Below 32768: from there on the kernel hands ports out to outgoing connections.
    """
    for base in range(12_000 + os.getpid() % 300 * 60, 32_000, 60):
        try:
            for k in range(size):
                for offset in range(3):
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", base + 10 * k + offset))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


class Nodes:
    """A local cluster, its consumer, and loads on it."""

    def __init__(self, directory, *, size=3, upstream=None, extra=None):
        self.directory = Path(directory)
        self.plan = ClusterPlan(
            nodes=size, port=free_ports(size), upstream=upstream, extra=extra or {}
        )
        self.nodes, self.children = {}, []
        self.sinks, self.loads = [], []
        try:
            self.up()
        except BaseException:
            self.close()  # of some that started, when others did not
            raise

    def up(self):
        self.nodes = {node.name: node for node in up(self.directory / "nodes", self.plan)}
        return self

    def start(self):
        """Start what does not run, without waiting."""
        self.nodes = {node.name: node for node in start(self.directory / "nodes", self.plan)}

    def kill(self, *names):
        """Kill -9."""
        for name in names:
            os.kill(self.nodes[name].pid, signal.SIGKILL)
        for name in names:
            eventually(f"{name} is gone", lambda name=name: not is_running(self.nodes[name]))

    def term(self, name):
        os.kill(self.nodes[name].pid, signal.SIGTERM)
        eventually(f"{name} left", lambda: not is_running(self.nodes[name]))

    def status(self):
        return gather([node.admin for node in self.nodes.values()])

    def leader(self):
        return eventually("a leader", lambda: self.status()["leader"])

    def same_ledgers(self):
        """Return the ledgers' common (index, digest) once all nodes have it."""

        def agreed():
            nodes = self.status()["nodes"]
            if any("now" not in node for node in nodes):
                return None
            seen = {(node["now"]["index"], node["now"]["sha256"]) for node in nodes}
            return seen if len(seen) == 1 and len(nodes) == len(self.nodes) else None

        return eventually("equal ledgers", agreed).pop()

    def log(self, name):
        return (self.directory / "nodes" / f"{name}.log").read_text("utf-8", "replace")

    def post(self, name, body=b'{"message": "x"}', path="/leads", headers=None):
        """Post one message; return (status, headers, body)."""
        parts = urlsplit(self.nodes[name].http)
        connection = HTTPConnection(parts.hostname, parts.port, timeout=20)
        connection.request("POST", path, body, headers or {"Content-Type": "application/json"})
        answer = connection.getresponse()
        result = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return result

    def spawn(self, *arguments, **options):
        child = subprocess.Popen([sys.executable, "-m", "crowd.cli", *arguments], **options)
        self.children.append(child)
        return child

    def sink(self, port, *arguments):
        """Start a consumer that records; return its process once it listens."""
        log = self.directory / f"sink{len(self.sinks)}.jsonl"
        self.sinks.append(str(log))
        child = self.spawn("sink", "--port", str(port), "--log", str(log), *arguments)

        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually("the sink", listens)
        return child

    def load(self, *arguments, names=None, path="/leads", rate=500, seconds=10):
        """Start a load over these nodes; its JSON report is `finish`'s."""
        log = self.directory / f"load{len(self.loads)}.jsonl"
        self.loads.append(str(log))
        urls = [self.nodes[name].http + path for name in names or self.nodes]
        return self.spawn(
            "load", "--url", *urls, "--rate", str(rate), "--seconds", str(seconds), "--json",
            "--log", str(log), *arguments, stdout=subprocess.PIPE,
        )  # fmt: skip

    def fill(self, body, count, *, connections=64):
        """Post so many messages over all nodes as fast as they take them; return the report."""
        child = self.spawn(
            "load", "--url", *(node.http + "/leads" for node in self.nodes.values()),
            "--rate", "0", "--seconds", "1500", "--requests", str(count), "--body", str(body),
            "--connections", str(connections), "--json", stdout=subprocess.PIPE,
        )  # fmt: skip
        return self.finish(child, within_s=1600)

    def finish(self, child, within_s=180):
        out, _ = child.communicate(timeout=within_s)
        return json.loads(out)

    def close(self):
        for child in self.children:
            if child.poll() is None:
                child.terminate()
                child.wait(20)
            if child.stdout:
                child.stdout.close()
        # How nodes and workers leave when they are asked is looked at in tests of its own.
        for node in self.nodes.values():
            if is_running(node):
                os.killpg(node.pid, signal.SIGKILL)  # `up` gives each node a group of its own
        if configurations(self.directory / "nodes"):  # some that `up` began with, and failed
            down(self.directory / "nodes")
