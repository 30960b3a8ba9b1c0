"""gzip for what is sent (RFC 9110, 8.4.1.3; RFC 1952).

Decides which bodies are compressed. Pure, and deterministic for one zlib: a gzip member
that tells no time and no name.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from crowd.message import Message

LEVEL: Final = 6
"""zlib's own default: level 9 takes about twice as long, and JSON gets no smaller by it."""

BYTES_MAX: Final = 2 << 20
"""Larger bodies go as they are: compressing one would hold the reactor for longer than a
heartbeat's interval, 50 ms. Twice what a batch has of bodies by default."""

_GZIP: Final = 16 + zlib.MAX_WBITS  # a gzip member, not a zlib stream

# A body is the producer's to encode; what it signed or summed is the body as it came.
_NOT_OURS: Final = frozenset(
    {b"content-encoding", b"content-md5", b"content-digest", b"repr-digest", b"digest",
     b"content-range"}
)  # fmt: skip


def gzipped(body: bytes) -> bytes | None:
    """Return a body compressed; None if it is too large, or gets no smaller."""
    if len(body) > BYTES_MAX:
        return None
    smaller = zlib.compress(body, LEVEL, _GZIP)
    return smaller if len(smaller) < len(body) else None


def as_gzipped(message: Message) -> Message:
    """Return the message with its body compressed, or the same one where that is not done."""
    if any(name.lower() in _NOT_OURS for name, _ in message.headers):
        return message
    body = gzipped(message.body)
    if body is None:
        return message
    headers = (*message.headers, (b"Content-Encoding", b"gzip"))
    return msgspec.structs.replace(message, headers=headers, body=body)
