"""A consumer's form over real sockets: what arrives, read by others' libraries."""

from __future__ import annotations

import gzip
import json
import random
import time

import httptools
import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from standardwebhooks import Webhook
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import globalLogPublisher

from crowd.definition import Batch, ConsumerDefinition, Retry
from crowd.delivery.courier import make_courier
from crowd.delivery.dispatcher import Dispatcher
from crowd.delivery.outcome import Answered, Failed, FailureKind
from crowd.delivery.request import Naming
from crowd.message import Message, Position, message_id
from tests.bulk_format import read_bulk
from tests.unit.delivery.rig import Cluster, stored

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLDER = "whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"


@pytest.fixture
def reactor():
    """Return a reactor of this test's own, with the monotonic clock; nothing of it is global."""
    made = SelectReactor()
    made.seconds = time.monotonic
    yield made
    made.disconnectAll()
    for call in made.getDelayedCalls():
        call.cancel()
    made.iterate(0)


class Consumer(Protocol):
    """Reads requests, keeps them as (line, headers, body), and answers what the test says."""

    def connectionMade(self):  # noqa: N802
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def dataReceived(self, data):  # noqa: N802
        self.parser.feed_data(data)

    def on_message_begin(self):
        self.headers, self.body, self.target = {}, b"", b""

    def on_url(self, url):
        self.target += url

    def on_header(self, name, value):
        self.headers[name.decode("latin-1")] = value.decode("latin-1")

    def on_body(self, data):
        self.body += data

    def on_message_complete(self):
        line = self.parser.get_method() + b" " + self.target
        self.factory.read.append((line, self.headers, self.body))
        status, body = self.factory.answers(self.body)
        self.transport.write(
            b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
        )


@pytest.fixture
def consumer(reactor):
    """Return a listening consumer with `read`, `answers` and `url`."""
    factory = Factory.forProtocol(Consumer)
    factory.noisy = False
    factory.read, factory.answers = [], lambda _: (200, b"ok")
    port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
    factory.url = f"http://127.0.0.1:{port}"
    return factory


def definition(url, **fields):
    retry = Retry(1_000_000, 2.0, 300_000_000, 10**12)
    plain = ConsumerDefinition(
        "c", url, None, (), 4, None, 5_000_000, "none", "beginning", retry, 10**9, "refuse"
    )
    return msgspec.structs.replace(plain, **fields)


def items(count, body=b'{"a": 1}'):
    headers = ((b"Host", b"leads.example"), (b"Content-Type", b"application/json"))
    return [
        (
            Message(
                b"POST", b"/leads", headers, body, 1_700_000_000_000_000, b"192.0.2.1", b"http"
            ),
            Naming(message_id("0123abcd", Position(number)), Position(number), 1),
        )
        for number in range(1, count + 1)
    ]


def wait(reactor, deferred):
    results = []
    deferred.addBoth(results.append)
    until = time.monotonic() + 10
    while not results:
        assert time.monotonic() < until, "no answer"
        reactor.iterate(0.02)
    return results[0]


def attempt(reactor, consumer, stored=None, **fields):
    courier = make_courier(
        reactor, definition(consumer.url, **fields), lambda: True, lambda _: None
    )
    return wait(reactor, courier.attempt(*(stored or items(1)[0])))


def attempt_batch(reactor, consumer, many, **fields):
    courier = make_courier(
        reactor, definition(consumer.url, **fields), lambda: True, lambda _: None
    )
    return wait(reactor, courier.attempt_batch(many))


@pytest.mark.parametrize("kind", ["cloudevents-binary", "cloudevents-structured"])
def test_an_event_arrives(reactor, consumer, kind):
    """A consumer that speaks CloudEvents needs to know nothing of crowd."""
    assert attempt(reactor, consumer, form=kind) == Answered(200)
    ((line, headers, body),) = consumer.read
    event = from_http_event(HTTPMessage(headers, body))
    assert line == b"POST /leads"
    assert event.get_id() == headers["Crowd-Message-Id"] == "0123abcd-0000000000000001"
    assert event.get_source() == "http://leads.example/leads"
    assert event.get_data() == {"a": 1}


def test_a_signed_request_is_verified(reactor, consumer, tmp_path, monkeypatch):
    """By the package, now, with the present secret or the one before it; compressed or not."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    monkeypatch.setenv("CROWD_TEST_OLDER", OLDER)
    references = (f"file:{tmp_path}/secret", "env:CROWD_TEST_OLDER")
    assert attempt(reactor, consumer, secrets=references) == Answered(200)
    ((_, headers, body),) = consumer.read
    for secret in (SECRET, OLDER):
        assert Webhook(secret).verify(body, headers) == {"a": 1}
    assert headers["Webhook-Id"] == headers["Crowd-Message-Id"]


def test_a_secret_that_is_not_there(reactor, consumer, tmp_path):
    """Nothing is sent unsigned; once the secret is there, it goes."""
    references = (f"file:{tmp_path}/secret",)
    answer = attempt(reactor, consumer, secrets=references)
    assert answer == Failed(
        FailureKind.UNSIGNED,
        f"the secret file:{tmp_path}/secret cannot be used: No such file or directory",
    )
    answers = attempt_batch(reactor, consumer, items(2), secrets=references, batch=Batch("ndjson"))
    assert answers == [answer] * 2
    assert consumer.read == []
    (tmp_path / "secret").write_text(SECRET)
    assert attempt(reactor, consumer, secrets=references) == Answered(200)


def test_a_secret_is_in_no_log(reactor, consumer, tmp_path):
    """Not when it is used, and not when it cannot be."""
    lines = []
    globalLogPublisher.addObserver(lines.append)
    try:
        for content in (SECRET, SECRET[:-4] + "!!!!", OLDER):
            (tmp_path / "secret").write_text(content)
            courier = make_courier(
                reactor, definition(consumer.url, secrets=(f"file:{tmp_path}/secret",)),
                lambda: True, lambda _: None,
            )  # fmt: skip
            answer = wait(reactor, courier.attempt(*items(1)[0]))
            lines.append(repr((answer, courier, vars(courier), vars(courier._keyring))))
    finally:
        globalLogPublisher.removeObserver(lines.append)
    shown = repr(lines) + repr(consumer.read)
    for secret in (SECRET, OLDER):
        assert secret[6:30] not in shown


def test_gzip_arrives(reactor, consumer):
    """As any HTTP server can read it."""
    stored, naming = items(1, b'{"text": "' + b"ab" * 500 + b'"}')[0]
    assert attempt(reactor, consumer, (stored, naming), gzip=True) == Answered(200)
    ((_, headers, body),) = consumer.read
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == stored.body


@pytest.mark.parametrize("kind", ["ndjson", "json", "cloudevents"])
def test_a_batch_arrives(reactor, consumer, kind):
    """500 messages in one request, which one signature covers, and one answer for all."""
    answers = attempt_batch(reactor, consumer, items(500), batch=Batch(kind))
    assert answers == [Answered(200)] * 500
    ((line, headers, body),) = consumer.read
    assert line == b"POST /"
    assert headers["Crowd-Batch"] == "500"
    read = (
        [json.loads(each) for each in body.splitlines()] if kind == "ndjson" else json.loads(body)
    )
    assert len(read) == 500
    consumer.answers = lambda _: (503, b"no")
    answers = attempt_batch(reactor, consumer, items(3), batch=Batch(kind))
    assert [answer.status for answer in answers] == [503] * 3


class Index:
    """An index that refuses documents without a name, and answers as Elasticsearch does."""

    def __init__(self):
        self.documents = {}

    def __call__(self, body):
        listed, errors = [], False
        for _, metadata, document in read_bulk(body):
            item = {"_index": "leads", "_id": metadata["_id"], "status": 201, "result": "created"}
            if "name" in document:
                self.documents[metadata["_id"]] = document
            else:
                errors = True
                item["status"] = 400
                item["error"] = {"type": "document_parsing_exception", "reason": "x" * 1_000}
            listed.append({"index": item})
        return 200, json.dumps({"took": 3, "errors": errors, "items": listed}).encode()


def test_a_bulk_request_and_its_items(reactor, consumer):
    """500 documents; those that the index refuses are told apart, in an answer of 500 KiB."""
    index = consumer.answers = Index()
    many = [
        (msgspec.structs.replace(stored, body=b'{"name": %d}' % number if number % 3 else b"{}"), naming)
        for number, (stored, naming) in enumerate(items(500))
    ]  # fmt: skip
    answers = attempt_batch(reactor, consumer, many, batch=Batch("bulk"), gzip=False)
    assert [answer.status for answer in answers] == [201 if n % 3 else 400 for n in range(500)]
    assert b"document_parsing_exception" in answers[0].piece
    assert len(index.documents) == 333
    answers = attempt_batch(reactor, consumer, many, batch=Batch("bulk"))
    assert len(index.documents) == 333  # the same documents again
    consumer.answers = lambda _: (200, b'{"errors":true,"items":[' + b" " * 9_000_000 + b"]}")
    answers = attempt_batch(reactor, consumer, many, batch=Batch("bulk"))
    assert {answer.kind for answer in answers} == {FailureKind.MALFORMED}


def test_a_batch_that_nobody_takes(reactor, consumer):
    """Every message has the failure of the request."""
    url = consumer.url
    reactor.disconnectAll()
    reactor.iterate(0)
    courier = make_courier(
        reactor, definition(url, batch=Batch("bulk")), lambda: True, lambda _: None
    )
    answers = wait(reactor, courier.attempt_batch(items(3)))
    assert [answer.kind for answer in answers] == [FailureKind.CONNECT] * 3


def test_the_dispatcher_brings_batches_to_an_index(reactor, consumer):
    """Documents that the index refuses become letters with its words; all others are in it."""
    index = consumer.answers = Index()
    batch = Batch("bulk", 50, linger_us=10_000)
    cluster = Cluster(definition(consumer.url, batch=batch, concurrency=2))
    cluster.clock = reactor
    fatal = []
    dispatcher = Dispatcher(
        reactor, random.Random(1), cluster.ledger, cluster,
        lambda known: make_courier(reactor, known, lambda: True, lambda _: None),
        lambda: False, fatal.append,
    )  # fmt: skip
    cluster.listeners.append(dispatcher)
    cluster.accept(*[stored(b'{"name": %d}' % n if n % 10 else b"{}") for n in range(200)])
    dispatcher.lead()
    until = time.monotonic() + 20
    while cluster.ledger.lowest_watermark < 200:
        assert time.monotonic() < until, "not delivered"
        reactor.iterate(0.02)
    dispatcher.unlead()
    assert [headers["Crowd-Batch"] for _, headers, _ in consumer.read] == ["50"] * 4
    assert len(index.documents) == 180
    letters = cluster.ledger.letters.values()
    assert [letter.position for letter in letters] == list(range(1, 200, 10))
    assert {letter.status for letter in letters} == {400}
    assert all("document_parsing_exception" in letter.words for letter in letters)
    assert fatal == []
