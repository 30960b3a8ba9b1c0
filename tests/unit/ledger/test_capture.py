"""A captured ledger restored is the same ledger; anything else is refused and changes nothing."""

from __future__ import annotations

import zlib
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.codec import pack, unpack
from crowd.command import FORMAT
from crowd.errors import MalformedError, NeedsNewerCrowdError
from crowd.ledger import Ledger
from crowd.ledger.head import DIGEST_EVERY, Head
from tests.unit.ledger.history import History, consumer, route
from tests.unit.ledger.test_model import STEP, check, play, scripted


def answers(ledger: Ledger) -> list[object]:
    """Return the answer to every question, about every position, number and consumer."""
    positions = range(ledger.beginning + 1, ledger.tip + 1)
    return [
        [ledger.place(position) for position in positions],
        [
            (
                known.definition,
                ledger.consumer_id(known.definition.name),
                ledger.watermark(consumer_id),
                ledger.backlog(consumer_id),
                known.paused,
                ledger.pending(consumer_id, 0, ledger.tip + 1),
                [ledger.is_settled(consumer_id, position) for position in positions],
                (known.backlog_bytes, known.skipped, known.is_full),
                ledger.letters_due(consumer_id, 0, 999),
                ledger.remembered(consumer_id),
                [ledger.letter_at(consumer_id, position) for position in positions],
            )
            for consumer_id, known in ledger.consumers.items()
        ],
        [
            (
                ledger.session_is_open(session),
                [(ledger.acceptance(session, n), ledger.left_out(session, n)) for n in range(90)],
            )
            for session in range(1, ledger.applied_index + 1)
        ],
        dict(ledger.letters),
        dict(ledger.gone),
        [
            (ledger.letter_counts(one), ledger.letter_tally(one), ledger.dead_bytes(one))
            for one in (*ledger.consumers, *ledger.gone)
        ],
        ledger.expired(2**62, 999),
        dict(ledger.members),
        dict(ledger.routes),
        dict(ledger.file_hashes),
        dict(ledger.digests),
        (ledger.members_index, ledger.released_index, ledger.beginning, ledger.live_rows),
        (ledger.lowest_watermark, ledger.backlog_bytes, ledger.tip, ledger.refused),
        (ledger.keys_held, ledger.key_bounds, ledger.key_tally),
        (ledger.cluster, ledger.tag, ledger.format, ledger.log_time_us),
        (ledger.applied_index, ledger.applied_term, ledger.state(), ledger.digest()),
    ]


# --- Restored -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(STEP, max_size=30), st.integers(0, 29), st.integers(0, 40))
def test_i5_a_restored_ledger_answers_and_goes_on_like_the_captured_one(steps, cut, below):
    whole = [history.ledger.digest() for history, _ in play(steps)]
    digests = []
    for step, (history, model) in enumerate(play(steps)):
        if step == cut:
            captured = history.ledger
            captured.forget(min(below, captured.released_index + 1))
            sections = captured.capture()
            history.ledger = scripted()  # what it held before leaves no trace
            history.ledger.restore(sections)
            assert history.ledger.capture() == sections
            assert answers(history.ledger) == answers(captured)
        check(history.ledger, model)
        digests.append(history.ledger.digest())
    assert digests == whole


def test_the_same_object_has_the_other_state():
    """Who holds a ledger, or a method of it, goes on with what was restored."""
    ledger, source = Ledger(), scripted()
    route_id, place = ledger.route_id, ledger.place
    ledger.restore(source.capture())
    assert route_id("/r2") == 2
    assert place(ledger.tip) == source.place(source.tip)


def test_what_goes_on_behind_a_capture_does_not_show_in_it():
    ledger = scripted()
    sections, digest = ledger.capture(), ledger.digest()
    for _ in range(20):
        ledger.skip(ledger.applied_index + 1, ledger.applied_term)
    restored = Ledger()
    restored.restore(sections)
    assert restored.digest() == digest


def test_an_empty_ledger_and_one_of_a_cluster_just_born_are_captured_too():
    for source in (Ledger(), History(born=False).ledger, History().ledger):
        ledger = scripted()
        ledger.restore(source.capture())
        assert answers(ledger) == answers(source)


def test_sealed_chunks_are_the_same_bytes_each_time():
    """A checkpoint that follows another writes the older one's chunks again, as they are."""
    history = History()
    history.define(route("/x"), consumer("c"))
    session = history.open()
    for _ in range(10):
        history.accept(session, 1)
    earlier = history.ledger.capture()
    for _ in range(10):
        history.accept(session, 1)
    assert history.ledger.capture()[1:3] == earlier[1:3]


def test_remembered_digests_survive():
    ledger, restored = Ledger(), Ledger()
    for index in range(1, DIGEST_EVERY * 2 + 1):
        ledger.skip(index, 0)
    restored.restore(ledger.capture())
    assert restored.digests == ledger.digests
    assert len(restored.digests) == 2


def test_rows_of_a_real_chunk_survive():
    """Four thousand entries of several messages each, sealed as they are in a real ledger."""
    history = History(chunk_rows=4096)
    history.define(route("/x"), route("/y"), consumer("c", "/y"))
    session = history.open()
    for n in range(3000):
        history.accept(session, *([1, 2] if n % 3 else [1, 1, 1]), size=n % 50)
    restored = Ledger()
    restored.restore(history.ledger.capture())
    assert len(restored.capture()) == 2
    positions = range(1, restored.tip + 1)
    assert [restored.place(p) for p in positions] == [history.ledger.place(p) for p in positions]
    assert restored.pending(1, 0, 9000) == history.ledger.pending(1, 0, 9000)


# --- Refused --------------------------------------------------------------------------------------

GOOD = scripted().capture()
STATE = answers(scripted())
_FIRST_KEYS = GOOD.index(next(scripted()._keys.sections()))
KEYS = range(_FIRST_KEYS, _FIRST_KEYS + len(list(scripted()._keys.sections())))
"""Sections that are records of keys, and not CBOR."""


def refused_or_whole(sections: list[bytes]) -> None:
    """Restore: either nothing has changed, or the sections are what is captured from now on."""
    ledger = scripted()
    try:
        ledger.restore(sections)
    except (MalformedError, NeedsNewerCrowdError):
        assert answers(ledger) == STATE
        return
    assert list(ledger.capture()) == sections
    if ledger.tip < 1000 and ledger.applied_index < 1000:  # else a flipped bit made it vast
        answers(ledger)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=3))
def test_arbitrary_bytes_are_no_ledger(sections):
    ledger = scripted()
    with pytest.raises((MalformedError, NeedsNewerCrowdError)):
        ledger.restore(sections)
    assert answers(ledger) == STATE


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_sections_are_refused_or_are_another_whole_ledger(data):
    sections = list(GOOD)
    which = data.draw(st.integers(0, len(sections) - 1) | st.just(0))
    good = sections[which]
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :]
    sections[which] = data.draw(st.sampled_from([flipped, good[:place], good + good[:place], b""]))
    refused_or_whole(sections)


@settings(deadline=None)
@given(st.data())
def test_sections_missing_doubled_or_out_of_order_are_refused(data):
    sections = list(GOOD)
    which = data.draw(st.integers(0, len(sections) - 1))
    other = data.draw(st.integers(0, len(sections) - 1).filter(lambda n: n != which))
    ledger = scripted()
    for wrong in (
        sections[:which] + sections[which + 1 :],
        [*sections, sections[which]],
        [sections[other] if n == which else part for n, part in enumerate(sections)],
        [],
    ):
        # A chunk in the head's place may look like a newer crowd's head.
        with pytest.raises((MalformedError, NeedsNewerCrowdError)):
            ledger.restore(wrong)
    assert answers(ledger) == STATE


VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 20),
    st.sampled_from([300, 2**31, 2**62, 2**63, 2**64 - 1]),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=16),
    st.just([]),
)


def changed(value, data):
    """Return `value` with one thing in it, at any depth, replaced by something else."""
    if isinstance(value, tuple) and value and data.draw(st.integers(0, 9)):
        place = data.draw(st.integers(0, len(value) - 1))
        part = changed(value[place], data)
        copies = data.draw(st.sampled_from([1, 1, 1, 1, 1, 1, 2, 0]))
        return [*value[:place], *[part] * copies, *value[place + 1 :]]
    if isinstance(value, int) and data.draw(st.booleans()):
        return value + data.draw(st.sampled_from([-1, 1]))
    return data.draw(VALUE)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_fields_of_other_values_are_refused_or_are_another_whole_ledger(data):
    sections = list(GOOD)
    cbor = [n for n in range(1, len(sections)) if n not in KEYS]
    which = data.draw(st.sampled_from([0, 0, 0, *cbor]))
    sections[which] = pack(changed(unpack(sections[which]), data))
    refused_or_whole(sections)


@settings(deadline=None)
@given(st.data())
def test_keys_of_which_a_head_says_something_else_are_refused(data):
    """Whatever is changed in the keys: in a segment, in the order of them, or in the head."""
    sections = list(GOOD)
    which = data.draw(st.sampled_from(KEYS))
    place = data.draw(st.integers(0, len(sections[which]) - 1))
    changed_byte = bytes([sections[which][place] ^ data.draw(st.integers(1, 255))])
    sections[which] = sections[which][:place] + changed_byte + sections[which][place + 1 :]
    with pytest.raises(MalformedError):
        Ledger().restore(sections)


def with_keys(change):
    """Return good sections whose head and segments of keys `change` made others of."""
    *parts, _ = unpack(GOOD[0])
    place = Head.__struct_fields__.index("keys")
    bounds, tally, segments, opened = parts[place]
    contents = [(last_us, GOOD[n]) for (last_us, _), n in zip(segments, KEYS, strict=True)]
    contents, opened = change(contents, list(opened))
    segments = [[last_us, sha256(section).digest()] for last_us, section in contents]
    parts[place] = [bounds, tally, segments, opened]
    before, after = GOOD[1 : KEYS.start], GOOD[KEYS.stop :]
    return [pack([*parts, ()]), *before, *[section for _, section in contents], *after]


@pytest.mark.parametrize(
    "change",
    [
        lambda sealed, opened: ([*sealed[1:], sealed[0]], opened),
        lambda sealed, opened: ([*sealed, sealed[-1]], opened),
        lambda sealed, opened: ([(10**18, sealed[0][1]), *sealed[1:]], opened),
        lambda sealed, opened: ([(0, sealed[0][1]), (sealed[0][0], b""), *sealed[1:]], opened),
        lambda sealed, opened: ([(sealed[0][0], sealed[0][1][:-1]), *sealed[1:]], opened),
        lambda sealed, opened: (sealed, [opened[0], opened[1], sealed[0][1][:40]]),
        lambda sealed, opened: (sealed, [opened[0], opened[1], b""]),
        lambda sealed, opened: (sealed, [opened[1] + 1, *opened[1:]]),
        lambda sealed, opened: (sealed, [opened[0], 10**18, opened[2]]),
        lambda sealed, opened: (sealed, [1, *opened[1:]]),
        lambda sealed, opened: (sealed, [*opened[:2], opened[2][:32] + b"\x7f" * 8]),
        lambda sealed, opened: (sealed, [*opened[:2], opened[2] + bytes(32) + b"\x00" * 8]),
    ],
)
def test_keys_that_cannot_be_are_refused_even_where_their_hashes_are_right(change):
    """Segments out of order, twice, later than the log, cut; keys twice, positions that fall."""
    assert with_keys(lambda *both: both) == list(GOOD)
    with pytest.raises(MalformedError):
        Ledger().restore(with_keys(change))


def test_a_newer_format_says_so_whatever_follows():
    ledger = scripted()
    with pytest.raises(NeedsNewerCrowdError, match="format 2; this version knows 1-1"):
        ledger.restore([pack([FORMAT + 1, "another shape"]), b"whatever"])
    assert answers(ledger) == STATE


def test_columns_inflate_to_no_more_than_their_rows():
    """A few compressed bytes cannot make a ledger fill the memory."""
    *fields, _ = unpack(GOOD[1])
    bomb = pack([*fields, zlib.compress(bytes(50_000_000))])
    with pytest.raises(MalformedError):
        Ledger().restore([GOOD[0], bomb, *GOOD[2:]])


def test_a_head_of_another_byte_form_is_refused():
    """The same values with one integer written longer."""
    assert GOOD[0][1:2] == b"\x01"
    with pytest.raises(MalformedError, match="byte form"):
        Ledger().restore([GOOD[0][:1] + b"\x18\x01" + GOOD[0][2:], *GOOD[1:]])


def test_what_is_damaged_above_has_something_of_everything():
    *parts, digests = unpack(GOOD[0])
    names = Head.__struct_fields__

    def head_part(name):
        return parts[names.index(name)]

    assert all(parts)
    assert digests == ()
    assert len(GOOD) > 3 + 2 + 2
    assert all(map(bool, head_part("letters")))
    assert all(map(all, head_part("keys")[:2]))
    assert len(head_part("keys")[2]) == len(KEYS) >= 5
    assert all(head_part("keys")[3])
    assert any(left_out for *_, left_out in head_part("sessions")[0])
    assert len(head_part("memories")) == 2
    assert {known.state for known in scripted().letters.values()} == {"dead", "parked", "replay"}
    assert {member.votes for member in scripted().members.values()} == {True, False}
