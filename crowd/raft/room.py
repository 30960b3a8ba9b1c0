"""Whether there is room for more: on the disk, in the backlog, and for what waits for the disk.

Decides when producers are refused and when offers wait (I7). Leaves to the journal what a full
disk still takes, and to the engine who is told.

In the reactor only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crowd.errors import BacklogFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.clock import Clock
    from crowd.errors import RefusedError
    from crowd.ledger import Ledger
    from crowd.message import RouteId
    from crowd.raft.journal import Journal
    from crowd.raft.seams import Bounds, Space

PENDING_BYTES_MAX: Final = 16 << 20
"""Entries that wait for the leader's disk: above this no offer is taken, so that a disk that is
stuck or full does not fill the memory. What was not taken is offered again."""
FULL_S: Final = 1.0
"""How long a leader whose disk is full goes on leading: others may have room."""
RETRY_AFTER_S: Final = 10


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

    @property
    def for_offers(self) -> bool:
        """Whether the leader's disk keeps up with what is proposed."""
        return not self._journal.full and self._journal.pending_bytes < PENDING_BYTES_MAX

    def look(self) -> bool:
        """Try a full disk again; return whether it has been full for long."""
        if not self._journal.full:
            self._full_since_s = None
            return False
        self._journal.retry()
        now_s = self._clock.seconds()
        if self._full_since_s is None:
            self._full_since_s = now_s
        return now_s - self._full_since_s >= FULL_S

    def refusal(self) -> BacklogFullError | None:
        """Return what a producer hears while there is no room for its message."""
        space = self._space()
        if self._journal.full or space.free_bytes < self._bounds.floor(space):
            words = "the disk's floor of free space is reached"
        elif self._ledger.backlog_bytes > self._bounds.backlog_bytes:
            words = "the configured backlog is reached"
        else:
            return None
        return BacklogFullError(words, retry_after_s=RETRY_AFTER_S)

    def refusals(self) -> dict[RouteId, RefusedError]:
        """Return what a producer hears on the routes that a full consumer takes, if there are any.

        Consumers that skip new messages when they are full close no route.
        """
        return {
            route: BacklogFullError(
                f"the backlog of {', '.join(names)} is full", retry_after_s=RETRY_AFTER_S
            )
            for route, names in self._ledger.full_routes().items()
        }
