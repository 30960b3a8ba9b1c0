"""`crowd sink` records each request as it came, however its bytes arrive."""

from __future__ import annotations

import hashlib
import json
import random
import socket
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.tools.loop import READ, Loop
from crowd.tools.sink import Exchange, Sink, SinkPlan, answer_bytes

REQUEST = (
    b"POST /a%2fb?x=[1] HTTP/1.1\r\nHost: h\r\nCROWD-Message-ID: t-1\r\nX-a: 1\r\nx-A: 2\r\n"
    b"Content-Length: 5\r\n\r\n\x00\xffabc"
)


class Answers:
    """Collects what an exchange hands over."""

    def __init__(self):
        self.records = []
        self.kept = []

    def __call__(self, status, keep_alive, record):
        self.records.append((status, record))
        self.kept.append(keep_alive)


@given(st.lists(st.integers(1, len(REQUEST) * 2), max_size=6))
def test_a_request_is_the_same_in_whatever_pieces_it_comes(cuts):
    answers = Answers()
    exchange = Exchange(lambda: 200, answers, recording=True)
    stream = REQUEST * 2
    edges = [0, *sorted(cuts), len(stream)]
    for begin, end in pairwise(edges):
        if begin < end:
            assert exchange.feed(stream[begin:end])
    assert len(answers.records) == 2
    for status, record in answers.records:
        assert status == record.status == 200
        assert (record.method, record.target, record.id) == ("POST", "/a%2fb?x=[1]", "t-1")
        assert record.headers[2:4] == [("X-a", "1"), ("x-A", "2")]
        assert record.sha256 == hashlib.sha256(b"\x00\xffabc").hexdigest()


def test_without_a_log_requests_are_only_counted():
    answers = Answers()
    exchange = Exchange(lambda: 503, answers, recording=False)
    assert exchange.feed(REQUEST + b"GET / HTTP/1.0\r\n\r\n")
    assert answers.records == [(503, None), (503, None)]
    assert answers.kept == [True, False]


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * (2 << 20) + b"\r\n\r\n"]
)
def test_what_is_no_request_ends_the_connection(data):
    assert not Exchange(lambda: 200, Answers(), recording=True).feed(data)


@given(st.binary())
def test_any_bytes_are_taken_or_refused(data):
    assert Exchange(lambda: 200, Answers(), recording=True).feed(data) in {True, False}


def test_answers_have_a_length_and_say_when_they_are_the_last():
    assert answer_bytes(503, keep_alive=True) == (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    )
    assert answer_bytes(599, keep_alive=False).startswith(b"HTTP/1.1 599 Unknown\r\n")
    assert b"Connection: close" in answer_bytes(200, keep_alive=False)


def exchanged(plan, sent, answers, *, log=None):
    """Send bytes to a real sink; return what comes back once it has `answers` answers."""
    loop = Loop()
    sink = Sink(loop, plan, log=log, chance=random.Random(1))
    client = socket.create_connection(("127.0.0.1", sink.port))
    client.sendall(sent)
    got = bytearray()

    def ready(_):
        data = client.recv(1 << 16)
        got.extend(data)
        if not data or got.count(b"\r\n\r\n") >= answers:
            loop.stop()

    loop.watch(client.fileno(), READ, ready)
    loop.call_at(loop.now_s() + 10, loop.stop)
    loop.run()
    loop.unwatch(client.fileno())
    client.close()
    sink.close()
    loop.close()
    return bytes(got), sink.statuses


def test_pipelined_requests_are_answered_in_order_after_the_delay(tmp_path):
    log = tmp_path / "sink.log"
    plan = SinkPlan(status=202, delay_s=0.01)
    got, statuses = exchanged(plan, REQUEST * 3, 3, log=str(log))
    assert got.count(b"HTTP/1.1 202 Accepted") == 3
    assert statuses == {202: 3}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["t-1"] * 3
    assert set(lines[0]) == {"time", "id", "method", "target", "headers", "sha256", "status"}


def test_the_share_to_fail_gets_500():
    _, statuses = exchanged(SinkPlan(fail=0.5), REQUEST * 40, 40)
    assert statuses[500] + statuses[200] == 40
    assert 5 < statuses[500] < 35
    _, statuses = exchanged(SinkPlan(fail=1.0, failed=503), REQUEST * 3, 3)
    assert statuses == {503: 3}


def test_bad_bytes_get_400_and_the_end():
    got, _ = exchanged(SinkPlan(), b"nonsense\r\n\r\n", 2)
    assert got.startswith(b"HTTP/1.1 400 Bad Request")
