"""The producers' way in, of one process: the same in a node without workers, and in each worker.

Decides what it is built of, from the configuration and whoever stands behind it. Leaves requests to
``crowd/web``, a route's policy to ``crowd/door``, and to its owner who is behind and where
connections are accepted.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from twisted.application.service import Service
from twisted.logger import Logger

from crowd.config import definitions
from crowd.delivery.secrets import Keyring
from crowd.door.door import Door
from crowd.door.proxies import Proxies
from crowd.door.signatures import parser
from crowd.errors import ConfigurationError, SecretUnreadableError
from crowd.kinds import split_door
from crowd.reads.upstream import Upstreams
from crowd.web.announced import Balancers
from crowd.web.entrance import Entrance, Tally
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import ProducerListener, Producers, WrappedEndpoint
from crowd.web.messages import MessagePages
from crowd.web.router import Router
from crowd.web.through import Through
from crowd.web.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twisted.internet.defer import Deferred

    from crowd.config import Configuration
    from crowd.door.signatures import Verifier
    from crowd.reads.upstream import Tally as ReadTally
    from crowd.web.ingest import Acceptor
    from crowd.web.messages import Standings
    from crowd.web.tls import ProducerTLS
    from crowd.web.waiting import Waits

DRAIN_S: Final = 10.0
"""How long it waits for answers when it stops; longer than `acknowledge_within` by default."""


class Ingress(Protocol):
    """What a node asks of its producers' way in, whoever takes the requests. In the reactor."""

    listening: Deferred[Any]
    """Fires once it listens on every endpoint; fails with the first error."""

    @property
    def draining(self) -> bool:
        """Whether it takes no new requests any more."""

    @property
    def connections(self) -> int:
        """How many producers are connected."""

    def counters(self) -> Mapping[str, float]:
        """Return its metrics by their samples' names."""

    def parts(self) -> list[tuple[str, bool, str]]:
        """Return its own lines of ``/readyz``: a part's name, whether it is well, and how it is."""

    def workers(self) -> list[dict[str, Any]]:
        """Return what ``/api/status`` says of its workers."""

    def use(self, configuration: Configuration) -> None:
        """Go on with other routes; raises ConfigurationError, and has changed nothing then."""

    def again(self) -> None:
        """Have the files of its TLS read again. A problem is logged, and changes nothing."""

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Listen."""

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Take no more, and answer what is under way."""


class Behind(NamedTuple):
    """Who stands behind an ingress: the engine, or whoever asks it."""

    acceptor: Acceptor
    standings: Standings
    waits: Waits


def wall_us() -> int:
    """Return the wall clock in microseconds since 1970."""
    return time.time_ns() // 1000


def utc_now() -> datetime:
    """Return the wall clock, in UTC."""
    return datetime.now(UTC)


def keyrings(
    configuration: Configuration,
    seconds: Callable[[], float],
    tell: Callable[[SecretUnreadableError], None] = lambda _: None,
) -> dict[str, Keyring[Verifier]]:
    """Return the keyrings of the routes whose requests are signed, by their paths."""
    return {
        policy.path: Keyring(
            policy.signature.secrets, seconds, parse=parser(policy.signature.form), tell=tell
        )
        for policy in configuration.policies
        if policy.signature is not None
    }


def web_limits(configuration: Configuration, share: int = 1) -> WebLimits:
    """Return the bounds of one of `share` processes that hold no more than one together.

    One body always gets in, so with very many of them it may be more than `limits.in_flight`.
    """
    limits, whole = configuration.limits, WebLimits()
    return WebLimits(
        body_bytes_max=limits.body_bytes,
        in_flight_bytes_max=max(limits.body_bytes, limits.in_flight_bytes // share),
        connections_max=whole.connections_max // share,
        connections_over=whole.connections_over // share,
    )


class Routes:
    """Makes what answers a configuration's routes; what is counted outlives a reload.

    `name` is the node's in a read's Crowd-Through; `share` processes share the bound of reads.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, behind: Behind, reads_max: int, name: bytes, share: int = 1
    ) -> None:
        self.tally = Tally()
        self.upstreams = Upstreams(reactor, max(1, reads_max // share))
        self._reactor = reactor
        self._behind = behind
        self._through = Through(self.upstreams, name)

    def router(self, configuration: Configuration) -> Router:
        """Return the router; raise ConfigurationError for a route that cannot be one."""
        routes, _ = definitions(configuration)
        node = configuration.node
        rings = keyrings(configuration, self._reactor.seconds, self._cannot_check)
        for ring in rings.values():  # now, as they were just checked, in each process
            with suppress(SecretUnreadableError):
                ring.current()
        try:
            doors = {
                policy.path: Door(policy, rings.get(policy.path))
                for policy in configuration.policies
                if not policy.asks_nothing
            }
            networks = node.trusted_proxies
            proxies = Proxies(networks, node.proxy_field) if networks else None
            entrance = Entrance(doors, wall_us, self._reactor.seconds, self.tally, proxies)
            waits = {each.path: each.wait_s for each in configuration.policies if each.wait_s}
            pages = MessagePages(
                self._behind.standings, {route.path for route in routes}, entrance, waits, proxies
            )
            ingest = Ingest(
                self._behind.acceptor, routes, wall_us, self._through, entrance, proxies,
                Waiting(self._behind.waits, waits, self._reactor) if waits else None, pages,
            )  # fmt: skip
            return Router(ingest.app, [host.encode("ascii") for host in node.hosts], entrance)
        except (LookupError, ValueError) as error:
            raise ConfigurationError((f"route: found {error}; expected Klein's rules",)) from None

    def _cannot_check(self, error: SecretUnreadableError) -> None:
        self._log.error("signatures cannot be verified: {error}", error=str(error))


class OwnIngress(Service):
    """An `Ingress` whose requests this process takes itself.

    `endpoints` are those of `node.http`, in their order; what connections begin with before HTTP
    comes around them here. It is one of `share` processes that keep the node's bounds together.
    """

    def __init__(
        self,
        reactor: Any,
        configuration: Configuration,
        behind: Behind,
        endpoints: Sequence[Any],
        name: bytes,
        tls: ProducerTLS | None = None,
        *,
        share: int = 1,
    ) -> None:
        """Build it; raises ConfigurationError for a route that cannot be one."""
        self._reactor = reactor
        self._tls = tls
        self._balancers = configuration.node.balancers
        self._routes = Routes(reactor, behind, configuration.limits.reads, name, share)
        self._producers = Producers(
            reactor, self._routes.router(configuration), web_limits(configuration, share),
            time.time, self._routes.tally,
        )  # fmt: skip
        ports = [
            self._port(text, endpoint)
            for text, endpoint in zip(configuration.node.http, endpoints, strict=True)
        ]
        self._listener = ProducerListener(reactor, ports, self._producers, drain_s=DRAIN_S)
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
        """Return its metrics by their samples' names."""
        producers = self._producers
        refused = {
            f'crowd_door_refused_total{{reason="{reason.value}"}}': count
            for reason, count in self._routes.tally.refused.items()
        }
        return {
            "crowd_http_requests_total": producers.requests,
            "crowd_http_accepting": producers.acceptance.goes_on,
            "crowd_http_accept_pauses_total": producers.acceptance.pauses,
            "crowd_http_connections": producers.connections,
            "crowd_http_connections_refused_total": producers.connections_refused,
            "crowd_http_in_flight_bytes": producers.budget.used,
            **_reads(self._routes.upstreams.tally),
            **refused,
        }

    def parts(self) -> list[tuple[str, bool, str]]:
        """Return no line: what there is to say of this process is said elsewhere."""
        return []

    def workers(self) -> list[dict[str, Any]]:
        """Return none."""
        return []

    def use(self, configuration: Configuration) -> None:
        """Go on with other routes; raises ConfigurationError, and has changed nothing then."""
        self._producers.use(self._routes.router(configuration))
        self._routes.upstreams.keep(configuration.routes)

    def again(self) -> None:
        """Have the files of its TLS read again. A problem is logged, and changes nothing."""
        if self._tls is not None:
            self._tls.again()

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Listen."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        self._listener.startService()

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Take no more, and answer what is under way within `DRAIN_S`."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        return self._listener.stopService().addCallback(self._end_reads)

    def leave(self, within_s: float) -> Deferred[None]:
        """Give the endpoints free at once, send the answers that there are, and close all."""
        return self._listener.leave(within_s).addCallback(self._end_reads)

    def _end_reads(self, _: None) -> None:
        self._routes.upstreams.abort()

    def _port(self, text: str, endpoint: Any) -> Any:
        """Return a producers' port: its endpoint, and what its connections begin with."""
        door = split_door(text)
        # From the network inwards: first the balancer's header, then TLS, then HTTP.
        if door.is_proxied:
            endpoint = WrappedEndpoint(endpoint, self._announced)
        if door.is_tls:
            tls, reactor = self._tls, self._reactor
            assert tls is not None, "the configuration has seen to it"
            endpoint = WrappedEndpoint(endpoint, lambda factory: tls.accepting(factory, reactor))
        return endpoint

    def _announced(self, factory: Any) -> Balancers:
        return Balancers(
            factory,
            self._balancers,
            self._reactor,
            header_s=self._producers.limits.head_s,
            refused=self._producers.refuse,
        )


def _reads(tally: ReadTally) -> dict[str, float]:
    """Return the metrics of reads."""
    answers = {
        f'crowd_read_answers_total{{status="{status}"}}': count
        for status, count in tally.answers.items()
    }
    failures = {
        f'crowd_read_failures_total{{why="{why}"}}': count for why, count in tally.failures.items()
    }
    return {
        "crowd_reads_in_flight": tally.in_flight,
        "crowd_read_seconds_total": tally.seconds,
        "crowd_read_body_bytes_total": tally.body_bytes,
        **answers,
        **failures,
    }
