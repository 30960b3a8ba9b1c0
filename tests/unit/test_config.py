"""Configuration: what a file means, and every problem of a bad one at once."""

from __future__ import annotations

import re
from hashlib import sha256
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
from crowd.definition import KeyBounds
from crowd.errors import ConfigurationError
from crowd.kinds import split_door

ROOT = Path(__file__).parents[2]

CONSUMER = "[[consumer]]\nname = 'a'\nurl = 'http://a'\n"

ROUTE = "[[route]]\npath = '/a'\n"

SIGNED = ROUTE + "[route.signature]\nform = 'hmac'\nsecrets = ['env:A']\n%s\n"
KEY = "[[route.key]]\nname = '{}'\nsha256 = ['{}']\n"

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
idempotency_window = "2 h"
backlog = "1 GiB"
acknowledge_within = "2.5 s"

[[route]]
path = "/leads"
methods = ["POST"]
reads = "proxy"
upstream = "http://api.internal:8080"

[[route.key]]
name = "shop-a"
sha256 = ["be3d3c1d5c8c4a5c0a4d9b2f5c6c4c1e2b8f1f7a0d9e8c7b6a5f4e3d2c1b0a99"]

[[route.certificate]]
name = "shop-b"
names = ["dns:Shop.example"]

[route.signature]
form = "hmac"
secrets = ["env:SECRET"]
header = "X-Sign"

[route.cors]
origins = ["https://shop.example"]

[route.content]
types = ["application/json"]

[route.rate]
limit = "50/s"

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


READS = "[[route]]\npath = '/a'\nreads = 'proxy'\nupstream = 'http://a'\n"


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
    assert configuration.idempotency == KeyBounds(7_200_000_000, 1_000)
    leads, shops = configuration.routes
    assert (leads.methods, leads.reads, leads.timeout_us) == (("POST",), "proxy", 60_000_000)
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
    assert configuration.idempotency == KeyBounds(86_400_000_000, 500_000)
    assert [route.path for route in configuration.routes] == ["/<path:rest>"]
    assert configuration.consumers == ()


def test_upstream_alone_is_a_whole_configuration(tmp_path):
    configuration = single_node("http://127.0.0.1:8080/", directory=tmp_path / "data")
    (consumer,) = configuration.consumers
    (route,) = configuration.routes
    assert consumer.url == "http://127.0.0.1:8080"
    assert (route.reads, route.upstream) == ("proxy", "http://127.0.0.1:8080")
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
        (
            "[node]\nhttp = ['tls:haproxy:tcp:1']",
            'node.http: found ["tls:haproxy:tcp:1"]; expected',
        ),
        ("[node]\nhttp = ['haproxy:haproxy:tcp:1']", "node.http: found"),
        ("[[route]]\npath = '/<a>/<a>'", 'path: found "/<a>/<a>"; expected a path in Klein'),
        ("[[route]]\npath = '/<b:a>'", 'path: found "/<b:a>"; expected a path in Klein'),
        ("[[route]]\npath = '/<int(x=1):a>'", "path: found"),
        ("[node]\nhttp = ['haproxy:tcp:1']", "node.balancers: found nothing; expected networks"),
        ("[node]\nbalancers = ['10.0.0.0/8']", "node.balancers: found ["),
        ("[node]\nhosts = ['a:1']", "node.hosts: found"),
        ("[node.tls]\ncertificate = 'a'\nprivate_key = 'b'", "node.http: found nothing"),
        ("[node.tls]\nclient_certificate = 'maybe'", 'found "maybe"; expected "require"'),
        ("[limits]\nin_flight = '1 MiB'\nbody = '2 MiB'", "limits.in_flight: found"),
        ("[limits]\nacknowledge_within = 5", "limits.acknowledge_within: found 5; expected a dur"),
        ("[limits]\nidempotency_keys = true", "limits.idempotency_keys: found true"),
        ("[limits]\nidempotency_keys = 1", "expected a whole number from 2 to 5000000, or 0"),
        ("[limits]\nidempotency_keys = 5_000_001", "limits.idempotency_keys: found 5000001"),
        ("[limits]\nidempotency_window = '31 d'", 'limits.idempotency_window: found "31 d"'),
        ("[[route]]", "route[1].path: found nothing; expected a path"),
        ("[[route]]\npath = '/<a'", "route[/<a].path: found"),
        ("[[route]]\npath = '/a'\nmethods = ['GET']", "route[/a].methods: found"),
        ("[[route]]\npath = '/a'\nreads = 'proxy'", "route[/a].upstream: found nothing"),
        ("[[route]]\npath = '/a'\nmethods = []", "route[/a].methods: found []; expected one or"),
        (READS + "timeout = 5", "route[/a].timeout: found 5; expected a duration"),
        (READS + "reach.allow = ['10.0.0.1/8']", "expected an array of at most 64 networks"),
        ("[[route]]\npath = '/.crowd/x'", "crowd's own"),
        ("[[route]]\npath = '/.crowd<path:x>'", "crowd's own"),
        ("[[route]]\npath = '/a'\nidempotency = 'id'", '"header" or "event"'),
        ("[[route]]\npath = '/a'\nwait = '2 min'", 'a duration from "0 s" to "1 min"'),
        (READS + "tls.authority = '/ca.pem'", "expected a url that begins with https://"),
        (READS.replace("//a", "//a..b"), 'route[/a].upstream: found "http://a..b"'),
        ("[limits]\nreads = 0", "limits.reads: found 0; expected a whole number from 1 to 1000"),
        ("[[route]]\npath = '/a'\n[[route]]\npath = '/a'", 'route.path: found "/a" twice'),
        ("[route]\npath = '/a'", "route: found { path"),
        (ROUTE + "[route.cors]", "route[/a].cors.origins: found nothing; expected an array of"),
        *(
            (ROUTE + f"cors.origins = {origins}", f"route[/a].cors.origins: found {shown}; expect")
            for origins, shown in (
                ("['shop.example']", '["shop.example"]'),
                ("['https://shop.example/']", '["https://shop.example/"]'),
                ("['https://Shop.example']", '["https://Shop.example"]'),
                ("['https://*']", '["https://*"]'),
                ("['*', 'null']", '["*", "null"]'),
                ("[]", "[]"),
            )
        ),
        (
            ROUTE + "cors = { origins = ['*'], credentials = true }",
            "route[/a].cors.credentials: found true; expected false, as browsers take no",
        ),
        (
            ROUTE
            + "cors = { origins = ['https://a.example'], expose = ['*'], credentials = true }",
            'route[/a].cors.expose: found ["*"]; expected names, as browsers take no',
        ),
        (
            ROUTE + "cors = { origins = ['https://a.example:443'] }",
            'route[/a].cors.origins: found "https://a.example:443"; expected it without the port, as',
        ),
        (
            ROUTE + "cors = { origins = ['http://*.a.example:80', 'https://a.example:80'] }",
            'route[/a].cors.origins: found "http://*.a.example:80"; expected it without the port, as',
        ),
        (ROUTE + "content.types = ['json']", 'route[/a].content.types: found ["json"]; expected'),
        (ROUTE + "content.depth = 0", "route[/a].content.depth: found 0; expected a whole number"),
        (
            ROUTE + "content.schema = '/none.json'",
            "route[/a].content.schema: found /none.json: No such file or directory; expected a file",
        ),
        (
            ROUTE + "content = { schema = '/none.json', json = false }",
            "route[/a].content.json: found false; expected true, as a schema is for JSON",
        ),
        (ROUTE + "[route.rate]", "route[/a].rate.limit: found nothing; expected a rate such as"),
        (ROUTE + "rate = { limit = '1/s', burst = 0 }", "route[/a].rate.burst: found 0; expected"),
        (
            ROUTE + "rate = { limit = '1/s', by = 'credential' }",
            'route[/a].rate.by: found "credential"; expected "address", as this route does not ask',
        ),
        ("[node]\ntrusted_proxies = ['10.0.0.1/8']", "node.trusted_proxies: found"),
        (
            "[node]\nproxy_field = 'Via'",
            'node.proxy_field: found "Via"; expected "X-Forwarded-For"',
        ),
        (ROUTE + "[route.signature]", "route[/a].signature.form: found nothing; expected"),
        (ROUTE + "signature = { form = 'github' }", "route[/a].signature.secrets: found nothing"),
        (
            ROUTE + "signature = { form = 'github', secrets = [] }",
            "route[/a].signature.secrets: found something else (not shown); expected an array of 1",
        ),
        (
            ROUTE + "signature = { form = 'github', secrets = ['hush'] }",
            "route[/a].signature.secrets: found something else (not shown); expected",
        ),
        (SIGNED % "", "route[/a].signature.header: found nothing; expected the name of a header"),
        (SIGNED % "content = '{bodies}'", "route[/a].signature.content: found"),
        (SIGNED % "content = '{body}{body}'", "route[/a].signature.content: found"),
        (SIGNED % "content = '{timestamp}.{body}'", "route[/a].signature.timestamp: found nothing"),
        (SIGNED % "timestamp = 'X-T'", 'route[/a].signature.timestamp: found "X-T"; expected a fi'),
        (SIGNED % "hash = 'md5'", 'route[/a].signature.hash: found "md5"; expected "sha256"'),
        (SIGNED.replace("hmac", "github") % "header = 'X'", "header: found an unknown key"),
        (
            ROUTE + "[[route.certificate]]\nname = 'x'\nnames = ['shop.example']",
            'route[/a].certificate[x].names: found ["shop.example"]; expected an array of 1 to 16',
        ),
        (
            ROUTE + 2 * "[[route.certificate]]\nname = 'x'\nnames = ['cn:a']\n",
            "route[/a].certificate: found one name in two of them; expected each name in one table",
        ),
        (ROUTE + "require = 'some'", 'route[/a].require: found "some"; expected "all" or "any"'),
        (ROUTE + "key_from = []", 'route[/a].key_from: found []; expected an array of "bearer"'),
        (ROUTE + "key_from = ['header:Host']", "route[/a].key_from: found"),
        (ROUTE + "key_from = ['header:Crowd-Key']", "route[/a].key_from: found"),
        (ROUTE + "[[route.key]]\nname = 'x'", "route[/a].key[x].sha256: found nothing; expected"),
        (
            ROUTE + KEY.format("x", sha256(b"").hexdigest()),
            "route[/a].key[x].sha256: found something else (not shown); expected an array",
        ),
        (
            ROUTE + "[[route.key]]\nname = 'x'\nsha256 = ['crowd_secret']",
            "route[/a].key[x].sha256: found something else (not shown); expected an array",
        ),
        (
            ROUTE + 2 * (KEY.format("x", "a" * 64)),
            'route[/a].key: found "x" twice; expected each name once',
        ),
        (
            ROUTE + KEY.format("x", "a" * 64) + KEY.format("y", "a" * 64),
            "found one key under two names",
        ),
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


@pytest.mark.parametrize("written", ["'hush'", "['hush']", "['env:A', 'hush']", "{ a = 'hush' }"])
@pytest.mark.parametrize("table", [ROUTE + "signature = {{ form = 'github', secrets = {} }}\n",
                                   CONSUMER + "sign = {{ secrets = {} }}\n"])  # fmt: skip
def test_a_secret_in_place_of_its_reference_is_in_no_problem(table, written):
    found = problems(table.format(written))
    assert found
    assert "hush" not in " ".join(found)


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
    assert from_text(WHOLE.replace("keys = 1_000", "keys = 1_001"), "d").file_hash != base
    assert from_text(WHOLE.replace('"2 h"', '"120 min"'), "e").file_hash == base
    assert len(base) == 32


def test_the_hash_is_over_policies_too():
    """Nodes that ask for different things differ; a route that asks nothing has no policy."""
    base = from_text(ROUTE, "a.toml")
    assert base.policies == ()
    assert from_text(ROUTE + "require = 'any'", "a").file_hash == base.file_hash
    one = from_text(ROUTE + KEY.format("x", "a" * 64), "a")
    other = from_text(ROUTE + KEY.format("x", "b" * 64), "a")
    assert one.routes == other.routes == base.routes
    assert len({base.file_hash, one.file_hash, other.file_hash}) == 3


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (b"{", "what is no JSON (Expecting property name"),
        (b"[]", "JSON that is no schema"),
        (b"\xff", "'utf-8' codec can't decode"),
        (b'{"type": "text"}', "no schema that can be used ("),
        (b'{"$ref": "http://127.0.0.1:9/x.json"}', "no schema that can be used ("),
        (b'{"pattern": "(?=a)"}', "no schema that can be used ("),
        (b" " * 2**20 + b"{}", "more than that; expected at most 1048576 bytes"),
    ],
)
def test_a_schema_that_is_none_is_told_with_its_file(tmp_path, schema, found):
    """At the start, and by `crowd check`; nothing is fetched to find out."""
    (tmp_path / "lead.json").write_bytes(schema)
    with pytest.raises(ConfigurationError) as caught:
        from_text(ROUTE + "content.schema = 'lead.json'", "node.toml", tmp_path)
    (problem,) = caught.value.problems
    place = tmp_path / "lead.json"
    assert problem.startswith(f"node.toml: route[/a].content.schema: found {place}: {found}")


def test_a_schemas_text_is_part_of_what_nodes_compare(tmp_path):
    """Its file may differ between nodes, and change without the node's own."""
    text, file = ROUTE + "content.schema = 'lead.json'", tmp_path / "lead.json"
    hashes = set()
    for schema in ('{"type": "object"}', '{"type": "array"}'):
        file.write_text(schema)
        read = from_text(text, "node.toml", tmp_path)
        assert read.policies[0].content.json
        hashes.add(read.file_hash)
    assert len(hashes) == 2


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
    keys = {re.sub(r"\[[^]]*\]", "", setting.key) for setting in settings}
    text = (ROOT / "docs/reference/configuration.md").read_text("utf-8")
    assert keys == set(re.findall(r"^### `([\w.]+)`", text, re.MULTILINE))


def test_a_route_that_lets_producers_wait_stands_open():
    """It has a policy, and nothing is asked of a request; nodes that differ in it say so."""
    made = [from_text(f"[[route]]\npath = '/a'\n{wait}", "a") for wait in ("", "wait = '30 s'")]
    assert [[each.wait_s for each in one.policies] for one in made] == [[], [30.0]]
    assert made[1].policies[0].asks_nothing
    assert made[0].file_hash != made[1].file_hash


def test_a_route_that_takes_many_messages_has_a_policy_for_it():
    text = "[limits]\nbody = '2 MiB'\n[[route]]\npath = '/a'\n"
    assert from_text(text, "a").policies == ()
    (many,) = from_text(text + "many = true\n", "a").policies
    assert (many.many, many.idempotency, many.decoded_bytes_max) == (True, "header", 2 << 20)
    (event,) = from_text(
        text + "idempotency = 'event'\n[route.content]\ndecoded = '4 KiB'\n", "a"
    ).policies  # fmt: skip
    assert (event.many, event.idempotency, event.decoded_bytes_max) == (False, "event", 4 << 10)


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


def test_workers_share_what_can_be_shared():
    """A TLS endpoint of Twisted's keeps its certificate in the process that made it."""
    assert from_text("", "a").node.workers == 0
    node = from_text("node.workers = 4\nnode.http = ['tcp:1', 'unix:/run/x']", "a").node
    assert (node.workers, node.http) == (4, ("tcp:1", "unix:/run/x"))
    with pytest.raises(ConfigurationError, match=r"node\.workers: found 65; expected"):
        from_text("node.workers = 65", "a")
    with pytest.raises(
        ConfigurationError, match=r"node\.http: found .* as node.workers take the requests"
    ):
        from_text("node.workers = 1\nnode.http = ['ssl:1:privateKey=k']", "a")
