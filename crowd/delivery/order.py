"""In which order a consumer's messages are attempted.

Decides a message's key, and which of the messages taken is the first of its key. Pure. Leaves to
``plan`` what becomes of an attempt, and to ``lane`` that a message is read to learn its key.

In order means: of two messages with one key, the later is first attempted once the earlier one
is delivered or dead. Messages of different keys, and those without any, know no order.

JSON Pointer is RFC 6901. A header that comes several times counts as one list, as RFC 9110,
section 5.2, has it.
"""

from __future__ import annotations

import re
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Container

    from crowd.message import Message, Position

KEY_BYTES: Final = 16
"""A key is kept as a digest of so many bytes, so that long values cost no more memory than short
ones. Two values of one digest would be kept in one order, which harms neither."""

ALL: Final = b"all"
"""The one key of a consumer that takes everything in order."""

_AUTHORITY = re.compile(rb"[^/?]*://[^/?]*")
_INDEX = re.compile(r"(?:0|[1-9][0-9]*)\Z")
_MISSING: Final = object()


class Order(msgspec.Struct, frozen=True):
    """By what messages are in order: ``none``, ``all``, ``path``, ``header`` or ``json``.

    ``named`` is the header's name in small letters, or the pointer.
    """

    by: str = "none"
    named: str = ""

    @classmethod
    def from_text(cls, text: str) -> Order:
        """Return what a definition's text means; ValueError if it is none."""
        by, _, named = text.partition(":")
        if by in {"none", "all", "path"} and not named:
            return cls(by)
        if by == "header" and named:
            return cls(by, named.lower())
        if by == "json" and (not named or named.startswith("/")):
            return cls(by, named)
        raise ValueError(f"{text!r} is no order")

    @property
    def any(self) -> bool:
        """Whether there is an order at all."""
        return self.by != "none"

    @property
    def reads(self) -> bool:
        """Whether a message must be read to learn its key."""
        return self.by not in {"none", "all"}

    def key(self, message: Message) -> bytes | None:
        """Return a message's key, or None if it has none and is on its own.

        That is a message without the header, or whose body is no JSON or has nothing at the
        pointer. Costs a few microseconds, and for ``json`` the decoding of the body.
        """
        if self.by == "all":
            return ALL
        value: bytes | None = None
        if self.by == "path":
            value = _AUTHORITY.sub(b"", message.target, count=1).partition(b"?")[0]
        elif self.by == "header":
            name = self.named.encode()
            values = [content for field, content in message.headers if field.lower() == name]
            value = b", ".join(values) if values else None
        elif self.by == "json":
            value = _at_pointer(message.body, self.named)
        return None if value is None else blake2b(value, digest_size=KEY_BYTES).digest()


def _at_pointer(body: bytes, pointer: str) -> bytes | None:
    """Return the JSON value at `pointer` in its one shortest form, or None if there is none."""
    try:
        value: Any = msgspec.json.decode(body)
        for token in pointer.split("/")[1:]:
            value = _member(value, token.replace("~1", "/").replace("~0", "~"))
        return None if value is _MISSING else msgspec.json.encode(value, order="deterministic")
    except (msgspec.MsgspecError, ValueError, RecursionError):  # no JSON, or too deep to read
        return None


def _member(value: Any, token: str) -> Any:
    if isinstance(value, dict):
        return value.get(token, _MISSING)
    if isinstance(value, list) and _INDEX.match(token) and len(token) <= len(str(len(value))):
        return value[int(token)] if int(token) < len(value) else _MISSING
    return _MISSING


class Lines:
    """The messages taken of each key, in their order: the first of each may be attempted.

    Invariant: a position is at the head of its key's line, or it waits in that line.
    """

    def __init__(self) -> None:
        # Those behind the head; None while there were none, as most keys have one message.
        self._lines: dict[bytes, deque[Position] | None] = {}
        self._key_of: dict[Position, bytes] = {}  # of heads
        self.waiting = 0
        """Positions that wait for another one of their key."""

    def __len__(self) -> int:
        """Return how many positions are in lines, heads included."""
        return len(self._key_of) + self.waiting

    def enter(self, position: Position, key: bytes | None) -> bool:
        """Put a position at the end of its key's line; return whether it is the head.

        One without a key is in no line, and always its own head.
        """
        if key is None:
            return True
        if key not in self._lines:
            self._lines[key] = None
            self._key_of[position] = key
            return True
        line = self._lines[key]
        if line is None:
            line = self._lines[key] = deque()
        line.append(position)
        self.waiting += 1
        return False

    def is_head(self, position: Position) -> bool:
        """Return whether a position is at the head of a line."""
        return position in self._key_of

    def pass_over(self, through: Position, holding: Container[Position]) -> None:
        """Take away those that wait, up to `through`, but for those `holding` their key.

        Heads stay until they leave.
        """
        for key, line in self._lines.items():
            if line and min(line) <= through:
                left = deque(p for p in line if p > through or p in holding)
                self.waiting -= len(line) - len(left)
                self._lines[key] = left

    def leave(self, position: Position) -> Position | None:
        """Take a head away; return the position that is the head now, if there is another."""
        key = self._key_of.pop(position, None)
        if key is None:
            return None
        line = self._lines[key]
        if not line:
            del self._lines[key]
            return None
        self.waiting -= 1
        head = line.popleft()
        self._key_of[head] = key
        return head
