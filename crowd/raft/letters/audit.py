"""What is stored, compared with what the ledger says there is.

Decides which letters this node lacks and which it need not keep. It runs after a start, after a
snapshot was installed, and after damage; in between the ledger's own changes keep the two equal.
Both are gone through by rising number, a slice at a time.

Whether the bytes are still what was written, the audit does not ask: that is read and hashed a
little at a time, for ever (`Scrub`).

In the reactor only.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crowd.raft.letters.ports import LetterLedger
    from crowd.raft.letters.store import LetterStore

ROWS_AT_ONCE: Final = 128
"""Stored letters looked at in one turn: to ask the ledger for one costs some ten microseconds."""
LETTERS_AT_ONCE: Final = 1024
"""The ledger's letters of which none is stored, in one turn: about a millisecond."""


class Audit:
    """The comparing. `lacking` hears of the numbers of which nothing whole is stored."""

    def __init__(
        self,
        store: LetterStore,
        ledger: LetterLedger,
        lacking: Callable[[Iterable[int]], object],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._lacking = lacking
        self._run = 0
        self._numbers: list[int] = []
        self._place = 0
        self.is_done = False
        """Whether every letter that the ledger has was looked at since `begin`."""

    def begin(self) -> None:
        """Compare from the first number on; what was under way is overtaken."""
        self._run += 1
        # Of a million letters 10 ms, beside a restored ledger's seconds.
        self._numbers = sorted(self._ledger.letters)
        self._place = 0
        self.is_done = not self._numbers
        self._ask(0)

    def _ask(self, after: int) -> None:
        self._store.rows(after, ROWS_AT_ONCE, partial(self._compare, self._run))

    def _compare(self, run: int, rows: list[tuple[int, bytes]]) -> None:
        """Compare a slice: all numbers behind the last one, up to where both sides are known."""
        if run != self._run:
            return
        upto = rows[-1][0] if len(rows) == ROWS_AT_ONCE else None
        end = len(self._numbers) if upto is None else bisect_right(self._numbers, upto)
        if end - self._place > LETTERS_AT_ONCE:
            end = self._place + LETTERS_AT_ONCE
            upto = self._numbers[end - 1]
        expected, self._place = self._numbers[self._place : end], end
        stored = dict(rows if upto is None else [row for row in rows if row[0] <= upto])
        self._find(expected, stored)
        if upto is None:
            self._numbers, self.is_done = [], True
        else:
            self._ask(upto)

    def _find(self, expected: list[int], stored: dict[int, bytes]) -> None:
        letters, store = self._ledger.letters, self._store
        lacking = [
            number
            for number in expected
            # The ledger has gone on since `begin`, and says itself what it added.
            if number in letters
            and not store.is_pending(number)
            and stored.get(number) != letters[number].sha256
        ]
        superfluous = [
            number for number in stored if number not in letters and not store.is_pending(number)
        ]
        if lacking:
            self._lacking(lacking)
        if superfluous:
            store.change((), superfluous)


class Scrub:
    """The verifying of stored bytes, in turn. `lacking` hears of those that are not whole."""

    def __init__(
        self,
        store: LetterStore,
        ledger: LetterLedger,
        lacking: Callable[[Iterable[int]], object],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._lacking = lacking
        self._after = 0
        self._busy = False

    def step(self) -> None:
        """Verify the next few letters, if the last few are done."""
        if not self._busy and self._ledger.letters:
            self._busy = True
            self._store.verify(self._after, self._verified)

    def _verified(self, last: int, bad: list[int]) -> None:
        self._busy = False
        self._after = last
        letters, store = self._ledger.letters, self._store
        found = [n for n in bad if n in letters and not store.is_pending(n)]
        if found:
            self._lacking(found)
