"""Connections to a consumer, on in-memory transports and a clock that tests advance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import readBody

from crowd.delivery.agent import AT_ONCE_MAX, CONNECT_S, IDLE_S, ConsumerAgent, PreparedRequest
from crowd.delivery.connection import ANSWER_BYTES_MAX, PIECE_BYTES_MAX
from crowd.errors import AttemptFailedError

REQUEST = PreparedRequest(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n", b"ab")
WIRE = REQUEST.head + REQUEST.body
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Transport:
    """An in-memory connection, seen from the consumer's side."""

    def __init__(self):
        self.protocol = None
        self.written = b""
        self.aborted = False

    def writeSequence(self, parts):  # noqa: N802
        self.written += b"".join(parts)

    def setTcpNoDelay(self, enabled):  # noqa: N802
        pass

    def abortConnection(self):  # noqa: N802
        if not self.aborted:
            self.aborted = True

    def answer(self, data):
        self.protocol.dataReceived(data)

    def lose(self, error=None):
        self.protocol.connectionLost(Failure(error or ConnectionDone()))


class Eager(Transport):
    """A connection that can be written to at once; it takes as many bytes then as the test says."""

    def __init__(self, takes):
        super().__init__()
        self.takes = takes
        self.at_once = b""

    def writeSomeData(self, data):  # noqa: N802
        if isinstance(self.takes, Exception):
            return self.takes
        taken = data[: self.takes]
        self.at_once += taken
        return len(taken)

    def write(self, data):
        self.written += data


class Endpoint:
    """Connects when the test says."""

    def __init__(self, make=Transport):
        self.make = make
        self.asked = []
        self.transports = []
        self.cancelled = 0

    def connect(self, factory):
        def cancel(_):
            self.cancelled += 1

        connecting = Deferred(cancel)
        self.asked.append((factory, connecting))
        return connecting

    def succeed(self):
        factory, connecting = self.asked.pop(0)
        transport = self.make()
        transport.protocol = factory.buildProtocol(None)
        transport.protocol.transport = transport
        self.transports.append(transport)
        transport.protocol.connectionMade()
        connecting.callback(transport.protocol)
        return transport

    def fail(self):
        self.asked.pop(0)[1].errback(Failure(ConnectError()))


class Rig:
    """An agent over an endpoint in memory."""

    def __init__(self, *, timeout_s=15.0, may_send=lambda: True, secure=False, make=Transport):
        self.clock = Clock()
        self.endpoint = Endpoint(make)
        self.spent = []
        self.agent = ConsumerAgent(
            self.clock, self.endpoint, timeout_s, may_send, self.spent.append, secure=secure
        )
        self.results = []

    def request(self):
        asked = self.agent.request(b"POST", b"http://h/", None, REQUEST)
        asked.addBoth(self.results.append)
        return asked

    def pass_s(self, seconds):
        self.clock.pump([0.1] * round(seconds * 10))

    @property
    def kinds(self):
        """The statuses and kinds of failure so far."""
        return [
            result.value.kind
            if isinstance(result, Failure) and isinstance(result.value, AttemptFailedError)
            else getattr(result, "code", result)
            for result in self.results
        ]


def exchanged(rig):
    """Have one exchange over a new connection, which is then idle."""
    rig.request()
    transport = rig.endpoint.succeed()
    transport.answer(OK)
    return transport


def test_the_bytes_are_sent_as_they_are():
    """What was prepared goes over the wire, and nothing else."""
    rig = Rig()
    transport = exchanged(rig)
    assert transport.written == WIRE
    assert rig.kinds == [200]


def test_a_connection_is_used_again():
    """Keep-alive: a second exchange opens no second connection."""
    rig = Rig()
    transport = exchanged(rig)
    rig.request()
    transport.answer(OK)
    assert transport.written == WIRE * 2
    assert rig.kinds == [200, 200]
    assert len(rig.endpoint.transports) == 1


def test_while_few_are_under_way_a_request_is_written_at_once():
    """It does not wait for the reactor's next turn; with more under way those of a turn go together."""
    rig = Rig(make=lambda: Eager(10_000))
    for _ in range(AT_ONCE_MAX + 2):
        rig.request()
    transports = [rig.endpoint.succeed() for _ in range(AT_ONCE_MAX + 2)]
    for transport in transports:
        transport.answer(OK)
        transport.written = b""
    for _ in transports:
        rig.request()
    at_once = [transport for transport in transports if transport.at_once == WIRE]
    assert len(at_once) == AT_ONCE_MAX
    assert [t.written for t in transports if t not in at_once] == [WIRE, WIRE]


@pytest.mark.parametrize("takes", [0, 5, ConnectionDone()])
def test_what_cannot_be_written_at_once_goes_through_the_buffer_in_its_order(takes):
    """As does everything after it; an error is met again there, and reported."""
    rig = Rig(make=lambda: Eager(takes))
    transport = exchanged(rig)
    rig.request()
    transport.answer(OK)
    taken = transport.at_once
    assert len(taken) == (takes if isinstance(takes, int) else 0)
    assert transport.written == WIRE + WIRE[len(taken) :]
    rig.request()
    assert transport.at_once == taken
    assert transport.written == WIRE + WIRE[len(taken) :] + WIRE


def test_exchanges_at_once_have_a_connection_each():
    """Requests are not pipelined, so a slow answer holds up no other."""
    rig = Rig()
    rig.request()
    rig.request()
    first, second = rig.endpoint.succeed(), rig.endpoint.succeed()
    second.answer(OK)
    assert rig.kinds == [200]
    first.answer(OK)
    assert rig.kinds == [200, 200]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        OK + b"HTTP/1.1 200 Unasked\r\n\r\n",
        OK + b"garbage",
    ],
)
def test_a_connection_that_cannot_be_trusted_is_not_used_again(answer):
    """One exchange's leftovers never become another one's answer."""
    rig = Rig()
    rig.request()
    transport = rig.endpoint.succeed()
    transport.answer(answer)
    assert rig.kinds == [200]
    assert transport.aborted
    rig.request()
    assert len(rig.endpoint.asked) == 1


def test_bytes_that_nobody_asked_for_end_an_idle_connection():
    """A consumer that speaks first is not listened to."""
    rig = Rig()
    transport = exchanged(rig)
    transport.answer(OK)
    assert transport.aborted


def test_interim_answers_are_passed_over():
    """100 Continue and 103 Early Hints announce the answer; they are none."""
    rig = Rig()
    rig.request()
    transport = rig.endpoint.succeed()
    transport.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nRetry-After: 9\r\n\r\n")
    assert rig.kinds == []
    transport.answer(b"HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n")
    assert rig.kinds == [201]
    assert rig.results[0].headers.getRawHeaders(b"retry-after") is None


def test_an_interim_answers_length_is_not_the_answers():
    """Without one of its own an answer ends with the connection."""
    rig = Rig()
    rig.request()
    transport = rig.endpoint.succeed()
    transport.answer(b"HTTP/1.1 103 Early\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nsome")
    transport.lose()
    assert rig.kinds == [200]


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 2\r\n\r\nnoHTTP/1.1 503 No\r\nRetry-After: 99\r\nContent-Length: 0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\nRetry-After: 99\r\n\r\n",
    ],
)
def test_what_follows_an_answers_head_says_nothing_of_when(body):
    """Neither its trailer (RFC 9110, 6.5.1) nor an answer too many."""
    answer = told(Rig(), b"HTTP/1.1 503 No\r\nRetry-After: 7\r\n" + body)
    assert answer.headers.getRawHeaders(b"retry-after") == [b"7"]


def test_an_answer_byte_by_byte():
    """However an answer is cut into pieces, it is one answer."""
    rig = Rig()
    rig.request()
    transport = rig.endpoint.succeed()
    for n in range(len(OK)):
        assert rig.kinds == []
        transport.answer(OK[n : n + 1])
    assert rig.kinds == [200]


def test_a_body_that_ends_with_the_connection():
    """An HTTP/1.0 consumer without a Content-Length is understood."""
    rig = Rig()
    rig.request()
    transport = rig.endpoint.succeed()
    transport.answer(b"HTTP/1.0 200 OK\r\n\r\nsome")
    assert rig.kinds == []
    transport.lose()
    assert rig.kinds == [200]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionDone()),
        (b"HTTP/1.1 200 OK\r\nContent-Le", ConnectionDone()),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome", ConnectionDone()),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome", ConnectionDone()),
        (b"HTTP/1.1 200 OK\r\n\r\nsome", ConnectionLost()),
    ],
)
def test_an_answer_that_is_cut_short_is_none(answer, error):
    """Half an answer is not taken for a whole one."""
    rig = Rig()
    rig.request()
    transport = rig.endpoint.succeed()
    if answer:
        transport.answer(answer)
    transport.lose(error)
    assert rig.kinds == ["broken"]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nA B: c\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * ANSWER_BYTES_MAX,
        b"HTTP/1.1 104 Odd\r\nContent-Length: 3\r\n\r\nabc" + OK,
        b"HTTP/1.1 199 Odd\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + OK,
        b"HTTP/1.1 099 Odd\r\n\r\n" + OK,
    ],
)
def test_what_is_no_answer(answer):
    """Another protocol, or a head without end, is no delivery, and ends the connection."""
    rig = Rig()
    rig.request()
    transport = rig.endpoint.succeed()
    transport.answer(answer)
    assert rig.kinds == ["malformed"]
    assert transport.aborted


def test_an_endless_body_is_cut_off():
    """I7: of an answer no more than 64 KiB is read; its status counts."""
    rig = Rig()
    rig.request()
    transport = rig.endpoint.succeed()
    transport.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
    transport.answer(bytes(ANSWER_BYTES_MAX))
    assert rig.kinds == [200]
    assert transport.aborted


def told(rig, answer, body_max=0):
    """Have one exchange with this answer; return what is kept of it."""
    asked = PreparedRequest(REQUEST.head, REQUEST.body, body_max)
    rig.agent.request(b"POST", b"http://h/", None, asked).addBoth(rig.results.append)
    transport = rig.endpoint.succeed()
    for n in range(0, len(answer), 1_000):
        transport.answer(answer[n : n + 1_000])
    return rig.results[-1]


def test_of_a_good_answer_nothing_is_kept():
    """A 2xx delivers the message, whatever else it says."""
    answer = told(Rig(), OK)
    assert (answer.body, answer.whole, answer.length) == (b"", False, 0)


@pytest.mark.parametrize(
    ("body", "piece", "whole"),
    [
        (b"Content-Length: 0\r\n\r\n", b"", True),
        (b"Content-Length: 5\r\n\r\nwhy\r\n", b"why\r\n", True),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nwh\r\n1\r\ny\r\n0\r\n\r\n", b"why", True),
        (b"Content-Length: 1024\r\n\r\n" + b"x" * 1_024, b"x" * PIECE_BYTES_MAX, True),
        (b"Content-Length: 9000\r\n\r\n" + b"xy" * 4_500, b"xy" * 512, False),
        (b"Content-Length: 2\r\n\r\nnoHTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nxx", b"no", True),
    ],
)
@pytest.mark.parametrize("status", [b"302 Go", b"400 No", b"503 No"])
def test_a_piece_of_a_bad_answer_is_kept(status, body, piece, whole):
    """A dead letter can say what its consumer said, in its first 1 024 bytes."""
    answer = told(Rig(), b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 " + status + b"\r\n" + body)
    assert (answer.body, answer.whole) == (piece, whole)
    assert answer.length == len(piece)


@pytest.mark.parametrize("size", [0, 5, 100_000, 1 << 20])
def test_a_body_that_is_wanted_is_kept(size):
    """Where an answer tells of each item, all of it is kept, whatever its status."""
    body = b"y" * size
    answer = told(Rig(), b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body, 1 << 20)
    assert (answer.code, answer.body, answer.whole) == (200, body, True)


@pytest.mark.parametrize("size", [(1 << 17) + 1, 1 << 20])
def test_a_wanted_body_has_its_bound(size):
    """I7: of more than `body_max` the beginning is kept, and it is said not to be whole."""
    body = b"y" * size
    answer = told(Rig(), b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body, 1 << 17)
    assert (answer.code, answer.body, answer.whole) == (200, body[: 1 << 17], False)


def test_what_is_kept_is_delivered_as_a_body():
    """What stands above an agent can ask for a body as of any other answer."""
    answer = told(Rig(), b"HTTP/1.1 400 No\r\nContent-Length: 3\r\n\r\nwhy")
    read = []
    readBody(answer).addCallback(read.append)
    assert read == [b"why"]


def test_one_answers_body_is_not_in_the_next():
    """Each exchange on a connection starts with nothing."""
    rig = Rig()
    rig.request()
    transport = rig.endpoint.succeed()
    transport.answer(b"HTTP/1.1 400 No\r\nContent-Length: 3\r\n\r\nwhy")
    for answer, body in ((OK, b""), (b"HTTP/1.1 409 No\r\nContent-Length: 2\r\n\r\nno", b"no")):
        rig.request()
        transport.answer(answer)
        assert rig.results[-1].body == body


def test_the_whole_attempt_has_one_deadline():
    """Bytes that trickle in do not extend it."""
    rig = Rig(timeout_s=10.0)
    rig.request()
    transport = rig.endpoint.succeed()
    for byte in OK[:-1]:
        rig.pass_s(0.3)
        if rig.kinds:
            break
        transport.answer(bytes([byte]))
    assert rig.kinds == ["timeout"]
    assert 10.0 <= rig.clock.seconds() <= 11.0
    assert transport.aborted


def test_connecting_has_its_own_deadline():
    """A host that does not answer holds an attempt for five seconds, not for its timeout."""
    rig = Rig(timeout_s=60.0)
    rig.request()
    rig.pass_s(CONNECT_S + 1)
    assert rig.kinds == ["connect"]
    assert rig.endpoint.cancelled == 1


def test_a_refused_connection():
    """Nobody listens: the attempt fails at once."""
    rig = Rig()
    rig.request()
    rig.endpoint.fail()
    assert rig.kinds == ["connect"]


def test_an_idle_connection_is_closed_before_the_consumer_does():
    """Idle connections are let go after four seconds."""
    rig = Rig()
    transport = exchanged(rig)
    rig.pass_s(IDLE_S + 1)
    assert transport.aborted
    transport.lose()
    rig.request()
    assert len(rig.endpoint.asked) == 1


def test_no_timer_runs_without_a_connection():
    """A consumer with nothing to do costs nothing."""
    rig = Rig()
    exchanged(rig).lose()
    rig.pass_s(2)
    assert rig.clock.getDelayedCalls() == []


def test_a_stale_connection_is_replaced_once():
    """A consumer that closed an idle connection does not cost an attempt its backoff."""
    rig = Rig()
    first = exchanged(rig)
    rig.request()
    first.lose()
    assert rig.kinds == [200]
    second = rig.endpoint.succeed()
    assert second.written == WIRE
    second.lose()
    assert rig.kinds == [200, "broken"]


def test_a_connection_that_began_to_answer_is_not_replaced():
    """What may have had its effect is attempted again by the plan, and counted."""
    rig = Rig()
    first = exchanged(rig)
    rig.request()
    first.answer(b"HTTP/1.1 200")
    first.lose()
    assert rig.kinds == [200, "broken"]
    assert rig.endpoint.asked == []


def test_fenced_while_connecting():
    """A leader that lost its majority while it connected sends nothing."""
    rig = Rig(may_send=lambda: False)
    rig.request()
    transport = rig.endpoint.succeed()
    assert transport.written == b""
    assert transport.aborted
    assert rig.kinds == ["fenced"]


def test_tls_comes_before_the_request():
    """Not a byte of a message goes to a consumer that has not proved who it is."""
    rig = Rig(secure=True)
    rig.request()
    transport = rig.endpoint.succeed()
    assert transport.written == b""
    transport.protocol.handshakeCompleted()
    assert transport.written == WIRE
    transport.answer(OK)
    assert rig.kinds == [200]


@pytest.mark.parametrize("end", ["lost", "silent"])
def test_tls_that_does_not_come_about(end):
    """A certificate that is not the consumer's is a failure of its own."""
    rig = Rig(secure=True)
    rig.request()
    transport = rig.endpoint.succeed()
    if end == "lost":
        transport.lose(ConnectionLost())
    else:
        rig.pass_s(CONNECT_S + 1)
    assert rig.kinds == ["tls"]
    assert transport.written == b""


def test_closing_lets_exchanges_end():
    """A consumer that is redefined hears no broken connection."""
    rig = Rig()
    idle = exchanged(rig)
    rig.request()
    rig.request()
    busy = rig.endpoint.succeed()
    idle.answer(OK)
    rig.agent.close()
    assert idle.aborted
    assert not busy.aborted
    busy.answer(OK)
    assert rig.kinds == [200, 200, 200]
    assert busy.aborted
    rig.request()
    assert rig.kinds[-1] == "stopped"


def test_aborting_ends_everything():
    """A node that stops leaves neither a connection nor a timer behind."""
    rig = Rig()
    rig.request()
    rig.request()
    transport = rig.endpoint.succeed()
    rig.agent.abort()
    assert rig.kinds == ["stopped", "stopped"]
    assert transport.aborted
    assert rig.endpoint.cancelled == 1
    assert rig.clock.getDelayedCalls() == []


@pytest.mark.parametrize("connected", [True, False])
def test_cancelling_ends_the_exchange(connected):
    """Nobody who gave up an attempt leaves it running."""
    rig = Rig()
    asked = rig.request()
    transport = rig.endpoint.succeed() if connected else None
    asked.cancel()
    assert rig.kinds == ["stopped"] if connected else len(rig.results) == 1
    if transport is not None:
        assert transport.aborted
    else:
        assert rig.endpoint.cancelled == 1


def test_only_prepared_requests_are_sent():
    """What treq would build itself is not what a producer sent."""
    with pytest.raises(TypeError, match="PreparedRequest"):
        Rig().agent.request(b"GET", b"http://h/", None, None)


PIECES = st.sampled_from(
    [OK, OK[:20], b"HTTP/1.1 ", b"100 Continue\r\n", b"\r\n", b"0\r\n\r\n", b"Content-Length: 5\r\n",
     b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1 204 No\r\n\r\n"]
)  # fmt: skip


@given(st.lists(st.binary(max_size=30) | PIECES, max_size=12), st.booleans())
def test_any_bytes_are_an_answer_or_a_failure(pieces, lose):
    """Whatever a consumer sends, an attempt ends once, and nothing is raised."""
    rig = Rig(timeout_s=2.0)
    rig.request()
    transport = rig.endpoint.succeed()
    for piece in pieces:
        if not transport.aborted and piece:
            transport.answer(piece)
    if lose or transport.aborted:
        transport.lose()
    rig.pass_s(3)
    assert len(rig.results) == 1
    assert rig.kinds[0] in {"malformed", "broken", "timeout"} or 200 <= rig.kinds[0] <= 999
