"""Frames: how one peer message is told from the next on a stream of bytes.

Decides the length prefix and its bound. Does no I/O and looks at no content. A frame is
four bytes of length, big-endian, and that many bytes; an empty one is a keep-alive.

A length over the bound is refused when its four bytes are there, before anything of the
frame is kept, so a stranger's claim of 4 GiB costs nothing (I7).
"""

from __future__ import annotations

from typing import Final

from crowd.errors import MalformedFrameError

FRAME_BYTES_MAX: Final = 20 * 1024 * 1024
"""The largest message is 16 MiB with its headers beside it; an entry is at most that."""

LENGTH_BYTES: Final = 4

KEEP_ALIVE: Final = bytes(LENGTH_BYTES)
"""The empty frame: says only that the sender lives."""

_SMALL_BYTES: Final = 4 << 10
"""Below this a piece is small: what Python keeps beside its bytes would count."""
_TOGETHER_BYTES: Final = 64 << 10
"""To how much small pieces are put together."""


def encode_frame(body: bytes) -> bytes:
    """Return `body` as a frame; raise ValueError if it is over FRAME_BYTES_MAX."""
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {len(body)} bytes; expected at most {FRAME_BYTES_MAX}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameDecoder:
    """Cuts received bytes into frames.

    Holds at most one frame that is not whole, plus what one `feed` brought. The first
    frame, from a peer that has not said hello, may have a smaller bound than the rest.
    After an error it takes nothing more: there is no way to find the next frame.
    """

    def __init__(
        self, frame_bytes_max: int = FRAME_BYTES_MAX, *, first_bytes_max: int | None = None
    ) -> None:
        self._bytes_max = frame_bytes_max
        self._next_bytes_max = frame_bytes_max if first_bytes_max is None else first_bytes_max
        # As they came, joined when the frame is whole: what grows piece by piece is copied
        # again and again. Only small ones are put together, so that none costs more than it says.
        self._held: list[bytes | bytearray] = []
        self._held_bytes = 0
        # No frame ends before so many bytes are held: a large frame that arrives in small
        # pieces costs one comparison a piece.
        self._wanted_bytes = LENGTH_BYTES
        self._broken = False

    @property
    def held_bytes(self) -> int:
        """Bytes kept of a frame that is not whole yet."""
        return self._held_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes, in order, without their lengths.

        Raises MalformedFrameError when a length is over the bound; frames that were whole
        before it in the same call are lost with the connection.
        """
        if self._broken:
            raise MalformedFrameError("bytes after a frame that was refused")
        if self._held:
            self._keep(data)
            if self._held_bytes < self._wanted_bytes:
                return []
            data = b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
        # Most often whole frames arrive: they are cut from `data` without a copy more.
        frames, used = self._cut(data)
        if used < len(data):
            self._keep(data[used:])
        return frames

    def _keep(self, data: bytes) -> None:
        self._held_bytes += len(data)
        held = self._held
        if len(data) >= _SMALL_BYTES:
            held.append(data)
        elif held and type(held[-1]) is bytearray and len(held[-1]) < _TOGETHER_BYTES:
            held[-1] += data
        else:
            held.append(bytearray(data))

    def _cut(self, data: bytes) -> tuple[list[bytes], int]:
        """Return the whole frames at the start of `data`, and how many bytes they took."""
        frames: list[bytes] = []
        start, end = 0, len(data)
        self._wanted_bytes = LENGTH_BYTES
        while end - start >= LENGTH_BYTES:
            body = start + LENGTH_BYTES
            length = int.from_bytes(data[start:body], "big")
            if length > self._next_bytes_max:
                self._broken = True
                raise MalformedFrameError(
                    f"a frame claims {length} bytes; expected at most {self._next_bytes_max}"
                )
            if end - body < length:
                self._wanted_bytes = LENGTH_BYTES + length
                break
            frames.append(data[body : body + length])
            start = body + length
            self._next_bytes_max = self._bytes_max
        return frames, start
