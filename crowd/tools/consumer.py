"""`crowd consumer`: who is delivered to, how that goes, and changing it.

Decides when a change is done: when the ledger of the node that was asked shows it. Leaves what
may change to the node (`/api/consumers`) and its log.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from crowd.config import consumer_tables, read_consumer
from crowd.consumers import plain
from crowd.errors import CrowdError
from crowd.tools.door import LOOK_EVERY_S, NotChangedError, best_door, send, token_of
from crowd.tools.terminal import table_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crowd.tools.door import Door

Found = dict[str, Any]
"""A consumer, as ``/api/consumers`` has it."""


class Wait(msgspec.Struct, frozen=True):
    """How long a change is waited for, and what hears how it goes."""

    wait_s: float
    say: Callable[[str], None]
    seconds: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def consumers(doors: Sequence[Door]) -> list[Found]:
    """Return every consumer, as the leader or who is nearest to it knows them."""
    return _consumers(best_door(doors))


def named(found: Sequence[Found], name: str) -> Found:
    """Return the consumer of a name; raise CrowdError if there is none."""
    for consumer in found:
        if consumer["name"] == name:
            return consumer
    names = ", ".join(consumer["name"] for consumer in found) or "none"
    raise CrowdError(f"found no consumer {name!r}; expected one of {names}")


def consumer_lines(found: Sequence[Found]) -> list[str]:
    """Return the consumers for a person."""
    if not found:
        return ["no consumers yet"]
    heads = ("name", "state", "backlog", "dead", "parked", "skipped", "url")
    rows = []
    for consumer in found:
        letters = consumer["letters"]
        counts = [letters.get(key) for key in ("dead", "parked", "skipped")]
        row = [consumer["name"], state_of(consumer), consumer["backlog"], *counts, consumer["url"]]
        rows.append(row)
    return table_lines(heads, rows)


def state_of(consumer: Found) -> str:
    """Return how delivery to a consumer goes, in a word or a few."""
    if consumer["paused"]:
        return "paused"
    delivery = consumer["delivery"] or {}
    if delivery.get("held"):
        return str(delivery["held"])
    return "does not answer" if delivery.get("silent") else "delivering"


def detail_lines(consumer: Found) -> list[str]:
    """Return all that is known of a consumer for a person, one fact a line."""
    return list(_facts("", consumer))


def _facts(place: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [
            line
            for key, inner in value.items()
            for line in _facts(f"{place}.{key}" if place else key, inner)
        ]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return [f"{place} = {text}"]


def control(doors: Sequence[Door], name: str, action: str, wait: Wait) -> None:
    """Pause or resume a consumer. Raises CrowdError, NotChangedError where that is not done."""
    paused = action == "pause"
    door, _ = _change(doors, name, action, None)

    def done(found: Sequence[Found]) -> bool:
        return any(one["name"] == name and one["paused"] == paused for one in found)

    _await(door, wait, done)
    wait.say(f"{name} is {'paused' if paused else 'resumed'}")


def skip(doors: Sequence[Door], name: str, through: int | None, wait: Wait) -> None:
    """Give up messages up to a position, or all there are. Raises as `control` does."""
    wanted = None if through is None else {"through": through}
    door, answer = _change(doors, name, "skip", wanted)
    last = answer["through"]

    def done(found: Sequence[Found]) -> bool:
        return all(one["name"] != name or one["watermark"] >= last for one in found)

    _await(door, wait, done)
    wait.say(f"{name} goes on behind position {last}")


def remove(doors: Sequence[Door], name: str, *, drop: bool, wait: Wait) -> None:
    """Have a consumer go; without `drop` only if it has no messages left. Raises as `control`."""
    door, _ = _change(doors, name, "remove", {"backlog": "drop"} if drop else None)
    _await(door, wait, lambda found: all(one["name"] != name for one in found))
    wait.say(f"{name} is removed; take it out of the nodes' files, or a changed one brings it back")


def apply(doors: Sequence[Door], file: Path, wait: Wait) -> None:
    """Add or change the consumers whose tables stand in a file.

    Raises ConfigurationError with every problem, before anything is asked; else as `control`.
    """
    tables = consumer_tables(file)
    door = best_door(doors)
    token = token_of(door)
    for table in tables:
        definition = read_consumer(table, str(file), None)
        wanted = msgspec.json.decode(msgspec.json.encode(plain(definition)))
        send(door, "POST", "/api/consumers", table, token=token)

        def done(found: Sequence[Found], wanted: Any = wanted) -> bool:
            return any(one["definition"] == wanted for one in found)

        _await(door, wait, done)
        wait.say(f"{definition.name} is as {file} has it")


def _change(doors: Sequence[Door], name: str, change: str, wanted: Any) -> tuple[Door, Found]:
    """Ask for a change; return who was asked, and the answer."""
    door = best_door(doors)
    path = f"/api/consumers/{quote(name, '')}/{change}"
    return door, send(door, "POST", path, wanted, token=token_of(door))


def _await(door: Door, wait: Wait, done: Callable[[Sequence[Found]], bool]) -> None:
    """Wait until the node that was asked shows a change; raise NotChangedError."""
    until_s = wait.seconds() + wait.wait_s
    while not done(_consumers(door)):
        if wait.seconds() >= until_s:
            raise NotChangedError(
                f"asked {door.admin}, and not done within {wait.wait_s:g} s (is there a leader?)"
            )
        wait.sleep(LOOK_EVERY_S)


def _consumers(door: Door) -> list[Found]:
    found: list[Found] = send(door, "GET", "/api/consumers")["consumers"]
    return found
