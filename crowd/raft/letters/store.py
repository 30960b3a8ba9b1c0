"""The letters' bytes on their way to the disk and back.

Decides when a letter counts as kept here, how much may wait for the disk, and what is read
again. Leaves the table to a `Shelf`, which letters there should be to the ledger, and those that
are lacking to ``audit`` and ``fetching``.

What the ledger says is gathered in memory and written in one transaction off the reactor, while
the next is gathered; until it is durable it is read from memory. It may be lost with the
process: the entry that brought it is in the log, and is applied again, as no checkpoint covers
an entry before its letters are durable (`durable_through`).

In the reactor only; jobs run on the writer's thread, one after the other.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from twisted.logger import Logger

from crowd.errors import DamagedError, NoSpaceError
from crowd.raft.checkpoints.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from crowd.errors import FatalError
    from crowd.raft.journal.ports import Writer
    from crowd.raft.letters.ports import Row, Shelf

PENDING_BYTES_MAX: Final = 32 << 20
"""Letters that are not durable yet: above this nothing more is applied, so that a disk that is
stuck or full does not fill the memory. Two of the largest messages; a second of a slow disk."""
CACHE_BYTES_MAX: Final = 32 << 20
"""Letters that were read and not taken yet, and then those that were: two of the largest."""
VERIFIED_ROWS, VERIFIED_BYTES = 32, 1 << 20
"""Letters verified in one job: some milliseconds of the disk's thread."""
READS_MAX: Final = 256
"""Letters that wait to be read; the disk's thread does one after the other."""

T = TypeVar("T")
_Batch = dict[int, bytes | None]


class LetterStore:
    """The letters of one node. `shelf` is used in `writer`'s thread only, from here on.

    It holds from `pending_bytes_max` on, and above that for what one entry brings.

    ``on_fatal`` hears once that the process must end (I8); ``on_durable`` hears which numbers
    just became durable, ``on_damaged`` that all that was kept is to be looked for again.
    """

    _log = Logger()

    def __init__(
        self, shelf: Shelf, writer: Writer, *, pending_bytes_max: int = PENDING_BYTES_MAX
    ) -> None:
        self._pending_bytes_max = pending_bytes_max
        self._shelf = shelf
        self._background = Background(writer, self._fail)
        self._gathered: _Batch = {}
        self._writing: _Batch = {}
        # The first entry whose letters are among the gathered, and among those being written.
        self._gathered_index: int | None = None
        self._writing_index: int | None = None
        self._scheduled = self._busy = False
        self._flaw: DamagedError | None = None  # found while something else was under way
        self._reading = 0
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0
        self.pending_bytes = 0
        """Bytes of letters that are not durable yet."""
        self.full = False
        """Whether the last write found no space; `retry` tries again."""
        self.on_fatal: Callable[[FatalError], object] = lambda _: None
        self.on_durable: Callable[[Iterable[int]], object] = lambda _: None
        self.on_damaged: Callable[[], object] = lambda: None

    @property
    def holds(self) -> bool:
        """Whether so much waits for the disk that nothing more may be added."""
        return self.pending_bytes >= self._pending_bytes_max

    # --- Keeping ------------------------------------------------------------------------------

    def change(
        self, kept: Sequence[tuple[int, bytes]], gone: Sequence[int], *, index: int | None = None
    ) -> None:
        """Keep and remove letters; `index` is that of the entry that brought them, rising.

        Without one they come from a peer or an audit, and no checkpoint waits for them.
        """
        if kept and index is not None and self._gathered_index is None:
            self._gathered_index = index
        for number, message in kept:
            self._gather(number, message)
        for number in gone:
            self._gather(number, None)
            self._forget(number)
        self._soon()

    def is_pending(self, number: int) -> bool:
        """Tell whether a letter is kept here, but not durably yet."""
        return self._pending(number) is not None

    def durable_through(self, index: int) -> bool:
        """Tell whether all letters of entries up to `index` are durable."""
        firsts = (self._gathered_index, self._writing_index)
        return all(first is None or first > index for first in firsts)

    def retry(self) -> None:
        """Try a full disk again."""
        if self.full:
            self._soon()

    def _pending(self, number: int) -> bytes | None:
        if number in self._gathered:
            return self._gathered[number]
        return self._writing.get(number)

    def _gather(self, number: int, message: bytes | None) -> None:
        self.pending_bytes += _size(message) - _size(self._gathered.get(number))
        self._gathered[number] = message

    def _soon(self) -> None:
        """Write what is gathered, after this turn: it may bring more."""
        if self._gathered and not self._scheduled and not self._busy:
            self._scheduled = True
            self._background.soon(self._write)

    def _write(self) -> None:
        self._scheduled = False
        if self._busy or not self._gathered or self._background.closed:
            return
        self._busy = True
        self._writing, self._gathered = self._gathered, {}
        self._writing_index, self._gathered_index = self._gathered_index, None
        kept = [(n, message) for n, message in self._writing.items() if message is not None]
        gone = [n for n, message in self._writing.items() if message is None]
        self._background.do(
            "keep letters", partial(_try, partial(self._shelf.write, kept, gone)), self._wrote
        )

    def _wrote(self, result: NoSpaceError | DamagedError | None) -> None:
        self._busy = False
        flaw, self._flaw = self._flaw, None
        if isinstance(result, DamagedError):
            flaw = result
        if flaw is not None:
            self._take_back()
            self._renew(flaw)
        elif isinstance(result, NoSpaceError):
            self._take_back()
            if not self.full:
                self._log.error("letters wait: {error}", error=result)
            self.full = True
        else:
            self.full = False
            self._settle()

    def _settle(self) -> None:
        """Count what was being written as durable."""
        written, self._writing, self._writing_index = self._writing, {}, None
        self.pending_bytes -= sum(map(_size, written.values()))
        self.on_durable([number for number, message in written.items() if message is not None])
        self._soon()

    def _take_back(self) -> None:
        """Have what was being written wait again, before what was gathered since."""
        gathered, self._gathered, self._writing = self._gathered, self._writing, {}
        first, self._writing_index = self._writing_index, None
        self._gathered_index = first if first is not None else self._gathered_index
        for number, message in gathered.items():
            self.pending_bytes -= _size(self._gathered.get(number))
            self._gathered[number] = message

    # --- Damage -------------------------------------------------------------------------------

    def _damaged(self, error: DamagedError) -> None:
        if self._busy:
            self._flaw = error
        else:
            self._renew(error)

    def _renew(self, error: DamagedError) -> None:
        """Begin anew: what was kept is to be had from the peers."""
        self._log.error("damaged: {error}; letters are fetched from the peers", error=error)
        self._busy = True
        self._background.do("begin letters anew", self._shelf.renew, self._renewed)

    def _renewed(self, _: None) -> None:
        self._busy, self._flaw = False, None
        self.on_damaged()
        self._soon()

    # --- Reading ------------------------------------------------------------------------------

    def at_hand(self, number: int) -> bytes | None:
        """Return a letter that is in memory."""
        message = self._pending(number)
        if message is None and number in self._cache:
            # What was taken goes first: nobody need ask for it again soon.
            self._cache.move_to_end(number, last=False)
            message = self._cache[number]
        return message

    def read(self, number: int, sha256: bytes, done: Callable[[bytes | None], object]) -> bool:
        """Have `done` called with a stored letter, or None if it is not there or is not whole.

        Returns False, and calls nothing, while `READS_MAX` are being read.
        """
        if self._reading >= READS_MAX:
            return False
        self._reading += 1
        self._background.do(
            "read a letter",
            partial(_try, partial(_verified, self._shelf, number, sha256)),
            partial(self._read, number, done),
        )
        return True

    def _read(
        self,
        number: int,
        done: Callable[[bytes | None], object],
        result: bytes | DamagedError | None,
    ) -> None:
        self._reading -= 1
        if isinstance(result, DamagedError):
            self._damaged(result)
            result = None
        if result is not None and number not in self._cache:
            self._cache[number] = result
            self._cached_bytes += len(result)
            while self._cached_bytes > CACHE_BYTES_MAX and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= len(oldest)
        done(result)

    def _forget(self, number: int) -> None:
        message = self._cache.pop(number, None)
        self._cached_bytes -= _size(message)

    def rows(
        self, after: int, limit: int, done: Callable[[list[tuple[int, bytes]]], object]
    ) -> None:
        """Have `done` called with numbers and hashes of what is stored, as `Shelf.rows` says."""

        def listed(result: list[tuple[int, bytes]] | DamagedError) -> None:
            if isinstance(result, DamagedError):
                self._damaged(result)  # and `on_damaged` has it listed again
            else:
                done(result)

        self._background.do(
            "list letters", partial(_try, partial(self._shelf.rows, after, limit)), listed
        )

    def verify(self, after: int, done: Callable[[int, list[int]], object]) -> None:
        """Read and hash the next letters numbered above `after`, about `VERIFIED_BYTES` of them.

        `done` is called with the last one that was looked at, 0 if there was none, and those
        whose bytes are not what was written.
        """

        def verified(result: tuple[int, list[int]] | DamagedError) -> None:
            if isinstance(result, DamagedError):
                self._damaged(result)
                done(0, [])
            else:
                done(*result)

        self._background.do(
            "verify letters", partial(_try, partial(_next_bad, self._shelf, after)), verified
        )

    def check(self, message: bytes, sha256: bytes, done: Callable[[bool], None]) -> None:
        """Have `done` called with whether these bytes have this hash: up to 10 ms of a thread."""
        self._background.do(
            "verify a letter", lambda: hashlib.sha256(message).digest() == sha256, done
        )

    # --- The end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Do and report nothing more; what was begun is done. The writer is closed after this."""
        if not self._background.closed:
            self._background.do("close letters", self._shelf.close, lambda _: None)
        self._background.closed = True

    def _fail(self, error: FatalError) -> None:
        self._log.critical("the letters failed: {error}", error=error)
        self.on_fatal(error)


def _size(message: bytes | None) -> int:
    return 0 if message is None else len(message)


def _try(job: Callable[[], T]) -> T | DamagedError:
    """Do a job in the thread; damage is a result, as there is a way on from it."""
    try:
        return job()
    except DamagedError as error:
        return error


def _verified(shelf: Shelf, number: int, sha256: bytes) -> bytes | None:
    """Return a stored letter if it is what the ledger says it is. In the thread."""
    row: Row | None = shelf.read(number)
    if row is None or hashlib.sha256(row.message).digest() != sha256:
        return None
    return row.message


def _next_bad(shelf: Shelf, after: int) -> tuple[int, list[int]]:
    """Return the last of the next letters, and those that are not what was written."""
    bad: list[int] = []
    last, size_bytes = 0, 0
    for number, sha256 in shelf.rows(after, VERIFIED_ROWS):
        message = _verified(shelf, number, sha256)
        if message is None:
            bad.append(number)
        last, size_bytes = number, size_bytes + _size(message)
        if size_bytes >= VERIFIED_BYTES:
            break
    return last, bad
