"""A node's disk and the journal's thread, simulated: what is written, what is safe, what fails.

Decides how long a write takes and what a crash leaves of it. crowd's journal runs on it
unchanged: `SimulatedFileSystem` is the unit tests' `FaultyFileSystem` (un-synced writes and
renames are lost in any subset, writes tear) with room that ends and with traps, and
`SimulatedWriter` is the thread: a job takes simulated time, its effects happen at its end,
or in part when the process or the machine dies before.

`DurableLog` is what the disk is known to hold, kept apart from crowd's own account of it: a
batch enters it when its write has returned *and* the simulated file has nothing un-synced
and a name on the disk. Checks look there.
"""

from __future__ import annotations

import errno
import os
from collections import deque

from crowd.raft.journal.memory import FILE_NAME, read_slots
from crowd.raft.journal.shape import Kind
from tests.unit.journal.fakes import FaultyFile, FaultyFileSystem, PowerCutError

DIRECTORY = "/node"
FREE_BYTES = 64 << 30
TOTAL_BYTES = 128 << 30
SHORT_BYTES = 1 << 30
"""Below the floor of free space that a node keeps, and far from none."""
SUFFIX = ".segment"


class Trap:
    """Ends the process at the n-th step from now of one kind, or of any that changes something."""

    def __init__(self, kind, count, power):
        self.kind = kind
        self.count = count
        self.power = power


class SimulatedFile(FaultyFile):
    """A file on a disk that may be full. What was allocated before can always be written."""

    def write(self, data, offset):
        self._system.need(offset + len(data) - len(self._inode.seen))
        super().write(data, offset)

    def allocate(self, size_bytes):
        self._system.need(size_bytes - len(self._inode.seen))
        super().allocate(size_bytes)


class _Stored:
    """The bytes that the disk holds of a file, for who may only look."""

    def __init__(self, content):
        self._content = content

    def read(self, size_bytes, offset):
        return bytes(self._content[offset : offset + size_bytes])


class SimulatedFileSystem(FaultyFileSystem):
    """A disk. It outlives processes and power cuts."""

    def __init__(self):
        super().__init__()
        self.full = False
        self.short = False
        self.trap = None
        self.sprung = None
        """The trap that has just ended the process, for who clears up."""
        self.failed = None
        """The kind of step that failed for good, if one did since the process began."""
        self.steps = 0

    def step(self, kind):
        if kind == "read":
            return
        self.steps += 1
        if self.steps_left is not None:
            if self.steps_left == 0:
                raise PowerCutError
            self.steps_left -= 1
        trap = self.trap
        if trap is not None and trap.kind in (None, kind):
            trap.count -= 1
            if trap.count <= 0:
                self.trap, self.sprung = None, trap
                raise PowerCutError
        queue = self.faults.get(kind)
        if queue:
            error = queue.popleft()
            if error is not None:
                self.failed = kind
                raise error

    def need(self, growth_bytes):
        """Refuse to grow a file on a full disk."""
        if self.full and growth_bytes > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open(self, path, *, create=False):
        file = super().open(path, create=create)
        return SimulatedFile(self, file._inode)

    def free_bytes(self, path):
        return 0 if self.full else SHORT_BYTES if self.short else FREE_BYTES

    def kill(self):
        super().kill()
        self.trap = self.failed = None

    # --- What is looked at ----------------------------------------------------------------------

    def is_synced(self):
        """Tell whether the newest segment's bytes and name are all on the disk."""
        newest = max((path for path in self.inodes if path.endswith(SUFFIX)), default=None)
        if newest is None:
            return False
        inode = self.inodes[newest]
        return self._on_disk.get(newest) is inode and not any(
            kind == "write" for kind, _, _ in inode.changes
        )

    def votes(self):
        """Return (term, vote) of each slot of the memory file that the disk holds whole."""
        inode = self._on_disk.get(f"{DIRECTORY}/{FILE_NAME}")
        if inode is None:
            return []
        slots = read_slots(_Stored(inode.disk))
        return [(found[1].term, found[1].vote) for found in slots if found is not None]

    def flip(self, path, bit):
        """Let one bit of a stored file be another, for readers and on the disk."""
        inode = self.inodes[path]
        for content in (inode.seen, inode.disk):
            if bit // 8 < len(content):
                content[bit // 8] ^= 1 << bit % 8


class DurableLog:
    """The terms of the entries that a disk holds, by index."""

    def __init__(self):
        self.terms = {}
        self.last = 0
        self.under_way = []
        """Batches whose write was cut short: the disk may hold them, or not."""

    def append(self, batch):
        cut = batch.cut
        if cut is not None:
            if cut.kind is Kind.RESET:
                self.terms.clear()
                self.last = cut.index - 1
            else:
                for index in range(cut.index + 1, self.last + 1):
                    del self.terms[index]
                self.last = min(self.last, cut.index)
        for _, index, term in batch.entries:
            self.terms[index] = term
            self.last = index

    def possible(self):
        """Yield what the disk may hold: this, or this and what was under way."""
        yield self
        for batch in self.under_way:
            other = DurableLog()
            other.terms, other.last = dict(self.terms), self.last
            other.append(batch)
            yield other

    def agrees(self, journal):
        """Tell whether a journal that was just opened holds exactly this."""
        if journal.last_index != max(1, self.last):
            return False
        terms = self.terms
        return all(
            journal.term_at(index) == terms.get(index, 0)
            for index in range(journal.first_index, journal.last_index + 1)
        )

    def read(self, journal):
        """Take what a journal that was just opened holds."""
        self.last, self.under_way = journal.last_index, []
        self.terms = {
            index: journal.term_at(index)
            for index in range(journal.first_index, journal.last_index + 1)
        }


class SimulatedWriter:
    """The journal's thread, of one process."""

    def __init__(self, world, process, *, chance, of_letters=False):
        self._world = world
        self._process = process
        self._chance = chance
        self._of_letters = of_letters
        self._jobs = deque()
        self._busy = False
        self._closed = False

    def submit(self, job, done):
        if self._closed:
            raise RuntimeError("a job for a closed writer")
        self._jobs.append((job, done))
        if not self._busy:
            self._begin()

    @property
    def is_busy(self):
        return self._busy

    def soon(self, call):
        self._process.clock.callLater(0, call)

    def close(self):
        """Do what was submitted; the reactor waits meanwhile."""
        self._closed = True
        while self._jobs:
            job, done = self._jobs.popleft()
            self._process.clock.callFromThread(done, self._do(job))

    def _begin(self):
        self._busy = True
        node = self._process.node
        least_s, most_s = (self._of_letters and node.letters_s) or node.disk_s
        took_s = least_s + self._chance.random() * (most_s - least_s)
        self._world.at(self._process.clock.look() + took_s, self._end, owner=self._process)

    def _end(self):
        self._busy = False
        if not self._jobs:
            return
        job, done = self._jobs.popleft()
        result = self._do(job)
        self._world.at(self._world.now, done, result, owner=self._process)
        if self._jobs:
            self._begin()

    def _do(self, job):
        """Do one job, as the thread would. A trap on the way ends the process."""
        process = self._process
        system, durable = process.node.system, process.node.durable
        batch = _batch_of(job)
        try:
            result = job()
        except PowerCutError:
            durable.under_way += [batch] if batch is not None else []
            process.node.trapped()
        except Exception as error:  # noqa: BLE001  a result like any other
            if system.failed is not None:
                durable.under_way += [batch] if batch is not None else []
                process.node.disk_failed(system.failed)
            return error
        if system.failed is not None:  # nobody may live on with that, whoever hears of it
            process.node.disk_failed(system.failed)
        if batch is not None and system.is_synced():
            durable.append(batch)
        return result

    def cut_short(self, steps):
        """The process dies now: the job under way gets so far, and no further."""
        if not self._busy or not self._jobs:
            return
        job, _ = self._jobs[0]
        system, durable = self._process.node.system, self._process.node.durable
        batch = _batch_of(job)
        durable.under_way += [batch] if batch is not None else []
        system.trap, system.steps_left = None, steps
        try:
            job()
        except (PowerCutError, Exception):  # noqa: BLE001  nobody is left to hear of it
            pass
        system.steps_left = None


def _batch_of(job):
    """Return the batch that a job of the journal's writes, or None if it writes none."""
    call = getattr(job, "func", None)
    return job.args[0] if getattr(call, "__name__", "") == "append" else None
