"""What the keeping of letters asks of the ledger, and of the disk.

Decides nothing; each protocol's docstrings are the contract. The real shelf (``sqlite``) and the
simulated one keep the same contract tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crowd.errors import NoSpaceError


class Letter(Protocol):
    """What the ledger says of a letter's bytes."""

    @property
    def sha256(self) -> bytes:
        """Their SHA-256: 32 bytes."""

    @property
    def size(self) -> int:
        """How many they are."""


class LetterLedger(Protocol):
    """What is asked of the ledger. In the reactor."""

    @property
    def letters(self) -> Mapping[int, Letter]:
        """Every letter by its number. A number is given once and never again."""


class Row(NamedTuple):
    """A letter as it is stored: nothing of it is believed before the two fit together."""

    sha256: bytes
    message: bytes


class Shelf(Protocol):
    """A durable table of letters by number. Blocks; one thread at a time uses it.

    What `write` made durable survives a kill and a power loss; what it was still doing then is
    there whole or not at all. Any method but `close` raises

    - DamagedError if what is stored is no table any more: only `renew` helps then;
    - StorageFailedError if a read, write or sync failed: the process must end (I8).
    """

    def write(self, kept: Sequence[tuple[int, bytes]], gone: Sequence[int]) -> NoSpaceError | None:
        """Keep these letters and remove those, durably at return, all of it or nothing.

        One that is there is written over, and one that is not there may be gone. Returns
        NoSpaceError, and has changed nothing, if the disk is full.
        """

    def read(self, number: int) -> Row | None:
        """Return a letter as it is stored, or None."""

    def rows(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return (number, SHA-256) of at most `limit` letters numbered above `after`, rising."""

    def renew(self) -> None:
        """Set the damaged file aside and begin an empty table, durably."""

    def close(self) -> None:
        """Let go of it; makes nothing durable."""
