"""Producers that wait for the consumer, and what became of messages, on three real nodes."""

from __future__ import annotations

import json
import threading
import time
from hashlib import sha256
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.integration.cluster import Nodes, eventually

KEY = "crowd_one"
SHOWN = {"Authorization": f"Bearer {KEY}"}
DIGEST = sha256(KEY.encode()).hexdigest()


class Api(BaseHTTPRequestHandler):
    """Makes what it is sent, late or not at all, as the body says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.came.append((body, dict(self.headers)))
        if body == b"slow":
            self.server.go_on.wait(60)
        status = 422 if body == b"bad" else 201
        answer = b"no" if status == 422 else b'{"made": 1}' * (10_000 if body == b"large" else 1)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Made", body.decode())
        self.send_header("Location", "/leads/1")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        """Be quiet."""


@pytest.fixture(scope="module")
def server():
    """Return the consumer of all tests."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def api(server):
    """Return the consumer: nothing came yet, and it holds up what is slow until it may go on."""
    server.came, server.go_on = [], threading.Event()
    yield server
    server.go_on.set()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, server):
    """Return three nodes. Each test leaves nothing undelivered, and knows its own messages by their ids."""
    url = f"http://127.0.0.1:{server.server_address[1]}"
    made = Nodes(
        tmp_path_factory.mktemp("waits"),
        upstream=url,
        extra={
            "route": [
                {"path": "/leads", "methods": ["POST"], "wait": "30 s"},
                {
                    "path": "/keyed", "methods": ["POST"], "wait": "30 s",
                    "key": [{"name": "shop", "sha256": [DIGEST]}],
                },
                {"path": "/<path:rest>", "methods": ["POST"]},
            ]
        },
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def nodes(cluster, api):
    """Return the three nodes, all of them running."""
    del api  # there before them
    return cluster.up()


def asked(nodes, name, id_, headers=None):
    """Ask a node what became of a message; return (status, document)."""
    parts = urlsplit(nodes.nodes[name].http)
    connection = HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.request("GET", f"/.crowd/messages/{id_}", headers=headers or {})
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    return answer.status, document


def post(nodes, name, body, wait_s=20, path="/leads", **headers):
    return nodes.post(name, body, path, {"Prefer": f"wait={wait_s}", **headers})


def states(nodes, id_, headers=None):
    return {name: asked(nodes, name, id_, headers)[1].get("state") for name in nodes.nodes}


def test_what_producers_hear_and_ask(nodes, api):
    """The consumer's own answer, from the leader and a follower; late, large and dead ones."""
    leader = nodes.leader()
    follower = next(name for name in nodes.nodes if name != leader)
    for name in (leader, follower):
        for number in range(20):
            status, headers, body = post(nodes, name, b"one")
            assert (status, body) == (201, b'{"made": 1}'), (name, number, headers)
            assert headers["X-Made"] == "one"
            assert headers["Location"] == "/leads/1"
            assert headers["Crowd-State"] == "delivered"
    assert {"Prefer", "Crowd-Wait"}.isdisjoint(api.came[0][1])
    id_ = headers["Crowd-Message-Id"]
    eventually("all know", lambda: set(states(nodes, id_).values()) == {"delivered"})

    status, headers, body = post(nodes, follower, b"large")
    assert (status, body, headers["Crowd-State"]) == (200, b'{"status": "OK"}', "delivered")

    status, headers, body = post(nodes, follower, b"bad")
    assert (status, body, headers["Crowd-State"]) == (422, b"no", "dead")
    dead = headers["Crowd-Message-Id"]
    eventually("all know", lambda: set(states(nodes, dead).values()) == {"dead"})
    assert asked(nodes, leader, dead)[1]["consumers"][0]["state"] == "dead"

    for name in (leader, follower):
        begun_s = time.monotonic()
        status, headers, body = post(nodes, name, b"slow", wait_s=1)
        assert time.monotonic() - begun_s > 0.9
        assert (status, body, headers["Crowd-State"]) == (200, b'{"status": "OK"}', "accepted")
        assert headers["Location"] == f"/.crowd/messages/{headers['Crowd-Message-Id']}"
        assert asked(nodes, name, headers["Crowd-Message-Id"])[1]["state"] == "accepted"
    api.go_on.set()
    late = headers["Crowd-Message-Id"]
    eventually("delivered", lambda: set(states(nodes, late).values()) == {"delivered"})

    status, headers, _ = post(nodes, follower, b"one", path="/other")
    assert status == 200
    assert "Location" not in headers
    assert api.came[-1][1].get("Prefer") == "wait=20" or eventually(
        "forwarded", lambda: api.came[-1][1].get("Prefer") == "wait=20"
    )


def test_who_may_ask(nodes):
    """Only who may post; on every node."""
    status, headers, _ = post(nodes, nodes.leader(), b"one", path="/keyed", **SHOWN)
    assert status == 201
    id_ = headers["Crowd-Message-Id"]
    eventually("all know", lambda: set(states(nodes, id_, SHOWN).values()) == {"delivered"})
    for name in nodes.nodes:
        status, document = asked(nodes, name, id_)
        assert (status, document["type"]) == (401, "/problems/no-credential")
        status, document = asked(nodes, name, id_, SHOWN)
        assert status == 200
        assert [each["state"] for each in document["consumers"]] == ["delivered"]
        tag, _, position = id_.partition("-")
        beyond = f"{tag}-{int(position, 16) + 99:016x}"
        assert asked(nodes, name, beyond, SHOWN)[0] == 404
        assert nodes.post(name, b"x", f"/.crowd/messages/{id_}")[0] == 405
        assert nodes.post(name, b"x", "/.crowd/anything")[0] == 404


def test_a_leader_that_dies_while_a_producer_waits(nodes, api):
    """The wait ends with the usual answer, and the message is delivered all the same."""
    leader = nodes.leader()
    follower = next(name for name in nodes.nodes if name != leader)
    heard = []
    waiting = threading.Thread(
        target=lambda: heard.append(post(nodes, follower, b"slow", wait_s=30)), daemon=True
    )
    waiting.start()
    eventually("it is attempted", lambda: b"slow" in [body for body, _ in api.came])
    begun_s = time.monotonic()
    nodes.kill(leader)
    waiting.join(20)
    assert time.monotonic() - begun_s < 15
    ((status, headers, body),) = heard
    assert (status, body) == (200, b'{"status": "OK"}')
    id_ = headers["Crowd-Message-Id"]
    assert headers["Location"] == f"/.crowd/messages/{id_}"
    api.go_on.set()
    eventually("delivered", lambda: asked(nodes, follower, id_)[1]["state"] == "delivered")
