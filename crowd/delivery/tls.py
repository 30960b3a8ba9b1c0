"""TLS with a consumer: whom crowd believes, and what it shows of itself.

Decides which authority, and which certificate of crowd's own, a connection uses, when their
files are read again, and whether a consumer has proved that it is the host of its URL, a name
or an IP address, whatever address the connection goes to: the chain by OpenSSL, the host by
service-identity (RFC 6125). TLS 1.2 or newer. Leaves connecting to ``endpoint``.

Twisted's `optionsForClientTLS` would do the same, but for one thing: to a certificate of a
believed authority in which there is no name at all, or one that makes no sense, its check
raises an error that it logs, and goes on as if there had been none. Here all that is not
proof is refused, and OpenSSL's reason is told.

With ``raft/tls`` the only place of OpenSSL.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from crowd.delivery.outcome import FailureKind
from crowd.delivery.reach import numeric
from crowd.errors import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.clock import Clock
    from crowd.definition import Proof

LOOK_AGAIN_S: Final = 60.0
"""How long files may have changed before a new connection notices: renewals come hours
before an old certificate ends. While they are of no use, each new connection looks again."""

FILE_BYTES_MAX: Final = 4 << 20
"""The bundle of all authorities that browsers trust has a quarter of a megabyte."""

_NOT_TRUSTED: Final = "is not of an authority that is trusted"
_FLAWS: Final = {
    2: _NOT_TRUSTED, 9: "is not valid yet", 10: "has expired", 18: _NOT_TRUSTED, 19: _NOT_TRUSTED,
    20: _NOT_TRUSTED, 21: _NOT_TRUSTED, 23: "is revoked",
    26: "is not made for a server",
}  # fmt: skip
"""What the more frequent of OpenSSL's results of verification mean (X509_V_ERR_...)."""

_Read = tuple[str, bytes]
_Stamp = tuple[int, int, int]


class _TLSFactory(TLSMemoryBIOFactory):
    # Without Twisted's buffer in front: a request is written whole, so there is nothing to
    # gather, and the buffer would hold it until the reactor's next turn.
    protocol = TLSMemoryBIOProtocol


@implementer(IOpenSSLClientConnectionCreator)
class _Demanding:
    """Makes the TLS of connections to one host, each of which demands that it is the host."""

    def __init__(self, host: str, trust: Any, shown: dict[str, Any]) -> None:
        """Believe `trust` (a trust root of Twisted's), and have `shown` to show.

        Raises ValueError if no certificate can be for `host`.
        """
        # Neither tickets nor a session cache (Twisted's defaults): each connection is proved.
        options: Any = CertificateOptions(trustRoot=trust, **shown)
        self._context: SSL.Context = options.getContext()
        self._host = host
        self._identity, self._called = _identity(host)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803
        """Return what does the handshake for `tlsProtocol`, which hears of what is no proof."""
        connection = SSL.Connection(self._context, None)
        if self._called is not None:
            connection.set_tlsext_host_name(self._called)
        protocol = weakref.ref(tlsProtocol)  # which holds the connection: no cycle

        def judge(_: Any, certificate: X509, flaw: int, depth: int, ok: int) -> bool:
            # OpenSSL asks for each certificate from the authority's down to the consumer's
            # own, at depth 0, and again for each flaw; the first refusal ends the handshake.
            words = self._refusal(certificate, flaw, depth) if ok else _flaw(flaw, depth)
            judged = protocol()
            if words is not None and judged is not None:
                judged.failVerification(Failure(_unusable(words)))  # type: ignore[no-untyped-call]
            return words is None

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, judge)
        return connection

    def _refusal(self, certificate: X509, flaw: int, depth: int) -> str | None:
        if flaw:
            return _flaw(flaw, depth)
        if depth:
            return None
        try:
            patterns = extract_patterns(certificate.to_cryptography())
            verify_service_identity(patterns, [self._identity], [])
        except VerificationError:
            return f"the certificate is not for {self._host}"
        except CertificateError as error:
            return f"the certificate is not for {self._host}: {error}"
        except Exception as error:  # noqa: BLE001  whatever it is, nothing was proved
            return f"the certificate makes no sense: {error}"
        return None


class ConsumerTLS:
    """The connecting side of TLS with one consumer, whose URL names `host`.

    Files are read within `securing`, in the reactor's thread: a few kilobytes, and only if
    they have changed. They should not be on a network's file system. OpenSSL takes some
    milliseconds to read the system's authorities, at the first connection.
    """

    def __init__(self, clock: Clock, host: str, proof: Proof) -> None:
        """Read nothing yet; ValueError if no certificate can be for `host`."""
        _identity(host)
        self._clock = clock
        self._host = host
        self._paths = {
            key: Path(path)
            for key, path in (
                ("tls.authority", proof.authority),
                ("tls.certificate", proof.certificate),
                ("tls.private_key", proof.private_key),
            )
            if path is not None
        }
        self._stamps: dict[str, _Stamp] = {}
        self._options: Any = None
        self._looked_s = 0.0

    def securing(self, factory: Any) -> Any:
        """Return a factory that does TLS around the protocols of `factory`.

        Raises AttemptFailedError, which names the file, if one of them is of no use.
        """
        now_s = self._clock.seconds()
        if self._options is None or now_s - self._looked_s >= LOOK_AGAIN_S:
            self._looked_s = now_s
            self._look()
        clock: Any = self._clock
        return _TLSFactory(self._options, True, factory, clock)

    def _look(self) -> None:
        """Read the files if they have changed. An old certificate does not outlive its file."""
        stamps = {key: _stamp(key, path) for key, path in self._paths.items()}
        if self._options is not None and stamps == self._stamps:
            return
        self._options = None
        self._stamps = stamps
        read = {key: (f"{key} {path}", _content(key, path)) for key, path in self._paths.items()}
        systems: Callable[[], Any] = platformTrust  # which Twisted has not annotated
        trust = _trusted(*read["tls.authority"]) if "tls.authority" in read else systems()
        ours: dict[str, Any] = {}
        if "tls.certificate" in read and "tls.private_key" in read:
            ours = _shown(read["tls.certificate"], read["tls.private_key"])
        self._options = _Demanding(self._host, trust, ours)


def words_of(error: BaseException | None) -> str | None:
    """Return what went wrong with TLS in words for an operator; None if `error` is no TLS error."""
    if isinstance(error, AttemptFailedError):
        return error.words
    if isinstance(error, SSL.Error):
        # OpenSSL's errors are (library, function, reason), the first one first.
        entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
        return ", ".join(entry[2] for entry in entries if entry[2]) or "ended by the consumer"
    return None


def refuses_us(error: BaseException | None) -> bool:
    """Return whether a consumer ended TLS because of what crowd showed, or did not show.

    In TLS 1.3 it says so after the handshake, and so perhaps after a request was written;
    it has read none of it.
    """
    words = (words_of(error) or "") if isinstance(error, SSL.Error) else ""
    return "alert" in words and ("certificate" in words or "unknown ca" in words)


def _identity(host: str) -> tuple[Any, bytes | None]:
    """Return what a certificate must be for, and the name to call (SNI); an address has none."""
    if numeric(host) is not None:
        return IPAddress_ID(host), None
    # A dot at the end is the resolver's business; neither certificates nor SNI have it.
    identity = DNS_ID(host.removesuffix("."))
    return identity, identity.hostname


def _flaw(flaw: int, depth: int) -> str:
    """Return the words for a result of OpenSSL's verification."""
    which = "an authority's certificate" if depth else "the certificate"
    return f"{which} {_FLAWS.get(flaw, f'does not hold (verify error {flaw} of OpenSSL)')}"


def _unusable(words: str) -> AttemptFailedError:
    return AttemptFailedError(FailureKind.TLS, words)


def _stamp(key: str, path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise _unusable(f"{key} {path}: {error.strerror}") from None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _content(key: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _unusable(f"{key} {path}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise _unusable(f"{key} {path}: over {FILE_BYTES_MAX} bytes")
    return content


def _certificates(what: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise _unusable(f"{what}: found no certificate; expected one or more in PEM") from None


def _trusted(what: str, pem: bytes) -> Any:
    # Neither of Twisted's two is annotated.
    trust_root: Callable[[list[Any]], Any] = trustRootFromCertificates
    wrapped: Callable[[X509], Any] = Certificate
    return trust_root([wrapped(X509.from_cryptography(one)) for one in _certificates(what, pem)])


def _shown(certificate: _Read, private_key: _Read) -> dict[str, Any]:
    """Return crowd's own certificate and key as Twisted's CertificateOptions takes them."""
    chain = _certificates(*certificate)
    what, pem = private_key
    try:
        key: Any = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):  # TypeError: it is encrypted
        words = f"{what}: found no key; expected one in PEM, without a passphrase"
        raise _unusable(words) from None
    if key.public_key() != chain[0].public_key():
        raise _unusable(f"{what}: found another key; expected the one of tls.certificate")
    return {
        "privateKey": PKey.from_cryptography_key(key),
        "certificate": X509.from_cryptography(chain[0]),
        "extraCertChain": [X509.from_cryptography(link) for link in chain[1:]],
    }
