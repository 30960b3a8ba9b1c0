"""From a route's tables in a file to its `Policy`, every problem noted.

Decides the keys of a policy, their defaults, and what must fit together. Leaves single values
to `crowd.policy_kinds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crowd import kinds, policy_kinds
from crowd.policy import CorsPolicy, KeyPolicy, Policy
from crowd.table import show

if TYPE_CHECKING:
    from crowd.table import Table

KEYS_MAX: Final = 1_000
"""Producers with keys at one route; a file with more belongs into a program of its own."""


def read_policy(route: Table, path: str, methods: tuple[str, ...]) -> Policy:
    """Return the policy in the tables of the route at `path`; problems are noted there."""
    return Policy(
        path,
        methods,
        require=route.read("require", policy_kinds.REQUIRE, "all"),
        keys=_keys(route),
        key_from=route.read("key_from", policy_kinds.KEY_FROM, ["bearer"]),
        cors=_cors(route),
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
    table.close()
    return cors
