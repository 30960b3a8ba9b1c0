"""CBOR in and out: the one place that names cbor2.

Decides which part of CBOR (RFC 8949) crowd speaks: integers, floats, byte and text strings,
booleans, null and arrays of definite length, nested at most `DEPTH_MAX` deep. No tag is
ever decoded: a tag can make a decoder build dates, patterns, shared references or numbers of
a million digits out of a few bytes from a stranger. Nor is a map, as nothing that crowd writes
is one, and an empty one of a single byte takes a hundred in memory. Leaves the meaning of the
decoded values to ``command``, ``message`` and ``raft/wire``.
"""

from __future__ import annotations

import threading
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


class _Kept(threading.local):
    """A decoder that is of use again: making one takes as long as decoding a small message.

    One that refused something is not kept, so that nothing of a stranger's bytes is left in it,
    nor is it there while it is at work. It holds on to the bytes that it decoded last.
    """

    decoder: cbor2.CBORDecoder | None = None


_kept = _Kept()


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


def unpack(data: bytes) -> Any:
    """Return the one value that `data` holds, arrays as tuples.

    Raises MalformedError if `data` is anything else: cut short, too deep, tagged, a map,
    or with bytes left over. Time and memory stay proportional to ``len(data)``.
    """
    decoder, _kept.decoder = _kept.decoder or _make_decoder(), None
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
    _kept.decoder = decoder
    return value
