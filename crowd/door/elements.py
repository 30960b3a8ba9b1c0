"""Many messages in one body: its elements, each as its bytes stood. Pure.

Decides which bodies are many messages and where one ends. Nothing of an element is changed, nor
read further than to its end: names twice, numbers beyond a double and escapes are its consumer's,
unless ``content`` asks for more. What surrounds it (white space, commas, line ends) is nobody's.

NDJSON has one value a line; a JSON array and a batch of CloudEvents (its JSON format, section 4)
are arrays.
"""

from __future__ import annotations

import re
from json import JSONDecoder
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Raw

from crowd.door.asked import Reason, Refused
from crowd.door.content import decoded, refused_as_malformed
from crowd.door.document import NotJsonError, malformed, not_utf8, too_deep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.door.asked import Asked

ELEMENTS_MAX: Final = 4_096
"""Of one request: they are in one entry, whose work this bounds (`crowd.raft.proposer`)."""

BYTES_MAX: Final = 1 << 20
"""Of a body that is many messages: no entry would hold more of them."""

JSON: Final = b"application/json"
EVENT: Final = b"application/cloudevents+json"
EVENTS: Final = b"application/cloudevents-batch+json"
_LINES: Final = frozenset({b"application/x-ndjson", b"application/ndjson", b"application/jsonl"})
_MANY: Final = _LINES | {JSON, EVENTS}

_ARRAY: Final = re.compile(rb"[ \t\r\n]*\[")
_SPACE: Final = b" \t\r"
_SPACES: Final = re.compile(r"[ \t\r\n]*")
_DEPTH_WORDS: Final = 512
_values_of: Final = msgspec.json.Decoder(Raw).decode_lines
_elements_of: Final = msgspec.json.Decoder(list[Raw]).decode
# Numbers stay text: a long one would take long to be a number.
_value_at: Final = JSONDecoder(parse_int=str, parse_float=str, strict=False).raw_decode


class NotElementsError(NotJsonError):
    """What is no JSON: the element at ``index``, from 0, or what is none where one is expected."""

    def __init__(self, words: str, offset: int | None, index: int | None) -> None:
        super().__init__(words, offset)
        self.index = index


class TooManyError(Exception):
    """There are more than `ELEMENTS_MAX`."""


class Elements(msgspec.Struct, frozen=True, gc=False):
    """A request's messages: their bodies, and the Content-Type of each."""

    bodies: Sequence[Raw]
    content_type: bytes


class Many:
    """Which requests of one route are many messages."""

    def __init__(self, bytes_max: int) -> None:
        """Decode bodies up to `bytes_max`."""
        self._bytes_max = bytes_max

    def elements(self, asked: Asked) -> Elements | Refused | None:
        """Return a request's elements, why it has none, or None if it is one message.

        Whatever has ``ce-specversion`` is one event, and its body that one's data.
        """
        media = asked.media_type()
        if media not in _MANY or asked.values(b"ce-specversion"):
            return None
        body = decoded(asked, self._bytes_max)
        if isinstance(body, Refused):
            return body
        if media == JSON and not _ARRAY.match(body):
            return None
        bodies = _split(media, body)
        if isinstance(bodies, Refused):
            return bodies
        return Elements(bodies, EVENT if media == EVENTS else JSON)


def _split(media: bytes, body: bytes) -> Sequence[Raw] | Refused:
    """Return what is one message each, or why a body is not such."""
    if len(body) > BYTES_MAX:
        words = f"over {BYTES_MAX} bytes for many messages; split them over several requests"
        return Refused(Reason.BODY, words)
    if media == EVENTS and not _ARRAY.match(body):
        words = "the body is no JSON array; expected the events of a batch in one"
        return Refused(Reason.MALFORMED, words)
    try:
        bodies = split_lines(body) if media in _LINES else split_array(body)
    except TooManyError:
        words = f"over {ELEMENTS_MAX} messages; split them over several requests"
        return Refused(Reason.BODY, words)
    except NotElementsError as error:
        facts = () if error.index is None else (("index", error.index),)
        return refused_as_malformed(error, body, facts)
    return bodies or Refused(Reason.MALFORMED, "found no message; expected one at least")


def split_lines(body: bytes) -> Sequence[Raw]:
    """Return the value in each line of `body`; lines without one are passed over, and count.

    Raises NotElementsError, and TooManyError.
    """
    body = body.removesuffix(b"\n")
    # Split and not counted: `bytes.count` looks at one byte after the other.
    lines = body.split(b"\n", ELEMENTS_MAX) if body else []
    if len(lines) > ELEMENTS_MAX:
        raise TooManyError
    try:
        values = _values_of(body)
    except (RecursionError, UnicodeDecodeError, msgspec.MsgspecError):
        return _line_by_line(lines)
    # Values may also share a line, or go over several. Only if each is a line is neither so.
    if len(values) == len(lines) and body.isascii() and b"\n".join(values) == body:
        return values
    return _line_by_line(lines)


def _line_by_line(lines: Sequence[bytes]) -> Sequence[Raw]:
    """Do the same slowly: with blanks, and with an error's place."""
    found: list[Raw] = []
    start = 0
    for line in lines:
        value = line.strip(_SPACE)
        if value:
            at = start + len(line) - len(line.lstrip(_SPACE))
            found.append(_one(value, at, len(found)))
        start += len(line) + 1
    return found


def _one(line: bytes, at: int, index: int) -> Raw:
    """Return the one value of a line that begins at `at`."""
    try:
        values = _values_of(line)
        line.decode("utf-8")
    except RecursionError:
        raise NotElementsError(too_deep(_DEPTH_WORDS), at, index) from None
    except UnicodeDecodeError:
        raise _placed(not_utf8(line), at, index) from None
    except msgspec.MsgspecError as error:
        raise _placed(malformed(str(error), line), at, index) from None
    if len(values) != 1:
        raise NotElementsError("a line has more than one value", at, index)
    return values[0]


def split_array(body: bytes) -> Sequence[Raw]:
    """Return each element of the array that `body` is.

    Raises NotElementsError, and TooManyError.
    """
    try:
        values = _elements_of(body)
        if not body.isascii():
            body.decode("utf-8")
    except RecursionError:
        index = _index_at(body, len(body))
        raise NotElementsError(too_deep(_DEPTH_WORDS), None, index) from None
    except UnicodeDecodeError:
        error = not_utf8(body)
        raise _placed(error, 0, _index_at(body, error.offset or 0)) from None
    except msgspec.MsgspecError as why:
        error = malformed(str(why), body)
        index = _index_at(body, len(body) if error.offset is None else error.offset)
        raise _placed(error, 0, index) from None
    if len(values) > ELEMENTS_MAX:
        raise TooManyError
    return values


def _placed(error: NotJsonError, at: int, index: int | None) -> NotElementsError:
    offset = None if error.offset is None else at + error.offset
    return NotElementsError(error.words, offset, index)


def _index_at(body: bytes, offset: int) -> int | None:
    """Return in which element of an array the byte at `offset` is, None if it is in none.

    All before it is as it should be. Raises TooManyError.
    """
    opened = _ARRAY.match(body)
    if opened is None:
        return None
    # Read as a text of as many letters, whatever it says, so that places are the same.
    text = body[:offset].decode("latin-1")
    at = opened.end()
    for index in range(ELEMENTS_MAX):
        at = _past_spaces(text, at)
        try:
            _, end = _value_at(text, at)
        except (ValueError, RecursionError):
            return None if body[at : at + 1] in {b"", b"]"} else index
        end = _past_spaces(text, end)
        sign = text[end : end + 1]
        if sign != ",":
            # Behind the array is something, or else the bad place was only known at its end.
            return None if sign == "]" and _past_spaces(text, end + 1) < len(text) else index
        at = end + 1
    raise TooManyError


def _past_spaces(text: str, at: int) -> int:
    found = _SPACES.match(text, at)
    assert found is not None, "no spaces will do"
    return found.end()
