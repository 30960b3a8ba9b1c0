"""What becomes of messages between the door and the log, on a clock that tests hold."""

import pytest
from twisted.internet.task import Clock

from crowd.command import Accept, OpenSession, decode_command
from crowd.errors import (
    BacklogFullError,
    DrainingError,
    KeyReusedError,
    NoQuorumError,
    OutcomeUnknownError,
    RefusedError,
)
from crowd.idempotency import Grouped, Replayed, keyed, keyed_messages, pack_left_out
from crowd.raft.proposer import (
    BATCH_BYTES_MAX,
    BATCH_MESSAGES_MAX,
    GATHER_S,
    GROUPS_BYTES_MAX,
    IN_FLIGHT_MAX,
    OFFER_AGAIN_S,
    SECOND_BYTES,
    SECOND_MIN,
    Proposer,
)


class FakeLedger:
    """Sessions and accepted numbers, as the log would say."""

    def __init__(self):
        self.nonces, self.accepted, self.open, self.tip = {}, {}, set(), 0
        self.known_keys, self.without = {}, {}

    def session_of(self, node, nonce):
        return self.nonces.get((node, nonce))

    def session_is_open(self, session):
        return session in self.open

    def acceptance(self, session, number):
        return self.accepted.get((session, number))

    def left_out(self, session, number):
        return pack_left_out(self.without.get((session, number), []))

    def known(self, keys, messages):
        spans = []
        for place, count, key, request in keyed_messages(keys):
            first, position = self.known_keys.get(key, (None, 0))
            if first is None:
                return b""
            spans.append((place, count, position if first == request else 0))
        return pack_left_out(spans) if sum(size for _, size, _ in spans) == messages else b""

    def take(self, command):
        if isinstance(command, OpenSession):
            session = len(self.nonces) + 1
            self.nonces[command.node, command.nonce] = session
            self.open = {session}
        elif (
            command.session in self.open and (command.session, command.number) not in self.accepted
        ):
            self.accepted[command.session, command.number] = self.tip + 1
            without = self.without[command.session, command.number] = []
            gone = 0
            for place, count, key, request in keyed_messages(command.keys):
                if key not in self.known_keys:
                    self.known_keys[key] = request, self.tip + 1 + place - gone
                    continue
                first, position = self.known_keys[key]
                without.append((place, count, position if first == request else 0))
                gone += count
            self.tip += len(command.messages) - gone


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

    def accept(self, body=b"x", key=None, request="r"):
        heard = []
        digests = b"" if key is None else key.ljust(16, b".") + request.encode() * 16
        self.proposer.accept(1, body, digests).addBoth(
            lambda result: heard.append(getattr(result, "value", result))
        )
        return heard

    def accept_group(self, *bodies, keys=b"", route=1):
        heard = []
        self.proposer.accept_group(route, bodies, keys).addBoth(
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


def test_beside_a_wave_groups_of_many_bytes_are_under_way():
    node = in_waves()
    group = [bytes(SECOND_BYTES // 20)] * 10
    node.accept()
    node.pump(0.01)
    node.accept_group(*group)
    assert [len(accept.messages) for accept in node.offered] == [1]
    node.accept_group(*group)
    assert [len(accept.messages) for accept in node.offered] == [1, 20]


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


# --- Idempotency keys -----------------------------------------------------------------------------


def kinds_of(heard):
    """Return what each producer heard: a value, or an error's type."""
    return [one if isinstance(one, int | Replayed | Grouped) else type(one) for (one,) in heard]


def test_each_message_of_a_batch_hears_its_own_result():
    """New ones and those without a key get positions; a known one the first's, or a refusal."""
    node = Node()
    known = node.accept(b"one", b"k1")
    node.pump().commit()
    assert known == [1]
    heard = [
        node.accept(b"two"),
        node.accept(b"one", b"k1"),
        node.accept(b"three", b"k2"),
        node.accept(b"other", b"k1", "s"),
        node.accept(b"four"),
    ]
    node.pump().commit()
    assert kinds_of(heard) == [2, Replayed(1), 3, KeyReusedError, 4]
    assert node.proposer.waiting_count == 0


def test_the_same_key_twice_in_one_batch_is_stored_once():
    node = Node()
    heard = [node.accept(b"x", b"k") for _ in range(3)]
    node.pump()
    (accept,) = node.offered
    assert [place for place, *_ in keyed_messages(accept.keys)] == [0, 1, 2]
    node.commit()
    assert kinds_of(heard) == [1, Replayed(1), Replayed(1)]


def test_a_batch_of_known_keys_alone_stores_nothing():
    node = Node()
    node.accept(b"x", b"k")
    node.pump().commit()
    heard = [node.accept(b"x", b"k"), node.accept(b"x", b"k", "s")]
    node.pump().commit()
    assert kinds_of(heard) == [Replayed(1), KeyReusedError]
    assert node.ledger.tip == 1


def test_a_proposal_that_is_offered_again_has_the_same_results():
    """The old leader may have stored it: the second copy changes nothing, and all hear the first."""
    node = Node()
    heard = [node.accept(b"x", b"k"), node.accept(b"x", b"k"), node.accept(b"y")]
    node.pump()
    node.proposer.leader_changed()
    first, second = node.offered
    assert first == second
    node.commit()
    assert kinds_of(heard) == [1, Replayed(1), 2]
    assert node.ledger.tip == 2


def test_keys_stay_with_their_messages_when_older_ones_were_given_up():
    """What was never offered is taken out of a proposal; places move, keys with them."""
    node = Node()
    node.reachable = False
    early = [node.accept(b"1", b"k1"), node.accept(b"2")]
    node.pump()
    assert node.proposer.waiting_count == 2
    node.pump(5.1)
    assert kinds_of(early) == [NoQuorumError, NoQuorumError]
    late = [node.accept(b"3", b"k3"), node.accept(b"4"), node.accept(b"5", b"k3")]
    node.reachable = True
    node.pump(1.0)
    (accept,) = node.offered
    assert [place for place, *_ in keyed_messages(accept.keys)] == [0, 2]
    node.commit()
    assert kinds_of(late) == [1, 2, Replayed(1)]


def test_who_gave_up_does_not_hear_again_and_the_others_hear_their_own():
    """Deadlines differ within a batch: an older one's outcome is unknown, the newer ones' are not."""
    node = Node()
    for _ in range(IN_FLIGHT_MAX):
        node.accept()
        node.pump()
    node.pump(3.0)
    old = node.accept(b"x", b"k")
    node.pump(1.0)
    young = [node.accept(b"x", b"k"), node.accept(b"y")]
    node.commit()  # what was under way: all else gathers in one proposal
    node.pump()
    (accept,) = node.offered
    assert len(accept.messages) == 3
    node.pump(4.5)
    assert kinds_of([old]) == [OutcomeUnknownError]
    node.commit()
    assert kinds_of(young) == [Replayed(IN_FLIGHT_MAX + 1), IN_FLIGHT_MAX + 2]


REFUSALS = [BacklogFullError("full", retry_after_s=9), DrainingError("stopping")]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_i2_what_is_stored_already_is_not_refused(refusal):
    """Its producer hears the first answer again, or 422: "not stored" would be untrue."""
    node = Node()
    node.accept(b"x", b"k")
    node.pump().commit()
    node.proposer.refusal = refusal
    heard = [
        node.accept(b"x", b"k"), node.accept(b"y", b"k", "s"), node.accept(b"z", b"new"),
        node.accept(b"x"),
    ]  # fmt: skip
    assert kinds_of(heard) == [Replayed(1), KeyReusedError, type(refusal), type(refusal)]
    assert node.proposer.refused == 2
    node.pump()
    assert (node.offered, node.proposer.waiting) == ([], False)


def test_i2_a_route_that_is_refused_answers_what_is_stored_already():
    node = Node()
    node.accept(b"x", b"k")
    node.pump().commit()
    node.proposer.refusals = {1: BacklogFullError("full")}
    heard = [node.accept(b"x", b"k"), node.accept(b"x", b"new")]
    assert kinds_of(heard) == [Replayed(1), BacklogFullError]


def test_before_there_is_a_ledger_every_key_is_refused():
    proposer = Proposer("a", Clock(), None, None, acknowledge_within_s=5.0)
    proposer.refusal = DrainingError("stopping")
    heard = []
    proposer.accept(1, b"x", b"k" * 32).addErrback(lambda failure: heard.append(failure.type))
    assert heard == [DrainingError]


# --- Groups ---------------------------------------------------------------------------------------


def test_a_group_is_in_one_entry_and_heard_of_once():
    """Beside others: its messages stand one behind the other."""
    node = Node()
    heard = [node.accept(b"a"), node.accept_group(b"b", b"c", b"d"), node.accept(b"e")]
    assert node.proposer.waiting_count == 3
    node.pump()
    (accept,) = node.offered
    assert accept.messages == (b"a", b"b", b"c", b"d", b"e")
    assert accept.routes == (1,) * 5
    node.commit()
    assert heard == [[1], [Grouped(2, 3)], [5]]
    assert node.proposer.waiting_count == 0


def test_a_group_is_never_split():
    node = Node()
    heard = [node.accept_group(*[b"x"] * 3_000), node.accept_group(*[b"x"] * 3_000)]
    half = b"x" * (BATCH_BYTES_MAX // 2 - 20)
    heard += [node.accept_group(half, b"1"), node.accept(half), node.accept_group(half, half)]
    node.pump()
    assert [len(command.messages) for command in node.offered] == [3_000, 3_002, 1, 2]
    while node.offered:
        assert all(len(command.messages) <= BATCH_MESSAGES_MAX for command in node.offered)
        node.commit()
        node.pump()
    firsts = [getattr(one[0], "first", one[0]) for one in heard]
    assert firsts == [1, 3_001, 6_001, 6_003, 6_004]


def test_keys_of_groups_move_with_them():
    """One key for a whole group, and one for each of another's messages."""
    node = Node()
    whole = keyed(0, b"w" * 32, 3)
    each = keyed(0, b"x" * 32) + keyed(1, b"y" * 32)
    heard = [node.accept(b"1"), node.accept_group(b"2", b"3", b"4", keys=whole)]
    heard.append(node.accept_group(b"5", b"6", keys=each))
    node.pump()
    (accept,) = node.offered
    assert [(place, count) for place, count, *_ in keyed_messages(accept.keys)] == [
        (1, 3), (4, 1), (5, 1),
    ]  # fmt: skip
    node.commit()
    assert heard == [[1], [Grouped(2, 3)], [Grouped(5, 2)]]
    heard = [
        node.accept(b"7"),
        node.accept_group(b"2", b"3", b"4", keys=whole),
        node.accept_group(b"8", b"6", b"9", keys=keyed(1, b"y" * 32)),
        node.accept_group(b"1", b"2", b"3", keys=keyed(0, b"w" * 16 + b"z" * 16, 3)),
        node.accept(b"10"),
    ]
    node.pump().commit()
    assert kinds_of(heard) == [
        7, Grouped(8, 3, ((0, 3, 2),)), Grouped(8, 3, ((1, 1, 6),)), KeyReusedError, 10,
    ]  # fmt: skip
    assert heard[2][0].positions() == [8, 6, 9]


def test_a_group_that_was_never_offered_is_not_stored_and_one_that_was_is_unknown():
    node = Node()
    node.reachable = False
    early = [node.accept(b"0"), node.accept_group(b"1", b"2", keys=keyed(0, b"k" * 32, 2))]
    node.pump(5.1)
    assert kinds_of(early) == [NoQuorumError, NoQuorumError]
    late = [node.accept(b"3"), node.accept_group(b"4", b"5", keys=keyed(0, b"k" * 32, 2))]
    node.reachable = True
    node.pump(1.0)
    (accept,) = node.offered
    assert accept.messages == (b"3", b"4", b"5")
    assert [(place, count) for place, count, *_ in keyed_messages(accept.keys)] == [(1, 2)]
    node.pump(5.1)
    assert kinds_of(late) == [OutcomeUnknownError, OutcomeUnknownError]
    assert node.proposer.waiting_count == 0


def test_a_group_is_refused_as_a_message_is():
    node = Node()
    node.proposer.refusals = {2: DrainingError("full")}
    assert kinds_of([node.accept_group(b"1", route=2)]) == [DrainingError]
    node.proposer.refusal = DrainingError("stopping")
    assert kinds_of([node.accept_group(b"1")]) == [DrainingError]


def test_i2_a_group_that_is_stored_already_is_not_refused():
    """All of it, under one key or each message's own; a part of it is not enough."""
    node = Node()
    whole, each = keyed(0, b"w" * 32, 2), keyed(0, b"x" * 32) + keyed(1, b"y" * 32)
    node.accept_group(b"1", b"2", keys=whole)
    node.accept_group(b"3", b"4", keys=each)
    node.pump().commit()
    node.proposer.refusals = {1: BacklogFullError("full")}
    known = [node.accept_group(b"1", b"2", keys=whole), node.accept_group(b"4", b"3", keys=each)]
    assert [one.positions() for (one,) in known] == [[1, 2], [3, 4]]
    assert [sum(count for _, count, _ in one.replayed) for (one,) in known] == [2, 2]
    heard = [
        node.accept_group(b"1", b"0", keys=keyed(0, b"w" * 16 + b"z" * 16, 2)),
        node.accept_group(b"3", b"4", b"5", keys=each),
        node.accept_group(b"3", b"5", keys=keyed(0, b"x" * 32) + keyed(1, b"z" * 32)),
        node.accept_group(b"1", b"2"),
    ]
    assert kinds_of(heard) == [KeyReusedError, *[BacklogFullError] * 3]
    assert node.proposer.refused == 3


def test_i7_groups_that_wait_have_a_bound():
    """While nothing is taken; what was taken makes room again."""
    node = Node(session=False)
    million = b"x" * (BATCH_BYTES_MAX - 100)
    heard = [node.accept_group(million) for _ in range(GROUPS_BYTES_MAX // len(million) + 2)]
    assert [kinds_of([one]) for one in heard if one] == [[RefusedError]] * 2
    node.proposer.stop()
    assert all(heard)
    assert node.proposer._groups_bytes == 0


class Waiter:
    """Who waits for one of many messages."""

    def __init__(self):
        self.heard = []
        self.callback = self.errback = self.heard.append


def many(node, count, waited_s=0.0, route=1):
    return wanted(node, [(b"%d" % place, b"") for place in range(count)], waited_s, route)


def wanted(node, places, waited_s=0.0, route=1):
    """Offer messages and groups with their keys; return what each hears."""
    waiters = [Waiter() for _ in places]
    node.proposer.accept_many(
        [
            (route, stored, keys, waiter)
            for (stored, keys), waiter in zip(places, waiters, strict=True)
        ],
        waited_s,
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


def test_i2_among_many_too_what_is_stored_already_is_not_refused():
    node = Node()
    group = ((b"b", b"c"), keyed(0, b"k" * 32, 2))
    places = [(b"a", b"j" * 32), group, (b"d", b"n" * 32)]
    wanted(node, places[:2])
    node.pump().commit()
    node.proposer.refusals = {1: BacklogFullError("full")}
    first, second, new = wanted(node, places)
    assert first == [Replayed(1)]
    assert second[0].positions() == [2, 3]
    assert kinds_of([new]) == [BacklogFullError]
    assert not node.proposer.waiting


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


def test_keys_and_groups_come_among_many_as_they_do_alone():
    node = Node()
    group = ((b"b", b"c"), keyed(0, b"k" * 32, 2))
    heard = wanted(node, [(b"a", b"j" * 32), group, (b"d", b"")])
    assert node.proposer.waiting_count == 3
    node.pump()
    (accept,) = node.offered
    assert accept.messages == (b"a", b"b", b"c", b"d")
    assert [(place, count) for place, count, *_ in keyed_messages(accept.keys)] == [(0, 1), (1, 2)]
    node.commit()
    assert heard == [[1], [Grouped(2, 2)], [4]]
    again = wanted(node, [(b"a", b"j" * 32), group, (b"a", b"j" * 16 + b"x" * 16)])
    node.pump().commit()
    assert kinds_of(again) == [Replayed(1), Grouped(5, 2, ((0, 2, 2),)), KeyReusedError]
    assert node.proposer.waiting_count == 0


def test_i7_groups_among_many_have_the_bound_of_all():
    node = Node(session=False)
    million = b"x" * (BATCH_BYTES_MAX - 100)
    places = [((million,), b"")] * (GROUPS_BYTES_MAX // len(million) + 2)
    heard = wanted(node, places)
    assert [kinds_of([one]) for one in heard if one] == [[RefusedError]] * 2
    node.proposer.stop()
    assert node.proposer._groups_bytes == 0


def test_a_group_larger_than_the_bound_gets_in_alone():
    """However it comes, or its producer would be told to come again for ever."""
    huge = b"x" * (GROUPS_BYTES_MAX + 1)
    assert not Node(session=False).accept_group(huge)
    node = Node(session=False)
    heard = wanted(node, [((huge,), b""), ((b"small",), b"")])
    assert [kinds_of([one]) for one in heard if one] == [[RefusedError]]
    assert node.proposer.refused == 1
