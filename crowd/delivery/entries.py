"""The entries that deliveries read from, the most recent ones at hand.

Decides how many are kept. An entry holds up to thousands of messages and is decoded whole,
so it is decoded once for all of them, and once for all consumers that are at the same place.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.command import Index

KEPT_BYTES_MAX: Final = 8 << 20
"""Eight entries of 1 MiB: a few consumers, each at its own place, with retries behind it."""

_MESSAGE_OVERHEAD: Final = 64
"""About what the interpreter adds to each stored message, so that small ones count too."""


class Entries:
    """A cache of accepted entries' messages, bounded in bytes; the least recently used goes.

    One entry is always kept, however large.
    """

    def __init__(
        self, read: Callable[[int], tuple[bytes, ...]], bytes_max: int = KEPT_BYTES_MAX
    ) -> None:
        """Make an empty cache; `read` gets an entry's messages from the log."""
        self._read = read
        self._bytes_max = bytes_max
        self._kept: OrderedDict[int, tuple[tuple[bytes, ...], int]] = OrderedDict()
        self._bytes = 0

    def message(self, index: Index, offset: int) -> bytes:
        """Return a stored message. Raises what `read` raises."""
        kept = self._kept.get(index)
        if kept is not None:
            self._kept.move_to_end(index)
            return kept[0][offset]
        messages = self._read(index)
        size = sum(map(len, messages)) + _MESSAGE_OVERHEAD * len(messages)
        self._kept[index] = (messages, size)
        self._bytes += size
        while self._bytes > self._bytes_max and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed
        return messages[offset]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0
