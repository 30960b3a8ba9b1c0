"""The bodies held for unanswered requests, over all connections (invariant I7). Pure.

Decides who may read on. A request takes its whole body's size before its body is read, so
whoever was admitted can always finish; the others wait in the order in which they came.
"""

from __future__ import annotations

from typing import Protocol


class Waiter(Protocol):
    """Who waits for room."""

    def admitted(self) -> None:
        """There is room now, and it was taken. Called from within `give`."""


class Budget:
    """`used` bytes of `bytes_max`, and who waits for room.

    Invariant: while anyone waits, either ``used > 0`` or the next `give` admits the first.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used = 0
        self.waiting: dict[Waiter, int] = {}
        """Who waits, in its order, and for how much."""

    def take(self, amount: int) -> bool:
        """Take `amount` bytes and return True, or return False and take nothing.

        One request alone is always admitted, even one that is larger than the budget.
        """
        used = self.used + amount
        if used > self.bytes_max and self.used:
            return False
        self.used = used
        return True

    def give(self, amount: int) -> None:
        """Give back `amount` bytes; admits those who waited for them."""
        self.used -= amount
        assert self.used >= 0, "gave back more than was taken"
        if self.waiting:
            self._admit()

    def wait(self, waiter: Waiter, amount: int) -> None:
        """Call ``waiter.admitted()`` once `amount` bytes were taken for it."""
        self.waiting[waiter] = amount

    def overdraw(self, waiter: Waiter, amount: int) -> None:
        """Take `amount` at once for a waiter whose body came with its head.

        It keeps its place and waits on for nothing but room, so what is overdrawn is at most
        one slice of input for each connection.
        """
        self.used += amount
        self.waiting[waiter] = 0

    def forget(self, waiter: Waiter) -> None:
        """Stop waiting. Nothing happens if `waiter` did not wait."""
        self.waiting.pop(waiter, None)

    def _admit(self) -> None:
        while self.waiting:
            waiter, amount = next(iter(self.waiting.items()))
            if not self.take(amount):
                return
            del self.waiting[waiter]
            waiter.admitted()
