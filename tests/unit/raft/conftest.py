"""Clusters in memory for the tests of this folder."""

import pytest

from tests.unit.raft.cluster import Cluster


@pytest.fixture
def cluster():
    """Three members, born and led, on a simulated clock."""
    made = Cluster().start().run(4)
    assert made.leader
    return made
