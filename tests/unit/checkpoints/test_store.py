"""What a node keeps of its ledger: taken, loaded, kept, sent, received and checked."""

from __future__ import annotations

import errno
import time

import pytest

from crowd.errors import (
    DamagedError,
    MalformedError,
    NeedsNewerCrowdError,
    NoSpaceError,
    StorageFailedError,
)
from crowd.raft.checkpoints import Checkpoint, Head, open_store
from crowd.raft.checkpoints.shape import FORMAT, HEADER_BYTES
from crowd.raft.journal import DiskFileSystem, ThreadWriter
from tests.unit.checkpoints.rig import DIRECTORY, Rig, content, loaded


@pytest.fixture
def rig():
    return Rig()


# --- Taking and loading ---------------------------------------------------------------------------


def test_a_checkpoint_is_there_after_a_restart(rig):
    """What was taken is listed, and gives back entry and sections, before and after a start."""
    taken = rig.take(7)
    head = content(7)[0]
    assert (taken.index, taken.term, taken.tip) == (head.index, head.term, head.tip)
    assert taken.log_time_us == head.log_time_us
    assert taken.installed
    for _ in range(2):
        assert rig.store.newest == taken
        assert rig.store.load(taken) == loaded(7)
        rig.kill_and_open()
    assert rig.store.floor is None


def test_a_step_writes_no_more_than_a_piece(rig):
    """However large the ledger, the thread is never held for more than a piece."""
    entry = (b"x" * 1000, 5, 1)
    sizes = []
    rig.store.take(
        Head(5, 1, 1, 1),
        entry,
        [b"y" * 5000, b"z" * 3],
        durable=lambda: True,
        done=rig.done.append,
    )
    while rig.writer.waiting:
        assert rig.writer.waiting == 1
        rig.writer.work()
        inodes = rig.system.inodes.values()
        sizes += [len(data) for inode in inodes for _, _, data in inode.changes]
    assert max(sizes) == rig.piece_bytes
    assert rig.store.load(rig.done[0]).sections == (b"y" * 5000, b"z" * 3)


def test_a_checkpoint_waits_for_the_log(rig):
    """A ledger is never durable before the entries that made it (a restart would be ahead)."""
    rig.durable_index = 6
    rig.begin(7)
    rig.writer.finish()
    assert rig.store.busy
    assert not rig.done
    assert rig.names == ["0000000000000001.part"]
    rig.store.poke()
    assert not rig.writer.waiting
    rig.durable_index = 7
    rig.store.poke()
    rig.store.poke()
    rig.writer.finish()
    assert [taken.index for taken in rig.done] == [7]
    assert rig.names == ["0000000000000007.checkpoint"]
    assert not rig.store.busy


@pytest.mark.parametrize("kind", ["create", "allocate", "write", "rename"])
def test_no_space_abandons_a_checkpoint_and_nothing_else(rig, kind):
    """A full disk costs the checkpoint; what was there stays, and the next one may succeed."""
    rig.take(3)
    rig.system.fail(kind, errno.ENOSPC, after=2 if kind == "write" else 0)
    rig.begin(7)
    rig.writer.finish()
    assert isinstance(rig.done.pop(), NoSpaceError)
    assert rig.names == ["0000000000000003.checkpoint"]
    assert not rig.fatal
    assert not rig.store.busy
    assert rig.take(7).index == 7


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("write", errno.EIO),
        ("sync", errno.EIO),
        ("sync", errno.ENOSPC),
        ("rename", errno.EIO),
        ("sync_directory", errno.EIO),
        ("sync_directory", errno.ENOSPC),
    ],
)
def test_i8_a_failed_fsync_is_the_end(rig, kind, code):
    """After a failed sync or write nothing is promised and nothing is written any more."""
    rig.take(3)
    rig.system.fail(kind, code)
    rig.begin(7)
    rig.writer.finish()
    assert not rig.done
    assert [type(error) for error in rig.fatal] == [StorageFailedError]
    rig.store.released(3)
    assert not rig.writer.waiting
    rig.kill_and_open()
    assert rig.store.load(rig.store.checkpoints[0]) == loaded(3)


def test_what_a_crash_left_half_written_is_removed(rig):
    """Parts are no checkpoints."""
    rig.begin(7)
    rig.writer.work()
    rig.kill_and_open()
    assert rig.names == []
    assert rig.store.newest is None
    assert not rig.store.damaged


# --- The floor ------------------------------------------------------------------------------------


def test_the_floor_follows_what_is_released(rig):
    """Newest, floor and next floor are kept; the rest goes."""
    for index in (10, 20, 30):
        rig.take(index)
    assert (rig.indices, rig.floor) == ([10, 30], None)
    rig.release(9)
    assert rig.floor is None
    rig.release(15)
    assert (rig.indices, rig.floor) == ([10, 30], 10)
    for index in (40, 50):
        rig.take(index)
    assert (rig.indices, rig.floor) == ([10, 30, 50], 10)
    rig.release(30)
    assert (rig.indices, rig.floor) == ([30, 50], 30)
    assert rig.names == ["0000000000000030.floor", "0000000000000050.checkpoint"]
    rig.kill_and_open()
    assert (rig.indices, rig.floor) == ([30, 50], 30)
    rig.release(99)
    assert (rig.indices, rig.floor) == ([50], 50)
    rig.take(60)
    rig.writer.finish()
    assert (rig.indices, rig.floor) == ([60], 60)  # released before it was taken


def test_the_floor_moves_when_it_is_durable(rig):
    """Before that a crash could bring back an older floor, with the log cut below the new one."""
    rig.take(10)
    rig.store.released(10)
    assert rig.floor is None
    rig.writer.finish()
    assert rig.floor == 10


def test_a_checkpoint_on_its_way_to_be_the_floor_is_not_in_the_way(rig):
    """A newer one that comes while the floor moves does not push it out."""
    rig.take(10)
    rig.take(20)
    rig.durable_index = 0
    rig.begin(30)
    rig.writer.finish()
    rig.durable_index = 30
    rig.store.poke()
    rig.store.released(20)
    rig.writer.finish()
    assert (rig.indices, rig.floor) == ([20, 30], 20)
    assert rig.names == ["0000000000000020.floor", "0000000000000030.checkpoint"]


def test_the_floor_stays_while_it_is_sent(rig):
    """A follower that got it needs the log from there on."""
    first = rig.take(10)
    rig.release(10)
    rig.take(20)
    rig.store.pin(first)
    rig.store.pin(first)
    rig.release(20)
    rig.store.unpin(first)
    rig.writer.finish()
    assert (rig.indices, rig.floor) == ([10, 20], 10)
    assert len(rig.store.read(first, 5, 50)) == 50
    rig.store.unpin(first)
    rig.writer.finish()
    assert (rig.indices, rig.floor) == ([20], 20)


# --- Damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("found_by", ["load", "scrub"])
def test_a_flipped_bit_is_found_wherever_it_is(found_by):
    """Header, command, lengths, sections, checksums, digest: no bit of them is trusted."""
    rig = Rig(piece_bytes=100)
    rig.take(3)
    size_bytes = rig.take(7).size_bytes
    image = bytes(rig.inode("0000000000000007.checkpoint").seen)
    for byte in range(size_bytes):
        rig.damage("0000000000000007.checkpoint", 0, image)
        rig.kill_and_open()
        newest = rig.store.newest
        rig.flip("0000000000000007.checkpoint", 8 * byte + byte % 8)
        if found_by == "load":
            with pytest.raises((DamagedError, NeedsNewerCrowdError)) as raised:
                rig.store.load(newest)
            assert "0000000000000007.checkpoint, offset" in str(raised.value)
        else:
            said: list = []
            rig.store.scrub(said.append)
            rig.writer.finish()
            rig.store.scrub(said.append)
            rig.writer.finish()
            (fine, (place,)) = said
            assert fine == ()
            assert "0000000000000007.checkpoint, offset" in place
            assert rig.names == ["0000000000000003.checkpoint"]
            rig.system.open(f"{DIRECTORY}/0000000000000007.checkpoint", create=True)
        assert rig.indices == [3]


@pytest.mark.parametrize("byte", range(HEADER_BYTES))
def test_a_bad_header_is_reported_at_start(rig, byte):
    """A checkpoint that cannot be trusted is named and not used; the older one is."""
    rig.take(3)
    rig.take(7)
    rig.flip("0000000000000007.checkpoint", 8 * byte)
    rig.kill_and_open()
    assert rig.indices == [3]
    (place,) = rig.store.damaged
    assert "0000000000000007.checkpoint, offset 0" in place
    rig.take(7)
    rig.writer.finish()
    assert rig.store.load(rig.store.newest) == loaded(7)
    assert rig.names == ["0000000000000003.checkpoint", "0000000000000007.checkpoint"]


@pytest.mark.parametrize("size_bytes", [0, 10, HEADER_BYTES, 200, -1, None])
def test_a_wrong_length_is_reported_at_start(rig, size_bytes):
    """A file that was cut short or that grew is no checkpoint."""
    rig.take(7)
    inode = rig.inode("0000000000000007.checkpoint")
    inode.seen[:] = inode.seen + b"x" if size_bytes is None else inode.seen[:size_bytes]
    rig.kill_and_open()
    assert rig.indices == []
    assert len(rig.store.damaged) == 1


def test_a_checkpoint_under_a_wrong_name_is_not_used(rig):
    """A file that somebody renamed or copied does not count."""
    rig.take(7)
    path = f"{DIRECTORY}/0000000000000007.checkpoint"
    rig.system.rename(path, f"{DIRECTORY}/0000000000000008.checkpoint")
    rig.kill_and_open()
    assert "of index 7" in rig.store.damaged[0]


def test_another_clusters_checkpoint_is_not_used(rig):
    """Whatever brought it here."""
    rig.take(7)
    rig.system.kill()
    rig.open(cluster="others")
    assert rig.indices == []
    assert "of cluster 'leads'; expected 'others'" in rig.store.damaged[0]


def test_a_later_format_is_no_damage(rig):
    """A checkpoint of a newer crowd is left alone, and the node says what it needs."""
    from google_crc32c import value as crc32c

    rig.take(7)
    name = "0000000000000007.checkpoint"
    rig.damage(name, 8, bytes([FORMAT + 1]))
    header = bytes(rig.inode(name).seen[: HEADER_BYTES - 4])
    rig.damage(name, HEADER_BYTES - 4, crc32c(header).to_bytes(4, "little"))
    with pytest.raises(NeedsNewerCrowdError):
        rig.kill_and_open()
    assert rig.names == [name]


def test_the_only_checkpoint_is_kept_though_damaged_until_there_is_another(rig):
    """It is not listed; its file goes when a good one is there."""
    rig.take(7)
    rig.release(7)
    rig.flip("0000000000000007.floor", 8 * 150)
    said: list = []
    rig.store.scrub(said.append)
    rig.writer.finish()
    assert len(said[0]) == 1
    assert (rig.indices, rig.floor) == ([], None)
    assert rig.names == ["0000000000000007.floor"]
    rig.take(9)
    rig.writer.finish()
    assert rig.names == ["0000000000000009.checkpoint"]
    assert rig.floor is None  # nothing says that 9 was released
    rig.release(9)
    assert rig.floor == 9


def test_a_scrub_looks_at_each_in_its_turn(rig):
    """And at the disk, not at what the system remembers of it; an unreadable file is damage."""
    rig.take(3)
    rig.take(7)
    said: list = []
    rig.store.scrub(said.append)
    rig.writer.finish()
    rig.system.fail("read", errno.EIO)
    rig.store.scrub(said.append)
    rig.writer.finish()
    assert said[0] == ()
    assert "0000000000000007.checkpoint" in said[1][0]
    assert not rig.fatal
    assert rig.indices == [3]


def test_a_scrub_without_checkpoints_says_so(rig):
    """Nothing is damaged where there is nothing."""
    said: list = []
    rig.store.scrub(said.append)
    assert not said
    rig.writer.finish()
    assert said == [()]


# --- Receiving ------------------------------------------------------------------------------------


@pytest.fixture
def sent():
    """A floor as another node has it: the checkpoint and its bytes."""
    other = Rig()
    taken = other.take(50)
    return taken, other.file(taken)


def test_a_received_checkpoint_is_the_floor_when_installed(rig, sent):
    """It replaces all that the node had; a restart in between finds it not yet installed."""
    checkpoint, data = sent
    rig.take(3)
    rig.take(7)
    rig.release(3)
    (received,) = rig.receive(checkpoint.digest, data)
    assert not received.installed
    assert rig.store.received == received
    assert rig.indices == [3, 7]
    rig.kill_and_open()
    assert rig.store.received == received
    assert rig.store.load(received) == loaded(50)
    installed = rig.store.installed(received)
    assert rig.store.load(installed) == loaded(50)  # before its new name is durable, too
    rig.writer.finish()
    for _ in range(2):
        assert installed == rig.store.newest == rig.store.floor == checkpoint
        assert rig.store.received is None
        assert rig.names == ["0000000000000050.floor"]
        rig.kill_and_open()


def test_a_checkpoint_being_taken_is_given_up_for_an_installed_one(sent):
    """At whatever step it is: the ledger that it shows is not the node's any more."""
    for steps in range(12):
        rig = Rig()
        (received,) = rig.receive(sent[0].digest, sent[1])
        rig.durable_index = 10 if steps % 2 else 0
        rig.begin(7)
        for _ in range(steps):
            if rig.writer.waiting:
                rig.writer.work()
        if not rig.store.busy:
            break
        rig.store.installed(received)
        assert not rig.store.busy
        rig.durable_index = 10
        rig.store.poke()
        rig.writer.finish()
        assert not rig.done
        assert rig.names == ["0000000000000050.floor"]


def test_a_received_checkpoint_that_is_not_wanted_goes(rig, sent):
    """By discarding it; or at a start that finds it overtaken."""
    checkpoint, data = sent
    rig.receive(checkpoint.digest, data)
    rig.store.discard()
    rig.writer.finish()
    assert rig.names == []
    rig.receive(checkpoint.digest, data)
    rig.take(51)
    rig.kill_and_open()
    assert rig.store.received is None
    assert rig.names == ["0000000000000051.checkpoint"]


def test_pieces_come_in_order_and_few_at_a_time(rig, sent):
    """Another piece than the next one, or one too many, is ignored; the wanted one is named."""
    checkpoint, data = sent
    incoming = rig.store.receive(checkpoint.digest, len(data))
    written: list = []
    assert incoming.add(64, data[64:128], written.append) == 0
    for piece in range(4):
        assert incoming.add(64 * piece, data[64 * piece :][:64], written.append) == 64 * piece + 64
    assert incoming.add(256, data[256:320], written.append) == 256
    assert incoming.add(0, data[:64], written.append) == 256
    assert written == []
    rig.writer.finish()
    assert written == [64, 128, 192, 256]
    assert incoming.add(256, data[256:320], written.append) == 320
    rig.writer.finish()
    with pytest.raises(MalformedError):
        incoming.add(320, bytes(len(data)), written.append)


@pytest.mark.parametrize("total", [0, 100, (4 << 30) + 1])
def test_an_absurd_length_is_refused(rig, total):
    """Before a byte is kept."""
    with pytest.raises(MalformedError):
        rig.store.receive(bytes(32), total)


def test_a_received_checkpoint_with_a_flaw_is_refused(rig, sent):
    """Any flipped byte, another digest, another cluster: nothing of it stays."""
    checkpoint, data = sent
    for byte in range(0, len(data), 3):
        bad = data[:byte] + bytes([data[byte] ^ 4]) + data[byte + 1 :]
        (said,) = rig.receive(checkpoint.digest, bad)
        assert isinstance(said, MalformedError)
        assert rig.names == []
    (said,) = rig.receive(bytes(32), data)
    assert isinstance(said, MalformedError)
    (said,) = rig.receive(checkpoint.digest, data + b"x")
    assert isinstance(said, MalformedError)
    (said,) = rig.receive(checkpoint.digest, data[:-1])
    assert isinstance(said, MalformedError)
    assert rig.names == []
    assert not rig.fatal
    rig.open(cluster="others")
    (said,) = rig.receive(checkpoint.digest, data)
    assert "of cluster 'leads'" in str(said)


@pytest.mark.parametrize("kind", ["create", "allocate", "write"])
def test_no_space_ends_a_transfer_and_nothing_else(rig, sent, kind):
    """It is told once, what came is removed, and it may begin again."""
    checkpoint, data = sent
    rig.system.fail(kind, errno.ENOSPC, after=1 if kind == "write" else 0)
    incoming = rig.store.receive(checkpoint.digest, len(data))
    said: list = []
    for piece in range(3):
        incoming.add(64 * piece, data[64 * piece :][:64], said.append)
    rig.writer.finish()
    assert [type(one) for one in said if type(one) is not int] == [NoSpaceError]
    assert rig.names == []
    assert not rig.fatal
    assert isinstance(rig.receive(checkpoint.digest, data)[0], Checkpoint)


def test_a_cancelled_transfer_leaves_nothing(sent):
    """At whatever step it is cancelled, and whatever began after it."""
    checkpoint, data = sent
    for steps in range(30):
        rig = Rig(piece_bytes=128)
        incoming = rig.store.receive(checkpoint.digest, len(data))
        said: list = []
        for offset in range(0, len(data), 256):
            incoming.add(offset, data[offset : offset + 256], lambda _: None)
        assert incoming.complete
        incoming.finish(said.append)
        for _ in range(steps):
            if rig.writer.waiting:
                rig.writer.work()
        if said:
            assert steps > 5
            return
        incoming.cancel()
        assert isinstance(rig.receive(checkpoint.digest, data)[0], Checkpoint)
        assert rig.names == ["0000000000000050.install"]
        assert not said
    raise AssertionError("it never came to an end")


def test_a_damaged_received_one_is_dropped(rig, sent):
    """A flaw that came after it was verified."""
    (received,) = rig.receive(sent[0].digest, sent[1])
    rig.flip("0000000000000050.install", 1000)
    with pytest.raises(DamagedError):
        rig.store.load(received)
    rig.writer.finish()
    assert rig.store.received is None
    assert rig.names == []


# --- The end, and the real disk -------------------------------------------------------------------


def test_a_closed_store_reports_nothing(rig):
    """Neither a checkpoint that is being taken nor a scrub."""
    rig.take(3)
    rig.begin(7)
    rig.store.scrub(rig.done.append)
    rig.store.close()
    rig.writer.close()
    assert not rig.done
    rig.kill_and_open()
    assert rig.names == ["0000000000000003.checkpoint"]


class Loop:
    """A reactor of one queue, turned by the test."""

    def __init__(self) -> None:
        import queue

        self.calls = queue.SimpleQueue()

    def callLater(self, delay, call, /, *args) -> None:  # noqa: N802
        self.calls.put((call, args))

    def callFromThread(self, call, /, *args) -> None:  # noqa: N802
        self.calls.put((call, args))

    def until(self, condition) -> None:
        end_s = time.monotonic() + 30
        while not condition():
            call, args = self.calls.get(timeout=max(0.0, end_s - time.monotonic()))
            call(*args)


def test_on_the_real_disk(tmp_path):
    """Taken, made the floor, sent, received, installed, scrubbed, with files and a thread."""
    stores, loops, writers = [], [], []
    for name in ("a", "b"):
        loop = Loop()
        writer = ThreadWriter(loop)
        (tmp_path / name).mkdir()
        store = open_store(
            f"{tmp_path}/{name}", cluster="leads", filesystem=DiskFileSystem(), background=writer
        )
        stores.append(store)
        loops.append(loop)
        writers.append(writer)
    (a, b), (loop, other) = stores, loops
    entry = (bytes(range(256)) * 4000, 7, 2)
    sections = (b"head", b"chunk" * 400_000, b"")
    done: list = []
    a.take(Head(7, 2, 5, 6), entry, sections, durable=lambda: True, done=done.append)
    loop.until(lambda: done)
    a.released(7)
    loop.until(lambda: a.floor)
    a.pin(a.floor)
    incoming = b.receive(a.floor.digest, a.floor.size_bytes)
    while not incoming.complete:
        written: list = []
        piece = a.read(a.floor, incoming.offset, 256 << 10)
        incoming.add(incoming.offset, piece, written.append)
        other.until(lambda: written)  # noqa: B023  it is looked at here
    a.unpin(a.floor)
    said: list = []
    incoming.finish(said.append)
    other.until(lambda: said)
    b.installed(said[0])
    loaded = b.load(b.newest)
    assert loaded.entry == entry
    assert loaded.sections == sections
    b.scrub(said.append)
    other.until(lambda: said[1:])
    assert said[1] == ()
    for store, writer in zip(stores, writers, strict=True):
        store.close()
        writer.close()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["0000000000000007.floor"]
