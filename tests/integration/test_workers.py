"""Nodes whose requests are taken by processes of their own: what a worker's end means, and a node's."""

from __future__ import annotations

import json
import os
import signal
import ssl
import time
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from tests.checker import check_deliveries
from tests.integration.cluster import Nodes, eventually, free_ports
from tests.integration.door import Authority, Single


def started(directory, size):
    """Start nodes with two workers each, in front of a consumer's address."""
    consumer = free_ports(1) + 5
    nodes = Nodes(
        directory,
        size=size,
        upstream=f"http://127.0.0.1:{consumer}",
        extra={"node": {"workers": 2}},
    )
    nodes.consumer_port = consumer
    return nodes


@pytest.fixture
def cluster(tmp_path):
    """Three nodes."""
    nodes = started(tmp_path, 3)
    yield nodes
    nodes.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One node, where what is asked is of one node. Tests leave it with both workers and its routes."""
    nodes = started(tmp_path_factory.mktemp("alone"), 1)
    yield nodes
    nodes.close()


def workers(cluster, name):
    """Return what a node says of its workers; nothing while it is gone."""
    node = next((n for n in cluster.status()["nodes"] if n.get("name") == name), {})
    return node.get("workers", [])


def all_ready(cluster, name):
    """Wait until both workers of a node take requests; return their process ids."""

    def ready():
        found = workers(cluster, name)
        return [each["pid"] for each in found] if all(each["ready"] for each in found) else None

    return eventually(f"both workers of {name}", ready)


def readyz(cluster, name):
    with urlopen(cluster.nodes[name].admin + "/readyz") as answer:
        return answer.read().decode()


def metric(cluster, name, sample):
    with urlopen(cluster.nodes[name].admin + "/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " "))


def is_alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def delivered(cluster, within_s=60):
    """Wait until every acknowledged message has arrived; return the figures."""

    def all_there():
        figures = check_deliveries(cluster.loads, cluster.sinks)
        return figures if figures["missing"] == 0 else None

    return eventually("every acknowledged message at the consumer", all_there, within_s)


def test_every_node_accepts_through_its_workers_and_says_how_they_are(cluster):
    cluster.sink(cluster.consumer_port)
    for name in cluster.nodes:
        all_ready(cluster, name)
        status, headers, body = cluster.post(name)
        assert (status, body) == (200, b'{"status": "OK"}')
        assert headers["Crowd-Message-Id"]
        assert "ok  workers: 2 of 2" in readyz(cluster, name)
        eventually("a tally", lambda n=name: metric(cluster, n, "crowd_http_requests_total") == 1)
        assert metric(cluster, name, "crowd_workers") == 2
    eventually("three deliveries", lambda: check_deliveries([], cluster.sinks)["delivered"] == 3)
    cluster.same_ledgers()


def test_i1_killing_workers_under_load_loses_nothing_acknowledged_and_the_port_goes_on(cluster):
    """I1, at 500 a second: only who was connected to the killed ones hears nothing."""
    cluster.sink(cluster.consumer_port)
    killed = [all_ready(cluster, name)[0] for name in cluster.nodes]
    load = cluster.load(rate=500, seconds=7)
    for pid in killed:
        time.sleep(1.5)
        os.kill(pid, signal.SIGKILL)
    report = cluster.finish(load)
    assert report["succeeded"] + report["failed"] + report["unsent"] == 3500
    assert report["failed"] < 175
    figures = delivered(cluster)
    assert figures["acknowledged"] == report["succeeded"]
    assert figures["same_id_other_body"] == figures["ids_given_twice"] == 0
    for name, pid in zip(cluster.nodes, killed, strict=True):
        assert pid not in all_ready(cluster, name)
        assert metric(cluster, name, "crowd_worker_restarts_total") == 1
        assert cluster.post(name)[0] == 200
        assert "ended (signal 9)" in cluster.log(name)
    cluster.same_ledgers()


def test_connections_are_taken_while_a_worker_is_away(alone):
    """With both gone they queue, and get their answer from the next worker."""
    pids = all_ready(alone, "a")
    os.kill(pids[0], signal.SIGKILL)
    for _ in range(20):
        assert alone.post("a")[0] == 200
    for pid in all_ready(alone, "a"):
        os.kill(pid, signal.SIGKILL)
    for _ in range(5):
        assert alone.post("a")[0] == 200


def test_workers_end_with_their_engine_and_a_started_node_has_new_ones(cluster):
    """Killed, it tells them nothing; they find its socket closed, and give its port free."""
    cluster.sink(cluster.consumer_port)
    leader = cluster.leader()
    before = all_ready(cluster, leader)
    load = cluster.load(rate=200, seconds=6)
    time.sleep(1)
    cluster.kill(leader)
    eventually("its workers are gone", lambda: not any(map(is_alive, before)), 5)
    cluster.up()
    report = cluster.finish(load)
    killed = cluster.nodes[leader].http
    others = [count["failed"] for url, count in report["urls"].items() if killed not in url]
    assert others == [0, 0]
    assert not set(before) & set(all_ready(cluster, leader))
    delivered(cluster)
    cluster.same_ledgers()


class Keeper(Thread):
    """A producer that keeps its connection, and posts on it until it is told that it ends."""

    def __init__(self, url):
        super().__init__(daemon=True)
        parts = urlsplit(url)
        self.statuses, self.told = [], False
        self._connection = HTTPConnection(parts.hostname, parts.port, timeout=20)

    def run(self):
        while not self.told:
            self._connection.request("POST", "/leads", b"{}")
            answer = self._connection.getresponse()
            answer.read()
            self.statuses.append(answer.status)
            self.told = answer.getheader("Connection") == "close"
            time.sleep(0.05)


def test_sigterm_fails_no_request_of_those_who_keep_their_connections(cluster):
    """Each is answered until it hears "Connection: close" with an answer; then it goes elsewhere."""
    cluster.sink(cluster.consumer_port)
    leader = cluster.leader()
    pids = all_ready(cluster, leader)
    living = [name for name in cluster.nodes if name != leader]
    load = cluster.load(names=living, rate=200, seconds=4)
    keepers = [Keeper(cluster.nodes[leader].http) for _ in range(12)]
    for keeper in keepers:
        keeper.start()
    eventually("all of them post", lambda: all(len(keeper.statuses) > 3 for keeper in keepers))
    begin_s = time.monotonic()
    cluster.term(leader)
    assert time.monotonic() - begin_s < 15
    for keeper in keepers:
        keeper.join(20)
    assert {status for keeper in keepers for status in keeper.statuses} == {200}
    assert all(keeper.told for keeper in keepers)
    assert not any(map(is_alive, pids))
    assert "did not end in time" not in cluster.log(leader)
    assert cluster.finish(load)["failed"] == 0
    delivered(cluster)


def test_new_routes_reach_the_workers_by_sighup(alone):
    node = alone.nodes["a"]
    all_ready(alone, "a")
    file = Path(node.config)
    text = file.read_text()
    file.write_text(text.replace('path = "/<path:rest>"', 'path = "/only"'))
    assert text != file.read_text()
    os.kill(node.pid, signal.SIGHUP)
    eventually("the other routes", lambda: alone.post("a")[0] == 404)
    eventually("the new route", lambda: alone.post("a", path="/only")[0] == 200)
    file.write_text(text)
    os.kill(node.pid, signal.SIGHUP)
    eventually("the old route", lambda: {alone.post("a")[0] for _ in range(8)} == {200})


def test_a_worker_that_is_stuck_is_killed_and_its_producers_may_try_again(alone):
    pids = all_ready(alone, "a")
    os.kill(pids[0], signal.SIGSTOP)
    eventually("another worker", lambda: pids[0] not in all_ready(alone, "a"), 40)
    assert "says nothing: killed" in alone.log("a")
    assert alone.post("a")[0] == 200


def test_what_a_request_asks_for_is_the_same_at_every_worker(tmp_path):
    """Keys, many messages, waits, and where a message stands; on connections to both workers."""
    consumer = free_ports(1) + 5
    route = {"path": "/leads", "methods": ["POST"], "many": True, "wait": "20 s"}
    nodes = Nodes(
        tmp_path, size=1, upstream=f"http://127.0.0.1:{consumer}",
        extra={"node": {"workers": 2}, "route": [route]},
    )  # fmt: skip
    try:
        nodes.sink(consumer)
        all_ready(nodes, "a")
        ids = set()
        for number in range(12):
            headers = {"Content-Type": "application/json", "Idempotency-Key": f"k{number // 4}"}
            status, answered, _ = nodes.post("a", b'{"n": %d}' % (number // 4), headers=headers)
            assert (status, answered.get("Idempotent-Replayed")) == (
                200, "true" if number % 4 else None,
            )  # fmt: skip
            ids.add(answered["Crowd-Message-Id"])
        assert len(ids) == 3
        other = {"Content-Type": "application/json", "Idempotency-Key": "k0"}
        assert nodes.post("a", b"other", headers=other)[0] == 422
        many = nodes.post("a", b"1\n2\n3\n", headers={"Content-Type": "application/x-ndjson"})
        assert len(json.loads(many[2])["ids"]) == 3
        waited = nodes.post("a", b"4", headers={"Prefer": "wait=20"})
        assert (waited[0], waited[1]["Crowd-State"]) == (200, "delivered")
        page = nodes.nodes["a"].http + "/.crowd/messages/" + waited[1]["Crowd-Message-Id"]

        def state():
            with urlopen(page) as answer:
                return json.load(answer)["state"]

        # The answer was told when it came; the log says so a moment later.
        eventually("the log knows", lambda: state() == "delivered")
        assert {state() for _ in range(6)} == {"delivered"}
    finally:
        nodes.close()


def test_workers_do_tls_go_on_with_renewed_files_and_start_without_them(tmp_path):
    """The node hands them what it read: a worker that comes later needs no file."""
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.issue("door", "127.0.0.1")
    node = Single(
        tmp_path,
        'workers = 2\nhttp = ["tls:tcp:PORT:interface=127.0.0.1"]',
        f'[node.tls]\ncertificate = "{certificate}"\nprivate_key = "{key}"',
    )
    trust = ssl.create_default_context(cafile=authority.file)

    def shown():
        connection = HTTPSConnection("127.0.0.1", node.port, timeout=20, context=trust)
        connection.request("POST", "/leads", b"{}")
        serial = connection.sock.getpeercert()["serialNumber"]
        status = connection.getresponse().status
        connection.close()
        assert status == 200
        return serial

    def both_ready():
        found = json.loads(node.page("/api/status")[1])["workers"]
        return [each["pid"] for each in found] if all(each["ready"] for each in found) else None

    try:
        pids = eventually("both workers", both_ready)
        first = {shown() for _ in range(8)}
        authority.issue("door", "127.0.0.1", days=7)
        node.reload()
        assert len(first) == 1
        eventually("the new certificate at both", lambda: not first & {shown() for _ in range(8)})
        Path(key).unlink()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually("others", lambda: not set(pids) & set(both_ready() or pids))
        assert not first & {shown() for _ in range(4)}
        assert "Traceback" not in node.log()
    finally:
        node.close()
