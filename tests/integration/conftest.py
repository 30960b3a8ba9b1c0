"""Clusters of real processes, ended whatever a test does."""

import pytest

from tests.integration.cluster import Nodes, free_ports


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/integration" in str(item.path):
            item.add_marker(pytest.mark.processes)


@pytest.fixture
def cluster(tmp_path):
    """Three nodes in front of a consumer's address, where nobody listens yet."""
    consumer = free_ports(1) + 5
    nodes = Nodes(tmp_path, upstream=f"http://127.0.0.1:{consumer}")
    nodes.consumer_port = consumer
    yield nodes
    nodes.close()
