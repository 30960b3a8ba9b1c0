"""A request of crowd's channel, or one of Twisted's: read and answered by one hand.

Klein's handlers run under both servers. Ours has all at hand; Twisted's has lost headers' order and
case, and is answered in its own terms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crowd.web.fields import Fields, sort_fields
from crowd.web.reply import LENGTHLESS, Reply
from crowd.web.request import Request

if TYPE_CHECKING:
    from crowd.web.fields import Field


def answer(request: Any, reply: Reply, extra: tuple[Field, ...] = ()) -> bytes | None:
    """Send `reply` with `extra` header fields; returns what Klein is still to write.

    A channel's request takes the answer whole. One of Twisted's gets it in its own terms.
    """
    if type(request) is Request:
        request.reply(reply, extra)
        return None
    request.setResponseCode(reply.status)
    for name, value in (*reply.headers, *extra):
        request.responseHeaders.addRawHeader(name, value)
    if reply.status not in LENGTHLESS:
        request.setHeader(b"Content-Length", b"%d" % len(reply.body))
    return reply.body


def fields_of(request: Any) -> Fields:
    """Return the fields of one of Twisted's requests, which has lost their order and case."""
    return sort_fields(
        (name, value)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    )


def origin_of(request: Any) -> tuple[bytes, bytes, bytes]:
    """Return the client's address, the scheme, and the body of a request."""
    if type(request) is Request:
        connection = request.connection
        return connection.client, connection.scheme, request.body
    host = str(getattr(request.getClientAddress(), "host", ""))
    scheme = b"https" if request.isSecure() else b"http"
    body: bytes = request.content.read()
    return host.encode("ascii", "backslashreplace"), scheme, body


def transport_of(request: Any) -> Any:
    """Return what a request came over."""
    return (request.connection if type(request) is Request else request.channel).transport
