# ruff: noqa: N802 - Twisted's names
"""The PROXY protocol: a balancer says in front of a connection whose connection it is.

Decides what such a header may be (version 1 and 2 of the specification that comes with HAProxy,
``doc/proxy-protocol.txt``), who may send one, and that a connection without one is none: whoever could choose to
send it could choose his address. Leaves the connection behind it to the factory that it wraps, TLS or HTTP.

Twisted has a wrapper too. It tells its protocol of the connection before the header is there, which is when
`Channel` looks at its peer; it takes the header from anybody, and needs its first 16 bytes in one piece.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from zope.interface import directlyProvides, implementer, providedBy

from crowd.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IAddress
    from twisted.python.failure import Failure

    from crowd.clock import Clock, Timer

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
LINE_BYTES_MAX: Final = 107
"""The specification's bound for version 1."""
HEADER_BYTES_MAX: Final = 4096
"""For version 2: addresses take 36 bytes, and what balancers add of TLS some hundred."""
PENDING_MAX: Final = 1024
"""Connections without a header yet: balancers send it at once."""

_FIRST: Final = b"PROXY "
_LINE: Final = re.compile(
    rb"PROXY (?:(TCP[46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})|UNKNOWN[^\r\n]*)\r\n"
)
_ADDRESS_BYTES: Final = {0x11: 4, 0x21: 16}
"""Families with the transport: TCP over IPv4 and over IPv6."""
_UNNAMED: Final = (0x00, 0x31)
"""Families whose addresses say nothing to a consumer: none, and UNIX sockets."""
_TLV_TLS: Final = 0x20
_TLS_FLAG: Final = 0x01


class MalformedHeaderError(MalformedError):
    """What a connection began with is no header of the PROXY protocol."""


class Header(msgspec.Struct, frozen=True):
    """`size` bytes were the header. Without addresses the connection is the balancer's own.

    ``over_tls``: the balancer says that the producer came over TLS.
    """

    size: int
    source: tuple[str, int] | None = None
    destination: tuple[str, int] | None = None
    over_tls: bool = False


def read_header(data: bytes) -> Header | None:
    """Return the header with which `data` begins, or None if there must be more of it.

    Raises MalformedHeaderError as soon as it can be none.
    """
    if data[:12] == SIGNATURE[: len(data)]:
        return _binary(data)
    if data[:6] == _FIRST[: len(data)]:
        return _line(data)
    raise MalformedHeaderError("expected a header of the PROXY protocol")


def _line(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, LINE_BYTES_MAX)
    if end < 0:
        if len(data) >= LINE_BYTES_MAX:
            raise MalformedHeaderError("expected a line of at most 107 bytes")
        return None
    match = _LINE.fullmatch(data, 0, end + 2)
    if match is None:
        raise MalformedHeaderError("expected addresses and ports")
    family = match[1]
    if family is None:
        return Header(end + 2)
    version = 4 if family == b"TCP4" else 6
    places = [_place(match[n].decode("ascii"), int(match[n + 2]), version) for n in (2, 3)]
    return Header(end + 2, places[0], places[1])


def _place(host: str, port: int, version: int) -> tuple[str, int]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise MalformedHeaderError("expected an address") from None
    if address.version != version or port >= 2**16:
        raise MalformedHeaderError("expected an address of its family, and a port")
    return str(address), port


def _binary(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    version, command = data[12] >> 4, data[12] & 0x0F
    family, length = data[13], int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1 or length > HEADER_BYTES_MAX:
        raise MalformedHeaderError("expected version 2, LOCAL or PROXY, and at most 4096 bytes")
    size = 16 + length
    if len(data) < size:
        return None
    if command == 0 or family in _UNNAMED:  # a balancer's probe, or one that says nothing
        return Header(size)
    width = _ADDRESS_BYTES.get(family)
    if width is None or length < 2 * width + 4:
        raise MalformedHeaderError("expected TCP over IPv4 or IPv6, and its addresses")
    ports = 16 + 2 * width
    hosts = [str(ipaddress.ip_address(data[at : at + width])) for at in (16, 16 + width)]
    source, destination = (int.from_bytes(data[at : at + 2], "big") for at in (ports, ports + 2))
    over_tls = _says_tls(data[ports + 4 : size])
    return Header(size, (hosts[0], source), (hosts[1], destination), over_tls)


def _says_tls(rest: bytes) -> bool:
    """Look for the balancer's word on TLS among the header's extensions."""
    while rest:
        length = int.from_bytes(rest[1:3], "big")
        value = rest[3 : 3 + length]
        if len(rest) < 3 or len(value) < length:
            raise MalformedHeaderError("expected whole extensions")
        if rest[0] == _TLV_TLS and value[:1]:
            return bool(value[0] & _TLS_FLAG)
        rest = rest[3 + length :]
    return False


class Balancers(Factory):
    """Wraps `factory`: connections come from `networks` alone, and each begins with a header.

    `header_s` is how long a header may take. `refused` is called for each connection that is
    refused. A UNIX socket's permissions say who may connect to it.
    """

    noisy = False

    def __init__(
        self, factory: Any, networks: Sequence[str], clock: Clock, *,
        header_s: float, refused: Callable[[], None],
    ) -> None:  # fmt: skip
        self.factory = factory
        self.clock = clock
        self.header_s = header_s
        self.refused = refused
        self.pending = 0
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def buildProtocol(self, addr: IAddress | None) -> _Announced | None:
        """Return what waits for a header, or None if it would be nobody's."""
        if self.pending >= PENDING_MAX or not self._is_balancer(getattr(addr, "host", None)):
            self.refused()
            return None
        return _Announced(self)

    def _is_balancer(self, host: str | None) -> bool:
        if host is None:
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


@implementer(IHalfCloseableProtocol)
class _Announced(TwistedProtocol):
    """A connection that begins with a header; everything behind it goes to another protocol."""

    transport: Any

    def __init__(self, balancers: Balancers) -> None:
        self._balancers = balancers
        self._head = b""
        self._inner: Any = None
        self._late: Timer | None = None

    def connectionMade(self) -> None:
        """Wait for the header, not for ever."""
        self._balancers.pending += 1
        late = self._balancers.clock.callLater(self._balancers.header_s, self._refuse)
        self._late = late

    def dataReceived(self, data: bytes) -> None:
        """Read the header, or hand on what comes behind it."""
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        if self._late is None:
            return  # refused
        self._head += data
        try:
            header = read_header(self._head)
        except MalformedHeaderError:
            self._refuse()
            return
        if header is not None:
            self._begin(header, self._head[header.size :])

    def _begin(self, header: Header, rest: bytes) -> None:
        self._settle()
        self._head = b""
        told = _Told(self.transport, header)
        inner = self._balancers.factory.buildProtocol(told.getPeer())
        if inner is None:
            self.transport.abortConnection()
            return
        self._inner = inner
        inner.makeConnection(told)
        if rest:
            inner.dataReceived(rest)

    def _refuse(self) -> None:
        self._settle()
        self._balancers.refused()
        self.transport.abortConnection()

    def _settle(self) -> None:
        late, self._late = self._late, None
        if late is not None:
            self._balancers.pending -= 1
            if late.active():
                late.cancel()

    def readConnectionLost(self) -> None:
        """Tell who is behind the header, if he can do something with half a connection."""
        if IHalfCloseableProtocol.providedBy(self._inner):
            self._inner.readConnectionLost()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Tell who is behind the header."""
        if IHalfCloseableProtocol.providedBy(self._inner):
            self._inner.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        self._settle()
        if self._inner is not None:
            self._inner.connectionLost(reason)


class _Told:
    """A transport whose ends are those that a header named; in all else the transport."""

    def __init__(self, transport: Any, header: Header) -> None:
        self._transport = transport
        self._header = header
        self.over_tls = header.over_tls
        provided: Any = directlyProvides  # zope.interface has no types
        provided(self, providedBy(transport))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def getPeer(self) -> Any:
        """Return the producer's address."""
        source = self._header.source
        return self._transport.getPeer() if source is None else _address(*source)

    def getHost(self) -> Any:
        """Return the address to which the producer connected."""
        destination = self._header.destination
        return self._transport.getHost() if destination is None else _address(*destination)


def _address(host: str, port: int) -> IPv4Address | IPv6Address:
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, port)
