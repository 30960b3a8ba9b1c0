"""What one request costs at the door: CPU time per request, sockets included.

Starts the door with an acceptor that answers in the reactor's next turn, and a child process
with 64 connections that post 327 bytes each, one after the other. Prints requests per second,
and this process's CPU time per request::

    python tests/unit/web/measure_door.py            # crowd's channel
    python tests/unit/web/measure_door.py --key      # the same, and producers show a key
    python tests/unit/web/measure_door.py --site     # the same handlers under Twisted's server
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from hashlib import sha256
from selectors import EVENT_READ, DefaultSelector

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.web.server import Site

from crowd.definition import RouteDefinition
from crowd.door.door import Door
from crowd.message import Position, RouteId
from crowd.policy import KeyPolicy, Policy
from crowd.web.entrance import Entrance
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import ProducerListener, Producers
from crowd.web.router import Router

BODY = b'{"message":"this is a lead message", "shop": "a23m07b23", "pad":"%s"}' % (b"x" * 260)
KEY = b"crowd_SrDJXrxrlSLTAdLuZCExgdIiyX-4eA8d4hvBvkTbLRg"
REQUEST = (
    b"POST /leads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (KEY, len(BODY), BODY)
)
KEYS = (KeyPolicy("shop-a", (sha256(KEY).hexdigest(),)),)
CONNECTIONS = 64


class Acceptor:
    """Accepts whatever it is offered, in the reactor's next turn."""

    tag = "0123abcd"

    def __init__(self) -> None:
        self.position = 0
        self._waiting: list[Deferred[Position]] = []

    def route_id(self, path: str) -> RouteId:
        return RouteId(1)

    def accept(self, route: RouteId, stored: bytes, digests: bytes) -> Deferred[Position]:
        accepted: Deferred[Position] = Deferred()
        if not self._waiting:
            reactor.callLater(0, self._answer)
        self._waiting.append(accepted)
        return accepted

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        for accepted in waiting:
            self.position += 1
            accepted.callback(Position(self.position))


def produce(port: int, seconds: float) -> None:
    """Post on all connections, each time one has been answered."""
    selector = DefaultSelector()
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        selector.register(connection, EVENT_READ)
        connection.sendall(REQUEST)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for key, _ in selector.select(1.0):
            answer = key.fileobj.recv(4096)
            if not answer:
                return  # the door closed
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            key.fileobj.sendall(REQUEST)


def serve(seconds: float, *, site: bool, key: bool) -> None:
    """Serve the child's requests and print what they cost."""
    acceptor = Acceptor()
    routes = (RouteDefinition("/leads", ("POST",), "refuse", None),)
    policy = Policy("/leads", ("POST",), keys=KEYS, key_from=("bearer",))
    doors = {"/leads": Door(policy)} if key else {}
    entrance = Entrance(doors, lambda: time.time_ns() // 1000, time.monotonic)
    ingest = Ingest(acceptor, routes, lambda: time.time_ns() // 1000, entrance)
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    if site:
        listening = endpoint.listen(Site(ingest.app.resource())).addCallback(lambda port: [port])
    else:
        producers = Producers(reactor, Router(ingest.app, entrance), WebLimits(), time.time)
        listener = ProducerListener(reactor, [endpoint], producers, drain_s=1.0)
        listener.startService()
        listening = listener.listening

    def start(ports: list[object]) -> None:
        port = str(ports[0].getHost().port)
        child = [sys.executable, __file__, "--produce", port, "--seconds", str(seconds)]
        subprocess.Popen(child, env=os.environ)
        reactor.callLater(seconds, reactor.stop)

    listening.addCallback(start)
    started_s, cpu_s = time.monotonic(), time.process_time()
    reactor.run()
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - started_s
    served = acceptor.position
    print(f"{served / wall_s:.0f} requests/s, {cpu_s / served * 1e6:.1f} us of CPU time each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", action="store_true")
    parser.add_argument("--key", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--produce", type=int, metavar="PORT")
    arguments = parser.parse_args()
    if arguments.produce:
        produce(arguments.produce, arguments.seconds)
    else:
        serve(arguments.seconds, site=arguments.site, key=arguments.key)


if __name__ == "__main__":
    main()
