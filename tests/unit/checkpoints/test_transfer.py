"""A snapshot between two nodes whose links drop messages, end, and change leaders."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.raft.transfer import (
    GIVE_UP_S,
    PIECES_UNDER_WAY_MAX,
    PROBE_S,
    RESEND_S,
    Receiving,
    Sending,
)
from crowd.raft.wire import SnapshotPiece, SnapshotWanted
from tests.unit.checkpoints.rig import Rig, loaded

PIECE_BYTES = 32


class Pair:
    """A leader with a floor and a follower, and a link that the test moves by hand."""

    def __init__(self, *, index: int = 50, term: int = 9) -> None:
        self.leader, self.follower = Rig(), Rig()
        self.leader.take(index)
        self.leader.release(index)
        self.now_s = 100.0
        self.there: list[SnapshotPiece] = []
        self.back: list[SnapshotWanted] = []
        self.completed: list = []
        self.sending = self.new_sending(term)
        self.receiving = Receiving(
            self.follower.store, send=self.back.append, on_complete=self.completed.append
        )
        self.sending.start()

    def new_sending(self, term: int) -> Sending:
        store = self.leader.store
        return Sending(store, store.floor, term, piece_bytes=PIECE_BYTES)

    def send(self) -> list[tuple[int, int]]:
        """Put what is due on the link."""
        due = self.sending.pieces_due(self.now_s)
        self.there += [self.sending.piece(*place) for place in due]
        return due

    def arrive(self) -> None:
        """All that is under way arrives, and the disk does its work."""
        while self.there:
            self.receiving.take(self.there.pop(0))
        self.follower.writer.finish()

    def answer(self) -> None:
        while self.back:
            self.sending.wanted(self.back.pop(0))

    def round(self) -> None:
        self.send()
        self.arrive()
        self.answer()

    def finish(self, *, rounds: int = 200) -> None:
        for _ in range(rounds):
            self.round()
            if self.completed:
                return
            self.now_s += RESEND_S / 4
        raise AssertionError("the snapshot never arrived")

    def check(self) -> None:
        (received,) = self.completed
        store = self.follower.store
        assert store.received == received
        assert store.load(received) == loaded(received.index)


@pytest.fixture
def pair():
    return Pair()


def test_a_snapshot_arrives(pair):
    """Whole, verified, not yet installed; with few pieces under way at a time."""
    rounds = 0
    while not pair.completed:
        due = pair.send()
        assert len(due) <= PIECES_UNDER_WAY_MAX
        pair.arrive()
        pair.answer()
        rounds += 1
    pair.check()
    assert pair.sending.complete
    assert rounds == -(-pair.sending.checkpoint.size_bytes // PIECE_BYTES // PIECES_UNDER_WAY_MAX)
    assert not pair.receiving.active
    assert pair.sending.pieces_due(pair.now_s) == []


def test_nothing_more_is_sent_than_is_answered(pair):
    """A follower with a slow disk slows the sender; the leader's memory holds four pieces."""
    assert len(pair.send()) == PIECES_UNDER_WAY_MAX
    assert pair.send() == []
    for message in pair.there:
        pair.receiving.take(message)
    pair.there.clear()
    assert pair.send() == []
    pair.follower.writer.work()
    pair.answer()
    assert pair.send() == [(4 * PIECE_BYTES, PIECE_BYTES)]


def test_after_a_second_of_silence_a_piece_is_sent_again(pair):
    """From the offset that the follower named last."""
    pair.round()
    pair.send()
    del pair.there[1]
    pair.arrive()
    pair.answer()
    wanted = 5 * PIECE_BYTES
    assert pair.sending.offset == wanted
    pair.there.clear()
    assert pair.send() == [(8 * PIECE_BYTES, PIECE_BYTES)]
    pair.there.clear()
    pair.now_s += RESEND_S - 0.01
    assert pair.send() == []
    pair.now_s += 0.01
    assert pair.send()[0] == (wanted, PIECE_BYTES)
    pair.finish()
    pair.check()


def test_a_slow_disk_is_not_taken_for_loss_twice(pair):
    """Pieces that come again while they are being written do no harm, and answers never go back."""
    pair.send()
    for message in pair.there:
        pair.receiving.take(message)
    again, pair.there = pair.there, []
    for message in again:
        pair.receiving.take(message)
    pair.follower.writer.finish()
    offsets = [message.offset for message in pair.back]
    assert offsets == sorted(offsets)
    pair.finish()
    assert pair.sending.refusals == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30), st.floats(0, 0.5))
def test_it_arrives_whatever_is_lost(seed, loss):
    """Pieces and answers drop, links end, the follower restarts: in the end it is there."""
    chance = random.Random(seed)
    pair = Pair()
    for number in range(400):
        pair.send()
        pair.there = [message for message in pair.there if chance.random() >= loss]
        pair.arrive()
        pair.back[:] = [message for message in pair.back if chance.random() >= loss]
        pair.answer()
        if pair.completed:
            break
        fate = chance.random() if number < 100 else 1.0  # then the links hold
        if fate < loss / 10:  # the link ends
            pair.there.clear()
            pair.back.clear()
            pair.receiving.cancel()
            pair.sending.start()
        elif fate < loss / 5:  # the follower alone forgets
            pair.receiving.cancel()
        pair.now_s += RESEND_S / 2
    pair.check()
    pair.follower.writer.finish()
    assert not [name for name in pair.follower.names if name.endswith(".part")]


def test_a_new_link_begins_anew(pair):
    """What was under way on the old one is forgotten by both sides."""
    pair.round()
    pair.send()
    pair.there.clear()
    pair.receiving.cancel()
    pair.follower.writer.finish()
    assert pair.follower.names == []
    pair.sending.start()
    assert pair.send()[0] == (0, PIECE_BYTES)
    pair.finish()
    pair.check()


def test_a_new_leader_in_the_middle(pair):
    """Its snapshot takes the place of the old one's, whose late pieces are ignored."""
    pair.round()
    pair.send()
    late, pair.there = pair.there, []
    pair.leader.take(60)
    pair.leader.release(60)
    pair.sending.stop()
    pair.leader.writer.finish()
    assert pair.leader.floor == 60
    pair.sending = pair.new_sending(10)
    pair.sending.start()
    pair.send()
    pair.receiving.take(pair.there.pop(0))
    for message in late:
        pair.receiving.take(message)
    pair.follower.writer.finish()
    assert {message.term for message in pair.back} == {10}
    pair.finish()
    pair.check()
    assert pair.completed[0].index == 60
    assert pair.follower.names == ["0000000000000060.install"]


def test_the_same_leader_again_in_a_later_term(pair):
    """A change of term begins anew: nobody knows what was under way."""
    pair.round()
    pair.sending.stop()
    pair.sending = pair.new_sending(10)
    pair.sending.start()
    pair.finish()
    pair.check()


def test_a_foreign_answer_changes_nothing(pair):
    """Another term's, another checkpoint's, or one past the end."""
    pair.round()
    offset, digest = pair.sending.offset, pair.sending.checkpoint.digest
    pair.sending.wanted(SnapshotWanted(8, digest, 0))
    pair.sending.wanted(SnapshotWanted(9, bytes(32), 0))
    pair.sending.wanted(SnapshotWanted(9, digest, 1 << 40))
    assert pair.sending.offset == offset


def test_a_snapshot_damaged_at_its_source_is_refused(pair):
    """The follower keeps nothing of it; the leader hears so, and can look at its own copy."""
    pair.leader.flip("0000000000000050.floor", 8 * 200)
    with pytest.raises(AssertionError, match="never arrived"):
        pair.finish(rounds=12)
    assert pair.sending.refusals >= 1
    assert pair.follower.store.received is None
    assert not pair.follower.fatal


def test_a_snapshot_damaged_on_the_way_is_sent_again(pair):
    """One flipped bit in one piece: refused by its checksum, then received whole."""
    pair.send()
    first = pair.there[1]
    pair.there[1] = SnapshotPiece(
        first.term,
        first.index,
        first.index_term,
        first.digest,
        first.total,
        first.offset,
        bytes([first.data[0] ^ 1]) + first.data[1:],
    )
    pair.finish()
    pair.check()
    assert pair.sending.refusals == 1


def test_a_snapshot_that_is_not_what_it_says_is_refused(pair):
    """Its file must be of the index and term that the pieces name."""
    for _ in range(10):
        due = pair.send()
        for offset, size_bytes in due:
            piece = pair.sending.piece(offset, size_bytes)
            wrong = SnapshotPiece(9, 51, piece.index_term, *piece_rest(piece))
            pair.receiving.take(wrong)
        pair.there.clear()
        pair.follower.writer.finish()
        pair.answer()
    assert not pair.completed
    assert pair.follower.store.received is None
    assert pair.sending.refusals >= 1


def piece_rest(piece: SnapshotPiece) -> tuple:
    return piece.digest, piece.total, piece.offset, piece.data


def test_an_absurd_total_is_ignored(pair):
    """Nothing is kept of it, and nothing answered."""
    pair.receiving.take(SnapshotPiece(9, 1, 1, bytes(32), 1 << 62, 0, b"x"))
    assert not pair.receiving.active
    assert not pair.back


def test_without_space_it_comes_again_until_there_is_some(pair):
    """A full disk costs time, and nothing else."""
    pair.follower.system.fail("allocate", errno.ENOSPC, times=3)
    pair.finish()
    pair.check()
    assert not pair.follower.fatal


def test_a_complete_snapshot_is_asked_after_and_not_sent_again(pair):
    """While the follower verifies and installs it; and it is not received twice."""
    pair.finish()
    assert pair.send() == []
    for _ in range(4):
        pair.now_s += PROBE_S - 1
        assert pair.send() == []
        pair.now_s += 1
        assert len(pair.send()) == 1
        pair.arrive()
        pair.answer()
        assert pair.send() == []
        assert pair.sending.complete
        pair.receiving.cancel()
    assert len(pair.completed) == 1
    assert pair.sending.refusals == 0
    assert not pair.sending.given_up(pair.now_s)


def test_a_silent_follower_is_given_up(pair):
    """It must not hold the leader's floor for ever."""
    assert not pair.sending.given_up(pair.now_s)
    while not pair.sending.given_up(pair.now_s):
        pair.send()
        pair.there.clear()
        assert pair.now_s < 100 + GIVE_UP_S
        pair.now_s += 1
    pair.leader.take(60)
    pair.leader.release(60)
    assert pair.leader.floor == 50
    pair.sending.stop()
    pair.sending.stop()
    pair.leader.writer.finish()
    assert pair.leader.floor == 60
    assert pair.sending.pieces_due(pair.now_s) == []
