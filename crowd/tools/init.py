"""`crowd init`: a cluster's files, one configuration and certificate a node, one authority.

Decides names and ports: nodes are a, b, c and so on; a node listens on its port for
producers, on the next for its peers, and on the one after that, on loopback, for operators.
Nodes that share a host are ten ports apart. Nothing that exists is ever overwritten.

A node that joins later gets its files from the same authority (`add_node`). That makes it no
member yet: who the members are stands in the cluster's log.
"""

from __future__ import annotations

import os
import string
import tomllib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd.config import EVERYTHING, from_text, load_file
from crowd.errors import DirectoryError
from crowd.kinds import split_address
from crowd.raft.certificates import make_authority, make_node
from crowd.tools.toml_text import merged, toml_text

if TYPE_CHECKING:
    from pathlib import Path

NODES_MAX: Final = 9
"""Raft asks a majority for every entry: with more than nine members each waits for five."""

PORT: Final = 2104
"""A node's first port, for producers; the next two are for its peers and for operators."""

PORTS_APART: Final = 10
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class ClusterPlan(msgspec.Struct, frozen=True):
    """What to write. One host for all nodes, or one for each; ``extra`` goes beneath each file."""

    cluster: str = "crowd"
    nodes: int = 3
    hosts: tuple[str, ...] = ("127.0.0.1",)
    port: int = PORT
    upstream: str | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


class NodePlan(msgspec.Struct, frozen=True):
    """One node's name, host and first port."""

    name: str
    host: str
    port: int

    @property
    def peer(self) -> str:
        """Where its peers find it, as ``host:port``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port + 1}"


def node_plans(plan: ClusterPlan) -> tuple[NodePlan, ...]:
    """Return the nodes; raise ValueError if there cannot be such a cluster."""
    if not 1 <= plan.nodes <= NODES_MAX:
        raise ValueError(f"--nodes: found {plan.nodes}; expected 1 to {NODES_MAX}")
    if len(plan.hosts) not in {1, plan.nodes}:
        raise ValueError(f"--host: found {len(plan.hosts)} of them; expected 1 or {plan.nodes}")
    apart = PORTS_APART if len(plan.hosts) == 1 else 0
    if not 1 <= plan.port <= 65_535 - 2 - apart * (plan.nodes - 1):
        raise ValueError(f"--port: found {plan.port}; expected a port with room for every node's")
    hosts = plan.hosts * plan.nodes if apart else plan.hosts
    return tuple(
        NodePlan(string.ascii_lowercase[number], hosts[number], plan.port + apart * number)
        for number in range(plan.nodes)
    )


def node_content(plan: ClusterPlan, node: NodePlan, nodes: tuple[NodePlan, ...]) -> dict[str, Any]:
    """Return a node's configuration, as TOML's values."""
    interface = f":interface={node.host}" if node.host in LOOPBACK - {"::1"} else ""
    own: dict[str, Any] = {
        "node": {
            "name": node.name,
            "directory": node.name,
            "http": [f"tcp:{node.port}{interface}"],
            "peer": f"tcp:{node.port + 1}{interface}",
            "admin": f"tcp:{node.port + 2}:interface=127.0.0.1",
        },
        "cluster": {
            "name": plan.cluster,
            "peers": {other.name: other.peer for other in nodes},
            "certificate": f"{node.name}.pem",
            "private_key": f"{node.name}.key",
            "authority": "authority.pem",
        },
    }
    beneath: dict[str, Any] = {"route": [{"path": EVERYTHING}]}
    if plan.upstream is not None:
        beneath["route"][0] |= {"reads": "proxy", "upstream": plan.upstream}
        beneath["consumer"] = [{"name": "upstream", "url": plan.upstream}]
    return merged(merged(beneath, plan.extra), own)


def write_cluster(directory: Path, plan: ClusterPlan) -> list[Path]:
    """Write a cluster's files to `directory`; return the configurations' paths.

    Raises ValueError or ConfigurationError for a plan that cannot be, before anything is
    written, and DirectoryError if one of the files exists already.
    """
    nodes = node_plans(plan)
    texts = {f"{node.name}.toml": toml_text(node_content(plan, node, nodes)) for node in nodes}
    for name, text in texts.items():
        from_text(text, str(directory / name), directory)
    authority, authority_key = make_authority(plan.cluster)
    files: dict[str, bytes] = {"authority.pem": authority, "authority.key": authority_key}
    for node in nodes:
        files[f"{node.name}.pem"], files[f"{node.name}.key"] = make_node(
            authority, authority_key, plan.cluster, node.name, [node.host]
        )
    files |= {name: text.encode() for name, text in texts.items()}
    directory.mkdir(parents=True, exist_ok=True)
    _write_all(directory, files)
    return [directory / name for name in texts]


def add_node(directory: Path, name: str, host: str, port: int | None) -> Path:
    """Write the files of one more node to a cluster's `directory`; return its configuration's path.

    Its `cluster.peers` are the nodes whose configurations stand there, and itself; all but its
    name, ports and proofs is as in the first of those. `port` is its first, as in a
    `NodePlan`; None takes the next one behind those that are on its host. Raises ValueError or
    ConfigurationError for a node that cannot be, and DirectoryError if the directory holds no
    cluster and its authority, or one of the node's files. Nothing is written then.
    """
    cluster, peers, extra = _described(directory)
    if port is None:
        port = _next_port(peers, host)
    if not 1 <= port <= 65_535 - 2:
        raise ValueError(f"--port: found {port}; expected 1 to {65_535 - 2}")
    node = NodePlan(name, host, port)
    if name in peers:
        raise DirectoryError(f"{directory}: found a node {name}; expected none, to add it")
    plan = ClusterPlan(cluster=cluster, extra=extra)
    content = node_content(plan, node, ())
    content["cluster"]["peers"] = peers | {name: node.peer}
    path = directory / f"{name}.toml"
    text = toml_text(content)
    from_text(text, str(path), directory)
    authority, authority_key = (
        _authority(directory / file) for file in ("authority.pem", "authority.key")
    )
    try:
        certificate, key = make_node(authority, authority_key, cluster, name, [host])
    except (ValueError, TypeError) as error:
        words = f"cannot sign a certificate for {name} with {directory / 'authority.key'}"
        raise DirectoryError(f"{words}: {error}") from error
    files = {f"{name}.pem": certificate, f"{name}.key": key, path.name: text.encode()}
    _write_all(directory, files)
    return path


def _next_port(peers: dict[str, str], host: str) -> int:
    """Return the first port of one more node at `host`, beside those whose addresses are `peers`."""
    there = [port - 1 for at, port in map(split_address, peers.values()) if at == host]
    return max(there) + PORTS_APART if there else PORT


def _described(directory: Path) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Return the cluster's name, its nodes' addresses, and what the first file says besides."""
    clusters: set[str] = set()
    peers: dict[str, str] = {}
    paths = sorted(directory.glob("*.toml"))
    for path in paths:
        configuration = load_file(path)
        if configuration.cluster is None:
            raise DirectoryError(f"{path}: found a node on its own; expected one of a cluster")
        clusters.add(configuration.cluster.name)
        peers[configuration.node.name] = configuration.cluster.peers[configuration.node.name]
    if len(clusters) != 1:
        found = " and ".join(sorted(clusters)) or "no configuration"
        raise DirectoryError(f"{directory}: found {found}; expected one cluster's *.toml")
    content = tomllib.loads(paths[0].read_text("utf-8"))
    extra = {key: value for key, value in content.items() if key not in {"node", "cluster"}}
    return clusters.pop(), peers, extra


def _authority(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DirectoryError(
            f"{path}: found {error.strerror}; expected what `crowd init` wrote there"
        ) from None


def _write_all(directory: Path, files: dict[str, bytes]) -> None:
    for name in files:
        if (directory / name).exists():
            raise DirectoryError(f"{directory / name}: found a file; expected none, to write it")
    for name, content in files.items():
        _write(directory / name, content)


def _write(path: Path, content: bytes) -> None:
    # A key is its owner's alone from its first byte on, so its mode is set at creation.
    mode = 0o600 if path.suffix == ".key" else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
