"""The entries kept at hand."""

from __future__ import annotations

from crowd.command import Index
from crowd.delivery.entries import Entries


def test_an_entry_is_read_once_for_all_its_messages():
    """A batch of thousands is decoded once, not once a message."""
    reads = []

    def read(index):
        reads.append(index)
        return (b"a", b"b", b"c")

    entries = Entries(read)
    assert [entries.message(Index(7), n) for n in (0, 1, 2, 1)] == [b"a", b"b", b"c", b"b"]
    assert reads == [7]


def test_memory_is_bounded_and_the_least_recent_goes():
    """I7: what is kept does not grow with what was delivered."""
    reads = []

    def read(index):
        reads.append(index)
        return (bytes(936),)  # 1 000 with its overhead

    entries = Entries(read, bytes_max=3_000)
    for index in (1, 2, 3, 1, 4, 1, 2):
        entries.message(Index(index), 0)
    assert reads == [1, 2, 3, 4, 2]
    assert entries._bytes == 3_000


def test_one_entry_is_kept_however_large():
    """A message of 16 MiB is delivered to each consumer from one read."""
    reads = []

    def read(index):
        reads.append(index)
        return (bytes(1_000_000),)

    entries = Entries(read, bytes_max=10)
    entries.message(Index(1), 0)
    entries.message(Index(1), 0)
    assert reads == [1]
