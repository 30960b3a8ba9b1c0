"""A message: what a producer posted, kept byte for byte (invariant I9).

Decides how a message looks in the log and what it is called. Leaves to others which
requests become messages (``crowd/web``) and where they stand in the log (``crowd/ledger``).

In the log a message is one CBOR array (RFC 8949), encoded once at the door and decoded
only to be delivered; on the way through proposal, journal and ledger it is opaque bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Final, NewType

import msgspec

from crowd.codec import pack, unpack
from crowd.errors import MalformedError, MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Sequence

Position = NewType("Position", int)
"""A message's number in the order of acceptance, counted from 1, without gaps.

It grows with acceptance, is the same on every node, and never changes. What a ledger
refused (a repeated proposal) has none.
"""

RouteId = NewType("RouteId", int)
"""A route's number, given by the ledger when the route was first defined; from 1."""

ConsumerId = NewType("ConsumerId", int)
"""A consumer's number, given by the ledger when the consumer was first defined; from 1."""

FORMAT: Final = 1
"""The version of a stored message's shape."""

WAIT_FIELD: Final = b"Crowd-Wait"
"""The name of `wait_mark`'s field."""

_ARRAY_OF_EIGHT: Final = b"\x88"
_HEAD_BYTES_MAX: Final = 5

TAG_LENGTH: Final = 8
"""Hexadecimal digits of a cluster's tag, which tells the ids of two clusters apart."""

_ID = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})\Z")


class Message(msgspec.Struct, frozen=True, gc=False):
    """One producer's request, as it came.

    ``headers`` are the end-to-end ones in their order and case, names and values without
    surrounding white space, the producer's own ``Host`` among them. ``target`` is the
    request-target as it stood in the request line. ``received_us`` is the accepting node's
    wall clock, in microseconds since 1970. ``client`` is the producer's address as text.
    """

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    received_us: int
    client: bytes
    scheme: bytes


def encode_message(message: Message) -> bytes:
    """Return the message's stored form. Headers are flattened: name, value, name, value."""
    flat = list(chain.from_iterable(message.headers))
    return pack(
        [
            FORMAT,
            message.method,
            message.target,
            flat,
            message.body,
            message.received_us,
            message.client,
            message.scheme,
        ]
    )


class MessageStem:
    """What the messages of one request have in common, encoded once: all but their bodies.

    Invariant: what `encode` returns for a body is what `encode_message` returns for that message.
    """

    def __init__(self, message: Message) -> None:
        """Take all of `message` but its body."""
        parts = (FORMAT, message.method, message.target, list(chain.from_iterable(message.headers)))
        self._ahead = _ARRAY_OF_EIGHT + b"".join(map(pack, parts))
        self._behind = b"".join(map(pack, (message.received_us, message.client, message.scheme)))
        self.bytes_max = len(self._ahead) + len(self._behind) + _HEAD_BYTES_MAX
        """What a stored message has beside its body, at most."""

    def encode(self, bodies: Sequence[bytes | msgspec.Raw]) -> list[bytes]:
        """Return the stored form of the message with each of `bodies`, below 4 GiB."""
        ahead, behind, head, join = self._ahead, self._behind, _head_of_bytes, b"".join
        return [join((ahead, head(len(body)), body, behind)) for body in bodies]


@lru_cache(maxsize=4096)  # a producer's messages are of a few hundred lengths
def _head_of_bytes(length: int) -> bytes:
    """Return what CBOR has before a byte string of this length (RFC 8949, section 3)."""
    if length < 24:
        return bytes((0x40 + length,))
    for kind, size in ((0x58, 1), (0x59, 2)):
        if length < 1 << 8 * size:
            return bytes((kind,)) + length.to_bytes(size, "big")
    return b"\x5a" + length.to_bytes(4, "big")


def decode_message(stored: bytes) -> Message:
    """Return the message that `stored` holds; raise MalformedMessageError if it holds none."""
    try:
        fields = unpack(stored)
        version, method, target, flat, body, received_us, client, scheme = fields
        parts = iter(flat)
        headers = tuple(zip(parts, parts, strict=True))
    except (MalformedError, ValueError, TypeError) as error:
        raise MalformedMessageError(f"a stored message does not decode: {error}") from error
    if version != FORMAT or type(received_us) is not int:
        raise MalformedMessageError(f"a stored message has format {version!r}, expected {FORMAT}")
    if {*map(type, flat), *map(type, (method, target, body, client, scheme))} != {bytes}:
        raise MalformedMessageError("a stored message holds something else where bytes belong")
    return Message(method, target, headers, body, received_us, client, scheme)


def wait_mark(consumer: ConsumerId) -> tuple[bytes, bytes]:
    """Return what stands last among the headers of a message whose producer waits for `consumer`.

    No producer can say it, as ``Crowd-*`` is never kept of a request; and no consumer gets it.
    """
    return WAIT_FIELD, b"%d" % consumer


def message_id(tag: str, position: Position) -> str:
    """Return the id of the message at `position` in the cluster whose tag is `tag`.

    The same message has the same id at every attempt (I4); two clusters' ids never meet,
    as their tags are drawn at random at birth.
    """
    return f"{tag}-{position:016x}"


def parse_message_id(text: str) -> tuple[str, Position]:
    """Return the tag and position of an id; raise ValueError if it is none."""
    match = _ID.match(text)
    if match is None:
        raise ValueError(
            f"not a message id: {text!r}; expected 8 and 16 hexadecimal digits, 'tag-position'"
        )
    return match[1], Position(int(match[2], 16))
