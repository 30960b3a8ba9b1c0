"""Ports behind a balancer, and UNIX sockets, of a node whose workers share them."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.integration.cluster import eventually
from tests.integration.door import BINARY, LINE, POST, Single, answer

CLIENT = "198.51.100.9"
"""Whom `LINE` and `BINARY` name."""
RARE = POST.replace(b"/leads", b"/rare")


class Api(BaseHTTPRequestHandler):
    """Takes all, and notes whose each was."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.came.append((self.path, self.headers["X-Forwarded-For"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Be quiet."""


@pytest.fixture(scope="module")
def api():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.daemon_threads = True
    server.came = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def started(directory, api, ports):
    """Start a node with two workers at these ports."""
    return Single(
        directory,
        f'workers = 2\nbalancers = ["127.0.0.1/32"]\nhttp = {json.dumps(ports)}',
        f"""
        [[route]]
        path = "/rare"
        [route.rate]
        limit = "1/h"
        by = "address"
        [[consumer]]
        name = "seen"
        url = "http://127.0.0.1:{api.server_address[1]}"
        """,
    )


@pytest.fixture(scope="module")
def balanced(tmp_path_factory, api):
    """One node behind a balancer."""
    directory = tmp_path_factory.mktemp("balanced")
    node = started(directory, api, ["haproxy:tcp:PORT:interface=127.0.0.1"])
    yield node
    node.close()


def both(node):
    """Wait until both workers take requests; return their process ids."""

    def ready():
        found = json.loads(node.page("/api/status")[1])["workers"]
        return [each["pid"] for each in found] if all(each["ready"] for each in found) else None

    return eventually("both workers", ready)


@contextmanager
def stopped(pid):
    """Have a worker do nothing meanwhile: the other one takes who connects."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def tcp(node, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", node.port), 20, (source, 0))


def unix(path):
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(20)
    connected.connect(str(path))
    return connected


def status(connected, data):
    """Send; return the status of the answer."""
    return int(answer(connected, data).split(b" ")[1])


def named(name):
    """Return a request that the consumer knows by its target."""
    return POST.replace(b"/leads", b"/leads?" + name.encode())


def seen(api, *names):
    """Wait until the consumer has had these; return whose they were, each of them once."""
    targets = {f"/leads?{name}" for name in names}
    return eventually(
        "deliveries",
        lambda: (
            targets <= dict(api.came).keys()
            and {client for target, client in api.came if target in targets}
        ),
    )


def test_each_worker_knows_from_the_balancer_whose_connection_it_is(api, balanced):
    """Both versions of the header. No answer without one, or from elsewhere; that is counted."""
    pids = both(balanced)
    for pid in pids:
        with stopped(pid):
            assert status(tcp(balanced), LINE + named(f"line{pid}")) == 200
            assert status(tcp(balanced), BINARY + named(f"binary{pid}")) == 200
            assert answer(tcp(balanced), POST) == b""
            assert answer(tcp(balanced, "127.0.0.3"), LINE + POST) == b""
    whose = seen(api, *(f"{version}{pid}" for version in ("line", "binary") for pid in pids))
    assert whose == {CLIENT}
    refused = "crowd_http_connections_refused_total 4.0"
    eventually("a count of all four", lambda: refused in balanced.page("/metrics")[1])
    assert both(balanced) == pids


def test_each_worker_counts_a_rate_by_the_address_that_the_balancer_names(balanced):
    """One an hour is one an hour at each of two workers; another address is another producer."""
    other = LINE.replace(CLIENT.encode(), b"198.51.100.10")
    for pid in both(balanced):
        with stopped(pid):
            assert [status(tcp(balanced), LINE + RARE) for _ in range(3)] == [200, 429, 429]
            assert status(tcp(balanced), other + RARE) == 200


def test_workers_share_unix_sockets_and_a_started_node_takes_them_over(tmp_path, api):
    """At each worker, with and without a balancer; after kill -9, too, and gone with the node."""
    path, proxied = tmp_path / "crowd.sock", tmp_path / "balanced.sock"
    node = started(tmp_path, api, [f"unix:{path}:mode=660", f"haproxy:unix:{proxied}:mode=600"])
    plain, told = [], []

    def posts():
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(proxied.stat().st_mode) == 0o600
        for pid in both(node):
            plain.append(f"plain{pid}")
            told.append(f"told{pid}")
            with stopped(pid):
                assert status(unix(path), named(plain[-1])) == 200
                assert status(unix(proxied), LINE + named(told[-1])) == 200
                assert answer(unix(proxied), POST) == b""

    try:
        posts()
        node.kill()
        assert path.exists(), "what kill -9 leaves"
        assert proxied.exists(), "what kill -9 leaves"
        node.start()
        posts()
        assert seen(api, *told) == {CLIENT}
        assert seen(api, *plain) == {"unknown"}
    finally:
        node.close()
    assert not path.exists()
    assert not proxied.exists()
    assert "Traceback" not in node.log()
