"""A simulated node: a machine with its disk, and the crowd process on it.

Decides how a process is put together (as ``crowd/service.py`` does, with simulated seams)
and how it ends: by itself (I8), killed, without power, at a trap within its turn, or stopped
as an operator stops it. Leaves when that happens to ``faults``.
"""

from __future__ import annotations

import random

from twisted.internet.defer import Deferred

from crowd.command import Define
from crowd.definition import ConsumerDefinition, Retry, RouteDefinition
from crowd.delivery.dispatcher import Dispatcher
from crowd.errors import DamagedError, DirectoryError, FatalError
from crowd.raft.compaction import Pace
from crowd.raft.engine import Engine
from crowd.raft.letters import LetterStore
from crowd.raft.replication import Window
from crowd.raft.seams import Bounds, Identity, Seams, Space
from crowd.raft.storage import open_storage
from crowd.view import EngineAcceptor
from crowd.web.ingest import Ingest
from crowd.web.router import Router
from tests.simulation.consumers import SimulatedCourier
from tests.simulation.disk import (
    DIRECTORY,
    FREE_BYTES,
    TOTAL_BYTES,
    DurableLog,
    SimulatedFileSystem,
    SimulatedWriter,
)
from tests.simulation.network import SimulatedLinks
from tests.simulation.world import WALL_AT_START_US, ProcessClock, ProcessEndedError
from tests.unit.journal.fakes import PowerCutError
from tests.unit.letters.fakes import FaultyShelf

CLUSTER = "leads"
FILE_HASH = b"f" * 32
BACKLOG_BYTES = 1 << 30
PIECE_BYTES = 512
"""So that a snapshot, and a checkpoint at a crash, has many pieces."""
RESTART_S = (0.2, 1.0)
"""When a supervisor starts an ended process again."""


def route_definitions(paths):
    return tuple(RouteDefinition(path, ("POST",), "refuse", None) for path in paths)


def consumer_definition(name, routes, *, concurrency, timeout_us, batch=None):
    return ConsumerDefinition(
        name=name, url=f"http://{name}.example/", path=None, routes=routes,
        concurrency=concurrency, rate=None, timeout_us=timeout_us, order="none", from_="beginning",
        retry=Retry(50_000, 2.0, 500_000, 10**12), backlog_bytes=1 << 30, when_full="refuse",
        batch=batch,
    )  # fmt: skip


class Process:
    """One run of crowd on a node."""

    def __init__(self, node, number):
        self.node = node
        self.name = node.name
        self.number = number
        self.alive = True
        self.accepting = False
        self.stopped_until_s = float("-inf")
        self.clock = ProcessClock(node.world, self)
        self.requests = {}
        self.links = None
        self.journal = None
        self.leads = False
        self.commit = 0
        self.term = 0

    def build(self):
        """Put the parts together and begin. This is the process's first turn."""
        node, cluster = self.node, self.node.cluster
        chance = random.Random(f"{cluster.plan.seed} {self.name} {self.number}")
        plan = cluster.plan
        self.writer = SimulatedWriter(node.world, self, chance=chance)
        self.background = SimulatedWriter(node.world, self, chance=chance)
        letters_chance = random.Random(f"{plan.seed} {self.name} {self.number} letters")
        self.letters = SimulatedWriter(node.world, self, chance=letters_chance)
        seams = Seams(
            open_storage=lambda: self._open_storage(chance),
            make_links=self._make_links if node.peers else None,
            space=lambda: Space(0 if node.system.full else FREE_BYTES, TOTAL_BYTES),
            on_fatal=self._end,
        )
        engine = self.engine = Engine(
            self.clock,
            self._wall_us,
            chance,
            Identity(self.name, CLUSTER, node.peers),
            seams,
            Bounds(
                plan.within_s,
                BACKLOG_BYTES,
                plan.retention_us,
                checkpoints=Pace(plan.checkpoint_entries, plan.checkpoint_entries * 200),
                window=Window(4096, 8, 16 * 1024),
                piece_bytes=PIECE_BYTES,
                checkpoints_every=4,
            ),
        )
        define = Define(self.name, FILE_HASH, cluster.routes, cluster.consumer_definitions)
        engine.want(
            "configuration",
            lambda ledger: ledger.file_hashes.get(self.name) == FILE_HASH,
            lambda: define,
        )
        self._watch_applied(engine)
        dispatcher = self.dispatcher = Dispatcher(
            self.clock, chance, engine.ledger, engine, self._courier,
            lambda: engine.producers_wait, self._end,
        )  # fmt: skip
        engine.applied_hooks.append(dispatcher.advanced)
        engine.leading_hooks.append(dispatcher.leading)
        engine.leaving_hooks.append(dispatcher.report)
        engine.letter_hooks.append(dispatcher.letters_came)
        try:
            engine.startService()
        except FatalError as error:
            self._end(error)
        dispatcher.startService()
        self.router = Router(Ingest(EngineAcceptor(engine), cluster.routes, self._wall_us).app)
        self.accepting = True

    # --- Seams ------------------------------------------------------------------------------------

    def _wall_us(self):
        node = self.node
        return WALL_AT_START_US + node.wall_offset_us + int(self.clock.look() * 1e6)

    def _open_storage(self, chance):
        node, plan = self.node, self.node.cluster.plan
        storage = open_storage(
            DIRECTORY, cluster=CLUSTER, node=self.name, filesystem=node.system, writer=self.writer,
            background=self.background, segment_bytes=plan.segment_bytes,
            letters=lambda: LetterStore(FaultyShelf(node.system), self.letters),
            cache_bytes=plan.cache_bytes, piece_bytes=PIECE_BYTES, seconds=self.clock.look, draw=chance.randbytes,
        )  # fmt: skip
        journal = self.journal = storage.journal
        node.opened(journal)
        add, cut, commit = journal.add, journal.deleteEntriesFrom, journal.setRaftCommitIndex
        checks = node.cluster.checks

        def checked_add(command, idx, term):
            checks.appended(self, idx, term, command)
            add(command, idx, term)

        def checked_cut(place):
            last_kept = journal.first_index + place - 1
            if last_kept < journal.last_index:
                checks.cut(self, last_kept)
            cut(place)

        def trapped_commit(index):
            commit(index)
            node.commit_passed(self)

        journal.add, journal.deleteEntriesFrom = checked_add, checked_cut
        journal.setRaftCommitIndex = trapped_commit
        checks.opened(self, journal)
        return storage

    def _make_links(self, engine, hello):
        self.links = SimulatedLinks(self.node.cluster.network, self, engine, hello)
        return self.links

    def _courier(self, definition):
        cluster = self.node.cluster
        return SimulatedCourier(
            self, cluster.consumers[definition.name], definition, cluster.checks
        )

    def _watch_applied(self, engine):
        apply, restore, checks = engine.apply, engine._restore, self.node.cluster.checks

        def checked_apply(index, term, command):
            apply(index, term, command)
            checks.applied(self, index, term, command)

        def checked_restore(checkpoint, loaded):
            restore(checkpoint, loaded)
            checks.restored(self, checkpoint)

        engine.apply, engine._restore = checked_apply, checked_restore

    # --- Turns ------------------------------------------------------------------------------------

    def turn(self, call, args=()):
        """Let this process do something: one event of its reactor, or of its thread."""
        node, world = self.node, self.node.world
        outer, world.current = world.current, self
        try:
            call(*args)
        except ProcessEndedError:
            pass
        except PowerCutError:
            node.trapped(unwind=False)
        except Exception as error:
            world.fail("NoErrorIsLost", f"{self.name}: {error!r}")
            if node.cluster.raise_errors:
                raise
        finally:
            world.current = outer
        if self.alive and self.journal is not None:
            self.notice()

    def notice(self):
        """Tell the checks what this turn changed."""
        raft = getattr(self.engine, "raft", None)
        if raft is None:
            return
        commit = raft._SyncObj__raftCommitIndex
        if commit != self.commit:
            before, self.commit = self.commit, commit
            self.node.cluster.checks.committed(self, before, commit)
        term, leads = raft._SyncObj__raftCurrentTerm, raft._SyncObj__raftState == 2
        if leads != self.leads or term != self.term:
            self.leads, self.term = leads, term
            role = "leads" if leads else "follows"
            self.node.world.trace(f"{self.name} {role} term {term}")
            if leads:
                self.node.cluster.checks.led(self)

    def stop_for(self, seconds):
        """SIGSTOP now, SIGCONT later; also in the middle of a turn."""
        world = self.node.world
        # One that is stopped already stays so: its events wait for the end of that.
        until_s = max(self.clock.look() + seconds, self.stopped_until_s)
        if world.current is self:
            self.clock.jump(until_s)
        self.stopped_until_s = until_s
        self.node.cluster.network.look()
        world.at(until_s, self.node.cluster.network.look)

    def drain(self):
        """Stop as an operator stops it; the process ends when all is handed over."""
        self.accepting = False
        Deferred.fromCoroutine(self._drain()).addErrback(self._drain_failed)

    async def _drain(self):
        await self.dispatcher.stopService()
        await self.engine.stopService()
        self.background.close()
        self.letters.close()
        self.node.died(self, "stopped", power=False)

    def _drain_failed(self, failure):
        if not self.alive:
            return
        if failure.check(PowerCutError):
            self.node.trapped(unwind=False)
        elif failure.check(FatalError):
            self.node.ended(self, failure.value)
        else:
            self.node.world.fail("NoErrorIsLost", f"{self.name} cannot stop: {failure.value!r}")

    def _end(self, error):
        """End now, as ``os._exit`` does: nothing more of this turn has an effect."""
        if self.alive:  # else it was ended in this very turn, and what it made of that is nothing
            self.node.ended(self, error)
        raise ProcessEndedError


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
        self.wall_offset_us = 0
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
        self.flipped, self.has_lost_tail = None, False
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

    @property
    def is_mended(self):
        """Whether what bit rot changed is as it was, or gone."""
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
