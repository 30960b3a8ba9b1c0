"""I7: a body is held until its request is answered, as it is counted until then, and no longer."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from crowd.web.intake import Intake
from crowd.web.limits import SLICE_BYTES, WebLimits

BODY_BYTES = 900_000
HEAD = b"POST /leads HTTP/1.1\r\nHost: a\r\n"
LENGTH = HEAD + b"Content-Length: %d\r\n\r\n" % BODY_BYTES
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


@pytest.fixture
def traced():
    """Return what tells how much more is held than at the beginning; no cycles are looked for."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    gc.enable()


def whole(kind):
    """Return a whole request of one kind."""
    body = bytes(BODY_BYTES)
    if kind == "length":
        return LENGTH + body
    return CHUNKED + b"%x\r\n%b\r\n" % (len(body), body) + LAST


class Taker:
    """A receiver that forgets what it is told."""

    def head(self, *_, **__):
        return None

    def request(self, *_):
        pass

    def refused(self, _):
        pass


def feed(intake, data):
    for start in range(0, len(data), SLICE_BYTES):
        intake.feed(data[start : start + SLICE_BYTES])


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_an_intake_holds_no_body_that_it_handed_on(traced, kind):
    intake = Intake(WebLimits(), Taker())
    feed(intake, whole(kind))
    assert traced() < BODY_BYTES / 4


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_an_idle_connection_holds_no_body(door, traced, kind):
    producer = door.connect()
    producer.send(whole(kind))
    door.acceptor.answer_all()
    door.acceptor.offered.clear()
    assert producer.statuses == [200]
    assert traced() < BODY_BYTES / 4
    assert not producer.is_ending


@pytest.mark.parametrize("data", [whole("length"), whole("length")[:-1], whole("chunked")[:-1]])
def test_a_connection_that_is_gone_holds_nothing(door, traced, data):
    """Nor does it wait for a search for cycles, which are rare by design (`crowd.garbage`)."""
    producer = door.connect()
    producer.send(data)
    door.acceptor.answer_all()
    door.acceptor.offered.clear()
    channel = weakref.ref(producer.channel)
    producer.channel.connectionLost(Failure(ConnectionDone()))
    producer.transport.unregisterProducer()
    del producer
    assert channel() is None
    assert traced() < BODY_BYTES / 4


def test_a_message_that_is_offered_is_held_once(door, traced):
    """As it is stored, and not as it came as well."""
    door.connect().send(whole("length"))
    assert len(door.acceptor.offered) == 1
    assert traced() < BODY_BYTES * 1.5


def test_a_read_holds_no_body_that_was_passed_on(door, traced):
    """What is counted of it is given back with the answer's first piece."""
    reader = door.connect()
    reader.send(whole("length").replace(b"POST /leads", b"GET /api/a", 1))
    upstream = door.endpoint.succeed()
    assert len(upstream.taken()) > BODY_BYTES
    upstream.says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
    assert door.producers.budget.used == 0
    assert traced() < BODY_BYTES / 2


@pytest.mark.parametrize("answer", [b"", b"a", b"ab"])
def test_a_read_that_is_over_is_in_no_cycle(door, traced, answer):
    reader = door.connect()
    reader.send(whole("length").replace(b"POST /leads", b"GET /api/a", 1))
    upstream = door.endpoint.succeed()
    upstream.taken()
    if answer:
        upstream.says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + answer)
    channel = weakref.ref(reader.channel)
    reader.channel.connectionLost(Failure(ConnectionDone()))
    reader.transport.unregisterProducer()
    upstream.lose()
    del reader, upstream
    assert channel() is None
    assert traced() < BODY_BYTES / 2


def test_a_body_in_tiny_chunks_takes_what_is_counted(traced):
    """Not what as many objects as it has chunks would take."""
    intake = Intake(WebLimits(), Taker())
    feed(intake, CHUNKED + b"2\r\nab\r\n" * 50_000)
    assert traced() < 200_000
