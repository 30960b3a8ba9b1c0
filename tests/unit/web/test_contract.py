# ruff: noqa: N802 - Twisted's names
"""The same Klein app under crowd's channel and under Twisted's own server, over real sockets."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet import defer, endpoints, protocol, reactor, ssl
from twisted.trial.unittest import TestCase
from twisted.web.server import Site

from crowd.command import RouteDefinition
from crowd.errors import (
    BacklogFullError,
    DrainingError,
    KeyReusedError,
    NoQuorumError,
    OutcomeUnknownError,
)
from crowd.idempotency import Replayed
from crowd.message import Position, RouteId, decode_message
from crowd.raft.certificates import make_authority
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import ProducerListener, Producers
from crowd.web.router import Router


class Acceptor:
    """Answers a message in the reactor's next turn, as its body says."""

    tag = "0123abcd"
    errors = (
        BacklogFullError, DrainingError, KeyReusedError, NoQuorumError, OutcomeUnknownError
    )  # fmt: skip

    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.digests: list[bytes] = []

    def route_id(self, path: str) -> RouteId | None:
        return None if path == "/new" else RouteId(1)

    def accept(self, _: RouteId, stored: bytes, digests: bytes) -> defer.Deferred[Position]:
        self.stored.append(stored)
        self.digests.append(digests)
        accepted: defer.Deferred[Position] = defer.Deferred()
        body = decode_message(stored).body
        outcome: Any = Position(7)
        for error in self.errors:
            if error.__name__.encode() == body:
                outcome = error("as told")
        if body == b"known":
            outcome = Replayed(Position(3))
        if body == b"a defect":
            outcome = RuntimeError("as told")
        step = accepted.errback if isinstance(outcome, Exception) else accepted.callback
        reactor.callLater(0, step, outcome)
        return accepted


class Client(protocol.Protocol):
    """Sends one request and collects until the other side closes."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.data = b""
        self.done: defer.Deferred[bytes] = defer.Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.request)

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: object = None) -> None:
        self.done.callback(self.data)


def _request(line: bytes, body: bytes = b"", *headers: bytes) -> bytes:
    lines = [line + b" HTTP/1.1", b"Host: crowd.test", b"Connection: close", *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


REQUESTS = {
    "a message": _request(b"POST /leads", b'{"shop": "a23m07b23"}', b"Content-Type: a/b"),
    "no body": _request(b"POST /leads"),
    "a query": _request(b"POST /leads?a=%2f&b=[1]|", b"x"),
    "a binary body": _request(b"PUT /leads", bytes(range(256)) * 50),
    "gzip": _request(b"POST /leads", b"x", b"Accept-Encoding: gzip"),
    "not gzip": _request(b"POST /leads", b"x", b"Accept-Encoding: gzip;q=0, *;q=0"),
    "a key": _request(b"POST /leads", b"x", b'Idempotency-Key: "a key"'),
    "a bare key": _request(b"POST /any/x?y", b"x", b"idempotency-key: a-key"),
    "a known key": _request(b"POST /leads", b"known", b"Idempotency-Key: k"),
    "a key that is none": _request(b"POST /leads", b"x", b"Idempotency-Key: a, b"),
    "two keys": _request(b"POST /leads", b"x", b"Idempotency-Key: a", b"idempotency-key: a"),
    "chunked": (
        b"POST /leads HTTP/1.1\r\nHost: crowd.test\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ),
    "hop-by-hop": _request(
        b"POST /leads", b"x", b"Keep-Alive: 5", b"Crowd-Why: x", b"TE: trailers"
    ),
    "part of a path": _request(b"POST /any/a%20b/c//d/", b"x"),
    "a slash more": _request(b"POST /leads/", b"x"),
    "an unknown route": _request(b"POST /nowhere", b"x"),
    "a route the ledger has not": _request(b"POST /new", b"x"),
    "another method": _request(b"DELETE /leads", b"x"),
    "a read": _request(b"GET /leads"),
    "options": _request(b"OPTIONS /leads"),
    "a fragment": _request(b"POST /any/a#b", b"x"),
    **{
        error.__name__: _request(b"POST /leads", error.__name__.encode())
        for error in Acceptor.errors
    },
    "a defect": _request(b"POST /leads", b"a defect"),
}

COMPARED = (b"content-type", b"vary", b"content-encoding", b"content-length", b"crowd-message-id",
            b"allow", b"retry-after", b"idempotent-replayed")  # fmt: skip


def _answer(data: bytes) -> tuple[object, ...]:
    """Return what must be equal of an answer: status, fields and body."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    fields = {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines)}
    return status.split()[1], {name: fields.get(name) for name in COMPARED}, body


def _message(stored: bytes) -> tuple[object, ...]:
    """Return what must be equal of a message: Twisted's server loses headers' order and case."""
    message = decode_message(stored)
    headers = sorted((name.lower(), value) for name, value in message.headers)
    return message.method, message.target, headers, message.body, message.client, message.scheme


class TestContract(TestCase):
    """Requests get the same answers and become the same messages."""

    timeout = 20

    async def _serve(self, *, stock: bool) -> tuple[Acceptor, dict[str, bytes]]:
        acceptor = Acceptor()
        routes = tuple(
            RouteDefinition(path, ("POST", "PUT"), "refuse", None)
            for path in ("/leads", "/new", "/any/<path:rest>")
        )
        ingest = Ingest(acceptor, routes, lambda: time.time_ns() // 1000)
        endpoint = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        if stock:
            port = await endpoint.listen(Site(ingest.app.resource()))
            self.addCleanup(port.stopListening)
        else:
            producers = Producers(reactor, Router(ingest.app), WebLimits(), time.time)
            listener = ProducerListener(reactor, [endpoint], producers, drain_s=2.0)
            listener.startService()
            self.addCleanup(listener.stopService)
            (port,) = await listener.listening
        answers = {}
        for name, request in REQUESTS.items():
            target = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
            client = await endpoints.connectProtocol(target, Client(request))
            answers[name] = await client.done
        return acceptor, answers

    def test_both_servers_answer_alike(self):
        async def run() -> None:
            ours, our_answers = await self._serve(stock=False)
            theirs, their_answers = await self._serve(stock=True)
            for name, data in our_answers.items():
                assert _answer(data) == _answer(their_answers[name]), name
            assert [*map(_message, ours.stored)] == [*map(_message, theirs.stored)]
            assert ours.digests == theirs.digests
            assert len(set(ours.digests)) == 4
            assert len(self.flushLoggedErrors(RuntimeError)) == 2

        return defer.Deferred.fromCoroutine(run())


class TestListener(TestCase):
    """The listening service over real sockets."""

    timeout = 10

    def test_a_taken_port_is_an_error_of_listening(self):
        async def run() -> None:
            port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
                protocol.Factory()
            )
            self.addCleanup(port.stopListening)
            taken = endpoints.TCP4ServerEndpoint(
                reactor, port.getHost().port, interface="127.0.0.1"
            )
            router = Router(Ingest(Acceptor(), (), lambda: 0).app)
            producers = Producers(reactor, router, WebLimits(), time.time)
            listener = ProducerListener(reactor, [taken], producers, drain_s=2.0)
            listener.startService()
            failed = None
            try:
                await listener.listening
            except Exception as error:  # noqa: BLE001 - whichever it is, it must be told
                failed = error
            assert "listen" in str(failed).lower()
            await listener.stopService()

        return defer.Deferred.fromCoroutine(run())

    def test_https_with_a_client_that_would_like_http2(self):
        """A client that offers several protocols gets HTTP/1.1; the message remembers https."""

        async def run() -> None:
            acceptor = Acceptor()
            routes = (RouteDefinition("/leads", ("POST",), "refuse", None),)
            router = Router(Ingest(acceptor, routes, lambda: 0).app)
            producers = Producers(reactor, router, WebLimits(), time.time)
            plain = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
            certificate, key = make_authority("leads")
            context = ssl.PrivateCertificate.loadPEM(key + certificate).options()
            endpoint = endpoints.wrapServerTLS(context, plain)
            listener = ProducerListener(reactor, [endpoint], producers, drain_s=2.0)
            listener.startService()
            self.addCleanup(listener.stopService)
            (port,) = await listener.listening
            target = endpoints.wrapClientTLS(
                ssl.CertificateOptions(acceptableProtocols=[b"h2", b"http/1.1"]),
                endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port),
            )
            request = REQUESTS["a message"]
            client = await endpoints.connectProtocol(target, Client(request))
            answer = await client.done
            assert client.transport.negotiatedProtocol == b"http/1.1"
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert decode_message(acceptor.stored[0]).scheme == b"https"

        return defer.Deferred.fromCoroutine(run())

    def test_stopping_closes_idle_connections(self):
        async def run() -> None:
            router = Router(Ingest(Acceptor(), (), lambda: 0).app)
            producers = Producers(reactor, router, WebLimits(), time.time)
            endpoint = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
            listener = ProducerListener(reactor, [endpoint], producers, drain_s=5.0)
            listener.startService()
            (port,) = await listener.listening
            target = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
            client = await endpoints.connectProtocol(target, Client(b""))
            while not producers.connections:
                turn: defer.Deferred[None] = defer.Deferred()
                reactor.callLater(0, turn.callback, None)
                await turn
            await listener.stopService()
            assert await client.done == b""

        return defer.Deferred.fromCoroutine(run())
