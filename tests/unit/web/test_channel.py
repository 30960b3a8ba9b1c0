"""What a producer sees on its connection."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from crowd.web.channel import DRAIN_IDLE_S
from crowd.web.router import Router

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

SEED = (
    b"POST /leads HTTP/1.1\r\nHost: crowd.test\r\nContent-Type: application/json\r\n"
    b"Accept: application/json\r\nContent-Length: 57\r\n\r\n"
    b'{"message":"this is a lead message", "shop": "a23m07b23"}'
)


def test_the_seeds_request_gets_the_seeds_answer(door):
    """The answer of the first example, header by header, and not before it is accepted (I1)."""
    producer = door.connect()
    producer.send(SEED)
    door.turn()
    assert producer.taken() == b""
    door.acceptor.answer_all()
    assert producer.taken() == (
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: application/json;charset=UTF-8\r\n"
        b"Vary: Accept-Encoding\r\n"
        b"Content-Length: 16\r\n"
        b"Crowd-Message-Id: 0123abcd-0000000000000001\r\n"
        b"Date: Wed, 23 Jul 2025 00:00:00 GMT\r\n"
        b"Connection: keep-alive\r\n"
        b"\r\n"
        b'{"status": "OK"}'
    )
    assert not producer.is_ending


def test_gzip_where_the_producer_accepts_it(door, post):
    producer = door.connect()
    producer.send(post(b"/leads", b"x", b"Accept-Encoding: br, gzip"))
    producer.send(post(b"/leads", b"x", b"Accept-Encoding: gzip;q=0"))
    door.acceptor.answer_all()
    door.turn()
    compressed, plain = producer.answers
    assert compressed.fields[b"content-encoding"] == b"gzip"
    assert gzip.decompress(compressed.body) == plain.body == b'{"status": "OK"}'
    assert b"content-encoding" not in plain.fields


def test_a_request_is_the_same_however_it_is_cut(door):
    """Bytes that come one by one make the same message as all at once."""
    whole, dribbled = door.connect(), door.connect()
    whole.send(SEED)
    for place in range(len(SEED)):
        dribbled.send(SEED[place : place + 1])
    door.acceptor.answer_all()
    assert whole.statuses == dribbled.statuses == [200]
    first, second = door.acceptor.messages
    assert first == second


def test_pipelined_requests_are_answered_in_order(door, post):
    """However the answers become known, they leave in the order of the requests, in one write."""
    producer = door.connect()
    producer.send(post(b"/leads", b"1") + post(b"/nowhere") + post(b"/leads", b"2"))
    door.acceptor.answer(1)
    door.turn()
    assert producer.statuses == []
    before = producer.transport.writes
    door.acceptor.answer(0)
    door.turn()
    assert producer.statuses == [200, 404, 200]
    assert [a.fields.get(b"crowd-message-id", b"")[-1:] for a in producer.answers] == [
        b"1", b"", b"2",
    ]  # fmt: skip
    assert producer.transport.writes == before + 1


def test_connection_close_is_kept(door, post):
    producer = door.connect()
    producer.send(post(b"/leads", b"x", b"Connection: close") + post(b"/leads", b"late"))
    door.acceptor.answer_all()
    assert producer.answers[0].fields[b"connection"] == b"close"
    assert producer.transport.disconnecting
    assert len(door.acceptor.offered) == 1


def test_http_1_0(door):
    """One request a connection, unless it asks for more; no Host needed."""
    once, more = door.connect(), door.connect()
    once.send(b"POST /leads HTTP/1.0\r\nContent-Length: 1\r\n\r\nx")
    more.send(b"POST /leads HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx")
    door.acceptor.answer_all()
    assert (once.statuses, once.is_ending) == ([200], True)
    assert (more.statuses, more.is_ending) == ([200], False)
    assert more.answers[0].fields[b"connection"] == b"keep-alive"


def test_the_authority_of_an_absolute_target_is_the_host(door):
    """Where HTTP/1.0 has no Host, it becomes one: for `node.hosts`, and for consumers."""
    producer = door.connect()
    door.producers.use(Router(door.ingest.app, (b"a.test",)))
    producer.send(b"POST http://a.test/leads HTTP/1.0\r\nX-A: b\r\n\r\n")
    door.acceptor.answer_all()
    (message,) = door.acceptor.messages
    assert (message.target, message.headers) == (b"/leads", ((b"Host", b"a.test"), (b"X-A", b"b")))
    assert producer.statuses == [200]


def test_a_chunked_body_is_one_body(door):
    """Extensions and trailers are framing: neither reaches a consumer."""
    producer = door.connect()
    producer.send(
        b"POST /leads HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
        b"3;ext=1\r\nabc\r\n4\r\n\x00\xff\r\n\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    door.acceptor.answer_all()
    (message,) = door.acceptor.messages
    assert message.body == b"abc\x00\xff\r\n"
    assert message.headers == ((b"Host", b"a"), (b"X-A", b"b"))
    assert producer.statuses == [200]
    assert door.producers.budget.used == 0


def test_100_continue(door):
    """The body is asked for when it will be read, and not when the answer is certain already."""
    head = b"Host: a\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n"
    producer = door.connect()
    producer.send(b"POST /leads HTTP/1.1\r\n" + head)
    assert producer.taken() == b"HTTP/1.1 100 Continue\r\n\r\n"
    producer.send(b"abc")
    door.acceptor.answer_all()
    assert producer.statuses == [200]
    assert (b"Expect", b"100-Continue") not in door.acceptor.messages[0].headers

    for line, status in ((b"POST /nowhere", 404), (b"GET /leads", 405)):
        refused = door.connect()
        refused.send(line + b" HTTP/1.1\r\n" + head)
        assert refused.statuses == [status]
        assert refused.is_ending


def test_100_continue_waits_for_earlier_answers(door, post):
    producer = door.connect()
    producer.send(
        post(b"/leads", b"1") + b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert producer.taken() == b""
    door.acceptor.answer_all()
    door.turn()
    data = producer.taken()
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(b"HTTP/1.1 100 Continue\r\n\r\n")


def test_an_offer_to_upgrade_is_ignored(door):
    """Java's and curl's HTTP clients offer HTTP/2 with a first request, its body included."""
    producer = door.connect()
    upgrade = (
        b"POST /leads HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX-A: b\r\n"
    )
    next_one = b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nlast"
    producer.send(upgrade + b"Content-Length: 3\r\n\r\nabc" + next_one)
    producer.send(upgrade + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab")
    producer.send(b"c\r\n0\r\n\r\n" + next_one)
    producer.send(upgrade + b"\r\n" + next_one)
    door.acceptor.answer_all()
    door.turn()
    assert producer.statuses == [200] * 6
    bodies = [message.body for message in door.acceptor.messages]
    assert bodies == [b"abc", b"last", b"abc", b"last", b"", b"last"]
    headers = (b"Host", b"a"), (b"X-A", b"b"), (b"Content-Length", b"3")
    assert door.acceptor.messages[0].headers == headers


def test_a_producer_that_leaves_is_forgotten(door, post):
    """What it posted is decided without it; nothing is written to nobody."""
    producer = door.connect()
    producer.send(post(b"/leads", b"x") + post(b"/leads", b"x"))
    assert door.producers.budget.used > 0
    producer.channel.connectionLost(Failure(ConnectionDone()))
    assert door.producers.connections == 0
    assert door.producers.budget.used > 0, "the messages are still held"
    door.acceptor.answer_all()
    door.turn()
    assert producer.taken() == b""
    assert door.producers.budget.used == 0


def test_several_answers_to_a_half_closed_connection_end_it_once(door, post):
    """They leave in one turn, which also finds that there is no more to come."""
    for rest in (b"", b"POST /leads HTTP/1.1\r\n"):
        producer = door.connect()
        producer.send(post(b"/leads", b"x") + post(b"/leads", b"y") + rest)
        producer.channel.readConnectionLost()
        door.acceptor.answer_all()
        assert not producer.is_ending
        door.turn()
        assert producer.statuses == [200, 200]
        assert producer.transport.disconnecting


def test_half_closed_connections_get_their_answers(door, post):
    producer, idle = door.connect(), door.connect()
    producer.send(post(b"/leads", b"x"))
    producer.channel.readConnectionLost()
    idle.channel.readConnectionLost()
    assert idle.transport.disconnecting
    assert not producer.is_ending
    door.acceptor.answer_all()
    assert producer.answers[0].fields[b"connection"] == b"close"
    assert producer.transport.disconnecting


# --- Time ---------------------------------------------------------------------------------------


def test_an_idle_connection_is_closed(make_door, post):
    door = make_door(idle_s=10.0)
    fresh, used = door.connect(), door.connect()
    door.wait(8)
    used.send(post(b"/leads", b"x"))
    door.acceptor.answer_all()
    door.wait(4)
    assert fresh.transport.disconnecting
    assert not used.is_ending
    door.wait(8)
    assert used.transport.disconnecting
    assert used.statuses == [200]


def test_a_slow_head_is_refused_however_it_dribbles(make_door):
    """The deadline is for the whole head: a byte now and then does not move it."""
    door = make_door(head_s=5.0)
    producer = door.connect()
    producer.send(b"POST /leads HTTP/1.1\r\n")
    for _ in range(14):
        door.clock.advance(0.5)
        producer.send(b"a")
    assert producer.statuses == [408]
    assert producer.is_ending
    door.wait(3)
    assert producer.transport.aborted


def test_a_slow_body_is_refused_however_it_dribbles(make_door):
    door = make_door(head_s=5.0, body_s=8.0)
    producer = door.connect()
    producer.send(b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
    for _ in range(12):
        door.clock.advance(0.5)
        producer.send(b"a")
    assert producer.statuses == []
    for _ in range(8):
        door.clock.advance(0.5)
        producer.send(b"a")
    assert producer.statuses == [408]
    assert door.acceptor.offered == []
    producer.channel.connectionLost(Failure(ConnectionDone()))
    assert door.producers.budget.used == 0


def test_an_answer_that_never_comes_ends_the_connection(make_door, post):
    door = make_door(answer_s=20.0)
    producer = door.connect()
    producer.send(post(b"/leads", b"x"))
    door.wait(19)
    assert not producer.transport.aborted
    door.wait(2)
    assert producer.transport.aborted


def test_the_date_moves_on(door, post):
    producer = door.connect()
    door.wait(60)
    producer.send(post(b"/nowhere"))
    assert producer.answers[0].fields[b"date"] == b"Wed, 23 Jul 2025 00:01:00 GMT"


# --- Back-pressure ------------------------------------------------------------------------------


def test_a_deep_pipeline_is_not_read(make_door, post):
    """I7: a connection with too many unanswered requests waits, and loses nothing."""
    door = make_door(pipeline_max=4)
    producer = door.connect()
    body = bytes(16 * 1024)
    producer.send(post(b"/leads", body) * 10)
    assert producer.is_paused
    assert len(door.acceptor.offered) < 10
    for _ in range(10):
        door.acceptor.answer_all()
        door.turn()
    assert producer.statuses == [200] * 10
    assert not producer.is_paused
    assert [len(message.body) for message in door.acceptor.messages] == [len(body)] * 10


def test_a_pipeline_ends_at_its_bound_within_what_came_at_once(make_door, post):
    """However many small requests one packet has: the rest of it waits, in its order."""
    door = make_door(pipeline_max=4)
    producer = door.connect()
    producer.send(b"".join(post(b"/leads", b"%d" % number) for number in range(30)))
    assert len(door.acceptor.offered) == 4
    assert producer.is_paused
    for _ in range(30):
        door.acceptor.answer(door.acceptor.answered)
        door.acceptor.answered += 1
        door.turn()
        unanswered = len(door.acceptor.offered) - door.acceptor.answered
        assert unanswered <= 4
    assert producer.statuses == [200] * 30
    assert [message.body for message in door.acceptor.messages] == [b"%d" % n for n in range(30)]
    assert not producer.is_paused


def test_requests_that_are_answered_at_once_fill_no_pipeline(make_door, post):
    """They go on in the reactor's next turns, and others have theirs between."""
    door = make_door(pipeline_max=4)
    producer = door.connect()
    producer.send(post(b"/nowhere") * 10 + post(b"/leads", b"x") + b"POST /le")
    assert producer.statuses == [404] * 4
    for _ in range(3):
        door.turn()
    door.acceptor.answer_all()
    door.turn()
    assert producer.statuses == [404] * 10 + [200]
    assert not producer.is_paused
    producer.send(b"ads HTTP/1.1\r\nHost: a\r\n\r\n")
    door.acceptor.answer_all()
    assert producer.statuses == [404] * 10 + [200] * 2


def test_a_pipeline_that_ends_beyond_its_bound_is_answered_whole(make_door, post):
    """Half closed, or with a last request: what waited for its turn is not lost."""
    door = make_door(pipeline_max=4)
    closed, last = door.connect(), door.connect()
    closed.send(post(b"/leads", b"x") * 10)
    closed.channel.readConnectionLost()
    last.send(post(b"/leads", b"x") * 9 + post(b"/leads", b"x", b"Connection: close") * 2)
    for _ in range(10):
        door.acceptor.answer_all()
        door.turn()
    for producer in (closed, last):
        assert producer.statuses == [200] * 10
        assert producer.answers[-1].fields[b"connection"] == b"close"
        assert producer.is_ending


def test_bodies_in_flight_are_bounded_over_all_connections(make_door, post):
    """I7: at `limits.in_flight` connections wait for others' answers, in their order."""
    door = make_door(in_flight_bytes_max=300_000)
    producers = [door.connect() for _ in range(5)]
    for producer in producers:
        producer.send(post(b"/leads", bytes(100_000)))
    assert [producer.is_paused for producer in producers] == [False, False, True, True, True]
    assert len(door.acceptor.offered) == 2
    assert door.producers.budget.used <= 300_000
    for _ in range(5):
        door.acceptor.answer_all()
        door.turn()
    assert [producer.statuses for producer in producers] == [[200]] * 5
    assert not any(producer.is_paused for producer in producers)
    assert door.producers.budget.used == 0


def test_a_request_that_waited_too_long_for_room_is_not_stored(make_door, post):
    door = make_door(in_flight_bytes_max=150_000, answer_s=30.0, body_s=5.0)
    first, second = door.connect(), door.connect()
    first.send(post(b"/leads", bytes(100_000)))
    second.send(post(b"/leads", bytes(100_000)))
    door.wait(20)
    assert second.statuses == [], "it is not slow: it waits"
    door.wait(11)
    assert second.statuses == [503]
    assert second.answers[0].fields[b"retry-after"] == b"1"


def test_small_requests_over_the_bound_wait_too(make_door, post):
    """A body that comes with its head is taken, and then its connection waits its turn."""
    door = make_door(in_flight_bytes_max=5_000)
    first, second = door.connect(), door.connect()
    first.send(post(b"/leads", bytes(3_000)))
    second.send(post(b"/leads", bytes(3_000)))
    assert len(door.acceptor.offered) == 2
    assert not first.is_paused
    assert second.is_paused
    door.acceptor.answer_all()
    door.turn()
    assert not second.is_paused
    assert second.statuses == [200]
    assert door.producers.budget.used == 0


def test_a_producer_that_does_not_read_is_not_read(door, post):
    producer = door.connect()
    producer.channel.pauseProducing()
    producer.send(post(b"/leads", b"x"))
    assert producer.is_paused
    assert door.acceptor.offered == []
    producer.channel.resumeProducing()
    door.turn()
    assert not producer.is_paused
    assert len(door.acceptor.offered) == 1


# --- The end ------------------------------------------------------------------------------------


def test_draining_answers_what_is_in_flight(door, post):
    """SIGTERM: connections close after their answer, idle ones soon; nobody new gets in."""
    idle, late, busy, midway = (door.connect() for _ in range(4))
    busy.send(post(b"/leads", b"x"))
    whole = post(b"/leads", b"abc")
    midway.send(whole[:-1])
    drained: Deferred[None] = door.producers.drain()
    assert not any(one.is_ending for one in (idle, late, busy))
    assert door.producers.buildProtocol(None) is None
    midway.send(whole[-1:] + whole)
    late.send(whole)
    door.acceptor.answer_all()
    door.turn()
    assert busy.answers[0].fields[b"connection"] == b"close"
    assert midway.answers[0].fields[b"connection"] == b"close"
    assert late.answers[0].fields[b"connection"] == b"close"
    assert len(door.acceptor.offered) == 3
    door.wait(DRAIN_IDLE_S)
    for producer in (idle, late, busy, midway):
        assert producer.transport.disconnecting
        assert not drained.called
        producer.channel.connectionLost(Failure(ConnectionDone()))
    assert drained.called


def test_connections_are_bounded(make_door):
    door = make_door(connections_max=1, connections_over=1)
    door.connect()
    door.connect()
    assert door.producers.buildProtocol(None) is None
    assert door.producers.connections_refused == 1
