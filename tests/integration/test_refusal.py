"""Honest refusal: three real nodes, a consumer that is too slow, and producers that wait as told."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from tests.checker import lines
from tests.integration.cluster import Nodes, eventually, free_ports

RATE, BOUND = 40, 60
PRODUCERS, EACH = 24, 20
FACTOR = 2.0
"""How much longer than the consumer needs for all of it the producers may take together."""


@pytest.fixture
def cluster(tmp_path):
    """Return three nodes with one consumer that is given 40 messages a second, and may have 60 waiting."""
    port = free_ports(3) + 35
    slow = {
        "name": "slow", "url": f"http://127.0.0.1:{port}", "rate": f"{RATE}/s",
        "backlog_messages": BOUND,
    }  # fmt: skip
    nodes = Nodes(tmp_path, extra={"consumer": [slow]})
    nodes.consumer_port = port
    yield nodes
    nodes.close()


class Producer(threading.Thread):
    """Posts one message after the other; one that is refused again, as soon as it is asked to."""

    def __init__(self, cluster, number):
        super().__init__(daemon=True)
        self.cluster, self.number = cluster, number
        self.names = list(cluster.nodes)
        self.waits, self.statuses = [], Counter()

    def run(self):
        for turn in range(EACH):
            while True:
                name = self.names[(self.number + turn) % len(self.names)]
                status, headers, _ = self.cluster.post(name, b"%d %d" % (self.number, turn))
                self.statuses[status] += 1
                if status == 200:
                    break
                self.waits.append(int(headers["Retry-After"]))
                time.sleep(self.waits[-1])


def test_i7_producers_that_come_back_when_they_are_asked_to_get_through(cluster):
    """All of it is taken about as fast as the consumer takes it, and little is asked twice."""
    cluster.sink(cluster.consumer_port)
    producers = [Producer(cluster, number) for number in range(PRODUCERS)]
    began_s = time.monotonic()
    for producer in producers:
        producer.start()
    needed_s = (PRODUCERS * EACH - BOUND) / RATE
    for producer in producers:
        producer.join(FACTOR * needed_s + 10)
        assert not producer.is_alive(), "in about the time that the consumer needs"
    took_s = time.monotonic() - began_s
    statuses = sum((producer.statuses for producer in producers), Counter())
    waits = Counter(wait for producer in producers for wait in producer.waits)
    assert statuses.keys() == {200, 503}
    assert statuses[200] == PRODUCERS * EACH
    assert took_s < FACTOR * needed_s + 10
    assert len(waits) > 1, "not all in the same second"
    assert min(waits) >= 1
    eventually(
        "all at the consumer",
        lambda: len({line["sha256"] for line in lines(cluster.sinks)}) == PRODUCERS * EACH,
    )


def test_i7_while_a_consumer_is_gone_producers_are_asked_back_less_and_less_often(cluster):
    """On every node, up to a minute or somewhat more; and they get through when it is back."""

    def refused():
        heard = {}
        for name in cluster.nodes:
            status, headers, body = cluster.post(name)
            if status == 503:
                assert b"/problems/backlog-full" in body
                heard[name] = int(headers["Retry-After"])
        return heard

    eventually("a full backlog", lambda: len(refused()) == len(cluster.nodes), 20)
    eventually("a longer wait", lambda: min(refused().values()) >= 8, 20)
    assert max(refused().values()) <= 45
    cluster.sink(cluster.consumer_port)
    eventually("room again", lambda: not refused())
