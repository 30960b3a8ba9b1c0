"""Who a producer is behind proxies that are trusted. Pure.

Each proxy adds, at the right end of a list, who came to it (``X-Forwarded-For`` by custom,
``Forwarded`` by RFC 7239). What stands there can be believed as far as proxies can: from the
right, up to the first address that is no trusted proxy's. That one is the producer; what stands to the left of
it, it may have written itself. Only one of the two fields is read: the other one a proxy would pass on as it
came, and anybody could write it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crowd.door.asked import Field

HOPS_MAX: Final = 32
"""Proxies before a node. There are two or three; a longer list is somebody's invention."""

FORWARDED: Final = "Forwarded"

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]{1,64}))?\Z"  # RFC 7239, section 6.2: or a hidden one
_NODE = re.compile(rf"\[([0-9a-fA-F:.]+)\]{_PORT}|([0-9.]+){_PORT}")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|[^",;]+|[",;]')
_FOR = re.compile(r"[ \t]*for[ \t]*=[ \t]*(\S*)", re.IGNORECASE)


class Proxies:
    """The proxies that are trusted, and the field in which they say who came to them."""

    def __init__(self, networks: Sequence[str], field: str) -> None:
        self._networks = tuple(map(ipaddress.ip_network, networks))
        self._field = field.lower().encode("ascii")
        self._elements = _forwarded if field == FORWARDED else _listed

    def client(self, peer: bytes, headers: Sequence[Field]) -> bytes:
        """Return the producer's address, where `peer` is who made the connection.

        A list that makes no sense is believed up to there, from the right.
        """
        nearest = _address(peer.decode("ascii", "replace").partition("%")[0])
        if nearest is None or not self._trusts(nearest):
            return peer
        text = b",".join([value for name, value in headers if name.lower() == self._field])
        found = nearest
        for element in self._elements(text.decode("latin-1")):
            address = _address(element)
            if address is None:
                break
            found = address
            if not self._trusts(address):
                break
        return str(found).encode("ascii")

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def _listed(text: str) -> Iterator[str]:
    """Yield the elements of an X-Forwarded-For, the last one first."""
    return (part.strip() for part in reversed(text.rsplit(",", HOPS_MAX)[-HOPS_MAX:]))


def _forwarded(text: str) -> Iterator[str]:
    """Yield what each element of a Forwarded says it is for, the last one first.

    A quote without its end makes all of the list unbelievable: a producer that opens one has
    everything that proxies add read as text of its own, and one of theirs is then left over.
    """
    elements: list[list[str]] = [[""]]
    for piece in _QUOTED.findall(text):
        if piece == '"':
            return
        if piece == ",":
            elements.append([""])
        elif piece == ";":
            elements[-1].append("")
        else:
            elements[-1][-1] += piece
    for pairs in reversed(elements[-HOPS_MAX:]):
        named = next(filter(None, map(_FOR.match, pairs)), None)
        yield named[1].strip('"') if named else ""


def _address(text: str) -> _Address | None:
    """Return the address that a text is, with or without a port, or None.

    One with a zone is None: it means something to one machine alone, and a zone may be any text.
    """
    node = _NODE.match(text)
    if node is not None:
        text = node[1] or node[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if getattr(address, "scope_id", None) is not None:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
