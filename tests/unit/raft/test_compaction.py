"""When a checkpoint is due, what may be released, and where the log is cut (I3, I7)."""

import pytest

from crowd.command import Release
from crowd.raft.checkpoints import Checkpoint
from crowd.raft.compaction import SIZE_FACTOR, Compaction, Pace
from tests.unit.raft.cluster import BRISK, Cluster


def checkpoint(index, *, tip=None, log_time_us=0, size_bytes=100):
    return Checkpoint(index, 1, index if tip is None else tip, log_time_us, size_bytes, b"d" * 32)


class Store:
    """What compaction asks of the checkpoints."""

    def __init__(self, *checkpoints):
        self.checkpoints, self.floor, self.busy, self.taken = checkpoints, None, False, []

    @property
    def newest(self):
        return self.checkpoints[-1] if self.checkpoints else None

    def poke(self):
        pass

    def take(self, head, entry, sections, *, durable, done):
        self.taken.append((head.index, durable))


class State:
    """What compaction asks of the ledger."""

    def __init__(self):
        self.applied_index, self.released_index, self.lowest_watermark = 100, 0, 0
        self.log_time_us, self.consumers, self.tip = 1_000_000, {1: None}, 100

    def capture(self):
        return (b"state",)


class Log:
    """What compaction asks of the journal."""

    first_index, durable_index = 1, 0

    def entry(self, index):
        return b"\x00command", index, 1


def compaction(*checkpoints, pace=Pace(10, 1000), retention_us=0):  # noqa: B008
    return Compaction(State(), Log(), Store(*checkpoints), pace=pace, retention_us=retention_us)


# --- When one is due ----------------------------------------------------------------------------


def test_a_checkpoint_is_due_after_so_many_entries():
    made = compaction()
    for _ in range(9):
        made.applied(1)
    assert not made.is_due
    made.applied(1)
    assert made.is_due


def test_a_checkpoint_is_due_after_so_many_bytes():
    made = compaction()
    made.applied(999)
    assert not made.is_due
    made.applied(1)
    assert made.is_due


def test_a_large_ledger_is_not_written_more_than_its_log():
    """The log grows by twice the last checkpoint's size first, whatever the pace."""
    made = compaction(checkpoint(50, size_bytes=5000))
    for _ in range(SIZE_FACTOR * 5000 // 100 - 1):
        made.applied(100)
        assert not made.is_due
    made.applied(100)
    assert made.is_due


def test_without_a_floor_checkpoints_are_due_at_once_until_one_can_become_it():
    """A damaged one is replaced soon, but a large ledger is not written without end."""
    for count, due in ((0, True), (1, True), (2, False), (3, False)):
        made = compaction(*(checkpoint(20 + n, size_bytes=5000) for n in range(count)))
        made._ledger.released_index = 10
        assert not made.is_due
        made.applied(1)
        assert made.is_due is due


def test_one_is_taken_at_a_time_and_then_it_is_counted_anew():
    made = compaction()
    made.applied(1000)
    made._store.busy = True
    made.look()
    assert made._store.taken == []
    made._store.busy = False
    made.look()
    made.look()
    ((index, durable),) = made._store.taken
    assert index == 100
    assert not durable()
    made._journal.durable_index = 100
    assert durable()


# --- What may be released -----------------------------------------------------------------------


def test_i3_nothing_is_released_that_a_consumer_needs():
    made = compaction(checkpoint(10, tip=20), checkpoint(30, tip=40), checkpoint(90, tip=95))
    for watermark, floor in ((0, None), (19, None), (20, 10), (39, 10), (40, 30), (95, 30)):
        made._ledger.lowest_watermark = watermark
        assert made.release() == (floor and Release(floor=floor))


def test_i3_nothing_is_released_before_its_retention_is_over():
    made = compaction(
        checkpoint(10, log_time_us=100), checkpoint(30, log_time_us=200), checkpoint(90),
        retention_us=1000,
    )  # fmt: skip
    made._ledger.lowest_watermark = 100
    for now_us, floor in ((1099, None), (1100, 10), (1199, 10), (1200, 30)):
        made._ledger.log_time_us = now_us
        assert made.release() == (floor and Release(floor=floor))


def test_what_was_released_is_not_proposed_again():
    made = compaction(checkpoint(10), checkpoint(30), checkpoint(90))
    made._ledger.lowest_watermark = 100
    made._ledger.released_index = 30
    assert made.release() is None


def test_i3_without_a_consumer_everything_is_kept():
    made = compaction(checkpoint(10), checkpoint(90))
    made._ledger.consumers = {}
    made._ledger.lowest_watermark = 100
    assert made.release() is None


def test_the_newest_checkpoint_is_never_the_floor():
    """Should it be damaged, an older one and the log bring the same ledger back."""
    made = compaction(checkpoint(10))
    made._ledger.lowest_watermark = 100
    assert made.release() is None


# --- In a cluster ---------------------------------------------------------------------------------


@pytest.fixture
def cluster():
    return Cluster(pace=BRISK).start().run(4)


def test_the_log_is_cut_behind_the_floor_on_every_node(cluster):
    cluster.compact()
    for engine in cluster.engines.values():
        floor = engine.store.floor.index
        assert 1 < engine.journal.first_index <= floor <= engine.ledger.released_index
    cluster.converge()


def test_i3_what_is_not_settled_keeps_the_log(cluster):
    cluster.fill(60).run(3)
    for engine in cluster.engines.values():
        assert engine.store.newest
        assert engine.journal.first_index == 1
    cluster.compact()


def test_i3_the_messages_that_are_needed_are_there_after_a_cut(cluster):
    cluster.compact()
    tip = cluster.engines["a"].ledger.tip
    cluster.fill(30, b"needed" * 100).run(3)
    for engine in cluster.engines.values():
        assert engine.journal.first_index > 1
        for position in range(tip + 1, engine.ledger.tip + 1):
            place = engine.ledger.place(position)
            assert engine.messages(place.index)[place.offset] == b"needed" * 100


def test_retention_keeps_what_is_settled():
    cluster = Cluster(pace=BRISK, retention_us=60_000_000).start().run(4)
    cluster.fill(30).settle().fill(30).settle().run(2)
    assert {journal.first_index for journal in cluster.journals.values()} == {1}
    # The first checkpoint becomes the floor then; one that is newer has to grow as old.
    cluster.run(60).fill(12).settle().run(60).compact()


def test_i7_the_log_and_the_ledger_stay_small_however_many_messages_pass(cluster):
    cluster.compact()
    for _ in range(8):
        cluster.fill(25).settle().run(1.5)
    for name, engine in cluster.engines.items():
        assert len(engine.journal) < 80
        assert engine.ledger.live_rows < 5000
        files = cluster.disks[name].names(f"/{name}")
        assert sum(file.endswith(".segment") for file in files) <= 4
        assert sum(file.endswith((".floor", ".checkpoint")) for file in files) <= 3


def test_i5_checkpoints_change_no_digest():
    """Members that take them at different times have one history."""
    cluster = Cluster()
    for name, pace in (("a", BRISK), ("b", Pace(17, 1 << 20)), ("c", Pace())):
        cluster.pace = pace
        cluster.start(name)
    cluster.run(4).fill(70).converge()
    taken = [{one.index for one in e.store.checkpoints} for e in cluster.engines.values()]
    assert taken[0] != taken[1] != taken[2] != taken[0]


def test_a_checkpoint_waits_for_the_log_that_it_covers(cluster):
    """A restart never finds a ledger that is ahead of its log."""
    slow = cluster.followers[0]
    engine = cluster.engines[slow]
    cluster.fill(30).run(1)
    before = engine.store.newest
    cluster.slow.add(slow)
    cluster.fill(40)
    for _ in range(50):
        cluster.run(0.01)
        cluster.writers[slow][1].finish()  # all but the log's own disk work
    assert engine.ledger.applied_index > engine.journal.durable_index
    assert engine.store.busy
    assert engine.store.newest == before
    cluster.slow.clear()
    cluster.run(1)
    assert engine.store.newest.index > before.index
    cluster.converge()
