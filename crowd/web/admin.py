"""The admin side, on its own port: health, metrics, state, dashboard.

Decides how a node's state is shown over HTTP. Leaves what the state is to `NodeView`, and
serves few requests, so it stands on Twisted's own HTTP server. What changes something stands in
``members``, ``consumers`` and ``dead``; who may is decided in ``gate``. Pages of others cannot read the answers: no CORS
header is ever sent. And a name of theirs that resolves to loopback (DNS rebinding) does not
help them: there, Host must be an address, or a name of this machine.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from klein import Klein
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.server import Request, Site

from crowd.metrics import METRICS, MetricType, parse_sample
from crowd.web.consumers import ConsumerPages
from crowd.web.dashboard import PAGE, POLICY
from crowd.web.dead import DeadPages
from crowd.web.gate import Gate
from crowd.web.members import MemberPages
from crowd.web.problems import (
    BODY_TOO_LARGE,
    FOREIGN_HOST,
    NOT_ALLOWED,
    failure_value,
    is_expected,
    problem_reply,
    reply_to_error,
)
from crowd.web.reply import make_reply
from crowd.web.twin import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client import Metric
    from twisted.python.failure import Failure

    from crowd.web.consumers import Consumers
    from crowd.web.dead import Letters
    from crowd.web.members import Changes
    from crowd.web.reply import Reply

REQUEST_BYTES_MAX: Final = 16 * 1024
"""Of a body: the largest ones that matter are a consumer's table and 1 024 letters' numbers."""

_NEVER_CACHE: Final = (b"Cache-Control", b"no-store")
_TEXT: Final = (b"Content-Type", b"text/plain;charset=UTF-8")
_JSON: Final = (b"Content-Type", b"application/json;charset=UTF-8")
_METRICS: Final = (b"Content-Type", b"text/plain;version=0.0.4;charset=utf-8")
_HTML: Final = (b"Content-Type", b"text/html;charset=UTF-8")


class NodeView(Protocol):
    """A node, as an operator may see it. All calls in the reactor's thread; reads only."""

    def status(self) -> dict[str, Any]:
        """Return its state, ready for JSON."""

    def readiness(self) -> list[tuple[str, bool, str]]:
        """Return its parts: name, whether it is well, and how it is in words."""

    def counters(self) -> Mapping[str, float]:
        """Return the metrics' values, by keys that `crowd.metrics.parse_sample` reads."""


class _Values(Collector):
    """What a scrape finds: one look at the node's counters, as Prometheus's families."""

    def __init__(self, view: NodeView) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for metric in METRICS:
            kind = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
            families[metric.name] = kind(metric.name, metric.help, labels=metric.labels)
        for key, value in self._view.counters().items():
            metric, labels = parse_sample(key)
            families[metric.name].add_metric(labels, float(value))
        return [family for family in families.values() if family.samples]

    def describe(self) -> Iterable[Metric]:
        # Keeps the registry from collecting, and so from asking the node, at registration.
        return ()


class Operators(msgspec.Struct, frozen=True):
    """Who carries out what operators ask for."""

    changes: Changes
    consumers: Consumers
    letters: Letters


class Admin:
    """The admin pages of one node, as a Klein `app`."""

    log = Logger()

    def __init__(self, view: NodeView, operators: Operators, token: str) -> None:
        self.app = Klein()
        gate = Gate(token)
        self._members = MemberPages(operators.changes, gate)
        self._consumers = ConsumerPages(operators.consumers, gate)
        self._dead = DeadPages(operators.letters, gate)
        self._view = view
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Values(view))
        self._names = {b"localhost", socket.gethostname().lower().encode("utf-8")}
        self.app.url_map.strict_slashes = False
        self.app.url_map.merge_slashes = False
        self.app.handle_errors(Exception)(self._failed)
        for path, page in (
            ("/", self._dashboard),
            ("/livez", self._livez),
            ("/readyz", self._readyz),
            ("/metrics", self._metrics),
            ("/api/status", self._status),
        ):
            self._add(path, page)
        self._add_operators()

    def _add_operators(self) -> None:
        """Add what operators change, and what needs the token to be read."""
        members, consumers, dead = self._members, self._consumers, self._dead
        self._serve("/api/members", POST=members.add)
        self._serve("/api/members/<name>", DELETE=members.remove)
        self._serve("/api/consumers", GET=consumers.show, POST=consumers.apply)
        self._serve("/api/consumers/<name>/<change>", POST=consumers.change)
        self._serve("/api/dead", GET=dead.listing)
        self._serve("/api/dead/<int:number>", GET=dead.show)
        self._serve("/api/dead/replay", POST=dead.replay)
        self._serve("/api/dead/purge", POST=dead.purge)
        self._serve("/api/dead/orders", GET=dead.orders)
        self._serve("/api/dead/orders/<int:order>", DELETE=dead.stop)

    def _serve(self, path: str, **pages: Callable[..., Reply | Deferred[Reply]]) -> None:
        """Have a path answered by a page for each method; HEAD goes with GET."""
        if "GET" in pages:
            pages["HEAD"] = pages["GET"]

        def page(request: Any, **values: Any) -> Any:
            reply = pages[request.method.decode("ascii")](request, **values)
            if isinstance(reply, Deferred):
                return reply.addCallback(lambda late: answer(request, late))
            return answer(request, reply)

        self._add(path, page, *sorted(pages))

    def _add(self, path: str, page: Any, *methods: str) -> None:
        allowed = methods or ("GET", "HEAD")

        def show(request: Any, **values: Any) -> Any:
            if request.method.decode("ascii", "replace") not in allowed:
                return answer(request, problem_reply(NOT_ALLOWED, allow=allowed))
            if _is_loopback(request.getHost()) and not self._is_own_name(
                request.getRequestHostname()
            ):
                return answer(request, problem_reply(FOREIGN_HOST))
            return page(request, **values)

        self.app.route(path, endpoint=path)(show)

    def _is_own_name(self, host: bytes) -> bool:
        """Tell whether a request's Host can only mean this machine."""
        try:
            ipaddress.ip_address(host.decode("utf-8").strip("[]"))
        except ValueError:
            return host.lower() in self._names
        return True

    def _livez(self, request: Any) -> Any:
        return answer(request, make_reply(200, (_TEXT, _NEVER_CACHE), b"ok\n"))

    def _readyz(self, request: Any) -> Any:
        parts = self._view.readiness()
        lines = [f"{'ok ' if well else 'NOT'} {part}: {words}\n" for part, well, words in parts]
        status = 200 if all(well for _, well, _ in parts) else 503
        text = "".join(lines).encode("utf-8")
        return answer(request, make_reply(status, (_TEXT, _NEVER_CACHE), text))

    def _metrics(self, request: Any) -> Any:
        text = generate_latest(self._registry)
        return answer(request, make_reply(200, (_METRICS, _NEVER_CACHE), text))

    def _status(self, request: Any) -> Any:
        text = json.dumps(self._view.status(), indent=2).encode("utf-8")
        return answer(request, make_reply(200, (_JSON, _NEVER_CACHE), text + b"\n"))

    def _dashboard(self, request: Any) -> Any:
        return answer(request, make_reply(200, (_HTML, *POLICY), PAGE))

    def _failed(self, request: Any, failure: Failure) -> Any:
        error = failure_value(failure)
        if not is_expected(error):
            self.log.failure("an admin page failed", failure=failure)
        return answer(request, reply_to_error(error))


def _is_loopback(address: Any) -> bool:
    try:
        return ipaddress.ip_address(getattr(address, "host", "")).is_loopback
    except ValueError:
        return False


class _BoundedRequest(Request):
    """A request whose body has a bound; Twisted's own would take any, onto the disk."""

    _refused = False

    def gotLength(self, length: int | None) -> None:  # noqa: N802  Twisted's name
        """Refuse a body that says that it is too large."""
        super().gotLength(length)  # type: ignore[no-untyped-call]  # Twisted's
        if length is not None and length > REQUEST_BYTES_MAX:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take a piece of a body; refuse one that became too large."""
        assert self.content is not None
        if self._refused:
            return
        if self.content.tell() + len(data) > REQUEST_BYTES_MAX:
            self._refuse()
        else:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]  # Twisted's

    def process(self) -> None:
        """Answer, unless that was done before the body was all there."""
        if not self._refused:
            super().process()  # type: ignore[no-untyped-call]  # Twisted's

    def _refuse(self) -> None:
        self._refused = True
        reply = problem_reply(BODY_TOO_LARGE, f"expected at most {REQUEST_BYTES_MAX} bytes")
        channel: Any = self.channel  # Twisted's, without types
        channel.write(reply.head + b"Connection: close\r\n\r\n" + reply.body)
        channel.loseConnection()


class _QuietSite(Site):
    """Without an access log: probes ask every second, and say nothing new."""

    requestFactory = _BoundedRequest  # noqa: N815  Twisted's name

    def log(self, request: Any) -> None:
        """Log nothing."""


def admin_site(view: NodeView, operators: Operators, token: str) -> Site:
    """Return what listens on the admin port; who changes something must show the `token`."""
    app = Admin(view, operators, token).app
    site = _QuietSite(app.resource())  # type: ignore[no-untyped-call]  # Twisted's
    site.displayTracebacks = False
    return site
