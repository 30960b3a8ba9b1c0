"""`crowd init` writes a cluster that its nodes can be started from."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.config import load_file
from crowd.errors import ConfigurationError, DirectoryError
from crowd.tools.init import ClusterPlan, node_plans, write_cluster
from crowd.tools.toml_text import merged, toml_text


def test_three_nodes_agree_about_each_other(tmp_path):
    files = write_cluster(tmp_path, ClusterPlan(upstream="http://127.0.0.1:8080"))
    assert [file.name for file in files] == ["a.toml", "b.toml", "c.toml"]
    a, b, c = map(load_file, files)
    assert a.cluster.peers == b.cluster.peers == c.cluster.peers
    assert a.cluster.peers["c"] == "127.0.0.1:2125"
    assert a.file_hash == b.file_hash == c.file_hash
    assert c.node.http == ("tcp:2124:interface=127.0.0.1",)
    assert c.node.admin == "tcp:2126:interface=127.0.0.1"
    assert [consumer.name for consumer in a.consumers] == ["upstream"]
    assert a.notes == ()
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "authority.key").stat().st_mode & 0o777 == 0o600


def test_nodes_on_hosts_of_their_own_have_the_same_ports(tmp_path):
    plan = ClusterPlan(hosts=("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    configuration = load_file(write_cluster(tmp_path, plan)[1])
    assert configuration.cluster.peers["b"] == "10.0.0.2:2105"
    assert configuration.node.http == ("tcp:2104",)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "b.key").write_text("precious")
    with pytest.raises(DirectoryError, match=r"b\.key: found a file; expected none"):
        write_cluster(tmp_path, ClusterPlan())
    assert [path.name for path in tmp_path.iterdir()] == ["b.key"]


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (ClusterPlan(nodes=0), "--nodes"),
        (ClusterPlan(nodes=10), "--nodes"),
        (ClusterPlan(hosts=("h1", "h2")), "--host"),
        (ClusterPlan(port=65_530), "--port"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan, problem):
    with pytest.raises(ValueError, match=problem):
        node_plans(plan)


@pytest.mark.parametrize(
    "plan", [ClusterPlan(cluster="A b"), ClusterPlan(upstream="x"), ClusterPlan(hosts=("a b",))]
)
def test_bad_values_are_told_as_configuration_problems_and_nothing_is_written(tmp_path, plan):
    with pytest.raises(ConfigurationError, match="expected"):
        write_cluster(tmp_path / "new", plan)
    assert not (tmp_path / "new").exists()


def test_a_file_of_ones_own_goes_beneath_names_and_ports(tmp_path):
    extra = {
        "limits": {"body": "2 MiB"},
        "node": {"name": "zzz"},
        "route": [{"path": "/leads"}],
    }
    configuration = load_file(write_cluster(tmp_path, ClusterPlan(extra=extra))[0])
    assert configuration.limits.body_bytes == 2 * 2**20
    assert configuration.node.name == "a"
    assert [route.path for route in configuration.routes] == ["/leads"]


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
INLINE = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False), TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
TABLE = st.dictionaries(TEXT, INLINE, max_size=4)


@given(st.dictionaries(TEXT, INLINE | TABLE | st.lists(TABLE, min_size=1, max_size=3), max_size=5))
def test_what_is_written_as_toml_reads_back(content):
    assert tomllib.loads(toml_text(content)) == content


def test_merging_goes_into_tables_and_replaces_all_else():
    under = {"a": {"x": 1, "y": [1]}, "b": 1, "c": {"z": 1}}
    over = {"a": {"y": [2]}, "b": {"x": 2}, "d": 4}
    assert merged(under, over) == {"a": {"x": 1, "y": [2]}, "b": {"x": 2}, "c": {"z": 1}, "d": 4}
