"""Producers, simulated: each posts one message, and again at another node until it is told 200.

Decides when a producer posts, where, how long it waits, and when it tries again. A request
goes through crowd's real router and Klein handler; only the HTTP channel is left out.

Each try has a token of its own in its target: a producer that heard nothing and posts again
may be stored twice, and checks tell the two apart.
"""

from __future__ import annotations

from crowd.message import parse_message_id
from crowd.web.fields import sort_fields
from crowd.web.request import Request
from tests.simulation.manners import KEYS

LATENCY_S = 0.0005
ID = b"Crowd-Message-Id: "
UNKNOWN = b"/problems/outcome-unknown"
HOST = (b"Host", b"crowd.example")
AGAIN_S = 0.1


class Try:
    """One request. It is its own connection, as the router sees one."""

    client = b"192.0.2.7"
    scheme = b"http"
    date = b""

    __slots__ = ("number", "over", "post", "process", "taken_s")

    def __init__(self, post, number):
        self.post = post
        self.number = number
        self.over = False
        self.process = None
        self.taken_s = 0.0

    @property
    def token(self):
        return f"{self.post.number}.{self.number}"

    def answered(self, request, wire):
        """Take the answer from the node; it is heard a little later."""
        del request
        process = self.process
        process.requests.pop(self, None)
        if process.alive:
            world = self.post.producers.world
            self.post.producers.checks.answered(process, self)
            world.at(process.clock.look() + LATENCY_S, self.post.heard, self, wire)


class Post:
    """One message of one producer."""

    __slots__ = (
        "acknowledged", "body", "headers", "number", "producers", "route", "started_s", "tries",
    )  # fmt: skip

    def __init__(self, producers, number, route, body):
        self.producers = producers
        self.number = number
        self.route = route
        self.body = body
        key = number * number % 11
        self.headers = [HOST] if key >= KEYS else [HOST, (b"X-Key", b"%d" % key)]
        self.tries = 0
        self.acknowledged = None
        self.started_s = 0.0

    def begin(self):
        self.started_s = self.producers.world.now
        self.producers.begun(self)
        self.try_again()

    def try_again(self):
        if self.acknowledged is not None:
            return
        producers, world = self.producers, self.producers.world
        self.tries += 1
        one = Try(self, self.tries)
        producers.sent.add(one.token)
        node = producers.nodes[producers.chance.choice(producers.names())]
        world.after(LATENCY_S, producers.arrive, one, node)
        world.after(producers.patience_s, self.give_up, one)

    def give_up(self, one):
        if not one.over:
            one.over = True
            if one.process is not None:
                one.process.requests.pop(one, None)
            self.try_again()

    def refused(self, one):
        """The connection was refused, or broke."""
        if not one.over:
            one.over = True
            world = self.producers.world
            world.after(AGAIN_S * (0.5 + self.producers.chance.random()), self.try_again)

    def heard(self, one, wire):
        """Take an answer, also one that came after patience had ended: it was given."""
        producers = self.producers
        status = int(wire[9:12])
        if status == 200:
            start = wire.index(ID) + len(ID)
            _, position = parse_message_id(wire[start : start + 25].decode())
            producers.checks.acknowledged(one, position)
            producers.acknowledged += 1
            if self.acknowledged is None:
                self.acknowledged = position
                producers.told(self)
        elif UNKNOWN not in wire:
            producers.checks.refused(one, status, wire)
        if not one.over:
            one.over = True
            if status != 200:
                wait_s = AGAIN_S * (0.5 + producers.chance.random())
                producers.world.after(wait_s, self.try_again)


class Producers:
    """All of them."""

    def __init__(self, world, nodes, names, checks, chance, *, patience_s):
        self.world = world
        self.nodes = nodes
        self.names = names
        """Returns where they may post."""
        self.checks = checks
        self.chance = chance
        self.patience_s = patience_s
        self.posts = []
        self.sent = set()
        """Every token that ever left a producer."""
        self.acknowledged = 0
        self.waiting = {}
        self.longest_wait_s = 0.0
        self.last_told_s = world.now

    def plan(self, times, routes, body_bytes):
        """Have a message posted at each of these times (seconds from now)."""
        for delay_s in times:
            route = routes[self.chance.randrange(len(routes))]
            number = len(self.posts)
            size = self.chance.randrange(body_bytes)
            # Some bodies are no JSON, and some have no key.
            name, text = b"no" if number % 8 == 2 else b"key", b"%d " % number * (1 + size // 4)
            body = b'{"%b": %d, "text": "%b"}' % (name, number % KEYS, text)
            post = Post(self, number, route, body[number % 13 == 5 :])
            self.posts.append(post)
            self.world.after(delay_s, post.begin)

    def begun(self, post):
        if not self.waiting:
            self.last_told_s = self.world.now
        self.waiting[post.number] = post

    def told(self, post):
        """Note how long nobody was told 200 while somebody waited for it."""
        self.waiting.pop(post.number, None)
        self.longest_wait_s = max(self.longest_wait_s, self.world.now - self.last_told_s)
        self.last_told_s = self.world.now

    def arrive(self, one, node):
        """Reach a node: its system answers for a process that is not there."""
        process = node.process
        if process is None or not process.alive or not process.accepting:
            if not node.is_off:
                self.world.after(LATENCY_S, one.post.refused, one)
            return
        one.process = process
        process.requests[one] = None
        self.world.at(self.world.now, self.take, one, owner=process)

    def take(self, one):
        """Hand the request to the process's router. This is its turn."""
        if one.over:
            one.process.requests.pop(one, None)
            return
        post, process = one.post, one.process
        one.taken_s = process.clock.look()
        self.checks.taken(process, one)
        uri = f"{post.route}?{one.token}".encode()
        headers, fields = post.headers, sort_fields(post.headers)
        process.router.handle(Request(one, b"POST", uri, headers, fields, post.body, 0, True))

    def process_died(self, process, *, power):
        """Let the producers whose requests were there know, if a system is left to tell."""
        for one in list(process.requests):
            if not power:
                self.world.after(LATENCY_S, one.post.refused, one)
        process.requests.clear()
