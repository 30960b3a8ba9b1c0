"""How a connection to a consumer is made: looked up, judged, connected, secured.

Decides that a connection goes to an address which `reach` has judged, and to no other: a
name is looked up once for a connection, and what is then connected to are the addresses
that came back, in figures. So it does not matter what the name says a moment later (DNS
rebinding). Leaves the judgement to ``reach``, and deadlines to ``agent``.

Several addresses are tried as Twisted's HostnameEndpoint does (RFC 8305, "happy eyeballs"):
the next one 0.3 s after the last, without giving that up; the first connection wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer

from crowd.delivery.outcome import FailureKind
from crowd.delivery.reach import Bounds, numeric
from crowd.delivery.tls import ConsumerTLS
from crowd.errors import AttemptFailedError

if TYPE_CHECKING:
    from crowd.definition import ConsumerDefinition
    from crowd.delivery.ports import ClientEndpoint
    from crowd.delivery.request import Destination

CONNECT_S: Final = 5.0
"""Two lost SYNs, sent again after 1 s and 3 s, still make a connection (RFC 6298)."""

ADDRESSES_MAX: Final = 16
"""Of a name's addresses so many are tried: more are not reached within `CONNECT_S`."""


_TOLD_MAX: Final = 4
"""Refused addresses in a failure's words, which stand in a log line and in the status."""


@implementer(IResolutionReceiver)
class _Lookup:
    """A lookup under way, and whoever waits for it."""

    def __init__(self) -> None:
        self.addresses: list[Any] = []
        self.waiting: list[Deferred[list[Any]]] = []
        self.complete = False

    def resolutionBegan(self, resolution: Any) -> None:  # noqa: N802  Twisted's name
        """Do nothing: a lookup cannot be called off."""

    def addressResolved(self, address: Any) -> None:  # noqa: N802  Twisted's name
        """Take an address."""
        self.addresses.append(address)

    def resolutionComplete(self) -> None:  # noqa: N802  Twisted's name
        """Hand the addresses on."""
        self.complete = True
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            waiter.callback(self.addresses)

    def wait(self) -> Deferred[list[Any]]:
        """Fire with the addresses. Cancelled, the lookup goes on for the others."""
        waiter: Deferred[list[Any]] = Deferred(self.waiting.remove)
        self.waiting.append(waiter)
        if self.complete:
            self.resolutionComplete()
        return waiter


@implementer(IReactorPluggableNameResolver, IHostnameResolver, IHostResolution)
class _LookedUp:
    """A reactor for which a name has the addresses that were looked up and judged."""

    def __init__(self, reactor: Any, host: str, addresses: list[Any]) -> None:
        self._reactor = reactor
        self._addresses = addresses
        self.name = host
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def installNameResolver(self, resolver: Any) -> None:  # noqa: N802  Twisted's name
        """Refuse: the addresses stand."""
        raise NotImplementedError

    def resolveHostName(self, receiver: Any, *_: Any, **__: Any) -> Any:  # noqa: N802  Twisted's name
        """Hand the addresses on, at once."""
        receiver.resolutionBegan(self)
        for address in self._addresses:
            receiver.addressResolved(address)
        receiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """Do nothing: it is over."""


class ReachingEndpoint:
    """Connects to one host, at addresses that may be reached; a `ports.ClientEndpoint`.

    The connections that are waited for share one lookup, so that a consumer whose name
    server is slow holds one of the reactor's threads and not all of them.
    """

    def __init__(self, reactor: Any, host: str, port: int, bounds: Bounds) -> None:
        """Take a host, in figures or by name; ValueError if it can be neither."""
        self._reactor = reactor
        self._host = host
        self._port = port
        self._bounds = bounds
        self._address = numeric(host)
        if self._address is None:
            host.encode("idna")  # a resolver would not say so: it would never answer
        self._lookup: _Lookup | None = None

    def connect(self, protocolFactory: Any, /) -> Deferred[Any]:  # noqa: N803  Twisted's name
        """Connect; fails with AttemptFailedError if no address is found, or none may be reached."""
        if self._address is not None:
            words = self._bounds.refusal(self._address)
            if words is not None:
                return fail(AttemptFailedError(FailureKind.CONNECT, words))
            kind = TCP4ClientEndpoint if self._address.version == 4 else TCP6ClientEndpoint
            endpoint: Any = kind(self._reactor, self._host, self._port, timeout=int(CONNECT_S))
            return endpoint.connect(protocolFactory)  # type: ignore[no-any-return]  # untyped
        if self._lookup is None or self._lookup.complete:
            self._lookup = _Lookup()
            self._reactor.nameResolver.resolveHostName(
                self._lookup, self._host, portNumber=self._port
            )
        return self._lookup.wait().addCallback(self._connect, protocolFactory)

    def _connect(self, addresses: list[Any], factory: Any) -> Deferred[Any]:
        allowed, refused = [], []
        for address in addresses:
            found = numeric(address.host)
            words = "no address in figures" if found is None else self._bounds.refusal(found)
            if words is None:
                allowed.append(address)
            else:
                refused.append(words)
        if not allowed:
            words = "; ".join(refused[:_TOLD_MAX]) or "no address for that name"
            if len(refused) > _TOLD_MAX:
                words += f"; and {len(refused) - _TOLD_MAX} more"
            raise AttemptFailedError(FailureKind.CONNECT, f"{self._host}: {words}")
        looked_up = _LookedUp(self._reactor, self._host, allowed[:ADDRESSES_MAX])
        # Not by its name, which Twisted would refuse if it has an underscore.
        host = allowed[0].host
        endpoint: Any = HostnameEndpoint(looked_up, host, self._port, timeout=CONNECT_S)
        return endpoint.connect(factory)  # type: ignore[no-any-return]  # untyped


class SecureEndpoint:
    """Does TLS over another endpoint; a `ports.ClientEndpoint`."""

    def __init__(self, endpoint: ClientEndpoint, tls: ConsumerTLS) -> None:
        self._endpoint = endpoint
        self._tls = tls

    def connect(self, protocolFactory: Any, /) -> Deferred[Any]:  # noqa: N803  Twisted's name
        """Connect, and return the protocol within TLS; its handshake is still to come."""
        try:
            factory = self._tls.securing(protocolFactory)
        except AttemptFailedError as error:
            return fail(error)
        connecting = self._endpoint.connect(factory)
        return connecting.addCallback(lambda protocol: protocol.wrappedProtocol)


def endpoint_to(
    reactor: Any, destination: Destination, definition: ConsumerDefinition
) -> ClientEndpoint:
    """Return the endpoint of a consumer; ValueError if its host or its networks make no sense."""
    host = destination.host
    bounds = Bounds(definition.reach)
    plain = ReachingEndpoint(reactor, host, destination.port, bounds)
    if destination.scheme != "https":
        return plain
    return SecureEndpoint(plain, ConsumerTLS(reactor, host, definition.proof))
