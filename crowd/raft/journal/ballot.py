"""Term, vote and founding record: what they are now, and what of them is on the disk.

Decides when they are written: at once, and again if they changed meanwhile; never two
writes at a time. Leaves the writing to ``memory``, and who waits for it to the engine.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from crowd.raft.journal.memory import FOUNDING_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.raft.journal.memory import Memory

    Change = Callable[[dict[str, object], Callable[[], object]], None]


class Ballot:
    """A node's promises. Invariant: ``stored`` is what both slots on the disk hold.

    `change` has fields of the memory file made durable and then makes its call, never from
    within; it makes none after a failure. `stored_anew` is called after each change.
    """

    def __init__(self, memory: Memory, change: Change, stored_anew: Callable[[], object]) -> None:
        self.term, self.vote = self.stored = (memory.term, memory.vote)
        self.founding = memory.founding
        self._change = change
        self._stored_anew = stored_anew
        self._wanted: tuple[bytes, Callable[[], object]] | None = None
        self._changing = False

    @property
    def pending(self) -> bool:
        """Whether the newest term and vote are not on the disk yet."""
        return self.stored != (self.term, self.vote)

    def set(self, term: int, vote: str | None) -> None:
        """Start making this term and vote durable."""
        self.term, self.vote = term, vote
        self._store()

    def remember(self, founding: bytes, done: Callable[[], object]) -> None:
        """Start making a founding record durable; then `done` is called."""
        assert len(founding) <= FOUNDING_BYTES_MAX
        assert self._wanted is None, "one founding record at a time"
        self._wanted = (founding, done)
        self._store()

    def _store(self) -> None:
        if self._changing or not (self.pending or self._wanted):
            return
        self._changing = True
        promise, wanted = (self.term, self.vote), self._wanted
        fields: dict[str, object] = {"term": promise[0], "vote": promise[1]}
        if wanted is not None:
            fields["founding"] = wanted[0]
        self._change(fields, partial(self._stored, promise, wanted))

    def _stored(
        self, promise: tuple[int, str | None], wanted: tuple[bytes, Callable[[], object]] | None
    ) -> None:
        self._changing = False
        self.stored = promise
        if wanted is not None:
            self.founding, done = wanted
            self._wanted = None
            done()
        self._store()
        self._stored_anew()
