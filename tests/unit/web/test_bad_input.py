"""What is not a request that can be kept: a clear answer, the connection ends, crowd goes on."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crowd.web.limits import SLICE_BYTES

HEAD = b"POST /leads HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

BAD = {
    "a line that is not HTTP": (b"hello there\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "an unknown method": (b"FROB /leads HTTP/1.1\r\n\r\n", 400),
    "a method in lower case": (b"post /leads HTTP/1.1\r\n\r\n", 400),
    "no version": (b"POST /leads\r\n\r\n", 505),
    "HTTP/2 by prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/2.0 in words": (b"POST /leads HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "a control character in the target": (b"POST /le\x01ads HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an octet over 127 in the target": (b"POST /le\xffads HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a bare LF after the request line": (b"POST /leads HTTP/1.1\nHost: a\n\n", 400),
    "no Host": (b"POST /leads HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (HEAD + b"Host: b\r\n\r\n", 400),
    "Content-Length and Transfer-Encoding": (
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
    ),
    "Transfer-Encoding and Content-Length": (
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400,
    ),
    "two Content-Lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of Content-Lengths": (HEAD + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "a signed Content-Length": (HEAD + b"Content-Length: +3\r\n\r\nabc", 400),
    "a Content-Length with an underscore": (HEAD + b"Content-Length: 1_0\r\n\r\nabc", 400),
    "an empty Content-Length": (HEAD + b"Content-Length:\r\n\r\n", 400),
    "a Content-Length beyond 64 bits": (HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "a chunk size that is no number": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    "a negative chunk size": (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size beyond 64 bits": (CHUNKED + b"f" * 17 + b"\r\nabc", 400),
    "a chunk longer than its size": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400),
    "a chunk size that ends with LF": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400),
    "another transfer coding": (
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501,
    ),
    "chunked that is not last": (HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    "chunked in HTTP/1.0": (
        b"POST /leads HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
    ),
    "a folded header": (HEAD + b"A: b\r\n c\r\n\r\n", 400),
    "a NUL in a header": (HEAD + b"A: b\x00c\r\n\r\n", 400),
    "a bare CR in a header": (HEAD + b"A: b\rc\r\n\r\n", 400),
    "a bare LF in a header": (HEAD + b"A: b\nB: c\r\n\r\n", 400),
    "a space before the colon": (HEAD + b"A : b\r\n\r\n", 400),
    "a header without a name": (HEAD + b": b\r\n\r\n", 400),
    "a header name that is no token": (HEAD + b"A\xff: b\r\n\r\n", 400),
    "another expectation": (HEAD + b"Content-Length: 1\r\nExpect: 200-ok\r\n\r\n", 417),
    "a target over the limit": (b"POST /" + b"a" * 8200 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "one header over the limit": (HEAD + b"A: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    "a header that never ends": (HEAD + b"A: " + b"a" * 100_000, 431),
    "headers over the limit": (HEAD + b"A: 1234567\r\n" * 4000 + b"\r\n", 431),
    "too many headers": (HEAD + b"A: b\r\n" * 200 + b"\r\n", 431),
    "a body over the limit": (HEAD + b"Content-Length: 1048577\r\n\r\n", 413),
    "a chunked body over the limit": (
        CHUNKED + (b"10000\r\n" + bytes(0x10000) + b"\r\n") * 17, 413,
    ),
    "endless chunk extensions": (CHUNKED + b"1;" + b"a" * 60_000, 400),
    "endless trailers": (CHUNKED + b"0\r\nA: " + b"a" * 60_000, 400),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused(door, post, case):
    """Each gets its problem, in an answer that ends the connection; nothing is stored."""
    data, status = BAD[case]
    producer = door.connect()
    producer.send(data)
    door.turn()
    (answer,) = producer.answers
    assert answer.status == status
    assert answer.fields[b"connection"] == b"close"
    assert answer.fields[b"content-type"] == b"application/problem+json"
    assert json.loads(answer.body)["type"].startswith("/problems/")
    assert producer.is_ending
    assert door.acceptor.offered == []
    producer.send(post(b"/leads", b"more"))
    assert door.acceptor.offered == [], "what follows is not looked at"
    door.wait(3)
    assert producer.transport.aborted, "and the producer is let go"

    another = door.connect()
    another.send(post(b"/leads", b"x"))
    door.acceptor.answer_all()
    assert another.statuses == [200]


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_cost_no_earlier_answer(door, post, case):
    """What came before on the same connection is stored and answered, in its order."""
    data, status = BAD[case]
    producer = door.connect()
    producer.send(post(b"/leads", b"good") + data)
    door.turn()
    assert producer.statuses == []
    door.acceptor.answer_all()
    door.turn()
    assert producer.statuses == [200, status]
    assert producer.is_ending


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"POST /nowhere", 404),
        (b"POST /Leads", 404),
        (b"GET /leads", 405),
        (b"HEAD /leads", 405),
        (b"OPTIONS /leads", 405),
        (b"TRACE /leads", 405),
        (b"DELETE /leads", 405),
        (b"POST *", 404),
        (b"POST /leads#fragment", 404),
    ],
)
def test_requests_that_no_route_takes(door, line, status):
    producer = door.connect()
    producer.send(line + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    data = producer.taken()
    assert data.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nAllow: POST, PUT\r\n" in data) == (status == 405)
    if line.startswith(b"HEAD"):
        assert data.endswith(b"\r\n\r\n"), "an answer to HEAD has no body"
    assert not producer.is_ending
    assert door.acceptor.offered == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HEAD /leads HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"HEAD /leads HTTP/1.1\r\n\r\n", 400),
        (b"HEAD /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", 404),
        (b"HEAD /leads HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"HEAD /" + b"a" * 9_000, 414),
        (b"\r\nHEAD /leads HTTP/1.1\r\nA: " + b"a" * 50_000, 431),
        (b"HEAD /leads HTTP/1.1\r\nA:\x00", 400),
        (b"GET /leads HTTP/1.1\r\nHost: a\r\n\r\nHEAD /leads HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_a_refusal_of_head_has_no_body(door, data, status):
    """RFC 9110 section 9.3.2: what follows its head would be taken for another answer."""
    producer = door.connect()
    producer.send(data)
    door.turn()
    taken = producer.taken()
    refusal = taken[taken.rindex(b"HTTP/1.1 %d " % status) :]
    assert refusal.endswith(b"\r\nConnection: close\r\n\r\n")
    assert producer.is_ending


def test_a_refusal_of_what_follows_head_has_its_body(door):
    for rest in (b"GET /leads HTTP/1.1\r\n\r\n", b"\n", b"\r\r", b"HEADS", b"GET /" + b"a" * 9_000):
        producer = door.connect()
        producer.send(b"HEAD /leads HTTP/1.1\r\nHost: a\r\n\r\n")
        producer.send(rest)
        assert producer.taken().endswith(b"}")
        assert producer.is_ending


def test_connect_ends_the_connection(door):
    producer = door.connect()
    producer.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nPOST /leads HTTP/1.1\r\n")
    assert producer.answers[0].status in (400, 404, 405)
    assert producer.is_ending


REQUEST_PIECES = st.sampled_from(
    [
        HEAD, CHUNKED, b"POST /leads HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n",
        b"Content-Length: 5\r\n", b"Content-Length: 99999999\r\n", b"hello", b"3\r\nabc\r\n",
        b"0\r\n\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"HTTP/1.0\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"A: b\r\n", b": ", b"\r", b"\n", b"\x00", b" ",
        b"Transfer-Encoding: chunked\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"A: " + b"x" * 20_000,
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.one_of(REQUEST_PIECES, REQUEST_PIECES, st.binary(max_size=40)), max_size=30),
    cuts=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    ends=st.booleans(),
)
@example([HEAD, b"\r\n", HEAD, HEAD], [1], True)
@example([HEAD, b"\r\n", HEAD, b"\r\n"], [1], True)
def test_any_bytes_get_answers_or_an_end(make_door, pieces, cuts, ends):
    """Fuzz: whatever comes, cut however, only well-formed answers leave, and nothing raises.

    And the same bytes in one piece get the same answers: where TCP cuts says nothing.
    """
    data = b"".join(pieces)
    outcomes = []
    for sizes in ([len(data) or 1], cuts):
        door = make_door()
        producer = door.connect()
        place, turn = 0, 0
        while place < len(data):
            size = sizes[turn % len(sizes)]
            producer.send(data[place : place + size])
            place, turn = place + size, turn + 1
        if ends:
            producer.channel.readConnectionLost()
        for _ in range(3):
            door.acceptor.answer_all()
            door.turn()
        statuses = [status for status in producer.statuses if status != 100]
        outcomes.append((statuses, [message.body for message in door.acceptor.messages]))
        door.wait(200)
        assert producer.is_ending
    if len(data) < SLICE_BYTES:
        assert outcomes[0] == outcomes[1]


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_tail_of_bytes(make_door, data):
    """Fuzz: bytes without any structure, after a good request."""
    door = make_door()
    producer = door.connect()
    producer.send(HEAD + b"Content-Length: 2\r\n\r\nok" + data)
    door.acceptor.answer_all()
    door.turn()
    assert producer.statuses[0] == 200
