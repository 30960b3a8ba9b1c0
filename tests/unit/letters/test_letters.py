"""A node's letters beside its ledger: what is compared, asked for, served, and said to be whole."""

import hashlib

import pytest
from twisted.internet.task import Clock

from crowd.errors import PeerRejectedError
from crowd.raft.letters import PENDING_BYTES_MAX, Letters, LetterStore
from crowd.raft.letters.audit import LETTERS_AT_ONCE, ROWS_AT_ONCE
from crowd.raft.letters.fetching import (
    ASK_AGAIN_S,
    ASKED_AT_ONCE,
    ASKED_BYTES_MAX,
    REST_S,
    SERVED_BYTES_MAX,
)
from crowd.raft.letters.ports import Row
from crowd.raft.wire import FetchLetter, LetterFetched
from tests.unit.journal.fakes import FaultyFileSystem, ManualWriter
from tests.unit.letters.fakes import FakeLedger, FaultyShelf, letter_of


def text(number):
    return b"letter %d" % number


class Node:
    """Letters 1 … `count` in a ledger, of which some are stored; peers that the test plays."""

    def __init__(self, *peers, count=0, stored=()):
        self.clock = Clock()
        self.system, self.writer, self.ledger = FaultyFileSystem(), ManualWriter(), FakeLedger()
        for number in range(1, count + 1):
            self.ledger.put(number, text(number))
        for number in stored:
            self.system.letters[number] = Row(hashlib.sha256(text(number)).digest(), text(number))
        self.sent, self.peers, self.changes = [], list(peers), 0
        self.takes = True
        self.store = LetterStore(FaultyShelf(self.system), self.writer)
        self.letters = Letters(
            self.clock, self.store, self.ledger, self.send, lambda: self.peers, self.changed
        )
        self.letters.begin()

    def send(self, name, message):
        if self.takes:
            self.sent.append((name, message))
        return self.takes

    def changed(self):
        self.changes += 1

    def finish(self):
        self.writer.finish()
        return self

    def wait(self, seconds):
        self.clock.advance(seconds)
        self.letters.look()
        return self

    def asked(self):
        """Return, and forget, who was asked for which letter."""
        asked = [(name, m.number) for name, m in self.sent if isinstance(m, FetchLetter)]
        self.sent = [one for one in self.sent if not isinstance(one[1], FetchLetter)]
        return asked

    def answer(self, number, message=None, *, name=None):
        """Have whoever was asked for a letter answer."""
        name = name or next(n for n, m in self.sent if m.number == number)
        self.sent = [one for one in self.sent if one[1].number != number]
        self.letters.fetched(
            name, LetterFetched(number, text(number) if message is None else message)
        )
        return self.finish()


# --- Compared with the ledger ---------------------------------------------------------------------


def test_a_node_without_letters_is_whole_at_once():
    assert Node().letters.whole


def test_a_node_is_not_whole_before_it_has_looked():
    node = Node(count=3, stored=[1, 2, 3])
    assert not node.letters.whole
    assert node.finish().letters.whole


def test_what_is_lacking_is_asked_for_and_then_the_node_is_whole():
    node = Node("b", count=3, stored=[2]).finish()
    assert node.letters.lacking == 2
    node.answer(1)
    assert not node.letters.whole
    node.answer(3)
    assert node.letters.whole
    assert sorted(node.system.letters) == [1, 2, 3]
    assert node.letters.fetched_letters == 2


def test_a_fetched_letter_counts_when_it_is_durable():
    node = Node("b", count=1).finish()
    node.letters.fetched("b", LetterFetched(1, text(1)))
    node.writer.work()  # it is verified
    node.writer.turn()
    assert not node.letters.whole
    node.finish()
    assert node.letters.whole


def test_a_stored_letter_with_another_hash_is_lacking():
    node = Node("b", count=1)
    node.system.letters[1] = Row(bytes(32), b"another")
    assert node.finish().asked() == [("b", 1)]


def test_what_the_ledger_does_not_have_is_removed():
    node = Node("b", count=2, stored=[1, 2, 3, 7]).finish()
    assert sorted(node.system.letters) == [1, 2]


def test_many_letters_are_compared_in_slices():
    count = 2 * ROWS_AT_ONCE + LETTERS_AT_ONCE
    odd = range(1, count, 2)
    node = Node("b", count=count, stored=[*odd, count + 5])
    node.takes = False
    node.finish()
    assert node.letters.lacking == count - len(odd)
    assert sorted(node.system.letters) == list(odd)


def test_an_empty_disk_lacks_all_of_very_many():
    node = Node(count=2 * LETTERS_AT_ONCE + 1).finish()
    assert node.letters.lacking == 2 * LETTERS_AT_ONCE + 1


def test_what_the_log_brings_meanwhile_is_neither_lacking_nor_removed():
    node = Node("b", count=2, stored=[1])
    node.letters.apply(9, [node.ledger.put(2, text(2)), node.ledger.put(3, text(3))], [])
    node.finish()
    assert node.letters.whole
    assert node.asked() == []
    assert sorted(node.system.letters) == [1, 2, 3]


def test_what_is_gone_meanwhile_is_not_lacking():
    node = Node("b", count=2, stored=[1]).finish()
    del node.ledger.letters[2]
    node.letters.apply(9, [], [2])
    assert node.letters.whole
    node.answer(2)
    assert sorted(node.system.letters) == [1]


def test_another_ledger_is_compared_anew():
    """A snapshot was installed: what was lacking may be gone, and other letters are there."""
    node = Node("b", count=2).finish()
    node.ledger.letters.clear()
    node.ledger.put(7, text(7))
    node.letters.begin()
    assert not node.letters.whole
    node.asked()
    node.finish().wait(0)
    assert node.asked() == [("b", 7)]


def test_after_damage_all_is_fetched_again():
    node = Node("b", count=2, stored=[1, 2]).finish()
    node.system.letters_damaged = True
    assert node.letters.letter(1) is None
    node.finish()
    assert node.letters.lacking == 2
    node.answer(1).answer(2)
    assert node.letters.whole


# --- Read by the leader's delivery ----------------------------------------------------------------


def test_a_letter_is_at_hand_at_once_while_it_is_new():
    node = Node()
    node.letters.apply(9, [node.ledger.put(1, text(1))], [])
    assert node.letters.letter(1) == text(1)


def test_a_stored_letter_is_read_and_the_node_says_when():
    node = Node(count=1, stored=[1]).finish()
    assert node.letters.letter(1) is None
    assert node.letters.letter(1) is None
    assert node.writer.waiting == 1
    changes = node.changes
    node.finish()
    assert node.changes > changes
    assert node.letters.letter(1) == text(1)


def test_a_number_that_the_ledger_does_not_have_is_none():
    node = Node(stored=[1])
    assert node.letters.letter(1) is None
    assert node.writer.waiting <= 1


def test_a_flipped_bit_is_found_when_it_is_read_and_mended_from_a_peer():
    node = Node("b", count=1, stored=[1]).finish()
    node.system.letters[1] = Row(node.system.letters[1].sha256, b"letter !")
    assert node.letters.letter(1) is None
    node.finish()
    assert not node.letters.whole
    assert node.letters.letter(1) is None
    node.answer(1)
    node.letters.letter(1)
    assert node.finish().letters.letter(1) == text(1)
    assert node.letters.whole


def test_a_letter_that_somebody_waits_for_is_asked_for_first():
    count = 3 * ASKED_AT_ONCE
    node = Node("b", count=count).finish()
    assert count not in [number for _, number in node.asked()]
    node.letters.letter(count)
    for number in range(1, 3):
        node.answer(number, name="b")
    assert node.asked()[0] == ("b", count)


# --- Asking ---------------------------------------------------------------------------------------


def test_few_are_asked_for_at_once():
    node = Node("b", count=2 * ASKED_AT_ONCE).finish()
    assert len(node.asked()) == ASKED_AT_ONCE
    node.answer(1, name="b")
    assert node.asked() == [("b", ASKED_AT_ONCE + 1)]


def test_large_ones_are_asked_for_alone():
    node = Node("b")
    for number in (1, 2, 3):
        node.ledger.put(number, bytes(ASKED_BYTES_MAX))
    node.letters.begin()
    assert len(node.finish().asked()) == 1


def test_nothing_is_asked_for_while_the_disk_does_not_keep_up():
    node = Node("b", count=2, stored=[2])
    node.letters.apply(9, [node.ledger.put(2, bytes(PENDING_BYTES_MAX))], [])
    node.writer.work()
    assert (node.asked(), node.letters.lacking) == ([], 1)
    assert node.finish().asked() == [("b", 1)]


def test_peers_are_asked_in_turn():
    node = Node("b", "c", count=4).finish()
    assert {name for name, _ in node.asked()} == {"b", "c"}


def test_who_does_not_have_it_is_not_asked_again_before_the_others():
    node = Node("b", "c", count=1).finish()
    ((first, _),) = node.asked()
    node.answer(1, b"", name=first)
    ((second, _),) = node.asked()
    assert {first, second} == {"b", "c"}
    node.answer(1, b"", name=second)
    assert node.asked() == []
    assert node.wait(REST_S).asked()


def test_who_says_nothing_is_followed_by_another():
    node = Node("b", "c", count=1).finish()
    ((first, _),) = node.asked()
    assert node.wait(ASK_AGAIN_S / 2).asked() == []
    ((second, _),) = node.wait(ASK_AGAIN_S).asked()
    assert {first, second} == {"b", "c"}


def test_who_is_gone_is_followed_by_another():
    node = Node("b", "c", count=1).finish()
    ((first, _),) = node.asked()
    node.peers.remove(first)
    node.letters.left(first)
    assert node.asked() == [(node.peers[0], 1)]


def test_without_peers_it_waits_for_one():
    node = Node(count=1).finish()
    for _ in range(5):
        assert node.wait(1).asked() == []
        node.letters.letter(1)
    node.peers.append("b")
    assert node.wait(0).asked() == [("b", 1)]


def test_a_link_that_takes_no_more_is_tried_again():
    node = Node("b", count=1)
    node.takes = False
    node.finish()
    node.takes = True
    assert node.wait(0).asked() == [("b", 1)]


def test_what_is_not_that_letter_is_not_kept():
    node = Node("b", "c", count=1).finish()
    ((first, _),) = node.asked()
    node.answer(1, b"letter 2", name=first)
    assert node.system.letters == {}
    assert node.asked()[0][0] != first


def test_another_length_ends_the_link():
    node = Node("b", count=1).finish()
    with pytest.raises(PeerRejectedError, match="its letter 1 has 4 bytes, here it has 8"):
        node.answer(1, b"long", name="b")


@pytest.mark.parametrize(("name", "number"), [("c", 1), ("b", 2), ("b", 2**53)])
def test_a_surprise_is_ignored(name, number):
    node = Node("b", count=2, stored=[2]).finish()
    node.letters.fetched(name, LetterFetched(number, text(number)))
    node.finish()
    assert sorted(node.system.letters) == [2]


# --- Answering ------------------------------------------------------------------------------------


def question(number, message=None):
    return FetchLetter(number, letter_of(text(number) if message is None else message).sha256)


def test_a_peer_gets_what_is_stored():
    node = Node("b", count=1, stored=[1]).finish()
    node.letters.asked("b", question(1))
    node.finish()
    assert node.sent == [("b", LetterFetched(1, text(1)))]


def test_a_peer_gets_what_is_not_durable_yet():
    node = Node("b")
    node.letters.apply(9, [node.ledger.put(1, text(1))], [])
    node.letters.asked("b", question(1))
    assert node.sent == [("b", LetterFetched(1, text(1)))]


@pytest.mark.parametrize("number", [1, 2, 3], ids=["lacking", "another", "unknown"])
def test_a_peer_hears_at_once_what_is_not_here(number):
    node = Node("c", count=2, stored=[2]).finish()
    node.asked()
    node.letters.asked("b", question(number, b"other"))
    assert node.sent == [("b", LetterFetched(number, b""))]


def test_a_peers_question_may_find_damage():
    node = Node("c", count=1, stored=[1]).finish()
    node.system.letters[1] = Row(bytes(32), b"")
    node.letters.asked("b", question(1))
    node.finish()
    assert node.asked() == [("c", 1)]
    assert node.sent == [("b", LetterFetched(1, b""))]


def test_what_is_read_for_peers_is_bounded():
    node = Node("b")
    for number in (1, 2, 3):
        node.ledger.put(number, bytes(SERVED_BYTES_MAX // 2))
        node.system.letters[number] = Row(
            node.ledger.letters[number].sha256, bytes(SERVED_BYTES_MAX // 2)
        )
    node.letters.begin()
    node.finish()
    for number in (1, 2, 3):
        node.letters.asked("b", FetchLetter(number, node.ledger.letters[number].sha256))
    node.finish()
    assert [message.number for _, message in node.sent] == [1, 2]


# --- The scrub ------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_letter_that_nobody_reads_is_found_and_mended():
    count = 100
    node = Node("b", count=count, stored=range(1, count + 1)).finish()
    node.system.letters[77] = Row(node.system.letters[77].sha256, b"letter !!")
    for _ in range(5):
        node.wait(0.5).finish()
    assert node.asked() == [("b", 77)]
    node.answer(77, name="b")
    assert node.letters.whole
    assert node.system.letters[77].message == text(77)


def test_the_scrub_comes_round_again():
    node = Node("b", count=3, stored=[1, 2, 3]).finish()
    for _ in range(5):
        node.wait(0.5).finish()
    node.system.letters[1] = Row(node.system.letters[1].sha256, b"!")
    for _ in range(5):
        node.wait(0.5).finish()
    assert node.letters.lacking == 1
