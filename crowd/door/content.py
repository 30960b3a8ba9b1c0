"""What may be posted at a route: types, JSON, a schema, sizes. Pure.

Decides what of a body is looked at, and in which order: sizes, type, coding, JSON, schema.
The body itself is stored as it came, whatever was found (I9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from crowd.door.asked import Reason, Refused
from crowd.door.coding import WINDOWS, TooLargeError, decode
from crowd.door.document import NotJsonError, line_and_column, read_json
from crowd.schema import compile_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.door.asked import Asked, Field
    from crowd.policy import ContentPolicy

_WORDS_MAX: Final = 80
"""Characters of what a producer sent that an answer repeats."""


class Content:
    """What one route takes. Raises ValueError if its schema is none."""

    def __init__(self, policy: ContentPolicy) -> None:
        self._policy = policy
        self._types = frozenset(each.encode("ascii") for each in policy.types)
        text = policy.schema_text
        self._schema = None if text is None else compile_schema(text)
        listed = ", ".join(policy.types)
        self._accepted: tuple[Field, ...] = tuple(
            (name, listed.encode("ascii")) for name in (b"Accept", b"Accept-Post")
        )

    def head(self, headers: Sequence[Field], body_bytes: int) -> Refused | None:
        """Return why a request is refused for its head and its body's size, or None."""
        policy = self._policy
        if body_bytes > policy.body_bytes_max:
            return Refused(Reason.BODY, f"over {policy.body_bytes_max} bytes on this route")
        if len(headers) > policy.fields_max:
            return Refused(Reason.HEAD, f"over {policy.fields_max} fields on this route")
        head_bytes = sum(len(name) + len(value) + 4 for name, value in headers)
        if head_bytes > policy.head_bytes_max:
            return Refused(Reason.HEAD, f"over {policy.head_bytes_max} bytes on this route")
        return None

    def body(self, asked: Asked) -> Refused | None:
        """Return why a request is refused for what it posts, or None."""
        if not asked.body and asked.method == b"DELETE":
            return None  # it says all with its target
        refused = self.type(asked)
        if refused is not None or not self._policy.json:
            return refused
        return self._document(asked)

    def type(self, asked: Asked) -> Refused | None:
        """Return why a request is refused for its type, or None."""
        if not self._types:
            return None
        values = asked.values(b"content-type")
        named = values[0].partition(b";")[0].strip().lower() if len(values) == 1 else b""
        if named in self._types or named.partition(b"/")[0] + b"/*" in self._types:
            return None
        found = _shown(named) if named else f"{len(values)} of them"
        detail = f"found Content-Type {found}; expected {' or '.join(self._policy.types)}"
        return Refused(Reason.TYPE, detail, self._accepted)

    def _document(self, asked: Asked) -> Refused | None:
        policy, body = self._policy, asked.body
        coding = b", ".join(asked.values(b"content-encoding")).strip().lower()
        if coding and coding != b"identity":
            decoded = _decoded(body, coding, policy.decoded_bytes_max)
            if isinstance(decoded, Refused):
                return decoded
            body = decoded
        try:
            value = read_json(body, depth=policy.depth, unique=policy.unique)
        except NotJsonError as error:
            return _malformed(error, body)
        return None if self._schema is None else self._fits(value)

    def _fits(self, value: Any) -> Refused | None:
        assert self._schema is not None
        found = self._schema.mismatch(value)
        if found is None:
            return None
        pointer, words = found
        return Refused(Reason.SCHEMA, words, facts=(("pointer", pointer),))


def _decoded(body: bytes, coding: bytes, bytes_max: int) -> bytes | Refused:
    if coding not in WINDOWS:
        return Refused(
            Reason.CODING,
            f"found Content-Encoding {_shown(coding)}; expected gzip, deflate or none",
            ((b"Accept-Encoding", b"gzip, deflate"),),
        )
    try:
        return decode(body, coding, bytes_max)
    except TooLargeError:
        return Refused(Reason.BODY, f"over {bytes_max} bytes once it is decoded")
    except ValueError as error:
        return Refused(Reason.MALFORMED, f"the body is not {coding.decode('ascii')}: {error}")


def _malformed(error: NotJsonError, body: bytes) -> Refused:
    if error.offset is None:
        return Refused(Reason.MALFORMED, f"the body is not JSON: {error.words}")
    line, column = line_and_column(body, error.offset)
    return Refused(
        Reason.MALFORMED,
        f"the body is not JSON: {error.words}, in line {line}, column {column}",
        facts=(("line", line), ("column", column), ("offset", error.offset)),
    )


def _shown(value: bytes) -> str:
    return ascii(value[:_WORDS_MAX].decode("utf-8", "replace"))
