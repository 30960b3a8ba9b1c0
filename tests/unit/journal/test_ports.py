"""The contract of `ports`, on the real ones and on the fakes that the other tests rest on."""

from __future__ import annotations

import os
import queue
import threading

import pytest

from crowd.errors import DirectoryError
from crowd.raft.journal import DiskFileSystem, ThreadWriter
from tests.unit.journal.fakes import FaultyFileSystem, ManualWriter


@pytest.fixture(params=["disk", "fake"])
def system(request, tmp_path):
    filesystem = DiskFileSystem() if request.param == "disk" else FaultyFileSystem()
    directory = f"{tmp_path}/deep/er"
    filesystem.make_directory(directory)
    filesystem.make_directory(directory)
    return filesystem, directory


def test_a_file_gives_back_what_was_written(system):
    """Bytes come back as they were, and fewer only at the end of the file."""
    filesystem, directory = system
    file = filesystem.open(f"{directory}/one", create=True)
    file.write(b"hello", 3)
    file.sync()
    file.uncache()
    assert file.read(100, 0) == b"\0\0\0hello"
    assert file.read(2, 3) == b"he"
    assert file.read(2, 8) == b""
    file.close()
    again = filesystem.open(f"{directory}/one")
    assert again.size() == 8
    again.close()


def test_room_is_zeros_and_keeps_what_is_there(system):
    """Room that is kept for later reads as zeros; a cut takes the end away."""
    filesystem, directory = system
    file = filesystem.open(f"{directory}/one", create=True)
    file.write(b"abc", 0)
    file.allocate(10)
    assert file.read(100, 0) == b"abc" + bytes(7)
    file.allocate(5)
    assert file.size() == 10
    file.truncate(2)
    assert file.read(100, 0) == b"ab"
    file.close()


def test_created_anew_a_file_is_empty(system):
    """`create` leaves nothing of an older file of that name."""
    filesystem, directory = system
    for content in (b"older and longer", b"new"):
        file = filesystem.open(f"{directory}/one", create=True)
        assert file.size() == 0
        file.write(content, 0)
        file.close()


def test_names(system):
    """Names come and go, sorted; a rename replaces."""
    filesystem, directory = system
    for name in ("b", "a", "c"):
        filesystem.open(f"{directory}/{name}", create=True).close()
    filesystem.rename(f"{directory}/c", f"{directory}/a")
    filesystem.sync_directory(directory)
    assert filesystem.names(directory) == ["a", "b"]
    filesystem.remove(f"{directory}/a")
    assert filesystem.names(directory) == ["b"]
    with pytest.raises(FileNotFoundError):
        filesystem.open(f"{directory}/a")
    with pytest.raises(FileNotFoundError):
        filesystem.remove(f"{directory}/a")
    with pytest.raises(FileNotFoundError):
        filesystem.rename(f"{directory}/a", f"{directory}/b")
    filesystem.make_directory(f"{directory}/below")
    filesystem.open(f"{directory}/below/d", create=True).close()
    assert "d" not in filesystem.names(directory)
    assert filesystem.names(f"{directory}/below") == ["d"]
    assert filesystem.free_bytes(directory) > 0


def test_a_lock_is_had_once(system):
    """The second one who wants the lock hears which process has it; then it is free again."""
    filesystem, directory = system
    lock = filesystem.lock(f"{directory}/lock")
    with pytest.raises(DirectoryError, match=f"process {os.getpid()}"):
        filesystem.lock(f"{directory}/lock")
    lock.close()
    filesystem.lock(f"{directory}/lock").close()


class QueueReactor:
    """A reactor whose turns the test takes."""

    def __init__(self) -> None:
        self.calls: queue.Queue = queue.Queue()

    def callFromThread(self, call, /, *args):  # noqa: N802
        self.calls.put((call, args))

    def callLater(self, delay, call, /, *args):  # noqa: N802
        self.calls.put((call, args))

    def finish(self, count):
        for _ in range(count):
            call, args = self.calls.get(timeout=10)
            call(*args)


class Threaded:
    def __init__(self) -> None:
        self.reactor = QueueReactor()
        self.writer = ThreadWriter(self.reactor)

    def finish(self, count):
        self.reactor.finish(count)


class Manual:
    def __init__(self) -> None:
        self.writer = ManualWriter()

    def finish(self, count):
        self.writer.finish()


@pytest.fixture(params=[Threaded, Manual])
def writing(request):
    made = request.param()
    yield made
    made.writer.close()


def test_jobs_are_done_in_order_and_report_in_the_reactor(writing):
    """Each job runs after the one before it, and its result comes back."""
    done, reported = [], []
    for number in range(20):
        writing.writer.submit(lambda n=number: done.append(n) or n, reported.append)
    assert reported == []
    writing.finish(20)
    assert done == reported == list(range(20))


def test_a_job_that_fails_reports_its_error_and_the_next_one_runs(writing):
    """An error is a result like any other; it ends nothing."""
    reported = []
    writing.writer.submit(lambda: 1 // 0, reported.append)
    writing.writer.submit(lambda: 7, reported.append)
    writing.finish(2)
    assert isinstance(reported[0], ZeroDivisionError)
    assert reported[1] == 7


def test_soon_is_not_now(writing):
    """What is to happen soon happens after what runs now."""
    seen = []
    writing.writer.soon(lambda: seen.append(1))
    assert seen == []
    writing.finish(1)
    assert seen == [1]


def test_close_waits_for_what_was_submitted(writing):
    """After `close` the jobs are done, and there are no more."""
    done = []
    writing.writer.submit(lambda: done.append(1), lambda _: None)
    writing.writer.close()
    assert done == [1]
    with pytest.raises(RuntimeError):
        writing.writer.submit(lambda: None, lambda _: None)


def test_no_thread_before_the_first_job():
    """`twistd` forks after the service is made: a thread must not exist by then."""
    before = threading.active_count()
    threaded = Threaded()
    assert threading.active_count() == before
    seen: list[int] = []
    threaded.writer.submit(threading.get_ident, seen.append)
    threaded.finish(1)
    assert seen != [threading.get_ident()]
    threaded.writer.close()
    assert threading.active_count() == before
