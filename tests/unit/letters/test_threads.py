"""Letters on a real disk, with their thread."""

import time

from twisted.internet.task import Clock

from crowd.raft.journal import ThreadWriter
from crowd.raft.letters import Letters, LetterStore, SqliteShelf
from tests.unit.journal.test_ports import QueueReactor
from tests.unit.letters.fakes import FakeLedger

ROUNDS = 60


class Node:
    def __init__(self, directory, ledger):
        self.reactor, self.clock, self.fatal = QueueReactor(), Clock(), []
        self.writer = ThreadWriter(self.reactor, "crowd-letters")
        self.store = LetterStore(SqliteShelf(directory), self.writer)
        self.store.on_fatal = self.fatal.append
        self.letters = Letters(self.clock, self.store, ledger, lambda *_: False, list, lambda: None)
        self.letters.begin()

    def until(self, holds):
        """Run the reactor until something holds; the thread works beside it."""
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end
            self.reactor.finish(1)

    def read(self, number):
        self.until(lambda: self.letters.letter(number) is not None)
        return self.letters.letter(number)

    def stop(self):
        self.store.close()
        self.writer.close()
        assert self.fatal == []


def test_everything_at_once(tmp_path):
    """Writes, reads, removals and the scrub do not disturb each other, and a restart finds all."""
    ledger, wanted = FakeLedger(), {}
    node = Node(str(tmp_path), ledger)
    for number in range(1, ROUNDS + 1):
        message = b"%d " % number * 2000
        wanted[number] = message
        gone = [number - 20] if number > 20 else []
        kept = [ledger.put(number, message)]
        for old in gone:
            del ledger.letters[old], wanted[old]
        node.letters.apply(number, kept, gone)
        node.letters.look()
        other = min(wanted)
        assert node.read(other) == wanted[other]
    node.until(lambda: not node.letters.pending_bytes)
    assert node.letters.durable_through(ROUNDS)
    node.stop()

    again = Node(str(tmp_path), ledger)
    again.until(lambda: again.letters.whole)
    assert {number: again.read(number) for number in wanted} == wanted
    again.stop()
