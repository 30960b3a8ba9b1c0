"""CloudEvents that are posted: what an event is called. Pure.

Decides which requests are events, and reads their ``source`` and ``id``, which together name an
event (CloudEvents 1.0.2, section 3.1): two that have both alike are the same event, whatever else
they say.

A request is an event in binary mode, with ``ce-`` fields (its HTTP binding, section 3.1), or in
structured mode, or a batch of them. The fields' values are percent-encoded (3.1.3.2), and may stand
in quotes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import unquote_to_bytes

import msgspec

from crowd.door.asked import Reason, Refused
from crowd.door.content import decoded
from crowd.door.elements import EVENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.door.asked import Asked
    from crowd.door.elements import Elements

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4_096)]
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"\Z')
_ESCAPED: Final = re.compile(rb"\\(.)")

EventName = tuple[bytes, bytes]
"""An event's source and id."""


class _Named(msgspec.Struct, gc=False):
    """What of an event names it."""

    source: _Text
    id: _Text


_name_of: Final = msgspec.json.Decoder(_Named).decode


def event_names(
    asked: Asked, elements: Elements | None, bytes_max: int
) -> Sequence[EventName] | Refused:
    """Return the names of the events that a request is: as many as it has messages, or none.

    A request under an Idempotency-Key is known by that. One that says to be an event and has no
    name is refused. `bytes_max` bounds a body that is decoded.
    """
    if asked.values(b"idempotency-key"):
        return ()
    if elements is not None:
        return _of_batch(elements) if elements.content_type == EVENT else ()
    if asked.media_type() == EVENT:
        body = decoded(asked, bytes_max)
        if isinstance(body, Refused):
            return body
        name = _structured(body)
        return Refused(Reason.MALFORMED, name) if isinstance(name, str) else (name,)
    return _binary(asked) if asked.values(b"ce-specversion") else ()


def _of_batch(elements: Elements) -> Sequence[EventName] | Refused:
    names = []
    for index, body in enumerate(elements.bodies):
        name = _structured(body)
        if isinstance(name, str):
            return Refused(Reason.MALFORMED, f"element {index}: {name}", facts=(("index", index),))
        names.append(name)
    return names


def _structured(body: bytes | msgspec.Raw) -> EventName | str:
    """Return the name of an event in JSON, or why it has none."""
    try:
        named = _name_of(body)
        return named.source.encode("utf-8"), named.id.encode("utf-8")
    except (RecursionError, ValueError) as error:  # msgspec's errors are ValueErrors
        return f"this is no event with a source and an id: {str(error) or 'nested too deep'}"


def _binary(asked: Asked) -> Sequence[EventName] | Refused:
    name = []
    for field in (b"ce-source", b"ce-id"):
        values = asked.values(field)
        value = _unescaped(values[0]) if len(values) == 1 else b""
        if not 0 < len(value) <= 4_096:
            words = f"an event has one {field.decode('ascii')} of 1 to 4096 bytes"
            return Refused(Reason.MALFORMED, words)
        name.append(value)
    return ((name[0], name[1]),)


def _unescaped(value: bytes) -> bytes:
    quoted = _QUOTED.match(value)
    return unquote_to_bytes(value if quoted is None else _ESCAPED.sub(rb"\1", quoted[1]))
