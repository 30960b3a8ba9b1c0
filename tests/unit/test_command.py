"""Commands keep their meaning through their bytes, and nothing else passes for one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.codec import pack, unpack
from crowd.command import (
    FORMAT,
    LETTERS_MAX,
    MEMBERS_MAX,
    MESSAGES_MAX,
    NO_FILE,
    PROPOSALS_MAX,
    WORDS_MAX,
    Accept,
    Birth,
    Burial,
    Bury,
    Conclude,
    Control,
    Define,
    Demote,
    Dismiss,
    Enroll,
    Expel,
    Member,
    Once,
    OpenSession,
    Promote,
    Purge,
    RaiseFormat,
    Release,
    Remember,
    Replay,
    Settle,
    Skip,
    Trial,
    decode_command,
    encode_command,
    open_entry,
    stamp,
)
from crowd.definition import ConsumerDefinition, Retry, RouteDefinition, Start, read_start
from crowd.errors import MalformedCommandError, NeedsNewerCrowdError
from crowd.value import INTEGER_MAX

COUNTED = st.integers(1, INTEGER_MAX)
AMOUNT = st.integers(0, INTEGER_MAX)
NAME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
ADDRESS = st.just("") | NAME
BYTES_16 = st.binary(min_size=16, max_size=16)

ROUTE = st.builds(
    RouteDefinition,
    NAME,
    st.lists(NAME, max_size=3).map(tuple),
    st.sampled_from(["proxy", "refuse"]),
    st.none() | NAME,
)
CONSUMER = st.builds(
    ConsumerDefinition,
    NAME,
    NAME,
    st.none() | NAME,
    st.lists(NAME, max_size=3).map(tuple),
    COUNTED,
    st.none() | NAME,
    COUNTED,
    NAME,
    st.sampled_from(["now", "beginning", "position:1", f"position:{INTEGER_MAX}"])
    | st.integers(0, 59).map("2026-11-24T12:00:{:02}Z".format),
    st.builds(Retry, AMOUNT, st.floats(1, 1000) | st.integers(1, 1000), AMOUNT, AMOUNT),
    AMOUNT,
    st.sampled_from(["refuse", "skip"]),
)


@st.composite
def accepts(draw):
    low = draw(st.integers(1, INTEGER_MAX - PROPOSALS_MAX))
    number = low + draw(st.integers(0, PROPOSALS_MAX - 1))
    messages = draw(st.lists(st.binary(max_size=30), min_size=1, max_size=6).map(tuple))
    routes = tuple(draw(COUNTED) for _ in messages)
    return Accept(draw(COUNTED), number, low, routes, messages)


def rising(values):
    """Return a strategy of such values as a rising tuple, at least one."""
    return st.sets(values, min_size=1, max_size=5).map(lambda found: tuple(sorted(found)))


@st.composite
def buries(draw):
    burial = st.builds(
        Burial,
        st.just(1),
        st.sampled_from(["dead", "parked"]),
        st.sampled_from(["answer", "attempts", "age", "undeliverable", "operator", "window"]),
        st.integers(0, 999),
        st.text(st.characters(codec="utf-8"), max_size=20),
        AMOUNT,
        AMOUNT,
        AMOUNT,
        st.binary(min_size=1, max_size=30),
    )
    letters = [
        msgspec.structs.replace(draw(burial), position=position)
        for position in draw(rising(COUNTED))
    ]
    consumer = draw(COUNTED)
    target = draw(AMOUNT)
    return Bury(consumer, tuple(letters), 0 if target == consumer else target)


@st.composite
def remembers(draw):
    trials = draw(st.sets(st.tuples(COUNTED, AMOUNT), max_size=4).map(sorted))
    rest = st.tuples(COUNTED, AMOUNT, AMOUNT)
    return Remember(
        draw(COUNTED),
        draw(AMOUNT),
        draw(AMOUNT),
        draw(AMOUNT),
        tuple(Trial(position, letter, *draw(rest)) for position, letter in trials),
    )


@st.composite
def settles(draw):
    bounds = draw(st.sets(COUNTED, min_size=2, max_size=8).map(sorted))
    ranges = tuple(zip(bounds[::2], bounds[1::2], strict=False))
    return Settle(draw(COUNTED), ranges)


COMMAND = st.one_of(
    st.builds(
        Birth,
        NAME,
        st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
        st.lists(st.builds(Member, NAME, ADDRESS, BYTES_16), min_size=1, max_size=3).map(tuple),
        COUNTED,
    ),
    st.builds(OpenSession, NAME, BYTES_16),
    accepts(),
    settles(),
    st.builds(
        Define,
        NAME,
        st.binary(min_size=32, max_size=32),
        st.lists(ROUTE, max_size=2).map(tuple),
        st.lists(CONSUMER, max_size=2).map(tuple),
    ),
    st.builds(Promote, NAME, BYTES_16, COUNTED),
    st.builds(Control, COUNTED, st.sampled_from(["pause", "resume"])),
    st.builds(RaiseFormat, COUNTED),
    st.builds(Enroll, NAME, ADDRESS, COUNTED),
    st.builds(Demote, NAME, COUNTED),
    st.builds(Expel, NAME, COUNTED),
    st.builds(Release, COUNTED),
    buries(),
    st.builds(Conclude, COUNTED, rising(COUNTED)),
    st.builds(Replay, COUNTED, rising(COUNTED)),
    st.builds(Purge, st.sampled_from(["operator", "age"]), rising(COUNTED)),
    remembers(),
    st.builds(Dismiss, COUNTED, st.sampled_from(["drop", "refuse"])),
    st.builds(Skip, COUNTED, COUNTED),
    st.builds(
        Once,
        BYTES_16,
        st.builds(Dismiss, COUNTED, st.sampled_from(["drop", "refuse"]))
        | st.builds(Replay, COUNTED, rising(COUNTED))
        | st.builds(Define, NAME, st.just(NO_FILE), st.just(()), st.tuples(CONSUMER)),
    ),
)

ACCEPT = Accept(5, 7, 6, (1, 2), (b"one", b"two"))


@given(COMMAND)
def test_a_command_survives_its_bytes(command):
    assert decode_command(encode_command(command)) == command


@given(COMMAND, st.data())
def test_a_damaged_command_is_refused_or_is_another_one_in_its_own_form(command, data):
    """Whatever a bit flip or a cut makes of a command, the ledger sees no half of it."""
    good = encode_command(command)
    place = data.draw(st.integers(0, len(good) - 1))
    damaged = data.draw(
        st.sampled_from([
            good[:place],
            good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :],
            good + good[:place],
        ])
    )  # fmt: skip
    try:
        again = decode_command(damaged)
    except (MalformedCommandError, NeedsNewerCrowdError):
        return
    assert encode_command(again) == damaged


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_a_command_or_its_one_error(data):
    try:
        decode_command(data)
    except (MalformedCommandError, NeedsNewerCrowdError):
        return


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.floats() | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)  # fmt: skip


@given(st.integers(1, 21), st.lists(VALUE, max_size=6))
def test_arbitrary_fields_under_a_known_kind_are_a_command_or_its_one_error(kind, fields):
    data = pack([kind, *fields])
    try:
        command = decode_command(data)
    except (MalformedCommandError, NeedsNewerCrowdError):
        return
    assert encode_command(command) == data


@pytest.mark.parametrize("kind", [21, 22, INTEGER_MAX])
def test_a_kind_of_a_newer_crowd_says_so(kind):
    with pytest.raises(NeedsNewerCrowdError, match="this version knows 1-20"):
        decode_command(pack([kind, "whatever"]))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        "text",
        {"kind": 3},
        [True],
        [0],
        [-1],
        [3.0, 5, 7, 6, [1], [b""]],
        [3, 5, 7, 6, [1], [b""], "one more"],
        [3, 5, 7, 6, [1]],
        [3, 0, 7, 6, [1], [b""]],
        [3, True, 7, 6, [1], [b""]],
        [3, 2**63, 7, 6, [1], [b""]],
        [3, 5, 0, 0, [1], [b""]],
        [3, 5, 6, 7, [1], [b""]],
        [3, 5, 6 + PROPOSALS_MAX, 6, [1], [b""]],
        [3, 5, 7, 6, [], []],
        [3, 5, 7, 6, [1, 2], [b""]],
        [3, 5, 7, 6, [1], [b"", b""]],
        [3, 5, 7, 6, [0], [b""]],
        [3, 5, 7, 6, [1], ["YQ=="]],  # text where bytes belong, though it is base64
        [3, 5, 7, 6, [1] * (MESSAGES_MAX + 1), [b""] * (MESSAGES_MAX + 1)],
        [4, 1, []],
        [4, 1, [[0, 1]]],
        [4, 1, [[2, 1]]],
        [4, 1, [[1, 2], [2, 3]]],
        [4, 1, [[5, 6], [1, 2]]],
        [4, 1, [[1, 2, 3]]],
        [1, "leads", "0123ABCD", [["a", "a:1", bytes(16)]], 1],
        [1, "leads", "0123abcd\n", [["a", "a:1", bytes(16)]], 1],
        [1, "leads", "0123abcd", [], 1],
        [1, "leads", "0123abcd", [["a", bytes(16)]], 1],
        [1, "leads", "0123abcd", [["a", "a" * 256, bytes(16)]], 1],
        [1, "leads", "0123abcd", [["a", "a:1", bytes(16)]] * (MEMBERS_MAX + 1), 1],
        [1, "", "0123abcd", [["a", "a:1", bytes(16)]], 1],
        [2, "a", bytes(15)],
        [2, b"a", bytes(16)],
        [6, "a", bytes(15), 2],
        [6, "a", b"", 2],
        [6, "a", bytes(16), 0],
        [6, "a", bytes(16)],
        [7, 1, "stop"],
        [9, "", "a:1", 2],
        [9, "a", "a" * 256, 2],
        [10, "a", 0],
        [11, "a"],
        [12, 0],
        [13, 1, []],
        [13, 1, [[1, "dead", "answer", 400, "", 1, 0, 0, b""]]],
        [13, 1, [[1, "replay", "answer", 400, "", 1, 0, 0, b"m"]]],
        [13, 1, [[1, "dead", "why", 400, "", 1, 0, 0, b"m"]]],
        [13, 1, [[1, "dead", "answer", 1000, "", 1, 0, 0, b"m"]]],
        [13, 1, [[1, "dead", "answer", 400, "w" * (WORDS_MAX + 1), 1, 0, 0, b"m"]]],
        [13, 1, [[1, "dead", "answer", 400, "", 1, 0, 0, b"m"]] * 2],
        [13, 1, [[1, "dead", "answer", 400, "", 1, 0, 0, b"m"]], 1],
        [13, 1, [[1, "dead", "answer", 400, "", 1, 0, 0, b"m"]]],
        [20, b"o" * 15, [19, 1, 1]],
        [20, b"o" * 16, [4, 1, [[1, 1]]]],
        [20, b"o" * 16, [20, b"o" * 16, [19, 1, 1]]],
        [20, b"o" * 16, [15, 1, [2, 1]]],
        [14, [1]],
        [14, 1, []],
        [14, 0, [1]],
        [14, 1, [2, 1]],
        [14, 1, list(range(1, LETTERS_MAX + 2))],
        [15, 1, [1, 1]],
        [15, 0, [1]],
        [16, "whim", [1]],
        [16, "age", [0]],
        [17, 1, 0, 0, 0, [[1, 0, 1, 0, 0], [1, 0, 1, 0, 0]]],
        [17, 1, 0, 0, 0, [[1, 0, 0, 0, 0]]],
        [17, 1, 0, 0, -1, []],
        [18, 1, "keep"],
        [19, 1, 0],
    ],
)
def test_what_is_out_of_bounds_is_no_command(fields):
    with pytest.raises(MalformedCommandError):
        decode_command(pack(fields))


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("now", Start("now")),
        ("beginning", Start("beginning")),
        ("position:123", Start("position", 123)),
        ("1970-01-01T00:00:02Z", Start("time", 2_000_000)),
    ],
)
def test_where_a_consumer_begins(text, start):
    assert read_start(text) == start


@pytest.mark.parametrize(
    "text", ["", "then", "position:0", "position:01", f"position:{INTEGER_MAX + 1}", "2026-11-24"]
)
def test_a_consumer_that_begins_nowhere_is_no_command(text):
    definition = msgspec.to_builtins(defined(), builtin_types=(bytes,))
    fields = [part if part != "now" else text for part in definition]
    with pytest.raises(MalformedCommandError):
        decode_command(pack([5, "a", bytes(32), [], [fields]]))


def test_a_command_has_one_byte_form():
    """The same values with an integer written longer are refused: equal is equal bytes."""
    good = encode_command(RaiseFormat(1))
    assert good == b"\x82\x08\x01"
    for longer in (b"\x82\x08\x18\x01", b"\x98\x02\x08\x01", b"\x82\x18\x08\x01"):
        assert unpack(longer) == (8, 1)
        with pytest.raises(MalformedCommandError, match="one byte form"):
            decode_command(longer)


def test_whole_and_broken_factors_are_the_same_bytes():
    assert encode_both(2) == encode_both(2.0)
    assert Retry(1, 2, 3, 4) == Retry(1, 2.0, 3, 4)


def encode_both(factor):
    definition = msgspec.structs.replace(defined(), retry=Retry(1_000_000, factor, 2, 3))
    return encode_command(Define("a", bytes(32), (), (definition,)))


def defined():
    return ConsumerDefinition(
        "c", "http://x", None, (), 1, None, 1, "none", "now", Retry(1, 2, 3, 4), 0, "refuse"
    )


@given(st.integers(0, INTEGER_MAX), st.binary(min_size=1, max_size=20))
def test_a_stamp_is_read_without_the_command(log_time_us, command):
    payload = stamp(log_time_us) + command
    assert open_entry(payload) == (log_time_us, command)
    assert len(payload) == len(command) + 10


def test_a_stamped_command_is_one_cbor_array():
    payload = stamp(1_700_000_000_000_000) + encode_command(ACCEPT)
    assert unpack(payload) == (1_700_000_000_000_000, (3, 5, 7, 6, (1, 2), (b"one", b"two"), b""))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        stamp(1),
        b"\x83" + stamp(1)[1:] + b"\x01",
        b"\x82\x1a" + stamp(1)[2:] + b"\x01",
        stamp(INTEGER_MAX + 1) + b"\x01",
    ],
)
def test_what_is_not_stamped_is_no_entry(payload):
    with pytest.raises(MalformedCommandError):
        open_entry(payload)


def test_a_command_cannot_be_changed():
    with pytest.raises(AttributeError):
        ACCEPT.number = 1
    assert FORMAT == 1
