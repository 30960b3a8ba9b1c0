"""TLS with producers, in one process: whose certificate a handler sees, and slow handshakes."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from OpenSSL.crypto import X509
from twisted.internet import defer, endpoints, reactor, threads
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from crowd.config import DoorTLS
from crowd.errors import ConfigurationError
from crowd.web.limits import WebLimits
from crowd.web.listener import ProducerListener, Producers, WrappedEndpoint
from crowd.web.proof import certificate_names
from crowd.web.tls import ProducerTLS
from tests.integration.door import Authority


def now() -> datetime:
    return datetime.now(UTC)


class Seen:
    """A router that answers with who the producer proved to be."""

    at_head = shown = None

    def __init__(self) -> None:
        self.certificates: list[Any] = []

    def handle(self, request: Any) -> None:
        connection = request.connection
        self.certificates.append((connection.scheme, certificate_names(connection.transport)))
        request.write(b"seen")
        request.finish()


def test_every_problem_of_the_files_is_told(tmp_path):
    """One line each, as for the configuration itself."""
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.issue("door")
    other, _ = authority.issue("other")
    (tmp_path / "junk").write_text("junk")
    junk, gone = str(tmp_path / "junk"), str(tmp_path / "gone")
    for files, count in (
        ((junk, junk, junk), 3),
        ((gone, gone, gone), 3),
        ((other, key, None), 1),
        ((certificate, certificate, None), 1),
    ):
        with pytest.raises(ConfigurationError) as caught:
            ProducerTLS(DoorTLS(*files, "require"), now)
        assert len(caught.value.problems) == count
    assert ProducerTLS(DoorTLS(certificate, key, None, "require"), now).expires > now()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "that OpenSSL refuses (ee key too small)"),
        (lambda: ec.generate_private_key(ec.SECP192R1()), "that OpenSSL refuses"),
        (lambda: dsa.generate_private_key(2048), "found another kind of key; expected RSA, ECDSA"),
    ],
)
def test_a_key_that_no_handshake_takes_is_a_problem(tmp_path, made, words):
    """At the start and again: what is in use stays, and nothing is raised."""
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.issue("door")
    good = [Path(file).read_bytes() for file in (certificate, key)]
    weak = [Path(file).read_bytes() for file in authority.issue("weak", key=made())]
    shown = dict(zip((certificate, key), good, strict=True))
    tls = ProducerTLS(DoorTLS(certificate, key, None, "require"), now, shown.__getitem__)
    before = tls.expires
    shown.update(zip((certificate, key), weak, strict=True))
    tls.again()
    assert tls.expires == before
    assert list(tls.contents.values()) == good
    with pytest.raises(ConfigurationError) as caught:
        ProducerTLS(DoorTLS(certificate, key, None, "require"), now, shown.__getitem__)
    assert words in caught.value.problems[0]
    assert len(caught.value.problems) == 1


def test_a_certificate_that_does_not_hold_yet_is_not_taken_for_one_that_does(tmp_path):
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.issue("door", days=20)
    tls = ProducerTLS(DoorTLS(certificate, key, None, "require"), now)
    before = tls.expires
    authority.issue("door", since=5)
    tls.again()
    assert tls.expires == before
    authority.issue("door", since=-1)
    tls.again()
    assert tls.expires > before


def test_a_certificate_with_names_that_cannot_be_read_has_its_common_name(tmp_path):
    """Such as an X.400 address, which nobody can compare."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop-7")])
    x400 = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes.fromhex("3002a300"))
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now()).not_valid_after(now() + timedelta(days=1))
        .add_extension(x400, critical=False).sign(key, hashes.SHA256())
    )  # fmt: skip

    @implementer(ISSLTransport)
    class Shown:
        def getPeerCertificate(self) -> X509:  # noqa: N802  Twisted's name
            return X509.from_cryptography(made)

    assert certificate_names(Shown()) == ("cn:shop-7",)


def test_a_connection_that_the_node_takes_no_more_is_closed(tmp_path):
    """Whatever stands around TLS hears that there is no protocol, as the port itself does."""
    files = DoorTLS(*Authority(tmp_path, "ours").issue("door"), None, "require")

    class Full(Factory):
        def buildProtocol(self, addr: Any) -> None:  # noqa: N802  Twisted's name
            return None

    assert ProducerTLS(files, now).accepting(Full(), reactor).buildProtocol(None) is None


class TestHandshakes(TestCase):
    timeout = 30

    def _directory(self) -> Path:
        """Return a directory that is removed after the test; trial's own would be left behind."""
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return Path(directory.name)

    async def _listen(self, files: DoorTLS, **limits: float) -> tuple[Seen, int]:
        seen = Seen()
        producers = Producers(reactor, seen, WebLimits(**limits), lambda: 0.0)
        tls = ProducerTLS(files, now)
        endpoint = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        door = WrappedEndpoint(endpoint, lambda factory: tls.accepting(factory, reactor))
        listener = ProducerListener(reactor, [door], producers, drain_s=1.0)
        listener.startService()
        self.addCleanup(listener.stopService)
        (port,) = await listener.listening
        return seen, port.getHost().port

    def test_who_a_producer_is(self):
        """Its common name and alternative names reach the handler; without one there is none."""
        directory = self._directory()
        ours, clients = Authority(directory, "ours"), Authority(directory, "clients")
        shop = clients.issue("shop-7", "shop-7.test", "192.0.2.7", "spiffe://a.test/shop")

        def post(port: int, files: Any) -> None:
            trust = ssl.create_default_context(cafile=ours.file)
            if files:
                trust.load_cert_chain(*files)
            from http.client import HTTPSConnection

            connection = HTTPSConnection("127.0.0.1", port, context=trust, timeout=10)
            connection.request("POST", "/", b"x")
            assert connection.getresponse().read() == b"seen"
            connection.close()

        async def run() -> None:
            files = DoorTLS(*ours.issue("door", "127.0.0.1"), clients.file, "ask")
            seen, port = await self._listen(files)
            await threads.deferToThread(post, port, shop)
            await threads.deferToThread(post, port, ())
            (https, known), (_, nobody) = seen.certificates
            assert https == b"https"
            assert known == (
                "dns:shop-7.test", "ip:192.0.2.7", "uri:spiffe://a.test/shop", "cn:shop-7",
            )  # fmt: skip
            assert nobody is None
            with self.assertRaises(Exception):  # noqa: B017, PT027 - Python's words vary
                await threads.deferToThread(post, port, ours.issue("stranger"))

        return defer.ensureDeferred(run())

    def test_a_handshake_that_does_not_come_ends(self):
        """Its deadline is a head's, far below that of an idle connection."""
        import socket

        ours = Authority(self._directory(), "ours")

        def wait(port: int) -> timedelta:
            began = now()
            with socket.create_connection(("127.0.0.1", port), 20) as silent:
                silent.sendall(b"\x16\x03\x01")
                while True:
                    try:
                        if not silent.recv(100):
                            break
                    except ConnectionError:
                        break
            return now() - began

        async def run() -> None:
            files = DoorTLS(*ours.issue("door", "127.0.0.1"), None, "require")
            _, port = await self._listen(files, head_s=0.5, linger_s=0.5, idle_s=60.0)
            waited = await threads.deferToThread(wait, port)
            assert waited < timedelta(seconds=10)

        return defer.ensureDeferred(run())
