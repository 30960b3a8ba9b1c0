"""What a consumer refuses is kept by every node, whatever dies, and is delivered when asked for."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crowd.cli import main
from crowd.config import load_file
from tests.integration.cluster import eventually


class Shop:
    """A consumer that takes no orders for shops it does not know, until it is repaired."""

    def __init__(self, port):
        self.repaired = False
        self.got = []  # (id, replay, body, status)
        shop = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                bad = b"unknown" in body and not shop.repaired
                answer = b'{"error": "no such shop", "hint": "caf\xc3\xa9"}' if bad else b""
                status = 400 if bad else 201
                names = self.headers["Crowd-Message-Id"], self.headers["Crowd-Replay"]
                shop.got.append((*names, body, status))
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def took(self):
        """Return (id, replay) of each message that was taken."""
        return [(name, replay) for name, replay, _, status in self.got if status == 201]


@pytest.fixture
def shop(cluster):
    shop = Shop(cluster.consumer_port)
    yield shop
    shop.close()


class Operator:
    """Runs `crowd dead` on one node."""

    def __init__(self, cluster, capsys):
        self._cluster = cluster
        self._capsys = capsys

    def run(self, name, *words):
        self._capsys.readouterr()
        node = self._cluster.nodes[name]
        token = self._cluster.directory / "nodes" / name / "token"
        status = main(["dead", *words, "--admin", node.admin, "--token-file", str(token)])
        return status, self._capsys.readouterr().out

    def letters(self, name, *words):
        status, out = self.run(name, "list", "--json", *words)
        assert status == 0
        return json.loads(out)["letters"]

    def show(self, name, number):
        """Return a letter with its message; None if the node lacks that (yet)."""
        status, out = self.run(name, "show", str(number), "--json")
        return json.loads(out) if status == 0 else None


def test_dead_letters_outlive_nodes_and_are_delivered_when_the_consumer_is_repaired(
    cluster, shop, capsys
):
    """I3: with their bytes on every node, over the leader's death and a node that lost its disk."""
    operator = Operator(cluster, capsys)
    names = list(cluster.nodes)
    bodies = {}
    for turn in range(9):
        body = b'{"shop": "%s", "n": %d}' % (b"unknown" if turn % 3 else b"known", turn)
        status, headers, _ = cluster.post(names[turn % len(names)], body)
        assert status == 200
        bodies[headers["Crowd-Message-Id"]] = body
    refused = {name for name, body in bodies.items() if b"unknown" in body}
    good = bodies.keys() - refused

    def whole(name):
        """Return whether this node shows every letter with its message."""
        there = operator.letters(name, "--state", "dead")
        if {one["id"] for one in there} != refused:
            return False
        shown = [operator.show(name, one["number"]) for one in there]
        if None in shown:
            return False
        for one in shown:
            letter, message = one["letter"], one["message"]
            assert (letter["reason"], letter["status"], letter["attempts"]) == ("answer", 400, 1)
            assert "no such shop" in letter["words"]
            assert message["text"].encode() == bodies[letter["id"]]
        return True

    for name in names:
        eventually(f"the letters on {name}", lambda name=name: whole(name))
    assert {name for name, _ in shop.took()} == good

    killed = cluster.leader()
    cluster.kill(killed)
    living = [name for name in names if name != killed]
    eventually("another leader", lambda: cluster.status()["leader"] in living)
    for name in living:
        assert whole(name)
    cluster.up()
    eventually(f"the letters on {killed}", lambda: whole(killed))

    wiped = next(name for name in names if name != cluster.leader())
    cluster.kill(wiped)
    shutil.rmtree(load_file(cluster.nodes[wiped].config).node.directory)
    cluster.up().same_ledgers()
    eventually(f"the letters on {wiped} again", lambda: whole(wiped))

    # Replayed before the consumer is repaired, a letter is refused again, and is a new one.
    first = operator.letters(wiped)[0]["number"]
    assert operator.run(wiped, "replay", str(first))[0] == 0

    def died_again():
        numbers = [one["number"] for one in operator.letters(wiped, "--state", "dead")]
        return numbers if len(numbers) == len(refused) and first not in numbers else None

    numbers = eventually("the letter to be dead again", died_again)
    *replayed, purged = numbers
    given_up = operator.show(wiped, purged)["letter"]["id"]
    assert operator.run(wiped, "purge", str(purged), "--yes")[0] == 0
    assert [one["number"] for one in operator.letters(wiped)] == replayed

    shop.repaired = True
    status, out = operator.run(wiped, "replay", "--consumer", "upstream", "--all")
    assert (status, out.splitlines()[-1]) == (
        0,
        f"{len(replayed)} letters are to be delivered again",
    )
    eventually("no letters", lambda: not operator.letters(wiped))
    again = [(name, replay) for name, replay in shop.took() if name not in good]
    assert sorted(again) == sorted((name, "1") for name in refused - {given_up})
    cluster.same_ledgers()
    for name in names:
        assert operator.letters(name) == []
