"""`crowd repair`: a stopped node's damaged data, set aside so that the node can come back.

Decides whether a node would start (it reads what a start reads, and changes nothing), whether
others have what this node had, and in what order files are moved. The node then begins empty,
as a learner with a journal of a new id: what the old one promised, a vote or an acknowledgement,
counts no more (docs/decisions/0009-changing-members.md), and committed entries come from the others.

Nothing is deleted. ``memory`` is moved first: without it a start refuses what is left of the log,
so a repair that was cut short is noticed, and is finished by the next one.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from crowd.config import load_file
from crowd.errors import CrowdError, DamagedError, DirectoryError, MalformedError
from crowd.raft.checkpoints.files import NAME, RECEIVED
from crowd.raft.checkpoints.shape import Checkpoint, Verifier
from crowd.raft.journal import DiskFileSystem
from crowd.raft.journal.memory import FILE_NAME as MEMORY
from crowd.raft.journal.memory import Memory, read_slots
from crowd.raft.journal.opening import LOCK_NAME
from crowd.raft.journal.recovery import recover
from crowd.raft.letters.sqlite import FILE_NAME as LETTERS
from crowd.raft.letters.sqlite import flaws
from crowd.raft.membership import decode_roster
from crowd.web.token import FILE_NAME as TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crowd.raft.journal.recovery import Found

FOLDER: Final = re.compile(r"damaged-\d{8}T\d{6}Z")
PIECE_BYTES: Final = 1 << 20

_KEPT: Final = frozenset({TOKEN, LOCK_NAME})
_OF_A_NODE: Final = re.compile(
    rf"memory|{re.escape(LETTERS)}|[0-9]+\.(segment|index|checkpoint|floor|install)"
)


class Place(msgspec.Struct, frozen=True):
    """A node's directory. ``voters`` are its file's members; None if no file was named."""

    directory: str
    voters: frozenset[str] | None = None
    node: str = ""


class Damage(msgspec.Struct):
    """What is wrong: ``refused`` keeps a node from starting, ``mendable`` does not."""

    refused: list[str]
    mendable: list[str]


def place_of(config: str) -> Place:
    """Return the place that a node's configuration names. Raises ConfigurationError."""
    configuration = load_file(config)
    cluster, node = configuration.cluster, configuration.node
    voters = frozenset(cluster.peers) if cluster is not None else frozenset({node.name})
    return Place(node.directory, voters, node.name)


class Repair:
    """One repair. A context in which this process has the directory's lock.

    Entering it raises DirectoryError if there is no node's data, or a process uses it.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._directory = place.directory
        self._filesystem = DiskFileSystem()
        self._damage = Damage([], [])
        self._memory: Memory | None = None

    def __enter__(self) -> Self:
        """Take the lock."""
        if not any(map(_OF_A_NODE.fullmatch, self._names())):
            raise DirectoryError(
                f"{self._directory}: found no journal; expected a node's directory"
            )
        self._lock = self._filesystem.lock(f"{self._directory}/{LOCK_NAME}")
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the lock."""
        self._lock.close()

    def found(self) -> Iterator[str]:
        """Look at everything, and yield a line for whatever is damaged. Blocks."""
        try:
            self._memory = self._read_memory(self._directory)
        except DamagedError as error:
            self._damage.refused.append(str(error))
        else:
            self._verify(self._memory)
        self._damage.mendable.extend(flaws(self._directory))
        for problem in self._damage.refused:
            yield f"damaged, and the node does not start: {problem}"
        for problem in self._damage.mendable:
            yield f"damaged, and mended by the node while it runs: {problem}"
        if not self._damage.refused and not self._damage.mendable:
            yield "nothing is damaged"

    def check(self, *, force: bool) -> None:
        """Raise CrowdError if the data should, or must, stay where it is."""
        node, voters = self._roster()
        if not voters - {node}:
            raise CrowdError(
                f"{self._directory}: node {node or 'single'} is the only one that votes, so nobody "
                "else has its messages; nothing is set aside, also not with --force"
            )
        if not self._damage.refused and not force:
            raise CrowdError(
                f"{self._directory}: the node starts as it is; nothing is set aside without --force"
            )

    def warning(self) -> Iterator[str]:
        """Yield what a person should know first. After `check`."""
        node, voters = self._roster()
        others = sorted(voters - {node})
        may_lack = (len(voters) - 1) // 2
        yield f"The other voters are {', '.join(others)}. The node will start empty, as a learner,"
        yield "and get everything that was accepted from them."
        if node in voters:
            yield f"Until it votes again, it counts as missing: of {len(voters)} voters no more than"
            yield f"{may_lack} may be missing at once. Never do this on more nodes than that, and on"
            yield "one at a time, while the others are up and have everything."

    def set_aside(self) -> Iterator[str]:
        """Move everything but token and lock into a folder, durably; yield what happens next."""
        folder = time.strftime("damaged-%Y%m%dT%H%M%SZ", time.gmtime())
        names = [n for n in self._names() if n not in _KEPT and not FOLDER.fullmatch(n)]
        # False before true: `memory` goes first.
        names.sort(key=lambda name: (name != MEMORY, name))
        path = f"{self._directory}/{folder}"
        if Path(path).exists():
            raise DirectoryError(f"{path}: found it there; expected no such folder yet")
        self._filesystem.make_directory(path)
        for name in names:
            self._filesystem.rename(f"{self._directory}/{name}", f"{path}/{name}")
            if name == MEMORY:
                self._sync(path)  # before anything else moves: see the module's docstring
        self._sync(path)
        yield f"set aside: {len(names)} files, in {path}"
        yield "Start the node: it is a learner, gets everything from the others, and votes then."
        yield "What only this node had is in that folder; remove it when nobody needs it any more."

    # --- Within -------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        try:
            return self._filesystem.names(self._directory)
        except OSError as error:
            raise DirectoryError(
                f"{self._directory}: found {error.strerror}; expected a node's directory"
            ) from error

    def _sync(self, path: str) -> None:
        """Make the moves durable: a name that is in both directories is better than in none."""
        self._filesystem.sync_directory(path)
        self._filesystem.sync_directory(self._directory)

    def _read_memory(self, directory: str) -> Memory:
        path = f"{directory}/{MEMORY}"
        try:
            file = self._filesystem.open(path)
        except FileNotFoundError:
            raise DamagedError("a log without its term and vote", place=path) from None
        try:
            good = [slot for slot in read_slots(file) if slot is not None]
        finally:
            file.close()
        if not good:
            raise DamagedError("neither copy of term and vote is whole", place=f"{path}, offset 0")
        return max(good, key=lambda slot: slot[0])[1]

    def _verify(self, memory: Memory) -> None:
        """Read what a start reads, and then the rest."""
        newest = self._newest_checkpoint(memory.cluster)
        covered = newest.index if newest is not None else 0
        try:
            found = recover(self._filesystem, self._directory, memory, covered)
            self._fit(found, newest)
        except DamagedError as error:
            self._damage.refused.append(str(error))
            return
        try:
            recover(self._filesystem, self._directory, memory)
        except DamagedError as error:
            self._damage.mendable.append(str(error))

    def _fit(self, found: Found, newest: Checkpoint | None) -> None:
        """Raise DamagedError where log and checkpoint do not fit, as ``raft/storage`` does."""
        first = found.places.first_index if found.places.segments else 1
        last = found.places.last_index if found.places.segments else 0
        if newest is None:
            if first > 1:
                raise DamagedError(
                    f"a log that begins at index {first}, and no whole checkpoint",
                    place=self._directory,
                )
        elif newest.installed and not (
            first <= newest.index <= last and found.terms.at(newest.index) == newest.term
        ):
            raise DamagedError(
                f"a checkpoint at index {newest.index} of term {newest.term}, and a log from "
                f"{first} to {last} without that entry",
                place=self._directory,
            )

    def _newest_checkpoint(self, cluster: str) -> Checkpoint | None:
        """Return the newest checkpoint whose every byte is good; note those that are not."""
        whole = []
        for name in self._names():
            match = NAME.fullmatch(name)
            if match is None:
                continue
            try:
                checkpoint = self._verified(f"{self._directory}/{name}", cluster)
            except DamagedError as error:
                self._damage.mendable.append(str(error))
                continue
            received = match[2] == RECEIVED
            whole.append(msgspec.structs.replace(checkpoint, installed=not received))
        return max(whole, key=lambda checkpoint: checkpoint.index, default=None)

    def _verified(self, path: str, cluster: str) -> Checkpoint:
        verifier = Verifier(path, cluster)
        file = self._filesystem.open(path)
        try:
            offset = 0
            while data := file.read(PIECE_BYTES, offset):
                verifier.feed(data)
                offset += len(data)
        finally:
            file.close()
        return verifier.end()

    def _roster(self) -> tuple[str, frozenset[str]]:
        """Return this node's name and who votes: by its memory, or else by its file.

        A repair that was cut short has moved the memory: without a file that of the newest
        folder says it. Raises CrowdError if nothing says it.
        """
        roster = self._roster_in(self._directory)
        if roster is None and self._place.voters is not None:
            roster = self._place.node, self._place.voters
        if roster is None:
            folders = [name for name in self._names() if FOLDER.fullmatch(name)]
            roster = self._roster_in(f"{self._directory}/{folders[-1]}") if folders else None
        if roster is None:
            raise CrowdError(
                f"{self._directory}: nothing in it says who else is a member; expected --config "
                "FILE, the node's configuration"
            )
        return roster

    def _roster_in(self, directory: str) -> tuple[str, frozenset[str]] | None:
        try:
            memory = self._read_memory(directory)
            return memory.node, decode_roster(memory.cluster, memory.founding).voters
        except (DamagedError, MalformedError):
            return None  # neither is its word on anything else
