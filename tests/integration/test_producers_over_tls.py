"""Producers over TLS, with a real node: whom they meet, who they must be, and renewed files."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from http.client import HTTPSConnection

import pytest

from tests.integration.door import Authority, Single

TLS = """
    [node.tls]
    certificate = "{0}"
    private_key = "{1}"
"""


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ours")


@pytest.fixture
def start(tmp_path):
    nodes = []

    def run(files, more=""):
        nodes.append(
            Single(
                tmp_path, 'http = ["tls:tcp:PORT:interface=127.0.0.1"]', TLS.format(*files) + more
            )
        )
        return nodes[-1]

    yield run
    for node in nodes:
        node.close()


def context(authority, *shown):
    made = ssl.create_default_context(cafile=authority.file)
    if shown:
        made.load_cert_chain(*shown)
    return made


def connect(node, trust):
    connection = HTTPSConnection("127.0.0.1", node.port, timeout=10, context=trust)
    connection.connect()
    return connection


def post(connection):
    connection.request("POST", "/leads", b"{}")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def shown(node, trust):
    """Return the serial number of the certificate that a new connection meets."""
    connection = connect(node, trust)
    serial = connection.sock.getpeercert()["serialNumber"]
    connection.close()
    return serial


def test_a_renewed_certificate_is_used_and_a_bad_one_is_not(tmp_path, authority, start):
    """SIGHUP: connections go on, new ones meet the new certificate; junk changes nothing."""
    certificate, key = authority.issue("door", "127.0.0.1")
    node = start((certificate, key))
    trust = context(authority)
    kept = connect(node, trust)
    assert post(kept) == 200
    first = kept.sock.getpeercert()["serialNumber"]
    assert "ok  certificate: ends in 29 days" in node.page("/readyz")[1]

    authority.issue("door", "127.0.0.1", days=7)
    node.reload()
    assert post(kept) == 200, "what was connected goes on"
    second = shown(node, trust)
    assert second != first
    assert "ok  certificate: WARNING: it ends in 6 days" in node.page("/readyz")[1]
    assert "crowd_http_certificate_end_seconds 1." in node.page("/metrics")[1]

    (tmp_path / "door.pem").write_text("junk")
    node.reload()
    assert "found no certificate" in node.log()
    assert shown(node, trust) == second
    authority.issue("other", "127.0.0.1")
    shutil.copy(tmp_path / "other.pem", tmp_path / "door.pem")
    node.reload()
    assert "found another key" in node.log()
    authority.issue("door", "127.0.0.1", days=-1)
    node.reload()
    assert "found one that has ended" in node.log()
    assert shown(node, trust) == second
    assert post(kept) == 200
    assert "Traceback" not in node.log()


def test_producers_prove_who_they_are(tmp_path, authority, start):
    """With an authority of clients only they get in: not strangers, not another's, not expired."""
    clients = Authority(tmp_path, "clients")
    node = start(authority.issue("door", "127.0.0.1"), f'client_authority = "{clients.file}"')
    good = context(authority, *clients.issue("shop-7", "shop-7.test", "spiffe://a.test/shop"))
    connection = connect(node, good)
    assert post(connection) == 200
    for files in (
        (),
        authority.issue("stranger", "shop-7.test"),
        clients.issue("late", "shop-7.test", days=-1),
    ):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            post(connect(node, context(authority, *files)))
    assert post(connection) == 200


def test_old_versions_are_refused_and_http_1_1_is_chosen(authority, start):
    node = start(authority.issue("door", "127.0.0.1"))
    trust = context(authority)
    trust.set_alpn_protocols(["h2", "http/1.1"])
    connection = connect(node, trust)
    assert connection.sock.selected_alpn_protocol() == "http/1.1"
    assert connection.sock.version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(node, ssl.create_default_context())
    older = context(authority)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    older.set_ciphers("ALL:@SECLEVEL=0")
    old = connect(node, older)
    assert "GCM" in old.sock.cipher()[0] or "CHACHA20" in old.sock.cipher()[0]
    assert post(old) == 200
    weak = context(authority)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        connect(node, weak)
    plain = socket.create_connection(("127.0.0.1", node.port), 10)
    plain.sendall(b"POST /leads HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"HTTP" not in plain.recv(1000)
    plain.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_openssl_agrees(authority, start):
    """The handshake as openssl's own client sees it; TLS 1.1 gets none."""
    node = start(authority.issue("door", "localhost"))
    line = ["openssl", "s_client", "-connect", f"127.0.0.1:{node.port}", "-CAfile", authority.file]
    seen = subprocess.run(
        [*line, "-verify_return_error", "-verify_hostname", "localhost", "-alpn", "h2,http/1.1"],
        input=b"", capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert b"Verify return code: 0 (ok)" in seen.stdout
    assert b"ALPN protocol: http/1.1" in seen.stdout
    old = subprocess.run(
        [*line, "-tls1_1"], input=b"", capture_output=True, timeout=20, check=False
    )
    assert b"Cipher is (NONE)" in old.stdout or old.returncode
