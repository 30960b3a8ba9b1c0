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

from crowd.errors import NoQuorumError
from crowd.idempotency import NO_KEY, Replayed
from crowd.message import Message, Position, RouteId, encode_message, message_id
from crowd.web.fields import Fields, accepts_gzip, sort_fields
from crowd.web.idempotency import digests_of, read_key
from crowd.web.problems import (
    BAD_KEY,
    BAD_TARGET,
    failure_value,
    is_expected,
    problem_reply,
    reply_to_error,
)
from crowd.web.reply import Reply, make_reply
from crowd.web.request import Request
from crowd.web.target import is_deliverable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from crowd.command import RouteDefinition
    from crowd.web.fields import Field

METHODS_NEVER_STORED: Final = frozenset(("GET", "HEAD", "OPTIONS", "CONNECT", "TRACE"))
"""They ask instead of telling, or are about the connection."""

_ID: Final = b"Crowd-Message-Id"
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


class Ingest:
    """Builds the Klein `app` of the routes; each handler offers messages to `acceptor`."""

    log = Logger()

    def __init__(
        self, acceptor: Acceptor, routes: Sequence[RouteDefinition], wall_us: Callable[[], int]
    ) -> None:
        self.app = Klein()
        self._acceptor = acceptor
        self._wall_us = wall_us
        # Werkzeug would answer 308 at slashes, or see one path in two (`//`).
        self.app.url_map.strict_slashes = False
        self.app.url_map.redirect_defaults = False
        self.app.url_map.merge_slashes = False
        self.app.handle_errors(Exception)(self._failed)
        for route in routes:
            self._add(route.path, [m for m in route.methods if m not in METHODS_NEVER_STORED])

    def _add(self, path: str, methods: list[str]) -> None:
        def take(request: Any, **_: object) -> Any:
            return self._take(path, request)

        self.app.route(path, methods=methods, endpoint=path, strict_slashes=False)(take)
        front, converter, _ = path.rpartition("<path:")
        if converter and front.endswith("/") and path.endswith(">"):
            # "all below" includes the top itself, which Werkzeug's converter leaves out.
            self.app.route(front, methods=methods, endpoint=f"{path} itself")(take)

    def _take(self, path: str, request: Any, credential: str = "") -> Any:
        """Offer a request's message. Returns what Klein waits for.

        `credential` is the name of what the producer proved itself with; empty on an open route.
        """
        acceptor = self._acceptor
        route = acceptor.route_id(path)
        if route is None:
            raise NoQuorumError("this route is not in the ledger yet")
        ours = type(request) is Request
        fields = request.fields if ours else _fields_of(request)
        if not is_deliverable(request.uri):
            return answer(request, problem_reply(BAD_TARGET, "expected a path without '#'"))
        if ours:
            connection = request.connection
            client, scheme, body = connection.client, connection.scheme, request.body
            request.answers_itself = True
        else:
            client, scheme, body = _origin_of(request)
        message = Message(
            request.method, request.uri, tuple(fields.kept), body, self._wall_us(), client, scheme
        )  # fmt: skip
        digests = NO_KEY
        if fields.idempotency:
            try:
                key = read_key(fields.idempotency)
            except ValueError as error:
                return answer(request, problem_reply(BAD_KEY, str(error)))
            digests = digests_of(path, credential, key, request.method, request.uri, body)
        accepted = acceptor.accept(route, encode_message(message), digests)
        return accepted.addCallbacks(
            self._accepted, self._refused, (request, fields.encodings), {}, (request,)
        )

    def _accepted(
        self, position: Position | Replayed, request: Any, encodings: bytes
    ) -> bytes | None:
        reply = ACCEPTED_GZIP if encodings and accepts_gzip(encodings) else ACCEPTED
        if isinstance(position, Replayed):
            name = message_id(self._acceptor.tag, position.position).encode("ascii")
            return answer(request, reply, ((_ID, name), _REPLAYED))
        name = message_id(self._acceptor.tag, position).encode("ascii")
        return answer(request, reply, ((_ID, name),))

    def _refused(self, failure: Failure, request: Any) -> bytes | None:
        error = failure_value(failure)
        if not is_expected(error):
            self.log.failure("a message was neither accepted nor refused", failure=failure)
        return answer(request, reply_to_error(error))

    def _failed(self, request: Any, failure: Failure) -> bytes | None:
        """Answer an error under Twisted's own HTTP server; `router` does it for the channel."""
        error = failure_value(failure)
        if not is_expected(error):
            self.log.failure("a handler failed", failure=failure)
        return answer(request, reply_to_error(error))


def answer(request: Any, reply: Reply, extra: tuple[Field, ...] = ()) -> bytes | None:
    """Send `reply` with `extra` header fields; returns what Klein is still to write.

    A channel's request takes the answer whole. One of Twisted's gets it in its own terms.
    """
    if type(request) is Request:
        request.reply(reply, extra)
        return None
    request.setResponseCode(reply.status)
    for name, value in (*reply.headers, *extra):
        request.setHeader(name, value)
    request.setHeader(b"Content-Length", b"%d" % len(reply.body))
    return reply.body


def _fields_of(request: Any) -> Fields:
    """Return the fields of one of Twisted's requests, which has lost their order and case."""
    return sort_fields(
        (name, value)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    )


def _origin_of(request: Any) -> tuple[bytes, bytes, bytes]:
    """Return the client's address, the scheme, and the body of one of Twisted's requests."""
    host = str(getattr(request.getClientAddress(), "host", ""))
    scheme = b"https" if request.isSecure() else b"http"
    body: bytes = request.content.read()
    return host.encode("ascii", "backslashreplace"), scheme, body
