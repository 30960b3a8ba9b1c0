"""Writes configurations: TOML as crowd's own files need it, which the standard library reads only."""

from __future__ import annotations

import json
import re
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


def toml_text(content: dict[str, Any]) -> str:
    """Return `content` as TOML: tables and arrays of tables at the top, all else inline.

    Values are strings, whole numbers, floats, booleans, lists and dicts of these.
    """
    parts = [f"{_key(key)} = {_value(value)}" for key, value in content.items()
             if not _is_table(value)]  # fmt: skip
    for key, value in content.items():
        if isinstance(value, dict):
            parts.append("\n".join([f"[{_key(key)}]", *_pairs(value)]))
        elif _is_table(value):
            parts += ["\n".join([f"[[{_key(key)}]]", *_pairs(table)]) for table in value]
    return "\n\n".join(parts) + "\n"


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return both, tables merged key by key; where they differ otherwise `over` holds."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]  # `both`
    return result


def _is_table(value: Any) -> bool:
    tables = isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    return isinstance(value, dict) or bool(tables)


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items()]


def _key(key: str) -> str:
    return key if _BARE.match(key) else _string(key)


def _string(text: str) -> str:
    # JSON's escapes are TOML's; TOML also wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(_pairs(value)) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)
