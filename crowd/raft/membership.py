"""Who counts: a cluster's birth, and a node's memory of itself.

Decides, from journal ids, which members vote and count, who founds a cluster, and who must
be readmitted. Pure: the engine carries out and makes durable what is decided here. Mends
D8 and part of D14 (docs/explanation/engine-defects.md).

A journal's id is drawn when its directory is made. The roster maps each member's name to the
id of the journal that counts; a member that comes back with another one (its directory was
deleted or replaced) remembers no vote and no acknowledgement of its own, so it is a learner:
replicated to, not counted, not asked, until a committed entry puts its new id into the roster.

Founding: only the member whose name sorts first founds, and only while every other member is
connected and says that it holds nothing. It makes the roster durable first; the others take
it from its hello. Two rosters can therefore not come about at the same time.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from crowd.codec import pack, unpack
from crowd.errors import DamagedError, MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FORMAT: Final = 1


class Standing(enum.Enum):
    """What this node is in its cluster."""

    UNBORN = "unborn"
    VOTER = "voter"
    LEARNER = "learner"


def encode_roster(cluster: str, roster: Mapping[str, bytes]) -> bytes:
    """Return the roster's durable form, as it also stands in the hello."""
    return pack([_FORMAT, cluster, *sorted(roster.items())])


def decode_roster(cluster: str, memory: bytes) -> dict[str, bytes]:
    """Return the roster that `memory` holds; raise MalformedError if it is none of `cluster`'s."""
    value = unpack(memory)
    if not isinstance(value, tuple) or len(value) < 3 or value[0] != _FORMAT:
        raise MalformedError("a roster is [format, cluster, member, …]")
    if value[1] != cluster:
        raise MalformedError(f"a roster of cluster {value[1]!r}, expected {cluster!r}")
    roster: dict[str, bytes] = {}
    for member in value[2:]:
        match member:
            case (str(name), bytes(journal_id)):
                roster[name] = journal_id
            case _:
                raise MalformedError("a roster's member is [name, journal id]")
    return roster


class Membership:
    """One node's view of who counts."""

    def __init__(
        self, cluster: str, name: str, journal_id: bytes, others: Iterable[str], memory: bytes
    ) -> None:
        """Take what the node remembers; `memory` is empty in an unborn one.

        Raises DamagedError if `memory` holds something else than this cluster's roster.
        """
        self._cluster = cluster
        self._name = name
        self._journal_id = journal_id
        self._others = frozenset(others)
        self._present: dict[str, bytes] = {}
        self._empty: set[str] = set()
        self.roster: dict[str, bytes] = {}
        if memory:
            try:
                self.roster = decode_roster(cluster, memory)
            except MalformedError as error:
                raise DamagedError(str(error), place="the journal's record of members") from error

    @property
    def standing(self) -> Standing:
        """This node's own standing."""
        if not self.roster:
            return Standing.UNBORN
        mine = self.roster.get(self._name) == self._journal_id
        return Standing.VOTER if mine else Standing.LEARNER

    @property
    def memory(self) -> bytes:
        """What to make durable, and to say in the hello; empty while unborn."""
        return encode_roster(self._cluster, self.roster) if self.roster else b""

    def arrived(self, name: str, journal_id: bytes, founding: bytes, *, empty: bool) -> bool:
        """Note a peer's hello. Return True if its roster was taken: make `memory` durable.

        Raises MalformedError if its roster is not one of this cluster.
        """
        roster = decode_roster(self._cluster, founding) if founding else {}
        self._present[name] = journal_id
        if empty and not founding:
            self._empty.add(name)
        else:
            self._empty.discard(name)
        if self.roster or not roster:
            return False
        self.roster = roster
        return True

    def left(self, name: str) -> None:
        """Note that the link to a peer is gone."""
        self._present.pop(name, None)
        self._empty.discard(name)

    def found(self) -> bool:
        """Found the cluster if this node may. Return True if it did: make `memory` durable."""
        if (
            self.roster
            or self._empty != self._others
            or self._name > min({*self._others, self._name})
        ):
            return False
        self.roster = {**self._present, self._name: self._journal_id}
        return True

    def readmitted(self, name: str, journal_id: bytes) -> None:
        """Follow a committed readmission: make `memory` durable."""
        self.roster[name] = journal_id

    def is_voter(self, name: str) -> bool:
        """Tell whether a member votes and counts: it is there with the journal of the roster."""
        if name == self._name:
            return self.standing is Standing.VOTER
        return self._present.get(name, b"") == self.roster.get(name)

    def is_present(self, name: str) -> bool:
        """Tell whether a member is connected; this node itself always is."""
        return name == self._name or name in self._present

    def learners(self) -> list[tuple[str, bytes]]:
        """Return the connected members (name, journal id) that wait to be readmitted."""
        return [
            (name, journal_id)
            for name, journal_id in sorted(self._present.items())
            if self.roster and self.roster.get(name) != journal_id
        ]
