"""Connections to an upstream, on in-memory transports and a clock that tests advance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.web.client import ResponseDone

from crowd.delivery.agent import IDLE_S, PreparedRequest
from crowd.delivery.endpoint import CONNECT_S
from crowd.reads.connection import SENT_BYTES_MAX
from crowd.reads.failure import ReadFailedError
from crowd.reads.head import HEAD_BYTES_MAX
from crowd.reads.pool import Pool
from tests.unit.reads.rig import Endpoint

GET = PreparedRequest(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"")
HEAD = PreparedRequest(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", b"")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Taker:
    """Takes a body."""

    def __init__(self):
        self.body = b""
        self.end = None
        self.transport = None

    def makeConnection(self, transport):  # noqa: N802
        self.transport = transport

    def dataReceived(self, data):  # noqa: N802
        self.body += data

    def connectionLost(self, reason):  # noqa: N802
        assert self.end is None, "a body ends once"
        error = reason.value
        self.end = error.kind if isinstance(error, ReadFailedError) else type(error)


class Rig:
    """A pool over an endpoint in memory."""

    def __init__(self, *, timeout_s=60.0, secure=False):
        self.clock = Clock()
        self.endpoint = Endpoint()
        self.pool = Pool(self.clock, self.endpoint, timeout_s, secure=secure)
        self.results = []

    def ask(self, prepared=GET):
        asked = self.pool.request(b"GET", b"http://h/", None, prepared)
        asked.addCallback(self.results.append)
        asked.addErrback(lambda failure: self.results.append(failure.value))
        return asked

    def asked(self, prepared=GET):
        """Ask on a new connection; return the upstream's side of it."""
        self.ask(prepared)
        return self.endpoint.succeed()

    def pass_s(self, seconds):
        self.clock.pump([0.1] * round(seconds * 10))

    @property
    def kinds(self):
        return [
            getattr(result, "kind", None) or getattr(result, "code", result)
            for result in self.results
        ]

    def take(self):
        """Take the last answer's body."""
        taker = Taker()
        self.results[-1].deliverBody(taker)
        return taker


def test_an_answer_is_there_with_its_head_and_its_body_waits():
    """Nothing more is read until somebody takes what came."""
    rig = Rig()
    upstream = rig.asked()
    assert upstream.written == GET.head
    upstream.says(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
    assert rig.kinds == [200]
    assert upstream.paused
    taker = rig.take()
    assert (taker.body, taker.end, upstream.paused) == (b"abc", None, False)
    upstream.says(b"def")
    assert (taker.body, taker.end) == (b"abcdef", ResponseDone)


def test_who_takes_a_body_can_pause_it():
    """Back-pressure: the connection is not read, and nothing is due meanwhile."""
    rig = Rig(timeout_s=5.0)
    upstream = rig.asked()
    upstream.says(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
    taker = rig.take()
    taker.transport.pauseProducing()
    assert upstream.paused
    rig.pass_s(100)
    assert (taker.end, upstream.aborted) == (None, False)
    taker.transport.resumeProducing()
    assert not upstream.paused
    rig.pass_s(4)
    upstream.says(b"d")
    rig.pass_s(4)
    assert taker.end is None
    rig.pass_s(2)
    assert (taker.body, taker.end, upstream.aborted) == (b"abcd", "slow", True)


def test_a_whole_answer_lets_its_connection_go_before_it_is_taken():
    """A small answer holds no connection while its reader's turn has not come."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(OK)
    rig.ask()
    assert upstream.written == GET.head * 2
    assert rig.pool.connections == 1
    taker = rig.take()
    assert (taker.body, taker.end) == (b"ok", ResponseDone)


def test_reads_at_once_have_a_connection_each_and_no_more_than_reads():
    """The pool is as large as reads are under way together."""
    rig = Rig()
    first, second = rig.asked(), rig.asked()
    second.says(OK)
    first.says(OK)
    for _ in range(5):
        rig.ask()
        (first if first.written.count(b"GET") > second.written.count(b"GET") else second).says(OK)
    assert rig.pool.connections == 2
    assert rig.kinds == [200] * 7


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\n",
            404,
        ),
    ],
)
def test_an_answer_to_head_ends_with_its_head(answer, status):
    """Whatever its length says (RFC 9110, 9.3.2); the connection carries the next read."""
    rig = Rig()
    upstream = rig.asked(HEAD)
    upstream.says(answer)
    assert rig.kinds == [status]
    taker = rig.take()
    assert (taker.body, taker.end) == (b"", ResponseDone)
    rig.ask()
    upstream.says(OK)
    assert rig.kinds == [status, 200]
    assert rig.take().body == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_a_body_in_an_answer_to_head_ends_the_connection(answer):
    """One answer's leftovers never become another one's."""
    rig = Rig()
    upstream = rig.asked(HEAD)
    upstream.says(answer)
    assert rig.kinds == [200]
    assert rig.take().body == b""
    assert upstream.aborted


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 204 None\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_answers_without_a_body(head):
    """They are whole with their head, and the connection is used again."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(head)
    assert (rig.take().end, upstream.paused, upstream.aborted) == (ResponseDone, False, False)
    rig.ask()
    assert upstream.written == GET.head * 2


def test_interim_answers_and_trailers_go_nowhere():
    """1xx announce the answer; trailers would stand in no head."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(b"HTTP/1.1 100 Continue\r\nX: 1\r\nContent-Length: 0\r\n\r\n" + CHUNKED)
    upstream_fields = rig.results[0].head.fields
    taker = rig.take()
    upstream.says(b"3;ext=1\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert (taker.body, taker.end) == (b"abc", ResponseDone)
    assert upstream_fields == [(b"Via", b"1.1 crowd")]
    assert not upstream.aborted


@pytest.mark.parametrize("size", [SENT_BYTES_MAX, SENT_BYTES_MAX + 1])
def test_a_large_request_is_its_connections_last(size):
    """An answer may come before all of it went out (413), and the next read would wait behind it."""
    rig = Rig()
    upstream = rig.asked(PreparedRequest(GET.head, b"x" * (size - len(GET.head))))
    upstream.says(OK)
    assert rig.take().body == b"ok"
    assert upstream.aborted == (size > SENT_BYTES_MAX)
    assert rig.pool.connections == (size <= SENT_BYTES_MAX)


@pytest.mark.parametrize("tail", [b"garbage", OK])
def test_more_than_an_answer_ends_the_connection(tail):
    """What nobody asked for cannot be trusted."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(OK + tail)
    assert rig.kinds == [200]
    assert rig.take().body == b"ok"
    assert upstream.aborted


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"200 Fine\r\nETag: x\r\nContent-Length: 2", b"ok"),
        (b"304 Fine\r\nETag: x\r\nContent-Length: 2", b""),
        (b"204 Fine\r\nETag: x", b""),
        (b"200 Fine\r\nETag: x\r\nTransfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n"),
    ],
)
@pytest.mark.parametrize(
    "tail", [b"!", b"HTTP/1.1 200 Evil\r\nContent-Length: 4\r\nX: y\r\n\r\nevil"]
)
def test_what_follows_an_answer_takes_nothing_from_it(head, body, tail):
    """Its fields and its reason phrase are its own, and so is its body."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(b"HTTP/1.1 " + head + b"\r\n\r\n" + body + tail)
    answer = rig.results[0].head
    assert (answer.phrase, (b"ETag", b"x") in answer.fields) == (b"Fine", True)
    assert b"X" not in [name for name, _ in answer.fields]
    taker = rig.take()
    assert (taker.body, taker.end) == (b"ok" if body else b"", ResponseDone)
    assert upstream.aborted


def test_a_body_that_ends_with_the_connection():
    """HTTP/1.0 without a length is understood."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(b"HTTP/1.0 200 OK\r\n\r\nsome")
    taker = rig.take()
    upstream.says(b" more")
    upstream.lose()
    assert (taker.body, taker.end) == (b"some more", ResponseDone)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome", ConnectionDone()),
        (CHUNKED + b"4\r\nsome", ConnectionDone()),
        (b"HTTP/1.1 200 OK\r\n\r\nsome", ConnectionLost()),
    ],
)
def test_a_body_that_is_cut_short_is_said_to_be(answer, error):
    """Half a body is not taken for a whole one."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(answer)
    taker = rig.take()
    upstream.lose(error)
    assert (taker.body, taker.end) == (b"some", "broken")


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
def test_no_answer_at_all(before):
    """The connection ends before a head is whole."""
    rig = Rig()
    upstream = rig.asked()
    if before:
        upstream.says(before)
    upstream.lose()
    assert rig.kinds == ["broken"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nA B: c\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "malformed"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "malformed"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "malformed"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "malformed",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "malformed"),
        (b"HTTP/1.1 104 Odd\r\nContent-Length: 3\r\n\r\nabc" + OK, "malformed"),
        (b"HTTP/1.1 103 Odd\r\nContent-Length: 3\r\n\r\n", "malformed"),
        (
            b"HTTP/1.1 199 Odd\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + OK,
            "malformed",
        ),
        (b"HTTP/1.1 100 Odd\r\ntransfer-encoding: chunked\r\n\r\n" + OK, "malformed"),
        (b"HTTP/1.1 104 Odd\r\nTransfer-Encoding: 0\r\n\r\nabc", "malformed"),
        (b"HTTP/1.1 099 Odd\r\n\r\n", "malformed"),
        (b"HTTP/1.1 099 Odd\r\n\r\n" + OK, "malformed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD_BYTES_MAX, "large"),
        (b"HTTP/1.1 103 Early\r\n\r\n" * 4_000, "large"),
    ],
)
def test_what_is_no_answer(answer, kind):
    """It ends the connection, and is said to be none."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(answer)
    assert rig.kinds == [kind]
    assert upstream.aborted


def test_a_body_that_goes_wrong():
    """Bad chunks within a body cut it short."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(CHUNKED + b"3\r\nabc\r\n")
    taker = rig.take()
    upstream.says(b"no number\r\n")
    assert (taker.body, taker.end, upstream.aborted) == (b"abc", "malformed", True)


def test_the_heads_deadline_is_absolute():
    """Bytes that trickle in do not extend it."""
    rig = Rig(timeout_s=10.0)
    upstream = rig.asked()
    for byte in b"HTTP/1.1 200 OK\r\nX-Very: long head":
        rig.pass_s(0.5)
        if rig.kinds:
            break
        upstream.says(bytes([byte]))
    assert rig.kinds == ["slow"]
    assert 10.0 <= rig.clock.seconds() <= 11.0
    assert upstream.aborted


def test_framing_is_no_progress():
    """An upstream that sends endless extensions of a chunk sends no body."""
    rig = Rig(timeout_s=5.0)
    upstream = rig.asked()
    upstream.says(CHUNKED)
    taker = rig.take()
    upstream.says(b"3;")
    for _ in range(80):
        rig.pass_s(0.1)
        if taker.end is None:
            upstream.says(b"x" * 100)
    assert (taker.end, upstream.aborted) == ("slow", True)


@pytest.mark.parametrize(
    "before", [b"0\r\nX-Trailer: ", b"3;x=", b"0" * 15, b"0\r\n" + b"A: b\r\n" * 9]
)
def test_what_is_no_body_has_a_bound(before):
    """I7: a trailer, or a chunk's extension, is not read without end."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(CHUNKED + b"5\r\nhello\r\n")
    taker = rig.take()
    upstream.says(before)
    for _ in range(HEAD_BYTES_MAX // 1_000):
        assert taker.end is None
        upstream.says(b"0" * 1_000)
    upstream.says(b"0" * 1_000)
    assert (taker.body, taker.end, upstream.aborted) == (b"hello", "malformed", True)


def test_a_body_in_small_pieces_has_no_bound():
    """However much of it is framing: what counts is what comes between two pieces."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(CHUNKED)
    taker = rig.take()
    for _ in range(3):
        upstream.says(b"1;" + b"x" * (HEAD_BYTES_MAX - 100) + b"\r\na\r\n")
    upstream.says(b"0\r\nT: " + b"x" * (HEAD_BYTES_MAX - 100))
    assert taker.end is None
    upstream.says(b"\r\n\r\n")
    assert (taker.body, taker.end, upstream.aborted) == (b"aaa", ResponseDone, False)


def test_connecting_has_its_own_deadline():
    """A host that does not answer holds a read for five seconds."""
    rig = Rig()
    rig.ask()
    rig.pass_s(CONNECT_S + 1)
    assert rig.kinds == ["unreachable"]
    assert rig.endpoint.cancelled == 1


def test_a_refused_connection():
    """Nobody listens."""
    rig = Rig()
    rig.ask()
    rig.endpoint.fail()
    assert rig.kinds == ["unreachable"]


def test_a_handshake_that_does_not_end():
    """TLS belongs to connecting."""
    rig = Rig(secure=True)
    upstream = rig.asked()
    assert upstream.written == b""
    rig.pass_s(CONNECT_S + 1)
    assert rig.kinds == ["unreachable"]
    assert upstream.aborted


def test_a_handshake_that_ends():
    """The request is written once the upstream has proved who it is."""
    rig = Rig(secure=True)
    upstream = rig.asked()
    upstream.protocol.handshakeCompleted()
    assert upstream.written == GET.head
    upstream.says(OK)
    assert rig.kinds == [200]


def test_a_stale_connection_is_replaced_once():
    """A read may be repeated; the upstream closed the connection while it was idle."""
    rig = Rig()
    first = rig.asked()
    first.says(OK)
    rig.ask()
    first.lose()
    assert rig.kinds == [200]
    second = rig.endpoint.succeed()
    assert second.written == GET.head
    second.lose()
    assert rig.kinds == [200, "broken"]


def test_a_connection_that_began_to_answer_is_not_replaced():
    """It may have cost the upstream much."""
    rig = Rig()
    first = rig.asked()
    first.says(OK)
    rig.ask()
    first.says(b"HTTP/1.1 200")
    first.lose()
    assert rig.kinds == [200, "broken"]
    assert rig.endpoint.asked == []


def test_an_idle_connection_is_closed_and_no_timer_is_left():
    """A pool with nothing to do costs nothing."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(OK)
    rig.pass_s(IDLE_S + 1)
    assert upstream.aborted
    assert rig.pool.connections == 0
    rig.pass_s(1)
    assert rig.clock.getDelayedCalls() == []


def test_an_upstream_that_speaks_unasked_is_not_listened_to():
    """What it says cannot be an answer."""
    rig = Rig()
    upstream = rig.asked()
    upstream.says(OK)
    upstream.says(OK)
    assert upstream.aborted
    assert rig.pool.connections == 0


@pytest.mark.parametrize("step", ["connecting", "asked", "taking"])
def test_a_read_that_nobody_wants_any_more(step):
    """Its connection ends, and is not used again."""
    rig = Rig()
    asked = rig.ask()
    if step == "connecting":
        asked.cancel()
        assert rig.endpoint.cancelled == 1
        return
    upstream = rig.endpoint.succeed()
    if step == "asked":
        asked.cancel()
    else:
        upstream.says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        rig.take().transport.loseConnection()
    assert upstream.aborted
    assert rig.pool.connections == 0
    upstream.lose()


def test_the_end_of_a_node():
    """Reads under way are told; nothing more is asked."""
    rig = Rig()
    first = rig.asked()
    first.says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    taker = rig.take()
    second = rig.asked()
    rig.ask()
    rig.pool.abort()
    rig.ask()
    assert taker.end == "stopped"
    assert rig.kinds[1:] == ["stopped"] * 3
    assert first.aborted
    assert second.aborted
    assert rig.clock.getDelayedCalls() == []


ANSWERS = st.sampled_from([
    (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef", b"abcdef", ResponseDone),
    (CHUNKED + b"1\r\na\r\n5;x=y\r\nbcdef\r\n0\r\nT: u\r\n\r\n", b"abcdef", ResponseDone),
    (b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", b"no", ResponseDone),
    (CHUNKED + b"3\r\nabc\r\nxyz", b"abc", "malformed"),
])  # fmt: skip


@given(ANSWERS, st.lists(st.integers(1, 9), max_size=80), st.data())
def test_however_an_answer_is_cut_into_pieces_it_is_one_answer(answer, cuts, data):
    """And whenever it is paused."""
    wire, body, end = answer
    rig = Rig()
    upstream = rig.asked()
    taker = None
    while wire:
        size = cuts.pop() if cuts else len(wire)
        piece, wire = wire[:size], wire[size:]
        upstream.says(piece)
        if rig.results and taker is None:
            taker = rig.take()
        if taker is not None and taker.end is None and data.draw(st.booleans()):
            taker.transport.pauseProducing()
            assert upstream.paused
            taker.transport.resumeProducing()
        if taker is not None and taker.end is not None:
            break
    assert taker is not None
    assert (taker.body, taker.end) == (body, end)


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", CHUNKED, OK[:-2]]))
def test_whatever_comes_is_an_answer_or_a_failure(junk, before):
    """Nothing that an upstream sends raises."""
    rig = Rig()
    upstream = rig.asked()
    upstream.protocol.dataReceived(before + junk)
    if rig.results and rig.kinds == [200]:
        rig.take()
    upstream.lose()
    assert len(rig.results) == 1
    assert rig.pool.connections == 0
