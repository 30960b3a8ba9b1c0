"""Two deadlines of one connection: for what its producer sends, and for what it takes."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

GET = b"GET /api/a HTTP/1.1\r\nHost: a\r\n\r\n"
HALVES = {
    "head": (b"POST /le", 10),
    "body": (b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", 60),
}
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"
UNREAD_S = 30


@pytest.fixture(params=HALVES)
def half(request):
    """Half a request, and how long its other half may take."""
    return HALVES[request.param]


def asked(door, data):
    """Return a reader that sent `data`, and its upstream's side."""
    reader = door.connect()
    reader.send(data)
    return reader, door.endpoint.succeed()


def test_half_a_request_behind_an_answer_that_flows(door, half):
    """Its other half is due as if it were alone; the answer ahead of it is not cut."""
    rest, within_s = half
    reader, upstream = asked(door, GET + rest)
    upstream.says(ANSWER + b"a")
    door.wait(within_s - 2)
    upstream.says(b"b")
    door.wait(1)
    upstream.says(b"c")
    door.wait(2)
    reader.send(b"y")
    upstream.says(b"def")
    door.turn()
    assert reader.statuses == [200, 408]
    assert reader.answers[0].body == b"abcdef"
    assert reader.is_ending


def test_half_a_request_behind_an_answer_that_comes_late(door, half):
    rest, within_s = half
    reader, upstream = asked(door, GET + rest)
    door.wait(within_s - 1)
    upstream.says(ANSWER + b"abcde")
    door.wait(2)
    upstream.says(b"f")
    door.turn()
    assert reader.statuses == [200, 408]


def test_half_a_request_of_a_reader_that_takes_its_answer_now_and_then(door):
    """Pauses move only what is due of the answer."""
    rest, within_s = HALVES["head"]
    reader, upstream = asked(door, GET + rest)
    upstream.says(ANSWER + b"abc")
    for _ in range(within_s):
        reader.channel.pauseProducing()
        reader.channel.resumeProducing()
        door.clock.advance(0.9)
    door.wait(2)
    upstream.says(b"def")
    door.turn()
    assert reader.statuses == [200, 408]


def test_a_reader_that_takes_nothing_is_let_go_whatever_it_sends(door, half):
    """Neither half a request nor its refusal gives it more time."""
    rest, _ = half
    reader, upstream = asked(door, GET + rest)
    upstream.says(ANSWER + b"abc")
    reader.channel.pauseProducing()
    door.wait(UNREAD_S - 1)
    assert not reader.transport.aborted
    door.wait(2)
    assert reader.transport.aborted


def test_half_a_request_that_came_before_its_reader_stopped_taking(door):
    """The body has a minute; its reader has half of one."""
    reader, upstream = asked(door, GET)
    upstream.says(ANSWER + b"abc")
    reader.send(HALVES["body"][0])
    reader.channel.pauseProducing()
    door.wait(UNREAD_S + 1)
    assert reader.transport.aborted
    assert reader.statuses == []


def test_a_long_answer_behind_which_a_request_goes_on(door):
    """An answer ahead that is long under way costs a new request none of its time."""
    reader, upstream = asked(door, GET)
    upstream.says(ANSWER + b"a")
    for piece in (b"b", b"c"):
        door.wait(50)
        upstream.says(piece)
    door.wait(15)
    reader.send(HALVES["body"][0])
    door.wait(30)
    upstream.says(b"d")
    door.wait(25)
    reader.send(b"x" * 8)
    upstream.says(b"ef")
    door.acceptor.answer_all()
    door.turn()
    assert reader.statuses == [200, 200]


def test_half_closed_within_a_request_the_answer_has_its_time(door, post):
    """What was begun is nobody's any more; what is whole is answered when that is known."""
    producer = door.connect()
    producer.send(post(b"/leads", b"x") + HALVES["head"][0])
    producer.channel.readConnectionLost()
    door.wait(30)
    assert not producer.transport.aborted
    door.acceptor.answer_all()
    assert producer.statuses == [200]


@pytest.mark.parametrize("rest", [rest for rest, _ in HALVES.values()])
def test_who_waits_for_room_is_not_slow(make_door, post, rest):
    """A connection that is not read for want of room hears so in the end, not 408."""
    door = make_door(in_flight_bytes_max=5_000, body_bytes_max=2_000)
    holder, waiter = door.connect(), door.connect()
    holder.send(post(b"/leads", bytes(1_500)))
    waiter.send(post(b"/leads", bytes(1_500)) + rest)
    assert waiter.is_paused
    door.wait(100)
    assert not waiter.is_ending
    door.wait(25)
    holder.channel.connectionLost(Failure(ConnectionDone()))
    door.acceptor.answer_all()
    door.turn()
    assert waiter.statuses == [200, 503]


def test_who_has_room_and_is_not_read_is_not_cut(make_door, post):
    """Its time begins when it is read again."""
    door = make_door(in_flight_bytes_max=5_000, body_bytes_max=2_000)
    holder, waiter = door.connect(), door.connect()
    holder.send(post(b"/leads", bytes(1_500)))
    waiter.send(post(b"/leads", bytes(1_500)) + HALVES["body"][0])
    waiter.channel.pauseProducing()
    door.acceptor.answer_all()
    door.wait(125)
    assert not waiter.transport.aborted
    waiter.channel.resumeProducing()
    door.turn()
    waiter.send(b"x" * 8)
    door.acceptor.answer_all()
    assert waiter.statuses == [200, 200]


def test_who_waited_for_room_has_all_its_time(make_door, post, half):
    rest, within_s = half
    door = make_door(in_flight_bytes_max=5_000, body_bytes_max=2_000)
    holder, waiter = door.connect(), door.connect()
    holder.send(post(b"/leads", bytes(1_500)))
    waiter.send(post(b"/leads", bytes(1_500)) + rest)
    door.wait(50)
    door.acceptor.answer_all()
    door.turn()
    assert not waiter.is_paused
    door.wait(within_s - 1)
    assert waiter.statuses == [200]
    door.wait(2)
    assert waiter.statuses == [200, 408]
