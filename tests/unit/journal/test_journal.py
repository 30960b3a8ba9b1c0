"""The journal as pysyncobj and the engine use it."""

from __future__ import annotations

import errno
import random
import tracemalloc

import pytest

from crowd.errors import DirectoryError, StorageFailedError
from crowd.raft.journal.spare import BULK_BYTES, PIECE_BYTES
from tests.unit.journal.fakes import PowerCutError
from tests.unit.journal.rig import DIRECTORY, Rig

NO_OP = (b"\x01", 1, 0)


def test_a_new_journal_holds_pysyncobjs_first_entry():
    """A new log begins as pysyncobj would begin it, and that entry is durable."""
    rig = Rig()
    assert rig.log == [NO_OP]
    assert rig.journal.durable_index == rig.journal.last_index == rig.journal.first_index == 1
    assert rig.journal.getRaftCommitIndex() == 1
    assert (rig.journal.getCurrentTerm(), rig.journal.getVotedForNodeId()) == (0, None)


def test_entries_are_read_as_pysyncobj_reads_them():
    """Places from the front and the back, slices, and the length agree with a list."""
    rig = Rig(segment_bytes=300, cache_bytes=600)
    rig.add(*(b"%d" % n * 10 for n in range(40)), term=3)
    rig.write()
    model = [NO_OP, *((b"%d" % n * 10, n + 2, 3) for n in range(40))]
    journal = rig.journal
    assert len(journal) == 41
    for place in range(-41, 41):
        assert journal[place] == model[place]
    for start, stop in ((0, 41), (3, 9), (-5, None), (None, 2), (39, 60), (7, 3)):
        view = journal[start:stop]
        assert list(view) == model[start:stop]
        assert len(view) == len(model[start:stop])
    assert list(journal[2:30][5:9]) == model[7:11]
    assert journal[2:30][-1] == model[29]
    for place in (41, -42):
        with pytest.raises(IndexError):
            journal[place]
    with pytest.raises(IndexError):
        journal[2:30][28]


def test_entries_by_index():
    """A follower's next entries: at least one, within the bytes asked for, across segments."""
    rig = Rig(segment_bytes=700, cache_bytes=900)
    rig.add(*(bytes([n]) * 50 for n in range(40)), term=3)
    rig.write()
    journal = rig.journal
    for index in range(2, 42):
        assert journal.entry(index) == (bytes([index - 2]) * 50, index, 3)
        assert journal.entries(index, 0) == [journal.entry(index)]
        few = journal.entries(index, 170)
        assert [entry[1] for entry in few] == list(range(index, index + len(few)))
        assert len(few) in (min(4, 42 - index), min(3, 42 - index), min(2, 42 - index))
    assert journal.entries(2, 10**6) == rig.log[1:]
    assert journal.entries(42, 100) == []
    assert [journal.term_at(index) for index in (1, 2, 41)] == [0, 3, 3]
    for index in (0, 42):
        with pytest.raises(IndexError):
            journal.entry(index)
        with pytest.raises(IndexError):
            journal.term_at(index)


def test_one_write_for_all_that_gathered():
    """Entries of one turn are one batch; those that come during a write are the next one."""
    rig = Rig()
    before = rig.system.log.count("sync")
    rig.add(b"a", b"b", b"c")
    assert rig.writer.waiting == 0
    rig.start()
    rig.add(b"d")
    rig.add(b"e")
    rig.start()
    assert rig.writer.waiting == 1
    rig.writer.work()
    assert rig.told == [4]
    rig.writer.work()
    assert rig.told == [4, 6]
    assert rig.system.log.count("sync") == before + 2
    assert rig.journal.counters.batches == 2
    assert rig.journal.counters.entries == 5


def test_i1_nothing_is_durable_before_its_sync_returned():
    """I1: the engine hears of an entry after the disk has it, never from within a call."""
    rig = Rig()
    rig.add(b"a")
    assert rig.journal.durable_index == 1
    rig.start()
    assert rig.journal.durable_index == 1
    at = len(rig.system.log)
    report = rig.writer.do()
    assert rig.system.log[at:] == ["write", "sync"]
    assert (rig.journal.durable_index, rig.told) == (1, [])
    rig.writer.report(*report)
    assert (rig.journal.durable_index, rig.told) == (2, [2])


def test_a_cut_voids_a_write_that_is_under_way():
    """An entry that was cut off while it was written is not durable, whatever the disk says."""
    rig = Rig()
    rig.add(b"a", b"b", b"c")
    rig.start()
    rig.journal.deleteEntriesFrom(2)
    rig.add(b"B", b"C", term=2)
    rig.writer.work()
    assert rig.journal.durable_index == 2
    assert rig.log == [NO_OP, (b"a", 2, 1), (b"B", 3, 2), (b"C", 4, 2)]
    rig.write()
    assert rig.journal.durable_index == 4
    model = rig.log
    assert list(rig.kill_and_open()[:]) == model


def test_a_cut_of_what_is_durable_is_on_the_disk_before_what_follows():
    """After a restart the old tail is gone, and what came after it is there."""
    rig = Rig(segment_bytes=200)
    rig.add(*(b"old%d" % n for n in range(20)), term=1)
    rig.write()
    rig.journal.deleteEntriesFrom(5)
    assert (rig.journal.durable_index, rig.journal.last_index, rig.journal.last_term) == (5, 5, 1)
    rig.add(b"new", term=2)
    rig.write()
    model = rig.log
    assert model[-1] == (b"new", 6, 2)
    rig.kill_and_open()
    assert rig.log == model
    assert [rig.journal.term_at(index) for index in range(1, 7)] == [0, 1, 1, 1, 1, 2]


def test_a_cut_of_what_only_gathered_never_reaches_the_disk():
    """Entries that were not handed to the writer just go."""
    rig = Rig()
    rig.add(b"a", b"b")
    rig.journal.deleteEntriesFrom(2)
    rig.add(b"c")
    assert rig.journal.pending_bytes == 2
    rig.write()
    assert rig.log == [NO_OP, (b"a", 2, 1), (b"c", 3, 1)]
    assert rig.journal.counters.batches == 1
    model = rig.log
    assert list(rig.kill_and_open()[:]) == model


def test_the_whole_log_can_be_cut():
    """An empty log has a length of none and takes the first index again."""
    rig = Rig()
    rig.add(b"a")
    rig.write()
    rig.journal.deleteEntriesFrom(0)
    assert (len(rig.journal), rig.journal.last_index, rig.journal.last_term) == (0, 0, 0)
    for place in (0, -1):
        with pytest.raises(IndexError):
            rig.journal[place]
    rig.journal.add(b"\x01", 1, 0)
    rig.write()
    rig.kill_and_open()
    assert rig.log == [NO_OP]


def test_d5_a_cleared_log_begins_anew_in_one_step():
    """D5: after a crash there is the old log or the new one's beginning, never neither."""
    rig = Rig(segment_bytes=200)
    rig.add(*(b"old%d" % n for n in range(20)))
    rig.write()
    old = rig.log
    rig.add(b"gathered")
    rig.journal.clear()
    assert len(rig.journal) == 0
    rig.write()
    assert list(rig.kill_and_open()[:]) == old
    rig.journal.clear()
    rig.journal.add(b"one", 100, 7)
    rig.journal.add(b"two", 101, 7)
    assert rig.journal.durable_index == 0
    rig.write()
    assert rig.journal.durable_index == 101
    assert rig.log == [(b"one", 100, 7), (b"two", 101, 7)]
    rig.kill_and_open()
    assert rig.log == [(b"one", 100, 7), (b"two", 101, 7)]
    assert (rig.journal.first_index, rig.journal.getCurrentTerm()) == (100, 7)


def test_a_log_is_cleared_while_a_write_is_under_way():
    """What was being written makes nothing durable in the new log."""
    rig = Rig()
    rig.add(b"a", b"b")
    rig.start()
    rig.journal.clear()
    rig.journal.add(b"one", 2, 7)
    rig.writer.work()
    assert rig.journal.durable_index == 0
    rig.write()
    assert rig.log == [(b"one", 2, 7)]
    assert list(rig.kill_and_open()[:]) == [(b"one", 2, 7)]


def test_old_segments_go_and_their_disk_comes_back():
    """The head is given back by whole files; the log then starts at a later entry."""
    rig = Rig(segment_bytes=300, cache_bytes=500)
    rig.add(*(bytes(40) for n in range(60)))
    for _ in range(30):
        rig.write()
        rig.add(bytes(40))
    rig.write()
    files, stored = len(rig.segments()), rig.journal.stored_bytes
    assert files > 3
    last = rig.journal.last_index
    rig.journal.deleteEntriesTo(70)
    first = rig.journal.first_index
    assert 60 < first <= 71
    assert rig.journal[0][1] == first
    rig.write()
    assert len(rig.segments()) < files
    assert rig.journal.stored_bytes < stored
    assert len(rig.journal) == last - first + 1
    with pytest.raises(IndexError):
        rig.journal.entry(first - 1)
    model = rig.log
    rig.kill_and_open()
    assert (rig.journal.first_index, rig.log) == (first, model)
    assert rig.journal.term_at(first) == 1


def test_what_is_not_durable_is_never_given_back():
    """Compaction stops below the first entry that is not on the disk."""
    rig = Rig(segment_bytes=200)
    for _ in range(10):
        rig.add(bytes(100))
        rig.write()
    rig.add(bytes(100), bytes(100))
    rig.journal.deleteEntriesTo(1000)
    assert rig.journal.first_index <= rig.journal.durable_index
    rig.write()
    model = rig.log
    assert list(rig.kill_and_open()[:]) == model


def test_an_entry_out_of_order_is_refused():
    """A gap, a term that falls and a command without bound are mistakes of the caller's."""
    rig = Rig()
    rig.add(b"a", term=5)
    for command, index, term in ((b"", 4, 5), (b"", 2, 5), (b"", 3, 4), (bytes(1 << 27), 3, 5)):
        with pytest.raises(ValueError, match=r"entry|command"):
            rig.journal.add(command, index, term)
    assert rig.journal.last_index == 2


def test_term_and_vote_become_durable_and_the_engine_hears_it():
    """D7, D8: a vote is durable when both copies are; until then it is pending."""
    rig = Rig()
    rig.journal.setCurrentTerm(4, "b")
    assert rig.journal.vote_pending
    assert not rig.journal.vote_durable(4, "b")
    assert (rig.journal.getCurrentTerm(), rig.journal.getVotedForNodeId()) == (4, "b")
    at = len(rig.system.log)
    report = rig.writer.do()
    assert rig.system.log[at:] == ["write", "sync", "write", "sync"]
    assert rig.journal.vote_pending
    rig.writer.report(*report)
    assert not rig.journal.vote_pending
    assert rig.journal.vote_durable(4, "b")
    assert rig.told == [1]
    rig.kill_and_open()
    assert (rig.journal.getCurrentTerm(), rig.journal.getVotedForNodeId()) == (4, "b")


def test_terms_that_follow_quickly_are_written_as_one():
    """While one term is written, only the newest of the later ones matters."""
    rig = Rig()
    rig.journal.setCurrentTerm(4, None)
    for term in range(5, 50):
        rig.journal.setCurrentTerm(term, None)
    rig.journal.setCurrentTerm(50, "c")
    rig.writer.work()
    assert rig.journal.vote_durable(4, None)
    assert rig.journal.vote_pending
    rig.writer.work()
    assert rig.journal.vote_durable(50, "c")
    assert rig.writer.waiting == 0


def test_an_entry_of_a_later_term_brings_its_term_back_without_a_vote():
    """The term is never below the log's last one, and an older term's vote is not carried over."""
    rig = Rig()
    rig.journal.setCurrentTerm(4, "b")
    rig.write()
    rig.add(b"x", term=6)
    rig.write()
    rig.kill_and_open()
    assert (rig.journal.getCurrentTerm(), rig.journal.getVotedForNodeId()) == (6, None)
    assert not rig.journal.vote_pending


def test_what_the_engine_remembers():
    """The founding record is there once it is durable, and after a restart."""
    rig = Rig()
    done = []
    rig.journal.setCurrentTerm(1, "a")
    rig.journal.remember(b"roster", lambda: done.append(rig.journal.founding))
    assert rig.journal.founding == b""
    rig.write()
    assert done == [b"roster"]
    journal_id = rig.journal.journal_id
    rig.kill_and_open()
    assert (rig.journal.founding, rig.journal.journal_id) == (b"roster", journal_id)
    assert len(journal_id) == 16
    assert rig.journal.vote_durable(1, "a")


def test_the_commit_index_is_kept_with_the_next_batch_or_within_a_second():
    """A restart begins at most a second before where it was, and never above the log."""
    rig = Rig()
    rig.add(b"a", b"b")
    rig.write()
    rig.journal.setRaftCommitIndex(3)
    rig.journal.onOneSecondTimer()
    rig.write()
    batches = rig.journal.counters.batches
    rig.journal.onOneSecondTimer()
    assert rig.writer.waiting == 0, "nothing to say: an idle node writes nothing"
    assert rig.journal.counters.batches == batches
    assert rig.kill_and_open().getRaftCommitIndex() == 3
    rig.journal.setRaftCommitIndex(9)
    rig.add(b"c")
    rig.write()
    assert rig.kill_and_open().getRaftCommitIndex() == 4


def test_a_full_disk_is_waited_for():
    """No space: nothing is lost, nothing above it is acknowledged, and it goes on afterwards."""
    rig = Rig(segment_bytes=400, reserve=False)
    rig.add(bytes(200))
    rig.system.fail("allocate", errno.ENOSPC)
    rig.write()
    rig.add(bytes(200), b"small")
    rig.write()
    assert rig.journal.full
    assert (rig.journal.durable_index, rig.told, rig.fatal) == (2, [2], [])
    rig.add(b"more")
    rig.journal.deleteEntriesFrom(4)
    rig.add(b"other")
    rig.write()
    assert rig.journal.durable_index == 2
    assert rig.journal.pending_bytes == 210
    rig.journal.retry()
    rig.write()
    assert not rig.journal.full
    assert rig.journal.durable_index == 5
    model = rig.log
    assert list(rig.kill_and_open()[:]) == model
    assert model[2:] == [(bytes(200), 3, 1), (b"small", 4, 1), (b"other", 5, 1)]


@pytest.mark.parametrize(
    ("step", "after", "times"),
    [
        ("create", 0, 1),  # the next segment
        ("allocate", 0, 1),
        ("write", 1, 1),  # its header
        ("write", 4, 1),  # a batch, after the header and both copies of the memory
    ],
)
def test_no_space_in_the_middle_is_undone(step, after, times):
    """Whatever was begun is taken back; the one second timer tries again."""
    rig = Rig(segment_bytes=400, reserve=False)
    rig.add(bytes(200))
    rig.system.fail(step, errno.ENOSPC, after=after, times=times)
    rig.write()
    rig.add(bytes(300))
    rig.journal.deleteEntriesFrom(1)
    rig.add(b"x" * 300, b"y", term=2)
    rig.write()
    assert rig.journal.full
    rig.journal.deleteEntriesFrom(2)
    rig.journal.onOneSecondTimer()
    rig.write()
    assert (rig.journal.full, rig.journal.durable_index) == (False, 2)
    assert rig.log == [NO_OP, (b"x" * 300, 2, 2)]
    assert list(rig.kill_and_open()[:]) == [NO_OP, (b"x" * 300, 2, 2)]


def test_the_next_segment_is_made_ready_ahead():
    """Its room is kept at once; its zeros are written in pieces, and a failure stops nothing."""
    rig = Rig(segment_bytes=4 * PIECE_BYTES)
    assert rig.journal.reserved
    spare = rig.inode("spare.new")
    assert (len(spare.seen), spare.disk) == (4 * PIECE_BYTES, b""), "no zeros were written"
    rig.add(bytes(PIECE_BYTES))
    rig.write()
    rig.add(b"not half full")
    rig.write()
    assert spare.disk == b""
    rig.add(bytes(2 * PIECE_BYTES))
    rig.write()
    rig.add(bytes(BULK_BYTES))
    rig.write()
    assert spare.disk == b"", "large batches ask for no zeros"
    rig.add(b"x")
    rig.write()
    assert len(spare.disk) == 4 * PIECE_BYTES, "a piece is written, and so the length"
    rig.system.fail("write", errno.ENOSPC, after=1)
    rig.add(b"x")
    rig.write()
    assert (rig.journal.full, rig.journal.reserved) == (False, True)
    rig.add(bytes(2 * PIECE_BYTES))
    rig.write()
    assert len(rig.segments()) == 2
    model = rig.log
    assert list(rig.kill_and_open()[:]) == model


def test_a_full_disk_has_a_reserve():
    """The next segment needs no new room; when that comes back the reserve does, too."""
    rig = Rig(segment_bytes=400)
    for step in ("create", "allocate"):
        rig.system.fail(step, errno.ENOSPC, times=100)
    for _ in range(2):
        rig.add(bytes(150))
        rig.write()
    assert len(rig.segments()) == 2
    assert (rig.journal.full, rig.journal.reserved) == (False, False)
    rig.add(bytes(300))
    rig.write()
    assert rig.journal.full, "the reserve is one segment"
    rig.journal.deleteEntriesTo(2)
    rig.journal.onOneSecondTimer()
    rig.settle()
    assert (rig.journal.full, rig.journal.reserved) == (True, False)
    rig.system.faults.clear()
    rig.journal.onOneSecondTimer()
    rig.settle()
    assert (rig.journal.full, rig.journal.reserved) == (False, True)
    model = rig.log
    assert list(rig.kill_and_open()[:]) == model


def test_a_record_too_large_for_the_reserve_does_not_lose_it():
    """A segment longer than the room that is kept may find none; the room stays kept."""
    rig = Rig(segment_bytes=400)
    rig.system.fail("allocate", errno.ENOSPC)
    rig.add(bytes(600))
    rig.write()
    assert (rig.journal.full, rig.journal.reserved) == (True, True)
    rig.journal.retry()
    rig.write()
    assert rig.journal.durable_index == 2


def test_what_was_cut_off_while_it_found_no_space_is_not_written():
    """A cut during a write that fails for space takes its entries away as well."""
    rig = Rig()
    rig.add(b"a")
    rig.write()
    (name,) = rig.segments()
    before = bytes(rig.inode(name).seen).rstrip(b"\0")
    rig.system.fail("write", errno.ENOSPC)
    rig.add(b"b" * 100, b"c" * 100, b"d" * 100)
    rig.start()
    rig.journal.deleteEntriesFrom(4)
    rig.add(b"D", term=2)
    rig.writer.work()
    assert bytes(rig.inode(name).seen) == before, "half a batch was left behind"
    rig.journal.deleteEntriesFrom(3)
    rig.add(b"C", term=3)
    rig.journal.retry()
    rig.write()
    model = [NO_OP, (b"a", 2, 1), (b"b" * 100, 3, 1), (b"C", 4, 3)]
    assert rig.log == model
    assert rig.journal.durable_index == 4
    assert list(rig.kill_and_open()[:]) == model


def test_a_log_cleared_on_a_full_disk():
    """What waited for space is forgotten with the log that it belonged to."""
    rig = Rig(segment_bytes=400)
    rig.system.fail("write", errno.ENOSPC)
    rig.add(b"a")
    rig.start()
    rig.journal.clear()
    rig.journal.add(b"one", 50, 2)
    rig.write()
    assert rig.journal.full
    rig.journal.retry()
    rig.write()
    assert rig.log == [(b"one", 50, 2)]
    assert list(rig.kill_and_open()[:]) == [(b"one", 50, 2)]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_i8_a_failed_fsync_is_the_end(code):
    """I8: whatever the error, the node is told once, and nothing becomes durable any more."""
    rig = Rig()
    rig.system.fail("sync", code)
    rig.add(b"a")
    rig.write()
    assert len(rig.fatal) == 1
    assert isinstance(rig.fatal[0], StorageFailedError)
    syncs = rig.system.log.count("sync")
    rig.add(b"b")
    rig.journal.setCurrentTerm(9, "c")
    rig.journal.onOneSecondTimer()
    rig.journal.retry()
    rig.write()
    assert rig.system.log.count("sync") == syncs, "an fsync is never tried again"
    assert (rig.journal.durable_index, rig.told, len(rig.fatal)) == (1, [], 1)
    assert rig.journal.vote_pending
    rig.journal.close()


@pytest.mark.parametrize("step", ["write", "rename", "sync_directory", "remove"])
def test_i8_an_error_of_the_disk_is_the_end(step):
    """I8: an input or output error anywhere is told, and ends all writing."""
    rig = Rig(segment_bytes=200)
    for _ in range(3):
        rig.add(bytes(100))
        rig.write()
    rig.system.fail(step, errno.EIO)
    rig.journal.deleteEntriesTo(3)
    rig.add(bytes(100))
    rig.write()
    assert [type(error) for error in rig.fatal] == [StorageFailedError]
    assert rig.journal.durable_index == 4


def test_i8_after_a_failed_fsync_only_the_disk_is_believed():
    """I8: what the system still shows, but the disk never got, is gone after a restart."""
    rig = Rig()
    rig.add(b"safe")
    rig.write()
    rig.system.fail("sync", errno.EIO)
    rig.add(b"lost")
    rig.write()
    rig.kill_and_open()
    assert rig.log == [NO_OP, (b"safe", 2, 1)]


def test_a_write_that_a_killed_process_left_is_made_durable_first():
    """Entries that only the system's memory holds are synced before they are called durable."""
    rig = Rig()
    rig.add(b"a")
    rig.start()
    rig.system.steps_left = 1  # the write happens, the sync does not
    with pytest.raises(PowerCutError):
        rig.writer.work()
    rig.kill_and_open()
    assert rig.journal.durable_index == rig.journal.last_index == 2
    rig.system.crash(random.Random(1))
    rig.open()
    assert rig.log == [NO_OP, (b"a", 2, 1)]


def test_a_vote_that_the_disk_half_has_is_made_whole_at_the_start():
    """After a failed sync of one copy both copies are written again, not believed in memory."""
    rig = Rig()
    rig.journal.setCurrentTerm(3, "b")
    rig.system.fail("sync", errno.EIO, after=1)
    rig.write()
    assert len(rig.fatal) == 1
    rig.kill_and_open()
    disk = bytes(rig.inode("memory").disk)
    assert disk[:8192] == disk[8192:]
    assert (rig.journal.getCurrentTerm(), rig.journal.getVotedForNodeId()) == (3, "b")


def test_what_a_crash_left_behind_is_removed():
    """Half-made files, and old ones whose removal the crash undid, go at the next start."""
    rig = Rig(segment_bytes=200)
    for _ in range(4):
        rig.add(bytes(100))
        rig.write()
    old = rig.segments()[0]
    content = bytes(rig.inode(old).disk)
    rig.journal.deleteEntriesTo(3)
    rig.write()
    first = rig.journal.first_index
    for name in (old, "0000000000000009.segment.new"):
        rig.system.open(f"{DIRECTORY}/{name}", create=True).write(content, 0)
    rig.kill_and_open()
    assert rig.journal.first_index == first > 1
    assert old not in rig.segments()
    assert "0000000000000009.segment.new" not in rig.system.names(DIRECTORY)


def test_a_start_on_a_full_disk():
    """A torn tail is cut also where there is no room to keep for what comes next."""
    rig = Rig()
    rig.add(b"torn")
    rig.cut_off()
    (name,) = rig.segments()
    used = len(rig.inode(name).seen.rstrip(b"\0"))
    rig.flip(name, 8 * (used - 1))
    rig.system.fail("allocate", errno.ENOSPC)
    rig.open()
    assert rig.log == [NO_OP]
    rig.add(b"new")
    rig.write()
    assert list(rig.kill_and_open()[:]) == [NO_OP, (b"new", 2, 1)]


def test_close_writes_what_gathered_and_frees_the_directory():
    """A clean end keeps everything, and the next start finds a confirmed log."""
    rig = Rig()
    rig.add(b"a")
    rig.journal.close()
    rig.journal.close()
    assert rig.told == []
    rig.open()
    assert rig.log == [NO_OP, (b"a", 2, 1)]
    rig.journal._destroy()
    rig.open()


def test_close_on_a_full_disk_calls_nothing_committed_that_the_disk_has_otherwise():
    """The disk still has the tail that memory replaced; the commit index is of the replacement."""
    rig = Rig(segment_bytes=400, reserve=False)
    rig.add(b"stale", b"stale")
    rig.write()
    for step in ("allocate", "write"):
        rig.system.fail(step, errno.ENOSPC, times=100)
    rig.journal.deleteEntriesFrom(1)
    rig.add(b"right", b"right", term=2)
    rig.write()
    assert rig.journal.full
    rig.journal.setRaftCommitIndex(3)
    rig.system.faults.clear()  # there is room again, just before the end
    rig.journal.close()
    rig.open()
    assert rig.log[1:] == [(b"stale", 2, 1), (b"stale", 3, 1)]
    assert rig.journal.getRaftCommitIndex() == 1


def test_a_failure_during_close_is_raised():
    """I8: a failed fsync in the last write is not lost with the closed journal."""
    rig = Rig()
    rig.add(b"a")
    rig.system.fail("sync", errno.EIO)
    with pytest.raises(StorageFailedError):
        rig.journal.close()
    rig.kill_and_open()


def test_two_processes_cannot_share_a_directory():
    """The second one is told which process has the directory."""
    rig = Rig()
    with pytest.raises(DirectoryError, match="process"):
        rig.open()


def test_a_directory_belongs_to_one_node_of_one_cluster():
    """Another node's or cluster's journal is refused, with what was found and expected."""
    rig = Rig()
    rig.journal.close()
    for cluster, node in (("leads", "b"), ("orders", "a")):
        with pytest.raises(DirectoryError, match=f"'a' of cluster 'leads'; expected node '{node}'"):
            rig.open(cluster=cluster, node=node)
    rig.open()


def test_a_large_entry_gets_a_segment_of_its_size():
    """An entry longer than a segment is written, and read back."""
    rig = Rig(segment_bytes=300)
    rig.add(b"small", b"x" * 5000, b"small")
    rig.write()
    rig.add(b"y" * 5000)
    rig.write()
    model = rig.log
    rig.kill_and_open()
    assert rig.log == model
    assert [len(entry[0]) for entry in model] == [1, 5, 5000, 5, 5000]


def test_i7_a_million_entries_cost_twelve_bytes_each():
    """I7: what is on the disk takes a few bytes of memory an entry, none for its content."""
    rig = Rig(segment_bytes=1 << 24, cache_bytes=1 << 16)
    journal = rig.journal
    command = b"x"
    count = 200_000

    def add(first: int, last: int) -> None:
        for index in range(first, last):
            journal.add(command, index, 1)
            if index % 5000 == 0:
                rig.write()
        rig.write()

    add(2, 20_000)
    before_disk = sum(len(inode.seen) + len(inode.disk) for inode in rig.system.inodes.values())
    tracemalloc.start()
    add(20_000, count)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    disk = sum(len(inode.seen) + len(inode.disk) for inode in rig.system.inodes.values())
    assert (size - (disk - before_disk)) / (count - 20_000) < 12
    assert journal.entry(30_000) == (b"x", 30_000, 1)


def test_a_missing_directory_is_an_error_of_the_directory():
    """A path that cannot be made is reported as such."""
    rig = Rig()
    rig.journal.close()

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    rig.system.make_directory = refuse
    with pytest.raises(DirectoryError, match=DIRECTORY):
        rig.open()
