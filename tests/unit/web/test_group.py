"""Many messages in one request: what is stored of each, and what their producer hears."""

from __future__ import annotations

import gzip
import json

import pytest

from crowd.door.elements import ELEMENTS_MAX
from crowd.errors import KeyReusedError, OutcomeUnknownError
from crowd.idempotency import Grouped, is_keyed, keyed_messages
from crowd.message import Position
from crowd.policy import Policy
from crowd.web.idempotency import digests_of, digests_of_event

MANY = Policy("/leads", ("POST",), many=True)
EVENTS = Policy("/leads", ("POST",), many=True, idempotency="event")
ONE_EVENT = Policy("/leads", ("POST",), idempotency="event")
LINES = b"application/x-ndjson"
BATCH = b"application/cloudevents-batch+json"


def post(door, body, media=LINES, *fields):
    """Post `body`; return the producer."""
    producer = door.connect()
    lines = [b"POST /leads?a=b HTTP/1.1", b"Host: crowd.test", b"X-Before: 1"]
    lines += [b"content-type: " + media, b"Content-Length: %d" % len(body), *fields]
    producer.send(b"\r\n".join([*lines, b"", body]))
    door.turn()
    return producer


def answer_to(producer):
    (answer,) = producer.answers
    return answer


def problem_of(producer):
    answer = answer_to(producer)
    return answer.status, json.loads(answer.body)


def test_i9_each_element_is_a_message_with_its_requests_fields(make_door):
    """In their order: but its own type, and what was said of the whole body."""
    door = make_door([MANY])
    body = gzip.compress(b'{"a" : 1}\r\n"\xc3\xa9"\n')
    post(
        door, body, LINES, b"Content-Encoding: gzip", b"Digest: x", b"Accept: a/b", b"X-After: 2"
    )  # fmt: skip
    (messages,) = door.acceptor.groups
    assert [message.body for message in messages] == [b'{"a" : 1}', b'"\xc3\xa9"']
    for message in messages:
        assert (message.method, message.target) == (b"POST", b"/leads?a=b")
        assert message.headers == (
            (b"Host", b"crowd.test"), (b"X-Before", b"1"), (b"content-type", b"application/json"),
            (b"Accept", b"a/b"), (b"X-After", b"2"),
        )  # fmt: skip
        assert (message.client, message.scheme) == (b"192.0.2.7", b"http")


WHOLE = (
    b"Idempotency-Key: k", b"Content-Range: bytes 0-1/4", b"Content-MD5: x", b"Digest: x",
    b"Content-Digest: x", b"Repr-Digest: x", b"Signature: x", b"signature-input: x",
    b"Webhook-Id: x", b"Webhook-Timestamp: 1", b"Webhook-Signature: x", b"X-Hub-Signature: x",
    b"X-Hub-Signature-256: x", b"Stripe-Signature: x", b"X-Shopify-Hmac-SHA256: x",
    b"X-Slack-Signature: x", b"X-Slack-Request-Timestamp: 1",
)  # fmt: skip


def test_an_element_has_nothing_that_is_its_whole_requests(make_door):
    """Under one key a consumer that knows keys would take the first element and no other."""
    door = make_door([MANY])
    post(door, b"1\n2\n", LINES, *WHOLE, b"X-After: 2")
    for message in door.acceptor.groups[0]:
        assert [name for name, _ in message.headers] == [
            b"Host", b"X-Before", b"content-type", b"X-After",
        ]  # fmt: skip


def test_the_answer_has_every_id_and_the_first_ones_field(make_door):
    door = make_door([MANY])
    producer = post(door, b"1\n2\n3\n")
    assert producer.answers == []
    door.acceptor.answer_group(0, Grouped(Position(7), 3))
    answer = answer_to(producer)
    ids = [f"0123abcd-{n:016x}" for n in (7, 8, 9)]
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "OK", "ids": ids})
    assert answer.fields[b"crowd-message-id"] == ids[0].encode()
    assert b"idempotent-replayed" not in answer.fields
    producer = post(door, b"1\n2\n3\n", LINES, b"Accept-Encoding: gzip")
    door.acceptor.answer_group(1, Grouped(Position(7), 3))
    packed = answer_to(producer)
    assert packed.fields[b"content-encoding"] == b"gzip"
    assert gzip.decompress(packed.body) == answer.body


def test_other_json_on_the_route_is_one_message(make_door):
    door = make_door([MANY])
    producer = post(door, b'{"a": [1]}', b"application/json")
    door.acceptor.answer_all()
    assert answer_to(producer).body == b'{"status": "OK"}'
    assert door.acceptor.messages[0].body == b'{"a": [1]}'
    assert door.acceptor.groups == []


def test_a_bad_element_leaves_nothing_behind(make_door):
    door = make_door([MANY])
    status, problem = problem_of(post(door, b"1\n2\n{]\n4\n"))
    assert (status, problem["type"]) == (400, "/problems/malformed-body")
    assert (problem["index"], problem["line"], problem["column"]) == (2, 3, 2)
    assert problem_of(post(door, b""))[0] == 400
    assert door.acceptor.groups == door.acceptor.offered == []


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"1\n" * (ELEMENTS_MAX + 1), ()),
        (b"1\n" * ELEMENTS_MAX, (b"X-Long: " + b"x" * 1_000,)),
        (b'"%b"\n' % (b"x" * 500_000) * 2 + b"1\n" * 2_000, ()),
    ],
)
def test_i7_what_no_entry_holds_is_to_be_split(make_door, body, fields):
    door = make_door([MANY])
    status, problem = problem_of(post(door, body, LINES, *fields))
    assert (status, problem["type"]) == (413, "/problems/body-too-large")
    assert "split" in problem["detail"]
    assert door.acceptor.groups == []


def test_one_element_may_be_as_large_as_one_message(make_door):
    door = make_door([MANY])
    body = b'"%b"' % (b"x" * (1_048_576 - 2))
    post(door, body)
    assert [message.body for message in door.acceptor.groups[0]] == [body]


def test_a_key_is_of_the_whole_request(make_door):
    door = make_door([MANY])
    producer = post(door, b"1\n2\n", LINES, b"Idempotency-Key: k")
    (packed,) = door.acceptor.keys
    assert is_keyed(packed, 2)
    ((place, count, key, request),) = keyed_messages(packed)
    assert (place, count) == (0, 2)
    assert key + request == digests_of("/leads", "", b"k", b"POST", b"/leads?a=b", b"1\n2\n", 2)
    assert request != digests_of("/leads", "", b"k", b"POST", b"/leads?a=b", b"1\n2\n")[16:]
    door.acceptor.answer_group(0, Grouped(Position(9), 2, ((0, 2, 4),)))
    answer = answer_to(producer)
    assert answer.fields[b"idempotent-replayed"] == b"true"
    assert answer.fields[b"crowd-message-id"] == b"0123abcd-0000000000000004"
    assert json.loads(answer.body)["ids"][1] == "0123abcd-0000000000000005"
    assert json.loads(answer.body)["replayed"] == [0, 1]


def test_errors_are_those_of_one_message(make_door):
    door = make_door([MANY])
    for number, (error, status) in enumerate(
        ((KeyReusedError("k"), 422), (OutcomeUnknownError("x"), 503))
    ):
        producer = post(door, b"1\n2\n")
        door.acceptor.answer_group(number, error)
        assert problem_of(producer)[0] == status
    assert problem_of(post(door, b"1\n", LINES, b"Idempotency-Key: a, b"))[0] == 400


def event(name, source="/s"):
    return json.dumps({"specversion": "1.0", "id": name, "source": source, "type": "t"}).encode()


def test_each_event_of_a_batch_has_its_own_key(make_door):
    door = make_door([EVENTS])
    producer = post(door, b"[%b, %b,%b]" % (event("1"), event("2"), event("1")), BATCH)
    (packed,) = door.acceptor.keys
    found = [(place, count, key + request) for place, count, key, request in keyed_messages(packed)]
    assert found == [
        (n, 1, digests_of_event("/leads", "", b"/s", name)) for n, name in enumerate((b"1", b"2", b"1"))
    ]  # fmt: skip
    assert {m.headers[2] for m in door.acceptor.groups[0]} == {
        (b"content-type", b"application/cloudevents+json")
    }
    door.acceptor.answer_group(0, Grouped(Position(9), 3, ((1, 1, 3), (2, 1, 9))))
    answer = answer_to(producer)
    names = [f"0123abcd-{n:016x}" for n in (9, 3, 9)]
    assert json.loads(answer.body) == {"status": "OK", "ids": names, "replayed": [1, 2]}
    assert b"idempotent-replayed" not in answer.fields
    assert answer.fields[b"crowd-message-id"] == names[0].encode()


def test_an_event_is_its_own_key_whatever_it_says(make_door):
    """In either mode, with or without many; an Idempotency-Key goes before it."""
    door = make_door([ONE_EVENT])
    structured = b"application/cloudevents+json"
    post(door, event("1"), structured)
    post(door, event("1")[:-1] + b', "data": 5}', structured)
    fields = (b"ce-specversion: 1.0", b"ce-id: 1", b"ce-source: /s")
    post(door, b"x", b"a/b", *fields)
    post(door, b"x", b"a/b", *fields, b"Idempotency-Key: k")
    post(door, b"x", b"a/b")
    first, second, third, fourth, last = door.acceptor.digests
    assert first == second == third == digests_of_event("/leads", "", b"/s", b"1")
    assert fourth not in (first, b"")
    assert last == b""
    assert problem_of(post(door, b"{}", structured))[0] == 400
