# ruff: noqa: N802 - the methods and attributes that Twisted's requests have
"""A request as a Klein handler sees it: Twisted's names, made only when they are asked for.

Decides what an answer's bytes are. Leaves to ``channel`` their order among pipelined answers
and the socket. The hot path creates this one object for a request and touches its slots;
what only other handlers use (`requestHeaders`, `content`, `notifyFinish`, ...) is built at
first use, so that it costs nothing where nothing asks for it.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs, unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers

from crowd.web.reply import Reply, make_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IAddress
    from twisted.python.failure import Failure

    from crowd.web.fields import Field, Fields
    from crowd.web.stream import Stream

_ALIVE = b"Connection: keep-alive\r\n\r\n"
_CLOSE = b"Connection: close\r\n\r\n"


class Connection(Protocol):
    """What a request needs of the connection on which it came."""

    client: bytes
    scheme: bytes
    transport: Any

    @property
    def date(self) -> bytes:
        """The line of the ``Date`` field, now."""

    def answered(self, request: Request, wire: bytes) -> None:
        """Send `wire`, the whole answer, in its turn."""

    def release(self, request: Request) -> None:
        """Give back what `request` holds of the budget, and let go of its body."""

    def peer(self) -> IAddress:
        """Return the producer's address."""

    def host(self) -> IAddress:
        """Return the address on which it arrived."""


class Request:
    """One request, and its answer.

    Read: `method`, `uri` (the request-target as it came), `path` (without the query),
    `raw_headers` (in their order and case), `fields` (the same, sorted), `body`.
    `held` is what the in-flight budget holds for it. Whoever sets `answers_itself` promises
    to call `reply` later; the channel then waits for nothing else. `stream`: it is answered in
    pieces. `old_version`: it came as HTTP/1.0. `half_closed` is called, if it was set, when the producer
    sends no more.
    """

    __slots__ = (
        "_args", "_code", "_content", "_finish", "_parts", "_request_headers", "_response_headers",
        "answers_itself", "body", "connection", "fields", "finished", "half_closed", "held",
        "keep_alive", "method", "notified", "old_version", "path", "postpath", "prepath",
        "raw_headers", "stream", "uri", "wire",
    )  # fmt: skip

    old_version: bool
    half_closed: Callable[[], None] | None

    # Everything that is not set here is set when it is first needed: `_lazy` makes it.
    def __init__(
        self,
        connection: Connection,
        method: bytes,
        uri: bytes,
        raw_headers: list[Field],
        fields: Fields,
        body: bytes,
        held: int,
        keep_alive: bool,  # noqa: FBT001 - the one caller is the hot path; keywords cost there
    ) -> None:
        self.connection = connection
        self.method = method
        self.uri = uri
        query = uri.find(b"?")
        self.path = uri if query < 0 else uri[:query]
        self.raw_headers = raw_headers
        self.fields = fields
        self.body = body
        self.held = held
        self.keep_alive = keep_alive
        self.finished = False
        self.answers_itself = False
        self.notified = False
        self.wire: bytes | None = None
        self.stream: Stream | None = None

    def reply(self, reply: Reply, extra: Sequence[Field] = ()) -> None:
        """Send a whole answer, with `extra` header fields. Once for each request."""
        assert not self.finished, "a request is answered once"
        self.finished = True
        connection = self.connection
        lines = b"".join([b"%s: %s\r\n" % field for field in extra]) if extra else b""
        body = reply.body if self.method != b"HEAD" else b""
        tail = _ALIVE if self.keep_alive else _CLOSE
        connection.answered(
            self, b"".join((reply.head, lines, connection.date, tail, body))
        )  # fmt: skip

    # --- What Twisted's requests have, for handlers that are not on the hot path --------------

    def __getattr__(self, name: str) -> Any:
        # Reached only for a slot that was not set yet.
        if name not in _LAZY:
            raise AttributeError(f"a request has no attribute {name!r}")
        value = _LAZY[name](self)
        setattr(self, name, value)
        return value

    @property
    def requestHeaders(self) -> Headers:
        """The header fields as Twisted's `Headers`."""
        headers: Headers = self._request_headers
        return headers

    @property
    def responseHeaders(self) -> Headers:
        """The answer's header fields."""
        headers: Headers = self._response_headers
        return headers

    @property
    def content(self) -> BytesIO:
        """The body as a file."""
        content: BytesIO = self._content
        return content

    @property
    def args(self) -> dict[bytes, list[bytes]]:
        """The query's parameters."""
        args: dict[bytes, list[bytes]] = self._args
        return args

    def getHeader(self, key: bytes | str) -> bytes | str | None:
        """Return the last value of a header field."""
        values = self.requestHeaders.getRawHeaders(key)
        return values[-1] if values else None

    def getAllHeaders(self) -> dict[bytes, bytes]:
        """Return the last value of each header field, names in lower case."""
        return {name.lower(): value for name, value in self.raw_headers}

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the answer's status; the reason phrase is always the registered one."""
        del message
        self._code = code

    def setHeader(self, name: bytes | str, value: bytes | str) -> None:
        """Set a header field of the answer, in place of all of that name."""
        self.responseHeaders.setRawHeaders(_octets(name), [_octets(value)])

    def write(self, data: bytes) -> None:
        """Add to the answer's body. It goes out whole, when `finish` is called."""
        self._parts.append(data)

    def finish(self) -> None:
        """Send what was written."""
        headers = tuple(
            (name, value)
            for name, values in self.responseHeaders.getAllRawHeaders()
            for value in values
            if name.lower() not in (b"content-length", b"connection", b"date")
        )
        self.reply(make_reply(self._code, headers, b"".join(self._parts)))

    def notifyFinish(self) -> Deferred[None]:
        """Return a Deferred that fires when the answer was sent, or fails if it cannot be."""
        waiting: Deferred[None] = Deferred()
        self.notified = True
        self._finish.append(waiting)
        return waiting

    def settle(self, reason: Failure | None) -> None:
        """Tell those who asked with `notifyFinish`. Called by the channel, once."""
        for each in self._finish:
            if reason is None:
                each.callback(None)
            else:
                each.errback(reason)

    def getClientAddress(self) -> IAddress:
        """Return the producer's address."""
        return self.connection.peer()

    def getHost(self) -> IAddress:
        """Return the address on which the request arrived."""
        return self.connection.host()

    def getRequestHostname(self) -> bytes:
        """Return the name in the Host field, without a port."""
        value = self.requestHeaders.getRawHeaders(b"host", [b""])[0]
        return value.partition(b"]")[0] + b"]" if value[:1] == b"[" else value.partition(b":")[0]

    def isSecure(self) -> bool:
        """Tell whether it came over TLS."""
        return self.connection.scheme == b"https"


def _octets(text: bytes | str) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text


def _request_headers(request: Request) -> Headers:
    headers = Headers()
    for name, value in request.raw_headers:
        headers.addRawHeader(name, value)
    return headers


def _args(request: Request) -> dict[bytes, list[bytes]]:
    return parse_qs(request.uri.partition(b"?")[2], keep_blank_values=True)


def _postpath(request: Request) -> list[bytes]:
    return [unquote_to_bytes(part) for part in request.path[1:].split(b"/")]


_LAZY: dict[str, Callable[[Request], Any]] = {
    "_args": _args,
    "_code": lambda _: 200,
    "_content": lambda request: BytesIO(request.body),
    "_finish": lambda _: [],
    "_parts": lambda _: [],
    "_request_headers": _request_headers,
    "_response_headers": lambda _: Headers(),
    "half_closed": lambda _: None,
    "old_version": lambda _: False,
    "postpath": _postpath,
    "prepath": lambda _: [],
}
