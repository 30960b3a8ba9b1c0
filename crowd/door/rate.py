"""How often each producer may post: the generic cell rate algorithm, one number a producer. Pure.

A producer may post once an interval, and a burst before that is held against it. What is kept
of it is when it would be even again (ITU-T I.371, annex A, calls it the theoretical arrival
time); so nothing has to be counted down, and a refused request costs it nothing.

Each process that takes requests counts what comes to it: behind a balancer over three nodes, or at a
node with three workers, a producer has up to three times the rate.
"""

from __future__ import annotations

import ipaddress
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from crowd.door.asked import Reason, Refused

if TYPE_CHECKING:
    from crowd.policy import RatePolicy

PRODUCERS_MAX: Final = 10_000
"""Producers that are remembered, about 2 MB. Who was refused or posted longest ago is forgotten
first, and has its whole burst when it comes again: that errs on the producer's side."""

_NETWORK_BITS: Final = 64
"""Of an IPv6 address: one customer has at least so many, and all addresses beneath."""


class Rate:
    """The rate of one route, kept for each producer."""

    def __init__(self, policy: RatePolicy) -> None:
        self.by_address = policy.by == "address"
        self._interval_s = 1.0 / policy.per_s
        self._ahead_s = self._interval_s * (policy.burst - 1)
        self._even_at_s: dict[str | bytes, float] = {}  # in the order of the last request

    def take(self, producer: str | bytes, now_s: float) -> Refused | None:
        """Count a request of `producer`, or return why it comes too early."""
        known = self._even_at_s
        even_at_s = max(known.pop(producer, now_s), now_s)
        early_s = even_at_s - now_s - self._ahead_s
        # Sums of intervals are not exact: a nanosecond is no reason to refuse anybody.
        if early_s > 1e-9:
            known[producer] = even_at_s
            return Refused(
                Reason.RATE,
                "this route takes no more from one producer for now",
                retry_after_s=math.ceil(early_s),
            )
        if len(known) >= PRODUCERS_MAX:
            del known[next(iter(known))]
        known[producer] = even_at_s + self._interval_s
        return None


@lru_cache(maxsize=4_096)  # The producers that come often; a bound for addresses without end.
def neighbourhood(client: bytes) -> bytes:
    """Return what one producer's addresses have in common: all of IPv4's, half of IPv6's."""
    if b":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.decode("ascii").partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped).encode("ascii")
    return address.packed[: _NETWORK_BITS // 8]
