"""The producers' door of one process: the same in a node without workers, and in each worker.

Decides what a door is built of, from the configuration and whoever makes messages durable.
Leaves requests to ``crowd/web``, and to its owner who that is and where it listens.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.application.service import Service

from crowd.config import definitions
from crowd.errors import ConfigurationError
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import ProducerListener, Producers
from crowd.web.router import Router

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twisted.internet.defer import Deferred

    from crowd.clock import Clock
    from crowd.config import Configuration
    from crowd.web.ingest import Acceptor

DRAIN_S: Final = 10.0
"""How long a stopping door waits for answers; longer than `acknowledge_within` by default."""


class Door(Protocol):
    """What a node asks of its door, whoever takes the requests. In the reactor's thread."""

    listening: Deferred[Any]
    """Fires once it listens on every endpoint; fails with the first error."""

    @property
    def draining(self) -> bool:
        """Whether it takes no new requests any more."""

    @property
    def connections(self) -> int:
        """How many producers are connected."""

    def counters(self) -> Mapping[str, float]:
        """Return the door's metrics by their samples' names."""

    def parts(self) -> list[tuple[str, bool, str]]:
        """Return its own lines of ``/readyz``: a part's name, whether it is well, and how it is."""

    def workers(self) -> list[dict[str, Any]]:
        """Return what ``/api/status`` says of its workers."""

    def use(self, configuration: Configuration) -> None:
        """Go on with other routes; raises ConfigurationError, and has changed nothing then."""

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Listen."""

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Take no more, and answer what is under way."""


def wall_us() -> int:
    """Return the wall clock in microseconds since 1970."""
    return time.time_ns() // 1000


def make_router(configuration: Configuration, acceptor: Acceptor) -> Router:
    """Return what answers the configuration's routes.

    Raises ConfigurationError for a route that cannot be one.
    """
    routes, _ = definitions(configuration)
    try:
        return Router(Ingest(acceptor, routes, wall_us).app)
    except (LookupError, ValueError) as error:
        raise ConfigurationError((f"route: found {error}; expected Klein's rules",)) from None


def web_limits(configuration: Configuration, share: int = 1) -> WebLimits:
    """Return the bounds of one of `share` doors that hold no more than one together.

    One body always gets in, so with very many of them it may be more than `limits.in_flight`.
    """
    limits, whole = configuration.limits, WebLimits()
    return WebLimits(
        body_bytes_max=limits.body_bytes,
        in_flight_bytes_max=max(limits.body_bytes, limits.in_flight_bytes // share),
        connections_max=whole.connections_max // share,
    )


class OwnDoor(Service):
    """A `Door` whose requests this process takes itself, on `endpoints`."""

    def __init__(
        self,
        clock: Clock,
        configuration: Configuration,
        acceptor: Acceptor,
        endpoints: Sequence[Any],
        *,
        share: int = 1,
    ) -> None:
        """Build it; raises ConfigurationError for a route that cannot be one."""
        self._acceptor = acceptor
        router = make_router(configuration, acceptor)
        self._producers = Producers(clock, router, web_limits(configuration, share), time.time)
        self._listener = ProducerListener(clock, endpoints, self._producers, drain_s=DRAIN_S)
        self.listening: Deferred[Any] = self._listener.listening

    @property
    def draining(self) -> bool:
        """Whether it takes no new requests any more."""
        return self._producers.draining

    @property
    def connections(self) -> int:
        """How many producers are connected."""
        return self._producers.connections

    def counters(self) -> dict[str, float]:
        """Return the door's metrics by their samples' names."""
        producers = self._producers
        return {
            "crowd_http_requests_total": producers.requests,
            "crowd_http_connections": producers.connections,
            "crowd_http_connections_refused_total": producers.connections_refused,
            "crowd_http_in_flight_bytes": producers.budget.used,
        }

    def parts(self) -> list[tuple[str, bool, str]]:
        """Return no line: what there is to say of this process is said elsewhere."""
        return []

    def workers(self) -> list[dict[str, Any]]:
        """Return none."""
        return []

    def use(self, configuration: Configuration) -> None:
        """Go on with other routes; raises ConfigurationError, and has changed nothing then."""
        self._producers.use(make_router(configuration, self._acceptor))

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Listen."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        self._listener.startService()

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Take no more, and answer what is under way within `DRAIN_S`."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        return self._listener.stopService()

    def leave(self, within_s: float) -> Deferred[None]:
        """Give the endpoints free at once, send the answers that there are, and close all."""
        return self._listener.leave(within_s)
