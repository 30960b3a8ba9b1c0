"""One real node whose ports for producers are what a test says, and certificates for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import crowd
from tests.integration.cluster import eventually, free_ports

ROOT = str(Path(crowd.__file__).parents[1])

POST = b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
# What balancers say first: the PROXY protocol, version 1 and 2.
LINE = b"PROXY TCP4 198.51.100.9 192.0.2.1 4711 2104\r\n"
BINARY = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
    + bytes([198, 51, 100, 9, 192, 0, 2, 1])
    + (4711).to_bytes(2)
    + (2104).to_bytes(2)
)


class Authority:
    """Issues certificates. Files are in `directory`, called by their common names."""

    def __init__(self, directory, name):
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._issuer = self._name
        self.file = str(self._write(name, self._name, self._key, [], 365, is_authority=True)[0])

    def issue(self, name, *alternatives, days=30, since=-60, key=None):
        """Return the files of a certificate, good from `since` to `days` from now, and of its key."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        key = key or ec.generate_private_key(ec.SECP256R1())
        return tuple(map(str, self._write(name, subject, key, alternatives, days, since)))

    def _write(self, name, subject, key, alternatives, days, since=-60, *, is_authority=False):
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=since))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general(each) for each in alternatives]),
                critical=False,
            )
        made = builder.sign(self._key, hashes.SHA256())
        certificate, private = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, private


def _general(text):
    if "://" in text:
        return x509.UniformResourceIdentifier(text)
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def answer(connected, data):
    """Send, and return what comes back until the other side ends; empty if it just ends."""
    with connected:
        connected.settimeout(20)
        found = b""
        try:
            connected.sendall(data)
            while piece := connected.recv(10_000):
                found += piece
        except ConnectionError:
            pass
        return found


class Single:
    """A node on its own, started from a file with these lines under ``[node]``."""

    def __init__(self, directory, node, tables=""):
        self.port = free_ports(1)
        self.directory = directory
        self.file = directory / "node.toml"
        self.file.write_text(
            f"""
            [node]
            directory = "data"
            admin = "tcp:{self.port + 2}:interface=127.0.0.1"
            {node.replace("PORT", str(self.port)).replace("NEXT", str(self.port + 1))}
            {tables}
            [[route]]
            path = "/leads"
            [[consumer]]
            name = "api"
            url = "http://127.0.0.1:9"
            """
        )
        self.process = None
        self.start()

    def start(self):
        program = Path(sys.executable).with_name("twistd")
        self._log = (self.directory / "node.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, str(program), "-n", "--pidfile=", "crowd", "--config", str(self.file)],
            stdout=self._log, stderr=self._log, cwd=self.directory,
            env=os.environ | {"PYTHONPATH": ROOT},
        )  # fmt: skip
        eventually(
            "a node that is ready", lambda: self.process.poll() or self.page("/readyz")[0] == 200
        )
        assert self.process.poll() is None, self.log()

    def page(self, path):
        """Return status and text of an admin page; 0 while nobody answers."""
        connection = HTTPConnection("127.0.0.1", self.port + 2, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def reload(self):
        """Have the node read its files again, and wait until it did."""
        before = self.log().count("configuration read again")
        self.process.send_signal(signal.SIGHUP)
        eventually("SIGHUP", lambda: self.log().count("configuration read again") > before)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def log(self):
        return (self.directory / "node.log").read_text("utf-8", "replace")

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self._log.close()
