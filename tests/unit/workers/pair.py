# ruff: noqa: N802 - Twisted's names
"""A pair of sockets in memory, and what else a worker and its engine's process meet."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from crowd.idempotency import Grouped
from tests.unit.web.conftest import Producer

FULL_BYTES = 65_536


class End:
    """One end. Bytes arrive in a later turn of the clock, while the other end reads."""

    def __init__(self, clock):
        self.clock, self.other = clock, None
        self.protocol = self.producer = None
        self.written = deque()
        self.reading, self.gone, self.closing = True, False, False

    def registerProducer(self, producer, streaming):
        assert streaming
        self.producer = producer

    def unregisterProducer(self):
        self.producer = None

    @property
    def written_bytes(self):
        return sum(map(len, self.written))

    def write(self, data):
        if self.gone or self.closing:
            return
        self.written.append(data)
        if self.producer and self.written_bytes > FULL_BYTES:
            self.producer.pauseProducing()
        self.clock.callLater(0, self.flush)

    def flush(self):
        full = self.written_bytes > FULL_BYTES
        while self.written and self.other.reading and not self.gone:
            self.other.protocol.dataReceived(self.written.popleft())
        if self.gone or self.written:
            return
        if self.closing:
            self.end(ConnectionDone())
        elif full and self.producer:
            self.producer.resumeProducing()

    def pauseProducing(self):
        self.reading = False

    def resumeProducing(self):
        self.reading = True
        self.clock.callLater(0, self.other.flush)

    def loseConnection(self):
        self.closing = True
        self.clock.callLater(0, self.flush)

    def abortConnection(self):
        self.clock.callLater(0, self.end, ConnectionLost())

    def end(self, why):
        for one in (self, self.other):
            if not one.gone:
                one.gone = True
                one.protocol.connectionLost(Failure(why))


def join(clock, one, other):
    """Connect two protocols; return both ends."""
    ends = End(clock), End(clock)
    ends[0].other, ends[1].other = ends[1], ends[0]
    for end, protocol in zip(ends, (one, other), strict=True):
        end.protocol = protocol
    for end, protocol in zip(ends, (one, other), strict=True):
        protocol.makeConnection(end)
    return ends


class Port:
    """Where producers come, in memory; in a worker and in the engine's process."""

    def __init__(self):
        self.factory, self.open, self.reads = None, True, True

    def listen(self, factory):
        self.factory = factory
        return succeed(self)

    def fileno(self):
        return 7

    def stopReading(self):
        self.reads = False

    def stopListening(self):
        self.open = False
        return succeed(None)

    def connect(self):
        """Return a producer that connects, as long as anyone listens."""
        assert self.open
        channel = self.factory.buildProtocol(None)
        return None if channel is None else Producer(channel)


class Proposer:
    """Takes messages as `crowd.raft.proposer.Proposer`: `offers` are (route, stored, waiter, keys)."""

    def __init__(self):
        self.offers, self.waited_s, self.refusal, self.position = [], [], None, 0

    def accept_many(self, wanted, waited_s=0.0):
        for route, stored, keys, waiter in wanted:
            if self.refusal is not None:
                waiter.errback(self.refusal)
            else:
                self.offers.append((route, stored, waiter, keys))
                self.waited_s.append(waited_s)

    def accept_all(self):
        offers, self.offers = self.offers, []
        for _, stored, waiter, _ in offers:
            first = self.position + 1
            if isinstance(stored, bytes):
                self.position += 1
                waiter.callback(first)
            else:
                self.position += len(stored)
                waiter.callback(Grouped(first, len(stored)))


class Waits:
    """Who waits for consumers: `asked` are (position, consumer, seconds, Deferred)."""

    def __init__(self):
        self.asked, self.left = [], []

    def consumer_of(self, route):
        return route

    def wait(self, position, consumer, within_s):
        self.asked.append((position, consumer, within_s, Deferred()))
        return self.asked[-1][3]

    def leave(self, position, consumer, ended):
        self.left.append((position, consumer, ended))


def settle(clock):
    for _ in range(20):
        clock.advance(0)


def pass_s(clock, seconds, step_s=0.05):
    for _ in range(round(seconds / step_s)):
        clock.advance(step_s)
        settle(clock)
