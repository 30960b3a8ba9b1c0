"""Messages as CloudEvents, read by the `cloudevents` package."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st

from crowd.delivery.forms.event import as_binary, as_structured, attributes, event_json
from crowd.delivery.request import Naming
from crowd.message import Message, Position

NAMING = Naming("0123abcd-0000000000000007", Position(7), 2)
JSON = ((b"Host", b"leads.example:2104"), (b"Content-Type", b"application/json"))


def message(
    body=b'{"a": 1}', headers=JSON, *, target=b"/leads?x=1", method=b"PUT", at=1_700_000_000_000_001
):
    return Message(method, target, tuple(headers), body, at, b"192.0.2.1", b"https")


def read(stored):
    """Return what the package makes of a message that was made an event."""
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in stored.headers}
    return from_http_event(HTTPMessage(headers, stored.body))


def attribute(stored, name):
    return dict(attributes(stored, NAMING)).get(name)


def test_structured_byte_for_byte():
    """What docs/reference/forms.md shows is what is sent."""
    assert event_json(message(), NAMING) == (
        b'{"specversion":"1.0","id":"0123abcd-0000000000000007",'
        b'"source":"https://leads.example:2104/leads","type":"crowd.message",'
        b'"subject":"/leads?x=1","crowdposition":"7","crowdmethod":"PUT",'
        b'"time":"2023-11-14T22:13:20.000001Z","datacontenttype":"application/json",'
        b'"data":{"a":1}}'
    )


def test_binary_byte_for_byte():
    """The attributes are headers behind the message's own, and the body is as it came."""
    made = as_binary(message(), NAMING)
    assert made.headers == (
        *JSON,
        (b"ce-specversion", b"1.0"),
        (b"ce-id", b"0123abcd-0000000000000007"),
        (b"ce-source", b"https://leads.example:2104/leads"),
        (b"ce-type", b"crowd.message"),
        (b"ce-subject", b"/leads?x=1"),
        (b"ce-crowdposition", b"7"),
        (b"ce-crowdmethod", b"PUT"),
        (b"ce-time", b"2023-11-14T22:13:20.000001Z"),
    )
    assert (made.method, made.target, made.body) == (b"POST", b"/leads?x=1", b'{"a": 1}')


@pytest.mark.parametrize("make", [as_structured, as_binary])
def test_the_package_reads_it(make):
    """Both modes say the same to a CloudEvents library."""
    event = read(make(message(target=b'/caf\xc3\xa9/%C3%a9/100%?q="a b"\\'), NAMING))
    assert event.get_id() == NAMING.id
    assert event.get_type() == "crowd.message"
    assert event.get_source() == "https://leads.example:2104/caf%C3%A9/%C3%a9/100%25"
    assert event.get_subject() == '/caf%C3%A9/%C3%a9/100%?q="a%20b"\\'
    assert event.get_time() == datetime(2023, 11, 14, 22, 13, 20, 1, UTC)
    assert event.get_datacontenttype() == "application/json"
    assert event.get_extension("crowdposition") == "7"
    assert event.get_extension("crowdmethod") == "PUT"
    assert event.get_data() == {"a": 1}


@pytest.mark.parametrize(
    ("headers", "body", "member", "value"),
    [
        (JSON, b' [1, 2.50, 1e400, "\xc3\xa9"] ', "data", b'[1,2.50,1e400,"\xc3\xa9"]'),
        (((b"content-type", b"application/problem+json"),), b"{}", "data", b"{}"),
        (((b"Content-Type", b'Application/JSON; charset="UTF-8"'),), b"0", "data", b"0"),
        ((), b'"no type"', "data", b'"no type"'),
        (((b"Content-Type", b"text/plain"),), b"1", "data_base64", b'"MQ=="'),
        (
            ((b"Content-Type", b"application/json; charset=latin-1"),),
            b"1",
            "data_base64",
            b'"MQ=="',
        ),
        (((b"Content-Type", b"application/json\xe9"),), b"1", "data_base64", b'"MQ=="'),
        (JSON, b'{"a":', "data_base64", b'"eyJhIjo="'),
        (JSON, b'"\xff"', "data_base64", b'"Iv8i"'),
        (JSON, b"\xef\xbb\xbf1", "data_base64", b'"77u/MQ=="'),
        (((b"Content-Encoding", b"gzip"), *JSON), b"1", "data_base64", b'"MQ=="'),
    ],
)
def test_what_is_embedded(headers, body, member, value):
    """JSON stands in the event as it is; all else, and what is encoded, in base64."""
    text = event_json(message(body, headers), NAMING)
    assert b'"%b":%b}' % (member.encode(), value) in text
    assert (b'"data":' in text) is (member == "data")


def test_an_empty_body_is_no_data():
    """An event can do without."""
    event = read(as_structured(message(b""), NAMING))
    assert event.get_data() is None
    assert b"data_base64" not in event_json(message(b""), NAMING)


def test_what_a_producer_encoded_says_so():
    """The encoding goes into the event: its request has none of its own."""
    made = as_structured(message(b"\x1f\x8b", (*JSON, (b"Content-Encoding", b"gzip"))), NAMING)
    assert b"content-encoding" not in {name.lower() for name, _ in made.headers}
    event = read(made)
    assert event.get_extension("contentencoding") == "gzip"
    assert event.get_data() == b"\x1f\x8b"


def test_headers_that_would_be_untrue_or_in_doubt_go():
    """No digest of another body, and no attribute that is not the event's."""
    headers = (
        *JSON, (b"X-Shop", b"a23"), (b"Content-Digest", b"sha-256=:x:"), (b"CE-Id", b"mine"),
        (b"Authorization", b"Bearer t"), (b"Content-MD5", b"x"),
    )  # fmt: skip
    made = as_structured(message(headers=headers), NAMING)
    assert made.headers == (
        JSON[0], (b"X-Shop", b"a23"), (b"Authorization", b"Bearer t"),
        (b"Content-Type", b"application/cloudevents+json"),
    )  # fmt: skip
    binary = as_binary(message(headers=headers), NAMING)
    assert (b"Content-Digest", b"sha-256=:x:") in binary.headers
    assert [value for name, value in binary.headers if name.lower() == b"ce-id"] == [
        NAMING.id.encode()
    ]


@pytest.mark.parametrize(
    ("headers", "target", "source"),
    [
        (((b"Host", b"[::1]:2104"),), b"/a", b"https://[::1]:2104/a"),
        ((), b"/a?b", b"/a"),
        ((), b"//a", b"/.//a"),
        (((b"Host", b'bad"host'),), b"/a", b"/a"),
        (((b"Host", b"h"),), b"http://other.example/a?b", b"https://h/a"),
        (((b"Host", b"h"),), b'/a|[b]"\xff', b"https://h/a%7C%5Bb%5D%22%FF"),
    ],
)
def test_the_source_is_a_uri(headers, target, source):
    """Where the message was posted to, and nothing that no URI can hold."""
    assert attribute(message(headers=headers, target=target), b"source") == source


def test_a_clock_out_of_its_mind_gives_no_time():
    """RFC 3339 has four digits for a year."""
    assert attribute(message(at=-1), b"time") is None
    assert attribute(message(at=253_402_300_800_000_000), b"time") is None
    assert attribute(message(at=253_402_300_799_999_999), b"time") == b"9999-12-31T23:59:59.999999Z"


@given(st.integers(0, 253_402_300_799_999_999))
def test_times_are_the_calendars(at):
    """As the standard library writes them."""
    expected = datetime.fromtimestamp(at // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    year = datetime.fromtimestamp(at // 1_000_000, UTC).year
    expected = f"{year:04d}{expected[expected.index('-') :]}.{at % 1_000_000:06d}Z"
    assert attribute(message(at=at), b"time") == expected.encode()


TARGETS = st.from_regex(rb"/[\x21-\x7e\x80-\xff]{0,30}", fullmatch=True)
VALUES = st.from_regex(
    rb"([\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff]{0,20}[\x21-\x7e])?)?", fullmatch=True
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"Host", b"Content-Type", b"content-type", b"Content-Encoding", b"X"]),
        VALUES | st.sampled_from([b"application/json", b"text/plain", b"gzip"]),
    ),
    max_size=6,
)


@given(
    st.binary(max_size=40) | st.sampled_from([b"{}", b"[1]", b'"\\ud800"', b"null", b"\xe2\x80\xa8"]),
    HEADERS, TARGETS,
)  # fmt: skip
def test_any_message_is_an_event(body, headers, target):
    """Whatever a producer posts, a CloudEvents library reads the event, with the bytes in it."""
    stored = message(body, headers, target=target)
    event = read(as_structured(stored, NAMING))
    text = json.loads(event_json(stored, NAMING))
    assert "\n" not in event_json(stored, NAMING).decode()
    if "data_base64" in text:
        assert base64.b64decode(text["data_base64"]) == body
    elif "data" in text:
        assert text["data"] == json.loads(body)
    else:
        assert body == b""
    other = read(as_binary(stored, NAMING))
    for name in ("id", "source", "type", "subject", "time"):
        assert getattr(event, f"get_{name}")() == getattr(other, f"get_{name}")()
