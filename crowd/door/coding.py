"""Bodies with a Content-Encoding, decoded to be looked at. Pure.

What is stored and delivered stays as it came. Decoding is bounded: a body is decoded up to a
size and no further, whatever it would become (a "bomb" of 1 MiB may hold a GiB).
"""

from __future__ import annotations

import zlib
from typing import Final

GZIP: Final = 16 + zlib.MAX_WBITS
ZLIB: Final = zlib.MAX_WBITS

WINDOWS: Final = {b"gzip": GZIP, b"x-gzip": GZIP, b"deflate": ZLIB}
"""RFC 9110, section 8.4.1; its ``deflate`` is zlib's format."""

MEMBERS_MAX: Final = 64
"""Of a gzip file. Some programs write a handful; an empty one takes 20 bytes of a body."""


class TooLargeError(Exception):
    """The decoded body is over its bound."""


def decode(body: bytes, coding: bytes, bytes_max: int) -> bytes:
    """Return `body` without its `coding`, one of `WINDOWS`.

    Raises TooLargeError if that has more than `bytes_max` bytes, and ValueError if the body is
    not so encoded, whole, and with nothing behind it.
    """
    window = WINDOWS[coding]
    decoded = b""
    for _ in range(MEMBERS_MAX):
        decoder = zlib.decompressobj(window)
        try:
            decoded += decoder.decompress(body, bytes_max + 1 - len(decoded))
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if len(decoded) > bytes_max:
            raise TooLargeError
        if not decoder.eof:
            raise ValueError("it ends too early")
        body = decoder.unused_data
        if not body:
            return decoded
        if window != GZIP:
            break
    raise ValueError("something stands behind it")
