# ruff: noqa: N802, N803 - Twisted's names
"""TLS with producers: what this node shows of itself, and whom it asks to prove who he is.

Decides versions (1.2 and 1.3), ciphers, and when the files are read: at the start and whenever the
operator asks. New connections get what was read last; those that are there go on with what they began with. Files
that are of no use change nothing. Leaves what a proven name may do to the handlers.

With ``raft/tls`` and ``delivery/tls`` the only place of OpenSSL.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import (
    AcceptableCiphers,
    Certificate,
    CertificateOptions,
    TLSVersion,
    trustRootFromCertificates,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from crowd.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.clock import Clock
    from crowd.config import DoorTLS

FILE_BYTES_MAX: Final = 1 << 20
"""A chain has some 10 KiB, and an authority of a producers' circle no more."""

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those with forward secrecy and authenticated encryption. TLS 1.3 has no others."""

_USABLE: Final = (
    rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
)  # fmt: skip
"""The kinds of key that a handshake in these versions can be signed with."""

_KEY: Final = "node.tls.private_key"
_CERTIFICATE: Final = "node.tls.certificate"
_AUTHORITY: Final = "node.tls.client_authority"


class ProducerTLS:
    """The TLS of the producers' ports. In the reactor's thread.

    Raises ConfigurationError with every problem of the files. `wall` is the time in UTC.
    """

    _log = Logger()

    def __init__(
        self,
        files: DoorTLS,
        wall: Callable[[], datetime],
        opened: Callable[[str], bytes] | None = None,
    ) -> None:
        """Read the files; `opened` returns one's content, or raises OSError."""
        self._files = files
        self._wall = wall
        self._opened = opened or read_file
        self.contents: dict[str, bytes] = {}
        """What the files held that are in use, by their paths. One of them is a secret."""
        self.expires: datetime
        """When the certificate ends that new connections are shown."""
        self._context, self.expires = self._read(None)
        if self.expires <= wall():
            self._log.error("{key} has ended: producers refuse it", key=_CERTIFICATE)

    def again(self) -> None:
        """Read the files again. A problem is logged, and the node goes on with what it has."""
        try:
            context, expires = self._read(self._wall())
        except ConfigurationError as error:
            for problem in error.problems:
                self._log.error(
                    "certificate not read again, the one in use stays: {problem}", problem=problem
                )
            return
        self._context, self.expires = context, expires
        self._log.info("certificate read again: it ends {expires}", expires=expires.isoformat())

    def _read(self, now: datetime | None) -> tuple[SSL.Context, datetime]:
        contents: dict[str, bytes] = {}

        def opened(path: str) -> bytes:
            contents[path] = self._opened(path)
            return contents[path]

        read = _read(self._files, now, opened)
        self.contents = contents
        return read

    def accepting(self, factory: Any, clock: Clock) -> Any:
        """Return a factory that does the accepting side of TLS around `factory`'s protocols."""
        newest: Any = _Newest(lambda: self._context)  # what it implements zope.interface knows
        return _Factory(newest, False, factory, cast("Any", clock))


class _Factory(TLSMemoryBIOFactory):
    # Without Twisted's buffer in front: an answer is written whole, and would wait in it.
    protocol = TLSMemoryBIOProtocol

    def buildProtocol(self, addr: Any) -> Any:
        """Return None, which closes the connection, where the factory within takes none now."""
        wrapped = self.wrappedFactory.buildProtocol(addr)
        protocol: Any = self.protocol
        return None if wrapped is None else protocol(self, wrapped)


@implementer(IOpenSSLServerConnectionCreator)
class _Newest:
    """Begins each connection with the context that is in use then."""

    def __init__(self, context: Callable[[], SSL.Context]) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Return what does the handshake for `tlsProtocol`."""
        del tlsProtocol
        return SSL.Connection(self._context(), None)


def read_file(path: str) -> bytes:
    """Return what a file holds, of which a sound one has all; raise OSError if it cannot be read."""
    with Path(path).open("rb") as opened:
        return opened.read(FILE_BYTES_MAX)


def _read(
    files: DoorTLS, now: datetime | None, opened: Callable[[str], bytes]
) -> tuple[SSL.Context, datetime]:
    """Return a context, and when its certificate ends; it must not have ended by `now`.

    Raises ConfigurationError with every problem.
    """
    problems: list[str] = []
    chain = _certificates(_CERTIFICATE, files.certificate, problems, opened)
    key = _private_key(files.private_key, problems, opened)
    trusted = (
        None
        if files.client_authority is None
        else _certificates(_AUTHORITY, files.client_authority, problems, opened)
    )
    if chain and key is not None and not _belongs(chain[0], key):
        problems.append(
            f"{_KEY}: {files.private_key}: found another key; expected the certificate's"
        )
    if chain and now is not None and chain[0].not_valid_after_utc <= now:
        problems.append(
            f"{_CERTIFICATE}: {files.certificate}: found one that has ended; expected a newer one"
        )
    if chain and now is not None and chain[0].not_valid_before_utc > now:
        begins = chain[0].not_valid_before_utc.isoformat()
        problems.append(
            f"{_CERTIFICATE}: {files.certificate}: found one that begins {begins}; expected one that "
            "holds now"
        )
    if problems:
        raise ConfigurationError(tuple(problems))
    try:
        context = _context(chain, key, trusted, demands=files.client_certificate == "require")
    except SSL.Error as error:
        problem = (
            f"{_CERTIFICATE}: {files.certificate}: found one that OpenSSL refuses "
            f"({_reason(error)}); expected a key of 2048 bits RSA or a curve of 256 at least"
        )
        raise ConfigurationError((problem,)) from None
    return context, chain[0].not_valid_after_utc.astimezone(UTC)


def _belongs(certificate: x509.Certificate, key: Any) -> bool:
    """Tell whether a private key is that of a certificate, whose own may be of any kind."""
    try:
        return bool(certificate.public_key() == key.public_key())
    except (UnsupportedAlgorithm, ValueError):
        return False


def _reason(error: SSL.Error) -> str:
    """Return OpenSSL's words for what is wrong."""
    reasons = [entry[-1] for entry in error.args[0]] if error.args else []
    return reasons[-1] if reasons else "no reason given"


def _context(
    chain: list[x509.Certificate],
    key: Any,
    trusted: list[x509.Certificate] | None,
    *,
    demands: bool,
) -> SSL.Context:
    clients: dict[str, Any] = {}
    if trusted is not None:
        trust_root: Any = trustRootFromCertificates  # neither of Twisted's two is annotated
        wrapped: Any = Certificate
        clients["trustRoot"] = trust_root(
            [wrapped(X509.from_cryptography(root)) for root in trusted]
        )
    # Neither tickets nor a session cache (Twisted's defaults): each connection is proved.
    ciphers: Any = AcceptableCiphers  # not annotated
    options: Any = CertificateOptions(
        privateKey=PKey.from_cryptography_key(key),
        certificate=X509.from_cryptography(chain[0]),
        extraCertChain=[X509.from_cryptography(link) for link in chain[1:]],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        acceptableCiphers=ciphers.fromOpenSSLCipherString(CIPHERS),
        **clients,
    )
    context: SSL.Context = options.getContext()
    if trusted is not None and not demands:
        context.set_verify(SSL.VERIFY_PEER, _believe)
    return context


def _believe(_: Any, __: Any, ___: int, ____: int, ok: int) -> bool:
    """Take OpenSSL's word: one who shows a certificate must show a good one."""
    return bool(ok)


def _certificates(
    key: str, file: str, problems: list[str], opened: Callable[[str], bytes]
) -> list[x509.Certificate]:
    pem = _bytes(key, file, problems, opened)
    if pem is None:
        return []
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        problems.append(f"{key}: {file}: found no certificate; expected one or more in PEM")
        return []


def _private_key(file: str, problems: list[str], opened: Callable[[str], bytes]) -> Any:
    pem = _bytes(_KEY, file, problems, opened)
    if pem is None:
        return None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):  # TypeError: the key is encrypted
        problems.append(f"{_KEY}: {file}: found no key; expected one in PEM, without a passphrase")
        return None
    except UnsupportedAlgorithm:
        key = None
    if not isinstance(key, _USABLE):
        problems.append(f"{_KEY}: {file}: found another kind of key; expected RSA, ECDSA or EdDSA")
        return None
    return key


def _bytes(
    key: str, file: str, problems: list[str], opened: Callable[[str], bytes]
) -> bytes | None:
    try:
        return opened(file)
    except OSError as error:
        problems.append(f"{key}: {file}: found {error.strerror}; expected a PEM file")
        return None
