"""What became of a message, for whoever may post on its route: ``GET /.crowd/messages/ID``.

Decides the answer, and who gets one: the door of the message's route admits who asks as it admits
who posts. Where it asks for no proof, knowing the id is enough. Leaves where a message stands to
`Standings`, any node's own.

Paths below ``/.crowd`` are no route's: the rules here stand before every route's, as Klein looks at
a rule's fixed parts first, and the configuration refuses a route that begins so.
"""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from crowd.door.asked import Refused
from crowd.message import message_id, parse_message_id
from crowd.web.problems import (
    MESSAGE_GONE,
    NOT_ALLOWED,
    NOT_FOUND,
    UNKNOWN_MESSAGE,
    problem_reply,
)
from crowd.web.reply import Reply, make_reply
from crowd.web.request import Request
from crowd.web.twin import answer, fields_of, origin_of, transport_of

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from klein import Klein
    from twisted.internet.defer import Deferred

    from crowd.door.door import Door
    from crowd.door.proxies import Proxies
    from crowd.message import Position
    from crowd.web.entrance import Entrance
    from crowd.web.fields import Field, Fields

MESSAGES: Final = "/.crowd/messages/"
_METHODS: Final = ("GET", "HEAD", "OPTIONS")
_HEADERS: Final = (
    (b"Content-Type", b"application/json;charset=UTF-8"),
    (b"Cache-Control", b"no-store"),
)


class Consumer(Protocol):
    """Where a message stands with one consumer."""

    @property
    def name(self) -> str:
        """The consumer's name."""

    @property
    def state(self) -> str:
        """``accepted``, ``delivered``, ``retrying``, ``dead`` or ``settled``."""

    @property
    def attempts(self) -> int:
        """Attempts known to have failed."""


class Standing(Protocol):
    """Where a message stands."""

    @property
    def route(self) -> str:
        """The path of its route."""

    @property
    def state(self) -> str:
        """The worst of its consumers'."""

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """Those that take its route's messages."""


class Absence(enum.Enum):
    """Why a message is not found."""

    UNKNOWN = "unknown"
    """None was accepted at its position, as far as this node knows."""
    RELEASED = "released"
    """It was settled, and is kept no longer."""


class Standings(Protocol):
    """Who knows of messages: this node's ledger."""

    @property
    def tag(self) -> str | None:
        """The cluster's tag, or None before its birth."""

    def find(self, position: Position) -> Deferred[Any]:
        """Fire with a message's `Standing` or an `Absence`; fail with a RefusedError if nobody knows."""


class MessagePages:
    """Answers below ``/.crowd``. In the reactor's thread.

    `routes` are the paths of this node's routes; of others' messages nobody hears here. On those in
    `waits` consumers are named even where the route asks for no proof.
    """

    def __init__(
        self,
        standings: Standings,
        routes: Container[str],
        entrance: Entrance | None = None,
        waits: Mapping[str, float] | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._standings = standings
        self._routes = routes
        self._entrance = entrance
        self._waits = waits or {}
        self._proxies = proxies

    def stand_in(self, app: Klein) -> None:
        """Take what is below ``/.crowd``, whatever the method."""
        for place, rule in enumerate(("/.crowd", "/.crowd/", "/.crowd/<path:rest>")):
            app.route(rule, endpoint=f".crowd {place}", strict_slashes=False)(self._other)
        app.route(
            f"{MESSAGES}<name>", methods=_METHODS, endpoint=".crowd messages", strict_slashes=False
        )(self._message)

    def _other(self, request: Any, rest: str = "") -> Any:
        if "/" + rest.rstrip("/").rpartition("/")[0] + "/" == "/messages/":
            return answer(request, problem_reply(NOT_ALLOWED, allow=_METHODS))
        return answer(request, problem_reply(NOT_FOUND))

    def _message(self, request: Any, name: str) -> Any:
        """Answer who asks for a message. Returns what Klein waits for."""
        position = self._position(name)
        if isinstance(position, Reply):
            return answer(request, position)
        return self._standings.find(position).addCallback(self._found, request, position)

    def _found(self, found: Standing | Absence, request: Any, position: Position) -> bytes | None:
        """Answer who asks for a message that stands so."""
        if isinstance(found, Absence):
            return answer(request, _ABSENT[found])
        if found.route not in self._routes:
            return answer(request, problem_reply(UNKNOWN_MESSAGE, "of no route of this node"))
        fields = request.fields if type(request) is Request else fields_of(request)
        door = None if self._entrance is None else self._entrance.door(found.route)
        if request.method == b"OPTIONS":
            return answer(request, self._preflight(door, fields))
        extra: tuple[Field, ...] = ()
        if door is not None:
            assert self._entrance is not None, "a door stands in an entrance"
            client, _, _ = origin_of(request)
            if self._proxies is not None:
                client = self._proxies.client(client, fields.kept)
            asked = self._entrance.asked(request.method, fields, b"", client, transport_of(request))
            verdict = door.admit_asker(asked)
            if isinstance(verdict, Refused):
                return answer(request, self._entrance.refusal(verdict), door.shown(fields.kept))
            extra = verdict.answer
        named = (door is not None and door.asks_who) or found.route in self._waits
        tag = self._standings.tag
        assert tag is not None, "there are messages, so the cluster is born"
        return answer(request, _shown(message_id(tag, position), position, found, named), extra)

    def _position(self, name: str) -> Position | Reply:
        """Return a message's position, or the answer of who asks for what is none."""
        try:
            tag, position = parse_message_id(name)
        except ValueError:
            return problem_reply(
                UNKNOWN_MESSAGE, "expected the Crowd-Message-Id of an answer, 25 characters"
            )
        if tag != self._standings.tag:
            return problem_reply(UNKNOWN_MESSAGE, "another cluster's, by its first eight digits")
        return position

    def _preflight(self, door: Door | None, fields: Fields) -> Reply:
        """Answer a browser that asks first: as the message's route would."""
        if door is not None and door.answers_browsers:
            asked = door.preflight(fields.kept)
            if not isinstance(asked, Refused):
                return make_reply(204, asked, b"")
            assert self._entrance is not None, "a door stands in an entrance"
            return self._entrance.refusal(asked)
        return make_reply(204, ((b"Allow", ", ".join(_METHODS).encode("ascii")),), b"")


_ABSENT: Final = {
    Absence.UNKNOWN: problem_reply(UNKNOWN_MESSAGE, "none that this node knows of, or not yet"),
    Absence.RELEASED: problem_reply(MESSAGE_GONE),
}


def _shown(name: str, position: Position, standing: Standing, named: bool) -> Reply:  # noqa: FBT001
    """Return the answer; with the consumers, if they may be `named`."""
    document: dict[str, Any] = {"id": name, "position": position, "state": standing.state}
    if named:
        document["consumers"] = [
            {"name": each.name, "state": each.state}
            | ({"attempts": each.attempts} if each.attempts else {})
            for each in standing.consumers
        ]
    return make_reply(200, _HEADERS, json.dumps(document).encode("ascii"))
