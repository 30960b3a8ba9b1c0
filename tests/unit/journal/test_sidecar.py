"""Index files: a start that reads little finds the log that one that reads all finds."""

from __future__ import annotations

import contextlib
import errno
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.errors import DamagedEntryError, DamagedError
from crowd.raft.journal.memory import open_memory
from crowd.raft.journal.offsets import LOADED_MAX
from crowd.raft.journal.recovery import recover
from crowd.raft.journal.sidecar import index_name
from tests.unit.journal.fakes import PowerCutError
from tests.unit.journal.rig import DIRECTORY, Rig
from tests.unit.journal.test_crash import OPERATIONS, History


def long_log(*, segments: int = 12) -> Rig:
    """Finished segments with index files, and one that is written to."""
    rig = Rig(segment_bytes=300, cache_bytes=0)
    while len(rig.segments()) < segments:
        rig.add(b"%d" % rig.journal.last_index * 9, term=1 + rig.journal.last_index // 10)
        rig.settle()
    return rig


def found_with(rig: Rig, checkpoint_index: int):
    memory_file, _ = open_memory(rig.system, DIRECTORY)
    return recover(rig.system, DIRECTORY, memory_file.memory, checkpoint_index)


def told(found) -> tuple:
    places = [(one.number, one.base, one.count, one.used_bytes) for one in found.places.segments]
    tail = found.tail
    return places, found.terms.runs, (tail.number, tail.salt, tail.used_bytes, tail.batch)


@settings(deadline=None, max_examples=300)
@given(st.lists(OPERATIONS, max_size=50), st.integers(0, 120), st.integers(0, 1 << 32))
def test_the_index_files_say_what_the_segments_say(operations, checkpoint_index, seed):
    """Whatever was added, cut, reset and dropped: places, terms and entries are the same."""
    rig = Rig(segment_bytes=200, cache_bytes=0)
    history = History(rig)
    for operation in operations:
        history.do(operation)
    rig.settle()
    rig.journal.onOneSecondTimer()
    rig.settle()
    rig.journal.close()
    for name in rig.indexes():
        if random.Random(seed).random() < 0.2:
            rig.system.remove(f"{DIRECTORY}/{name}")
    read, indexed = found_with(rig, 0), found_with(rig, checkpoint_index)
    assert told(read) == told(indexed)
    assert read.commit_index == indexed.commit_index
    journal = rig.open(checkpoint_index=checkpoint_index)
    assert list(journal[:]) == history.log
    assert [journal.term_at(entry[1]) for entry in history.log] == [e[2] for e in history.log]


def test_every_finished_segment_has_an_index_file():
    """The last one has none: it is still written to."""
    rig = long_log()
    numbers = range(1, len(rig.segments()))
    assert rig.indexes() == [index_name(number) for number in numbers]
    assert all(one.summary is None for one in rig.journal._holdings._places.segments[:-1])


def test_a_start_reads_only_what_its_checkpoint_does_not_cover():
    """Segments at or below the checkpoint cost a few reads, whatever their size."""
    rig = long_log()
    model = rig.log
    rig.journal.close()
    rig.system.log.clear()
    rig.open()
    reads = rig.system.log.count("read")
    assert rig.log == model
    rig.system.kill()
    last = model[-1][1]
    assert found_with(rig, last).unread == len(rig.segments()) - 1
    assert found_with(rig, 0).unread == 0
    assert 3 < found_with(rig, last // 2).unread < len(rig.segments()) - 3
    rig.system.log.clear()
    rig.open(checkpoint_index=last)
    assert rig.system.log.count("read") < reads / 2
    assert rig.log == model
    rig.add(b"next", term=9)
    rig.write()
    assert rig.kill_and_open().last_index == last + 1


def test_the_commit_index_is_in_the_index_files():
    """A start that reads nothing of old segments begins no earlier than one that reads all."""
    rig = Rig(segment_bytes=300)
    rig.add(*(bytes(20) for _ in range(5)))
    rig.write()
    rig.journal.setRaftCommitIndex(6)
    rig.add(bytes(250))
    rig.settle()
    rig.system.kill()
    assert found_with(rig, 7).commit_index == found_with(rig, 0).commit_index == 6


@pytest.mark.parametrize("what", ["missing", "flipped", "shortened", "another's"])
def test_a_start_makes_a_bad_index_file_anew(what):
    """It only means that the segment is read."""
    rig = long_log(segments=4)
    model = rig.log
    name, other = rig.indexes()[:2]
    whole = bytes(rig.inode(name).seen)
    if what == "missing":
        rig.system.remove(f"{DIRECTORY}/{name}")
    elif what == "flipped":
        rig.flip(name, 8 * 40)
    elif what == "shortened":
        del rig.inode(name).seen[-4:], rig.inode(name).disk[-4:]
    else:
        rig.damage(name, 0, bytes(rig.inode(other).seen))
    rig.kill_and_open(checkpoint_index=model[-1][1])
    assert rig.log == model
    rig.settle()
    assert bytes(rig.inode(name).disk) == whole
    assert rig.log == model


def test_a_bad_index_file_is_noticed_when_it_is_used():
    """Offsets that rotted after the start come from the segment, and the file is made anew."""
    rig = long_log(segments=4)
    model = rig.log
    rig.kill_and_open(checkpoint_index=model[-1][1])
    name = rig.indexes()[1]
    whole = bytes(rig.inode(name).seen)
    rig.flip(name, 8 * (len(whole) - 1))
    assert rig.log == model
    rig.settle()
    assert bytes(rig.inode(name).disk) == whole
    rig.kill_and_open(checkpoint_index=model[-1][1])
    rig.flip(name, 8 * (len(whole) - 1))
    rig.flip(rig.segments()[1], 8 * 150)
    index = rig.journal._holdings._places.segments[1].base
    with pytest.raises(DamagedEntryError, match=rig.segments()[1]) as raised:
        rig.journal.entry(index)
    assert raised.value.index == index
    reported = []
    rig.journal.repair(model[index - 1], reported.append)
    rig.write()
    assert reported == [False], "two flaws at once"
    rig.journal.scrub(reported.append)
    rig.settle()
    rig.journal.scrub(reported.append)
    rig.settle()
    assert rig.segments()[1] in reported[-1].flaws[0].place


def test_anothers_index_file_is_not_used():
    """A whole one of another segment, put there while the node runs, is told by its header."""
    rig = long_log(segments=5)
    model = rig.log
    rig.kill_and_open(checkpoint_index=model[-1][1])
    name, other = rig.indexes()[1:3]
    whole = bytes(rig.inode(name).seen)
    rig.system.remove(f"{DIRECTORY}/{name}")
    rig.system.open(f"{DIRECTORY}/{name}", create=True).write(bytes(rig.inode(other).seen), 0)
    assert rig.log == model
    rig.settle()
    assert bytes(rig.inode(name).disk) == whole


def test_a_segment_that_lost_its_end_below_the_checkpoint_can_be_mended():
    """It is damage like any other there: found when it is read, and the node starts."""
    rig = long_log(segments=4)
    model = rig.log
    name, segment = rig.segments()[1], rig.journal._holdings._places.segments[1]
    inode = rig.inode(name)
    del inode.seen[200:], inode.disk[200:]
    rig.kill_and_open(checkpoint_index=model[-1][1])
    bad = []
    for entry in model:
        with contextlib.suppress(DamagedEntryError):
            assert rig.journal.entry(entry[1]) == entry
            continue
        bad.append(entry)
    assert bad[-1][1] == segment.last_index
    done = []
    for entry in bad:
        rig.journal.repair(entry, done.append)
    rig.settle()
    assert all(done)
    assert rig.log == model


def test_a_bad_segment_header_is_mended_from_the_index_file():
    """A segment's first bytes stand in its index file as well."""
    rig = long_log(segments=4)
    model, name = rig.log, rig.segments()[1]
    whole = bytes(rig.inode(name).seen)
    rig.flip(name, 8 * 13)
    rig.kill_and_open()
    assert rig.log == model
    assert bytes(rig.inode(name).disk) == whole
    rig.flip(name, 8 * 13)
    rig.system.remove(f"{DIRECTORY}/{rig.indexes()[1]}")
    with pytest.raises(DamagedError, match=name):
        rig.kill_and_open()


def test_index_files_go_with_their_segments():
    """Also one whose making was under way, and one that a crash brought back."""
    rig = Rig(segment_bytes=200, cache_bytes=0)
    for _ in range(6):
        rig.add(bytes(100))
        rig.write()
    assert rig.background.waiting
    rig.journal.deleteEntriesTo(4)
    rig.settle()
    numbers = [int(name[:16]) for name in rig.segments()]
    assert rig.indexes() == [index_name(number) for number in numbers[:-1]]
    for number in (1, numbers[-1], numbers[-1] + 1):
        rig.system.open(f"{DIRECTORY}/{index_name(number)}", create=True)
    rig.kill_and_open()
    assert rig.indexes() == [index_name(number) for number in numbers[:-1]]


def test_no_space_for_an_index_file_is_waited_for():
    """Its segment's offsets stay in memory until there is room."""
    rig = Rig(segment_bytes=400, cache_bytes=0)
    rig.add(bytes(200))
    rig.settle()
    rig.add(bytes(200))
    rig.write()
    rig.system.fail("write", errno.ENOSPC)
    rig.settle()
    assert (rig.indexes(), rig.fatal) == ([], [])
    rig.journal.onOneSecondTimer()
    rig.settle()
    assert len(rig.indexes()) == 1
    assert not [name for name in rig.system.names(DIRECTORY) if name.endswith("index.new")]
    assert [len(entry[0]) for entry in rig.log] == [1, 200, 200]


def test_i8_a_failed_sync_of_an_index_file_is_the_end():
    """I8: a disk that fails there fails."""
    rig = Rig(segment_bytes=300)
    rig.add(bytes(200))
    rig.settle()
    rig.add(bytes(200))
    rig.write()
    rig.system.fail("sync", errno.EIO)
    rig.settle()
    assert len(rig.fatal) == 1


def test_i7_a_backlog_costs_no_memory():
    """I7: offsets of old segments are read when asked for, and few are kept."""
    rig = Rig(segment_bytes=1 << 16, cache_bytes=1 << 14)

    def add(count: int) -> None:
        rig.system.log.clear()
        for number in range(count):
            rig.add(b"x")
            if number % 500 == 0:
                rig.settle()
        rig.settle()
        rig.system.log.clear()
        rig.told.clear()

    def disk() -> int:
        return sum(len(inode.seen) + len(inode.disk) for inode in rig.system.inodes.values())

    add(30_000)
    before = disk()
    tracemalloc.start()
    add(60_000)
    size, _ = tracemalloc.get_traced_memory()
    assert (
        size - (disk() - before)
    ) / 60_000 < 3  # of it the bounded store: all offsets would be 4
    for index in range(2, 90_000, 1500):
        assert rig.journal.entry(index) == (b"x", index, 1)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (
        size - (disk() - before)
    ) / 60_000 < 3  # of it the bounded store: all offsets would be 4
    assert len(rig.journal._holdings._reader._offsets._loaded) == LOADED_MAX


@pytest.mark.parametrize("cut", range(0, 90, 3))
def test_a_crash_while_index_files_are_made_and_removed(cut):
    """Wherever the power goes, the next start finds the log, and index files that say so."""
    for seed in range(12):
        rig = Rig(segment_bytes=250, cache_bytes=0)
        durable = [rig.log[0]]
        rig.system.steps_left = cut
        first = 1
        with contextlib.suppress(PowerCutError):
            for number in range(9):
                rig.add(b"entry %d" % number * 5)
                rig.write()
                durable = rig.log
                first = rig.journal.first_index
                rig.background.finish()
                if number % 4 == 3:
                    rig.journal.deleteEntriesTo(3)
                    first = rig.journal.first_index
                    rig.settle()
        rig.system.crash(random.Random(seed))
        chance = random.Random(seed)
        rig.open(checkpoint_index=chance.choice([0, first, 100]))
        kept = [entry for entry in durable if entry[1] >= first]
        assert [entry for entry in rig.log if entry[1] >= first][: len(kept)] == kept
        model = rig.log
        rig.settle()
        assert rig.indexes() == [name.replace("segment", "index") for name in rig.segments()[:-1]]
        rig.kill_and_open(checkpoint_index=100)
        assert rig.log == model


@pytest.mark.parametrize("cut", range(40))
def test_d5_a_crash_while_a_log_begins_anew_leaves_the_old_or_the_new(cut):
    """D5: an installed snapshot's beginning replaces the log in one step; old files then go."""
    for seed in range(10):
        rig = Rig(segment_bytes=250, cache_bytes=0)
        for number in range(9):
            rig.add(b"entry %d" % number * 5)
            rig.settle()
        old = rig.log
        new = [(b"snapshot", 500, 7)]
        rig.system.steps_left = cut
        durable = dropped = False
        with contextlib.suppress(PowerCutError):
            rig.journal.clear()
            rig.journal.add(*new[0])
            rig.settle()
            durable = rig.journal.durable_index == 500
            rig.journal.deleteEntriesTo(0)
            rig.settle()
            dropped = True
        rig.system.crash(random.Random(seed))
        rig.open(checkpoint_index=random.Random(seed).choice([0, 5, 500]))
        assert rig.log == new or (rig.log == old and not durable)
        if dropped:
            assert len(rig.segments()) == 1
            assert rig.indexes() == []
        rig.add(b"next", term=8)
        rig.settle()
        model = rig.log
        rig.kill_and_open(checkpoint_index=500)
        assert rig.log == model
