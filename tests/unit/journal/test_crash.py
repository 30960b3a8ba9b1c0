"""Power cuts, flipped bits and foreign bytes: what the journal makes of them."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.errors import DamagedError, FatalError
from crowd.raft.journal.shape import BATCH_HEADER_BYTES, BATCH_MAGIC, RECORD_HEADER_BYTES
from tests.unit.journal.fakes import FaultyFileSystem, PowerCutError
from tests.unit.journal.rig import DIRECTORY, Rig

NO_OP = (b"\x01", 1, 0)

OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 4), st.integers(0, 60)),
    st.tuples(st.just("add"), st.integers(1, 4), st.integers(0, 60)),
    st.tuples(st.just("cut"), st.integers(0, 6)),
    st.tuples(st.just("reset"), st.integers(1, 3)),
    st.tuples(st.just("drop"), st.integers(0, 30)),
    st.tuples(st.just("vote"), st.sampled_from(["a", "b", None])),
    st.tuples(st.just("turn")),
    st.tuples(st.just("work")),
    st.tuples(st.just("work")),
    st.tuples(st.just("finish")),
    st.tuples(st.just("background")),
    st.tuples(st.just("scrub")),
    st.tuples(st.just("second")),
)


class History:
    """The model: every log and every vote that ever was, and the promises made of them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.log = [NO_OP]
        self.term = 1
        self.vote: tuple[int, str | None] = (0, None)
        self.logs = [list(self.log)]
        self.votes = [self.vote]
        self.durable_vote = self.vote

    def do(self, operation: tuple) -> None:
        rig, journal = self.rig, self.rig.journal
        kind, *rest = operation
        if kind == "add":
            count, size = rest
            for _ in range(count):
                index = journal.last_index + 1
                command = b"%d/%d/" % (index, self.term) + bytes(size)
                journal.add(command, index, self.term)
                self.log.append((command, index, self.term))
                self.logs.append(list(self.log))
        elif kind == "cut":
            if len(self.log) > rest[0]:
                journal.deleteEntriesFrom(len(journal) - rest[0])
                del self.log[len(self.log) - rest[0] :]
                self.logs.append(list(self.log))
                self.term += 1
        elif kind == "reset":
            journal.clear()
            index = journal.last_index + 5
            self.log = []
            for number in range(rest[0]):
                entry = (b"reset", index + number, self.term)
                journal.add(*entry)
                self.log.append(entry)
                self.logs.append(list(self.log))
        elif kind == "drop":
            journal.deleteEntriesTo(rest[0])
            self.log = self.log[max(0, journal.first_index - self.log[0][1]) :]
        elif kind == "vote":
            self.term += 1
            self.vote = (self.term, rest[0])
            self.votes.append(self.vote)
            journal.setCurrentTerm(*self.vote)
        elif kind == "turn":
            rig.start()
        elif kind == "work":
            rig.start()
            if rig.writer.waiting:
                rig.writer.work()
        elif kind == "finish":
            rig.settle()
        elif kind == "background":
            if rig.background.waiting:
                rig.background.work()
        elif kind == "scrub":
            if not rig.background.waiting:
                journal.scrub(self.scrubbed)
        else:
            journal.onOneSecondTimer()
        self.promise()

    def promise(self) -> None:
        journal = self.rig.journal
        assert list(journal[:]) == self.log
        self.durable = self.log[: max(0, journal.durable_index - journal.first_index + 1)]
        if journal.vote_durable(*self.vote):
            self.durable_vote = self.vote

    def scrubbed(self, result) -> None:
        assert result.flaws == ()

    def check(self, *, settled: bool) -> None:
        """What was durable is there; what else is there was there at some time."""
        journal = self.rig.journal
        found = list(journal[:])
        assert journal.durable_index == journal.last_index
        if settled:
            assert tail(found, self.log[0][1]) == self.log
            return
        assert any(
            tail(found, log[0][1]) == tail(log, found[0][1]) for log in self.logs if log
        ) or (not found and [] in self.logs)
        if self.durable:
            kept = [entry for entry in found if entry[1] >= self.durable[0][1]]
            assert kept[: len(self.durable)] == self.durable
        vote = (journal.getCurrentTerm(), journal.getVotedForNodeId())
        terms = {entry[2] for entry in found}
        assert vote in self.votes or (vote[1] is None and vote[0] in terms)
        assert vote[0] >= self.durable_vote[0]
        assert vote[0] > self.durable_vote[0] or vote == self.durable_vote

    def adopt(self) -> None:
        """Go on from what was found."""
        journal = self.rig.journal
        self.log = list(journal[:])
        self.vote = (journal.getCurrentTerm(), journal.getVotedForNodeId())
        self.term = max(self.term, self.vote[0]) + 1
        self.logs, self.votes = [list(self.log)], [self.vote]
        self.durable_vote = self.vote


def tail(log: list, first_index: int) -> list:
    return [entry for entry in log if entry[1] >= first_index]


@settings(deadline=None, max_examples=400)
@given(
    st.lists(OPERATIONS, max_size=30),
    st.integers(0, 60),
    st.lists(OPERATIONS, max_size=15),
    st.integers(0, 30),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(0, 1 << 32),
)
def test_i1_what_was_durable_survives_a_crash_at_any_point(first, cut, second, cut_2, kills, seed):
    """I1: whatever is done, and wherever the power goes, no promise is broken; twice over."""
    rig = Rig(segment_bytes=350, cache_bytes=500)
    history = History(rig)
    chance = random.Random(seed)
    for operations, steps, kill in ((first, cut, kills[0]), (second, cut_2, kills[1])):
        rig.system.steps_left = steps
        history.promise()
        settled = False
        with contextlib.suppress(PowerCutError):
            for operation in operations:
                history.do(operation)
            rig.write()
            history.promise()
            settled = rig.journal.durable_index == rig.journal.last_index
        if kill:
            rig.system.kill()
        else:
            rig.system.crash(chance)
        rig.open()
        history.check(settled=settled)
        left = [name for name in rig.system.names(DIRECTORY) if name.endswith(".new")]
        assert left == ["spare.new"], "the reserve, made anew"
        history.adopt()


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=1, max_size=3),
    st.integers(0, 1 << 32),
)
def test_a_crash_during_recovery_is_recovered_from(cut, again, seed):
    """The process or the power may go while the last crash is being mended."""
    rig = Rig(segment_bytes=250)
    chance = random.Random(seed)
    rig.system.steps_left = cut
    durable, vote = 1, 0
    with contextlib.suppress(PowerCutError):
        for number in range(8):
            rig.add(b"entry %d" % number * 5)
            rig.journal.setCurrentTerm(number, "a")
            rig.write()
            durable, vote = rig.journal.durable_index, number
    for kill, steps in again:
        if kill:
            rig.system.kill()
        else:
            rig.system.crash(chance)
        rig.system.steps_left = steps
        with contextlib.suppress(PowerCutError):
            rig.open()
            durable, vote = rig.journal.durable_index, rig.journal.getCurrentTerm()
    rig.system.crash(chance)
    rig.open()
    assert rig.journal.getCurrentTerm() >= vote
    assert rig.journal.durable_index >= durable
    assert rig.log[1:durable] == [(b"entry %d" % n * 5, n + 2, 1) for n in range(durable - 1)]


@pytest.mark.parametrize("cut", range(60))
def test_a_node_that_was_killed_and_goes_on_survives_a_power_cut(cut):
    """What a killed process left unsynced, names of files included, is synced by the next one."""
    for seed in range(8):
        rig = Rig(segment_bytes=250)
        rig.system.steps_left = cut
        with contextlib.suppress(PowerCutError):
            for number in range(8):
                rig.add(b"entry %d" % number * 5)
                rig.write()
        rig.kill_and_open()
        rig.add(b"after")
        rig.write()
        model = rig.log
        assert rig.journal.durable_index == len(model)
        rig.system.crash(random.Random(seed))
        rig.open()
        assert rig.log == model


@pytest.mark.parametrize("cut", range(20))
def test_a_crash_at_birth_leaves_a_new_journal_or_none(cut):
    """A directory whose making was interrupted is made anew, not called damaged."""
    for seed in range(40):
        rig = Rig()
        rig.system = FaultyFileSystem()
        rig.system.steps_left = cut
        with contextlib.suppress(PowerCutError):
            rig.open()
        rig.system.crash(random.Random(seed))
        rig.open()
        assert rig.log == [NO_OP]


def closed_journal() -> tuple[Rig, list]:
    """A small journal of several segments, with a cut in it, closed."""
    rig = Rig(segment_bytes=220)
    for number in range(6):
        rig.add(b"%d" % number * 20, b"")
        rig.write()
    rig.journal.deleteEntriesFrom(9)
    rig.add(b"after the cut", term=2)
    rig.write()
    rig.journal.setCurrentTerm(7, "b")
    rig.journal.remember(b"roster", lambda: None)
    rig.write()
    model = rig.log
    rig.journal.close()
    return rig, model


def test_every_flipped_bit_of_an_entry_is_found():
    """D9: one flipped bit anywhere in what was stored is damage with its place, never a tear."""
    rig, model = closed_journal()
    names = rig.segments()
    assert len(names) > 3
    for name in rig.indexes():
        rig.system.remove(f"{DIRECTORY}/{name}")
    damaged = 0
    for name in names:
        whole = bytes(rig.inode(name).seen)
        used = len(whole.rstrip(b"\0"))
        for bit in range(8 * len(whole)):
            rig.flip(name, bit)
            try:
                rig.open()
            except DamagedError as error:
                damaged += 1
                assert name in error.place
                assert "offset" in error.place
                assert "index" in error.place
            else:
                # In the confirmation at the very end, or behind it: no entry is touched.
                assert rig.log == model
                assert name == names[-1]
                assert bit // 8 >= used - BATCH_HEADER_BYTES
                rig.system.kill()
            rig.inode(name).seen[:] = whole
            rig.damage(name, 0, b"")
    assert damaged > 2000


def test_every_flipped_bit_of_term_and_vote_is_mended():
    """D8: one flipped bit in one copy never brings back an older vote."""
    rig, _ = closed_journal()
    whole = bytes(rig.inode("memory").seen)
    chance = random.Random(7)
    used = [bit for start in (0, 8192) for bit in range(8 * start, 8 * (start + 120))]
    for bit in used + [chance.randrange(8 * len(whole)) for _ in range(200)]:
        rig.flip("memory", bit)
        rig.open()
        assert (rig.journal.getCurrentTerm(), rig.journal.getVotedForNodeId()) == (7, "b")
        assert rig.journal.founding == b"roster"
        mended = bytes(rig.inode("memory").disk)
        assert mended[:8192] == mended[8192:]
        rig.system.kill()
        rig.damage("memory", 0, whole)


def test_both_copies_of_the_vote_damaged_is_damage():
    """Without a sure term and vote the node does not start: it might vote twice."""
    rig, _ = closed_journal()
    for offset in (30, 8192 + 30):
        rig.flip("memory", 8 * offset)
    with pytest.raises(DamagedError, match="memory, offset 0"):
        rig.open()


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_missing_segment_is_damage(place):
    """A file that vanished is named, be it the first, one in the middle, or the last."""
    rig, _ = closed_journal()
    name = rig.segments()[place]
    del rig.system.inodes[f"{DIRECTORY}/{name}"]
    with pytest.raises(DamagedError, match=name):
        rig.open()


def test_a_segment_that_lost_its_end_is_damage():
    """Batches that became zeros before a later segment are missed, though no checksum is false."""
    rig, _ = closed_journal()
    first, second = rig.segments()[:2]
    whole = bytes(rig.inode(first).seen)
    last_batch = whole.rindex(BATCH_MAGIC)
    rig.damage(first, last_batch, bytes(len(whole) - last_batch))
    with pytest.raises(DamagedError, match=f"missing before this at .*{second}"):
        rig.open()


@pytest.mark.parametrize("shift", range(-BATCH_HEADER_BYTES - 2, 3))
def test_a_batch_after_a_bad_one_is_found_wherever_it_lies(shift):
    """Damage is told from a tear also where a later header lies across two pieces that are read."""
    rig = Rig(segment_bytes=3 << 20)
    (name,) = rig.segments()
    start = len(rig.inode(name).seen.rstrip(b"\0"))
    record = BATCH_HEADER_BYTES + RECORD_HEADER_BYTES
    rig.add(bytes((1 << 20) - record + shift))
    rig.write()
    rig.add(b"later")
    rig.write()
    rig.system.kill()
    rig.flip(name, 8 * start + 100)
    with pytest.raises(DamagedError, match="later ones follow"):
        rig.open()


def test_a_missing_memory_beside_a_log_is_damage():
    """A log without its term and vote is not taken for a new node's."""
    rig, _ = closed_journal()
    del rig.system.inodes[f"{DIRECTORY}/memory"]
    with pytest.raises(DamagedError, match="memory"):
        rig.open()


def test_a_segment_with_anothers_place_or_of_another_journal_is_damage():
    """A file that was copied over another, or from another node, does not pass for it."""
    rig, _ = closed_journal()
    other, _ = closed_journal()
    other.system = FaultyFileSystem()
    other.open()
    first, second = rig.segments()[:2]
    for copied in (rig.inode(second), other.inode(first)):
        whole = bytes(rig.inode(first).seen)
        rig.damage(first, 0, bytes(copied.seen))
        with pytest.raises(DamagedError, match=f"another.*{first}"):
            rig.open()
        rig.damage(first, 0, whole)


def test_a_cold_read_verifies():
    """D9: an entry that is read long after the start is checked then, too."""
    rig = Rig(segment_bytes=1 << 14, cache_bytes=0)
    rig.add(*(b"%03d" % n * 10 for n in range(30)))
    rig.write()
    assert rig.journal.entry(7)[0] == b"005" * 10
    (name,) = rig.segments()
    place = rig.inode(name).seen.index(b"005" * 10)
    for bit in range(8 * (place - 25), 8 * (place + 30)):
        rig.flip(name, bit)
        with pytest.raises(DamagedError, match="index 7"):
            rig.journal.entry(7)
        assert rig.journal.entry(8)[0] == b"006" * 10
        rig.flip(name, bit)
    assert rig.journal.entry(7)[0] == b"005" * 10


def test_a_torn_tail_is_cut_and_stays_cut():
    """A bad last batch goes, what is before it stays, and new entries follow."""
    rig = Rig()
    rig.add(b"kept")
    rig.write()
    (name,) = rig.segments()
    used = len(rig.inode(name).seen.rstrip(b"\0"))
    rig.add(b"torn", b"torn too")
    rig.cut_off()
    rig.flip(name, 8 * used + 30)
    rig.open()
    assert rig.log == [NO_OP, (b"kept", 2, 1)]
    assert not any(rig.inode(name).disk[used:])
    rig.add(b"new")
    rig.write()
    model = rig.log
    rig.system.crash(random.Random(3))
    assert list(rig.open()[:]) == model


def test_a_message_cannot_forge_a_batch():
    """A torn write is a torn write, even with another journal's batches in a message's body."""
    other = Rig(segment_bytes=1 << 14)
    other.add(*(b"%d" % n for n in range(20)))
    other.write()
    forged = bytes(other.inode(other.segments()[0]).disk).rstrip(b"\0")
    rig = Rig(segment_bytes=1 << 14)
    rig.add(b"a")  # its next segment, too, has another salt than the other journal's
    rig.journal.clear()
    rig.system = FaultyFileSystem()
    rig.open()
    (name,) = rig.segments()
    used = len(rig.inode(name).seen.rstrip(b"\0"))
    rig.add(forged)
    rig.cut_off()
    rig.flip(name, 8 * used)
    rig.open()
    assert rig.log == [NO_OP]


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10), st.binary(max_size=400), st.integers(0, 3000), st.booleans())
def test_any_bytes_are_a_journal_or_one_error(file, data, offset, cut):
    """Fuzz: whatever stands in the files, opening ends with a journal or a FatalError."""
    rig, _ = closed_journal()
    names = [*rig.segments(), "memory"]
    name = names[file % len(names)]
    rig.damage(name, offset, data)
    if cut:
        inode = rig.inode(name)
        del inode.disk[offset:], inode.seen[offset:]
    try:
        rig.open()
    except FatalError:
        return
    assert rig.log[0] == NO_OP
