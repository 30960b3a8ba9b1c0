"""Each override on its own: one guarded member, a disk that the test holds, and no links.

Every test names the defect (docs/explanation/engine-defects.md) that its override closes.
"""

import random

import pytest

from crowd.errors import FatalError, PeerRejectedError
from crowd.raft import guard
from crowd.raft.following import TERM_STEP_MAX
from crowd.raft.ports import Role
from crowd.raft.replication import WINDOW_MESSAGES
from crowd.raft.wire import (
    AppendEntries,
    NextIndex,
    PreVote,
    PreVoteAnswer,
    RequestVote,
    ResponseVote,
    TimeoutNow,
)
from tests.unit.raft.alone import Member, entry


def test_d1_truncation_begins_at_the_first_conflict():
    member = Member().append(entry(2), entry(3), entry(4)).sync()
    member.append(entry(2), entry(3, 6), term=6)
    assert member.journal.log[1:] == [entry(2), entry(3, 6)]


def test_d1_truncating_what_is_committed_is_fatal():
    member = Member().append(entry(2), entry(3), commit=3).sync()
    with pytest.raises(FatalError, match="the committed one here has 5"):
        member.append(entry(2), entry(3, 6), term=6)


def test_d2_a_heartbeat_commits_only_what_it_proved_to_match():
    member = Member().append(entry(2), entry(3), entry(4)).sync()
    member.append(term=6, prev=(2, 5), commit=4)
    assert member.raft.commit_index == 2


def test_d3_a_late_acknowledgement_counts_in_no_other_term():
    member = Member().lead()
    last = member.journal.last_index
    member.acknowledge("b", last, term=member.raft.term - 1)
    assert member.raft.commit_index < last
    member.acknowledge("b", last)
    assert member.raft.commit_index == last


def test_d7_commit_waits_for_the_leaders_own_disk():
    member = Member().lead().propose()
    last = member.journal.last_index
    member.acknowledge("b", last).acknowledge("c", last)
    assert member.raft.commit_index == last - 1
    member.sync()
    assert member.raft.commit_index == last
    assert member.applied[-1] == last


def test_d7_an_acknowledgement_waits_for_the_followers_disk():
    member = Member().append(entry(2), entry(3))
    assert member.take(NextIndex) == []  # not even the term is on disk
    member.sync()
    assert {answer.next_index for _, answer in member.take(NextIndex)} == {2, 4}
    member.append(entry(4), prev=(3, 5))
    assert [answer.next_index for _, answer in member.take(NextIndex)] == [4]
    member.sync()
    assert [answer.next_index for _, answer in member.take(NextIndex)] == [5]


def test_d8_a_vote_leaves_after_it_is_on_disk():
    member = Member()
    member.raft.receive("b", RequestVote(term=3, last_index=1, last_term=0, roster=0))
    assert member.take(ResponseVote) == []
    member.sync()
    assert member.take(ResponseVote) == [("b", ResponseVote(term=3))]


def test_d8_a_learner_neither_votes_nor_stands_nor_counts():
    member = Member()
    member.learners = {"a"}
    member.raft.receive("b", RequestVote(term=3, last_index=1, last_term=0, roster=0))
    member.sync().wait(10)
    assert member.take(ResponseVote) == member.take(PreVote) == []
    leader = Member().lead()
    leader.learners = {"b"}
    leader.acknowledge("b", leader.journal.last_index)
    assert leader.raft.commit_index < leader.journal.last_index


def test_d10_a_reset_below_what_was_acknowledged_is_ignored():
    member = Member().lead()
    last = member.journal.last_index
    member.acknowledge("b", last)
    member.acknowledge("b", 0, success=False, reset=True)
    assert member.raft.acked("b") == last


def test_d13_what_cannot_be_applied_ends_the_node_at_its_index():
    member = Member().append(entry(2), entry(3), commit=3)

    def broken(index, term, command):
        raise FatalError(f"entry {index}")

    member.apply = broken
    with pytest.raises(FatalError, match="entry 2"):
        member.wait(0.1)
    assert member.raft.applied_index == 1


@pytest.mark.parametrize(("term", "committed"), [(5, 3), (4, 1), (0, 1)])
def test_d14_a_change_of_members_in_force_is_committed_at_a_start(term, committed):
    """Who refuses an older roster can say why: else a log that is longer could never lead."""
    member = Member().append(entry(2), entry(3), entry(4)).sync()
    again = Member(journal=member.journal, roster=(3, term))
    assert again.raft.commit_index == committed


def test_d15_one_voter_has_one_vote():
    member = Member(("b", "c", "d", "e")).stand()
    for _ in range(5):
        member.raft.receive("b", ResponseVote(term=member.raft.term))
    assert member.raft.role is Role.CANDIDATE
    member.raft.receive("c", ResponseVote(term=member.raft.term))
    assert member.raft.role is Role.LEADER


def test_l1_while_probing_no_entries_are_sent_and_the_index_only_falls():
    member = Member().lead()
    member.propose(10).take(AppendEntries)
    places = []
    for hint in (9, 5, 7, 3):
        member.acknowledge("c", hint - 1, success=False, reset=True).wait(0.2)
        sent = [m for name, m in member.take(AppendEntries) if name == "c"]
        assert all(m.entries == () for m in sent)
        places += [m.prev_index for m in sent]
    assert places == sorted(places, reverse=True)


def test_l2_a_mismatch_names_the_first_index_of_the_conflicting_term():
    member = Member().append(entry(2, 3), *(entry(n, 4) for n in range(3, 50)), term=4).sync()
    member.take(NextIndex)
    member.append(term=6, prev=(49, 5)).sync()
    ((_, answer),) = member.take(NextIndex)
    assert (answer.success, answer.next_index) == (False, 3)


def test_l3_only_a_window_of_entries_is_under_way():
    member = Member().lead()
    member.acknowledge("b", 1)
    member.take(AppendEntries)
    member.propose(3 * WINDOW_MESSAGES)
    sent = [m for name, m in member.take(AppendEntries) if name == "b" and m.entries]
    assert len(sent) <= WINDOW_MESSAGES
    member.acknowledge("b", sent[-1].entries[-1][1])
    assert [m for name, m in member.take(AppendEntries) if name == "b" and m.entries]


def leading():
    """Return a leader, with one entry of its term committed and one under way to b."""
    member = Member(gather_s=guard.GATHER_S).lead()
    member.acknowledge("b", member.journal.last_index)
    member.raft.propose(b"first")
    member.raft.tick()
    member.take(AppendEntries)
    return member


def appended(member):
    """Return how many entries each message to b has."""
    return [len(m.entries) for _, m in member.take(AppendEntries, "b")]


def test_what_is_proposed_gathers_while_entries_are_under_way():
    member = leading()
    last = member.journal.last_index
    for _ in range(3):
        member.raft.propose(b"more")
        member.raft.tick()
    assert (member.journal.last_index, member.raft.gathered) == (last, 3)
    member.sync()
    assert (member.journal.last_index, appended(member)) == (last, [])
    member.acknowledge("b", last)
    assert (member.raft.commit_index, member.raft.gathered) == (last, 0)
    (message,) = [m for _, m in member.take(AppendEntries, "b")]
    assert (len(message.entries), message.commit_index) == (3, last)


def test_what_gathers_waits_for_no_slow_disk():
    member = leading()
    member.raft.propose(b"more")
    member.wait(guard.GATHER_S / 2)
    assert appended(member) == []
    member.raft.propose(b"and more")
    member.wait(guard.GATHER_S)
    assert appended(member) == [2]


def test_much_that_gathered_goes_at_once():
    member = leading()
    member.raft.propose(bytes(guard.GATHER_BYTES - 2))
    member.raft.tick()
    assert appended(member) == []
    member.raft.propose(b"m")
    member.raft.tick()
    assert sum(appended(member)) == 2


def test_what_gathered_is_appended_by_no_later_leadership():
    member = leading()
    last = member.journal.last_index
    member.raft.propose(b"more")
    member.raft.step_down()
    member.raft.tick()
    assert (member.journal.last_index, member.raft.gathered) == (last, 0)


def test_l5_nobody_stands_before_a_majority_said_yes():
    member = Member().wait(5)
    assert member.raft.term == 0
    assert member.take(RequestVote) == []
    member.stand()
    assert member.raft.role is Role.CANDIDATE


def test_l5_a_leader_of_the_past_is_told_so():
    member = Member().append(term=5).sync()
    member.take(NextIndex)
    member.append(term=3, leader="c")
    ((name, answer),) = member.take(NextIndex)
    assert (name, answer.term, answer.success) == ("c", 5, False)


def test_l5_a_follower_with_a_live_leader_grants_no_pre_vote():
    member = Member().append(term=5).sync()
    member.raft.receive("c", PreVote(term=6, last_index=9, last_term=5, roster=0))
    ((_, answer),) = member.take(PreVoteAnswer)
    assert not answer.granted
    member.wait(guard.ELECTION_MIN_S + 0.01)
    member.raft.receive("c", PreVote(term=6, last_index=9, last_term=5, roster=0))
    assert member.take(PreVoteAnswer)[-1][1].granted


def test_l5_a_leader_without_a_majority_steps_down():
    member = Member().lead()
    for _ in range(20):
        member.wait(0.1)
    assert member.raft.role is Role.FOLLOWER


def test_l7_a_commit_index_that_moved_is_sent_at_once():
    member = Member().lead()
    last = member.journal.last_index
    member.acknowledge("c", 1).take(AppendEntries)
    member.acknowledge("b", last)
    assert ("b", last) in [(n, m.commit_index) for n, m in member.take(AppendEntries)]


def test_a_commit_index_that_nobody_waits_for_comes_with_the_heartbeat():
    member = Member().lead()
    member.waiting = set()
    last = member.journal.last_index
    member.acknowledge("c", 1).take(AppendEntries)
    member.acknowledge("b", last)
    assert member.raft.commit_index == last
    assert member.take(AppendEntries) == []
    member.wait(0.2)
    assert {m.commit_index for _, m in member.take(AppendEntries)} == {last}


def test_a_hand_over_skips_the_pre_vote():
    member = Member().append(term=5).sync()
    member.raft.receive("b", TimeoutNow(term=5))
    member.wait(0.01).sync()
    assert {name for name, _ in member.take(RequestVote)} == {"b", "c"}


def two_leaders():
    """Members who know who leads their term: the leader, and a follower of b."""
    leader, follower = Member().lead(), Member().append(entry(2)).sync()
    return (leader, leader.raft.term), (follower, 5)


@pytest.mark.parametrize("place", [0, 1], ids=["leader", "follower"])
def test_a_second_leader_of_a_term_is_refused(place):
    """The link to it ends; the node goes on as it was."""
    member, term = two_leaders()[place]
    before = member.state
    with pytest.raises(PeerRejectedError, match=f"it leads in term {term}"):
        member.append(entry(2, term), term=term, leader="c")
    assert member.state == before


def impossible(term):
    """Messages that no peer who follows the rules can send to one in this term."""
    far = term + TERM_STEP_MAX + 1
    return {
        "a jump of the term": [
            AppendEntries(far, 1, 1, 0, 1, ()),
            NextIndex(far, 2, True, False, 1, 0, True),
            RequestVote(far, 9, 1, 0),
            ResponseVote(far),
            PreVote(far, 9, 1, 0),
            PreVoteAnswer(far, False, 1, 0),
            TimeoutNow(far),
        ],
        "a log of a later term": [
            AppendEntries(term, 1, 2, term + 1, 1, ()),
            RequestVote(term, 9, term + 1, 0),
            PreVote(term, 9, term, 0),
        ],
        "entries of a term before the one in front of them": [
            AppendEntries(term, 1, 2, term, 1, ((b"x", 3, term - 1),)),
        ],
    }


@pytest.mark.parametrize("what", impossible(5))
@pytest.mark.parametrize("leads", [True, False])
def test_terms_that_cannot_be_end_the_link_and_change_nothing(what, leads):
    member = Member().lead() if leads else Member().append(entry(2)).sync()
    before = member.state
    for message in impossible(member.raft.term)[what]:
        with pytest.raises(PeerRejectedError):
            member.raft.receive("c", message)
        assert member.state == before


def test_what_a_leader_heard_is_timed_by_when_it_asked():
    """The fence rests on when a heartbeat was sent, not on when its answer was read."""
    member = Member().lead()
    member.take(AppendEntries)
    asked_s = member.clock.seconds() + 0.2
    member.wait(0.2)
    stamp = max(m.stamp for name, m in member.take(AppendEntries) if name == "b")
    member.clock.advance(60)  # stopped, and woken
    member.acknowledge("b", 1, stamp=stamp)
    assert member.raft.quorum_heard_s() == pytest.approx(asked_s, abs=0.001)


def test_i6_stock_paths_that_unpickle_are_closed():
    member = Member()
    with pytest.raises(FatalError):
        member.raft._SyncObj__doApplyCommand(b"\x00")
    with pytest.raises(FatalError):
        member.raft._SyncObj__loadDumpFile(clearJournal=True)
    with pytest.raises(FatalError):
        member.raft._SyncObj__onMessageReceived(None, {"type": "apply_command"})


def test_another_version_of_pysyncobj_is_refused(monkeypatch):
    monkeypatch.setattr(guard, "VERSION", "0.3.18")
    with pytest.raises(FatalError, match=r"0\.3\.18 is installed"):
        guard.install(lambda: 0.0, random.Random(1))
