"""A real node, real name lookups and real TLS: who gets a message, and who is said not to."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crowd.raft.certificates import make_authority, make_node
from tests.integration.cluster import Nodes, eventually


class Server:
    """A consumer with TLS that asks for a certificate, and keeps what it got and from whom."""

    def __init__(self, directory):
        authority = make_authority("inside")
        self.paths = {
            name: directory / name for name in ("ca.pem", "server.pem", "client.pem", "client.key")
        }
        self.paths["ca.pem"].write_bytes(authority[0])
        made = make_node(*authority, "inside", "server", ["localhost"])
        self.paths["server.pem"].write_bytes(b"".join(made))
        certificate, key = make_node(*authority, "inside", "client")
        self.paths["client.pem"].write_bytes(certificate)
        self.paths["client.key"].write_bytes(key)
        self.got = got = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                shown = dict(self.connection.getpeercert()["subjectAltName"])
                got.append((body, self.headers["Host"], shown["DNS"]))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.paths["server.pem"])
        context.load_verify_locations(self.paths["ca.pem"])
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.close()


def test_who_gets_a_message_and_who_does_not(tmp_path, server):
    """One consumer proves itself; another is out of reach, and the third has no file to rest on."""
    url = f"https://localhost:{server.port}"
    ours = {"certificate": "client.pem", "private_key": "client.key"}
    tls = {key: str(server.paths[name]) for key, name in {"authority": "ca.pem", **ours}.items()}
    late = tmp_path / "late.pem"
    breaker = {"failures": 1_000, "ratio": 2, "first": "100 ms", "most": "1 s"}
    retry = {"first": "100 ms", "most": "1 s"}
    base = {"url": url, "tls": tls, "concurrency": 8, "retry": retry, "breaker": breaker}
    consumers = [
        {**base, "name": "proved"},
        {**base, "name": "outside", "reach": {"allow": ["10.0.0.0/8"]}},
        {**base, "name": "waiting", "tls": {**tls, "authority": str(late)}},
    ]
    nodes = Nodes(tmp_path, size=1, extra={"consumer": consumers})
    (name,) = nodes.nodes

    def problem(number):
        """Return what the node says of a consumer's last attempt that failed."""
        return nodes.status()["nodes"][0]["consumers"][number]["delivery"]["last_problem"]

    try:
        for n in range(10):
            assert nodes.post(name, b"%d" % n)[0] == 200
        expected = sorted(
            (b"%d" % n, f"localhost:{server.port}", "client.inside.crowd") for n in range(10)
        )
        eventually("ten deliveries", lambda: sorted(server.got) == expected)
        eventually(
            "words about the address",
            lambda: "127.0.0.1 is in no network of reach.allow" in problem(1),
        )
        eventually(
            "words about the file",
            lambda: f"tls.authority {late}: No such file or directory" in problem(2),
        )
        assert len(server.got) == 10
        late.write_bytes(server.paths["ca.pem"].read_bytes())
        eventually("ten more", lambda: sorted(server.got) == sorted(expected * 2))
    finally:
        nodes.close()
