"""One run: a cluster, its producers and consumers, faults for a while, and then healing.

Decides the course: the faults of the plan happen while producers post; then everything works
again, a node that an operator must see to is seen to, and within a bounded time one node
leads, all ledgers are one, every producer has its 200 and every consumer its messages.
"""

from __future__ import annotations

import math
import random
import time

import msgspec
from twisted.logger import LogLevel, globalLogBeginner, globalLogPublisher

from crowd.errors import DirectoryError
from crowd.raft import guard
from tests.simulation import manners, plans, postings, sizes
from tests.simulation.checks import LOOK_EVERY_S, Checks
from tests.simulation.consumers import Consumer
from tests.simulation.faults import Injector
from tests.simulation.key_checks import KeyStoresOnce
from tests.simulation.log_checks import ElectionSafety
from tests.simulation.network import Network
from tests.simulation.node import Node
from tests.simulation.process import route_definitions
from tests.simulation.producers import Producers
from tests.simulation.world import START_S, World

ROUTES = ("/orders", "/leads")
HEAL_WITHIN_S = 15.0
"""Elections, links and retries take a few seconds each; nothing takes more, or it is a defect."""
DRAIN_WITHIN_S = 5.0
"""A backlog takes as long as its consumer does: then the next message is settled within this."""
HEAL_LOOK_S = 0.25
SHORT = 0.25
"""The share of runs after which the disks are short of room."""
SHORT_WITHIN_S = 75.0
"""Five seconds without a message, and some rounds of a checkpoint and a release, the last of them for
a node that came later than the others."""
MACHINES = "abcdefgh"
MACHINES_MAX = 7
OPERATOR_S = 0.5


def address_of(name):
    """Return where a node is to be found."""
    return f"{name}:1"


class Figures(msgspec.Struct):
    """What one run came to."""

    seed: int
    profile: str
    size: int
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    posted: int = 0
    acknowledged: int = 0
    reused: int = 0
    """Requests that ended with the refusal of their key."""
    replayed: int = 0
    """Messages that were not stored, as their key was known."""
    evicted: int = 0
    """Keys that went for the bound."""
    expired: int = 0
    """Keys that went for their age."""
    deliveries: int = 0
    duplicates: int = 0
    entries: int = 0
    elections: int = 0
    longest_wait_s: float = 0.0
    healed_s: float = 0.0
    violation: str | None = None
    trace_sha256: str = ""


class Cluster:
    """Everything in one simulated world. Made for one run."""

    def __init__(self, plan, *, keep_trace=False, raise_errors=False):
        self.plan = plan
        self.raise_errors = raise_errors
        world = self.world = World(plan.seed, keep_trace=keep_trace)
        guard.install(world.seconds, world.guard_chance)
        sizes.use(plan)
        chance = random.Random(f"{plan.seed} load")
        self.names = list(plans.names_of(plan.size))
        keyed = postings.KEYED_ROUTES if plan.keys else ()
        self.routes = route_definitions((*ROUTES, *keyed))
        self.nodes = {}
        self.checks = Checks(self)
        self.network = Network(world, self.nodes, self.checks, latency_s=plan.latency_s)
        peers = self.addresses() if plan.size > 1 else {}
        for name in self.names:
            self.nodes[name] = Node(self, name, peers)
        self.consumers = {}
        """Every consumer's service that ever was, by its name."""
        self._consumer_chance = chance
        self.consumer_definitions = tuple(
            self.make_consumer(f"consumer-{place}", (ROUTES[0],) if place == 1 else ())
            for place in range(plan.consumers)
        )
        self.producers = Producers(
            world, self.nodes, lambda: self.names, self.checks, chance, plan=plan
        )
        self.injector = Injector(self)
        self.operation = None
        """The member that is to leave, as ("expel", name)."""
        self.joining = []
        """Machines that are there and no members yet."""
        self.heals = 0
        self._healed_at_s = START_S + plans.FAULTS_S
        self.elections = 0

    def make_consumer(self, name, routes):
        """Set a consumer's service up, and return how it is to be defined."""
        plan = self.plan
        service = Consumer(self.world, name, routes, random.Random(f"{plan.seed} {name}"))
        self.consumers[name] = service
        batches = random.Random(f"{plan.seed} {name} takes batches")
        definition = manners.plain(name, routes, self._consumer_chance, batches)
        chance = random.Random(f"{plan.seed} {name} manners")
        if chance.random() >= plan.mannerly:
            return definition
        return manners.draw(
            definition, chance, bent=plan.bent, messages=plan.messages, body_bytes=plan.body_bytes
        )

    # --- What others ask --------------------------------------------------------------------------

    def processes(self):
        """Return the processes that run, and were put together whole."""
        return [
            node.process
            for node in self.nodes.values()
            if node.process is not None and node.process.accepting
        ]

    @property
    def leader(self):
        """The process that leads the highest term, if any does."""
        leaders = [p for p in self.processes() if p.leads]
        return max(leaders, key=lambda process: process.term) if leaders else None

    @property
    def is_born(self):
        leader = self.leader
        return leader is not None and leader.engine.ledger.tag is not None

    def present(self):
        """Return the machines that are there: not those that were removed."""
        return [self.nodes[name] for name in self.names]

    def addresses(self):
        """Return where the members of today are to be found."""
        return {name: address_of(name) for name in self.names}

    # --- Members ----------------------------------------------------------------------------------

    def add_member(self):
        """Set a new machine up, and have a member that runs propose it. False if that cannot be."""
        ready = [process for process in self.processes() if process.engine.ledger.tag is not None]
        if self.plan.size == 1 or not ready or len(self.nodes) >= MACHINES_MAX:
            return False
        name = MACHINES[len(self.nodes)]
        self.names.append(name)
        self.nodes[name] = Node(self, name, self.addresses())
        self.nodes[name].start()
        self.joining.append(name)
        self.world.chance.choice(ready).engine.changes.enroll(name, address_of(name))
        return True

    def remove_member(self, node, *, dead=False):
        """Have a member leave; its machine is switched off once the ledger says so."""
        if self.operation is not None or not self.is_born or self.plan.size == 1:
            return False
        impaired = [other.name for other in self.present() if other.is_impaired]
        voters = self.leader.engine.membership.voters
        if node.name not in voters or len(voters) < 2 or impaired:
            return False
        self.operation = ("expel", node.name)
        if dead:
            node.kill(power=True)
            node.is_gone = True
        self.ask_again()
        return True

    def ask_again(self):
        """See to the change of members that an operator wants: ask for it again, or end it."""
        leader = self.leader
        if leader is None or leader.engine.ledger.tag is None or not leader.engine.may_attempt():
            return
        ledger = leader.engine.ledger
        # Who was asked before may have ended since, and forgot.
        self.joining = [name for name in self.joining if name not in ledger.members]
        for name in self.joining:
            leader.engine.changes.enroll(name, address_of(name))
        if self.operation is None:
            return
        name = self.operation[1]
        if name not in ledger.members:
            self.operation = None
            self.names.remove(name)
            node = self.nodes[name]
            node.is_gone = True
            node.kill(power=True)
            self.world.trace(f"{name} was removed")
        else:
            leader.engine.changes.expel(name)

    # --- The course -------------------------------------------------------------------------------

    def run(self):
        """Run it all; return its figures."""
        world, plan = self.world, self.plan
        began_s = time.process_time()
        watching = _watch_log(world)
        try:
            self._run(world, plan)
        finally:
            globalLogPublisher.removeObserver(watching)
        done = [consumer.done for consumer in self.consumers.values()]
        deliveries = sum(sum(counts.values()) for counts in done)
        return Figures(
            seed=plan.seed, profile=plan.profile, size=plan.size,
            simulated_s=round(world.now - START_S, 3),
            cpu_s=time.process_time() - began_s,
            faults=self.injector.occurred,
            posted=len(self.producers.posts),
            acknowledged=sum(p.acknowledged is not None for p in self.producers.posts),
            reused=sum(p.is_over and p.acknowledged is None for p in self.producers.posts),
            **self.checks.one(KeyStoresOnce).figures(),
            deliveries=deliveries,
            duplicates=deliveries - sum(map(len, done)),
            entries=len(self.checks.truth.entries),
            elections=len(self.checks.one(ElectionSafety)._leaders),
            longest_wait_s=round(self.producers.longest_wait_s, 3),
            healed_s=round(self._healed_at_s - START_S - plans.FAULTS_S, 3),
            violation=str(world.violation) if world.violation else None,
            trace_sha256=world.digest(),
        )  # fmt: skip

    def _run(self, world, plan):
        chance = random.Random(f"{plan.seed} times")
        world.trace(f"seed {plan.seed} {plan.profile} size {plan.size}")
        for node in self.nodes.values():
            world.after(0.2 * chance.random(), node.start)
        times = sorted(chance.uniform(0.5, plans.FAULTS_S) for _ in range(plan.messages))
        self.producers.plan(_in_waves(times, chance), ROUTES, plan.body_bytes)
        for fault in plan.faults:
            world.after(fault.at_s, self.injector.inject, fault)
        world.after(LOOK_EVERY_S, self._look)
        world.run(START_S + plans.FAULTS_S)
        if world.violation is None:
            self._heal()

    def _look(self):
        self.checks.look()
        self.ask_again()
        self.see_to_nodes()
        self.world.after(LOOK_EVERY_S, self._look)

    def see_to_nodes(self):
        """Be the operator: set a damaged directory aside; know who is a whole member again."""
        leader = self.leader
        for node in self.present():
            if node.refusal is not None:
                assert not isinstance(node.refusal, DirectoryError), node.refusal
                node.replace_disk()
                node.start_in(OPERATOR_S)
            elif node.is_impaired and node.process is not None and leader is not None:
                raft = leader.engine.raft
                member = leader.engine.ledger.members.get(node.name)
                node.is_impaired = not (
                    node.process.accepting
                    # Not the journal before: a leader that is cut off may still believe in that.
                    and member is not None
                    and member.journal_id == node.process.journal.journal_id
                    and node.is_mended
                    and leader.engine.may_attempt()
                    and leader.engine.membership.is_voter(node.name)
                    and (leader is node.process or raft.acked(node.name) >= raft.commit_index)
                )

    def _heal(self):
        world = self.world
        world.trace("heal")
        self.heals += 1
        wake_s = world.now
        self.network.heal()
        for consumer in self.consumers.values():
            consumer.cure()
        for node in self.present():
            node.system.full = False
            node.system.trap = node.commit_trap = None
            node.system.faults.clear()
            node.disk_s, node.letters_s = self.plan.disk_s, None
            process = node.process
            if node.is_gone:
                continue
            if process is not None:
                wake_s = max(wake_s, process.stopped_until_s)
                if not process.accepting:
                    node.kill(power=False)
            node.start_in(0.0)
        self.network.look()
        until_s = wake_s + HEAL_WITHIN_S
        missing, fewest = "nothing was looked at", math.inf
        while world.now < until_s and world.violation is None and missing:
            world.run(world.now + HEAL_LOOK_S)
            self.injector.operators.see_to_all()
            missing, left = self._missing(), self._left()
            if missing == _left_words(left) and left < fewest:
                fewest, until_s = left, max(until_s, world.now + DRAIN_WITHIN_S)
        self._healed_at_s = world.now
        if world.violation is not None:
            return
        if missing:
            self.checks.not_healed(f"{world.now - wake_s:g} s after the last fault: {missing}")
            return
        if random.Random(f"{self.plan.seed} short").random() < SHORT and not self.plan.retention_us:
            self._run_short()
        if world.violation is None:
            self.checks.ended_well(self.processes())

    def _run_short(self):
        """Have the disks be short when all is delivered: the log lets go of it."""
        for node in self.present():
            node.system.short = True
        until_s, uncut = self.world.now + SHORT_WITHIN_S, self.names
        while self.world.now < until_s and self.world.violation is None and uncut:
            self.world.run(self.world.now + HEAL_LOOK_S)
            uncut = [process.name for process in self.processes() if not _is_cut(process.engine)]
        if uncut and self.world.violation is None:
            self.checks.not_healed(f"the disks are short, and {uncut} keep what is settled")

    def _missing(self):
        """Return what is not well yet, in words; empty when everything is."""
        return next(filter(None, self._complaints()), "")

    def _complaints(self):
        """Yield what is not well, the most telling first; what holds is an empty text."""
        processes = self.processes()
        running = [process.name for process in processes]
        yield self.operation and f"{self.operation} is not done"
        yield set(running) != set(self.names) and f"of {self.names} only {running} run"
        leaders = [process.name for process in processes if process.engine.may_attempt()]
        yield len(leaders) != 1 and f"{leaders} lead"
        waiting = [post.number for post in self.producers.posts if not post.is_over]
        yield waiting and f"no 200 for {waiting[:5]}"
        voters = self.leader.engine.membership.voters
        yield voters != set(self.names) and f"{sorted(voters)} vote, and {self.names} should"
        for process in processes:
            other = process.engine
            counts = sorted(other.membership.voters)
            yield counts != sorted(voters) and f"{process.name} counts by {counts}"
            ticking = other._ticking.running and other._housekeeping.running
            yield not ticking and f"{process.name} ticks no more"
            letters = other.letters
            kept = letters.whole and not letters.pending_bytes
            yield not kept and f"{process.name} lacks letters"
            rotten = process.node.has_rotten_letters and not process.node.is_mended
            yield rotten and f"{process.name} has not found yet which of its letters rotted"
        yield _left_words(self._left())
        indices = {process.name: process.engine.ledger.applied_index for process in processes}
        yield len(set(indices.values())) > 1 and f"ledgers are at {indices}"

    def _left(self):
        """Return how much is still to be delivered, as the leader knows it; pauses count, too."""
        leader = self.leader
        if leader is None:
            return 0
        ledger = leader.engine.ledger
        return sum(
            consumer.backlog + len(ledger.letters_due(consumer.id, 0, 10_000)) + consumer.paused
            for consumer in ledger.consumers.values()
        )


def _is_cut(engine):
    """Tell whether a restart would begin behind all messages, so that the log need not have them."""
    ledger, floor = engine.ledger, engine.store.floor
    return not ledger.consumers or (floor is not None and floor.tip == ledger.tip)


def _left_words(count):
    return f"{count} deliveries are not settled" if count else ""


def _in_waves(times, chance):
    """Have some messages come together: batches form then."""
    moments = []
    for place, moment in enumerate(times):
        together = place and chance.random() < 0.5
        moments.append(moments[-1] if together else moment)
    return moments


def _watch_log(world):
    """Take crowd's log lines: what is an error's trace in one is lost to nobody."""
    if not _watch_log.begun:
        globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
        _watch_log.begun = True

    def watch(event):
        failure = event.get("log_failure")
        if failure is None or event.get("log_level") is not LogLevel.critical:
            return
        if isinstance(failure.value, Exception):  # else a process that ended in its turn
            world.fail("NoErrorIsLost", f"{event.get('log_format')}: {failure.value!r}")

    globalLogPublisher.addObserver(watch)
    return watch


_watch_log.begun = False
