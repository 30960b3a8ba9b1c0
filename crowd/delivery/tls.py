"""TLS with a consumer: whom crowd believes, and what it shows of itself.

Decides which authority, and which certificate of crowd's own, a connection uses, and when
their files are read again. The checks are Twisted's `optionsForClientTLS`: the chain by
OpenSSL, and by service-identity (RFC 6125) that the certificate is for the host of the
consumer's URL, a name or an IP address, whatever address the connection goes to. TLS 1.2 or
newer. Leaves connecting to ``endpoint``.

With ``raft/tls`` the only place of OpenSSL.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL.crypto import X509, PKey
from OpenSSL.SSL import Error as TLSError
from service_identity import CertificateError, VerificationError
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol

from crowd.delivery.outcome import FailureKind
from crowd.errors import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.clock import Clock
    from crowd.command import Proof

LOOK_AGAIN_S: Final = 60.0
"""How long files may have changed before a new connection notices: renewals come hours
before an old certificate ends. While they are of no use, each new connection looks again."""

FILE_BYTES_MAX: Final = 4 << 20
"""The bundle of all authorities that browsers trust has a quarter of a megabyte."""

_Read = tuple[str, bytes]
_Stamp = tuple[int, int, int]


class _TLSFactory(TLSMemoryBIOFactory):
    # Without Twisted's buffer in front: a request is written whole, so there is nothing to
    # gather, and the buffer would hold it until the reactor's next turn.
    protocol = TLSMemoryBIOProtocol


class ConsumerTLS:
    """The connecting side of TLS with one consumer, whose URL names `host`.

    Reads files within `securing`, in the reactor's thread: a few kilobytes, at most once a
    minute while all is well. They should not be on a network's file system.
    """

    def __init__(self, clock: Clock, host: str, proof: Proof) -> None:
        """Read nothing yet; ValueError if no certificate can be for `host`."""
        optionsForClientTLS(host)
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
        trust = None if "tls.authority" not in read else _trusted(*read["tls.authority"])
        ours: dict[str, Any] = {}
        if "tls.certificate" in read and "tls.private_key" in read:
            ours = _shown(read["tls.certificate"], read["tls.private_key"])
        self._options = optionsForClientTLS(
            self._host, trustRoot=trust, extraCertificateOptions=ours
        )


def words_of(error: BaseException | None) -> str | None:
    """Return what went wrong with TLS in words for an operator; None if `error` is no TLS error."""
    if isinstance(error, (VerificationError, CertificateError)):
        return "the certificate is not for the host of the consumer's url"
    if isinstance(error, TLSError):
        # OpenSSL's errors are (library, function, reason), the first one first.
        reasons = [entry[2] for entry in (error.args[0] if error.args else ()) if entry[2]]
        words = ", ".join(reasons) or "ended by the consumer"
        if "certificate verify failed" in words:
            words += ": expired, not valid yet, or of an authority that is not trusted"
        return words
    return None


def refuses_us(error: BaseException | None) -> bool:
    """Return whether a consumer ended TLS because of what crowd showed, or did not show.

    In TLS 1.3 it says so after the handshake, and so perhaps after a request was written;
    it has read none of it.
    """
    words = (words_of(error) or "") if isinstance(error, TLSError) else ""
    return "alert" in words and ("certificate" in words or "unknown ca" in words)


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
