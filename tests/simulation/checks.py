"""What must hold, all along and at the end: one class for each invariant, named after it.

Decides which checks there are, and hands each event to those that have a method of its name. A
check keeps what it needs to compare with and looks at each event once, so that all of them
together stay cheap: nothing here walks a log.

What is true is taken from outside crowd where that can be: the disks' content from the
simulated disks, votes and acknowledgements from what leaves a node, deliveries from what
reaches a consumer, what became of messages from the log's entries alone (``story``). The
numbers I1 to I9 are those of docs/explanation/guarantees.md.
"""

from __future__ import annotations

import msgspec

from crowd.command import Accept, open_entry, read_command
from tests.simulation import (
    delivery_checks,
    key_checks,
    letter_checks,
    log_checks,
    node_checks,
    pace_checks,
    trial_checks,
    wait_checks,
)
from tests.simulation.check import Check, Truth
from tests.simulation.story import Story

LOOK_EVERY_S = 0.5

ROOMS = (
    log_checks,
    delivery_checks,
    letter_checks,
    pace_checks,
    trial_checks,
    node_checks,
    key_checks,
    wait_checks,
)
CHECKS = tuple(
    value
    for room in ROOMS
    for value in vars(room).values()
    if isinstance(value, type) and issubclass(value, Check) and value is not Check
)

EVENTS = (
    "batch", "appended", "cut", "opened", "recovered", "led", "sent", "committed", "acknowledged", "refused",
    "accepted", "attempted", "arrived", "answering", "heard", "looked", "disk_failed", "ended",
    "taken", "answered", "restored", "ended_well", "not_healed", "told", "took", "settled",
    "buried", "let_go", "released", "promoted", "reached", "covered", "waited",
)  # fmt: skip
"""What checks may have a method for; the story's are among them."""


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
        self.truth.story = Story(self)
        self._history = self.one(log_checks.OneHistory)
        self._refused = 0

    def one(self, kind):
        """Return the check of this class."""
        return next(check for check in self.all if type(check) is kind)

    def applied(self, process, index, term, command):
        """Note an applied entry: the first time it says what is true, later it must agree."""
        truth = self.truth
        if index not in truth.entries:
            truth.entries[index] = (term, command)
            self._tell(process, index, command)
        self._history.applied(process, index, term, command)

    def _tell(self, process, index, command):
        """Note what an entry says that nobody had applied before."""
        self.reached(process, index)
        if command[:1] != b"\x00":
            return
        value = read_command(open_entry(command, 1)[1])
        ledger = process.engine.ledger
        if isinstance(value, Accept):
            value = self._stored(index, value, ledger)
        self.truth.story.tell(index, value, ledger, self.world.now)
        self.told(ledger)
        if type(value).__name__ == "Release":
            self.released(process, ledger.released_index)
        elif type(value).__name__ == "Promote":
            self.promoted(process, value)

    def _stored(self, index, value, ledger):
        """Note what a ledger made of a batch; return the batch without what took no position."""
        if ledger.refused != self._refused:
            self._refused = ledger.refused
            return value
        batch = key_checks.Batch(value, ledger, self.truth, self.cluster.producers.tries)
        self.batch(batch)
        for place, position in batch.stored.items():
            token = batch.tokens[place]
            self.accepted(token, position)
            self.truth.positions[position] = (index, value.messages[place], token)
            self.truth.tokens[token] = position
        return msgspec.structs.replace(
            value,
            routes=tuple(value.routes[place] for place in batch.stored),
            messages=tuple(value.messages[place] for place in batch.stored),
        )

    def look(self):
        """Look at every process that runs."""
        for process in self.cluster.processes():
            self.looked(process)


def _all_of(calls):
    def each(*args):
        for call in calls:
            call(*args)

    return each
