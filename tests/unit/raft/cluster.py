"""A cluster in one process: real engines and ledgers, with a disk and links that tests hold.

Nothing moves by itself. `Disk.sync` makes a member's pending writes durable, `Wires.deliver`
hands over what was sent, `Cluster.run` does both as a good machine would while the clock
advances. A link, a disk or a member can be stopped at any point.
"""

from __future__ import annotations

import random
from collections import deque

from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from crowd.command import ConsumerDefinition, Define, Retry, RouteDefinition
from crowd.raft import guard
from crowd.raft.engine import Bounds, Engine, Identity, Seams, Space

LEADS = RouteDefinition(path="/leads", methods=("POST",), reads="refuse", upstream=None)
REST_API = ConsumerDefinition(
    name="rest-api", url="http://127.0.0.1:9", path=None, routes=(), concurrency=1, rate=None,
    timeout_us=1_000_000, order="none", from_="now", retry=Retry(1, 2.0, 10, 100),
    backlog_bytes=1 << 30, when_full="refuse",
)  # fmt: skip


class Disk:
    """A member's disk: what is durable, what is only written. Survives a crash."""

    def __init__(self, journal_id):
        self.journal_id = journal_id
        self.entries = [(b"\x01", 1, 0)]
        self.term, self.vote, self.commit = 0, None, 1
        self.memory = b""


class FakeJournal:
    """The journal's surface over a `Disk`; durable only when the test says `sync`."""

    def __init__(self, disk):
        self.disk = disk
        self.log = list(disk.entries)
        self.term, self.vote, self.commit = disk.term, disk.vote, disk.commit
        self.journal_id, self.founding = disk.journal_id, disk.memory
        self.full = self.closed = False
        self.vote_pending = False
        self.truncated = len(self.log)
        self.remembering = []
        self.on_durable = self.on_fatal = None

    first_index = 1

    @property
    def last_index(self):
        return self.log[-1][1]

    @property
    def last_term(self):
        return self.log[-1][2]

    @property
    def durable_index(self):
        return min(len(self.disk.entries), self.truncated, len(self.log))

    def __len__(self):
        return len(self.log)

    def __getitem__(self, item):
        return self.log[item]

    def entry(self, index):
        return self.log[index - 1]

    def entries(self, from_index, bytes_max):
        taken, size = [], 0
        for entry in self.log[from_index - 1 :]:
            size += len(entry[0])
            if taken and size > bytes_max:
                break
            taken.append(entry)
        return taken

    def term_at(self, index):
        return self.log[index - 1][2]

    def add(self, command, idx, term):
        assert idx == self.last_index + 1
        self.log.append((command, idx, term))

    def deleteEntriesFrom(self, entryFrom):  # noqa: N802, N803
        del self.log[entryFrom:]
        self.truncated = min(self.truncated, len(self.log))

    def setCurrentTerm(self, term, votedForNodeId):  # noqa: N802, N803
        self.term, self.vote, self.vote_pending = term, votedForNodeId, True

    def getCurrentTerm(self):  # noqa: N802
        return self.term

    def getVotedForNodeId(self):  # noqa: N802
        return self.vote

    def setRaftCommitIndex(self, raftCommitIndex):  # noqa: N802, N803
        self.commit = raftCommitIndex

    def getRaftCommitIndex(self):  # noqa: N802
        return self.commit

    def onOneSecondTimer(self):  # noqa: N802
        pass

    def remember(self, data, done):
        self.founding = data
        self.remembering.append(done)

    def retry(self):
        pass

    def flush(self):
        pass

    def close(self):
        self.closed = True

    @property
    def pending(self):
        return self.vote_pending or self.remembering or self.disk.entries != self.log

    def sync(self):
        """One write and one fdatasync for all that gathered."""
        if self.closed or not self.pending:
            return
        self.disk.entries = list(self.log)
        self.truncated = len(self.log)
        self.disk.term, self.disk.vote, self.disk.commit = self.term, self.vote, self.commit
        self.disk.memory = self.founding
        self.vote_pending = False
        done, self.remembering = self.remembering, []
        for call in done:
            call()
        self.on_durable()


class FakeLinks:
    """One member's end of the wires."""

    def __init__(self, wires, engine, hello):
        self.wires, self.engine, self.hello = wires, engine, hello

    def startService(self):  # noqa: N802
        self.wires.ends[self.engine.member.node] = self

    def stopService(self):  # noqa: N802
        self.wires.leave(self.engine.member.node)
        return succeed(None)

    def send(self, name, message):
        return self.wires.send(self.engine.member.node, name, message)

    def writable(self, name):
        return True

    def disconnect(self, name, why):
        self.wires.disconnect(self.engine.member.node, name, why)


class Wires:
    """Links between members: FIFO each, until they break."""

    def __init__(self):
        self.ends = {}
        self.up = set()
        self.cut = set()
        self.queues = {}
        self.sent = []

    def connect(self):
        """Connect every pair that may be."""
        names = sorted(self.ends)
        for one in names:
            for two in names:
                pair = frozenset((one, two))
                if one < two and pair not in self.up and pair not in self.cut:
                    self.up.add(pair)
                    self.queues[one, two], self.queues[two, one] = deque(), deque()
                    first, second = self.ends[one].hello(), self.ends[two].hello()
                    self.ends[one].engine.peer_connected(two, second)
                    if pair in self.up:
                        self.ends[two].engine.peer_connected(one, first)

    def send(self, one, two, message):
        if frozenset((one, two)) not in self.up:
            return False
        self.queues[one, two].append(message)
        self.sent.append((one, two, message))
        return True

    def disconnect(self, one, two, why):
        pair = frozenset((one, two))
        if pair in self.up:
            self.up.discard(pair)
            self.queues.pop((one, two), None)
            self.queues.pop((two, one), None)
            for me, peer in ((one, two), (two, one)):
                if me in self.ends:
                    self.ends[me].engine.peer_disconnected(peer, why)

    def partition(self, *names):
        """Cut these members off from the others."""
        for one in names:
            for two in self.ends:
                if two not in names:
                    self.cut.add(frozenset((one, two)))
                    self.disconnect(one, two, "partition")

    def heal(self):
        self.cut.clear()

    def leave(self, name):
        end = self.ends.pop(name, None)
        for pair in [pair for pair in self.up if name in pair]:
            (other,) = pair - {name}
            self.up.discard(pair)
            self.queues.pop((name, other), None)
            self.queues.pop((other, name), None)
            self.ends[other].engine.peer_disconnected(name, "gone")
        return end

    def deliver(self):
        for (one, two), queue in list(self.queues.items()):
            for _ in range(len(queue)):
                if self.queues.get((one, two)) is not queue or two not in self.ends:
                    break
                self.ends[two].engine.peer_message(one, queue.popleft())


class Cluster:
    """Members a, b, c … on one clock, one chance, one set of wires."""

    def __init__(self, size=3, seed=1):
        self.clock = Clock()
        self.clock.advance(1000)
        self.chance = random.Random(seed)
        guard.install(self.clock.seconds, self.chance)
        self.names = [chr(ord("a") + place) for place in range(size)]
        self.wires = Wires()
        self.disks = {name: Disk(self.chance.randbytes(16)) for name in self.names}
        self.engines, self.journals, self.fatal = {}, {}, []
        self.slow = set()
        self.space = Space(100 << 30, 200 << 30)

    def start(self, *names):
        for name in names or self.names:
            journal = self.journals[name] = FakeJournal(self.disks[name])
            others = tuple(other for other in self.names if other != name)
            seams = Seams(
                open_journal=lambda journal=journal: journal,
                make_links=(lambda engine, hello: FakeLinks(self.wires, engine, hello))
                if others
                else None,
                space=lambda: self.space,
                on_fatal=self.fatal.append,
            )
            self.engines[name] = Engine(
                self.clock,
                lambda: 1_700_000_000_000_000 + int(self.clock.seconds() * 1e6),
                self.chance,
                Identity(name, "leads", others),
                seams,
                Bounds(acknowledge_within_s=5.0, backlog_bytes=1 << 30),
            )
            define = Define(name, b"f" * 32, (LEADS,), (REST_API,))
            self.engines[name].want(
                "file", lambda ledger, name=name: name in ledger.file_hashes, lambda d=define: d
            )
            self.engines[name].startService()
        return self

    def crash(self, name):
        """Kill -9: what was not durable is gone."""
        engine = self.engines.pop(name)
        self.journals.pop(name).closed = True
        self.wires.leave(name)
        engine._die(SystemError("crashed"))
        self.fatal.clear()

    def run(self, seconds, step=0.01):
        """Let time pass on a machine where everything works but what was stopped."""
        for _ in range(round(seconds / step)):
            self.wires.connect()
            self.wires.deliver()
            for name, journal in list(self.journals.items()):
                if name not in self.slow:
                    journal.sync()
            self.clock.advance(step)
        return self

    @property
    def leader(self):
        """The name of the one that leads fully, and that a majority follows."""
        leaders = [n for n, e in self.engines.items() if e.may_attempt()]
        return leaders[0] if len(leaders) == 1 else None

    def post(self, name, body=b"x", route=1):
        """Accept one message on a member; return a list that its outcome is put into."""
        heard = []
        self.engines[name].proposer.accept(route, body).addBoth(heard.append)
        return heard

    def digests(self):
        return {n: (e.ledger.applied_index, e.ledger.digest()) for n, e in self.engines.items()}
