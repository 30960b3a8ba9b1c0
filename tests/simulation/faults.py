"""Which faults occur, drawn from the seed before the run, and what each of them does.

Decides a run's `Plan`: plain values, so that a failing run can be shrunk by taking faults
away. `inject` carries one out. A fault whose condition does not hold when its time comes does
nothing: the generator knows no leader yet, and the failure model is kept here. It is:

- any process may end, stop or lose power at any step, all of them at once too;
- any message may be late, held or lost; any link may be half-open; any way may be blocked;
- any write or sync may fail, and then the process ends;
- a minority of the disks at most is lost or damaged at a time, and the next one only when
  the last one's node is a whole member again; no disk says that it has what it has not.
"""

from __future__ import annotations

import errno
import random

import msgspec

from tests.simulation.disk import DIRECTORY, Trap
from tests.simulation.world import START_S

FAULTS_S = 11.0
"""How long faults occur. Elections take about a second, so many follow one another."""
BEGIN_S = 0.3
SLOW_DISK_S = (0.02, 0.4)
CLOCK_JUMP_US = 4 * 3600 * 10**6


class Fault(msgspec.Struct, frozen=True):
    """What happens when, where, for how long, and how much of it.

    `node` is a name, or ``leader``: whoever leads then. `other` is a second node or the name
    of a consumer. `count` is the n of an n-th step; `power`: the machine loses power, too.
    """

    at_s: float
    kind: str
    node: str = ""
    other: str = ""
    for_s: float = 0.0
    count: int = 0
    power: bool = False
    chance: float = 0.0


class Plan(msgspec.Struct, frozen=True):
    """All that is decided of a run before it begins."""

    seed: int
    profile: str
    size: int
    faults: tuple[Fault, ...]
    latency_s: float = 0.001
    disk_s: tuple[float, float] = (0.0005, 0.003)
    segment_bytes: int = 8192
    cache_bytes: int = 4096
    consumers: int = 2
    messages: int = 200
    body_bytes: int = 200
    within_s: float = 2.0
    patience_s: float = 2.5
    retention_us: int = 0
    checkpoint_entries: int = 60


NETWORK = (
    "partition", "one-way", "bridge", "cut-off", "slow-link", "half-open", "reset", "slow-network",
)  # fmt: skip
DISK = (
    "slow-disk", "failed-sync", "failed-write", "full-disk", "bit-rot", "memory-rot", "tail-rot",
)  # fmt: skip
MEMBERS = ("add-member", "remove-member", "replace-member", "replace-disk")
NODES = (
    "kill", "power", "kill-all", "power-all", "trap-step", "trap-sync", "trap-write", "trap-send",
    "trap-commit", "restart", "restart-all", "pause", "pause-in-turn", "pause-cut-off",
    "clock-jump",
)  # fmt: skip
CONSUMERS = ("consumer-slow", "consumer-failing", "consumer-mute", "consumer-gone")
KINDS = (*NETWORK, *DISK, *NODES, *MEMBERS, *CONSUMERS)
FAMILIES = {
    "network": NETWORK,
    "disk": DISK,
    "nodes": NODES,
    "members": (*MEMBERS, "kill", "power", "power-all", "cut-off", "partition", "slow-disk"),
    "torn": ("trap-step", "trap-sync", "trap-write", "power", "power-all", "cut-off", "slow-disk"),
    "rotten": ("bit-rot", "memory-rot", "tail-rot", "restart", "kill", "cut-off"),
    "deposed": ("cut-off", "one-way", "partition", "slow-disk", "pause", "slow-link", "kill"),
    "relapse": ("failed-sync", "failed-sync", "failed-write", "kill", "power", "cut-off"),
    "backlog": ("consumer-gone", "consumer-failing", "kill", "cut-off", "power", "replace-disk"),
    "birth": ("kill", "power", "partition", "one-way", "slow-network", "slow-disk", "trap-step"),
    "room": ("full-disk", "full-disk", "full-disk", "restart", "slow-link"),
    "woken": ("pause-cut-off", "pause-cut-off", "pause-in-turn", "consumer-slow"),
    "snapshots": ("replace-disk", "add-member", "trap-step", "trap-sync", "power", "slow-disk"),
}
ALONE = frozenset((*DISK, *NODES, *CONSUMERS)) - {"bit-rot", "tail-rot", "pause-cut-off"}
"""What can happen to a cluster of one."""

PROFILES = ("quiet", "single", "few", "mixed", "network", "disk", "nodes", "members", "storm")
WEIGHTS = (1, 4, 5, 8, 4, 5, 6, 4, 4)
HUNTS = ("torn", "rotten", "deposed", "relapse", "backlog", "birth", "room", "woken", "snapshots")
"""Profiles that no seed draws by itself: each looks for what a certain guard keeps away."""
BIRTH_S = 1.5


def make_plan(seed, *, profile=None, size=None):
    """Return the plan that a seed stands for."""
    chance = random.Random(f"{seed} plan")
    drawn = chance.choices(PROFILES, WEIGHTS)[0]
    profile = profile or drawn
    drawn_size = chance.choices((1, 3, 5), (2, 16, 3))[0]
    size = size or drawn_size
    names = names_of(size)
    kinds = [kind for kind in KINDS if size > 1 or kind in ALONE]
    count = 0
    if profile == "single":
        kinds, count = [chance.choice(kinds)], chance.randrange(1, 6)
    elif profile == "few":
        kinds, count = chance.sample(kinds, 3), chance.randrange(4, 12)
    elif profile == "mixed":
        count = chance.randrange(4, 14)
    elif profile in FAMILIES:
        kinds = [kind for kind in kinds if kind in FAMILIES[profile]] or kinds
        count = chance.randrange(4, 14)
    elif profile == "storm":
        count = chance.randrange(15, 35)
    moments = _moments(chance, count)
    if profile == "birth":
        moments = [chance.uniform(0.0, BIRTH_S) for _ in moments]
    elif profile in HUNTS:
        moments = [*moments, *_moments(chance, count)]
    faults = [_draw(chance, chance.choice(kinds), names, at_s) for at_s in moments]
    return Plan(
        seed=seed,
        profile=profile,
        size=size,
        faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
        latency_s=chance.choice((0.0003, 0.001, 0.005, 0.02)),
        disk_s=chance.choice(((0.0002, 0.001), (0.0005, 0.003), (0.002, 0.02))),
        segment_bytes=chance.choice((4096, 8192, 16384)),
        cache_bytes=chance.choice((0, 2048, 65536)),
        consumers=chance.randrange(1, 4),
        messages=chance.randrange(60, 320) * 3 // (2 + size // 2),
        body_bytes=chance.choice((40, 200, 2000)),
        within_s=chance.choice((0.5, 2.0, 2.0, 4.0)),
        patience_s=chance.choice((0.7, 2.5, 5.0)),
        retention_us=chance.choice((0, 0, 1_000_000)),
        checkpoint_entries=20 if profile == "snapshots" else chance.choice((20, 60, 60, 10_000)),
    )


def names_of(size):
    return tuple("abcde"[:size])


def _moments(chance, count):
    """Return when faults occur: spread evenly, or a few at a time and then quiet."""
    if chance.random() < 0.6:
        return [chance.uniform(BEGIN_S, FAULTS_S) for _ in range(count)]
    centres = [chance.uniform(BEGIN_S, FAULTS_S - 2.0) for _ in range(1 + count // 6)]
    return [min(FAULTS_S, chance.choice(centres) + chance.expovariate(1.5)) for _ in range(count)]


def _draw(chance, kind, names, at_s):
    node = chance.choice((*names, "leader"))
    for_s = chance.choice((0.05, 0.3, 1.0, 2.5, 5.0)) * (0.5 + chance.random())
    return Fault(
        at_s=round(at_s, 4),
        kind=kind,
        node=node,
        other=chance.choice(names) if len(names) > 1 else "",
        for_s=round(for_s, 4),
        count=chance.choice((1, 2, 3, chance.randrange(1, 40))),
        power=chance.random() < 0.5,
        chance=round(chance.random(), 6),
    )


class Injector:
    """Carries faults out on a cluster, and takes all of them back."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._world = cluster.world
        self.occurred = {}
        """By kind: how many had an effect."""

    def inject(self, fault):
        """Carry a fault out, if what it needs is there."""
        node = self._node(fault.node)
        done = _ACTIONS[fault.kind](self, fault, node)
        effect = "none" if done is False else fault.node
        self._world.trace(f"fault {fault.kind} {effect} {fault.other} {fault.for_s:g}")
        if done is not False:
            self.occurred[fault.kind] = self.occurred.get(fault.kind, 0) + 1

    def _node(self, name):
        if name == "leader":
            leader = self._cluster.leader
            return leader.node if leader is not None else self._node(self._cluster.names[0])
        node = self._cluster.nodes[name]
        if node.name not in self._cluster.names:  # it was removed: another one's turn
            node = self._cluster.nodes[self._cluster.names[0]]
        return node

    def _other(self, fault, node):
        names = [name for name in self._cluster.names if name != node.name]
        return fault.other if fault.other in names else (names or [node.name])[0]

    # --- Network ----------------------------------------------------------------------------------

    def _block(self, pairs, for_s):
        network = self._cluster.network
        network.block(pairs)
        generation = self._cluster.heals
        self._world.after(for_s, self._unblock, pairs, generation)

    def _unblock(self, pairs, generation):
        if generation == self._cluster.heals:
            self._cluster.network.unblock(pairs)

    def _partition(self, fault, node):
        """Two groups: the node, perhaps with another one, and the rest."""
        names = self._cluster.names
        group = {node.name}
        if fault.count % 2 and len(names) > 3:
            group.add(self._other(fault, node))
        pairs = [(one, two) for one in names for two in names if (one in group) != (two in group)]
        self._block(pairs, fault.for_s)

    def _one_way(self, fault, node):
        """The node hears the others, or they hear it; not both."""
        others = [name for name in self._cluster.names if name != node.name]
        if fault.power:
            self._block([(node.name, name) for name in others], fault.for_s)
        else:
            self._block([(name, node.name) for name in others], fault.for_s)

    def _bridge(self, fault, node):
        """Two nodes do not hear each other; all others hear both."""
        others = [name for name in self._cluster.names if name != node.name]
        one = self._other(fault, node)
        if len(others) < 2:
            return False
        pairs = [(one, node.name), (node.name, one)]
        if len(others) > 2:  # of five: two on each side, and one in the middle
            two = next(name for name in others if name != one)
            pairs += [(two, node.name), (node.name, two)]
        self._block(pairs, fault.for_s)
        return None

    def _cut_off(self, fault, node):
        """The leader, whoever it is then, is cut off from all."""
        leader = self._cluster.leader
        if leader is None:
            return False
        self._partition(msgspec.structs.replace(fault, count=0), leader.node)
        return None

    def _slow_link(self, fault, node):
        other = self._other(fault, node)
        self._slow([(node.name, other), (other, node.name)], fault)

    def _slow_network(self, fault, node):
        names = self._cluster.names
        self._slow([(one, two) for one in names for two in names if one != two], fault)

    def _slow(self, pairs, fault):
        slow = self._cluster.network.slow
        for pair in pairs:
            slow[pair] = 0.02 + 0.4 * fault.chance**2
        self._world.after(fault.for_s, lambda: [slow.pop(pair, None) for pair in pairs])

    def _half_open(self, fault, node):
        self._cluster.network.half_open(node.name, self._other(fault, node))

    def _reset(self, fault, node):
        self._cluster.network.reset(node.name, self._other(fault, node))

    # --- Disk -------------------------------------------------------------------------------------

    def _slow_disk(self, fault, node):
        node.disk_s = SLOW_DISK_S if fault.power else (0.0, 3.0 * fault.chance)
        self._world.after(fault.for_s, self._disk_is_well, node)

    def _disk_is_well(self, node):
        node.disk_s = self._cluster.plan.disk_s

    def _fails(self, kind, fault, node):
        if node.process is None:
            return False
        code = errno.EIO if fault.power or kind != "sync" else errno.ENOSPC
        node.system.fail(kind, code, after=fault.count - 1)
        return None

    def _failed_sync(self, fault, node):
        return self._fails("sync_directory" if fault.chance < 0.1 else "sync", fault, node)

    def _failed_write(self, fault, node):
        return self._fails("write", fault, node)

    def _full_disk(self, fault, node):
        node.system.full = True
        self._world.after(fault.for_s, setattr, node.system, "full", False)

    def _may_impair(self, node):
        """Keep the failure model: a minority's disks, and each whole again before the next."""
        cluster = self._cluster
        if not cluster.is_born or cluster.operation is not None or node.journal_id is None:
            return False
        impaired = {n.name for n in cluster.present() if n.is_impaired} | {node.name}
        ledger = cluster.leader.engine.ledger
        agreed = {name for name, member in ledger.members.items() if member.votes}
        # What the log says, and what each member counts by: a change counts once all know of it.
        views = [process.engine.membership.voters for process in cluster.processes()]
        return all(len(impaired & v) * 2 < len(v) for v in (agreed, *views) if v)

    def _bit_rot(self, fault, node):
        """Flip a bit of a stored file; the node goes on, or restarts at once.

        Not in the log's last batch, which a start cannot tell from a torn one; see `tail-rot`.
        """
        if not self._may_impair(node) or node.process is None:
            return False
        places = [
            (path, end)
            for path in sorted(node.system.inodes)
            if not path.endswith(("/memory", ".new", ".part"))
            and (end := self._certain_bytes(node, path))
        ]
        if not places:
            return False
        chance = random.Random(fault.chance)
        path, end = chance.choice(places)
        if fault.power:
            node.kill(power=False)
            node.start_in(fault.for_s / 2)
        node.flip(path, chance.randrange(end), chance.randrange(8))
        return None

    def _certain_bytes(self, node, path):
        """Return how much of a file a start can tell good from bad."""
        size = len(node.system.inodes[path].disk)
        segments = node.process.journal._holdings._places.segments
        if path.endswith(segments[-1].name):
            return min(size, node.process.journal._upkeep.last_start)
        return size

    def _tail_rot(self, fault, node):
        """Flip a bit of the last batch, of which all other nodes have what it says; restart."""
        if not self._may_impair(node) or node.process is None:
            return False
        others = [other.durable.last for other in self._cluster.present() if other is not node]
        journal = node.process.journal
        if not others or min(others) < node.durable.last or node.process.writer.is_busy:
            return False
        segment = journal._holdings._places.segments[-1]
        start, end = journal._upkeep.last_start, segment.used_bytes
        if not 0 < start < end:
            return False
        chance = random.Random(fault.chance)
        node.kill(power=False)
        node.has_lost_tail = True
        node.flip(f"{DIRECTORY}/{segment.name}", chance.randrange(start, end), chance.randrange(8))
        node.start_in(fault.for_s / 2)
        return None

    def _memory_rot(self, fault, node):
        """Flip a bit of one of the two copies of term and vote."""
        path = f"{DIRECTORY}/memory"
        inode = node.system.inodes.get(path)
        if node.process is None or inode is None:
            return False
        node.kill(power=False)
        # The copies are compared at a start: one is harmed at a time. One that was just being
        # written may be torn.
        if not inode.changes:
            node.system.flip(path, int(fault.chance * 8 * len(inode.seen)))
        node.start_in(fault.for_s / 2)
        return None

    # --- Nodes ------------------------------------------------------------------------------------

    def _kill(self, fault, node, *, power=False):
        node.kill(power=power)
        node.start_in(fault.for_s)

    def _power(self, fault, node):
        self._kill(fault, node, power=True)

    def _kill_all(self, fault, node, *, power=False):
        for place, name in enumerate(self._cluster.names):
            self._cluster.nodes[name].kill(power=power)
            self._cluster.nodes[name].start_in(0.1 + place * fault.for_s * 0.2)

    def _power_all(self, fault, node):
        self._kill_all(fault, node, power=True)

    def _trap(self, kind, fault, node):
        if node.process is None:
            return False
        node.system.trap = Trap(kind, fault.count, fault.power)
        return None

    def _trap_step(self, fault, node):
        return self._trap(None, fault, node)

    def _trap_sync(self, fault, node):
        return self._trap("sync", fault, node)

    def _trap_write(self, fault, node):
        return self._trap("write", fault, node)

    def _trap_send(self, fault, node):
        def spring(process):
            process.node.send_passed(process, power=fault.power)

        self._cluster.network.trap = (node.name, fault.count, spring)

    def _trap_commit(self, fault, node):
        node.commit_trap = (fault.count, fault.power)

    def _restart(self, fault, node):
        over = self._world.now >= START_S + FAULTS_S  # the rest of a rolling restart is left out
        if over or node.process is None or not node.process.accepting:
            return False
        process = node.process
        process.turn(process.drain)
        self._world.after(3.0 + fault.for_s, self._has_stopped, process)
        return None

    def _has_stopped(self, process):
        """Start a node that was stopped; one that does not stop is killed, as systemd does."""
        node = process.node
        if process.alive:
            node.kill(power=False)
        if node.process is None:
            node.start_in(0.0)

    def _restart_all(self, fault, node):
        for place, name in enumerate(self._cluster.names):
            again = msgspec.structs.replace(fault, for_s=0.1)
            self._world.after(place * fault.for_s, self._restart, again, self._cluster.nodes[name])

    def _pause(self, fault, node):
        if node.process is None:
            return False
        self._stop(node.process, fault)
        return None

    def _stop(self, process, fault):
        """Stop it, no longer than until the faults end."""
        left_s = START_S + FAULTS_S - self._world.now
        process.stop_for(min(fault.for_s, max(0.05, left_s)))

    def _pause_in_turn(self, fault, node):
        self._cluster.network.trap = (
            node.name, fault.count, lambda process: self._stop(process, fault)
        )  # fmt: skip

    def _pause_cut_off(self, fault, node):
        """Stop the node right after it sent, and cut it off once it has its answers.

        When it wakes it finds answers that are old, and nothing of who leads by then.
        """
        pairs = [(name, node.name) for name in self._cluster.names if name != node.name]

        def spring(process):
            self._stop(process, fault)
            answered_s = 3 * self._cluster.plan.latency_s + 0.01
            left_s = max(0.05, START_S + FAULTS_S - self._world.now)
            self._world.after(answered_s, self._block, pairs, min(fault.for_s + 0.3, left_s))

        self._cluster.network.trap = (node.name, fault.count, spring)

    def _clock_jump(self, fault, node):
        node.wall_offset_us = int((2 * fault.chance - 1) * CLOCK_JUMP_US)

    # --- Members ----------------------------------------------------------------------------------

    def _add_member(self, fault, node):
        return self._cluster.add_member()

    def _remove_member(self, fault, node):
        return self._cluster.remove_member(node)

    def _replace_member(self, fault, node):
        """Put another machine in the place of one that is gone for good."""
        if not self._may_impair(node) or not self._cluster.add_member():
            return False
        self._cluster.remove_member(node, dead=True)
        return None

    def _replace_disk(self, fault, node):
        if not self._may_impair(node):
            return False
        node.kill(power=False)
        node.replace_disk()
        node.start_in(fault.for_s / 2)
        return None

    # --- Consumers --------------------------------------------------------------------------------

    def _consumer(self, mood, fault):
        consumers = list(self._cluster.consumers.values())
        consumer = consumers[int(fault.chance * len(consumers))]
        consumer.mood = mood
        self._world.after(fault.for_s, setattr, consumer, "mood", "well")


def _mood(mood):
    """Return what puts a consumer into a mood."""
    return lambda injector, fault, _: injector._consumer(mood, fault)


_ACTIONS = {
    "partition": Injector._partition,
    "one-way": Injector._one_way,
    "bridge": Injector._bridge,
    "cut-off": Injector._cut_off,
    "slow-link": Injector._slow_link,
    "slow-network": Injector._slow_network,
    "half-open": Injector._half_open,
    "reset": Injector._reset,
    "slow-disk": Injector._slow_disk,
    "failed-sync": Injector._failed_sync,
    "failed-write": Injector._failed_write,
    "full-disk": Injector._full_disk,
    "bit-rot": Injector._bit_rot,
    "memory-rot": Injector._memory_rot,
    "kill": Injector._kill,
    "power": Injector._power,
    "kill-all": Injector._kill_all,
    "power-all": Injector._power_all,
    "trap-step": Injector._trap_step,
    "trap-sync": Injector._trap_sync,
    "trap-write": Injector._trap_write,
    "trap-send": Injector._trap_send,
    "trap-commit": Injector._trap_commit,
    "restart": Injector._restart,
    "restart-all": Injector._restart_all,
    "pause": Injector._pause,
    "pause-in-turn": Injector._pause_in_turn,
    "pause-cut-off": Injector._pause_cut_off,
    "clock-jump": Injector._clock_jump,
    "tail-rot": Injector._tail_rot,
    "add-member": Injector._add_member,
    "remove-member": Injector._remove_member,
    "replace-member": Injector._replace_member,
    "replace-disk": Injector._replace_disk,
    "consumer-slow": _mood("slow"),
    "consumer-failing": _mood("failing"),
    "consumer-mute": _mood("mute"),
    "consumer-gone": _mood("gone"),
}
