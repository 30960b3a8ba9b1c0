"""Changes of members in a running cluster: one at a time, durable before they hold (D14)."""

import itertools

import pytest

from crowd.command import Enroll, Expel, Promote
from crowd.raft.ports import Role
from crowd.raft.wire import PreVote, PreVoteAnswer, RequestVote, ResponseVote, TimeoutNow
from tests.unit.raft.alone import FakeJournal, Member
from tests.unit.raft.cluster import BRISK, Cluster


def voters(cluster):
    """Return who votes, as every member says; one that was expelled may not have heard of it."""
    members = cluster.engines[cluster.leader].membership.roster.names
    said = {
        name: cluster.engines[name].membership.voters for name in members & set(cluster.engines)
    }
    assert len(set(said.values())) == 1, said
    return set(next(iter(said.values())))


def add(cluster, name, through=None):
    """Add a node and have it enrolled."""
    return cluster.add(name).enroll(name, through or cluster.leader)


def under_load(cluster, seconds):
    """Run while every member takes messages; return what their producers heard."""
    heard = []
    for _ in range(round(seconds / 0.05)):
        heard += [cluster.post(name, b"z" * 200) for name in cluster.engines if name in "abc"]
        cluster.run(0.05)
    return heard


def all_accepted(heard):
    assert all(len(one) == 1 and isinstance(one[0], int) for one in heard)
    assert len({one[0] for one in heard}) == len(heard)


# --- Growing and shrinking ----------------------------------------------------------------------


def test_a_cluster_grows_from_one_to_two_to_three():
    cluster = Cluster(size=1).start().run(2).fill(5)
    cluster.crash("a")
    cluster.start("a", peers=["a", "b"]).run(2)
    cluster.add("b").enroll("b", "a").run(3)
    assert voters(cluster) == {"a", "b"}
    cluster.fill(5)
    add(cluster, "c").run(3)
    assert voters(cluster) == {"a", "b", "c"}
    cluster.converge()
    cluster.crash(cluster.leader)
    cluster.run(4).fill(3)


def test_a_lone_node_that_is_compacted_grows_by_a_snapshot():
    cluster = Cluster(size=1, pace=BRISK).start().run(2).compact()
    cluster.crash("a")
    cluster.start("a", peers=["a", "b"]).run(2)
    cluster.add("b").enroll("b", "a").run(5)
    assert voters(cluster) == {"a", "b"}
    assert cluster.journals["b"].first_index > 1
    cluster.converge()


def test_a_fourth_member_joins_under_load(cluster):
    cluster.add("d").enroll("d", cluster.followers[0])
    heard = under_load(cluster, 4)
    cluster.run(1)
    all_accepted(heard)
    assert voters(cluster) == {"a", "b", "c", "d"}
    cluster.converge()


def test_who_is_not_enrolled_stays_outside(cluster):
    """It is linked with nobody, whatever its file says."""
    cluster.add("d").run(5)
    assert cluster.engines["d"].role == "unborn"
    assert voters(cluster) == {"a", "b", "c"}
    assert all("d" not in pair for pair in cluster.wires.up)
    cluster.crash("d")
    cluster.converge()


def test_a_new_member_votes_only_when_it_has_everything(cluster):
    add(cluster, "d")
    cluster.slow.add("d")  # it acknowledges nothing
    cluster.run(3)
    leader = cluster.engines[cluster.leader]
    assert leader.ledger.members["d"].votes is False
    assert leader.membership.voters == {"a", "b", "c"}
    cluster.slow.clear()
    cluster.run(3)
    assert voters(cluster) == {"a", "b", "c", "d"}


def test_a_member_is_removed_and_knows_it(cluster):
    gone = cluster.followers[0]
    cluster.expel(gone, cluster.followers[1]).run(3)
    assert voters(cluster) == set(cluster.names) - {gone}
    assert cluster.engines[gone].role == "outsider"
    term = cluster.engines[cluster.leader].raft.term
    cluster.run(10)
    assert cluster.engines[cluster.leader].raft.term == term
    cluster.crash(gone)
    cluster.fill(3).converge()


def test_the_leader_is_removed_after_it_handed_over(cluster):
    """Its producers see no pause longer than a hand-over, and none of their messages is lost."""
    leader, before = cluster.leader, len(cluster.wires.sent)
    cluster.expel(leader, cluster.followers[0])
    heard = under_load(cluster, 3)
    handed = [one for one, _, m in cluster.wires.sent[before:] if isinstance(m, TimeoutNow)]
    assert handed[0] == leader
    assert voters(cluster) == set(cluster.names) - {leader}
    ((_, expelled),) = cluster.changes(cluster.leader)
    assert (type(expelled), expelled.name) == (Expel, leader)
    cluster.run(3)
    all_accepted([h for h in heard if h and isinstance(h[0], int)])
    cluster.crash(leader)
    cluster.fill(3).converge()


def test_a_cluster_shrinks_to_one(cluster):
    for _ in range(2):
        gone = cluster.followers[0]
        cluster.expel(gone, cluster.leader).run(3)
        cluster.crash(gone)
    assert len(voters(cluster)) == 1
    cluster.fill(5)


def test_the_last_voter_cannot_be_removed():
    cluster = Cluster(size=1).start().run(2)
    cluster.expel("a", "a").run(5)
    assert cluster.engines["a"].ledger.members.keys() == {"a"}
    cluster.fill(3)


def test_a_dead_member_is_replaced(cluster):
    dead = cluster.followers[0]
    cluster.crash(dead)
    cluster.expel(dead, cluster.leader).run(2)
    add(cluster, "d").run(4)
    assert voters(cluster) == set(cluster.names) - {dead}
    cluster.fill(3).converge()


def test_a_member_with_a_new_disk_is_demoted_and_then_promoted(cluster):
    wiped = cluster.followers[0]
    cluster.crash(wiped)
    cluster.wipe(wiped)
    cluster.start(wiped).run(4)
    names = [(type(change).__name__, change.name) for _, change in cluster.changes(wiped)]
    assert names == [("Demote", wiped), ("Promote", wiped)]
    assert voters(cluster) == set(cluster.names)
    cluster.converge()


def test_a_member_moves_to_another_address(cluster):
    cluster.engines[cluster.leader].changes.enroll("b", "elsewhere.example:2107")
    cluster.run(2)
    for engine in cluster.engines.values():
        assert engine.ledger.members["b"].address == "elsewhere.example:2107"
    assert voters(cluster) == set(cluster.names)


# --- One at a time --------------------------------------------------------------------------------


def steps(cluster):
    """Return the sets of voters in the order of the log, from the founders on."""
    now = {"a", "b", "c"}
    found = [set(now)]
    effective = 0
    for index, change in cluster.changes(cluster.leader):
        if change.after < effective:
            continue
        if isinstance(change, Promote):
            now.add(change.name)
        elif not isinstance(change, Enroll):
            now.discard(change.name)
        effective = index
        found.append(set(now))
    return found


def test_d14_two_operators_changes_at_once_are_made_one_after_the_other(cluster):
    one, two = cluster.followers
    cluster.add("d")
    cluster.add("e")
    cluster.enroll("d", one)
    cluster.enroll("e", two)
    cluster.expel(one, two)
    cluster.run(8)
    assert voters(cluster) == set(cluster.names) - {one}
    found = steps(cluster)
    assert all(len(first ^ second) <= 1 for first, second in itertools.pairwise(found))


def test_d14_opposite_orders_end(cluster):
    """Who wants a member in and who wants it out do not go on for ever: each is done once."""
    one, two = cluster.followers
    cluster.add("d").enroll("d", one)
    cluster.expel("d", two)
    cluster.run(10)
    count = len(cluster.changes(cluster.leader))
    cluster.run(10)
    assert len(cluster.changes(cluster.leader)) == count


def stall_rosters(cluster, names):
    """Have these members' disks keep rosters back; return the calls that let them go."""
    kept = []
    for name in names:
        journal = cluster.journals[name]
        journal.remember = lambda data, done, go=journal.remember: kept.append(
            lambda: go(data, done)
        )
    return kept


def test_d14_the_next_change_waits_until_a_majority_has_the_last_one(cluster):
    leader, (one, two) = cluster.leader, cluster.followers
    kept = stall_rosters(cluster, (one, two))
    add(cluster, "d").run(4)
    assert {type(change) for _, change in cluster.changes(leader)} == {Enroll}
    assert not cluster.engines[leader].raft.roster_is_settled
    kept.pop()()
    cluster.run(4)
    assert "d" in cluster.engines[leader].membership.voters


def test_d14_a_roster_holds_when_it_is_on_disk_and_not_before(cluster):
    """Whatever a member counts by, it would count by after a crash too."""
    slow = cluster.followers[0]
    engine = cluster.engines[slow]
    kept = stall_rosters(cluster, [slow])
    add(cluster, "d").run(3)
    assert engine.ledger.members.keys() == {"a", "b", "c", "d"}
    assert engine.membership.voters == {"a", "b", "c"}
    assert "d" not in engine._links.peers
    vars(engine.journal).pop("remember")
    for call in kept:
        call()
    cluster.run(2)
    assert voters(cluster) == {"a", "b", "c", "d"}
    assert "d" in engine._links.peers


def test_d14_a_restart_counts_by_the_roster_that_was_durable(cluster):
    slow = cluster.followers[0]
    stall_rosters(cluster, [slow])
    add(cluster, "d").run(3)
    cluster.crash(slow)
    cluster.start(slow)
    assert cluster.engines[slow].membership.voters == {"a", "b", "c"}
    cluster.run(3)
    assert voters(cluster) == {"a", "b", "c", "d"}


def test_an_order_is_carried_out_once(cluster):
    """Who was expelled and is enrolled again by a later order stays."""
    one, two = cluster.followers
    add(cluster, "d").run(3)
    cluster.expel("d", one)
    cluster.run_until(
        lambda: not any("d" in cluster.engines[n].ledger.members for n in (one, two)), step=0.001
    )
    cluster.enroll("d", two).run(6)
    assert voters(cluster) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("seed", range(10))
def test_d14_all_restart_in_the_middle_of_a_change(seed):
    """Whenever the power goes, the members that come back agree, and the change is completed."""
    cluster = Cluster(seed=seed).start().run(4).fill(3)
    cluster.add("d").enroll("d", cluster.leader)
    for _ in range(4):
        cluster.run(cluster.chance.choice([0.01, 0.03, 0.1, 0.3]), step=0.005)
        cluster.crash(*cluster.engines)
        cluster.start().run(cluster.chance.choice([0.5, 1.5]))
    cluster.run(4)
    cluster.enroll("d", cluster.leader).run(6)
    assert voters(cluster) == {"a", "b", "c", "d"}
    cluster.fill(2).converge()


@pytest.mark.parametrize("seed", range(10))
def test_d14_members_come_and_go_under_faults(seed):
    """I1, I5 while members are added and removed, links break, disks stall and power goes."""
    cluster = Cluster(seed=seed, pace=BRISK).start().run(4)
    chance, acknowledged = cluster.chance, []
    cluster.add("d")
    for turn in range(80):
        fault = chance.random()
        living = sorted(cluster.engines)
        if fault < 0.05 and len(living) == 4:
            cluster.crash(chance.choice(living))
        elif fault < 0.12:
            down = [name for name in cluster.names if name not in cluster.engines]
            if down:
                cluster.start(*down)
        elif fault < 0.16:
            cluster.wires.partition(chance.choice(cluster.names))
        elif fault < 0.30:
            cluster.wires.heal()
        elif fault < 0.36:
            cluster.slow = {chance.choice(cluster.names)}
        elif fault < 0.44:
            cluster.slow.clear()
        elif fault < 0.52 and "d" in cluster.engines:
            through = chance.choice([name for name in living if name != "d"])
            if chance.random() < 0.5:
                cluster.enroll("d", through)
            else:
                cluster.expel("d", through)
        for name in sorted(cluster.engines):
            body = b"%d-%s" % (turn, name.encode())
            acknowledged.append((body, cluster.post(name, body)))
        cluster.run(chance.choice([0.05, 0.2, 0.5]))
        assert not cluster.fatal
    cluster.slow.clear()
    cluster.wires.heal()
    down = [name for name in cluster.names if name not in cluster.engines]
    if down:
        cluster.start(*down)
    cluster.run(10)
    cluster.enroll("d", cluster.leader).run(10)
    assert voters(cluster) == {"a", "b", "c", "d"}
    cluster.converge()
    engine = cluster.engines[cluster.leader]
    for body, heard in acknowledged:
        if heard and isinstance(heard[0], int):
            place = engine.ledger.place(heard[0])
            if place.index >= engine.journal.first_index:
                assert engine.messages(place.index)[place.offset] == body


# --- Who may lead: one member alone -----------------------------------------------------------------


def test_d14_a_voter_refuses_a_candidate_with_an_older_roster():
    member = Member()
    member.roster = 9
    member.raft.receive("b", RequestVote(term=3, last_index=20, last_term=2, roster=8))
    member.sync()
    assert member.take(ResponseVote) == []
    member.raft.receive("b", RequestVote(term=4, last_index=20, last_term=2, roster=9))
    member.sync()
    assert member.take(ResponseVote) == [("b", ResponseVote(term=4))]


def test_d14_a_voter_grants_no_pre_vote_to_an_older_roster():
    member = Member().wait(5)
    member.roster = 9
    for roster, granted in ((8, False), (9, True)):
        member.raft.receive("b", PreVote(term=9, last_index=20, last_term=2, roster=roster))
        ((_, answer),) = member.take(PreVoteAnswer)
        assert answer.granted is granted


def test_d14_a_refused_candidate_learns_what_is_committed():
    """So it applies the change that it lacks, and counts by it the next time."""
    journal = FakeJournal()
    for index in range(2, 6):
        journal.add(b"\x00change", index, 2)
    journal.sync()
    journal.term = 2
    member = Member(journal=journal).wait(2)
    assert member.raft.commit_index == 1
    member.raft.receive("b", PreVoteAnswer(term=2, granted=False, commit_index=4, commit_term=2))
    assert member.raft.commit_index == 4
    member.raft.tick()
    assert member.applied == [2, 3, 4]


@pytest.mark.parametrize(("index", "term"), [(4, 1), (9, 2)])
def test_d14_a_commit_index_of_another_log_is_not_believed(index, term):
    journal = FakeJournal()
    for place in range(2, 6):
        journal.add(b"\x00change", place, 2)
    member = Member(journal=journal)
    answer = PreVoteAnswer(term=2, granted=False, commit_index=index, commit_term=term)
    member.raft.receive("b", answer)
    assert member.raft.commit_index == 1


def test_d14_a_leader_that_does_not_vote_any_more_follows():
    member = Member().lead()
    member.learners = {"a"}
    member.raft.members_changed()
    assert member.raft.role is Role.FOLLOWER
    member.wait(10)
    assert member.take(PreVote) == []


def test_d14_the_roster_is_settled_when_a_majority_of_voters_has_it():
    member = Member(("b", "c", "d", "e")).lead()
    member.raft.receive("c", ResponseVote(term=member.raft.term))
    member.sync()
    last = member.journal.last_index
    member.acknowledge("b", last).acknowledge("c", last)
    assert member.raft.roster_is_settled
    member.roster = 2
    member.acknowledge("b", last, roster=2).acknowledge("c", last, roster=1)
    assert not member.raft.roster_is_settled
    member.learners = {"d"}
    member.acknowledge("d", last, roster=2)
    assert not member.raft.roster_is_settled
    member.acknowledge("c", last, roster=2)
    assert member.raft.roster_is_settled
