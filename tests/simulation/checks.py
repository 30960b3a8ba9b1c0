"""What must hold, all along and at the end: one class for each invariant, named after it.

Decides whether what is seen is allowed. A check keeps what it needs to compare with and looks
at each event once, so that all of them together stay cheap: nothing here walks a log.
`Checks` hands each event to the checks that have a method of its name.

What is true is taken from outside crowd where that can be: the disks' content from the
simulated disks, votes and acknowledgements from what leaves a node, deliveries from what
reaches a consumer. The numbers I1 to I9 are those of docs/explanation/guarantees.md.
"""

from __future__ import annotations

import hashlib

from crowd.command import Accept, open_entry, read_command
from crowd.delivery.backlog import WINDOW
from crowd.errors import DamagedEntryError, DamagedError, DirectoryError, StorageFailedError
from crowd.message import decode_message, encode_message, message_id
from crowd.raft.proposer import BATCH_MESSAGES_MAX, IN_FLIGHT_MAX
from crowd.raft.wire import NextIndex, RequestVote, ResponseVote, TimeoutNow

DIGEST_EVERY = 64
"""Entries between two comparisons of whole ledgers; other figures are compared at each."""
HEARS_LATE_S = 0.3
APPENDED_MAX = 256
"""A few for each node and for each `within_s` that nothing was committed."""
ENDS_WITHIN_S = 0.1
"""A process whose disk failed has heard of it by then: the thread's result is one event away."""
LOOK_EVERY_S = 0.5


class Truth:
    """What has happened, for all checks: filled before they look."""

    def __init__(self):
        self.entries = {}
        """By index: (term, command) of each applied entry."""
        self.committed = 1
        """The highest index that any leader committed."""
        self.commits = {}
        """By a leader's term: (index, term) of the last entry that it committed."""
        self.positions = {}
        """By position: (index, stored message, token)."""
        self.tokens = {}
        """By token: the position that it was accepted at."""


class Check:
    """One invariant. Methods are named after the events that they look at."""

    def __init__(self, checks):
        self.world = checks.world
        self.cluster = checks.cluster
        self.truth = checks.truth

    def fail(self, words):
        self.world.fail(type(self).__name__, words)


class LogMatching(Check):
    """Two logs that have an entry of one index and term agree in it and in all before it.

    By induction: such an entry has one command, and one term before it, wherever it is added.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._added = {}

    def appended(self, process, index, term, command):
        journal = process.journal
        # A log that was cleared begins behind a snapshot, and has no entry before this one.
        before = journal.last_term if journal.last_index >= journal.first_index else None
        self._see(process, index, term, command, before)

    def opened(self, process, journal):
        before = None
        for index in range(journal.first_index, journal.last_index + 1):
            try:
                command, _, term = journal.entry(index)
            except DamagedEntryError:
                before = None
                continue
            self._see(process, index, term, command, before)
            before = term

    def _see(self, process, index, term, command, before):
        known = self._added.get((index, term))
        if known is None or (known[0] is None and known[1] == command):
            self._added[index, term] = (before, command)
        elif known[1] != command or before not in (None, known[0]):
            self.fail(f"{process.name} has another entry {index} of term {term} than was added")


class ElectionSafety(Check):
    """At most one node leads in a term, and it votes once in a term, whatever it forgot."""

    def __init__(self, checks):
        super().__init__(checks)
        self._leaders = {}
        self._votes = {}

    def led(self, process):
        name = self._leaders.setdefault(process.term, process.name)
        if name != process.name:
            self.fail(f"{name} and {process.name} lead in term {process.term}")

    def sent(self, process, peer, message):
        if type(message) is ResponseVote:
            candidate = peer
        elif type(message) is RequestVote:
            candidate = process.name
        else:
            return
        term, node = message.term, process.node
        voted = self._votes.setdefault((node.journal_id, term), candidate)
        if voted != candidate:
            self.fail(f"{node.name} votes for {candidate} in term {term}, and did for {voted}")
        stored = node.system.votes()
        if not stored or any(slot != (term, candidate) for slot in stored):
            self.fail(
                f"{node.name}'s vote for {candidate} in term {term} leaves before it is on the "
                f"disk, which has {stored}"
            )


class LeaderCompleteness(Check):
    """Who leads has every entry that was committed before."""

    def led(self, process):
        # One that was stopped while it was elected may wake to lead a term that is over.
        earlier = [term for term in self.truth.commits if term < process.term]
        if not earlier:
            return
        index, term = self.truth.commits[max(earlier)]
        journal = process.journal
        if index > journal.last_index:
            self.fail(
                f"{process.name} leads term {process.term} with a log up to "
                f"{journal.last_index}, and {index} was committed before"
            )
        elif index >= journal.first_index and journal.term_at(index) != term:
            self.fail(
                f"{process.name} leads term {process.term} with entry {index} of term "
                f"{journal.term_at(index)}; that of term {term} was committed before"
            )


class CommittedStays(Check):
    """No log loses an entry that was committed, not even to have it again."""

    def cut(self, process, last_kept):
        """Look at the first entry that goes: the rest follows it."""
        index = last_kept + 1
        known = self.truth.entries.get(index)
        if known is not None and process.journal.term_at(index) == known[0]:
            self.fail(f"{process.name} truncates its log from entry {index} on, which is committed")


class DurableThenAcknowledged(Check):
    """I1: nothing is acknowledged or committed that is not on the disks that it takes."""

    def sent(self, process, peer, message):
        if type(message) is not NextIndex or not message.success:
            return
        index, durable = message.next_index - 1, process.node.durable
        if index > max(1, durable.last):
            self.fail(
                f"{process.name} acknowledges {index} to {peer}, and its disk has {durable.last}"
            )
            return
        journal = process.journal
        if index >= journal.first_index and durable.terms.get(index, 0) != journal.term_at(index):
            self.fail(f"{process.name} acknowledges entry {index}, and its disk has another one")

    def committed(self, process, before, index):
        journal, truth = process.journal, self.truth
        if not journal.first_index <= index <= journal.last_index:
            if index > truth.committed:
                self.fail(f"{process.name} commits {index}, which is not in its log")
            return
        term = journal.term_at(index)
        if not process.leads:
            if index > truth.committed and process.node.peers:
                self.fail(f"{process.name} follows, and commits {index} before any leader did")
            return
        if index <= truth.committed:
            return
        seats = process.engine.membership.roster.seats
        roster = {seat.name: seat.journal_id for seat in seats if seat.journal_id}
        nodes = self.cluster.nodes
        holding = [
            name
            for name, journal_id in roster.items()
            if name in nodes and nodes[name].holds(journal_id, index, term)
        ]
        if len(holding) * 2 <= len(roster):
            self.fail(
                f"{process.name} commits {index} of term {term}; on the disks of "
                f"{holding} of {sorted(roster)}"
            )
        truth.committed = index
        truth.commits[process.term] = (index, term)

    def acknowledged(self, one, position):
        known = self.truth.positions.get(position)
        if known is None:
            self.fail(f"{one.token} was acknowledged at {position}, which no entry gave out")
        elif known[2] != one.token:
            self.fail(f"{one.token} was acknowledged at {position}, where {known[2]} is")
        elif known[0] > self.truth.committed:
            self.fail(f"{one.token} was acknowledged in entry {known[0]}, which is not committed")


class AcceptedOnce(Check):
    """I2: a try of a producer is accepted once at most, and never after it was refused."""

    def __init__(self, checks):
        super().__init__(checks)
        self._refused = {}

    def accepted(self, token, position):
        if token in self.truth.tokens:
            self.fail(f"{token} is accepted at {position} and at {self.truth.tokens[token]}")
        if token in self._refused:
            self.fail(f"{token} is accepted at {position}, and was told {self._refused[token]}")

    def refused(self, one, status, wire):
        self._refused[one.token] = f"{status} {wire.partition(b'detail')[2][3:80].decode()}"
        if one.token in self.truth.tokens:
            self.fail(f"{one.token} is told {status}, and is stored")


class OneHistory(Check):
    """I5: nodes that applied the same entries have the same ledger."""

    def __init__(self, checks):
        super().__init__(checks)
        self._seen = {}
        self._digests = {}

    def applied(self, process, index, term, command):
        known = self.truth.entries[index]
        if known[0] != term or known[1] != command:
            self.fail(f"{process.name} applies another entry {index} than was applied before")
            return
        ledger = process.engine.ledger
        figures = (ledger.tip, ledger.refused, ledger.log_time_us, ledger._history)
        if self._seen.setdefault(index, figures) != figures:
            self.fail(f"{process.name}'s ledger differs at {index}: {figures[:3]}")
        if index % DIGEST_EVERY == 0:
            digest = ledger.digest()
            if self._digests.setdefault(index, digest) != digest:
                self.fail(f"{process.name}'s ledger has another digest at {index}")

    def restored(self, process, checkpoint):
        """A ledger that comes from a checkpoint is the one that came from the entries."""
        ledger = process.engine.ledger
        figures = (ledger.tip, ledger.refused, ledger.log_time_us, ledger._history)
        known = self._seen.get(ledger.applied_index)
        if known != figures:
            self.fail(f"{process.name}'s checkpoint at {ledger.applied_index} holds another ledger")

    def ended_well(self, processes):
        digests = {process.engine.ledger.digest() for process in processes}
        indices = {process.engine.ledger.applied_index for process in processes}
        if len(digests) > 1:
            self.fail(f"ledgers differ at {sorted(indices)}")


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

    def ended_well(self, processes):
        """At the end, every acknowledged message was delivered to every consumer of its route."""
        for post in self.cluster.producers.posts:
            for consumer in self.cluster.consumers.values():
                if consumer.routes and post.route not in consumer.routes:
                    continue
                if post.acknowledged is not None and post.acknowledged not in consumer.done:
                    self.fail(
                        f"{post.number} was acknowledged at {post.acknowledged} and never "
                        f"delivered to {consumer.name}"
                    )
                    return


class LettersKept(Check):
    """I3: at the end the bytes of every letter are on every disk."""

    def ended_well(self, processes):
        for process in processes:
            letters, stored = process.engine.ledger.letters, process.node.system.letters
            good = {
                number
                for number, row in stored.items()
                if number in letters
                and hashlib.sha256(row.message).digest() == letters[number].sha256
            }
            if good != set(letters):
                self.fail(f"{process.name} has letters {sorted(good)} of {sorted(letters)}")


class AtLeastOnce(Check):
    """I4: one name for each message, no attempt of what is settled, one deliverer at a time."""

    def __init__(self, checks):
        super().__init__(checks)
        self._tag = None

    def attempted(self, process, consumer, message, naming):
        ledger = process.engine.ledger
        tag = ledger.tag
        self._tag = self._tag or tag
        if naming.id != message_id(self._tag, naming.position):
            self.fail(f"position {naming.position} is called {naming.id}")
        if ledger.is_settled(ledger.consumer_id(consumer.name), naming.position):
            self.fail(f"{process.name} attempts {naming.position}, which it knows is settled")
        for other in self.cluster.processes():
            if other is not process and other.engine.may_attempt():
                self.fail(f"{process.name} and {other.name} may both deliver")


class OnlyWhatWasSent(Check):
    """I9: what a consumer gets was sent, as it was sent, and has the position it was given."""

    def attempted(self, process, consumer, message, naming):
        known = self.truth.positions.get(naming.position)
        if known is None:
            self.fail(f"position {naming.position} is delivered, and the ledger gave it to none")
        elif known[1] != encode_message(message):
            self.fail(f"position {naming.position} is delivered with another message")
        elif known[2] not in self.cluster.producers.sent:
            self.fail(f"{known[2]} is delivered, and no producer sent it")
        else:
            route = message.target.partition(b"?")[0].decode()
            if consumer.routes and route not in consumer.routes:
                self.fail(f"{consumer.name} gets a message of {route}")


class Bounded(Check):
    """I7: what a node holds in memory does not grow with what it has not delivered."""

    def looked(self, process):
        engine = process.engine
        held = {
            "proposals in flight": (len(engine.proposer._in_flight), IN_FLIGHT_MAX),
            "proposals appended": (len(engine._appended), APPENDED_MAX),
            "messages held for a vote": (len(engine.raft._held), 256),
            "messages waiting": (len(engine.proposer._open), BATCH_MESSAGES_MAX),
        }
        for lane in process.dispatcher._lanes.values():
            plan = lane.plan
            held[f"positions of {lane.definition.name}"] = (
                plan.in_flight + plan.waiting + plan.in_line + len(plan.endings.delivered), WINDOW,
            )  # fmt: skip
            held[f"attempts at {lane.definition.name}"] = (plan.in_flight, plan.concurrency)
        for consumer in engine.ledger.consumers.values():
            # Between two settled ranges there is an unsettled message, or more.
            name = consumer.definition.name
            held[f"settled ranges of {name}"] = (len(consumer.settled), consumer.backlog + 1)
        for what, (count, bound) in held.items():
            if count > bound:
                self.fail(f"{process.name} holds {count} {what}; at most {bound}")


class FailedSyncIsTheEnd(Check):
    """I8: after a failed write or sync the process ends; what was safe before is still there."""

    def disk_failed(self, process, kind):
        self.world.after(ENDS_WITHIN_S, self._must_be_over, process, kind)

    def _must_be_over(self, process, kind):
        if not process.alive:
            return
        if process.stopped_until_s > self.world.now - ENDS_WITHIN_S:
            self.world.after(ENDS_WITHIN_S, self._must_be_over, process, kind)
            return
        self.fail(f"{process.name} goes on after a failed {kind}")

    def recovered(self, node, journal):
        """A journal that is opened holds what was durable, and perhaps the write under way."""
        durable = node.durable
        if not node.system.is_synced():
            self.fail(f"{node.name}'s journal opens with what is not on the disk yet")
        if any(held.agrees(journal) for held in durable.possible()):
            return
        if node.has_lost_tail and journal.last_index <= durable.last:
            return
        under_way = "".join(f", and a write up to {_last(batch)}" for batch in durable.under_way)
        self.fail(
            f"{node.name}'s journal opens with entries up to {journal.last_index}; its disk had "
            f"{durable.last}{under_way}"
        )

    def ended(self, process, error):
        node = process.node
        if isinstance(error, DamagedError | DirectoryError):
            if not node.is_impaired:
                self.fail(f"{node.name} calls an undamaged directory damaged: {error}")
        elif not isinstance(error, StorageFailedError):
            self.fail(f"{node.name} ends: {error}")


class EveryCallerHears(Check):
    """A request that a process took is answered in time, as long as the process runs."""

    def taken(self, process, one):
        within_s = self.cluster.plan.within_s + HEARS_LATE_S
        process.clock.callLater(within_s, self._must_have_heard, process, one, within_s)

    def _must_have_heard(self, process, one, within_s):
        if one not in process.requests or one.over:
            return
        if process.clock.look() - process.stopped_until_s < HEARS_LATE_S:
            # It was stopped until now: its timers come late, in their order.
            process.clock.callLater(HEARS_LATE_S, self._must_have_heard, process, one, within_s)
            return
        self.fail(f"{process.name} took {one.token} and has not answered within {within_s:g} s")


class Liveness(Check):
    """Once the faults end, the cluster comes back by itself, and everybody is served."""

    def not_healed(self, words):
        self.fail(words)


CHECKS = (
    LogMatching, ElectionSafety, LeaderCompleteness, CommittedStays, DurableThenAcknowledged,
    AcceptedOnce,
    OneHistory, KeptUntilSettled, LettersKept, AtLeastOnce, OnlyWhatWasSent, Bounded, FailedSyncIsTheEnd,
    EveryCallerHears, Liveness,
)  # fmt: skip

EVENTS = (
    "appended", "cut", "opened", "recovered", "led", "sent", "committed", "acknowledged", "refused",
    "accepted", "attempted", "looked", "disk_failed", "ended", "taken", "restored", "ended_well", "not_healed",
)  # fmt: skip


class Checks:
    """All checks of a run; its methods are the events."""

    def __init__(self, cluster):
        self.world = cluster.world
        self.cluster = cluster
        self.truth = Truth()
        self.all = [check(self) for check in CHECKS]
        for event in EVENTS:
            calls = [getattr(check, event) for check in self.all if hasattr(check, event)]
            setattr(self, event, calls[0] if len(calls) == 1 else _all_of(calls))
        self._history = next(check for check in self.all if type(check) is OneHistory)

    def applied(self, process, index, term, command):
        """Note an applied entry: the first time it says what is true, later it must agree."""
        truth = self.truth
        if index not in truth.entries:
            truth.entries[index] = (term, command)
            self._positions(process, index, command)
        self._history.applied(process, index, term, command)

    def _positions(self, process, index, command):
        """Note which messages the ledger has just given positions to."""
        if command[:1] != b"\x00":
            return
        value = read_command(open_entry(command[1:])[1])
        tip = process.engine.ledger.tip
        accepted = self.truth.positions
        if not isinstance(value, Accept) or tip == len(accepted):
            return
        first = tip - len(value.messages) + 1
        for place, stored in enumerate(value.messages):
            position = first + place
            token = decode_message(stored).target.partition(b"?")[2].decode()
            self.accepted(token, position)
            accepted[position] = (index, stored, token)
            self.truth.tokens[token] = position

    def answered(self, process, one):
        """An answer leaves; what it says is looked at when it is heard."""

    def look(self):
        """Look at every process that runs."""
        for process in self.cluster.processes():
            self.looked(process)


def _all_of(calls):
    def each(*args):
        for call in calls:
            call(*args)

    return each


def _last(batch):
    return batch.entries[-1][1] if batch.entries else f"a cut of {batch.cut}"


__all__ = ["CHECKS", "LOOK_EVERY_S", "Check", "Checks", "TimeoutNow"]
