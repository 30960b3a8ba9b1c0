# ruff: noqa: N802 - Twisted's names
"""The same Klein app under crowd's channel and under Twisted's own server, over real sockets."""

from __future__ import annotations

import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet import defer, endpoints, protocol, reactor, ssl
from twisted.trial.unittest import TestCase
from twisted.web.server import Site

from crowd.definition import Proof, RouteDefinition
from crowd.delivery.awaited import Ending
from crowd.door.door import Door
from crowd.errors import (
    BacklogFullError,
    DrainingError,
    KeyReusedError,
    NoQuorumError,
    OutcomeUnknownError,
)
from crowd.idempotency import Grouped, Replayed
from crowd.ledger.standings import Standing, WithConsumer
from crowd.message import ConsumerId, Position, RouteId, decode_message
from crowd.policy import CertificatePolicy, CorsPolicy, KeyPolicy, Policy
from crowd.raft.certificates import make_authority, make_node
from crowd.reads.upstream import Upstreams
from crowd.web.entrance import Entrance
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import ProducerListener, Producers
from crowd.web.messages import Absence, MessagePages
from crowd.web.router import Router
from crowd.web.through import Through
from crowd.web.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence


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

    def accept_group(
        self, _: RouteId, stored: Sequence[bytes], keys: bytes
    ) -> defer.Deferred[Grouped]:
        self.stored.extend(stored)
        self.digests.append(keys)
        accepted: defer.Deferred[Grouped] = defer.Deferred()
        outcome: Any = Grouped(Position(7), len(stored), ((1, 1, 3),) if keys else ())
        if decode_message(stored[0]).body == b'"KeyReusedError"':
            outcome = KeyReusedError("as told")
        step = accepted.errback if isinstance(outcome, Exception) else accepted.callback
        reactor.callLater(0, step, outcome)
        return accepted


class Waits:
    """Ends a wait in the reactor's next turn; of every second one nobody can tell."""

    def __init__(self) -> None:
        self.late = False

    def consumer_of(self, _: RouteId) -> ConsumerId:
        return ConsumerId(3)

    def wait(self, _: Position, __: ConsumerId, ___: float) -> defer.Deferred[Ending | None]:
        ended: defer.Deferred[Ending | None] = defer.Deferred()
        self.late = not self.late
        headers = ((b"Content-Type", b"a/b"), (b"Location", b"/made"), (b"ETag", b"x"))
        made = Ending("delivered", 201, headers, b"made")
        reactor.callLater(0, ended.callback, made if self.late else None)
        return ended

    def leave(self, *_: object) -> None:
        """Nothing: every wait is over soon."""


class Standings:
    """Knows two messages, and one that is gone."""

    tag = "0123abcd"

    def find(self, position: Position) -> defer.Deferred[Standing | Absence]:
        if not 0 < position <= 8:
            return defer.succeed(Absence.UNKNOWN)
        route = {7: "/leads", 8: "/keyed"}.get(position)
        known = (WithConsumer("rest-api", "retrying", 2),)
        return defer.succeed(
            Absence.RELEASED if route is None else Standing(position, route, "retrying", known)
        )


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


KEY = b"Authorization: Bearer crowd_key"
PAGE = b"Origin: https://shop.example"
ASKS = b"Access-Control-Request-Method: POST"
POLICY = Policy(
    "/keyed",
    ("POST", "PUT"),
    keys=(KeyPolicy("shop-a", (sha256(b"crowd_key").hexdigest(),)),),
    key_from=("bearer",),
    cors=CorsPolicy(("https://shop.example",), (), ("Crowd-Message-Id",), False, 600),
)

MANY = Policy("/many", ("POST", "PUT"), many=True, idempotency="event")
LINES = b"Content-Type: application/x-ndjson"

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
    **{
        f"a read: {name}": _request(b"GET /api/" + name.encode())
        for name in ("sized", "chunked", "moved", "unchanged", "none", "late", "nonsense", "dies")
    },
    "a read: of the head": _request(b"HEAD /api/sized"),
    "a read: of options": _request(b"OPTIONS /api/none"),
    "a read: of options here": _request(b"OPTIONS /api/none", b"", b"Max-Forwards: 0"),
    "a read: in a loop": _request(b"GET /api/sized", b"", b"Crowd-Through: thisnode"),
    "a read: with a body": _request(b"GET /api/echo", b"abc", b"X-A: b"),
    "an API key": _request(b"POST /keyed", b"x", KEY, b"X-A: b"),
    "a page and a key": _request(b"POST /keyed", b"x", KEY, PAGE),
    "a page without a key": _request(b"POST /keyed", b"x", PAGE),
    "another key": _request(b"POST /keyed", b"x", b"Authorization: Bearer no"),
    "another page": _request(b"POST /keyed", b"x", KEY, b"Origin: http://other"),
    "a preflight": _request(b"OPTIONS /keyed", b"", PAGE, ASKS),
    "another page's preflight": _request(b"OPTIONS /keyed", b"", b"Origin: http://other", ASKS),
    "a wait": _request(b"POST /any/x", b"x", b"Prefer: wait=5, a"),
    "a wait in vain": _request(b"POST /any/x", b"late", b"Prefer: wait=5"),
    "a wait and a known key": _request(
        b"POST /any/x", b"known", b"Prefer: wait=5", b"Idempotency-Key: k"
    ),
    "a wait where nobody waits": _request(b"POST /leads", b"x", b"Prefer: wait=5"),
    "a wait that is refused": _request(b"POST /any/x", b"NoQuorumError", b"Prefer: wait=5"),
    "a message's state": _request(b"GET /.crowd/messages/0123abcd-0000000000000007"),
    "a state's head": _request(b"HEAD /.crowd/messages/0123abcd-0000000000000007"),
    "a state's options": _request(b"OPTIONS /.crowd/messages/0123abcd-0000000000000007"),
    "a state of a door": _request(b"GET /.crowd/messages/0123abcd-0000000000000008", b"", KEY),
    "a state without a key": _request(b"GET /.crowd/messages/0123abcd-0000000000000008"),
    "a state that is gone": _request(b"GET /.crowd/messages/0123abcd-0000000000000001"),
    "a state of nothing": _request(b"GET /.crowd/messages/0123abcd-0000000000000099"),
    "a message to what is crowd's own": _request(b"POST /.crowd/messages/x", b"x"),
    "what is not there of it": _request(b"POST /.crowd/x/y", b"x"),
    "many lines": _request(b"POST /many?x", b'{"a":1}\r\n[2]\n', LINES, b"X-A: b"),
    "many and gzip": _request(b"POST /many", b"1\n2", LINES, b"Accept-Encoding: gzip"),
    "an array": _request(b"POST /many", b" [1, [2]]", b"Content-Type: application/json"),
    "one of many": _request(b"POST /many", b'{"a": 1}', b"Content-Type: application/json"),
    "many of which one is bad": _request(b"POST /many", b"1\n{]\n3", LINES),
    "many that are none": _request(b"POST /many", b"\n", LINES),
    "many too many": _request(b"POST /many", b"1\n" * 5_000, LINES),
    "many under a key": _request(b"POST /many", b"1\n2\n", LINES, b"Idempotency-Key: k"),
    "many under another's key": _request(b"POST /many", b'"KeyReusedError"\n', LINES),
    "many in a coding": _request(b"POST /many", b"1\n", LINES, b"Content-Encoding: zstd"),
    "a batch of events": _request(
        b"POST /many",
        b'[{"id": "1", "source": "/"}, {"id": "2", "source": "/"}]',
        b"Content-Type: application/cloudevents-batch+json",
    ),
    "an event": _request(b"POST /many", b"x", b"ce-specversion: 1.0", b"ce-id: 1", b"ce-source: /"),
    "an event without a name": _request(b"POST /many", b"x", b"ce-specversion: 1.0"),
    "options of a door": _request(b"OPTIONS /keyed"),
    "another method of a door": _request(b"DELETE /keyed", b"x", PAGE),
}


def _own(certificate: bytes, key: bytes) -> dict[str, Any]:
    """Return what a side of TLS shows of itself."""
    made = ssl.PrivateCertificate.loadPEM(key + certificate)
    return {"privateKey": made.privateKey.original, "certificate": made.original}


COMPARED = (b"content-type", b"vary", b"content-encoding", b"content-length", b"crowd-message-id",
            b"allow", b"retry-after", b"idempotent-replayed", b"etag", b"location", b"via", b"transfer-encoding",
            b"www-authenticate", b"access-control-allow-origin",
            b"access-control-allow-methods", b"access-control-expose-headers",
            b"preference-applied", b"crowd-state", b"cache-control")  # fmt: skip

UPSTREAM = {
    b"sized": [b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Type: a/b\r\nContent-Length: 3\r\n\r\nabc"],
    b"chunked": [
        b"HTTP/1.1 200 OK\r\nServer: it\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"3\r\ndef\r\n", b"0\r\n\r\n",
    ],
    b"moved": [b"HTTP/1.1 301 Moved\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n"],
    b"unchanged": [b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"],
    b"none": [b"HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n"],
    b"late": [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc", b"def"],
    b"nonsense": [b"it does not speak HTTP\r\n\r\n"],
    b"dies": [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc", b""],
}  # fmt: skip
"""What the upstream says to each read, in pieces; nothing more after an empty one."""


class Upstream(protocol.Protocol):
    """Answers each read as `UPSTREAM` says, a piece in each turn."""

    came = b""

    def dataReceived(self, data: bytes) -> None:
        self.came += data
        head, mark, body = self.came.partition(b"\r\n\r\n")
        target = head.split(b" ")[1].rpartition(b"/")[2]
        if not mark or (target == b"echo" and len(body) < 3):
            return
        self.came = b""
        echoed = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        pieces = list(UPSTREAM.get(target, [echoed]))
        if head.startswith(b"HEAD"):
            pieces[0] = pieces[0].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        self.say(pieces)

    def say(self, pieces: list[bytes]) -> None:
        if not pieces:
            return
        if pieces[0]:
            self.transport.write(pieces[0])
            reactor.callLater(0.01, self.say, pieces[1:])
        else:
            self.transport.loseConnection()


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
            for path in ("/leads", "/new", "/any/<path:rest>", "/keyed", "/many")
        )
        behind = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            protocol.Factory.forProtocol(Upstream)
        )
        self.addCleanup(behind.stopListening)
        url = f"http://127.0.0.1:{behind.getHost().port}"
        reads = RouteDefinition("/api/<path:rest>", ("POST",), "proxy", url)
        upstreams = Upstreams(reactor, 16)
        self.addCleanup(upstreams.abort)
        through = Through(upstreams, b"thisnode")
        doors = {policy.path: Door(policy) for policy in (POLICY, MANY)}
        entrance = Entrance(doors, lambda: 0, time.monotonic)
        pages = MessagePages(Standings(), {"/leads", "/keyed"}, entrance)
        ingest = Ingest(
            acceptor, (*routes, reads), lambda: time.time_ns() // 1000, through, entrance, None,
            Waiting(Waits(), {"/any/<path:rest>": 9.0}, reactor), pages,
        )  # fmt: skip
        endpoint = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        if stock:
            port = await endpoint.listen(Site(ingest.app.resource()))
            self.addCleanup(port.stopListening)
        else:
            router = Router(ingest.app, (), entrance)
            producers = Producers(reactor, router, WebLimits(), time.time)
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
            assert our_answers["a read: chunked"].endswith(b"0\r\n\r\n")
            assert our_answers["a read: dies"].endswith(b"abc")
            for name, data in our_answers.items():
                assert _answer(data) == _answer(their_answers[name]), name
            assert [*map(_message, ours.stored)] == [*map(_message, theirs.stored)]
            assert ours.digests == theirs.digests
            assert len(set(ours.digests)) == 8
            assert len(self.flushLoggedErrors(RuntimeError)) == 2

        return defer.Deferred.fromCoroutine(run())


class TestReadsOverTLS(TestCase):
    """A long answer through TLS on both sides, to a reader that stops now and then."""

    timeout = 30

    def test_a_long_answer_to_a_reader_that_stops(self):
        ours = make_authority("ours")
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        authority = Path(directory.name, "ca.pem")
        authority.write_bytes(ours[0])

        async def run() -> None:
            size = 4 << 20
            context = ssl.PrivateCertificate.loadPEM(
                b"".join(make_node(*ours, "ours", "server", ["127.0.0.1"]))
            ).options()

            def listens() -> Any:
                plain = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
                return endpoints.wrapServerTLS(context, plain)

            UPSTREAM[b"long"] = [
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
            ]
            self.addCleanup(UPSTREAM.pop, b"long")
            behind = await listens().listen(protocol.Factory.forProtocol(Upstream))
            self.addCleanup(behind.stopListening)
            route = RouteDefinition(
                "/api/<path:rest>", (), "proxy", f"https://127.0.0.1:{behind.getHost().port}",
                proof=Proof(authority=str(authority)),
            )  # fmt: skip
            upstreams = Upstreams(reactor, 16)
            self.addCleanup(upstreams.abort)
            ingest = Ingest(Acceptor(), (route,), lambda: 0, Through(upstreams, b"thisnode"))
            producers = Producers(reactor, Router(ingest.app), WebLimits(), time.time)
            listener = ProducerListener(reactor, [listens()], producers, drain_s=2.0)
            listener.startService()
            self.addCleanup(listener.stopService)
            (port,) = await listener.listening
            target = endpoints.wrapClientTLS(
                ssl.CertificateOptions(),
                endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port),
            )
            reader = await endpoints.connectProtocol(target, Client(_request(b"GET /api/long")))
            for _ in range(5):
                reader.transport.pauseProducing()
                turn: defer.Deferred[None] = defer.Deferred()
                reactor.callLater(0.05, turn.callback, None)
                await turn
                reader.transport.resumeProducing()
                again: defer.Deferred[None] = defer.Deferred()
                reactor.callLater(0.01, again.callback, None)
                await again
            head, _, body = (await reader.done).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert body == bytes(size)
            assert upstreams.tally.in_flight == 0
            assert not any(upstreams.tally.failures.values())

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

    def test_a_certificate_says_who_posts(self):
        """Of an authority that is trusted in the handshake; its names are looked at by the door."""

        async def run(shown: str) -> bytes:
            acceptor = Acceptor()
            authority, key = make_authority("leads")
            trusted = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(authority)])
            context = ssl.CertificateOptions(
                **_own(*make_node(authority, key, "leads", "a", ["127.0.0.1"])), trustRoot=trusted
            )
            policy = Policy(
                "/leads",
                ("POST",),
                certificates=(CertificatePolicy("shop", ("dns:shop.leads.crowd",)),),
            )
            entrance = Entrance({"/leads": Door(policy)}, lambda: 0, time.monotonic)
            routes = (RouteDefinition("/leads", ("POST",), "refuse", None),)
            ingest = Ingest(acceptor, routes, lambda: 0, None, entrance)
            producers = Producers(reactor, Router(ingest.app, (), entrance), WebLimits(), time.time)
            plain = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
            endpoint = endpoints.wrapServerTLS(context, plain)
            listener = ProducerListener(reactor, [endpoint], producers, drain_s=2.0)
            listener.startService()
            self.addCleanup(listener.stopService)
            (port,) = await listener.listening
            own = _own(*make_node(authority, key, "leads", shown, ["127.0.0.1"]))
            target = endpoints.wrapClientTLS(
                ssl.CertificateOptions(**own),
                endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port),
            )
            client = await endpoints.connectProtocol(target, Client(REQUESTS["a message"]))
            return await client.done

        async def both() -> None:
            assert (await run("shop")).startswith(b"HTTP/1.1 200 ")
            refused = await run("other")
            assert refused.startswith(b"HTTP/1.1 403 ")
            assert b"/problems/wrong-certificate" in refused

        return defer.Deferred.fromCoroutine(both())

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
