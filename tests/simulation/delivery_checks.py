"""What must hold of deliveries: I3, I4, I9, whose turn it is, and in which order.

Decides whether what is seen is allowed, as ``checks`` says. What was delivered is what a
consumer's service answered; what ended is what the log's entries say (``story``).
"""

from __future__ import annotations

import json

from crowd.message import decode_message, encode_message, message_id
from tests.simulation.check import Check

STARVES_S = 4.0
"""Longer than any wait here, of a breaker, a Retry-After or a new leader with an order."""
FULL_LATE_S = 1.5
"""How late a door hears that a consumer is full: a look at the bounds each half second."""
PARTIAL_BYTES = 4_096
"""What a ledger's count of bytes may be off by: entries that are settled in part."""


class KeptUntilSettled(Check):
    """I3: a message leaves no log before every consumer has it."""

    def __init__(self, checks):
        super().__init__(checks)
        self._settled = 0

    def looked(self, process):
        """No log begins above the first message that is not settled by what was committed.

        A ledger that has just come from a checkpoint may not know yet what was settled since.
        """
        self._settled = max(self._settled, process.engine.ledger.lowest_watermark)
        needed = self.truth.positions.get(self._settled + 1)
        if needed is not None and needed[0] < process.journal.first_index:
            self.fail(
                f"{process.name}'s log begins at {process.journal.first_index}; position "
                f"{self._settled + 1} in entry {needed[0]} is not settled"
            )


class EveryMessageEnds(Check):
    """I3: each message of each consumer ends as the log says, and what it says is so.

    What is settled as delivered was answered 2xx, and at the end nothing is without an end: it
    was delivered, or is a letter, or an operator's order or a full backlog had it skipped.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._answered = set()

    def answering(self, request, answers):
        for (_, naming), answer in zip(request.items, answers, strict=True):
            if getattr(answer, "status", 0) // 100 == 2:
                self._answered.add((request.service.name, naming.position))

    def settled(self, told, position):
        if (told.name, position) not in self._answered:
            self.fail(f"position {position} is settled for {told.name}, which never answered 2xx")

    def ended_well(self, processes):
        for told in self.truth.story.living():
            for position in self.truth.story.own(told):
                if position not in told.fates:
                    self.fail(f"position {position} of {told.name} has no end")
                    return


class StoryAgrees(Check):
    """I5: the ledger says of consumers and letters what the entries add up to; nothing is silent."""

    def told(self, ledger):
        story = self.truth.story
        letters = ledger.letters
        if len(letters) != len(story.letters) or letters.last != story.last_letter:
            self.fail(
                f"there are {len(letters)} letters up to {letters.last}; the log's entries say "
                f"{len(story.letters)} up to {story.last_letter}"
            )
        if list(ledger.consumers) != list(story.names.values()):
            self.fail(f"consumers are {list(ledger.consumers)}, and not {story.names}")
            return
        for number, known in ledger.consumers.items():
            told = story.consumers[number]
            ended = len(told.fates)
            found = known.own, known.done, known.skipped, known.paused
            if found != (told.own, ended, told.skipped, told.paused):
                self.fail(
                    f"{told.name} has {found} own, done, skipped, paused; the log's entries say "
                    f"{(told.own, ended, told.skipped, told.paused)}"
                )

    def looked(self, process):
        """Compare each letter's state, where a node has applied all there is."""
        ledger, story = process.engine.ledger, self.truth.story
        if ledger.applied_index != max(self.truth.entries, default=0):
            return
        for number, letter in ledger.letters.items():
            told = story.letters.get(number)
            found = letter.consumer, letter.position, letter.state, letter.target, letter.sha256
            if told is None or found != (
                told.consumer, told.position, told.state, told.target, told.sha256
            ):  # fmt: skip
                self.fail(f"{process.name} has letter {number} as {found[:4]}")


class AtLeastOnce(Check):
    """I4: one name for each message, no attempt of what is settled, one deliverer at a time."""

    def __init__(self, checks):
        super().__init__(checks)
        self._tag = None

    def attempted(self, request):
        process, ledger = request.process, request.process.engine.ledger
        tag = ledger.tag
        self._tag = self._tag or tag
        for _, naming in request.items:
            if naming.id != message_id(self._tag, naming.position):
                self.fail(f"position {naming.position} is called {naming.id}")
            if not request.letter and ledger.is_settled(request.consumer, naming.position):
                self.fail(f"{process.name} attempts {naming.position}, which it knows is settled")
        for other in self.cluster.processes():
            if other is not process and other.engine.may_attempt():
                self.fail(f"{process.name} and {other.name} may both deliver")


class OnlyWhatWasSent(Check):
    """I9: what a consumer gets was sent, as it was sent, and has the position it was given."""

    def attempted(self, request):
        for message, naming in request.items:
            known = self.truth.positions.get(naming.position)
            if known is None:
                self.fail(f"position {naming.position} is delivered, and the ledger gave it none")
            elif known[1] != encode_message(message):
                self.fail(f"position {naming.position} is delivered with another message")
            elif known[2] not in self.cluster.producers.sent:
                self.fail(f"{known[2]} is delivered, and no producer sent it")
            elif not request.letter:
                route = message.target.partition(b"?")[0].decode()
                routes = request.service.routes
                if routes and route not in routes:
                    self.fail(f"{request.service.name} gets a message of {route}")


class OrdersAreKept(Check):
    """What an operator ordered holds from when the leader has applied it on.

    A consumer that is paused or removed is attempted no more, and one that was redefined only
    as it is defined now.
    """

    def attempted(self, request):
        process, ledger = request.process, request.process.engine.ledger
        known = ledger.consumers.get(request.consumer)
        if known is None:
            self.fail(f"{process.name} attempts {request.definition.name}, which was removed")
        elif known.paused:
            self.fail(f"{process.name} attempts {request.definition.name}, which is paused")
        elif known.definition != request.definition:
            self.fail(f"{process.name} attempts {request.definition.name} as it was before")


class OrderKept(Check):
    """In order: a message is first attempted once the one before it of its key is done.

    That one was delivered, as this leader or the log knows, or is dead and its letter in the
    log; and with ``on_dead = "hold"`` its letter is gone. Keys are read here anew. And what an
    old leader sent has arrived before a new one begins.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._lines = {}
        self._terms = {}
        self._delivered = {}
        """By lane: what was answered 2xx there."""

    def attempted(self, request):
        order = request.definition.order
        if order == "none" or request.letter:
            return
        for position in request.positions:
            self._look(request, order, position)

    def _look(self, request, order, position):
        told = self.truth.story.consumers[request.consumer]
        holds = request.definition.on_dead == "hold"
        line = self._line(told, order, holds=holds)
        key = line.key_of(self.truth, position)
        if key is None:
            return
        ledger, process = request.process.engine.ledger, request.process
        delivered = self._delivered.get(request.lane, ())
        line = line.of(key)
        for earlier in list(line):
            if earlier >= position:
                break
            is_held = holds and ledger.is_letter(told.id, earlier)
            if ledger.is_settled(told.id, earlier) and not is_held:
                line.remove(earlier)  # nearly always the first
            elif is_held or earlier not in delivered:
                what = "held as a letter" if is_held else "not done"
                self.fail(
                    f"{process.name} attempts {position} of {told.name}, and {earlier} of its key "
                    f"is {what}"
                )
                return

    def _line(self, told, order, *, holds):
        """Return the lines of one order; whoever begins to hold has letters from before."""
        lines = _Lines(self.truth.story, told, order)
        return self._lines.setdefault((told.id, order, holds), lines)

    def answering(self, request, answers):
        """Note what this lane knows to be delivered."""
        if request.definition.order == "none" or request.letter:
            return
        delivered = self._delivered.setdefault(request.lane, set())
        for (_, naming), answer in zip(request.items, answers, strict=True):
            if getattr(answer, "status", 0) // 100 == 2:
                delivered.add(naming.position)

    def arrived(self, request):
        if request.definition.order == "none":
            return
        name = request.definition.name
        newest = self._terms.get(name, 0)
        if request.term < newest:
            self.fail(
                f"what {request.process.name} sent {name} in term {request.term} arrives after "
                f"what was sent in term {newest}"
            )
        self._terms[name] = max(newest, request.term)


class _Lines:
    """The messages of one consumer by their keys, as one order has them."""

    def __init__(self, story, told, order):
        self._story = story
        self._told = told
        self._order = order
        self._read = told.after
        self._lines = {}
        self._keys = {}

    def key_of(self, truth, position):
        """Return a message's key, having read all up to it."""
        while self._read < position:
            self._read += 1
            if self._told.takes(self._read, self._story.messages[self._read - 1][0]):
                key = key_of(self._order, decode_message(truth.positions[self._read][1]))
                self._keys[self._read] = key
                if key is not None:
                    self._lines.setdefault(key, []).append(self._read)
        return self._keys[position]

    def of(self, key):
        """Return a key's messages that are not known to be done, rising; to be taken from."""
        return self._lines[key]


def key_of(order, message):
    """Return by what a message is in order, or None."""
    if order == "all":
        return "all"
    if order == "path":
        return message.target.partition(b"?")[0]
    if order.startswith("header:"):
        values = [value for name, value in message.headers if name == b"X-Key"]
        return values[0] if values else None
    try:
        return json.loads(message.body).get("key")
    except ValueError:
        return None


class NobodyStarves(Check):
    """A consumer that is well is attempted, whatever becomes of another one."""

    def __init__(self, checks):
        super().__init__(checks)
        self._leads_s = {}  # since when each process leads, and runs, as far as was looked at
        self._seen_s = {}
        self._free_s = {}

    def attempted(self, request):
        self._seen_s[request.consumer] = self.world.now

    def looked(self, process):
        if not process.leads or process.stopped_until_s > self.world.now:
            self._leads_s.pop(process, None)
            return
        now_s, engine = self.world.now, process.engine
        leads_s = self._leads_s.setdefault(process, now_s)
        for number, known in engine.ledger.consumers.items():
            lane = process.dispatcher._lanes.get(number)
            if lane is None or not engine.may_attempt() or self._is_free_to_rest(lane, known):
                self._free_s[number] = now_s
                continue
            free_s = self._free_s.setdefault(number, now_s)  # one that is new has not starved yet
            since_s = max(leads_s, self._seen_s.get(number, 0.0), free_s)
            if now_s - since_s > STARVES_S:
                self.fail(
                    f"{process.name} has not attempted {known.definition.name} for "
                    f"{now_s - since_s:.1f} s, which is well and has {known.backlog} waiting"
                )

    def _is_free_to_rest(self, lane, known):
        service = self.cluster.consumers[known.definition.name]
        return (
            not known.backlog
            or known.paused
            or not service.is_well
            or service.mood_since_s > self.world.now - STARVES_S
            or lane.plan.held(self.world.now)[0]  # full, asked to wait, or with an open breaker
            or known.definition.on_dead == "hold"
            or lane.plan.endings.proposed  # what is left is on its way into the log
        )


class StragglersPinNothing(Check):
    """What fails again and again holds up no others, where there is no order: they are attempted."""

    def __init__(self, checks):
        super().__init__(checks)
        self._leads_s = {}
        self._new_s = {}

    def attempted(self, request):
        if not request.letter and any(naming.attempt == 1 for _, naming in request.items):
            self._new_s[request.consumer] = self.world.now

    def looked(self, process):
        if not process.leads or process.stopped_until_s > self.world.now:
            self._leads_s.pop(process, None)
            return
        now_s, engine = self.world.now, process.engine
        leads_s = self._leads_s.setdefault(process, now_s)
        for number, known in engine.ledger.consumers.items():
            lane = process.dispatcher._lanes.get(number)
            if lane is None or not engine.may_attempt() or not self._has_new(engine, lane, known):
                self._new_s[number] = now_s
                continue
            since_s = max(leads_s, self._new_s.setdefault(number, now_s))
            if now_s - since_s > STARVES_S:
                self.fail(
                    f"{process.name} has attempted nothing new of {known.definition.name} for "
                    f"{now_s - since_s:.1f} s"
                )

    def _has_new(self, engine, lane, known):
        definition = known.definition
        service = self.cluster.consumers[definition.name]
        return (
            definition.order == "none"
            and not known.paused
            and service.mood == "well"
            and not lane.plan.held(self.world.now)[0]
            and engine.ledger.pending(lane.consumer, lane.plan.cursor, 1)
        )


class BacklogsAreBounded(Check):
    """I7: a full consumer's new messages are refused at the door, or skipped: as it says."""

    def __init__(self, checks):
        super().__init__(checks)
        self._full_since_s = {}
        self._took_s = {}

    def took(self, told, before_bytes, now_s, is_skipped):
        definition = told.definition
        bound = definition.backlog_bytes
        if definition.when_full == "skip":
            if is_skipped != (before_bytes >= bound) and abs(before_bytes - bound) > PARTIAL_BYTES:
                what = "skips" if is_skipped else "takes all"
                self.fail(f"{told.name} {what} with {before_bytes} bytes waiting, of {bound}")
            return
        if is_skipped:
            self.fail(f"{told.name} skips, and is to refuse")
        before_s, self._took_s[told.id] = self._took_s.get(told.id, now_s), now_s
        # After a time without a leader comes what was proposed before, when there was room.
        if before_bytes < bound + PARTIAL_BYTES or now_s - before_s > FULL_LATE_S:
            self._full_since_s.pop(told.id, None)
            return
        since_s = self._full_since_s.setdefault(told.id, now_s)
        late_s = FULL_LATE_S + self.cluster.plan.within_s
        stopped_s = max(
            (process.stopped_until_s for process in self.cluster.processes()), default=0.0
        )
        if now_s - max(since_s, stopped_s) > late_s:
            self.fail(
                f"{told.name} has had {before_bytes} bytes for {now_s - since_s:.1f} s, and its "
                "messages are accepted"
            )
