"""A ledger that keeps letters in the simplest way: numbers, hashes and sizes, by Bury and Purge."""

from __future__ import annotations

from crowd.codec import pack, unpack
from crowd.command import Bury, Purge
from crowd.ledger import Ledger
from tests.unit.letters.fakes import FakeLetter, letter_of


class LetteredLedger(Ledger):
    """The ledger, with letters."""

    def __init__(self, **options):
        super().__init__(**options)
        self._found, self._next, self._news = {}, 1, ([], [])

    @property
    def letters(self):
        return self._found

    def apply(self, index, term, log_time_us, command):
        super().apply(index, term, log_time_us, command)
        kept, gone = self._news = [], []
        if isinstance(command, Bury):
            for burial in command.letters:
                self._found[self._next] = letter_of(burial.message)
                kept.append((self._next, burial.message))
                self._next += 1
        elif isinstance(command, Purge):
            gone += [n for n in command.letters if self._found.pop(n, None) is not None]

    def take_letter_changes(self):
        news, self._news = self._news, ([], [])
        return news

    def capture(self):
        found = [[number, letter.sha256, letter.size] for number, letter in self._found.items()]
        return *super().capture(), pack([self._next, *found])

    def restore(self, sections):
        super().restore(sections[:-1])
        self._next, *found = unpack(sections[-1])
        self._found = {number: FakeLetter(sha256, size) for number, sha256, size in found}
        self._news = [], []
