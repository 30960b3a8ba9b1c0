"""A ledger with letters in memory, as delivery sees it: the least that its ports ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from crowd.command import Bury, Conclude, Purge, Remember, Replay, Settle
from crowd.ledger import Ledger


@dataclass(frozen=True)
class Letter:
    """A letter, with the bytes that a node would keep elsewhere."""

    consumer: int
    position: int
    state: str
    burial: object


class KeepingLedger(Ledger):
    """The ledger, and beside it letters and what leaders remembered."""

    def __init__(self):
        super().__init__()
        self.kept = {}
        self.given = 0
        self.told = {}

    def apply(self, index, term, log_time_us, command):
        if isinstance(command, Bury):
            for burial in command.letters:
                self.given += 1
                letter = Letter(command.consumer, burial.position, burial.state, burial)
                self.kept[self.given] = letter
            ranges = tuple((burial.position, burial.position) for burial in command.letters)
            command = Settle(command.consumer, ranges)
        elif isinstance(command, Conclude | Purge):
            for number in command.letters:
                self.kept.pop(number, None)
        elif isinstance(command, Replay):
            for number in command.letters:
                if number in self.kept:
                    known = self.kept[number]
                    self.kept[number] = replace(known, state="replay", consumer=command.consumer)
        elif isinstance(command, Remember):
            self.told[command.consumer] = command
        super().apply(index, term, log_time_us, command)

    @property
    def letters(self):
        return self.kept

    def letters_of(self, consumer):
        return [number for number, letter in self.kept.items() if letter.consumer == consumer]

    def letters_due(self, consumer):
        return [n for n in self.letters_of(consumer) if self.kept[n].state != "dead"]

    def is_letter(self, consumer, position):
        return any(self.kept[n].position == position for n in self.letters_of(consumer))

    def dead_bytes(self, consumer):
        return sum(len(self.kept[n].burial.message) for n in self.letters_of(consumer))

    def remembered(self, consumer):
        return self.told.get(consumer)
