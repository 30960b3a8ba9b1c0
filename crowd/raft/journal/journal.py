"""The journal: Raft's log, term and vote, behind the interface that pysyncobj asks for.

Decides what is in the log, what of it is durable, and when the next write starts. Leaves
the order of effects on the disk to ``appender``, their bytes to ``shape``.

Theory of operation. The reactor appends to lists in memory and is done. What gathers in one
turn of the reactor, and while a write is under way, becomes one batch: one write and one
fdatasync in the writer's thread (group commit). When that has returned, `durable_index`
moves and the engine is told. Three marks, and what holds between them at all times:

- ``durable_index <= last_index``: an entry is durable if the disk has it and it was not cut
  off since. A write under way at a cut makes durable only what the cut left.
- The entries above `durable_index` are in memory; so are the newest below it, within
  ``cache_bytes``; older ones are read from the disk, and verified each time.
- What is durable was never told before it was: `on_durable` is called from no other place
  than the report of a write.

Everything here runs in the reactor's thread.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, overload

from twisted.logger import Logger

from crowd.errors import FatalError, NoSpaceError, StorageFailedError
from crowd.raft.journal.appender import Appended, Batch
from crowd.raft.journal.ballot import Ballot
from crowd.raft.journal.gathered import Gathered
from crowd.raft.journal.holdings import Holdings
from crowd.raft.journal.offsets import Offsets
from crowd.raft.journal.reader import Reader
from crowd.raft.journal.recent import ENTRY_OVERHEAD_BYTES
from crowd.raft.journal.shape import COMMAND_BYTES_MAX
from crowd.raft.journal.upkeep import Upkeep
from crowd.raft.journal.view import EntryView

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.raft.journal.appender import Appender
    from crowd.raft.journal.memory import Memory
    from crowd.raft.journal.ports import FileSystem, Lock, Writer
    from crowd.raft.journal.recovery import Found
    from crowd.raft.journal.shape import Entry
    from crowd.raft.journal.upkeep import ScrubResult

_NO_LIMIT: Final = 1 << 63


def _ignore(*_: object) -> None:
    pass


class Journal:
    """The log of one node. Made by `open_journal`.

    ``first_index``, ``last_index`` and ``last_term`` include what is not durable yet; an
    empty log has ``last_index == first_index - 1`` and ``last_term == 0``. ``full`` says
    that the disk has no space: entries gather in memory, `pending_bytes` of them, and none
    becomes durable until a `retry` succeeds. ``vote_pending`` says that the newest term and
    vote are not durable yet.

    The engine sets two callbacks. `on_durable()`: `durable_index` moved, or a term, a vote
    or a founding record became durable. `on_fatal(error)`: a write or fsync failed, nothing
    becomes durable any more and the process must end (I8); called once. Neither is ever
    called from within another call to the journal.
    """

    _log = Logger()

    def __init__(  # noqa: PLR0913  made in one place, from its parts
        self,
        found: Found,
        memory: Memory,
        appender: Appender,
        writer: Writer,
        background: Writer,
        lock: Lock,
        filesystem: FileSystem,
        directory: str,
        *,
        cache_bytes: int,
    ) -> None:
        self._appender, self._writer, self._lock = appender, writer, lock
        offsets = Offsets(filesystem, directory)
        reader = Reader(filesystem, directory, found.places, offsets)
        self._holdings = Holdings(found.places, reader, cache_bytes)
        self._upkeep = Upkeep(
            filesystem, directory, found.places, offsets, reader, appender, writer, background,
            self._fail,
        )  # fmt: skip
        self._upkeep.last_start = found.last_start
        self.upkeep_counters = self._upkeep.counters
        self._recent, self._terms = self._holdings.recent, found.terms
        self.counters = self._holdings.counters
        self.journal_id = memory.journal_id
        self.first_index = found.places.first_index
        self.last_index = self.durable_index = found.places.last_index
        self.last_term = found.terms.last
        self._first: Entry | None = None
        self._last: Entry | None = None
        self._gathered = Gathered()  # what the writer was not handed yet
        self._cleared = False
        self._scheduled = False
        # What the writer has, and the last index that was not cut off meanwhile.
        self._in_flight: Batch | None = None
        self._flight_limit = _NO_LIMIT
        self._commit_index = max(1, found.commit_index)
        self._written_commit_index = found.commit_index
        self._confirmed = found.confirmed
        self._preparing = False
        self._ballot = Ballot(memory, self._change_memory, self._memory_changed)
        self.vote_pending = False
        self.full = False
        self.on_durable: Callable[[], None] = _ignore
        self.on_fatal: Callable[[FatalError], None] = _ignore
        self._failed = self._closed = False
        self._upkeep.write_indexes()

    @property
    def pending_bytes(self) -> int:
        """The bytes of commands that were not handed to the writer yet; for back-pressure."""
        return self._gathered.size_bytes

    @property
    def stored_bytes(self) -> int:
        """What the log takes of the disk, the room kept for its last segment not counted."""
        return self._holdings.stored_bytes

    @property
    def reserved(self) -> bool:
        """Whether the disk's room for the next segment is kept: a full disk's reserve."""
        return self._appender.reserved

    @property
    def founding(self) -> bytes:
        """What `remember` stored last; empty at first."""
        return self._ballot.founding

    # --- The log, as pysyncobj reads it ------------------------------------------------------

    def __len__(self) -> int:
        return self.last_index - self.first_index + 1

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> EntryView: ...
    def __getitem__(self, place: int | slice) -> Entry | EntryView:
        """Return the entry at a place counted from the first one, or a lazy view of a slice.

        Raises IndexError if there is none, and what `entry` raises. `[-1]` and `[0]` take
        0.1 µs: pysyncobj asks for them several times a message.
        """
        if place == -1 and self._last is not None:
            return self._last
        if place == 0 and self._first is not None:
            return self._first
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            assert step == 1, "entries are taken in their order"
            return EntryView(self.entry, self.first_index + start, max(0, stop - start))
        size = len(self)
        if not -size <= place < size:
            raise IndexError(f"no entry at place {place} of {size}")
        entry = self.entry(self.first_index + (place if place >= 0 else size + place))
        if place in (-1, size - 1):
            self._last = entry
        if place == 0:
            self._first = entry
        return entry

    def entry(self, index: int) -> Entry:
        """Return (command, index, term) of the entry at `index`.

        Raises IndexError if it is not in the log, DamagedEntryError if its bytes on the disk
        do not match their checksum, StorageFailedError if they cannot be read.
        """
        if not self.first_index <= index <= self.last_index:
            raise IndexError(f"no entry {index} in {self.first_index}..{self.last_index}")
        return self._holdings.entry(index)

    def entries(self, from_index: int, bytes_max: int) -> list[Entry]:
        """Return consecutive entries: at least one, and at most `bytes_max` beyond the first.

        Fewer if a damaged one follows. Raises as `entry` does. An empty list if `from_index` is just above the last one.
        """
        if from_index == self.last_index + 1:
            return []
        if not self.first_index <= from_index <= self.last_index:
            raise IndexError(f"no entry {from_index} in {self.first_index}..{self.last_index}")
        return self._holdings.entries(from_index, self.last_index, bytes_max)

    def term_at(self, index: int) -> int:
        """Return the term of the entry at `index`. Raises IndexError if it is not in the log."""
        if not self.first_index <= index <= self.last_index:
            raise IndexError(f"no entry {index} in {self.first_index}..{self.last_index}")
        return self._terms.at(index)

    # --- The log, as it is changed -----------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry; not durable at return. About 1 µs.

        `idx` follows the last index, but in a log that `clear` emptied; `term` does not
        fall; `command` is at most `COMMAND_BYTES_MAX` long. Raises ValueError otherwise.
        """
        size_bytes = len(command)
        if (
            idx != self.last_index + 1
            or term < self.last_term
            or size_bytes > COMMAND_BYTES_MAX
            or self._cleared
        ):
            self._begin(size_bytes, idx, term)
        if term != self.last_term or idx == self.first_index:
            self._terms.add(idx, term)
            self.last_term = term
        entry = (command, idx, term)
        self.last_index = idx
        self._last = entry
        gathered, recent = self._gathered, self._recent
        gathered.entries.append(entry)
        gathered.size_bytes += size_bytes
        recent.entries.append(entry)
        recent.size_bytes += size_bytes + ENTRY_OVERHEAD_BYTES
        if self._in_flight is None and not self._scheduled:
            self._schedule()

    def clear(self) -> None:
        """Empty the log. The next `add` may have any index.

        On the disk this happens in the batch of that next entry, so a crash leaves either
        the old log or the new one's beginning (D5).
        """
        self._forget_above(-1)
        self._gathered.clear()
        self._cleared = True
        self.first_index = self.last_index + 1
        self.durable_index = self._flight_limit = 0

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803  pysyncobj's names
        """Truncate: this entry, counted from the first one as 0, and all after it go.

        At once for who reads; on the disk in front of the entries that come next.
        """
        last_kept = self.first_index + entryFrom - 1
        if last_kept >= self.last_index:
            return
        assert last_kept >= self.first_index - 1
        self._forget_above(last_kept)
        self._gathered.cut_above(last_kept)
        self.last_index = last_kept
        self.durable_index = min(self.durable_index, last_kept)
        self._flight_limit = min(self._flight_limit, last_kept)
        self._schedule()

    def deleteEntriesTo(  # noqa: N802  pysyncobj's name
        self,
        entryTo: int,  # noqa: N803
        *,
        segments_max: int = 1 << 30,
    ) -> None:
        """Give back the disk of the entries before this one, counted from the first as 0.

        Whole segments only, and at most so many: the log may keep more than asked, and
        `first_index` says from where. Entries that are not durable always stay.
        """
        keep_from = min(self.first_index + entryTo, self.durable_index)
        numbers = self._holdings.drop_below(keep_from, segments_max)
        if not numbers:
            return
        self.first_index = self._holdings.first_index
        self._terms.drop_below(self.first_index)
        self._first = None
        self._submit_other(
            partial(self._appender.remove_segments, numbers),
            partial(self._upkeep.dropped, numbers),
        )

    # --- Commit index, term and vote ----------------------------------------------------------

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803  pysyncobj's
        """Note the commit index; it is written with the next batch, at the latest in a second."""
        self._commit_index = raftCommitIndex

    def getRaftCommitIndex(self) -> int:  # noqa: N802  pysyncobj's name
        """Return the commit index. After a start: a lower bound, never above the durable log."""
        return self._commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        """Start making term and vote durable; `vote_pending` until they are."""
        self._ballot.set(term, votedForNodeId)
        self.vote_pending = self._ballot.pending

    def getCurrentTerm(self) -> int:  # noqa: N802  pysyncobj's name
        """Return the newest term, durable or not."""
        return self._ballot.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802  pysyncobj's name
        """Return the newest vote, durable or not."""
        return self._ballot.vote

    def vote_durable(self, term: int, vote: str | None) -> bool:
        """Tell whether exactly this term and vote are on the disk now."""
        return self._ballot.stored == (term, vote)

    def remember(self, data: bytes, done: Callable[[], object]) -> None:
        """Store the engine's own record; call `done` when it is durable and is `founding`.

        At most `FOUNDING_BYTES_MAX`, and one at a time.
        """
        self._ballot.remember(data, done)

    # --- What was stored long ago --------------------------------------------------------------

    def scrub(self, done: Callable[[ScrubResult], object]) -> None:
        """Verify the next piece of the finished segments; then `done` hears what was found.

        About `scrub.PIECE_BYTES`, and at least one record, read from the disk in the
        background's thread. After the last segment the next round begins. Headers and index
        files that are bad are written anew by this; `repair` mends entries. One piece at a
        time; how often is the caller's to choose.
        """
        self._upkeep.scrub(done)

    def repair(self, entry: Entry, done: Callable[[bool], object]) -> None:
        """Write an entry of this log, had from a peer, again where its record is damaged.

        `done(True)`: the disk has it, and it reads good. `done(False)`: it is not in the durable
        log with this term, it does not fit its place, or it stands in the last batch, which
        another one must follow first (within a second of quiet, one does). Raises
        StorageFailedError if the segment cannot be read.
        """
        index = entry[1]
        if not self.first_index <= index <= self.durable_index or self._failed or self._closed:
            self._writer.soon(partial(done, False))
            return
        self._upkeep.repair(entry, self._terms.at(index), done)

    # --- Time and end -------------------------------------------------------------------------

    def flush(self) -> None:
        """Start the write of what gathered, if none is under way.

        It starts by itself in the reactor's next turn; a caller that knows that nothing more
        comes now saves that turn.
        """
        if self._in_flight is not None or self.full or self._failed or self._closed:
            return
        if self._gathered:
            self._submit(self._gathered.take(self._commit_index))

    def retry(self) -> None:
        """Try again to write what found no space."""
        if self.full:
            self.full = False
            self.flush()

    def onOneSecondTimer(self) -> None:  # noqa: N802  pysyncobj's name
        """Once a second: try a full disk again; otherwise confirm the last batch, if idle.

        Room that the disk did not have, for the reserve and for index files, is asked for again.

        An empty batch after the last one proves that it was durable: a flaw in it is then
        found as damage, where it would have been taken for a torn write. It also holds the
        commit index, so that a restart begins there.
        """
        self.retry()
        self.flush()
        self._upkeep.write_indexes(again=True)
        if not (self.reserved or self._preparing or self._failed or self._closed):
            self._preparing = True
            self._submit_other(self._appender.reserve, self._prepared)
        idle = self._in_flight is None and not (self.full or self._failed or self._closed)
        if idle and not (self._confirmed and self._written_commit_index == self._commit_index):
            self._submit(Batch(None, [], self._commit_index))

    def close(self) -> None:
        """Start the write of what gathered, wait for the writer, and let go of the directory.

        Blocks for a write or two. What gathered behind a write that was under way is not
        written; nobody was told that it was. No callback comes after this. Raises
        StorageFailedError if the journal failed and `on_fatal` was not called for it; the
        directory is let go of all the same.
        """
        if self._closed:
            return
        self.flush()
        self._closed = True
        # The commit index speaks of the log in memory. While the disk lacks a part of that, the
        # entries that it has there instead may be other ones, which never were committed.
        is_whole = self._in_flight is None and not self._gathered
        commit_index = self._commit_index if is_whole else self._written_commit_index
        try:
            self._upkeep.close()
            self._writer.close()
            if not self._failed:
                self._appender.append(Batch(None, [], commit_index))
        except NoSpaceError as error:
            # The log is whole without this confirmation; only less can be proved of it.
            self._log.warn("closed without confirming the last batch: {error}", error=error)
        finally:
            self._holdings.close()
            self._appender.close()
            self._lock.close()

    def _destroy(self) -> None:
        """Close; pysyncobj's name for it."""
        self.close()

    # --- Within -------------------------------------------------------------------------------

    def _begin(self, size_bytes: int, index: int, term: int) -> None:
        """Take the first entry of a cleared log, or say what is wrong with an entry."""
        if size_bytes > COMMAND_BYTES_MAX:
            raise ValueError(f"a command of {size_bytes} bytes; expected {COMMAND_BYTES_MAX}")
        if term < self.last_term:
            raise ValueError(f"entry {index} of term {term} after term {self.last_term}")
        if not self._cleared:
            raise ValueError(f"entry {index} after entry {self.last_index}")
        self._cleared = False
        self.first_index = index
        self._gathered.reset_to(index)

    def _forget_above(self, last_kept: int) -> None:
        """Forget what memory says of the entries above `last_kept`."""
        self._recent.cut(last_kept)
        self._terms.cut(last_kept)
        self.last_term = self._terms.last
        self._first = self._last = None

    def _schedule(self) -> None:
        if not self._scheduled and self._in_flight is None:
            self._scheduled = True
            self._writer.soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self._scheduled = False
        self.flush()

    def _submit(self, batch: Batch) -> None:
        self._in_flight, self._flight_limit = batch, _NO_LIMIT
        self._writer.submit(partial(self._appender.append, batch), partial(self._appended, batch))

    def _appended(self, batch: Batch, result: Appended | BaseException) -> None:
        self._in_flight = None
        if self._closed:
            return
        if isinstance(result, NoSpaceError):
            self._gathered.put_back(batch, self._flight_limit)
            self.full = True
            self._log.error("no space: {error}; nothing more becomes durable", error=result)
            return
        if isinstance(result, BaseException):
            self._fail(result)
            return
        self._holdings.take(batch, result)
        self._upkeep.last_start = result.start
        before = self.durable_index
        if batch.entries:
            # What was cut off while it was written is on the disk, but not in the log.
            self.durable_index = max(before, min(batch.entries[-1][1], self._flight_limit))
        self._confirmed = batch.cut is None and not batch.entries
        self._written_commit_index = batch.commit_index
        self._recent.evict(self.durable_index)
        self.flush()  # first: the disk works while the engine hears
        if result.prepare and not self._preparing:
            self._preparing = True
            self._submit_other(self._appender.prepare, self._prepared)
        if result.begun:
            self._upkeep.write_indexes()
        if self.durable_index > before:
            self.on_durable()

    def _prepared(self) -> None:
        self._preparing = False

    def _change_memory(self, fields: dict[str, object], then: Callable[[], object]) -> None:
        self._submit_other(partial(self._appender.change_memory, **fields), then)

    def _memory_changed(self) -> None:
        self.vote_pending = self._ballot.pending
        self.on_durable()

    def _submit_other(self, job: Callable[[], None], then: Callable[[], object]) -> None:
        """Have the writer do something besides the log, and `then` go on in the reactor."""
        if self._failed or self._closed:
            return

        def done(result: BaseException | None) -> None:
            if self._closed:
                return
            if result is not None:
                self._fail(result)
            else:
                then()

        self._writer.submit(job, done)

    def _fail(self, error: BaseException) -> None:
        if self._failed:
            return
        self._failed = True
        self._upkeep.stop()
        if not isinstance(error, FatalError):
            fatal = StorageFailedError(f"the journal's writer failed: {error!r}")
            fatal.__cause__ = error
            error = fatal
        self._log.critical("the journal failed: {error}", error=error)
        self.on_fatal(error)
