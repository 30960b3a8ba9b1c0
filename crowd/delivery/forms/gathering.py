"""Which messages go together in one request, and when.

Decides when a batch is full and when it has waited long enough. Pure: the clock is an
argument. Leaves to the plan which messages may be attempted, and in which order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crowd.definition import Batch


class Gathering:
    """How many messages wait for others, how large they are, and since when.

    Invariant: at most `count` of them, and at most `bytes_max` bytes unless it is one alone.
    """

    def __init__(self, batch: Batch) -> None:
        self._count_max = batch.count
        self._bytes_max = batch.bytes_max
        self._linger_s = batch.linger_us / 1e6
        self._count = 0
        self._bytes = 0
        self._first_s = 0.0

    def __len__(self) -> int:
        return self._count

    def add(self, size: int, now_s: float) -> bool:
        """Add a message with a body of `size` bytes if there is room; return whether there was."""
        if not self._count:
            self._first_s = now_s
        elif self.is_full or self._bytes + size > self._bytes_max:
            return False
        self._count += 1
        self._bytes += size
        return True

    @property
    def is_full(self) -> bool:
        """Whether the batch is to go at once: it has its count, or its bytes."""
        return self._count >= self._count_max or self._bytes >= self._bytes_max

    @property
    def due_s(self) -> float | None:
        """When the batch goes even if it is not full; None while it is empty."""
        return self._first_s + self._linger_s if self._count else None

    def ready(self, now_s: float) -> bool:
        """Return whether the batch is to go: it is full, or its first one has waited enough."""
        return self.is_full or (self._count > 0 and now_s >= self._first_s + self._linger_s)
