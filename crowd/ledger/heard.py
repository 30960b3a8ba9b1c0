"""Which orders of operators were heard: each has its effect once, however often it is offered.

Decides how long an order is remembered. Leaves what it does to ``ledger``.

A node offers what an operator asks for until its ledger shows that it was heard, so the log may
hold it twice, with other orders in between. Without this a consumer that was added and removed
would come back by the second copy, and one that was paused and resumed would stand still.

Invariant: the same order never has effect twice while it is among the `HEARD_MAX` newest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crowd.errors import MalformedError

if TYPE_CHECKING:
    from crowd.command import Once

ORDER_BYTES: Final = 16

HEARD_MAX: Final = 16_384
"""Orders that are remembered: 256 KiB in a head, and some 2 MB of memory. A node offers one for a
minute at most (`crowd.wishes.PATIENCE_S`), and its 16 orders of letters at once ask for at most 160
slices a second: 9 600 in that time."""


class Heard:
    """The newest orders, in the order in which they were heard."""

    def __init__(self) -> None:
        self._orders: dict[bytes, None] = {}

    def __contains__(self, order: object) -> bool:
        return order in self._orders

    def hear(self, once: Once) -> bool:
        """Return whether an order is new, and is to have its effect; remember it."""
        if once.order in self._orders:
            return False
        self._orders[once.order] = None
        if len(self._orders) > HEARD_MAX:
            del self._orders[next(iter(self._orders))]
        return True

    def state(self) -> bytes:
        """Return the orders one after the other, the newest last."""
        return b"".join(self._orders)

    def restore(self, state: bytes) -> None:
        """Become, from empty, what `state` says. Raises MalformedError if it cannot be.

        What is there twice is found by the caller, who compares the head's bytes.
        """
        if len(state) % ORDER_BYTES:
            raise MalformedError("orders that were heard: not whole")
        starts = range(0, len(state), ORDER_BYTES)
        self._orders = {state[start : start + ORDER_BYTES]: None for start in starts}
