"""What leaders remembered of each consumer's delivery, for the next one to go on with.

Decides how much of that is kept, and keeps it as the bytes that a capture takes. Leaves what
is worth remembering, and how often, to ``crowd/delivery``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd.command import Remember, decode_command, encode_command
from crowd.errors import MalformedCommandError
from crowd.ledger.head import expect

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from crowd.ledger.head import Head
    from crowd.message import ConsumerId

MEMORIES_BYTES_MAX: Final = 64 << 20
"""All of them together: over a million trials of some 40 bytes."""


class Memories:
    """The newest `Remember` of each consumer, packed: at most `bytes_max` together."""

    def __init__(self, *, bytes_max: int = MEMORIES_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._packed: dict[ConsumerId, bytes] = {}
        self._hashes: dict[ConsumerId, bytes] = {}
        self._bytes = 0

    def keep(self, command: Remember) -> None:
        """Keep `command` in place of its consumer's older one.

        Without its trials if all together would pass the bound: those messages begin anew.
        """
        self.forget(command.consumer)
        packed = encode_command(command)
        if self._bytes + len(packed) > self._bytes_max:
            packed = encode_command(msgspec.structs.replace(command, trials=()))
        self._put(command.consumer, packed)

    def _put(self, consumer: ConsumerId, packed: bytes) -> None:
        self._packed[consumer] = packed
        self._hashes[consumer] = hashlib.sha256(packed).digest()
        self._bytes += len(packed)

    def forget(self, consumer: ConsumerId) -> None:
        """Keep nothing of this consumer."""
        if consumer in self._packed:
            self._bytes -= len(self._packed.pop(consumer))
            del self._hashes[consumer]

    def of(self, consumer: ConsumerId) -> Remember | None:
        """Return what is kept of a consumer, or None. Costs some microseconds a trial."""
        packed = self._packed.get(consumer)
        if packed is None:
            return None
        command = decode_command(packed)
        assert isinstance(command, Remember)
        return command

    def sections(self) -> list[bytes]:
        """Return each one's bytes, by consumer; they were made when it came."""
        return [self._packed[consumer] for consumer in sorted(self._packed)]

    def state(self) -> list[Any]:
        """Return who is remembered, and the SHA-256 of what: values that CBOR can say."""
        return [[consumer, self._hashes[consumer]] for consumer in sorted(self._packed)]

    def restore(
        self, head: Head, sections: Sequence[bytes], consumers: Container[ConsumerId]
    ) -> None:
        """Become, from empty, what `sections` hold, one for each that `head` names.

        Raises MalformedError if they cannot be: this object is of no use then. That hashes and
        order are the head's is for the caller to compare.
        """
        for (consumer, _), section in zip(head.memories, sections, strict=True):
            command = decode_command(section)
            if not isinstance(command, Remember):
                raise MalformedCommandError("a captured ledger remembers something else")
            expect(
                command.consumer == consumer,
                consumer in consumers,
                consumer not in self._packed,
                what="memories",
            )
            self._put(consumer, section)
        expect(self._bytes <= self._bytes_max, what="memories")
