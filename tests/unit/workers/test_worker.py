"""What the engine's process makes of a worker's offers."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from crowd.errors import BacklogFullError, MalformedFrameError, NoQuorumError
from crowd.workers.link import WorkerLink
from crowd.workers.wire import (
    Accepted,
    Offer,
    Refused,
    State,
    Tally,
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
    stage.theirs.write(len(data).to_bytes(4, "big") + data)
    settle(stage.clock)
    assert stage.other.lost is not None
    assert stage.worker.link is None
    assert stage.worker.why_lost


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
