# ruff: noqa: N802 - Twisted's names
"""Where producers connect: the listening ports, and what all their connections share.

Decides when connections are looked at (one timer for all of them, every 0.5 s, instead of one
for each request), has no more accepted while there are too many (``acceptance``), and how they end when the node stops: no new ones,
idle ones are closed, those with a request are answered first. Leaves the requests to
``router`` and each connection's own course to ``channel``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.http import datetimeToString
from zope.interface import implementer

from crowd.web.acceptance import Acceptance
from crowd.web.budget import Budget
from crowd.web.channel import Channel
from crowd.web.entrance import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IAddress
    from twisted.python.failure import Failure

    from crowd.clock import Clock
    from crowd.web.limits import WebLimits
    from crowd.web.reply import Reply
    from crowd.web.router import Router, Shown

ACCEPT_QUEUED_S: Final = 0.05
"""For the reactor to accept the connections that the system has made already: when a listening
socket closes, those that nobody accepted are reset, with the requests that they brought."""

IDLE_WHEN_FULL_S: Final = 5.0
"""How long a connection may be idle while others wait to be accepted."""

SWEEP_S: Final = 0.5
"""Deadlines are of seconds; looking at 20 000 connections takes 2 ms."""


@implementer(IProtocolNegotiationFactory)
class Producers(Factory):
    """All connections of producers. Implements `crowd.web.shared.Shared`."""

    noisy = False
    log = Logger()

    def __init__(
        self,
        clock: Clock,
        router: Router,
        limits: WebLimits,
        wall_s: Callable[[], float],
        tally: Tally | None = None,
    ) -> None:
        self.limits = limits
        self.tally = tally or Tally()  # the doors count in it
        self.budget = Budget(limits.in_flight_bytes_max)
        self.handle = router.handle
        self.at_head = router.at_head
        self.shown: Shown | None = router.shown
        self.draining = False
        self.connections_refused = 0
        self.requests = 0  # `Channel` counts them
        self.acceptance = Acceptance(limits.connections_max)
        self.on_acceptance: Callable[[], None] = lambda: None
        """Called when `acceptance` changed its mind."""
        self._swept_s = clock.seconds()
        self._clock = clock
        self._wall_s = wall_s
        self._router = router
        self._open: set[Channel] = set()
        self._due: dict[Channel, None] = {}  # whose turn comes, in order
        self._empty: Deferred[None] | None = None
        self._sweep = LoopingCall(self.sweep)
        self._sweep.clock = cast("Any", clock)
        self._tell_time()

    def use(self, router: Router) -> None:
        """Have requests from here on answered by another router; those under way go on."""
        self._router = router
        self.handle = router.handle
        self.at_head = router.at_head
        self.shown = router.shown

    def buildProtocol(self, addr: IAddress | None) -> Channel | None:
        """Return a connection's protocol, or None if there are too many of them."""
        del addr
        connections_max = self.limits.connections_max + self.limits.connections_over
        if self.draining or len(self._open) >= connections_max:
            self.connections_refused += 1
            return None
        return Channel(self)

    def acceptableProtocols(self) -> list[bytes]:
        """Return what TLS clients that ask for several protocols get (RFC 7301).

        Without an answer Twisted fails the handshake of a client that asks, as curl does.
        """
        return [b"http/1.1"]

    def refuse(self) -> None:
        """Count a connection that was refused before it came here."""
        self.connections_refused += 1

    def start(self) -> None:
        """Start the timer."""
        self._tell_time()
        self._swept_s = self.now_s
        self._sweep.start(SWEEP_S, now=False)

    def drain(self) -> Deferred[None]:
        """Close what is idle; fires when the last answer went out and all are closed."""
        self.draining = True
        done: Deferred[None] = Deferred()
        self._empty = done
        for channel in list(self._open):
            channel.drain()
        self._tell_if_empty()
        return done

    def abort(self) -> None:
        """Close all connections at once."""
        for channel in list(self._open):
            channel.abort()

    def stop(self) -> None:
        """Stop the timer."""
        if self._sweep.running:
            self._sweep.stop()

    def sweep(self) -> None:
        """See whose deadline is over, and how late this node is with all that it does."""
        self._tell_time()
        now_s = self.now_s
        if self.acceptance.came(now_s - self._swept_s - SWEEP_S):
            self.on_acceptance()
        self._swept_s = now_s
        for channel in [each for each in self._open if each.deadline_s <= now_s]:
            channel.expired()
        if self.acceptance.is_full:
            idle_by_s = now_s + self.limits.idle_s - IDLE_WHEN_FULL_S
            for channel in [each for each in self._open if each.deadline_s <= idle_by_s]:
                if channel.is_idle:
                    channel.expired()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    # --- What connections ask for ---------------------------------------------------------------

    def refusal(self, method: bytes, target: bytes, host: bytes) -> Reply | None:
        """Return the answer that is certain before the body is read."""
        return self._router.refusal(method, target, host)

    def soon(self, channel: Channel) -> None:
        """Call ``channel.turn()`` in the reactor's next turn, once."""
        if not self._due:
            self._clock.callLater(0, self._turn)
        self._due[channel] = None

    def opened(self, channel: Channel) -> None:
        """Watch a connection."""
        self._open.add(channel)
        if self.acceptance.count(len(self._open)):
            self.on_acceptance()

    def closed(self, channel: Channel) -> None:
        """Forget a connection."""
        self._open.discard(channel)
        if not self.acceptance.goes_on and self.acceptance.count(len(self._open)):
            self.on_acceptance()
        self._due.pop(channel, None)
        self._tell_if_empty()

    def _turn(self) -> None:
        due, self._due = self._due, {}
        for channel in due:
            channel.turn()

    def _tell_time(self) -> None:
        now_s = self._clock.seconds()
        self.now_s = now_s
        self.idle_by_s = now_s + self.limits.idle_s
        self.answer_by_s = now_s + self.limits.answer_s
        self.date = b"Date: %s\r\n" % datetimeToString(self._wall_s())  # type: ignore[no-untyped-call]  # Twisted's

    def _tell_if_empty(self) -> None:
        if self._empty is not None and not self._open:
            empty, self._empty = self._empty, None
            empty.callback(None)


class WrappedEndpoint(msgspec.Struct, frozen=True):
    """One of Twisted's endpoints on which connections begin with something before HTTP.

    ``wrapped`` returns the factory that does that beginning around the one it is given.
    """

    endpoint: Any
    wrapped: Callable[[Any], Any]

    def listen(self, factory: Any) -> Deferred[Any]:
        """Listen, as an endpoint does."""
        listening: Deferred[Any] = self.endpoint.listen(self.wrapped(factory))
        return listening


class ProducerListener(Service):
    """Listens for producers while it runs.

    `listening` fires with the ports once all endpoints listen, and fails with the first error.
    """

    log = Logger()

    def __init__(
        self, clock: Clock, endpoints: Sequence[Any],
        producers: Producers, *, drain_s: float,
    ) -> None:  # fmt: skip
        self.producers = producers
        self.listening: Deferred[list[Any]] = Deferred()
        self._clock = clock
        self._endpoints = endpoints
        self._drain_s = drain_s
        self._ports: list[Any] = []

    def startService(self) -> None:
        """Listen on all endpoints."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        self.producers.on_acceptance = self._accept_or_not
        self.producers.start()
        opening = [endpoint.listen(self.producers) for endpoint in self._endpoints]
        for each in opening:
            each.addCallback(self._opened)
        gathered = gatherResults(opening, consumeErrors=True)
        gathered.addCallbacks(self.listening.callback, self._failed)

    def stopService(self) -> Deferred[None]:
        """Stop accepting, answer what is in flight for at most `drain_s`, then close the rest."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        return Deferred.fromCoroutine(self._stop())

    def leave(self, within_s: float) -> Deferred[None]:
        """Give the ports free at once, and close all connections within `within_s`.

        Answers that there are go out. For a process whose messages nobody takes any more.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        self._drain_s = within_s
        return Deferred.fromCoroutine(self._leave())

    async def _leave(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            await port.stopListening()
        await self._drain()

    async def _stop(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            narrow(port)
        queued: Deferred[None] = Deferred()
        self._clock.callLater(ACCEPT_QUEUED_S, queued.callback, None)
        await queued
        for port in ports:
            await port.stopListening()
        await self._drain()

    async def _drain(self) -> None:
        over = self._clock.callLater(self._drain_s, self.producers.abort)
        await self.producers.drain()
        if over.active():
            over.cancel()
        self.producers.stop()

    def _accept_or_not(self) -> None:
        """Have the system queue connections while there are too many, and take them up again."""
        for port in self._ports:
            if self.producers.acceptance.goes_on:
                port.startReading()
            else:
                port.stopReading()

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        assert isinstance(error, FirstError), "gatherResults fails with nothing else"
        self.listening.errback(error.subFailure)

    def _opened(self, port: Any) -> Any:
        self._ports.append(port)
        return port


def narrow(port: Any) -> None:
    """Have the system make no new connections for a port that is about to close.

    A producer's handshake is not answered then; it tries again, and finds the port closed.
    """
    listening = getattr(port, "socket", None)
    if listening is not None:
        listening.listen(0)
