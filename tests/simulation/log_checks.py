"""What must hold of logs, votes and commits: the Raft paper's properties, and I1, I2, I5.

Decides whether what is seen is allowed, as ``checks`` says.
"""

from __future__ import annotations

from crowd.errors import DamagedEntryError
from crowd.raft.wire import NextIndex, RequestVote, ResponseVote
from tests.simulation.check import Check

DIGEST_EVERY = 64
"""Entries between two comparisons of whole ledgers; other figures are compared at each."""


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

    def acknowledged(self, one, answer):
        """A message that is not a replay stands where the answer has it; all are committed."""
        for place, (token, position) in enumerate(zip(one.tokens, answer.positions, strict=True)):
            known = self.truth.positions.get(position)
            if known is None:
                self.fail(f"{token} was acknowledged at {position}, which no entry gave out")
            elif known[2] != token and place not in answer.replayed:
                self.fail(f"{token} was acknowledged at {position}, where {known[2]} is")
            elif known[0] > self.truth.committed:
                self.fail(f"{token} was acknowledged in entry {known[0]}, which is not committed")


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
        told = f"{status} {wire.partition(b'detail')[2][3:80].decode()}"
        for token in one.tokens:
            self._refused[token] = told
            if token in self.truth.tokens:
                self.fail(f"{token} is told {status}, and is stored")


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
        figures = _figures(ledger)
        if self._seen.setdefault(index, figures) != figures:
            self.fail(f"{process.name}'s ledger differs at {index}: {figures[:3]}")
        if index % DIGEST_EVERY == 0:
            digest = ledger.digest()
            if self._digests.setdefault(index, digest) != digest:
                self.fail(f"{process.name}'s ledger has another digest at {index}")

    def restored(self, process, checkpoint):
        """A ledger that comes from a checkpoint is the one that came from the entries."""
        ledger = process.engine.ledger
        figures = _figures(ledger)
        known = self._seen.get(ledger.applied_index)
        if known != figures:
            self.fail(f"{process.name}'s checkpoint at {ledger.applied_index} holds another ledger")

    def ended_well(self, processes):
        digests = {process.engine.ledger.digest() for process in processes}
        indices = {process.engine.ledger.applied_index for process in processes}
        if len(digests) > 1:
            self.fail(f"ledgers differ at {sorted(indices)}")


def _figures(ledger):
    """Return what of a ledger is compared at each entry."""
    return (
        ledger.tip, ledger.refused, ledger.log_time_us, ledger._history, ledger.keys_held,
        ledger.key_tally,
    )  # fmt: skip
