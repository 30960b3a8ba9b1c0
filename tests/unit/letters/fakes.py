"""A shelf on a disk of the tests, and a ledger that says what there should be.

`FaultyShelf` keeps what was committed with the disk, so that it outlives processes and power cuts;
what was not is gone with the process. It passes the same contract tests as the real shelf.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from crowd.errors import DamagedError, NoSpaceError, StorageFailedError
from crowd.raft.letters.ports import Row


class FaultyShelf:
    """Letters on a `FaultyFileSystem`."""

    def __init__(self, system):
        self._system = system

    def write(self, kept, gone):
        self._look()
        if getattr(self._system, "full", False):
            return NoSpaceError("no space for letters")
        self._step()
        rows = {number: row for number, row in self._system.letters.items() if number not in gone}
        for number, message in kept:
            rows[number] = Row(hashlib.sha256(message).digest(), bytes(message))
        self._system.letters = rows
        self._step()  # committed, and perhaps nobody lives to say so
        return None

    def read(self, number):
        self._look()
        return self._system.letters.get(number)

    def rows(self, after, limit):
        self._look()
        numbers = sorted(number for number in self._system.letters if number > after)
        return [(number, self._system.letters[number].sha256) for number in numbers[:limit]]

    def renew(self):
        self._step()
        self._system.letters, self._system.letters_damaged = {}, False

    def close(self):
        pass

    def _look(self):
        if self._system.letters_damaged:
            raise DamagedError("letters that cannot be read", place="letters")

    def _step(self):
        try:
            self._system.step("letters")
        except OSError as error:
            raise StorageFailedError(f"could not write letters: {error}") from error


@dataclass(frozen=True)
class FakeLetter:
    """What a ledger says of a letter."""

    sha256: bytes
    size: int


def letter_of(message):
    return FakeLetter(hashlib.sha256(message).digest(), len(message))


class FakeLedger:
    """A ledger of letters only: the test says which there are."""

    def __init__(self, **letters):
        self.letters = {}

    def put(self, number, message):
        self.letters[number] = letter_of(message)
        return number, message
