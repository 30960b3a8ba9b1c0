"""The journal on a real disk with its two threads, all that it does at once."""

from __future__ import annotations

import time

import pytest

from crowd.raft.journal import DiskFileSystem, ThreadWriter, open_journal
from tests.unit.journal.test_ports import QueueReactor

ROUNDS = 300


@pytest.fixture
def started(tmp_path):
    reactor = QueueReactor()
    journals = []

    def start(checkpoint_index=0):
        journal = open_journal(
            f"{tmp_path}/node",
            cluster="leads",
            node="a",
            filesystem=DiskFileSystem(),
            writer=ThreadWriter(reactor),
            background=ThreadWriter(reactor),
            checkpoint_index=lambda: checkpoint_index,
            segment_bytes=1 << 13,
            cache_bytes=0,
        )
        journals.append(journal)
        return journal

    yield reactor, start
    for journal in journals:
        journal.close()


def test_everything_at_once(started):
    """Writes, index files, the scrub, mending, reads and compaction do not disturb each other."""
    reactor, start = started
    journal = start()
    fatal, mended, read_bytes = [], [], 0
    journal.on_fatal = fatal.append
    scrubbing = False

    def scrubbed(result):
        nonlocal scrubbing, read_bytes
        scrubbing = False
        read_bytes += result.read_bytes
        assert result.flaws == ()

    def content(index):
        return b"%d " % index * 20

    for number in range(ROUNDS):
        for _ in range(5):
            index = journal.last_index + 1
            journal.add(content(index), index, 1)
        if not scrubbing:
            scrubbing = True
            journal.scrub(scrubbed)
        durable = journal.durable_index
        if durable > 100:
            entry = journal.entry(max(journal.first_index, durable - 90))
            assert entry[0] == content(entry[1])
            journal.repair(entry, mended.append)
        if number % 50 == 49:
            journal.deleteEntriesTo(len(journal) // 2)
        while journal.durable_index < journal.last_index - 20 or not reactor.calls.empty():
            reactor.finish(1)
    until = time.monotonic() + 20
    while journal.durable_index < journal.last_index and time.monotonic() < until:
        reactor.finish(1)
    assert fatal == []
    assert mended
    assert all(mended), "what is whole is found so"
    assert read_bytes
    first, last = journal.first_index, journal.last_index
    assert first > 100
    journal.close()
    journal = start(checkpoint_index=last)
    assert [entry[0] for entry in journal[:]] == [
        content(index) for index in range(first, last + 1)
    ]
