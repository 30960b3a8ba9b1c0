"""Orders: an operator's changes of many letters, worked through a slice at a time.

Decides how much is asked of the log at once and when the next slice follows: once the ledger
shows the last one, and not before an order's pace lets it. Leaves which letters are meant, and
what is done to them, to ``letters``.

An order lives on the node that was asked, and ends with it. What it has not reached then is as
it was, and the same order again goes on there: it looks at letters as they are.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from twisted.logger import Logger

from crowd.errors import ChangeRefusedError, UnknownOrderError
from crowd.wishes import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.clock import Clock, Timer
    from crowd.command import Purge, Replay
    from crowd.ledger.letters import Letter
    from crowd.wishes import Wishes

SLICE_MAX: Final = 500
"""Letters of one slice. Looking at one costs some ten microseconds, and a slice is one turn's."""

ORDERS_MAX: Final = 16
"""Orders that are worked through at once, and as many that have ended and are still shown."""

LOOK_S: Final = 0.1
"""How often an order looks whether the ledger shows its slice: a slice takes about a commit."""

Slice: TypeAlias = "dict[int, Letter]"
"""Letters by their numbers, rising."""


class Work(Protocol):
    """What an order does, of which letters."""

    def slice(self, after: int, limit: int) -> tuple[Slice, int | None]:
        """Return letters above a number, of at most `limit` that are looked at.

        And the number to go on after, or None if that was all.
        """

    def commands(self, part: Slice) -> list[Replay] | list[Purge]:
        """Return what is asked of the log for letters of a slice."""

    def is_done(self, command: Replay | Purge, number: int) -> bool:
        """Return whether the ledger shows what a command asks for one letter."""


class _Order:
    """One order. ``problem`` says why it ended before its end."""

    def __init__(self, number: int, kind: str, work: Work, rate: float | None) -> None:
        self.number = number
        self.kind = kind
        self.work = work
        self.rate = rate
        self.after: int | None = 0
        self.commands: deque[Replay | Purge] = deque()
        self.done = 0
        self.ended = False
        self.problem: str | None = None
        self.timer: Timer | None = None


class Orders:
    """This node's orders. In the reactor only."""

    _log = Logger()

    def __init__(self, clock: Clock, wishes: Wishes) -> None:
        self._clock = clock
        self._wishes = wishes
        self._orders: dict[int, _Order] = {}
        self._last = 0

    def begin(self, kind: str, work: Work, *, rate: float | None) -> int:
        """Work an order through, at most `rate` letters a second; return its number.

        Raises ChangeRefusedError while there are `ORDERS_MAX` of them.
        """
        working = [order for order in self._orders.values() if not order.ended]
        if len(working) >= ORDERS_MAX:
            raise ChangeRefusedError(f"found {len(working)} orders under way; expected fewer")
        ended = [order.number for order in self._orders.values() if order.ended]
        for number in ended[: max(0, len(ended) - ORDERS_MAX + 1)]:
            del self._orders[number]
        self._last += 1
        order = self._orders[self._last] = _Order(self._last, kind, work, rate)
        self._go_on(order)
        return order.number

    def describe(self) -> list[dict[str, Any]]:
        """Return the orders, the newest last, ready for JSON."""
        return [
            {
                "order": order.number,
                "kind": order.kind,
                "rate": order.rate,
                "done": order.done,
                "ended": order.ended,
                "problem": order.problem,
            }
            for order in self._orders.values()
        ]

    def stop(self, number: int) -> None:
        """Have an order end where it is. Raises UnknownOrderError."""
        order = self._orders.get(number)
        if order is None:
            raise UnknownOrderError(f"found no order {number} here; expected one of this node's")
        if not order.ended:
            self._end(order, "stopped")

    def close(self) -> None:
        """End all orders: the node stops."""
        for order in self._orders.values():
            if not order.ended:
                self._end(order, "the node stops")

    def _go_on(self, order: _Order) -> None:
        """Ask for what is next, or look for it in a later turn, or end."""
        order.timer = None
        if not order.commands and order.after is not None:
            limit = SLICE_MAX if order.rate is None else max(1, min(SLICE_MAX, int(order.rate)))
            part, order.after = order.work.slice(order.after, limit)
            order.commands.extend(order.work.commands(part))
        if order.commands:
            self._ask(order, order.commands.popleft())
        elif order.after is None:
            self._end(order, None)
        else:
            order.timer = self._clock.callLater(0, self._go_on, order)

    def _ask(self, order: _Order, command: Replay | Purge) -> None:
        def is_done() -> bool:
            return all(order.work.is_done(command, number) for number in command.letters)

        try:
            name = f"order {order.number}"
            self._wishes.ask(name, command, lambda: order.ended or is_done())
        except ChangeRefusedError as error:
            self._end(order, str(error))
            return
        self._look(order, command, is_done, self._clock.seconds())

    def _look(
        self, order: _Order, command: Replay | Purge, is_done: Callable[[], bool], asked_s: float
    ) -> None:
        """Go on once the ledger shows what was asked at `asked_s`, and not too soon."""
        waited_s = self._clock.seconds() - asked_s
        count = len(command.letters)
        if is_done():
            order.done += count
            pace_s = 0.0 if order.rate is None else count / order.rate
            order.timer = self._clock.callLater(max(0.0, pace_s - waited_s), self._go_on, order)
        elif waited_s >= PATIENCE_S:
            self._end(order, f"not done within {PATIENCE_S:g} s; ask again")
        else:
            order.timer = self._clock.callLater(
                LOOK_S, self._look, order, command, is_done, asked_s
            )

    def _end(self, order: _Order, problem: str | None) -> None:
        order.ended, order.problem = True, problem
        if order.timer is not None and order.timer.active():
            order.timer.cancel()
        order.timer = None
        self._log.info(
            "order {order} ends: {kind} of {done} letters{problem}",
            order=order.number, kind=order.kind, done=order.done,
            problem="" if problem is None else f"; {problem}",
        )  # fmt: skip
