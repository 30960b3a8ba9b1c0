"""Certificates that producers show in their TLS handshake: whose they are. Pure.

That a certificate is good, and of an authority that is trusted for producers, was decided in the
handshake. Here its names are compared with those of the route's producers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crowd.door.asked import Asked, Known, Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crowd.policy import CertificatePolicy

_NONE = Refused(
    Reason.CERTIFICATE, "found no certificate; expected one in the TLS handshake", absent=True
)
_OTHER = Refused(Reason.CERTIFICATE, "the certificate is not one of this route's")


class Certificates:
    """The producers of one route, by the names in their certificates."""

    def __init__(self, policies: Iterable[CertificatePolicy]) -> None:
        self._producers = {name: policy.name for policy in policies for name in policy.names}

    def known(self, asked: Asked) -> Known | Refused:
        """Return whose certificate a request's connection has."""
        names = asked.certificate()
        if names is None:
            return _NONE
        for name in names:
            producer = self._producers.get(name)
            if producer is not None:
                return Known(producer, asked.headers)
        return _OTHER
