"""One producer's connection: requests in, answers out in their order.

Decides when the connection is read, when answers leave, and when a silent or slow producer is
let go. Leaves to ``intake`` what a request is, to ``router`` who answers it, and to
``listener`` the clock and the sockets.

Invariants: answers leave in the order of their requests. A deadline is absolute: more bytes do
not renew it. What the connection holds is bounded: requests unanswered, bodies by the budget,
answers unread by the transport's buffer; at a bound it is not read.

This is the hot path: plain calls, no Deferred of its own, one object for a request.
``docs/decisions/0002-llhttp-under-klein.md`` has the measurements.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    INegotiated,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from zope.interface import implementer

from crowd.web import problems
from crowd.web.fields import Fields
from crowd.web.intake import Intake, Stage
from crowd.web.limits import SLICE_BYTES
from crowd.web.request import Request
from crowd.web.stream import Phase

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress
    from twisted.python.failure import Failure

    from crowd.web.fields import Field
    from crowd.web.reply import Reply
    from crowd.web.shared import Shared

_INF: Final = float("inf")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
DRAIN_IDLE_S: Final = 3.0
"""How long a kept connection may still bring a request while the node drains. Whoever posts more
often than that hears "Connection: close" with an answer, and loses no request that was on its way
when the connection ended."""


class Pause(enum.Flag):
    """Why a connection is not read."""

    NONE = 0
    PIPELINE = enum.auto()
    """Too many of its requests are unanswered."""
    BUDGET = enum.auto()
    """The bodies of all connections together fill their bound."""
    UNREAD = enum.auto()
    """The producer does not read its answers."""


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class Channel(TwistedProtocol):
    """A connection. `deadline_s` is when `expired` is due."""

    log = Logger()
    transport: Any

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._budget = shared.budget
        self._intake = Intake(shared.limits, self)
        self._queue: deque[Request] = deque()
        self._feeding = False
        self._lost = False
        self._read_lost = False
        self._hung_up = False
        self._write: Any = None  # the transport's writeSomeData, while everything went out
        self._pause = Pause.NONE
        self._rest: list[bytes] = []  # input that waits for the end of a pause
        self._held = 0  # bytes of the budget for the request that is being read
        self._wants = 0  # bytes that it waits for
        self._watched: Stage | None = None  # what is read of a request, a head or a body, if any
        self._read_by_s = _INF  # when that is to be there
        self._expecting: tuple[bytes, bytes, bytes] | None = None  # who waits for 100 (Continue)
        self._shakes_hands = False
        self.client = b""
        self.scheme = b"http"
        self.deadline_s = 0.0

    @property
    def date(self) -> bytes:
        """The line of the ``Date`` field, now."""
        return self._shared.date

    def peer(self) -> IAddress:
        """Return the producer's address."""
        address: IAddress = self.transport.getPeer()
        return address

    def host(self) -> IAddress:
        """Return the address on which the connection arrived."""
        address: IAddress = self.transport.getHost()
        return address

    # --- The transport's calls -------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Start to watch the connection."""
        transport = self.transport
        self.client = str(getattr(self.peer(), "host", "")).encode("ascii", "backslashreplace")
        if ISSLTransport.providedBy(transport) or INegotiated.providedBy(transport):
            self.scheme = b"https"
            self._shakes_hands = True
        elif ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            self._write = getattr(transport, "writeSomeData", None)
        if getattr(transport, "over_tls", False):  # as far as the balancer
            self.scheme = b"https"
        transport.registerProducer(self, True)
        self.deadline_s = self._shared.idle_by_s
        if self._shakes_hands:  # as absolute as a head's
            self.deadline_s = self._shared.now_s + self._limits.head_s
        self._shared.opened(self)

    def handshakeCompleted(self) -> None:
        """Wait for a request: TLS is there."""
        self._shakes_hands = False
        if self._intake.stage is Stage.BETWEEN:
            self.deadline_s = self._shared.idle_by_s

    @property
    def is_idle(self) -> bool:
        """Whether nothing is due on it, from either side."""
        intake = self._intake
        if intake.is_full:  # there may be more that it goes on with in a moment
            return False
        return intake.stage is Stage.BETWEEN and not (self._queue or self._shakes_hands)

    def dataReceived(self, data: bytes) -> None:
        """Take what the producer sent."""
        if self._pause or len(data) > SLICE_BYTES:
            self._rest.append(data)
            self._feed_rest()
        else:
            self._feed(data)

    def readConnectionLost(self) -> None:
        """Answer what is complete, then close: the producer sends no more.

        A reader that does so is gone, or else waits for nothing more than an answer that comes
        soon: not for long is an upstream kept busy for it.
        """
        self._read_lost = True
        self._feed_rest()
        for request in self._queue:
            if request.half_closed is not None:
                request.half_closed()
        stream = self._queue[0].stream if self._queue else None
        if stream is not None and stream.phase is Phase.ASKED:
            stream.due_s = self._shared.now_s + self._limits.gone_s
            self._due_by(stream.due_s)

    def writeConnectionLost(self) -> None:
        """Nothing to do: after a refusal we only wait for the producer to go, or the sweep."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection. Requests that were handed on are decided without it.

        They keep their part of the budget until then: their messages are still held.
        """
        self._lost = True
        self._shared.closed(self)
        self._budget.forget(self)
        self._budget.give(self._held)
        self._held = 0
        self._rest.clear()
        self._intake.close()
        for request in self._queue:
            if request.stream is not None:
                request.stream.lost()
            request.settle(reason)
        self._queue.clear()

    def pauseProducing(self) -> None:
        """Stop reading: the producer does not read its answers."""
        self._pause_for(Pause.UNREAD)
        stream = self._queue[0].stream if self._queue else None
        if stream is not None:
            stream.pause()
            self._due_by(stream.due_s)

    def resumeProducing(self) -> None:
        """Read again: the answers went out."""
        self._pause &= ~Pause.UNREAD
        self._shared.soon(self)
        stream = self._queue[0].stream if self._queue else None
        if stream is not None:
            self.deadline_s = self._shared.answer_by_s
            stream.resume()
            self._due_by(self.deadline_s)

    def stopProducing(self) -> None:
        """Nothing to do: connectionLost follows."""

    # --- The intake's calls -------------------------------------------------------------------------

    def head(
        self, body_bytes: int, method: bytes, target: bytes, fields: Fields, *, expects: bool
    ) -> Reply | None:
        """Make room for a body before it is read, unless its sender may not pass."""
        at_head = self._shared.at_head
        if at_head is not None:
            reply = at_head(self, method, target, fields, waits=expects)
            if reply is not None:
                return reply
        held = body_bytes + self._limits.request_bytes
        if self._budget.take(held):
            self._held = held
        else:
            self._wants = held
            self._budget.wait(self, held)
        if expects:
            self._expecting = (method, target, fields.host)
        return None

    def request(
        self, method: bytes, target: bytes, headers: list[Field], fields: Fields,
        body: bytes, alive: bool,  # noqa: FBT001 - the hot path passes it by position
    ) -> None:  # fmt: skip
        """Have a request answered."""
        if self._wants or fields.transfer is not None:
            self._weigh(len(body) + self._limits.request_bytes)
        shared = self._shared
        shared.requests += 1
        if shared.draining:
            alive = False
            self._intake.end()
        request = Request(self, method, target, headers, fields, body, self._held, alive)
        if self._intake.old_version:
            request.old_version = True
        self._held = 0
        self._watched = None
        self._expecting = None
        queue = self._queue
        queue.append(request)
        if len(queue) >= self._limits.pipeline_max:
            self._intake.is_full = True
        shared.handle(request)

    def refused(self, reply: Reply) -> None:
        """Send `reply` when its turn comes, and end the connection."""
        self._budget.forget(self)
        asked = self._intake.asked
        request = Request(self, asked[0], b"", [], Fields([]), b"", self._held, False)
        self._held = self._wants = 0
        self._expecting = None
        self._rest.clear()
        self._queue.append(request)
        self._watched = None
        self._due_by(self._shared.answer_by_s)
        shown = self._shared.shown
        request.reply(reply, () if shown is None else shown(*asked))

    # --- Reading ------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        """Hand on at most one slice, as far as there is a place for its requests.

        Then send what was answered meanwhile.
        """
        intake = self._intake
        if intake.stage is Stage.REFUSED or intake.stage is Stage.ENDED:
            return
        self._feeding = True
        taken = intake.feed(data)
        self._feeding = False
        queue = self._queue
        if intake.stage is Stage.BETWEEN:
            self.deadline_s = self._shared.answer_by_s
        if queue:
            if queue[0].wire is not None:
                self._flush()
            if intake.is_full:
                self._stop_at(data, taken)
        elif intake.stage is Stage.BETWEEN:
            self.deadline_s = self._shared.idle_by_s
        if intake.stage is Stage.HEAD or intake.stage is Stage.BODY:
            self._partial(intake.stage)
        if self in self._budget.waiting:
            self._pause_for(Pause.BUDGET)

    def _stop_at(self, data: bytes, taken: int) -> None:
        """Keep what of a slice came behind the last request for which there was a place."""
        if taken < len(data):
            self._rest.insert(0, data[taken:])
        self._pause_for(Pause.PIPELINE)
        self._shared.soon(self)  # some may be answered by now

    def _feed_rest(self) -> None:
        """Go on with the input that waits, until it is used up or the connection pauses."""
        rest = self._rest
        while rest and not self._pause:
            data = rest.pop(0)
            if len(data) > SLICE_BYTES:
                rest.insert(0, data[SLICE_BYTES:])
                data = data[:SLICE_BYTES]
            self._feed(data)
        if self._read_lost and not rest:
            self._last_request()

    def _last_request(self) -> None:
        """Close once everything that was read is answered."""
        self._intake.end()
        if self._queue:
            self._queue[-1].keep_alive = False
            if self._watched is not None:  # what was begun is nobody's
                self._watched = None
                self._due_by(self._shared.answer_by_s)
        else:
            self._hang_up()

    def _partial(self, stage: Stage) -> None:
        """Set the deadline of a request that is not complete, once for its head and its body."""
        waits = self in self._budget.waiting  # so that it is not the producer who is slow
        if stage is not self._watched:
            self._watched = stage
            limits = self._limits
            wait_s = limits.head_s if stage is Stage.HEAD else limits.body_s
            self._read_by_s = self._shared.answer_by_s if waits else self._shared.now_s + wait_s
            self._due_by(_INF)
        if self._expecting is not None and not (waits or self._queue):
            self._continue(*self._expecting)

    def _due_by(self, by_s: float) -> None:
        """Be looked at by then, or when what is read or what is taken is due, if that is sooner.

        Neither moves the other: an answer that flows gives a request behind it no more time, nor
        does a request give more to a reader that takes nothing.
        """
        if self._watched is not None:
            by_s = min(by_s, self._read_by_s)
        stream = self._queue[0].stream if self._queue else None
        if stream is not None:
            by_s = min(by_s, stream.due_s)
        self.deadline_s = by_s

    def _continue(self, method: bytes, target: bytes, host: bytes) -> None:
        """Ask for the body, unless the answer is certain without it."""
        self._expecting = None
        reply = self._shared.refusal(method, target, host)
        if reply is None:
            self._send(_CONTINUE)
        else:
            self._intake.refuse(reply)

    # --- Back-pressure ------------------------------------------------------------------------------

    def admitted(self) -> None:
        """Go on: the budget has room for what this connection waited for.

        What it waited for may be nothing by now (`Budget.overdraw`), and what came in the same
        slice may have taken its part since.
        """
        self._held += self._wants
        self._wants = 0
        self._watched = None
        self._pause &= ~Pause.BUDGET
        self._shared.soon(self)

    def _weigh(self, held: int) -> None:
        """Hold what a complete body really takes."""
        if self._wants:
            self._budget.overdraw(self, held)
            self._wants = 0
        else:
            self._budget.give(self._held - held)
        self._held = held

    def _pause_for(self, why: Pause) -> None:
        if not self._pause:
            self.transport.pauseProducing()
        self._pause |= why

    def turn(self) -> None:
        """Send what is ready, and read on if nothing stands against it. See `Shared.soon`."""
        if self._lost:
            return
        self._flush()
        if Pause.PIPELINE in self._pause and len(self._queue) * 2 <= self._limits.pipeline_max:
            self._pause &= ~Pause.PIPELINE
            self._intake.is_full = False
        if self._pause:
            return
        stage = self._intake.stage
        if stage is Stage.HEAD or stage is Stage.BODY:
            self._partial(stage)
        self._feed_rest()
        if not (self._pause or self._read_lost or self._hung_up):
            self.transport.resumeProducing()

    # --- Answers --------------------------------------------------------------------------------------

    def answered(self, request: Request, wire: bytes) -> None:
        """Send an answer now if it is the only one due, or else when its turn has come."""
        self._budget.give(request.held)
        queue = self._queue
        if len(queue) == 1 and not self._feeding:
            queue.clear()
            self._send(wire)
            self._after(request)
        elif not self._lost:
            request.wire = wire
            if queue[0] is request and not self._feeding:
                self._shared.soon(self)  # the others' answers come in the same turn

    def _flush(self) -> None:
        """Send all answers whose turn has come, in one write."""
        queue = self._queue
        out: list[bytes] = []
        done: list[Request] = []
        while queue and queue[0].wire is not None:
            request = queue.popleft()
            out.append(request.wire or b"")
            done.append(request)
        if out:
            self._send(b"".join(out))
            for request in done:
                self._after(request)
        if queue and queue[0].stream is not None and not self._hung_up:
            queue[0].stream.turn()

    def _send(self, data: bytes) -> None:
        """Write, at once where the transport can.

        That saves two epoll_ctl and a turn of the reactor, 9 us for an answer. What does not
        go out at once, and everything after it, goes through the transport's buffer.
        """
        if self._write is not None:
            sent = self._write(data)
            if sent == len(data):
                return
            self._write = None
            if isinstance(sent, int):
                data = data[sent:]
        self.transport.write(data)

    def _after(self, request: Request) -> None:
        """See what an answer that went out means for the connection."""
        if request.notified:
            request.settle(None)
        if not request.keep_alive:
            self._close()
        elif not self._queue:
            if self._intake.stage is Stage.BETWEEN:
                self.deadline_s = self._shared.idle_by_s
            elif self._expecting is not None:
                self._partial(self._intake.stage)

    # --- An answer in pieces (`stream.Carrier`) -------------------------------------------------------

    def last(self) -> None:
        """Take no more requests."""
        self._intake.end()

    def ready(self, request: Request) -> None:
        """Have an answer in pieces begin now, or when its turn comes."""
        if self._queue and self._queue[0] is request:
            if self._feeding:
                self._shared.soon(self)
            elif not self._hung_up and request.stream is not None:
                request.stream.turn()

    def release(self, request: Request) -> None:
        """Give back what a request held of the budget: its body was passed on."""
        request.body = b""
        self._budget.give(request.held)

    def pass_on(self, data: bytes) -> None:
        """Send bytes of the answer whose turn it is."""
        self._due_by(self._shared.answer_by_s)
        self._send(data)

    def ended(self, request: Request) -> None:
        """Go on with the answers after one in pieces, all of which went out."""
        if self._queue and self._queue[0] is request:
            self._queue.popleft()
            self._after(request)
            self._shared.soon(self)

    @property
    def is_unread(self) -> bool:
        """Whether the transport holds as much as it may."""
        return Pause.UNREAD in self._pause

    def unread_until_s(self) -> float:
        """Return when a reader is to have taken what the transport holds from now on."""
        return self._shared.now_s + self._limits.unread_s

    # --- The end --------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Close, giving a refused producer, which may still be sending, time to read why."""
        self.deadline_s = self._shared.now_s + self._limits.linger_s
        refused = self._intake.stage is Stage.REFUSED and not self._read_lost
        if refused and self.scheme == b"http" and not self._lost:
            half = getattr(self.transport, "loseWriteConnection", None)
            if half is not None:
                half()
                return
        self._hang_up()

    def _hang_up(self) -> None:
        """Close when everything that was written has gone out. Nothing happens after the first time.

        One turn may find two reasons: the last answer went out, and the producer sends no more.
        """
        if not self._hung_up:
            self._hung_up = True
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def drain(self) -> None:
        """Close after the answers that are due; an idle connection a moment later.

        A request may be on its way already: it is answered, as the connection's last.
        """
        if self._intake.stage is Stage.BETWEEN and not self._rest:
            if self._queue:
                self._last_request()
            else:
                self.deadline_s = min(self.deadline_s, self._shared.now_s + DRAIN_IDLE_S)

    def expired(self) -> None:
        """End what took too long: the connection, or the request that is being read."""
        now_s, stage = self._shared.now_s, self._intake.stage
        stream = self._queue[0].stream if self._queue else None
        if stage is Stage.BETWEEN and not self._queue:
            self.deadline_s = now_s + self._limits.linger_s
            self._intake.end()
            self._hang_up()
        elif stream is not None and stream.due_s <= now_s:
            self.abort()
        elif self._watched is not None and self._read_by_s <= now_s:
            if self in self._budget.waiting:
                self._intake.refuse(problems.in_flight_full())
            else:
                self._intake.refuse(problems.problem_reply(problems.TOO_SLOW))
        elif stage is Stage.HEAD or stage is Stage.BODY:
            self._due_by(self._shared.answer_by_s)
            self._partial(stage)
        elif stream is not None:
            self._due_by(self._shared.answer_by_s)  # its upstream has deadlines of its own
        else:
            self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abortConnection()
