"""Which messages go together in one request, and when.

Decides when a batch is full and when it has waited long enough. Pure: the clock is an
argument. Leaves to the plan which messages may be attempted, and in which order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crowd.definition import Batch
    from crowd.message import Position


class Gathering:
    """Messages that wait for others, in the order in which they were added.

    Invariant: at most `count` of them, and at most `bytes_max` bytes unless it is one alone.
    """

    def __init__(self, batch: Batch) -> None:
        self._count_max = batch.count
        self._bytes_max = batch.bytes_max
        self._linger_s = batch.linger_us / 1e6
        self._sizes: dict[Position, int] = {}
        self._bytes = 0
        self._first_s = 0.0

    def __len__(self) -> int:
        return len(self._sizes)

    def has_room(self, size: int) -> bool:
        """Return whether a message with a body of `size` bytes can be added."""
        if not self._sizes:
            return True
        return len(self._sizes) < self._count_max and self._bytes + size <= self._bytes_max

    def add(self, position: Position, size: int, now_s: float) -> bool:
        """Add a message for which there is room; return whether the batch is now to go."""
        assert self.has_room(size), "no room: the batch goes first"
        assert position not in self._sizes, "a message is in a batch once"
        if not self._sizes:
            self._first_s = now_s
        self._sizes[position] = size
        self._bytes += size
        return self.ready(now_s)

    @property
    def due_s(self) -> float | None:
        """When the batch goes even if it is not full; None while it is empty."""
        return self._first_s + self._linger_s if self._sizes else None

    def ready(self, now_s: float) -> bool:
        """Return whether the batch is to go: it is full, or its first one has waited enough."""
        if not self._sizes:
            return False
        full = len(self._sizes) >= self._count_max or self._bytes >= self._bytes_max
        return full or now_s >= self._first_s + self._linger_s

    def take(self) -> list[Position]:
        """Return the batch, and begin an empty one."""
        taken = list(self._sizes)
        self._sizes.clear()
        self._bytes = 0
        return taken
