"""Whether there is room for more: on the disk, in the backlog, and for what waits for the disk.

Decides when producers are refused, when they are told to come back, and when offers wait (I7).
Leaves to ``drain`` how a wait follows from what was settled, to the journal what a full disk still
takes, and to the engine who is told.

In the reactor only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from crowd.errors import BacklogFullError
from crowd.raft.drain import Drain, Level, wait_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.clock import Clock
    from crowd.errors import RefusedError
    from crowd.ledger import Ledger
    from crowd.ledger.consumers import Consumer
    from crowd.message import ConsumerId, RouteId
    from crowd.raft.journal import Journal
    from crowd.raft.seams import Bounds, Space

PENDING_BYTES_MAX: Final = 16 << 20
"""Entries that wait for the leader's disk: above this no offer is taken, so that a disk that is
stuck or full does not fill the memory. What was not taken is offered again."""
FULL_S: Final = 1.0
"""How long a leader whose disk is full goes on leading: others may have room."""
DISK_S: Final = 30
"""When to try a node again whose disk is full: nobody knows who will make room there. Others may
have some, so a producer that asks them meanwhile does well."""


class Drains(NamedTuple):
    """How fast a backlog drains, by both of its measures."""

    bytes: Drain
    messages: Drain


class Room:
    """The room that this node has."""

    def __init__(
        self,
        clock: Clock,
        journal: Journal,
        ledger: Ledger,
        bounds: Bounds,
        space: Callable[[], Space],
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._ledger = ledger
        self._bounds = bounds
        self._space = space
        self._full_since_s: float | None = None
        self._drains = Drains(Drain(), Drain())
        self._consumers: dict[ConsumerId, Drains] = {}

    @property
    def for_offers(self) -> bool:
        """Whether the leader's disk keeps up with what is proposed."""
        return not self._journal.full and self._journal.pending_bytes < PENDING_BYTES_MAX

    def look(self) -> bool:
        """Try a full disk again; return whether it has been full for long. Note what drained."""
        self._note()
        if not self._journal.full:
            self._full_since_s = None
            return False
        self._journal.retry()
        now_s = self._clock.seconds()
        if self._full_since_s is None:
            self._full_since_s = now_s
        return now_s - self._full_since_s >= FULL_S

    def _note(self) -> None:
        now_s, ledger = self._clock.seconds(), self._ledger
        idle = not ledger.backlog_messages
        self._drains.bytes.note(now_s, ledger.passed_bytes, idle=idle)
        self._drains.messages.note(now_s, ledger.lowest_watermark, idle=idle)
        for gone in self._consumers.keys() - ledger.consumers.keys():
            del self._consumers[gone]
        for consumer in ledger.consumers.values():
            if consumer.id not in self._consumers:
                self._consumers[consumer.id] = Drains(Drain(), Drain())
            drains = self._consumers[consumer.id]
            idle = not consumer.backlog
            drains.bytes.note(now_s, consumer.settled_bytes, idle=idle)
            drains.messages.note(now_s, consumer.done, idle=idle)

    @property
    def is_full(self) -> bool:
        """Whether a backlog is at its bound: cheap, and to be asked after every entry."""
        ledger, bounds = self._ledger, self._bounds
        return (
            0 < bounds.backlog_bytes <= ledger.backlog_bytes
            or 0 < bounds.backlog_messages <= ledger.backlog_messages
            or any(
                consumer.is_full and consumer.definition.when_full == "refuse"
                for consumer in ledger.consumers.values()
            )
        )

    @property
    def is_short(self) -> bool:
        """Whether the disk has less free space than its floor."""
        space = self._space()
        return self._journal.full or space.free_bytes < self._bounds.floor(space)

    def refusal(self) -> BacklogFullError | None:
        """Return what a producer hears while there is no room for its message."""
        if self.is_short:
            words = "the disk's floor of free space is reached"
            return BacklogFullError(words, retry_after_s=DISK_S)
        ledger, bounds = self._ledger, self._bounds
        after_s = _wait_s(
            self._drains,
            (ledger.backlog_bytes, bounds.backlog_bytes),
            (ledger.backlog_messages, bounds.backlog_messages),
        )
        if not after_s:
            return None
        return BacklogFullError("the configured backlog is reached", retry_after_s=after_s)

    def refusals(self) -> dict[RouteId, RefusedError]:
        """Return what a producer hears on the routes that a full consumer takes, if there are any.

        Consumers that skip new messages when they are full close no route.
        """
        ledger = self._ledger
        found: dict[RouteId, RefusedError] = {}
        for route, names in ledger.full_routes().items():
            full = [ledger.consumers[known] for known in map(ledger.consumer_id, names) if known]
            found[route] = BacklogFullError(
                f"the backlog of {', '.join(names)} is full",
                retry_after_s=max(map(self._consumer_wait_s, full)),
            )
        return found

    def _consumer_wait_s(self, consumer: Consumer) -> int:
        definition = consumer.definition
        return _wait_s(
            self._consumers.get(consumer.id) or Drains(Drain(), Drain()),
            (consumer.backlog_bytes, definition.backlog_bytes),
            (consumer.backlog, definition.backlog_messages),
        )


def _wait_s(drains: Drains, in_bytes: tuple[int, int], in_messages: tuple[int, int]) -> int:
    """Return when a backlog, held and bound by both measures, has room; 0 if it has some now."""
    held_bytes, held = in_bytes[0], in_messages[0]
    return wait_s((
        Level(*in_bytes, drains.bytes.rate, held_bytes // max(1, held), drains.bytes.still_s),
        Level(*in_messages, drains.messages.rate, 1, drains.messages.still_s),
    ))  # fmt: skip
