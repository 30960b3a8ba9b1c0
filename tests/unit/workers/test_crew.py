"""A node with workers, whose processes are in memory: from a producer's request to its answer."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from crowd.config import from_text
from crowd.delivery.awaited import Ending
from crowd.errors import BacklogFullError, ConfigurationError, KeyReusedError, NoQuorumError
from crowd.idempotency import Replayed
from crowd.ingress import DRAIN_S
from crowd.message import decode_message
from crowd.metrics import parse_sample
from crowd.workers.crew import (
    DELAY_MOST_S,
    LEAVE_S,
    SERVED_S,
    SILENT_TICKS_MAX,
    Crew,
    delay,
)
from crowd.workers.link import WorkerLink
from crowd.workers.station import Station
from crowd.workers.wire import State, refusal_of
from crowd.workers.worker import Engine
from tests.unit.web.conftest import FakeStandings
from tests.unit.workers.pair import Port, Proposer, Waits, join, pass_s, settle

TEXT = """
[node]
name = "a"
workers = {workers}
[limits]
in_flight = "4 MiB"
[[route]]
path = "{path}"
"""


def configuration(workers=2, path="/leads"):
    return from_text(TEXT.format(workers=workers, path=path), "t")


class Process:
    """A worker's process in memory. It ends when its station does, or when it is killed."""

    def __init__(self, node, worker, number, ended):
        self.node, self.number, self.ended = node, number, ended
        self.pid = 1000 + len(node.processes)
        self.port, self.killed, self.over = Port(), False, False
        self.station = Station(node.clock, [self.port], lambda: self.end("exit status 0"))
        worker.link = WorkerLink(worker)
        self.ours, self.theirs = join(node.clock, worker.link, self.station.link)

    def kill(self):
        self.killed = True
        self.end("signal 9")

    def end(self, how):
        if not self.over:
            self.over = True
            self.theirs.gone = True  # whatever is left of the station hears no more
            self.ours.abortConnection()
            self.node.clock.callLater(0, self.ended, how)


class Node:
    """A crew, the engine that it serves, and the workers' processes so far."""

    def __init__(self, workers=2, given=None):
        self.clock, self.proposer, self.port = Clock(), Proposer(), Port()
        self.processes, self.refusal, self.fails = [], None, False
        self.waits = Waits()
        self.crew = Crew(
            self.clock, given or configuration(workers), [self.port],
            spawn=self.spawn, state=self.state, name=b"thisnode",
            engine=Engine(self.proposer.accept_many, FakeStandings(), self.waits),
        )  # fmt: skip
        self.crew.startService()
        settle(self.clock)

    def spawn(self, worker, number, listening, ended):
        assert listening == [self.port.fileno()]
        if self.fails:
            raise OSError(11, "no process")
        self.processes.append(Process(self, worker, number, ended))
        return self.processes[-1]

    def state(self, own):
        routes = tuple((route.path, 1, 4) for route in own.routes)
        refusal = None if self.refusal is None else refusal_of(self.refusal)
        return State("0123abcd", routes, refusal, ())

    def pass_s(self, seconds):
        pass_s(self.clock, seconds)

    def post(self, place=0, path=b"/leads", *, settled=True):
        producer = self.processes[place].port.connect()
        producer.send(b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx" % path)
        if settled:
            settle(self.clock)
        return producer


@pytest.fixture
def node():
    return Node()


def test_a_request_to_a_worker_is_answered_when_the_engine_has_it(node):
    """I1: and not before."""
    producers = [node.post(0), node.post(1), node.post(0)]
    assert [producer.statuses for producer in producers] == [[], [], []]
    assert len(node.proposer.offers) == 3
    node.proposer.accept_all()
    settle(node.clock)
    assert [producer.statuses for producer in producers] == [[200]] * 3
    ids = {producer.answers[0].fields[b"crowd-message-id"] for producer in producers}
    assert ids == {b"0123abcd-%016x" % position for position in (1, 2, 3)}


def test_this_process_listens_and_leaves_accepting_to_the_workers(node):
    assert not node.port.reads
    assert node.port.open
    assert node.crew.parts() == [("workers", True, "2 of 2")]


def test_what_the_engine_says_of_a_message_is_what_its_producer_hears(node):
    producer = node.post()
    node.proposer.offers[0][2].errback(NoQuorumError("no quorum within 5 s", retry_after_s=3))
    settle(node.clock)
    (answer,) = producer.answers
    assert answer.status == 503
    assert answer.fields[b"retry-after"] == b"3"
    assert json.loads(answer.body)["type"] == "/problems/no-quorum"


def test_while_the_engine_refuses_workers_do_without_asking_it(node):
    node.refusal = BacklogFullError("the configured backlog is reached", retry_after_s=10)
    node.pass_s(0.2)
    (answer,) = node.post().answers
    assert json.loads(answer.body)["type"] == "/problems/backlog-full"
    assert node.proposer.offers == []
    node.refusal = None
    node.pass_s(0.2)
    node.post()
    assert len(node.proposer.offers) == 1


def test_a_worker_that_crashed_is_started_again_and_the_others_go_on(node):
    lost, kept = node.post(0), node.post(1)
    with capturedLogs() as events:
        node.processes[0].end("signal 9")
        settle(node.clock)
    assert "1 of its messages under way" in [e["log_format"].format(**e) for e in events][-1]
    node.proposer.accept_all()
    settle(node.clock)
    assert (lost.statuses, kept.statuses) == ([], [200])
    assert node.crew.parts() == [("workers", True, "1 of 2")]
    node.pass_s(0.2)
    assert [process.number for process in node.processes] == [1, 2, 1]
    assert node.crew.parts() == [("workers", True, "2 of 2")]
    node.post(2)
    node.proposer.accept_all()
    assert node.crew.counters()["crowd_worker_restarts_total"] == 1
    assert [each["pid"] for each in node.crew.workers()] == [1002, 1001]


def test_one_that_never_serves_is_started_ever_more_rarely(node):
    for _ in range(20):
        node.processes[-1].end("exit status 1")
        node.pass_s(DELAY_MOST_S + 0.1)
    begun = len(node.processes)
    node.processes[-1].end("exit status 1")
    node.pass_s(DELAY_MOST_S - 0.5)
    assert len(node.processes) == begun
    node.pass_s(1.0)
    assert len(node.processes) == begun + 1
    assert [delay(failures) for failures in range(4)] == [0.0, 0.1, 0.2, 0.4]
    assert delay(10**6) == DELAY_MOST_S


def test_one_that_served_is_started_again_at_once(node):
    node.pass_s(SERVED_S)
    node.processes[0].end("signal 11")
    settle(node.clock)
    assert len(node.processes) == 3


def test_a_process_that_cannot_be_had_is_tried_again(node):
    node.fails = True
    node.processes[0].end("signal 9")
    node.pass_s(3.0)
    node.fails = False
    node.pass_s(DELAY_MOST_S)
    assert len(node.processes) == 3


def test_without_any_worker_a_node_is_not_ready(node):
    for process in node.processes:
        process.end("signal 9")
    settle(node.clock)
    assert node.crew.parts() == [("workers", False, "0 of 2")]


def test_one_that_says_nothing_is_killed(node):
    """Its producers wait for nothing, and it holds them."""
    stuck = node.processes[1]
    stuck.station._counting.stop()
    node.pass_s(SILENT_TICKS_MAX - 1)
    assert not stuck.killed
    node.pass_s(3)
    assert stuck.killed
    assert not node.processes[0].killed
    assert node.crew.parts() == [("workers", True, "2 of 2")]


def test_numbers_are_sums_and_counters_never_go_back(node):
    node.post(0)
    node.post(0)
    node.post(1)
    node.pass_s(1.1)
    before = node.crew.counters()
    assert before["crowd_http_requests_total"] == 3
    assert before["crowd_http_connections"] == node.crew.connections == 3
    assert before["crowd_workers"] == 2
    assert before['crowd_worker_in_flight{worker="1"}'] == 2
    for sample in before:
        parse_sample(sample)
    node.processes[0].end("signal 9")
    node.pass_s(2.0)
    after = node.crew.counters()
    assert after["crowd_http_requests_total"] == 3
    assert after["crowd_http_connections"] == 1
    node.post(2)
    node.pass_s(1.1)
    assert node.crew.counters()["crowd_http_requests_total"] == 4


def test_workers_share_the_bounds_of_the_node(node):
    limits = [process.port.factory.limits for process in node.processes]
    assert [each.in_flight_bytes_max for each in limits] == [2 << 20, 2 << 20]
    assert [each.connections_max for each in limits] == [10_000, 10_000]


def test_new_routes_reach_every_worker_and_those_that_come_later(node):
    node.crew.use(configuration(path="/other"))
    settle(node.clock)
    for place in (0, 1):
        assert node.post(place).statuses == [404]
        node.post(place, b"/other")
    node.processes[0].end("signal 9")
    node.pass_s(0.2)
    node.post(2, b"/other")
    assert len(node.proposer.offers) == 3


def test_routes_that_cannot_be_change_nothing(node):
    with pytest.raises(ConfigurationError):
        node.crew.use(configuration(path="/<nonsense:x>"))
    settle(node.clock)
    node.post()
    assert len(node.proposer.offers) == 1


def test_stopping_answers_what_is_under_way_and_then_ends_the_workers(node):
    waiting = node.post(0)
    stopped = []
    node.crew.stopService().addCallback(stopped.append)
    node.pass_s(0.2)
    assert node.crew.draining
    assert not node.port.open
    assert [process.port.open for process in node.processes] == [False, False]
    assert [process.over for process in node.processes] == [False, True]
    node.proposer.accept_all()
    settle(node.clock)
    assert waiting.statuses == [200]
    assert waiting.is_ending
    waiting.channel.connectionLost()
    node.pass_s(0.1)
    assert stopped == [None]
    assert not any(process.killed for process in node.processes)
    assert len(node.processes) == 2, "those that end now are not started again"


def test_a_request_on_a_kept_connection_is_answered_while_the_node_drains(node):
    """As without workers: whoever posts on is told to go, and loses nothing."""
    kept = node.post(0)
    node.proposer.accept_all()
    settle(node.clock)
    node.crew.stopService()
    node.pass_s(0.2)
    kept.send(b"POST /leads HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\ny")
    settle(node.clock)
    node.proposer.accept_all()
    settle(node.clock)
    assert kept.statuses == [200, 200]
    assert kept.answers[1].fields[b"connection"] == b"close"


def test_a_worker_that_does_not_end_is_killed(node):
    node.processes[0].station.drain = lambda: None
    stopped = []
    node.crew.stopService().addCallback(stopped.append)
    node.pass_s(DRAIN_S + LEAVE_S - 1)
    assert not stopped
    node.pass_s(1.5)
    assert [process.killed for process in node.processes] == [True, False]
    assert stopped == [None]


def test_when_the_engine_is_gone_workers_tell_their_producers_and_end(node):
    """The message may be stored: nobody knows, and so it is said."""
    process = node.processes[0]
    process.ended = lambda how: None  # there is no crew any more
    waiting = node.post(0)
    process.ours.abortConnection()
    settle(node.clock)
    (answer,) = waiting.answers
    assert json.loads(answer.body)["type"] == "/problems/outcome-unknown"
    assert not process.port.open
    node.pass_s(0.9)
    assert not waiting.transport.aborted
    node.pass_s(0.2)
    assert waiting.transport.aborted, "one that stays connected does not hold the process"
    waiting.channel.connectionLost()
    settle(node.clock)
    assert process.over


def test_a_worker_that_is_told_to_by_a_signal_drains_and_is_replaced(node):
    node.processes[0].station.drain()
    node.pass_s(0.5)
    assert [process.number for process in node.processes] == [1, 2, 1]
    assert node.crew.parts() == [("workers", True, "2 of 2")]


# --- What a worker's door does as that of a node without workers ------------------------------------

MORE = """
[node]
name = "a"
workers = 2
hosts = ["h"]
trusted_proxies = ["192.0.2.7"]
[[route]]
path = "/leads"
wait = "30 s"
many = true
[[route]]
path = "/keyed"
[[route.key]]
name = "shop"
sha256 = ["{digest}"]
[route.rate]
limit = "1/h"
burst = 2
"""
GROUP = b"Content-Type: application/x-ndjson"
KEY = b"Authorization: Bearer crowd_one"


@pytest.fixture
def guarded():
    text = MORE.format(digest=sha256(b"crowd_one").hexdigest())
    return Node(given=from_text(text, "t"))


def ask(node, line, *headers, body=b"", place=0):
    """Send a request to a worker; return its producer."""
    producer = node.processes[place].port.connect()
    lines = [
        line + b" HTTP/1.1",
        b"Host: h",
        b"Content-Length: %d" % len(body),
        *headers,
        b"",
        body,
    ]
    producer.send(b"\r\n".join(lines))
    settle(node.clock)
    return producer


def accept(node):
    node.proposer.accept_all()
    settle(node.clock)


def test_an_idempotency_key_is_handed_over_and_its_first_answer_comes_back(guarded):
    first = ask(guarded, b"POST /leads", b'Idempotency-Key: "k"', body=b"x")
    ((_, _, waiter, digests),) = guarded.proposer.offers
    assert len(digests) == 32
    waiter.callback(Replayed(7))
    settle(guarded.clock)
    (answer,) = first.answers
    assert answer.fields[b"crowd-message-id"] == b"0123abcd-%016x" % 7
    assert answer.fields[b"idempotent-replayed"] == b"true"
    second = ask(guarded, b"POST /leads", b'Idempotency-Key: "k"', body=b"y")
    guarded.proposer.offers[1][2].errback(KeyReusedError("another request"))
    settle(guarded.clock)
    assert second.statuses == [422]


def test_many_messages_in_one_request_are_one_group_with_one_answer(guarded):
    producer = ask(guarded, b"POST /leads", GROUP, body=b'{"n":1}\n{"n":2}\n')
    ((_, stored, _, _),) = guarded.proposer.offers
    assert [decode_message(one).body for one in stored] == [b'{"n":1}', b'{"n":2}']
    accept(guarded)
    ids = json.loads(producer.answers[0].body)["ids"]
    assert ids == [f"0123abcd-{position:016x}" for position in (1, 2)]


def test_who_may_post_is_asked_at_each_worker_s_door(guarded):
    assert ask(guarded, b"POST /keyed", body=b"x").statuses == [401]
    assert ask(guarded, b"POST /leads", b"X-Host: h", place=1).statuses == []
    known = ask(guarded, b"POST /keyed", KEY, body=b"x", place=1)
    accept(guarded)
    assert known.statuses == [200]
    guarded.pass_s(1.1)
    assert guarded.crew.counters()['crowd_door_refused_total{reason="no-credential"}'] == 1


def test_each_worker_counts_a_producer_s_rate_on_its_own(guarded):
    """So a node lets pass up to `node.workers` times the rate, as docs/ says."""
    for place in (0, 0, 1, 1):
        producer = ask(guarded, b"POST /keyed", KEY, body=b"x", place=place)
        accept(guarded)
        assert producer.statuses == [200]
    assert [
        ask(guarded, b"POST /keyed", KEY, body=b"x", place=place).statuses for place in (0, 1)
    ] == [[429], [429]]


def test_a_worker_says_where_a_message_stands(guarded):
    (answer,) = ask(guarded, b"GET /.crowd/messages/0123abcd-%016x" % 5).answers
    document = json.loads(answer.body)
    assert (answer.status, document["state"]) == (200, "dead")
    assert [each["name"] for each in document["consumers"]] == ["rest-api", "audit"]
    gone, unknown = (
        ask(guarded, b"GET /.crowd/messages/0123abcd-%016x" % position) for position in (1, 77)
    )
    assert (gone.statuses, unknown.statuses) == ([410], [404])


def test_a_producer_at_a_worker_may_wait_for_its_consumer(guarded):
    producer = ask(guarded, b"POST /leads", b"Prefer: wait=9", body=b"x")
    accept(guarded)
    ((position, consumer, within_s, ended),) = guarded.waits.asked
    assert (position, consumer, within_s) == (1, 4, 9.0)
    assert producer.statuses == []
    ended.callback(Ending("delivered", 201, ((b"Location", b"/made"),), b"made"))
    settle(guarded.clock)
    (answer,) = producer.answers
    assert (answer.status, answer.body) == (201, b"made")
    assert answer.fields[b"crowd-state"] == b"delivered"


def test_what_a_worker_asked_is_answered_when_its_engine_is_gone(guarded):
    process = guarded.processes[0]
    process.ended = lambda how: None
    producer = ask(guarded, b"POST /leads", b"Prefer: wait=9", body=b"x")
    accept(guarded)
    process.ours.abortConnection()
    settle(guarded.clock)
    (answer,) = producer.answers
    assert (answer.status, answer.fields[b"crowd-state"]) == (200, b"accepted")


def test_a_name_that_producers_may_not_ask_for_is_refused_by_workers_too(guarded):
    producer = guarded.processes[0].port.connect()
    producer.send(b"POST /leads HTTP/1.1\r\nHost: other\r\nContent-Length: 0\r\n\r\n")
    assert producer.statuses == [421]


def test_workers_share_the_bound_of_reads(node):
    (first, _) = node.processes
    assert first.station._ingress._routes.upstreams._reads_max == 128


def test_connections_are_accepted_while_any_worker_does(node):
    node.pass_s(1.1)
    assert node.crew.counters()["crowd_http_accepting"] == 1
    for process in node.processes:
        process.end("signal 9")
    settle(node.clock)
    assert node.crew.counters()["crowd_http_accepting"] == 0
