"""`/api/consumers`: consumers shown and changed over the admin port, in memory."""

from __future__ import annotations

import json

import pytest

from crowd.errors import (
    BacklogLeftError,
    ChangeRefusedError,
    ConfigurationError,
    UnknownConsumerError,
)
from crowd.web.admin import Operators, admin_site
from tests.unit.web.port import JSON, SHOWN, TOKEN, Nobody, asking, problem


class Consumers:
    """Notes what is asked for; knows `audit`, which has 12 messages left."""

    def __init__(self):
        self.asked = []

    def describe(self):
        return [{"name": "audit", "backlog": 12}]

    def apply(self, table):
        if "url" not in table:
            raise ConfigurationError(("the body: url: found nothing", "the body: name: no"))
        self.asked.append(("apply", table))
        return table["name"]

    def control(self, name, action):
        self.known(name)
        self.asked.append((action, name))

    def skip(self, name, through):
        self.known(name)
        if through == 99:
            raise ChangeRefusedError("found position 99; expected 20 at most")
        self.asked.append(("skip", name, through))
        return through or 20

    def remove(self, name, *, drop):
        self.known(name)
        if not drop:
            raise BacklogLeftError("found 12 messages", backlog=12)
        self.asked.append(("remove", name))

    def known(self, name):
        if name != "audit":
            raise UnknownConsumerError(f"found no consumer {name!r}; expected one of audit")


@pytest.fixture
def consumers():
    return Consumers()


@pytest.fixture
def ask(consumers):
    return asking(admin_site(Nobody(), Operators(Nobody(), consumers, Nobody()), TOKEN))


def post(ask, path, body=b"", fields=(SHOWN, JSON)):
    return ask(path, "POST", fields=fields, body=body)


def test_consumers_are_shown_to_whoever_asks(ask):
    status, fields, body = ask("/api/consumers")
    assert (status, json.loads(body)) == (200, {"consumers": [{"name": "audit", "backlog": 12}]})
    assert fields[b"cache-control"] == b"no-store"
    assert ask("/api/consumers", "HEAD")[::2] == (200, b"")


def test_a_table_is_applied(ask, consumers):
    status, _, body = post(ask, "/api/consumers", b'{"name": "audit", "url": "http://h"}')
    assert (status, json.loads(body)) == (202, {"asked": "apply", "name": "audit"})
    assert consumers.asked == [("apply", {"name": "audit", "url": "http://h"})]


def test_every_problem_of_a_table_is_told(ask, consumers):
    answered = post(ask, "/api/consumers", b'{"name": "audit"}')
    assert problem(answered) == (
        400, "bad-change", "the body: url: found nothing; the body: name: no",
    )  # fmt: skip
    assert consumers.asked == []


@pytest.mark.parametrize(
    ("change", "body", "asked", "told"),
    [
        ("pause", b"", ("pause", "audit"), {}),
        ("resume", b"{}", ("resume", "audit"), {}),
        ("skip", b"", ("skip", "audit", None), {"through": 20}),
        ("skip", b'{"through": 7}', ("skip", "audit", 7), {"through": 7}),
        ("remove", b'{"backlog": "drop"}', ("remove", "audit"), {"backlog": "drop"}),
    ],
)
def test_a_change_is_asked_for(ask, consumers, change, body, asked, told):
    status, _, answer = post(ask, f"/api/consumers/audit/{change}", body)
    assert (status, json.loads(answer)) == (202, {"asked": change, "name": "audit", **told})
    assert consumers.asked == [asked]


def test_a_removal_says_what_becomes_of_the_backlog_or_hears_how_much_there_is(ask, consumers):
    answered = post(ask, "/api/consumers/audit/remove")
    assert problem(answered) == (409, "backlog-left", "found 12 messages")
    assert json.loads(answered[2])["backlog"] == 12
    assert consumers.asked == []


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/api/consumers", b"", "truncated"),
        ("/api/consumers", b"[]", "array"),
        ("/api/consumers", b"[" * 9_000, "object"),
        ("/api/consumers/audit/pause", b'{"now": true}', "now"),
        ("/api/consumers/audit/skip", b'{"through": 0}', "through"),
        ("/api/consumers/audit/skip", b'{"through": "x"}', "through"),
        ("/api/consumers/audit/skip", b'{"through": 9223372036854775808}', "through"),
        ("/api/consumers/audit/skip", b"7", "int"),
        ("/api/consumers/audit/remove", b'{"backlog": "keep"}', "keep"),
        ("/api/consumers/audit/remove", b'{"drop": true}', "drop"),
        ("/api/consumers/audit/remove", b'{"backlog": \xff}', "malformed"),
    ],
)
def test_a_body_that_asks_for_nothing_known_changes_nothing(ask, consumers, path, body, words):
    status, kind, detail = problem(post(ask, path, body))
    assert (status, kind) == (400, "bad-change")
    assert words in detail
    assert consumers.asked == []


def test_what_cannot_be_is_told(ask, consumers):
    assert problem(post(ask, "/api/consumers/nobody/pause"))[:2] == (404, "unknown-consumer")
    assert problem(post(ask, "/api/consumers/audit/stop"))[:2] == (404, "unknown-route")
    answered = post(ask, "/api/consumers/audit/skip", b'{"through": 99}')
    assert problem(answered)[:2] == (409, "change-refused")
    answered = post(ask, "/api/consumers/audit/skip", b'{"through": 7}', fields=(SHOWN,))
    assert problem(answered)[:2] == (415, "not-json")
    assert consumers.asked == []


@pytest.mark.parametrize("change", ["pause", "resume", "skip", "remove"])
def test_without_the_token_nothing_is_changed(ask, consumers, change):
    body = b'{"backlog": "drop"}' if change == "remove" else b"{}"
    path = f"/api/consumers/audit/{change}"
    assert problem(post(ask, path, body, (JSON,)))[:2] == (401, "no-token")
    assert problem(post(ask, "/api/consumers", b"{}", (JSON,)))[:2] == (401, "no-token")
    foreign = (SHOWN, JSON, "Origin: http://evil.example")
    assert problem(post(ask, path, body, foreign))[:2] == (403, "foreign-origin")
    assert ask(path, fields=(SHOWN,))[0] == 405
    assert consumers.asked == []
