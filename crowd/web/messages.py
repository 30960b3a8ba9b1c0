"""What became of a message, for whoever may post on its route: ``GET /.crowd/messages/ID``.

Decides the answer, and who gets one: the door of the message's route admits who asks as it admits
who posts. Where it asks for no proof, knowing the id is enough. Leaves where a message stands to
`Standings`, any node's own.

Paths below ``/.crowd`` are no route's: the rules here stand before every route's, as Klein looks at
a rule's fixed parts first, and the configuration refuses a route that begins so.
"""

from __future__ import annotations

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


class Standings(Protocol):
    """Who knows of messages: this node's ledger."""

    @property
    def tag(self) -> str | None:
        """The cluster's tag, or None before its birth."""

    @property
    def tip(self) -> Position:
        """The position of the message accepted last."""

    def standing(self, position: Position) -> Standing | None:
        """Return where a message up to the tip stands; None if it was released."""


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
        """Answer who asks for a message."""
        fields = request.fields if type(request) is Request else fields_of(request)
        found = self._find(name)
        if isinstance(found, Reply):
            return answer(request, found)
        position, standing = found
        door = None if self._entrance is None else self._entrance.door(standing.route)
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
        named = (door is not None and door.asks_who) or standing.route in self._waits
        tag = self._standings.tag
        assert tag is not None, "there are messages, so the cluster is born"
        return answer(request, _shown(message_id(tag, position), position, standing, named), extra)

    def _find(self, name: str) -> tuple[Position, Standing] | Reply:
        """Return a message, or the answer of who asks for what is none."""
        try:
            tag, position = parse_message_id(name)
        except ValueError:
            return problem_reply(
                UNKNOWN_MESSAGE, "expected the Crowd-Message-Id of an answer, 25 characters"
            )
        standings = self._standings
        if tag != standings.tag:
            return problem_reply(UNKNOWN_MESSAGE, "another cluster's, by its first eight digits")
        if not 0 < position <= standings.tip:
            return problem_reply(UNKNOWN_MESSAGE, "none that this node knows of, or not yet")
        standing = standings.standing(position)
        if standing is None:
            return problem_reply(MESSAGE_GONE)
        if standing.route not in self._routes:
            return problem_reply(UNKNOWN_MESSAGE, "of no route of this node")
        return position, standing

    def _preflight(self, door: Door | None, fields: Fields) -> Reply:
        """Answer a browser that asks first: as the message's route would."""
        if door is not None and door.answers_browsers:
            asked = door.preflight(fields.kept)
            if not isinstance(asked, Refused):
                return make_reply(204, asked, b"")
            assert self._entrance is not None, "a door stands in an entrance"
            return self._entrance.refusal(asked)
        return make_reply(204, ((b"Allow", ", ".join(_METHODS).encode("ascii")),), b"")


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
