"""`crowd init` writes a cluster that its nodes can be started from."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.cli import main
from crowd.config import load_file
from crowd.errors import ConfigurationError, CrowdError, DirectoryError
from crowd.raft.tls import MutualTLS
from crowd.tools.init import ClusterPlan, add_node, node_plans, write_cluster
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
    (route,) = a.routes
    assert (route.path, route.reads, route.upstream) == (
        "/<path:rest>", "proxy", "http://127.0.0.1:8080",
    )  # fmt: skip
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


@pytest.fixture
def cluster(tmp_path):
    """A directory with a cluster of three, and a consumer and a limit of its own."""
    extra = {"limits": {"body": "2 MiB"}, "consumer": [{"name": "crm", "url": "http://crm/"}]}
    write_cluster(tmp_path, ClusterPlan(cluster="leads", extra=extra))
    return tmp_path


def test_a_node_added_later_knows_all_and_is_configured_as_they_are(cluster):
    """Its file has the others' addresses and routes; theirs stay as they were."""
    before = {path.name: path.read_bytes() for path in cluster.iterdir()}
    path = add_node(cluster, "d", "10.0.0.4", 2104)
    assert path == cluster / "d.toml"
    a, d = load_file(cluster / "a.toml"), load_file(path)
    assert d.node.name == "d"
    assert d.node.http == ("tcp:2104",)
    assert d.cluster.name == "leads"
    assert d.cluster.peers == {**a.cluster.peers, "d": "10.0.0.4:2105"}
    assert (d.file_hash, d.limits) == (a.file_hash, a.limits)
    assert d.node.directory == str(cluster / "d")
    after = {path.name: path.read_bytes() for path in cluster.iterdir()}
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"d.toml", "d.pem", "d.key"}
    assert (cluster / "d.key").stat().st_mode & 0o777 == 0o600


def test_a_node_added_later_proves_itself_to_the_others_authority(cluster):
    """Its certificate, key and the cluster's authority are good together, as the node finds."""
    add_node(cluster, "d", "127.0.0.1", 2134)
    for name in "ad":
        configuration = load_file(cluster / f"{name}.toml").cluster
        MutualTLS(
            None,
            cluster="leads",
            name=name,
            certificate=(cluster / configuration.certificate).read_bytes(),
            private_key=(cluster / configuration.private_key).read_bytes(),
            authority=(cluster / configuration.authority).read_bytes(),
        )


def test_nodes_can_be_added_one_after_the_other(cluster):
    """The second one knows the first."""
    add_node(cluster, "d", "127.0.0.1", 2134)
    e = load_file(add_node(cluster, "e", "::1", 2144))
    assert sorted(e.cluster.peers) == ["a", "b", "c", "d", "e"]
    assert e.cluster.peers["e"] == "[::1]:2145"


@pytest.mark.parametrize(
    ("name", "host", "port", "problem"),
    [
        ("b", "127.0.0.1", 2134, "found a node b; expected none"),
        ("D", "127.0.0.1", 2134, "node.name"),
        ("../d", "127.0.0.1", 2134, "node.name"),
        ("d", "a b", 2134, "cluster.peers"),
        ("d", "127.0.0.1", 2114, "cluster.peers"),  # b's
        ("d", "d.leads.crowd", 2134, "names under .crowd prove nodes"),
        ("d", "127.0.0.1", 0, "--port"),
        ("d", "127.0.0.1", 65_534, "--port"),
    ],
)
def test_a_node_that_cannot_be_is_not_added(cluster, name, host, port, problem):
    """The problem is named, and nothing is written."""
    before = sorted(cluster.iterdir())
    with pytest.raises((ValueError, CrowdError)) as raised:
        add_node(cluster, name, host, port)
    assert problem in str(raised.value)
    assert sorted(cluster.iterdir()) == before


@pytest.mark.parametrize("file", ["d.toml", "d.pem", "d.key"])
def test_adding_a_node_overwrites_nothing(cluster, file):
    """A file with one of its names is somebody's: a configuration is even read as a node's."""
    (cluster / file).write_text("precious")
    with pytest.raises(CrowdError, match=f"{file}: found"):
        add_node(cluster, "d", "127.0.0.1", 2134)
    assert (cluster / file).read_text() == "precious"
    assert len(list(cluster.glob("d.*"))) == 1


@pytest.mark.parametrize("file", ["authority.pem", "authority.key"])
def test_without_its_authority_a_cluster_gets_no_node(cluster, file):
    """The key is kept elsewhere, as it should be: the error says which file is wanted."""
    (cluster / file).rename(cluster / "elsewhere")
    with pytest.raises(DirectoryError, match=rf"{file}: found No such file.*expected what"):
        add_node(cluster, "d", "127.0.0.1", 2134)
    (cluster / file).write_text("no PEM")
    with pytest.raises(DirectoryError, match=r"cannot sign a certificate for d with .*authority"):
        add_node(cluster, "d", "127.0.0.1", 2134)
    assert not list(cluster.glob("d.*"))


def test_a_directory_without_one_cluster_gets_no_node(tmp_path, cluster):
    """None, two of them, or a node on its own."""
    with pytest.raises(DirectoryError, match=r"found no configuration; expected one cluster"):
        add_node(tmp_path / "none", "d", "127.0.0.1", 2134)
    text = (cluster / "c.toml").read_text()
    (cluster / "c.toml").write_text(text.replace('"leads"', '"orders"'))
    with pytest.raises(DirectoryError, match=r"found leads and orders; expected one cluster"):
        add_node(cluster, "d", "127.0.0.1", 2134)
    (cluster / "c.toml").write_text("")
    with pytest.raises(DirectoryError, match=r"c\.toml: found a node on its own"):
        add_node(cluster, "d", "127.0.0.1", 2134)


def test_a_node_is_added_on_the_command_line(cluster, capsys):
    """`crowd init DIR --add NAME` prints the file's path; a second time it says why not."""
    arguments = ["init", str(cluster), "--add", "d", "--host", "10.0.0.4", "--port", "2104"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{cluster / 'd.toml'}\n"
    assert load_file(cluster / "d.toml").cluster.peers["d"] == "10.0.0.4:2105"
    assert main(arguments) == 1
    assert "found a node d; expected none" in capsys.readouterr().err
    assert main(["init", str(cluster), "--add", "e", "--host", "h1", "--host", "h2"]) == 2
    assert "--host: found 2 of them; expected 1" in capsys.readouterr().err


def test_a_node_that_is_added_gets_the_next_ports_of_its_host(tmp_path):
    """On a host of its own it has those that every first node has."""
    write_cluster(tmp_path, ClusterPlan())
    for name, host, peer in (("d", "127.0.0.1", 2135), ("e", "10.0.0.9", 2105)):
        assert main(["init", str(tmp_path), "--add", name, "--host", host]) == 0
        assert load_file(tmp_path / f"{name}.toml").cluster.peers[name] == f"{host}:{peer}"


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
