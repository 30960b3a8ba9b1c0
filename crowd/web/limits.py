"""How much of anything one producer, and all of them together, may take (invariant I7)."""

from __future__ import annotations

from typing import Final

import msgspec

SLICE_BYTES: Final = 16 * 1024
"""llhttp gets at most this much at once: what is read past a bound stays below one slice."""


class WebLimits(msgspec.Struct, frozen=True):
    """The bounds of the producers' side. Sizes in bytes, times in seconds.

    ``body_bytes_max`` and ``in_flight_bytes_max`` are the configuration's ``limits.body`` and
    ``limits.in_flight``. The others are fixed; each default's reason stands beside it.
    """

    body_bytes_max: int = 1024 * 1024
    in_flight_bytes_max: int = 64 * 1024 * 1024
    target_bytes_max: int = 8 * 1024  # RFC 9112 section 3 asks for 8 000 at least.
    head_bytes_max: int = 32 * 1024  # Four times what browsers and proxies send at their worst.
    headers_max: int = 128  # Real requests have 5 to 40.
    pipeline_max: int = 32  # Deeper pipelines gain nothing: all are answered in one turn.
    connections_max: int = 20_000  # About 10 KiB each, so 200 MiB at the most.
    connections_over: int = 512  # Twisted accepts 100 or more in one turn before it can be stopped.
    request_bytes: int = 1024  # What a request costs besides its body, counted in flight.
    idle_s: float = 75.0  # Longer than the 60 s for which balancers keep a connection.
    head_s: float = 10.0  # For a whole head, from its first byte; not renewed by more bytes.
    body_s: float = 60.0  # For a whole body: 16 MiB at 280 KiB/s.
    answer_s: float = 120.0  # Far above `acknowledge_within`: only a lost answer takes as long.
    # For a reader to take what its connection holds of an answer, 64 KiB at least: 2 KiB/s. An
    # answer of n bytes so holds a place for n / 2 KiB seconds at most, and not for ever.
    unread_s: float = 30.0
    gone_s: float = 3.0  # For a read whose reader sends no more, and most likely is gone.
    linger_s: float = 2.0  # For a refused producer to read the answer before the connection ends.
