"""`crowd status`: what each node says of itself, side by side.

Decides which node's word counts for the cluster: the leader is who calls itself leader in
the highest term, or, where other nodes were not asked, whom those that were name. Leaves what a
node knows to its ``/api/status``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, InvalidURL
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from crowd.config import load_file
from crowd.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TIMEOUT_S: Final = 3.0
"""For one node: its answer takes a millisecond, or it is in trouble."""

ANSWER_BYTES_MAX: Final = 1 << 22


def admin_url(endpoint: str) -> str:
    """Return the http URL of an admin endpoint string; raise ValueError if it has none."""
    kind, port, *options = endpoint.split(":")
    hosts = [one.removeprefix("interface=") for one in options if one.startswith("interface=")]
    if kind not in {"tcp", "tcp6"} or not port.isdecimal():
        raise ValueError(f"found admin endpoint {endpoint!r}; expected one that begins with 'tcp:'")
    return f"http://{hosts[0] if hosts else '127.0.0.1'}:{port}"


def admin_addresses(directory: Path) -> list[str]:
    """Return the admin URL of each node whose ``*.toml`` stands in `directory`."""
    files = sorted(directory.glob("*.toml"))
    if not files:
        raise ConfigurationError((f"{directory}: found no *.toml; expected one for each node",))
    return [admin_url(load_file(file).node.admin) for file in files]


def connection_to(address: str, timeout_s: float) -> HTTPConnection:
    """Return a connection to an admin URL, not yet made; raise ValueError if it is none."""
    try:
        parts = urlsplit(address)
        if parts.scheme == "http" and parts.hostname:
            return HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s)
    except (InvalidURL, ValueError):  # its host or port is none
        pass
    raise ValueError(f"found {address!r}; expected a URL such as 'http://127.0.0.1:2106'")


def ask(address: str) -> dict[str, Any]:
    """Return what the node at an admin URL says of itself, or the ``error`` of asking it."""
    connection = connection_to(address, TIMEOUT_S)
    try:
        connection.request("GET", "/api/status")
        response = connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX)
        if response.status != 200:
            return {"admin": address, "error": f"answered {response.status}"}
        node: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except (OSError, HTTPException) as error:
        return {"admin": address, "error": str(error) or type(error).__name__}
    except msgspec.MsgspecError as error:
        return {"admin": address, "error": f"found no answer of crowd's: {error}"}
    finally:
        connection.close()
    return {"admin": address, **node}


def gather(
    addresses: Sequence[str],
    *,
    at: int | None = None,
    ask: Callable[[str], dict[str, Any]] = ask,
) -> dict[str, Any]:
    """Return the status of a cluster, whose nodes are asked all at once.

    ``digest`` is that at the last multiple of 4 096, or at index `at`: null where a node
    does not remember that one.
    """
    with ThreadPoolExecutor(max(len(addresses), 1)) as threads:
        nodes = [_shaped(node, at) for node in threads.map(ask, addresses)]
    leaders = [node for node in nodes if node.get("role") == "leader"]
    leader = max(leaders, key=lambda node: node["term"], default=None)
    terms = [node["term"] for node in nodes if "error" not in node]
    return {
        "leader": leader["name"] if leader else _leader_elsewhere(nodes),
        "term": leader["term"] if leader else max(terms, default=None),
        "nodes": nodes,
    }


def _leader_elsewhere(nodes: Sequence[dict[str, Any]]) -> str | None:
    """Return the leader that these nodes name and that is none of them; None if one is silent.

    A node goes on naming a leader that has died for a moment; a silent one may be that leader.
    """
    if not nodes or any("error" in node for node in nodes):
        return None
    newest = max(nodes, key=lambda node: node["term"])
    named: str | None = newest.get("leader")
    return None if named in {node["name"] for node in nodes} else named


def status_lines(status: dict[str, Any]) -> list[str]:
    """Return a cluster's status for a person."""
    lines = [f"leader {status['leader'] or 'none'}, term {status['term']}"]
    for node in status["nodes"]:
        if "error" in node:
            lines.append(f"{node['admin']}: {node['error']}")
            continue
        digest = node["digest"]
        shown = f"{digest['sha256'][:16]} at {digest['index']}" if digest else "none yet"
        ready = "ready" if node.get("ready") else "not ready"
        lines.append(
            f"{node['name']}: {node['role']}, {ready}, commit {node['commit']}, "
            f"applied {node['applied']}, digest {shown}"
        )
        lines += _damage_lines(node)
        if node["name"] == status["leader"]:
            lines += _member_lines(node) + _key_lines(node)
            for consumer in node.get("consumers", []):
                told = [
                    f"{key.replace('_', ' ')} {consumer[key]}"
                    for key in ("backlog", "in_flight", "watermark")
                    if key in consumer
                ]
                lines.append(f"  consumer {consumer.get('name')}: {', '.join(told)}")
    return lines


def _member_lines(node: dict[str, Any]) -> list[str]:
    """Return who the members are, by the leader's word; nothing before the cluster is born."""
    told = [
        f"{name} {'votes' if member['votes'] else 'learns'}"
        for name, member in node.get("members", {}).items()
    ]
    return [f"  members: {', '.join(told)}"] if told else []


def _key_lines(node: dict[str, Any]) -> list[str]:
    """Return how many idempotency keys are remembered, where there are any."""
    keys = node.get("idempotency", {})
    if not keys.get("held") and not keys.get("evicted"):
        return []
    told = f"{keys['held']} of {keys['count_max']} held, {keys['replays']} replays"
    early = f", {keys['evicted']} went early" if keys["evicted"] else ""
    return [f"  idempotency keys: {told}, {keys['mismatches']} mismatches{early}"]


def _damage_lines(node: dict[str, Any]) -> list[str]:
    lines = list(node.get("damaged_checkpoints", []))
    if entries := node.get("damaged_entries"):
        lines.insert(0, f"{entries} damaged entries, not yet mended by the others' copies")
    if letters := node.get("lacking_letters"):
        lines.append(f"{letters} letters lacking, asked of the others")
    return [f"  damaged: {line}" for line in lines]


def _shaped(node: dict[str, Any], at: int | None) -> dict[str, Any]:
    """Add the names that `crowd status --json` promises to what a node said."""
    if "error" in node:
        return node
    digest = node.get("digest")
    if at is not None:
        now = node.get("now") or {}
        sha256 = node.get("digests", {}).get(str(at))
        digest = now if now.get("index") == at else sha256 and {"index": at, "sha256": sha256}
    return node | {
        "commit": node.get("commit_index"),
        "applied": node.get("applied_index"),
        "digest": digest if digest and digest["sha256"] else None,
    }
