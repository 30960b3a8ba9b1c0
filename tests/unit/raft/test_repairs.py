"""Damaged entries: found, asked for, mended in place, while the node goes on (I8)."""

import pytest
from twisted.internet.task import Clock

from crowd.errors import DamagedEntryError, PeerRejectedError
from crowd.raft.repairs import ASK_AGAIN_S, ASKED_AT_ONCE, Repairs
from crowd.raft.status import describe
from crowd.raft.wire import AppendEntries, Fetch, Fetched, PreVote
from tests.unit.raft.alone import FakeJournal, Member
from tests.unit.raft.cluster import BRISK, Cluster


@pytest.fixture
def cluster():
    """Three members with forty known messages, most of them no longer in memory."""
    made = Cluster().start().run(4)
    for number in range(40):
        made.fill(1, needle(number))
    return made.run(1)


def needle(number):
    return b"needle-%02d-" % number + b"x" * 500


def hit(disk, number):
    """Change a byte of a message on a disk."""
    for path, inode in disk.inodes.items():
        place = inode.seen.find(needle(number)[:10])
        if path.endswith(".segment") and place >= 0:
            disk.damage(path, place + 50, b"!")
            return
    raise AssertionError(number)


def damage(cluster, name, number):
    """Change a byte of a message on a member's disk; return the entry's index."""
    hit(cluster.disks[name], number)
    return cluster.engines[name].ledger.place(number + 1).index


def whole(cluster, name):
    """Tell whether every entry of a member can be read."""
    journal = cluster.journals[name]
    try:
        return len([entry for entry in journal[:] if entry]) == len(journal)
    except DamagedEntryError:
        return False


def repaired(cluster, name):
    return cluster.engines[name].repairs.mended_entries


# --- In a cluster ---------------------------------------------------------------------------------


def test_d9_a_message_that_cannot_be_delivered_is_mended_from_a_follower(cluster):
    leader = cluster.engines[cluster.leader]
    index = damage(cluster, cluster.leader, 3)
    with pytest.raises(DamagedEntryError) as caught:
        leader.message(index, 0)
    assert caught.value.index == index
    leader.damaged(caught.value)  # as the dispatcher does
    assert describe(leader)["damaged_entries"] == 1
    cluster.run(1)
    assert leader.message(index, 0) == needle(3)
    assert describe(leader)["damaged_entries"] == 0
    cluster.converge()


def test_d9_an_entry_for_a_follower_is_mended_before_it_is_sent(cluster):
    """No bad bytes leave the node: the follower gets the entry a moment later."""
    away = cluster.followers[0]
    cluster.crash(away)
    cluster.wipe(away)
    index = damage(cluster, cluster.leader, 20)
    sent = len(cluster.wires.sent)
    cluster.start(away).converge()
    assert repaired(cluster, cluster.leader) == 1
    bodies = [
        command for _, _, m in cluster.wires.sent[sent:] if isinstance(m, AppendEntries)
        for command, at, _ in m.entries if at == index
    ]  # fmt: skip
    assert all(needle(20) in command for command in bodies)
    assert whole(cluster, away)


def test_d9_an_entry_that_cannot_be_applied_is_mended_first(cluster):
    """Damage between the start, which verified it, and its turn."""
    name = cluster.followers[0]
    index = cluster.engines[name].ledger.place(11).index
    cluster.crash(name)
    cluster.start(name)
    hit(cluster.disks[name], 10)
    engine = cluster.engines[name]
    cluster.run_until(lambda: engine.repairs.holes)
    assert engine.raft.applied_index == index - 1
    cluster.converge()
    assert repaired(cluster, name) == 1


@pytest.mark.parametrize("place", [0, 1], ids=["leader", "follower"])
def test_d9_the_scrub_finds_what_nobody_reads_and_has_it_mended(cluster, place):
    name = [cluster.leader, cluster.followers[0]][place]
    for number in (2, 3, 5):
        damage(cluster, name, number)
    assert not whole(cluster, name)
    cluster.run(5)
    assert repaired(cluster, name) == 3
    assert whole(cluster, name)
    cluster.converge()


def test_d9_mending_is_durable(cluster):
    name = cluster.followers[0]
    damage(cluster, name, 2)
    cluster.run(5)
    assert repaired(cluster, name) == 1
    cluster.crash(name)
    cluster.start(name).run(2)
    assert whole(cluster, name)
    cluster.run(5)
    assert repaired(cluster, name) == 0


def test_d9_a_copy_that_is_damaged_too_is_mended_from_the_third(cluster):
    one, two = cluster.followers
    damage(cluster, one, 2)
    damage(cluster, two, 2)
    cluster.run(8)
    assert whole(cluster, one)
    assert whole(cluster, two)
    cluster.converge()


def test_d9_without_a_peer_it_waits_and_says_so():
    alone = Cluster(size=1).start().run(2)
    for number in range(40):
        alone.fill(1, needle(number))
    alone.run(1)
    damage(alone, "a", 2)
    alone.run(10)
    assert describe(alone.engines["a"])["damaged_entries"] == 1
    heard = alone.post("a")  # what does not need that entry goes on
    alone.run(1)
    assert isinstance(heard[0], int)
    assert not alone.fatal


def test_d9_a_member_that_was_away_mends_when_its_peers_are_back(cluster):
    leader, (one, two) = cluster.leader, cluster.followers
    cluster.wires.partition(one)
    damage(cluster, one, 2)
    cluster.run(5)
    assert cluster.engines[one].repairs.holes == 1
    cluster.wires.heal()
    cluster.run(5)
    assert cluster.engines[one].repairs.holes == 0
    cluster.converge()
    assert {leader, two} < set(cluster.engines)


def test_d9_a_node_with_a_hole_does_not_lead(cluster):
    """Its followers would wait for the entry that it cannot send."""
    one, two = cluster.followers
    send = cluster.wires.send
    cluster.wires.send = lambda a, b, m: isinstance(m, Fetched) or send(a, b, m)
    damage(cluster, one, 2)
    cluster.run(5)
    assert cluster.engines[one].repairs.holes == 1
    cluster.crash(cluster.leader)
    cluster.run(4)
    assert cluster.leader == two
    assert not [m for a, _, m in cluster.wires.sent if a == one and isinstance(m, PreVote)]


def test_d9_an_entry_that_no_other_has_yet_does_not_hold_the_cluster_up(cluster):
    """A leader that can neither read nor ask for it leaves the lead to the others."""
    leader, send = cluster.leader, cluster.wires.send
    cluster.wires.send = lambda a, b, m: (
        (isinstance(m, AppendEntries) and bool(m.entries)) or send(a, b, m)
    )
    heard = []
    for number in range(40, 44):  # more than the journal keeps in memory
        heard.append(cluster.post(leader, needle(number) * 10))
        cluster.run(0.05)
    assert not any(heard)
    index = next(
        index for command, index, _ in cluster.journals[leader][:] if needle(41) in command
    )
    hit(cluster.disks[leader], 41)
    with pytest.raises(DamagedEntryError):
        cluster.journals[leader].entry(index)
    cluster.wires.send = send
    cluster.wires.partition(leader)
    cluster.run(0.1)
    cluster.wires.heal()
    cluster.run(8)
    assert cluster.leader not in {None, leader}
    cluster.converge()
    assert cluster.engines[leader].repairs.holes == 0


def test_d9_damage_below_the_floor_goes_with_the_log():
    cluster = Cluster(pace=BRISK).start().run(4)
    for number in range(40):
        cluster.fill(1, needle(number))
    name = cluster.followers[0]
    send = cluster.wires.send
    cluster.wires.send = lambda a, b, m: isinstance(m, Fetched) or send(a, b, m)
    damage(cluster, name, 2)
    cluster.run(3)
    assert cluster.engines[name].repairs.holes == 1
    cluster.settle().compact().run(1)
    assert cluster.engines[name].repairs.holes == 0
    cluster.converge()


@pytest.mark.parametrize("seed", range(8))
def test_d9_damage_anywhere_is_mended_under_load(seed):
    cluster = Cluster(seed=seed).start().run(4)
    for number in range(60):
        cluster.fill(1, needle(number))
    chance = cluster.chance
    for _ in range(10):
        damage(cluster, chance.choice(cluster.names), chance.randrange(30))
        for name in cluster.names:
            cluster.post(name)
        cluster.run(chance.choice([0.1, 0.5, 1]))
    cluster.run(10)
    assert all(whole(cluster, name) for name in cluster.names)
    cluster.converge()


# --- One member alone ---------------------------------------------------------------------------


def test_nothing_is_applied_past_a_hole():
    member = Member().append(*((b"\x00", n, 5) for n in range(2, 7))).sync()
    member.journal.damaged = {4}
    member.append(prev=(6, 5), commit=6).wait(0.01)
    assert member.applied == [2, 3]
    assert member.holes == [4]
    assert member.wait(0.01).raft.tick() is False  # it does not spin
    member.journal.damaged.clear()
    member.raft.mended()
    member.wait(0.01)
    assert member.applied == [2, 3, 4, 5, 6]


def test_a_member_with_a_hole_asks_for_no_vote():
    member = Member()
    member.whole = False
    for _ in range(20):
        member.wait(1)
    assert member.take(PreVote) == []
    member.whole = True
    for _ in range(3):
        member.wait(1)
    assert member.take(PreVote)


class Node:
    """Repairs over a log of entries 5 to 60, with peers that the test answers for."""

    def __init__(self, *peers):
        self.clock, self.peers, self.sent, self.mended, self.written = Clock(), peers, [], 0, []
        self.journal = FakeJournal()
        for index in range(2, 61):
            self.journal.add(b"entry %d" % index, index, 3)
        self.journal.cut_below(5)
        self.journal.repair = lambda entry, done: self.written.append((entry, done))
        self.repairs = Repairs(
            self.clock, self.journal, self.send, lambda: list(self.peers), self.all_mended
        )

    def send(self, name, message):
        self.sent.append((name, message))
        return True

    def all_mended(self):
        self.mended += 1

    def damage(self, *indices):
        for index in indices:
            self.repairs.damaged(DamagedEntryError("bad", place="disk", index=index))
        return self

    def asked(self):
        asked, self.sent = [(name, m.index) for name, m in self.sent], []
        return asked

    def wait(self):
        self.clock.advance(ASK_AGAIN_S)
        self.repairs.look()
        return self


def test_each_peer_is_asked_in_its_turn():
    node = Node("b", "c").damage(9)
    asked = node.asked() + node.wait().asked() + node.wait().asked()
    assert [index for _, index in asked] == [9, 9, 9]
    assert {name for name, _ in asked} == {"b", "c"}


def test_an_entry_is_asked_for_once_until_the_answer_is_late():
    node = Node("b").damage(9, 9)
    node.repairs.look()
    assert node.asked() == [("b", 9)]


def test_few_entries_are_asked_for_at_once_and_the_lowest_first():
    node = Node("b").damage(*range(59, 9, -1))
    node.sent.clear()
    asked = node.wait().asked()
    assert [index for _, index in asked] == list(range(10, 10 + ASKED_AT_ONCE))


def test_all_is_said_to_be_mended_when_the_last_hole_is_closed():
    node = Node("b").damage(9, 10)
    for index in (9, 10):
        node.repairs.fetched(Fetched(b"entry %d" % index, index, 3))
    (first, done), (second, also_done) = node.written
    assert (first, second) == ((b"entry 9", 9, 3), (b"entry 10", 10, 3))
    done(True)
    assert node.mended == 0
    also_done(True)
    assert node.mended == 1
    assert node.repairs.holes == 0


def test_a_copy_that_does_not_fit_is_asked_for_again():
    node = Node("b").damage(9)
    node.repairs.fetched(Fetched(b"another", 9, 3))
    node.written.pop()[1](False)
    assert node.repairs.holes == 1
    node.asked()
    assert node.wait().asked() == [("b", 9)]


def test_a_copy_of_another_term_ends_the_link():
    node = Node("b").damage(9)
    with pytest.raises(PeerRejectedError, match="has term 4, the committed one here has 3"):
        node.repairs.fetched(Fetched(b"entry 9", 9, 4))
    assert node.written == []


@pytest.mark.parametrize("index", [1, 10, 61, 2**53])
def test_a_copy_that_nobody_asked_for_is_ignored(index):
    node = Node("b").damage(9)
    node.repairs.fetched(Fetched(b"surprise", index, 3))
    assert node.written == []


def test_a_peers_question_is_answered_with_what_the_log_has():
    node = Node("b")
    node.repairs.asked("b", 9, 60)
    assert node.sent == [("b", Fetched(b"entry 9", 9, 3))]


@pytest.mark.parametrize("index", [0, 4])
def test_what_was_compacted_is_not_answered(index):
    node = Node("b")
    node.repairs.asked("b", index, 60)
    assert node.sent == []


@pytest.mark.parametrize("index", [51, 61, 2**53])
def test_what_is_not_known_to_be_committed_is_not_answered(index):
    """The peer may know of more that is committed: it is no reason to end the link."""
    node = Node("b")
    node.repairs.asked("b", index, 50)
    assert node.sent == []


def test_a_peers_question_may_find_damage():
    node = Node("b", "c")
    node.journal.damaged = {9}
    node.repairs.asked("b", 9, 60)
    assert node.repairs.holes == 1
    assert {type(m) for _, m in node.sent} == {Fetch}


def test_a_hole_that_was_compacted_or_cut_off_is_forgotten():
    node = Node("b").damage(9, 59)
    node.journal.cut_below(20)
    node.wait()
    assert node.repairs.holes == 1
    node.journal.deleteEntriesFrom(10)
    node.wait()
    assert (node.repairs.holes, node.mended) == (0, 1)
