"""What becomes of a worker's messages on their way to the engine's process."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from crowd.errors import (
    BacklogFullError,
    DrainingError,
    KeyReusedError,
    MalformedFrameError,
    NoQuorumError,
    OutcomeUnknownError,
    RefusedError,
)
from crowd.idempotency import Grouped, Replayed, keyed
from crowd.raft.proposer import BATCH_MESSAGES_MAX, GROUPS_BYTES_MAX
from crowd.workers.acceptor import (
    GRACE_S,
    OFFER_BYTES_MAX,
    SPREAD_S,
    WINDOW_BYTES,
    LinkAcceptor,
)
from crowd.workers.wire import (
    Accepted,
    Known,
    Offer,
    Refused,
    State,
    Together,
    refusal_of,
)
from tests.unit.workers.pair import pass_s


class Link:
    """Notes what is offered."""

    def __init__(self):
        self.offers, self.writable = [], True

    def write(self, frames):
        self.offers += frames


class Worker:
    def __init__(self):
        self.clock, self.link = Clock(), Link()
        self.acceptor = LinkAcceptor(self.clock, self.link, 5.0)
        self.tell()

    def tell(self, refusal=None, refusals=()):
        self.acceptor.state(State("0123abcd", (("/leads", 1, 0), ("/x", 2, 7)), refusal, refusals))

    def post(self, stored=b"x", route=1, digests=b""):
        heard = []
        self.acceptor.accept(route, stored, digests).addBoth(
            lambda result: heard.append(getattr(result, "value", result))
        )
        return heard

    def post_group(self, *stored, keys=b"", route=1):
        heard = []
        self.acceptor.accept_group(route, stored, keys).addBoth(
            lambda result: heard.append(getattr(result, "value", result))
        )
        return heard

    def turn(self):
        self.clock.advance(0)

    def answer(self, offer, position):
        self.acceptor.accepted(Accepted(offer.batch, 0, len(offer.messages), position))


@pytest.fixture
def worker():
    return Worker()


def test_what_gathered_in_a_turn_is_one_offer(worker):
    heard = [worker.post(b"%d" % place, 1 + place % 2) for place in range(4)]
    worker.turn()
    (offer,) = worker.link.offers
    assert offer.messages == (b"0", b"1", b"2", b"3")
    assert offer.routes == (1, 2, 1, 2)
    assert (offer.batch, offer.waited_us) == (1, 0)
    worker.answer(offer, 40)
    assert heard == [[40], [41], [42], [43]]
    assert not worker.acceptor.waiting


def test_each_message_may_have_a_fate_of_its_own(worker):
    heard = [worker.post() for _ in range(4)]
    worker.turn()
    full = refusal_of(BacklogFullError("full", retry_after_s=9))
    worker.acceptor.accepted(Accepted(1, 2, 2, 9))
    assert heard == [[], [], [9], [10]]
    worker.acceptor.refused(Refused(1, 0, 1, full))
    worker.acceptor.accepted(Accepted(1, 1, 1, 3))
    assert isinstance(heard[0][0], BacklogFullError)
    assert heard[0][0].retry_after_s == 9
    assert heard[1] == [3]


def test_an_offer_stays_within_its_bounds_unless_one_message_is_larger(worker):
    sizes = [OFFER_BYTES_MAX // 2, OFFER_BYTES_MAX // 2, 10, 3 * OFFER_BYTES_MAX, 5]
    for size in sizes:
        worker.post(bytes(size))
    for _ in range(5000):
        worker.post(b"")
    worker.turn()
    counts = [len(offer.messages) for offer in worker.link.offers]
    assert counts[:3] == [1, 2, 1]
    assert max(counts) == 4096
    assert sum(counts) == 5005


def test_i7_above_the_window_nothing_is_offered_until_some_is_answered(worker):
    heard = [worker.post(bytes(OFFER_BYTES_MAX - 16)) for _ in range(12)]
    worker.turn()
    offered = len(worker.link.offers)
    assert OFFER_BYTES_MAX * (offered - 1) < WINDOW_BYTES <= OFFER_BYTES_MAX * offered
    worker.answer(worker.link.offers[0], 1)
    assert heard[0] == [1]
    worker.turn()
    assert len(worker.link.offers) == offered + 1


def test_a_message_above_the_window_gets_through_alone(worker):
    worker.post(bytes(2 * WINDOW_BYTES))
    worker.post(b"small")
    worker.turn()
    assert len(worker.link.offers) == 1
    worker.answer(worker.link.offers[0], 1)
    worker.turn()
    assert worker.link.offers[1].messages == (b"small",)


def test_while_the_engine_does_not_read_messages_gather(worker):
    worker.link.writable = False
    worker.post(b"a")
    worker.turn()
    worker.clock.advance(1.0)
    worker.post(b"b")
    worker.turn()
    assert worker.link.offers == []
    worker.link.writable = True
    worker.acceptor.resume()
    first, second = worker.link.offers
    assert (first.messages, first.waited_us) == ((b"a",), 1_000_000)
    assert (second.messages, second.waited_us) == ((b"b",), 0)


def test_messages_of_one_offer_came_close_to_each_other(worker):
    """They share the oldest one's deadline, so that none is given up much too early."""
    worker.link.writable = False
    for _ in range(5):
        worker.post()
        worker.clock.advance(SPREAD_S * 0.75)
    worker.link.writable = True
    worker.acceptor.resume()
    assert [len(offer.messages) for offer in worker.link.offers] == [2, 2, 1]


def test_what_was_not_offered_in_time_is_not_stored(worker):
    worker.link.writable = False
    heard = worker.post()
    pass_s(worker.clock, 4.9)
    assert heard == []
    pass_s(worker.clock, 0.2)
    assert isinstance(heard[0], NoQuorumError)
    worker.link.writable = True
    worker.acceptor.resume()
    assert worker.link.offers == []


def test_what_was_offered_and_not_answered_is_unknown_a_moment_later(worker):
    """The engine's own answer, which knows more, is to come first."""
    heard = worker.post()
    pass_s(worker.clock, 5.0 + GRACE_S - 0.1)
    assert heard == []
    pass_s(worker.clock, 0.2)
    assert isinstance(heard[0], OutcomeUnknownError)
    worker.answer(worker.link.offers[0], 1)  # late: nobody waits any more
    assert len(heard) == 1
    assert not worker.acceptor.waiting


def test_when_the_engine_is_gone_all_hear_what_is_known(worker):
    offered = worker.post()
    worker.turn()
    worker.link.writable = False
    gathered = worker.post()
    worker.acceptor.end("the node's engine is gone")
    assert isinstance(offered[0], OutcomeUnknownError)
    assert isinstance(gathered[0], NoQuorumError)
    assert isinstance(worker.post()[0], DrainingError)
    pass_s(worker.clock, 10)
    assert len(worker.link.offers) == 1


def test_what_the_engine_refuses_is_refused_without_asking(worker):
    worker.tell(refusals=((2, refusal_of(BacklogFullError("full", retry_after_s=10))),))
    assert isinstance(worker.post(route=2)[0], BacklogFullError)
    assert worker.post(route=1) == []
    worker.tell(refusal=refusal_of(DrainingError("stops")))
    assert isinstance(worker.post()[0], DrainingError)
    worker.tell()
    assert worker.post() == []
    worker.turn()
    assert [len(offer.messages) for offer in worker.link.offers] == [2]


def test_i2_a_key_is_asked_for_though_the_engine_refuses(worker):
    """What came under it before may be stored. Without a key, or while the node stops, nobody is asked."""
    full = refusal_of(BacklogFullError("full", retry_after_s=10))
    keys = keyed(0, b"k" * 32, 2)
    worker.tell(refusals=((2, full),))
    heard = [worker.post(b"a", route=2, digests=b"j" * 32)]
    worker.tell(refusal=full)
    heard += [worker.post(b"b", digests=b"i" * 32), worker.post_group(b"c", b"d", keys=keys)]
    assert [type(worker.post()[0]), type(worker.post_group(b"x")[0])] == [BacklogFullError] * 2
    worker.turn()
    assert [offer.messages for offer in worker.link.offers] == [(b"a", b"b", b"c", b"d")]
    worker.acceptor.known(Known(1, 0, 3))
    worker.acceptor.refused(Refused(1, 1, 1, full))
    worker.acceptor.together(Together(1, 2, 4, 2, ((0, 2, 4),)))
    assert (heard[0], heard[2]) == ([Replayed(3)], [Grouped(4, 2, ((0, 2, 4),))])
    assert isinstance(heard[1][0], BacklogFullError)
    assert worker.acceptor.refused_count == 2  # whom the engine refuses, it counts itself
    worker.tell(refusal=refusal_of(DrainingError("stops")))
    assert isinstance(worker.post(digests=b"j" * 32)[0], DrainingError)
    assert isinstance(worker.post_group(b"c", b"d", keys=keys)[0], DrainingError)


def test_routes_are_those_that_the_ledger_has(worker):
    assert worker.acceptor.route_id("/x") == 2
    assert worker.acceptor.route_id("/y") is None
    assert worker.acceptor.tag == "0123abcd"


def test_an_answer_of_an_unknown_kind_changes_nothing(worker):
    heard = worker.post()
    worker.turn()
    wrong = refusal_of(DrainingError("x"))
    wrong = type(wrong)(99, "x", 1)
    with pytest.raises(MalformedFrameError):
        worker.acceptor.refused(Refused(1, 0, 1, wrong))
    assert heard == []


def test_answers_for_what_was_never_offered_are_nothing(worker):
    heard = worker.post()
    worker.turn()
    worker.acceptor.accepted(Accepted(7, 0, 1, 1))
    worker.acceptor.accepted(Accepted(1, 1, 4000, 1))
    assert heard == []
    worker.acceptor.accepted(Accepted(1, 0, 4000, 1))
    assert heard == [1]


# --- Keys and groups --------------------------------------------------------------------------------


def test_a_key_that_is_known_is_told_with_the_first_one_s_position(worker):
    heard = [
        worker.post(b"a", digests=b"k" * 32),
        worker.post(b"b"),
        worker.post(digests=b"j" * 32),
    ]
    worker.turn()
    (offer,) = worker.link.offers
    assert (offer.keys, offer.counts) == ((b"k" * 32, b"", b"j" * 32), ())
    worker.acceptor.known(Known(1, 0, 3))
    worker.acceptor.accepted(Accepted(1, 1, 1, 9))
    worker.acceptor.refused(Refused(1, 2, 1, refusal_of(KeyReusedError("another request"))))
    assert heard[:2] == [[Replayed(3)], [9]]
    assert isinstance(heard[2][0], KeyReusedError)
    assert not worker.acceptor.waiting


def test_a_group_is_one_place_and_has_one_answer(worker):
    keys = keyed(0, b"k" * 32, 2)
    heard = [worker.post(b"a"), worker.post_group(b"b", b"c", keys=keys), worker.post(b"d")]
    worker.turn()
    assert worker.link.offers == [
        Offer(1, 0, (1, 1, 1), (b"a", b"b", b"c", b"d"), (0, 2, 0), (b"", keys, b""))
    ]
    worker.acceptor.accepted(Accepted(1, 0, 1, 5))
    worker.acceptor.together(Together(1, 1, 6, 2, ((0, 1, 2),)))
    worker.acceptor.accepted(Accepted(1, 2, 1, 7))
    assert heard == [[5], [Grouped(6, 2, ((0, 1, 2),))], [7]]
    assert not worker.acceptor.waiting


def test_a_group_is_never_split_over_offers(worker):
    most = [b"x"] * (BATCH_MESSAGES_MAX - 1)
    worker.post(b"a")
    worker.post_group(*most)
    worker.post_group(*most)
    half = b"x" * (OFFER_BYTES_MAX // 2 - 20)
    worker.post_group(half, half)
    worker.turn()
    assert [len(offer.messages) for offer in worker.link.offers] == [4096, 4095, 2]


def test_a_group_is_refused_as_a_message_is(worker):
    worker.tell(refusals=((2, refusal_of(BacklogFullError("full"))),))
    assert isinstance(worker.post_group(b"x", route=2)[0], BacklogFullError)
    offered = worker.post_group(b"x")
    worker.acceptor.end("the node's engine is gone")
    assert isinstance(offered[0], NoQuorumError)
    assert isinstance(worker.post_group(b"x")[0], DrainingError)


def test_i7_groups_that_gather_have_a_bound_that_workers_share(worker):
    worker.acceptor = LinkAcceptor(worker.clock, worker.link, 5.0, 4)
    worker.tell()
    worker.link.writable = False
    million = b"x" * 1_000_000
    heard = [worker.post_group(million) for _ in range(GROUPS_BYTES_MAX // 4 // len(million) + 2)]
    assert [isinstance(one[0], RefusedError) for one in heard if one] == [True] * 2
    worker.acceptor.end("gone")
    assert worker.acceptor._groups_bytes == 0


def test_those_whom_a_worker_refuses_together_come_back_one_after_the_other(worker):
    worker.tell(refusal=refusal_of(BacklogFullError("full", retry_after_s=100)))
    heard = [worker.post()[0].retry_after_s for _ in range(10)]
    assert min(heard) >= 100
    assert len(set(heard)) > 1
    assert worker.acceptor.refused_count == 10
