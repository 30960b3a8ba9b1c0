"""What each kind of fault does to a cluster.

`inject` carries one out. A fault whose condition does not hold when its time comes does nothing.
Which faults there are is in ``plans``; the failure model is kept here. It is:

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
from tests.simulation.node import YEAR_US
from tests.simulation.operators import Operators
from tests.simulation.plans import FAULTS_S, OPERATORS
from tests.simulation.world import START_S

SLOW_DISK_S = (0.02, 0.4)
CLOCK_JUMP_US = 4 * 3600 * 10**6


class Injector:
    """Carries faults out on a cluster, and takes all of them back."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._world = cluster.world
        self.operators = Operators(cluster)
        self.occurred = {}
        """By kind: how many had an effect."""

    def inject(self, fault):
        """Carry a fault out, if what it needs is there."""
        node = self._node(fault.node)
        if fault.kind in OPERATORS:
            done = self.operators.carry_out(fault.kind, fault, node)
        else:
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
        jump_us = YEAR_US if self._cluster.plan.are_apart else CLOCK_JUMP_US
        node.wall_offset_us = int((2 * fault.chance - 1) * jump_us)

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

    def _consumer(self, fault):
        consumers = list(self._cluster.consumers.values())
        return consumers[int(fault.chance * len(consumers))]

    def _poison(self, fault, node):
        """Have a consumer refuse some messages, each time; for good, or for some seconds."""
        consumer = self._consumer(fault)
        consumer.poison(random.Random(fault.chance))
        if fault.power:
            self._world.after(2 * fault.for_s, setattr, consumer, "poison_every", 0)

    def _slow_letters(self, fault, node):
        """Have the letters' file take longer than all others."""
        node.letters_s = (0.0, 1.5 * fault.chance)
        self._world.after(fault.for_s, setattr, node, "letters_s", None)

    def _letters_rot(self, fault, node):
        """Flip a bit of a letter's stored bytes, or have the whole table be damaged."""
        if not self._may_impair(node) or node.process is None or not node.system.letters:
            return False
        chance = random.Random(fault.chance)
        number = None if fault.power else chance.choice(sorted(node.system.letters))
        node.rot_letters(number)
        return None


def _mood(mood):
    """Return what puts a consumer into a mood."""

    def put(injector, fault, _):
        consumer = injector._consumer(fault)
        consumer.put(mood)
        injector._world.after(fault.for_s, consumer.put, "well")

    return put


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
    "consumer-refusing": _mood("refusing"),
    "consumer-barring": _mood("barring"),
    "consumer-far": _mood("far"),
    "consumer-poison": Injector._poison,
    "letters-rot": Injector._letters_rot,
    "slow-letters": Injector._slow_letters,
}
