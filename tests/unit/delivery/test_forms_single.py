"""One message's request in its consumer's form: what is done, in which order (I9)."""

from __future__ import annotations

import gzip
import time
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from crowd.definition import ConsumerDefinition, Retry
from crowd.delivery.forms.compression import BYTES_MAX, as_gzipped, gzipped
from crowd.delivery.forms.form import Form
from crowd.delivery.forms.signing import Secret, parse_key
from crowd.delivery.request import Naming, parse_destination, request_head
from crowd.message import Message, Position

NAMING = Naming("0123abcd-0000000000000007", Position(7), 2)
DESTINATION = parse_destination("http://api.internal", None)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def message(body=b'{"text": "' + b"ab" * 200 + b'"}', *headers):
    named = ((b"Host", b"h"), (b"Content-Type", b"application/json"), *headers)
    return Message(b"PUT", b"/leads", named, body, 1_700_000_000_000_000, b"192.0.2.1", b"http")


def form(**fields):
    retry = Retry(1_000_000, 2.0, 300_000_000, 10**12)
    definition = ConsumerDefinition(
        "c", "http://api.internal", None, (), 4, None, 10**6, "none", "now", retry, 10**9, "refuse"
    )
    return Form(msgspec.structs.replace(definition, **fields), DESTINATION)


def parsed(outgoing):
    lines = outgoing.head.decode("latin-1").split("\r\n")
    assert lines[-2:] == ["", ""]
    return lines[0], dict(line.split(": ", 1) for line in lines[1:-2])


def test_i9_without_a_form_the_request_is_the_original():
    """What asks for nothing gets what it always got, and the very body."""
    stored = message()
    made = form().request(stored, NAMING)
    assert made.head == request_head(stored, DESTINATION, NAMING)
    assert made.body is stored.body
    assert made.answer_bytes_max == 0


def test_a_producers_signature_passes_a_consumer_without_secrets():
    """It is the producer's and the consumer's own affair, and still verifies."""
    now = int(time.time())
    stored = message()
    at = datetime.fromtimestamp(now, UTC)
    signed = Webhook(SECRET).sign("m", at, stored.body.decode())
    stored = message(
        stored.body, (b"Webhook-Id", b"m"), (b"Webhook-Timestamp", b"%d" % now),
        (b"Webhook-Signature", signed.encode()),
    )  # fmt: skip
    made = form().request(stored, NAMING)
    Webhook(SECRET).verify(made.body, parsed(made)[1])


def test_gzip_is_undone_to_the_same_bytes():
    """The body is compressed once, always to the same bytes, and its length is true."""
    stored = message()
    made = form(gzip=True).request(stored, NAMING)
    line, headers = parsed(made)
    assert line == "PUT /leads HTTP/1.1"
    assert headers["Content-Encoding"] == "gzip"
    assert int(headers["Content-Length"]) == len(made.body) < len(stored.body)
    assert gzip.decompress(made.body) == stored.body
    assert made.body[4:8] == bytes(4)  # no time
    assert form(gzip=True).request(stored, NAMING) == made


@pytest.mark.parametrize(
    "stored",
    [
        message(b""),
        message(b"x"),
        message(message().body, (b"content-encoding", b"br")),
        message(message().body, (b"Content-Digest", b"sha-256=:x:")),
        message(message().body, (b"Content-MD5", b"x")),
        message(bytes(BYTES_MAX + 1)),
    ],
)
def test_what_is_not_compressed(stored):
    """What would not get smaller, is the producer's to encode, was summed up, or is too large."""
    assert as_gzipped(stored) is stored
    made = form(gzip=True).request(stored, NAMING)
    assert made.body is stored.body
    assert made.head == request_head(stored, DESTINATION, NAMING)


@given(st.binary(max_size=300))
def test_gzip_never_grows(body):
    """And is undone to the same bytes."""
    smaller = gzipped(body)
    if smaller is not None:
        assert len(smaller) < len(body)
        assert gzip.decompress(smaller) == body


def test_what_is_signed_is_what_is_sent():
    """The event, compressed; each attempt with its own time, all with one id."""
    keys = (parse_key(Secret(SECRET.encode())),)
    both = form(form="cloudevents-structured", gzip=True)
    made = both.request(message(), NAMING, keys, 1_614_265_330)
    line, headers = parsed(made)
    assert line == "POST /leads HTTP/1.1"
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert headers["Webhook-Id"] == headers["Crowd-Message-Id"] == NAMING.id
    assert headers["Webhook-Timestamp"] == "1614265330"
    content = b"%b.1614265330.%b" % (NAMING.id.encode(), made.body)
    assert headers["Webhook-Signature"].encode() == keys[0].sign(content)
    assert msgspec.json.decode(gzip.decompress(made.body))["data"] == msgspec.json.decode(
        message().body
    )


@pytest.mark.parametrize("kind", ["request", "cloudevents-binary", "cloudevents-structured"])
@pytest.mark.parametrize("zipped", [False, True])
def test_crowds_own_headers_come_last(kind, zipped):
    """Whatever the form, a consumer finds id, position and attempt where they always are."""
    head = form(form=kind, gzip=zipped).request(message(), NAMING).head
    assert head.endswith(
        b"Crowd-Message-Id: 0123abcd-0000000000000007\r\nCrowd-Position: 7\r\nCrowd-Attempt: 2\r\n\r\n"
    )
    assert head.lower().count(b"\r\ncontent-length:") == 1
    assert head.lower().count(b"\r\ncontent-type:") == 1
