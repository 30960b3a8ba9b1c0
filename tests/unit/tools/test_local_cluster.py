"""Local clusters: started once, found again, stopped exactly, and never another's process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from crowd.config import load_file
from crowd.errors import CrowdError
from crowd.tools.demo import free_port
from crowd.tools.init import ClusterPlan, write_cluster
from crowd.tools.local_cluster import NotReadyError, down, is_running, main, start, up
from crowd.tools.status import gather


def test_a_process_id_taken_by_another_program_is_not_the_nodes(tmp_path):
    """After a reboot the file's number may be anyone's: it must never be signalled."""
    write_cluster(tmp_path, ClusterPlan(nodes=1))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (tmp_path / "a.pid").write_text(str(other.pid))
        assert down(tmp_path) == []
        assert other.poll() is None
        other.kill()
    assert not (tmp_path / "a.pid").exists()


def test_a_port_in_use_is_told_before_anything_is_started(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if port > 65_000:
            pytest.skip("the free port is too high for a node's")
        with pytest.raises(NotReadyError, match=f"found port {port} in use"):
            start(tmp_path, ClusterPlan(nodes=1, port=port))
    assert not list(tmp_path.glob("a.*")), "the next call may name another port"


def test_stopping_what_is_not_there_is_an_error(tmp_path, capsys):
    assert main(["down", "--directory", str(tmp_path / "none")]) == 1
    assert "found no directory" in capsys.readouterr().err


def test_a_configuration_that_is_no_toml_is_told(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text("x =")
    arguments = ["up", "--directory", str(tmp_path / "new"), "--config", str(file)]
    assert main(arguments) == 1
    assert "Invalid" in capsys.readouterr().err


@pytest.mark.processes
def test_up_twice_and_down(tmp_path, capsys):
    """The second `up` starts only the node that was killed; the others keep their processes."""
    port = free_port(23_104, 3)
    own = tmp_path / "own.toml"
    own.write_text('[limits]\nbody = "2 MiB"\n')
    directory = tmp_path / "cluster"
    arguments = ["up", "--directory", str(directory), "--port", str(port), "--config", str(own)]
    try:
        assert main(arguments) == 0
        first = json.loads(capsys.readouterr().out)["nodes"]
        assert [node["name"] for node in first] == ["a", "b", "c"]
        assert first[1]["http"] == f"http://127.0.0.1:{port + 10}"
        assert first[2]["admin"] == f"http://127.0.0.1:{port + 22}"
        assert load_file(first[0]["config"]).limits.body_bytes == 2 * 2**20
        os.kill(first[0]["pid"], signal.SIGKILL)
        os.waitpid(first[0]["pid"], 0)
        second = up(directory, ClusterPlan())
        assert second[0].pid != first[0]["pid"]
        assert [node.pid for node in second[1:]] == [node["pid"] for node in first[1:]]
        assert gather([node.admin for node in second])["leader"] in {"a", "b", "c"}
    finally:
        stopped = down(directory)
    assert stopped == ["a", "b", "c"]
    assert not any(map(is_running, second))


@pytest.mark.processes
def test_a_node_that_cannot_start_is_told_with_its_last_words(tmp_path):
    (config,) = write_cluster(tmp_path, ClusterPlan(nodes=1, port=free_port(23_504, 1)))
    (tmp_path / "a.pem").unlink()
    with pytest.raises(CrowdError, match=r"node a ended:\n.*a\.pem"):
        up(tmp_path, ClusterPlan())
    assert config.exists()
