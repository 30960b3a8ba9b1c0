"""A Flask application behind a node: its readers get what they would have got directly."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from datetime import UTC, datetime
from http.client import HTTPConnection, IncompleteRead

import pytest
from flask import Flask, Response, redirect, request, send_file
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.bench.read_through import MIB, Stage, checksum
from tests.integration.cluster import Nodes, eventually

PAYLOAD = bytes(range(256)) * 4_000
THEN = datetime(2025, 7, 23, tzinfo=UTC)
APART = {"date", "server", "via", "connection", "transfer-encoding", "keep-alive"}
"""Fields that are the connection's, or documented to differ; Via and the coding are checked."""


def make_app():
    """Return an application as anyone would write it."""
    app = Flask("api")

    @app.get("/page")
    def page():
        answer = Response(b"a page" * 1_000, content_type="text/plain; charset=utf-8")
        answer.set_etag("v1")
        answer.last_modified = THEN
        answer.headers.add("Set-Cookie", "a=1; Path=/")
        answer.headers.add("Set-Cookie", "b=2")
        answer.headers["X-Latin"] = "\xe9"
        return answer.make_conditional(request)

    @app.get("/file")
    def file():
        return send_file(
            io.BytesIO(PAYLOAD), "application/octet-stream", conditional=True, etag="file-1",
            last_modified=THEN,
        )  # fmt: skip

    @app.get("/chunks")
    def chunks():
        return Response((b"chunk %d\n" % n for n in range(2_000)), content_type="text/plain")

    @app.get("/empty")
    def empty():
        return Response(b"", headers={"X-Empty": ""})

    @app.get("/none")
    def none():
        return "", 204

    @app.get("/wrong")
    def wrong():
        raise RuntimeError

    @app.get("/moved")
    def moved():
        return redirect("/page?a=%2f", 302)

    @app.get("/login")
    def login():
        return Response("who?", 401, {"WWW-Authenticate": 'Basic realm="api"'})

    @app.get("/echo/<path:path>")
    def echo(path):
        return {
            "path": path,
            "query": request.query_string.decode(),
            "arguments": request.args.to_dict(flat=False),
            "cookies": dict(request.cookies),
            "user": request.authorization and request.authorization.username,
            "agent": request.headers.get("User-Agent"),
            "body": request.get_data(as_text=True),
        }

    @app.get("/broken")
    def broken():
        def pieces():
            yield b"x" * 100_000
            raise RuntimeError("on purpose")

        return Response(pieces())

    return app


class QuietHandler(WSGIRequestHandler):
    """HTTP/1.1, so that bodies without a length come in chunks; says nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    """The ports of the application itself, and of a node in front of it."""
    server = make_server("127.0.0.1", 0, make_app(), threaded=True, request_handler=QuietHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    route = {
        "path": "/<path:rest>", "methods": ["POST"], "reads": "proxy",
        "upstream": f"http://127.0.0.1:{server.port}",
    }  # fmt: skip
    nodes = Nodes(tmp_path_factory.mktemp("reads"), size=1, extra={"route": [route]})
    (node,) = nodes.nodes.values()
    yield server.port, int(node.http.rpartition(":")[2])
    nodes.close()
    server.shutdown()
    server.server_close()


def answered(port, method, target, headers, body=None):
    """Return status, reason, fields and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    result = answer.status, answer.reason, answer.getheaders(), answer.read()
    connection.close()
    return result


READS = [
    ("GET", "/page", {}),
    ("HEAD", "/page", {}),
    ("OPTIONS", "/page", {}),
    ("GET", "/page", {"If-None-Match": '"v1"'}),
    ("GET", "/page", {"If-None-Match": '"v0"'}),
    ("HEAD", "/page", {"If-None-Match": 'W/"v1"'}),
    ("GET", "/page", {"If-Modified-Since": "Wed, 23 Jul 2025 00:00:00 GMT"}),
    ("GET", "/file", {}),
    ("HEAD", "/file", {}),
    ("GET", "/file", {"Range": "bytes=100-299"}),
    ("GET", "/file", {"Range": "bytes=-10"}),
    ("GET", "/file", {"Range": "bytes=9999999-"}),
    ("GET", "/file", {"Range": "bytes=0-9", "If-Range": '"file-1"'}),
    ("GET", "/file", {"Range": "bytes=0-9", "If-Range": '"file-0"'}),
    ("GET", "/chunks", {}),
    ("HEAD", "/chunks", {}),
    ("GET", "/empty", {}),
    ("GET", "/none", {}),
    ("GET", "/nowhere", {}),
    ("GET", "/wrong", {}),
    ("GET", "/moved", {}),
    ("HEAD", "/moved", {}),
    ("GET", "/login", {"Authorization": "Basic dTpw"}),
    ("GET", "/echo/caf%C3%A9/a%2fb/c//d;p=1?q=%20+&&x=[1]|&empty=", {
        "Cookie": 'a=1; b="2"', "Authorization": "Basic dTpw", "User-Agent": "it",
        "Accept-Encoding": "gzip",
    }),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "target", "headers"), READS, ids=[f"{m}-{t.split('?')[0]}-{i}" for i, (m, t, _) in enumerate(READS)]
)  # fmt: skip
def test_readers_get_what_they_would_have_got_directly(ports, method, target, headers):
    """Status, reason, fields in their order and case, and body; whatever the application answers."""
    direct, through = (answered(port, method, target, headers) for port in ports)
    assert through[:2] == direct[:2]
    fields = [
        [(name, value) for name, value in answer[2] if name.lower() not in APART]
        for answer in (direct, through)
    ]
    assert fields[1] == fields[0]
    assert through[3] == direct[3]
    assert dict(through[2])["Via"] == "1.1 crowd"
    assert dict(through[2])["Server"] == dict(direct[2])["Server"]
    if method == "GET":
        coded = [dict(answer[2]).get("Transfer-Encoding") for answer in (direct, through)]
        assert coded[0] == coded[1]


def test_a_read_with_a_body(ports):
    """Seldom, and allowed."""
    direct, through = (answered(port, "GET", "/echo/x", {}, b"a body") for port in ports)
    assert through[3] == direct[3]
    assert b'"body":"a body"' in through[3]


def test_many_reads_on_one_connection(ports):
    """Kept alive on both sides, whatever came before."""
    connection = HTTPConnection("127.0.0.1", ports[1], timeout=20)
    for _ in range(3):
        for target, length in (("/page", 6_000), ("/chunks", None), ("/none", 0), ("/file", None)):
            connection.request("GET", target)
            body = connection.getresponse().read()
            assert length is None or len(body) == length
    assert hashlib.sha256(body).digest() == hashlib.sha256(PAYLOAD).digest()
    connection.close()


def test_an_application_that_fails_within_a_body(ports):
    """Its reader does not take what came for the whole."""
    with pytest.raises((IncompleteRead, ConnectionError)):
        answered(ports[1], "GET", "/broken", {})


def test_an_http_1_0_reader(ports):
    """No chunks; the body ends with the connection."""
    with socket.create_connection(("127.0.0.1", ports[1]), 20) as reader:
        reader.sendall(b"GET /chunks HTTP/1.0\r\n\r\n")
        came = b""
        while piece := reader.recv(65_536):
            came += piece
    head, _, body = came.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert body == b"".join(b"chunk %d\n" % n for n in range(2_000))


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    made = Stage(tmp_path_factory.mktemp("through"))
    yield made
    made.close()


def test_i7_a_slow_reader_costs_no_memory(stage):
    """I7: 64 MiB at 16 MiB/s; the node grows by less than 8 MiB. The bench takes 1 GiB."""
    stage.slowly(8 * MIB, 64)  # warm
    found, grown, ahead = stage.slowly(64 * MIB, 16)
    assert found == checksum(64 * MIB)
    assert grown < 8
    assert ahead < 32  # the kernel's buffers of two connections, which grow by themselves


def test_a_reader_that_goes_ends_its_read(stage):
    """The upstream is not kept sending to nobody."""
    with socket.create_connection(("127.0.0.1", stage.port), 20) as reader:
        reader.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % (1_024 * MIB))
        reader.recv(65_536)

    def still():
        before = stage.upstream.sent
        threading.Event().wait(0.5)
        return stage.upstream.sent == before

    eventually("the upstream stops", still)
    assert b"crowd_reads_in_flight 0.0" in _metrics(stage)


def _metrics(stage):
    connection = HTTPConnection("127.0.0.1", int(stage.node.admin.rpartition(":")[2]), timeout=20)
    connection.request("GET", "/metrics")
    return connection.getresponse().read()
