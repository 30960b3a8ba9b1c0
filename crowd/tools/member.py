"""`crowd member`: who belongs to a cluster, and changing that.

Decides which node is asked, and when a change is done: when the ledger of the node that was
asked shows it, and a new member votes. Leaves what may change to the node (`/api/members`)
and its log.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from crowd.tools.door import LOOK_EVERY_S, NotChangedError, best_node, send, token_of
from crowd.tools.status import ask, gather

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crowd.tools.door import Door


class Change(msgspec.Struct, frozen=True):
    """A change of members: ``address`` is None for a member that leaves."""

    name: str
    address: str | None

    @property
    def words(self) -> str:
        """The change, as it is asked for."""
        if self.address is None:
            return f"remove {self.name}"
        return f"add {self.name} at {self.address}"


def members(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the members as the leader knows them, or without one any node that answered.

    Each has ``name``, ``address``, ``role``, ``connected`` and ``match_index``; the last is
    the highest entry known to be on the member's disk, which only a leader knows. Raises
    CrowdError if no node answered.
    """
    node = best_node(status)
    leads = node["role"] == "leader"
    found = []
    for name, member in sorted(node["members"].items()):
        own = name == node["name"]
        peer = node["peers"].get(name, {})
        found.append(
            {
                "name": name,
                "address": member["address"],
                "role": "voter" if member["votes"] else "learner",
                "connected": own or peer.get("connected", False),
                "match_index": (node["durable_index"] if own else peer.get("match_index"))
                if leads
                else None,
            }
        )
    return found


def member_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the members for a person."""
    if not found:
        return ["no members yet: the cluster is not born"]
    wide = max(len(member["name"]) for member in found)
    lines = []
    for member in found:
        connected = "connected" if member["connected"] else "NOT connected"
        match = member["match_index"]
        lines.append(
            f"{member['name']:<{wide}}  {member['role']:<7}  {member['address'] or 'no address'}  "
            f"{connected}, has entries up to {'?' if match is None else match}"
        )
    return lines


def change_members(
    doors: Sequence[Door],
    change: Change,
    *,
    wait_s: float,
    say: Callable[[str], None],
    seconds: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Ask for a change and wait until it is made, at most `wait_s`; `say` hears how it goes.

    The leader is asked where that is possible, but never the member that is to leave, if
    there is another: it would not hear that it has left. Raises NotChangedError, CrowdError
    if no node can be asked, DirectoryError if its token cannot be read.
    """
    node, door = _asked(doors, change)
    _send(door, change, token_of(door))
    say(f"asked {node['name']} to {change.words}")
    until_s = seconds() + wait_s
    said = ""
    while True:
        node = ask(door.admin)
        state = _state(node, change)
        if state is None:
            say(_done(change))
            return
        if seconds() >= until_s:
            raise NotChangedError(f"not done within {wait_s:g} s: {state}")
        if state != said and "learner" in state:
            said = state
            say(state)
        sleep(LOOK_EVERY_S)


def _asked(doors: Sequence[Door], change: Change) -> tuple[dict[str, Any], Door]:
    """Return the node to ask, and where."""
    status = gather([door.admin for door in doors])
    nodes = [node for node in status["nodes"] if "error" not in node]
    others = [node for node in nodes if node["name"] != change.name]
    best = best_node(status | {"nodes": others or status["nodes"]})
    (door,) = (door for door in doors if door.admin == best["admin"])
    return best, door


def _send(door: Door, change: Change, token: str) -> None:
    """Ask for the change; raise NotChangedError with what the node says against it."""
    if change.address is None:
        send(door, "DELETE", f"/api/members/{quote(change.name, '')}", token=token)
    else:
        wanted = {"name": change.name, "address": change.address}
        send(door, "POST", "/api/members", wanted, token=token)


def _state(node: dict[str, Any], change: Change) -> str | None:
    """Return what is missing still, in words, or None once the change is made."""
    if "error" in node:
        return f"{node['admin']}: {node['error']}"
    member = node["members"].get(change.name)
    if change.address is None:
        return None if member is None else f"{change.name} is still a member"
    if member is None:
        return f"{change.name} is no member yet (is there a leader?)"
    if member["address"] != change.address:
        return f"{change.name} is still at {member['address']}"
    if not member["votes"]:
        return (
            f"{change.name} is a learner: it gets everything from the others, and votes by itself "
            "once it has that; it must run for it"
        )
    return None


def _done(change: Change) -> str:
    if change.address is None:
        return f"{change.name} is no member any more; stop it, and keep its directory out of use"
    return f"{change.name} is a member, and votes"
