"""A message comes out of the log as it went in, and its id never changes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.codec import pack, unpack
from crowd.errors import MalformedMessageError
from crowd.message import (
    FORMAT,
    Message,
    MessageStem,
    decode_message,
    encode_message,
    message_id,
    parse_message_id,
)

BYTES = st.binary(max_size=30)
MESSAGE = st.builds(
    Message,
    BYTES,
    BYTES,
    st.lists(st.tuples(BYTES, BYTES), max_size=5).map(tuple),
    BYTES,
    st.integers(0, 2**63 - 1),
    BYTES,
    BYTES,
)
SEED = Message(
    b"POST",
    b"/leads",
    ((b"Content-Type", b"application/json"), (b"accept", b"a/b"), (b"Accept", b"c/d")),
    b'{"message":"this is a lead message", "shop": "a23m07b23"}',
    1_700_000_000_000_000,
    b"127.0.0.1",
    b"http",
)
FIELDS = unpack(encode_message(SEED))


@given(MESSAGE)
def test_i9_a_message_survives_the_log_byte_for_byte(message):
    assert decode_message(encode_message(message)) == message


@given(MESSAGE | st.builds(msgspec.structs.replace, MESSAGE, body=st.binary(max_size=400)))
def test_a_message_is_what_cbor_says_it_is(message):
    """It is joined by hand: its bytes are those of an encoder that knows no more than CBOR."""
    flat = [part for field in message.headers for part in field]
    assert encode_message(message) == pack(
        [
            FORMAT, message.method, message.target, flat, message.body, message.received_us,
            message.client, message.scheme,
        ]
    )  # fmt: skip


@given(
    MESSAGE,
    st.lists(
        BYTES
        | st.sampled_from([0, 23, 24, 255, 256, 65_535, 65_536]).map(lambda size: b"x" * size),
        max_size=4,
    ),
)
def test_a_stem_encodes_each_message_as_it_would_be_encoded_alone(message, bodies):
    """Byte for byte: what came in one request cannot be told from what came alone."""
    alone = [encode_message(msgspec.structs.replace(message, body=body)) for body in bodies]
    stem = MessageStem(message)
    assert stem.encode(bodies) == alone
    assert all(
        len(stored) <= stem.bytes_max + len(body)
        for stored, body in zip(alone, bodies, strict=True)
    )


def test_i9_headers_keep_their_order_case_and_repetition():
    assert decode_message(encode_message(SEED)).headers == SEED.headers


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_a_message_or_its_one_error(stored):
    try:
        message = decode_message(stored)
    except MalformedMessageError:
        return
    assert isinstance(message, Message)


@given(MESSAGE, st.data())
def test_a_damaged_message_is_a_message_or_its_one_error(message, data):
    stored = bytearray(encode_message(message))
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decode_message(bytes(stored))
    except MalformedMessageError:
        return


@pytest.mark.parametrize(
    "fields",
    [
        FIELDS[:-1],
        (*FIELDS, b""),
        (FORMAT + 1, *FIELDS[1:]),
        (*FIELDS[:3], (b"odd",), *FIELDS[4:]),
        (*FIELDS[:3], (b"text", "value"), *FIELDS[4:]),
        (*FIELDS[:4], "text", *FIELDS[5:]),
        (*FIELDS[:5], "now", *FIELDS[6:]),
        (*FIELDS[:5], True, *FIELDS[6:]),
        (*FIELDS[:3], None, *FIELDS[4:]),
        {"body": b""},
        7,
    ],
)
def test_another_shape_is_no_message(fields):
    with pytest.raises(MalformedMessageError):
        decode_message(pack(fields))


@given(st.from_regex(r"[0-9a-f]{8}", fullmatch=True), st.integers(1, 2**63 - 1))
def test_i4_an_id_names_one_position_of_one_cluster(tag, position):
    text = message_id(tag, position)
    assert parse_message_id(text) == (tag, position)
    assert text.isascii()
    assert len(text) == 25


def test_ids_sort_as_their_positions():
    ids = [message_id("0123abcd", position) for position in (1, 9, 10, 255, 2**40)]
    assert ids == sorted(ids)
    assert ids[0] == "0123abcd-0000000000000001"


@pytest.mark.parametrize(
    "text",
    ["", "0123abcd", "0123ABCD-0000000000000001", "0123abcd-1", "0123abcd-0000000000000001\n",
     " 0123abcd-0000000000000001", "0123abcd_0000000000000001"],
)  # fmt: skip
def test_what_is_no_id_is_refused(text):
    with pytest.raises(ValueError, match="not a message id"):
        parse_message_id(text)
