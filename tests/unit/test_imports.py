"""Imports run one way, and each third-party seam has its place (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROOMS = (
    {"crowd", "crowd.errors", "crowd.clock", "crowd.codec", "crowd.message", "crowd.value",
     "crowd.definition", "crowd.command", "crowd.idempotency", "crowd.metrics", "crowd.quantity"},
    {"crowd.table", "crowd.kinds", "crowd.schema", "crowd.policy", "crowd.policy_kinds", "crowd.policy_tables",
     "crowd.config"},
    {"crowd.ledger"},
    {"crowd.delivery.awaited", "crowd.delivery.backlog", "crowd.delivery.backoff", "crowd.delivery.blame",
     "crowd.delivery.breaker", "crowd.delivery.concurrency", "crowd.delivery.endings", "crowd.delivery.forms", "crowd.delivery.order",
     "crowd.delivery.outcome", "crowd.delivery.pace", "crowd.delivery.plan",
     "crowd.delivery.reach", "crowd.delivery.request", "crowd.delivery.rules",
     "crowd.delivery.trial"},
    {"crowd.door"},
    {"crowd.raft"},
    {"crowd.delivery"},
    {"crowd.reads"},
    {"crowd.web"},
    {"crowd.ingress", "crowd.garbage", "crowd.logs", "crowd.polling", "crowd.workers"},
    {"crowd.wishes", "crowd.archive", "crowd.consumers", "crowd.letters", "crowd.orders", "crowd.reload",
     "crowd.waits", "crowd.view", "crowd.service"},
    {"crowd.tools", "crowd.cli"},
)  # fmt: skip
"""From the top: a room imports itself and those above it."""

PURE = (
    *ROOMS[0], *ROOMS[1], *ROOMS[2], *ROOMS[3], *ROOMS[4], "crowd.raft.frames", "crowd.raft.wire",
    "crowd.raft.membership", "crowd.raft.following", "crowd.raft.replication",
    "crowd.raft.checkpoints.policy", "crowd.raft.checkpoints.shape", "crowd.reads.failure",
    "crowd.reads.head", "crowd.workers.wire",
)  # fmt: skip

IMPURE_MODULES = {
    "asyncio", "datetime", "logging", "os", "random", "secrets", "select", "signal", "socket",
    "subprocess", "threading", "time", "twisted",
}  # fmt: skip

SEAMS = {
    "pysyncobj": {"crowd.raft.guard"},
    "cbor2": {"crowd.codec"},
    "treq": {"crowd.delivery.client"},
    "hyperlink": {"crowd.delivery.client"},
    "OpenSSL": {"crowd.raft.tls", "crowd.delivery.tls", "crowd.web.tls"},
    "service_identity": {"crowd.raft.tls", "crowd.delivery.tls"},
    "cryptography": {
        "crowd.raft.tls", "crowd.raft.certificates", "crowd.delivery.tls", "crowd.web.tls",
        "crowd.delivery.forms.signing", "crowd.door.signatures", "crowd.web.proof",
    },
    "google_crc32c": {"crowd.raft.journal", "crowd.raft.checkpoints"},
    "fcntl": {"crowd.raft.journal.filesystem", "crowd.tools.local_cluster"},
    "threading": {"crowd.raft.journal.writer"},
    "sqlite3": {"crowd.raft.letters.sqlite"},
    "httptools": {
        "crowd.web.intake", "crowd.delivery.connection", "crowd.reads.connection", "crowd.tools.sink", "crowd.tools.lane"
    },
    "jsonschema_rs": {"crowd.schema"},
    "klein": {"crowd.web"},
    "werkzeug": {"crowd.web", "crowd.kinds"},
    "prometheus_client": {"crowd.web"},
    "tomllib": {"crowd.config", "crowd.tools.init", "crowd.tools.local_cluster"},
    "asyncio": set(),
    "pickle": set(),
    "marshal": set(),
}  # fmt: skip
"""Who alone may import what."""


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def modules() -> dict[str, set[str]]:
    """Every module of the package, with what it imports."""
    found = {}
    for path in sorted((ROOT / "crowd").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = imports(path)
    return found


MODULES = modules()


def within(name: str, places: set[str] | tuple[str, ...]) -> bool:
    """Whether a module is one of `places` or inside one; the root package holds nothing."""
    return any(
        name == place or name.startswith(f"{place}.") for place in places if place != "crowd"
    )


def rank(name: str) -> int:
    """Return the number of a module's room: that of the longest name that holds it."""
    fits = [
        (len(place), number)
        for number, room in enumerate(ROOMS)
        for place in room
        if name == place or (place != "crowd" and name.startswith(f"{place}."))
    ]
    assert fits, f"{name} belongs to no room: add it to ROOMS and to docs/architecture.md"
    return max(fits)[1]


def of_crowd(names: set[str]) -> set[str]:
    """Return the package's own modules among imported names."""
    return names & MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_rooms_above_it(name):
    wrong = {target for target in of_crowd(MODULES[name]) if rank(target) > rank(name)}
    assert not wrong


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, PURE)])
def test_a_pure_module_sees_no_clock_chance_file_or_reactor(name):
    allowed = {"crowd.config": {"os"}}.get(name, set())
    tops = {target.split(".")[0] for target in MODULES[name]}
    assert not (tops & IMPURE_MODULES) - allowed


@pytest.mark.parametrize("seam", SEAMS)
def test_a_third_party_seam_has_one_place(seam):
    importers = {
        name
        for name, targets in MODULES.items()
        if any(target == seam or target.startswith(f"{seam}.") for target in targets)
    }
    assert not {name for name in importers if not within(name, SEAMS[seam])}


def test_only_what_builds_a_process_names_the_reactor():
    importers = {name for name, targets in MODULES.items() if "twisted.internet.reactor" in targets}
    assert importers <= {"crowd.service", "crowd.workers.__main__"}


def test_modules_under_twisted_are_plugins_without_a_package():
    assert not list((ROOT / "twisted").rglob("__init__.py"))
    assert [path.name for path in (ROOT / "twisted").rglob("*.py")] == ["crowd_plugin.py"]
