"""Reads through the door: the real channel, handlers and pool; both ends in memory."""

from __future__ import annotations

import json

import pytest

from crowd.door.proxies import Proxies

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nDate: then\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def get(target=b"/api/a", *headers, method=b"GET", version=b"1.1"):
    """Return a read's bytes."""
    lines = [b"%b %b HTTP/%b" % (method, target, version), b"Host: crowd.test", *headers]
    return b"\r\n".join([*lines, b"", b""])


@pytest.fixture
def ask(door):
    """Return what has a read asked on a new connection: (reader, upstream's side)."""

    def run(*arguments, **options):
        reader = door.connect()
        reader.send(get(*arguments, **options))
        return reader, door.endpoint.succeed()

    return run


def taken(reader):
    """Return a reader's new bytes: head and body."""
    head, _, body = reader.taken().partition(b"\r\n\r\n")
    return head.split(b"\r\n"), body


def why(door):
    """Return the failures so far."""
    return {kind: count for kind, count in door.upstreams.tally.failures.items() if count}


def test_a_read_and_its_answer(door, ask):
    """The upstream sees the reader's request; the reader the upstream's answer."""
    reader, upstream = ask(b"/api/a%20b?c=%2f", b"Range: bytes=0-1", b"Crowd-Evil: 1")
    lines = upstream.taken().split(b"\r\n")
    assert lines[:3] == [
        b"GET /api/a%20b?c=%2f HTTP/1.1",
        b"Host: upstream.test:8080",
        b"Range: bytes=0-1",
    ]
    assert b"Crowd-Through: thisnode" in lines
    assert not [line for line in lines if line.startswith(b"Crowd-Evil")]
    upstream.says(b"HTTP/1.1 206 Some Of It\r\nETag: x\r\nContent-Length: 2\r\nDate: d\r\n\r\nab")
    assert reader.taken() == (
        b"HTTP/1.1 206 Some Of It\r\nETag: x\r\nContent-Length: 2\r\nDate: d\r\n"
        b"Via: 1.1 crowd\r\nConnection: keep-alive\r\n\r\nab"
    )
    assert door.acceptor.offered == []
    assert door.upstreams.tally.in_flight == 0
    assert door.upstreams.tally.body_bytes == 2
    assert door.producers.budget.used == 0


def test_writes_of_the_route_are_messages_still(door, post):
    """One name stands for both."""
    reader = door.connect()
    reader.send(post(b"/api/a", b"x"))
    door.acceptor.answer_all()
    assert reader.statuses == [200]
    assert [message.target for message in door.acceptor.messages] == [b"/api/a"]


def test_reads_need_no_route_in_the_ledger(door, ask):
    """No quorum, no leader, no log: a read goes through."""
    door.acceptor.routes.clear()
    reader, upstream = ask()
    upstream.says(HEAD % 0)
    assert reader.statuses == [200]


def test_only_routes_that_say_so_pass_reads_on(door):
    """The others refuse as ever."""
    reader = door.connect()
    reader.send(get(b"/leads") + get(b"/api/a", method=b"TRACE") + get(b"/none"))
    door.turn()
    assert reader.statuses == [405, 405, 404]
    assert b"OPTIONS" in reader.answers[1].fields[b"allow"]
    assert door.endpoint.asked == []


def test_a_body_goes_out_as_it_comes(door, ask):
    """Nothing waits for the end."""
    reader, upstream = ask()
    upstream.says(HEAD % 6 + b"abc")
    assert taken(reader)[1] == b"abc"
    upstream.says(b"def")
    assert reader.taken() == b"def"
    assert reader.is_ending is False


def test_a_body_of_unknown_length_goes_out_in_chunks(door, ask):
    """Pieces of one read make one chunk; the end is an end only when it was one."""
    reader, upstream = ask()
    upstream.says(CHUNKED + b"1\r\na\r\n2\r\nbc\r\n")
    lines, body = taken(reader)
    assert b"Transfer-Encoding: chunked" in lines
    assert any(line.startswith(b"Date: Wed, 23 Jul 2025") for line in lines)
    assert body == b"3\r\nabc\r\n"
    upstream.says(b"0\r\nTrailer: x\r\n\r\n")
    assert reader.taken() == b"0\r\n\r\n"
    reader.send(get())
    upstream.says(HEAD % 0)
    assert reader.statuses == [200]


@pytest.mark.parametrize(
    "headers", [(), (b"Connection: keep-alive",), (b"Proxy-Connection: keep-alive",)]
)
def test_to_http_1_0_the_body_ends_with_the_connection(door, ask, headers):
    """There are no chunks in HTTP/1.0."""
    reader, upstream = ask(b"/api/a", *headers, version=b"1.0")
    reader.send(get(b"/api/b", *headers, version=b"1.0"))
    upstream.says(CHUNKED + b"3\r\nabc\r\n")
    lines, body = taken(reader)
    assert b"Connection: close" in lines
    assert not [line for line in lines if line.startswith(b"Transfer-Encoding")]
    assert not reader.is_ending
    upstream.says(b"0\r\n\r\n")
    assert (body, reader.taken(), reader.is_ending) == (b"abc", b"", True)
    assert upstream.taken().count(b"GET") == 1


@pytest.mark.parametrize("answer", [HEAD % 1000, CHUNKED, b"HTTP/1.1 200 OK\r\n\r\n"])
def test_head_has_the_head_alone(door, ask, answer):
    """Its Content-Length stands, and the connection goes on."""
    reader, upstream = ask(method=b"HEAD")
    assert upstream.taken().startswith(b"HEAD /api/a HTTP/1.1\r\n")
    upstream.says(answer)
    lines, body = taken(reader)
    assert (b"Content-Length: 1000" in lines) == (b"1000" in answer)
    assert (body, b"Connection: keep-alive" in lines) == (b"", True)
    assert door.upstreams.tally.in_flight == 0
    reader.send(get(method=b"OPTIONS"))
    upstream = door.endpoint.succeed() if door.endpoint.asked else upstream
    assert upstream.taken().startswith(b"OPTIONS")
    upstream.says(b"HTTP/1.1 204 None\r\nAllow: GET\r\n\r\n")
    assert taken(reader)[1] == b""


def test_not_modified(door, ask):
    """A 304 has no body, whatever its length says; the next answer is its own."""
    reader, upstream = ask(b"/api/a", b'If-None-Match: "1"')
    assert b'\r\nIf-None-Match: "1"\r\n' in upstream.taken()
    upstream.says(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n")
    assert b"Content-Length: 9" in taken(reader)[0]
    reader.send(get())
    upstream.says(HEAD % 2 + b"ok")
    assert taken(reader)[1] == b"ok"


def test_a_slow_reader_pauses_the_upstream(door, ask):
    """Back-pressure: nothing more is read until what went out was taken."""
    reader, upstream = ask()
    upstream.says(HEAD % 12 + b"abcd")
    reader.channel.pauseProducing()  # the transport's buffer is full
    assert (upstream.paused, reader.is_paused) == (True, True)
    reader.channel.resumeProducing()
    assert not upstream.paused
    upstream.says(b"efgh")
    door.turn()
    assert not reader.is_paused
    assert taken(reader)[1] == b"abcdefgh"


def test_a_reader_that_takes_nothing_is_let_go(door, ask):
    """What its connection holds must be taken within 30 s: no place is held for ever."""
    reader, upstream = ask()
    upstream.says(HEAD % 12 + b"abcd")
    for _ in range(3):
        reader.channel.pauseProducing()
        door.wait(25)
        assert not reader.transport.aborted
        reader.channel.resumeProducing()
        door.turn()
    reader.channel.pauseProducing()
    door.wait(31)
    assert reader.transport.aborted
    reader.channel.connectionLost()
    assert upstream.aborted
    assert (why(door), door.upstreams.tally.in_flight) == ({"gone": 1}, 0)


def test_what_a_slow_reader_has_not_taken_is_under_way(door, ask):
    """A place is given back when the answer went out, not when it came."""
    reader, upstream = ask()
    upstream.says(HEAD % 12 + b"abcd")
    reader.channel.pauseProducing()
    upstream.protocol.dataReceived(b"efghijkl")  # TLS had it already
    assert taken(reader)[1] == b"abcdefghijkl"
    assert door.upstreams.tally.in_flight == 1
    assert not upstream.paused  # idle, and to be heard if it closes
    reader.channel.resumeProducing()
    assert door.upstreams.tally.in_flight == 0
    door.turn()
    reader.send(get())
    upstream.says(HEAD % 0)
    assert reader.statuses == [200]


def test_what_went_out_before_is_taken_before_an_answer_begins(door, ask):
    """A transport that is full may have said so once, and for answers before this one."""
    reader, upstream = ask()
    reader.channel.pauseProducing()
    upstream.says(HEAD % 8 + b"abcd")
    assert (upstream.paused, reader.taken()) == (True, b"")
    reader.channel.resumeProducing()
    door.turn()
    assert not upstream.paused
    upstream.says(b"efgh")
    assert taken(reader)[1] == b"abcdefgh"
    assert door.upstreams.tally.in_flight == 0


def test_a_reader_that_takes_nothing_is_let_go_before_its_answer_begins(door, post):
    """Its transport was full before the read's turn came, so that nothing was due of it then."""
    reader = door.connect()
    reader.send(post() + get())
    reader.channel.pauseProducing()
    upstream = door.endpoint.succeed()
    upstream.says(HEAD % 12 + b"abcd")
    door.acceptor.answer_all()
    door.turn()
    assert upstream.paused
    for _ in range(100):
        reader.channel.turn()  # whatever the reason: it does not renew what is due
        door.wait(1)
    assert reader.transport.aborted
    reader.channel.connectionLost()
    assert (upstream.aborted, door.upstreams.tally.in_flight) == (True, 0)


def test_a_long_answer_that_flows_is_not_ended(door, ask):
    """There is no deadline for an answer as a whole."""
    reader, upstream = ask()
    upstream.says(HEAD % 1_000_000 + b"a")
    for _ in range(20):
        door.wait(50)
        upstream.says(b"b")
    assert not reader.transport.aborted
    assert taken(reader)[1] == b"a" + b"b" * 20


def test_an_upstream_that_stops_within_a_body(door, ask):
    """The reader's connection ends so that nobody takes it for the whole."""
    reader, upstream = ask()
    upstream.says(CHUNKED + b"3\r\nabc\r\n")
    door.wait(61)
    assert reader.transport.aborted
    assert upstream.aborted
    assert not reader.taken().endswith(b"0\r\n\r\n")
    assert why(door) == {"slow": 1}


@pytest.mark.parametrize("answer", [CHUNKED + b"3\r\nabc\r\n", HEAD % 9 + b"abc"])
def test_an_upstream_that_dies_within_a_body(door, ask, answer):
    """No clean end, and nothing after it."""
    reader, upstream = ask()
    reader.send(get(b"/api/b"))
    upstream.says(answer)
    upstream.lose()
    assert reader.transport.aborted
    assert taken(reader)[1] in {b"3\r\nabc\r\n", b"abc"}
    reader.channel.connectionLost()
    assert door.upstreams.tally.in_flight == 0
    assert why(door) == {"broken": 1, "gone": 1}


@pytest.mark.parametrize("step", ["connecting", "asked", "answering"])
def test_a_reader_that_goes_has_its_read_ended(door, step):
    """The upstream need not work for nobody."""
    reader = door.connect()
    reader.send(get())
    if step != "connecting":
        upstream = door.endpoint.succeed()
        if step == "answering":
            upstream.says(HEAD % 12 + b"abcd")
    reader.channel.connectionLost()
    if step == "connecting":
        assert door.endpoint.cancelled == 1
    else:
        assert upstream.aborted
    assert (why(door), door.upstreams.tally.in_flight) == ({"gone": 1}, 0)
    assert door.producers.budget.used == 0


def test_a_reader_that_sends_no_more_gets_what_comes_soon(door, ask):
    """Half closed: it may be waiting, and most likely is gone."""
    patient, upstream = ask()
    patient.channel.readConnectionLost()
    upstream.says(HEAD % 12 + b"abcd")
    door.wait(5)
    upstream.says(b"efghijkl")
    assert taken(patient)[1] == b"abcdefghijkl"
    assert patient.is_ending
    gone, _ = door.connect(), upstream.lose()
    gone.send(get())
    second = door.endpoint.succeed()
    gone.channel.readConnectionLost()
    door.wait(4)
    assert gone.transport.aborted
    gone.channel.connectionLost()
    assert second.aborted


def test_answers_keep_their_order(door, post):
    """Pipelined: a read's answer waits for its turn, unread, and the next ones wait for it."""
    reader = door.connect()
    reader.send(post() + get(b"/api/1") + post() + get(b"/api/2") + post(b"/nowhere"))
    first, second = door.endpoint.succeed(), door.endpoint.succeed()
    second.says(HEAD % 6 + b"2nd")
    first.says(CHUNKED + b"3\r\n1st\r\n")
    door.turn()
    assert (first.paused, second.paused, reader.taken()) == (True, True, b"")
    door.acceptor.answer(1)
    door.acceptor.answer(0)
    door.turn()
    assert (first.paused, second.paused) == (False, True)
    assert [answer.status for answer in reader.answers] == [200]
    first.says(b"0\r\n\r\n")
    door.turn()
    assert not second.paused
    second.says(b"2nd")
    door.turn()
    assert [(answer.status, answer.body[:6]) for answer in reader.answers[1:4]] == [
        (200, b"1st"), (200, b'{"stat'), (200, b"2nd2nd"),
    ]  # fmt: skip
    assert reader.statuses[4:] == [404]
    assert not reader.is_ending


def test_many_pipelined_reads_pause_the_connection(make_door):
    """Too many unanswered requests: it is not read, until half are answered."""
    door = make_door(pipeline_max=4)
    reader = door.connect()
    reader.send(b"".join(get(b"/api/%d" % n) for n in range(4)))
    assert reader.is_paused
    sides = [door.endpoint.succeed() for _ in range(4)]
    for side in sides:
        side.says(HEAD % 1 + b"x")
        door.turn()
    door.turn()
    assert reader.statuses == [200] * 4
    assert not reader.is_paused


def test_pipelined_reads_of_one_packet_do_not_take_all_places(make_door):
    """One connection has at most as many under way as it may have requests unanswered."""
    door = make_door(pipeline_max=2)
    reader = door.connect()
    reader.send(get() * 500)
    assert door.upstreams.tally.in_flight == 2
    assert why(door) == {}


def test_a_small_answer_is_one_write(door, ask):
    """Head and body go out together."""
    reader, upstream = ask()
    upstream.says(HEAD % 2 + b"ok")
    assert reader.transport.writes == 1


def test_too_many_reads(door):
    """Beyond the bound readers hear so at once; a place that is free again is used."""
    readers = [door.connect() for _ in range(5)]
    for reader in readers:
        reader.send(get())
    problem = readers[4].answers[0]
    assert (problem.status, problem.fields[b"retry-after"]) == (503, b"1")
    assert json.loads(problem.body)["type"] == "/problems/too-many-reads"
    upstream = door.endpoint.succeed()
    upstream.says(HEAD % 0)
    readers[4].send(get())
    upstream.says(HEAD % 0)
    assert readers[4].statuses == [503, 200]
    assert why(door) == {"busy": 1}


@pytest.mark.parametrize(
    ("through", "status"),
    [
        (b"thisnode", 508),
        (b"a, thisnode, b", 508),
        (b", ".join(b"n%d" % n for n in range(32)), 508),
        (b"a, b", None),
    ],
)
def test_a_loop(door, through, status):
    """A read that was here before is not asked again."""
    reader = door.connect()
    reader.send(get(b"/api/a", b"Crowd-Through: " + through))
    if status is None:
        assert b"\r\nCrowd-Through: a, b, thisnode\r\n" in door.endpoint.succeed().written
    else:
        assert reader.statuses == [status]
        assert json.loads(reader.answers[0].body)["type"] == "/problems/loop"
        assert door.endpoint.asked == []


@pytest.mark.parametrize(
    ("says", "status", "name"),
    [
        (None, 502, "upstream-unreachable"),
        (b"", 502, "upstream-broken"),
        (b"nonsense\r\n\r\n", 502, "upstream-malformed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, 502, "upstream-head-too-large"),
    ],
)
def test_an_upstream_without_an_answer(door, says, status, name):
    """Each way has its type, and tells nothing of addresses."""
    reader = door.connect()
    reader.send(get())
    if says is None:
        door.endpoint.fail()
    else:
        upstream = door.endpoint.succeed()
        if says:
            upstream.says(says)
        else:
            upstream.lose()
    problem = reader.answers[0]
    document = json.loads(problem.body)
    assert (problem.status, document["type"]) == (status, f"/problems/{name}")
    assert "detail" not in document
    assert problem.fields[b"connection"] == b"keep-alive"
    assert door.upstreams.tally.in_flight == 0
    assert door.upstreams.tally.answers["5xx"] == 1


def test_an_upstream_that_is_too_slow(door, ask):
    """504 after the route's timeout."""
    reader, upstream = ask()
    door.wait(61)
    assert reader.statuses == [504]
    assert upstream.aborted
    assert not reader.is_ending


def test_head_of_a_problem(door):
    """No body, and the connection goes on."""
    reader = door.connect()
    reader.send(get(method=b"HEAD"))
    door.endpoint.fail()
    lines, body = taken(reader)
    assert (lines[0], body) == (b"HTTP/1.1 502 Bad Gateway", b"")


def test_options_that_may_go_no_further_are_answered_here(door, ask):
    """RFC 9110, 7.6.2: with as many hops left as are between the reader and whom it asks."""
    reader = door.connect()
    reader.send(get(b"/api/a", b"Max-Forwards: 0", method=b"OPTIONS"))
    answer = reader.answers[0]
    assert (answer.status, answer.fields[b"allow"]) == (204, b"GET, HEAD, OPTIONS, POST")
    assert door.endpoint.asked == []
    assert door.upstreams.tally.answers["2xx"] == 1
    _, upstream = ask(b"/api/a", b"Max-Forwards: 2", method=b"OPTIONS")
    assert b"\r\nMax-Forwards: 1\r\n" in upstream.taken()
    _, upstream = ask(b"/api/a", b"Max-Forwards: 0")
    assert b"\r\nMax-Forwards: 0\r\n" in upstream.taken()


def test_the_hops_of_one_request_are_not_those_of_the_next(door, ask):
    """A connection's requests with the same fields share them."""
    reader, upstream = ask(b"/api/a", b"Max-Forwards: 2", method=b"OPTIONS")
    for _ in range(2):
        upstream.says(HEAD % 0)
        assert b"\r\nMax-Forwards: 1\r\n" in upstream.taken()
        reader.send(get(b"/api/a", b"Max-Forwards: 2", method=b"OPTIONS"))
    assert reader.statuses == [200, 200]


def test_a_fragment_is_refused(door):
    """It names nothing at the upstream."""
    reader = door.connect()
    reader.send(get(b"/api/a#b"))
    assert reader.statuses == [400]


def test_a_read_with_a_body(door):
    """It is read whole, within its bound, and sent with its length."""
    reader = door.connect()
    reader.send(get(b"/api/a", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
    upstream = door.endpoint.succeed()
    head, _, body = upstream.written.partition(b"\r\n\r\n")
    assert body == b"abc"
    assert b"\r\nContent-Length: 3" in head
    assert door.producers.budget.used > 0
    upstream.says(HEAD % 1)
    assert door.producers.budget.used == 0
    large = door.connect()
    large.send(get(b"/api/a", b"Content-Length: 9999999"))
    assert large.statuses == [413]


def test_draining_ends_the_connection_after_the_answer(door, ask):
    """A stopping node finishes what it began."""
    reader, upstream = ask()
    upstream.says(HEAD % 6 + b"abc")
    door.producers.drain()
    assert not reader.is_ending
    upstream.says(b"def")
    assert reader.is_ending
    assert not reader.transport.aborted


def test_another_configuration_lets_idle_upstreams_go(door, ask):
    """Reads under way go on; the next ones go elsewhere."""
    reader, upstream = ask()
    upstream.says(HEAD % 6 + b"abc")
    door.upstreams.keep([])
    assert not upstream.aborted
    upstream.says(b"def")
    assert taken(reader)[1] == b"abcdef"
    assert upstream.aborted


def test_behind_a_trusted_proxy_the_reader_is_whom_it_names(make_door):
    """The list's last element is the reader, as it is the producer for a consumer."""
    door = make_door(proxies=Proxies(("192.0.2.0/24",), "X-Forwarded-For"))
    reader = door.connect()
    reader.send(get(b"/api/a", b"X-Forwarded-For: 203.0.113.9, 198.51.100.7"))
    lines = door.endpoint.succeed().taken().split(b"\r\n")
    assert b"X-Forwarded-For: 203.0.113.9, 198.51.100.7, 198.51.100.7" in lines
