"""What must hold of a node: its bounds, its end, and that it answers (I7, I8).

Decides whether what is seen is allowed, as ``checks`` says.
"""

from __future__ import annotations

from crowd.delivery import backlog
from crowd.errors import DamagedError, DirectoryError, StorageFailedError
from crowd.raft import proposer
from crowd.raft.proposer import BATCH_MESSAGES_MAX, IN_FLIGHT_MAX
from tests.simulation.check import Check

HEARS_LATE_S = 0.3
APPENDED_MAX = 256
"""A few for each node and for each `within_s` that nothing was committed."""
ENDS_WITHIN_S = 0.1
"""A process whose disk failed has heard of it by then: the thread's result is one event away."""


class Bounded(Check):
    """I7: what a node holds in memory does not grow with what it has not delivered."""

    def looked(self, process):
        engine = process.engine
        held = {
            "proposals in flight": (len(engine.proposer._in_flight), IN_FLIGHT_MAX),
            "proposals appended": (len(engine._appended), APPENDED_MAX),
            "commands proposed": (
                len(engine._proposed),
                engine.proposed_index() - engine.raft.applied_index,
            ),
            "messages held for a vote": (len(engine.raft._held), 256),
            "messages waiting": (len(engine.proposer._open), BATCH_MESSAGES_MAX),
        }
        for lane in process.dispatcher._lanes.values():
            plan = lane.plan
            flying = sum(place > 0 for place in plan._in_flight)  # and not letters
            window = backlog.WINDOW + len(plan.holding)  # those that are dead stand in lines, too
            held[f"positions of {lane.definition.name}"] = (
                flying + plan.waiting + plan.in_line + len(plan.endings.delivered), window,
            )  # fmt: skip
        for consumer in engine.ledger.consumers.values():
            # Between two settled ranges there is an unsettled message, or more.
            name = consumer.definition.name
            held[f"settled ranges of {name}"] = (len(consumer.settled), consumer.backlog + 1)
        for what, (count, bound) in held.items():
            if count > bound:
                self.fail(f"{process.name} holds {count} {what}; at most {bound}")

    def batch(self, batch):
        """A batch has no more messages than it may; this run's bound is in ``sizes``."""
        count = len(batch.messages)
        if count > proposer.BATCH_MESSAGES_MAX:
            self.fail(f"an entry has {count} messages; at most {proposer.BATCH_MESSAGES_MAX}")


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


def _last(batch):
    return batch.entries[-1][1] if batch.entries else f"a cut of {batch.cut}"
