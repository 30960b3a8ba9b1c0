"""Doors under crowd's channel: what a producer hears, and what is stored."""

from __future__ import annotations

import gzip
import json
from hashlib import sha256

import msgspec
import pytest

from crowd.door.asked import Reason
from crowd.door.proxies import Proxies
from crowd.errors import BacklogFullError
from crowd.message import Position
from crowd.policy import ContentPolicy, CorsPolicy, KeyPolicy, Policy, RatePolicy

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


def test_a_connection_is_asked_for_its_key_each_time(keyed, post):
    """What is remembered of a connection is of the very fields that it showed."""
    producer = keyed.connect()

    def name(*fields):
        producer.send(post(b"/leads", b"x", *fields))
        keyed.acceptor.answer_all()
        return producer.statuses[-1]

    numbered = [b"Idempotency-Key: %d" % number for number in range(3)]
    assert name(SHOWN, numbered[0]) == 200
    assert name(SHOWN, numbered[1]) == 200
    assert name(b"Authorization: Bearer no", numbered[1]) == 401
    assert name(b"Authorization: Bearer no", numbered[2]) == 401
    assert name(SHOWN, numbered[2]) == 200
    assert name(SHOWN) == 200
    assert name(SHOWN) == 200
    assert name() == 401
    assert name(SHOWN, SHOWN) == 401
    shown = [[field[0] for field in each.headers] for each in keyed.acceptor.messages]
    keys = [dict(each.headers).get(b"Idempotency-Key") for each in keyed.acceptor.messages]
    assert not any(b"Authorization" in each for each in shown)
    assert keys == [b"0", b"1", b"2", None, None]


def test_a_key_that_a_reload_took_is_asked_for_anew(make_door, post):
    old, new = make_door(policies=[KEYS]), make_door(
        policies=[msgspec.structs.replace(KEYS, keys=(KeyPolicy("shop-b", ("00" * 32,)),))]
    )  # fmt: skip
    producer = old.connect()
    producer.send(post(b"/leads", b"x", SHOWN))
    old.acceptor.answer_all()
    old.producers.use(new.router)
    producer.send(post(b"/leads", b"x", SHOWN))
    assert producer.statuses == [200, 401]
    old.producers.use(old.router)
    producer.send(post(b"/leads", b"x", SHOWN))
    old.acceptor.answer_all()
    assert producer.statuses == [200, 401, 200]


def test_a_key_may_stand_where_idempotency_keys_do(make_door, post):
    """Odd, but nobody's key is another's because of it."""
    policy = msgspec.structs.replace(KEYS, key_from=("header:idempotency-key",))
    door = make_door(policies=[policy])
    producer = door.connect()
    for key in (KEY, b"other", KEY):
        producer.send(post(b"/leads", b"x", b"Idempotency-Key: " + key))
        door.acceptor.answer_all()
    assert producer.statuses == [200, 401, 200]


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
    below = make_door(policies=[msgspec.structs.replace(KEYS, path="/any/<path:rest>")])
    producer = below.connect()
    for path in (b"/any/", b"/any", b"/any/x", b"//any/x", b"/%61ny/x", b"/any/../any/x"):
        producer.send(post(path, b"x"))
    below.turn()
    assert below.acceptor.offered == []
    assert set(producer.statuses) <= {400, 401, 404}


# --- Browsers ---------------------------------------------------------------------------------

SHOP = b"https://shop.example"
PAGES = CorsPolicy((SHOP.decode(),), ("Content-Type",), ("Crowd-Message-Id",), False, 600)
PAGED = Policy("/leads", ("POST", "PUT"), cors=PAGES)
ORIGIN = b"Origin: " + SHOP
ALLOWED = b"access-control-allow-origin"


@pytest.fixture
def paged(make_door):
    return make_door(policies=[msgspec.structs.replace(KEYS, methods=PAGED.methods, cors=PAGES)])


def options(target, *headers):
    return b"\r\n".join([b"OPTIONS %s HTTP/1.1" % target, b"Host: crowd.test", *headers, b"", b""])


def test_a_preflight_is_answered_without_a_key_and_the_log(paged):
    producer = paged.connect()
    producer.send(options(b"/leads", ORIGIN, b"Access-Control-Request-Method: POST"))
    (answer,) = producer.answers
    assert (answer.status, answer.body) == (204, b"")
    assert answer.fields[ALLOWED] == SHOP
    assert answer.fields[b"access-control-allow-methods"] == b"POST, PUT"
    assert paged.acceptor.offered == []


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        (b"/leads", (b"Origin: http://other", b"Access-Control-Request-Method: POST"), 403),
        (b"/leads", (b"Access-Control-Request-Method: POST",), 403),
        (b"/leads", (ORIGIN, b"Access-Control-Request-Method: DELETE"), 405),
        (b"/leads", (ORIGIN, b"Access-Control-Request-Method: \xff"), 405),
        (b"/leads", (ORIGIN,), 204),
        (b"/leads", (), 204),
        (b"/any/x", (ORIGIN, b"Access-Control-Request-Method: POST"), 405),
        (b"/none", (ORIGIN, b"Access-Control-Request-Method: POST"), 404),
    ],
)
def test_other_questions(paged, target, headers, status):
    producer = paged.connect()
    producer.send(options(target, *headers))
    (answer,) = producer.answers
    assert answer.status == status
    assert b"access-control-allow-methods" not in answer.fields
    if status == 204:
        assert answer.fields[b"allow"] == b"OPTIONS, POST, PUT"


def test_a_route_of_all_below_does_not_answer_for_another(make_door):
    """Leave for pages at one route is none at the route that would take the request."""
    below = make_door(
        policies=[Policy("/any/<path:rest>", ("POST",), cors=PAGES)],
        routes=[("/any/own", ("POST",)), ("/any/<path:rest>", ("POST",))],
    )
    producer = below.connect()
    for target in (b"/any/own", b"/any/x", b"/any/"):
        producer.send(options(target, ORIGIN, b"Access-Control-Request-Method: POST"))
    below.turn()
    assert producer.statuses == [405, 204, 204]


def test_answers_and_errors_can_be_read_by_the_page(paged, post):
    """Those of the handler, of the router, and of what reads requests."""
    paged.acceptor.routes["/leads"] = 1
    producer = paged.connect()
    producer.send(post(b"/leads", b"x", ORIGIN, SHOWN))
    paged.acceptor.offered[0][2].errback(BacklogFullError("told"))
    producer.send(post(b"/leads", b"x", ORIGIN, SHOWN))
    paged.acceptor.offered[1][2].callback(Position(2))
    producer.send(post(b"/leads", b"x", ORIGIN))
    producer.send(post(b"/leads", b"x", ORIGIN).replace(b"POST", b"PATCH"))
    producer.send(post(b"/leads?#x", b"x", ORIGIN, SHOWN))
    producer.send(post(b"/leads", b"x" * 2_000_000, ORIGIN)[:2000])
    assert producer.statuses == [503, 200, 401, 405, 400, 413]
    for answer in producer.answers:
        assert answer.fields[ALLOWED] == SHOP
    late = paged.connect()
    late.send(b"POST /leads HTTP/1.1\r\nHost: h\r\n" + ORIGIN + b"\r\nX")
    paged.wait(11)
    assert late.statuses == [408]
    assert late.answers[0].fields[ALLOWED] == SHOP


def test_a_refusal_in_a_head_is_shown_for_no_earlier_request(paged, post):
    producer = paged.connect()
    producer.send(post(b"/leads", b"x", ORIGIN))
    producer.send(b"POST /leads HTTP/1.1\r\nX")
    paged.wait(11)
    first, second = producer.answers
    assert first.fields[ALLOWED] == SHOP
    assert second.status == 408
    assert ALLOWED not in second.fields


def test_a_foreign_page_is_refused_even_where_the_browser_did_not_ask(make_door, post):
    """A form or a beacon is sent without leave: its message counts, whoever reads the answer."""
    pages = make_door(policies=[PAGED])
    producer = pages.connect()
    producer.send(post(b"/leads", b"a=b", b"Origin: http://other", b"Content-Type: text/plain"))
    assert problem(producer.answers[0])["type"] == "/problems/foreign-page"
    assert ALLOWED not in producer.answers[0].fields
    producer.send(post(b"/leads", b"a=b", ORIGIN, b"Content-Type: text/plain;charset=UTF-8"))
    producer.send(post(b"/leads", b"a=b"))
    assert len(pages.acceptor.offered) == 2
    assert pages.tally.refused[Reason.FOREIGN_PAGE] == 1


def test_without_a_policy_browsers_hear_nothing(door, post):
    producer = door.connect()
    producer.send(options(b"/leads", ORIGIN, b"Access-Control-Request-Method: POST"))
    producer.send(post(b"/leads", b"x", ORIGIN))
    door.acceptor.answer_all()
    refused, accepted = producer.answers
    assert (refused.status, refused.fields[b"allow"]) == (405, b"POST, PUT")
    assert ALLOWED not in accepted.fields


# --- What may be posted -------------------------------------------------------------------------

CONTENT = ContentPolicy(
    types=("application/json",), json=True, depth=64, unique=True, schema=None, schema_text=None,
    body_bytes_max=40_000, decoded_bytes_max=1000, head_bytes_max=32_768, fields_max=128,
)  # fmt: skip
JSON = b"Content-Type: application/json"


@pytest.fixture
def checked(make_door):
    return make_door(policies=[Policy("/leads", ("POST",), content=CONTENT)])


def test_what_is_checked_is_stored_as_it_came(checked, post):
    body = gzip.compress(b'{"a": 1}')
    producer = checked.connect()
    producer.send(post(b"/leads", body, JSON, b"Content-Encoding: gzip"))
    (message,) = checked.acceptor.messages
    assert message.body == body
    assert (b"Content-Encoding", b"gzip") in message.headers


def test_a_mistake_is_told_with_its_place_and_the_connection_stays(checked, post):
    producer = checked.connect()
    producer.send(
        post(b"/leads", b'{"a": 1,}', JSON) + post(b"/leads", b"{}", b"Content-Type: a/b")
    )
    producer.send(post(b"/leads", b"{}", JSON))
    checked.turn()
    malformed, other = producer.answers
    assert (malformed.status, problem(malformed)["type"]) == (400, "/problems/malformed-body")
    found = problem(malformed)
    assert (found["line"], found["column"], found["offset"]) == (1, 9, 8)
    assert (other.status, other.fields[b"accept-post"]) == (415, b"application/json")
    assert len(checked.acceptor.offered) == 1
    assert not producer.is_ending


def test_a_routes_own_bound_of_bodies_is_kept_before_they_are_read(checked, post):
    producer = checked.connect()
    producer.send(post(b"/leads", b" " * 40_001, JSON)[:500])
    assert producer.statuses == [413]
    other = checked.connect()
    other.send(post(b"/leads", b" " * 30_000, b"Content-Type: text/csv")[:500])
    assert other.statuses == [415]
    chunked = checked.connect()
    chunked.send(
        b"POST /leads HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + JSON
        + b"\r\n\r\n9c41\r\n" + b" " * 40_001 + b"\r\n0\r\n\r\n"
    )  # fmt: skip
    assert chunked.statuses == [413]
    assert checked.acceptor.offered == []


# --- How often, and from where --------------------------------------------------------------------


def test_who_posts_too_often_hears_when_it_may_again(make_door, post):
    policy = msgspec.structs.replace(KEYS, rate=RatePolicy(0.5, 1, "credential"))
    limited = make_door(policies=[policy])
    producer = limited.connect()
    producer.send(post(b"/leads", b"x", SHOWN) + post(b"/leads", b"x", SHOWN))
    limited.acceptor.answer_all()
    limited.turn()
    accepted, early = producer.answers
    assert (accepted.status, early.status) == (200, 429)
    assert problem(early)["type"] == "/problems/too-many-requests"
    assert early.fields[b"retry-after"] == b"2"
    limited.wait(2)
    producer.send(post(b"/leads", b"x", SHOWN))
    assert len(limited.acceptor.offered) == 2


def test_guesses_with_long_bodies_count_by_the_address_behind_a_proxy(make_door, post):
    behind = make_door(
        policies=[msgspec.structs.replace(KEYS, rate=RatePolicy(1.0, 1, "address"))],
        proxies=Proxies(("192.0.2.0/24",), "X-Forwarded-For"),
    )
    statuses = []
    for client in (b"203.0.113.5", b"203.0.113.6", b"203.0.113.5"):
        producer = behind.connect()
        producer.send(post(b"/leads", b"x" * 20_000, b"X-Forwarded-For: " + client))
        behind.turn()
        statuses += producer.statuses
    assert statuses == [401, 401, 429]


def test_a_producer_behind_a_trusted_proxy_is_stored_as_itself(make_door, post):
    behind = make_door(
        policies=[Policy("/leads", rate=RatePolicy(1.0, 1, "address"))],
        proxies=Proxies(("192.0.2.0/24",), "X-Forwarded-For"),
    )
    producer = behind.connect()
    for client in (b"203.0.113.5", b"203.0.113.6", b"203.0.113.5"):
        producer.send(post(b"/leads", b"x", b"X-Forwarded-For: 198.51.100.1, " + client))
    assert [message.client for message in behind.acceptor.messages] == [
        b"203.0.113.5",
        b"203.0.113.6",
    ]
    behind.turn()
    behind.acceptor.answer_all()
    behind.turn()
    assert producer.statuses == [200, 200, 429]
