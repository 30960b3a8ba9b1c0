"""The members: who belongs to the cluster, who of them votes, and where each is found.

Decides which changes of members have effect. Leaves who proposes one, and when it takes
effect in elections, to ``crowd/raft``: one change at a time, as in section 4.1 of the Raft
dissertation.

Invariant: a change has effect only if its proposer saw the one before it. So of two that
were proposed at once, one has effect, and who is a member is never more than one change
away from what the proposer knew.

Invariant: once born, a cluster has at least one voter, and at most `MEMBERS_MAX` members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd.command import MEMBERS_MAX, Demote, Enroll, Expel, Index, Promote
from crowd.ledger.head import expect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from crowd.command import Member
    from crowd.ledger.head import MembersPart


ROSTER_BYTES_MAX: Final = 6 << 10
"""All members, as each node keeps them beside its vote (crowd/raft/journal/memory.py)."""

MEMBER_BYTES: Final = 40
"""What a member takes besides its name and address: a journal's id, an index, CBOR's heads."""


def roster_bytes(addresses: Mapping[str, str]) -> int:
    """Return about how many bytes a node keeps of these members, names with addresses."""
    texts = (len(text.encode()) for pair in addresses.items() for text in pair)
    return sum(texts) + MEMBER_BYTES * len(addresses)


class MemberState(msgspec.Struct, frozen=True, gc=False):
    """A member as the ledger knows it. ``journal_id`` is empty for a learner, else 16 bytes.

    ``since`` is the index of the entry that it joined by: those that came later call those
    that were there before, as they alone surely know each other's address.
    """

    address: str
    journal_id: bytes
    since: Index

    @property
    def votes(self) -> bool:
        """Whether it is a voter; else it is a learner."""
        return bool(self.journal_id)


class Members:
    """All members by their names, and the ``index`` of the last change: Birth's at first."""

    def __init__(self) -> None:
        self.states: dict[str, MemberState] = {}
        self.index = Index(0)

    def be_born(self, members: Iterable[Member], index: Index) -> None:
        """Begin with these voters."""
        self.states = {
            member.name: MemberState(member.address, member.journal_id, index) for member in members
        }
        self.index = index

    def change(self, command: Enroll | Promote | Demote | Expel, index: Index) -> bool:
        """Apply the change that stands at `index`; return whether it had an effect."""
        if command.after != self.index:
            return False
        known = self.states.get(command.name)
        if isinstance(command, Expel):
            if known is None or self._is_last_voter(command.name):
                return False
            del self.states[command.name]
        else:
            changed = self._changed(command, known, index)
            if changed is None or changed == known:
                return False
            self.states[command.name] = changed
        self.index = index
        return True

    def _changed(
        self, command: Enroll | Promote | Demote, known: MemberState | None, index: Index
    ) -> MemberState | None:
        """Return what the member is after `command`, or None where that cannot be."""
        replace = msgspec.structs.replace
        if isinstance(command, Enroll) and not self._has_room_for(command):
            return None
        if known is None:
            return MemberState(command.address, b"", index) if isinstance(command, Enroll) else None
        if isinstance(command, Enroll):
            return replace(known, address=command.address)
        if isinstance(command, Promote):
            if known.votes:
                return None  # with another journal that would be two changes in one
            return replace(known, journal_id=command.journal_id)
        return None if self._is_last_voter(command.name) else replace(known, journal_id=b"")

    def _has_room_for(self, enroll: Enroll) -> bool:
        """Tell whether there may be one more, and a node can keep all names and addresses."""
        addresses = {name: state.address for name, state in self.states.items()}
        addresses[enroll.name] = enroll.address
        return len(addresses) <= MEMBERS_MAX and roster_bytes(addresses) <= ROSTER_BYTES_MAX

    def _is_last_voter(self, name: str) -> bool:
        return [n for n, state in self.states.items() if state.votes] == [name]

    def state(self) -> list[Any]:
        """Return the members as values that CBOR can say, the same on every node."""
        members = sorted(self.states.items())
        return [
            self.index,
            [[name, one.address, one.journal_id, one.since] for name, one in members],
        ]

    def restore(self, part: MembersPart, *, born: bool) -> None:
        """Become the members whose state `part` is.

        Raises MalformedError if they cannot be: this object is of no use then.
        """
        self.index = part.index
        self.states = {m.name: MemberState(m.address, m.journal_id, m.since) for m in part.members}
        voters = [state for state in self.states.values() if state.votes]
        expect(
            all(len(voter.journal_id) == 16 for voter in voters),
            all(0 < member.since <= part.index for member in self.states.values()),
            bool(voters) == bool(self.states) == (part.index > 0) == born,
            what="members",
        )
