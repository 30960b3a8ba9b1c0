# ruff: noqa: N802 - Twisted's names
"""Reads that go straight through: asked of a route's upstream, and answered piece by piece.

Decides which reads are asked at all, and what a reader hears when the upstream fails. They
touch neither the log nor the engine: any node passes them on, with or without a quorum. Leaves
the heads to ``crowd/reads``, and the way out to ``stream``.

Like ingest's, the handlers run under crowd's channel and under Twisted's own HTTP server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger
from twisted.web.client import ResponseDone

from crowd.message import Message
from crowd.reads.failure import ReadFailedError, ReadFailure
from crowd.reads.head import came_through, one_hop_less
from crowd.web import problems
from crowd.web.problems import problem_reply
from crowd.web.reply import NO_CONTENT, make_reply
from crowd.web.request import Request
from crowd.web.stream import open_stream
from crowd.web.target import is_deliverable
from crowd.web.twin import fields_of, origin_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from crowd.definition import RouteDefinition
    from crowd.door.proxies import Proxies
    from crowd.reads.upstream import Upstream, Upstreams
    from crowd.web.reply import Reply
    from crowd.web.stream import Opened

HOPS_MAX: Final = 32
"""Nodes that a read may have come through: no real chain is as long, and the list is bounded."""

_PROBLEMS: Final = {
    ReadFailure.UNREACHABLE: problems.UPSTREAM_UNREACHABLE,
    ReadFailure.SLOW: problems.UPSTREAM_TOO_SLOW,
    ReadFailure.BROKEN: problems.UPSTREAM_BROKEN,
    ReadFailure.MALFORMED: problems.UPSTREAM_MALFORMED,
    ReadFailure.LARGE: problems.UPSTREAM_HEAD_TOO_LARGE,
    ReadFailure.BUSY: problems.TOO_MANY_READS,
    ReadFailure.LOOP: problems.LOOP,
    ReadFailure.STOPPED: problems.DRAINING,
}
"""What a reader hears; not why exactly, as that would tell of the network behind."""


class Through:
    """Makes the handlers of routes whose reads are passed on. In the reactor's thread."""

    methods: Final = ("GET", "HEAD", "OPTIONS")

    def __init__(self, upstreams: Upstreams, node: bytes) -> None:
        """Pass reads on as `node`, a name that is this process's alone."""
        self._upstreams = upstreams
        self._node = node

    def handler(self, route: RouteDefinition, proxies: Proxies | None = None) -> Callable[..., Any]:
        """Return the Klein handler of a route's reads; ValueError if its upstream is none.

        What `proxies` say of a reader's address is believed, as it is of a producer's.
        """
        upstream = self._upstreams.of(route)
        allowed = ", ".join(sorted({*route.methods, *self.methods})).encode("ascii")
        ours = make_reply(NO_CONTENT, ((b"Allow", allowed),), b"")

        def read(request: Any, **_: object) -> Any:
            return self._read(upstream, proxies, ours, request)

        return read

    def _read(self, upstream: Upstream, proxies: Proxies | None, ours: Reply, request: Any) -> Any:
        """Pass a read on; `ours` answers OPTIONS that end here. Returns what Klein waits for."""
        if type(request) is Request:
            connection, fields = request.connection, request.fields
            client, scheme, body = connection.client, connection.scheme, request.body
            came = came_through(request.raw_headers)
        else:
            fields = fields_of(request)
            client, scheme, body = origin_of(request)
            came = came_through(
                (b"Crowd-Through", value)
                for value in request.requestHeaders.getRawHeaders(b"Crowd-Through", [])
            )
        if proxies is not None:
            client = proxies.client(client, fields.kept)
        kept = one_hop_less(fields.kept) if request.method == b"OPTIONS" else tuple(fields.kept)
        passage = Passage(upstream)
        stream, done = open_stream(request, passage)
        if not is_deliverable(request.uri):
            detail = "expected a path, without '#'"
            passage.refuse(stream, problem_reply(problems.BAD_TARGET, detail))
        elif kept is None:
            passage.refuse(stream, ours)
        elif self._node in came or len(came) >= HOPS_MAX:
            passage.fail(stream, ReadFailedError(ReadFailure.LOOP, "it was here before"))
        elif upstream.full:
            passage.fail(stream, ReadFailedError(ReadFailure.BUSY, "too many are under way"))
        else:
            read = Message(request.method, request.uri, kept, body, 0, client, scheme)
            passage.begin(stream, upstream.ask(read, (*came, self._node)))
        return done


class Passage:
    """One read on its way: a `stream.Source`, and who takes the upstream's body."""

    _log = Logger()

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._begun_s: float | None = None
        self._stream: Opened | None = None
        self._asked: Deferred[Any] | None = None
        self._response: Any = None
        self._told = False  # that it failed, and why

    def begin(self, stream: Opened, asked: Deferred[Any]) -> None:
        """Wait for the answer to what was asked."""
        self._begun_s = self._upstream.begin()
        self._stream = stream
        self._asked = asked
        asked.addCallback(self._answered)
        asked.addErrback(self._failed)

    def refuse(self, stream: Opened, reply: Reply) -> None:
        """Answer without asking."""
        self._upstream.tally.answered(reply.status)
        stream.reply(reply)

    def fail(self, stream: Opened, error: ReadFailedError) -> None:
        """Answer that the read failed."""
        self._told = True
        self._upstream.tell(error)
        kind = _PROBLEMS[error.kind]
        self.refuse(stream, problem_reply(kind, retry_after_s=1 if kind.status == 503 else None))

    # --- The upstream's answer ------------------------------------------------------------------

    def _answered(self, response: Any) -> None:
        self._asked = None
        self._response = response
        self._upstream.tally.answered(response.code)
        stream = self._stream
        assert stream is not None, "an answer comes once"
        stream.begin(response.original.head)

    def _failed(self, failure: Failure) -> None:
        self._asked = None
        stream, error = self._stream, failure.value
        if stream is None:  # whoever asked is gone, and this is the cancelling
            return
        if isinstance(error, ReadFailedError):
            self.fail(stream, error)
            return
        self._log.failure("a read failed in an unforeseen way", failure)
        if self._response is None:
            self.refuse(stream, problem_reply(problems.INTERNAL))
        else:
            stream.cut()

    def makeConnection(self, transport: Any) -> None:
        """Do nothing: the answer is known."""

    def dataReceived(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        if self._stream is not None:
            self._upstream.tally.body_bytes += len(data)
            self._stream.write(data)

    def connectionLost(self, reason: Failure) -> None:
        """Pass the body's end on: as an end only if it was whole."""
        stream = self._stream
        if stream is None:
            return
        if isinstance(reason.value, ResponseDone):
            stream.end()
            return
        if isinstance(reason.value, ReadFailedError):
            self._told = True
            self._upstream.tell(reason.value)
        stream.cut()

    # --- The stream's calls (`stream.Source`) ---------------------------------------------------

    def go(self) -> None:
        """Take the body."""
        self._response.deliverBody(self)

    def pauseProducing(self) -> None:
        """Do not read the upstream's connection."""
        self._response.original.pauseProducing()

    def resumeProducing(self) -> None:
        """Read it again."""
        self._response.original.resumeProducing()

    def over(self, *, whole: bool) -> None:
        """Give the place back; end what is still under way."""
        asked, self._asked = self._asked, None
        self._stream = None
        if self._begun_s is not None:
            self._upstream.finish(self._begun_s)
        if whole:
            return
        if not self._told:
            self._upstream.tally.failed(ReadFailure.GONE)
        if asked is not None:
            asked.cancel()
        elif self._response is not None:
            self._response.original.stopProducing()
