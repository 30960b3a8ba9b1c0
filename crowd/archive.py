"""All letters of a cluster, as operators' pages and commands find them on one node.

Decides where each fact of a letter is asked for: most in the ledger, the bytes in the node's
letter store. Leaves which letters are meant to ``letters``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crowd.ledger.letters import Letter
    from crowd.message import ConsumerId


class Archive(Protocol):
    """All letters of the cluster, and this node's copies of their bytes."""

    def letter(self, number: int) -> Letter | None:
        """Return a letter, or None if there is none (any more)."""

    def after(self, number: int, limit: int) -> list[int]:
        """Return the next letters' numbers above `number`, rising."""

    def counts(self, consumer: ConsumerId) -> dict[str, int]:
        """Return what became of a consumer's messages that were not delivered, by names.

        ``dead``, ``parked`` and ``replay`` are letters that are there now, ``bytes`` theirs;
        ``purged``, ``expired`` and ``skipped`` count since the consumer began.
        """

    def gone(self) -> Mapping[ConsumerId, str]:
        """Return the names of consumers that were removed and may have letters still."""

    def message(self, number: int) -> bytes | None:
        """Return a letter's stored message; None if it is not at hand, but perhaps is soon."""

    def on_messages(self, call: Callable[[], None]) -> None:
        """Have `call` called when messages that were not at hand may be."""


class EngineArchive:
    """The engine's letters: the ledger's, and the bytes in its letter store."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def letter(self, number: int) -> Letter | None:
        """Return a letter, or None."""
        found: Letter | None = self._engine.ledger.letters.get(number)
        return found

    def after(self, number: int, limit: int) -> list[int]:
        """Return the next numbers."""
        found: list[int] = self._engine.ledger.letters_after(number, limit)
        return found

    def counts(self, consumer: ConsumerId) -> dict[str, int]:
        """Return a consumer's letters by their state, and its totals."""
        ledger = self._engine.ledger
        tally = ledger.letter_tally(consumer)
        return {
            **ledger.letter_counts(consumer),
            "bytes": ledger.dead_bytes(consumer),
            "purged": tally.purged,
            "expired": tally.expired,
            "skipped": ledger.consumers[consumer].skipped,
        }

    def gone(self) -> Mapping[ConsumerId, str]:
        """Return the names of removed consumers, by their ids."""
        return {known.id: known.name for known in self._engine.ledger.gone.values()}

    def message(self, number: int) -> bytes | None:
        """Return a letter's stored message, if it is at hand."""
        found: bytes | None = self._engine.letter(number)
        return found

    def on_messages(self, call: Callable[[], None]) -> None:
        """Have `call` called by the engine."""
        self._engine.letter_hooks.append(call)
