"""The admin side, on its own port: health, metrics, state, dashboard.

Decides how a node's state is shown over HTTP. Leaves what the state is to `NodeView`, and
serves few requests, so it stands on Twisted's own HTTP server. Nothing here changes anything
yet: any method but GET and HEAD is refused, whatever its Origin. Pages of others cannot read
the answers: no CORS header is ever sent. And a name of theirs that resolves to loopback (DNS
rebinding) does not help them: there, Host must be an address, or a name of this machine.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

from klein import Klein
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from twisted.logger import Logger
from twisted.web.server import Site

from crowd.metrics import METRICS, MetricType, parse_sample
from crowd.web.dashboard import PAGE, POLICY
from crowd.web.ingest import answer
from crowd.web.problems import (
    FOREIGN_HOST,
    NOT_ALLOWED,
    failure_value,
    is_expected,
    problem_reply,
    reply_to_error,
)
from crowd.web.reply import make_reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client import Metric
    from twisted.python.failure import Failure

REQUEST_BYTES_MAX: Final = 16 * 1024
"""No admin request has a body that matters; Twisted's server is told to refuse larger ones."""

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


class Admin:
    """The admin pages of one node, as a Klein `app`."""

    log = Logger()

    def __init__(self, view: NodeView) -> None:
        self.app = Klein()
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

    def _add(self, path: str, page: Any) -> None:
        def show(request: Any) -> Any:
            if request.method not in (b"GET", b"HEAD"):
                return answer(request, problem_reply(NOT_ALLOWED, allow=("GET", "HEAD")))
            if _is_loopback(request.getHost()) and not self._is_own_name(
                request.getRequestHostname()
            ):
                return answer(request, problem_reply(FOREIGN_HOST))
            return page(request)

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


class _QuietSite(Site):
    """Without an access log: probes ask every second, and say nothing new."""

    def log(self, request: Any) -> None:
        """Log nothing."""


def admin_site(view: NodeView) -> Site:
    """Return what listens on the admin port."""
    site = _QuietSite(Admin(view).app.resource())  # type: ignore[no-untyped-call]  # Twisted's
    site.displayTracebacks = False
    return site
