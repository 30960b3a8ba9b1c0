"""What a plan keeps of a message, and says of it.

Values alone. Times are those of the clock that the plan is told, in seconds, unless it says
otherwise; a position below zero stands for a letter.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from crowd.message import Position

_LETTERS: Final = -(2**62)  # no letter's number is as large

DeathReason: TypeAlias = Literal["answer", "attempts", "age", "undeliverable", "window"]


def letter_place(number: int) -> Position:
    """Return what stands for a letter where a position would: below zero, rising with its number."""
    return Position(_LETTERS + number)


def letter_number(place: Position) -> int:
    """Return the number of the letter that `place` stands for; 0 if it is a position."""
    return place - _LETTERS if place < 0 else 0


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One attempt to start: the message's position, and its attempts' number from 1."""

    position: Position
    number: int

    @property
    def letter(self) -> int:
        """The letter's number, or 0 for a message of the backlog."""
        return letter_number(self.position)


class Trial(msgspec.Struct, order=True, frozen=True, gc=False):
    """A message between its attempts: they are in the order of their due times.

    ``attempts`` were made, ``spared`` of which do not count towards a bound. The first was at
    ``first_s``, when the consumer had answered for ``aged_s``. ``company`` is how many messages at
    most, itself among them, go in its next request, of a consumer that takes batches; 0 says nothing.
    ``lives`` is how many signs of life there had been at its last failure.
    """

    due_s: float
    position: Position
    attempts: int
    spared: int
    first_s: float
    aged_s: float
    company: int = 0
    lives: int = 0


class Flight(msgspec.Struct, frozen=True, gc=False):
    """An attempt under way: what it was before, when it began, and whether it is a probe.

    ``mates`` are the other messages of its request. ``lives`` counts signs of life before it.
    """

    trial: Trial
    started_s: float
    probe: bool
    mates: tuple[Trial, ...] = ()
    lives: int = 0


class Dead(msgspec.Struct, frozen=True, gc=False):
    """A message that leaves the backlog undelivered, and what its letter will say of it.

    It is not attempted again, but for one that only made room in the window: ``reason`` is
    ``window`` then, and nothing is said of its last answer. ``spared`` and ``aged_s`` are its trial's.
    """

    position: Position
    reason: DeathReason
    status: int
    words: str
    attempts: int
    first_s: float
    last_s: float
    spared: int
    aged_s: float


class Remembered(msgspec.Struct, frozen=True):
    """What one leader's plan tells the next one's. Its times are those of who is told."""

    opened: int
    held_until_s: float
    aged_s: float
    trials: tuple[Trial, ...]
