"""A Flask application, unchanged, as a consumer: it gets what it would have got directly."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from flask import Flask, request
from standardwebhooks import Webhook, WebhookVerificationError
from werkzeug.serving import make_server

from tests.integration.cluster import Nodes, eventually

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ADDED = {
    b"crowd-message-id", b"crowd-position", b"crowd-attempt", b"x-forwarded-for",
    b"x-forwarded-host", b"x-forwarded-proto", b"forwarded", b"via",
}  # fmt: skip


def make_app(seen):
    """Return an application as anyone would write it; `seen` gets what its views saw."""
    app = Flask("orders")

    @app.route("/hooks", methods=["POST"])
    def hooks():
        try:
            event = Webhook(SECRET).verify(request.get_data(), dict(request.headers))
        except WebhookVerificationError:
            seen.append("a bad signature")
            return "", 400
        seen.append(event)
        return "", 204

    @app.route("/", defaults={"path": ""}, methods=["POST", "PUT", "PATCH", "DELETE"])
    @app.route("/<path:path>", methods=["POST", "PUT", "PATCH", "DELETE"])
    def anything(path):
        seen.append(
            {
                "method": request.method,
                "path": path,
                "query": request.query_string,
                "arguments": request.args.to_dict(flat=False),
                "form": request.form.to_dict(flat=False),
                "files": {name: file.read() for name, file in request.files.items()},
                "cookies": dict(request.cookies),
                "type": request.content_type,
                "json": request.get_json(silent=True),
                "user": request.authorization and request.authorization.username,
                "body": request.get_data(),
            }
        )
        return {"took": path}, 201

    return app


class Recorder:
    """Stands before a server and keeps each connection's bytes as they came."""

    def __init__(self, port):
        self._behind = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.requests = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(connection,), daemon=True).start()

    def _relay(self, connection):
        came = bytearray()
        with connection, socket.create_connection(("127.0.0.1", self._behind)) as server:

            def forth():
                with suppress(OSError):  # whoever has its answer closes as it likes
                    while data := connection.recv(65_536):
                        came.extend(data)
                        server.sendall(data)

            reading = threading.Thread(target=forth, daemon=True)
            reading.start()
            with suppress(OSError):
                while data := server.recv(65_536):
                    connection.sendall(data)
                connection.shutdown(socket.SHUT_RDWR)
            reading.join(20)
            self.requests.append(bytes(came))

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


class Stage:
    """The application behind a recorder, and one node in front of it."""

    def __init__(self, directory):
        self.seen = []
        self._server = make_server("127.0.0.1", 0, make_app(self.seen), threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.recorder = Recorder(self._server.port)
        self.nodes = Nodes(directory, size=1, upstream=f"http://127.0.0.1:{self.recorder.port}")
        (node,) = self.nodes.nodes.values()
        self.crowd_port = int(node.http.rpartition(":")[2])

    def close(self):
        self.nodes.close()
        self.recorder.close()
        self._server.shutdown()
        self._server.server_close()

    def post(self, port, raw):
        """Send bytes; return the status that came back."""
        with socket.create_connection(("127.0.0.1", port), 20) as producer:
            producer.sendall(raw)
            return int(producer.recv(65_536).split()[1])

    def both_ways(self, raw):
        """Return what came on the wire, and what the application saw, directly and by crowd."""
        found = []
        for port, status in ((self.recorder.port, None), (self.crowd_port, 200)):
            count, views = len(self.recorder.requests), len(self.seen)
            got = self.post(port, raw.replace(b"HOST", b"127.0.0.1:%d" % port))
            assert status in (None, got)
            eventually("a request", lambda count=count: len(self.recorder.requests) > count)
            assert len(self.recorder.requests) == count + 1
            assert len(self.seen) == views + 1
            found.append((self.recorder.requests[-1], self.seen[-1]))
        return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    made = Stage(tmp_path_factory.mktemp("flask"))
    yield made
    made.close()


def without_what_is_added(raw, port):
    """Return a request's bytes without Host, which is checked, and what crowd adds."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    names = [line.partition(b":")[0].lower() for line in lines]
    assert lines[names.index(b"host")] == b"Host: 127.0.0.1:%d" % port
    kept = [
        line
        for line, name in zip(lines, names, strict=True)
        if name != b"host" and name not in ADDED
    ]
    return b"\r\n".join(kept) + b"\r\n\r\n" + body


def raw(line, headers, body=b""):
    """Return a request's bytes."""
    head = [line + b" HTTP/1.1", b"Host: HOST", *headers]
    if body:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


FORM = (
    b'--x1\r\nContent-Disposition: form-data; name="who"\r\n\r\nJos\xc3\xa9\r\n'
    b'--x1\r\nContent-Disposition: form-data; name="photo"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + bytes(range(256)) + b"\r\n--x1--\r\n"
)


@pytest.mark.parametrize(
    "sent",
    [
        raw(
            b"POST /leads?shop=a23m07b23&shop=2",
            (b"User-Agent: curl/8.5.0", b"Accept: */*", b"Content-Type: application/json"),
            b'{"name": "Jos\xc3\xa9", "n": 1.50}',
        ),
        raw(
            b"PUT /caf%C3%A9/a%2fb/c/../d;p=1?q=%20+&&x=[1]|{}&empty=",
            (b"x-lower: 1", b"X-UPPER: 2", b"X-Twice: a", b"Accept-Encoding: br;q=1.0, gzip",
             b"X-Twice: b", b"X-Latin: \xe9\xff", b"X-Empty: ", b"Authorization: Basic dTpw"),
            b"plain",
        ),
        raw(
            b"PATCH /form",
            (b"content-type: application/x-www-form-urlencoded", b'Cookie: a=1; b="2"'),
            b"a=1&a=2&b=%26+%C3%A9",
        ),
        raw(b"POST /upload", (b"Content-Type: multipart/form-data; boundary=x1",), FORM),
        raw(b"POST /gzip", (b"Content-Encoding: gzip", b"Content-Type: x/y"), b"\x1f\x8b\x08\x00"),
        raw(b"POST /large", (b"Content-Type: application/octet-stream",), bytes(range(256)) * 2_000),
        raw(b"POST /empty", (b"Content-Length: 0", b"X-A: b")),
        raw(b"DELETE /orders/7", (b"Content-Length: 0", b'If-Match: "x"')),
    ],
    ids=lambda sent: sent.split(b"?")[0].split()[1].decode(),
)  # fmt: skip
def test_i9_flask_gets_what_it_would_have_got_directly(stage, sent):
    """I9: on the wire the same bytes, apart from Host and what is added; in its views the same."""
    (direct, saw_directly), (delivered, saw_delivered) = stage.both_ways(sent)
    assert without_what_is_added(delivered, stage.recorder.port) == without_what_is_added(
        direct, stage.recorder.port
    )
    assert saw_delivered == saw_directly


def test_i9_a_body_in_chunks_is_the_same_body(stage):
    """Framing is between neighbours: it comes with its length, and the application sees no other."""
    chunked = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    headers = (b"Content-Type: text/plain", b"Transfer-Encoding: chunked")
    (_, saw_directly), (delivered, saw_delivered) = stage.both_ways(
        raw(b"POST /chunks", headers) + chunked
    )
    assert saw_delivered == saw_directly
    assert saw_delivered["body"] == b"hello world"
    assert b"\r\nContent-Length: 11\r\n" in delivered


def test_what_is_added(stage):
    """Exactly what is documented, after the producer's own headers."""
    _, (delivered, _) = stage.both_ways(raw(b"POST /x", (b"X-A: b", b"Content-Length: 0")))
    lines = delivered.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert lines[2:4] == [b"X-A: b", b"Content-Length: 0"]
    assert {line.partition(b":")[0].lower() for line in lines[4:]} == ADDED


def test_a_producers_own_signature_still_verifies(stage):
    """Standard Webhooks: a signed request is the same request after crowd."""
    body = json.dumps({"type": "lead.created", "data": {"name": "José"}}).encode()
    now = datetime.now(UTC)
    signature = Webhook(SECRET).sign("msg_1", now, body.decode())
    headers = (
        b"Content-Type: application/json", b"webhook-id: msg_1",
        b"webhook-timestamp: %d" % now.timestamp(), b"webhook-signature: " + signature.encode(),
    )  # fmt: skip
    (direct, saw_directly), (delivered, saw_delivered) = stage.both_ways(
        raw(b"POST /hooks", headers, body)
    )
    assert saw_directly == saw_delivered == json.loads(body)
    assert without_what_is_added(delivered, stage.recorder.port) == without_what_is_added(
        direct, stage.recorder.port
    )
