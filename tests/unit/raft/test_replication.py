"""What a leader sends to each follower, and what it believes of their answers."""

import pytest

from crowd.errors import PeerRejectedError
from crowd.raft.ports import HEARTBEAT_S
from crowd.raft.replication import BATCH_BYTES_MAX, WINDOW_BYTES, WINDOW_MESSAGES
from crowd.raft.wire import AppendEntries
from tests.unit.raft.alone import Member


def leader(entries=0):
    """Return a leader whose own disk has everything; its followers were just connected."""
    made = Member().lead().propose(entries).sync()
    for name in ("b", "c"):
        made.raft.disconnected(name)
        made.raft.connected(name)
    made.wait(0.001)
    made.take(AppendEntries)
    return made


def sent(member, name="b"):
    """Return what was sent to a follower since it was asked for last."""
    return [message for _, message in member.take(AppendEntries, name)]


def join(member, index):
    """Have follower b say that its log ends at `index`, and prove that it joins there."""
    member.acknowledge("b", index, success=False, reset=True)
    sent(member)
    return member.acknowledge("b", index)


def indices(messages):
    return [index for message in messages for _, index, _ in message.entries]


# --- Probing ----------------------------------------------------------------------------------


def test_a_new_leader_asks_each_follower_where_its_log_joins():
    member = Member().lead()
    for name in ("b", "c"):
        assert [m.entries for m in sent(member, name)] == [()]


def test_a_probe_that_is_under_way_is_not_repeated_before_the_heartbeat():
    member = leader().propose(5)
    assert sent(member) == []
    member.wait(HEARTBEAT_S + 0.01)
    assert [m.entries for m in sent(member)] == [()]


def test_a_follower_that_joins_is_sent_all_that_it_lacks():
    member = leader(5)
    last = member.journal.last_index
    join(member, 2)
    assert indices(sent(member)) == list(range(3, last + 1))


def test_a_probe_goes_to_where_the_follower_says_its_log_ends():
    member = leader(20)
    member.acknowledge("b", 6, success=False, reset=True)
    (probe,) = sent(member)
    assert (probe.prev_index, probe.entries) == (6, ())


def test_a_new_link_is_probed_anew():
    """What was under way on the old one may be lost."""
    member = join(leader(3), 1)
    assert indices(sent(member))
    member.raft.disconnected("b")
    member.propose(3)
    assert sent(member) == []
    member.raft.connected("b")
    member.wait(0.01)
    assert [m.entries for m in sent(member)] == [()]


# --- The window -------------------------------------------------------------------------------


def test_entries_are_sent_once():
    member = join(leader(3), 1)
    last = member.journal.last_index
    member.propose(3)
    assert indices(sent(member)) == list(range(2, last + 4))


def test_i7_bytes_under_way_are_bounded():
    member = leader()
    member.acknowledge("b", 1)
    sent(member)
    size = BATCH_BYTES_MAX // 2
    member.propose(3 * WINDOW_BYTES // size, command=b"x" * size)
    messages = sent(member)
    under_way = sum(len(entry[0]) for m in messages for entry in m.entries)
    assert WINDOW_BYTES <= under_way <= WINDOW_BYTES + 2 * BATCH_BYTES_MAX
    member.acknowledge("b", messages[-1].entries[-1][1])
    assert indices(sent(member))


def test_a_message_has_a_bounded_size_unless_one_entry_is_larger():
    member = leader(1)
    for size in (600_000, 600_000, 3_000_000, 10, 10):
        member.raft.propose(b"x" * size)
    member.raft.tick()
    member.acknowledge("b", member.journal.last_index - 5)
    sizes = [[len(entry[0]) for entry in m.entries] for m in sent(member)]
    assert all(sum(one) <= BATCH_BYTES_MAX or len(one) == 1 for one in sizes)
    assert sum(map(len, sizes)) == 5


def test_a_peer_that_does_not_read_is_sent_no_entries():
    member = leader()
    member.acknowledge("b", 1)
    sent(member)
    member.full = {"b"}
    member.propose(3)
    assert indices(sent(member)) == []
    member.wait(HEARTBEAT_S + 0.01)
    assert [m.stamp > 0 for m in sent(member)] == [True]
    member.full = set()
    member.wait(0.01)
    assert indices(sent(member))


def test_a_full_window_is_no_silence():
    """Heartbeats go on, or a follower with a slow disk would stand for election."""
    member = leader()
    member.acknowledge("b", 1)
    member.propose(2 * WINDOW_MESSAGES)
    sent(member)
    for _ in range(5):
        member.wait(HEARTBEAT_S + 0.01)
        assert [(m.entries, m.stamp > 0) for m in sent(member)] == [((), True)]


# --- A follower behind the log ------------------------------------------------------------------


def behind():
    """Return a leader whose log begins at 10, and whose follower b has entries up to 5 only."""
    member = leader(20).acknowledge("c", 21).sync()
    member.journal.cut_below(10)
    member.acknowledge("b", 5, success=False, reset=True)
    return member


@pytest.mark.parametrize("has", [0, 1, 5, 9])
def test_who_needs_what_was_compacted_is_sent_a_snapshot(has):
    """The first entry itself is needed to prove where the follower's log joins."""
    member = leader(20).acknowledge("c", 21).sync()
    member.journal.cut_below(10)
    sent(member)
    member.acknowledge("b", has, success=False, reset=True)
    assert set(member.wanted) == {"b"}
    assert indices(sent(member)) == []


def test_who_has_the_first_entry_needs_no_snapshot():
    member = leader(20).acknowledge("c", 21).sync()
    member.journal.cut_below(10)
    sent(member)
    join(member, 10)
    assert member.wanted == []
    assert indices(sent(member)) == list(range(11, member.journal.last_index + 1))


def test_heartbeats_go_on_while_a_snapshot_is_on_its_way():
    member = behind()
    sent(member)
    for _ in range(5):
        member.wait(HEARTBEAT_S + 0.01)
        (heartbeat,) = sent(member)
        assert (heartbeat.prev_index, heartbeat.entries) == (10, ())
        assert heartbeat.stamp
        member.acknowledge("b", 5, success=False, reset=True, stamp=heartbeat.stamp)
    assert member.raft.quorum_heard_s() > 0


def test_the_log_follows_the_snapshot():
    """A follower that installed the floor goes on from there with entries."""
    member = behind()
    sent(member)
    member.acknowledge("b", 12)  # to the heartbeat
    assert indices(sent(member)) == list(range(13, member.journal.last_index + 1))


# --- What is believed -----------------------------------------------------------------------------


def test_an_acknowledgement_beyond_the_log_is_refused_and_changes_nothing():
    member = leader(3)
    before = member.state
    with pytest.raises(PeerRejectedError, match="of a log that ends at"):
        member.acknowledge("b", member.journal.last_index + 1)
    assert member.state == before
    assert member.raft.commit_index < member.journal.last_index
    member.acknowledge("b", member.journal.last_index)
    assert member.raft.commit_index == member.journal.last_index


def test_an_answer_of_who_is_no_member_is_ignored():
    member = leader(3)
    before = member.state
    member.acknowledge("z", member.journal.last_index)
    assert member.state == before


def test_an_old_acknowledgement_takes_nothing_back():
    member = leader(5)
    last = member.journal.last_index
    member.acknowledge("b", last).acknowledge("b", 3)
    assert member.raft.acked("b") == last


def test_a_follower_that_is_expelled_hears_what_is_committed_and_then_nothing_more():
    member = leader(3)
    member.acknowledge("c", member.journal.last_index)
    member.members.discard("b")
    sent(member)
    member.raft.members_changed()
    assert [m.commit_index for m in sent(member)] == [member.raft.commit_index]
    member.propose(3).wait(HEARTBEAT_S + 0.01)
    assert sent(member) == []
    assert member.raft.acked("b") == 0


def test_a_new_member_is_replicated_to_and_does_not_count():
    member = leader(3)
    member.members.add("d")
    member.learners.add("d")
    member.raft.members_changed()
    member.raft.connected("d")
    member.wait(0.01)
    assert sent(member, "d")
    last = member.journal.last_index
    member.acknowledge("d", last)
    assert member.raft.acked("d") == last
    assert member.raft.commit_index < last


def test_a_damaged_entry_is_not_sent_until_it_is_mended():
    member = leader(10)
    member.journal.damaged = {6}
    join(member, 2)
    assert indices(sent(member)) == [3, 4, 5]
    assert set(member.holes) == {6}
    member.journal.damaged.clear()
    member.acknowledge("b", 5)
    assert indices(sent(member)) == list(range(6, member.journal.last_index + 1))
