"""`/api/dead`: letters listed, shown, replayed and purged over the admin port, in memory."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import succeed

from crowd.errors import ChangeRefusedError, UnknownLetterError, UnknownOrderError
from crowd.message import ConsumerId, Message, encode_message, wait_mark
from crowd.web.admin import Operators, admin_site
from crowd.web.dead import BODY_SHOWN_MAX, Selection, shown_message
from tests.unit.web.port import JSON, SHOWN, TOKEN, Nobody, asking, problem

MESSAGE = Message(
    b"POST", b"/leads?x=1", ((b"Host", b"h"), (b"X-Odd", b"\xe9")), b'{"a": "\xc3\xa9"}\n',
    7, b"127.0.0.1", b"http",
)  # fmt: skip


class Letters:
    """Notes what is asked for; knows letter 7, and letter 8 without its bytes."""

    def __init__(self):
        self.asked = []
        self.stored = encode_message(MESSAGE)
        self.refusal = None

    def page(self, wanted, after, limit):
        self.asked.append(("page", wanted, after, limit))
        return [{"number": 7}], 7

    def show(self, number):
        if number not in {7, 8}:
            raise UnknownLetterError(f"found no letter {number}")
        return {"number": number}

    def message(self, number):
        return succeed(self.stored if number == 7 else None)

    def replay(self, letters, *, to, rate):
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(("replay", letters, to, rate))
        return 3

    def purge(self, letters, *, rate):
        self.asked.append(("purge", letters, rate))
        return 4

    def orders(self):
        return [{"order": 3}]

    def stop(self, order):
        if order != 3:
            raise UnknownOrderError(f"found no order {order}")
        self.asked.append(("stop", order))


@pytest.fixture
def letters():
    return Letters()


@pytest.fixture
def ask(letters):
    return asking(admin_site(Nobody(), Operators(Nobody(), Nobody(), letters), TOKEN))


def get(ask, path):
    status, _, body = ask(path, fields=(SHOWN,))
    assert status == 200
    return json.loads(body)


def post(ask, path, value, fields=(SHOWN, JSON)):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return ask(path, "POST", fields=fields, body=body)


def test_letters_come_in_pages(ask, letters):
    assert get(ask, "/api/dead") == {"letters": [{"number": 7}], "next": 7}
    get(ask, "/api/dead?consumer=audit&reason=age&state=dead&after=7&limit=1000"
        "&since=2026-11-24T12:00:00Z&until=2026-11-24T13:00:00.000001%2B01:00")  # fmt: skip
    noon_us = 1_795_521_600_000_000
    assert letters.asked == [
        ("page", Selection(), 0, 100),
        ("page", Selection("audit", "age", "dead", noon_us, noon_us + 1), 7, 1000),
    ]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit: found '0'; expected from 1 to 1000"),
        ("limit=1001", "limit: found '1001'"),
        ("limit=", "limit: found ''"),
        ("limit=%C2%B2", "limit: found "),
        ("after=-1", "after: found '-1'"),
        ("after=" + "9" * 5_000, "after: found '999"),
        ("state=gone", "state: found 'gone'; expected one of dead, parked, replay"),
        ("reason=x", "reason: found 'x'"),
        ("since=yesterday", "since: found 'yesterday'; expected a time with its zone"),
        ("since=2026-11-24T12:00:00", "since: found '2026-11-24T12:00:00'"),
        ("consumer=a&consumer=b", "consumer: found 2 of them"),
        ("color=red", "'color': found an unknown key"),
        ("%FF=red", "found an unknown key"),
    ],
)
def test_a_query_that_means_nothing_is_told(ask, letters, query, words):
    status, kind, detail = problem(ask(f"/api/dead?{query}", fields=(SHOWN,)))
    assert (status, kind) == (400, "bad-query")
    assert words in detail
    assert letters.asked == []


def test_a_letter_is_shown_with_its_message(ask):
    shown = get(ask, "/api/dead/7")
    assert shown["letter"] == {"number": 7}
    message = shown["message"]
    assert (message["method"], message["target"]) == ("POST", "/leads?x=1")
    assert message["headers"] == [["Host", "h"], ["X-Odd", "é"]]
    assert base64.b64decode(message["body"]) == MESSAGE.body
    assert message["text"] == '{"a": "é"}\n'
    assert message["body_bytes"] == len(MESSAGE.body)


def test_a_letter_that_cannot_be_shown_is_told(ask, letters):
    assert problem(ask("/api/dead/9", fields=(SHOWN,)))[:2] == (404, "unknown-letter")
    assert problem(ask("/api/dead/8", fields=(SHOWN,)))[:2] == (503, "not-here")
    letters.stored = b"no message"
    assert problem(ask("/api/dead/7", fields=(SHOWN,)))[:2] == (503, "not-here")
    assert ask("/api/dead/x", fields=(SHOWN,))[0] == 404


@given(st.binary(max_size=200))
def test_any_body_is_shown_as_json(body):
    shown = shown_message(encode_message(Message(b"P", b"/", (), body, 0, b"", b"http")))
    assert json.loads(json.dumps(shown)) == shown
    assert base64.b64decode(shown["body"]) == body
    assert (
        shown.get("text", body.decode("utf-8", "replace")).encode() == body or "text" not in shown
    )


def test_that_a_producer_waited_is_none_of_its_fields():
    fields = ((b"X-A", b"b"), wait_mark(ConsumerId(1)))
    shown = shown_message(encode_message(Message(b"P", b"/", fields, b"", 0, b"", b"http")))
    assert shown["headers"] == [["X-A", "b"]]


def test_of_a_large_body_a_part_is_shown():
    body = b"x" * (BODY_SHOWN_MAX + 1)
    shown = shown_message(encode_message(Message(b"P", b"/", (), body, 0, b"", b"http")))
    assert shown["body_bytes"] == BODY_SHOWN_MAX + 1
    assert len(base64.b64decode(shown["body"])) == BODY_SHOWN_MAX
    assert "text" not in shown


def test_letters_are_replayed_and_purged(ask, letters):
    status, _, body = post(ask, "/api/dead/replay", {"letters": [9, 7, 7]})
    assert (status, json.loads(body)) == (202, {"asked": "replay", "order": 3})
    selection = {"consumer": "audit", "all": True, "reason": "age", "since": "1970-01-01T00:00:01Z"}
    post(ask, "/api/dead/replay", {**selection, "to": "other", "rate": "50/s"})
    assert post(ask, "/api/dead/purge", {**selection, "state": "parked"})[0] == 202
    assert letters.asked == [
        ("replay", (7, 9), None, None),
        ("replay", Selection("audit", "age", None, 1_000_000), "other", 50.0),
        ("purge", Selection("audit", "age", "parked", 1_000_000), None),
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "truncated"),
        ({}, "found no letters"),
        ({"all": True}, "found no letters"),
        ({"consumer": "audit"}, "found no letters"),
        ({"letters": []}, "letters"),
        ({"letters": [0]}, "letters"),
        ({"letters": ["7"]}, "letters"),
        ({"letters": [2**63]}, "letters"),
        ({"letters": list(range(1, 1026))}, "letters"),
        ({"letters": [7], "all": True}, "found numbers and a selection"),
        ({"letters": [7], "consumer": "audit"}, "found numbers and a selection"),
        ({"letters": [7], "rate": "fast"}, "no rate"),
        ({"letters": [7], "rate": "0/s"}, "no rate"),
        ({"letters": [7], "rate": "9999999/s"}, "1000000/s at most"),
        ({"consumer": "audit", "all": True, "state": "gone"}, "state"),
        ({"consumer": "audit", "all": True, "since": "x"}, "since: found 'x'"),
        ({"letter": [7]}, "letter"),
    ],
)
def test_what_means_no_letters_changes_none(ask, letters, body, words):
    for path in ("/api/dead/replay", "/api/dead/purge"):
        status, kind, detail = problem(post(ask, path, body))
        assert (status, kind) == (400, "bad-change")
        assert words in detail
    assert letters.asked == []


def test_what_is_purged_goes_nowhere(ask, letters):
    answered = post(ask, "/api/dead/purge", {"letters": [7], "to": "other"})
    assert problem(answered)[1:] == ("bad-change", "to: found it; expected it with a replay alone")
    letters.refusal = ChangeRefusedError("found letter 7 parked")
    answered = post(ask, "/api/dead/replay", {"letters": [7]})
    assert problem(answered) == (409, "change-refused", "found letter 7 parked")
    assert letters.asked == []


def test_orders_are_shown_and_stopped(ask, letters):
    assert get(ask, "/api/dead/orders") == {"orders": [{"order": 3}]}
    assert ask("/api/dead/orders/3", "DELETE", fields=(SHOWN,))[0] == 202
    answered = ask("/api/dead/orders/4", "DELETE", fields=(SHOWN,))
    assert problem(answered)[:2] == (404, "unknown-order")
    assert letters.asked == [("stop", 3)]


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/api/dead", "GET"), ("/api/dead/7", "GET"), ("/api/dead/9", "GET"),
        ("/api/dead/orders", "GET"), ("/api/dead/orders/3", "DELETE"),
        ("/api/dead/replay", "POST"), ("/api/dead/purge", "POST"),
    ],
)  # fmt: skip
def test_without_the_token_nothing_is_read_or_changed(ask, letters, path, method):
    """A letter holds what a producer sent: reading needs the token, too."""
    body = b'{"letters": [7]}' if method == "POST" else b""
    assert problem(ask(path, method, fields=(JSON,), body=body))[:2] == (401, "no-token")
    foreign = (SHOWN, JSON, "Origin: null")
    assert problem(ask(path, method, fields=foreign, body=body))[:2] == (403, "foreign-origin")
    assert letters.asked == []
