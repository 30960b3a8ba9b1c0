"""Three real nodes, as processes of this one: started, killed, stopped and woken at will.

Decides how a node's process is begun and ended. Where it runs (its host, its name space, its
disk, what is loaded into it) is the `Ground`'s. A node never outlives this process: the
kernel kills it when we die, however we die.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from crowd.config import load_file
from crowd.tools.init import ClusterPlan, write_cluster
from crowd.tools.status import admin_url, ask
from tests.faults.waiting import FaultError, eventually
from tests.integration.cluster import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

READY_WITHIN_S = 40.0
GONE_WITHIN_S = 20.0
"""A node that is asked to leave drains for 10 s at most and hands over within 2 s more."""
ROOT = Path(__file__).parents[2]

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (called between fork and exec)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that does not see our Ctrl-C, and that ends when we do."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("environment", {})
    return subprocess.Popen(
        arguments, stdin=options.pop("stdin", subprocess.DEVNULL), env=environment,
        start_new_session=True, preexec_fn=die_with_parent, **options,  # noqa: PLW1509 - one system call
    )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, whatever state it is in."""
    if process.poll() is None:
        process.kill()
        process.send_signal(signal.SIGCONT)
    process.wait(10)


class Ground:
    """Where nodes run: here, on loopback and on the disk that the directory is on.

    A ground is made before the cluster and closed after it. It makes what `directory` needs
    for a node, `command` goes before the node's own, `environment` into it.
    """

    sink_host = "127.0.0.1"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_ports(4)
        self.sink_port = free_ports(1) + 5

    def hosts(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return each node's host, or one for all of them, which are then ten ports apart."""
        del names
        return ("127.0.0.1",)

    def prepare(self, name: str, directory: Path) -> None:
        """Make ready what the node `name` will find at `directory`, before its first start."""

    def command(self, name: str) -> list[str]:
        del name
        return []

    def environment(self, name: str) -> Mapping[str, str]:
        del name
        return {}

    def close(self) -> None:
        """Undo everything; may be called after a failure of `prepare`."""


class Node:
    """One node's file, addresses and process."""

    def __init__(self, config: Path) -> None:
        configuration = load_file(config)
        self.config = config
        self.name = configuration.node.name
        self.directory = Path(configuration.node.directory)
        self.admin = admin_url(configuration.node.admin)
        port = configuration.node.http[0].split(":")[1]
        self.http = f"http://{urlsplit(self.admin).hostname}:{port}"
        self.log = config.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ready(self) -> bool:
        """Ask whether the node would have a balancer send producers to it."""
        parts = urlsplit(self.admin)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=1)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def words(self, since: int = 0) -> str:
        """Return what the node has printed, from a byte of its log on."""
        with self.log.open("rb") as file:
            file.seek(since)
            return file.read().decode("utf-8", "replace")

    def said(self) -> int:
        """Return where its log ends now."""
        return self.log.stat().st_size if self.log.exists() else 0


class Cluster:
    """The nodes, by name."""

    def __init__(self, ground: Ground, *, extra: dict[str, Any] | None = None) -> None:
        self.ground = ground
        self.directory = ground.directory
        self.plan = ClusterPlan(
            nodes=3, hosts=ground.hosts("abc"), port=ground.port,
            upstream=f"http://{ground.sink_host}:{ground.sink_port}", extra=extra or {},
        )  # fmt: skip
        self.nodes: dict[str, Node] = {}
        for path in write_cluster(self.directory, self.plan):
            self.adopt(path)

    def adopt(self, path: Path) -> Node:
        """Take in a node's file. Its admin side listens where we reach it."""
        hosts = self.ground.hosts("abcd")
        if len(hosts) > 1:
            host = hosts["abcd".index(path.stem)]
            text = path.read_text("utf-8").replace("interface=127.0.0.1", f"interface={host}")
            path.write_text(text, "utf-8")
        node = self.nodes[path.stem] = Node(path)
        self.ground.prepare(node.name, node.directory)
        return node

    def start(self, *names: str) -> None:
        """Start nodes, without waiting."""
        for name in names or self.nodes:
            node = self.nodes[name]
            assert not node.runs, f"{name} runs already"
            twistd = str(Path(sys.executable).with_name("twistd"))
            with node.log.open("ab") as log:
                node.process = spawn(
                    [*self.ground.command(name), sys.executable, twistd, "-n", "--pidfile=",
                     "crowd", "--config", str(node.config)],
                    stdout=log, stderr=log, cwd=self.directory,
                    environment=dict(self.ground.environment(name)),
                )  # fmt: skip

    def wait_ready(self, *names: str, within_s: float = READY_WITHIN_S) -> None:
        """Wait until these nodes, or all, are ready; raise FaultError if one ends instead."""
        for name in names or self.nodes:
            node = self.nodes[name]

            def ready(node: Node = node) -> bool:
                if not node.runs:
                    raise FaultError(f"node {node.name} ended: {last_words(node)}")
                return node.ready()

            eventually(f"node {name} is ready", ready, within_s)

    def kill(self, *names: str) -> None:
        """Kill -9, all of them before one is waited for."""
        for name in names:
            self._process(name).kill()
        for name in names:
            self._process(name).wait(10)

    def terminate(self, name: str) -> None:
        """SIGTERM; wait until the node has left."""
        process = self._process(name)
        process.terminate()
        try:
            process.wait(GONE_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise FaultError(f"node {name} did not leave within {GONE_WITHIN_S:g} s") from None

    def stop(self, name: str) -> None:
        """SIGSTOP."""
        self._process(name).send_signal(signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """SIGCONT."""
        self._process(name).send_signal(signal.SIGCONT)

    def wipe(self, name: str) -> None:
        """Delete what is in a node's directory."""
        assert not self.nodes[name].runs
        for path in self.nodes[name].directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def status(self, *names: str) -> dict[str, dict[str, Any]]:
        """Return what these nodes, or all, say of themselves; those that answer."""
        nodes = [self.nodes[name] for name in names or self.nodes]
        with ThreadPoolExecutor(len(nodes)) as threads:
            said = list(threads.map(lambda node: ask(node.admin), nodes))
        return {node.name: one for node, one in zip(nodes, said, strict=True) if "error" not in one}

    def leader(self, *names: str, within_s: float = 15.0) -> str:
        """Wait for a leader among these nodes; return its name."""

        def leads() -> str | None:
            said = [one for one in self.status(*names).values() if one["role"] == "leader"]
            return max(said, key=lambda one: one["term"])["name"] if said else None

        return eventually("a leader", leads, within_s) or ""

    def same_ledgers(self, within_s: float = 60.0) -> dict[str, Any]:
        """Wait until all nodes have applied the same entries; return one's status."""
        seen: dict[str, dict[str, Any]] = {}

        def agreed() -> dict[str, Any] | None:
            nonlocal seen
            seen = self.status()
            now = {(one["now"]["index"], one["now"]["sha256"]) for one in seen.values()}
            both = len(seen) == len(self.nodes) and len(now) == 1
            return next(iter(seen.values())) if both else None

        try:
            return eventually("equal ledgers", agreed, within_s) or {}
        except FaultError:
            now = {name: one["now"]["index"] for name, one in seen.items()}
            raise FaultError(f"the ledgers differ: {now}") from None

    def close(self) -> None:
        """End every node."""
        for node in self.nodes.values():
            if node.process is not None:
                end(node.process)

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        process = self.nodes[name].process
        assert process is not None
        return process


def last_words(node: Node) -> str:
    """Return the last line that a node printed."""
    return (node.words().strip().splitlines() or ["nothing"])[-1]


def now() -> float:
    """Return the time as the logs have it, in seconds since 1970."""
    return time.time()
