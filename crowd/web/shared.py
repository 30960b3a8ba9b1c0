"""What one connection asks of all of them together: the port that ``listener`` implements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.web.budget import Budget
    from crowd.web.channel import Channel
    from crowd.web.limits import WebLimits
    from crowd.web.reply import Reply
    from crowd.web.request import Request
    from crowd.web.router import Shown


class Shared(Protocol):
    """What all connections share. Times are the reactor's clock in seconds, 0.5 s coarse."""

    limits: WebLimits
    budget: Budget
    date: bytes
    """The line of the ``Date`` field."""
    now_s: float
    idle_by_s: float
    """When a connection that falls idle now is closed."""
    answer_by_s: float
    """When an answer that is due from now on is given up."""
    at_head: Callable[..., Reply | None] | None
    """``Router.at_head``: None where no route has a door."""
    shown: Shown | None
    """``Entrance.shown``: None where no route has a door."""
    draining: bool
    requests: int
    """How many were read, for the metrics."""

    def handle(self, request: Request) -> None:
        """Have a request answered, at once or later."""

    def refusal(self, method: bytes, target: bytes, host: bytes) -> Reply | None:
        """Return the answer that is certain before the body is read."""

    def soon(self, channel: Channel) -> None:
        """Call ``channel.turn()`` in the reactor's next turn."""

    def opened(self, channel: Channel) -> None:
        """Watch a connection's deadline."""

    def closed(self, channel: Channel) -> None:
        """Forget a connection."""
