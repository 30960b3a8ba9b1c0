"""Letters on their way to the disk and back: what is durable when, and how much may wait."""

import errno

import pytest

from crowd.errors import StorageFailedError
from crowd.raft.letters import PENDING_BYTES_MAX, LetterStore
from crowd.raft.letters.ports import Row
from crowd.raft.letters.store import CACHE_BYTES_MAX, READS_MAX
from tests.unit.journal.fakes import FaultyFileSystem, ManualWriter
from tests.unit.letters.fakes import FaultyShelf, letter_of


class Node:
    """A store on a disk that the test holds."""

    def __init__(self):
        self.system = FaultyFileSystem()
        self.start()

    def start(self):
        """Begin as a process does, after whatever happened to the last one."""
        self.system.kill()
        self.writer = ManualWriter()
        self.store = LetterStore(FaultyShelf(self.system), self.writer)
        self.durable, self.fatal, self.damaged = [], [], []
        self.store.on_durable = self.durable.extend
        self.store.on_fatal = self.fatal.append
        self.store.on_damaged = lambda: self.damaged.append(True)
        return self

    def keep(self, index, *numbers, size=10):
        self.store.change([(n, b"%d" % n * size) for n in numbers], (), index=index)
        return self

    @property
    def stored(self):
        return sorted(self.system.letters)

    def read(self, number, message):
        heard = []
        assert self.store.read(number, letter_of(message).sha256, heard.append)
        self.writer.finish()
        return heard[0]


@pytest.fixture
def node():
    return Node()


def test_what_gathers_in_a_turn_is_written_at_once(node):
    node.keep(5, 1).keep(6, 2)
    node.writer.turn()
    assert node.writer.waiting == 1
    node.writer.finish()
    assert node.stored == node.durable == [1, 2]


def test_a_letter_is_at_hand_before_and_while_it_is_written(node):
    node.keep(5, 1)
    assert node.store.at_hand(1) == b"1" * 10
    node.writer.turn()
    assert node.store.at_hand(1) == b"1" * 10
    node.writer.finish()
    assert node.store.at_hand(1) is None  # from here on it is read


def test_an_entry_is_covered_when_its_letters_are_durable(node):
    node.keep(5, 1)
    assert [node.store.durable_through(index) for index in (4, 5, 9)] == [True, False, False]
    node.writer.turn()
    node.keep(8, 2)
    node.writer.work()
    assert [node.store.durable_through(index) for index in (7, 8)] == [True, False]
    node.writer.finish()
    assert node.store.durable_through(8)


def test_what_came_from_a_peer_holds_no_checkpoint_up(node):
    node.store.change([(1, b"fetched")], ())
    assert node.store.durable_through(100)
    assert node.store.is_pending(1)


def test_what_is_not_durable_is_bounded_and_said(node):
    node.keep(5, 1, size=PENDING_BYTES_MAX)
    assert node.store.holds
    node.writer.finish()
    assert not node.store.holds
    assert node.store.pending_bytes == 0


def test_a_letter_that_is_gone_before_it_is_written_is_never_stored(node):
    node.keep(5, 1, 2)
    node.store.change((), [1], index=6)
    assert node.store.at_hand(1) is None
    node.writer.finish()
    assert node.stored == [2]
    assert node.store.pending_bytes == 0


def test_a_letter_that_is_gone_while_it_is_written_is_removed_after_that(node):
    node.keep(5, 1)
    node.writer.turn()
    node.store.change((), [1], index=6)
    node.writer.finish()
    assert node.stored == []


def test_to_apply_again_what_was_kept_before_changes_nothing(node):
    node.keep(5, 1, 2)
    node.writer.finish()
    before = dict(node.system.letters)
    node.start().keep(5, 1, 2)
    node.writer.finish()
    assert node.system.letters == before


@pytest.mark.parametrize("power", [False, True])
def test_what_was_not_committed_is_lost_with_the_process(node, power):
    node.keep(5, 1)
    node.writer.finish()
    node.keep(6, 2)
    node.writer.turn()
    if power:
        import random

        node.system.crash(random.Random(1))
    node.start()
    assert node.stored == [1]


# --- Reading ------------------------------------------------------------------------------------


def test_a_letter_is_read_and_stays_at_hand(node):
    node.keep(5, 1)
    node.writer.finish()
    assert node.read(1, b"1" * 10) == b"1" * 10
    assert node.store.at_hand(1) == b"1" * 10


def test_what_is_not_there_or_not_whole_is_not_served(node):
    node.keep(5, 1)
    node.writer.finish()
    assert node.read(2, b"2") is None
    sha256, message = node.system.letters[1]
    node.system.letters[1] = Row(sha256, message[:-1] + b"!")
    assert node.read(1, message) is None
    assert node.store.at_hand(1) is None


def test_a_row_that_is_another_letter_is_not_served(node):
    """It fits its own hash, and not the ledger's."""
    node.keep(5, 1)
    node.writer.finish()
    assert node.read(1, b"what the ledger says") is None


def test_what_was_read_is_kept_within_a_bound_and_what_was_taken_goes_first(node):
    size = CACHE_BYTES_MAX // 3
    for number in (1, 2, 3, 4):
        node.store.change([(number, b"%d" % number * size)], (), index=5)
        node.writer.finish()
    for number in (1, 2, 3):
        node.read(number, b"%d" % number * size)
    node.store.at_hand(2)
    node.read(4, b"4" * size)
    assert [node.store.at_hand(number) is None for number in (1, 2, 3, 4)] == [
        False, True, False, False,
    ]  # fmt: skip


def test_reads_are_bounded(node):
    for _ in range(READS_MAX):
        assert node.store.read(1, bytes(32), lambda _: None)
    assert not node.store.read(1, bytes(32), lambda _: None)
    node.writer.finish()
    assert node.store.read(1, bytes(32), lambda _: None)


# --- What goes wrong ------------------------------------------------------------------------------


def test_a_full_disk_makes_letters_wait_and_loses_none(node):
    node.system.full = True
    node.keep(5, 1)
    node.writer.finish()
    node.keep(6, 2)
    node.store.change((), [1], index=7)
    node.writer.finish()
    assert node.store.full
    assert not node.fatal
    assert not node.store.durable_through(5)
    node.store.retry()
    node.writer.finish()
    assert not node.store.durable_through(5)
    node.system.full = False
    node.store.retry()
    node.writer.finish()
    assert node.stored == [2]
    assert node.store.durable_through(6)
    assert (node.store.full, node.store.pending_bytes) == (False, 0)


def test_i8_a_write_that_fails_is_the_end(node):
    node.system.fail("letters", errno.EIO)
    node.keep(5, 1)
    node.writer.finish()
    assert [type(error) for error in node.fatal] == [StorageFailedError]
    node.keep(6, 2)
    node.writer.finish()
    assert node.stored == []
    assert not node.store.durable_through(5)


@pytest.mark.parametrize("how", ["write", "read", "list"])
def test_damage_begins_anew_and_has_all_looked_for_again(node, how):
    node.keep(5, 1)
    node.writer.finish()
    node.system.letters_damaged = True
    if how == "write":
        node.keep(6, 2)
    elif how == "read":
        node.store.read(1, bytes(32), lambda _: None)
        node.writer.turn()
        node.keep(6, 2)
    else:
        node.store.rows(0, 10, lambda _: None)
        node.keep(6, 2)
    node.writer.finish()
    assert node.damaged == [True]
    assert node.stored == [2]
    assert not node.fatal


def test_nothing_is_reported_after_the_end(node):
    node.keep(5, 1)
    node.writer.turn()
    node.store.close()
    node.writer.finish()
    assert node.durable == []
    assert node.stored == [1]
