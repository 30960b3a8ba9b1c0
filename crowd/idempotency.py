"""Idempotency keys on their way through the log: digests, and what became of a message.

Decides how a batch says which of its messages came under a key, and how the ledger says which
of them took no position. Both are packed bytes, as most messages have no key: such a batch
carries an empty string and costs nothing more. Leaves what a key is to ``crowd/web/idempotency``, and
which ones are known to ``crowd/ledger/keys``.

A key is of one message, or of all that came in one request: a group, which is contiguous.

A key is known by a digest that its node made of it, and so is the request: sixteen bytes of a
SHA-256 each, as two of 500 000 keys meet by chance once in 10^27 times.
"""

from __future__ import annotations

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

_KEYED: Final = Struct(">HH16s16s")
KEYED_BYTES: Final = _KEYED.size

_AHEAD: Final = Struct(">HH")
_LEFT_OUT: Final = Struct(">HHQ")


class Replayed(msgspec.Struct, frozen=True, gc=False):
    """A message that was not stored, as the first under its key stands at ``position``."""

    position: Position


class Grouped(msgspec.Struct, frozen=True, gc=False):
    """What became of a group of ``count`` messages, which came in one request.

    Those that were stored stand one behind the other, from ``first`` on. ``replayed`` has, by
    rising place, what was not: a place in the group, how many messages from there on, and the
    position of the first of those under their key.
    """

    first: Position
    count: int
    replayed: tuple[tuple[int, int, int], ...] = ()

    def positions(self) -> list[int]:
        """Return each message's position, or that of the first one under its key."""
        first, found = int(self.first), list[int]()
        for place, count, position in self.replayed:
            stored = place - len(found)
            found.extend(range(first, first + stored))
            first += stored
            found.extend(range(position, position + count))
        found.extend(range(first, first + self.count - len(found)))
        return found


def keyed(place: int, digests: bytes, count: int = 1) -> bytes:
    """Return what a batch says of its `count` messages from `place` (from 0) on.

    They have one key, and such digests.
    """
    return _AHEAD.pack(place, count) + digests


def keyed_messages(packed: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Yield place, count, key's digest and request's digest of all messages that have a key.

    `packed` is as `is_keyed` wants it.
    """
    return _KEYED.iter_unpack(packed)


def is_keyed(packed: bytes, messages: int) -> bool:
    """Return whether `packed` can be what a batch of so many messages says of its keys.

    Each is of one message at least, behind those of the one before it, and within the batch.
    """
    if len(packed) % KEYED_BYTES:
        return False
    spans = [(place, count) for place, count, _, _ in _KEYED.iter_unpack(packed)]
    return _are_apart(spans, messages)


def _are_apart(spans: list[tuple[int, int]], messages: int) -> bool:
    """Return whether places and counts rise without a common message, below `messages`."""
    end = 0
    for place, count in spans:
        if place < end or not count:
            return False
        end = place + count
    return end <= messages


def moved(packed: bytes, by: int) -> bytes:
    """Return what a group says of its keys once `by` messages stand before it."""
    if not by or not packed:
        return packed
    return b"".join(
        [
            keyed(place + by, key + request, count)
            for place, count, key, request in _KEYED.iter_unpack(packed)
        ]
    )


def without_first(packed: bytes, count: int) -> bytes:
    """Return what a batch says of its keys once its first `count` messages were taken out.

    They are whole requests' messages, so no key is of some that go and some that stay.
    """
    return b"".join(
        keyed(place - count, key + request, size)
        for place, size, key, request in _KEYED.iter_unpack(packed)
        if place >= count
    )


def pack_left_out(spans: list[tuple[int, int, int]]) -> bytes:
    """Return spans that were left out as twelve bytes each.

    A span has a place, a count, and the position of the first message under its key, or
    `MISMATCH`. They rise, and have no message in common.
    """
    return b"".join([_LEFT_OUT.pack(*span) for span in spans])


def left_out_spans(packed: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the spans of `pack_left_out`."""
    return _LEFT_OUT.iter_unpack(packed)


def left_out_places(packed: bytes) -> list[int]:
    """Return the place of every message that is left out."""
    return [
        each
        for place, count, _ in _LEFT_OUT.iter_unpack(packed)
        for each in range(place, place + count)
    ]


def is_left_out(packed: bytes, messages: int, tip: int) -> bool:
    """Return whether `packed` can be of a batch of so many messages, in a ledger up to `tip`."""
    if not packed or len(packed) % _LEFT_OUT.size:
        return False
    spans = list(_LEFT_OUT.iter_unpack(packed))
    return _are_apart([(place, count) for place, count, _ in spans], messages) and all(
        position + count - 1 <= tip for _, count, position in spans if position != MISMATCH
    )
