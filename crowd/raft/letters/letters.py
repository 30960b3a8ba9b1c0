"""Letters' bytes as the engine uses them.

Decides when this node is whole: when it has the bytes of every letter of its ledger, on its disk
or in the part of its log that no checkpoint covers yet. Leaves what a letter is to the ledger.

In the reactor only.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from crowd.raft.letters.audit import Audit, Scrub
from crowd.raft.letters.fetching import Fetching
from crowd.raft.letters.store import CACHE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from crowd.clock import Clock
    from crowd.raft.letters.ports import LetterLedger
    from crowd.raft.letters.store import LetterStore
    from crowd.raft.wire import PeerMessage


class Letters:
    """This node's letters. `changed` is called when more became durable, or was read."""

    def __init__(
        self,
        clock: Clock,
        store: LetterStore,
        ledger: LetterLedger,
        send: Callable[[str, PeerMessage], bool],
        peers: Callable[[], Sequence[str]],
        changed: Callable[[], object],
    ) -> None:
        """`peers` returns the names of the members that are connected."""
        self._store = store
        self._ledger = ledger
        self._changed = changed
        self._fetching = Fetching(clock, store, ledger, send, peers)
        self._audit = Audit(store, ledger, self._fetching.lack)
        self._scrub = Scrub(store, ledger, self._fetching.lack)
        self._reading: dict[int, int] = {}
        store.on_durable = self._durable
        store.on_damaged = self.begin
        self.asked, self.fetched = self._fetching.asked, self._fetching.fetched_from
        self.left = self._fetching.left
        self.durable_through = store.durable_through

    def begin(self) -> None:
        """Compare what is stored with the ledger, which was just restored, or is empty."""
        self._fetching.forget()
        self._audit.begin()

    def apply(self, index: int, kept: Sequence[tuple[int, bytes]], gone: Sequence[int]) -> None:
        """Take what the applied entry at `index` says is to be kept and removed."""
        self._store.change(kept, gone, index=index)
        self._fetching.have(gone)

    def look(self) -> None:
        """Ask peers again, try a full disk again, verify a little. Call it now and then."""
        self._store.retry()
        self._fetching.look()
        self._scrub.step()

    def letter(self, number: int) -> bytes | None:
        """Return a letter's bytes, verified; None if they are not at hand.

        They are read or fetched then, and `changed` is called when they are there: ask again.
        None, too, for a number that the ledger does not have.
        """
        letter = self._ledger.letters.get(number)
        if letter is None:
            return None
        message = self._store.at_hand(number)
        if message is not None:
            return message
        if self._fetching.is_lacking(number):
            self._fetching.first(number)
        elif number not in self._reading and self._may_read(letter.size):
            reads = self._store.read(number, letter.sha256, partial(self._read, number))
            if reads:
                self._reading[number] = letter.size
        return None

    def _may_read(self, size_bytes: int) -> bool:
        """Tell whether what is being read for this node stays in memory until it is taken."""
        under_way_bytes = sum(self._reading.values())
        return not under_way_bytes or under_way_bytes + size_bytes <= CACHE_BYTES_MAX

    def _read(self, number: int, found: bytes | None) -> None:
        self._reading.pop(number, None)
        if found is None and number in self._ledger.letters and not self._store.is_pending(number):
            self._fetching.lack([number])
            self._fetching.first(number)
        self._changed()

    def _durable(self, numbers: Iterable[int]) -> None:
        self._fetching.have(numbers)
        self._fetching.look()
        self._changed()

    # --- What others read -----------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Whether the bytes of every letter of the ledger are on this node's disk, or its log's."""
        return self._audit.is_done and not self._fetching.lacking

    @property
    def lacking(self) -> int:
        """How many letters are known to be lacking; more may be while `whole` is False."""
        return self._fetching.lacking

    @property
    def fetched_letters(self) -> int:
        """Letters had from peers since the start."""
        return self._fetching.fetched

    @property
    def pending_bytes(self) -> int:
        """Bytes that are not durable yet."""
        return self._store.pending_bytes

    @property
    def holds(self) -> bool:
        """Whether nothing more may be applied before the disk has what waits for it."""
        return self._store.holds

    @property
    def stuck(self) -> bool:
        """Whether it holds because the disk is full."""
        return self._store.holds and self._store.full
