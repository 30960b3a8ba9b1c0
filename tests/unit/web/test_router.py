"""Handlers other than crowd's own: what Klein takes, the channel's router takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from klein import Klein, Response
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from werkzeug.exceptions import Gone

from crowd.web.fields import sort_fields
from crowd.web.request import Request
from crowd.web.router import ROUTES_KEPT, Router


class _Connection:
    client = b"192.0.2.7"
    scheme = b"http"
    date = b"Date: now\r\n"

    def __init__(self) -> None:
        self.wires: list[bytes] = []

    def answered(self, request: Request, wire: bytes) -> None:
        assert request.finished
        self.wires.append(wire)

    def peer(self) -> object:
        return SimpleNamespace(host="192.0.2.7", port=1)

    def host(self) -> object:
        return SimpleNamespace(host="192.0.2.8", port=2104)


def _request(method: bytes, target: bytes, body: bytes = b"") -> Request:
    headers = [(b"Host", b"a.test:2104"), (b"X-A", b"1"), (b"x-a", b"2")]
    connection = _Connection()
    return Request(connection, method, target, headers, sort_fields(headers), body, 0, True)


@pytest.fixture
def app() -> Klein:
    return Klein()


@pytest.fixture
def handle(app):
    router = Router(app)

    def run(method: bytes, target: bytes, body: bytes = b"") -> Request:
        request = _request(method, target, body)
        router.handle(request)
        return request

    return run


@pytest.fixture
def logged():
    events: list[dict[str, object]] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def test_what_handlers_may_return(app, handle):
    """Bytes, text, nothing, a Deferred, a coroutine, or Klein's Response."""
    later: Deferred[bytes] = Deferred()

    @app.route("/<kind>")
    def page(request, kind):
        return {
            "bytes": b"b", "text": "é", "none": None, "later": later,
            "response": Response(201, {"X-B": ["1", "2"], "X-C": "3"}, "made"),
        }[kind]  # fmt: skip

    @app.route("/coroutine")
    async def wait(request):
        return await later

    assert handle(b"GET", b"/bytes").connection.wires[0].endswith(b"\r\n\r\nb")
    assert handle(b"GET", b"/text").connection.wires[0].endswith("\r\n\r\né".encode())
    assert b"Content-Length: 0\r\n" in handle(b"GET", b"/none").connection.wires[0]
    made = handle(b"GET", b"/response").connection.wires[0]
    assert made.startswith(b"HTTP/1.1 201 Created\r\nX-B: 1\r\nX-B: 2\r\nX-C: 3\r\n")
    waiting = [handle(b"GET", b"/later"), handle(b"GET", b"/coroutine")]
    assert [request.finished for request in waiting] == [False, False]
    later.callback(b"at last")
    assert waiting[0].connection.wires[0].endswith(b"at last")


def test_requests_have_what_twisteds_have(app, handle):
    seen = {}

    @app.route("/p/<name>", methods=["POST"])
    def page(request, name):
        request.notifyFinish().addCallback(lambda _: seen.update(told=True))
        seen.update(
            name=name, args=request.args, body=request.content.read(),
            headers=request.requestHeaders.getRawHeaders(b"x-a"), last=request.getHeader("X-A"),
            host=request.getRequestHostname(), peer=request.getClientAddress().host,
            port=request.getHost().port, secure=request.isSecure(), path=request.path,
            all=request.getAllHeaders()[b"x-a"], postpath=request.postpath, prepath=request.prepath,
        )  # fmt: skip
        request.setResponseCode(202)
        request.setHeader("X-Done", "yes")
        request.setHeader(b"Content-Length", b"99")
        request.write(b"in ")
        return b"parts"

    request = handle(b"POST", b"/p/a%20b?q=1&q=", b"body")
    request.settle(None)
    assert seen == {
        "name": "a b", "args": {b"q": [b"1", b""]}, "body": b"body", "headers": [b"1", b"2"],
        "last": "2", "host": b"a.test", "peer": "192.0.2.7", "port": 2104, "secure": False,
        "path": b"/p/a%20b", "all": b"2", "postpath": [b"p", b"a b"], "prepath": [], "told": True,
    }  # fmt: skip
    assert request.connection.wires == [
        (
            b"HTTP/1.1 202 Accepted\r\nX-Done: yes\r\nContent-Length: 8\r\nDate: now\r\n"
            b"Connection: keep-alive\r\n\r\nin parts"
        )
    ]
    with pytest.raises(AttributeError):
        request.nothing  # noqa: B018 - reading it is the test


def test_a_handlers_failure_is_a_500_and_a_log_line(app, handle, logged):
    """The producer learns nothing of the inside; the operator learns everything."""

    @app.route("/raise")
    def page(request):
        raise RuntimeError("secret")

    @app.route("/gone")
    def gone(request):
        raise Gone

    @app.route("/odd")
    def odd(request):
        return 5

    for path, count in ((b"/raise", 1), (b"/odd", 2)):
        (wire,) = handle(b"GET", path).connection.wires
        assert wire.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in wire
        failures = [event for event in logged if event.get("log_failure")]
        assert len(failures) == count


def test_matches_are_kept_within_a_bound(app):
    """Paths are the producers' to choose."""

    @app.route("/<path:rest>")
    def page(request, rest):
        return rest

    router = Router(app)
    for number in range(ROUTES_KEPT + 10):
        router.handle(_request(b"GET", b"/%d" % number))
    for _ in range(5):
        again = _request(b"GET", b"/%d" % number)
        router.handle(again)
        assert again.connection.wires[0].endswith(b"%d" % number)
    assert router._match.cache_info().currsize == ROUTES_KEPT
    assert router._match.cache_info().hits == 5


def test_a_node_with_names_answers_to_no_other(app):
    """421, whatever the path; ports, letters' case and a last dot say nothing."""
    router = Router(app, [b"a.test", b"[::1]"])
    app.route("/page")(lambda _: b"here")
    for host, status in (
        (b"a.test", 200), (b"A.Test:2104", 200), (b"a.test.", 200), (b"[::1]:2104", 200),
        (b"b.test", 421), (b"x.a.test", 421), (b"a.test.b", 421), (b"127.0.0.1", 421), (b"", 421),
    ):  # fmt: skip
        request = _request(b"POST", b"/page")
        request.fields.host = host
        router.handle(request)
        assert request.connection.wires[0].startswith(b"HTTP/1.1 %d " % status), host
        reply = router.refusal(b"POST", b"/page", host)
        assert (None if reply is None else reply.status) == (None if status == 200 else 421)
