"""An HTTP agent for one consumer, which sends a request's stored bytes as they are (I9).

Decides which connection carries an exchange, and when connecting, an exchange or an idle
connection has taken too long. It is the IAgent under treq: what the layers above it would
add, recase or regroup it does not look at, as the request's head comes with its body, in a
`PreparedRequest` (docs/decisions/0007-treq-over-own-agent.md). It follows no redirect and
keeps no cookie, because nothing here would.

It has no queue and no bound of its own: as many connections are open as exchanges were ever
under way together, and the lane bounds those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from crowd.delivery.connection import ConsumerConnection, Exchange
from crowd.delivery.endpoint import CONNECT_S
from crowd.delivery.outcome import FailureKind
from crowd.errors import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.clock import Clock, Timer
    from crowd.delivery.connection import Heard
    from crowd.delivery.ports import ClientEndpoint

IDLE_S: Final = 4.0
"""Shorter than the shortest idle timeout in wide use (5 s, Node.js and Apache httpd), so that
seldom a request meets a connection that is being closed."""

SWEEP_S: Final = 0.5
"""How late a deadline of seconds may be noticed; short ones are looked at ten times as often.
One timer for all connections costs nothing for each request."""

SWEEP_MIN_S: Final = 0.02

AT_ONCE_MAX: Final = 8
"""While so few exchanges are under way a request is written at once: in the reactor's next turn it
would go a millisecond later on a busy leader. With more, those of a turn go together: the consumer
that is woken once for all of them is quicker than one that is woken for each."""


class _OneConnection(Factory):
    """Hands the endpoint a connection that was made for one exchange."""

    noisy = False  # a line in the log for each connection tells nothing

    def __init__(self, connection: ConsumerConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: Any) -> ConsumerConnection:  # noqa: ARG002, N802  Twisted's names
        """Return the connection."""
        return self._connection


@implementer(IBodyProducer)
class PreparedRequest:
    """A request as it goes over the wire: its head, with the empty line, and its body.

    `body_max` is how many bytes of the answer's body are kept, as `Exchange` has it, and `awaited`.
    """

    def __init__(
        self, head: bytes, body: bytes, body_max: int = 0, *, awaited: bool = False
    ) -> None:
        self.awaited = awaited
        self.head = head
        self.body = body
        self.body_max = body_max
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Write the body at once: it is in memory."""
        consumer.write(self.body)
        return succeed(None)

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: there is nothing left to produce."""

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: there is nothing left to produce."""

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: there is nothing left to produce."""


class _NoHeaders(Headers):
    """Headers without a header, to which nothing can be added.

    treq and the agents that it puts in between copy the headers of a request, look for
    cookies in them, and add to them; and then to those of the answer. The request's own head
    has everything, and of most answers nothing is kept, so this one does for all of them.
    """

    def copy(self) -> _NoHeaders:
        """Return itself: it never changes."""
        return self

    def hasHeader(self, name: str | bytes) -> bool:  # noqa: ARG002, N802  Twisted's name
        """Say that it is there, so that nobody looks for a cookie to add."""
        return True

    def getRawHeaders(self, name: Any, default: Any = None) -> Any:  # noqa: ARG002, N802
        """Return `default`."""
        return default

    def setRawHeaders(self, name: Any, values: Any) -> None:  # noqa: N802  Twisted's name
        """Do nothing."""

    def addRawHeader(self, name: Any, value: Any) -> None:  # noqa: N802  Twisted's name
        """Do nothing."""

    def removeHeader(self, name: Any) -> None:  # noqa: N802  Twisted's name
        """Do nothing."""


NO_HEADERS: Final = _NoHeaders()


@implementer(IResponse)
class ConsumerAnswer:
    """A consumer's answer: its status, and of its headers and its body what is kept.

    It has headers only if one of them is Retry-After. `fields` are all, if it is awaited. `whole`:
    all of its body is kept.
    """

    version = (b"HTTP", 1, 1)
    phrase = b""
    request = None
    previousResponse = None  # noqa: N815  Twisted's name

    def __init__(self, heard: Heard) -> None:
        self.code = heard.status
        self.body = heard.body
        self.fields = heard.fields
        self.whole = heard.whole
        self.length = len(heard.body)
        self.headers: Headers = NO_HEADERS
        if any(name == b"retry-after" for name, _ in heard.headers):
            self.headers = Headers()
            for name, value in heard.headers:
                self.headers.addRawHeader(name, value)

    def deliverBody(self, protocol: Any) -> None:  # noqa: N802  Twisted's name
        """Deliver what is kept of the body, at once."""
        if self.body:
            protocol.dataReceived(self.body)
        done: Any = ResponseDone()
        failure = Failure(done)  # type: ignore[no-untyped-call]  # Twisted's
        protocol.connectionLost(failure)

    def setPreviousResponse(self, response: IResponse) -> None:  # noqa: N802  Twisted's name
        """Refuse: nothing here follows redirects."""
        raise NotImplementedError("no redirect is followed")


@implementer(IAgent)
class ConsumerAgent:
    """The connections to one consumer, and the exchanges on them."""

    def __init__(
        self,
        clock: Clock,
        endpoint: ClientEndpoint,
        timeout_s: float,
        may_send: Callable[[], bool],
        spent: Callable[[float], None],
        *,
        secure: bool,
    ) -> None:
        """Make an agent without a connection.

        `timeout_s` bounds an exchange as a whole, connecting included. `may_send` is asked
        again after connecting (the fence); `spent` hears the seconds that answers took.
        """
        self._clock = clock
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._may_send = may_send
        self._spent = spent
        self._secure = secure
        self._sweep_every_s = min(SWEEP_S, max(SWEEP_MIN_S, timeout_s / 10))
        self._idle: list[ConsumerConnection] = []
        self._open: set[ConsumerConnection] = set()
        self._connecting: dict[Exchange, Deferred[Any]] = {}
        self._sweeping: Timer | None = None
        self._closed = False

    # --- IAgent -------------------------------------------------------------------------------------

    def request(
        self,
        method: bytes,  # noqa: ARG002  the head holds it
        uri: bytes,  # noqa: ARG002  the head holds the target; the endpoint is fixed
        headers: Headers | None = None,  # noqa: ARG002  the head holds them
        bodyProducer: IBodyProducer | None = None,  # noqa: N803  Twisted's name
    ) -> Deferred[Any]:
        """Send a PreparedRequest. Fires with the whole answer, or fails with AttemptFailedError.

        Fires once within the timeout, give or take a sweep. Cancelling it ends the exchange.
        """
        if not isinstance(bodyProducer, PreparedRequest):
            raise TypeError(f"expected a PreparedRequest, found {bodyProducer!r}")
        now_s = self._clock.seconds()
        prepared, deadline_s = bodyProducer, now_s + self._timeout_s
        exchange = Exchange(
            prepared.head, prepared.body, deadline_s, prepared.body_max, awaited=prepared.awaited
        )
        exchange.answered = Deferred(self._abandon)
        if self._closed:
            self._fail(exchange, FailureKind.STOPPED, "the consumer's connections are closed")
        elif not self._idle:
            self._connect(exchange)
        elif self._may_send():  # a process may have been stopped since the attempt was begun
            exchange.reused = True
            connection = self._idle.pop()
            connection.send(exchange, at_once=len(self._open) - len(self._idle) <= AT_ONCE_MAX)
        else:
            self._fail(exchange, FailureKind.FENCED, "this node may no longer lead")
        self._arm()
        return exchange.answered

    def close(self) -> None:
        """Close every connection once it carries nothing; begin no exchange."""
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def abort(self) -> None:
        """End everything at once; exchanges fail as STOPPED."""
        self.close()
        for exchange in list(self._connecting):
            self._fail_connecting(exchange, FailureKind.STOPPED, "delivery stops")
        for connection in list(self._open):
            self._cut(connection, FailureKind.STOPPED, "delivery stops")
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    # --- Connecting -----------------------------------------------------------------------------------

    def _connect(self, exchange: Exchange) -> None:
        exchange.reused = False
        exchange.connect_until_s = min(exchange.deadline_s, self._clock.seconds() + CONNECT_S)
        connection = ConsumerConnection(
            self, exchange, self._clock.seconds, self._spent, secure=self._secure
        )
        connecting = self._endpoint.connect(_OneConnection(connection))
        self._connecting[exchange] = connecting
        connecting.addCallback(self._connected, exchange)
        connecting.addErrback(self._unconnected, exchange)

    def _connected(self, connection: ConsumerConnection, exchange: Exchange) -> None:
        del self._connecting[exchange]
        if exchange.answered.called and connection.exchange is exchange:
            connection.exchange = None  # abandoned in the moment it connected
            connection.abort()
            return
        if not connection.gone:
            self._open.add(connection)

    def _unconnected(self, reason: Failure, exchange: Exchange) -> None:
        del self._connecting[exchange]
        if isinstance(reason.value, CancelledError) and exchange.answered.called:
            return
        error = reason.value
        if isinstance(error, AttemptFailedError):
            self._fail(exchange, FailureKind(error.kind), error.words)
        else:
            self._fail(exchange, FailureKind.CONNECT, reason.getErrorMessage())

    def ready(self, connection: ConsumerConnection) -> None:
        """Send what the connection was opened for, unless the fence has closed meanwhile."""
        exchange = connection.exchange
        if exchange is None or exchange.answered.called:
            connection.abort()
        elif self._may_send():
            connection.send(exchange)
        else:
            connection.exchange = None
            connection.abort()
            self._fail(exchange, FailureKind.FENCED, "this node may no longer lead")

    # --- Ends of exchanges ------------------------------------------------------------------------------

    def ended(self, connection: ConsumerConnection, exchange: Exchange, answer: Heard) -> None:
        """Keep the connection if it can be kept, and hand the answer on."""
        if connection.reusable and not self._closed:
            connection.idle_until_s = self._clock.seconds() + IDLE_S
            self._idle.append(connection)
        else:
            connection.abort()
        exchange.answered.callback(ConsumerAnswer(answer))

    def broken(
        self, connection: ConsumerConnection, exchange: Exchange, kind: FailureKind, words: str,
        *, untouched: bool,
    ) -> None:  # fmt: skip
        """Try once more on a new connection if an old one broke before it said a word.

        The consumer then most likely closed it while it was idle. Should it have taken the
        request nevertheless, it gets it twice, under the same id: at least once (I4).
        """
        self._open.discard(connection)
        stale = kind is FailureKind.BROKEN and untouched and exchange.reused and not exchange.resent
        if stale and not self._closed and self._clock.seconds() < exchange.deadline_s:
            exchange.resent = True
            self._connect(exchange)
        else:
            self._fail(exchange, kind, words)

    def lost(self, connection: ConsumerConnection) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _fail(self, exchange: Exchange, kind: FailureKind, words: str) -> None:
        if not exchange.answered.called:
            exchange.answered.errback(AttemptFailedError(kind, words))

    def _fail_connecting(self, exchange: Exchange, kind: FailureKind, words: str) -> None:
        self._fail(exchange, kind, words)
        self._connecting[exchange].cancel()

    def _cut(self, connection: ConsumerConnection, kind: FailureKind, words: str) -> None:
        exchange, connection.exchange = connection.exchange, None
        connection.abort()
        if exchange is not None:
            self._fail(exchange, kind, words)

    def _abandon(self, answered: Deferred[Any]) -> None:
        """End a cancelled exchange; its Deferred fails by itself.

        It is looked for, as a Deferred that knew its exchange would be a cycle for each request,
        for the garbage collector to find.
        """
        for exchange, connecting in self._connecting.items():
            if exchange.answered is answered:
                connecting.cancel()
                return
        for connection in self._open:
            carried = connection.exchange
            if carried is not None and carried.answered is answered:
                self._cut(connection, FailureKind.STOPPED, "cancelled")
                return

    # --- Deadlines ----------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._sweeping is None and (self._open or self._connecting):
            self._sweeping = self._clock.callLater(self._sweep_every_s, self._sweep)

    def _sweep(self) -> None:
        """End what has taken too long: absolute deadlines, which no byte moves."""
        self._sweeping = None
        now_s = self._clock.seconds()
        for exchange in [e for e in self._connecting if e.connect_until_s <= now_s]:
            self._fail_connecting(exchange, FailureKind.CONNECT, "no connection in time")
        for connection in list(self._open):
            carried = connection.exchange
            if carried is None:
                if connection.idle_until_s <= now_s:
                    self.lost(connection)
                    connection.abort()
            elif not connection.proven:
                if carried.connect_until_s <= now_s:
                    self._cut(connection, FailureKind.TLS, "no TLS in time")
            elif carried.deadline_s <= now_s:
                words = f"no whole answer within {self._timeout_s:g} s"
                self._cut(connection, FailureKind.TIMEOUT, words)
        self._arm()
