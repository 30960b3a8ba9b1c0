"""The admin pages, through Klein and Twisted's server, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from crowd.web.admin import admin_site
from crowd.web.dashboard import PAGE, POLICY


class View:
    """A node whose state a test sets."""

    def __init__(self) -> None:
        self.parts = [("quorum", True, "a leads term 3"), ("journal", True, "durable to 9")]
        self.values = {"crowd_raft_term": 3, "crowd_http_requests_total": 7.0}

    def status(self) -> dict[str, object]:
        return {"name": "a", "term": 3, "consumers": [{"name": "<script>"}]}

    def readiness(self) -> list[tuple[str, bool, str]]:
        return self.parts

    def counters(self) -> dict[str, float]:
        return self.values


@pytest.fixture
def view():
    return View()


@pytest.fixture
def ask(view):
    site = admin_site(view)
    site.reactor = Clock()

    def run(path, method="GET", host="127.0.0.1:2106", address="127.0.0.1"):
        transport = StringTransport(hostAddress=IPv4Address("TCP", address, 2106))
        channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        channel.makeConnection(transport)
        channel.dataReceived(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head, _, body = transport.value().partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        return int(status.split()[1]), dict(line.lower().split(b": ", 1) for line in lines), body

    return run


def test_livez(ask):
    assert ask("/livez")[::2] == (200, b"ok\n")


def test_readyz_has_a_line_for_each_part(ask, view):
    status, fields, body = ask("/readyz")
    assert (status, body) == (200, b"ok  quorum: a leads term 3\nok  journal: durable to 9\n")
    assert fields[b"cache-control"] == b"no-store"
    view.parts[0] = ("quorum", False, "no leader for 9.0 s")
    status, _, body = ask("/readyz")
    assert (status, body.splitlines()[0]) == (503, b"NOT quorum: no leader for 9.0 s")


def test_metrics_are_prometheus_text(ask, view):
    view.values['crowd_consumer_in_flight{consumer="rest-api"}'] = 4
    status, fields, body = ask("/metrics")
    lines = body.decode().splitlines()
    assert status == 200
    assert fields[b"content-type"].startswith(b"text/plain;version=0.0.4")
    assert "crowd_raft_term 3.0" in lines
    assert "crowd_http_requests_total 7.0" in lines
    assert "# TYPE crowd_http_requests_total counter" in lines
    assert 'crowd_consumer_in_flight{consumer="rest-api"} 4.0' in lines
    assert not any("crowd_backlog_bytes" in line for line in lines), "what has no value is absent"


def test_status_is_json(ask):
    status, fields, body = ask("/api/status")
    assert status == 200
    assert fields[b"content-type"].startswith(b"application/json")
    assert json.loads(body)["term"] == 3


def test_the_dashboard_runs_only_its_own_script(ask):
    status, fields, body = ask("/")
    assert status == 200
    assert body == PAGE
    policy = dict(POLICY)[b"Content-Security-Policy"].decode()
    assert fields[b"content-security-policy"].decode() == policy.lower()
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "innerHTML" not in PAGE.decode(), "names are shown as text"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(ask, method):
    status, fields, _ = ask("/api/status", method)
    assert status == 405
    assert fields[b"allow"] == b"get, head"


def test_unknown_pages(ask):
    status, fields, _ = ask("/nothing")
    assert status == 404
    assert fields[b"content-type"] == b"application/problem+json"


def test_a_web_page_cannot_reach_loopback_by_a_name_of_its_own(ask):
    """DNS rebinding: on loopback, Host is an address or this machine's name."""
    assert ask("/api/status", host="evil.example:2106")[0] == 421
    for host in ("localhost:2106", "LOCALHOST", "[::1]:2106", "127.0.0.1"):
        assert ask("/api/status", host=host)[0] == 200
    assert ask("/metrics", host="node-a.internal:2106", address="10.0.0.1")[0] == 200


def test_a_page_that_fails_is_a_problem(ask, view):
    view.values["crowd_unheard_of"] = 1.0
    status, _, body = ask("/metrics")
    assert status == 500
    assert json.loads(body)["type"] == "/problems/internal-error"
