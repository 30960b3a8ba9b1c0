"""Measures the journal on a real disk: ``python -m tests.unit.journal.measure [--reserved]``.

Prints what the reactor pays for an entry, and what a batch of ten costs from its first
`add` to the engine's hearing of it; with ``--reserved`` on a segment that was only
reserved, not filled with zeros ahead. The disk is that of TMPDIR.
"""

from __future__ import annotations

import sys
import tempfile
import timeit
from time import perf_counter

from twisted.internet import reactor

from crowd.raft.journal import DiskFileSystem, ThreadWriter, open_journal
from crowd.raft.journal.spare import Spare

BATCHES = 3000
COMMAND = bytes(range(200)) * 2


class Run:
    """One journal, filled a batch at a time; ends the reactor."""

    def __init__(self, directory: str) -> None:
        self.journal = open_journal(
            directory,
            cluster="measured",
            node="a",
            filesystem=DiskFileSystem(),
            writer=ThreadWriter(reactor),
        )
        self.journal.on_durable = self.more
        self.batches = 0
        self.add_s = 0.0
        self.began_s = perf_counter()

    def more(self) -> None:
        journal = self.journal
        if self.batches == BATCHES:
            self.took_s = perf_counter() - self.began_s
            return reactor.stop()
        self.batches += 1
        began_s = perf_counter()
        for _ in range(10):
            journal.add(COMMAND, journal.last_index + 1, 1)
        self.add_s += perf_counter() - began_s
        return journal.flush()

    def report(self) -> None:
        journal, batches = self.journal, self.batches
        last_s = min(timeit.repeat(lambda: journal[-1][1], number=10_000)) / 10_000
        cold_s = min(timeit.repeat(lambda: journal.entry(100), number=1000)) / 1000
        print(f"  add {self.add_s / batches / 10 * 1e6:.2f} us, [-1] {last_s * 1e6:.2f} us")
        print(f"  an old entry {cold_s * 1e6:.1f} us")
        print(f"  write and fdatasync of a batch {journal.counters.write_s / batches * 1e6:.0f} us")
        print(f"  a batch from add to on_durable {self.took_s / batches * 1e6:.0f} us")
        journal.close()


def main() -> None:
    if "--reserved" in sys.argv:
        Spare.is_wanted = lambda self, size_bytes: False
        Spare.prepare = lambda self, size_bytes: None
    with tempfile.TemporaryDirectory() as directory:
        run = Run(f"{directory}/node")
        reactor.callWhenRunning(run.more)
        reactor.run()
        run.report()


if __name__ == "__main__":
    main()
