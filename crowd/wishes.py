"""What operators ask of the log: offered until it was heard, and for so long at most.

Decides how long an order is offered again. Leaves what a change is to who asks, and whether it is
made to the log.

Whether the ledger is as the order wants it says nothing: another order may be under way, and have
it otherwise a moment later. So each is heard once, in the order in which the log has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from crowd.command import Once, decode_command, encode_command
from crowd.errors import ChangeRefusedError, MalformedError
from crowd.ledger.heard import ORDER_BYTES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from crowd.command import Command, Control, Define, Dismiss, Purge, Replay, Skip
    from crowd.ledger import Consumer, Ledger
    from crowd.message import ConsumerId

PATIENCE_S: Final = 60.0
"""An election takes a few seconds. Whoever asked more than a minute ago asks again, or does not
expect it any more; a change that came hours later would surprise."""


class Wanting(Protocol):
    """A node that can want something of the log; the engine is one."""

    ledger: Any

    def want(self, name: str, done: Callable[[Ledger], bool], make: Callable[[], Command]) -> None:
        """Offer what `make` returns, again and again, until `done` is true of the ledger."""


class Wishes:
    """Asks a node's log for changes. In the reactor only."""

    def __init__(self, node: Wanting, seconds: Callable[[], float], chance: random.Random) -> None:
        """Ask for changes of `node`; `seconds` is a monotonic clock, orders are named by `chance`."""
        self._node = node
        self._seconds = seconds
        self._chance = chance

    @property
    def ledger(self) -> Any:
        """The node's ledger."""
        return self._node.ledger

    @property
    def consumers(self) -> Mapping[ConsumerId, Consumer]:
        """The ledger's consumers. Raises ChangeRefusedError before the cluster is born."""
        if self.ledger.tag is None:
            raise ChangeRefusedError("the cluster is not born yet; expected a leader, and its log")
        consumers: Mapping[ConsumerId, Consumer] = self.ledger.consumers
        return consumers

    def ask(
        self,
        name: str,
        command: Define | Control | Replay | Purge | Dismiss | Skip,
        needless: Callable[[], bool] = lambda: False,
    ) -> None:
        """Have `command` offered until it was heard, or is `needless`; for `PATIENCE_S` at most.

        It takes the place of what was asked for under the same `name`. Raises
        ChangeRefusedError for a command that no leader would take.
        """
        once = Once(self._chance.randbytes(ORDER_BYTES), command)
        try:
            decode_command(encode_command(once))
        except MalformedError as error:
            raise ChangeRefusedError(f"found what the log does not take: {error}") from None
        until_s = self._seconds() + PATIENCE_S

        def done(ledger: Ledger) -> bool:
            return ledger.has_heard(once.order) or self._seconds() >= until_s or needless()

        self._node.want(name, done, lambda: once)
