# ruff: noqa: N802 - Twisted's names
"""Answers that go out in pieces, as they come from elsewhere, with back-pressure.

Decides how an answer of unknown length is framed, when its source may go on, and when a
reader has had long enough. Leaves a connection's order of answers to ``channel``, and where
the pieces come from to whoever opened the stream.

A `Stream` answers a channel's request; a `SiteStream` one of Twisted's own server. The source
hears the same of both:

    ASKED -> READY -> LIVE -> LAST -> OVER   the head came, its turn came, the end came, all went out
    any -> OVER                              cut short, or the reader went away

Invariant: nothing of a body is asked of the source before LIVE, nor while what went out before
has not been taken: a connection holds what its transport's buffer takes, 64 KiB and one piece
more.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from crowd.web.reply import NO_CONTENT
from crowd.web.request import Request

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from crowd.reads.head import AnswerHead
    from crowd.web.fields import Field
    from crowd.web.reply import Reply

_INF: Final = float("inf")
_LAST_CHUNK: Final = b"0\r\n\r\n"
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_ALIVE: Final = b"Connection: keep-alive\r\n\r\n"
_CLOSE: Final = b"Connection: close\r\n\r\n"


class Source(Protocol):
    """Where the pieces of an answer come from, once its stream is LIVE."""

    def go(self) -> None:
        """Begin to write the body."""

    def pauseProducing(self) -> None:
        """Write nothing for now."""

    def resumeProducing(self) -> None:
        """Write again."""

    def over(self, *, whole: bool) -> None:
        """Take note that the stream ended; `whole`: everything went out. Once, and the last call."""


class Opened(Protocol):
    """An answer in pieces, from its source's side."""

    def begin(self, head: AnswerHead) -> None:
        """Send `head` when its turn has come; `Source.go` follows then."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""

    def end(self) -> None:
        """Take note that the body is whole; `Source.over` follows once it went out."""

    def cut(self) -> None:
        """End the connection in such a way that nobody takes what went out for the whole."""

    def reply(self, reply: Reply, extra: tuple[Field, ...] = ()) -> None:
        """Send a whole answer instead, before any `begin`."""


class Phase(enum.Enum):
    """How far a stream has come."""

    ASKED = enum.auto()
    READY = enum.auto()
    LIVE = enum.auto()
    LAST = enum.auto()
    OVER = enum.auto()


class Carrier(Protocol):
    """What a stream needs of its connection, beside `crowd.web.request.Connection`."""

    def last(self) -> None:
        """Take no more requests."""

    def ready(self, request: Request) -> None:
        """Call ``request.stream.turn()`` when all answers before it went out."""

    def pass_on(self, data: bytes) -> None:
        """Send bytes of the answer whose turn it is."""

    def ended(self, request: Request) -> None:
        """Go on with the next answer."""

    def release(self, request: Request) -> None:
        """Give back what the request held of the budget, and let go of its body."""

    def abort(self) -> None:
        """End the connection at once."""

    @property
    def is_unread(self) -> bool:
        """Whether the transport holds as much as it may."""

    def unread_until_s(self) -> float:
        """Return when a reader is to have taken what the transport holds from now on."""


class Stream:
    """The answer in pieces to one request of a channel."""

    def __init__(self, request: Request, source: Source) -> None:
        """Open the stream; the request's handler calls nothing else of the request from here on."""
        connection: Any = request.connection  # a channel, which is a Carrier
        self.phase = Phase.ASKED
        self.due_s = _INF  # when the reader is to have done something
        self._request = request
        self._carrier: Carrier = connection
        self._source = source
        self._chunked = False
        self._head = b""
        self._corked: list[bytes] | None = None
        request.answers_itself = True
        request.stream = self
        if request.old_version:
            # Its body may have to end with the connection, so that nothing may follow.
            request.keep_alive = False
            self._carrier.last()

    # --- The source's side (`Opened`) -----------------------------------------------------------

    def begin(self, head: AnswerHead) -> None:
        """Send `head` when its turn has come."""
        if self.phase is not Phase.ASKED:
            return
        request = self._request
        framed = head.bodiless or head.length is not None
        self._chunked = not (framed or request.old_version)
        lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.phrase)]
        lines += [b"%b: %b\r\n" % field for field in head.fields]
        if not head.dated:
            lines.append(request.connection.date)
        if self._chunked:
            lines.append(_CHUNKED)
        lines.append(_ALIVE if request.keep_alive else _CLOSE)
        self._head = b"".join(lines)
        self.phase = Phase.READY
        self._carrier.ready(request)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self.phase is Phase.LIVE:
            self._emit(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """Take note that the body is whole."""
        if self.phase is Phase.LIVE:
            self.phase = Phase.LAST
            if self._chunked:
                self._emit(_LAST_CHUNK)
            if self._corked is None:
                self._finish()

    def cut(self) -> None:
        """End the connection; the source hears nothing more."""
        if self.phase is not Phase.OVER:
            self._close(whole=False)
            self._carrier.abort()

    def reply(self, reply: Reply, extra: tuple[Field, ...] = ()) -> None:
        """Send a whole answer instead."""
        if self.phase is Phase.ASKED:
            self.phase = Phase.OVER
            request = self._request
            request.stream = None
            request.reply(reply, extra)
            self._source.over(whole=True)

    # --- The channel's side ---------------------------------------------------------------------

    def turn(self) -> None:
        """Send the head, and have the source write, if it is time for either.

        Not while answers before this one fill the transport: over TLS that says so once, and would
        take all that comes. When they are taken the channel calls again.
        """
        if self.phase is not Phase.READY:
            return
        if self._carrier.is_unread:
            self.due_s = min(self.due_s, self._carrier.unread_until_s())
            return
        self.phase = Phase.LIVE
        self.due_s = _INF
        self._carrier.release(self._request)
        # What is there already goes out with the head: most answers are one write.
        self._corked = [self._head]
        self._source.go()
        corked, self._corked = self._corked, None
        if self.phase is not Phase.OVER:
            self._carrier.pass_on(b"".join(corked))
            self._finish()

    def pause(self) -> None:
        """Have the source wait: the reader does not take what went out."""
        self.due_s = self._carrier.unread_until_s()
        if self.phase is Phase.LIVE:
            self._source.pauseProducing()

    def resume(self) -> None:
        """Have the source go on: the reader took everything."""
        self.due_s = _INF
        if self.phase is Phase.LIVE:
            self._source.resumeProducing()
        else:
            self._finish()

    def lost(self) -> None:
        """Take note that the reader is gone."""
        if self.phase is not Phase.OVER:
            if self.phase is Phase.ASKED or self.phase is Phase.READY:
                self._carrier.release(self._request)
            self._close(whole=False)

    def _emit(self, data: bytes) -> None:
        if self._corked is not None:
            self._corked.append(data)
        else:
            self._carrier.pass_on(data)

    def _finish(self) -> None:
        """End once all went out: what a slow reader has not taken counts as under way."""
        if self.phase is Phase.LAST and not self._carrier.is_unread:
            self._close(whole=True)
            self._carrier.ended(self._request)

    def _close(self, *, whole: bool) -> None:
        self.phase = Phase.OVER
        self._request.finished = True
        self._request.stream = None  # a cycle, with all that the source holds
        self._source.over(whole=whole)


@implementer(IPushProducer)
class SiteStream:
    """The same for a request of Twisted's own server; `done` is what Klein waits for."""

    def __init__(self, request: Any, source: Source) -> None:
        self.done: Deferred[bytes | None] = Deferred(lambda _: None)
        self._request = request
        self._source = source
        self._open = True
        request.notifyFinish().addErrback(self._lost)

    def begin(self, head: AnswerHead) -> None:
        """Send `head`; a server that sends whole answers in order begins at once."""
        request, fields = self._request, self._request.responseHeaders
        for name in (b"Server", *([b"Date"] if head.dated else [])):
            fields.removeHeader(name)
        request.defaultContentType = None  # what the upstream does not say is not said
        request.setResponseCode(head.status, head.phrase)
        for name, value in head.fields:
            fields.addRawHeader(name, value)
        request.registerProducer(self, True)
        request.write(b"")  # the head, even if no body follows
        self._source.go()

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._open:
            self._request.write(data)

    def end(self) -> None:
        """Have Klein finish."""
        if self._open:
            self._open = False
            self._request.unregisterProducer()
            self._source.over(whole=True)
            self.done.callback(None)

    def cut(self) -> None:
        """End the connection."""
        if self._open:
            self._open = False
            self._request.unregisterProducer()
            self._source.over(whole=False)
            self._request.channel.transport.abortConnection()

    def reply(self, reply: Reply, extra: tuple[Field, ...] = ()) -> None:
        """Have Klein write a whole answer."""
        if self._open:
            self._open = False
            request = self._request
            request.setResponseCode(reply.status)
            for name, value in (*reply.headers, *extra):
                request.setHeader(name, value)
            if reply.status != NO_CONTENT:
                request.setHeader(b"Content-Length", b"%d" % len(reply.body))
            self._source.over(whole=True)
            self.done.callback(reply.body)

    def pauseProducing(self) -> None:
        """Have the source wait."""
        if self._open:
            self._source.pauseProducing()

    def resumeProducing(self) -> None:
        """Have the source go on."""
        if self._open:
            self._source.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: `notifyFinish` tells."""

    def _lost(self, _: Failure) -> None:
        if self._open:
            self._open = False
            self._source.over(whole=False)


def open_stream(request: Any, source: Source) -> tuple[Opened, Deferred[bytes | None] | None]:
    """Return the answer in pieces to `request`, and what Klein waits for."""
    if type(request) is Request:
        return Stream(request, source), None
    stream = SiteStream(request, source)
    return stream, stream.done
