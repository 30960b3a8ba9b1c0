"""Proves peers to each other: mutual TLS 1.3, and the node's name in the certificate.

The one place of OpenSSL and service-identity. Decides whom to believe; leaves connections
to ``links`` and making certificates to ``certificates``.

Twisted checks a certificate's identity on the connecting side only, so neither side relies
on it: OpenSSL verifies the chain during the handshake, in both directions. Then `identify`
matches the name that was called, and `identify_member` finds the caller's (RFC 6125, by
service-identity), with the same code, before a byte of the peer's data is handed on (I6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from OpenSSL.crypto import X509, PKey
from OpenSSL.SSL import WantReadError
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, DNSPattern, verify_service_identity
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    trustRootFromCertificates,
)
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import directlyProvides, providedBy

from crowd.errors import ConfigurationError, PeerRejectedError
from crowd.raft.certificates import identity_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from twisted.internet.defer import Deferred

    from crowd.clock import Clock
    from crowd.raft.dialer import ClientEndpoint


class MutualTLS:
    """One node's means of proving itself to its peers, and of checking them.

    `certificate` (with any intermediate ones after it), `private_key` and `authority` (one
    certificate or, while an authority is being replaced, several) are PEM. Only their
    contents are read; which files they come from is the configuration's. Raises
    ConfigurationError with every problem found in them.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        cluster: str,
        name: str,
        certificate: bytes,
        private_key: bytes,
        authority: bytes,
    ) -> None:
        self._clock = clock
        self._cluster = cluster
        problems: list[str] = []
        chain = _certificates("cluster.certificate", certificate, problems)
        key = _private_key("cluster.private_key", private_key, problems)
        authorities = _certificates("cluster.authority", authority, problems)
        if not problems:
            problems = _misfits(identity_of(cluster, name), chain, key, authorities)
        if problems:
            raise ConfigurationError(tuple(problems))
        self.expires: datetime = chain[0].not_valid_after_utc
        """When this node's certificate ends, in UTC."""
        # Neither tickets nor a session cache (Twisted's defaults): each connection proves
        # its peer anew.
        # Any: what it implements is known to zope.interface and not to mypy.
        self._options: Any = CertificateOptions(
            privateKey=PKey.from_cryptography_key(key),
            certificate=X509.from_cryptography(chain[0]),
            extraCertChain=[X509.from_cryptography(link) for link in chain[1:]],
            trustRoot=_trusted(authorities),
            raiseMinimumTo=TLSVersion.TLSv1_3,
        )

    def accepting(self, factory: Any) -> Any:
        """Return a factory that does the accepting side of TLS around `factory`'s protocols."""
        return _DirectTLSFactory(self._options, False, factory, cast("Any", self._clock))

    def dialling(self, endpoint: ClientEndpoint) -> ClientEndpoint:
        """Return an endpoint that does the connecting side of TLS over `endpoint`."""
        return _DirectTLSEndpoint(endpoint, self._options, self._clock)

    def identify(self, transport: Any, candidates: Iterable[str]) -> str:
        """Return which of the nodes named in `candidates` is at the other end of `transport`.

        To be called when the handshake is complete. Raises PeerRejectedError, which says
        what was found and expected, if the certificate proves none of them, or more than
        one: wildcards prove nobody.
        """
        certificate = transport.getPeerCertificate()
        expected = {name: identity_of(self._cluster, name) for name in candidates}
        wanted = f"expected one for {' or '.join(expected.values()) or 'nobody'}"
        if certificate is None:
            raise PeerRejectedError(f"found no certificate; {wanted}")
        found = certificate.to_cryptography()
        proved = [name for name, identity in expected.items() if _proves(found, identity)]
        if len(proved) != 1:
            raise PeerRejectedError(f"found a certificate for {_names(found)}; {wanted}")
        return proved[0]

    def identify_member(self, transport: Any) -> str:
        """Return which node of this cluster is at the other end of `transport`, known or not.

        To be called when the handshake is complete. Raises PeerRejectedError, which says
        what was found and expected, unless the certificate proves exactly one node name of
        this cluster: wildcards, names of other clusters and of hosts prove nobody.
        """
        wanted = f"expected one for one node of cluster {self._cluster}"
        certificate = transport.getPeerCertificate()
        if certificate is None:
            raise PeerRejectedError(f"found no certificate; {wanted}")
        found = certificate.to_cryptography()
        proved = {name for name in _first_labels(found) if self._is_proved(found, name)}
        if len(proved) != 1:
            raise PeerRejectedError(f"found a certificate for {_names(found)}; {wanted}")
        return proved.pop()

    def _is_proved(self, certificate: x509.Certificate, name: str) -> bool:
        try:
            identity = identity_of(self._cluster, name)
        except ValueError:  # no node may have that name
            return False
        return _proves(certificate, identity)


RECORD_BYTES: Final = 1 << 14
"""What a record of TLS holds at most (RFC 8446, 5.1)."""
RECORD_OVERHEAD_BYTES: Final = 256
"""What a record takes beside what it holds, at most (RFC 8446, 5.2)."""


class EagerSocket:
    """A TCP transport that sends at once what the socket takes; in all else the transport.

    Twisted sends in the reactor's next turn. Before that a busy node reads some 60 requests,
    which takes 2 ms: a proposal, an acknowledgement or a commit index would wait for as long,
    and each of them costs two calls of epoll_ctl besides.
    """

    def __init__(self, tcp: Connection) -> None:
        self._tcp = tcp
        provided: Any = directlyProvides  # zope.interface has no types
        provided(self, providedBy(tcp))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tcp, name)

    def write(self, data: bytes) -> None:
        """Send, in order; what the socket does not take now waits in the transport."""
        tcp: Any = self._tcp
        queued = tcp.dataBuffer or tcp._tempDataBuffer  # noqa: SLF001  nothing public tells
        if tcp.connected and not tcp.disconnecting and not queued:
            rest = memoryview(data)
            while rest:
                sent = tcp.writeSomeData(rest)  # Twisted hands on 128 KiB at most
                if not isinstance(sent, int) or not sent:
                    break  # it is full, or an error, which the reactor meets again and reports
                rest = rest[sent:]
            if not rest:
                return
            data = bytes(rest)
        tcp.write(data)


class _DirectTLS(TLSMemoryBIOProtocol):
    """TLS without a buffer of its own: a frame is written whole, so there is nothing to gather.

    Its records leave together. Twisted hands each one, of 16 KiB, to the system by itself, which
    for a large frame wakes the peer a dozen times for a piece that it can do nothing with.
    """

    _encrypts = 0  # bytes of a frame, while it is being encrypted

    def makeConnection(self, transport: Any) -> None:  # noqa: N802  Twisted's name
        """Begin TLS over a connection."""
        eager = EagerSocket(transport) if isinstance(transport, Connection) else transport
        super().makeConnection(eager)  # type: ignore[no-untyped-call]  # Twisted's

    def _write(self, bytes: bytes) -> None:  # noqa: A002  Twisted's name
        self._encrypts = len(bytes)
        super()._write(bytes)  # type: ignore[no-untyped-call]  # Twisted's
        size, self._encrypts = self._encrypts, 0
        if size > RECORD_BYTES:
            self._flush(size + (size // RECORD_BYTES + 1) * RECORD_OVERHEAD_BYTES)

    def _flushSendBIO(self) -> None:  # noqa: N802  Twisted's name
        if self._encrypts <= RECORD_BYTES:
            super()._flushSendBIO()  # type: ignore[no-untyped-call]  # Twisted's

    def _flush(self, bytes_max: int) -> None:
        """Write what was encrypted."""
        connection: Any = self._tlsConnection
        try:
            encrypted = connection.bio_read(bytes_max)
        except WantReadError:
            return
        transport: Any = self.transport
        transport.write(encrypted)


class _DirectTLSFactory(TLSMemoryBIOFactory):
    protocol = _DirectTLS


class _DirectTLSEndpoint:
    """The connecting side, as Twisted's ``wrapClientTLS`` but with :class:`_DirectTLS`."""

    def __init__(self, endpoint: ClientEndpoint, options: Any, clock: Clock) -> None:
        self._endpoint = endpoint
        self._options = options
        self._clock = clock

    def connect(self, protocolFactory: Any, /) -> Deferred[Any]:  # noqa: N803  Twisted's name
        """Connect, and return the protocol within TLS."""
        clock = cast("Any", self._clock)
        factory = _DirectTLSFactory(self._options, True, protocolFactory, clock)
        connecting = self._endpoint.connect(factory)
        return connecting.addCallback(lambda protocol: protocol.wrappedProtocol)


def _trusted(authorities: list[x509.Certificate]) -> Any:
    # Neither of Twisted's two is annotated.
    trust_root: Any = trustRootFromCertificates
    wrapped: Any = Certificate
    return trust_root([wrapped(X509.from_cryptography(root)) for root in authorities])


def _proves(certificate: x509.Certificate, identity: str) -> bool:
    """Return whether `identity` stands in the certificate's alternative names, literally."""
    try:
        verify_service_identity(
            cert_patterns=_literals(certificate),
            obligatory_ids=[DNS_ID(identity)],
            optional_ids=[],
        )
    except (VerificationError, CertificateError):  # the latter: it has no names
        return False
    return True


def _literals(certificate: x509.Certificate) -> list[DNSPattern]:
    """Return the certificate's DNS names, in lower case; none if its names make no sense."""
    try:
        patterns = extract_patterns(certificate)
    except (CertificateError, ValueError, x509.DuplicateExtension):
        return []
    return [p for p in patterns if isinstance(p, DNSPattern) and b"*" not in p.pattern]


def _first_labels(certificate: x509.Certificate) -> set[str]:
    """Return what might be names of nodes in the certificate."""
    labels = (pattern.pattern.partition(b".")[0] for pattern in _literals(certificate))
    return {label.decode("ascii", "replace") for label in labels}


def _names(certificate: x509.Certificate) -> str:
    """Return the names in a certificate, for a log line; never more than 200 characters."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        texts = names.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        texts = []
    return " ".join(texts)[:200] or "no name"


def _certificates(what: str, pem: bytes, problems: list[str]) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        problems.append(f"{what}: found no certificate; expected one or more in PEM")
        return []


def _private_key(what: str, pem: bytes, problems: list[str]) -> Any:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):  # TypeError: the key is encrypted
        problems.append(f"{what}: found no key; expected one in PEM, without a passphrase")
        return None


def _misfits(
    identity: str, chain: list[x509.Certificate], key: Any, authorities: list[x509.Certificate]
) -> list[str]:
    """Return what makes these useless together, though each is well-formed."""
    problems: list[str] = []
    own = chain[0]
    if key.public_key() != own.public_key():
        problems.append("cluster.private_key: found another key; expected the certificate's")
    if not _proves(own, identity):
        problems.append(f"cluster.certificate: found {_names(own)}; expected {identity}")
    if len(chain) == 1 and not any(_issued(own, issuer) for issuer in authorities):
        problems.append(
            f"cluster.certificate: found one issued by {own.issuer.rfc4514_string()!r}; "
            "expected one issued by cluster.authority"
        )
    return problems


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
