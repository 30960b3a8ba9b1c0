"""One upstream that reads go to: where it is, how many at once, and what is counted of them.

Decides whether one more read may be asked of it now. Leaves a read's course to whoever asks,
who says when it is over, and connections to ``pool``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from crowd.delivery.agent import PreparedRequest
from crowd.delivery.client import Client
from crowd.delivery.endpoint import ReachingEndpoint, SecureEndpoint
from crowd.delivery.reach import Bounds
from crowd.delivery.request import parse_destination
from crowd.delivery.tls import ConsumerTLS
from crowd.reads.failure import ReadFailure
from crowd.reads.head import read_head
from crowd.reads.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.defer import Deferred

    from crowd.clock import Clock
    from crowd.definition import RouteDefinition
    from crowd.delivery.ports import ClientEndpoint
    from crowd.message import Message
    from crowd.reads.failure import ReadFailedError

TELL_EVERY_S: Final = 10.0
"""An upstream that is down fails each read: one line of the log tells of many."""


class Tally:
    """What became of reads since the start. All of a node's upstreams share one."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.seconds = 0.0
        self.body_bytes = 0
        self.answers: dict[str, int] = {"2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0}
        self.failures: dict[str, int] = {kind.value: 0 for kind in ReadFailure}

    def answered(self, status: int) -> None:
        """Count an answer, the upstream's or crowd's own."""
        name = f"{min(status // 100, 5)}xx"  # there is no 6xx; who says so failed
        self.answers[name] += 1

    def failed(self, kind: ReadFailure) -> None:
        """Count a read without an answer of the upstream's, or without all of it."""
        self.failures[kind.value] += 1


class Upstream:
    """Somewhere to read from: at most `reads_max` reads at once."""

    _log = Logger()

    def __init__(
        self, clock: Clock, route: RouteDefinition, endpoint: ClientEndpoint, reads_max: int,
        tally: Tally,
    ) -> None:  # fmt: skip
        """Connect to nothing yet. ValueError if the route's upstream is no address."""
        assert route.upstream is not None, "a route whose reads are passed on has an upstream"
        self.url = route.upstream
        self.tally = tally
        self._clock = clock
        self._reads_max = reads_max
        self._under_way = 0
        self._destination = parse_destination(route.upstream, None)
        secure = self._destination.scheme == "https"
        self._pool = Pool(clock, endpoint, route.timeout_us / 1e6, secure=secure)
        self._client = Client(self._pool, route.upstream)
        self._untold = 0
        self._tell_from_s = 0.0

    @property
    def full(self) -> bool:
        """Whether no more reads may be asked of it now."""
        return self._under_way >= self._reads_max

    def begin(self) -> float:
        """Take a place for a read; returns the time, for `finish`."""
        self._under_way += 1
        self.tally.in_flight += 1
        return self._clock.seconds()

    def finish(self, begun_s: float) -> None:
        """Give the place back: the read is over on both sides."""
        self._under_way -= 1
        self.tally.in_flight -= 1
        self.tally.seconds += self._clock.seconds() - begun_s

    def ask(self, read: Message, through: Iterable[bytes]) -> Deferred[Any]:
        """Ask for `read`, which came through those nodes.

        Fires with treq's response, whose ``original`` is an UpstreamAnswer, once the answer's
        head is there; fails with ReadFailedError. Cancelling it ends the read.
        """
        head = read_head(read, self._destination, through)
        return self._client.ask(PreparedRequest(head, read.body))

    def tell(self, error: ReadFailedError) -> None:
        """Count a failed read, and say so in the log now and then."""
        self.tally.failed(error.kind)
        self._untold += 1
        now_s = self._clock.seconds()
        if now_s >= self._tell_from_s:
            self._tell_from_s = now_s + TELL_EVERY_S
            self._log.warn(
                "a read of {upstream} failed: {why}: {words} ({count} since the last such line)",
                upstream=self.url, why=error.kind.value, words=error.words, count=self._untold,
            )  # fmt: skip
            self._untold = 0

    def close(self) -> None:
        """Take no new reads; those under way go on."""
        self._pool.close()

    def abort(self) -> None:
        """End all reads."""
        self._pool.abort()


class Upstreams:
    """The upstreams of a node's routes. Routes that name the same one, the same way, share it."""

    def __init__(
        self, reactor: Any, reads_max: int,
        connecting: Callable[[Any, RouteDefinition], ClientEndpoint] | None = None,
    ) -> None:  # fmt: skip
        """Take at most `reads_max` for each; `connecting` makes a route's endpoint."""
        self.tally = Tally()
        self._reactor = reactor
        self._connecting = connecting or endpoint_to
        self._reads_max = reads_max
        self._by_key: dict[tuple[Any, ...], Upstream] = {}

    def of(self, route: RouteDefinition) -> Upstream:
        """Return the upstream of a route; ValueError if it can be none."""
        key = _key(route)
        if key not in self._by_key:
            endpoint = self._connecting(self._reactor, route)
            self._by_key[key] = Upstream(
                self._reactor, route, endpoint, self._reads_max, self.tally
            )
        return self._by_key[key]

    def keep(self, routes: Iterable[RouteDefinition]) -> None:
        """Let go of the upstreams that are none of these routes' any more."""
        kept = {_key(route) for route in routes if route.reads == "proxy"}
        for key in [key for key in self._by_key if key not in kept]:
            self._by_key.pop(key).close()

    def abort(self) -> None:
        """End all reads."""
        for upstream in self._by_key.values():
            upstream.abort()


def _key(route: RouteDefinition) -> tuple[Any, ...]:
    return (route.upstream, route.timeout_us, route.reach, route.proof)


def endpoint_to(reactor: Any, route: RouteDefinition) -> ClientEndpoint:
    """Return the endpoint of a route's upstream; ValueError if its host or networks make no sense."""
    assert route.upstream is not None, "a route whose reads are passed on has an upstream"
    destination = parse_destination(route.upstream, None)
    host = destination.host
    plain = ReachingEndpoint(reactor, host, destination.port, Bounds(route.reach))
    if destination.scheme != "https":
        return plain
    return SecureEndpoint(plain, ConsumerTLS(reactor, host, route.proof))
