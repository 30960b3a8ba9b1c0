"""``Idempotency-Key``: which values are one, what the log hears of it, and what a producer does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.errors import KeyReusedError
from crowd.idempotency import DIGEST_BYTES, DIGESTS_BYTES, Replayed
from crowd.web.idempotency import KEY_CHARACTERS_MAX, digests_of, read_key

UUID = b"8e03978e-40d5-43dd-bc93-6894a57f9324"


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'"%s"' % UUID, UUID),
        (UUID, UUID),
        (b'"with space, comma; and semicolon"', b"with space, comma; and semicolon"),
        (rb'"a \"quoted\" \\ one"', rb'a "quoted" \ one'),
        (b"order:7/create", b"order:7/create"),
        (b"'*+", b"'*+"),
        (b"x" * KEY_CHARACTERS_MAX, b"x" * KEY_CHARACTERS_MAX),
    ],
)
def test_a_key_in_quotes_or_bare(value, key):
    assert read_key((value,)) == key


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((b"",), "expected a string in quotes"),
        ((b'""',), "found 0 characters; expected 1 to 255"),
        ((b"x" * 256,), "found 256 characters"),
        ((b'"%s"' % (b"x" * 256),), "found 256 characters"),
        ((b"a", b"a"), "found 2 fields; expected one"),
        ((b'"a", "b"',), "expected a string"),
        ((b"a,b",), "expected a string"),
        ((b"two words",), "expected a string"),
        ((b'"a";p=1',), "expected a string"),
        ((b'"open',), "expected a string"),
        ((b'open"',), "expected a string"),
        ((rb'"\n"',), "expected a string"),
        ((b'"a\x7f"',), "expected a string"),
        ((b'"caf\xc3\xa9"',), "expected a string"),
        ((b"caf\xc3\xa9",), "expected a string"),
        ((b'"a"\n',), "expected a string"),
        ((b":YWJj:=",), "expected a string"),
    ],
)
def test_what_is_no_key_says_what_is_expected(values, words):
    with pytest.raises(ValueError, match=words):
        read_key(values)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255))
def test_any_printable_text_can_be_a_key_in_quotes(text):
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert read_key((quoted.encode(),)) == text.encode()


@given(st.binary(max_size=30))
def test_any_value_is_a_key_or_a_value_error(value):
    try:
        key = read_key((value,))
    except ValueError:
        return
    assert 0 < len(key) <= len(value)


PIECES = st.tuples(
    st.sampled_from(["/a", "/ab", ""]), st.sampled_from(["", "b", "shop"]), st.binary(max_size=3),
    st.sampled_from([b"POST", b"PUT"]), st.binary(max_size=3), st.binary(max_size=3),
)  # fmt: skip


@given(PIECES, PIECES)
def test_equal_digests_are_equal_keys_and_equal_requests(one, other):
    """No two triples run together, wherever the one ends and the next begins."""
    ours, theirs = digests_of(*one), digests_of(*other)
    assert len(ours) == DIGESTS_BYTES
    assert (ours[:DIGEST_BYTES] == theirs[:DIGEST_BYTES]) == (one[:3] == other[:3])
    assert (ours[DIGEST_BYTES:] == theirs[DIGEST_BYTES:]) == (one[3:] == other[3:])


# --- At the door ----------------------------------------------------------------------------------


def test_a_request_without_a_key_has_no_digests(door, post):
    door.connect().send(post(b"/leads", b"x"))
    assert door.acceptor.digests == [b""]


def test_the_key_goes_to_the_log_as_a_digest_and_to_consumers_as_it_came(door, post):
    """I9: in its own case, quotes and place among the other fields."""
    door.connect().send(post(b"/leads?a=1", b"x", b'idempotency-KEY: "k"', b"X-A: 1"))
    assert door.acceptor.digests == [digests_of("/leads", "", b"k", b"POST", b"/leads?a=1", b"x")]
    (message,) = door.acceptor.messages
    assert message.headers[1:3] == ((b"idempotency-KEY", b'"k"'), (b"X-A", b"1"))


def test_quoted_and_bare_are_the_same_key(door, post):
    for field in (b'Idempotency-Key: "k"', b"Idempotency-Key: k", b"Idempotency-Key:   k  "):
        door.connect().send(post(b"/leads", b"x", field))
    assert len(set(door.acceptor.digests)) == 1


def test_a_route_has_its_own_keys(door, post):
    """The route, not the path: a key is one for all paths of a route, and the request differs."""
    for target in (b"/leads", b"/any/a", b"/any/b"):
        door.connect().send(post(target, b"x", b"Idempotency-Key: k"))
    leads, one, other = door.acceptor.digests
    assert leads[:DIGEST_BYTES] != one[:DIGEST_BYTES] == other[:DIGEST_BYTES]
    assert one[DIGEST_BYTES:] != other[DIGEST_BYTES:]


def test_a_key_that_is_none_is_400_and_nothing_is_offered(door, post):
    for fields in ((b"Idempotency-Key: a b",), (b"Idempotency-Key: a", b"Idempotency-Key: a")):
        producer = door.connect()
        producer.send(post(b"/leads", b"x", *fields) + post(b"/leads", b"y"))
        door.acceptor.answer_all()
        bad, good = producer.answers
        assert (bad.status, good.status) == (400, 200)
        assert json.loads(bad.body)["type"] == "/problems/bad-idempotency-key"
    assert [message.body for message in door.acceptor.messages] == [b"y", b"y"]


def test_a_replay_is_the_first_answer_and_says_so(door, post):
    producer = door.connect()
    producer.send(post(b"/leads", b"x", b"Idempotency-Key: k") * 2)
    (_, _, first), (_, _, second) = door.acceptor.offered
    first.callback(18)
    second.callback(Replayed(18))
    door.turn()
    one, other = producer.answers
    assert one.fields[b"crowd-message-id"] == b"0123abcd-0000000000000012"
    assert b"idempotent-replayed" not in one.fields
    assert other.fields.pop(b"idempotent-replayed") == b"true"
    assert (other.status, other.body, other.fields) == (one.status, one.body, one.fields)


def test_a_key_of_another_request_is_422(door, post):
    producer = door.connect()
    producer.send(post(b"/leads", b"x", b"Idempotency-Key: k"))
    door.acceptor.offered[0][2].errback(KeyReusedError("this key came with another request before"))
    (answer,) = producer.answers
    assert answer.status == 422
    assert json.loads(answer.body)["type"] == "/problems/idempotency-key-reused"
    assert b"retry-after" not in answer.fields


def test_a_key_that_connection_names_counts_and_goes_no_further(door, post):
    """It was said to this hop: so it is heard here."""
    fields = (b"Connection: idempotency-key", b"Idempotency-Key: k")
    door.connect().send(post(b"/leads", b"x", *fields))
    assert door.acceptor.digests == [digests_of("/leads", "", b"k", b"POST", b"/leads", b"x")]
    assert b"Idempotency-Key" not in dict(door.acceptor.messages[0].headers)
