"""Attempts over real sockets, through treq: what arrives is compared byte for byte (I9)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import ssl
from twisted.internet.protocol import Factory, Protocol

from crowd.definition import ConsumerDefinition, Retry
from crowd.delivery.courier import make_courier
from crowd.delivery.outcome import Answered, Failed, FailureKind
from crowd.delivery.request import Naming
from crowd.message import ConsumerId, Message, Position, wait_mark

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Consumer(Protocol):
    """Keeps what it reads and answers with what the test laid down."""

    def dataReceived(self, data):  # noqa: N802
        self.factory.read += data
        if self.factory.read.endswith(self.factory.ends):
            self.transport.write(self.factory.answer)


@pytest.fixture
def consumer(reactor):
    """Return a listening consumer with `read`, `answer` and `port`."""
    factory = Factory.forProtocol(Consumer)
    factory.noisy = False
    factory.read, factory.answer, factory.ends = b"", OK, b"\r\n\r\n"
    factory.port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
    return factory


def definition(url, path=None, timeout_us=2_000_000):
    retry = Retry(1_000_000, 2.0, 300_000_000, 10**12)
    return ConsumerDefinition(
        "c", url, path, (), 4, None, timeout_us, "none", "now", retry, 10**9, "refuse"
    )


def attempt(reactor, message, url, *, number=1, courier=None, **fields):
    courier = courier or make_courier(
        reactor, definition(url, **fields), lambda: True, lambda _: None
    )
    naming = Naming("0123abcd-0000000000000009", Position(9), number)
    answers = []
    courier.attempt(message, naming).addBoth(answers.append)
    until = time.monotonic() + 10
    while not answers:
        assert time.monotonic() < until, "no answer"
        reactor.iterate(0.02)
    return answers[0]


@pytest.mark.parametrize(
    ("method", "target", "headers", "body"),
    [
        (b"POST", b'/a%2fb?x=[1]|{}"', ((b"x-lower", b"1"), (b"X-UPPER", b"2")), b"plain"),
        (b"PATCH", b"//a/../b/./c;p=1?&&a=b&a=c", ((b"A", b"1"), (b"B", b"2"), (b"A", b"3")), b"x"),
        (b"POST", b"/caf\xc3\xa9/%C3%a9", ((b"X-Bytes", b"\xe9\xff"),), bytes(range(256))),
        (b"DELETE", b"/x", (), b""),
        (b"M-SEARCH", b"/?", ((b"Empty", b""), (b"User-Agent", b"curl/8.0")), b"\r\n\r\nGET / "),
        (b"PUT", b"/gzip", ((b"Content-Encoding", b"gzip"), (b"Accept-Encoding", b"br")), b"\x1f"),
        (b"POST", b"/cookies", ((b"Cookie", b"a=b"), (b"cookie", b"c=d")), b"y" * 100_000),
    ],
)
def test_i9_the_bytes_on_the_wire(reactor, consumer, method, target, headers, body):
    """Method, target, headers in their order and case, and body arrive as they came."""
    stored = Message(
        method, target, (*headers, (b"Host", b"outside")), body, 1, b"192.0.2.1", b"https"
    )
    consumer.ends = body or b"\r\n\r\n"
    answer = attempt(reactor, stored, f"http://127.0.0.1:{consumer.port}")
    assert answer == Answered(200)
    lines = [
        method + b" " + target + b" HTTP/1.1",
        b"Host: 127.0.0.1:%d" % consumer.port,
        *(name + b": " + value for name, value in headers),
        b"Content-Length: %d" % len(body),
        b"X-Forwarded-For: 192.0.2.1",
        b"Forwarded: for=192.0.2.1;host=outside;proto=https",
        b"Via: 1.1 crowd",
        b"X-Forwarded-Host: outside",
        b"X-Forwarded-Proto: https",
        b"Crowd-Message-Id: 0123abcd-0000000000000009",
        b"Crowd-Position: 9",
        b"Crowd-Attempt: 1",
        b"",
        body,
    ]
    assert consumer.read == b"\r\n".join(lines)


MESSAGE = Message(b"POST", b"/leads", (), b"", 1, b"192.0.2.1", b"http")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            b"HTTP/1.1 422 No\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2_000,
            Answered(422, None, b"x" * 1_024),
        ),
        (
            b"HTTP/1.1 503 No\r\nContent-Length: 4\r\nRetry-After: 7\r\n\r\nbusy",
            Answered(503, 7.0, b"busy"),
        ),
        (b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", Answered(503, 7.0)),
        (
            b"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            Answered(302),
        ),
        (
            b"\r\n".join(
                (
                    b"HTTP/1.1 429 Slow",
                    b"Date: Fri, 31 Dec 1999 23:59:29 GMT",
                    b"Retry-After: Fri, 31 Dec 1999 23:59:59 GMT",
                    b"Content-Length: 0\r\n\r\n",
                )
            ),
            Answered(429, 30.0),
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nbad",
            Answered(200),
        ),
    ],
)
def test_answers(reactor, consumer, answer, expected):
    """A redirect is not followed, a body not decoded, and Retry-After is heard."""
    consumer.answer = answer
    assert attempt(reactor, MESSAGE, f"http://127.0.0.1:{consumer.port}") == expected


def test_no_cookie_is_kept(reactor, consumer):
    """What one answer sets is in no later request."""
    consumer.answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: s=1; Path=/\r\nContent-Length: 0\r\n\r\n"
    url = f"http://127.0.0.1:{consumer.port}"
    courier = make_courier(reactor, definition(url), lambda: True, lambda _: None)
    for number in (1, 2, 3):
        assert attempt(reactor, MESSAGE, url, number=number, courier=courier) == Answered(200)
    assert b"ookie" not in consumer.read
    assert consumer.read.count(b"Crowd-Message-Id: 0123abcd-0000000000000009\r\n") == 3
    assert consumer.read.count(b"POST /leads ") == 3


def test_i4_the_same_name_each_time(reactor, consumer):
    """Every attempt carries the same id; only its number differs."""
    url = f"http://127.0.0.1:{consumer.port}"
    for number in (1, 2):
        attempt(reactor, MESSAGE, url, number=number)
    first, second = consumer.read.split(b"POST /leads ")[1:]
    assert first.replace(b"Crowd-Attempt: 1", b"Crowd-Attempt: 2") == second


def test_nobody_listens(reactor, consumer):
    """A consumer that is down is a failure to connect."""
    port = consumer.port
    reactor.disconnectAll()
    reactor.iterate(0)
    answer = attempt(reactor, MESSAGE, f"http://127.0.0.1:{port}")
    assert isinstance(answer, Failed)
    assert answer.kind is FailureKind.CONNECT


def test_a_consumer_that_never_answers(reactor, consumer):
    """The whole attempt ends with its timeout."""
    consumer.answer = b""
    url = f"http://127.0.0.1:{consumer.port}"
    answer = attempt(reactor, MESSAGE, url, timeout_us=100_000)
    assert isinstance(answer, Failed)
    assert answer.kind is FailureKind.TIMEOUT


def test_a_certificate_of_nobody(reactor, consumer):
    """An https consumer that no authority vouches for gets no message."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    options = ssl.PrivateCertificate.loadPEM(pem).options()
    port = reactor.listenSSL(0, consumer, options, interface="127.0.0.1").getHost().port
    answer = attempt(reactor, MESSAGE, f"https://127.0.0.1:{port}")
    assert isinstance(answer, Failed)
    assert answer.kind is FailureKind.TLS
    assert consumer.read == b""


def awaited(reactor, consumer, answer, **fields):
    """Return what is kept of an answer that a producer waits for."""
    consumer.answer = answer
    courier = make_courier(
        reactor,
        msgspec.structs.replace(definition(f"http://127.0.0.1:{consumer.port}"), **fields),
        lambda: True,
        lambda _: None,
    )
    naming = Naming("0123abcd-0000000000000009", Position(9), 1, awaited=True)
    message = Message(b"POST", b"/", ((b"A", b"b"), wait_mark(ConsumerId(1))), b"", 1, b"", b"http")
    answers = []
    courier.attempt(message, naming).addBoth(answers.append)
    until = time.monotonic() + 10
    while not answers:
        assert time.monotonic() < until, "no answer"
        reactor.iterate(0.02)
    assert b"Crowd-Wait" not in consumer.read
    return answers[0]


def test_an_answer_that_is_waited_for_is_kept_whole(reactor, consumer):
    """Its fields in their order and case, without those of 1xx answers and trailers."""
    answer = awaited(
        reactor,
        consumer,
        b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 201 Made\r\nX-B: 1\r\nx-a: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nmade\r\n0\r\nX-Trailer: 1\r\n\r\n",
    )
    fields = ((b"X-B", b"1"), (b"x-a", b"2"), (b"Transfer-Encoding", b"chunked"))
    assert answer == Answered(201, whole=(fields, b"made"))


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_a_large_answer_that_is_waited_for_is_not_kept(reactor, consumer, size):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    answer = awaited(reactor, consumer, head + bytes(size))
    assert answer.status == 200
    assert (answer.whole is not None) == (size == 65_536)


def test_an_event_has_no_answer_for_the_producer(reactor, consumer):
    assert awaited(reactor, consumer, OK, form="cloudevents-binary") == Answered(200)
