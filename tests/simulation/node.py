"""A simulated node: a machine with its disk, and how the crowd process on it ends.

Decides how a process ends: by itself (I8), killed, without power, or at a trap within its turn;
and what its disk is known to hold. Leaves when that happens to ``faults``, and how a process is
put together to ``process``.
"""

from __future__ import annotations

import hashlib
import random

from crowd.errors import DamagedError, DirectoryError
from tests.simulation.disk import DurableLog, SimulatedFileSystem
from tests.simulation.process import Process
from tests.simulation.world import ProcessEndedError

YEAR_US = 366 * 86_400 * 10**6
RESTART_S = (0.2, 1.0)
"""When a supervisor starts an ended process again."""


class Node:
    """A machine: its disk, its clocks, and the process on it, if one runs."""

    def __init__(self, cluster, name, peers):
        """`peers` are the members of the node's file, itself among them, with addresses."""
        self.cluster = cluster
        self.peers = peers
        self.world = cluster.world
        self.name = name
        self.chance = random.Random(f"{cluster.plan.seed} {name} machine")
        self.system = SimulatedFileSystem()
        self.durable = DurableLog()
        self.journal_id = None
        self.retired = []
        """The disks that this node had before: (journal id, durable log)."""
        self.disk_s = cluster.plan.disk_s
        self.letters_s = None
        """How long the letters' thread takes for a job, if not as long as others."""
        self.wall_offset_us = 0
        if cluster.plan.are_apart:
            wall = random.Random(f"{cluster.plan.seed} {name} wall")
            self.wall_offset_us = wall.randrange(-YEAR_US, YEAR_US)
        self.process = None
        self.is_off = False
        self.is_gone = False
        """Its machine was taken away for good."""
        self.refusal = None
        """Why its process does not start, until an operator has set its directory aside."""
        self.is_impaired = False
        """Its disk was replaced or damaged, and it is not a whole member again yet."""
        self.flipped = None
        """What bit rot changed and is not mended: (path, place, the byte that was there)."""
        self.has_rotten_letters = False
        self.has_lost_tail = False
        """Bit rot met the last batch, which a start cannot tell from a torn write."""
        self.starts = 0
        self._starting = None
        self.commit_trap = None

    # --- Up and down ------------------------------------------------------------------------------

    def start_in(self, delay_s):
        """Have the process started then, unless one runs by then."""
        if self._starting is not None and self._starting.active():
            self._starting.cancel()
        self._starting = self.world.after(delay_s, self.start)

    def start(self):
        if self.process is not None or self.refusal is not None or self.is_gone:
            return
        self.is_off = False
        self.starts += 1
        self.system.kill()
        self.world.trace(f"{self.name} starts")
        self.process = Process(self, self.starts)
        self.process.turn(self.process.build)
        self.cluster.network.look()

    def opened(self, journal):
        """Take note of what a journal that was just opened holds."""
        self.journal_id = journal.journal_id
        if journal.durable_index == 0:
            return  # it begins anew behind a snapshot; that is the next write
        self.cluster.checks.recovered(self, journal)
        self.durable.read(journal)
        self.has_lost_tail = False

    def kill(self, *, power):
        """End the process at once: the job under way is cut short; perhaps the power goes."""
        process = self.process
        if process is not None:
            for writer in (process.writer, process.background):
                writer.cut_short(self.chance.randrange(8))
            if process.letters.is_busy:
                process.letters.cut_short(self.chance.randrange(3))
            self.died(process, "power" if power else "killed", power=power)
        elif power:
            self._lose_power()

    def trapped(self, *, unwind=True):
        """End the process at a step of its file system that a trap was set for."""
        trap, self.system.sprung = self.system.sprung, None
        self.died(self.process, f"at a {trap.kind or 'step'}", power=trap.power)
        self.start_in(self._pause_s())
        if unwind:
            raise ProcessEndedError

    def commit_passed(self, process):
        """Spring the trap that waits for the commit index to move, if there is one."""
        if self.commit_trap is not None:
            count, power = self.commit_trap
            self.commit_trap = (count - 1, power) if count > 1 else None
            if self.commit_trap is None:
                self.died(process, "at a commit", power=power)
                self.start_in(self._pause_s())
                raise ProcessEndedError

    def send_passed(self, process, *, power):
        """End the process right after a message was sent."""
        self.died(process, "at a send", power=power)
        self.start_in(self._pause_s())
        raise ProcessEndedError

    def died(self, process, how, *, power):
        """Clear up after a process that ended, whatever way."""
        if not process.alive:
            return
        if process.journal is not None:
            process.notice()
        process.alive = False
        self.process = None
        self.world.trace(f"{self.name} ends: {how}")
        self.cluster.network.process_died(process, power=power)
        self.cluster.producers.process_died(process, power=power)
        self.commit_trap = None
        if power:
            self._lose_power()
        else:
            self.system.kill()

    def _lose_power(self):
        self.is_off = True
        self.system.crash(self.chance)

    def ended(self, process, error):
        """Take the end that a process gave itself: a supervisor, or an operator, sees to it."""
        self.cluster.checks.ended(process, error)
        self.died(process, f"{type(error).__name__}: {error}", power=False)
        if isinstance(error, DamagedError | DirectoryError):
            self.refusal = error
            if process.journal is not None:
                self.refusal = None  # it ran: the next start says whether it may
        if self.refusal is None:
            self.start_in(self._pause_s())

    def _pause_s(self):
        return RESTART_S[0] + (RESTART_S[1] - RESTART_S[0]) * self.chance.random()

    # --- The disk ---------------------------------------------------------------------------------

    def disk_failed(self, kind):
        """A write or sync failed for good: the process must end very soon (I8)."""
        self.world.trace(f"{self.name} disk fails: {kind}")
        self.cluster.checks.disk_failed(self.process, kind)

    def replace_disk(self):
        """Put an empty directory in place of the node's; its process is down."""
        assert self.process is None
        self.retired.append((self.journal_id, self.durable))
        self.system, self.durable = SimulatedFileSystem(), DurableLog()
        self.journal_id = None
        self.refusal = None
        self.flipped, self.has_lost_tail, self.has_rotten_letters = None, False, False
        if self.peers:  # who sets a machine up anew gives it the members of today
            self.peers = self.cluster.addresses()
        self.is_impaired = True
        self.world.trace(f"{self.name} has an empty directory")

    def flip(self, path, place, bit):
        """Let a stored bit be another; one at a time, so that `is_mended` knows."""
        if not self.is_mended or path not in self.system.inodes:  # it was just renamed
            return
        content = self.system.inodes[path].disk
        self.flipped = (path, place, content[place] if place < len(content) else None)
        self.is_impaired = True
        self.system.flip(path, 8 * place + bit)
        self.world.trace(f"{self.name} flipped bit {bit} of byte {place} of {path}")

    def rot_letters(self, number):
        """Let a stored letter's bytes be others, or with None the whole table be none."""
        system = self.system
        if number is None:
            system.letters_damaged = True
        else:
            row = system.letters[number]
            system.letters[number] = row._replace(
                message=row.message[:-1] + bytes((row.message[-1] ^ 1,))
            )
        self.has_rotten_letters = self.is_impaired = True
        self.world.trace(f"{self.name} letters rot: {number or 'all'}")

    @property
    def has_good_letters(self):
        """Whether every letter of its ledger is on its disk, whole."""
        process = self.process
        if process is None or self.system.letters_damaged or not process.engine.letters.whole:
            return False
        letters, rows = process.engine.ledger.letters, self.system.letters
        return all(
            number in rows
            and hashlib.sha256(rows[number].message).digest() == letters[number].sha256
            for number in letters
        )

    @property
    def is_mended(self):
        """Whether what bit rot changed is as it was, or gone."""
        if self.has_rotten_letters:
            if not self.has_good_letters:
                return False
            self.has_rotten_letters = False
        if self.flipped is None:
            return True
        path, place, byte = self.flipped
        inode = self.system.inodes.get(path)
        if inode is not None and place < len(inode.disk) and inode.disk[place] != byte:
            return False
        self.flipped = None
        return True

    def holds(self, journal_id, index, term):
        """Tell whether a disk of this node, with this journal, holds (or held) an entry."""
        disks = [*self.retired, (self.journal_id, self.durable)]
        return any(
            known == journal_id and durable.terms.get(index) == term for known, durable in disks
        )
