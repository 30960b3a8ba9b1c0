"""`crowd member`: who belongs to a cluster, asked of nodes over real sockets."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from crowd.cli import main
from crowd.errors import ConfigurationError, CrowdError, DirectoryError
from crowd.tools.door import Door, NotChangedError, doors_of
from crowd.tools.init import ClusterPlan, write_cluster
from crowd.tools.member import Change, change_members, member_lines, members
from crowd.tools.status import gather

TOKEN = "5e" * 32


class Node:
    """One admin port: a status that a test sets, and what was asked of it."""

    def __init__(self, name, role, ledger):
        self.asked = []
        self.refusal = None
        self.on_look = lambda: None
        self.status = {
            "name": name,
            "role": role,
            "term": 3,
            "standing": "voter",
            "applied_index": 20,
            "durable_index": 21,
            "members": ledger,
            "peers": {
                other: {"connected": other != "c", "votes": True, "match_index": 17}
                for other in ledger
                if other != name
            },
        }
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                node.on_look()
                self.reply(200, node.status)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.change("POST", json.loads(body))

            def do_DELETE(self):
                self.change("DELETE", self.path)

            def change(self, *what):
                node.asked.append((*what, self.headers["Authorization"]))
                self.reply(*(node.refusal or (202, {})))

            def reply(self, status, value):
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.admin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def member(port, *, votes=True):
    return {"address": f"127.0.0.1:{port}", "votes": votes}


@pytest.fixture
def ledger():
    return {"a": member(2105), "b": member(2115), "c": member(2125)}


@pytest.fixture
def nodes(ledger):
    made = [Node("a", "follower", ledger), Node("b", "leader", ledger)]
    yield made
    for node in made:
        node.close()


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


@pytest.fixture
def doors(nodes, token_file):
    return [Door(node.admin, token_file) for node in nodes]


class Time:
    """A clock that goes on when somebody sleeps."""

    def __init__(self):
        self.now_s = 0.0

    def seconds(self):
        return self.now_s

    def sleep(self, wait_s):
        self.now_s += wait_s


def change(doors, wanted, wait_s=60.0):
    said = []
    time = Time()
    try:
        change_members(
            doors, wanted, wait_s=wait_s, say=said.append, seconds=time.seconds, sleep=time.sleep
        )
    except NotChangedError as error:
        said.append(error)
    return said


def test_members_are_told_as_the_leader_knows_them(nodes):
    found = members(gather([node.admin for node in nodes]))
    assert [one["name"] for one in found] == ["a", "b", "c"]
    assert [one["match_index"] for one in found] == [17, 21, 17]
    lines = member_lines(found)
    assert lines[0] == "a  voter    127.0.0.1:2105  connected, has entries up to 17"
    assert lines[2] == "c  voter    127.0.0.1:2125  NOT connected, has entries up to 17"


def test_without_a_leader_nobody_knows_how_far_the_others_are(nodes, ledger):
    nodes[1].status["role"] = "candidate"
    ledger["d"] = member(2135, votes=False)
    found = members(gather([node.admin for node in nodes]))
    assert [one["match_index"] for one in found] == [None] * 4
    assert found[3]["role"] == "learner"
    assert member_lines(found)[0].endswith("has entries up to ?")
    assert member_lines([]) == ["no members yet: the cluster is not born"]


def test_a_member_is_added_and_waited_for_until_it_votes(nodes, doors, ledger):
    """The leader is asked; that the new member is a learner at first is told once."""
    looks = iter(range(100))

    def look():
        number = next(looks)
        if number == 2:
            ledger["d"] = member(2135, votes=False)
        elif number == 6:
            ledger["d"] = member(2135)

    nodes[1].on_look = look
    said = change(doors, Change("d", "127.0.0.1:2135"))
    assert nodes[0].asked == []
    assert nodes[1].asked == [
        ("POST", {"name": "d", "address": "127.0.0.1:2135"}, f"Bearer {TOKEN}")
    ]
    assert said[0] == "asked b to add d at 127.0.0.1:2135"
    assert said[1].startswith("d is a learner: it gets everything from the others")
    assert said[2:] == ["d is a member, and votes"]


def test_one_that_does_not_vote_in_time_is_no_success(doors, ledger):
    ledger["d"] = member(2135, votes=False)
    *_, last = change(doors, Change("d", "127.0.0.1:2135"), wait_s=3)
    assert str(last).startswith("not done within 3 s: d is a learner")
    *_, last = change(doors, Change("d", "127.0.0.1:9"), wait_s=0)
    assert str(last) == "not done within 0 s: d is still at 127.0.0.1:2135"
    *_, last = change(doors, Change("e", "127.0.0.1:9"), wait_s=0)
    assert "e is no member yet" in str(last)


def test_the_one_that_leaves_is_not_asked(nodes, doors, ledger):
    """It would not hear that it has left, so another one is asked, although it leads."""
    looks = iter(range(100))
    nodes[0].on_look = lambda: next(looks) == 3 and ledger.pop("b")
    said = change(doors, Change("b", None))
    assert nodes[0].asked == [("DELETE", "/api/members/b", f"Bearer {TOKEN}")]
    assert nodes[1].asked == []
    assert said[0] == "asked a to remove b"
    assert said[1].startswith("b is no member any more")


def test_what_the_node_says_against_it_is_told(nodes, doors):
    nodes[1].refusal = (409, {"title": "Not so", "detail": "found 32 members"})
    (said,) = change(doors, Change("d", "127.0.0.1:2135"))
    assert str(said) == f"{nodes[1].admin}: Not so: found 32 members"
    nodes[1].refusal = (500, [])
    (said,) = change(doors, Change("d", "127.0.0.1:2135"))
    assert str(said).endswith("answered 500")


def test_without_a_node_or_a_token_nothing_is_asked(nodes, tmp_path):
    change = Change("d", "127.0.0.1:2135")
    nowhere = Door("http://127.0.0.1:1", tmp_path / "token")
    with pytest.raises(CrowdError, match="no node answered: http"):
        change_members([nowhere], change, wait_s=0, say=print)
    with pytest.raises(CrowdError, match="found no token; expected --token-file"):
        change_members([Door(nodes[1].admin, None)], change, wait_s=0, say=print)
    with pytest.raises(DirectoryError, match="expected the token of a node"):
        change_members([Door(nodes[1].admin, tmp_path / "none")], change, wait_s=0, say=print)
    assert nodes[1].asked == []


def test_a_local_clusters_nodes_and_tokens_are_found(tmp_path):
    write_cluster(tmp_path, ClusterPlan(nodes=2))
    assert doors_of(tmp_path) == [
        Door("http://127.0.0.1:2106", tmp_path / "a" / "token"),
        Door("http://127.0.0.1:2116", tmp_path / "b" / "token"),
    ]
    with pytest.raises(ConfigurationError, match=r"found no \*\.toml"):
        doors_of(tmp_path / "a")


def test_the_command(nodes, token_file, ledger, capsys):
    admin = ["--admin", nodes[1].admin]
    assert main(["member", "list", *admin]) == 0
    assert capsys.readouterr().out.startswith("a  voter    127.0.0.1:2105  connected")
    assert main(["member", "list", "--json", *admin]) == 0
    assert json.loads(capsys.readouterr().out)[1]["name"] == "b"
    wait = ["--wait", "0 s", "--token-file", str(token_file)]
    assert main(["member", "add", "c", "127.0.0.1:2125", *admin, *wait]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "c is a member, and votes"
    assert main(["member", "remove", "c", *admin, *wait]) == 1
    assert "not done within 0 s: c is still a member" in capsys.readouterr().err
    ledger.pop("c")
    assert main(["member", "remove", "c", *admin, *wait]) == 0
    assert main(["member", "remove", "c", *admin]) == 1
    assert "expected --token-file" in capsys.readouterr().err
