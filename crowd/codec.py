"""CBOR in and out: the one place that names cbor2.

Decides which part of CBOR (RFC 8949) crowd speaks: integers, floats, byte and text strings,
booleans, null and arrays of definite length, nested at most `DEPTH_MAX` deep. No tag is
ever decoded: a tag can make a decoder build dates, patterns, shared references or numbers of
a million digits out of a few bytes from a stranger. Nor is a map, as nothing that crowd writes
is one, and an empty one of a single byte takes a hundred in memory. Leaves the meaning of the
decoded values to ``command``, ``message`` and ``raft/wire``.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any, Final, Never

import cbor2

from crowd.errors import MalformedError

DEPTH_MAX: Final = 16
"""The deepest thing crowd writes is 6 deep; a bound keeps a decoder's stack small."""


class _ForbiddenError(Exception):
    pass


def _refuse(*_: object) -> Never:
    raise _ForbiddenError


# Every tag that cbor2 itself would decode; any other tag reaches the tag hook.
_TAGS: Final = dict.fromkeys(
    [*range(6), 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799],
    _refuse,
)

_spare: list[cbor2.CBORDecoder] = []
"""Decoders that are of use again, as many as were at work at once: making one takes as long as
decoding a small message. One at work is not among them, so no two threads have the same; nor is
one that refused something, so that nothing of a stranger's bytes is left in it. Each holds on to
the bytes that it decoded last."""


def _make_decoder() -> cbor2.CBORDecoder:
    return cbor2.CBORDecoder(
        BytesIO(),
        semantic_decoders=_TAGS,
        tag_hook=_refuse,
        object_hook=_refuse,
        max_depth=DEPTH_MAX,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
    )


pack = cbor2.dumps
"""Return a value's CBOR. Values are of the types above; tuples are written as arrays."""


@lru_cache(maxsize=4096)  # what is encoded on hot paths is of a few hundred lengths
def head_of_bytes(length: int) -> bytes:
    """Return what CBOR has before a byte string of this length, below 2**32 (RFC 8949, section 3)."""
    if length < 24:
        return bytes((0x40 + length,))
    for kind, size in ((0x58, 1), (0x59, 2)):
        if length < 1 << 8 * size:
            return bytes((kind,)) + length.to_bytes(size, "big")
    return b"\x5a" + length.to_bytes(4, "big")


def head_of_array(length: int) -> bytes:
    """Return what CBOR has before so many items, below 65 536 (RFC 8949, section 3)."""
    if length < 24:
        return bytes((0x80 + length,))
    return bytes((0x98, length)) if length < 1 << 8 else b"\x99" + length.to_bytes(2, "big")


def unpack(data: bytes) -> Any:
    """Return the one value that `data` holds, arrays as tuples.

    Raises MalformedError if `data` is anything else: cut short, too deep, tagged, a map,
    or with bytes left over. Time and memory stay proportional to ``len(data)``.
    """
    try:
        decoder = _spare.pop()
    except IndexError:
        decoder = _make_decoder()
    try:
        decoder.fp = stream = BytesIO(data)
        value = decoder.decode(immutable=True)
    except _ForbiddenError:
        raise MalformedError("CBOR with a tag or a map; expected neither") from None
    except (cbor2.CBORError, EOFError, ValueError, TypeError, MemoryError, OverflowError) as error:
        if isinstance(error.__cause__, _ForbiddenError):
            raise MalformedError("CBOR with a tag or a map; expected neither") from None
        raise MalformedError(f"not CBOR: {error}") from error
    if stream.tell() != len(data):
        raise MalformedError(f"{len(data) - stream.tell()} bytes after the end of a CBOR value")
    _spare.append(decoder)
    return value
