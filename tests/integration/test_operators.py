"""What operators change on a real node while it runs."""

import json
import os
import signal
from pathlib import Path

import pytest

from crowd.cli import main
from tests.integration.cluster import Nodes, eventually, free_ports


@pytest.fixture
def node(tmp_path):
    """One node in front of a sink, and a port for another one."""
    port = free_ports(1) + 5
    nodes = Nodes(tmp_path, size=1, upstream=f"http://127.0.0.1:{port}")
    nodes.other_port = port + 1
    nodes.sink(port)
    yield nodes
    nodes.close()


def crowd(node, capsys, *arguments, status=0):
    """Run a command on the node; return what it prints, on both."""
    capsys.readouterr()
    found = main([*arguments, "--directory", str(node.directory / "nodes")])
    out, err = capsys.readouterr()
    assert found == status, (out, err)
    return out + err


def consumer(node, capsys, name):
    found = json.loads(crowd(node, capsys, "consumer", "list", "--json"))
    return next((one for one in found if one["name"] == name), None)


def got(node, number):
    """Return the ids that a sink was delivered."""
    lines = Path(node.sinks[number]).read_text("utf-8").splitlines()
    return {json.loads(line)["id"] for line in lines}


def post(node, count):
    return {node.post("a")[1]["Crowd-Message-Id"] for _ in range(count)}


def test_a_file_read_again_adds_a_consumer_that_gets_what_comes_from_then_on(node, capsys):
    """And a bad one changes nothing, with its problems in the log."""
    before = post(node, 2) | {node.post("a", path="/other")[1]["Crowd-Message-Id"]}
    node.sink(node.other_port)
    file = Path(node.nodes["a"].config)
    good = file.read_text("utf-8")
    file.write_text(
        good.replace("/<path:rest>", "/leads")
        + f'\n[[consumer]]\nname = "audit"\nurl = "http://127.0.0.1:{node.other_port}"\n'
    )
    os.kill(node.nodes["a"].pid, signal.SIGHUP)
    eventually("the consumer", lambda: consumer(node, capsys, "audit"))
    assert node.post("a", path="/other")[0] == 404, "the doors go by the new file, too"
    after = post(node, 5)
    eventually("what came after", lambda: got(node, 1) >= after)
    assert got(node, 1) == after
    eventually("all of it at the first one", lambda: got(node, 0) == before | after)
    file.write_text(f'{good}\n[[consumer]]\nname = "Third"\n')
    os.kill(node.nodes["a"].pid, signal.SIGHUP)
    eventually("a line", lambda: "url: found nothing" in node.log("a"))
    assert "configuration not read again" in node.log("a")
    file.write_text(good)
    assert consumer(node, capsys, "audit") is not None
    node.term("a")
    node.up()
    assert consumer(node, capsys, "audit") is not None, "no file removes a consumer"


def test_a_paused_consumer_gets_nothing_until_it_is_resumed(node, capsys):
    before = post(node, 2)
    name = "upstream"
    eventually("delivery", lambda: got(node, 0) == before)
    assert crowd(node, capsys, "consumer", "pause", name) == f"{name} is paused\n"
    after = post(node, 5)
    assert consumer(node, capsys, name)["backlog"] == 5
    assert crowd(node, capsys, "consumer", "list").splitlines()[1].split()[:3] == [
        name, "paused", "5",
    ]  # fmt: skip
    assert got(node, 0) == before
    node.term("a")
    node.up()
    assert consumer(node, capsys, name)["paused"], "what the log says outlives the process"
    crowd(node, capsys, "consumer", "resume", name)
    eventually("the rest", lambda: got(node, 0) == before | after)


def test_a_consumer_is_applied_from_a_file_and_outlives_the_node(node, capsys, tmp_path):
    file = tmp_path / "audit.toml"
    file.write_text(f'[[consumer]]\nname = "audit"\nurl = "http://127.0.0.1:{node.other_port}"\n')
    said = crowd(node, capsys, "consumer", "apply", str(file))
    assert said == f"audit is as {file} has it\n"
    node.term("a")
    node.up()
    assert "rate = null" in crowd(node, capsys, "consumer", "show", "audit")
    file.write_text(file.read_text() + 'rate = "fast"\n')
    said = crowd(node, capsys, "consumer", "apply", str(file), status=1)
    assert "consumer[audit].rate: found" in said


def test_a_consumer_with_messages_left_is_not_removed_by_mistake(node, capsys):
    crowd(node, capsys, "consumer", "pause", "upstream")
    post(node, 3)
    said = crowd(node, capsys, "consumer", "remove", "upstream", status=1)
    assert said.startswith("upstream has 3 messages left, which it would not be delivered any more")
    assert consumer(node, capsys, "upstream")["backlog"] == 3
    assert crowd(node, capsys, "dead", "list") == "no letters\n"


def test_a_consumer_is_skipped_and_removed(node, capsys):
    crowd(node, capsys, "consumer", "pause", "upstream")
    post(node, 3)
    crowd(node, capsys, "consumer", "skip", "upstream", "--through", "2", "--yes")
    assert consumer(node, capsys, "upstream")["letters"]["skipped"] == 2
    assert consumer(node, capsys, "upstream")["backlog"] == 1
    crowd(node, capsys, "consumer", "remove", "upstream", "--backlog", "drop")
    assert consumer(node, capsys, "upstream") is None
    assert post(node, 1), "producers are served without a consumer"


def test_any_node_can_be_asked_and_all_go_by_it(cluster, capsys, tmp_path):
    """A follower brings it to the leader; the ledgers stay the same."""
    leader = cluster.leader()
    follower = next(name for name in cluster.nodes if name != leader)
    where = [
        "--admin", cluster.nodes[follower].admin,
        "--token-file", str(cluster.directory / "nodes" / follower / "token"),
    ]  # fmt: skip
    file = tmp_path / "audit.toml"
    file.write_text('[[consumer]]\nname = "audit"\nurl = "http://127.0.0.1:9"\n')
    for words in (["apply", str(file)], ["pause", "audit"], ["pause", "upstream"]):
        assert main(["consumer", *words, *where]) == 0, capsys.readouterr()
    cluster.same_ledgers()
    for node in cluster.status()["nodes"]:
        assert [(one["name"], one["paused"]) for one in node["consumers"]] == [
            ("upstream", True), ("audit", True),
        ]  # fmt: skip
