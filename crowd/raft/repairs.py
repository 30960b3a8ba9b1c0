"""Damaged entries, mended from a peer's copy while the node goes on (I8).

Decides who is asked and when again. An entry that was found damaged, on a read or by the scrub,
is committed, so every member that still has it has the same one: its bytes are asked for, and
the journal writes them in their place and reads them back. Until then nobody is given it, it is
not applied, and the node does not stand for election.

In the reactor only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.logger import Logger

from crowd.errors import DamagedEntryError, PeerRejectedError
from crowd.raft.wire import Fetch, Fetched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crowd.clock import Clock
    from crowd.raft.wire import PeerMessage

ASK_AGAIN_S: Final = 0.5
"""How long a peer has to answer; then the next one is asked."""
ASKED_AT_ONCE: Final = 16
"""Entries asked for together, the lowest first: at most 16 MiB under way."""
HOLES_MAX: Final = 100_000
"""Damaged entries remembered. With more the disk is past mending: see ``crowd repair``."""


class MendableLog(Protocol):
    """What is asked of the journal."""

    first_index: int
    last_index: int

    def entry(self, index: int) -> tuple[bytes, int, int]:
        """Return an entry; raise DamagedEntryError."""

    def term_at(self, index: int) -> int:
        """Return an entry's term."""

    def repair(self, entry: tuple[bytes, int, int], done: Callable[[bool], object]) -> None:
        """Write an entry in its place, durably; `done` hears whether it is whole now."""


class Repairs:
    """The holes in this node's log."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        journal: MendableLog,
        send: Callable[[str, PeerMessage], bool],
        peers: Callable[[], Sequence[str]],
        mended: Callable[[], object],
    ) -> None:
        """`peers` returns who is connected; `mended` is called when the last hole is closed."""
        self._clock = clock
        self._journal = journal
        self._send = send
        self._peers = peers
        self._mended = mended
        self._asked_s: dict[int, float] = {}
        self._turn = 0
        self.mended_entries = 0

    @property
    def holes(self) -> int:
        """How many entries are known to be damaged."""
        return len(self._asked_s)

    @property
    def highest(self) -> int:
        """The last of them, 0 if there is none."""
        return max(self._asked_s, default=0)

    def damaged(self, error: DamagedEntryError) -> None:
        """Note a damaged entry, and ask for it."""
        if error.index in self._asked_s or len(self._asked_s) >= HOLES_MAX:
            return
        self._log.error("damaged: {error}; asks its peers for entry {index}",
                        error=error, index=error.index)  # fmt: skip
        self._asked_s[error.index] = float("-inf")
        self.look()

    def look(self) -> None:
        """Ask, or ask another one."""
        now_s = self._clock.seconds()
        peers = self._peers()
        for index in sorted(self._asked_s)[:ASKED_AT_ONCE]:
            if not self._journal.first_index <= index <= self._journal.last_index:
                self._close(index)  # compacted away or cut off meanwhile
            elif peers and now_s - self._asked_s[index] >= ASK_AGAIN_S:
                self._turn += 1
                if self._send(peers[self._turn % len(peers)], Fetch(index=index)):
                    self._asked_s[index] = now_s

    def asked(self, name: str, index: int, commit_index: int) -> None:
        """Answer a peer's `Fetch`, if this log has the entry and knows that it is committed.

        The peer may know of more that is committed, and asks again.
        """
        if not self._journal.first_index <= index <= min(commit_index, self._journal.last_index):
            return
        try:
            command, _, term = self._journal.entry(index)
        except DamagedEntryError as error:
            self.damaged(error)
            return
        self._send(name, Fetched(command=command, index=index, term=term))

    def fetched(self, message: Fetched) -> None:
        """Take a peer's copy of an entry that was asked for; a surprise is ignored."""
        index, journal = message.index, self._journal
        if index not in self._asked_s or not journal.first_index <= index <= journal.last_index:
            return
        if journal.term_at(index) != message.term:
            raise PeerRejectedError(
                f"its entry {index} has term {message.term}, the committed one here has "
                f"{journal.term_at(index)}"
            )
        journal.repair(
            (message.command, index, message.term), lambda whole: self._tried(index, whole)
        )

    def _tried(self, index: int, whole: Any) -> None:
        if whole and index in self._asked_s:
            self.mended_entries += 1
            self._log.info("mended entry {index}", index=index)
            self._close(index)

    def _close(self, index: int) -> None:
        del self._asked_s[index]
        if not self._asked_s:
            self._mended()
