"""The contract of a shelf, kept by the real one and by the tests' own."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from crowd.errors import DamagedError, DirectoryError, NoSpaceError, StorageFailedError
from crowd.raft.letters import FILE_NAME, SqliteShelf
from crowd.raft.letters.ports import Row
from tests.unit.journal.fakes import FaultyFileSystem
from tests.unit.letters.fakes import FaultyShelf

ROOT = Path(__file__).parents[3]
MESSAGES = {number: b"message %d " % number * number for number in range(1, 40)}


def row(number):
    return Row(hashlib.sha256(MESSAGES[number]).digest(), MESSAGES[number])


def kept(*numbers):
    return [(number, MESSAGES[number]) for number in numbers]


@pytest.fixture(params=["sqlite", "simulated"])
def reopen(request, tmp_path):
    """Open a shelf; what was open before is left as a process leaves it that was killed."""
    if request.param == "simulated":
        system = FaultyFileSystem()
        return lambda: FaultyShelf(system)
    opened = []

    def again():
        if opened:
            opened.pop().close()
        opened.append(SqliteShelf(str(tmp_path)))
        return opened[0]

    return again


def test_what_was_written_is_read(reopen):
    shelf = reopen()
    assert shelf.write(kept(1, 2, 3), []) is None
    assert [shelf.read(number) for number in (1, 2, 3, 4)] == [row(1), row(2), row(3), None]


def test_what_was_written_is_there_after_a_restart(reopen):
    reopen().write(kept(1, 2), [])
    shelf = reopen()
    assert shelf.read(2) == row(2)
    assert shelf.rows(0, 10) == [(1, row(1).sha256), (2, row(2).sha256)]


def test_to_write_again_changes_nothing(reopen):
    shelf = reopen()
    shelf.write(kept(1, 2), [])
    shelf.write(kept(2), [])
    shelf.write([], [7])
    assert [number for number, _ in reopen().rows(0, 10)] == [1, 2]


def test_what_is_gone_is_gone_and_may_come_again(reopen):
    shelf = reopen()
    shelf.write(kept(1, 2, 3), [])
    shelf.write(kept(4), [1, 3])
    assert [number for number, _ in reopen().rows(0, 10)] == [2, 4]
    shelf = reopen()
    shelf.write(kept(3), [3])  # the two at once: what is kept stays
    assert shelf.read(3) == row(3)


def test_rows_come_by_rising_number_and_no_more_than_asked_for(reopen):
    shelf = reopen()
    shelf.write(kept(9, 3, 5, 1), [])
    assert [number for number, _ in shelf.rows(1, 2)] == [3, 5]
    assert shelf.rows(9, 2) == []


def test_the_largest_message_and_any_bytes_fit(reopen):
    message = os.urandom(1 << 16) * 256
    shelf = reopen()
    shelf.write([(1, message), (2, b"\0" * 300)], [])
    assert reopen().read(1).message == message


def test_one_begun_anew_is_empty(reopen):
    shelf = reopen()
    shelf.write(kept(1), [])
    shelf.renew()
    assert shelf.rows(0, 10) == []
    shelf.write(kept(2), [])
    assert [number for number, _ in reopen().rows(0, 10)] == [2]


# --- The real one ---------------------------------------------------------------------------------


def test_numbers_reach_as_far_as_the_ledgers(tmp_path):
    shelf = SqliteShelf(str(tmp_path))
    shelf.write([(2**62, b"far")], [])
    assert shelf.read(2**62).message == b"far"


def test_a_file_that_is_none_is_set_aside(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"no database " * 1000)
    shelf = SqliteShelf(str(tmp_path))
    assert shelf.rows(0, 10) == []
    assert (tmp_path / f"{FILE_NAME}.damaged").read_bytes().startswith(b"no database")


def test_damage_is_said_and_what_is_left_is_kept_for_a_person(tmp_path):
    shelf = SqliteShelf(str(tmp_path))
    for number in range(1, 40):
        shelf.write([(number, os.urandom(3000))], [])
    shelf.close()
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    shelf = SqliteShelf(str(tmp_path))
    with pytest.raises(DamagedError, match=FILE_NAME):
        shelf.rows(0, 100)
    shelf.renew()
    assert shelf.rows(0, 100) == []
    assert (tmp_path / f"{FILE_NAME}.damaged").stat().st_size == len(content)


def test_messages_are_not_for_everybody_to_read(tmp_path):
    SqliteShelf(str(tmp_path)).write(kept(1), [])
    assert {file.stat().st_mode & 0o007 for file in tmp_path.iterdir()} == {0}


def test_a_file_of_another_format_is_refused(tmp_path):
    SqliteShelf(str(tmp_path)).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(DirectoryError, match="found format 2; expected 1"):
        SqliteShelf(str(tmp_path))


def test_a_full_disk_changes_nothing_and_ends_nothing(tmp_path):
    shelf = SqliteShelf(str(tmp_path))
    shelf.write(kept(1), [])
    (pages,) = shelf._db.execute("PRAGMA page_count").fetchone()
    shelf._db.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own word for a full disk
    assert isinstance(shelf.write([(2, bytes(100_000))], [1]), NoSpaceError)
    assert shelf.read(1) == row(1)
    shelf._db.execute("PRAGMA max_page_count = 100000")
    assert shelf.write([(2, b"now")], [1]) is None
    assert [number for number, _ in shelf.rows(0, 10)] == [2]


def test_room_that_letters_leave_goes_back_to_the_disk(tmp_path):
    shelf = SqliteShelf(str(tmp_path))
    shelf.write([(number, bytes(100_000)) for number in range(1, 20)], [])
    shelf.write([], range(1, 20))
    assert (tmp_path / FILE_NAME).stat().st_size < 100_000


def test_a_directory_that_cannot_be_used_ends_the_node(tmp_path):
    with pytest.raises(StorageFailedError, match="could not open"):
        SqliteShelf(str(tmp_path / "nowhere"))


def test_a_write_that_fails_ends_the_node(tmp_path):
    shelf = SqliteShelf(str(tmp_path))
    shelf._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StorageFailedError, match="could not write"):
        shelf.write(kept(1), [])


WRITER = """
import hashlib, sys
from crowd.raft.letters import SqliteShelf
shelf = SqliteShelf(sys.argv[1])
for number in range(1, 100_000):
    shelf.write([(number, b"%d " % number * 700)], [number - 5] if number > 5 else [])
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 20])
def test_what_was_reported_survives_a_kill_in_the_middle_of_the_next_write(tmp_path, after):
    """A real process is killed while it writes: what it said is there, and the rest whole."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        said = 0
        while said < after:
            said = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    said = int(rest[-1]) if rest else said
    shelf = SqliteShelf(str(tmp_path))
    numbers = [number for number, _ in shelf.rows(0, 1000)]
    last = numbers[-1]
    assert last in {said, said + 1}
    assert numbers == list(range(max(1, last - 4), last + 1))
    for number in numbers:
        found = shelf.read(number)
        assert found.message == b"%d " % number * 700
        assert found.sha256 == hashlib.sha256(found.message).digest()
