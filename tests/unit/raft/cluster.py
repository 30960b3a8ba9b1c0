"""A cluster in one process: real engines, ledgers and storage; disks and links that tests hold.

Nothing moves by itself. A member's writers do their jobs, and `Wires.deliver` hands over what
was sent, when `Cluster.run` lets them, as a good machine would while the clock advances. A
link, a disk or a member can be stopped at any point.
"""

from __future__ import annotations

import random
from collections import deque
from functools import partial

from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from crowd.command import (
    Burial,
    Bury,
    Define,
    Demote,
    Enroll,
    Expel,
    Promote,
    Settle,
    open_entry,
    read_command,
)
from crowd.definition import ConsumerDefinition, Retry, RouteDefinition
from crowd.raft import guard
from crowd.raft.compaction import Pace
from crowd.raft.engine import Engine
from crowd.raft.letters import LetterStore
from crowd.raft.ports import REGULAR
from crowd.raft.seams import Bounds, Identity, Seams, Space
from crowd.raft.storage import open_storage
from crowd.raft.wire import objection
from tests.unit.journal.fakes import FaultyFileSystem, ManualWriter
from tests.unit.letters.fakes import FaultyShelf

LEADS = RouteDefinition(path="/leads", methods=("POST",), reads="refuse", upstream=None)
REST_API = ConsumerDefinition(
    name="rest-api", url="http://127.0.0.1:9", path=None, routes=(), concurrency=1, rate=None,
    timeout_us=1_000_000, order="none", from_="now", retry=Retry(1, 2.0, 10, 100),
    backlog_bytes=1 << 30, when_full="refuse",
)  # fmt: skip
BRISK = Pace(entries=10, size_bytes=1 << 20)
"""Checkpoints often enough for a short test."""
CHANGES = (Enroll, Promote, Demote, Expel)


class FakeLinks:
    """One member's end of the wires."""

    def __init__(self, wires, engine, hello):
        self.wires, self.engine, self.hello = wires, engine, hello
        self.peers, self.dialled = {}, ()

    def startService(self):  # noqa: N802
        self.wires.ends[self.engine.member.node] = self

    def stopService(self):  # noqa: N802
        self.wires.leave(self.engine.member.node)
        return succeed(None)

    def follow(self, peers, dialled):
        self.wires.part(self.engine.member.node, self.peers.keys() - peers.keys())
        self.peers, self.dialled = dict(peers), dialled

    def send(self, name, message):
        return self.wires.send(self.engine.member.node, name, message)

    def writable(self, name):
        return frozenset((self.engine.member.node, name)) in self.wires.up

    def disconnect(self, name, why):
        self.wires.disconnect(self.engine.member.node, name, why)


class Wires:
    """Links between members of whom one calls the other: FIFO each, until they break.

    As with real ones, an engine hears of an end in a later turn, and what was sent to one who is
    followed no more still arrives.
    """

    def __init__(self):
        self.ends = {}
        self.up = set()
        self.closing = set()
        self.cut = set()
        self.queues = {}
        self.sent = []
        self.ended = deque()

    def connect(self):
        """Connect every pair that may be."""
        self._tell()
        names = sorted(self.ends)
        for one in names:
            for two in names:
                pair = frozenset((one, two))
                if (
                    one < two
                    and pair not in self.up
                    and pair not in self.cut
                    and (two in self.ends[one].dialled or one in self.ends[two].dialled)
                ):
                    self._open(one, two)

    def _open(self, one, two):
        pair = frozenset((one, two))
        first, second = self.ends[one].hello(), self.ends[two].hello()
        if objection(first, second, two) or objection(second, first, one):
            return
        self.up.add(pair)
        self.queues[one, two], self.queues[two, one] = deque(), deque()
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
            self.ended += [(one, two, why), (two, one, why)]

    def _tell(self):
        while self.ended:
            me, peer, why = self.ended.popleft()
            if me in self.ends:
                self.ends[me].engine.peer_disconnected(peer, why)

    def part(self, one, names):
        """End a member's links with these when what was sent has arrived."""
        self.closing |= self.up & {frozenset((one, two)) for two in names}

    def partition(self, *names):
        """Cut these members off from the others."""
        for one in names:
            for two in self.ends:
                if two not in names:
                    self.cut.add(frozenset((one, two)))
                    self.disconnect(one, two, "partition")
        self._tell()

    def heal(self):
        self.cut.clear()

    def leave(self, name):
        end = self.ends.pop(name, None)
        for pair in sorted((pair for pair in self.up if name in pair), key=sorted):
            self.disconnect(*sorted(pair), "gone")
        self._tell()
        return end

    def deliver(self):
        self._tell()
        for (one, two), queue in list(self.queues.items()):
            for _ in range(len(queue)):
                if self.queues.get((one, two)) is not queue or two not in self.ends:
                    break
                self.ends[two].engine.peer_message(one, queue.popleft())
        for pair in sorted(self.closing, key=sorted):
            self.disconnect(*sorted(pair), "no member any more")
        self.closing.clear()
        self._tell()


class Cluster:
    """Members a, b, c … on one clock, one chance, one set of wires.

    `size` of them found it, and are in each other's files.
    """

    def __init__(self, size=3, seed=1, *, pace=Pace(), retention_us=0, segment_bytes=1 << 14):  # noqa: B008
        self.clock = Clock()
        self.clock.advance(1000)
        self.chance = random.Random(seed)
        guard.install(self.clock.seconds, self.chance)
        self.names = [chr(ord("a") + place) for place in range(size)]
        self.wires = Wires()
        self.disks = {name: FaultyFileSystem() for name in self.names}
        self.engines, self.writers, self.fatal = {}, {}, []
        self.slow, self.slow_letters = set(), set()
        self.pending_bytes_max = 1 << 20
        self.space = Space(100 << 30, 200 << 30)
        self.pace, self.retention_us, self.segment_bytes = pace, retention_us, segment_bytes

    @property
    def journals(self):
        return {name: engine.journal for name, engine in self.engines.items()}

    def start(self, *names, peers=None):
        """Start members; `peers` are the names in their files, by default all."""
        for name in names or self.names:
            self._start(name, peers or self.names)
        return self

    def _start(self, name, peers):
        writers = self.writers[name] = (ManualWriter(), ManualWriter(), ManualWriter())
        disk = self.disks[name]

        def open_disk():
            return open_storage(
                f"/{name}", cluster="leads", node=name, filesystem=disk,
                writer=writers[0], background=writers[1],
                letters=lambda: LetterStore(
                    FaultyShelf(disk), writers[2], pending_bytes_max=self.pending_bytes_max
                ),
                segment_bytes=self.segment_bytes,
                cache_bytes=1 << 12, seconds=self.clock.seconds, draw=self.chance.randbytes,
            )  # fmt: skip

        alone = list(peers) == [name]
        seams = Seams(
            open_storage=open_disk,
            make_links=None if alone else partial(FakeLinks, self.wires),
            space=lambda: self.space,
            on_fatal=self.fatal.append,
        )
        files_members = {} if alone else {peer: f"{peer}.example:2107" for peer in peers}
        engine = Engine(
            self.clock,
            lambda: 1_700_000_000_000_000 + int(self.clock.seconds() * 1e6),
            self.chance,
            Identity(name, "leads", files_members),
            seams,
            Bounds(5.0, 1 << 30, self.retention_us, checkpoints=self.pace),
        )
        define = Define(name, b"f" * 32, (LEADS,), (REST_API,))
        engine.want("file", lambda ledger: name in ledger.file_hashes, lambda: define)
        engine.startService()
        self.engines[name] = engine

    def crash(self, *names):
        """The power goes: what was not durable is gone, or torn."""
        for name in names:
            engine = self.engines.pop(name)
            del self.writers[name]
            self.wires.leave(name)
            engine._die(SystemError("crashed"))
            self.fatal.pop()
            self.disks[name].crash(self.chance)

    def wipe(self, name):
        """Give a member that is down an empty disk."""
        self.disks[name] = FaultyFileSystem()

    def add(self, name):
        """Start a node that is no member yet; its file names the members and itself."""
        self.disks[name] = FaultyFileSystem()
        self.names.append(name)
        return self.start(name)

    def enroll(self, name, through):
        self.engines[through].changes.enroll(name, f"{name}.example:2107")
        return self

    def expel(self, name, through):
        self.engines[through].changes.expel(name)
        return self

    def work(self):
        """Have every disk that is not slow do what it was asked for."""
        for name, writers in list(self.writers.items()):
            for place, writer in enumerate(writers):
                if name in self.slow or (name in self.slow_letters and place == 2):
                    writer.turn()
                else:
                    writer.finish()

    def run(self, seconds, step=0.01):
        """Let time pass on a machine where everything works but what was stopped."""
        for _ in range(round(seconds / step)):
            self.wires.connect()
            self.wires.deliver()
            self.work()
            self.clock.advance(step)
        return self

    def run_until(self, holds, seconds=10, step=0.01):
        """Run until something holds, or fail."""
        for _ in range(round(seconds / step)):
            if holds():
                return self
            self.run(step, step)
        raise AssertionError(f"not within {seconds} s")

    @property
    def leader(self):
        """The name of the one that leads fully, and that a majority follows."""
        leaders = [n for n, e in self.engines.items() if e.may_attempt()]
        return leaders[0] if len(leaders) == 1 else None

    @property
    def followers(self):
        return [name for name in self.engines if name != self.leader]

    def post(self, name, body=b"x", route=1):
        """Accept one message on a member; return a list that its outcome is put into."""
        heard = []
        self.engines[name].proposer.accept(route, body).addBoth(heard.append)
        return heard

    def fill(self, count, body=b"y" * 500):
        """Have the leader take so many messages, each in an entry of its own."""
        for _ in range(count):
            heard = self.post(self.leader, body)
            self.run_until(lambda heard=heard: heard)
            assert isinstance(heard[0], int), heard
        return self

    def settle(self, *, wait=True):
        """Have the consumer be done with all messages so far; wait until every member knows."""
        ledger = self.engines[self.leader].ledger
        first, last = ledger.watermark(1) + 1, ledger.tip
        if first <= last:
            self.engines[self.leader].propose(Settle(consumer=1, ranges=((first, last),)))
        if wait:
            self.run_until(
                lambda: all(e.ledger.watermark(1) >= last for e in self.engines.values())
            )
        return self

    def bury(self, *positions):
        """Have the consumer's messages at these positions become letters, as the leader does."""
        leader = self.engines[self.leader]
        burials = []
        for position in positions:
            place = leader.ledger.place(position)
            message = leader.message(place.index, place.offset)
            burials.append(Burial(position, "dead", "answer", 400, "no", 1, 0, 0, message))
        assert leader.propose(Bury(consumer=1, letters=tuple(burials)))
        return self

    def bury_new(self, count, body=b"letter" * 50, *, wait=True):
        """Accept so many messages and have them become letters; return their numbers."""
        leader = self.leader
        ledger = self.engines[leader].ledger
        first, before = ledger.tip + 1, len(ledger.letters)
        self.fill(count, body).bury(*range(first, first + count))
        self.run_until(lambda: len(ledger.letters) == before + count)
        if wait:
            self.run(0.3)
        return sorted(ledger.letters)[-count:]

    def read(self, name, number, seconds=5):
        """Return a letter's bytes as a member's delivery gets them."""
        found = []

        def here():
            found[:] = [self.engines[name].letter(number)]
            return found != [None]

        self.run_until(here, seconds)
        return found[0]

    def compact(self):
        """Fill and settle until the log of every living member has lost its beginning."""
        for _ in range(20):
            self.fill(12).settle().run(1.5)
            if all(journal.first_index > 1 for journal in self.journals.values()):
                return self
        raise AssertionError("nothing was compacted")

    def changes(self, name):
        """Return the changes of members in a member's log, with their indices."""
        found = []
        journal = self.journals[name]
        for command, index, _ in journal[:]:
            if command[:1] == REGULAR:
                value = read_command(open_entry(command, 1)[1])
                if isinstance(value, CHANGES):
                    found.append((index, value))
        return found

    def digests(self):
        return {n: (e.ledger.applied_index, e.ledger.digest()) for n, e in self.engines.items()}

    def converge(self, seconds=4):
        """Run on, and hold all members to one history (I5)."""
        self.run(seconds)
        assert self.leader
        assert len(set(self.digests().values())) == 1
        assert not self.fatal
        return self
