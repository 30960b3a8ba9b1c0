"""Who counts: a cluster's birth, its roster, and a node's memory of itself.

Decides, from the roster and journal ids, which members vote and count, who founds a cluster,
and which change of members the leader should propose next. Pure: the engine carries out and
makes durable what is decided here. Mends D8 and D14 (docs/explanation/engine-defects.md); the
rules for changes are docs/decisions/0009-changing-members.md.

A journal's id is drawn when its directory is made. The roster maps each member's name to its
address and, if it votes, to the id of the journal that counts. A member that comes back with
another journal (its directory was deleted or replaced) remembers no vote and no
acknowledgement of its own, so it is a learner: replicated to, not counted, not asked, until
committed entries have demoted the old journal and promoted the new one.

Founding: only the member whose name sorts first founds, and only while every other member is
connected and says that it holds nothing. It makes the roster durable first; the others take
it from its hello. Two rosters can therefore not come about at the same time.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd.codec import pack, unpack
from crowd.command import Demote, Index, Promote
from crowd.errors import DamagedError, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crowd.raft.wire import Hello

_FORMAT: Final = 1


class Standing(enum.Enum):
    """What this node is in its cluster."""

    UNBORN = "unborn"
    VOTER = "voter"
    LEARNER = "learner"
    OUTSIDER = "outsider"
    """No member yet, or none any more."""


class Seat(msgspec.Struct, frozen=True, array_like=True):
    """One member of the roster. ``journal_id`` is empty for a learner.

    ``since`` is the index of the change that it joined by, 0 for a founder until the birth.
    """

    name: str
    address: str
    journal_id: bytes
    since: int


class Roster(msgspec.Struct, frozen=True):
    """The members as of the change at ``index``; 0 for those that founded the cluster.

    ``term`` is the term of the entry there, or 0 where it is not known: the two together say
    which entry it is, and that it is committed.
    """

    index: int
    term: int
    seats: tuple[Seat, ...]

    @property
    def names(self) -> frozenset[str]:
        """All members."""
        return frozenset(seat.name for seat in self.seats)

    @property
    def voters(self) -> frozenset[str]:
        """The members that vote."""
        return frozenset(seat.name for seat in self.seats if seat.journal_id)


def encode_roster(cluster: str, roster: Roster) -> bytes:
    """Return the roster's durable form, as it also stands in the hello."""
    seats = map(msgspec.structs.astuple, roster.seats)
    return pack([_FORMAT, cluster, roster.index, roster.term, *seats])


def decode_roster(cluster: str, memory: bytes) -> Roster:
    """Return the roster that `memory` holds; raise MalformedError if it is none of `cluster`'s."""
    value: Any = unpack(memory)
    match value:
        case (int(version), str(found), int(index), int(term), *seats) if (
            version == _FORMAT and index >= 0 and term >= 0
        ):
            if found != cluster:
                raise MalformedError(f"a roster of cluster {found!r}, expected {cluster!r}")
        case _:
            raise MalformedError("a roster is [format, cluster, index, term, member, …]")
    taken = []
    for seat in seats:
        match seat:
            case (str(name), str(address), bytes(journal_id), int(since)):
                taken.append(Seat(name, address, journal_id, since))
            case _:
                raise MalformedError("a roster's member is [name, address, journal id, since]")
    return Roster(index, term, tuple(sorted(taken, key=lambda seat: seat.name)))


class Membership:
    """One node's view of who counts. `configured` are the members of its file, with addresses."""

    def __init__(
        self,
        cluster: str,
        name: str,
        journal_id: bytes,
        configured: Mapping[str, str],
        memory: bytes,
    ) -> None:
        """Take what the node remembers; `memory` is empty in an unborn one.

        Raises DamagedError if `memory` holds something else than this cluster's roster.
        """
        self._cluster = cluster
        self._name = name
        self._journal_id = journal_id
        self._configured = dict(configured)
        self._present: dict[str, bytes] = {}
        self._empty: set[str] = set()
        self._newest = Roster(0, 0, ())
        if memory:
            try:
                self._newest = decode_roster(cluster, memory)
            except MalformedError as error:
                raise DamagedError(str(error), place="the journal's record of members") from error
        self.remembered()

    def remembered(self) -> None:
        """Count by the newest roster: `memory` is durable now."""
        self.roster = roster = self._newest
        """The roster that is on disk, and in force."""
        self.voters = roster.voters
        self.followers = roster.names - {self._name}
        self._journals = {seat.name: seat.journal_id for seat in roster.seats}
        if not roster.seats:
            self.standing = Standing.UNBORN
        elif self._name not in self._journals:
            self.standing = Standing.OUTSIDER
        elif self._journals[self._name] == self._journal_id:
            self.standing = Standing.VOTER
        else:
            self.standing = Standing.LEARNER

    @property
    def memory(self) -> bytes:
        """What to make durable; empty while unborn."""
        return encode_roster(self._cluster, self._newest) if self._newest.seats else b""

    @property
    def names(self) -> tuple[str, ...]:
        """The members by the roster, or by this node's file before birth, sorted; itself too."""
        known = self.roster.names or self._configured.keys()
        return tuple(sorted({*known, self._name}))

    @property
    def addresses(self) -> dict[str, str]:
        """Where the other members are to be found: a node's own file comes before the roster."""
        if not self.roster.seats:
            found = dict(self._configured)
        else:
            found = {s.name: self._configured.get(s.name) or s.address for s in self.roster.seats}
            if self._name not in found:  # it waits to be enrolled, and asks those of its file
                found = {**self._configured, **found}
        found.pop(self._name, None)
        return {name: address for name, address in sorted(found.items()) if address}

    @property
    def dialled(self) -> frozenset[str]:
        """Whom this node calls: members that joined before it, and of one change the names above.

        One that joined later surely knows those that were there before. They need not know it
        yet: a member that was cut off meanwhile could not be brought to know it otherwise. A
        learner is called by all the same, as it does not know that it was enrolled.
        """
        seats = {seat.name: seat for seat in self.roster.seats}
        mine = seats.get(self._name)
        if mine is None:  # it has nothing, or is no member: whoever is there may know better
            return frozenset(self.addresses)
        return frozenset(
            seat.name
            for seat in seats.values()
            if seat.name in self.addresses
            and (
                seat.since < mine.since
                or (seat.since == mine.since and seat.name > mine.name)
                or not seat.journal_id
            )
        )

    def arrived(self, name: str, hello: Hello) -> bool:
        """Note a peer's hello. Return True if its roster was taken: make `memory` durable.

        Raises MalformedError if its roster is not one of this cluster.
        """
        theirs = decode_roster(self._cluster, hello.founding) if hello.founding else None
        self._present[name] = hello.journal_id
        if hello.empty and theirs is None:
            self._empty.add(name)
        else:
            self._empty.discard(name)
        if self._newest.seats or theirs is None:
            return False
        self._newest = theirs
        return True

    def left(self, name: str) -> None:
        """Note that the link to a peer is gone."""
        self._present.pop(name, None)
        self._empty.discard(name)

    def found(self) -> bool:
        """Found the cluster if this node may. Return True if it did: make `memory` durable."""
        others = self._configured.keys() - {self._name}
        if self._newest.seats or self._empty != others or self._name > min({*others, self._name}):
            return False
        journals = {**self._present, self._name: self._journal_id}
        seats = [Seat(n, self._configured.get(n, ""), journals[n], 0) for n in sorted(journals)]
        self._newest = Roster(0, 0, tuple(seats))
        return True

    def follow(self, roster: Roster) -> bool:
        """Follow what the log says, if it is news. Return True then: make `memory` durable."""
        if roster.index <= self._newest.index:
            return False
        self._newest = roster
        return True

    def is_voter(self, name: str) -> bool:
        """Tell whether a member votes and counts: it is there with the journal of the roster."""
        if name == self._name:
            return self.standing is Standing.VOTER
        journal_id = self._present.get(name)
        return journal_id is not None and journal_id == self._journals.get(name)

    def is_present(self, name: str) -> bool:
        """Tell whether a member is connected; this node itself always is."""
        return name == self._name or name in self._present

    def next_change(self, has_everything: Callable[[str], bool]) -> Promote | Demote | None:
        """Return the change that a leader whose roster is settled should propose, if any.

        A voter that came back with another journal is demoted, and a learner that has
        everything is promoted: one at a time, so that any two majorities meet. Both wait
        until the new journal has everything: until then there is nobody to take the place. A
        change names the one before it, so there is none before the birth.
        """
        if not self.roster.index:
            return None
        for seat in self.roster.seats:
            present = self._present.get(seat.name, seat.journal_id)
            if present == seat.journal_id or not has_everything(seat.name):
                continue
            after = Index(self.roster.index)
            if seat.journal_id:
                return Demote(name=seat.name, after=after)
            return Promote(name=seat.name, journal_id=present, after=after)
        return None
