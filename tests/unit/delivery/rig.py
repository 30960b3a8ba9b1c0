"""Delivery on the leader for tests: a ledger, consumers in memory, a clock that tests advance."""

from __future__ import annotations

import contextlib
import random

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from crowd.command import (
    Accept,
    Birth,
    Define,
    Index,
    Member,
    OpenSession,
    SessionId,
    Settle,
    Term,
    decode_command,
    encode_command,
)
from crowd.definition import ConsumerDefinition, Retry, RouteDefinition
from crowd.delivery.dispatcher import Dispatcher
from crowd.delivery.outcome import Answered, Failed, FailureKind
from crowd.ledger import Ledger
from crowd.message import Message, RouteId, encode_message

OK = Answered(200)
DOWN = Failed(FailureKind.CONNECT, "refused")
RETRY = Retry(1_000_000, 2.0, 300_000_000, 10**12)


def consumer(
    name, *, routes=(), concurrency=4, url="http://127.0.0.1:1", rate=None, order="none",
    retry=RETRY, **more,
):  # fmt: skip
    """Return a definition; `more` are fields by their names."""
    return ConsumerDefinition(
        name, url, None, routes, concurrency, rate, 1_000_000, order, "beginning", retry, 10**9,
        "refuse", **more,
    )  # fmt: skip


def stored(body, target=b"/leads", headers=()):
    return encode_message(Message(b"POST", target, headers, body, 1, b"192.0.2.1", b"http"))


class Cluster:
    """The log and the ledger of a leader; a node's death is a new dispatcher beside it."""

    def __init__(self, *consumers):
        self.clock = Clock()
        self.ledger = Ledger()
        self.letter_bytes = {}
        self.ledger.skip(Index(1), Term(0))
        self.log = {}
        self.listeners = []
        self.pending = []  # proposals that are appended and not yet applied
        self.leads = True
        self.quorum = True
        self.held = False
        self._gathers = False
        self.reads = 0
        self.append(Birth("leads", "0123abcd", (Member("a", "", bytes(16)),), 1))
        self.append(OpenSession("a", bytes(16)))
        self.session = SessionId(self.ledger.applied_index)
        self.number = 0
        self.define(*consumers)

    def append(self, command):
        index = Index(self.ledger.applied_index + 1)
        self.log[index] = command
        self.ledger.apply(index, Term(1), self.log_time_us(), command)
        came, went = self.ledger.take_letter_changes()
        self.letter_bytes |= dict(came)
        for number in went:
            self.letter_bytes.pop(number, None)
        if not self._gathers:
            self._tell()

    def _tell(self):
        for listener in self.listeners:
            listener.advanced()

    @contextlib.contextmanager
    def one_turn(self):
        """Have what is appended within applied in one turn, as an engine does what came together."""
        self._gathers = True
        yield
        self._gathers = False
        self._tell()

    def define(self, *consumers):
        routes = tuple(RouteDefinition(path, ("POST",), "refuse", None) for path in ("/a", "/b"))
        self.append(Define("a", random.Random(str(consumers)).randbytes(32), routes, consumers))

    def accept(self, *bodies, route=1):
        """Accept messages, given as bodies or in their stored form."""
        self.number += 1
        routes = (RouteId(route),) * len(bodies)
        messages = tuple(body if body[:1] == b"\x88" else stored(body) for body in bodies)
        self.append(Accept(self.session, self.number, self.number, routes, messages))

    def commit(self):
        """Apply what was proposed."""
        self.held = False
        while self.pending:
            self.append(self.pending.pop(0))

    def settled(self, name):
        return [
            (first, last)
            for command in self.log.values()
            if isinstance(command, Settle) and command.consumer == self.ledger.consumer_id(name)
            for first, last in command.ranges
        ]

    # The leadership that the dispatcher uses.

    def may_attempt(self):
        return self.leads and self.quorum

    def messages(self, index):
        self.reads += 1
        return self.log[index].messages

    def letter(self, number):
        return self.letter_bytes[number]

    def log_time_us(self):
        return 1 + round(self.clock.seconds() * 1e6)

    def proposed_index(self):
        return Index(self.ledger.applied_index + len(self.pending))

    def propose(self, command):
        if not self.leads:
            return False
        self.pending.append(decode_command(encode_command(command)))  # as the engine does
        if not self.held:
            self.clock.callLater(0.001, self.commit)
        return True


class Node:
    """A dispatcher, and what its couriers were given.

    `answer` says what a consumer answers, at once, or with the seconds that it takes. To a batch
    it is given the list of messages and that of their names, and may say a list of answers.
    `batches` are those made, as the consumer and the names.
    """

    def __init__(
        self, cluster, *, producers_wait=lambda: False, answer=None, worked_s=None
    ):  # fmt: skip
        self.cluster = cluster
        self.attempts = []
        self.batches = []
        self.started_s = []
        self.open = []
        self.answer = answer
        self.fatal = []
        self.closed = []
        self.dispatcher = Dispatcher(
            cluster.clock, random.Random(1), cluster.ledger, cluster, self.courier,
            producers_wait, self.fatal.append, worked_s,
        )  # fmt: skip
        cluster.listeners.append(self.dispatcher)
        self.dispatcher.startService()

    def courier(self, definition):
        return Courier(self, definition)

    def pass_s(self, seconds, step=0.01):
        self.cluster.clock.pump([step] * round(seconds / step))

    def end(self, answer=OK):
        """Answer all that is open."""
        ending, self.open = self.open, []
        for _, answered, _ in ending:
            answered.callback(answer)
        self.pass_s(0.01)

    def bodies(self, name):
        return [message.body for consumer, message, _ in self.attempts if consumer == name]


class Courier:
    """A consumer in memory."""

    def __init__(self, node, definition):
        if "nowhere" in definition.url:
            raise ValueError("no address")
        self.node = node
        self.definition = definition

    def attempt(self, message, naming):
        self.node.attempts.append((self.definition.name, message, naming))
        self.node.started_s.append(self.node.cluster.clock.seconds())
        answered = Deferred()
        if self.node.answer is None:
            self.node.open.append((naming, answered, self.definition.name))
        else:
            answer = self.node.answer(self.definition.name, message, naming)
            if isinstance(answer, tuple):
                answer, after_s = answer
                self.node.cluster.clock.callLater(after_s, answered.callback, answer)
            else:
                answered.callback(answer)
        return answered

    def attempt_batch(self, items):
        """Make one attempt; what is open of it is open under its first message's name."""
        items, name = list(items), self.definition.name
        self.node.batches.append((name, [naming for _, naming in items]))
        self.node.attempts += [(name, message, naming) for message, naming in items]
        self.node.started_s.append(self.node.cluster.clock.seconds())
        answered = Deferred()
        answered.addCallback(
            lambda answer: answer if isinstance(answer, list) else [answer] * len(items)
        )
        if self.node.answer is None:
            self.node.open.append((items[0][1], answered, name))
            return answered
        messages, namings = zip(*items, strict=True)
        answer = self.node.answer(name, list(messages), list(namings))
        if isinstance(answer, tuple):
            answer, after_s = answer
            self.node.cluster.clock.callLater(after_s, answered.callback, answer)
        else:
            answered.callback(answer)
        return answered

    def close(self):
        self.node.closed.append(("close", self.definition.url))

    def abort(self):
        self.node.closed.append(("abort", self.definition.url))
