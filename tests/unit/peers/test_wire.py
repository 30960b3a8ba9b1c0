"""What peers say: every message comes back as it was, and nothing else is taken."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.codec import pack
from crowd.errors import MalformedFrameError, PeerRejectedError
from crowd.raft.wire import (
    MAGIC,
    NUMBER_MAX,
    PROTOCOL,
    AppendEntries,
    Hello,
    NextIndex,
    Offer,
    PeerMessage,
    PreVote,
    PreVoteAnswer,
    RequestVote,
    ResponseVote,
    TimeoutNow,
    decode_hello,
    decode_peer_message,
    encode_hello,
    encode_peer_message,
    objection,
)

numbers = st.integers(0, NUMBER_MAX)


@st.composite
def append_entries(draw):
    prev_index = draw(st.integers(0, NUMBER_MAX - 20))
    terms = sorted(draw(st.lists(numbers, max_size=8)))
    term = draw(st.integers(terms[-1] if terms else 0, NUMBER_MAX))
    entries = tuple(
        (draw(st.binary(max_size=40)), prev_index + place, entry_term)
        for place, entry_term in enumerate(terms, 1)
    )
    return AppendEntries(term, draw(numbers), prev_index, draw(numbers), draw(numbers), entries)


peer_messages = st.one_of(
    append_entries(),
    st.builds(NextIndex, numbers, numbers, st.booleans(), st.booleans(), numbers, numbers),
    st.builds(RequestVote, numbers, numbers, numbers, numbers),
    st.builds(ResponseVote, numbers),
    st.builds(TimeoutNow, numbers),
    st.builds(PreVote, numbers, numbers, numbers, numbers),
    st.builds(PreVoteAnswer, numbers, st.booleans()),
    st.builds(Offer, st.binary(max_size=100)),
)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63)
hellos = st.builds(
    Hello,
    st.just(PROTOCOL),
    numbers,
    names,
    names,
    st.binary(min_size=16, max_size=16),
    st.lists(names, min_size=1, max_size=32).map(tuple),
    numbers,
    st.binary(max_size=200),
    st.booleans(),
)
plain = st.recursive(
    st.one_of(
        st.integers(-1, 40),
        st.integers(-(2**64), 2**64 - 1),
        st.booleans(),
        st.none(),
        st.floats(allow_nan=False),
        st.binary(max_size=20),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=7), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=20,
)


@given(peer_messages)
def test_a_message_arrives_as_it_was_sent(message):
    """What one node says, the other hears: same kind, same values."""
    again = decode_peer_message(encode_peer_message(message))
    assert again == message
    assert type(again) is type(message)


@given(hellos)
def test_a_hello_arrives_as_it_was_sent(hello):
    """A hello survives its encoding."""
    assert decode_hello(encode_hello(hello)) == hello


@given(st.binary(max_size=200))
def test_i6_any_bytes_are_a_message_or_refused(data):
    """I6: bytes from the network are one of the known messages, or MalformedFrameError."""
    for decode in (decode_peer_message, decode_hello):
        with suppress(MalformedFrameError, PeerRejectedError):
            decode(data)


@given(plain)
def test_i6_any_value_is_a_message_or_refused(value):
    """I6: well-formed CBOR of any shape is one of the known messages, or refused."""
    try:
        message = decode_peer_message(pack(value))
    except MalformedFrameError:
        return
    assert encode_peer_message(message) == pack(value)


@given(peer_messages, st.data())
def test_a_changed_byte_is_a_message_or_refused(message, data):
    """A flipped bit gives another well-formed message or an error, never anything else."""
    encoded = bytearray(encode_peer_message(message))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(MalformedFrameError):
        decode_peer_message(bytes(encoded))


@pytest.mark.parametrize(
    "value",
    [
        [2, 1, 2, True, False, 9],  # a field too few
        [2, 1, 2, True, False, 9, 9, 9],  # one too many
        [2, 1, 2, 1, False, 9, 9],  # a number where a boolean belongs
        [2, True, 2, True, False, 9, 9],  # and the reverse
        [2, -1, 2, True, False, 9, 9],
        [2, 2**63, 2, True, False, 9, 9],
        [True, 1, 1, 1, 1, []],  # true is not kind 1
        [8, "text"],
        [99],
        [[]],
        [],
        {},
        7,
    ],
)
def test_what_is_not_exactly_a_known_kind_is_refused(value):
    """Fields have one type and one range each; a kind has all of its fields and no more."""
    with pytest.raises(MalformedFrameError):
        decode_peer_message(pack(value))


@pytest.mark.parametrize(
    "entries",
    [
        [[b"x", 11, 3]],  # a gap after the previous entry
        [[b"x", 10, 3], [b"y", 10, 3]],  # the same index twice
        [[b"x", 10, 3], [b"y", 11, 2]],  # a term that falls
        [[b"x", 10, 6]],  # a term that the sender has not reached
        [[b"x", 10]],
    ],
)
def test_entries_that_no_log_could_hold_are_refused(entries):
    """Indices follow one another and terms never fall; else the whole message is refused."""
    with pytest.raises(MalformedFrameError):
        decode_peer_message(pack([1, 5, 0, 9, 3, 0, entries]))


def test_a_hello_of_another_protocol_says_so(make_hello):
    """A node of another version is told apart from garbage, whatever else its hello holds."""
    with pytest.raises(PeerRejectedError, match="found protocol version 7; expected 1"):
        decode_hello(pack([MAGIC, 7, {"what": "ever"}]))
    with pytest.raises(MalformedFrameError):
        decode_hello(pack(["other", 1]))
    with pytest.raises(MalformedFrameError):
        decode_hello(pack([MAGIC]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cluster": "other"}, "found cluster 'other'; expected 'leads'"),
        ({"roster": ("a", "b")}, "found roster 'a b'; expected 'a b c'"),
        ({"protocol": 2}, "found protocol version 2; expected 1"),
        ({"name": "c"}, "found node name 'c'; expected 'b'"),
    ],
)
def test_an_objection_says_what_was_found_and_expected(make_hello, change, words):
    """Whoever reads the log knows which of the two nodes to correct."""
    found = make_hello(**{"name": "b", **change})
    assert objection(make_hello("a"), found, "b") == words


def test_every_kind_stands_in_the_reference():
    """Whoever reads the bytes on the wire finds each kind's number and fields in docs/."""
    page = Path(__file__).parents[3] / "docs" / "reference" / "peer-protocol.md"
    lines = page.read_text().splitlines()
    for kind in get_args(PeerMessage):
        fields = ", ".join(f"`{field}`" for field in kind.__struct_fields__)
        row = f"| {kind.__struct_config__.tag} | {kind.__name__} | {fields} |"
        assert any(line.startswith(row) for line in lines), row
    for field in Hello.__struct_fields__:
        assert any(line.startswith(f"| `{field}` |") for line in lines), field


def test_two_nodes_of_one_cluster_have_no_objection(make_hello):
    """Journal ids, formats and foundings differ in a healthy cluster."""
    assert objection(make_hello("a"), make_hello("b"), "b") is None
