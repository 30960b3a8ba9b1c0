"""Damage in old segments: found by reads and by the scrub, mended in place."""

from __future__ import annotations

import contextlib
import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.errors import DamagedEntryError, DamagedError, StorageFailedError
from crowd.raft.journal.recovery import batches
from crowd.raft.journal.scrub import PIECE_BYTES
from crowd.raft.journal.shape import SEGMENT_HEADER_BYTES
from tests.unit.journal.fakes import PowerCutError
from tests.unit.journal.rig import DIRECTORY, Rig


def old_log() -> tuple[Rig, list]:
    """Segments of several batches, some with cuts and confirmations in them."""
    rig = Rig(segment_bytes=700, cache_bytes=0)
    for number in range(14):
        rig.add(*(b"%d/%d" % (number, place) * 5 for place in range(3)), term=1 + number)
        rig.settle()
        if number % 5 == 2:
            rig.journal.onOneSecondTimer()
            rig.settle()
        if number % 5 == 3:
            rig.journal.deleteEntriesFrom(len(rig.journal) - 2)
    for _ in range(2):  # a cut first, then that all is durable
        rig.journal.onOneSecondTimer()
        rig.settle()
    return rig, rig.log


def scrub(rig: Rig, *, passes: int = 1) -> list:
    """Scrub so many times through everything; return the flaws."""
    flaws, reported = [], []
    counters = rig.journal.upkeep_counters
    until = counters.passes + passes
    for _ in range(1000):
        rig.journal.scrub(reported.append)
        rig.settle()
        flaws += reported[-1].flaws
        if counters.passes >= until:
            return flaws
    raise AssertionError("the scrub does not come round")


def mend(rig: Rig, entry: tuple) -> bool:
    done: list[bool] = []
    rig.journal.repair(entry, done.append)
    assert done == [], "never from within"
    rig.settle()
    return done[0]


def layout(rig: Rig, name: str) -> list:
    file = rig.system.open(f"{DIRECTORY}/{name}")
    header = next(s for s in rig.journal._holdings._places.segments if s.name == name).header
    return list(batches(file, header.salt, header.first_batch))


def test_a_scrub_of_a_good_log_finds_nothing_and_goes_round():
    """All finished segments are read, again and again, and counted."""
    rig, model = old_log()
    assert scrub(rig, passes=2) == []
    counters = rig.journal.upkeep_counters
    finished = rig.journal._holdings._places.segments[:-1]
    size_bytes = sum(one.used_bytes - SEGMENT_HEADER_BYTES for one in finished)
    assert 2 * size_bytes <= counters.scrubbed_bytes < 3 * size_bytes
    assert (counters.flaws, counters.mended) == (0, 0)
    assert rig.log == model


def test_i7_a_segment_that_was_dropped_is_open_nowhere():
    """Its room comes back with its last open file; the scrub was in the middle of it."""
    rig = Rig(segment_bytes=4 * PIECE_BYTES, cache_bytes=0)
    while len(rig.segments()) < 2:
        rig.add(b"x" * (PIECE_BYTES // 2))
        rig.settle()
    rig.journal.entry(1)
    rig.journal.scrub(lambda _: None)
    rig.settle()
    assert len(rig.system.open_files) > 2
    rig.journal.deleteEntriesTo(len(rig.journal))
    rig.settle()
    assert len(rig.segments()) == 1
    assert not [file for file in rig.system.open_files if file.is_removed]


def test_nothing_to_scrub():
    """A log of one segment has no finished one; the caller hears so in the next turn."""
    rig = Rig()
    reported = []
    rig.journal.scrub(reported.append)
    assert reported == []
    rig.settle()
    assert [one.read_bytes for one in reported] == [0]


def test_a_piece_is_bounded_and_a_long_record_is_read_whole():
    """However long a segment is, one call reads about a piece."""
    rig = Rig(segment_bytes=4 * PIECE_BYTES, cache_bytes=0)
    rig.add(*(bytes(1000) for _ in range(1100)), bytes(2 * PIECE_BYTES))
    rig.write()
    rig.add(bytes(3 * PIECE_BYTES))
    rig.settle()
    sizes, reported = [], []
    while not rig.journal.upkeep_counters.passes:
        rig.journal.scrub(reported.append)
        rig.settle()
        assert reported[-1].flaws == ()
        sizes.append(reported[-1].read_bytes)
    assert sizes[1:3] == [PIECE_BYTES, PIECE_BYTES]
    assert max(sizes) <= 2 * PIECE_BYTES + 4000


def test_every_flaw_of_a_finished_segment_is_found_and_mended():
    """One flipped bit anywhere: the scrub names the entries, or mends by itself; then all is as it was."""
    rig, model = old_log()
    by_index = {entry[1]: entry for entry in model}
    name = rig.segments()[1]
    segment = rig.journal._holdings._places.segments[1]
    whole = bytes(rig.inode(name).seen)
    dead = set()
    for batch in layout(rig, name):
        for kind, index, term, start in batch.records:
            if kind != 1 or by_index.get(index, (b"", 0, -1))[2] != term:
                dead.add(start)
    for bit in random.Random(1).sample(range(8 * segment.used_bytes), 700):
        rig.flip(name, bit)
        flaws = scrub(rig)
        damaged = [index for one in flaws for index in range(one.first_index, one.last_index + 1)]
        if flaws and not damaged:
            assert max(start for start in dead if start <= bit // 8)
            rig.damage(name, 0, whole)
        else:
            for index in damaged:
                with pytest.raises(DamagedEntryError):
                    rig.journal.entry(index)
                assert not mend(rig, (b"x" + by_index[index][0], index, by_index[index][2]))
                assert not mend(rig, (*by_index[index][:2], by_index[index][2] + 1))
                assert mend(rig, by_index[index])
            assert len(damaged) <= 1
            assert scrub(rig) == []
            if bytes(rig.inode(name).disk) != whole:  # a batch header has another commit index
                rig.damage(name, 0, whole)
                assert not damaged
        assert rig.log == model
    rig.kill_and_open()
    assert rig.log == model
    assert rig.journal.upkeep_counters.flaws == 0


def test_a_bad_header_is_mended_beside_a_bad_entry():
    """Flaws in different batches do not stand in each other's way."""
    rig, model = old_log()
    name = rig.segments()[1]
    whole = bytes(rig.inode(name).seen)
    first, second, third = layout(rig, name)[:3]
    entry_start, index = first.records[0][3], first.records[0][1]
    rig.flip(name, 8 * (entry_start + 30))
    rig.flip(name, 8 * (third.start + 20))
    (flaw,) = scrub(rig)
    assert (flaw.first_index, flaw.last_index) == (index, index)
    assert mend(rig, model[flaw.first_index - 1])
    there = bytes(rig.inode(name).seen)
    assert there[: third.start] == whole[: third.start]
    assert there[third.start + 32 :] == whole[third.start + 32 :]
    rig.flip(name, 8 * (second.start + 20))
    rig.flip(name, 8 * (third.start + 20))
    assert scrub(rig) == scrub(rig) == []
    rig.kill_and_open()
    assert rig.log == model


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(60, 760), st.binary(max_size=90)), max_size=4)
)
def test_any_damage_is_walked_past(places):
    """Fuzz: the scrub of any bytes ends, and what it does not name reads as it was."""
    rig, model = old_log()
    names = rig.segments()[:-1]
    for place, offset, data in places:
        name = names[place % len(names)]
        if offset < len(rig.inode(name).seen):
            rig.damage(name, offset, data[: len(rig.inode(name).seen) - offset])
    flaws = scrub(rig)
    named = {index for one in flaws for index in range(one.first_index, one.last_index + 1)}
    for entry in model:
        try:
            assert rig.journal.entry(entry[1]) == entry
        except DamagedEntryError:
            assert entry[1] in named
    for index in named:
        mend(rig, model[index - 1])
    scrub(rig)
    for entry in model:
        with contextlib.suppress(DamagedEntryError):  # two flaws side by side
            assert rig.journal.entry(entry[1]) == entry


def test_a_lost_end_of_a_file_is_found_and_mended():
    """A segment that is shorter than it was has lost the entries there."""
    rig, model = old_log()
    name = rig.segments()[0]
    segment = rig.journal._holdings._places.segments[0]
    del rig.inode(name).seen[300:], rig.inode(name).disk[300:]
    flaws = scrub(rig)
    named = [index for one in flaws for index in range(one.first_index, one.last_index + 1)]
    assert named[-1] == segment.last_index
    assert all(mend(rig, model[index - 1]) for index in named)
    assert [one.last_index - one.first_index for one in scrub(rig)] == []
    assert rig.log == model
    rig.kill_and_open()
    assert rig.log == model


@pytest.mark.parametrize("size_bytes", [64, 128, 400])
def test_a_bad_sector_is_mended_whatever_lay_there(size_bytes):
    """Records and headers, of several batches, that went together."""
    rig = Rig(segment_bytes=2000, cache_bytes=0)
    for number in range(40):
        rig.add(*(b"%d" % number * 9 for _ in range(1 + number % 3)))
        rig.settle()
    model = rig.log
    name = rig.segments()[1]
    segment = rig.journal._holdings._places.segments[1]
    whole = bytes(rig.inode(name).seen)
    for start in range(0, segment.used_bytes - size_bytes, 41):
        rig.damage(name, start, b"\xee" * size_bytes)
        flaws = scrub(rig)
        named = [index for one in flaws for index in range(one.first_index, one.last_index + 1)]
        assert all(mend(rig, model[index - 1]) for index in named)
        assert rig.log == model
        scrub(rig)
        assert scrub(rig) == []
        rig.kill_and_open()
        assert rig.log == model
        rig.settle()
        rig.damage(name, 0, whole)


def test_entries_end_before_a_damaged_one():
    """What is good is handed out; the damaged one is an error of its own, with its index."""
    rig, model = old_log()
    name, segment = rig.segments()[1], rig.journal._holdings._places.segments[1]
    index = segment.base + 4
    rig.flip(name, 8 * rig.journal._holdings._reader.place(index)[1] + 8 * 30)
    assert rig.journal.entries(2, 10**6) == model[1 : index - 1]
    assert rig.journal.entries(index - 1, 10**6) == [model[index - 2]]
    with pytest.raises(DamagedEntryError) as raised:
        rig.journal.entries(index, 10**6)
    assert (raised.value.index, name in raised.value.place) == (index, True)
    assert rig.journal.entries(index + 1, 10**6) == model[index:]
    assert mend(rig, model[index - 1])
    assert rig.journal.entries(2, 10**6) == model[1:]


def test_only_a_durable_entry_of_the_log_is_written_again():
    """Not one that was cut off, never was, or is gathering; and never in the last batch."""
    rig, model = old_log()
    last = model[-1]
    assert mend(rig, last), "a confirmation follows"
    assert not mend(rig, (b"", last[1] + 1, last[2]))
    assert not mend(rig, (b"", 0, 0))
    rig.add(b"last", term=50)
    rig.write()
    assert not mend(rig, rig.log[-1])
    rig.add(b"later", term=50)
    rig.write()
    assert mend(rig, rig.log[-2])
    rig.journal.deleteEntriesFrom(len(rig.journal) - 1)
    assert not mend(rig, (b"later", rig.journal.last_index + 1, 50))
    rig.kill_and_open()
    assert mend(rig, rig.log[-1]), "the cut followed"
    rig.add(b"more", term=50)
    rig.write()
    rig.kill_and_open()
    assert not mend(rig, rig.log[-1])
    assert mend(rig, rig.log[-2])


def test_an_entry_is_not_written_over_the_one_that_it_replaces():
    """What is cut off in memory may stand on the disk still, where its cut comes later."""
    rig, _ = old_log()
    rig.add(b"first", term=50)
    rig.write()
    rig.journal.onOneSecondTimer()
    rig.write()
    before = rig.log
    rig.journal.deleteEntriesFrom(len(before) - 1)
    rig.add(b"again", term=51)
    done = []
    rig.journal.repair((b"again", len(before), 51), done.append)
    if rig.writer.waiting:
        rig.writer.work()
    assert rig.kill_and_open().last_term == 50
    assert rig.log == before


def test_segments_that_go_meanwhile_are_no_error():
    """A scrub or a repair that comes too late has nothing to do."""
    rig, model = old_log()
    reported = []
    rig.journal.scrub(reported.append)
    rig.journal.repair(model[5], reported.append)
    for name in rig.segments()[:3]:
        rig.system.remove(f"{DIRECTORY}/{name}")
    rig.settle()
    assert False in reported
    assert [one.flaws for one in reported if one is not False] == [()]
    rig.journal.deleteEntriesTo(20)
    rig.journal.scrub(reported.append)
    rig.settle()
    assert rig.journal.entry(rig.journal.last_index) == model[-1]


def test_a_bad_index_file_is_found_by_the_scrub():
    """It is made anew from its segment."""
    rig, model = old_log()
    name = rig.indexes()[1]
    whole = bytes(rig.inode(name).disk)
    rig.flip(name, 8 * 100)
    assert scrub(rig) == []
    assert bytes(rig.inode(name).disk) == whole
    counters = rig.journal.upkeep_counters
    assert (counters.flaws, counters.mended) == (1, 1)
    assert rig.log == model


@pytest.mark.parametrize("step", ["write", "sync"])
def test_i8_a_disk_that_fails_while_it_is_mended_is_the_end(step):
    """I8: as everywhere; a full one is not."""
    rig, model = old_log()
    rig.flip(rig.segments()[0], 8 * 160)
    rig.system.fail(step, errno.ENOSPC if step == "write" else errno.EIO)
    reported = []
    rig.journal.repair(model[1], reported.append)
    rig.settle()
    assert reported == ([False] if step == "write" else [])
    assert [type(error) for error in rig.fatal] == [StorageFailedError] * (step == "sync")


def test_i8_a_disk_that_cannot_be_read_ends_the_scrub():
    """I8: an error of the disk is told."""
    rig, _ = old_log()
    rig.system.fail("read", errno.EIO)
    rig.journal.scrub(lambda _: None)
    rig.settle()
    assert len(rig.fatal) == 1


@pytest.mark.parametrize("cut", range(6))
@pytest.mark.parametrize("part", ["record", "header"])
def test_a_crash_while_an_entry_is_mended(part, cut):
    """The place is bad still, or good: nothing else changes, and it can be mended again."""
    for seed in range(25):
        rig, model = old_log()
        name = rig.segments()[1]
        batch = layout(rig, name)[1]
        at = batch.start if part == "header" else batch.records[-1][3]
        whole = bytes(rig.inode(name).seen)
        rig.flip(name, 8 * at + 9 * 8)
        rig.system.steps_left = cut
        mended = False
        with contextlib.suppress(PowerCutError):
            if part == "header":
                scrub(rig)
                mended = rig.journal.upkeep_counters.mended == 1
            else:
                mended = mend(rig, model[batch.records[-1][1] - 1])
        rig.system.crash(random.Random(seed))
        rig.open(checkpoint_index=model[-1][1])
        size = batch.records[-1][3] + 80 - at
        there = bytes(rig.inode(name).disk)
        assert (there[:at], there[at + size :]) == (whole[:at], whole[at + size :])
        flaws = scrub(rig)
        assert not (mended and (flaws or rig.journal.upkeep_counters.flaws)), "it was durable"
        for flaw in flaws:
            assert mend(rig, model[flaw.first_index - 1])
        assert scrub(rig) == []
        assert rig.log == model
        rig.kill_and_open()
        assert rig.log == model


CHECKED = {"identical": 0, "refused": 0, "mended": 0, "torn": 0}


@pytest.mark.parametrize("part", range(4))
def test_d9_no_flipped_bit_is_ever_returned_as_good(part):
    """D9: in any file, at any place, with a checkpoint or none, over 1 600 placements."""
    rig, model = old_log()
    rig.journal.setCurrentTerm(99, "b")
    rig.journal.remember(b"roster", lambda: None)
    rig.settle()
    files = {name: bytes(rig.inode(name).seen) for name in [*rig.segments(), *rig.indexes()]}
    files["memory"] = bytes(rig.inode("memory").seen)
    chance = random.Random(part)
    for number in range(400):
        for name in rig.system.names(DIRECTORY):
            rig.system.inodes.pop(f"{DIRECTORY}/{name}")
        for name, content in files.items():
            rig.system.open(f"{DIRECTORY}/{name}", create=True).write(content, 0)
            rig.damage(name, 0, b"")
        rig.system.sync_directory(DIRECTORY)
        name = sorted(files)[number % len(files)]
        used = len(files[name].rstrip(b"\0"))
        rig.flip(name, chance.randrange(8 * used))
        checkpoint_index = chance.choice([0, model[len(model) // 2][1], model[-1][1]])
        try:
            rig.kill_and_open(checkpoint_index=checkpoint_index)
        except DamagedError as error:
            CHECKED["refused"] += 1
            assert name in error.place
            assert checkpoint_index < model[-1][1] or name == rig.segments()[-1]
            continue
        journal = rig.journal
        assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (99, "b")
        assert journal.founding == b"roster"
        if journal.last_index != model[-1][1]:
            CHECKED["torn"] += 1
            assert name == rig.segments()[-1]
            assert rig.log == model[: len(rig.log)]
            continue
        bad = set()
        for entry in model:
            try:
                assert journal.entry(entry[1]) == entry
            except DamagedEntryError as error:
                assert error.index == entry[1]
                bad.add(error.index)
        found = {
            index for one in scrub(rig) for index in range(one.first_index, one.last_index + 1)
        }
        assert bad == found
        assert all(mend(rig, model[index - 1]) for index in bad)
        assert rig.log == model
        CHECKED["mended" if bad else "identical"] += 1
