"""A node's configuration: TOML in, frozen values out, every problem reported at once.

Decides the keys, their defaults, bounds and what must fit together; the reference with each
key's meaning is docs/reference/configuration.md. Leaves to `crowd.service` what is built
from it, and to the ledger what holds when nodes' files differ. Routes and consumers are the
log's own definitions (`crowd.command`), as a node proposes them word for word.

Paths in a file are relative to that file; every path in a `Configuration` is absolute, as
a daemon changes its directory. A consumer's own must be absolute in the file: its definition
is the same text on every node.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd import kinds, policy_kinds
from crowd.codec import pack
from crowd.definition import (
    Answers,
    Batch,
    Breaker,
    ConsumerDefinition,
    Dead,
    KeyBounds,
    Proof,
    Reach,
    Retry,
    RouteDefinition,
)
from crowd.errors import ConfigurationError
from crowd.policy_tables import read_policy
from crowd.table import Findings, Setting, Table, show

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crowd.policy import Policy

METHODS_DEFAULT: Final = ["POST", "PUT", "PATCH", "DELETE"]
RESERVED: Final = "/.crowd"
"""Where paths begin that are no route's."""

EVERYTHING: Final = "/<path:rest>"
"""The route of a file that names none."""


class DoorTLS(msgspec.Struct, frozen=True):
    """What the ports ``tls:`` of producers rest on: files in PEM.

    ``client_authority``: whose certificates producers show, if they ``require`` one or ``ask``.
    """

    certificate: str
    private_key: str
    client_authority: str | None
    client_certificate: str


class Node(msgspec.Struct, frozen=True):
    """This node: ``http``, ``peer`` and ``admin`` are Twisted's endpoint strings.

    Those of ``http`` may begin with ``haproxy:`` and ``tls:`` (`kinds.split_door`).
    ``balancers`` are the networks that may connect to the former; ``tls`` serves the latter.
    ``hosts`` are the names that producers may ask for; any, where there are none.
    Proxies in ``trusted_proxies`` are believed who came to them; they say so in ``proxy_field``.
    """

    name: str
    directory: str
    http: tuple[str, ...]
    hosts: tuple[str, ...]
    peer: str | None
    admin: str
    trusted_proxies: tuple[str, ...] = ()
    proxy_field: str = "X-Forwarded-For"
    balancers: tuple[str, ...] = ()
    tls: DoorTLS | None = None


class Cluster(msgspec.Struct, frozen=True):
    """The cluster that the node is a member of: each member's ``host:port``, and the proofs."""

    name: str
    peers: dict[str, str]
    certificate: str
    private_key: str
    authority: str


class Limits(msgspec.Struct, frozen=True):
    """What a node holds at most, and how long a producer waits for a quorum."""

    body_bytes: int
    in_flight_bytes: int
    backlog_bytes: int
    backlog_messages: int
    retention_us: int
    acknowledge_within_s: float
    reads: int


class Configuration(msgspec.Struct, frozen=True):
    """All of a file. ``file_hash`` is over routes, consumers, ``idempotency`` and policies alone.

    Routes, consumers and ``idempotency`` are the cluster's, and go through the log: the last are
    the bounds of its keys, which stand among the file's limits. ``policies`` has those routes'
    that ask anything of a request, or let its producer wait.
    """

    node: Node
    cluster: Cluster | None
    limits: Limits
    routes: tuple[RouteDefinition, ...]
    consumers: tuple[ConsumerDefinition, ...]
    idempotency: KeyBounds
    file_hash: bytes
    policies: tuple[Policy, ...] = ()

    @property
    def cluster_name(self) -> str:
        """The cluster's name; a node on its own is a cluster named as itself."""
        return self.cluster.name if self.cluster is not None else self.node.name


def load_file(path: str | Path) -> Configuration:
    """Return what the file at `path` means; raise ConfigurationError with every problem."""
    return from_text(_read(Path(path)), str(path), Path(path).parent)


def explain_file(path: str | Path) -> tuple[Configuration, tuple[Setting, ...]]:
    """Return what `load_file` does, and each key's meaning with the defaults among them."""
    findings = Findings(str(path))
    configuration = _configuration(_read(Path(path)), findings, Path(path).parent)
    return configuration, tuple(findings.settings)


def from_text(text: str, source: str, directory: str | Path = ".") -> Configuration:
    """Return what `text` means; `source` names it in problems.

    Relative paths in it are taken from `directory`. Raises ConfigurationError.
    """
    return _configuration(text, Findings(source), Path(directory))


def single_node(upstream: str, *, directory: str | Path = "crowd-data") -> Configuration:
    """Return the configuration of one node in front of `upstream`, all else by default.

    Writes of any path are accepted and delivered to `upstream`; reads go straight there.
    Raises ConfigurationError if `upstream` is no http or https URL.
    """
    try:
        kinds.URL.parse(upstream)
    except ValueError:
        problem = f"--upstream: found {show(upstream)}; expected {kinds.URL.expected}"
        raise ConfigurationError((problem,)) from None
    url = show(upstream)
    text = f"""
        [node]
        directory = {show(str(directory))}
        [[route]]
        path = "{EVERYTHING}"
        reads = "proxy"
        upstream = {show(upstream)}
        [[consumer]]
        name = "upstream"
        url = {url}
    """
    return from_text(text, "--upstream")


def read_consumer(
    content: dict[str, Any], source: str, routes: Iterable[str] | None
) -> ConsumerDefinition:
    """Return what one ``[[consumer]]`` table means that stands in no file.

    `source` names it in problems. Its routes must be among the paths `routes`, or may be any
    if that is None. Raises ConfigurationError with every problem.
    """
    findings = Findings(source)
    (table,) = Table({"consumer": [content]}, "", findings).tables("consumer")
    consumer = _consumer(table, None if routes is None else frozenset(routes))
    if findings.problems:
        raise ConfigurationError(tuple(findings.problems))
    return consumer


def consumer_tables(path: str | Path) -> list[dict[str, Any]]:
    """Return the ``[[consumer]]`` tables of the file at `path` as they stand there.

    The file may be a node's whole configuration, or hold nothing else. Raises
    ConfigurationError for a file without one, and with every problem in them.
    """
    source = str(path)
    tables = _parsed(_read(Path(path)), source).get("consumer")
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise ConfigurationError((f"{source}: found no [[consumer]]; expected one or more",))
    problems: list[str] = []
    names = []
    for table in tables:
        try:
            names.append(read_consumer(table, source, None).name)
        except ConfigurationError as error:
            problems += error.problems
    findings = Findings(source)
    _check_unique(findings, "consumer", "name", names)
    if problems + findings.problems:
        raise ConfigurationError((*problems, *findings.problems))
    return tables


def definitions(
    configuration: Configuration,
) -> tuple[tuple[RouteDefinition, ...], tuple[ConsumerDefinition, ...]]:
    """Return the routes and consumers as a `Define` command carries them."""
    return configuration.routes, configuration.consumers


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise ConfigurationError((f"{path}: found {words}; expected a TOML file",)) from None


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problem = f"{source}: found what is not TOML ({error}); expected TOML 1.0"
        raise ConfigurationError((problem,)) from None


def _configuration(text: str, findings: Findings, directory: Path) -> Configuration:
    root = Table(_parsed(text, findings.source), "", findings)
    in_cluster = root.has("cluster")
    node = _node(root.table("node"), directory, in_cluster=in_cluster)
    table = root.table("cluster")
    cluster = _cluster(table, node, directory) if in_cluster else None
    limits, idempotency = _limits(root.table("limits"))
    routes, policies = _routes(root, directory, limits.body_bytes)
    paths = frozenset(route.path for route in routes)
    consumers = tuple(_consumer(table, paths) for table in root.tables("consumer"))
    _check_unique(findings, "consumer", "name", [consumer.name for consumer in consumers])
    root.close()
    if findings.problems:
        raise ConfigurationError(tuple(findings.problems))
    if cluster is not None and node.peer is None:
        _, port = kinds.split_address(cluster.peers[node.name])
        node = msgspec.structs.replace(node, peer=f"tcp:{port}")
    return Configuration(
        node=node,
        cluster=cluster,
        limits=limits,
        routes=routes,
        consumers=consumers,
        idempotency=idempotency,
        file_hash=_hash(routes, consumers, idempotency, policies),
        policies=policies,
    )


def _node(table: Table, directory: Path, *, in_cluster: bool) -> Node:
    named = table.has("name") or in_cluster
    node = Node(
        name=table.read("name", kinds.NAME) if named else table.read("name", kinds.NAME, "single"),
        directory=_path(table, "directory", directory, "crowd-data"),
        http=table.read("http", kinds.DOORS, ["tcp:2104"]),
        hosts=table.read("hosts", kinds.HOSTS, []),
        peer=table.read_optional("peer", kinds.ENDPOINT),
        admin=table.read("admin", kinds.ENDPOINT, "tcp:2106:interface=127.0.0.1"),
        trusted_proxies=table.read("trusted_proxies", kinds.NETWORKS, []),
        proxy_field=table.read("proxy_field", policy_kinds.PROXY_FIELD, "X-Forwarded-For"),
        balancers=table.read("balancers", kinds.NETWORKS, []),
        tls=_door_tls(table, directory),
    )
    doors = [kinds.split_door(text) for text in node.http]
    if node.tls is None and any(door.is_tls for door in doors):
        table.problem("tls", "certificate and private_key, as node.http has a tls: port")
    if node.tls is not None and not any(door.is_tls for door in doors):
        table.problem("http", 'a port such as "tls:tcp:2443", as node.tls is set')
    if bool(node.balancers) != any(door.is_proxied for door in doors):
        table.problem("balancers", "networks and a haproxy: port of node.http, or neither")
    if node.peer is not None and not in_cluster:
        table.problem("peer", "none, as there is no [cluster]")
    table.close()
    return node


def _door_tls(node: Table, directory: Path) -> DoorTLS | None:
    table = node.table("tls")
    if not node.has("tls"):
        node.note("tls", "not set")
        return None
    authority = table.read_optional("client_authority", kinds.TEXT)
    tls = DoorTLS(
        certificate=_path(table, "certificate", directory),
        private_key=_path(table, "private_key", directory),
        client_authority=None if authority is None else str(directory.absolute() / authority),
        client_certificate=table.read("client_certificate", kinds.CLIENTS, "require"),
    )
    table.close()
    return tls


def _cluster(table: Table, node: Node, directory: Path) -> Cluster:
    cluster = Cluster(
        name=table.read("name", kinds.NAME),
        peers=table.read("peers", kinds.PEERS),
        certificate=_path(table, "certificate", directory),
        private_key=_path(table, "private_key", directory),
        authority=_path(table, "authority", directory),
    )
    if cluster.peers and node.name and node.name not in cluster.peers:
        table.problem("peers", f"this node, {show(node.name)}, among them")
    table.close()
    return cluster


def _path(table: Table, name: str, directory: Path, *default: str) -> str:
    value = table.read(name, kinds.TEXT, *default)
    return str(directory.absolute() / value)


def _limits(table: Table) -> tuple[Limits, KeyBounds]:
    limits = Limits(
        body_bytes=table.read("body", kinds.BODY, "1 MiB"),
        in_flight_bytes=table.read("in_flight", kinds.SIZE, "64 MiB"),
        backlog_bytes=table.read("backlog", kinds.SIZE, "20 GiB"),
        backlog_messages=table.read("backlog_messages", kinds.MESSAGES, 50_000_000),
        retention_us=table.read("retention", kinds.RETENTION, "0 s"),
        acknowledge_within_s=table.read("acknowledge_within", kinds.PATIENCE, "5 s") / 1e6,
        reads=table.read("reads", kinds.CONCURRENCY, 256),
    )
    keys = KeyBounds(
        window_us=table.read("idempotency_window", kinds.WINDOW, "24 h"),
        count_max=table.read("idempotency_keys", kinds.KEYS, 500_000),
    )
    if 0 < limits.in_flight_bytes < limits.body_bytes:
        table.problem("in_flight", "at least limits.body, or no such body ever gets in")
    table.close()
    return limits, keys


def _routes(
    root: Table, directory: Path, body_bytes: int
) -> tuple[tuple[RouteDefinition, ...], tuple[Policy, ...]]:
    """Return the routes, and the policies of those that ask anything or let producers wait."""
    if not root.has("route"):
        rest = RouteDefinition(EVERYTHING, tuple(METHODS_DEFAULT), "refuse", None)
        root.tables("route")
        root.note("route", f"{EVERYTHING}, as no [[route]] is given")
        return (rest,), ()
    read = [_route(table, directory, body_bytes) for table in root.tables("route")]
    _check_unique(root.findings, "route", "path", [route.path for route, _ in read])
    policies = tuple(policy for _, policy in read if not policy.asks_nothing or policy.wait_s)
    return tuple(route for route, _ in read), policies


def _route(table: Table, directory: Path, body_bytes: int) -> tuple[RouteDefinition, Policy]:
    route = RouteDefinition(
        path=table.read("path", kinds.RULE),
        methods=table.read("methods", kinds.METHODS, METHODS_DEFAULT),
        reads=table.read("reads", kinds.READS, "refuse"),
        upstream=table.read_optional("upstream", kinds.URL),
        timeout_us=table.read("timeout", kinds.TIMEOUT, "60 s"),
        reach=_reach(table.table("reach")),
        proof=_proof(table.table("tls")),
    )
    if route.path.startswith(RESERVED):
        table.problem(
            "path", f'a path that does not begin with "{RESERVED}", which is crowd\'s own'
        )
    if route.reads == "proxy":
        if not table.has("upstream"):
            table.problem("upstream", f'{kinds.URL.expected}, as reads = "proxy"')
    elif not route.methods and table.has("methods"):
        table.problem("methods", 'one or more, or reads = "proxy": this route takes nothing')
    if route.proof != Proof() and (route.upstream or "").startswith("http://"):
        table.problem("upstream", "a url that begins with https://, as tls is set")
    policy = read_policy(table, route.path, route.methods, directory, body_bytes)
    table.close()
    return route, policy


def _consumer(table: Table, paths: frozenset[str] | None) -> ConsumerDefinition:
    consumer = ConsumerDefinition(
        name=table.read("name", kinds.NAME),
        url=table.read("url", kinds.URL),
        path=table.read_optional("path", kinds.PATH),
        routes=table.read("routes", kinds.RULES, []),
        concurrency=table.read("concurrency", kinds.CONCURRENCY, 32),
        rate=table.read_optional("rate", kinds.RATE),
        timeout_us=table.read("timeout", kinds.TIMEOUT, "15 s"),
        order=table.read("order", kinds.ORDER, "none"),
        from_=table.read("from", kinds.FROM, "now"),
        retry=_retry(table.table("retry")),
        backlog_bytes=table.read("backlog", kinds.SIZE, "5 GiB"),
        when_full=table.read("when_full", kinds.WHEN_FULL, "refuse"),
        on_dead=table.read("on_dead", kinds.ON_DEAD, "release"),
        adaptive=table.read("adaptive", kinds.FLAG, True),
        answers=_answers(table.table("answers")),
        breaker=_breaker(table.table("breaker")),
        form=table.read("form", kinds.FORM, "request"),
        batch=_batch(table),
        gzip=table.read("gzip", kinds.FLAG, False),
        secrets=table.read("secrets", kinds.SECRETS, []),
        proof=_proof(table.table("tls")),
        reach=_reach(table.table("reach")),
        dead=_dead(table.table("dead")),
        backlog_messages=table.read("backlog_messages", kinds.MESSAGES, 20_000_000),
    )
    if consumer.proof != Proof() and consumer.url.startswith("http://"):
        table.problem("url", "a url that begins with https://, as tls is set")
    if consumer.batch is not None and consumer.form != "request":
        table.problem("form", "none beside batch, as batch.form says what is sent")
    if paths is not None and not paths.issuperset(consumer.routes):
        table.problem("routes", "paths of routes that are known: " + ", ".join(sorted(paths)))
    table.close()
    return consumer


def _retry(table: Table) -> Retry:
    retry = Retry(
        first_us=table.read("first", kinds.DELAY, "1 s"),
        factor=table.read("factor", kinds.FACTOR, 2.0),
        most_us=table.read("most", kinds.DELAY, "5 min"),
        for_us=table.read("for", kinds.DELAY, "24 h"),
        attempts=table.read("attempts", kinds.ATTEMPTS, 0),
        jitter=table.read("jitter", kinds.SHARE, 1.0),
        schedule_us=table.read("schedule", kinds.SCHEDULE, []),
        asked_most_us=table.read("asked_most", kinds.DELAY, "1 h"),
    )
    if 0 < retry.most_us < retry.first_us:
        table.problem("most", "at least retry.first")
    table.close()
    return retry


def _answers(table: Table) -> Answers:
    answers = Answers(
        retry=table.read("retry", kinds.STATUSES, []),
        hold=table.read("hold", kinds.STATUSES, []),
        dead=table.read("dead", kinds.STATUSES, []),
    )
    named = [*answers.retry, *answers.hold, *answers.dead]
    for status in sorted({status for status in named if named.count(status) > 1}):
        table.findings.problem(table.key(status), f"{show(status)} twice", "each status once")
    table.close()
    return answers


def _breaker(table: Table) -> Breaker:
    breaker = Breaker(
        failures=table.read("failures", kinds.FAILURES, 10),
        ratio=table.read("ratio", kinds.RATIO, 0.9),
        first_us=table.read("first", kinds.DELAY, "1 s"),
        most_us=table.read("most", kinds.DELAY, "1 min"),
    )
    if 0 < breaker.most_us < breaker.first_us:
        table.problem("most", "at least breaker.first")
    table.close()
    return breaker


def _batch(consumer: Table) -> Batch | None:
    table = consumer.table("batch")
    if not consumer.has("batch"):
        consumer.note("batch", "not set")
        return None
    batch = Batch(
        form=table.read("form", kinds.BATCH_FORM),
        count=table.read("count", kinds.BATCH_COUNT, 500),
        bytes_max=table.read("bytes", kinds.BODY, "1 MiB"),
        linger_us=table.read("linger", kinds.LINGER, "100 ms"),
    )
    table.close()
    return batch


def _proof(table: Table) -> Proof:
    proof = Proof(
        authority=table.read_optional("authority", kinds.FILE),
        certificate=table.read_optional("certificate", kinds.FILE),
        private_key=table.read_optional("private_key", kinds.FILE),
    )
    if (proof.certificate is None) != (proof.private_key is None):
        table.problem("private_key", "both of tls.certificate and tls.private_key, or neither")
    table.close()
    return proof


def _reach(table: Table) -> Reach:
    reach = Reach(
        allow=table.read("allow", kinds.NETWORKS, []),
        deny=table.read("deny", kinds.NETWORKS, list(Reach().deny)),
    )
    table.close()
    return reach


def _dead(table: Table) -> Dead:
    dead = Dead(
        for_us=table.read("for", kinds.DELAY, "30 d"),
        bytes_max=table.read("bytes", kinds.SIZE, "1 GiB"),
    )
    table.close()
    return dead


def _check_unique(findings: Findings, what: str, key: str, values: list[str]) -> None:
    for value in sorted({value for value in values if value and values.count(value) > 1}):
        findings.problem(f"{what}.{key}", f"{show(value)} twice", "each one once")


def _hash(
    routes: tuple[RouteDefinition, ...],
    consumers: tuple[ConsumerDefinition, ...],
    idempotency: KeyBounds,
    policies: tuple[Policy, ...],
) -> bytes:
    parts = [routes, consumers, idempotency, policies]
    return hashlib.sha256(pack(msgspec.to_builtins(parts))).digest()
