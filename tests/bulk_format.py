"""A strict reader of Elasticsearch's bulk format, to check what is sent against."""

from __future__ import annotations

import json

ACTIONS = {"index": True, "create": True, "update": True, "delete": False}
"""Each action, and whether a document's line follows it."""

KNOWN = {"_index", "_id", "routing", "require_alias", "pipeline", "if_seq_no", "if_primary_term",
         "version", "version_type", "retry_on_conflict", "dynamic_templates"}  # fmt: skip


def no_constant(text):
    raise ValueError(f"{text} is no JSON")


def read_object(line, *, each_key_once=False):
    """Return the JSON object that a line is; ValueError if it is none."""

    def pairs(found):
        if each_key_once and len(dict(found)) != len(found):
            raise ValueError(f"a key twice: {line!r}")
        return dict(found)

    found = json.loads(line.decode("utf-8"), object_pairs_hook=pairs, parse_constant=no_constant)
    if type(found) is not dict:
        raise ValueError(f"not an object: {line!r}")
    return found


def read_bulk(body: bytes) -> list[tuple[str, dict, dict | None]]:
    """Return each action with its metadata and its document; ValueError if the body breaks a rule.

    The rules: every line ends with a newline, the last one too; no line is blank, no carriage
    return is in it; an action's line is an object with one known action; a document's line
    follows where the action has one; nothing else.
    """
    if not body.endswith(b"\n"):
        raise ValueError("no newline at the end")
    lines = body[:-1].split(b"\n")
    found = []
    while lines:
        line = lines.pop(0)
        if not line.strip() or b"\r" in line:
            raise ValueError(f"a blank line, or a carriage return: {line!r}")
        action = read_object(line, each_key_once=True)
        if len(action) != 1:
            raise ValueError(f"not one action: {line!r}")
        ((name, metadata),) = action.items()
        if name not in ACTIONS or type(metadata) is not dict or metadata.keys() - KNOWN:
            raise ValueError(f"no action: {line!r}")
        document = None
        if ACTIONS[name]:
            if not lines:
                raise ValueError("an action without its document")
            document = read_object(lines.pop(0))
        found.append((name, metadata, document))
    return found
