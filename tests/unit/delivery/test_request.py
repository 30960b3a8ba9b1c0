"""The request that a consumer gets (I9)."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.delivery.request import Naming, parse_destination, request_head, target_at
from crowd.message import Message, Position

NAMING = Naming("0123abcd-0000000000000007", Position(7), 2)


def message(headers=(), *, method=b"POST", target=b"/leads", body=b"x", client=b"192.0.2.1"):
    return Message(method, target, tuple(headers), body, 1, client, b"http")


def head(stored, url="http://api.internal:8080", path=None):
    return request_head(stored, parse_destination(url, path), NAMING)


def test_the_seeds_example_byte_for_byte():
    """What a consumer reads is the original, and then what crowd adds."""
    stored = message(
        [
            (b"Host", b"leads.example:2104"),
            (b"Content-Type", b"application/json"),
            (b"accept", b"application/json"),
            (b"X-ODD-case", b"a"),
            (b"x-odd-CASE", b"b"),
            (b"Content-Length", b"3"),
            (b"Cookie", b"c=d"),
        ],
        body=b"{ }",
    )
    assert head(stored) == (
        b"POST /leads HTTP/1.1\r\n"
        b"Host: api.internal:8080\r\n"
        b"Content-Type: application/json\r\n"
        b"accept: application/json\r\n"
        b"X-ODD-case: a\r\n"
        b"x-odd-CASE: b\r\n"
        b"Content-Length: 3\r\n"
        b"Cookie: c=d\r\n"
        b"X-Forwarded-For: 192.0.2.1\r\n"
        b'Forwarded: for=192.0.2.1;host="leads.example:2104";proto=http\r\n'
        b"Via: 1.1 crowd\r\n"
        b"X-Forwarded-Host: leads.example:2104\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"Crowd-Message-Id: 0123abcd-0000000000000007\r\n"
        b"Crowd-Position: 7\r\n"
        b"Crowd-Attempt: 2\r\n"
        b"\r\n"
    )


def test_a_replayed_message_says_so():
    """Who had a message delivered again may want it treated in another way."""
    destination = parse_destination("http://api.internal:8080", None)
    naming = Naming("0123abcd-0000000000000007", Position(7), 1, replay=True)
    assert b"\r\nCrowd-Replay: 1\r\n" in request_head(message(), destination, naming)
    assert b"Crowd-Replay" not in request_head(message(), destination, NAMING)


def test_lists_of_proxies_are_continued_where_they_stand():
    """Behind another proxy crowd adds itself to the end of what that one wrote."""
    stored = message(
        [
            (b"x-forwarded-for", b"198.51.100.1"),
            (b"X-Forwarded-For", b"198.51.100.2"),
            (b"Via", b"1.0 fred"),
            (b"Forwarded", b"for=198.51.100.1"),
            (b"X-Forwarded-Proto", b"https"),
            (b"X-Forwarded-Host", b"outside.example"),
            (b"Host", b"inside"),
        ]
    )
    lines = head(stored).split(b"\r\n")
    assert lines[2:8] == [
        b"x-forwarded-for: 198.51.100.1",
        b"X-Forwarded-For: 198.51.100.2, 192.0.2.1",
        b"Via: 1.0 fred, 1.1 crowd",
        b"Forwarded: for=198.51.100.1, for=192.0.2.1;host=inside;proto=http",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: outside.example",
    ]
    assert sum(line.lower().startswith(b"x-forwarded-") for line in lines) == 4


def test_an_ipv6_producer():
    """RFC 7239 wants brackets and quotes; X-Forwarded-For, by custom, neither."""
    text = head(message(client=b"2001:db8::1"))
    assert b"X-Forwarded-For: 2001:db8::1\r\n" in text
    assert b'Forwarded: for="[2001:db8::1]";proto=http\r\n' in text


def test_framing_is_made_for_the_body_that_is_sent():
    """No length or coding of the producer's connection can desynchronise the consumer's."""
    stored = message(
        [
            (b"Transfer-Encoding", b"chunked"),
            (b"content-length", b"999"),
            (b"Content-Length", b"1"),
        ],
        body=b"abcd",
    )
    text = head(stored)
    assert b"ransfer-" not in text
    assert text.lower().count(b"content-length") == 1
    assert b"\r\ncontent-length: 4\r\n" in text


def test_an_empty_body_has_a_length():
    """A POST without a body says so: Content-Length: 0."""
    assert b"\r\nContent-Length: 0\r\n" in head(message(body=b""))


@pytest.mark.parametrize(
    ("url", "path", "target", "expected"),
    [
        ("http://h", None, b'/a%2fb?x=[1]|{}"', b'/a%2fb?x=[1]|{}"'),
        ("http://h/", None, b"//double//slash", b"//double//slash"),
        ("http://h/base", None, b"/leads?x", b"/base/leads?x"),
        ("http://h/base/", None, b"/leads", b"/base/leads"),
        ("http://h", None, b"/a?b?c#d", b"/a?b?c#d"),
        ("http://h", None, b"/caf\xc3\xa9", b"/caf\xc3\xa9"),
        ("http://h", "/index", b"/leads?x=1", b"/index?x=1"),
        ("http://h/v1", "/index", b"/leads", b"/v1/index"),
        ("http://h", "/index?key=k", b"/leads?x=1", b"/index?key=k"),
        ("http://h", None, b"http://leads.example/a?b", b"/a?b"),
        ("http://h", None, b"http://leads.example?b", b"/?b"),
        ("http://h", None, b"http://leads.example", b"/"),
    ],
)
def test_targets(url, path, target, expected):
    """The original path and query, whatever they hold, behind the consumer's own path."""
    assert target_at(parse_destination(url, path), target) == expected


@pytest.mark.parametrize(
    ("url", "host", "port", "authority"),
    [
        ("http://api.internal", "api.internal", 80, b"api.internal"),
        ("https://api.internal", "api.internal", 443, b"api.internal"),
        ("http://api.internal:8080/x", "api.internal", 8080, b"api.internal:8080"),
        ("http://[::1]:8080", "::1", 8080, b"[::1]:8080"),
    ],
)
def test_where_a_consumer_is(url, host, port, authority):
    """Host says what the configuration says."""
    destination = parse_destination(url, None)
    assert (destination.host, destination.port, destination.authority) == (host, port, authority)


@pytest.mark.parametrize(
    "url",
    ["ftp://h", "h:8080", "http://", "http://u:p@h", "http://h?q", "http://h#f", "http://h/ä",
     "http://h/a b", "http://h/a\r\nX: y", "http://h:port"],
)  # fmt: skip
def test_what_is_no_consumer(url):
    """An address that cannot be delivered to says why."""
    with pytest.raises(ValueError, match=r"expected|[Pp]ort"):
        parse_destination(url, None)


NAMES = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True)
VALUES = st.from_regex(
    rb"([\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff]{0,20}[\x21-\x7e])?)?", fullmatch=True
)
OURS = (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade")
LISTS = (b"x-forwarded-for", b"forwarded", b"via")


@given(st.lists(st.tuples(NAMES, VALUES), max_size=20), st.binary(max_size=64))
def test_every_header_arrives_in_its_order_and_case(headers, body):
    """I9: a consumer's parser reads the original headers as an exact run of its own."""
    headers = [h for h in headers if h[0].lower() not in (*OURS, *LISTS)]
    seen, bodies = [], []

    class Reader:
        def on_header(self, name, value):
            seen.append((name, value))

        def on_body(self, data):
            bodies.append(data)

    httptools.HttpRequestParser(Reader()).feed_data(head(message(headers, body=body)) + body)
    assert seen[1 : len(headers) + 1] == headers
    assert b"".join(bodies) == body
