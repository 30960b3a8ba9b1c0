"""A network in memory, nodes on it, and what is logged meanwhile."""

from __future__ import annotations

import pytest
from twisted.logger import LogLevel, formatEvent, globalLogPublisher

from tests.unit.peers.network import Network, Node, Recorder, hello_of


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def make_node(network):
    def make(name, **options):
        node = Node(network, name, **options)
        node.links.startService()
        return node

    return make


@pytest.fixture
def make_recorder():
    return Recorder


@pytest.fixture
def make_hello():
    return hello_of


@pytest.fixture
def logged():
    """Texts of what was logged meanwhile at level info or above."""
    texts = []

    def observe(event):
        if event["log_level"] >= LogLevel.info:
            texts.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)
