"""JSON Schema: from a schema's text to what checks values by it. The one place of jsonschema-rs.

Decides how much of JSON Schema is believed: its drafts 4 to 2020-12, every ``$ref`` within the
schema itself (nothing is ever fetched), and patterns that a linear-time engine can match, as what
they are matched with is any producer's to choose. Pure.

What is any producer's, too, is a document that costs much. Two things of the library's do so, and
are not left to it: it tells items apart by a hash that takes whole numbers for doubles and does
not hear of brackets, and then in pairs; and where no alternative fits it finds for each of them
all that is wrong, and so again for the alternatives within.

The library is only needed where a schema is configured, so it is an extra, imported when asked
for; docs/decisions/0017-checking-content.md weighs it against others.
"""

from __future__ import annotations

import json
from typing import Any, Final, Never

import msgspec

_WORDS_MAX: Final = 300
"""Characters of a mismatch that an answer repeats; it may quote what the producer sent."""

POINTER_MAX: Final = 1024
"""Characters of a pointer that an answer repeats: its names are what the producer sent, too."""

_OF_NAMES: Final = frozenset({
    "properties", "patternProperties", "dependencies", "dependentSchemas", "definitions", "$defs",
})  # fmt: skip
_OF_DATA: Final = frozenset({"const", "enum", "default", "examples"})
_EITHER: Final = {
    "anyOf": "it fits none of the schemas in anyOf",
    "oneOf": "it fits none of the schemas in oneOf, or more than one",
}


class Schema:
    """A compiled schema."""

    def __init__(self, validator: Any, teller: Any, mismatch: type[Exception]) -> None:
        """Decide by `validator`, and tell by `teller`, if there is one, what is wrong."""
        self._validator = validator
        self._teller = teller
        self._mismatch = mismatch

    def mismatch(self, value: Any) -> tuple[str | None, str] | None:
        """Return where `value` differs first, as a JSON pointer (RFC 6901), and in words; or None.

        The pointer is None if it is not known, or has over `POINTER_MAX` characters.
        """
        if self._validator.is_valid(value):
            return None
        try:
            if self._teller is not None:
                self._teller.validate(value)
        except self._mismatch as error:
            path: list[str | int] = error.instance_path  # type: ignore[attr-defined]  # the library's
            words = _words(error)
            words = words if len(words) <= _WORDS_MAX else words[:_WORDS_MAX] + "…"
            place = pointer(path)
            if len(place) > POINTER_MAX:
                return None, f"{words}; its place is over {POINTER_MAX} characters long"
            return place, words
        return None, "it does not fit the schema"


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
        validator = _validator(document)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        words = str(error).partition("\n")[0]
        raise ValueError(f"no schema that can be used ({words[:_WORDS_MAX]})") from None
    try:
        teller = _validator(_telling(document, leaves="unevaluated" in text))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, RecursionError):
        teller = None  # it refers to within its alternatives
    return Schema(validator, teller, jsonschema_rs.ValidationError)


def _validator(document: Any) -> Any:
    import jsonschema_rs  # noqa: PLC0415  as above

    return jsonschema_rs.validator_for(
        document,
        retriever=_fetches_nothing,
        pattern_options=jsonschema_rs.RegexOptions(),
        keywords={"uniqueItems": _Unique},
    )


class _Unique:
    """The keyword ``uniqueItems``, in a time that grows with an array's bytes."""

    def __init__(self, parent: Any, asked: bool, path: Any) -> None:  # noqa: FBT001  the library's
        del parent, path
        self._asked = asked

    def validate(self, value: Any) -> None:
        """Raise ValueError for an array with equal items."""
        if self._asked and type(value) is list and len(value) > 1 and not _are_unique(value):
            raise ValueError("an item is there twice")


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


_encode: Final = msgspec.json.Encoder(order="sorted").encode
_decode: Final = msgspec.json.Decoder(float_hook=_number).decode


def _are_unique(items: list[Any]) -> bool:
    """Tell whether no two items are equal. Numbers are, if their values are: 1.0 is 1."""
    if all(type(each) is str for each in items):
        return len(set(items)) == len(items)
    # As texts, as Python hashes these with a secret, and numbers so that anyone can have them collide.
    return len(set(map(_encode, _decode(_encode(items))))) == len(items)


def _telling(schema: Any, *, leaves: bool) -> Any:
    """Return a schema that fits what `schema` does, whose alternatives fail without saying why.

    `leaves`: the schema looks at what its alternatives leave.
    """
    if type(schema) is list:
        return [_telling(each, leaves=leaves) for each in schema]
    if type(schema) is not dict:
        return schema
    told: dict[str, Any] = {}
    either: list[dict[str, Any]] = []
    for key, value in schema.items():
        if key in _EITHER and type(value) is list:
            # What `not` is of is only decided. It hides, though, what was looked at; `if` does not.
            either.append({"not": {"not": {key: value}}})
            if leaves:
                either.append({"if": {key: value}})
        elif key in _OF_NAMES and type(value) is dict:
            told[key] = {name: _telling(each, leaves=leaves) for name, each in value.items()}
        else:
            told[key] = value if key in _OF_DATA else _telling(value, leaves=leaves)
    if either:
        told["allOf"] = [*told.get("allOf", ()), *either]
    return told


def _words(error: Any) -> str:
    """Return what is wrong in words: the library's, but for alternatives."""
    if error.kind.name == "not" and type(error.kind.schema) is dict:
        inner = error.kind.schema.get("not")
        for key, words in _EITHER.items():
            if type(inner) is dict and inner.keys() == {key}:
                return words
    text: str = error.message
    return text


def pointer(path: list[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) of a place in a document."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def _fetches_nothing(uri: str) -> Never:
    raise ValueError(f"{uri} would have to be fetched; expected it within the schema")
