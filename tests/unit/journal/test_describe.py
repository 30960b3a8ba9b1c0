"""What `crowd journal` tells a person."""

from __future__ import annotations

import errno

import pytest

from crowd.errors import StorageFailedError
from crowd.raft.journal import describe
from tests.unit.journal.rig import DIRECTORY, Rig


def stopped() -> Rig:
    rig = Rig(segment_bytes=400)
    rig.journal.setCurrentTerm(3, "b")
    rig.add(b"x" * 100, b"y" * 100, term=2)
    rig.write()
    rig.journal.deleteEntriesFrom(2)
    rig.add(b"z" * 200, term=3)
    rig.write()
    rig.journal.setRaftCommitIndex(2)
    rig.journal.close()
    return rig


def test_a_good_journal_is_told_batch_by_batch():
    """Whose it is, each batch with its entries and terms, and that it is good."""
    rig = stopped()
    changes = len(rig.system.log)
    lines = list(describe(DIRECTORY, rig.system))
    assert "write" not in rig.system.log[changes:]
    assert lines[0] == f"journal {rig.journal.journal_id.hex()} of node a of cluster leads"
    assert lines[1] == "term 3, vote b"
    assert lines.pop(2) == "spare.new: no part of the log; the next start removes it"
    assert lines[2] == "0000000000000001.segment: 400 bytes, from batch 1; its index file is good"
    assert lines[3] == "  batch 1 at 60, 58 bytes: entries 1 to 1, term 0; committed 1"
    assert lines[4] == "  batch 2 at 118, 282 bytes: entries 2 to 3, term 2; committed 1"
    assert lines[5] == "0000000000000002.segment: 400 bytes, from batch 3; still written to"
    assert "entries above 2 cut, entries 3 to 3, term 3; committed 1" in lines[6]
    assert lines[7].endswith("confirmation; committed 2")
    assert lines[-1] == "good: entries 1 to 3, committed at least to 2"


def test_a_damaged_journal_is_told_up_to_the_damage():
    """The good batches are shown, and then what is wrong and where."""
    rig = stopped()
    rig.flip(rig.segments()[0], 8 * 150)
    lines = list(describe(DIRECTORY, rig.system))
    assert "batch 1" in lines[3]
    assert "  bad: entry 2 at /node/0000000000000001.segment, offset 150" in lines[5]
    assert lines[-1].startswith("damaged: ")
    assert "0000000000000001.segment, offset 118, where index 2 belongs" in lines[-1]
    rig.flip(rig.segments()[0], 8 * 150)
    rig.flip(rig.segments()[0], 8 * 120)
    assert "a header at offset 118" in "".join(describe(DIRECTORY, rig.system))
    rig.flip(rig.segments()[0], 8 * 120)
    rig.flip(rig.indexes()[0], 8 * 120)
    rig.flip(rig.segments()[0], 0)
    lines = list(describe(DIRECTORY, rig.system))
    assert "damaged" in lines[-1]
    for offset in (0, 8192):
        rig.flip("memory", 8 * offset)
    assert list(describe(DIRECTORY, rig.system)) == [
        f"damaged: neither copy of term and vote is whole at {DIRECTORY}/memory, offset 0"
    ]


def test_a_bad_index_file_and_a_bad_header_are_told():
    """Neither keeps the log from being good: the next start mends both."""
    rig = stopped()
    rig.flip(rig.segments()[0], 0)
    lines = list(describe(DIRECTORY, rig.system))
    assert "the next start writes it anew" in "".join(lines)
    assert lines[-1].startswith("good: entries 1 to 3")
    rig.flip(rig.segments()[0], 0)
    rig.flip(rig.indexes()[0], 8 * 30)
    lines = list(describe(DIRECTORY, rig.system))
    assert "its index file is missing or bad" in lines[3]
    assert lines[-1].startswith("good: entries 1 to 3")


def test_a_torn_write_is_told():
    """What the next start will cut is said before."""
    rig = Rig()
    rig.add(b"torn")
    rig.cut_off()
    used = len(rig.inode(rig.segments()[0]).seen.rstrip(b"\0"))
    rig.flip(rig.segments()[0], 8 * (used - 1))
    lines = list(describe(DIRECTORY, rig.system))
    assert lines[-2:] == [
        "a torn write after entry 1; the next start cuts it",
        "good: entries 1 to 1, committed at least to 1",
    ]


def test_a_journal_that_was_cleared_is_told():
    """A log that begins anew says so."""
    rig = Rig()
    rig.journal.clear()
    rig.journal.add(b"x", 70, 2)
    rig.write()
    lines = list(describe(DIRECTORY, rig.system))
    assert "all entries gone, 70 is next, entries 70 to 70, term 2" in lines[-2]
    rig.journal.deleteEntriesFrom(0)
    rig.write()
    assert list(describe(DIRECTORY, rig.system))[-1] == "good: no entries"


def test_a_directory_that_cannot_be_read_is_an_error():
    """Not a journal, or one that the disk does not give."""
    with pytest.raises(StorageFailedError, match="could not read"):
        list(describe("/nowhere"))
    rig = stopped()
    rig.system.fail("read", errno.EIO)
    with pytest.raises(StorageFailedError, match="could not read"):
        list(describe(DIRECTORY, rig.system))
