"""All hostile cases, by theme."""

from __future__ import annotations

from tests.unit.web.hostile import (
    chunks,
    codings,
    heads,
    hosts,
    lengths,
    lines,
    sequences,
    targets,
)

THEMES = {
    "lengths": lengths.CASES,
    "codings": codings.CASES,
    "chunks": chunks.CASES,
    "lines": lines.CASES,
    "heads": heads.CASES,
    "targets": targets.CASES,
    "hosts": hosts.CASES,
    "sequences": sequences.CASES,
}
