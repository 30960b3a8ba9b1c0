"""One key, two nodes, one message: three real nodes, and a leader that is killed meanwhile."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.cluster import Nodes, eventually, free_ports

RACES = 200


@pytest.fixture(params=[0, 1])
def small(request, tmp_path):
    """Return a node that takes three messages, as its consumer is gone: without a worker, and with one."""
    nodes = Nodes(
        tmp_path,
        size=1,
        upstream=f"http://127.0.0.1:{free_ports(1) + 5}",
        extra={"limits": {"backlog_messages": 3}, "node": {"workers": request.param}},
    )
    yield nodes
    nodes.close()


def race(cluster, pool, names, key):
    """Post the same request under `key` on these nodes at once; return each one's answer or None."""
    body = json.dumps({"key": key}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": f'"{key}"'}

    def post(name):
        try:
            return cluster.post(name, body, headers=headers)
        except OSError:  # the node was killed; its producer would try again
            return None

    return list(pool.map(post, names))


def deliveries(cluster):
    """Return the ids that the consumer got each body under."""
    seen = {}
    for log in cluster.sinks:
        with Path(log).open(encoding="utf-8") as lines:
            for line in lines:
                attempt = json.loads(line)
                seen.setdefault(attempt["sha256"], set()).add(attempt["id"])
    return seen


def test_a_key_raced_on_two_nodes_through_a_leaders_death_is_stored_once(cluster):
    """Every race has one id, told to all who were answered; the consumer gets no other."""
    cluster.sink(cluster.consumer_port)
    leader = cluster.leader()
    living = [name for name in cluster.nodes if name != leader]
    ids, replayed = {}, Counter()
    with ThreadPoolExecutor(4) as pool:
        for n in range(RACES):
            if n == RACES // 2:
                cluster.kill(leader)
            key = f"race-{n}"
            names = [*living, leader] if n < RACES // 2 else living
            answers = race(cluster, pool, names, key)
            answers += race(cluster, pool, living[:1], key)  # and once more, later
            heard = [answer for answer in answers if answer is not None]
            assert {status for status, _, _ in heard} == {200}
            (ids[key],) = {headers["Crowd-Message-Id"] for _, headers, _ in heard}
            replayed[sum(h.get("Idempotent-Replayed") == "true" for _, h, _ in heard)] += 1
            assert len(heard) == len(names) + 1
    assert len(set(ids.values())) == RACES
    assert replayed == {3: RACES // 2, 2: RACES // 2}  # all but one, each time
    seen = eventually(
        "all of them", lambda: len(deliveries(cluster)) >= RACES and deliveries(cluster)
    )
    assert sorted(next(iter(one)) for one in seen.values()) == sorted(ids.values())
    assert all(len(one) == 1 for one in seen.values())
    cluster.up()
    cluster.same_ledgers()
    nodes = cluster.status()["nodes"]
    assert {node["position"] for node in nodes} == {RACES}
    assert {node["idempotency"]["held"] for node in nodes} == {RACES}


def test_a_key_of_another_request_is_refused_on_every_node(cluster):
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    first, *others = cluster.nodes
    assert cluster.post(first, b"1", headers=headers)[0] == 200
    for name in (first, *others):
        status, _, body = cluster.post(name, b"2", headers=headers)
        assert (status, json.loads(body)["type"]) == (422, "/problems/idempotency-key-reused")
    status, answer, _ = cluster.post(others[0], b"1", headers=headers)
    assert (status, answer["Idempotent-Replayed"]) == (200, "true")
    cluster.kill(*cluster.nodes)
    cluster.up()
    status, again, _ = cluster.post(others[1], b"1", headers=headers)
    assert (status, again["Crowd-Message-Id"]) == (200, answer["Crowd-Message-Id"])


def test_a_node_without_room_answers_what_is_stored_already(small):
    """And refuses only what is new to it."""
    (name,) = small.nodes

    def post(key, body):
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        return small.post(name, body, headers=headers)

    first = [post(key, b"1") for key in ("k1", "k2", "k3")]
    assert [status for status, _, _ in first] == [200] * 3
    assert post("", b"1")[0] == 503
    again = [post(key, b"1") for key in ("k1", "k2", "k3")]
    assert [(status, headers["Idempotent-Replayed"]) for status, headers, _ in again] == [
        (200, "true")
    ] * 3
    assert [headers["Crowd-Message-Id"] for _, headers, _ in again] == [
        headers["Crowd-Message-Id"] for _, headers, _ in first
    ]
    for key, body, expected in (("k1", b"2", (422, "key-reused")), ("k4", b"1", (503, "full"))):
        status, _, problem = post(key, body)
        assert (status, json.loads(problem)["type"].endswith(expected[1])) == (expected[0], True)
    assert small.status()["nodes"][0]["position"] == 3
