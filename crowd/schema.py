"""JSON Schema: from a schema's text to what checks values by it. The one place of jsonschema-rs.

Decides how much of JSON Schema is believed: its drafts 4 to 2020-12, every ``$ref`` within the
schema itself (nothing is ever fetched), and patterns that a linear-time engine can match, as what
they are matched with is any producer's to choose. Pure.

The library is only needed where a schema is configured, so it is an extra, imported when asked
for; docs/decisions/0017-checking-content.md weighs it against others.
"""

from __future__ import annotations

import json
from typing import Any, Final, Never

_WORDS_MAX: Final = 300
"""Characters of a mismatch that an answer repeats; it may quote what the producer sent."""


class Schema:
    """A compiled schema."""

    def __init__(self, validator: Any, mismatch: type[Exception]) -> None:
        self._validator = validator
        self._mismatch = mismatch

    def mismatch(self, value: Any) -> tuple[str, str] | None:
        """Return where `value` differs first, as a JSON pointer (RFC 6901), and in words; or None."""
        if self._validator.is_valid(value):
            return None
        try:
            self._validator.validate(value)
        except self._mismatch as error:
            path: list[str | int] = error.instance_path  # type: ignore[attr-defined]  # the library's
            words: str = error.message  # type: ignore[attr-defined]  # the library's
            return pointer(path), words if len(words) <= _WORDS_MAX else words[:_WORDS_MAX] + "…"
        return None


def compile_schema(text: str) -> Schema:
    """Return the schema of a JSON text; raise ValueError, saying why, if it is none."""
    try:
        import jsonschema_rs  # noqa: PLC0415  an extra: only who has a schema needs it
    except ImportError:
        raise ValueError(
            "no jsonschema-rs to check it with (pip install 'crowd[schema]')"
        ) from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"what is no JSON ({error})") from None
    if type(document) not in {dict, bool}:
        raise ValueError("JSON that is no schema: neither an object nor true or false")
    try:
        validator = jsonschema_rs.validator_for(
            document, retriever=_fetches_nothing, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        words = str(error).partition("\n")[0]
        raise ValueError(f"no schema that can be used ({words[:_WORDS_MAX]})") from None
    return Schema(validator, jsonschema_rs.ValidationError)


def pointer(path: list[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) of a place in a document."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def _fetches_nothing(uri: str) -> Never:
    raise ValueError(f"{uri} would have to be fetched; expected it within the schema")
