"""`crowd repair` on real files: it refuses what would lose messages, and loses nothing."""

from __future__ import annotations

import re

import pytest

from crowd.cli import main
from crowd.errors import DamagedError
from crowd.raft.checkpoints import Head
from crowd.raft.journal import DiskFileSystem, open_journal
from crowd.raft.letters import LetterStore, SqliteShelf
from crowd.raft.membership import Roster, Seat, encode_roster
from crowd.raft.storage import open_storage
from crowd.tools.init import ClusterPlan, write_cluster
from tests.unit.journal.fakes import ManualWriter

SEGMENT_BYTES = 4096


def roster(*voters, learners=()):
    seats = [Seat(name, f"{name}:2105", bytes([7]) * 16, 0) for name in voters]
    seats += [Seat(name, f"{name}:2105", b"", 0) for name in learners]
    return encode_roster("leads", Roster(1, 0, tuple(seats)))


class Stopped:
    """A stopped node's directory, with a log of several segments."""

    def __init__(self, path, members=None):
        self.path = path
        self.directory = str(path)
        storage = self.open()
        journal = storage.journal
        if members is not None:
            journal.remember(members, lambda: None)
        for index in range(2, 60):
            journal.add(b"%03d" % index * 200, index, 1)
            self.settle()
        journal.setRaftCommitIndex(59)
        self.settle()
        self.close(storage)
        (path / "token").write_text("5e" * 32 + "\n")

    def open(self):
        self.writers = [ManualWriter(), ManualWriter(), ManualWriter()]
        storage = open_storage(
            self.directory,
            cluster="leads",
            node="a",
            filesystem=DiskFileSystem(),
            writer=self.writers[0],
            background=self.writers[1],
            letters=lambda: LetterStore(SqliteShelf(self.directory), self.writers[2]),
            segment_bytes=SEGMENT_BYTES,
        )
        self.settle()
        return storage

    def close(self, storage):
        storage.letters.close()
        self.settle()
        storage.store.close()
        storage.journal.close()

    def settle(self):
        while any(writer.busy for writer in self.writers):
            for writer in self.writers:
                writer.finish()

    def checkpoint(self, index=40):
        """Take a checkpoint, as a node does; return its file."""
        storage = self.open()
        taken = []
        storage.store.take(
            Head(index, 1, 0, 0),
            storage.journal.entry(index),
            (b"head", b"chunk"),
            durable=lambda: True,
            done=taken.append,
        )
        self.settle()
        assert taken
        self.close(storage)
        (file,) = self.path.glob("*.checkpoint")
        return file

    def segments(self):
        return sorted(self.path.glob("*.segment"))

    def names(self):
        return sorted(file.name for file in self.path.iterdir())


def flip(file, offset):
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x40
    file.write_bytes(data)


@pytest.fixture
def stopped(tmp_path):
    return Stopped(tmp_path / "a", roster("a", "b", "c"))


def test_a_damaged_log_is_set_aside_and_the_node_starts_empty(stopped, capsys):
    """The damage is told, everything but token and lock moves, and a start makes a new journal."""
    flip(stopped.segments()[1], 700)
    kept = {file.name: file.read_bytes() for file in stopped.segments()}
    with pytest.raises(DamagedError):
        stopped.open()
    assert main(["repair", stopped.directory, "--yes"]) == 0
    out = capsys.readouterr().out
    assert "damaged, and the node does not start: " in out
    assert "0000000000000002.segment, offset " in out
    assert "The other voters are b, c." in out
    assert "of 3 voters no more than\n1 may be missing at once" in out
    (folder,) = stopped.path.glob("damaged-*")
    assert re.fullmatch(r"damaged-\d{8}T\d{6}Z", folder.name)
    assert stopped.names() == [folder.name, "lock", "token"]
    assert {file.name: file.read_bytes() for file in folder.glob("*.segment")} == kept
    assert (folder / "memory").is_file()
    storage = stopped.open()
    assert storage.journal.last_index == 1
    assert storage.journal.founding == b""
    stopped.close(storage)
    assert (stopped.path / "token").read_text() == "5e" * 32 + "\n"


def test_a_log_that_is_whole_stays_where_it_is(stopped, capsys):
    names = stopped.names()
    assert main(["repair", stopped.directory, "--yes"]) == 1
    told = capsys.readouterr()
    assert told.out == "nothing is damaged\n"
    assert "nothing is set aside without --force" in told.err
    assert stopped.names() == names
    assert main(["repair", stopped.directory, "--yes", "--force"]) == 0


def test_nothing_is_done_without_a_yes(stopped, capsys):
    """No terminal, no --yes: the damage is told, and nothing changes."""
    flip(stopped.segments()[1], 700)
    names = stopped.names()
    assert main(["repair", stopped.directory]) == 1
    assert "expected --yes\nnothing was changed\n" in capsys.readouterr().err
    assert stopped.names() == names


@pytest.mark.parametrize("members", [roster("a"), roster("a", learners=["b"])])
def test_the_only_voter_keeps_what_nobody_else_has(tmp_path, capsys, members):
    stopped = Stopped(tmp_path / "a", members)
    flip(stopped.segments()[1], 700)
    names = stopped.names()
    assert main(["repair", stopped.directory, "--yes", "--force"]) == 1
    assert "node a is the only one that votes" in capsys.readouterr().err
    assert stopped.names() == names


def test_a_directory_in_use_is_refused(stopped, capsys):
    storage = stopped.open()
    assert main(["repair", stopped.directory, "--yes", "--force"]) == 1
    assert "found it in use by process" in capsys.readouterr().err
    stopped.close(storage)


def test_a_directory_that_is_none_is_refused(tmp_path, capsys):
    assert main(["repair", str(tmp_path), "--yes"]) == 1
    assert "found no journal" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["repair", str(tmp_path / "nowhere"), "--yes"]) == 1
    assert "found No such file" in capsys.readouterr().err


def test_without_its_memory_a_configuration_says_who_else_there_is(tmp_path, capsys):
    """Both copies of term and vote are bad: the directory itself says nothing any more."""
    (config, *_) = write_cluster(tmp_path, ClusterPlan(cluster="leads"))
    stopped = Stopped(tmp_path / "a", roster("a", "b", "c"))
    for offset in (20, 8192 + 20):
        flip(stopped.path / "memory", offset)
    assert main(["repair", stopped.directory, "--yes"]) == 1
    told = capsys.readouterr()
    assert "neither copy of term and vote is whole" in told.out
    assert "expected --config FILE" in told.err
    assert main(["repair", "--config", str(config), "--yes"]) == 0


def test_a_file_of_a_node_on_its_own_is_refused(tmp_path, capsys):
    config = tmp_path / "node.toml"
    config.write_text('[node]\nname = "a"\ndirectory = "a"\n')
    stopped = Stopped(tmp_path / "a", roster("a"))
    (stopped.path / "memory").unlink()
    assert main(["repair", "--config", str(config), "--yes"]) == 1
    assert "nobody else has its messages" in capsys.readouterr().err


def test_damage_below_the_checkpoint_is_left_to_the_node(stopped, capsys):
    """A start does not read it, and the running node mends it from a peer's copy."""
    stopped.checkpoint()
    stopped.close(stopped.open())
    flip(stopped.segments()[0], 700)
    stopped.close(stopped.open())
    assert main(["repair", stopped.directory, "--yes"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("damaged, and mended by the node while it runs: ")
    assert "the node starts as it is" in told.err


def test_a_damaged_checkpoint_is_told(stopped, capsys):
    """Without another one the log is read from its beginning, if that is there."""
    file = stopped.checkpoint()
    flip(file, file.stat().st_size // 2)
    assert main(["repair", stopped.directory, "--yes"]) == 1
    assert f"{file}" in capsys.readouterr().out


def test_a_repair_that_was_cut_short_is_noticed_and_finished(stopped, capsys):
    """Its first step is done, the rest is not: no start takes what is left for a log."""
    flip(stopped.segments()[1], 700)
    folder = stopped.path / "damaged-20261123T101112Z"
    folder.mkdir()
    (stopped.path / "memory").rename(folder / "memory")
    with pytest.raises(DamagedError, match="a log without its term and vote"):
        stopped.open()
    assert main(["repair", stopped.directory, "--yes"]) == 0
    assert "a log without its term and vote" in capsys.readouterr().out
    assert len(list(stopped.path.glob("damaged-*"))) == 2
    assert [file.name for file in folder.iterdir()] == ["memory"]
    stopped.close(stopped.open())


def test_a_missing_segment_is_damage(stopped, capsys):
    stopped.segments()[1].unlink()
    assert main(["repair", stopped.directory, "--yes"]) == 0
    assert "a segment is missing" in capsys.readouterr().out


def test_the_journal_alone_is_read_as_a_start_reads_it(tmp_path, capsys):
    """A directory of a journal without members yet: nobody knows who else there is."""
    journal = open_journal(
        str(tmp_path), cluster="leads", node="a", filesystem=DiskFileSystem(), writer=ManualWriter()
    )
    journal.close()
    assert main(["repair", str(tmp_path), "--yes", "--force"]) == 1
    assert "nothing in it says who else is a member" in capsys.readouterr().err


def test_letters_are_told_when_damaged_and_set_aside_with_the_rest(stopped, capsys):
    """A node starts with damaged letters, and has them from the others."""
    shelf = SqliteShelf(stopped.directory)
    shelf.write([(number, b"letter %d " % number * 400) for number in (1, 2, 3)], [])
    shelf.close()
    file = stopped.path / "letters.sqlite"
    flip(file, file.read_bytes().index(b"letter 2 letter 2") + 100)
    content = file.read_bytes()
    assert main(["repair", stopped.directory, "--yes"]) == 1
    told = capsys.readouterr().out
    assert told.count("mended by the node while it runs") == 1
    assert "checksum of letter 2 at " in told
    assert main(["repair", stopped.directory, "--yes", "--force"]) == 0
    (folder,) = stopped.path.glob("damaged-*")
    assert (folder / "letters.sqlite").read_bytes() == content
    assert "letters.sqlite" not in stopped.names()


def test_letters_that_are_no_database_are_told(stopped, capsys):
    (stopped.path / "letters.sqlite").write_bytes(b"no database" * 1000)
    assert main(["repair", stopped.directory, "--yes"]) == 1
    assert "letters that cannot be read" in capsys.readouterr().out
