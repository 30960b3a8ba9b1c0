"""Whether a body is JSON (RFC 8259), and where it is not. Pure.

What is refused is what readers of JSON take differently, so that consumers see what was
checked: NaN and Infinity, a byte order mark, a lone half of a surrogate pair, a number beyond
what a double holds, nesting beyond a bound, and, unless told otherwise, a name twice in one
object, of which one reader takes the first and another the last.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import msgspec

_PLACE = re.compile(r" ?\(byte (\d+)\)$")
_TOO_LARGE: Final = "Number out of range"

# A number that a double does not hold has one of these two forms: 199 digits and e99 are below
# 1e298, and it holds 1e308.
_FORM: Final = bytes.maketrans(b"123456789E", b"000000000e")
_DIGITS: Final = b"0" * 200
_EXPONENT: Final = b"0e000"


class NotJsonError(Exception):
    """A body is no JSON, or not such as is taken. ``offset`` is the byte where, if it is known."""

    def __init__(self, words: str, offset: int | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.offset = offset


class _TwiceError(Exception):
    """A name stands twice in an object."""


def read_json(body: bytes, *, depth: int, unique: bool) -> Any:
    """Return the value that `body` holds, at most `depth` arrays and objects deep.

    `unique`: no object has a name twice. Raises NotJsonError.
    """
    try:
        value = _value(body, unique=unique)
    except RecursionError:
        raise NotJsonError(too_deep(depth)) from None
    except UnicodeDecodeError:
        raise not_utf8(body) from None
    except msgspec.MsgspecError as error:
        raise malformed(str(error), body) from None
    except _TwiceError as error:
        raise NotJsonError(f"an object has the name {_shown(str(error))} twice") from None
    except ValueError as error:
        # msgspec takes nothing that the standard library does not; should it one day, who
        # reads the message may not take it either.
        raise NotJsonError(str(error)) from None
    if body.count(b"[") + body.count(b"{") > depth and _is_deeper(value, depth):
        raise NotJsonError(too_deep(depth))
    return value


def line_and_column(body: bytes, offset: int) -> tuple[int, int]:
    """Return where the byte at `offset` stands, both from 1, columns in bytes."""
    before = body[:offset]
    return before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1


def malformed(words: str, body: bytes) -> NotJsonError:
    """Return the error that msgspec says in `words` of `body`."""
    if "truncated" in words:
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            return not_utf8(body)
        return NotJsonError("it ends too early, or has half a surrogate pair", len(body))
    found = _PLACE.search(words)
    if found is None:
        return NotJsonError(words)
    words = words[: found.start()].removeprefix("JSON is malformed: ")
    return NotJsonError(words, min(int(found[1]), len(body)))


def not_utf8(body: bytes) -> NotJsonError:
    """Return the error of a body that is not UTF-8, wherever that is."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return NotJsonError("it is not UTF-8", error.start)
    return NotJsonError("it has half a surrogate pair")


def _value(body: bytes, *, unique: bool) -> Any:
    large = _may_be_large(body)
    if not unique and not large:
        return msgspec.json.decode(body)
    # msgspec says whether it is JSON, and where not. The standard library, which takes more than
    # JSON, makes the value, as it lets each object and number be looked at on the way.
    _grammar(body)
    decoder = _EACH_NAME if not large else _EACH_NAME_AND_NUMBER if unique else _EACH_NUMBER
    return decoder.decode(body.decode("utf-8"))


def _may_be_large(body: bytes) -> bool:
    """Tell whether a body may have a number that a double does not hold; if in doubt, it may."""
    form = body.translate(_FORM, b"+")
    return _EXPONENT in form or _DIGITS in form


def _whole(text: str) -> int:
    _double(text)
    return int(text)


def _double(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(_TOO_LARGE)
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Tell whether a value is nested deeper than `depth`, without recursion."""
    level = [value]
    for _ in range(depth + 1):
        inner: list[Any] = []
        for each in level:
            if type(each) is dict:
                inner.extend(each.values())
            elif type(each) is list:
                inner.extend(each)
        if not any(type(each) in (dict, list) for each in level):
            return False
        level = inner
    return True


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _TwiceError(name)
            seen.add(name)
    return value


_grammar: Final = msgspec.json.Decoder(msgspec.Raw).decode
_EACH_NAME: Final = json.JSONDecoder(object_pairs_hook=_each_once)
_EACH_NUMBER: Final = json.JSONDecoder(parse_int=_whole, parse_float=_double)
_EACH_NAME_AND_NUMBER: Final = json.JSONDecoder(
    object_pairs_hook=_each_once, parse_int=_whole, parse_float=_double
)


def too_deep(depth: int) -> str:
    """Return the words for a body that is nested deeper than that."""
    return f"it is nested more than {depth} deep"


def _shown(name: str) -> str:
    return json.dumps(name if len(name) <= 80 else name[:80] + "…", ensure_ascii=False)
