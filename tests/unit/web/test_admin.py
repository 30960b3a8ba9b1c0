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

from crowd.errors import ChangeRefusedError, DirectoryError, UnknownMemberError
from crowd.web.admin import REQUEST_BYTES_MAX, Operators, admin_site
from crowd.web.dashboard import PAGE, POLICY
from crowd.web.token import open_token, read_token
from tests.unit.web.port import JSON, SHOWN, TOKEN, Nobody, asking, problem


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


class Changes:
    """Notes what is asked for; knows the members a and b."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def enroll(self, name: str, address: str) -> None:
        if name == "one-too-many":
            raise ChangeRefusedError("found 32 members; expected fewer, to add one")
        self.asked.append(("enroll", name, address))

    def expel(self, name: str) -> None:
        if name not in {"a", "b"}:
            raise UnknownMemberError(f"found no member {name}; expected one of a, b")
        self.asked.append(("expel", name))


def operators(changes):
    return Operators(changes, Nobody(), Nobody())


@pytest.fixture
def view():
    return View()


@pytest.fixture
def changes():
    return Changes()


@pytest.fixture
def ask(view, changes):
    return asking(admin_site(view, operators(changes), TOKEN))


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
def test_what_is_shown_cannot_be_changed(ask, method):
    status, fields, _ = ask("/api/status", method)
    assert status == 405
    assert fields[b"allow"] == b"get, head"


# --- Changes of members ---------------------------------------------------------------------------

ENROLLMENT = b'{"name": "d", "address": "127.0.0.1:2135"}'


def test_a_member_is_added(ask, changes):
    """202: it is asked for, and that it is done shows in /api/status."""
    status, fields, body = ask("/api/members", "POST", fields=(SHOWN, JSON), body=ENROLLMENT)
    assert status == 202
    assert fields[b"content-type"].startswith(b"application/json")
    assert json.loads(body) == {"asked": "enroll", "name": "d", "address": "127.0.0.1:2135"}
    assert changes.asked == [("enroll", "d", "127.0.0.1:2135")]


def test_a_member_is_removed(ask, changes):
    status, _, body = ask("/api/members/b", "DELETE", fields=(SHOWN,))
    assert status == 202
    assert json.loads(body) == {"asked": "expel", "name": "b"}
    assert changes.asked == [("expel", "b")]


@pytest.mark.parametrize(
    "fields",
    [(), ("Authorization: Bearer " + "00" * 32,), (f"Authorization: Basic {TOKEN}",),
     ("Authorization: Bearer",), ("Authorization: Bearer é",), (SHOWN, SHOWN)],
)  # fmt: skip
def test_without_the_token_nothing_is_asked(ask, changes, fields):
    answered = ask("/api/members/b", "DELETE", fields=fields)
    assert problem(answered)[:2] == (401, "no-token")
    assert answered[1][b"www-authenticate"].startswith(b"bearer")
    assert problem(ask("/api/members", "POST", fields=(*fields, JSON), body=ENROLLMENT))[0] == 401
    assert changes.asked == []


def test_a_node_without_a_token_takes_none(view, changes):
    """An empty token is no token that an empty header shows."""
    site = admin_site(view, operators(changes), "")
    site.reactor = Clock()
    channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    transport = StringTransport(hostAddress=IPv4Address("TCP", "127.0.0.1", 2106))
    channel.makeConnection(transport)
    channel.dataReceived(
        b"DELETE /api/members/b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \r\n\r\n"
    )
    assert transport.value().startswith(b"HTTP/1.1 401 ")
    assert changes.asked == []


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:2106", "http://127.0.0.1:8080"]
)
def test_a_page_from_elsewhere_changes_nothing_whatever_it_shows(ask, changes, origin):
    fields = (SHOWN, f"Origin: {origin}")
    assert problem(ask("/api/members/b", "DELETE", fields=fields))[:2] == (403, "foreign-origin")
    assert changes.asked == []
    own = (SHOWN, "Origin: http://127.0.0.1:2106")
    assert ask("/api/members/b", "DELETE", fields=own)[0] == 202


def test_a_name_that_resolves_to_loopback_changes_nothing(ask, changes):
    fields = (SHOWN, "Origin: http://evil.example:2106")
    answered = ask("/api/members/b", "DELETE", host="evil.example:2106", fields=fields)
    assert problem(answered)[:2] == (421, "foreign-host")
    assert changes.asked == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_must_say_that_it_is_json(ask, changes, kind):
    """What a form of another page can send without asking is none."""
    fields = (SHOWN, f"Content-Type: {kind}")
    answered = ask("/api/members", "POST", fields=fields, body=ENROLLMENT)
    assert problem(answered)[:2] == (415, "not-json")
    assert changes.asked == []
    fields = (SHOWN, "Content-Type: Application/JSON; charset=utf-8")
    assert ask("/api/members", "POST", fields=fields, body=ENROLLMENT)[0] == 202


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "truncated"),
        (b"[]", "array"),
        (b'{"name": "d"}', "address"),
        (b'{"name": "d", "address": "h:1", "votes": true}', "votes"),
        (b'{"name": 4, "address": "h:1"}', "name"),
        (b'{"name": "D", "address": "h:1"}', "name: found 'D'; expected a name of a-z"),
        (b'{"name": "", "address": "h:1"}', "name: found ''"),
        (b'{"name": "d", "address": "2135"}', "address: found '2135'; expected host:port"),
        (b'{"name": "d", "address": "h:0"}', "address: found 'h:0'"),
        (b'{"name": "d", "address": "' + b"h" * 300 + b':1"}', "at most 255 characters"),
    ],
)
def test_a_change_that_is_none_is_told(ask, changes, body, words):
    answered = ask("/api/members", "POST", fields=(SHOWN, JSON), body=body)
    status, kind, detail = problem(answered)
    assert (status, kind) == (400, "bad-change")
    assert words in detail
    assert changes.asked == []


def test_what_the_cluster_cannot_do_is_a_conflict(ask):
    body = b'{"name": "one-too-many", "address": "h:1"}'
    answered = ask("/api/members", "POST", fields=(SHOWN, JSON), body=body)
    assert problem(answered) == (
        409, "change-refused", "found 32 members; expected fewer, to add one",
    )  # fmt: skip
    answered = ask("/api/members/x", "DELETE", fields=(SHOWN,))
    assert problem(answered) == (
        404, "unknown-member", "found no member x; expected one of a, b",
    )  # fmt: skip


def test_a_body_has_a_bound(ask, changes):
    """Announced or in chunks: 413 before it is read, and the connection ends."""
    fields = (SHOWN, JSON)
    large = b" " * REQUEST_BYTES_MAX + ENROLLMENT
    assert problem(ask("/api/members", "POST", fields=fields, body=large))[0] == 413
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
    fields = (*fields, "Transfer-Encoding: chunked")
    assert problem(ask("/api/members", "POST", fields=fields, chunks=chunks))[0] == 413
    assert changes.asked == []


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [("/api/members", "GET", b"post"), ("/api/members/a", "POST", b"delete")],
)
def test_members_take_one_method_each(ask, path, method, allow):
    status, fields, _ = ask(path, method, fields=(SHOWN,))
    assert (status, fields[b"allow"]) == (405, allow)


# --- The token ------------------------------------------------------------------------------------


def test_a_token_is_made_once_and_is_its_owners_alone(tmp_path):
    token = open_token(str(tmp_path))
    assert re.fullmatch("[0-9a-f]{64}", token)
    file = tmp_path / "token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert open_token(str(tmp_path)) == token == read_token(file)
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
    file.unlink()
    assert open_token(str(tmp_path)) != token


@pytest.mark.parametrize("text", ["", "short", "Z" * 64, "5e" * 33])
def test_a_file_that_is_no_token_is_told_and_kept(tmp_path, text):
    (tmp_path / "token").write_text(text)
    with pytest.raises(DirectoryError, match="that are no token; expected 64 hexadecimal digits"):
        open_token(str(tmp_path))
    assert (tmp_path / "token").read_text() == text
    with pytest.raises(DirectoryError, match="found No such file"):
        read_token(tmp_path / "nothing")


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
