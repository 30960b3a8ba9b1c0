"""What becomes of messages between the door and the log, on a clock that tests hold."""

import pytest
from twisted.internet.task import Clock

from crowd.command import Accept, OpenSession, decode_command
from crowd.errors import BacklogFullError, DrainingError, NoQuorumError, OutcomeUnknownError
from crowd.raft.proposer import (
    BATCH_BYTES_MAX,
    GATHER_S,
    IN_FLIGHT_MAX,
    OFFER_AGAIN_S,
    SECOND_MIN,
    Proposer,
)


class FakeLedger:
    """Sessions and accepted numbers, as the log would say."""

    def __init__(self):
        self.nonces, self.accepted, self.open, self.tip = {}, {}, set(), 0

    def session_of(self, node, nonce):
        return self.nonces.get((node, nonce))

    def session_is_open(self, session):
        return session in self.open

    def acceptance(self, session, number):
        return self.accepted.get((session, number))

    def take(self, command):
        if isinstance(command, OpenSession):
            session = len(self.nonces) + 1
            self.nonces[command.node, command.nonce] = session
            self.open = {session}
        elif (
            command.session in self.open and (command.session, command.number) not in self.accepted
        ):
            self.accepted[command.session, command.number] = self.tip + 1
            self.tip += len(command.messages)


class Node:
    def __init__(self, *, session=True):
        self.clock, self.ledger, self.offered, self.reachable = Clock(), FakeLedger(), [], True
        self.drawn = 0
        self.proposer = Proposer("a", self.clock, self.offer, self.nonce, acknowledge_within_s=5.0)
        self.proposer.start(self.ledger)
        if session:
            self.pump()
            self.commit()

    def nonce(self):
        self.drawn += 1
        return b"%016d" % self.drawn

    def offer(self, command, encoded):
        assert decode_command(encoded) == command
        if self.reachable:
            self.offered.append(command)
        return self.reachable

    def accept(self, body=b"x"):
        heard = []
        self.proposer.accept(1, body).addBoth(
            lambda result: heard.append(getattr(result, "value", result))
        )
        return heard

    def pump(self, seconds=0.0):
        for _ in range(max(1, round(seconds / 0.05))):
            self.clock.advance(min(seconds, 0.05))
        return self

    def commit(self):
        """Apply all that was offered, as the log would."""
        taken, self.offered = self.offered, []
        for command in taken:
            self.ledger.take(command)
        self.proposer.applied()
        return taken


def test_messages_of_one_turn_are_one_proposal():
    node = Node()
    heard = [node.accept(b"%d" % place) for place in range(10)]
    node.pump()
    (accept,) = node.offered
    assert accept.messages == tuple(b"%d" % place for place in range(10))
    node.commit()
    assert heard == [[place] for place in range(1, 11)]


def in_waves(count=SECOND_MIN):
    """Return a node whose last batch was of `count` messages."""
    node = Node()
    for _ in range(count):
        node.accept()
    node.pump()
    node.commit()
    return node


def test_producers_that_post_again_become_one_wave():
    """Each posts again when it is answered; after a turn or two all share one entry."""
    node = in_waves(40)

    def post(count):
        for _ in range(count):
            node.accept()

    post(40)
    node.pump()  # under way alone
    post(24)
    node.pump()
    sizes = []
    for _ in range(3):
        (accept,) = node.commit()
        sizes.append(len(accept.messages))
        post(len(accept.messages))
        node.pump()
    assert sizes == [40, 64, 64]


def test_a_wave_that_does_not_come_is_not_waited_for():
    node = in_waves(50)
    heard = node.accept()
    node.pump()
    assert node.offered == []
    node.clock.advance(GATHER_S)
    node.commit()
    assert heard == [51]


def test_one_who_is_alone_does_not_wait_for_others():
    node = Node()
    for turn in range(5):
        heard = node.accept()
        node.pump()
        node.commit()
        assert heard == [turn + 1]


def test_what_comes_while_proposals_are_under_way_gathers():
    node = Node()
    for turn in range(IN_FLIGHT_MAX + 5):
        node.accept(b"%d" % turn)
        node.pump()
    assert len(node.offered) == IN_FLIGHT_MAX
    node.commit()
    node.pump()
    (gathered,) = node.offered
    assert len(gathered.messages) == 5


def test_beside_a_wave_only_a_large_batch_is_under_way():
    node = in_waves()
    for _ in range(SECOND_MIN + 100):
        node.accept()
    node.pump(0.01)
    assert [len(accept.messages) for accept in node.offered] == [SECOND_MIN]
    for _ in range(28):
        node.accept()
    assert [len(accept.messages) for accept in node.offered] == [SECOND_MIN] * 2


def test_an_entry_stays_within_its_bound_unless_one_message_is_larger():
    node = Node()
    for size in (600_000, 600_000, 3_000_000, 10):
        node.accept(b"x" * size)
    node.pump()
    seen = []
    while node.offered:
        seen += [[len(m) for m in accept.messages] for accept in node.commit()]
        node.pump()
    assert seen == [[600_000], [600_000], [3_000_000], [10]]
    assert all(len(sizes) == 1 or sum(sizes) <= BATCH_BYTES_MAX for sizes in seen)


def test_silence_offers_the_same_number_again():
    node = Node()
    heard = node.accept()
    node.pump(OFFER_AGAIN_S + 0.2)
    assert [accept.number for accept in node.offered] == [1, 1]
    node.commit()
    assert heard == [1]
    assert node.ledger.tip == 1


def test_a_new_leader_is_offered_everything_at_once():
    node = Node()
    node.accept()
    node.pump()
    node.offered.clear()  # lost with the old leader
    node.proposer.leader_changed()
    assert [accept.number for accept in node.offered] == [1]


def test_what_was_offered_and_not_seen_is_unknown():
    node = Node()
    heard = node.accept()
    node.pump(5.2)
    assert isinstance(heard[0], OutcomeUnknownError)
    assert not node.proposer.waiting


def test_what_was_never_offered_is_not_stored():
    node = Node()
    node.reachable = False
    heard = node.accept()
    node.pump(5.2)
    assert isinstance(heard[0], NoQuorumError)


def test_each_message_has_its_own_deadline():
    node = Node()
    for _ in range(IN_FLIGHT_MAX):
        node.accept()
        node.pump()
    old = node.accept()
    node.pump(3)
    young = node.accept()
    node.pump(2.5)
    assert isinstance(old[0], (NoQuorumError, OutcomeUnknownError))
    assert young == []


def test_a_number_that_was_given_up_is_never_used_again():
    node = Node()
    node.accept()
    node.pump(5.2)
    node.offered.clear()
    heard = node.accept()
    node.pump()
    (accept,) = node.offered
    assert (accept.number, accept.low) == (2, 2)
    node.commit()
    assert heard == [1]


def test_low_is_the_oldest_that_is_still_wanted():
    node = Node()
    for _ in range(IN_FLIGHT_MAX):
        node.accept()
        node.pump()
    assert [(a.number, a.low) for a in node.offered if isinstance(a, Accept)] == [
        (number + 1, 1) for number in range(IN_FLIGHT_MAX)
    ]


def test_a_closed_session_is_opened_anew_and_its_proposals_are_unknown():
    node = Node()
    heard = node.accept()
    node.pump()
    node.ledger.open = set()
    node.proposer.applied()
    assert isinstance(heard[0], OutcomeUnknownError)
    node.offered.clear()
    node.pump(0.1)
    node.commit()
    heard = node.accept()
    node.pump()
    node.commit()
    assert heard == [1]


def test_draining_refuses_the_new_and_waits_for_the_old():
    node = Node()
    heard, drained = node.accept(), []
    node.proposer.drain().addCallback(drained.append)
    assert isinstance(node.accept()[0], DrainingError)
    assert not drained
    node.pump()
    node.commit()
    assert heard == [1]
    assert drained == [None]


@pytest.mark.parametrize("session", [True, False])
def test_a_producer_always_hears_something(session):
    node = Node(session=session)
    heard = [node.accept() for _ in range(5)]
    node.pump()
    node.proposer.stop()
    assert all(len(one) == 1 for one in heard)


class Waiter:
    """Who waits for one of many messages."""

    def __init__(self):
        self.heard = []
        self.callback = self.errback = self.heard.append


def many(node, count, waited_s=0.0, route=1):
    waiters = [Waiter() for _ in range(count)]
    node.proposer.accept_many(
        [(route, b"%d" % place, waiter) for place, waiter in enumerate(waiters)], waited_s
    )
    return [waiter.heard for waiter in waiters]


def test_many_messages_at_once_are_like_each_of_them():
    node = Node()
    heard = [node.accept(), *many(node, 3), node.accept()]
    assert node.proposer.waiting_count == 5
    node.pump()
    (accept,) = node.offered
    assert accept.messages == (b"x", b"0", b"1", b"2", b"x")
    node.commit()
    assert heard == [[place] for place in range(1, 6)]
    assert not node.proposer.waiting


def test_many_messages_are_refused_at_once_where_one_is():
    node = Node()
    node.proposer.refusals = {2: BacklogFullError("full")}
    assert isinstance(many(node, 2, route=2)[1][0], BacklogFullError)
    assert many(node, 1) == [[]]
    node.proposer.drain()
    assert isinstance(many(node, 1)[0][0], DrainingError)
    assert node.proposer.waiting_count == 1


def test_what_messages_waited_before_they_came_counts():
    node = Node()
    node.reachable = False
    heard = many(node, 2, waited_s=3.0)
    node.pump(1.9)
    assert heard == [[], []]
    node.pump(0.2)
    assert all(isinstance(one, NoQuorumError) for (one,) in heard)
    assert node.proposer.waiting_count == 0


def test_a_deadline_is_not_before_those_of_the_messages_before_it():
    """So one look at the oldest is enough to find who waited for too long."""
    node = Node(session=False)
    first = node.accept()
    (late,) = many(node, 1, waited_s=4.0)
    node.pump(4.9)
    assert (first, late) == ([], [])
    node.pump(0.2)
    assert isinstance(first[0], NoQuorumError)
    assert isinstance(late[0], NoQuorumError)
