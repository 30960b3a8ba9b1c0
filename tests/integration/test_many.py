"""Many messages in one request: three real nodes, a leader that dies, and a consumer that records."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256

import pytest

from tests.checker import lines
from tests.integration.cluster import Nodes, eventually, free_ports

REQUESTS = 40
ELEMENTS = 50
LINES = "application/x-ndjson"


@pytest.fixture
def cluster(tmp_path):
    """Return three nodes whose route takes many messages, and a consumer's free port."""
    port = free_ports(3) + 35
    route = {"path": "/<path:rest>", "many": True, "idempotency": "event"}
    nodes = Nodes(tmp_path, upstream=f"http://127.0.0.1:{port}", extra={"route": [route]})
    nodes.consumer_port = port
    yield nodes
    nodes.close()


def element(request, place):
    """Return an element that says which it is, with bytes that a careless hand would change."""
    return b'{"n" : %d.%d, "n":1e999,\t"s":"\\u00e9 %s"}' % (
        request, place, "é".encode() * place,
    )  # fmt: skip


def test_i9_each_element_arrives_once_as_it_was_through_a_leaders_death(cluster):
    """Whatever was answered has its ids, one behind the other, and is delivered under them."""
    cluster.sink(cluster.consumer_port)
    leader = cluster.leader()
    living = [name for name in cluster.nodes if name != leader]
    expected, after = {}, []
    for number in range(REQUESTS):
        if number == REQUESTS // 2:
            cluster.kill(leader)
        bodies = [element(number, place) for place in range(ELEMENTS)]
        headers = {"Content-Type": LINES, "Idempotency-Key": f"many-{number}"}
        for _ in range(1 + number % 2):  # every second one comes again
            status, answered, body = cluster.post(
                living[number % 2], b"\n".join(bodies), "/leads?x=1", headers
            )
            assert status == 200
        ids = json.loads(body)["ids"]
        after += ids if number > REQUESTS // 2 else []
        assert json.loads(body).get("replayed") == (list(range(ELEMENTS)) if number % 2 else None)
        assert answered["Crowd-Message-Id"] == ids[0]
        positions = [int(one.rpartition("-")[2], 16) for one in ids]
        assert positions == list(range(positions[0], positions[0] + ELEMENTS))
        expected |= {one: sha256(each).hexdigest() for one, each in zip(ids, bodies, strict=True)}
    assert len(expected) == REQUESTS * ELEMENTS

    def arrived():
        seen = list(lines(cluster.sinks))
        return seen if {one["id"] for one in seen} >= expected.keys() else None

    seen = eventually("all of them", arrived)
    assert {one["id"]: one["sha256"] for one in seen} == expected
    times = Counter(one["id"] for one in seen)
    # I4: attempts whose outcome died with the leader are repeated, and what came later is not.
    assert max(times.values()) <= 2
    assert all(times[one] == 1 for one in after)
    for one in seen:
        assert (one["method"], one["target"]) == ("POST", "/leads?x=1")
        assert [v for k, v in one["headers"] if k.lower() == "content-type"] == ["application/json"]
    cluster.up()
    cluster.same_ledgers()
    assert {n["position"] for n in cluster.status()["nodes"]} == {REQUESTS * ELEMENTS}


def test_all_or_nothing_and_events_are_known_by_their_names(cluster):
    first, second, _ = cluster.nodes
    bad = b"\n".join([b'{"a": 1}'] * 99 + [b'{"a": }'])
    status, _, body = cluster.post(first, bad, headers={"Content-Type": LINES})
    assert (status, json.loads(body)["index"]) == (400, 99)
    assert {node["position"] for node in cluster.status()["nodes"]} == {0}

    def post(name, *ids):
        events = [{"specversion": "1.0", "id": one, "source": "/s", "type": "t"} for one in ids]
        headers = {"Content-Type": "application/cloudevents-batch+json"}
        status, _, body = cluster.post(name, json.dumps(events).encode(), headers=headers)
        assert status == 200
        return json.loads(body)

    stored = post(first, "1", "2", "1")
    assert stored["replayed"] == [2]
    assert stored["ids"][0] == stored["ids"][2]
    again = post(second, "2", "3", "1")
    assert again["replayed"] == [0, 2]
    assert [again["ids"][0], again["ids"][2]] == [stored["ids"][1], stored["ids"][0]]
    cluster.same_ledgers()
    assert {node["position"] for node in cluster.status()["nodes"]} == {3}
