"""Heads of reads and of their answers, as they are passed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.delivery.request import parse_destination
from crowd.message import Message
from crowd.reads.failure import ReadFailedError, ReadFailure
from crowd.reads.head import (
    FIELDS_MAX,
    HEAD_BYTES_MAX,
    answer_head,
    came_through,
    one_hop_less,
    read_head,
)

UPSTREAM = parse_destination("http://api.internal:8080/v1", None)


def read(*headers, method=b"GET", target=b"/leads?a=%2f", body=b""):
    message = Message(method, target, headers, body, 0, b"192.0.2.7", b"https")
    return read_head(message, UPSTREAM, (b"other", b"this"))


def passed_on(*headers, status=200, phrase=b"OK", asked_head=False):
    return answer_head(status, phrase, "1.1", list(headers), asked_head=asked_head)


def test_a_read_reaches_the_upstream_as_it_came():
    """In order and case, with what a delivery gets, too; and no length where there was none."""
    head = read(
        (b"Host", b"crowd.test"), (b"x-UPPER", b"1"), (b"Range", b"bytes=0-9"),
        (b"If-None-Match", b'"a"'), (b"x-UPPER", b"2"), (b"Via", b"1.1 edge"),
    )  # fmt: skip
    assert head == (
        b"GET /v1/leads?a=%2f HTTP/1.1\r\n"
        b"Host: api.internal:8080\r\n"
        b"x-UPPER: 1\r\n"
        b"Range: bytes=0-9\r\n"
        b'If-None-Match: "a"\r\n'
        b"x-UPPER: 2\r\n"
        b"Via: 1.1 edge, 1.1 crowd\r\n"
        b"X-Forwarded-For: 192.0.2.7\r\n"
        b"Forwarded: for=192.0.2.7;host=crowd.test;proto=https\r\n"
        b"X-Forwarded-Host: crowd.test\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"Crowd-Through: other, this\r\n\r\n"
    )


def test_a_body_has_its_length():
    """However it came framed."""
    assert b"\r\nContent-Length: 3\r\n" in read(body=b"abc")
    assert b"\r\ncontent-length: 0\r\n" in read((b"content-length", b"0"))


def test_what_a_read_came_through_is_one_list():
    """Several fields of one name are one list (RFC 9110, 5.3)."""
    headers = [(b"crowd-THROUGH", b"a, b"), (b"X", b"y"), (b"Crowd-Through", b" c,,")]
    assert came_through(headers) == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        ([], []),
        ([b"5"], [b"4"]),
        ([b"1"], [b"0"]),
        ([b"010"], [b"9"]),
        ([b"0"], None),
        ([b"000"], None),
        ([b"9" * 5_000], [b"999999999"]),
        ([b""], [b""]),
        ([b"-1"], [b"-1"]),
        ([b"\xb2"], [b"\xb2"]),
        ([b"0", b"0"], [b"0", b"0"]),
    ],
)
def test_each_hop_takes_one_from_max_forwards(came, goes):
    """RFC 9110, 7.6.2; what is no number is not ours to judge."""
    fields = ((b"A", b"1"), *((b"max-Forwards", value) for value in came), (b"B", b"2"))
    left = one_hop_less(fields)
    if goes is None:
        assert left is None
    else:
        assert left == ((b"A", b"1"), *((b"max-Forwards", value) for value in goes), (b"B", b"2"))


def test_an_answers_fields_keep_their_order_and_case():
    """Apart from Via, at whose end crowd stands."""
    head = passed_on(
        (b"server", b"x"), (b"Set-Cookie", b"a=1"), (b"ETag", b'W/"1"'), (b"Set-Cookie", b"b=2"),
        (b"Date", b"then"), (b"Content-Length", b"7"), (b"Location", b"/elsewhere"),
    )  # fmt: skip
    assert [name for name, _ in head.fields] == [
        b"server", b"Set-Cookie", b"ETag", b"Set-Cookie", b"Date", b"Content-Length", b"Location",
        b"Via",
    ]  # fmt: skip
    assert (head.length, head.dated, head.bodiless) == (7, True, False)
    assert head.fields[-1] == (b"Via", b"1.1 crowd")


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        ([b"1.0 a", b"1.1 b"], [b"1.0 a", b"1.1 b, 1.1 crowd"]),
        ([b""], [b"1.1 crowd"]),
    ],
)
def test_via_grows_at_its_end(came, goes):
    """RFC 9110, 7.6.3."""
    head = passed_on(*((b"via", value) for value in came))
    assert [value for _, value in head.fields] == goes


def test_what_is_for_this_hop_ends_here():
    """Hop-by-hop fields, and those that Connection names."""
    head = passed_on(
        (b"Connection", b"close, X-Hop"), (b"X-Hop", b"1"), (b"Keep-Alive", b"timeout=5"),
        (b"Transfer-Encoding", b"chunked"), (b"Trailer", b"X-T"), (b"Upgrade", b"h2c"),
        (b"Proxy-Authenticate", b"Basic"), (b"connection", b"content-length"),
        (b"X-End", b"2"),
    )  # fmt: skip
    assert head.fields == [(b"X-End", b"2"), (b"Via", b"1.1 crowd")]


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        (b"", b""),
        (b"Not\tFound \xc3\xa4~", b"Not\tFound \xc3\xa4~"),
        (b"O\0K", b""),
        (b"O\x1b[2JK", b""),
        (b"OK\x7f", b""),
        (b"OK\n", b""),
    ],
)
def test_a_reason_phrase_is_text(came, goes):
    """RFC 9112, 4: what is none is left out, as nothing depends on it."""
    assert passed_on(phrase=came).phrase == goes


def test_no_length_in_a_204():
    """RFC 9110, 8.6, forbids it there; in a 304 it tells of the other answer."""
    none = passed_on((b"Content-Length", b"0"), status=204)
    assert (none.length, none.bodiless) == (None, True)
    assert passed_on((b"Content-Length", b"9"), status=304).length == 9


@pytest.mark.parametrize(
    ("version", "headers", "kind"),
    [
        ("2.0", [], ReadFailure.MALFORMED),
        ("1.1", [(b"Transfer-Encoding", b"gzip, chunked")], ReadFailure.MALFORMED),
        ("1.1", [(b"Transfer-Encoding", b"identity")], ReadFailure.MALFORMED),
        ("1.1", [(b"Transfer-Encoding", b"chunked")] * 2, ReadFailure.MALFORMED),
        ("1.1", [(b"A", b"b")] * (FIELDS_MAX + 1), ReadFailure.LARGE),
        ("1.1", [(b"A", b"b" * HEAD_BYTES_MAX)], ReadFailure.LARGE),
    ],
)
def test_what_cannot_be_passed_on(version, headers, kind):
    """Two readings of one body, or a head without bound, go no further."""
    with pytest.raises(ReadFailedError) as caught:
        answer_head(200, b"OK", version, headers, asked_head=False)
    assert caught.value.kind is kind


NAMES = st.sampled_from([b"Via", b"via", b"Connection", b"X-A", b"Date", b"TE", b"x-a", b"upgrade"])


@given(st.lists(st.tuples(NAMES, st.sampled_from([b"", b"x-a", b"close", b"1", b"x, via"]))))
def test_what_is_passed_on_is_what_came_but_for_the_rules(headers):
    """Everything else is there once more, as often, as it was, in its order."""
    named = {
        token.strip()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    } - {b"via"}
    gone = {b"connection", b"te", b"upgrade"} | named
    expected = [(name, value) for name, value in headers if name.lower() not in {*gone, b"via"}]
    fields = passed_on(*headers).fields
    assert [field for field in fields if field[0].lower() != b"via"] == expected
    vias = b", ".join(value for name, value in fields if name.lower() == b"via")
    assert vias.endswith(b"1.1 crowd")
