"""Producers that wait for what the consumer says, and the pages that say what became of a message."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from crowd.delivery.awaited import Ending
from crowd.errors import NoQuorumError
from crowd.idempotency import Replayed
from crowd.message import Position
from crowd.policy import (
    CertificatePolicy,
    CorsPolicy,
    KeyPolicy,
    Policy,
    RatePolicy,
)
from crowd.web.waiting import GONE_S

KEY = KeyPolicy("shop", (sha256(b"crowd_one").hexdigest(),))
SHOWN = b"Authorization: Bearer crowd_one"
PAGE = b"Origin: https://shop.example"
CORS = CorsPolicy(("https://shop.example",), ("Authorization",), ("Location",), False, 600)
ID = b"0123abcd-%016x"
MADE = Ending(
    "delivered", 201, ((b"Content-Type", b"a/b"), (b"Location", b"/made"), (b"Via", b"1.1 crowd")),
    b"made",
)  # fmt: skip


@pytest.fixture
def waiting(make_door):
    """A door on whose one route producers may wait for 30 seconds."""
    return make_door(policies=[Policy("/leads", wait_s=30.0)])


def accepted(door, post, *headers, target=b"/leads"):
    """Return a producer whose message was just accepted."""
    producer = door.connect()
    producer.send(post(target, b"x" * 100, *headers))
    door.acceptor.answer_all()
    return producer


def read(door, position, *headers, method=b"GET", tag=b"0123abcd"):
    name = b"%s-%016x" % (tag, position)
    producer = door.connect()
    lines = [method + b" /.crowd/messages/" + name + b" HTTP/1.1", b"Host: a", *headers, b"", b""]
    producer.send(b"\r\n".join(lines))
    return producer


def kind(producer):
    (answer,) = producer.answers
    return answer.status, json.loads(answer.body)["type"].removeprefix("/problems/")


# --- Waits ----------------------------------------------------------------------------------------


def test_the_consumers_answer_is_the_producers(waiting, post):
    producer = accepted(waiting, post, b"Prefer: wait=10, respond-async", b"X-A: b")
    assert producer.answers == []
    ((position, consumer, within_s, ended),) = waiting.waits.asked
    assert (position, consumer, within_s) == (1, 7, 10)
    ended.callback(MADE)
    (answer,) = producer.answers
    assert (answer.status, answer.body) == (201, b"made")
    fields = dict(answer.headers)
    assert fields[b"Location"] == b"/made"
    assert fields[b"Preference-Applied"] == b"wait=10"
    assert fields[b"Crowd-State"] == b"delivered"
    assert fields[b"Crowd-Message-Id"] == ID % 1
    assert fields[b"Content-Length"] == b"4"
    (message,) = waiting.acceptor.messages
    assert message.headers == (
        (b"Host", b"crowd.test"), (b"Prefer", b"respond-async"), (b"X-A", b"b"),
        (b"Content-Length", b"100"), (b"Crowd-Wait", b"7"),
    )  # fmt: skip


def test_a_dead_letters_answer_is_passed_back_as_it_is(waiting, post):
    producer = accepted(waiting, post, b"Prefer: wait=10")
    waiting.waits.asked[0][3].callback(Ending("dead", 422, ((b"A", b"b"),), b"no"))
    (answer,) = producer.answers
    assert (answer.status, answer.body) == (422, b"no")
    assert answer.fields[b"crowd-state"] == b"dead"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_content_says_no_length(waiting, post, status):
    """RFC 9110, 8.6 and 15.4.5: none is allowed with a 204, and 0 would be untrue of a 304."""
    producer = accepted(waiting, post, b"Prefer: wait=10")
    waiting.waits.asked[0][3].callback(Ending("delivered", status, ((b"ETag", b'"a"'),), b""))
    (answer,) = producer.answers
    assert answer.status == status
    assert b"content-length" not in answer.fields
    assert answer.fields[b"etag"] == b'"a"'


def test_an_answer_that_resets_has_no_content(waiting, post):
    """RFC 9110, 15.3.6, whatever the consumer sends."""
    producer = accepted(waiting, post, b"Prefer: wait=10")
    waiting.waits.asked[0][3].callback(Ending("delivered", 205, (), b"made"))
    (answer,) = producer.answers
    assert (answer.status, answer.body) == (205, b"")
    assert answer.fields[b"content-length"] == b"0"


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        (None, b"accepted"),
        (Ending("delivered"), b"delivered"),
        (Ending("settled"), b"settled"),
    ],
)
def test_otherwise_the_usual_answer_with_the_place_to_ask(waiting, post, ending, state):
    """Time is over, nobody can tell, or the answer is none that is passed back."""
    producer = accepted(waiting, post, b"Prefer: wait=10", b"Accept-Encoding: gzip")
    waiting.waits.asked[0][3].callback(ending)
    (answer,) = producer.answers
    assert answer.status == 200
    assert answer.fields[b"content-encoding"] == b"gzip"
    assert answer.fields[b"location"] == b"/.crowd/messages/" + ID % 1
    assert answer.fields[b"preference-applied"] == b"wait=10"
    assert answer.fields[b"crowd-state"] == state


def test_a_wait_is_bounded_by_the_routes(waiting, post):
    producer = accepted(waiting, post, b"Prefer: wait=3600")
    assert waiting.waits.asked[0][2] == 30
    waiting.waits.asked[0][3].callback(None)
    assert producer.answers[0].fields[b"preference-applied"] == b"wait=30"


@pytest.mark.parametrize("nobody", [True, False])
def test_with_nobody_or_nothing_to_wait_for_the_answer_comes_at_once(waiting, post, nobody):
    if nobody:
        waiting.waits.consumer = None
    producer = accepted(waiting, post, b"Prefer: wait=5" if nobody else b"Prefer: wait=0")
    assert producer.answers[0].fields[b"location"] == b"/.crowd/messages/" + ID % 1
    assert waiting.waits.asked == []
    assert not any(name == b"Crowd-Wait" for name, _ in waiting.acceptor.messages[0].headers)


def test_on_a_route_without_waits_all_travels_on(waiting, post):
    producer = accepted(waiting, post, b"Prefer: wait=10", target=b"/any/x")
    (answer,) = producer.answers
    assert b"preference-applied" not in answer.fields
    assert (b"Prefer", b"wait=10") in waiting.acceptor.messages[0].headers
    assert waiting.waits.asked == []


def test_who_does_not_ask_hears_the_usual_answer(waiting, post):
    producer = accepted(waiting, post)
    assert dict(producer.answers[0].headers).keys().isdisjoint({b"Location", b"Crowd-State"})


def test_what_is_refused_is_refused_as_ever(waiting, post):
    producer = waiting.connect()
    producer.send(post(b"/leads", b"x", b"Prefer: wait=10"))
    waiting.acceptor.offered[0][2].errback(NoQuorumError("told"))
    assert kind(producer) == (503, "no-quorum")
    assert waiting.waits.asked == []


def test_a_repeated_key_waits_for_the_first_message(waiting, post):
    producer = waiting.connect()
    producer.send(post(b"/leads", b"x", b"Prefer: wait=10", b"Idempotency-Key: k"))
    waiting.acceptor.offered[0][2].callback(Replayed(Position(4)))
    assert waiting.waits.asked[0][0] == 4
    waiting.waits.asked[0][3].callback(MADE)
    (answer,) = producer.answers
    assert answer.status == 201
    assert answer.fields[b"idempotent-replayed"] == b"true"
    assert answer.fields[b"crowd-message-id"] == ID % 4


def test_i7_who_waits_holds_no_body(waiting, post):
    accepted(waiting, post, b"Prefer: wait=10")
    assert waiting.producers.budget.used == 0
    waiting.waits.asked[0][3].callback(None)
    assert waiting.producers.budget.used == 0


def test_an_answer_to_a_producer_that_went_away_is_nobodys(waiting, post):
    producer = accepted(waiting, post, b"Prefer: wait=10")
    producer.channel.connectionLost()
    waiting.waits.asked[0][3].callback(MADE)
    assert waiting.producers.budget.used == 0


def test_a_producer_that_went_away_waits_no_more(waiting, post):
    producer = accepted(waiting, post, b"Prefer: wait=10")
    assert waiting.waits.left == []
    producer.channel.connectionLost()
    ((position, consumer, _, ended),) = waiting.waits.asked
    assert waiting.waits.left == [(position, consumer, ended)]


def test_a_producer_that_went_away_before_does_not_even_begin(waiting, post):
    producer = waiting.connect()
    producer.send(post(b"/leads", b"x", b"Prefer: wait=10"))
    producer.channel.connectionLost()
    waiting.acceptor.answer_all()
    assert (waiting.waits.asked, waiting.waits.left) == ([], [])
    assert waiting.producers.budget.used == 0


def test_a_producer_that_sends_no_more_waits_a_moment_longer(waiting, post):
    """Who closes, and who only sends no more, look alike. The one is gone; the other hears where to ask."""
    producer = accepted(waiting, post, b"Prefer: wait=10")
    producer.channel.readConnectionLost()
    waiting.clock.advance(GONE_S - 0.1)
    assert (producer.answers, waiting.waits.left) == ([], [])
    waiting.clock.advance(0.2)
    ((position, consumer, _, ended),) = waiting.waits.asked
    assert waiting.waits.left == [(position, consumer, ended)]
    (answer,) = producer.answers
    assert (answer.status, answer.fields[b"crowd-state"]) == (200, b"accepted")
    assert producer.is_ending


def test_a_producer_that_sends_no_more_hears_what_comes_within_that(waiting, post):
    producer = accepted(waiting, post, b"Prefer: wait=10")
    producer.channel.readConnectionLost()
    waiting.waits.asked[0][3].callback(MADE)
    waiting.clock.advance(GONE_S + 1)
    assert producer.statuses == [201]
    assert waiting.waits.left == []


def test_a_producer_that_sends_no_more_for_long_does_not_begin_to_wait(waiting, post):
    producer = waiting.connect()
    producer.send(post(b"/leads", b"x", b"Prefer: wait=10"))
    producer.channel.readConnectionLost()
    waiting.clock.advance(GONE_S + 1)
    waiting.acceptor.answer_all()
    assert producer.answers[0].fields[b"crowd-state"] == b"accepted"
    assert waiting.waits.asked == []


def test_a_producer_that_was_answered_and_goes_leaves_nothing(waiting, post):
    producer = accepted(waiting, post, b"Prefer: wait=10")
    waiting.waits.asked[0][3].callback(MADE)
    producer.channel.connectionLost()
    assert waiting.waits.left == []


def test_the_door_speaks_to_browsers_and_the_consumer_does_not(make_door, post):
    door = make_door(policies=[Policy("/leads", ("POST",), cors=CORS, wait_s=9.0)])
    producer = accepted(door, post, b"Prefer: wait=5", PAGE)
    headers = ((b"Access-Control-Allow-Origin", b"*"), (b"X-A", b"b"))
    door.waits.asked[0][3].callback(Ending("delivered", 200, headers, b""))
    (answer,) = producer.answers
    origins = [v for name, v in answer.headers if name == b"Access-Control-Allow-Origin"]
    assert origins == [b"https://shop.example"]
    assert answer.fields[b"x-a"] == b"b"


# --- What became of a message ---------------------------------------------------------------------


def test_an_open_route_tells_whoever_knows_the_id_the_state_alone(door):
    (answer,) = read(door, 3).answers
    assert answer.status == 200
    assert answer.fields[b"cache-control"] == b"no-store"
    assert json.loads(answer.body) == {"id": (ID % 3).decode(), "position": 3, "state": "dead"}


def test_head_has_no_body(door):
    producer = read(door, 3, method=b"HEAD")
    assert producer.taken().endswith(b"\r\n\r\n")


def test_with_a_key_the_consumers_are_told(make_door):
    door = make_door(policies=[Policy("/leads", keys=(KEY,), key_from=("bearer",))])
    assert kind(read(door, 3)) == (401, "no-credential")
    assert kind(read(door, 3, b"Authorization: Bearer no")) == (401, "unknown-credential")
    document = json.loads(read(door, 3, SHOWN).answers[0].body)
    assert document["consumers"] == [
        {"name": "rest-api", "state": "dead", "attempts": 3},
        {"name": "audit", "state": "delivered"},
    ]


def test_with_waits_the_consumers_are_told(waiting):
    assert len(json.loads(read(waiting, 3).answers[0].body)["consumers"]) == 2


def test_a_certificate_is_asked_for_too(make_door):
    policy = Policy("/leads", certificates=(CertificatePolicy("shop", ("dns:shop",)),))
    assert kind(read(make_door(policies=[policy]), 3)) == (403, "wrong-certificate")


@pytest.mark.parametrize("position", [0, 10, 2**64 - 1])
def test_ids_of_no_message(door, position):
    assert kind(read(door, position)) == (404, "unknown-message")


def test_an_id_of_another_cluster_or_none(door):
    assert kind(read(door, 3, tag=b"ffffffff")) == (404, "unknown-message")
    assert kind(read(door, 3, tag=b"nonsense")) == (404, "unknown-message")


def test_what_was_released_is_gone(door):
    assert kind(read(door, 2)) == (410, "message-gone")


def test_a_message_of_a_route_that_is_not_here(door):
    door.standings.route = "/elsewhere"
    assert kind(read(door, 3)) == (404, "unknown-message")


def test_who_asks_counts_as_who_posts(make_door):
    door = make_door(policies=[Policy("/leads", rate=RatePolicy(0.001, 2, "address"))])
    assert [read(door, 3).statuses for _ in range(3)] == [[200], [200], [429]]


def test_browsers_may_ask_from_pages_that_may_post(make_door):
    policy = Policy("/leads", ("POST",), keys=(KEY,), key_from=("bearer",), cors=CORS)
    door = make_door(policies=[policy])
    (answer,) = read(
        door, 3, PAGE, b"Access-Control-Request-Method: GET", method=b"OPTIONS"
    ).answers
    assert answer.status == 204
    assert answer.fields[b"access-control-allow-origin"] == b"https://shop.example"
    (answer,) = read(door, 3, PAGE, SHOWN).answers
    assert answer.status == 200
    assert answer.fields[b"access-control-allow-origin"] == b"https://shop.example"
    assert kind(read(door, 3, b"Origin: https://other.example", SHOWN)) == (403, "foreign-page")
    refused = read(door, 3, PAGE)
    assert refused.answers[0].fields[b"access-control-allow-origin"] == b"https://shop.example"
    assert kind(refused) == (401, "no-credential")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/.crowd", 404),
        (b"/.crowd/", 404),
        (b"/.crowd/other/x", 404),
        (b"/%2ecrowd/other", 404),
        (b"/.crowd/messages/" + ID % 3, 405),
        (b"/x/../.crowd/messages/" + ID % 3, 400),
        (b"//.crowd/messages/" + ID % 3, 400),
        (b"/.crowd//messages/" + ID % 3, 400),
        (b"/.crowded", 200),
        (b"/x/.crowd", 200),
    ],
)
def test_no_route_takes_what_is_crowds_own(make_door, post, target, status):
    """Not even the one that takes everything."""
    door = make_door(routes=[("/<path:rest>", ("POST",))])
    door.acceptor.routes["/<path:rest>"] = 1
    producer = door.connect()
    producer.send(post(target, b"x"))
    door.acceptor.answer_all()
    assert producer.statuses == [status]
    assert len(door.acceptor.offered) == (status == 200)
