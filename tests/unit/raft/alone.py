"""One guarded member alone: a disk that the test holds, and no links."""

from __future__ import annotations

import random

from twisted.internet.task import Clock

from crowd.errors import DamagedEntryError
from crowd.raft import guard
from crowd.raft.guard import GuardedRaft
from crowd.raft.wire import AppendEntries, NextIndex, PreVote, PreVoteAnswer, ResponseVote


class FakeJournal:
    """The log's surface over lists; durable only when the test says `sync`."""

    def __init__(self):
        self.first_index = 1
        self.log = [(b"\x01", 1, 0)]
        self.durable_index = 1
        self.term, self.vote, self.commit = 0, None, 1
        self.vote_pending = False
        self.damaged = set()

    @property
    def last_index(self):
        return self.first_index + len(self.log) - 1

    @property
    def last_term(self):
        return self.log[-1][2]

    def __len__(self):
        return len(self.log)

    def __getitem__(self, item):
        return self.log[item]

    def entry(self, index):
        if index in self.damaged:
            raise DamagedEntryError("checksum", place="disk", index=index)
        assert index >= self.first_index
        return self.log[index - self.first_index]

    def entries(self, from_index, bytes_max):
        taken, size = [], 0
        for index in range(from_index, self.last_index + 1):
            if taken and index in self.damaged:
                break
            entry = self.entry(index)
            size += len(entry[0])
            if taken and size > bytes_max:
                break
            taken.append(entry)
        return taken

    def term_at(self, index):
        assert self.first_index <= index <= self.last_index
        return self.log[index - self.first_index][2]

    def add(self, command, idx, term):
        if not self.log:
            self.first_index = idx
        assert idx == self.first_index + len(self.log)
        self.log.append((command, idx, term))

    def clear(self):
        self.log.clear()
        self.durable_index = 0

    def cut_below(self, index):
        """Have the log begin at this entry, as after compaction."""
        del self.log[: index - self.first_index]
        self.first_index = index

    def deleteEntriesFrom(self, entryFrom):  # noqa: N802, N803
        del self.log[entryFrom:]
        self.durable_index = min(self.durable_index, self.last_index)

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

    def sync(self):
        """One write and one fdatasync for all that gathered."""
        self.durable_index = self.last_index
        self.vote_pending = False


class Member:
    """A guarded member `a` of a, b, c (d, e), with what it sent, applied and asked for."""

    def __init__(
        self, others=("b", "c"), *, journal=None, applied_index=1, roster=(0, 0), gather_s=0.0
    ):
        self.clock = Clock()
        self.clock.advance(100)
        guard.install(self.clock.seconds, random.Random(7))
        self.journal = journal or FakeJournal()
        self.sent, self.applied, self.learners = [], [], set()
        self.wanted, self.holes, self.full = [], [], set()
        self.members = {"a", *others}
        (self.roster, self.change_term), self.whole = roster, True
        self.waiting = set(others)
        self.applies = self.letters = True
        self.raft = GuardedRaft(
            "a", self.journal, self, self, applied_index=applied_index, gather_s=gather_s
        )
        for other in others:
            self.raft.connected(other)

    # the outbox
    def send(self, name, message):
        self.sent.append((name, message))
        return True

    def writable(self, name):
        return name not in self.full

    # the host
    def apply(self, index, term, command):
        self.applied.append(index)

    def voters(self):
        return self.members - self.learners

    def followers(self):
        return self.members - {"a"}

    def is_voter(self, name):
        return name in self.voters()

    def roster_index(self):
        return self.roster

    def roster_term(self):
        return self.change_term

    def may_apply(self):
        return self.applies

    def has_letters(self):
        return self.letters

    def may_stand(self):
        return self.whole

    def waits(self, name, after):
        return name in self.waiting

    def wants_snapshot(self, name):
        self.wanted.append(name)

    def damaged(self, error):
        self.holes.append(error.index)

    def role_changed(self):
        pass

    # what tests do with it
    @property
    def state(self):
        """All that a message could have changed."""
        raft = self.raft
        return (
            raft.term, raft.role, raft.leader, raft.commit_index, raft.applied_index,
            self.journal.vote, list(self.journal.log), len(self.sent),
            {name: raft.acked(name) for name in self.members},
        )  # fmt: skip

    def sync(self):
        self.journal.sync()
        self.raft.durable()
        self.raft.tick()
        return self

    def take(self, kind, name=None):
        """Return, and forget, the messages of one kind that were sent (to one member)."""

        def fits(one):
            return isinstance(one[1], kind) and name in {None, one[0]}

        taken = [one for one in self.sent if fits(one)]
        self.sent = [one for one in self.sent if not fits(one)]
        return taken

    def wait(self, seconds):
        self.clock.advance(seconds)
        self.raft.tick()
        return self

    def append(self, *entries, term=5, prev=(1, 0), commit=1, leader="b", stamp=1):
        """Receive an AppendEntries from the leader of `term`."""
        message = AppendEntries(
            term=term, commit_index=commit, prev_index=prev[0], prev_term=prev[1],
            stamp=stamp, entries=entries,
        )  # fmt: skip
        self.raft.receive(leader, message)
        return self

    def stand(self):
        """Pass the pre-vote and become a candidate, its own vote on disk."""
        self.wait(2)
        for name, question in self.take(PreVote):
            answer = PreVoteAnswer(question.term, granted=True, commit_index=1, commit_term=0)
            self.raft.receive(name, answer)
        return self.wait(0.01).sync()

    def lead(self):
        self.stand()
        self.raft.receive("b", ResponseVote(term=self.raft.term))
        return self.sync()

    def propose(self, count=1, command=b"command"):
        for _ in range(count):
            self.raft.propose(command)
            self.raft.tick()
        return self

    def acknowledge(self, name, index, **fields):
        given = {
            "term": self.raft.term, "success": True, "reset": False, "stamp": 1, "roster": 0,
            "whole": True,
            **fields,
        }  # fmt: skip
        self.raft.receive(name, NextIndex(next_index=index + 1, **given))
        self.raft.tick()
        return self


def entry(index, term=5):
    return (b"\x00e%d" % index, index, term)
