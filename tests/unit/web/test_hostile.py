# ruff: noqa: N802 - Twisted's names
"""Malformed and hostile requests, over real sockets and in memory: what is refused is not stored.

Each case comes whole and byte by byte, with the same outcome. Whatever is stored was answered
2xx, once: the acceptor's list and the answers are compared.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from twisted.internet import defer, endpoints, protocol, reactor
from twisted.trial.unittest import TestCase

from crowd.definition import RouteDefinition
from crowd.message import Position, RouteId, decode_message
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import Producers
from crowd.web.router import Router
from tests.unit.web.conftest import Answers
from tests.unit.web.hostile.case import NEXT, Case
from tests.unit.web.hostile.table import THEMES

SENTINEL = NEXT.replace(b"next", b"last")
AT_ONCE = 40
BYTEWISE_MAX = 2_000
"""Longer cases come in pieces of 97 bytes: they are about amounts."""

CASES = [case for cases in THEMES.values() for case in cases]
ROUTES = (
    RouteDefinition("/leads", ("POST", "PUT"), "refuse", None),
    RouteDefinition("/any/<path:rest>", ("POST",), "refuse", None),
)


def pieces(case: Case, *, whole: bool) -> list[bytes]:
    """Return a case's bytes as they are sent, and what proves that the connection goes on."""
    data = case.data
    if whole:
        cut = [data]
    else:
        size = 1 if len(data) <= BYTEWISE_MAX else 97
        cut = [data[at : at + size] for at in range(0, len(data), size)]
    return cut if case.closes or case.waits else [*cut, SENTINEL]


def expected(case: Case) -> tuple[list[int], list[bytes]]:
    """Return the statuses and the stored bodies, the sentinel's among them."""
    more = not (case.closes or case.waits)
    return [*case.answers, *([200] * more)], [*case.stored, *([b"last"] * more)]


def test_the_table_is_sound():
    names = [f"{theme}: {case.name}" for theme, cases in THEMES.items() for case in cases]
    assert len(set(names)) == len(names) >= 260
    for case in CASES:
        assert len(case.stored) == case.answers.count(200)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "bytewise"])
@pytest.mark.parametrize("theme", THEMES)
def test_in_memory(make_door, theme, whole):
    """The same cases against the channel alone, and nothing behind a refusal is looked at."""
    for case in THEMES[theme]:
        door = make_door()
        producer = door.connect()
        for piece in pieces(case, whole=whole):
            producer.send(piece)
            if not producer.transport.disconnecting:
                door.acceptor.answer_all()
                door.turn()
        if case.closes:
            producer.send(SENTINEL)
        door.acceptor.answer_all()
        door.turn()
        statuses = [status for status in producer.statuses if status != 100]
        bodies = [message.body for message in door.acceptor.messages]
        assert (statuses, bodies) == expected(case), case.name
        assert producer.is_ending == case.closes, case.name
        if case.closes:
            assert producer.answers[-1].fields[b"connection"] == b"close", case.name


class Acceptor:
    """Accepts in the reactor's next turn, and keeps what it was offered."""

    tag = "0123abcd"

    def __init__(self) -> None:
        self.stored: list[bytes] = []

    def route_id(self, _: str) -> RouteId:
        return RouteId(1)

    def accept(self, _: RouteId, stored: bytes, digests: bytes) -> defer.Deferred[Position]:
        self.stored.append(decode_message(stored).body)
        accepted: defer.Deferred[Position] = defer.Deferred()
        reactor.callLater(0, accepted.callback, Position(len(self.stored)))
        return accepted


class Client(protocol.Protocol):
    """Sends one piece in each turn of the reactor, and reads until the other side ends."""

    def __init__(self, sent: list[bytes], *, hangs_up: bool) -> None:
        self._pieces = deque(sent)
        self._hangs_up = hangs_up
        self.answers = Answers()
        self.done: defer.Deferred[None] = defer.Deferred()

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._send()

    def _send(self) -> None:
        if self._pieces and self.transport.connected:
            self.transport.write(self._pieces.popleft())
            reactor.callLater(0, self._send)
        elif self._hangs_up:
            self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self.answers.feed(data)

    def connectionLost(self, reason: Any = None) -> None:
        if not self.done.called:
            self.done.callback(None)


class TestOverSockets(TestCase):
    """Every case on a listening port of its own, many of them at a time."""

    timeout = 60

    async def _converse(self, case: Case, *, whole: bool) -> tuple[list[int], list[bytes]]:
        acceptor = Acceptor()
        router = Router(Ingest(acceptor, ROUTES, lambda: 0).app)
        producers = Producers(reactor, router, WebLimits(), lambda: 0.0)
        port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            producers
        )
        client = Client(pieces(case, whole=whole), hangs_up=not case.closes)
        there = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        await endpoints.connectProtocol(there, client)
        await client.done
        await port.stopListening()
        statuses = [answer.status for answer in client.answers.all if answer.status != 100]
        return statuses, acceptor.stored

    async def _theme(self, theme: str, *, whole: bool) -> None:
        waiting, wrong = deque(THEMES[theme]), []

        async def work() -> None:
            while waiting:
                case = waiting.popleft()
                found = await self._converse(case, whole=whole)
                if found != expected(case):
                    wrong.append((case.name, "expected", expected(case), "found", found))

        await defer.gatherResults([defer.ensureDeferred(work()) for _ in range(AT_ONCE)])
        assert not wrong, wrong


def _both(theme: str, *, whole: bool) -> Any:
    def test(self: TestOverSockets) -> defer.Deferred[None]:
        return defer.ensureDeferred(self._theme(theme, whole=whole))

    return test


for _theme in THEMES:
    setattr(TestOverSockets, f"test_{_theme}_whole", _both(_theme, whole=True))
    setattr(TestOverSockets, f"test_{_theme}_byte_by_byte", _both(_theme, whole=False))
