# ruff: noqa: N802 - Twisted's names
"""A front door in memory: the real channel, router and handlers; a fake acceptor and clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httptools
import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from crowd.definition import RouteDefinition
from crowd.door import door as route_door
from crowd.ledger.standings import Standing, WithConsumer
from crowd.message import ConsumerId, Message, Position, RouteId, decode_message
from crowd.reads.upstream import Upstreams
from crowd.web.entrance import Entrance, Tally
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import Producers
from crowd.web.messages import Absence, MessagePages
from crowd.web.router import Router
from crowd.web.through import Through
from crowd.web.waiting import Waiting
from tests.unit.reads.rig import Endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.door.proxies import Proxies
    from crowd.idempotency import Grouped
    from crowd.policy import Policy
    from crowd.web.channel import Channel

READS_MAX = 4
WALL_S = 1_753_228_800.0  # Wed, 23 Jul 2025 00:00:00 GMT
ROUTES = (
    RouteDefinition("/leads", ("POST", "PUT"), "refuse", None),
    RouteDefinition("/any/<path:rest>", ("POST",), "refuse", None),
    RouteDefinition("/api/<path:rest>", ("POST",), "proxy", "http://upstream.test:8080"),
)


class FakeAcceptor:
    """Accepts when told to: `offered` holds each message and the Deferred of its answer."""

    tag = "0123abcd"

    def __init__(self) -> None:
        self.routes = {route.path: RouteId(number) for number, route in enumerate(ROUTES, 1)}
        self.offered: list[tuple[RouteId, bytes, Deferred[Position]]] = []
        self.digests: list[bytes] = []
        self.keys: list[bytes] = []
        self.groups: list[list[Message]] = []
        self._answers: list[Deferred[Grouped]] = []
        self.answered = 0

    def route_id(self, path: str) -> RouteId | None:
        return self.routes.get(path)

    def accept(self, route: RouteId, stored: bytes, digests: bytes) -> Deferred[Position]:
        accepted: Deferred[Position] = Deferred()
        self.digests.append(digests)
        self.offered.append((route, stored, accepted))
        return accepted

    def accept_group(
        self, _: RouteId, stored: Sequence[bytes], keys: bytes
    ) -> Deferred[Grouped]:  # fmt: skip
        accepted: Deferred[Grouped] = Deferred()
        self.keys.append(keys)
        self.groups.append([decode_message(one) for one in stored])
        self._answers.append(accepted)
        return accepted

    def answer_group(self, number: int, outcome: Grouped | Exception) -> None:
        """Answer one of `groups`."""
        accepted = self._answers[number]
        step = accepted.errback if isinstance(outcome, Exception) else accepted.callback
        step(outcome)

    @property
    def messages(self) -> list[Message]:
        return [decode_message(stored) for _, stored, _ in self.offered]

    def answer_all(self) -> None:
        while self.answered < len(self.offered):
            self.answered += 1
            self.offered[self.answered - 1][2].callback(Position(self.answered))

    def answer(self, place: int) -> None:
        """Answer one message, in whatever order; its position is its place in `offered`."""
        self.offered[place][2].callback(Position(place + 1))


class FakeWaits:
    """Waits for consumer 7, and ends when told to: `asked` has each wait and its Deferred.

    `left` has those whose producers went.
    """

    def __init__(self) -> None:
        self.consumer: ConsumerId | None = ConsumerId(7)
        self.asked: list[tuple[Position, ConsumerId, float, Deferred[Any]]] = []
        self.left: list[tuple[Position, ConsumerId, Deferred[Any]]] = []

    def consumer_of(self, route: RouteId) -> ConsumerId | None:
        del route
        return self.consumer

    def wait(self, position: Position, consumer: ConsumerId, within_s: float) -> Deferred[Any]:
        ended: Deferred[Any] = Deferred()
        self.asked.append((position, consumer, within_s, ended))
        return ended

    def leave(self, position: Position, consumer: ConsumerId, ended: Deferred[Any]) -> None:
        self.left.append((position, consumer, ended))


class FakeStandings:
    """Messages up to 9 on ``/leads``, of which the first two were released."""

    tag = FakeAcceptor.tag
    route = "/leads"

    def find(self, position: Position) -> Deferred[Standing | Absence]:
        if not 0 < position <= 9:
            return succeed(Absence.UNKNOWN)
        if position <= 2:
            return succeed(Absence.RELEASED)
        consumers = (WithConsumer("rest-api", "dead", 3), WithConsumer("audit", "delivered"))
        return succeed(Standing(position, self.route, "dead", consumers))


class Transport(StringTransport):
    """Twisted's transport for tests, with what it lacks: ends, and the producers' view of them."""

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.7", 4711))
        self.aborted = False
        self.half_closed = False
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)

    def abortConnection(self) -> None:
        self.aborted = True

    def loseWriteConnection(self) -> None:
        self.half_closed = True


class Answers:
    """Reads answers with llhttp, so that whatever is not HTTP fails a test."""

    def __init__(self) -> None:
        self.all: list[SimpleNamespace] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.all.append(
            SimpleNamespace(
                status=status,
                headers=self._headers,
                fields={name.lower(): value for name, value in self._headers},
                body=self._body,
            )
        )


class Producer:
    """One connection, from the producer's side."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.transport = Transport()
        self._read = Answers()
        channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Send, in the pieces that a TCP transport reads at most."""
        for start in range(0, len(data), 65536):
            self.channel.dataReceived(data[start : start + 65536])

    def taken(self) -> bytes:
        """Return the bytes that came since the last call."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    @property
    def answers(self) -> list[SimpleNamespace]:
        self._read.feed(self.taken())
        return self._read.all

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def is_paused(self) -> bool:
        return self.transport.producerState == "paused"

    @property
    def is_ending(self) -> bool:
        return self.transport.disconnecting or self.transport.half_closed or self.transport.aborted


class Door:
    """The producers' side of a node."""

    def __init__(
        self,
        limits: WebLimits,
        policies: Sequence[Policy] = (),
        routes: Sequence[tuple[str, tuple[str, ...]]] = (),
        proxies: Proxies | None = None,
    ) -> None:
        self.clock = Clock()
        self.waits = FakeWaits()
        self.standings = FakeStandings()
        self.acceptor = FakeAcceptor()
        self.endpoint = Endpoint()
        self.upstreams = Upstreams(self.clock, READS_MAX, lambda *_: self.endpoint)
        through = Through(self.upstreams, b"thisnode")
        self.tally = Tally()
        doors = {
            policy.path: route_door.Door(policy) for policy in policies if not policy.asks_nothing
        }
        self.entrance = Entrance(doors, self.wall_us, self.clock.seconds, self.tally, proxies)
        taken = [RouteDefinition(*route, "refuse", None) for route in routes] or ROUTES
        waits = {policy.path: policy.wait_s for policy in policies if policy.wait_s}
        paths = {route.path for route in taken}
        pages = MessagePages(self.standings, paths, self.entrance, waits, proxies)
        self.ingest = Ingest(
            self.acceptor, taken, self.wall_us, through, self.entrance, proxies,
            Waiting(self.waits, waits, self.clock) if waits else None, pages,
        )  # fmt: skip
        self.router = Router(self.ingest.app, (), self.entrance)
        self.producers = Producers(
            self.clock, self.router, limits, lambda: WALL_S + self.clock.seconds(), self.tally
        )
        self.producers.start()

    def wall_us(self) -> int:
        return int((WALL_S + self.clock.seconds()) * 1_000_000)

    def connect(self) -> Producer:
        channel = self.producers.buildProtocol(None)
        assert channel is not None
        return Producer(channel)

    def turn(self) -> None:
        """Let the reactor take a turn."""
        self.clock.advance(0)

    def wait(self, wait_s: float) -> None:
        """Let time pass in steps of the sweep."""
        for _ in range(int(wait_s / 0.5) + 1):
            self.clock.advance(0.5)


@pytest.fixture(scope="session")
def make_door():
    """Return what makes a fresh door with some of the limits changed."""
    return lambda policies=(), routes=(), proxies=None, **limits: Door(
        WebLimits(**limits), policies, routes, proxies
    )


@pytest.fixture
def door(make_door):
    return make_door()


@pytest.fixture
def post():
    """Return what makes a request's bytes."""

    def make(target: bytes = b"/leads", body: bytes = b"", *headers: bytes) -> bytes:
        lines = [b"POST %s HTTP/1.1" % target, b"Host: crowd.test", *headers]
        lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join([*lines, b"", body])

    return make
