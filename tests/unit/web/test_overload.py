"""Slow producers in all three phases, and more of them than there is room for, over real sockets."""

from __future__ import annotations

import socket
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import defer, endpoints, reactor, threads
from twisted.trial.unittest import TestCase

from crowd.definition import RouteDefinition
from crowd.message import Position, RouteId
from crowd.web.acceptance import LATE_S, Acceptance
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import IDLE_WHEN_FULL_S, ProducerListener, Producers
from crowd.web.router import Router

POST = b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"


class Acceptor:
    """Accepts after `wait_s`."""

    tag = "0123abcd"

    def __init__(self, wait_s: float) -> None:
        self.stored = 0
        self._wait_s = wait_s

    def route_id(self, _: str) -> RouteId:
        return RouteId(1)

    def accept(self, _: RouteId, __: bytes, ___: bytes) -> defer.Deferred[Position]:
        self.stored += 1
        accepted: defer.Deferred[Position] = defer.Deferred()
        reactor.callLater(self._wait_s, accepted.callback, Position(self.stored))
        return accepted


def read_all(connected: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connected.recv(65536):
            found += piece
    except ConnectionError:
        pass
    return found


def dribble(port: int, head: bytes) -> tuple[bytes, float]:
    """Send `head`, then a byte every now and then; return the answer, and after how long."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 20) as slow:
        slow.sendall(head)
        slow.settimeout(0.1)
        while time.monotonic() - began < 15:
            try:
                first = slow.recv(65536)
            except TimeoutError:
                slow.sendall(b"a")
                continue
            except ConnectionError:
                first = b""
            slow.settimeout(5)
            return first + read_all(slow), time.monotonic() - began
    raise AssertionError("never let go")


def never_read(port: int) -> float:
    """Post on and on without reading an answer; return after how long that ends."""
    began = time.monotonic()
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", port))
    slow.settimeout(1.0)
    with slow:
        while time.monotonic() - began < 30:
            try:
                slow.sendall(POST * 200)
            except TimeoutError:
                continue  # it is not read either: back-pressure
            except ConnectionError:
                return time.monotonic() - began
    raise AssertionError("never let go")


class TestOverload(TestCase):
    timeout = 60

    async def _listen(self, wait_s: float = 0.0, **limits: Any) -> int:
        self.acceptor = Acceptor(wait_s)
        routes = (RouteDefinition("/leads", ("POST",), "refuse", None),)
        router = Router(Ingest(self.acceptor, routes, lambda: 0).app)
        self.producers = Producers(reactor, router, WebLimits(**limits), lambda: 0.0)
        endpoint = endpoints.TCP4ServerEndpoint(reactor, 0, backlog=200, interface="127.0.0.1")
        listener = ProducerListener(reactor, [endpoint], self.producers, drain_s=1.0)
        listener.startService()
        self.addCleanup(listener.stopService)
        (port,) = await listener.listening
        found: int = port.getHost().port
        return found

    def test_a_slow_head_and_a_slow_body(self) -> defer.Deferred[None]:
        """Both hear 408 when their time is over, however they dribble."""

        async def run() -> None:
            port = await self._listen(head_s=0.5, body_s=1.0, linger_s=0.5)
            heads = (
                b"POST /leads HTTP/1.1\r\nHost: a\r\nA: ",
                b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n",
                POST + b"POST /leads HTTP/1.1\r\n",
            )
            waiting = [threads.deferToThread(dribble, port, head) for head in heads]
            found = await defer.gatherResults(waiting)
            for answer, after_s in found:
                assert b"HTTP/1.1 408 " in answer
                assert 0.4 < after_s < 10
            assert self.acceptor.stored == 1

        return defer.ensureDeferred(run())

    def test_answers_that_nobody_reads(self) -> defer.Deferred[None]:
        """The connection is not read on, and ends; others do not notice."""

        async def run() -> None:
            port = await self._listen(idle_s=1.0, answer_s=2.0, linger_s=0.5)
            assert await threads.deferToThread(never_read, port) < 25
            assert self.producers.budget.used == 0

        return defer.ensureDeferred(run())

    def test_more_connections_than_there_is_room_for_wait(self) -> defer.Deferred[None]:
        """They are not accepted while the node is full, and served when it is not."""

        def connect(port: int) -> socket.socket:
            return socket.create_connection(("127.0.0.1", port), 30)

        def post(one: socket.socket) -> bytes:
            with one:
                one.sendall(POST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                return read_all(one)

        async def turns(count: int) -> None:
            for _ in range(count):
                turn: defer.Deferred[None] = defer.Deferred()
                reactor.callLater(0, turn.callback, None)
                await turn

        async def run() -> None:
            port = await self._listen(connections_max=10)
            first = [await threads.deferToThread(connect, port) for _ in range(10)]
            while self.producers.connections < 10:
                await turns(1)
            assert not self.producers.acceptance.goes_on
            others = [threads.deferToThread(lambda: post(connect(port))) for _ in range(8)]
            await turns(200)
            assert self.producers.connections == 10
            assert self.acceptor.stored == 0
            for one in first:
                assert (await threads.deferToThread(post, one)).startswith(b"HTTP/1.1 200 ")
            for answer in await defer.gatherResults(others):
                assert answer.startswith(b"HTTP/1.1 200 ")
            assert self.producers.connections_refused == 0
            assert self.acceptor.stored == 18

        return defer.ensureDeferred(run())


def test_a_reactor_that_is_late_accepts_no_more(make_door, post):
    """Until it comes in time again; what is there is served meanwhile."""
    door = make_door()
    changes: list[bool] = []
    door.producers.on_acceptance = lambda: changes.append(door.producers.acceptance.goes_on)
    producer = door.connect()
    door.wait(3)
    assert changes == []
    door.clock.advance(0.5 + LATE_S + 0.1)
    assert changes == [False]
    producer.send(post(b"/leads", b"x"))
    door.acceptor.answer_all()
    assert producer.statuses == [200]
    door.clock.advance(0.5)
    assert changes == [False, True]
    assert door.producers.acceptance.pauses == 1


def test_idle_connections_make_room(make_door, post):
    """While others wait, who has nothing to say is let go early; who has is not."""
    door = make_door(connections_max=20)
    idle = [door.connect() for _ in range(19)]
    busy = door.connect()
    busy.send(post(b"/leads", b"x"))
    assert not door.producers.acceptance.goes_on
    door.wait(IDLE_WHEN_FULL_S + 1)
    assert all(one.is_ending for one in idle)
    assert not busy.is_ending


@given(st.integers(1, 500), st.lists(st.one_of(st.integers(0, 600), st.floats(0, 3)), max_size=40))
def test_acceptance_against_a_model(most, seen):
    """Full from the mark on, until there are fewer by some; late for as long as it is late."""
    acceptance = Acceptance(most)
    assert acceptance.goes_on
    pauses = 0
    full = late = False
    for each in seen:
        before = acceptance.goes_on
        if isinstance(each, int):
            changed = acceptance.count(each)
            full = each >= most or (full and acceptance.is_full)
            assert acceptance.is_full == full
        else:
            changed = acceptance.came(each)
            late = each > LATE_S
        assert acceptance.goes_on == (not (full or late))
        assert changed == (before != acceptance.goes_on)
        pauses += before and not acceptance.goes_on
    assert acceptance.pauses == pauses
    acceptance.came(0.0)
    acceptance.count(0)
    assert acceptance.goes_on
