"""The network between nodes, simulated: connections that delay, stall, break and go silent.

Decides when a message arrives, or whether. One connection joins two processes, as in
``crowd/raft/links.py``: one of the two calls, as the engine says; a newer connection replaces
an older one; entries and offers are refused while too much waits (back-pressure); an end that
hears nothing for three seconds hangs up. Every message passes through ``crowd.raft.wire``.

What is one direction of a pair blocked (a partition) is held, as TCP holds what it must send
again, and arrives late if the way opens in time. What is under way when a connection ends is
lost. A connection may be half-open: it swallows everything and says nothing.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import succeed

from crowd.raft.wire import (
    AppendEntries,
    Offer,
    decode_hello,
    decode_peer_message,
    encode_hello,
    encode_peer_message,
    objection,
)

BULK_BYTES_MAX = 32 * 1024
"""Far less than the real bound, so that a slow link meets it."""
SILENT_S = 3.0
SILENT_LATE_S = 0.5
DIAL_FIRST_S = 0.05
DIAL_MOST_S = 1.0


class End:
    """One end of a connection, in one process."""

    __slots__ = (
        "arrive_s", "connection", "is_open", "name", "peer", "process", "queue", "queued_bytes",
        "silent_since_s", "waiting",
    )  # fmt: skip

    def __init__(self, connection, process, peer):
        self.connection = connection
        self.process = process
        self.name = process.name
        self.peer = peer
        self.is_open = False  # the peer's hello has arrived
        self.queue = deque()  # what was sent from here and has not arrived: (bytes, size)
        self.queued_bytes = 0
        self.arrive_s = 0.0
        self.silent_since_s = None
        self.waiting = False  # an arrival is under way


class Connection:
    """Two ends. `swallows`: it is half-open, and nobody knows."""

    __slots__ = ("ends", "is_over", "swallows")

    def __init__(self):
        self.ends = {}
        self.swallows = False
        self.is_over = False

    def other(self, end):
        return self.ends[end.peer]


class SimulatedLinks:
    """One process's links; what the engine knows as `Links`."""

    def __init__(self, network, process, engine, hello):
        self.network = network
        self.process = process
        self.engine = engine
        self.hello = hello
        self.peers = {}
        self.dialled = frozenset()
        self.ends = {}
        self.calling = set()
        """Peers that are called until there is a connection."""
        self.running = False

    def startService(self):  # noqa: N802  Twisted's name
        self.running = True
        self.follow(self.peers, self.dialled)

    def follow(self, peers, dialled):
        """Have links with these, by name and address, and with nobody else; call some of them."""
        name = self.process.name
        before, self.peers = self.peers, {p: peers[p] for p in sorted(peers) if p != name}
        self.dialled = frozenset(dialled) & self.peers.keys()
        for peer in before:
            end = self.ends.get(peer)
            if peer not in self.peers and end is not None:
                self.network.close(end, "is no member any more", tell=True)
        for peer in sorted(self.dialled):
            if self.running and peer not in self.calling:
                self.calling.add(peer)
                self.network.dial(self.process, peer, 1)

    def stopService(self):  # noqa: N802  Twisted's name
        self.running = False
        for end in list(self.ends.values()):
            self.network.close(end, "this node stops", tell=False)
        return succeed(None)

    def writable(self, name):
        end = self.ends.get(name)
        return end is not None and end.is_open and end.queued_bytes < BULK_BYTES_MAX

    def send(self, name, message):
        end = self.ends.get(name)
        if end is None or not end.is_open:
            return False
        return self.network.send(end, message)

    def disconnect(self, name, why):
        end = self.ends.get(name)
        if end is not None:
            self.network.close(end, why, tell=True)


class Network:
    """All links, and what is wrong with them."""

    def __init__(self, world, nodes, checks, *, latency_s):
        self._world = world
        self._nodes = nodes
        self._checks = checks
        self.latency_s = latency_s
        self.slow = {}
        """By (from, to): how many seconds a message takes beyond its latency, at most."""
        self.blocked = {}
        """By (from, to): how many partitions hold this direction."""
        self.connections = []
        self.sent = 0
        self.trap = None
        """(name, count): stop that node's process at its n-th message from now."""

    # --- What is wrong with it --------------------------------------------------------------------

    def block(self, pairs):
        for pair in pairs:
            self.blocked[pair] = self.blocked.get(pair, 0) + 1
        self.look()

    def unblock(self, pairs):
        for pair in pairs:
            self.blocked[pair] -= 1
            if not self.blocked[pair]:
                del self.blocked[pair]
        self.look()

    def half_open(self, one, two):
        """Let what connects these two swallow everything from now on."""
        for connection in self.connections:
            if one in connection.ends and two in connection.ends:
                connection.swallows = True
        self.look()

    def reset(self, one, two):
        """Break what connects these two; both ends hear of it at once."""
        for connection in list(self.connections):
            if one in connection.ends and two in connection.ends:
                for end in list(connection.ends.values()):
                    self._drop(end, "connection reset", tell=True)

    def process_died(self, process, *, power):
        """Forget a process's ends. Only a system that still runs tells the other side.

        It also sends what the process had handed to it, unless it ends the connection abruptly.
        """
        for end in list(process.links.ends.values()) if process.links is not None else ():
            other = end.connection.other(end)
            end.connection.is_over = True
            process.links.ends.pop(end.peer, None)
            if power or self._world.chance.random() < 0.3:
                end.queue.clear()
            if not power:
                self._tell(end, other)
        self.look()

    def heal(self):
        self.blocked.clear()
        self.slow.clear()
        self.trap = None
        self.look()

    def look(self):
        """Note from when on each end hears nothing; have what was held go on."""
        for connection in self.connections:
            for end in connection.ends.values():
                if not self._has(end):
                    continue
                other = connection.other(end)
                if self._is_silent(other, end):
                    if end.silent_since_s is None:
                        end.silent_since_s = self._world.now
                        late_s = SILENT_LATE_S * self._world.chance.random()
                        self._world.after(
                            SILENT_S + late_s, self._silent, end, end.silent_since_s,
                            owner=end.process,
                        )  # fmt: skip
                else:
                    end.silent_since_s = None
                    self._go_on(other)

    def _is_silent(self, sender, receiver):
        connection = sender.connection
        return (
            connection.swallows
            or (sender.name, receiver.name) in self.blocked
            or not self._has(sender)
            or sender.process.stopped_until_s > self._world.now
        )

    def _silent(self, end, since_s):
        if self._has(end) and end.silent_since_s == since_s:
            self.close(end, f"nothing heard for {SILENT_S:g} s", tell=True)

    # --- Connections --------------------------------------------------------------------------------

    def dial(self, process, peer, failures):
        """Have this process call a peer soon, later after each failure."""
        longest_s = min(DIAL_MOST_S, DIAL_FIRST_S * 2.0 ** min(failures - 1, 10))
        delay_s = longest_s * (1.0 - self._world.chance.random() / 2.0)
        self._world.at(
            process.clock.look() + delay_s, self._call, process, peer, failures, owner=process
        )

    def _call(self, process, peer, failures):
        links = process.links
        if not links.running or peer not in links.dialled:
            links.calling.discard(peer)
            return
        if peer in links.ends:
            return
        there = self._nodes.get(peer)
        answering = there.process if there is not None else None
        reachable = (
            answering is not None
            and answering.alive
            and answering.links is not None
            and answering.links.running
            and (process.name, peer) not in self.blocked
            and (peer, process.name) not in self.blocked
            and answering.stopped_until_s <= self._world.now
        )
        if not reachable:
            self.dial(process, peer, failures + 1)
            return
        self._connect(process, answering)

    def _connect(self, process, answering):
        connection = Connection()
        for one, two in ((process, answering), (answering, process)):
            older = one.links.ends.get(two.name)
            if older is not None:
                self._drop(older, "replaced by a newer connection", tell=True)
        for one, two in ((process, answering), (answering, process)):
            end = End(connection, one, two.name)
            connection.ends[one.name] = end
            one.links.ends[two.name] = end
        self.connections = [c for c in self.connections if not c.is_over]
        self.connections.append(connection)
        for end in connection.ends.values():
            self._put(end, encode_hello(end.process.links.hello()), is_hello=True)

    def _has(self, end):
        """Tell whether the process at this end still has it."""
        process = end.process
        return (
            process.alive
            and process.links is not None
            and (process.links.ends.get(end.peer) is end)
        )

    def close(self, end, why, *, tell):
        """Close from this end. The other one hears of it, if the way there is open."""
        if not self._has(end):
            return
        other = end.connection.other(end)
        self._drop(end, why, tell=tell)
        self._tell(end, other)

    def _tell(self, end, other):
        """Let the other end hear that this one closed, behind what is under way to it."""
        if end.connection.swallows or not self._has(other):
            return
        if (end.name, other.name) in self.blocked:
            self.look()
            return
        arrive_s = max(self._world.now + self.latency_s, end.arrive_s)
        self._world.at(arrive_s, self._closed, other, owner=other.process)

    def _closed(self, end):
        if self._has(end):
            self._drop(end, "the peer closed the connection", tell=True)

    def _drop(self, end, why, *, tell):
        """Take an end from its process, which hears of it in a turn of its own."""
        if not self._has(end):
            return
        process = end.process
        del process.links.ends[end.peer]
        end.connection.is_over = True
        end.queue.clear()
        was_open, end.is_open = end.is_open, False
        self._world.trace(f"{end.name} lost {end.peer}: {why}")
        at_s = process.clock.look()
        if was_open and tell:
            self._world.at(at_s, self._gone, process, end.peer, why, owner=process)
        if end.peer in process.links.calling and process.links.running:
            self.dial(process, end.peer, 1)

    def _gone(self, process, peer, why):
        process.engine.peer_disconnected(peer, why)

    # --- Messages -----------------------------------------------------------------------------------

    def send(self, end, message):
        """Take a message, or not; it arrives later, or never."""
        process = end.process
        if not process.alive:
            return False
        if end.queued_bytes >= BULK_BYTES_MAX and (
            isinstance(message, Offer) or (isinstance(message, AppendEntries) and message.entries)
        ):
            return False
        self.sent += 1
        self._checks.sent(process, end.peer, message)
        self._put(end, encode_peer_message(message))
        trap = self.trap
        if trap is not None and trap[0] == process.name:
            self.trap = (trap[0], trap[1] - 1, trap[2]) if trap[1] > 1 else None
            if self.trap is None:
                trap[2](process)
        return True

    def _put(self, end, data, *, is_hello=False):
        connection = end.connection
        if connection.swallows:
            return
        other = connection.ends[end.peer]
        way = (end.name, end.peer)
        left_s = end.process.clock.look()
        if not self._has(other):
            there = self._nodes.get(end.peer)
            if there is not None and there.process is not None and way not in self.blocked:
                # A system that is up, and knows nothing of this connection, says so.
                self._world.at(left_s + self.latency_s, self._closed, end, owner=end.process)
            return
        chance = self._world.chance
        took_s = self.latency_s * (0.5 + chance.random())
        slow_s = self.slow.get(way)
        if slow_s is not None:
            took_s += slow_s * chance.random()
        arrive_s = end.arrive_s = max(left_s + took_s, end.arrive_s)
        end.queue.append((arrive_s, data, is_hello))
        end.queued_bytes += len(data)
        if not end.waiting and way not in self.blocked:
            end.waiting = True
            self._world.at(arrive_s, self._arrive, end, other)

    def _go_on(self, end):
        """Let what a partition held be on its way again."""
        if end.queue and not end.waiting and not end.connection.swallows:
            end.waiting = True
            arrive_s = max(self._world.now + self.latency_s, end.queue[0][0])
            self._world.at(arrive_s, self._arrive, end, end.connection.other(end))

    def _arrive(self, end, other):
        """Let all that was due until now arrive, if the way is still open."""
        end.waiting = False
        queue, now_s = end.queue, self._world.now
        if (
            end.connection.swallows
            or (end.name, other.name) in self.blocked
            or not self._has(other)
        ):
            return
        while queue and queue[0][0] <= now_s:
            _, data, is_hello = queue.popleft()
            end.queued_bytes -= len(data)
            call = self._greeted if is_hello else self._received
            self._world.at(now_s, call, other, data, owner=other.process)
        if queue:
            end.waiting = True
            self._world.at(queue[0][0], self._arrive, end, other)

    def _greeted(self, end, data):
        if not self._has(end):
            return
        links = end.process.links
        hello = decode_hello(data)
        refusal = objection(links.hello(), hello, end.peer)
        if refusal is not None:
            self.close(end, refusal, tell=True)
            return
        end.is_open = True
        self._world.trace(f"{end.name} connected {end.peer}")
        end.process.engine.peer_connected(end.peer, hello)

    def _received(self, end, data):
        if not self._has(end) or not end.is_open:
            return
        end.process.engine.peer_message(end.peer, decode_peer_message(data))
