"""Ports for producers behind a balancer, and on a UNIX socket, with a real node."""

from __future__ import annotations

import socket
import ssl
import stat

import pytest

from tests.integration.door import BINARY, LINE, POST, Authority, Single, answer


@pytest.fixture
def start(tmp_path):
    nodes = []

    def run(node, tables=""):
        nodes.append(Single(tmp_path, node, tables))
        return nodes[-1]

    yield run
    for node in nodes:
        node.close()


def tcp(port):
    return socket.create_connection(("127.0.0.1", port), 20)


def test_a_balancer_says_whose_connection_it_is(tmp_path, start):
    """Both versions of the header; without one, or from elsewhere, there is no answer at all."""
    authority = Authority(tmp_path, "ours")
    files = authority.issue("door", "127.0.0.1")
    node = start(
        """
        http = [
            "haproxy:tcp:PORT:interface=127.0.0.1",
            "haproxy:tls:tcp:NEXT:interface=127.0.0.1",
        ]
        balancers = ["127.0.0.1/32"]
        """,
        f'[node.tls]\ncertificate = "{files[0]}"\nprivate_key = "{files[1]}"',
    )
    for header in (LINE, BINARY):
        assert answer(tcp(node.port), header + POST).startswith(b"HTTP/1.1 200 ")
    assert answer(tcp(node.port), POST) == b""
    assert answer(tcp(node.port), b"\r\n" + LINE + POST) == b""
    assert "crowd_http_connections_refused_total 2.0" in node.page("/metrics")[1]

    plain = tcp(node.port + 1)
    plain.sendall(LINE)
    trust = ssl.create_default_context(cafile=authority.file)
    secured = trust.wrap_socket(plain, server_hostname="127.0.0.1")
    assert answer(secured, POST).startswith(b"HTTP/1.1 200 ")


def test_a_balancer_that_is_not_named_is_refused(start):
    node = start('http = ["haproxy:tcp:PORT:interface=127.0.0.1"]\nbalancers = ["10.0.0.0/8"]')
    assert answer(tcp(node.port), LINE + POST) == b""


def test_a_unix_socket_that_a_killed_node_left_is_taken_over(tmp_path, start):
    """Its mode is as configured; two nodes never share one."""
    path = tmp_path / "crowd.sock"
    node = start(
        f'http = ["unix:{path}:mode=660", "haproxy:unix:{path}2:mode=600"]\nbalancers = ["10.0.0.0/8"]'
    )

    def post(name=str(path), data=POST):
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(name)
        return answer(connected, data)

    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert post().startswith(b"HTTP/1.1 200 ")
    assert post(f"{path}2", LINE + POST).startswith(b"HTTP/1.1 200 ")
    assert post(f"{path}2") == b""
    node.kill()
    assert path.exists(), "what kill -9 leaves"
    node.start()
    assert post().startswith(b"HTTP/1.1 200 ")
    node.close()
    assert not path.exists()
