"""The disk that forgets is itself to be trusted: what it keeps, and what it may lose."""

from random import Random

import pytest

from tests.faults.memory_disk import FILE_MODE, ROOT, MemoryDisk

SEEDS = range(200)


def disk_with(data=b"durable " * 1024):
    """Return a disk with a file ``log`` whose name and bytes are durable, and its inode."""
    disk = MemoryDisk()
    number = disk.make(ROOT, "log", FILE_MODE).number
    disk.write(number, 0, data)
    disk.flush(number)()
    disk.flush(ROOT)()
    return disk, number


def outcomes(change):
    """Return every content of ``log`` (None: no such name) that a power loss leaves."""
    found = set()
    for seed in SEEDS:
        disk, number = disk_with()
        change(disk, number)
        disk.lose(Random(seed))
        name = disk.inodes[ROOT].names.get("log")
        found.add(None if name is None else bytes(disk.inodes[name].data))
    return found


def test_what_was_flushed_is_never_lost():
    assert outcomes(lambda disk, number: None) == {b"durable " * 1024}


def test_an_unflushed_write_is_lost_or_kept_by_sectors():
    """Any subset of the sectors survives; inside a sector nothing is mixed."""
    old, new = b"durable " * 1024, b"written " * 1024
    found = outcomes(lambda disk, number: disk.write(number, 0, new))
    assert old in found
    assert new in found
    assert len(found) > 20
    for data in found:
        assert len(data) == len(old)
        for start in range(0, len(data), 512):
            assert data[start : start + 512] in (old[:512], new[:512])


def test_a_flush_keeps_what_was_written_before_it_was_asked_for_and_nothing_later():
    old, first = b"durable " * 1024, b"1" * 512

    def change(disk, number):
        disk.write(number, 0, first)
        done = disk.flush(number)
        disk.write(number, 512, b"2" * 512)
        done()

    found = outcomes(change)
    assert {data[:512] for data in found} == {first}
    assert {data[512:1024] for data in found} == {old[:512], b"2" * 512}


def test_a_flush_that_was_not_answered_keeps_nothing():
    def change(disk, number):
        disk.write(number, 0, b"1" * 512)
        disk.flush(number)

    assert b"durable " * 1024 in outcomes(change)


def test_lengths_survive_or_not_whatever_became_of_the_bytes():
    """A file that grew is as long as before, or longer with zeros or the bytes at its end."""
    old = b"durable " * 1024
    found = outcomes(lambda disk, number: disk.write(number, len(old), b"x" * 512))
    assert found == {old, old + bytes(512), old + b"x" * 512}
    assert outcomes(lambda disk, number: disk.resize(number, 512)) == {old, old[:512]}


def test_names_survive_in_the_order_in_which_they_were_made():
    def change(disk, number):
        disk.make(ROOT, "one", FILE_MODE)
        disk.make(ROOT, "two", FILE_MODE)

    found = set()
    for seed in SEEDS:
        disk, number = disk_with()
        change(disk, number)
        disk.lose(Random(seed))
        found.add(tuple(sorted(disk.inodes[ROOT].names)))
    assert found == {("log",), ("log", "one"), ("log", "one", "two")}


def test_a_rename_that_is_lost_brings_the_replaced_file_back():
    def change(disk, number):
        new = disk.make(ROOT, "log.new", FILE_MODE).number
        disk.write(new, 0, b"new")
        disk.flush(new)()
        disk.rename(ROOT, "log.new", ROOT, "log")

    assert outcomes(change) == {b"durable " * 1024, b"new"}


def test_a_removed_file_comes_back_until_its_directory_is_flushed():
    found = outcomes(lambda disk, number: disk.remove(ROOT, "log", directory=False))
    assert found == {None, b"durable " * 1024}

    def removed(disk, number):
        disk.remove(ROOT, "log", directory=False)
        disk.flush(ROOT)()

    assert outcomes(removed) == {None}


def test_a_lying_disk_keeps_nothing():
    def change(disk, number):
        disk.lies = True
        disk.write(number, 0, b"1" * 512)
        disk.flush(number)()

    assert b"durable " * 1024 in outcomes(change)


def test_there_is_no_such_name():
    with pytest.raises(FileNotFoundError):
        MemoryDisk().lookup(ROOT, "log")
