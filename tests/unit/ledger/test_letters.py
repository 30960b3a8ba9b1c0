"""What becomes of messages that leave their backlog, as operators would recognise it."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest

from crowd.command import (
    LETTERS_MAX,
    TRIALS_MAX,
    Bury,
    Conclude,
    Dismiss,
    Purge,
    Remember,
    Replay,
    Settle,
    Trial,
)
from crowd.errors import MalformedError
from crowd.ledger import Ledger
from crowd.ledger.head import GONE_MAX
from crowd.ledger.letters import NOBODY
from crowd.ledger.memories import Memories
from crowd.ledger.records import JOINED_MAX, LEAF_MAX, RECORDS_BYTES_MAX, Record, Records
from tests.unit.ledger.history import History, burial, consumer, route
from tests.unit.ledger.test_ledger import changes_nothing


def with_messages(count: int = 10, *consumers, **given) -> tuple[History, int]:
    """Return a history with consumers (c and d, if none are given) and so many messages."""
    history = History(**given)
    history.define(route("/x"), *(consumers or (consumer("c"), consumer("d"))))
    session = history.open()
    for _ in range(count):
        history.accept(session, 1)
    return history, session


# --- Buried ---------------------------------------------------------------------------------------


def test_i3_a_buried_message_is_settled_and_kept_with_what_is_known_of_it():
    history, _ = with_messages()
    ledger = history.ledger
    history.apply(Bury(1, (burial(2), burial(4, "parked", words="late", message=b"four"))))
    assert ledger.pending(1, 0, 9) == [1, 3, 5, 6, 7, 8, 9, 10]
    assert ledger.pending(2, 0, 2) == [1, 2]
    dead, parked = ledger.letters[1], ledger.letters[2]
    assert (dead.position, dead.state, dead.target, dead.reason) == (2, "dead", NOBODY, "answer")
    assert (parked.position, parked.state, parked.target, parked.words) == (4, "parked", 1, "late")
    assert (parked.status, parked.attempts, parked.first_us, parked.last_us) == (400, 2, 5, 6)
    assert parked.buried_us == ledger.log_time_us
    assert ledger.take_letter_changes() == ([(1, b"mmm"), (2, b"four")], [])
    assert ledger.take_letter_changes() == ([], [])
    assert ledger.letters_due(1, 0, 9) == [2]
    assert ledger.dead_bytes(1) == 7


def test_only_ones_own_unsettled_messages_are_buried():
    history, session = with_messages(3, route("/y"), consumer("xs", "/x"))
    history.accept(session, 2)
    history.settle(1, (1, 1))
    changes_nothing(history, Bury(1, (burial(1), burial(4), burial(5))), Bury(9, (burial(2),)))
    history.bury(1, 2)
    changes_nothing(history, Bury(1, (burial(2), burial(2 + 2))))
    assert list(history.ledger.letters) == [1]


def test_a_watermark_passes_what_is_parked():
    history, _ = with_messages()
    history.settle(1, (2, 10))
    assert history.ledger.watermark(1) == 0
    history.bury(1, burial(1, "parked"))
    assert history.ledger.watermark(1) == 10


def test_a_letter_that_waits_dies_under_a_new_number():
    """Parked or replayed, and given up: its age begins anew, and its older number is gone."""
    history, _ = with_messages()
    ledger = history.ledger
    history.bury(1, burial(1, "parked"), burial(2))
    history.apply(Replay(2, (2,)))
    changes_nothing(history, Bury(1, (burial(1, "parked"), burial(2, "parked"))))
    ledger.take_letter_changes()
    history.bury(1, burial(1, words="again"))
    history.bury(1, burial(2), target=2)
    assert {number: known.state for number, known in ledger.letters.items()} == {
        3: "dead",
        4: "dead",
    }
    assert ledger.letters[3].words == "again"
    assert ledger.take_letter_changes() == ([(3, b"mmm"), (4, b"mmm")], [1, 2])
    tally = ledger.letter_tally(1)
    assert (tally.dead, tally.parked, tally.again, tally.held) == (1, 1, 2, 2)
    changes_nothing(history, Bury(1, (burial(1), burial(2))))


def test_i7_at_the_bound_a_message_stays_in_its_backlog():
    """Words of the longest kind count for it: some 24 000 letters then fill 96 MiB."""
    count = RECORDS_BYTES_MAX // 4_096
    history, session = with_messages(0)
    while history.ledger.tip < count:
        history.accept(session, *[1] * 4_096, size=1)
    words = "\N{OPEN MAILBOX WITH RAISED FLAG}" * 1_024
    for start in range(1, count, LETTERS_MAX):
        positions = range(start, min(start + LETTERS_MAX, count + 1))
        bury = Bury(1, tuple(burial(position, words=words) for position in positions))
        history.ledger.apply(history.ledger.applied_index + 1, 1, 0, bury)
        history.ledger.take_letter_changes()
    held = len(history.ledger.letters)
    assert count * 0.95 < held < count
    assert history.ledger.pending(1, 0, 1) == [held + 1]
    for position in range(held + 1, held + 40):  # one by one, until not one more fits
        history.bury(1, burial(position, words=words))
    assert len(history.ledger.letters) < held + 39
    history.bury(2, burial(1, words=words))
    assert history.ledger.pending(2, 0, 1) == [1]
    assert not history.ledger.has_room_for_letters(1, len(words.encode()))
    history.apply(Purge("operator", (7,)))
    assert history.ledger.has_room_for_letters(1, len(words.encode()))
    history.bury(2, burial(1, words=words))
    assert history.ledger.pending(2, 0, 1) == [2]


def test_i7_records_have_room_up_to_their_bound():
    records = Records(count_max=3, bytes_max=1_000)
    records.add([record(1)])
    assert records.has_room(2, 0)
    assert not records.has_room(3, 0)
    assert not records.has_room(1, 900)


# --- What happens to letters ----------------------------------------------------------------------


def test_dead_letters_are_replayed_to_any_consumer_and_concluded():
    history, _ = with_messages()
    ledger = history.ledger
    history.bury(1, 1, 2, burial(3, "parked"))
    history.apply(Replay(2, (1, 2, 3, 99)))
    assert ledger.letters_due(2, 0, 9) == [1, 2]
    assert ledger.letters_due(1, 0, 9) == [3]  # a parked one is tried anyway
    history.apply(Replay(1, (2,)))
    assert ledger.letters_due(1, 0, 9) == [2, 3]
    assert ledger.letter_counts(1) == {"dead": 0, "parked": 1, "replay": 2}
    history.apply(Conclude(2, (1, 3, 99)))
    history.apply(Conclude(1, (1, 3, 99)))
    assert list(ledger.letters) == [2]
    assert ledger.take_letter_changes()[1] == [1, 3]
    assert ledger.letter_tally(1).concluded == 2
    changes_nothing(history, Replay(9, (2,)), Conclude(1, (1,)))


def test_a_letter_ordered_elsewhere_is_not_ended_by_whom_it_waited_for_before():
    """Neither delivered nor given up: what was under way there is nothing to who is named now."""
    history, _ = with_messages()
    history.bury(1, 1, 2)
    history.apply(Replay(1, (1, 2)))
    history.apply(Replay(2, (1, 2)))
    changes_nothing(history, Conclude(1, (1,)), Bury(1, (burial(2),)), Bury(1, (burial(2),), 9))
    assert history.ledger.letters_due(2, 0, 9) == [1, 2]
    history.apply(Conclude(2, (1,)))
    history.apply(Bury(1, (burial(2),), 2))
    assert {number: known.state for number, known in history.ledger.letters.items()} == {3: "dead"}


def test_ordered_elsewhere_and_back_a_letter_is_ended_by_the_first_delivery():
    """It is to be had by the consumer named last, and that one has had it."""
    history, _ = with_messages()
    history.bury(1, 1)
    for target in (1, 2, 1):
        history.apply(Replay(target, (1,)))
    history.apply(Conclude(1, (1,)))
    assert not history.ledger.letters


def test_a_dead_letter_is_not_concluded():
    history, _ = with_messages()
    history.bury(1, 1)
    changes_nothing(history, Conclude(1, (1,)))


def test_letters_go_by_age_only_if_they_are_dead_and_old_enough():
    history, _ = with_messages(10, consumer("c", dead_for_us=5_000_000), consumer("d"))
    ledger = history.ledger
    history.bury(1, 1, burial(2, "parked"), 3)
    history.apply(Replay(1, (3,)))
    history.bury(2, 1)
    changes_nothing(history, Purge("age", (1, 2, 3, 4)))
    assert ledger.expired(ledger.log_time_us, 9) == []
    while not ledger.expired(ledger.log_time_us, 9):
        ledger.apply(
            ledger.applied_index + 1, 1, ledger.log_time_us + 1_000_000, Settle(9, ((1, 1),))
        )
    assert ledger.log_time_us == ledger.letters[1].buried_us + 5_000_000
    assert ledger.expired(ledger.log_time_us, 9) == [1]
    ledger.apply(ledger.applied_index + 1, 1, 0, Purge("age", (1, 2, 3, 4)))
    assert list(ledger.letters) == [2, 3, 4]
    assert (ledger.letter_tally(1).expired, ledger.letter_tally(1).purged) == (1, 0)
    history.apply(Purge("operator", (2, 3, 4)))
    assert not ledger.letters
    assert (ledger.letter_tally(1).expired, ledger.letter_tally(1).purged) == (1, 2)


# --- Consumers that go ----------------------------------------------------------------------------


def test_a_consumer_that_went_leaves_its_name_and_what_became_of_its_backlog():
    history, session = with_messages()
    ledger = history.ledger
    history.settle(1, (1, 4))
    changes_nothing(history, Dismiss(1, "refuse"), Dismiss(9, "drop"))
    history.apply(Dismiss(1, "drop"))
    gone = ledger.gone[1]
    assert (gone.name, gone.index, gone.log_time_us, gone.dropped) == (
        "c", ledger.applied_index, ledger.log_time_us, 6,
    )  # fmt: skip
    assert ledger.consumer_id("c") is None
    assert list(ledger.consumers) == [2]
    history.define(consumer("c"))
    assert ledger.consumer_id("c") == 3
    assert ledger.gone[1] == gone
    history.accept(session, 1)
    assert ledger.pending(3, 0, 9) == [11]
    history.settle(3, (11, 11))
    history.apply(Dismiss(3, "refuse"))
    assert list(ledger.gone) == [1, 3]


def test_the_same_file_again_does_not_bring_a_dismissed_consumer_back():
    history = History()
    history.define(route("/x"), consumer("c"))
    file = history.commands[-1]
    history.apply(Dismiss(1, "drop"))
    changes_nothing(history, file)
    assert not history.ledger.consumers


def test_i3_what_a_dismissed_consumer_had_not_had_holds_nothing_up():
    history, _ = with_messages()
    history.settle(2, (1, 8))
    assert history.ledger.lowest_watermark == 0
    history.apply(Dismiss(1, "drop"))
    assert history.ledger.lowest_watermark == 8
    history.apply(Dismiss(2, "drop"))
    assert history.ledger.lowest_watermark == history.ledger.beginning == 0


def test_letters_of_a_consumer_that_went_stay_and_those_that_waited_for_it_are_dead():
    history, _ = with_messages()
    ledger = history.ledger
    history.bury(1, 1, burial(2, "parked"))
    history.bury(2, 3)
    history.apply(Replay(1, (3,)))
    history.apply(Remember(1, 0, 0, 0, ()))
    history.apply(Dismiss(1, "drop"))
    assert {known.state for known in ledger.letters.values()} == {"dead"}
    assert ledger.dead_bytes(1) == 6
    assert ledger.remembered(1) is None
    history.apply(Replay(2, (2, 3)))
    assert ledger.letters_due(2, 0, 9) == [2, 3]
    old = ledger.log_time_us + 30 * 86_400_000_000
    assert ledger.expired(old, 9) == [1]


def test_a_letter_of_a_consumer_that_went_dies_again_where_it_is_replayed():
    history, _ = with_messages()
    history.bury(1, 1, 2)
    history.apply(Dismiss(1, "drop"))
    history.apply(Replay(2, (1,)))
    history.bury(1, 1, 2, 3, target=2)
    assert {number: known.state for number, known in history.ledger.letters.items()} == {
        2: "dead",
        3: "dead",
    }


def test_i7_of_many_that_went_the_oldest_without_letters_is_forgotten():
    history = History()
    history.define(route("/x"), consumer("c1"), consumer("c2"))
    history.accept(history.open(), 1)
    history.bury(1, 1)
    history.apply(Dismiss(1, "drop"))
    for number in range(2, GONE_MAX + 2):
        history.define(consumer(f"c{number + 1}"))
        history.apply(Dismiss(number, "drop"))
    assert list(history.ledger.gone) == [1, *range(3, GONE_MAX + 2)]
    history.apply(Purge("operator", (1,)))
    history.apply(Dismiss(GONE_MAX + 2, "drop"))
    assert list(history.ledger.gone) == list(range(3, GONE_MAX + 3))


# --- What leaders remember ------------------------------------------------------------------------


def test_the_newest_memory_of_a_consumer_is_kept():
    history, _ = with_messages()
    older = Remember(1, 2, 50, 7, (Trial(1, 0, 3, 5, 90), Trial(2, 0, 1, 5, 80)))
    newer = Remember(1, 0, 0, 9, (Trial(2, 0, 2, 5, 99),))
    history.apply(older)
    assert history.ledger.remembered(1) == older
    history.apply(newer)
    assert history.ledger.remembered(1) == newer
    assert history.ledger.remembered(2) is None
    changes_nothing(history, Remember(9, 0, 0, 0, ()))


def test_i7_memories_past_their_bound_are_kept_without_their_trials():
    memories = Memories(bytes_max=60_000)
    trials = tuple(Trial(n, 0, 1, 2**40, 2**40) for n in range(1, 2_000))
    for number in (1, 2):
        memories.keep(Remember(number, 1, 2, 3, trials))
    assert memories.of(1) == Remember(1, 1, 2, 3, trials)
    assert memories.of(2) == Remember(2, 1, 2, 3, ())
    memories.keep(Remember(1, 1, 2, 3, ()))
    memories.keep(Remember(2, 1, 2, 3, trials))
    assert memories.of(2) == Remember(2, 1, 2, 3, trials)


def test_memories_are_sections_made_when_they_came():
    history, _ = with_messages()
    before = len(history.ledger.capture()[0])
    history.apply(Remember(1, 1, 2, 3, tuple(Trial(n, 0, 1, 5, 9) for n in range(1, TRIALS_MAX))))
    head, *_, section = history.ledger.capture()
    assert len(head) < before + 50
    assert history.ledger.capture()[-1] is section


# --- Records --------------------------------------------------------------------------------------


def record(number: int, words: str = "w") -> Record:
    return Record(number, 1, number, "answer", 400, words, 1, 2, 3, 4, 5, bytes(32))


@pytest.mark.parametrize("seed", range(5))
def test_leaves_stay_few_whatever_comes_and_goes(seed):
    chance = random.Random(seed)
    records, model = Records(), {}
    last = 0
    for _ in range(120):
        if chance.random() < 0.5:
            more = [
                record(last + n, "w" * chance.randrange(9))
                for n in range(1, chance.randrange(2, 90))
            ]
            records.add(more)
            last = more[-1].number
            model |= {one.number: one for one in more}
        elif model:
            gone = sorted(chance.sample(sorted(model), chance.randrange(len(model) // 2 + 1)))
            records.remove(gone)
            for number in gone:
                del model[number]
        assert list(records.numbers()) == sorted(model)
        for after, limit in ((0, 999), (last // 2, 70), (last - 3, 9), (last, 9), (0, 0)):
            assert records.after(after, limit) == [n for n in sorted(model) if n > after][:limit]
        sizes = [len(leaf.numbers) for leaf in records._leaves]
        assert all(0 < size <= LEAF_MAX for size in sizes)
        assert all(a + b > JOINED_MAX for a, b in pairwise(sizes))
    assert all(records.get(number) == one for number, one in model.items())
    again = Records()
    assert list(again.restore(records.sections())) == [model[number] for number in sorted(model)]
    assert (again.digest(), again.count, again._bytes) == (
        records.digest(), records.count, records._bytes,
    )  # fmt: skip


def test_a_record_that_is_not_there_is_not_found():
    records = Records()
    assert records.get(1) is None
    records.add([record(2), record(4)])
    assert [number in records for number in range(6)] == [False, False, True, False, True, False]


def test_sections_that_are_not_joined_as_they_should_be_are_refused():
    one, other = Records(), Records()
    one.add([record(1)])
    other.add([record(2)])
    with pytest.raises(MalformedError):
        list(Records().restore([*one.sections(), *other.sections()]))


def test_a_letter_costs_less_than_500_bytes():
    """So that as many as there may be take about 100 MB (I7)."""
    count = 20 * LETTERS_MAX
    history, session = History(chunk_rows=4096), None
    history.define(route("/x"), consumer("c"))
    session = history.open()
    for _ in range(20):
        history.accept(session, *[1] * LETTERS_MAX)
    batches = [
        Bury(1, tuple(burial(n, words="w" * 100) for n in range(start, start + LETTERS_MAX)))
        for start in range(1, count, LETTERS_MAX)
    ]
    tracemalloc.start()
    try:
        for bury in batches:
            history.ledger.apply(history.ledger.applied_index + 1, 1, 2**50, bury)
            history.ledger.take_letter_changes()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(history.ledger.letters) == count
    assert grown < count * 500


def test_sections_of_letters_are_the_same_bytes_each_time():
    history, _ = with_messages(0)
    session = history.open(nonce=b"2" * 16)
    history.accept(session, *[1] * 300)
    history.bury(1, *range(1, 201))
    earlier = history.ledger.capture()
    history.bury(1, *range(201, 301))
    later = history.ledger.capture()
    assert [a is b for a, b in zip(earlier[-4:], later[-5:], strict=False)] == [True] * 3 + [False]
    restored = Ledger()
    restored.restore(later)
    assert restored.capture() == later
    assert restored.take_letter_changes() == ([], [])
