"""Idempotency keys on their way through the log: digests, and what became of a message.

Decides how a batch says which of its messages came under a key, and how the ledger says which
of them took no position. Both are packed bytes, as most messages have no key: such a batch
carries an empty string and costs nothing more. Leaves what a key is to ``crowd/web/idempotency``, and
which ones are known to ``crowd/ledger/keys``.

A key is known by a digest that its node made of it, and so is the request: sixteen bytes of a
SHA-256 each, as two of 500 000 keys meet by chance once in 10^27 times.
"""

from __future__ import annotations

from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crowd.message import Position

DIGEST_BYTES: Final = 16
"""Of a key, and of a request."""

DIGESTS_BYTES: Final = 2 * DIGEST_BYTES
"""A message's two digests: its key's, then its request's."""

NO_KEY: Final = b""
"""In place of digests: a message without a key."""

KEYS_MAX: Final = 5_000_000
"""Keys that a cluster can be told to remember: a quarter of a gigabyte of every node's memory."""

MISMATCH: Final = 0
"""In place of a position: the key is known for another request. The first position is 1."""

_KEYED: Final = Struct(">H16s16s")
KEYED_BYTES: Final = _KEYED.size

_LEFT_OUT: Final = Struct(">HQ")


class Replayed(msgspec.Struct, frozen=True, gc=False):
    """A message that was not stored, as the first under its key stands at ``position``."""

    position: Position


def keyed(place: int, digests: bytes) -> bytes:
    """Return what a batch says of its message at `place` (from 0), which has such digests."""
    return place.to_bytes(2, "big") + digests


def keyed_messages(packed: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield place, key's digest and request's digest of each message that has a key.

    `packed` is as `is_keyed` wants it.
    """
    return _KEYED.iter_unpack(packed)


def is_keyed(packed: bytes, messages: int) -> bool:
    """Return whether `packed` can be what a batch of so many messages says of its keys.

    Places rise, and are below `messages`.
    """
    if len(packed) % KEYED_BYTES:
        return False
    places = [place for place, _, _ in _KEYED.iter_unpack(packed)]
    return all(one < other for one, other in pairwise((-1, *places, messages)))


def without_first(packed: bytes, count: int) -> bytes:
    """Return what a batch says of its keys once its first `count` messages were taken out."""
    return b"".join(
        keyed(place - count, key + request)
        for place, key, request in _KEYED.iter_unpack(packed)
        if place >= count
    )


def pack_left_out(places: list[tuple[int, int]]) -> bytes:
    """Return rising pairs of a place and a position, or `MISMATCH`, as ten bytes each."""
    return b"".join([_LEFT_OUT.pack(place, position) for place, position in places])


def left_out_places(packed: bytes) -> Iterator[tuple[int, int]]:
    """Yield the pairs of `pack_left_out`."""
    return _LEFT_OUT.iter_unpack(packed)


def is_left_out(packed: bytes, messages: int, tip: int) -> bool:
    """Return whether `packed` can be of a batch of so many messages, in a ledger up to `tip`."""
    if not packed or len(packed) % _LEFT_OUT.size:
        return False
    pairs = list(_LEFT_OUT.iter_unpack(packed))
    places = [place for place, _ in pairs]
    rising = all(one < other for one, other in pairwise((-1, *places, messages)))
    return rising and max(position for _, position in pairs) <= tip
