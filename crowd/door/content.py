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
    from collections.abc import Iterable, Sequence

    import msgspec

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

    def takes_type(self, asked: Asked) -> Refused | None:
        """Return why a whole request is refused for its type, or None."""
        return None if _says_all(asked) else self.type(asked)

    def body(self, asked: Asked) -> Refused | None:
        """Return why a request of one message is refused for what it posts, or None."""
        return None if _says_all(asked) or not self._policy.json else self._document(asked)

    def elements(self, bodies: Iterable[msgspec.Raw]) -> Refused | None:
        """Return why a request of many messages is refused, or None: each is looked at."""
        policy = self._policy
        if not policy.json:
            return None
        for index, body in enumerate(bodies):
            facts = (("index", index),)
            try:
                value = read_json(bytes(body), depth=policy.depth, unique=policy.unique)
            except NotJsonError as error:
                place = "" if error.offset is None else f", at byte {error.offset} of it"
                words = f"element {index} is not JSON: {error.words}{place}"
                return Refused(Reason.MALFORMED, words, facts=facts)
            refused = None if self._schema is None else self._fits(value)
            if refused is not None:
                detail = f"element {index}: {refused.detail}"
                return Refused(refused.reason, detail, facts=(*facts, *refused.facts))
        return None

    def type(self, asked: Asked) -> Refused | None:
        """Return why a request is refused for its type, or None."""
        if not self._types:
            return None
        named = asked.media_type()
        kind, slash, _ = named.partition(b"/")
        if named in self._types or (slash and kind + b"/*" in self._types):
            return None
        count = len(asked.values(b"content-type"))
        found = _shown(named) if count == 1 else f"{count} of them"
        detail = f"found Content-Type {found}; expected {' or '.join(self._policy.types)}"
        return Refused(Reason.TYPE, detail, self._accepted)

    def _document(self, asked: Asked) -> Refused | None:
        policy = self._policy
        body = decoded(asked, policy.decoded_bytes_max)
        if isinstance(body, Refused):
            return body
        try:
            value = read_json(body, depth=policy.depth, unique=policy.unique)
        except NotJsonError as error:
            return refused_as_malformed(error, body)
        return None if self._schema is None else self._fits(value)

    def _fits(self, value: Any) -> Refused | None:
        assert self._schema is not None
        found = self._schema.mismatch(value)
        if found is None:
            return None
        pointer, words = found
        facts = () if pointer is None else (("pointer", pointer),)
        return Refused(Reason.SCHEMA, words, facts=facts)


def _says_all(asked: Asked) -> bool:
    """Tell whether a request says all with its target."""
    return not asked.body and asked.method == b"DELETE"


def decoded(asked: Asked, bytes_max: int) -> bytes | Refused:
    """Return a request's body without its coding, or why that cannot be.

    `bytes_max` bounds one that has a coding.
    """
    coding = b", ".join(asked.values(b"content-encoding")).strip().lower()
    if not coding or coding == b"identity":
        return asked.body
    if coding not in WINDOWS:
        return Refused(
            Reason.CODING,
            f"found Content-Encoding {_shown(coding)}; expected gzip, deflate or none",
            ((b"Accept-Encoding", b"gzip, deflate"),),
        )
    try:
        return decode(asked.body, coding, bytes_max)
    except TooLargeError:
        return Refused(Reason.BODY, f"over {bytes_max} bytes once it is decoded")
    except ValueError as error:
        return Refused(Reason.MALFORMED, f"the body is not {coding.decode('ascii')}: {error}")


def refused_as_malformed(
    error: NotJsonError, body: bytes, facts: tuple[tuple[str, int], ...] = ()
) -> Refused:
    """Return the refusal of a body that is no JSON, with the place and further `facts`."""
    if error.offset is None:
        return Refused(Reason.MALFORMED, f"the body is not JSON: {error.words}", facts=facts)
    line, column = line_and_column(body, error.offset)
    return Refused(
        Reason.MALFORMED,
        f"the body is not JSON: {error.words}, in line {line}, column {column}",
        facts=(*facts, ("line", line), ("column", column), ("offset", error.offset)),
    )


def _shown(value: bytes) -> str:
    return ascii(value[:_WORDS_MAX].decode("utf-8", "replace"))
