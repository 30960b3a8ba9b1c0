# ruff: noqa: N802 - Twisted's names
"""A network in memory, and listeners that write down what they hear."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from crowd.errors import PeerRejectedError
from crowd.raft.links import PeerLinks
from crowd.raft.wire import PROTOCOL, Hello


class Wire:
    """One end of a connection in memory. Bytes arrive in a later turn of the clock.

    While `stuck`, nothing leaves, and the producer is paused when 64 KiB wait, as by TCP.
    """

    def __init__(self, clock, remote_name):
        self.clock = clock
        self.remote_name = remote_name
        self.protocol = None
        self.other = None
        self.gone = False
        self.stuck = False
        self.closing = False
        self.written = deque()
        self.producer = None

    def setTcpNoDelay(self, on):
        assert on

    def registerProducer(self, producer, streaming):
        assert streaming
        self.producer = producer

    def unregisterProducer(self):
        self.producer = None

    def write(self, data):
        if self.gone or self.closing:
            return
        self.written.append(data)
        if self.producer and self.stuck and sum(map(len, self.written)) > 65536:
            self.producer.pauseProducing()
        self.clock.callLater(0, self.flush)

    def flush(self):
        if self.stuck or self.gone:
            return
        while self.written and not self.gone:
            data = self.written.popleft()
            if not self.other.gone:
                self.other.protocol.dataReceived(data)
        if self.closing:
            self.end(ConnectionDone())
        elif self.producer:
            self.producer.resumeProducing()

    def loseConnection(self):
        self.closing = True
        self.clock.callLater(0, self.flush)

    def abortConnection(self):
        self.clock.callLater(0, self.end, ConnectionLost())

    def end(self, why):
        for wire in (self, self.other):
            if not wire.gone:
                wire.gone = True
                wire.protocol.connectionLost(Failure(why))


class Port:
    """Where a node listens."""

    def __init__(self, network, name):
        self.network, self.name = network, name

    def stopListening(self):
        del self.network.factories[self.name]

    def getHost(self):
        return f"memory:{self.name}"


class Network:
    """Connects nodes by name; `down` holds the names that answer nobody."""

    def __init__(self):
        self.clock = Clock()
        self.factories = {}
        self.down = set()
        self.wires = []
        self.claims = {}
        self.calls = 0

    def settle(self):
        for _ in range(30):
            self.clock.advance(0)

    def pass_s(self, seconds):
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            self.settle()

    def join(self, factory, here, there_factory, there):
        near, far = (
            Wire(self.clock, self.claims.get(there, there)),
            Wire(self.clock, self.claims.get(here, here)),
        )
        near.other, far.other = far, near
        for wire, maker in ((near, factory), (far, there_factory)):
            wire.protocol = maker.buildProtocol(None)
            self.wires.append(wire)
        for wire in (near, far):
            wire.protocol.makeConnection(wire)
            self.clock.callLater(0, wire.protocol.handshakeCompleted)
        return near.protocol

    def endpoint(self, here, there):
        return Endpoint(self, here, there)


class Endpoint:
    """The way from one node to another, or where a node listens."""

    def __init__(self, network, here, there):
        self.network, self.here, self.there = network, here, there

    def connect(self, factory):
        self.network.calls += 1
        target = self.network.factories.get(self.there)
        if self.there in self.network.down or target is None:
            return fail(ConnectionLost())
        return succeed(self.network.join(factory, self.here, target, self.there))

    def listen(self, factory):
        self.network.factories[self.here] = factory
        return succeed(Port(self.network, self.here))


class NamedWires:
    """Security of the network in memory: a wire knows who is at its other end."""

    def accepting(self, factory):
        return factory

    def dialling(self, endpoint):
        return endpoint

    def identify(self, transport, candidates):
        if transport.remote_name not in candidates:
            raise PeerRejectedError(f"found {transport.remote_name}; expected {candidates}")
        return transport.remote_name

    def identify_member(self, transport):
        name = transport.remote_name
        if not name or "." in name:  # as of a host, or of another cluster
            raise PeerRejectedError(f"found {name}; expected one node of this cluster")
        return name


class Recorder:
    """A LinkListener that writes down what it hears, and asserts that it is never inside a send."""

    def __init__(self):
        self.heard = []
        self.inside_send = False
        self.waiting = []

    def _hear(self, *what):
        assert not self.inside_send
        self.heard.append(what)
        for predicate, deferred in list(self.waiting):
            if predicate(self.heard):
                self.waiting.remove((predicate, deferred))
                deferred.callback(None)

    def until(self, predicate):
        deferred = Deferred()
        if predicate(self.heard):
            deferred.callback(None)
        else:
            self.waiting.append((predicate, deferred))
        return deferred

    def peer_connected(self, name, hello):
        self._hear("connected", name)

    def peer_disconnected(self, name, why):
        self._hear("disconnected", name, why)

    def peer_message(self, name, message):
        self._hear("message", name, message)

    def kinds(self):
        return [event[:2] for event in self.heard]

    def messages(self):
        return [event[2] for event in self.heard if event[0] == "message"]


def hello_of(name, roster=("a", "b", "c"), cluster="leads", protocol=PROTOCOL, roster_index=0):
    return Hello(
        protocol=protocol,
        format=1,
        cluster=cluster,
        node=name,
        journal_id=name.encode().ljust(16, b"."),
        roster=tuple(roster),
        roster_index=roster_index,
        founding=b"",
        empty=True,
    )


class Node:
    """A node's links on a network in memory."""

    def __init__(self, network, name, roster=("a", "b", "c"), hello=None):
        self.network, self.name = network, name
        self.heard = Recorder()
        self.hello = hello or hello_of(name, roster)
        self.links = PeerLinks(
            network.clock,
            name=name,
            hello=lambda: self.hello,
            dial=lambda address: network.endpoint(name, address),
            accept=Endpoint(network, name, None),
            security=NamedWires(),
            listener=self.heard,
            chance=lambda: 0.5,
        )
        self.follow({peer: peer for peer in roster})

    def follow(self, peers, dialled=None):
        """Follow `peers`; of members that joined together this node dials the names above its own."""
        above = {peer for peer in peers if peer > self.name}
        self.links.follow(peers, above if dialled is None else dialled)

    def send(self, name, message):
        self.heard.inside_send = True
        try:
            return self.links.send(name, message)
        finally:
            self.heard.inside_send = False

    def wire_to(self, name):
        """Return this node's end of its newest connection to `name`."""
        return next(
            wire
            for wire in reversed(self.network.wires)
            if wire.remote_name == name and wire.other.remote_name == self.name
        )


class Just:
    """A factory of one protocol."""

    def __init__(self, protocol):
        self.protocol = protocol

    def buildProtocol(self, address):
        return self.protocol


class Silent:
    """A protocol of a stranger: it says nothing and keeps what it hears."""

    transport = None

    def makeConnection(self, transport):
        self.transport = transport
        self.got = b""

    def handshakeCompleted(self):
        pass

    def dataReceived(self, data):
        self.got += data

    def connectionLost(self, reason):
        self.reason = reason
