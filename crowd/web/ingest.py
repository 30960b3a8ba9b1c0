"""The door: a producer's request becomes a message, is offered, and is answered (I1, I9).

Decides what is stored of a request, and what the producer hears. Leaves to ``Acceptor`` what
"accepted" means, and to ``channel`` or Twisted's own HTTP server how requests come in: the
Klein app that this module builds runs under both.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any, Final, Protocol

from klein import Klein
from twisted.logger import Logger

from crowd.door.asked import Admitted, Refused
from crowd.errors import NoQuorumError
from crowd.idempotency import NO_KEY, Replayed, keyed
from crowd.message import Message, Position, RouteId, message_id, stored_form
from crowd.web.fields import accepts_gzip
from crowd.web.group import TooLargeError, first_id, group_reply, keys_of_events, stored_forms
from crowd.web.idempotency import digests_of, digests_of_event, read_key
from crowd.web.problems import (
    BAD_KEY,
    BAD_TARGET,
    BODY_TOO_LARGE,
    failure_value,
    is_expected,
    problem_reply,
    reply_to_error,
)
from crowd.web.reply import make_reply
from crowd.web.request import Request
from crowd.web.rules import rules_of
from crowd.web.target import is_deliverable
from crowd.web.twin import answer, fields_of, origin_of
from crowd.web.waiting import passed_back

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from crowd.definition import RouteDefinition
    from crowd.door.asked import Verdict
    from crowd.door.door import Door
    from crowd.door.proxies import Proxies
    from crowd.idempotency import Grouped
    from crowd.web.entrance import Entrance
    from crowd.web.fields import Field, Fields
    from crowd.web.messages import MessagePages
    from crowd.web.through import Through
    from crowd.web.waiting import Ending, Producer, Wait, Waiting

METHODS_NEVER_STORED: Final = frozenset(("GET", "HEAD", "OPTIONS", "CONNECT", "TRACE"))
"""They ask instead of telling, or are about the connection."""

_ID: Final = b"Crowd-Message-Id"
_NOTHING: Final[tuple[Field, ...]] = ()
_REPLAYED: Final = (b"Idempotent-Replayed", b"true")
_BODY: Final = b'{"status": "OK"}'
_COMMON: Final = (
    (b"Content-Type", b"application/json;charset=UTF-8"),
    (b"Vary", b"Accept-Encoding"),
)
ACCEPTED: Final = make_reply(200, _COMMON, _BODY)
# The body never changes: it is compressed once, with a time of 0 so that every node's is equal.
ACCEPTED_GZIP: Final = make_reply(
    200, (*_COMMON, (b"Content-Encoding", b"gzip")), gzip.compress(_BODY, 9, mtime=0)
)


class Acceptor(Protocol):
    """Who makes messages durable. All calls in the reactor's thread."""

    @property
    def tag(self) -> str:
        """The cluster's tag, part of every message's id."""

    def route_id(self, path: str) -> RouteId | None:
        """Return a route's id, or None while the ledger does not have it."""

    def accept(
        self, route: RouteId, stored: bytes, digests: bytes
    ) -> Deferred[Position | Replayed]:
        """Offer a message's stored form, and `digests_of` its key or `NO_KEY`.

        Fires with its position once it is durable on a majority (I1), or with the first one's
        if its key is known; fails with KeyReusedError if that is of another request, with a
        RefusedError if it is certainly not stored, and with OutcomeUnknownError if it may be.
        """

    def accept_group(
        self, route: RouteId, stored: Sequence[bytes], keys: bytes
    ) -> Deferred[Grouped]:
        """Offer the messages of one request; `keys` are packed as in `crowd.idempotency`.

        Fires with what became of them, once all of them are durable; fails as `accept` does.
        """


class Ingest:
    """Builds the Klein `app` of the routes; each handler offers messages to `acceptor`.

    Requests of the routes that have a door in `entrance` must pass it first. What `proxies`, if
    there are any, say of a producer's address is believed.
    """

    log = Logger()

    def __init__(
        self,
        acceptor: Acceptor,
        routes: Sequence[RouteDefinition],
        wall_us: Callable[[], int],
        through: Through | None = None,
        entrance: Entrance | None = None,
        proxies: Proxies | None = None,
        waiting: Waiting | None = None,
        pages: MessagePages | None = None,
    ) -> None:
        """Take `through` for reads; without it they are refused. ValueError for a bad upstream.

        Without `waiting` no producer waits for a consumer; `pages` say what became of a message.
        """
        self.app = Klein()
        self._proxies = proxies
        self._acceptor = acceptor
        self._entrance = entrance
        self._wall_us = wall_us
        self._waiting = waiting
        # Werkzeug would answer 308 at slashes, or see one path in two (`//`).
        self.app.url_map.strict_slashes = False
        self.app.url_map.redirect_defaults = False
        self.app.url_map.merge_slashes = False
        self.app.handle_errors(Exception)(self._failed)
        if entrance is not None:
            entrance.stand_at(self.app.url_map)
        if pages is not None:
            pages.stand_in(self.app)
        for route in routes:
            door = None if entrance is None else entrance.door(route.path)
            stored = [m for m in route.methods if m not in METHODS_NEVER_STORED]
            if stored:
                self._add(route.path, stored, route.path, self._taker(route.path, door))
            asked = door is not None and door.answers_browsers
            if asked:
                self._add(route.path, ["OPTIONS"], f"{route.path} asked", self._preflight)
            if through is not None and route.reads == "proxy":
                reads = [m for m in through.methods if not (asked and m == "OPTIONS")]
                handler = through.handler(route, proxies)
                self._add(route.path, reads, f"{route.path} reads", handler)

    def _taker(self, path: str, door: Door | None) -> Callable[..., Any]:
        def take(request: Any, **_: object) -> Any:
            return self._take(path, door, request)

        return take

    def _add(
        self, path: str, methods: Sequence[str], endpoint: str, take: Callable[..., Any]
    ) -> None:
        for rule, name in rules_of(path, endpoint):
            self.app.route(rule, methods=methods, endpoint=name, strict_slashes=False)(take)

    def _preflight(self, request: Any, **_: object) -> Any:
        """Answer a browser that asks before it posts. The log is not touched."""
        assert self._entrance is not None, "a door stands in an entrance"
        fields = request.fields if type(request) is Request else fields_of(request)
        return answer(request, self._entrance.preflight(request.uri, fields.kept))

    def _take(self, path: str, door: Door | None, request: Any) -> Any:
        """Offer a request's message. Returns what Klein waits for."""
        acceptor = self._acceptor
        route = acceptor.route_id(path)
        if route is None:
            raise NoQuorumError("this route is not in the ledger yet")
        ours = type(request) is Request
        fields = request.fields if ours else fields_of(request)
        if not is_deliverable(request.uri):
            shown = _NOTHING if door is None else door.shown(fields.kept)
            return answer(request, problem_reply(BAD_TARGET, "expected a path, without '#'"), shown)
        if ours:
            connection = request.connection
            client, scheme, body = connection.client, connection.scheme, request.body
            request.body = b""  # what is stored has it: a message that waits is held once
            request.answers_itself = True
        else:
            client, scheme, body = origin_of(request)
        if self._proxies is not None:
            client = self._proxies.client(client, fields.kept)
        passed = self._passed(door, request, fields, body, client)
        if isinstance(passed, Refused):
            assert door is not None, "nothing else refuses"
            assert self._entrance is not None, "a door stands in an entrance"
            return answer(request, self._entrance.refusal(passed), door.shown(fields.kept))
        kept, extra = passed.headers, passed.answer
        try:
            key = read_key(fields.idempotency) if fields.idempotency else b""
        except ValueError as error:
            return answer(request, problem_reply(BAD_KEY, str(error)), extra)
        if passed.elements is not None:
            message = Message(
                request.method, request.uri, tuple(kept), body, self._wall_us(), client, scheme
            )
            return self._take_group(path, route, request, message, passed, key, fields.encodings)
        wait = None
        if fields.prefers and self._waiting is not None:
            wait, kept = self._waiting.begin(path, route, kept)
        method, target = request.method, request.uri
        digests = NO_KEY
        if key or passed.events:
            digests = _digests(passed, path, key, method, target, body)
        stored = stored_form(
            method, target, fields.packed(kept), body, self._wall_us(), client, scheme
        )
        accepted = acceptor.accept(route, stored, digests)
        if wait is not None:
            browsers = door is not None and door.answers_browsers
            assert self._waiting is not None, "it has begun"
            producer = self._waiting.producer(request)
            told = (request, fields.encodings, extra, wait, browsers, producer)
            return accepted.addCallbacks(self._wait, self._refused, told, {}, (request, extra))
        return accepted.addCallbacks(
            self._accepted, self._refused, (request, fields.encodings, extra), {}, (request, extra)
        )

    def _passed(
        self, door: Door | None, request: Any, fields: Fields, body: bytes, client: bytes
    ) -> Verdict:
        """Return the verdict of a route's door, if it has one."""
        if door is None:
            return Admitted("", fields.kept)
        known = door.admit_known(fields.kept, fields.found)
        if known is not None:
            return known
        assert self._entrance is not None, "a door stands in an entrance"
        connection = request.connection if type(request) is Request else request.channel
        return door.admit(
            self._entrance.asked(request.method, fields, body, client, connection.transport)
        )

    def _take_group(
        self, path: str, route: RouteId, request: Any, message: Message, passed: Admitted,
        key: bytes, encodings: bytes,
    ) -> Any:  # fmt: skip
        """Offer the messages that a request is; `message` is as if it were one."""
        elements, extra = passed.elements, passed.answer
        assert elements is not None, "it is many"
        try:
            stored = stored_forms(message, elements)
        except TooLargeError as error:
            return answer(request, problem_reply(BODY_TOO_LARGE, str(error)), extra)
        keys = keys_of_events(path, passed.credential, passed.events)
        if key:
            digests = digests_of(
                path, passed.credential, key, message.method, message.target, message.body,
                len(stored),
            )  # fmt: skip
            keys = keyed(0, digests, len(stored))
        accepted = self._acceptor.accept_group(route, stored, keys)
        return accepted.addCallbacks(
            self._group_accepted, self._refused, (request, encodings, extra), {}, (request, extra)
        )

    def _group_accepted(
        self, grouped: Grouped, request: Any, encodings: bytes, extra: tuple[Field, ...]
    ) -> bytes | None:
        tag = self._acceptor.tag
        own: tuple[Field, ...] = ((_ID, first_id(tag, grouped)), *extra)
        if sum(count for _, count, _ in grouped.replayed) == grouped.count:
            own = (_REPLAYED, *own)
        return answer(request, group_reply(tag, grouped, encodings), own)

    def _accepted(
        self,
        position: Position | Replayed,
        request: Any,
        encodings: bytes,
        extra: tuple[Field, ...],
    ) -> bytes | None:
        reply = ACCEPTED_GZIP if encodings and accepts_gzip(encodings) else ACCEPTED
        if isinstance(position, Replayed):
            name = message_id(self._acceptor.tag, position.position).encode("ascii")
            return answer(request, reply, ((_ID, name), _REPLAYED, *extra))
        name = message_id(self._acceptor.tag, position).encode("ascii")
        return answer(request, reply, ((_ID, name), *extra))

    def _wait(
        self, position: Position | Replayed, request: Any, encodings: bytes,
        extra: tuple[Field, ...], wait: Wait, browsers: bool,  # noqa: FBT001  as Deferreds pass it
        producer: Producer,
    ) -> Any:  # fmt: skip
        """Have the producer of a message that was accepted wait. Returns what Klein waits for."""
        waiting = self._waiting
        assert waiting is not None, "it has begun"
        where = position.position if isinstance(position, Replayed) else position

        def tell(ending: Ending | None) -> bytes | None:
            name = message_id(self._acceptor.tag, where).encode("ascii")
            own: tuple[Field, ...] = ((_ID, name), *extra)
            if isinstance(position, Replayed):
                own = (_REPLAYED, *own)
            if ending is not None and ending.status:
                return answer(request, passed_back(ending, wait, for_browsers=browsers), own)
            reply = ACCEPTED_GZIP if encodings and accepts_gzip(encodings) else ACCEPTED
            return answer(request, reply, (*waiting.usual(ending, wait, name), *own))

        ended = waiting.wait(wait, where, request, producer)
        return tell(None) if ended is None else ended.addCallback(tell)

    def _refused(self, failure: Failure, request: Any, extra: tuple[Field, ...]) -> bytes | None:
        error = failure_value(failure)
        if not is_expected(error):
            self.log.failure("a message was neither accepted nor refused", failure=failure)
        return answer(request, reply_to_error(error), extra)

    def _failed(self, request: Any, failure: Failure) -> bytes | None:
        """Answer an error under Twisted's own HTTP server; `router` does it for the channel."""
        error = failure_value(failure)
        if not is_expected(error):
            self.log.failure("a handler failed", failure=failure)
        extra = _NOTHING
        if self._entrance:
            extra = self._entrance.shown(request.method, request.uri, fields_of(request).kept)
        return answer(request, reply_to_error(error), extra)


def _digests(
    passed: Admitted, path: str, key: bytes, method: bytes, target: bytes, body: bytes
) -> bytes:
    """Return the digests of a message that has a key, or else is an event."""
    if not key:
        return digests_of_event(path, passed.credential, *passed.events[0])
    return digests_of(path, passed.credential, key, method, target, body)
