"""Producers, simulated: each posts one request, and again at another node until it is told 200.

Decides when a producer posts, where, how long it waits, and when it tries again. A request
goes through crowd's real router and Klein handler; only the HTTP channel is left out.

Each try has a token of its own: a producer that heard nothing and posts again may be stored twice,
and checks tell the two apart. It stands in the target or, where all tries are to be one request
(``postings``), in a header field. Who has a key posts at two nodes at once, too, and again after it
was told; it may hear that its key came with another request, and that is an end as 200 is.
"""

from __future__ import annotations

import json
import random

import msgspec

from crowd.message import parse_message_id
from crowd.web.fields import sort_fields
from crowd.web.request import Request
from tests.simulation.manners import KEYS
from tests.simulation.plans import FAULTS_S
from tests.simulation.postings import TRY, Posting, Postings
from tests.simulation.world import START_S

LATENCY_S = 0.0005
ID = b"Crowd-Message-Id: "
REPLAYED = b"Idempotent-Replayed: true"
UNKNOWN = b"/problems/outcome-unknown"
REUSED = b"/problems/idempotency-key-reused"
NO_ROOM = b"/problems/backlog-full"
HOST = (b"Host", b"crowd.example")
AGAIN_S = 0.1
RACED = 0.5
"""The share of keyed requests that are posted at two nodes at once."""
LATER_S = (0.0, 0.05, 0.5, 1.5, 4.0)
"""How long after it was told, about, a producer posts again under its key."""


class Answer(msgspec.Struct, frozen=True):
    """What 200 says: each message's position, and the places of those that were known.

    The head says it, too: the first position, and whether all were known.
    """

    positions: tuple[int, ...]
    replayed: frozenset[int]
    first: int
    all_replayed: bool


class Try:
    """One request. It is its own connection, as the router sees one.

    `goes_on`: if it fails, another one follows.
    """

    client = b"192.0.2.7"
    scheme = b"http"
    date = b""
    transport = None

    __slots__ = ("goes_on", "number", "over", "post", "process", "taken_s", "token", "tokens")

    def __init__(self, post, number, *, goes_on):
        self.post = post
        self.number = number
        self.goes_on = goes_on
        self.over = False
        self.process = None
        self.taken_s = 0.0
        self.token = f"{post.number}.{number}"
        count = len(post.posting.bodies)
        self.tokens = [self.token] if count == 1 else [f"{self.token}/{n}" for n in range(count)]
        """Each message's, as checks call them."""

    def answered(self, request, wire):
        """Take the answer from the node; it is heard a little later."""
        del request
        process = self.process
        process.requests.pop(self, None)
        if process.alive:
            world = self.post.producers.world
            self.post.producers.checks.answered(process, self, wire)
            if process.waits is not None and wire[9:12] == b"200":
                process.waits.wait(read_answer(self, wire).positions)
            world.at(process.clock.look() + LATENCY_S, self.post.heard, self, wire)


def token_of(message):
    """Return the token of the try that a message came with."""
    for name, value in message.headers:
        if name == TRY:
            return value.decode()
    return message.target.partition(b"?")[2].decode()


def read_answer(one, wire):
    """Return what a 200 says."""
    head, _, body = wire.partition(b"\r\n\r\n")
    start = head.index(ID) + len(ID)
    first, all_replayed = parse_message_id(head[start : start + 25].decode())[1], REPLAYED in head
    if not one.post.posting.is_group:
        return Answer((first,), frozenset(range(all_replayed)), first, all_replayed)
    said = json.loads(body)
    positions = tuple(parse_message_id(each)[1] for each in said["ids"])
    return Answer(positions, frozenset(said.get("replayed", ())), first, all_replayed)


class Post:
    """One request of one producer."""

    __slots__ = (
        "acknowledged", "is_over", "number", "posting", "producers", "started_s", "tries",
    )  # fmt: skip

    def __init__(self, producers, number, posting):
        self.producers = producers
        self.number = number
        self.posting = posting
        self.tries = 0
        self.acknowledged = None
        """What it was told first with 200."""
        self.is_over = False
        """It was told 200, or that its key came with another request."""
        self.started_s = 0.0

    def begin(self):
        self.started_s = self.producers.world.now
        self.producers.begun(self)
        self.try_again()
        if self.posting.keys and self.producers.keyed_chance.random() < RACED:
            self.try_again()

    def try_again(self):
        if not self.is_over:
            self._post(goes_on=True)

    def repeat(self):
        """Post once more, though it is over."""
        if self.producers.world.now < START_S + FAULTS_S:
            self._post(goes_on=False)

    def _post(self, *, goes_on):
        producers, world = self.producers, self.producers.world
        self.tries += 1
        one = Try(self, self.tries, goes_on=goes_on)
        producers.tries[one.token] = one
        producers.sent.update(one.tokens)
        chance = producers.keyed_chance if self.posting.keys else producers.chance
        node = producers.nodes[chance.choice(producers.names())]
        world.after(LATENCY_S, producers.arrive, one, node)
        world.after(producers.patience_s, self.give_up, one)

    def give_up(self, one):
        if not one.over:
            one.over = True
            if one.process is not None:
                one.process.requests.pop(one, None)
            if one.goes_on:
                self.try_again()

    def refused(self, one):
        """The connection was refused, or broke."""
        if not one.over:
            one.over = True
            if one.goes_on:
                world = self.producers.world
                world.after(AGAIN_S * (0.5 + self.producers.chance.random()), self.try_again)

    def heard(self, one, wire):
        """Take an answer, also one that came after patience had ended: it was given."""
        producers = self.producers
        status = int(wire[9:12])
        if status == 200:
            answer = read_answer(one, wire)
            producers.checks.acknowledged(one, answer)
            producers.acknowledged += 1
            if self.acknowledged is None:
                self.acknowledged = answer
        elif UNKNOWN not in wire:
            producers.checks.refused(one, status, wire)
        is_end = status == 200 or REUSED in wire
        if is_end and not self.is_over:
            self.is_over = True
            producers.told(self)
            self._repeat_later()
        if not one.over:
            one.over = True
            if not is_end and one.goes_on:
                wait_s = AGAIN_S * (0.5 + producers.chance.random())
                producers.world.after(wait_s, self.try_again)

    def _repeat_later(self):
        """Have a keyed request posted again, now and then, as one does who forgot the answer."""
        chance, world = self.producers.keyed_chance, self.producers.world
        while self.posting.keys and chance.random() < 0.4:
            world.after(chance.choice(LATER_S) * (0.5 + chance.random()), self.repeat)


class Producers:
    """All of them."""

    def __init__(self, world, nodes, names, checks, chance, *, plan):
        self.world = world
        self.nodes = nodes
        self.names = names
        """Returns where they may post."""
        self.checks = checks
        self.chance = chance
        self.patience_s = plan.patience_s
        self.keys = plan.keys
        self.keyed_chance = random.Random(f"{plan.seed} keyed load")
        self.posts = []
        self.tries = {}
        """By token, every try that ever left a producer."""
        self.sent = set()
        """The tokens of all their messages."""
        self.acknowledged = 0
        self.waiting = {}
        self.longest_wait_s = 0.0
        self.last_told_s = world.now

    def plan(self, times, routes, body_bytes):
        """Have a message posted at each of these times (seconds from now)."""
        postings = self.keys and Postings(self.keyed_chance, self.keys.groups)
        for delay_s in times:
            route = routes[self.chance.randrange(len(routes))]
            number = len(self.posts)
            size = self.chance.randrange(body_bytes)
            if self.keys and self.keyed_chance.random() < self.keys.share:
                posting = postings.draw(number, HOST, size)
            else:
                posting = _plain(number, route, size)
            post = Post(self, number, posting)
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
        posting = post.posting
        uri, headers = posting.target, list(posting.headers)
        if uri:
            headers.append((TRY, one.token.encode()))
        else:
            uri = f"{posting.path}?{one.token}".encode()
        fields = sort_fields(headers)
        process.router.handle(Request(one, b"POST", uri, headers, fields, posting.body, 0, True))

    def process_died(self, process, *, power):
        """Let the producers whose requests were there know, if a system is left to tell."""
        for one in list(process.requests):
            if not power:
                self.world.after(LATENCY_S, one.post.refused, one)
        process.requests.clear()


def _plain(number, route, size):
    """Return a request without a key; its tries differ in their targets."""
    # Some bodies are no JSON, and some have no key.
    name, text = b"no" if number % 8 == 2 else b"key", b"%d " % number * (1 + size // 4)
    body = b'{"%b": %d, "text": "%b"}' % (name, number % KEYS, text)
    body = body[number % 13 == 5 :]
    key = number * number % 11
    headers = (HOST,) if key >= KEYS else (HOST, (b"X-Key", b"%d" % key))
    return Posting(route, b"", headers, body, (body,))
