"""A consumer that takes many messages in one request, before three real nodes whose leader dies."""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.integration.cluster import Nodes, eventually, free_ports

REQUESTS = 60
ELEMENTS = 40
REFUSED = 3
"""Requests that the consumer answers with 503, each whole batch of them to come again."""


class Consumer(BaseHTTPRequestHandler):
    """Keeps the lines of each batch that it takes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        server = self.server
        with server.lock:
            server.refused += 1
            refuses = server.refused <= REFUSED
            if not refuses:
                server.batches.append(body.splitlines())
        self.send_response(503 if refuses else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format, *args):  # noqa: A002  http.server's name
        """Say nothing."""


@pytest.fixture
def consumer():
    """Return a consumer that listens; `batches` are those that it took."""
    server = ThreadingHTTPServer(("127.0.0.1", free_ports(3) + 45), Consumer)
    server.lock, server.batches, server.refused = threading.Lock(), [], 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_i4_batches_bring_everything_through_a_leaders_death(consumer, tmp_path):
    """Each element arrives, most of them once, and most requests have many."""
    definition = {
        "name": "index", "url": f"http://127.0.0.1:{consumer.server_port}/bulk", "gzip": True,
        "batch": {"form": "ndjson", "count": 100, "linger": "50 ms"},
        "retry": {"first": "100 ms"},
    }  # fmt: skip
    route = {"path": "/<path:rest>", "many": True}
    nodes = Nodes(tmp_path, extra={"consumer": [definition], "route": [route]})
    try:
        leader = nodes.leader()
        living = [name for name in nodes.nodes if name != leader]
        expected = set()
        for number in range(REQUESTS):
            if number == REQUESTS // 2:
                nodes.kill(leader)
            bodies = [b'{"n":%d,"place":%d}' % (number, place) for place in range(ELEMENTS)]
            headers = {"Content-Type": "application/x-ndjson"}
            status, _, answer = nodes.post(living[number % 2], b"\n".join(bodies), headers=headers)
            assert (status, len(json.loads(answer)["ids"])) == (200, ELEMENTS)
            expected |= set(bodies)

        def arrived():
            with consumer.lock:
                seen = Counter(line for batch in consumer.batches for line in batch)
            return seen if seen.keys() >= expected else None

        seen = eventually("all of them", arrived)
        assert seen.keys() == expected
        assert max(seen.values()) <= 2, "more than what died with the leader came again"
        assert len(consumer.batches) < REQUESTS * ELEMENTS / 10
        assert max(map(len, consumer.batches)) == 100
        nodes.start()
        nodes.same_ledgers()
    finally:
        nodes.close()
