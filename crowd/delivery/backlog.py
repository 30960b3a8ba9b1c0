"""One consumer's messages that wait to be attempted, and whose turn it is.

Decides which message comes next of those that were taken from the ledger: new ones, those that
failed and are due again, those behind another one of their key, and letters. Pure. Leaves to
``plan`` whether anything is attempted at all, and what an answer means.

A position is in exactly one place here, or with ``plan``: in line behind another one of its key,
*fresh*, or *waiting* for its next attempt. A letter is in one of its own.

Invariant: cursor - watermark <= WINDOW, and positions in lines are at most LINES_MAX, so what is
held here is bounded whatever the backlog.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush, nsmallest
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from crowd.command import TRIALS_MAX
from crowd.delivery.order import ALL, Lines
from crowd.delivery.trial import Trial, letter_number, letter_place
from crowd.message import Position

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from crowd.delivery.order import Order

WINDOW: Final = 100_000
"""How far the cursor runs ahead of the watermark (docs/explanation/delivery.md). About 25 MB at
the worst."""

FRESH_MAX: Final = 256
"""Positions asked of the ledger at once: many attempts to one question, few to remember."""

LINES_MAX: Final = 10_000
"""Positions in lines: how far is looked behind blocked keys for others. About 3 MB."""

READ_MAX: Final = 64
"""Positions asked for at once whose messages must be read to know their keys: about half a
millisecond for usual ones."""

RECALL_MAX: Final = 1_000
"""Waiting messages called back at the first sign of life. More have failed one by one."""

RECALL_S: Final = 1.0
"""The time over which those are spread, in their order."""

_BEFORE_S: Final = 1e-3
"""By how much a letter that goes first is due before the others."""

LETTERS_MAX: Final = 10_000
"""Letters taken to be attempted, about 2 MB; the rest wait in the ledger."""

LETTER_EVERY: Final = 8
"""While messages are due, one attempt at most in so many, and one, is a letter's."""

PARK_SPAN: Final = 10_000
"""When the window is full, those that wait in its lowest tenth make room for the next tenth."""

REMEMBERED_MAX: Final = 2_000
"""Waiting messages in one report, about 60 KB each second at the worst. Of more, the oldest
among `REMEMBERED_LOOK`; the next leader attempts the others as if they were new."""

REMEMBERED_LOOK: Final = 10_000
"""How many are looked at for that, so that it takes a few milliseconds at most."""

assert REMEMBERED_MAX <= TRIALS_MAX


class Backlog:
    """What was taken of one consumer's backlog and is not under way."""

    def __init__(self, order: Order, watermark: Position, known: Iterable[Trial] = ()) -> None:
        """Begin behind `watermark`; `known` are trials of which an earlier leader told."""
        self.cursor = watermark
        self.watermark = watermark
        self.lines = Lines() if order.any else None
        self.fresh: deque[Position] = deque()
        self.waiting: list[Trial] = []  # a heap
        self.letters: list[Trial] = []  # a heap
        self.letters_known: set[int] = set()
        self.holding: set[Position] = set()
        """Dead messages in lines that hold their keys, at a head or behind another one."""
        # Asked for in whole portions: one place that is free is not worth a question.
        self._portion = READ_MAX if order.reads else FRESH_MAX
        self._known = {trial.position: trial for trial in known}  # not taken yet
        self._beyond = watermark  # the next pending position, if it was found past the window
        self._fresh_went = False
        self._since_letter = 0
        self.passed = Position(0)
        """Up to it an operator skipped: what comes back from there is let go of."""

    # --- Taking -----------------------------------------------------------------------------------

    def wants(self, *, closed: bool) -> int:
        """Return how many pending positions to ask for behind the cursor; 0 for none now.

        `closed` is the breaker. While it is not, one new message is wanted beside those that
        wait: it may be them that the consumer refuses.
        """
        if self.fresh:
            return 0
        if self.lines is not None and len(self.lines) + self._portion > LINES_MAX:
            return 0
        if self._is_full:
            return 0
        room = self.watermark + WINDOW - self.cursor
        return min(self._portion if closed else 1, room)

    @property
    def _is_full(self) -> bool:
        """Whether the window's end is reached: no pending position is left in it.

        Between the cursor and that end there may be positions, none of which is pending.
        """
        return max(self.cursor + 1, self._beyond) > self.watermark + WINDOW

    @property
    def is_crowded(self) -> bool:
        """Whether the window is full of messages that were attempted, and holds up others."""
        return self._is_full and not self.fresh and bool(self.waiting) and self.lines is None

    def take(self, positions: Iterable[Position], keys: Sequence[bytes | None] = ()) -> None:
        """Take pending positions, rising, all above the cursor; those past the window stay.

        `keys` are theirs if the order reads messages to know them.
        """
        for number, position in enumerate(positions):
            assert position > self.cursor, "a position is taken once"
            if position > self.watermark + WINDOW:
                self._beyond = position
                break
            self.cursor = position
            if self.lines is None or self.lines.enter(position, keys[number] if keys else ALL):
                self._ready(position)

    def _ready(self, position: Position) -> None:
        """Have a position attempted; when it was attempted before, at its time."""
        known = self._known.pop(position, None) if self._known else None
        if known is not None:
            heappush(self.waiting, known)
        else:
            self.fresh.append(position)

    def leave(self, positions: Iterable[Position]) -> None:
        """Let those behind these in line come forward."""
        if self.lines is not None:
            for position in positions:
                head = self.lines.leave(position)
                if head is not None and head not in self.holding:
                    self._ready(head)

    def pass_over(self, through: Position) -> None:
        """Let go of all messages up to `through`, which an operator skipped. Letters stay.

        Costs some milliseconds for the most that may be held.
        """
        self.passed = max(self.passed, through)
        if self.lines is not None:
            self.lines.pass_over(through, self.holding)
        gone = [position for position in self.fresh if position <= through]
        gone += [trial.position for trial in self.waiting if trial.position <= through]
        self.fresh = deque(position for position in self.fresh if position > through)
        self.waiting = [trial for trial in self.waiting if trial.position > through]
        heapify(self.waiting)
        known = self._known.items()
        self._known = {place: trial for place, trial in known if not 0 < place <= through}
        self.leave(gone)

    def take_letters(
        self, numbers: Iterable[int], now_s: float, in_flight: Container[Position]
    ) -> None:
        """Take letters that are to be attempted, which are all that there are, at once.

        `numbers` rise. Those taken before stay as they are; those gone are forgotten.
        """
        there = set(islice(numbers, LETTERS_MAX))
        if not self.letters_known <= there:
            self.letters_known &= there
            self.letters = [t for t in self.letters if letter_number(t.position) in there]
            heapify(self.letters)
        for number in sorted(there - self.letters_known):
            position = letter_place(number)
            if position in in_flight:
                continue  # it was gone and is there again: another time
            self.letters_known.add(number)
            trial = self._known.pop(position, None)
            heappush(self.letters, trial or Trial(now_s, position, 0, 0, now_s, 0.0))

    # --- Turns ------------------------------------------------------------------------------------

    def choose(self, now_s: float, aged_s: float, *, closed: bool) -> Trial | None:
        """Return the next message, which is in no place any more, or None if none is due.

        New messages and those that failed take turns, so that neither starves the other; a
        letter has its turn now and then. While the breaker is not `closed` any may probe.
        """
        due = _is_due(self.waiting, now_s, closed=closed)
        letter_next = self._since_letter >= LETTER_EVERY or not (due or self.fresh)
        if letter_next and _is_due(self.letters, now_s, closed=closed):
            return self._next_letter(now_s, aged_s)
        self._since_letter += 1
        if self.fresh and not (due and self._fresh_went):
            self._fresh_went = True
            return Trial(now_s, self.fresh.popleft(), 0, 0, now_s, aged_s)
        if due:
            self._fresh_went = False
            return heappop(self.waiting)
        return None

    def choose_messages(self, now_s: float, aged_s: float, *, turn: bool) -> Iterator[Trial]:
        """Yield the next messages as `choose` returns them while the breaker is closed, no letter.

        Each is in its place until it is asked for. New messages and those that failed change at a
        `turn` only, and when there is none of a kind: those of one batch are of one kind, as far as
        there are enough.
        """
        if turn:
            self._since_letter += 1
            self._fresh_went = not self._fresh_went
        while True:
            due = _is_due(self.waiting, now_s, closed=True)
            if self.fresh and not (due and self._fresh_went):
                yield Trial(now_s, self.fresh.popleft(), 0, 0, now_s, aged_s)
            elif due:
                yield heappop(self.waiting)
            else:
                return

    def choose_letter(
        self, now_s: float, aged_s: float, *, closed: bool, alone: bool
    ) -> Trial | None:
        """Return the next letter if one is due and it has its turn among the batches, or None.

        It always has where letters are `alone`, and no message is chosen.
        """
        if not _is_due(self.letters, now_s, closed=closed):
            return None
        is_in_turn = alone or self._since_letter >= LETTER_EVERY
        if not is_in_turn and self.message_due_s() <= now_s:
            return None
        return self._next_letter(now_s, aged_s)

    def _next_letter(self, now_s: float, aged_s: float) -> Trial:
        """Take the first letter; it ages from its first attempt on, not while it waits here."""
        self._since_letter = 0
        trial = heappop(self.letters)
        return trial if trial.attempts else replace(trial, first_s=now_s, aged_s=aged_s)

    def prefer_fresh(self) -> None:
        """Have a new message go next: not the one that was just refused."""
        self._fresh_went = False

    def due_s(self, *, closed: bool) -> float | None:
        """Return when `choose` has something; a time that is past means now, None never."""
        if self.fresh:
            return -math.inf
        dues = [heap[0].due_s for heap in (self.waiting, self.letters) if heap]
        return min(dues, default=None) if closed or not dues else -math.inf

    def letter_due_s(self, *, closed: bool) -> float | None:
        """Return when `choose_letter` has something for letters alone, as `due_s` does."""
        if not self.letters:
            return None
        return self.letters[0].due_s if closed else -math.inf

    def message_due_s(self) -> float:
        """Return when `choose_messages` has something; infinity for never."""
        if self.fresh:
            return -math.inf
        return self.waiting[0].due_s if self.waiting else math.inf

    def put_back(self, trials: Sequence[Trial]) -> None:
        """Have messages that were chosen, in this order, and not sent, be chosen again."""
        self.leave(trial.position for trial in trials if trial.position <= self.passed)
        left = [trial for trial in trials if trial.position > self.passed]
        new = [trial.position for trial in left if not trial.attempts]
        self.fresh.extendleft(reversed(new))
        for trial in left:
            if trial.attempts:
                heappush(self.waiting, trial)

    def wait(self, trial: Trial) -> None:
        """Have a message wait for its next attempt; what was skipped, or is gone, is forgotten."""
        if trial.position > self.passed:
            heappush(self.waiting, trial)
        elif trial.position > 0:
            self.leave((trial.position,))
        elif letter_number(trial.position) in self.letters_known:
            heappush(self.letters, trial)

    def hasten(self, places: Container[Position], now_s: float) -> None:
        """Have the letters at these places attempted now: what they waited for is here.

        Before all others, so that it is still here by then.
        """
        first_s = min([now_s, *(trial.due_s for trial in self.letters)]) - _BEFORE_S
        self.letters = [
            replace(trial, due_s=first_s) if trial.position in places else trial
            for trial in self.letters
        ]
        heapify(self.letters)

    def recall(self, now_s: float) -> None:
        """Bring the next waiting messages forward: what they waited for has happened."""
        count = min(RECALL_MAX, len(self.waiting))
        called = [heappop(self.waiting) for _ in range(count)]
        self.waiting.extend(
            replace(trial, due_s=min(trial.due_s, now_s + RECALL_S * place / count))
            for place, trial in enumerate(called)
        )
        heapify(self.waiting)

    def take_away(self, most: int) -> list[Trial]:
        """Take away the oldest that wait, at most `most`, of the window's lowest tenth."""
        limit = self.watermark + PARK_SPAN
        low = nsmallest(
            most, (t for t in self.waiting if t.position <= limit), key=lambda t: t.position
        )
        gone = {trial.position for trial in low}
        self.waiting = [trial for trial in self.waiting if trial.position not in gone]
        heapify(self.waiting)
        return low

    # --- For the next leader ----------------------------------------------------------------------

    def tried(self, in_flight: Iterable[Trial]) -> tuple[Trial, ...]:
        """Return the messages that were attempted, `in_flight` among them, the oldest first."""
        seen = chain(in_flight, self.waiting[-REMEMBERED_LOOK:], self.letters, self._known.values())
        tried = (trial for trial in seen if trial.attempts)
        return tuple(nsmallest(REMEMBERED_MAX, tried, key=lambda trial: trial.position))


def _is_due(heap: list[Trial], now_s: float, *, closed: bool) -> bool:
    return bool(heap) and (heap[0].due_s <= now_s or not closed)
