"""What one delivery costs the leader's reactor, and how much faster it is than stock treq.

    python tests/bench/delivery.py [--deliveries 4000] [--concurrency 32] [--rounds 5]
                                   [--profile | --batch [500]]

A consumer in a process of its own answers 200 to everything. Four senders bring it the same
327-byte POST: stock treq on Twisted's Agent with a connection pool; crowd's agent without
treq, and with it; and the whole path from a ledger and its log (decoding, plan, settling)
through the dispatcher. They take turns, so that what else the machine does meets them all;
of the rounds the median is printed: microseconds of the sending process's CPU, deliveries a
second, and the ratio of these to stock treq's of the same round. With --profile there is one
sender, treq on crowd's agent, and where its time goes. With --batch it is the whole path alone,
with so many messages in one request as ndjson; and with --batch --profile where its time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httptools
import msgspec
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory, Protocol
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

from crowd.command import Accept, Birth, Define, Index, Member, OpenSession, SessionId, Term
from crowd.definition import Batch, ConsumerDefinition, Retry, RouteDefinition
from crowd.delivery.agent import ConsumerAgent, PreparedRequest
from crowd.delivery.courier import make_courier
from crowd.delivery.dispatcher import Dispatcher
from crowd.delivery.endpoint import endpoint_to
from crowd.delivery.outcome import Answered
from crowd.delivery.request import Naming, parse_destination, request_head
from crowd.ledger import Ledger
from crowd.message import ConsumerId, Message, Position, RouteId, encode_message

HEADERS = (
    (b"Host", b"leads.example"),
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json"),
    (b"User-Agent", b"bench/1"),
    (b"Content-Length", b"327"),
)
MESSAGE = Message(b"POST", b"/leads?shop=a23m07b23", HEADERS, b"x" * 327, 1, b"127.0.0.1", b"http")
NAMING = Naming("0123abcd-0000000000000001", Position(1), 1)
JSON = b'{"shop":"a23m07b23","text":"%b"}' % (b"x" * 297)
ENTRY = 100
"""Messages in an entry of the log; what producers bring together at some 20 000 a second."""


class Sink(Protocol):
    """Answers each request with a 200."""

    def connectionMade(self):  # noqa: N802
        self.parser = httptools.HttpRequestParser(self)

    def dataReceived(self, data):  # noqa: N802
        self.parser.feed_data(data)

    def on_message_complete(self):
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def serve():
    """Be the consumer: print the port, and serve until the pipe to the parent closes."""
    factory = Factory.forProtocol(Sink)
    print(reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port, flush=True)
    reactor.callInThread(lambda: (sys.stdin.read(), reactor.callFromThread(reactor.stop)))
    reactor.run()


def definition(url, concurrency, batch=None):
    retry = Retry(1_000_000, 2.0, 300_000_000, 10**12)
    return ConsumerDefinition(
        "c", url, None, (), concurrency, None, 15_000_000, "none", "beginning", retry, 10**9,
        "refuse", batch=batch,
    )  # fmt: skip


def stock_treq(url, concurrency):
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = concurrency
    client = HTTPClient(Agent(reactor, pool=pool))
    target = url + MESSAGE.target.decode()
    headers = Headers()
    for name, value in HEADERS[1:4]:
        headers.addRawHeader(name, value)

    def once():
        asked = client.post(target, headers=headers, data=MESSAGE.body, timeout=15)
        return asked.addCallback(lambda answer: answer.content())

    return once


def agent_alone(url, concurrency):
    destination = parse_destination(url, None)
    endpoint = endpoint_to(reactor, destination, definition(url, concurrency))
    agent = ConsumerAgent(reactor, endpoint, 15.0, lambda: True, lambda _: None, secure=False)

    def once():
        prepared = PreparedRequest(request_head(MESSAGE, destination, NAMING), MESSAGE.body)
        return agent.request(b"POST", b"", None, prepared)

    return once


def courier(url, concurrency):
    made = make_courier(reactor, definition(url, concurrency), lambda: True, lambda _: None)

    def once():
        return made.attempt(MESSAGE, NAMING).addCallback(check)

    return once


def check(answer):
    assert answer == Answered(200), answer


async def closed_loop(once, deliveries, concurrency):
    """Keep `concurrency` deliveries under way."""
    left = deliveries

    async def worker():
        nonlocal left
        while left > 0:
            left -= 1
            await once()

    await DeferredList(
        [Deferred.fromCoroutine(worker()) for _ in range(concurrency)], fireOnOneErrback=True
    )


class Log:
    """A log and its ledger in memory; what is proposed commits after 2 ms."""

    def __init__(self, url, deliveries, concurrency, batch=None):
        self.ledger = Ledger()
        self.ledger.skip(Index(1), Term(0))
        self.entries = {}
        self.done = Deferred()
        self.deliveries = deliveries
        self.append(Birth("bench", "0123abcd", (Member("a", "", bytes(16)),), 1))
        self.append(OpenSession("a", bytes(16)))
        session = SessionId(self.ledger.applied_index)
        route = RouteDefinition("/leads", ("POST",), "refuse", None)
        self.append(Define("a", bytes(32), (route,), (definition(url, concurrency, batch),)))
        message = msgspec.structs.replace(MESSAGE, body=JSON) if batch else MESSAGE
        stored = (encode_message(message),) * ENTRY
        for number in range(1, deliveries // ENTRY + 1):
            self.append(Accept(session, number, number, (RouteId(1),) * ENTRY, stored))

    def append(self, command):
        index = Index(self.ledger.applied_index + 1)
        self.entries[index] = command
        self.ledger.apply(index, Term(1), 1, command)

    def may_attempt(self):
        return True

    def messages(self, index):
        return self.entries[index].messages

    def letter(self, number):
        return None

    def log_time_us(self):
        return 1

    def propose(self, command):
        reactor.callLater(0.002, self.commit, command)
        return True

    def commit(self, command):
        self.append(command)
        self.dispatcher.advanced()
        if self.ledger.watermark(ConsumerId(1)) >= self.deliveries // ENTRY * ENTRY:
            self.dispatcher.unlead()
            self.done.callback(None)


async def dispatched(log):
    """Deliver the whole log."""
    dispatcher = log.dispatcher = Dispatcher(
        reactor,
        random.Random(1),
        log.ledger,
        log,
        lambda known: make_courier(reactor, known, lambda: True, dispatcher.spent),
        lambda: False,
        print,
    )
    dispatcher.lead()
    await log.done


async def measure(url, options):
    """Let the senders take turns; print a line for each."""
    concurrency = options.concurrency
    found = {}
    await one_round(url, ENTRY, concurrency)  # imports, connections, caches
    for _ in range(options.rounds):
        figures = await one_round(url, options.deliveries // ENTRY * ENTRY, concurrency)
        _, stock_rate = figures["stock treq and Agent"]
        for name, (cpu_us, rate) in figures.items():
            found.setdefault(name, []).append((cpu_us, rate, rate / stock_rate))
    for name, rounds in found.items():
        cpu_us, rate, ratio = map(statistics.median, zip(*rounds, strict=True))
        print(
            f"{name:24} {cpu_us:6.0f} us of CPU a delivery {rate:8.0f} deliveries/s "
            f"{ratio:6.2f} times stock",
            flush=True,
        )


async def profile(url, options):
    """Print where the time of treq on crowd's agent goes."""
    await closed_loop(courier(url, options.concurrency), ENTRY, options.concurrency)
    profiler = cProfile.Profile()
    profiler.enable()
    await closed_loop(courier(url, options.concurrency), options.deliveries, options.concurrency)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


async def measure_batches(url, options):
    """Print what a message of a batch costs, and how many go in a second; or where it goes."""
    batch = Batch("ndjson", options.batch)
    deliveries = max(options.deliveries, 100 * options.batch) // ENTRY * ENTRY
    profiler = cProfile.Profile()
    found = []
    for turn in range(options.rounds + 1):
        log = Log(url, deliveries, options.concurrency, batch)
        began, cpu = time.perf_counter(), time.process_time()
        if options.profile:
            profiler.enable()
        await dispatched(log)
        profiler.disable()
        cpu_us = (time.process_time() - cpu) / deliveries * 1e6
        if turn:  # the first one is for imports, connections, caches
            found.append((cpu_us, deliveries / (time.perf_counter() - began)))
    cpu_us, rate = map(statistics.median, zip(*found, strict=True))
    best = max(rate for _, rate in found)
    print(
        f"batches of {options.batch:<5} {cpu_us:6.1f} us of CPU a message {rate:8.0f} messages/s "
        f"(best {best:.0f})",
        flush=True,
    )
    if options.profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


async def one_round(url, n, concurrency):
    """Return, for each sender, its CPU for a delivery in microseconds and its rate."""
    log = Log(url, n, concurrency)
    senders = {
        "stock treq and Agent": lambda: closed_loop(stock_treq(url, concurrency), n, concurrency),
        "crowd's agent alone": lambda: closed_loop(agent_alone(url, concurrency), n, concurrency),
        "treq on crowd's agent": lambda: closed_loop(courier(url, concurrency), n, concurrency),
        "the whole dispatcher": lambda: dispatched(log),
    }
    figures = {}
    for name, send in senders.items():
        began, cpu = time.perf_counter(), time.process_time()
        await send()
        cpu_us = (time.process_time() - cpu) / n * 1e6
        figures[name] = cpu_us, n / (time.perf_counter() - began)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deliveries", type=int, default=4_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--batch", type=int, nargs="?", const=500, default=0)
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sink:
        serve()
        return
    reactor.seconds = time.monotonic
    command = [sys.executable, __file__, "--sink"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sink:
        url = f"http://127.0.0.1:{int(sink.stdout.readline())}"

        async def run():
            run_it = profile if options.profile else measure
            try:
                await (measure_batches if options.batch else run_it)(url, options)
            finally:
                sink.stdin.close()
                reactor.stop()

        reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run()))
        reactor.run()


if __name__ == "__main__":
    main()
