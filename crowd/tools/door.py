"""Nodes' admin ports, as a command line asks them.

Decides where nodes are asked, which one of several, and how a refusal reads. Leaves what is
asked to each command.
"""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd.config import load_file
from crowd.errors import ConfigurationError, CrowdError
from crowd.tools.status import ANSWER_BYTES_MAX, TIMEOUT_S, admin_url, connection_to, gather
from crowd.web.token import FILE_NAME, read_token

if TYPE_CHECKING:
    from collections.abc import Sequence

CLUSTER_DIRECTORY: Final = ".crowd"
"""Where ``cluster/up`` keeps a local cluster, and commands look for one."""

ALONE: Final = "http://127.0.0.1:2106"
"""A node's admin port by default."""

LOOK_EVERY_S: Final = 0.25
"""A change takes an election's time at most; nobody notices a quarter of a second."""


class Door(msgspec.Struct, frozen=True):
    """Where a node is asked, and the file that has its token, if that is known."""

    admin: str
    token_file: Path | None


class NotChangedError(CrowdError):
    """A change was refused, or not seen in time."""


class AnsweredError(NotChangedError):
    """A node answered with a problem. ``status`` is the answer's."""

    def __init__(self, words: str, *, status: int) -> None:
        super().__init__(words)
        self.status = status


def doors_of(directory: Path) -> list[Door]:
    """Return the nodes whose ``*.toml`` stand in a directory; raise ConfigurationError."""
    files = sorted(directory.glob("*.toml"))
    if not files:
        raise ConfigurationError((f"{directory}: found no *.toml; expected one for each node",))
    nodes = [load_file(file).node for file in files]
    return [Door(admin_url(node.admin), Path(node.directory) / FILE_NAME) for node in nodes]


def find_doors(admin: str | None, directory: str | None, token_file: str | None) -> list[Door]:
    """Return the nodes that may be asked, as the options of a command name them."""
    own = Path(token_file) if token_file is not None else None
    if admin is not None:
        return [Door(admin, own)]
    folder = Path(directory or CLUSTER_DIRECTORY)
    if directory is None and not folder.is_dir():
        return [Door(ALONE, own)]
    return [Door(door.admin, own or door.token_file) for door in doors_of(folder)]


def best_node(status: dict[str, Any]) -> dict[str, Any]:
    """Return what the leader says of itself, or who is nearest to it.

    `status` is as `crowd.tools.status.gather` returns it. Raises CrowdError if no node answered.
    """
    nodes = [node for node in status["nodes"] if "error" not in node]
    if not nodes:
        errors = "; ".join(f"{node['admin']}: {node['error']}" for node in status["nodes"])
        raise CrowdError(f"no node answered: {errors}")
    best: dict[str, Any] = max(
        nodes,
        key=lambda node: (
            node["name"] == status["leader"],
            node["standing"] == "voter",
            node["applied_index"],
        ),
    )
    return best


def best_door(doors: Sequence[Door]) -> Door:
    """Return where the leader is asked, or who is nearest to it; raise CrowdError."""
    if len(doors) == 1:
        return doors[0]
    best = best_node(gather([door.admin for door in doors]))
    return next(door for door in doors if door.admin == best["admin"])


def token_of(door: Door) -> str:
    """Return a node's token; raise CrowdError where it is not known, or cannot be read."""
    if door.token_file is None:
        raise CrowdError("found no token; expected --token-file, or --directory to find it in")
    return read_token(door.token_file)


def send(
    door: Door, method: str, path: str, value: Any = None, *, token: str | None = None
) -> dict[str, Any]:
    """Ask a node, with `value` as the JSON body; return what it answers.

    Raises AnsweredError for a problem, and NotChangedError if the node cannot be asked.
    """
    connection = connection_to(door.admin, 2 * TIMEOUT_S)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = None
    if value is not None:
        headers["Content-Type"] = "application/json"
        body = msgspec.json.encode(value)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read(ANSWER_BYTES_MAX)
    except (OSError, HTTPException) as error:
        asked = "" if method == "GET" else "; it may have been asked"
        raise NotChangedError(f"{door.admin}: {error}{asked}") from error
    finally:
        connection.close()
    if response.status not in {200, 202}:
        raise AnsweredError(
            f"{door.admin}: {_refusal(response.status, answer)}", status=response.status
        )
    try:
        return msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise NotChangedError(f"{door.admin}: found no answer of crowd's: {error}") from error


def _refusal(status: int, answer: bytes) -> str:
    try:
        problem = msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.MsgspecError:
        return f"answered {status}"
    return f"{problem.get('title', status)}: {problem.get('detail', '')}".removesuffix(": ")
