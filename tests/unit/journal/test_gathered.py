"""What gathers for the next write, and what later cuts make of it."""

from __future__ import annotations

from crowd.raft.journal.appender import Batch
from crowd.raft.journal.gathered import BATCH_BYTES_MAX, Gathered
from crowd.raft.journal.shape import Cut, Kind


def gathered(first: int, last: int, size: int = 1) -> Gathered:
    made = Gathered()
    made.entries = [(bytes(size), index, 1) for index in range(first, last + 1)]
    made.size_bytes = size * len(made.entries)
    return made


def test_a_batch_is_all_that_gathered():
    """What fits one write goes in one write."""
    made = gathered(5, 9)
    batch = made.take(4)
    assert ([entry[1] for entry in batch.entries], batch.commit_index) == ([5, 6, 7, 8, 9], 4)
    assert not made
    assert made.size_bytes == 0


def test_a_batch_is_bounded():
    """More than one write should take is left for the next ones; one entry always goes."""
    size = BATCH_BYTES_MAX // 2
    made = gathered(1, 5, size)
    made.cut = Cut(Kind.CUT, 0)
    assert [len(made.take(0).entries) for _ in range(3)] == [2, 2, 1]
    assert made.size_bytes == 0
    made = gathered(1, 2, BATCH_BYTES_MAX + 1)
    assert [len(made.take(0).entries) for _ in range(2)] == [1, 1]


def test_a_cut_within_what_gathered_needs_no_record():
    """Entries that go before they were handed over leave no trace."""
    made = gathered(5, 9)
    made.cut_above(7)
    assert (made.cut, len(made.entries), made.size_bytes) == (None, 3, 3)
    made.cut_above(4)
    assert made.cut == Cut(Kind.CUT, 4)
    made.cut_above(6)
    assert made.cut == Cut(Kind.CUT, 4)
    made.cut_above(2)
    assert made.cut == Cut(Kind.CUT, 2)


def test_a_reset_outlives_a_cut():
    """A log that begins anew is cut within itself only."""
    made = Gathered()
    made.reset_to(50)
    made.entries = [(b"", 50, 1)]
    made.cut_above(49)
    assert made.cut == Cut(Kind.RESET, 50)


def test_what_is_put_back_keeps_its_order_and_the_deeper_cut():
    """An undone write goes first again, less what was cut off meanwhile."""
    cut, deeper, reset = Cut(Kind.CUT, 4), Cut(Kind.CUT, 2), Cut(Kind.RESET, 5)
    entries = [(b"x", index, 1) for index in (5, 6, 7)]
    for before, after, expected in (
        (None, None, None),
        (cut, None, cut),
        (None, cut, cut),
        (deeper, cut, deeper),
        (cut, deeper, deeper),
        (reset, cut, reset),
    ):
        made = gathered(7, 8)
        made.cut = after
        made.put_back(Batch(before, entries, 0), 6)
        assert [entry[1] for entry in made.entries] == [5, 6, 7, 8]
        assert made.size_bytes == 4
        assert made.cut == expected
    made = gathered(90, 91)
    made.cut = Cut(Kind.RESET, 90)
    made.put_back(Batch(None, entries, 0), 100)
    assert (made.cut, len(made.entries)) == (Cut(Kind.RESET, 90), 2)
