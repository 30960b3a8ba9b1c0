"""The crowd process on a simulated node.

Decides how a process is put together (as ``crowd/service.py`` does, with simulated seams), what
a turn of it is, and how it is stopped as an operator stops it. Leaves all other ends to ``node``.
"""

from __future__ import annotations

import random

from twisted.internet.defer import Deferred

from crowd.archive import EngineArchive
from crowd.command import Define
from crowd.consumers import EngineConsumers
from crowd.definition import KeyBounds, RouteDefinition
from crowd.delivery.dispatcher import Dispatcher
from crowd.errors import FatalError
from crowd.letters import EngineLetters
from crowd.orders import Orders
from crowd.raft.compaction import Pace
from crowd.raft.engine import Engine
from crowd.raft.letters import LetterStore
from crowd.raft.replication import Window
from crowd.raft.seams import Bounds, Identity, Seams, Space
from crowd.raft.storage import open_storage
from crowd.view import EngineAcceptor
from crowd.web.ingest import Ingest
from crowd.web.router import Router
from crowd.wishes import Wishes
from tests.simulation import postings
from tests.simulation.consumers import SimulatedCourier
from tests.simulation.disk import (
    DIRECTORY,
    TOTAL_BYTES,
    SimulatedWriter,
)
from tests.simulation.network import SimulatedLinks
from tests.simulation.waits import Waits
from tests.simulation.world import WALL_AT_START_US, ProcessClock, ProcessEndedError
from tests.unit.journal.fakes import PowerCutError
from tests.unit.letters.fakes import FaultyShelf

CLUSTER = "leads"
FILE_HASH = b"f" * 32
LATER_HASH = b"l" * 32
BACKLOG_BYTES = 1 << 30
PIECE_BYTES = 512
"""So that a snapshot, and a checkpoint at a crash, has many pieces."""


def route_definitions(paths):
    return tuple(RouteDefinition(path, ("POST",), "refuse", None) for path in paths)


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
        self.newest = None
        self.term = 0

    def build(self):
        """Put the parts together and begin. This is the process's first turn."""
        node, cluster = self.node, self.node.cluster
        chance = random.Random(f"{cluster.plan.seed} {self.name} {self.number}")
        plan = cluster.plan
        self.writer = SimulatedWriter(node.world, self, chance=chance)
        self.background = SimulatedWriter(node.world, self, chance=chance)
        letters_chance = random.Random(f"{plan.seed} {self.name} {self.number} letters")
        self.letters = SimulatedWriter(node.world, self, chance=letters_chance, of_letters=True)
        seams = Seams(
            open_storage=lambda: self._open_storage(chance),
            make_links=self._make_links if node.peers else None,
            space=lambda: Space(node.system.free_bytes(DIRECTORY), TOTAL_BYTES),
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
        self._want_definitions(engine)
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
        self._open_rooms()
        entrance = postings.entrance(self._wall_us, self.clock.seconds) if plan.keys else None
        ingest = Ingest(
            EngineAcceptor(engine), cluster.routes, self._wall_us, entrance=entrance
        )  # fmt: skip
        self.router = Router(ingest.app, entrance=entrance)
        self.waits = Waits(self, engine, dispatcher) if plan.waits else None
        self.accepting = True

    def _want_definitions(self, engine):
        """Have the node's file in the log, and the one with other bounds, if it has got that."""
        cluster, keys = self.node.cluster, self.node.cluster.plan.keys
        bounds = keys and KeyBounds(*keys.bounds)
        define = Define(
            self.name, FILE_HASH, cluster.routes, cluster.consumer_definitions, bounds
        )  # fmt: skip
        engine.want(
            "configuration",
            lambda ledger: self.name in ledger.file_hashes,
            lambda: define,
        )
        if keys and keys.later and self.number > 1:
            later = Define(self.name, LATER_HASH, cluster.routes, (), KeyBounds(*keys.later))
            engine.want(
                "another configuration",
                lambda ledger: ledger.file_hashes.get(self.name) == LATER_HASH,
                lambda: later if self.name in engine.ledger.file_hashes else define,
            )

    def _open_rooms(self):
        """Open the rooms where operators ask for changes."""
        engine, archive = self.engine, EngineArchive(self.engine)
        chance = random.Random(f"{self.node.cluster.plan.seed} {self.name} {self.number} orders")
        self.wishes = Wishes(engine, self.clock.seconds, chance)
        self.orders = Orders(self.clock, self.wishes)
        progress = self.dispatcher.progress
        self.consumers = EngineConsumers(self.wishes, self.name, archive, progress)
        self.dead_letters = EngineLetters(self.clock, self.wishes, archive, self.orders)

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
        newest = self.engine.store.newest
        if newest is not self.newest:
            self.newest = newest
            self.node.cluster.checks.covered(self)
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
        self.orders.close()
        if self.waits is not None:
            self.waits.close()
        await self.dispatcher.stopService()
        await self.engine.stopService()
        self.background.close()
        self.letters.close()
        self.node.died(self, "stopped", power=False)

    def _drain_failed(self, failure):
        self.broke(failure, "cannot stop")

    def broke(self, failure, words="has a Deferred that failed"):
        """Take what ended in a Deferred as if it had come out of its turn."""
        if not self.alive:
            return
        if failure.check(PowerCutError):
            self.node.trapped(unwind=False)
        elif failure.check(FatalError):
            self.node.ended(self, failure.value)
        else:
            self.node.world.fail("NoErrorIsLost", f"{self.name} {words}: {failure.value!r}")

    def _end(self, error):
        """End now, as ``os._exit`` does: nothing more of this turn has an effect."""
        if self.alive:  # else it was ended in this very turn, and what it made of that is nothing
            self.node.ended(self, error)
        raise ProcessEndedError
