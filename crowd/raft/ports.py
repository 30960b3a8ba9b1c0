"""What Raft's rules ask of the world: a log, the links to the peers, and the engine.

Decides nothing; each protocol's docstrings are the contract. Everything here is called in the
reactor's thread.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from crowd.errors import DamagedEntryError
    from crowd.raft.wire import PeerMessage

REGULAR: Final = b"\x00"
"""The first byte of an entry that holds a command; any other kind is Raft's own."""

HEARTBEAT_S: Final = 0.1


class Role(enum.Enum):
    """Raft's three roles."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2


class Log(Protocol):
    """What the guard asks of the journal. Indices are absolute."""

    first_index: int
    last_index: int
    last_term: int
    durable_index: int
    vote_pending: bool

    def entry(self, index: int) -> tuple[bytes, int, int]:
        """Return (command, index, term); raise DamagedEntryError if its bytes are bad."""

    def entries(self, from_index: int, bytes_max: int) -> Sequence[tuple[bytes, int, int]]:
        """Return consecutive entries: at least one, and no more than `bytes_max` beyond it."""

    def term_at(self, index: int) -> int:
        """Return the term of the entry at `index`, which must be in the log."""

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append; not durable at return."""

    def clear(self) -> None:
        """Empty the log: the entry that is added next begins it, in one durable step."""

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Truncate from this place, counted from the first entry."""

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Start writing term and vote; `vote_pending` until they are durable."""

    def getCurrentTerm(self) -> int:
        """Return the stored term."""

    def getVotedForNodeId(self) -> str | None:
        """Return the stored vote."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Remember the commit index; written with the next other write."""

    def getRaftCommitIndex(self) -> int:
        """Return the stored commit index, never above the last durable entry."""


class Outbox(Protocol):
    """What the guard asks of the links to the peers. Nothing is delivered within `send`."""

    def send(self, name: str, message: PeerMessage) -> bool:
        """Queue a message; False if the peer is not connected or its buffer is full."""

    def writable(self, name: str) -> bool:
        """Tell whether there is room for entries; if not, the peer lags (back-pressure)."""


class Host(Protocol):
    """What the guard asks of the engine."""

    def apply(self, index: int, term: int, command: bytes) -> None:
        """Apply a committed entry. Any exception ends the node (D13)."""

    def voters(self) -> AbstractSet[str]:
        """Return the names of the members that vote, by the durable roster."""

    def followers(self) -> AbstractSet[str]:
        """Return the names of all other members, learners among them: who is replicated to."""

    def is_voter(self, name: str) -> bool:
        """Tell whether this member's copy counts: a voter, with the journal of the roster (D8)."""

    def roster_index(self) -> int:
        """Return the index of the last change of members that is durable here (D14)."""

    def roster_term(self) -> int:
        """Return the term of the entry at `roster_index`, 0 if it is not known."""

    def may_apply(self) -> bool:
        """Tell whether more may be applied now: not while too much of it waits for the disk."""

    def has_letters(self) -> bool:
        """Tell whether this node has the bytes of every letter of its ledger."""

    def may_stand(self) -> bool:
        """Tell whether this node could lead: it could not with a hole in its log."""

    def waits(self, name: str, after: int) -> bool:
        """Tell whether producers of that member wait for an entry behind index `after`.

        If none do, the next entries or heartbeat bring it early enough.
        """

    def wants_snapshot(self, name: str) -> None:
        """Note that a follower needs entries that this log no longer has. Called repeatedly."""

    def damaged(self, error: DamagedEntryError) -> None:
        """Note that an entry could not be read; have it mended."""

    def role_changed(self) -> None:
        """Term, role or leader changed."""
