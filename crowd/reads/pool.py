# ruff: noqa: N802 - Twisted's names
"""The connections to one upstream: an IAgent, under treq, that sends reads as they are.

Decides which connection carries a read, and when connecting, an answer's head, the next piece
of a body or an idle connection has taken too long. Follows no redirect and keeps no cookie,
because nothing here would.

Invariant: there are never more connections than reads were under way at once, and `upstream`
bounds those. One that is idle is used before another is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.web.iweb import IAgent
from zope.interface import implementer

from crowd.delivery.agent import IDLE_S, SWEEP_MIN_S, SWEEP_S, PreparedRequest
from crowd.delivery.endpoint import CONNECT_S
from crowd.reads.connection import Read, UpstreamConnection
from crowd.reads.failure import ReadFailedError, ReadFailure

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from crowd.clock import Clock, Timer
    from crowd.delivery.ports import ClientEndpoint
    from crowd.reads.answer import UpstreamAnswer


class _OneConnection(Factory):
    """Hands the endpoint a connection that was made for one read."""

    noisy = False  # a line in the log for each connection tells nothing

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: Any) -> UpstreamConnection:  # noqa: ARG002  Twisted's name
        """Return the connection."""
        return self._connection


@implementer(IAgent)
class Pool:
    """The connections to one upstream, and the reads on them. Implements `connection.Reading`."""

    def __init__(
        self, clock: Clock, endpoint: ClientEndpoint, timeout_s: float, *, secure: bool
    ) -> None:
        """Make a pool without a connection.

        `timeout_s` is for an answer's head, from the moment the read was asked, connecting and
        asking again on another connection included; and for each piece of its body.
        """
        self._clock = clock
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._secure = secure
        self._sweep_every_s = min(SWEEP_S, max(SWEEP_MIN_S, timeout_s / 10))
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._connecting: dict[Read, Deferred[Any]] = {}
        self._sweeping: Timer | None = None
        self._closed = False

    @property
    def connections(self) -> int:
        """How many connections are open or being opened."""
        return len(self._open) + len(self._idle) + len(self._connecting)

    # --- IAgent ---------------------------------------------------------------------------------

    def request(
        self,
        method: bytes,  # noqa: ARG002  the head holds it
        uri: bytes,  # noqa: ARG002  the head holds the target; the endpoint is fixed
        headers: Any = None,  # noqa: ARG002  the head holds them
        bodyProducer: Any = None,  # noqa: N803  Twisted's name
    ) -> Deferred[Any]:
        """Send a PreparedRequest. Fires with an UpstreamAnswer once its head is whole.

        Fails with ReadFailedError. Cancelling it ends the read.
        """
        if not isinstance(bodyProducer, PreparedRequest):
            raise TypeError(f"expected a PreparedRequest, found {bodyProducer!r}")
        read = Read(bodyProducer.head, bodyProducer.body)
        answered: Deferred[Any] = Deferred(lambda _: self._abandon(read))
        read.answered = answered
        read.head_until_s = self._clock.seconds() + self._timeout_s
        if self._closed:
            self._fail(read, ReadFailedError(ReadFailure.STOPPED, "the pool is closed"))
        elif self._idle:
            read.reused = True
            connection = self._idle.pop()
            self._open.add(connection)
            connection.send(read)
        else:
            self._connect(read)
        self._arm()
        return answered

    def close(self) -> None:
        """Begin nothing more; close each connection once it carries nothing."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.stop()

    def abort(self) -> None:
        """End everything at once; reads fail as STOPPED."""
        self.close()
        error = ReadFailedError(ReadFailure.STOPPED, "the node stops")
        for read in list(self._connecting):
            self._fail_connecting(read, error)
        for connection in list(self._open):
            connection.cut(error)
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    # --- Connecting -----------------------------------------------------------------------------

    def _connect(self, read: Read) -> None:
        read.reused = False
        read.connect_until_s = min(read.head_until_s, self._clock.seconds() + CONNECT_S)
        connection = UpstreamConnection(self, read, secure=self._secure)
        connection.due_s = read.connect_until_s
        connecting = self._endpoint.connect(_OneConnection(connection))
        self._connecting[read] = connecting
        connecting.addCallback(self._connected, read)
        connecting.addErrback(self._unconnected, read)

    def _connected(self, connection: UpstreamConnection, read: Read) -> None:
        del self._connecting[read]
        if connection.read is not None:  # or it is over already
            self._open.add(connection)

    def _unconnected(self, reason: Failure, read: Read) -> None:
        del self._connecting[read]
        if not (isinstance(reason.value, CancelledError) and read.answered is None):
            words = reason.getErrorMessage()
            self._fail(read, ReadFailedError(ReadFailure.UNREACHABLE, words))

    def ready(self, connection: UpstreamConnection) -> None:
        """Send what the connection was opened for, if it is still wanted."""
        read = connection.read
        if read is None or read.answered is None:
            connection.stop()
        else:
            connection.send(read)

    # --- What becomes of connections --------------------------------------------------------------

    def began(self, read: Read, answer: UpstreamAnswer) -> None:
        """Hand an answer on. The request is not sent again, so nothing holds its body."""
        read.body = b""
        answered, read.answered = read.answered, None
        if answered is None:
            answer.stopProducing()
        else:
            answered.callback(answer)

    def released(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next read, if it can be kept."""
        self._open.discard(connection)
        if connection.reusable and not self._closed:
            connection.due_s = self._clock.seconds() + IDLE_S
            self._idle.append(connection)
            self._arm()
        else:
            connection.abort()

    def broken(
        self, connection: UpstreamConnection, read: Read, error: ReadFailedError,
        *, untouched: bool,
    ) -> None:  # fmt: skip
        """Ask once more on a new connection if an old one broke before it said a word.

        The upstream most likely closed it while it was idle; and a read may be repeated (RFC
        9110, 9.2.2).
        """
        del connection
        stale = untouched and read.reused and not read.resent and read.answered is not None
        if stale and not self._closed and self._clock.seconds() < read.head_until_s:
            read.resent = True
            self._connect(read)
            self._arm()
        else:
            self._fail(read, error)

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def progress_until_s(self) -> float:
        """Return when the next piece of a body is to be there."""
        return self._clock.seconds() + self._timeout_s

    def _fail(self, read: Read, error: ReadFailedError) -> None:
        answered, read.answered = read.answered, None
        if answered is not None:
            answered.errback(error)

    def _fail_connecting(self, read: Read, error: ReadFailedError) -> None:
        connecting = self._connecting[read]
        self._fail(read, error)
        connecting.cancel()

    def _abandon(self, read: Read) -> None:
        """End a cancelled read; its Deferred fails by itself."""
        read.answered = None
        connecting = self._connecting.get(read)
        if connecting is not None:
            connecting.cancel()
        for connection in [each for each in self._open if each.read is read]:
            connection.stop()

    # --- Deadlines --------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._sweeping is None and (self._open or self._connecting or self._idle):
            self._sweeping = self._clock.callLater(self._sweep_every_s, self._sweep)

    def _sweep(self) -> None:
        """End what has taken too long."""
        self._sweeping = None
        now_s = self._clock.seconds()
        for read in [each for each in self._connecting if each.connect_until_s <= now_s]:
            error = ReadFailedError(ReadFailure.UNREACHABLE, "no connection in time")
            self._fail_connecting(read, error)
        for connection in [each for each in self._idle if each.due_s <= now_s]:
            connection.stop()
        for connection in [each for each in self._open if each.due_s <= now_s]:
            connection.cut(self._overdue(connection))
        self._arm()

    def _overdue(self, connection: UpstreamConnection) -> ReadFailedError:
        if not connection.proven:
            return ReadFailedError(ReadFailure.UNREACHABLE, "no TLS in time")
        return ReadFailedError(ReadFailure.SLOW, f"nothing within {self._timeout_s:g} s")
