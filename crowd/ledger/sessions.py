"""Proposal sessions: how a batch is accepted once, however often it is proposed (I2).

Decides which proposals are admitted. A node that does not learn a proposal's fate proposes
it again under its number; so the ledger keeps the exact set of numbers it accepted above a
low mark that the proposer sends along. (The highest number alone would call a late one a
repeat, and lose it.) Leaves the proposing to ``crowd/raft/proposer``.

Invariant: a node has at most one open session, and its previous one is still known. So a
node that was overtaken can still learn which of its numbers were accepted.

Invariant: every number known is at or above ``low`` and below ``low + PROPOSALS_MAX``, as a
command's number is that close to its own low mark, and the session's is no lower.

What was left out of a batch, as its key was known, is kept beside its number: twelve bytes for
each such key, for as long. A proposer has a few batches under way, so that is little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from crowd.command import MESSAGES_MAX, PROPOSALS_MAX
from crowd.idempotency import is_left_out
from crowd.ledger.head import expect
from crowd.message import Position

if TYPE_CHECKING:
    from crowd.command import SessionId
    from crowd.ledger.head import Head, SessionPart

NONCES_MAX: Final = 8
"""A node's newest nonces, kept so that a late copy of an older opening opens nothing. A copy
outlives its proposer by seconds; a node is not started eight times in that."""


class Session:
    """One node's proposals. ``accepted`` maps a number to its batch's first position.

    ``left_out`` has, by number, what of a batch took no position, as `crowd.idempotency` packs it;
    nothing for a batch that was stored whole. Where all of it was left out, its first position
    is that of whatever was accepted next.
    """

    __slots__ = ("accepted", "id", "is_open", "left_out", "low", "node", "nonce")

    def __init__(self, session: SessionId, node: str, nonce: bytes) -> None:
        self.id = session
        self.node = node
        self.nonce = nonce
        self.is_open = True
        self.low = 1
        self.accepted: dict[int, Position] = {}
        self.left_out: dict[int, bytes] = {}

    def admits(self, number: int) -> bool:
        """Return whether the proposal of this number is to be accepted, if it came now."""
        return self.is_open and number >= self.low and number not in self.accepted

    def raise_low(self, low: int) -> None:
        """Forget the numbers below `low`: their proposer asks no more. It never falls."""
        if low > self.low:
            self.low = low
            self.accepted = {n: first for n, first in self.accepted.items() if n >= low}
            if self.left_out:
                self.left_out = {n: packed for n, packed in self.left_out.items() if n >= low}

    def state(self) -> list[Any]:
        """Return the session as values that CBOR can say, the same on every node."""
        numbers = [part for pair in sorted(self.accepted.items()) for part in pair]
        left_out = sorted(self.left_out.items())
        return [self.id, self.node, self.nonce, self.is_open, self.low, numbers, left_out]

    def restore(self, part: SessionPart, tip: int) -> None:
        """Become, from new, the session whose state `part` is, in a ledger up to `tip`."""
        self.is_open, self.low = part.is_open, part.low
        expect(len(part.numbers) % 2 == 0, what="accepted numbers")
        numbers = part.numbers[::2]
        firsts = map(Position, part.numbers[1::2])
        expect(all(part.low <= n < part.low + PROPOSALS_MAX for n in numbers), what="numbers")
        self.accepted = dict(zip(numbers, firsts, strict=True))
        self.left_out = dict(part.left_out)
        expect(
            self.left_out.keys() <= self.accepted.keys(),
            all(is_left_out(packed, MESSAGES_MAX, tip) for packed in self.left_out.values()),
            all(first <= tip + (n in self.left_out) for n, first in self.accepted.items()),
            what="accepted numbers",
        )


class Sessions:
    """All sessions that are known: at most two for each node that ever opened one."""

    def __init__(self) -> None:
        self._by_id: dict[SessionId, Session] = {}
        self._by_node: dict[str, list[Session]] = {}  # the previous one, if any, and the newest
        self._nonces: dict[str, list[bytes]] = {}

    def open(self, session: SessionId, node: str, nonce: bytes) -> None:
        """Open a session for `node` and close its older one; a known nonce changes nothing."""
        nonces = self._nonces.setdefault(node, [])
        if nonce in nonces:
            return
        nonces.append(nonce)
        del nonces[:-NONCES_MAX]
        sessions = self._by_node.setdefault(node, [])
        if sessions:
            sessions[-1].is_open = False
        opened = self._by_id[session] = Session(session, node, nonce)
        sessions.append(opened)
        for old in sessions[:-2]:
            del self._by_id[old.id]
        del sessions[:-2]

    def close_all(self, node: str) -> None:
        """Forget everything of `node`, which is no member any more."""
        for session in self._by_node.pop(node, ()):
            del self._by_id[session.id]
        self._nonces.pop(node, None)

    def get(self, session: SessionId) -> Session | None:
        """Return a session that is still known, open or closed."""
        return self._by_id.get(session)

    def of(self, node: str, nonce: bytes) -> Session | None:
        """Return the open session that `node` opened with `nonce`, or None if there is none."""
        sessions = self._by_node.get(node)
        if sessions and sessions[-1].nonce == nonce:
            return sessions[-1]
        return None

    def state(self) -> list[Any]:
        """Return all sessions as values that CBOR can say, the same on every node."""
        return [
            [self._by_id[session].state() for session in sorted(self._by_id)],
            [[node, self._nonces[node]] for node in sorted(self._nonces)],
        ]

    def restore(self, head: Head) -> None:
        """Become, from empty, the sessions whose state `head` holds.

        Raises MalformedError if they cannot be: this object is of no use then.
        """
        members = {member.name for member in head.members.members}
        for node, nonces in head.sessions.nonces:
            expect(0 < len(nonces) <= NONCES_MAX, node in members, what="nonces")
            self._nonces[node] = list(nonces)
        for part in head.sessions.sessions:
            session = Session(part.id, part.node, part.nonce)
            session.restore(part, head.accepted.tip)
            self._by_id[part.id] = session
            self._by_node.setdefault(part.node, []).append(session)
            expect(part.id <= head.applied.index, what="session")
        expect(self._by_node.keys() == self._nonces.keys(), what="sessions")
        for node, sessions in self._by_node.items():
            *closed, newest = sessions
            expect(
                len(closed) <= 1,
                newest.is_open,
                newest.nonce == self._nonces[node][-1],
                not any(session.is_open for session in closed),
                what="sessions",
            )
