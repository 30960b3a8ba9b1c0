"""A message's body as a piece of JSON (RFC 8259).

Decides which bodies can stand in a JSON text as they are, and how all others stand there.
Pure. No number is rounded and no key moved: only white space between tokens goes.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from crowd.message import Message

_PRINTABLE = re.compile(rb"[\x20-\x7e]+\Z")
_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})


def compact(body: bytes) -> bytes | None:
    """Return the JSON value that `body` is, on one line and in UTF-8; None if it is none.

    What cannot be Unicode (a lone surrogate, escaped) or is nested deeper than the
    interpreter's recursion goes, about 1 000 levels, counts as none.
    """
    try:
        text = msgspec.json.format(body, indent=-1)
        if not text.isascii():
            text.decode(
                "utf-8"
            )  # the formatter looks at what stands between quotes for its end only
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return text


def header(message: Message, lowered: bytes) -> bytes | None:
    """Return the value of a message's first header of that name, given in lower case."""
    length = len(lowered)
    for name, value in message.headers:
        if len(name) == length and name.lower() == lowered:
            return value
    return None


def quoted(text: bytes) -> bytes:
    """Return printable ASCII as a JSON string."""
    if b"\\" in text or b'"' in text:
        text = text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'"%b"' % text


def media_type(message: Message) -> bytes | None:
    """Return a message's Content-Type; None if there is none that printable ASCII can say."""
    value = header(message, b"content-type")
    return value if value is not None and _PRINTABLE.match(value) else None


def content_coding(message: Message) -> bytes | None:
    """Return a message's Content-Encoding; None if there is none that printable ASCII can say."""
    value = header(message, b"content-encoding")
    return value if value is not None and _PRINTABLE.match(value) else None


@lru_cache(maxsize=256)  # producers choose what they send; a route's use a few
def says_json(content_type: bytes) -> bool:
    """Return whether a Content-Type, printable ASCII, says JSON in UTF-8."""
    kind, _, parameters = content_type.decode("ascii").lower().partition(";")
    kind = kind.strip()
    if not (kind in {"application/json", "text/json"} or kind.endswith("+json")):
        return False
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in _CHARSETS:
            return False
    return True


def wrapped(message: Message) -> bytes:
    """Return a JSON object, on one line, that holds a body of any kind in base64.

    ``{"crowd_base64":"...","content_type":"...","content_encoding":"..."}``; of the last two
    each only where the message has that header.
    """
    parts = [b'{"crowd_base64":"%b"' % b64encode(message.body)]
    content_type, coding = media_type(message), content_coding(message)
    if content_type is not None:
        parts.append(b',"content_type":' + quoted(content_type))
    if coding is not None:
        parts.append(b',"content_encoding":' + quoted(coding))
    parts.append(b"}")
    return b"".join(parts)
