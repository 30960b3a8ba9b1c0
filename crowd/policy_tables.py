"""From a route's tables in a file to its `Policy`, every problem noted.

Decides the keys of a policy, their defaults, and what must fit together. Leaves single values
to `crowd.policy_kinds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from crowd import kinds, policy_kinds
from crowd.policy import (
    CertificatePolicy,
    ContentPolicy,
    CorsPolicy,
    Form,
    KeyPolicy,
    Policy,
    RatePolicy,
    SignaturePolicy,
)
from crowd.quantity import rate_per_s
from crowd.schema import compile_schema
from crowd.table import show

if TYPE_CHECKING:
    from pathlib import Path

    from crowd.table import Table

SCHEMA_BYTES_MAX: Final = 1024 * 1024
"""Ten times the largest that people write; it is compiled at the start and with each SIGHUP."""

_OWN_PORTS: Final = {"http": ":80", "https": ":443"}

KEYS_MAX: Final = 1_000
"""Producers with keys at one route; a file with more belongs into a program of its own."""


def read_policy(
    route: Table, path: str, methods: tuple[str, ...], directory: Path, body_bytes: int
) -> Policy:
    """Return the policy in the tables of the route at `path`; problems are noted there.

    Relative paths are taken from `directory`. `body_bytes` is the bound of all bodies.
    """
    policy = Policy(
        path,
        methods,
        require=route.read("require", policy_kinds.REQUIRE, "all"),
        keys=_keys(route),
        key_from=route.read("key_from", policy_kinds.KEY_FROM, ["bearer"]),
        signature=_signature(route),
        certificates=_certificates(route),
        cors=_cors(route),
        content=_content(route, directory, body_bytes),
        many=route.read("many", kinds.FLAG, False),
        idempotency=route.read("idempotency", policy_kinds.IDEMPOTENCY, "header"),
        wait_s=route.read("wait", policy_kinds.WAIT, "0 s") / 1e6,
    )
    content = policy.content
    return msgspec.structs.replace(
        policy,
        rate=_rate(route, asks_who=policy.asks_who),
        decoded_bytes_max=min(body_bytes, content.decoded_bytes_max if content else body_bytes),
    )


def _keys(route: Table) -> tuple[KeyPolicy, ...]:
    keys = []
    for table in route.tables("key"):
        key = KeyPolicy(
            name=table.read("name", kinds.NAME),
            sha256=table.read("sha256", policy_kinds.HASHES),
        )
        table.close()
        keys.append(key)
    if not route.has("key"):
        route.note("key", "not set")
    if len(keys) > KEYS_MAX:
        route.problem("key", f"at most {KEYS_MAX}", found=f"{len(keys)} of them")
    names = [key.name for key in keys]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        route.problem("key", "each name once", found=f"{show(name)} twice")
    hashes = [each for key in keys for each in key.sha256]
    if len(set(hashes)) != len(hashes):
        route.problem("key", "each key once", found="one key under two names")
    return tuple(keys)


def _signature(route: Table) -> SignaturePolicy | None:
    table = route.table("signature")
    if not route.has("signature"):
        route.note("signature", "not set")
        return None
    form = table.read("form", policy_kinds.SIGNED)
    signature = SignaturePolicy(
        form=form,
        name=table.read("name", kinds.NAME, form),
        secrets=table.read("secrets", kinds.SIGNATURE_SECRETS),
        tolerance_s=table.read("tolerance", policy_kinds.TOLERANCE, "5 min") / 1e6,
        custom=_custom(table) if form == "hmac" else None,
    )
    table.close()
    return signature


def _custom(table: Table) -> Form:
    form = Form(
        header=table.read("header", policy_kinds.FIELD),
        prefix=table.read("prefix", policy_kinds.PREFIX, ""),
        encoding=table.read("encoding", policy_kinds.ENCODING, "hex"),
        hash=table.read("hash", policy_kinds.HASH, "sha256"),
        content=table.read("content", policy_kinds.TEMPLATE, "{body}"),
        timestamp=table.read_optional("timestamp", policy_kinds.FIELD) or "",
    )
    if form.content and ("{timestamp}" in form.content) != bool(form.timestamp):
        table.problem("timestamp", "a field where {timestamp} is in content, and none where not")
    return form


def _certificates(route: Table) -> tuple[CertificatePolicy, ...]:
    certificates = []
    for table in route.tables("certificate"):
        certificate = CertificatePolicy(
            name=table.read("name", kinds.NAME),
            names=table.read("names", policy_kinds.CERTIFICATE_NAMES),
        )
        table.close()
        certificates.append(certificate)
    if not route.has("certificate"):
        route.note("certificate", "not set")
    names = [name for each in certificates for name in each.names]
    if len(set(names)) != len(names):
        route.problem("certificate", "each name in one table", found="one name in two of them")
    return tuple(certificates)


def _cors(route: Table) -> CorsPolicy | None:
    table = route.table("cors")
    if not route.has("cors"):
        route.note("cors", "not set")
        return None
    cors = CorsPolicy(
        origins=table.read("origins", policy_kinds.ORIGINS),
        headers=table.read("headers", policy_kinds.FIELDS, ["Content-Type", "Idempotency-Key"]),
        expose=table.read("expose", policy_kinds.FIELDS, ["Crowd-Message-Id", "Retry-After"]),
        credentials=table.read("credentials", kinds.FLAG, False),
        max_age_s=table.read("max_age", policy_kinds.MAX_AGE, "10 min") // 1_000_000,
    )
    if cors.credentials and "*" in cors.origins:
        table.problem("credentials", 'false, as browsers take no credentials beside "*"')
    if cors.credentials and "*" in cors.expose:
        table.problem("expose", 'names, as browsers take no "*" beside credentials')
    for origin in cors.origins:
        own = _OWN_PORTS.get(origin.partition("://")[0])
        if own is not None and origin.endswith(own):
            words = "it without the port, as browsers leave out a scheme's own"
            table.problem("origins", words, found=show(origin))
    table.close()
    return cors


def _content(route: Table, directory: Path, body_bytes: int) -> ContentPolicy | None:
    table = route.table("content")
    if not route.has("content"):
        route.note("content", "not set")
        return None
    schema = table.read_optional("schema", kinds.TEXT)
    schema = None if schema is None else str(directory.absolute() / schema)
    content = ContentPolicy(
        types=table.read("types", policy_kinds.MEDIA, []),
        json=table.read("json", kinds.FLAG, schema is not None),
        depth=table.read("depth", policy_kinds.DEPTH, 64),
        unique=table.read("unique", kinds.FLAG, True),
        schema=schema,
        schema_text=None if schema is None else _schema_text(table, schema),
        body_bytes_max=min(body_bytes, table.read("body", policy_kinds.SIZE, "16 MiB")),
        decoded_bytes_max=table.read("decoded", policy_kinds.SIZE, "1 MiB"),
        head_bytes_max=table.read("head", policy_kinds.HEAD, "32 KiB"),
        fields_max=table.read("fields", policy_kinds.FIELDS_COUNT, 128),
    )
    if schema is not None and not content.json:
        table.problem("json", "true, as a schema is for JSON")
    table.close()
    return content


def _schema_text(table: Table, path: str) -> str | None:
    """Return a schema's file, if it is one."""
    key = table.key("schema")
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - its bound is what counts
            content = file.read(SCHEMA_BYTES_MAX + 1)
    except OSError as error:
        table.findings.problem(key, f"{path}: {error.strerror}", "a file with a JSON Schema")
        return None
    if len(content) > SCHEMA_BYTES_MAX:
        words = f"at most {SCHEMA_BYTES_MAX} bytes"
        table.findings.problem(key, f"{path}: more than that", words)
        return None
    try:
        text = content.decode("utf-8")
        compile_schema(text)
    except ValueError as error:  # UnicodeDecodeError is one
        table.findings.problem(key, f"{path}: {error}", "a JSON Schema")
        return None
    return text


def _rate(route: Table, *, asks_who: bool) -> RatePolicy | None:
    table = route.table("rate")
    if not route.has("rate"):
        route.note("rate", "not set")
        return None
    limit = table.read("limit", kinds.RATE)
    per_s = rate_per_s(limit) if limit else 1.0
    rate = RatePolicy(
        per_s=per_s,
        burst=table.read("burst", policy_kinds.BURST, min(100_000, max(1, int(per_s)))),
        by=table.read("by", policy_kinds.BY, "credential" if asks_who else "address"),
    )
    if rate.by == "credential" and not asks_who:
        table.problem("by", '"address", as this route does not ask who posts')
    table.close()
    return rate
