"""What the engine's process makes of a worker's offers."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from crowd.delivery.awaited import Ending
from crowd.errors import BacklogFullError, KeyReusedError, MalformedFrameError, NoQuorumError
from crowd.idempotency import Grouped, Replayed, keyed
from crowd.workers.link import WorkerLink
from crowd.workers.wire import (
    Accepted,
    Await,
    Ended,
    Found,
    Known,
    Leave,
    Look,
    Offer,
    Refused,
    State,
    Tally,
    Together,
    decode_to_worker,
    encode,
    refusal_of,
)
from crowd.workers.worker import IN_FLIGHT_BYTES_MAX, Engine, Worker, counted, total
from tests.unit.web.conftest import FakeStandings
from tests.unit.workers.pair import FULL_BYTES, Proposer, Waits, join, settle


class Other:
    """The worker's end: notes what it hears, and says what it is told to."""

    def __init__(self):
        self.heard, self.lost = [], None

    def link_frame(self, data):
        self.heard.append(decode_to_worker(data))

    def link_writable(self):
        pass

    def link_lost(self, why):
        self.lost = why


class Stage:
    def __init__(self):
        self.clock, self.proposer, self.other = Clock(), Proposer(), Other()
        self.waits = Waits()
        engine = Engine(self.proposer.accept_many, FakeStandings(), self.waits)
        self.worker = Worker(self.clock, engine)
        self.worker.link = WorkerLink(self.worker)
        self.link = WorkerLink(self.other)
        self.ours, self.theirs = join(self.clock, self.worker.link, self.link)

    def say(self, *frames):
        self.link.write(frames)
        settle(self.clock)

    def heard(self):
        settle(self.clock)
        heard, self.other.heard = self.other.heard, []
        return heard


@pytest.fixture
def stage():
    return Stage()


def test_an_offer_is_handed_on_as_it_came(stage):
    """Stored bytes are not looked into: these are no messages at all."""
    stage.say(Offer(1, 250_000, (3, 4), (b"\xff", b"")))
    assert [offer[:2] for offer in stage.proposer.offers] == [(3, b"\xff"), (4, b"")]
    assert stage.proposer.waited_s == [0.25, 0.25]
    assert (stage.worker.in_flight, stage.worker.in_flight_bytes) == (2, 1)


def test_messages_that_follow_one_another_are_answered_in_one_frame(stage):
    stage.say(Offer(1, 0, (1,) * 300, (b"x",) * 300), Offer(2, 0, (1,), (b"y",)))
    stage.proposer.accept_all()
    assert stage.heard() == [Accepted(1, 0, 300, 1), Accepted(2, 0, 1, 301)]
    assert (stage.worker.in_flight, stage.worker.in_flight_bytes) == (0, 0)


def test_an_offer_that_became_several_entries_is_answered_by_each(stage):
    stage.say(Offer(1, 0, (1,) * 4, (b"x",) * 4))
    waiters = [offer[2] for offer in stage.proposer.offers]
    waiters[0].callback(10)
    waiters[1].callback(11)
    assert stage.heard() == [Accepted(1, 0, 2, 10)]
    waiters[2].callback(90)
    gone = NoQuorumError("gone")
    waiters[3].errback(gone)
    assert stage.heard() == [Accepted(1, 2, 1, 90), Refused(1, 3, 1, refusal_of(gone))]


def test_a_refusal_of_all_is_one_frame(stage):
    stage.proposer.refusal = BacklogFullError("full", retry_after_s=10)
    stage.say(Offer(1, 0, (1,) * 9, (b"x",) * 9))
    assert stage.heard() == [Refused(1, 0, 9, refusal_of(stage.proposer.refusal))]


def test_answers_of_one_turn_are_one_write(stage):
    stage.say(*(Offer(batch, 0, (1,), (b"x",)) for batch in range(1, 9)))
    written = []
    stage.ours.write = written.append
    stage.proposer.accept_all()
    settle(stage.clock)
    assert len(written) == 1


def test_a_worker_that_is_gone_hears_no_more_and_its_messages_go_on(stage):
    """They may be stored; their producers are gone with it."""
    stage.say(Offer(1, 0, (1,), (b"x",)))
    stage.link.close("crash")
    settle(stage.clock)
    assert stage.worker.link is None
    stage.proposer.accept_all()
    settle(stage.clock)
    assert stage.worker.in_flight == 0


def test_i7_a_worker_that_breaks_its_window_is_not_read_until_it_was_answered(stage):
    large = bytes(IN_FLIGHT_BYTES_MAX // 4)
    for batch in range(1, 6):
        stage.say(Offer(batch, 0, (1,), (large,)))
    stage.say(Offer(6, 0, (1,), (b"not read",)))
    assert len(stage.proposer.offers) == 5
    stage.proposer.accept_all()
    settle(stage.clock)
    assert [offer[1] for offer in stage.proposer.offers] == [b"not read"]


def test_a_state_is_sent_when_it_changed(stage):
    state = State("0123abcd", (), None, ())
    stage.worker.push(state)
    stage.worker.push(state)
    assert stage.heard() == [state]


def test_i7_a_worker_that_does_not_read_gets_the_last_state_when_it_does(stage):
    stage.theirs.pauseProducing()
    for number in range(1000):
        stage.worker.push(State("0123abcd", (("/" + "x" * 1000, number + 1, 0),), None, ()))
    assert stage.ours.written_bytes < FULL_BYTES + 2000
    stage.theirs.resumeProducing()
    stage.heard()
    last = State("0123abcd", (), None, ())
    stage.worker.push(last)
    assert stage.heard() == [last]


def test_a_tally_makes_it_ready(stage):
    assert not stage.worker.ready
    stage.say(Tally((("crowd_http_requests_total", 3.0),)))
    assert stage.worker.ready
    assert stage.worker.samples == {"crowd_http_requests_total": 3.0}


@pytest.mark.parametrize(
    "data", [b"", b"\xff", encode(Tally((("crowd_nothing", 1.0),))), encode(Accepted(1, 0, 1, 1))]
)
def test_what_is_no_frame_of_a_worker_ends_its_link(stage, data):
    with capturedLogs() as events:
        stage.theirs.write(len(data).to_bytes(4, "big") + data)
        settle(stage.clock)
    assert stage.other.lost is not None
    assert stage.worker.link is None
    assert stage.worker.why_lost
    assert [event["why"] for event in events] == [stage.worker.why_lost]


def test_a_tally_of_what_is_no_metric_is_malformed(stage):
    with pytest.raises(MalformedFrameError):
        stage.worker.link_frame(encode(Tally((('crowd_raft_term{consumer="x"}', 1.0),))))


def test_of_a_worker_that_is_gone_only_what_counts_remains():
    one = {"crowd_http_requests_total": 3.0, "crowd_http_connections": 2.0}
    assert counted(one) == {"crowd_http_requests_total": 3.0}
    assert total([one, counted(one)]) == {
        "crowd_http_requests_total": 6.0,
        "crowd_http_connections": 2.0,
    }


# --- Keys, groups and questions ---------------------------------------------------------------------


def test_groups_and_keys_are_handed_on_as_they_came(stage):
    keys = keyed(0, b"k" * 32, 2)
    stage.say(Offer(1, 0, (3, 4, 5), (b"a", b"b", b"c", b"d"), (0, 2, 0), (b"j" * 32, keys, b"")))
    assert [(offer[0], offer[1], offer[3]) for offer in stage.proposer.offers] == [
        (3, b"a", b"j" * 32), (4, (b"b", b"c"), keys), (5, b"d", b""),
    ]  # fmt: skip
    assert stage.worker.in_flight == 3


def test_what_became_of_keys_and_groups_is_told_each_on_its_own(stage):
    stage.say(Offer(1, 0, (1,) * 6, (b"x",) * 7, (0, 0, 2, 0, 0, 0)))
    fates = [offer[2] for offer in stage.proposer.offers]
    reused = KeyReusedError("another request")
    fates[0].callback(4)
    fates[1].callback(Replayed(5))
    fates[2].callback(Grouped(5, 2, ((1, 1, 2),)))
    fates[3].callback(6)
    fates[4].callback(7)
    fates[5].errback(reused)
    assert stage.heard() == [
        Accepted(1, 0, 1, 4), Known(1, 1, 5), Together(1, 2, 5, 2, ((1, 1, 2),)),
        Accepted(1, 3, 2, 6), Refused(1, 5, 1, refusal_of(reused)),
    ]  # fmt: skip


def test_a_group_that_no_entry_holds_ends_the_link(stage):
    """The proposer takes it for granted that there is none."""
    stage.say(Offer(1, 0, (1,), (b"x" * 600_000,) * 2, (2,)))
    assert stage.proposer.offers == []
    assert stage.worker.link is None


def test_a_worker_hears_where_a_message_stands(stage):
    stage.say(Look(1, 5), Look(2, 1), Look(3, 99))
    known = (("rest-api", "dead", 3), ("audit", "delivered", 0))
    assert stage.heard() == [
        Found(1, "/leads", "dead", known), Found(2, None, "released", ()),
        Found(3, None, "unknown", ()),
    ]  # fmt: skip


def test_a_worker_hears_what_a_consumer_answered(stage):
    stage.say(Await(7, 5, 2, 1500), Await(8, 6, 2, 1000))
    (first, second) = stage.waits.asked
    assert first[:3] == (5, 2, 1.5)
    assert stage.heard() == []
    second[3].callback(None)
    first[3].callback(Ending("delivered", 201, ((b"A", b"b"),), b"made"))
    assert stage.heard() == [
        Ended(8, "unknown", 0, (), b""), Ended(7, "delivered", 201, ((b"A", b"b"),), b"made"),
    ]  # fmt: skip


def test_a_wait_that_ends_behind_its_worker_is_nothing(stage):
    stage.say(Await(7, 5, 2, 1500))
    stage.link.close("crash")
    settle(stage.clock)
    stage.waits.asked[0][3].callback(None)
    assert stage.heard() == []


def test_waits_of_producers_that_are_gone_give_their_places_back(stage):
    """They said so through their worker, or went with it."""
    stage.say(Await(7, 5, 2, 1500), Await(8, 6, 3, 1500), Await(9, 7, 3, 1500))
    stage.waits.asked[2][3].callback(None)
    stage.say(Leave(7), Leave(7), Leave(9), Leave(99))
    assert stage.waits.left == [(5, 2, stage.waits.asked[0][3])]
    stage.link.close("crash")
    settle(stage.clock)
    assert stage.waits.left[1:] == [(6, 3, stage.waits.asked[1][3])]
