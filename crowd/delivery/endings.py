"""Messages that ended at one consumer, until the ledger shows it.

Decides which of them go into the log together, and which proposals had their effect. Pure. Leaves
what ends a message to ``plan``, when something is proposed to ``reports``, and what becomes of a
key to ``plan`` and ``order``.

    delivered, dead -> proposed -> (gone: the ledger shows it settled)
    dead <- proposed               the ledger had no room for the letter

Letters are here too: *concluded* where they were delivered, and among the dead where they died
again. Proposals take effect in their order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from crowd.delivery.trial import letter_number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from crowd.delivery.trial import Dead
    from crowd.message import Position

SETTLE_MAX: Final = 4_096
"""Positions in one `Settle`; a quarter of what a command may hold."""

DEAD_MAX: Final = 1_024
"""Dead messages in no proposal yet. More attempts wait: each keeps up to 4 KiB of last words."""

LETTER_ENDS_S: Final = 5.0
"""A letter that still waits so long after its end was proposed is attempted again: it was ordered
elsewhere and back meanwhile, or found no room. A commit takes milliseconds."""


class Endings:
    """What came of attempts and is not in the ledger yet, as far as is known."""

    def __init__(self) -> None:
        self.delivered: list[Position] = []
        """Delivered messages in no proposal yet."""
        self.dead: list[Dead] = []
        """The dead that are in no proposal yet: letters, then messages in the order in which they
        died."""
        self.concluded: list[int] = []
        """Letters that were delivered and are in no proposal yet."""
        self._proposed: deque[tuple[Position, ...]] = deque()
        self._buried: dict[Position, Dead] = {}  # those of the proposed that are dead
        self._letters: dict[int, float] = {}  # letters whose end was proposed, and when

    @property
    def proposed(self) -> int:
        """Proposals whose effect the ledger does not show yet."""
        return len(self._proposed)

    @property
    def is_full(self) -> bool:
        """Whether no more may die."""
        return len(self.dead) >= DEAD_MAX

    def die(self, dead: Dead) -> None:
        """Take what died. A letter is kept already: it waits for no message that finds no room."""
        if dead.position < 0:
            self.dead.insert(0, dead)
        else:
            self.dead.append(dead)

    # --- Proposed ---------------------------------------------------------------------------------

    def to_settle(self) -> tuple[tuple[Position, Position], ...]:
        """Return the delivered positions of the next proposal as inclusive ranges, rising.

        They stay delivered until `settle_proposed` says that the proposal was appended.
        """
        return ranges_of(sorted(self.delivered[:SETTLE_MAX]))

    def settle_proposed(self) -> None:
        """Take note that what `to_settle` returned last was appended to the log."""
        self._proposed.append(tuple(self.delivered[:SETTLE_MAX]))
        del self.delivered[:SETTLE_MAX]

    def bury_proposed(self, count: int, now_s: float) -> None:
        """Take note that the first `count` of `dead` are in a proposal that was appended.

        They are messages of the backlog, or letters, which die under a new number.
        """
        buried = {dead.position: dead for dead in self.dead[:count] if dead.position > 0}
        if buried:
            self._proposed.append(tuple(sorted(buried)))  # the order in which they are buried
            self._buried.update(buried)
        letters = (letter_number(dead.position) for dead in self.dead[:count])
        self._letters |= {number: now_s for number in letters if number}
        del self.dead[:count]

    def conclude_proposed(self, count: int, now_s: float) -> None:
        """Take note that the first `count` of `concluded` are in a proposal that was appended."""
        self._letters |= dict.fromkeys(self.concluded[:count], now_s)
        del self.concluded[:count]

    # --- Shown by the ledger ----------------------------------------------------------------------

    def applied(self, is_settled: Callable[[Position], bool]) -> list[Position]:
        """Forget the proposals whose effect the ledger shows; return those that are letters now."""
        buried: list[Position] = []
        while self._proposed and is_settled(self._proposed[0][-1]):
            positions = self._proposed.popleft()
            if self._buried and positions[-1] in self._buried:
                buried += positions
        for position in buried:
            del self._buried[position]
        if len(self._proposed) > 1 and is_settled(self._proposed[1][-1]):
            # A later one took effect and this did not: there was no room. It is tried again.
            buried += self.bury_again(is_settled)
        return buried

    def buries(self, position: Position) -> bool:
        """Return whether a dead message is in a proposal whose effect the ledger does not show."""
        return position in self._buried

    def bury_again(self, is_settled: Callable[[Position], bool]) -> list[Position]:
        """Have those of the oldest proposal be proposed again that are dead and not buried.

        Return those that are letters now.
        """
        if not self._proposed or self._proposed[0][-1] not in self._buried:
            return []
        positions = self._proposed.popleft()
        dead = {position: self._buried.pop(position) for position in positions}
        self.dead.extend(dead[position] for position in positions if not is_settled(position))
        return [position for position in positions if is_settled(position)]

    def pass_over(self, through: Position) -> list[Position]:
        """Forget what ended up to `through`, which an operator skipped; return the dead ones' positions."""
        self.delivered = [position for position in self.delivered if position > through]
        gone = [dead.position for dead in self.dead if 0 < dead.position <= through]
        if gone:
            self.dead = [dead for dead in self.dead if not 0 < dead.position <= through]
        return gone

    # --- Letters ----------------------------------------------------------------------------------

    def forget_dead_letters(self, waits: Callable[[int], bool]) -> None:
        """Forget of `dead` the first letters as far as none `waits` for this consumer any more.

        An operator purged them, or ordered them elsewhere.
        """
        while self.dead and self.dead[0].position < 0:
            if waits(letter_number(self.dead[0].position)):
                break
            del self.dead[0]

    def letters_due_s(self) -> float | None:
        """Return when `letters_without_end` has some, or None for never."""
        return min(self._letters.values()) + LETTER_ENDS_S if self._letters else None

    def letters_without_end(self, there: Collection[int], now_s: float) -> list[int]:
        """Return letters that still wait, as `there` says, long after their end was proposed."""
        if not self._letters:
            return []
        known = set(there)
        self._letters = {n: at_s for n, at_s in self._letters.items() if n in known}
        left = [n for n, at_s in self._letters.items() if at_s + LETTER_ENDS_S <= now_s]
        for number in left:
            del self._letters[number]
        return left


def ranges_of(positions: list[Position]) -> tuple[tuple[Position, Position], ...]:
    """Return rising, distinct `positions` as inclusive ranges."""
    ranges: list[tuple[Position, Position]] = []
    for position in positions:
        if ranges and position == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], position)
        else:
            ranges.append((position, position))
    return tuple(ranges)
