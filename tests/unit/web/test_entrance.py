"""Doors under crowd's channel: what a producer hears, and what is stored."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from crowd.door.asked import Reason
from crowd.policy import KeyPolicy, Policy

KEY = b"crowd_one"
KEYS = Policy(
    "/leads", keys=(KeyPolicy("shop-a", (sha256(KEY).hexdigest(),)),), key_from=("bearer",)
)
SHOWN = b"Authorization: Bearer " + KEY


def problem(answer):
    assert answer.fields[b"content-type"] == b"application/problem+json"
    return json.loads(answer.body)


@pytest.fixture
def keyed(make_door):
    return make_door(policies=[KEYS])


def test_who_may_post_is_accepted_and_the_key_is_not_stored(keyed, post):
    producer = keyed.connect()
    producer.send(post(b"/leads", b"x", SHOWN, b"X-A: b"))
    keyed.acceptor.answer_all()
    assert producer.statuses == [200]
    (message,) = keyed.acceptor.messages
    assert message.headers == ((b"Host", b"crowd.test"), (b"X-A", b"b"), (b"Content-Length", b"1"))
    ((_, stored, _),) = keyed.acceptor.offered
    assert KEY not in stored


def test_strangers_get_401_and_the_connection_stays(keyed, post):
    producer = keyed.connect()
    producer.send(post(b"/leads", b"x") + post(b"/leads", b"x", b"Authorization: Bearer no"))
    producer.send(post(b"/leads", b"x", SHOWN))
    keyed.turn()
    keyed.acceptor.answer_all()
    keyed.turn()
    none, wrong, right = producer.answers
    assert (none.status, problem(none)["type"]) == (401, "/problems/no-credential")
    assert none.fields[b"www-authenticate"] == b'Bearer realm="crowd"'
    assert (wrong.status, problem(wrong)["type"]) == (401, "/problems/unknown-credential")
    assert right.status == 200
    assert not producer.is_ending
    assert keyed.tally.refused[Reason.NO_CREDENTIAL] == 1
    assert keyed.tally.refused[Reason.UNKNOWN_CREDENTIAL] == 1


def test_a_strangers_large_body_is_not_read(keyed, post):
    """It is refused at its head: nothing of a MiB is held for who may not post."""
    producer = keyed.connect()
    producer.send(post(b"/leads", b"x" * 500_000)[:1000])
    assert producer.statuses == [401]
    assert producer.is_ending
    assert keyed.producers.budget.used == 0
    producer = keyed.connect()
    producer.send(post(b"/leads", b"x" * 500_000, SHOWN))
    keyed.acceptor.answer_all()
    assert producer.statuses == [200]


def test_a_chunked_body_of_a_stranger_is_not_read(keyed):
    producer = keyed.connect()
    producer.send(b"POST /leads HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert producer.statuses == [401]


def test_who_waits_for_100_hears_401_instead(keyed):
    producer = keyed.connect()
    head = b"POST /leads HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n"
    producer.send(head + b"\r\n")
    assert producer.statuses == [401]
    producer = keyed.connect()
    producer.send(head + SHOWN + b"\r\n\r\n")
    assert producer.taken() == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_door_is_its_routes_alone(keyed, post):
    producer = keyed.connect()
    producer.send(post(b"/any/thing", b"x"))
    producer.send(post(b"/leads/", b"x"))
    assert len(keyed.acceptor.offered) == 1
    keyed.turn()
    keyed.acceptor.answer_all()
    keyed.turn()
    assert producer.statuses == [200, 401]


def test_a_door_for_all_below_is_the_tops_too(make_door, post):
    """No spelling of a path leads around a door."""
    import msgspec

    below = make_door(policies=[msgspec.structs.replace(KEYS, path="/any/<path:rest>")])
    producer = below.connect()
    for path in (b"/any/", b"/any", b"/any/x", b"//any/x", b"/%61ny/x", b"/any/../any/x"):
        producer.send(post(path, b"x"))
    below.turn()
    assert below.acceptor.offered == []
    assert set(producer.statuses) <= {401, 404}
