"""A message: what a producer posted, kept byte for byte (invariant I9).

Decides how a message looks in the log and what it is called. Leaves to others which
requests become messages (``crowd/web``) and where they stand in the log (``crowd/ledger``).

In the log a message is one CBOR array (RFC 8949), encoded once at the door and decoded
only to be delivered; on the way through proposal, journal and ledger it is opaque bytes.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, Final, NewType

import msgspec

from crowd.codec import head_of_array, head_of_bytes, pack, unpack
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

_AHEAD: Final = b"\x88" + pack(FORMAT)  # an array of eight, the first of which is the format
_LATE: Final = Struct(">BQ")  # an integer that takes eight bytes
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
    return stored_form(
        message.method, message.target, pack_headers(message.headers), message.body,
        message.received_us, message.client, message.scheme,
    )  # fmt: skip


def pack_headers(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return headers, below 32 768, as they stand in a stored message."""
    return head_of_array(2 * len(headers)) + _pack_some(headers)


def pack_around(headers: Sequence[tuple[bytes, bytes]], place: int) -> tuple[bytes, bytes]:
    """Return what `pack_headers` has before and behind the `pack_value` of one header's value."""
    name = headers[place][0]
    ahead = _pack_some(headers[:place]) + head_of_bytes(len(name)) + name
    return head_of_array(2 * len(headers)) + ahead, _pack_some(headers[place + 1 :])


def pack_value(value: bytes) -> bytes:
    """Return a header's value as it stands in a stored message."""
    return head_of_bytes(len(value)) + value


def _pack_some(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    head = head_of_bytes
    parts: list[bytes] = []
    for name, value in headers:
        parts += (head(len(name)), name, head(len(value)), value)
    return b"".join(parts)


def stored_form(
    method: bytes, target: bytes, headers: bytes, body: bytes, received_us: int, client: bytes,
    scheme: bytes,
) -> bytes:  # fmt: skip
    """Return what `encode_message` returns for these; `headers` are packed. On the hot path.

    Joined by hand, as few parts of it are new with each message: CBOR's own encoder takes six
    times as long.
    """
    head = head_of_bytes
    when = _LATE.pack(0x1B, received_us) if received_us >= 2**32 else pack(received_us)
    return b"".join((
        _AHEAD, head(len(method)), method, head(len(target)), target, headers, head(len(body)),
        body, when, head(len(client)), client, head(len(scheme)), scheme,
    ))  # fmt: skip


class MessageStem:
    """What the messages of one request have in common, encoded once: all but their bodies.

    Invariant: what `encode` returns for a body is what `encode_message` returns for that message.
    """

    def __init__(self, message: Message) -> None:
        """Take all of `message` but its body."""
        parts = map(pack, (message.method, message.target))
        self._ahead = b"".join((_AHEAD, *parts, pack_headers(message.headers)))
        self._behind = b"".join(map(pack, (message.received_us, message.client, message.scheme)))
        self.bytes_max = len(self._ahead) + len(self._behind) + _HEAD_BYTES_MAX
        """What a stored message has beside its body, at most."""

    def encode(self, bodies: Sequence[bytes | msgspec.Raw]) -> list[bytes]:
        """Return the stored form of the message with each of `bodies`, below 4 GiB."""
        ahead, behind, head, join = self._ahead, self._behind, head_of_bytes, b"".join
        return [join((ahead, head(len(body)), body, behind)) for body in bodies]


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
