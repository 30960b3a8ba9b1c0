"""CBOR within bounds: what comes from a stranger is a plain value or one error."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.codec import DEPTH_MAX, head_of_array, head_of_bytes, pack, unpack
from crowd.errors import MalformedError

LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=15,
)


def depth(value) -> int:
    if isinstance(value, tuple):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(VALUE.filter(lambda value: depth(value) < DEPTH_MAX))
def test_a_value_survives_with_its_types(value):
    again = unpack(pack(value))
    assert again == value
    assert pack(again) == pack(value)


@given(st.integers(0, 2**17) | st.sampled_from([23, 24, 255, 256, 65_535, 65_536]))
def test_the_head_of_bytes_is_cbors(length):
    assert head_of_bytes(length) == pack(bytes(length))[: -length or None]


@given(st.integers(0, 65_535) | st.sampled_from([23, 24, 255, 256]))
def test_the_head_of_an_array_is_cbors(length):
    assert head_of_array(length) == pack((0,) * length)[: -length or None]


@settings(max_examples=500)
@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_a_value_or_the_one_error(data):
    """No tag is ever decoded, so what comes out is made of plain types."""
    try:
        value = unpack(data)
    except MalformedError:
        return
    assert_plain(value)


def assert_plain(value):
    if isinstance(value, tuple):
        for inner in value:
            assert_plain(inner)
    else:
        assert (
            value is None
            or type(value) in {bool, int, float, str, bytes}
            or type(value).__module__.startswith("cbor2")
        )


@given(VALUE, st.data())
def test_a_value_cut_short_or_with_more_behind_it_is_refused(value, data):
    packed = pack(value)
    with pytest.raises(MalformedError):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(MalformedError, match="after the end"):
        unpack(packed + b"\x00")


@pytest.mark.parametrize("tag", [*range(40), 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799])
@pytest.mark.parametrize("content", ["00", "60", "40", "80", "820102", "a0", "83000102"])
def test_no_tag_is_decoded(tag, content):
    head = pack(tag)
    tagged = bytes([head[0] | 0xC0]) + head[1:] + bytes.fromhex(content)
    with pytest.raises(MalformedError):
        unpack(tagged)
    with pytest.raises(MalformedError):
        unpack(b"\x81" + tagged)


@pytest.mark.parametrize(
    "text",
    [
        "9f01ff",  # an array without a length
        "5f4100ff",  # a byte string in pieces
        "7f6161ff",  # a text in pieces
        "bf6161 01ff",  # a map without a length
        "a0",  # a map
        "a16101",  # a map with something in it
        "8181a0",  # a map deep within
        "a2616101616102",  # one key twice
        "62ffff",  # text that is not UTF-8
        "1c",  # a reserved length
        "ff",  # a break outside anything
        "",
    ],
)
def test_what_crowd_does_not_speak_is_refused(text):
    with pytest.raises(MalformedError):
        unpack(bytes.fromhex(text))


@settings(max_examples=300)
@given(
    st.lists(st.binary(max_size=12) | VALUE.map(pack) | st.just(b"\x81" * 30), max_size=6), VALUE
)
def test_nothing_is_left_of_what_was_decoded_before(befores, value):
    """A decoder that is used again says what a new one says, also after it refused something."""
    for before in befores:
        with contextlib.suppress(MalformedError):
            unpack(before)
    if depth(value) < DEPTH_MAX:
        assert unpack(pack(value)) == value
    deepest = b"\x81" * (DEPTH_MAX - 1) + b"\x80"
    assert depth(unpack(deepest)) == DEPTH_MAX


def test_nesting_is_bounded():
    assert depth(unpack(b"\x81" * (DEPTH_MAX - 1) + b"\x80")) <= DEPTH_MAX
    for levels in (DEPTH_MAX + 1, 100_000):
        with pytest.raises(MalformedError):
            unpack(b"\x81" * levels + b"\x80")


@pytest.mark.parametrize("head", ["5b", "7b", "9b", "bb"])
@pytest.mark.parametrize("length", [2**31, 2**40, 2**63, 2**64 - 1])
def test_a_huge_claimed_length_takes_no_memory(head, length):
    data = bytes.fromhex(head) + length.to_bytes(8, "big") + b"\x00" * 100
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            unpack(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 20
