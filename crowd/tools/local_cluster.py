"""Nodes in the background of one machine: what ``cluster/up`` and ``cluster/down`` do.

Decides how a local cluster is kept: its files in one directory as ``crowd init`` writes
them, each node's process id and output beside its configuration. A process counts as the
node's only if its command line names that configuration, so a process id that was taken by
another program is never signalled.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

import crowd
from crowd.config import load_file
from crowd.errors import ConfigurationError, CrowdError
from crowd.tools.init import PORT, ClusterPlan, node_plans, write_cluster
from crowd.tools.status import admin_url
from crowd.tools.terminal import port_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

READY_WITHIN_S: Final = 60.0
"""For a node to start: it reads its whole journal, about a gigabyte every few seconds."""

STOPPED_WITHIN_S: Final = 20.0
"""For a node to drain and leave by itself, before it is killed."""

PORTS_FREE_WITHIN_S: Final = 1.0

_LOOK_EVERY_S: Final = 0.05
_EMPTY_LOOKS_MAX: Final = 100
_TAIL_LINES: Final = 20


class LocalNode(msgspec.Struct, frozen=True):
    """One node as ``cluster/up`` prints it: where it listens, its process and its file."""

    name: str
    http: str
    admin: str
    peer: str
    pid: int
    config: str


class NotReadyError(CrowdError):
    """A node ended, or was not ready in time; the words have the last of its output."""


def up(directory: Path, plan: ClusterPlan) -> list[LocalNode]:
    """Start those nodes of the cluster in `directory` that are not running, and wait for all.

    A directory without configurations gets them by `plan`. Raises NotReadyError, and the
    errors of `write_cluster`.
    """
    nodes = start(directory, plan)
    deadline_s = time.monotonic() + READY_WITHIN_S
    for node in nodes:
        _wait_ready(node, deadline_s)
    return nodes


def start(directory: Path, plan: ClusterPlan) -> list[LocalNode]:
    """Do what `up` does without waiting until the nodes are ready."""
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory):
        if not configurations(directory):
            for each in node_plans(plan):  # first: without files, the next call may name others
                _check_ports(each.name, (each.port, each.port + 2))
            write_cluster(directory, plan)
        nodes = [_local_node(config) for config in configurations(directory)]
        for node in nodes:
            if not node.pid:
                _check_ports(node.name, [urlsplit(url).port for url in (node.http, node.admin)])
        return [node if node.pid else _start(node) for node in nodes]


def down(directory: Path) -> list[str]:
    """Stop the nodes of the cluster in `directory`; return the names of those that ran."""
    directory = directory.absolute()
    with _alone(directory):
        nodes = [_local_node(config) for config in configurations(directory)]
        running = [node for node in nodes if node.pid]
        for node in running:
            os.kill(node.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + STOPPED_WITHIN_S
        for node in running:
            while is_running(node) and time.monotonic() < deadline_s:
                time.sleep(_LOOK_EVERY_S)
            if is_running(node):
                os.kill(node.pid, signal.SIGKILL)
        for node in nodes:
            _beside(Path(node.config), ".pid").unlink(missing_ok=True)
    return [node.name for node in running]


def configurations(directory: Path) -> list[Path]:
    """Return the nodes' files, in the order of names."""
    return sorted(directory.glob("*.toml"))


def is_running(node: LocalNode) -> bool:
    """Say whether the node's process lives and is the node's."""
    return bool(node.pid) and _is_node(node.pid, node.config)


def _local_node(config: Path) -> LocalNode:
    configuration = load_file(config)
    node, cluster = configuration.node, configuration.cluster
    pid = _pid(_beside(config, ".pid"))
    return LocalNode(
        name=node.name,
        http=admin_url(node.http[0]),
        admin=admin_url(node.admin),
        peer=cluster.peers[node.name] if cluster is not None else "",
        pid=pid if _is_node(pid, str(config)) else 0,
        config=str(config),
    )


def _start(node: LocalNode) -> LocalNode:
    """Start a node that goes on when this process ends."""
    config = Path(node.config)
    twistd = Path(sys.executable).with_name("twistd")
    root = str(Path(crowd.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with _beside(config, ".log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program and a path we wrote
            [sys.executable, str(twistd), "-n", "--pidfile=", "crowd", "--config", str(config)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            cwd=config.parent, start_new_session=True,
        )  # fmt: skip
    _beside(config, ".pid").write_text(f"{process.pid}\n")
    return msgspec.structs.replace(node, pid=process.pid)


def _check_ports(name: str, ports: Iterable[int | None]) -> None:
    """Raise NotReadyError if another program has a port of node `name`: it would answer for it.

    A process that was just killed gives its ports back a moment after it is gone from sight.
    """
    deadline_s = time.monotonic() + PORTS_FREE_WITHIN_S
    for port in ports:
        while port is not None and not is_free(port):
            if time.monotonic() > deadline_s:
                raise NotReadyError(f"node {name}: found port {port} in use; expected it free")
            time.sleep(_LOOK_EVERY_S)


def is_free(port: int) -> bool:
    """Say whether nothing listens on a port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_ready(node: LocalNode, deadline_s: float) -> None:
    while not _answers_ready(node):
        # A child that ended is reaped here; one that an earlier `up` started is not ours to reap.
        if not is_running(node):
            raise NotReadyError(f"node {node.name} ended:\n{_tail(node)}")
        if time.monotonic() > deadline_s:
            raise NotReadyError(f"node {node.name} is not ready in time:\n{_tail(node)}")
        time.sleep(_LOOK_EVERY_S)


def _answers_ready(node: LocalNode) -> bool:
    parts = urlsplit(node.admin)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=3)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False  # not listening yet; whether it ever will is the caller's question
    finally:
        connection.close()


def _tail(node: LocalNode) -> str:
    lines = _beside(Path(node.config), ".log").read_text("utf-8", "replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


def _beside(config: Path, suffix: str) -> Path:
    return config.with_suffix(suffix)


def _pid(file: Path) -> int:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return 0  # never started, or stopped while it was being written


def _is_node(pid: int, config: str) -> bool:
    if not pid:
        return False
    try:
        command = _command_line(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return os.fsencode(config) in command.split(b"\0")


def _command_line(pid: int) -> bytes:
    """Return a process's words; none of a zombie.

    One that is being started has none yet for a moment, which is waited for.
    """
    process = Path(f"/proc/{pid}")
    for _ in range(_EMPTY_LOOKS_MAX):
        command = (process / "cmdline").read_bytes()
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        if command or state in "ZX":
            return command
        time.sleep(_LOOK_EVERY_S / 10)
    return b""


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, so that two commands at once do not start a node twice."""
    if not directory.is_dir():
        raise ConfigurationError((f"{directory}: found no directory; expected a local cluster's",))
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``up`` or ``down``; return the exit status."""
    top = argparse.ArgumentParser(prog="cluster")
    commands = top.add_subparsers(required=True)
    add = commands.add_parser("up").add_argument
    add("--nodes", type=int, default=3)
    add("--port", type=port_number)
    add("--upstream", metavar="URL")
    add("--config", metavar="FILE", help="merged into each node's configuration")
    add("--directory", default=".crowd", metavar="DIR")
    commands.add_parser("down").add_argument("--directory", default=".crowd", metavar="DIR")
    options = top.parse_args(arguments)
    try:
        if not hasattr(options, "nodes"):
            names = ", ".join(down(Path(options.directory)))
            print(f"stopped {names or 'nothing: no node ran'}", file=sys.stderr)
            return 0
        directory = Path(options.directory)
        if options.port is not None and configurations(directory):
            print(f"{directory} has a cluster: its ports stay, --port is not used", file=sys.stderr)
        nodes = up(directory, _plan(options))
    except (CrowdError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(msgspec.json.encode({"nodes": nodes}).decode())
    return 0


def _plan(options: argparse.Namespace) -> ClusterPlan:
    extra: dict[str, Any] = {}
    if options.config is not None:
        try:
            extra = tomllib.loads(Path(options.config).read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{options.config}: {error}") from None
    port = PORT if options.port is None else options.port
    return ClusterPlan(nodes=options.nodes, port=port, upstream=options.upstream, extra=extra)


if __name__ == "__main__":
    sys.exit(main())
