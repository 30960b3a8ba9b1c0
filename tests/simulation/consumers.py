"""Consumers, simulated: quick or slow, failing, refusing, gone, or done without having said so.

Decides how a consumer treats a request in each of its moods, and what it remembers of it.
`SimulatedCourier` stands where ``crowd/delivery/courier.py`` does: it asks the fence right
before it sends, has a deadline for the whole answer, and fires once. What it sent arrives,
whatever becomes of its process.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from crowd.delivery.outcome import Answered, Failed, FailureKind
from crowd.delivery.trial import letter_number
from tests.simulation.manners import host_of

LATENCY_S = 0.0005
FAR_S = (0.05, 1.4)
"""How long a request is on its way to a consumer that is far: less than a new leader waits that
attempts what is in order."""
POISON_STATUSES = (500, 422, 500, 410)


class Request:
    """One request, on its way or there, with what held when it was sent.

    `items` are the messages and their namings; `letter` is the number of the letter that is
    attempted, or 0; `position` its first message's. `probe` and `closed` are the breaker's,
    and `aged_s` is for how long the consumer had answered.
    """

    __slots__ = (
        "aged_s", "closed", "consumer", "courier", "definition", "items", "lane", "letter", "place",
        "probe", "process", "service", "started_s", "term",
    )  # fmt: skip

    def __init__(self, courier, items):
        self.courier = courier
        self.process = process = courier.process
        self.service = courier.service
        self.definition = courier.definition
        self.items = items
        self.consumer = process.engine.ledger.consumer_id(self.definition.name)
        self.lane = process.dispatcher._lanes.get(self.consumer)
        self.term = process.term
        plan = self.lane.plan
        self.place = next(reversed(plan._in_flight))
        flight = plan._in_flight[self.place]
        self.letter = letter_number(self.place)
        self.started_s = flight.started_s
        self.probe = flight.probe
        self.closed = plan.breaker.closed
        self.aged_s = plan.aged_s(self.started_s)

    @property
    def position(self):
        return self.items[0][1].position

    @property
    def positions(self):
        return [naming.position for _, naming in self.items]


class Consumer:
    """One consumer's service, wherever the leader is.

    Moods: ``well``; ``slow`` (many answers come after the deadline); ``failing`` (503, at
    times with a Retry-After); ``mute`` (does the work, and the answer is lost); ``gone``;
    ``refusing`` (400 and 422 to some messages); ``barring`` (401 and 404 to most); ``far``
    (requests are long on their way). `poison` are the positions that it never takes, as a
    remainder, until it is cured.

    It has two hosts. The mood is the first one's; the other is always well.
    """

    def __init__(self, world, name, routes, chance):
        self.world = world
        self.name = name
        self.routes = routes
        self.chance = chance
        self.mood = "well"
        self.mood_since_s = world.now
        self.quick_s = 0.001 + 0.02 * chance.random()
        self.done = {}
        """By position: how many requests it did the work of and answered 2xx."""
        self.poison_every = 0
        self.poison_status = 500
        self.attempts = 0

    def put(self, mood):
        self.mood = mood
        self.mood_since_s = self.world.now

    def poison(self, chance):
        """Never take one message in some, from now on."""
        self.poison_every = chance.choice((7, 15, 40))
        self.poison_status = chance.choice(POISON_STATUSES)

    def cure(self):
        self.poison_every = 0
        self.put("well")

    @property
    def is_well(self):
        return self.mood == "well" and not self.poison_every

    def mood_at(self, definition):
        return "well" if host_of(definition).endswith("-b") else self.mood

    def way_s(self, definition):
        """Return how long a request is on its way."""
        if self.mood_at(definition) == "far" and self.chance.random() < 0.3:
            return FAR_S[0] + (FAR_S[1] - FAR_S[0]) * self.chance.random()
        return LATENCY_S

    def serve(self, request, timeout_s):
        """Take a request; return (an answer for each message, seconds until they are there)."""
        chance, mood = self.chance, self.mood_at(request.definition)
        count = len(request.items)
        self.attempts += 1
        took_s = self.quick_s * (0.5 + chance.random())
        if mood == "gone":
            return [Failed(FailureKind.CONNECT, "refused")] * count, LATENCY_S
        if mood == "failing" and chance.random() < 0.7:
            asked_s = 0.3 + 2.0 * chance.random() if chance.random() < 0.15 else None
            return [Answered(503, asked_s)] * count, took_s
        if mood == "barring" and chance.random() < 0.8:
            return [Answered(chance.choice((401, 404)))] * count, took_s
        answers = [self._one(position, mood) for position in request.positions]
        batch = request.definition.batch
        if batch is None or batch.form != "bulk":
            worst = next((answer for answer in answers if answer is not OK), OK)
            answers = [worst] * count
        for position, answer in zip(request.positions, answers, strict=True):
            if answer is OK:
                self.done[position] = self.done.get(position, 0) + 1
        lost = [Failed(FailureKind.TIMEOUT, "no answer in time")] * count
        if mood == "mute" and chance.random() < 0.7:
            return lost, timeout_s
        if mood == "slow":
            took_s = timeout_s * 1.5 * chance.random()
            if took_s >= timeout_s:
                return lost, timeout_s
        return answers, took_s

    def _one(self, position, mood):
        if self.poison_every and position % self.poison_every == 3:
            return Answered(self.poison_status)
        if mood == "refusing" and self.chance.random() < 0.25:
            return Answered(self.chance.choice((400, 422)))
        return OK


OK = Answered(200)


class SimulatedCourier:
    """Brings one process's messages to one consumer."""

    def __init__(self, process, service, definition, checks):
        self.process = process
        self.service = service
        self.definition = definition
        self._timeout_s = definition.timeout_us / 1e6
        self._checks = checks
        self._under_way = {}

    def attempt(self, message, naming):
        if not self.process.engine.may_attempt():
            return succeed(Failed(FailureKind.FENCED, "no majority heard of late"))
        return self._send(((message, naming),)).addCallback(lambda answers: answers[0])

    def attempt_batch(self, items):
        """Make one attempt with many."""
        if not self.process.engine.may_attempt():
            return succeed([Failed(FailureKind.FENCED, "no majority heard of late")] * len(items))
        return self._send(tuple(items))

    def _send(self, items):
        process, world = self.process, self.process.node.world
        request = Request(self, items)
        self._checks.attempted(request)
        answered = self._under_way[request] = Deferred()
        sent_s = process.clock.look()
        way_s = self.service.way_s(self.definition)
        if way_s >= self._timeout_s:
            lost = [Failed(FailureKind.TIMEOUT, "no answer in time")] * len(items)
            world.at(sent_s + self._timeout_s, self._answer, request, lost, owner=process)
        world.at(sent_s + way_s, self._arrive, request, sent_s)
        return answered

    def _arrive(self, request, sent_s):
        process, world = self.process, self.process.node.world
        self._checks.arrived(request)
        answers, took_s = self.service.serve(request, self._timeout_s)
        back_s = world.now + took_s + LATENCY_S
        if back_s > sent_s + self._timeout_s:
            back_s = max(world.now, sent_s + self._timeout_s)
            answers = [Failed(FailureKind.TIMEOUT, "no answer in time")] * len(answers)
        world.at(back_s, self._answer, request, answers, owner=process)

    def _answer(self, request, answers):
        answered = self._under_way.pop(request, None)
        if answered is not None:
            self._checks.answering(request, answers)
            answered.callback(answers)
            self._checks.heard(request, answers)

    def close(self):
        """Attempts under way end by themselves."""

    def abort(self):
        for request in list(self._under_way):
            stopped = [Failed(FailureKind.STOPPED, "ended at once")] * len(request.items)
            self._answer(request, stopped)
