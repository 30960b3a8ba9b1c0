"""Consumers, simulated: quick or slow, failing, gone, or done without having said so.

Decides how a consumer treats a request in each of its moods, and what it remembers of it.
`SimulatedCourier` stands where ``crowd/delivery/courier.py`` does: it asks the fence right
before it sends, has a deadline for the whole answer, and fires once.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from crowd.delivery.outcome import Answered, Failed, FailureKind

LATENCY_S = 0.0005


class Consumer:
    """One consumer's service, wherever the leader is.

    Moods: ``well``; ``slow`` (many answers come after the deadline); ``failing`` (503, at
    times with a Retry-After); ``mute`` (does the work, and the answer is lost); ``gone``.
    """

    def __init__(self, world, name, routes, chance):
        self.world = world
        self.name = name
        self.routes = routes
        self.chance = chance
        self.mood = "well"
        self.quick_s = 0.001 + 0.02 * chance.random()
        self.done = {}
        """By position: how many requests it did the work of and answered 2xx."""
        self.attempts = 0

    def serve(self, position, timeout_s, others=()):
        """Take a request, `others` of its batch in it; return (answer, seconds until it is there)."""
        chance, mood = self.chance, self.mood
        self.attempts += 1
        took_s = self.quick_s * (0.5 + chance.random())
        if mood == "gone":
            return Failed(FailureKind.CONNECT, "refused"), LATENCY_S
        if mood == "failing" and chance.random() < 0.7:
            asked_s = 1.0 if chance.random() < 0.1 else None
            return Answered(503, asked_s), took_s
        for each in (position, *others):
            self.done[each] = self.done.get(each, 0) + 1
        if mood == "mute" and chance.random() < 0.7:
            return Failed(FailureKind.TIMEOUT, "no answer in time"), timeout_s
        if mood == "slow":
            took_s = timeout_s * 1.5 * chance.random()
            if took_s >= timeout_s:
                return Failed(FailureKind.TIMEOUT, "no answer in time"), timeout_s
        return Answered(200), took_s


class SimulatedCourier:
    """Brings one process's messages to one consumer."""

    def __init__(self, process, consumer, definition, checks):
        self._process = process
        self._consumer = consumer
        self._timeout_s = definition.timeout_us / 1e6
        self._checks = checks
        self._under_way = {}

    def attempt(self, message, naming):
        process = self._process
        if not process.engine.may_attempt():
            return succeed(Failed(FailureKind.FENCED, "no majority heard of late"))
        self._checks.attempted(process, self._consumer, message, naming)
        answer, after_s = self._consumer.serve(naming.position, self._timeout_s)
        answered = Deferred()
        number = id_of = naming.position
        self._under_way[id_of] = answered
        process.clock.callLater(after_s + LATENCY_S, self._answer, number, answer)
        return answered

    def attempt_batch(self, items):
        """Make one attempt with many: the consumer takes or leaves them together."""
        process = self._process
        if not process.engine.may_attempt():
            return succeed([Failed(FailureKind.FENCED, "no majority heard of late")] * len(items))
        for message, naming in items:
            self._checks.attempted(process, self._consumer, message, naming)
        first, *others = [naming.position for _, naming in items]
        answer, after_s = self._consumer.serve(first, self._timeout_s, others)
        answered = Deferred()
        self._under_way[first] = answered
        process.clock.callLater(after_s + LATENCY_S, self._answer, first, answer)
        return answered.addCallback(lambda answer: [answer] * len(items))

    def _answer(self, number, answer):
        answered = self._under_way.pop(number, None)
        if answered is not None:
            answered.callback(answer)

    def close(self):
        """Attempts under way end by themselves."""

    def abort(self):
        under_way, self._under_way = self._under_way, {}
        for answered in under_way.values():
            answered.callback(Failed(FailureKind.STOPPED, "ended at once"))
