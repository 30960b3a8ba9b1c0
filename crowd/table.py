"""One table of a TOML file, read key by key while its problems are gathered.

Decides how a problem is worded (``FILE: key: found X; expected Y``), that an unknown key
is one, and how defaults are noted for ``crowd check``. Leaves to `crowd.config` which keys
there are. Nothing here raises for what a file holds: reading goes on behind a problem with
a blank value, so that a person sees every problem at once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

REQUIRED: Final = object()
"""In place of a default: the key must stand in the file."""

_VEIL: Final = "something else (not shown)"

_SHOWN_MAX: Final = 120
"""Characters of a found value that a problem repeats; it has to stay one line."""


class Kind(msgspec.Struct, Generic[T], frozen=True):
    """What a key's value may be.

    ``expected`` says it to a person. ``parse`` takes TOML's value and returns the meant one,
    or raises ValueError or TypeError. ``blank`` stands in behind a problem; nobody sees it.
    What is found where a ``veiled`` value belongs may be a secret, and no problem repeats it.
    """

    expected: str
    blank: T
    parse: Callable[[Any], T]
    veiled: bool = False


class Setting(msgspec.Struct, frozen=True):
    """What one key means: its full name, its value as TOML, and whether that is the default."""

    key: str
    value: str
    is_default: bool


class Findings:
    """What a whole file holds: problems, settings and notes, in the order of their keys."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[str] = []
        self.settings: list[Setting] = []

    def problem(self, key: str, found: str, expected: str) -> None:
        """Note that `key` holds `found` where `expected` belongs."""
        self.problems.append(f"{self.source}: {key}: found {found}; expected {expected}")


class Table:
    """One table. ``close`` it when all its keys are read: what is left is unknown."""

    def __init__(self, content: dict[str, Any], place: str, findings: Findings) -> None:
        self._content = content
        self._place = place
        self.findings = findings
        self._known: list[str] = []

    def key(self, name: str) -> str:
        """Return the full name of the key `name` of this table."""
        return f"{self._place}.{name}" if self._place else name

    def has(self, name: str) -> bool:
        """Say whether the file holds the key."""
        return name in self._content

    def read(self, name: str, kind: Kind[T], default: object = REQUIRED) -> T:
        """Return a key's meaning; `default` is TOML's value for a key that was left out."""
        self._known.append(name)
        if name not in self._content and default is REQUIRED:
            self.problem(name, kind.expected, found="nothing")
            return kind.blank
        value = self._content.get(name, default)
        try:
            meant = kind.parse(value)
        except (ValueError, TypeError):
            self.problem(name, kind.expected, found=_VEIL if kind.veiled else None)
            return kind.blank
        setting = Setting(self.key(name), _show(value), name not in self._content)
        self.findings.settings.append(setting)
        return meant

    def read_optional(self, name: str, kind: Kind[T]) -> T | None:
        """Return a key's meaning, or None where it was left out."""
        if name in self._content:
            return self.read(name, kind)
        self._known.append(name)
        self.note(name, "not set")
        return None

    def table(self, name: str) -> Table:
        """Return the table under a key, an empty one if it was left out."""
        self._known.append(name)
        content = self._content.get(name, {})
        if not isinstance(content, dict):
            self.problem(name, "a table")
            content = {}
        return Table(content, self.key(name), self.findings)

    def tables(self, name: str) -> list[Table]:
        """Return the tables of an array of tables; each is called by its name or number."""
        self._known.append(name)
        contents = self._content.get(name, [])
        if not isinstance(contents, list) or not all(isinstance(c, dict) for c in contents):
            self.problem(name, f"tables, each headed [[{name}]]")
            return []
        tables = []
        for number, content in enumerate(contents, 1):
            called = content.get("name", content.get("path", number))
            called = called if isinstance(called, str) and called.isprintable() else number
            tables.append(Table(content, f"{self.key(name)}[{called}]", self.findings))
        return tables

    def problem(self, name: str, expected: str, *, found: str | None = None) -> None:
        """Note that a key's value, or `found`, is not what was expected."""
        if found is None:
            found = show(self._content[name]) if name in self._content else "nothing"
        self.findings.problem(self.key(name), found, expected)

    def note(self, name: str, value: str) -> None:
        """Note what a key means that was left out and has no plain default."""
        self.findings.settings.append(Setting(self.key(name), value, is_default=True))

    def close(self) -> None:
        """Note each key that nothing has asked for."""
        known = ", ".join(self._known)
        for name in self._content:
            if name not in self._known:
                self.findings.problem(self.key(name), "an unknown key", f"one of {known}")


def show(value: object) -> str:
    """Return a TOML value as a person would write it, on one line of bounded length."""
    text = _show(value)
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…"


def _show(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(_show, value)) + "]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {_show(inner)}" for key, inner in value.items())
        return "{ " + pairs + " }" if pairs else "{}"
    return str(value)
