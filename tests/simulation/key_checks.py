"""What must hold of idempotency keys and groups: each is stored once, and the answer says where (I2).

Decides whether what is seen is allowed, as ``checks`` says. Whose key a message has, and which
request it is of, is what its producer drew (``postings``): digests are not believed. Which
messages took no position is what a ledger says, and held against all that came before.
"""

from __future__ import annotations

import msgspec

from crowd.idempotency import MISMATCH, left_out_spans
from crowd.message import decode_message
from tests.simulation.check import Check
from tests.simulation.producers import NO_ROOM, read_answer, token_of

SHARES = 16
"""A key is remembered for at most a sixteenth longer than the window, and all of that go at once."""


class Batch:
    """A batch that a ledger accepted, and what it made of each message."""

    def __init__(self, value, ledger, truth, tries):
        self.ledger = ledger
        self.first = len(truth.positions) + 1
        self.messages = [decode_message(stored) for stored in value.messages]
        self.left_out = {
            place + n: position + n if position != MISMATCH else MISMATCH
            for place, count, position in left_out_spans(
                ledger.left_out(value.session, value.number)
            )
            for n in range(count)
        }
        """By place: the position of the first under its key, or `MISMATCH`."""
        places = [place for place in range(len(self.messages)) if place not in self.left_out]
        self.stored = {place: self.first + n for n, place in enumerate(places)}
        """By place, rising: the position."""
        self.requests = []
        """Each try with the place of its first message, and how many there are."""
        self.tokens = []
        for message in self.messages:
            self._add(token_of(message), tries)

    def _add(self, token, tries):
        one = tries.get(token)
        last = self.requests[-1] if self.requests else None
        if last is not None and one is not None and last[0] is one:
            last[2] += 1
        else:
            last = [one, len(self.tokens), 1]
            self.requests.append(last)
        known = one is not None and last[2] <= len(one.tokens)
        self.tokens.append(one.tokens[last[2] - 1] if known else f"{token}, of nobody")


class Life(msgspec.Struct, frozen=True):
    """A key from when it is remembered on; `number` counts them."""

    number: int
    position: int
    us: int
    request: tuple | None


class KeyStoresOnce(Check):
    """I2: one key stores one message, or one group, for as long as it is to be remembered.

    It is forgotten when it is older than the window, by the log's time, or when there are more than
    the bound, the oldest first; no sooner, and not much later. While it is known, its request is
    a replay of what is stored, and another request is refused: also by a node that has no room, which
    refuses only what is new to it.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._lives = []
        self._newest = {}
        self._room = 1
        """The most keys that a segment ever took, and for how long."""
        self._span_us = 0
        self._gone = 0
        self._evicted = 0
        self._expired = 0
        self._replayed = 0

    def figures(self):
        """Return what a run's figures say of keys."""
        return {"replayed": self._replayed, "evicted": self._evicted, "expired": self._expired}

    def batch(self, batch):
        again = []
        for one, place, count in batch.requests:
            keys = one.post.posting.keys if one is not None else ()
            for named in keys:
                self._key(batch, one, place, named, again)
            if not keys:
                left = [n for n in range(place, place + count) if n in batch.left_out]
                if left:
                    self.fail(f"{batch.tokens[left[0]]} has no key, and is left out")
        if batch.ledger.tip != batch.first - 1 + len(batch.stored):
            self.fail(f"the tip is {batch.ledger.tip} after {len(batch.stored)} were stored")
        self.told(batch.ledger)
        self._kept(batch.ledger)
        for life, words in again:
            if life.number >= self._gone:
                self.fail(f"{words} is stored again; {life.position} is remembered")

    def _key(self, batch, one, place, named, again):
        """Look at one key of a request whose first message is at `place`."""
        at = place + named.place
        life, words = self._newest.get(named.name), f"{batch.tokens[at]} under {named.name}"
        if at in batch.stored:
            if life is not None:
                again.append((life, words))
            if batch.ledger.key_bounds.count_max:
                life = Life(
                    len(self._lives), batch.stored[at], batch.ledger.log_time_us, named.request
                )
                self._lives.append(life)
                self._newest[named.name] = life
            return
        self._replayed += named.count
        position = batch.left_out[at]
        if life is None:
            self.fail(f"{words} is left out, and is the first under it")
        elif life.number < self._gone:
            self.fail(f"{words} is left out, and its key was forgotten")
        elif (position == MISMATCH) != (life.request != named.request):
            what = "refused" if position == MISMATCH else "a replay"
            self.fail(f"{words} is {what}, and was {life.request}")
        elif position not in (MISMATCH, life.position):
            self.fail(f"{words} is a replay of {position}; the first is at {life.position}")

    def answered(self, process, one, wire):
        keys, ledger = one.post.posting.keys, process.engine.ledger
        if NO_ROOM not in wire or sum(named.count for named in keys) != len(one.tokens):
            return
        lives = [self._newest.get(named.name) for named in keys]
        if all(life is not None and self._is_surely_known(life, ledger) for life in lives):
            self.fail(f"{one.token} hears that there is no room, and {lives[0].position} is stored")

    def _is_surely_known(self, life, ledger):
        """Return whether a node whose ledger this is must know a key."""
        bounds, is_there = ledger.key_bounds, life.position <= ledger.tip
        is_young = life.us + bounds.window_us > ledger.log_time_us
        return is_there and is_young and bounds.count_max > 0 and life.number >= self._gone

    def told(self, ledger):
        """Look at which keys went with an entry: the oldest, and only for a reason."""
        bounds, tally, now_us = ledger.key_bounds, ledger.key_tally, ledger.log_time_us
        room = max(1, bounds.count_max // SHARES)
        held, total, before = ledger.keys_held, len(self._lives), self._gone
        if held:
            self._room = max(self._room, room)
            self._span_us = max(self._span_us, bounds.window_us // SHARES + 1)
        gone, early = total - held, tally.evicted - self._evicted
        for life in self._lives[before : gone - early]:
            if life.us + bounds.window_us > now_us:
                self.fail(f"a key of {life.position} is forgotten before its time")
        if early < 0 or gone - early < before:
            self.fail(f"{gone} keys are forgotten, {early} early, and {before} were before")
        elif early and not held > bounds.count_max - room - self._room:
            self.fail(f"{early} keys were evicted; {held} are left of {bounds.count_max}")
        elif early and not total - before > bounds.count_max - room:
            self.fail(f"{early} keys were evicted when there was room")
        self._gone, self._evicted = gone, tally.evicted
        self._expired = gone - tally.evicted

    def _kept(self, ledger):
        """Look at which keys are known after a batch."""
        bounds, held = ledger.key_bounds, ledger.keys_held
        if held > bounds.count_max:
            self.fail(f"{held} keys are held; the bound is {bounds.count_max}")
        elif held:
            oldest = self._lives[self._gone]
            if oldest.us + bounds.window_us + self._span_us < ledger.log_time_us:
                self.fail(f"a key of {oldest.position} is held for too long")


class GroupsAreWhole(Check):
    """A request's messages are in one entry, all of them and in their order, or none is there."""

    def batch(self, batch):
        for one, place, count in batch.requests:
            if one is None:
                self.fail(f"{batch.tokens[place]} is accepted, and no producer sent it")
                continue
            posting = one.post.posting
            bodies = tuple(bytes(m.body) for m in batch.messages[place : place + count])
            if bodies != posting.bodies:
                self.fail(f"{one.token} is accepted with {count} messages of {len(one.tokens)}")
            for named in posting.keys:
                places = range(place + named.place, place + named.place + named.count)
                stored = sum(at in batch.stored for at in places)
                if stored not in (0, named.count):
                    self.fail(f"{stored} of {named.count} messages of {one.token} are stored")


class First(msgspec.Struct, frozen=True):
    """What was stored under a key as the first, since when by the log's time, and of which request."""

    position: int
    us: int
    request: tuple | None


class AnswersAreTrue(Check):
    """A producer hears of each of its messages what the log has: a position, a replay, a refusal.

    What is not in the log may be answered, too, by what the node's own ledger knows then.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._outcomes = {}
        self._refused = {}
        self._firsts = {}
        """By a key's name, all that ever were."""
        self._unlogged = {}
        """As outcomes: of tries that were answered without the log."""
        self._span_us = 0

    def batch(self, batch):
        """Note what became of each try; the log says it once."""
        for one, place, count in batch.requests:
            if one is None:
                continue
            if one.token in self._outcomes:
                self.fail(f"{one.token} is in the log twice")
            if one.token in self._refused:
                self.fail(f"{one.token} is in the log, and was told {self._refused[one.token]}")
            if one.token in self._unlogged:
                self.fail(f"{one.token} is in the log, and was answered without it")
            self._remember(batch, one, place)
            places = range(place, place + count)
            self._outcomes[one.token] = (
                tuple(batch.stored.get(at, batch.left_out.get(at)) for at in places),
                frozenset(at - place for at in places if at in batch.left_out),
            )

    def _remember(self, batch, one, place):
        bounds, now_us = batch.ledger.key_bounds, batch.ledger.log_time_us
        self._span_us = max(self._span_us, bounds.window_us // SHARES + 1)
        for named in one.post.posting.keys if bounds.count_max else ():
            position = batch.stored.get(place + named.place)
            if position is not None:
                first = First(position, now_us, named.request)
                self._firsts.setdefault(named.name, []).append(first)

    def answered(self, process, one, wire):
        """Note what is answered without an entry, if the node's ledger can know it."""
        status = int(wire[9:12])
        if one.token in self._outcomes or status not in (200, 422):
            return
        answer = read_answer(one, wire) if status == 200 else None
        places = {}
        for named in one.post.posting.keys:
            firsts = self._known(named, process.engine.ledger)
            if answer is None:
                is_other = any(first.request != named.request for first in firsts)
                places[named.place] = MISMATCH if is_other else None
                continue
            position = answer.positions[named.place]
            if any((each.position, each.request) == (position, named.request) for each in firsts):
                places.update((named.place + n, position + n) for n in range(named.count))
        positions = tuple(places.get(place) for place in range(len(one.tokens)))
        if answer is None or None not in positions:
            self._unlogged[one.token] = positions, frozenset(range(len(one.tokens)))

    def _known(self, named, ledger):
        """Return what a node whose ledger this is may know of a key."""
        past_us = ledger.log_time_us - ledger.key_bounds.window_us - self._span_us
        return [
            first
            for first in self._firsts.get(named.name, ())
            if first.position <= ledger.tip and first.us > past_us
        ]

    def _outcome(self, one):
        return self._outcomes.get(one.token) or self._unlogged.get(one.token)

    def acknowledged(self, one, answer):
        told = answer.positions, answer.replayed
        outcome = self._outcome(one)
        if told != outcome or MISMATCH in answer.positions:
            self.fail(f"{one.token} hears {told}; the log has {outcome}")
            return
        head = answer.positions[0], len(answer.replayed) == len(answer.positions)
        if (answer.first, answer.all_replayed) != head:
            self.fail(f"{one.token} hears {told}, and another thing in the answer's head")
        posting = one.post.posting
        if any(named.request is None for named in posting.keys):
            return  # an event is the same one whatever it says
        for place in answer.replayed:
            message = decode_message(self.truth.positions[answer.positions[place]][1])
            if (message.target, message.body) != (posting.target, posting.bodies[place]):
                self.fail(f"{one.token} hears of a replay, and another request is stored")

    def refused(self, one, status, wire):
        positions, _ = self._outcome(one) or ((), frozenset())
        if status != 422:
            self._refused[one.token] = status
            if positions:
                self.fail(f"{one.token} hears {status}; the log has {positions}")
        elif MISMATCH not in positions:
            self.fail(f"{one.token} hears that its key was reused; the log has {positions}")
