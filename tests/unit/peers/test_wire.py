"""What peers say: every message comes back as it was, and nothing else is taken."""

from __future__ import annotations

import random
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.codec import pack, unpack
from crowd.errors import MalformedFrameError, PeerRejectedError
from crowd.raft.link import HELLO_BYTES_MAX
from crowd.raft.wire import (
    MAGIC,
    PROTOCOL,
    SNAPSHOT_PIECE_BYTES_MAX,
    Hello,
    PeerMessage,
    SnapshotPiece,
    decode_hello,
    decode_peer_message,
    encode_hello,
    encode_peer_message,
    objection,
)
from tests.unit.peers.messages import EXAMPLES, HELLOS, PEER_MESSAGES, PLAIN, mutated
from tests.unit.peers.network import hello_of


@given(PEER_MESSAGES)
def test_a_message_arrives_as_it_was_sent(message):
    """What one node says, the other hears: same kind, same values."""
    again = decode_peer_message(encode_peer_message(message))
    assert again == message
    assert type(again) is type(message)


@given(HELLOS)
def test_a_hello_arrives_as_it_was_sent(hello):
    """A hello survives its encoding."""
    assert decode_hello(encode_hello(hello)) == hello


@given(st.binary(max_size=200))
def test_i6_any_bytes_are_a_message_or_refused(data):
    """I6: bytes from the network are one of the known messages, or MalformedFrameError."""
    for decode in (decode_peer_message, decode_hello):
        with suppress(MalformedFrameError, PeerRejectedError):
            decode(data)


@given(PLAIN)
def test_i6_any_value_is_a_message_or_refused(value):
    """I6: well-formed CBOR of any shape is one of the known messages, or refused."""
    try:
        message = decode_peer_message(pack(value))
    except MalformedFrameError:
        return
    assert encode_peer_message(message) == pack(value)


@given(PEER_MESSAGES, st.data())
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
        decode_hello(pack([MAGIC, 7, ["what", "ever"]]))
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


# --- I6: anything at all ------------------------------------------------------------------------


def test_the_fuzz_knows_every_kind():
    """A kind that is added is fuzzed, or this fails."""
    assert {type(message) for message in EXAMPLES} == set(get_args(PeerMessage))


@given(mutated(PEER_MESSAGES.map(encode_peer_message)))
def test_i6_a_message_with_changed_bytes_is_a_message_or_refused(data):
    """I6: bytes changed, left out, doubled, put in: what is taken says again the same."""
    try:
        message = decode_peer_message(data)
    except MalformedFrameError as error:
        assert len(str(error)) < 250
        assert str(error).isprintable()
    else:
        assert decode_peer_message(encode_peer_message(message)) == message


@given(mutated(HELLOS.map(encode_hello)))
def test_i6_a_hello_with_changed_bytes_is_a_hello_or_refused(data):
    """I6: a value, or one of the two errors, in words that fit in a log line."""
    try:
        hello = decode_hello(data)
    except (MalformedFrameError, PeerRejectedError) as error:
        assert len(str(error)) < 250
        assert str(error).isprintable()
    else:
        assert decode_hello(encode_hello(hello)) == hello


@given(st.sampled_from(EXAMPLES), PLAIN, st.data())
def test_i6_a_field_of_any_value_is_taken_or_its_kind_is_named(message, value, data):
    """I6: whatever stands in one field of any kind, it is right, or the error says of which kind."""
    fields = list(unpack(encode_peer_message(message)))
    place = data.draw(st.integers(1, len(fields) - 1))
    fields[place] = value
    try:
        taken = decode_peer_message(pack(fields))
    except MalformedFrameError as error:
        words = (f"no {type(message).__name__}: ", "entry", "piece of a snapshot", "a tag or a map")
        assert any(word in str(error) for word in words)
    else:
        assert type(taken) is type(message)
        assert encode_peer_message(taken) == pack(fields)


def test_i6_twenty_thousand_random_inputs_are_taken_or_refused():
    """I6: random bytes, most of them behind the first bytes of a message or a hello."""
    chance = random.Random(20_000)
    heads = [encode_peer_message(message) for message in EXAMPLES]
    heads.append(pack([MAGIC, PROTOCOL, 1, "leads", "a", bytes(16), ["a", "b"], 0, b"", True]))
    for _ in range(20_000):
        head = chance.choice(heads)
        data = head[: chance.randrange(len(head) + 1)] + chance.randbytes(chance.randrange(24))
        with suppress(MalformedFrameError):
            decode_peer_message(data)
        with suppress(MalformedFrameError, PeerRejectedError):
            decode_hello(data)


@pytest.mark.parametrize(
    "item", [b"\x80", b"\xa0", b"\x81\x80", b"\x83\x40\x01\x01", b"\x00", b"\x60"]
)
def test_i7_what_a_hello_can_make_of_its_64_kib_is_bounded(item):
    """I7: the worst that CBOR can say in so many bytes, empty maps, takes under 10 MiB."""
    count = (HELLO_BYTES_MAX - 5) // len(item)
    data = b"\x9a" + count.to_bytes(4, "big") + item * count
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFrameError):
            decode_hello(data)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def lines_run(function, *arguments):
    """Return how many lines of Python ran in `function`: its work, whatever the machine does."""
    ran = 0

    def trace(frame, event, _):
        nonlocal ran
        ran += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(MalformedFrameError, PeerRejectedError):
            function(*arguments)
    finally:
        sys.settrace(before)
    return ran


def test_i6_the_work_for_an_input_grows_with_its_length_at_most():
    """I6: no input of a kilobyte makes a decoder run more than for a kilobyte of entries."""
    chance = random.Random(7)
    entries = pack([1, 9, 0, 0, 0, 0, [[b"", index, 9] for index in range(1, 200)]])
    most = lines_run(decode_peer_message, entries) / len(entries)
    assert most < 4, "lines a byte"
    for _ in range(500):
        data = bytearray(entries)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assert lines_run(decode_peer_message, bytes(data)) <= 60 + most * len(data)
        assert lines_run(decode_hello, bytes(data)) <= 60


# --- Whether two hellos fit -----------------------------------------------------------------------

few = st.lists(st.sampled_from("abcd"), min_size=1, unique=True).map(sorted).map(tuple)


@st.composite
def met(draw):
    """Two nodes of one cluster that met, with any members at any index."""
    nodes = draw(st.permutations("abcd"))[:2]
    rosters = {index: draw(few) for index in range(3)} if draw(st.booleans()) else None
    hellos = []
    for node in nodes:
        index = draw(st.integers(0, 2))
        roster = rosters[index] if rosters else draw(few)
        hellos.append(hello_of(node, roster=roster, roster_index=index))
    return tuple(hellos)


@given(met())
def test_both_sides_decide_alike(hellos):
    """One is never linked to who has refused it, whatever each knows of the members."""
    one, other = hellos
    there, back = objection(one, other, other.node), objection(other, one, one.node)
    assert (there is None) == (back is None)
    if there is not None and "not among" in there:
        assert there == back


@given(met())
def test_members_differ_only_while_a_member_has_not_heard_of_the_last_change(hellos):
    """The rule, said the other way round: what is known by the one who knows more counts."""
    one, other = sorted(hellos, key=lambda hello: hello.roster_index)
    if one.roster_index == other.roster_index:
        fits = one.roster == other.roster and {one.node, other.node} <= set(one.roster)
    else:
        fits = one.node in other.roster
    assert (objection(one, other, other.node) is None) == fits


def test_who_was_expelled_may_still_tell_the_last_member_so(make_hello):
    """In a cluster of two nobody else can: the other one still counts by two votes."""
    expelled = make_hello("a", roster="b", roster_index=9)
    left = make_hello("b", roster="ab", roster_index=4)
    assert objection(left, expelled, "a") is None
    assert objection(expelled, left, "b") is None


def test_a_piece_of_a_snapshot_ends_with_it():
    """The last piece reaches to `total`, no piece beyond it."""
    last = SnapshotPiece(1, 9, 1, bytes(32), 10, 7, b"abc")
    assert decode_peer_message(encode_peer_message(last)) == last
    beyond = SnapshotPiece(1, 9, 1, bytes(32), 10, 8, b"abc")
    with pytest.raises(MalformedFrameError, match="up to 11 of its 10 bytes"):
        decode_peer_message(encode_peer_message(beyond))
    large = SnapshotPiece(1, 9, 1, bytes(32), 2**40, 0, bytes(SNAPSHOT_PIECE_BYTES_MAX + 1))
    with pytest.raises(MalformedFrameError, match="no SnapshotPiece"):
        decode_peer_message(encode_peer_message(large))
