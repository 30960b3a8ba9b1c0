"""The shelf on a disk: one table in one SQLite file, ``letters.sqlite``.

Decides the file's settings and what each of SQLite's errors means. Leaves to ``store`` which
thread calls, and when.

SQLite's rollback journal is cut to nothing at a commit (``journal_mode=TRUNCATE``) and the cut is
synced (``synchronous=FULL``): with ``DELETE`` a power loss could bring the deleted journal back,
and with it roll a commit back that was reported (https://sqlite.org/pragma.html#pragma_synchronous,
"EXTRA"). No write-ahead log: after one flipped bit it would silently end there. Whether a row is
what was written, SQLite does not know: its own SHA-256 says so, and whoever reads it compares.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from crowd.errors import DamagedError, DirectoryError, NoSpaceError, StorageFailedError
from crowd.raft.letters.ports import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FILE_NAME: Final = "letters.sqlite"
ASIDE: Final = ".damaged"
"""The suffix of a damaged file; an older one is written over."""
FORMAT: Final = 1
"""SQLite's ``user_version`` of the file."""
CACHE_KIB: Final = 2048
"""Pages that SQLite keeps in memory: the tree's inner ones, for some 100 000 letters."""

_SETTINGS: Final = (
    "PRAGMA auto_vacuum = FULL",  # before the first table: room that letters leave goes back
    "PRAGMA locking_mode = EXCLUSIVE",  # nobody else makes a commit wait
    "PRAGMA journal_mode = TRUNCATE",
    "PRAGMA synchronous = FULL",
    f"PRAGMA cache_size = -{CACHE_KIB}",
    "PRAGMA trusted_schema = OFF",
)
_TABLE: Final = (
    "CREATE TABLE letters (number INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, message BLOB NOT NULL)"
)
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def flaws(directory: str) -> Iterator[str]:
    """Yield what is wrong with a stopped node's letters, in words, with the place. Blocks.

    Changes nothing. Which letters there should be, only the ledger knows.
    """
    path, journal = f"{directory}/{FILE_NAME}", Path(f"{directory}/{FILE_NAME}-journal")
    if not Path(path).exists() or (journal.exists() and journal.stat().st_size):
        return  # none, or the next start first undoes a write that was cut short
    try:
        db = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
        with closing(db):
            for number, sha256, message in db.execute("SELECT * FROM letters ORDER BY number"):
                if not isinstance(message, bytes) or hashlib.sha256(message).digest() != sha256:
                    yield f"checksum of letter {number} at {path}"
    except sqlite3.Error as error:
        yield f"letters that cannot be read ({error}) at {path}"


class SqliteShelf:
    """A `ports.Shelf` in a node's directory, made if there is none. A damaged file is set aside.

    Raises DirectoryError for a file of another format, StorageFailedError if it cannot be used.
    Opened in one thread and used in another: never by two at once.
    """

    _log = Logger()

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/{FILE_NAME}"
        try:
            self._db = self._open()
        except DamagedError as error:
            self._log.error("damaged: {error}; letters are fetched from the peers", error=error)
            self.renew()
        except NoSpaceError as error:
            raise StorageFailedError(str(error)) from error

    def _open(self) -> sqlite3.Connection:
        with self._translated("open"):
            self._make_file()
            db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            try:
                for setting in _SETTINGS:
                    db.execute(setting).fetchall()
                self._check(db)
            except BaseException:
                db.close()
                raise
        return db

    def _make_file(self) -> None:
        """Have the file there with the journal's permissions; SQLite's own files follow it."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        except OSError as error:
            raise StorageFailedError(f"could not open {self.path}: {error}") from error

    def _check(self, db: sqlite3.Connection) -> None:
        """Make the table in a new file; see that another one has it."""
        ((version,),) = db.execute("PRAGMA user_version")
        if version == 0 and not db.execute("SELECT name FROM sqlite_master").fetchall():
            with self._transaction(db):
                db.execute(_TABLE)
                db.execute(f"PRAGMA user_version = {FORMAT}")
            self._sync_name()
        elif version != FORMAT:
            raise DirectoryError(f"{self.path}: found format {version}; expected {FORMAT}")

    def write(self, kept: Sequence[tuple[int, bytes]], gone: Sequence[int]) -> NoSpaceError | None:
        """Keep and remove letters in one transaction, as `Shelf.write` says."""
        rows = [(number, hashlib.sha256(message).digest(), message) for number, message in kept]
        try:
            with self._translated("write"), self._transaction(self._db):
                self._db.executemany("DELETE FROM letters WHERE number = ?", ((n,) for n in gone))
                self._db.executemany("INSERT OR REPLACE INTO letters VALUES (?, ?, ?)", rows)
        except NoSpaceError as error:
            return error
        return None

    def read(self, number: int) -> Row | None:
        """Return a letter as it is stored, or None."""
        with self._translated("read"):
            found = self._db.execute(
                "SELECT sha256, message FROM letters WHERE number = ?", (number,)
            ).fetchone()
        if found is None or not all(isinstance(value, bytes) for value in found):
            return None  # a type that was never written is a flipped bit in a row's header
        return Row(*found)

    def rows(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return numbers and hashes above `after`; the letters' bytes are not read for it."""
        with self._translated("read"):
            return self._db.execute(
                "SELECT number, sha256 FROM letters WHERE number > ? ORDER BY number LIMIT ?",
                (after, limit),
            ).fetchall()

    def renew(self) -> None:
        """Set the file aside and begin an empty one."""
        self.close()
        aside = self.path + ASIDE
        try:
            Path(self.path).replace(aside)
            # A journal left beside it would be played back into the new file.
            rest = Path(f"{self.path}-journal")
            if rest.exists():
                rest.replace(f"{aside}-journal")
            self._sync_name()
        except OSError as error:
            raise StorageFailedError(f"could not set {self.path} aside: {error}") from error
        try:
            self._db = self._open()
        except (DamagedError, NoSpaceError) as error:
            raise StorageFailedError(f"could not begin {self.path} anew: {error}") from error

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_db"):
            self._db.close()

    # --- Within -------------------------------------------------------------------------------

    def _sync_name(self) -> None:
        """Make the file's name durable."""
        descriptor = os.open(str(Path(self.path).parent), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise StorageFailedError(f"fsync: {error}") from error
        finally:
            os.close(descriptor)

    @contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # some errors end it by themselves
                db.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Say what an error of SQLite's means for who called."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            primary = code & 0xFF if code is not None else None
            if primary == sqlite3.SQLITE_FULL:
                raise NoSpaceError(f"no space for letters in {self.path}") from error
            if primary in _DAMAGE:
                raise DamagedError(
                    f"letters that cannot be read ({error})", place=self.path
                ) from error
            raise StorageFailedError(f"could not {what} {self.path}: {error}") from error
