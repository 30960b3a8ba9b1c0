"""What becomes of a request on its way to a message."""

from __future__ import annotations

import json

import pytest

from crowd.errors import (
    BacklogFullError,
    DrainingError,
    NoQuorumError,
    OutcomeUnknownError,
    RefusedError,
)


def test_bytes_are_kept_as_they_came(door):
    """I9: method, target, end-to-end headers in their order and case, and body."""
    body = bytes(range(256))
    producer = door.connect()
    producer.send(
        b'PUT /leads?a=%2f&b=[1]|{}" HTTP/1.1\r\n'
        b"hOST: a.test:80\r\n"
        b"X-Two: 1\r\n"
        b"x-one:\t caf\xc3\xa9 \xff \r\n"
        b"X-Two: 2\r\n"
        b"Empty:\r\n"
        b"Cookie: a=b; c=d\r\n"
        b"Content-Length: 256\r\n"
        b"Authorization: Bearer x\r\n"
        b"Webhook-Id: theirs\r\n"
        b"\r\n" + body
    )
    ((route, _, _),) = door.acceptor.offered
    (message,) = door.acceptor.messages
    assert route == 1
    assert message.method == b"PUT"
    assert message.target == b'/leads?a=%2f&b=[1]|{}"'
    assert message.headers == (
        (b"hOST", b"a.test:80"),
        (b"X-Two", b"1"),
        (b"x-one", b"caf\xc3\xa9 \xff"),
        (b"X-Two", b"2"),
        (b"Empty", b""),
        (b"Cookie", b"a=b; c=d"),
        (b"Content-Length", b"256"),
        (b"Authorization", b"Bearer x"),
        (b"Webhook-Id", b"theirs"),
    )
    assert message.body == body
    assert message.received_us == 1_753_228_800_000_000
    assert message.client == b"192.0.2.7"
    assert message.scheme == b"http"


def test_what_ends_at_this_proxy_goes_no_further(door, post):
    """Hop-by-hop fields, those that Connection names, and crowd's own names from outside."""
    producer = door.connect()
    producer.send(
        post(
            b"/leads", b"x", b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"Keep-Alive: 5",
            b"TE: trailers", b"Upgrade: h2c", b"Proxy-Connection: x", b"Trailer: X-T",
            b"Proxy-Authorization: x", b"crowd-position: 1", b"Crowd-Message-Id: forged", b"X-A: b",
            b"CROWD_ATTEMPT: 9", b"Crowd-Replay:", b"cRoWd.Message-ID: x",
        )
    )  # fmt: skip
    assert door.acceptor.messages[0].headers == (
        (b"Host", b"crowd.test"), (b"X-A", b"b"), (b"Content-Length", b"1"),
    )  # fmt: skip


def test_an_absolute_target_becomes_a_path_and_a_host(door):
    """RFC 9112 section 3.2.2: its authority overrides Host."""
    producer = door.connect()
    producer.send(b"POST http://b.test:81/leads?x=1 HTTP/1.1\r\nHost: a.test\r\n\r\n")
    (message,) = door.acceptor.messages
    assert message.target == b"/leads?x=1"
    assert message.headers == ((b"Host", b"b.test:81"),)


def test_a_path_is_matched_decoded_and_kept_encoded(door, post):
    producer = door.connect()
    producer.send(post(b"/any/%66oo%2Fbar/../x") + post(b"/l%65ads/") + post(b"/any/%ff"))
    assert [route for route, _, _ in door.acceptor.offered] == [2, 1, 2]
    targets = [message.target for message in door.acceptor.messages]
    assert targets == [b"/any/%66oo%2Fbar/../x", b"/l%65ads/", b"/any/%ff"]


def test_a_fragment_cannot_be_delivered(door, post):
    producer = door.connect()
    producer.send(post(b"/any/a#b"))
    assert producer.statuses == [400]
    assert json.loads(producer.answers[0].body)["type"] == "/problems/bad-target"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (NoQuorumError("told", retry_after_s=3), "no-quorum"),
        (BacklogFullError("told", retry_after_s=3), "backlog-full"),
        (DrainingError("told", retry_after_s=3), "draining"),
        (RefusedError("told", retry_after_s=3), "not-stored"),
        (OutcomeUnknownError("told", retry_after_s=3), "outcome-unknown"),
    ],
)
def test_a_refusal_says_whether_the_message_is_stored(door, post, error, name):
    """Only an unknown outcome is called unknown; each says when to try again."""
    producer = door.connect()
    producer.send(post(b"/leads", b"x"))
    door.acceptor.offered[0][2].errback(error)
    (answer,) = producer.answers
    assert answer.status == 503
    assert answer.fields[b"retry-after"] == b"3"
    assert answer.fields[b"content-type"] == b"application/problem+json"
    problem = json.loads(answer.body)
    assert problem["type"] == f"/problems/{name}"
    assert problem["status"] == 503
    assert problem["detail"] == "told"
    assert ("Not stored" in problem["title"] or "not stored" in problem["title"]) == (
        name != "outcome-unknown"
    )
    assert not producer.is_ending


def test_a_route_that_the_ledger_lacks_is_not_stored(door, post):
    """A node that just started knows its file's routes before the cluster does."""
    door.acceptor.routes.clear()
    producer = door.connect()
    producer.send(post(b"/leads", b"x"))
    assert json.loads(producer.answers[0].body)["type"] == "/problems/no-quorum"
    assert door.acceptor.offered == []


def test_a_route_for_all_below_takes_the_top_itself(door, post):
    """``/<path:rest>`` takes ``/`` too: it is what stands in front of a whole API."""
    producer = door.connect()
    producer.send(post(b"/any/"))
    producer.send(post(b"/any/deep/er"))
    door.turn()
    assert [route for route, _, _ in door.acceptor.offered] == [2, 2]
