"""`crowd dead`: messages that were not delivered, and what becomes of them.

Decides how letters are shown, and how long an order of many is waited for. Leaves which letters
there are, and working an order through, to the node that is asked (`/api/dead`).
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import msgspec

from crowd.tools.door import (
    LOOK_EVERY_S,
    AnsweredError,
    NotChangedError,
    best_door,
    send,
    token_of,
)
from crowd.tools.terminal import table_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.tools.consumer import Wait
    from crowd.tools.door import Door

PAGE: Final = 1_000
"""As many as a node lists in one answer (`crowd.web.dead.PAGE_MAX`)."""

Found = dict[str, Any]
"""A letter, as ``/api/dead`` has it."""


class Filters(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which letters are meant: those for which all that is given is true. Times are RFC 3339."""

    consumer: str | None = None
    reason: str | None = None
    state: str | None = None
    since: str | None = None
    until: str | None = None


def letters(
    doors: Sequence[Door], filters: Filters, *, after: int, limit: int
) -> tuple[list[Found], int | None]:
    """Return letters with numbers above `after`, at most `limit`, and the number to go on after.

    That is None if there are no more. Raises CrowdError.
    """
    door = best_door(doors)
    token = token_of(door)
    found: list[Found] = []
    following: int | None = after
    while following is not None and len(found) < limit:
        asked = msgspec.to_builtins(filters) | {
            "after": following,
            "limit": min(PAGE, limit - len(found)),
        }
        page = send(door, "GET", f"/api/dead?{urlencode(asked)}", token=token)
        found += page["letters"]
        following = page["next"]
    return found, following


def letter_lines(found: Sequence[Found], following: int | None) -> list[str]:
    """Return letters for a person."""
    if not found:
        return ["no letters"]
    heads = ("number", "consumer", "state", "reason", "status", "attempts", "buried", "size", "id")
    rows = [
        [
            one["number"], one["consumer"], one["state"], one["reason"], one["status"],
            one["attempts"], moment(one["buried_us"]), one["size"], one["id"],
        ]
        for one in found
    ]  # fmt: skip
    more = [] if following is None else [f"more: --after {following}"]
    return table_lines(heads, rows) + more


def moment(time_us: int) -> str:
    """Return a time in microseconds since 1970 for a person, in UTC."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def letter(doors: Sequence[Door], number: int) -> Found:
    """Return a letter with its message, of the first node that has it. Raises CrowdError."""
    first = best_door(doors)
    last: AnsweredError | None = None
    for door in (first, *(door for door in doors if door != first)):
        try:
            return send(door, "GET", f"/api/dead/{number}", token=token_of(door))
        except AnsweredError as error:
            if error.status != 503:
                raise
            last = error
    assert last is not None
    raise last


def whole_lines(found: Found) -> list[str]:
    """Return a letter with its message for a person. What is not printable is shown escaped."""
    one, message = found["letter"], found["message"]
    whom = f" to {one['target']}" if one["target"] else ""
    span = f"from {moment(one['first_us'])} to {moment(one['last_us'])}"
    lines = [
        f"letter {one['number']} of {one['consumer']}, {one['state']}{whom}",
        f"message {one['id']}, {one['size']} bytes stored, SHA-256 {one['sha256']}",
        f"{one['reason']}: status {one['status'] or 'none'}, {one['attempts']} attempts {span}",
        f"buried {moment(one['buried_us'])}",
        *([f"last answer: {_printable(one['words'])}"] if one["words"] else []),
        "",
        f"{_printable(message['method'])} {_printable(message['target'])}",
        *(f"{_printable(name)}: {_printable(value)}" for name, value in message["headers"]),
        "",
    ]
    if "text" in message:
        return [*lines, *message["text"].splitlines()]
    body = base64.b64decode(message["body"])
    shown = [repr(body[:256])[2:-1]] if body else []
    return [*lines, *shown, f"({message['body_bytes']} bytes that are no text; --json has them)"]


def _printable(text: str) -> str:
    """Return text that came from outside as a terminal may show it."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def order(doors: Sequence[Door], kind: str, wanted: dict[str, Any], wait: Wait) -> None:
    """Have letters replayed or purged, and wait for the end of that.

    `wanted` is the body of ``/api/dead/replay`` or ``purge``. Raises CrowdError, and
    NotChangedError where the order is refused, ends early, or is not at its end in time: it
    goes on then.
    """
    door = best_door(doors)
    token = token_of(door)
    number = send(door, "POST", f"/api/dead/{kind}", wanted, token=token)["order"]
    until_s = wait.seconds() + wait.wait_s
    told = -1
    while True:
        orders = send(door, "GET", "/api/dead/orders", token=token)["orders"]
        known = next((one for one in orders if one["order"] == number), None)
        if known is None:
            raise NotChangedError(f"{door.admin} does not know order {number} any more")
        if known["ended"]:
            break
        if wait.seconds() >= until_s:
            raise NotChangedError(
                f"order {number} of {door.admin} goes on: {known['done']} letters in "
                f"{wait.wait_s:g} s"
            )
        if known["done"] > told:
            told = known["done"]
            wait.say(f"order {number}: {told} letters so far")
        wait.sleep(LOOK_EVERY_S)
    if known["problem"] is not None:
        raise NotChangedError(
            f"order {number} ended after {known['done']} letters: {known['problem']}"
        )
    done = {"replay": "to be delivered again", "purge": "purged"}[kind]
    wait.say(f"{known['done']} letters are {done}")
