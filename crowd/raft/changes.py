"""Changes of members, carried out: what ``membership`` decides becomes durable, and then holds.

Decides the order: a roster is on this node's disk before Raft counts by it and before the links
follow it. Leaves who counts to ``membership``, and what the log says of members to the ledger.

In the reactor only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from crowd.command import FORMAT, Birth, Enroll, Expel, Member
from crowd.raft.membership import Roster, Seat

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.ledger import Ledger
    from crowd.raft.journal import Journal
    from crowd.raft.membership import Membership


class Changes:
    """Makes rosters durable, one after the other. `in_force` is called when one is."""

    _log = Logger()

    def __init__(
        self,
        membership: Membership,
        journal: Journal,
        ledger: Ledger,
        in_force: Callable[[], object],
        want: Callable[[str, Callable[[Ledger], bool], Callable[[], Any]], None],
    ) -> None:
        self._membership = membership
        self._journal = journal
        self._ledger = ledger
        self._in_force = in_force
        self._want = want
        self._remembering = False
        self._after: list[Callable[[], None]] = []

    def remember(self, then: Callable[[], None] | None = None) -> None:
        """Make the newest roster durable and use it; call `then` after that."""
        if then is not None:
            self._after.append(then)
        if not self._remembering:
            self._remembering = True
            self._journal.remember(self._membership.memory, self._remembered)

    def _remembered(self) -> None:
        self._remembering = False
        if self._journal.founding != self._membership.memory:
            self.remember()  # it changed again meanwhile
            return
        self._membership.remembered()
        self._in_force()
        after, self._after = self._after, []
        for then in after:
            then()

    def follow_ledger(self) -> None:
        """Take over who the members are from the ledger, if it has news."""
        ledger, members = self._ledger, self._ledger.members
        index = ledger.members_index
        # Asked when the change was just applied; behind a snapshot its term is not known.
        term = ledger.applied_term if ledger.applied_index == index else 0
        seats = (Seat(n, m.address, m.journal_id, m.since) for n, m in sorted(members.items()))
        if self._membership.follow(Roster(index, term, tuple(seats))):
            self._log.info("members are {members}", members=", ".join(sorted(members)))
            self.remember()

    def birth(self, cluster: str, tag: str) -> Birth:
        """Return the first command of the cluster's log."""
        seats = self._membership.roster.seats
        members = tuple(Member(seat.name, seat.address, seat.journal_id) for seat in seats)
        return Birth(cluster=cluster, tag=tag, members=members, format=FORMAT)

    def enroll(self, name: str, address: str) -> None:
        """Have a new member join, as a learner until it has everything; or move to an address."""

        def done(ledger: Ledger) -> bool:
            return name in ledger.members and ledger.members[name].address == address

        def make() -> Enroll:
            return Enroll(name=name, address=address, after=self._ledger.members_index)

        self._want(f"member {name}", done, make)

    def expel(self, name: str) -> None:
        """Have a member leave for good."""
        self._want(
            f"member {name}",
            lambda ledger: name not in ledger.members,
            lambda: Expel(name=name, after=self._ledger.members_index),
        )
