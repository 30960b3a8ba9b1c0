"""Configuration: what a file means, and every problem of a bad one at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.command import Define, decode_command, encode_command
from crowd.config import (
    DoorTLS,
    definitions,
    explain_file,
    from_text,
    load_file,
    single_node,
)
from crowd.errors import ConfigurationError
from crowd.kinds import split_door

ROOT = Path(__file__).parents[2]

CONSUMER = "[[consumer]]\nname = 'a'\nurl = 'http://a'\n"

WHOLE = """
[node]
name = "a"
directory = "/var/lib/crowd/a"
http = ["tcp:2104", "tls:tcp:2443", "haproxy:tcp:2110"]
hosts = ["Crowd.example"]
balancers = ["10.0.0.0/8"]
peer = "tcp:2105"
admin = "tcp:2106:interface=127.0.0.1"

[node.tls]
certificate = "door.pem"
private_key = "door.key"
client_authority = "clients.pem"

[cluster]
name = "leads"
peers = { a = "10.0.0.1:2105", b = "10.0.0.2:2105", c = "[fe80::1]:2105" }
certificate = "a.pem"
private_key = "a.key"
authority = "cluster-ca.pem"

[limits]
body = "2 MiB"
in_flight = "32 MiB"
idempotency_keys = 1_000
backlog = "1 GiB"
acknowledge_within = "2.5 s"

[[route]]
path = "/leads"
methods = ["POST"]
reads = "proxy"
upstream = "http://api.internal:8080"

[[route]]
path = "/shops/<shop>/<path:rest>"

[[consumer]]
name = "rest-api"
url = "http://api.internal:8080/"
routes = ["/leads"]
concurrency = 8
rate = "200/s"
timeout = "10 s"
order = "none"
from = "beginning"
retry = { first = "2 s", factor = 3, most = "1 min", for = "1 h" }
backlog = "5 MiB"
when_full = "skip"

[[consumer]]
name = "search"
url = "https://search.internal/index"
path = "/bulk"
batch = { form = "ndjson" }
"""


def problems(text):
    with pytest.raises(ConfigurationError) as caught:
        from_text(text, "node.toml")
    return caught.value.problems


def test_a_whole_file_means_what_it_says():
    configuration = from_text(WHOLE, "node.toml", "/etc/crowd")
    assert configuration.node.directory == "/var/lib/crowd/a"
    assert configuration.cluster.certificate == "/etc/crowd/a.pem"
    assert configuration.cluster.peers["c"] == "[fe80::1]:2105"
    assert configuration.limits.body_bytes == 2 * 2**20
    assert configuration.limits.acknowledge_within_s == 2.5
    leads, shops = configuration.routes
    assert (leads.methods, leads.reads) == (("POST",), "proxy")
    assert (shops.methods, shops.reads) == (("POST", "PUT", "PATCH", "DELETE"), "refuse")
    rest, search = configuration.consumers
    assert (rest.url, rest.path, rest.routes) == ("http://api.internal:8080", None, ("/leads",))
    assert (rest.order, rest.from_, rest.when_full) == ("none", "beginning", "skip")
    assert (rest.timeout_us, rest.retry.most_us, rest.retry.factor) == (10_000_000, 60_000_000, 3.0)
    assert (search.path, search.routes, search.concurrency, search.rate) == ("/bulk", (), 32, None)
    assert configuration.cluster_name == "leads"


def test_an_empty_file_is_a_node_of_its_own_with_every_default():
    configuration = from_text("", "node.toml", "/srv")
    assert configuration.cluster is None
    assert configuration.cluster_name == configuration.node.name == "single"
    assert configuration.node.directory == "/srv/crowd-data"
    assert configuration.node.http == ("tcp:2104",)
    assert configuration.node.admin == "tcp:2106:interface=127.0.0.1"
    assert configuration.limits.body_bytes == 2**20
    assert configuration.limits.backlog_bytes == 20 * 2**30
    assert [route.path for route in configuration.routes] == ["/<path:rest>"]
    assert configuration.consumers == ()


def test_upstream_alone_is_a_whole_configuration(tmp_path):
    configuration = single_node("http://127.0.0.1:8080/", directory=tmp_path / "data")
    (consumer,) = configuration.consumers
    (route,) = configuration.routes
    assert consumer.url == "http://127.0.0.1:8080"
    assert (route.reads, route.upstream) == ("refuse", None)
    assert configuration.notes == ()
    assert configuration.node.directory == str(tmp_path / "data")


def test_an_upstream_that_is_no_url_is_named():
    with pytest.raises(ConfigurationError, match=r'--upstream: found "localhost:8080"; expected'):
        single_node("localhost:8080")


def test_six_mistakes_are_reported_at_once():
    """A person with six mistakes in a file needs one look, not six starts."""
    found = problems(
        """
        [node]
        name = "A"
        port = 2104
        [limits]
        body = "1 GiB"
        backlog = 5
        [[consumer]]
        name = "rest"
        url = "ftp://api"
        retry = { first = "soon" }
        """
    )
    assert [problem.split(":")[1].strip() for problem in found] == [
        "node.name",
        "node.port",
        "limits.body",
        "limits.backlog",
        "consumer[rest].url",
        "consumer[rest].retry.first",
    ]
    for problem in found:
        assert re.fullmatch(r"node\.toml: [\w.\[\]-]+: found .+; expected .+", problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[nodes]", "nodes: found an unknown key; expected one of node, cluster, limits"),
        ("node = 1", "node: found 1; expected a table"),
        ("[node]\npeer = 'tcp:1'", 'node.peer: found "tcp:1"; expected none'),
        ("[node]\nhttp = 'tcp:1'", "node.http: found"),
        ("[node]\nhttp = ['tcp:99999']", "node.http: found"),
        ("[node]\nadmin = '2106'", "node.admin: found"),
        ("[node]\nhttp = ['tls:tcp:99999']", "node.http: found"),
        ("[node]\nhttp = ['tls:tcp:1']", "node.tls: found nothing; expected certificate and"),
        ("[node]\nhttp = ['haproxy:tcp:1']", "node.balancers: found nothing; expected networks"),
        ("[node]\nbalancers = ['10.0.0.0/8']", "node.balancers: found ["),
        ("[node]\nhosts = ['a:1']", "node.hosts: found"),
        ("[node.tls]\ncertificate = 'a'\nprivate_key = 'b'", "node.http: found nothing"),
        ("[node.tls]\nclient_certificate = 'maybe'", 'found "maybe"; expected "require"'),
        ("[limits]\nin_flight = '1 MiB'\nbody = '2 MiB'", "limits.in_flight: found"),
        ("[limits]\nacknowledge_within = 5", "limits.acknowledge_within: found 5; expected a dur"),
        ("[limits]\nidempotency_keys = true", "limits.idempotency_keys: found true"),
        ("[[route]]", "route[1].path: found nothing; expected a path"),
        ("[[route]]\npath = '/<a'", "route[/<a].path: found"),
        ("[[route]]\npath = '/a'\nmethods = ['GET']", "route[/a].methods: found"),
        ("[[route]]\npath = '/a'\nreads = 'proxy'", "route[/a].upstream: found nothing"),
        ("[[route]]\npath = '/a'\n[[route]]\npath = '/a'", 'route.path: found "/a" twice'),
        ("[route]\npath = '/a'", "route: found { path"),
        ("[[consumer]]\nname = 'a'\nurl = 'http://a'\nroutes = ['/x']", "consumer[a].routes"),
        ("[[consumer]]\nname = 'a'\nurl = 'http://u:p@a'", "consumer[a].url: found"),
        ("[[consumer]]\nname = 'a'\nurl = 'http://a?x'", "consumer[a].url: found"),
        (CONSUMER + "order = 'header:'", 'found "header:"; expected "none", "all"'),
        (CONSUMER + "order = 'json:a'", 'found "json:a"; expected "none", "all"'),
        (CONSUMER + "on_dead = 'drop'", 'expected "release" or "hold"'),
        (CONSUMER + "adaptive = 1", "consumer[a].adaptive: found 1; expected true or false"),
        (CONSUMER + "answers.dead = ['200']", 'expected an array of statuses from "300"'),
        (
            CONSUMER + "answers = { dead = ['404'], retry = ['404'] }",
            'consumer[a].answers.404: found "404" twice; expected each status once',
        ),
        (CONSUMER + "retry.schedule = 'eager'", 'found "eager"; expected "patient", or an array'),
        (CONSUMER + "retry.jitter = 2", "found 2; expected a number from 0 to 1"),
        (CONSUMER + "from = 'position:0'", 'expected "now", "beginning", "position:123" or a'),
        (CONSUMER + "from = '2026-02-30T12:00:00Z'", 'or a time such as "2026-11-24T12:00:00Z"'),
        (CONSUMER + "breaker = { first = '2 min' }", "expected at least breaker.first"),
        (CONSUMER + "form = 'soap'", 'expected "request", "cloudevents-binary"'),
        (CONSUMER + "[consumer.batch]", "consumer[a].batch.form: found nothing"),
        (
            CONSUMER + "secrets = ['whsec_x']",
            "consumer[a].secrets: found something else (not shown); expected an array of at most 8",
        ),
        (
            CONSUMER + "form = 'cloudevents-binary'\nbatch.form = 'json'",
            'found "cloudevents-binary"; expected none beside batch',
        ),
        (CONSUMER + "tls.certificate = '/a.pem'", "expected both of tls.certificate and"),
        *(
            (CONSUMER + f"tls.{key} = '{path}'", f"consumer[a].tls.{key}: found {shown}; expected")
            for key, path, shown in (
                ("authority", "ca.pem", '"ca.pem"'),
                ("certificate", "./a.pem", '"./a.pem"'),
                ("private_key", "~/a.key", '"~/a.key"'),
                ("authority", "/etc/", '"/etc/"'),
                ("authority", "", '""'),
            )
        ),
        (CONSUMER + "tls.authority = '/ca.pem'", "expected a url that begins with https://"),
        (CONSUMER + "reach.allow = ['10.0.0.1/8']", "expected an array of at most 64 networks"),
        (
            "[[consumer]]\nname = 'a'\nurl = 'http://a'\nretry = { first = '1 h', most = '1 s' }",
            'consumer[a].retry.most: found "1 s"; expected at least retry.first',
        ),
        ("[cluster]", "cluster.peers: found nothing; expected a table"),
        ("[cluster]", "node.name: found nothing; expected a name"),
        (WHOLE.replace('name = "a"', 'name = "d"'), 'expected this node, "d", among them'),
        (WHOLE.replace("10.0.0.2", "10.0.0.1"), "cluster.peers: found"),
        ("x = ", "found what is not TOML"),
        ("x = " + "[" * 5_000, "found what is not TOML"),
    ],
)
def test_a_mistake_is_told_with_its_key(text, problem):
    assert any(problem in line for line in problems(text)), problems(text)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("[limits]\nidempotency_keys = 9", "limits.idempotency_keys = 9: Idempotency-Key is not"),
        (
            "[[route]]\npath = '/a'\nreads = 'proxy'\nupstream = 'http://a'",
            'route[/a].reads = "proxy": GET and HEAD get 405 with Allow',
        ),
    ],
)
def test_what_is_not_in_force_yet_is_told(text, note):
    """Who sets a key that this version does not act on hears so, and what happens instead."""
    (found,) = from_text(text, "node.toml").notes
    assert found.startswith(note)


@pytest.mark.parametrize(
    "text",
    [
        "",
        CONSUMER,
        CONSUMER + "rate = '1/s'\norder = 'none'",
        CONSUMER + "backlog = '1 GiB'\nwhen_full = 'skip'",
        CONSUMER + "from = 'position:7'",
        CONSUMER + "from = '2026-11-24T12:00:00Z'",
        "[[route]]\npath = '/'\nreads = 'refuse'",
    ],
)
def test_what_is_in_force_or_left_out_has_no_note(text):
    assert from_text(text, "node.toml").notes == ()


def test_every_note_of_a_whole_file_is_there():
    notes = from_text(WHOLE, "node.toml").notes
    assert [note.partition(" = ")[0] for note in notes] == [
        "limits.idempotency_keys",
        "route[/leads].reads",
    ]


def test_a_file_that_is_not_there_is_a_problem_like_any_other(tmp_path):
    with pytest.raises(ConfigurationError, match="found No such file or directory"):
        load_file(tmp_path / "none.toml")


def test_a_problem_stays_one_short_line():
    (problem,) = problems(f"[node]\ndirectory = ''\nname = \"{'x' * 5_000}\\n\"")[:1]
    assert "\n" not in problem
    assert len(problem) < 400


def test_a_peer_port_left_out_is_the_one_that_peers_dial():
    configuration = from_text(WHOLE.replace('peer = "tcp:2105"', ""), "node.toml")
    assert configuration.node.peer == "tcp:2105"


def test_the_hash_is_over_routes_and_consumers_alone():
    """Nodes of a cluster have different [node] tables and must still agree."""
    base = from_text(WHOLE, "a.toml").file_hash
    assert from_text(WHOLE.replace('name = "a"', 'name = "b"'), "b.toml").file_hash == base
    assert from_text(WHOLE.replace("concurrency = 8", "concurrency = 9"), "c").file_hash != base
    assert len(base) == 32


def test_definitions_fit_into_the_log():
    configuration = from_text(WHOLE, "node.toml")
    routes, consumers = definitions(configuration)
    command = Define("a", configuration.file_hash, routes, consumers)
    assert decode_command(encode_command(command)) == command


def test_explaining_names_every_key_and_marks_the_defaults(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("[limits]\nbody = '2 MiB'\n")
    _, settings = explain_file(file)
    told = {setting.key: (setting.value, setting.is_default) for setting in settings}
    assert told["limits.body"] == ('"2 MiB"', False)
    assert told["limits.in_flight"] == ('"64 MiB"', True)
    assert told["node.peer"] == ("not set", True)


def test_every_key_has_its_heading_in_the_reference(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text(WHOLE)
    _, settings = explain_file(file)
    keys = {re.sub(r"\[.*\]", "", setting.key) for setting in settings}
    text = (ROOT / "docs/reference/configuration.md").read_text("utf-8")
    assert keys == set(re.findall(r"^### `([\w.]+)`", text, re.MULTILINE))


def test_a_schedule_takes_the_place_of_growing_waits():
    """The patient one is the Standard Webhooks specification's example."""
    (patient,) = from_text(CONSUMER + "retry.schedule = 'patient'", "a").consumers
    assert sum(patient.retry.schedule_us) == (75 * 3600 + 35 * 60 + 5) * 10**6
    (own,) = from_text(CONSUMER + "retry.schedule = ['5 s', '1 h']", "a").consumers
    assert own.retry.schedule_us == (5_000_000, 3_600_000_000)


VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-10, 10), st.floats(allow_nan=False), st.text(max_size=5),
        st.sampled_from(["1 MiB", "5 s", "/a", "http://a", "tcp:1", "a", "proxy", "now", "1/s"]),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)  # fmt: skip
KEYS = st.sampled_from(
    ["name", "directory", "http", "peer", "admin", "peers", "body", "path", "url", "retry",
     "methods", "reads", "routes", "rate", "order", "from", "backlog", "when_full", "zzz"]
)  # fmt: skip
HEADS = st.sampled_from(["[node]", "[cluster]", "[limits]", "[[route]]", "[[consumer]]"])


def toml_value(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return repr(value)


@given(st.lists(st.tuples(HEADS, st.dictionaries(KEYS, VALUES, max_size=4)), max_size=4))
def test_any_file_is_a_configuration_or_its_problems(tables):
    lines = []
    for head, pairs in tables:
        lines.append(head)
        lines += [f"{key} = {toml_value(value)}" for key, value in pairs.items()]
    try:
        configuration = from_text("\n".join(lines), "fuzz.toml")
    except ConfigurationError as error:
        assert error.problems
        assert all("\n" not in problem for problem in error.problems)
        return
    assert configuration.routes


@given(st.text())
def test_any_text_is_a_configuration_or_its_problems(text):
    try:
        from_text(text, "fuzz.toml")
    except ConfigurationError as error:
        assert error.problems


def test_what_comes_before_http_on_a_port():
    node = from_text(WHOLE, "a.toml", "/etc/crowd").node
    assert [split_door(text) for text in node.http] == [
        (False, False, "tcp:2104"), (False, True, "tcp:2443"), (True, False, "tcp:2110"),
    ]  # fmt: skip
    assert split_door("haproxy:tls:unix:/run/a") == (True, True, "unix:/run/a")
    assert (node.hosts, node.balancers) == (("crowd.example",), ("10.0.0.0/8",))
    assert node.tls == DoorTLS(
        "/etc/crowd/door.pem", "/etc/crowd/door.key", "/etc/crowd/clients.pem", "require"
    )
