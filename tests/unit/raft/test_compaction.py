"""When a checkpoint is due, what may be released, and where the log is cut (I3, I7)."""

import pytest

from crowd.command import Release
from crowd.raft.checkpoints import Checkpoint
from crowd.raft.compaction import (
    AGAIN_S,
    NUDGE_S,
    ROUNDS_MAX,
    SIZE_FACTOR,
    STILL_S,
    Compaction,
    Pace,
)
from crowd.raft.seams import Space
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
        self.beginning = 0

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


# --- On a disk that is short ----------------------------------------------------------------------


def test_on_a_short_disk_checkpoints_come_until_every_node_has_one_that_is_released():
    """What a leader released first may be older than a follower's checkpoint, or it came later."""
    made = compaction(checkpoint(90, tip=100), checkpoint(95, tip=100))
    ledger, store = made._ledger, made._store
    ledger.lowest_watermark = ledger.tip

    def is_owed(now_s, *, short=True):
        made.mind(now_s, short=short)
        made._grown_entries, made._nudged_s = 1, now_s - NUDGE_S
        due = made.is_due
        made._grown_entries = 0
        assert (made.nudge() is not None) is due
        return due

    assert not is_owed(0.0), "a message has just come"
    assert is_owed(STILL_S)
    assert not is_owed(STILL_S, short=False)
    store.floor, ledger.released_index = checkpoint(90, tip=99), 90
    assert is_owed(6.0)
    store.floor = checkpoint(90, tip=100)
    assert is_owed(7.0), "others may have theirs at an entry up to this one"
    ledger.released_index = 100
    assert not is_owed(8.0)
    for number in range(1, ROUNDS_MAX + 2):
        ledger.applied_index = 100 + number
        now_s = 7.0 + number * AGAIN_S
        assert not is_owed(now_s - 1.0)
        assert is_owed(now_s) is (number <= ROUNDS_MAX)
        ledger.released_index = ledger.applied_index
        assert not is_owed(now_s + 1.0)


SHORT = Space(1 << 20, 200 << 30)


def short_cluster(**more):
    """A cluster whose disks have no more room, and whose logs have grown too little to be cut."""
    cluster = Cluster(**more).start().run(4)
    cluster.fill(60).run(1)
    cluster.space = SHORT
    return cluster


def is_cut(engine):
    """Whether all is released, and every segment gone that holds nothing else."""
    ledger = engine.ledger
    return (
        ledger.beginning == ledger.tip and engine.journal.first_index > ledger.released_index - 20
    )


def test_i7_on_a_short_disk_the_log_is_cut_once_all_is_settled():
    """The door is closed there and the log does not grow: nothing else would ever make room."""
    cluster = short_cluster()
    cluster.run(30)
    assert {journal.first_index for journal in cluster.journals.values()} == {1}
    cluster.settle().run(30)
    for engine in cluster.engines.values():
        assert is_cut(engine)
        assert engine.store.floor.tip == engine.ledger.tip
    last_index = cluster.run(90).journals["a"].last_index
    cluster.run(120)
    assert cluster.journals["a"].last_index == last_index, "and then it is quiet"
    cluster.converge()


def test_i7_a_restart_on_a_short_disk_goes_on_with_it():
    cluster = short_cluster()
    cluster.settle().crash("a", "b", "c")
    cluster.start().run(40)
    assert all(map(is_cut, cluster.engines.values()))
    last_index = cluster.run(90).journals["a"].last_index
    cluster.run(120)
    assert cluster.journals["a"].last_index == last_index


def test_on_a_short_disk_what_is_retained_stays_until_its_time():
    """The log's time moves with entries alone: one comes now and then."""
    cluster = short_cluster(retention_us=60_000_000)
    cluster.settle().run(40)
    assert {journal.first_index for journal in cluster.journals.values()} == {1}
    assert cluster.journals["a"].last_index < 60 + 30
    cluster.run(120)
    assert all(map(is_cut, cluster.engines.values()))


def test_a_disk_with_room_is_cut_as_the_log_grows_alone():
    cluster = short_cluster()
    cluster.space = Space(100 << 30, 200 << 30)
    last_index = cluster.settle().run(1).journals["a"].last_index
    cluster.run(60)
    assert cluster.journals["a"].last_index == last_index
    assert not any(engine.store.checkpoints for engine in cluster.engines.values())


def test_while_messages_come_a_short_disk_is_cut_as_the_log_grows_alone():
    """A member whose own disk is short takes no checkpoint with each of them."""
    cluster = short_cluster().settle()
    for _ in range(20):
        cluster.space = Space(100 << 30, 200 << 30)
        cluster.run(1).fill(1)
        cluster.space = SHORT
        cluster.run(1).settle()
    assert not any(engine.store.checkpoints for engine in cluster.engines.values())
