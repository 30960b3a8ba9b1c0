"""Bad input to real nodes: each gets its clear error, and the others go on."""

import os
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import crowd
from crowd.config import load_file
from tests.integration.cluster import Nodes, eventually, free_ports

ROOT = str(Path(crowd.__file__).parents[1])


def twistd(directory, text):
    """Run a node with this configuration until it ends; return (status, output)."""
    file = directory / "node.toml"
    file.write_text(text)
    program = Path(sys.executable).with_name("twistd")
    ended = subprocess.run(
        [sys.executable, str(program), "-n", "--pidfile=", "crowd", "--config", str(file)],
        capture_output=True, text=True, timeout=30, cwd=directory, check=False,
        env=os.environ | {"PYTHONPATH": ROOT},
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr


def node_text(directory, name="single"):
    port = free_ports(1)
    return f"""
        [node]
        name = "{name}"
        directory = "{directory}"
        http = ["tcp:{port}:interface=127.0.0.1"]
        admin = "tcp:{port + 2}:interface=127.0.0.1"
        [[consumer]]
        name = "api"
        url = "http://127.0.0.1:9"
    """


def test_six_mistakes_are_six_lines_and_no_traceback(tmp_path):
    text = """
        [node]
        name = "A b"
        http = ["tcp:notaport"]
        [limits]
        body = "1 GiB"
        speed = 5
        [[route]]
        path = "leads"
        [[consumer]]
        name = "api"
        url = "ftp://127.0.0.1"
    """
    status, output = twistd(tmp_path, text)
    assert status == 1
    assert "Traceback" not in output
    for key in ("node.name", "node.http", "limits.body", "limits.speed", "path", "url"):
        assert re.search(rf"node\.toml: .*{re.escape(key)}.*: found .*; expected ", output), output


def test_a_directory_in_use_or_of_another_node_is_refused(tmp_path):
    nodes = Nodes(tmp_path, size=1, upstream="http://127.0.0.1:9")
    try:
        node = nodes.nodes["a"]
        configuration = load_file(node.config)
        text = Path(node.config).read_text()
        port = free_ports(1)
        for offset in (0, 2):
            text = text.replace(str(nodes.plan.port + offset), str(port + offset))
        status, output = twistd(tmp_path / "nodes", text)
        assert status == 1
        assert f"in use by process {node.pid}" in output
        assert "Traceback" not in output
        assert nodes.post("a")[0] == 200
        (tmp_path / "nodes" / "node.toml").unlink()
        nodes.term("a")
        status, output = twistd(tmp_path, node_text(configuration.node.directory, "other"))
        assert status == 1
        assert "expected" in output
        assert "Traceback" not in output
        nodes.up()
        assert nodes.post("a")[0] == 200
    finally:
        nodes.close()


def test_strangers_on_the_peer_port_change_nothing(cluster):
    """Garbage, TLS without a certificate, and a frame that claims 4 GiB: refused, and logged."""
    assert cluster.post("a")[0] == 200
    host, _, port = cluster.nodes["a"].peer.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as stranger:
        stranger.sendall(b"\xff\xff\xff\xff" + b"x" * 1000)
        stranger.settimeout(10)
        assert stranger.recv(1000) is not None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port)), 5) as plain:
        try:
            with context.wrap_socket(plain) as stranger:
                stranger.sendall(b"\xff\xff\xff\xff" + b"x" * 1000)
                assert stranger.recv(1000) == b""
        except (ssl.SSLError, ConnectionError):
            pass  # refused in the handshake, or just after it
    eventually("two lines about it", lambda: cluster.log("a").count("no link with a stranger") >= 2)
    for name in cluster.nodes:
        assert cluster.post(name)[0] == 200
    cluster.same_ledgers()
