"""Which addresses a consumer's host may be at.

Decides, for one numeric address, whether the consumer's `Reach` allows a connection to it,
and in which words it does not. Pure. Leaves looking names up, and connecting to the very
address that was judged, to ``endpoint``: only so does a name that changes its address
between the two (DNS rebinding) get nowhere.

An IPv6 address can carry an IPv4 address, and a network that translates leads there. An
IPv4-mapped one (RFC 4291, 2.5.5.2) *is* that IPv4 address, to every system. The others are
refused wherever the IPv4 address in them is: IPv4-compatible ones (RFC 4291, 2.5.5.1), those
of NAT64's well-known prefix (RFC 6052), of 6to4 (RFC 3056) and of Teredo (RFC 4380).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network

    from crowd.definition import Reach

    Network: TypeAlias = IPv4Network | IPv6Network

Address: TypeAlias = IPv4Address | IPv6Address

_EMBEDDING: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
"""Networks whose addresses end in an IPv4 address."""

_LOOPBACK_4: Final = IPv4Address("127.0.0.1")
_LOOPBACK_6: Final = IPv6Address("::1")


def numeric(host: str) -> Address | None:
    """Return the address that `host` is in figures, or None if it is a name.

    Short forms such as ``127.1`` are names here: a resolver makes an address of them, which
    is then judged as any other.
    """
    try:
        return ip_address(host)
    except ValueError:
        return None


class Bounds:
    """A consumer's `Reach`, its networks parsed once."""

    def __init__(self, reach: Reach) -> None:
        """Take the networks of `reach`; ValueError if one of them is none."""
        self._allow = tuple(map(ip_network, reach.allow))
        self._deny = tuple(map(ip_network, reach.deny))

    def refusal(self, address: Address) -> str | None:
        """Return why no connection may be made to `address`, or None if one may."""
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        itself = mapped or address
        if self._allow:
            if _holding(self._allow, itself) is None:
                return f"{address} is in no network of reach.allow"
            return None
        for form in (itself, *_carried(itself)):
            network = _holding(self._deny, form)
            if network is not None:
                within = "" if form == address else f" (as {form})"
                return f"{address}{within} is in {network} of reach.deny"
        return None


def _holding(networks: Iterable[Network], address: Address) -> Network | None:
    # Another IP version's network holds no address of this one's.
    return next((network for network in networks if address in network), None)


def _carried(address: Address) -> list[Address]:
    """Return the other addresses that an address may lead to."""
    if isinstance(address, IPv4Address):
        return [_LOOPBACK_4] if address.is_unspecified else []
    if address.is_unspecified:
        return [_LOOPBACK_6, _LOOPBACK_4]
    carried: list[Address] = (
        [IPv4Address(address.packed[12:])] if _holding(_EMBEDDING, address) else []
    )
    if address.sixtofour is not None:
        carried.append(address.sixtofour)
    if address.teredo is not None:
        carried.extend(address.teredo)
    return carried
