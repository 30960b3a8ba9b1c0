"""What a request costs its node's way in, in processor time, beside Twisted's own HTTP server.

    .venv/bin/python -m tests.bench.request [--seconds 4] [--rounds 3]

Each candidate is a process that takes requests of 327 bytes on 64 connections and accepts each one in
the reactor's next turn; nothing is written or replicated. ``open`` is a route that asks for nothing,
``key`` one that asks for an API key, ``once`` gets an Idempotency-Key with each request, ``both`` has
both; ``site`` has the handlers of ``open`` under ``twisted.web.server.Site``. They take turns.

Prints the median of the serving process's processor time for a request, its calls of the system
included, and the ratio to ``open``.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from hashlib import sha256
from selectors import EVENT_READ, DefaultSelector

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.web.server import Site

from crowd import garbage, polling
from crowd.definition import RouteDefinition
from crowd.door.door import Door
from crowd.message import Position, RouteId
from crowd.policy import KeyPolicy, Policy
from crowd.web.entrance import Entrance
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import ProducerListener, Producers
from crowd.web.router import Router

CANDIDATES = ("open", "key", "once", "both", "site")
BODY = b'{"message":"this is a lead message", "shop": "a23m07b23", "pad":"%s"}' % (b"x" * 260)
KEY = b"crowd_SrDJXrxrlSLTAdLuZCExgdIiyX-4eA8d4hvBvkTbLRg"
KEYS = (KeyPolicy("shop-a", (sha256(KEY).hexdigest(),)),)
CONNECTIONS = 64


class Acceptor:
    """Accepts whatever it is offered, in the reactor's next turn."""

    tag = "0123abcd"

    def __init__(self):
        self.position = 0
        self._waiting = []

    def route_id(self, path):
        del path
        return RouteId(1)

    def accept(self, route, stored, digests):
        del route, stored, digests
        accepted = Deferred()
        if not self._waiting:
            reactor.callLater(0, self._answer)
        self._waiting.append(accepted)
        return accepted

    def _answer(self):
        waiting, self._waiting = self._waiting, []
        for accepted in waiting:
            self.position += 1
            accepted.callback(Position(self.position))


def request(candidate, number):
    """Return a request's bytes."""
    lines = [b"POST /leads HTTP/1.1", b"Host: 127.0.0.1", b"Content-Type: application/json"]
    if candidate in ("key", "both"):
        lines.append(b"Authorization: Bearer " + KEY)
    if candidate in ("once", "both"):
        lines.append(b"Idempotency-Key: %020d" % number)
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(BODY), b"", BODY])


def produce(candidate, port, seconds):
    """Post on all connections, each time one has been answered."""
    selector, number = DefaultSelector(), 0
    until_s = time.monotonic() + seconds
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        selector.register(connection, EVENT_READ)
        connection.sendall(request(candidate, number := number + 1))
    while time.monotonic() < until_s:
        for key, _ in selector.select(1.0):
            answer = key.fileobj.recv(4096)
            if not answer:
                return  # the door closed
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            key.fileobj.sendall(request(candidate, number := number + 1))


def serve(candidate, seconds):
    """Serve a child's requests; print how many, and what they took."""
    acceptor = Acceptor()
    routes = (RouteDefinition("/leads", ("POST",), "refuse", None),)
    doors = {}
    if candidate in ("key", "both"):
        doors["/leads"] = Door(Policy("/leads", ("POST",), keys=KEYS, key_from=("bearer",)))
    entrance = Entrance(doors, lambda: time.time_ns() // 1000, time.monotonic)
    ingest = Ingest(acceptor, routes, lambda: time.time_ns() // 1000, entrance=entrance)
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    if candidate == "site":
        listening = endpoint.listen(Site(ingest.app.resource())).addCallback(lambda port: [port])
    else:
        router = Router(ingest.app, entrance=entrance)
        producers = Producers(reactor, router, WebLimits(), time.time)
        listener = ProducerListener(reactor, [endpoint], producers, drain_s=1.0)
        listener.startService()
        listening = listener.listening
        polling.call_directly(reactor)
    garbage.settle()

    def start(ports):
        port = str(ports[0].getHost().port)
        arguments = ["--produce", candidate, port, "--seconds", str(seconds)]
        subprocess.Popen([sys.executable, "-m", "tests.bench.request", *arguments])
        reactor.callLater(seconds, reactor.stop)

    listening.addCallback(start)
    begun_s = time.process_time()
    reactor.run()
    print(json.dumps([acceptor.position, time.process_time() - begun_s]))


def measure(candidate, seconds):
    """Return a candidate's microseconds of processor time for a request."""
    arguments = ["--serve", candidate, "--seconds", str(seconds)]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bench.request", *arguments],
        stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 60,
    )  # fmt: skip
    served, spent_s = json.loads(ran.stdout)
    return spent_s / served * 1e6


def main():
    """Measure, and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each (default 4)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=CANDIDATES, help=argparse.SUPPRESS)
    parser.add_argument("--produce", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        produce(options.produce[0], int(options.produce[1]), options.seconds)
        return 0
    if options.serve:
        serve(options.serve, options.seconds)
        return 0
    found = {candidate: [] for candidate in CANDIDATES}
    for number in range(options.rounds):
        for candidate in CANDIDATES[:: -1 if number % 2 else 1]:
            found[candidate].append(measure(candidate, options.seconds))
    medians = {candidate: statistics.median(each) for candidate, each in found.items()}
    for candidate, took_us in medians.items():
        print(f"{candidate:5} {took_us:6.1f} us  {took_us / medians['open']:5.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
