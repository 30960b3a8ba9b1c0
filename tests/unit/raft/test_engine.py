"""The engine's promises on members in one process: who acknowledges what, and when."""

import msgspec
import pytest
from twisted.python.failure import Failure

from crowd.command import Control, Define, Demote, Settle, Skip
from crowd.errors import (
    BacklogFullError,
    DrainingError,
    MalformedError,
    NoQuorumError,
    OutcomeUnknownError,
)
from crowd.message import ConsumerId
from crowd.raft.engine import FENCE_S, LEASE_S
from crowd.raft.ports import Role
from crowd.raft.proposer import IN_FLIGHT_MAX
from crowd.raft.seams import Space
from crowd.raft.wire import AppendEntries, NextIndex, Offer, RequestVote, ResponseVote, TimeoutNow
from tests.unit.raft.cluster import LEADS, REST_API, Cluster


def failure(heard):
    (outcome,) = heard
    assert isinstance(outcome, Failure)
    return outcome.value


def test_a_cluster_is_born_and_every_node_accepts(cluster):
    heard = [cluster.post(name) for name in cluster.names]
    cluster.run(0.5)
    assert sorted(outcome for [outcome] in heard) == [1, 2, 3]
    cluster.converge()


def test_a_node_without_peers_is_born_at_once():
    alone = Cluster(size=1).start().run(2)
    heard = alone.post("a")
    alone.run(0.2)
    assert heard == [1]


def test_a_cluster_is_not_born_before_every_member_is_there():
    partial = Cluster().start("a", "b").run(10)
    assert partial.leader is None
    assert {e.role for e in partial.engines.values()} == {"unborn"}
    partial.start("c").run(4)
    assert partial.leader


def test_messages_that_come_together_share_an_entry(cluster):
    node = cluster.followers[0]
    before = cluster.journals[node].last_index
    heard = [cluster.post(node) for _ in range(500)]
    cluster.run(0.5)
    assert sorted(outcome for [outcome] in heard) == list(range(1, 501))
    assert cluster.journals[node].last_index - before <= IN_FLIGHT_MAX


@pytest.mark.parametrize("where", ["leader", "followers"])
def test_i1_nothing_is_acknowledged_before_a_majority_has_it_on_disk(cluster, where):
    """I1: with the leader's disk, or both followers', at rest, no producer hears a 200."""
    slow = [cluster.leader] if where == "leader" else cluster.followers
    cluster.slow.update(slow)
    heard = {name: cluster.post(name) for name in cluster.names}
    cluster.run(1)
    assert not any(heard.values())
    cluster.slow.clear()
    cluster.run(0.5)
    assert all(isinstance(outcome, int) for [outcome] in heard.values())


def test_i1_one_slow_follower_delays_nobody(cluster):
    cluster.slow.add(cluster.followers[0])
    heard = {name: cluster.post(name) for name in cluster.names}
    cluster.run(0.3)
    assert all(heard.values())


def test_i1_a_follower_never_claims_more_than_its_disk_holds(cluster):
    """Every acknowledgement on the wire is at or below what was durable when it left."""
    claims = []
    send = cluster.wires.send

    def watched(one, two, message):
        if isinstance(message, NextIndex) and message.success:
            claims.append(message.next_index - 1 <= cluster.journals[one].durable_index)
        return send(one, two, message)

    cluster.wires.send = watched
    for turn in range(30):
        cluster.slow = {name for name in cluster.names if cluster.chance.random() < 0.4}
        cluster.post(cluster.names[turn % 3])
        cluster.run(0.1)
    assert claims
    assert all(claims)


def test_votes_leave_only_after_term_and_vote_are_on_disk(cluster):
    """D7, D8: with its disk at rest a member neither stands nor votes."""
    send = cluster.wires.send
    early = []

    def watched(one, two, message):
        if isinstance(message, (RequestVote, ResponseVote)):
            vote = one if isinstance(message, RequestVote) else two
            early.append(not cluster.journals[one].vote_durable(message.term, vote))
        return send(one, two, message)

    cluster.wires.send = watched
    leader = cluster.leader
    cluster.slow.update(cluster.followers)
    cluster.crash(leader)
    cluster.run(5)
    assert cluster.leader is None
    cluster.slow.clear()
    cluster.run(5)
    assert cluster.leader
    assert early
    assert not any(early)


def test_i2_a_leaders_death_is_a_pause_and_each_message_is_accepted_once(cluster):
    """I2: what was offered to the dead leader is proposed again, and has one position."""
    leader = cluster.leader
    living = cluster.followers
    heard = [cluster.post(name, b"%d" % turn) for turn, name in enumerate(living * 20)]
    cluster.run(0.02)
    cluster.crash(leader)
    cluster.run(4)
    positions = [outcome for [outcome] in heard]
    assert all(isinstance(position, int) for position in positions)
    assert len(set(positions)) == len(positions)
    assert {e.ledger.tip for e in cluster.engines.values()} == {len(positions)}
    cluster.start(leader)
    cluster.converge()


def test_a_repeated_offer_is_accepted_once(cluster):
    """The same proposal in the log many times is one acceptance."""
    node = cluster.followers[0]
    send = cluster.wires.send

    def doubled(one, two, message):
        if isinstance(message, Offer):
            send(one, two, message)
            cluster.engines[cluster.leader]._appended.clear()
        return send(one, two, message)

    cluster.wires.send = doubled
    heard = [cluster.post(node) for _ in range(10)]
    cluster.run(1)
    cluster.wires.deliver()
    assert sorted(outcome for [outcome] in heard) == list(range(1, 11))
    assert cluster.engines[node].ledger.tip == 10
    cluster.converge()


def test_a_leader_that_is_cut_off_acknowledges_nothing(cluster):
    """D2: its producers hear that the outcome is unknown, and it no longer delivers."""
    leader = cluster.leader
    cluster.wires.partition(leader)
    heard = cluster.post(leader, b"lost?")
    cluster.run(0.6)
    assert not cluster.engines[leader].may_attempt()
    cluster.run(6)
    assert isinstance(failure(heard), OutcomeUnknownError)
    assert cluster.leader != leader
    assert cluster.engines[leader].raft.role is not Role.LEADER
    cluster.wires.heal()
    cluster.converge()


def test_without_a_leader_the_producer_hears_that_nothing_was_stored(cluster):
    for name in cluster.followers:
        cluster.crash(name)
    (left,) = cluster.engines
    cluster.run(3)
    heard = cluster.post(left)
    cluster.run(6)
    assert isinstance(failure(heard), NoQuorumError)


def test_everything_acknowledged_survives_all_nodes_dying_at_once(cluster):
    heard = [cluster.post(name) for name in cluster.names * 10]
    cluster.run(0.5)
    positions = [outcome for [outcome] in heard]
    for name in cluster.names:
        cluster.crash(name)
    cluster.start().run(4)
    assert {e.ledger.tip for e in cluster.engines.values()} == {len(positions)}
    cluster.converge()


def test_a_follower_that_was_away_catches_up(cluster):
    away = cluster.followers[0]
    cluster.crash(away)
    for _ in range(50):
        cluster.post(cluster.leader, b"x" * 100_000)
        cluster.run(0.02)
    cluster.start(away)
    cluster.converge()
    assert cluster.engines[away].ledger.tip == 50


def test_a_conflicting_tail_is_replaced_and_nothing_else(cluster):
    """D1: an old leader's unacknowledged tail goes; what it shares with the others stays."""
    leader = cluster.leader
    shared = cluster.journals[leader].last_index
    cluster.wires.partition(leader)
    for _ in range(5):
        cluster.post(leader, b"tail")
        cluster.run(0.1)
    assert cluster.journals[leader].last_index > shared
    cluster.run(3)
    for _ in range(5):
        cluster.post(cluster.leader, b"kept")
        cluster.run(0.1)
    removed = []
    journal = cluster.journals[leader]
    delete = journal.deleteEntriesFrom
    journal.deleteEntriesFrom = lambda start: (removed.append(start), delete(start))
    cluster.wires.heal()
    cluster.converge()
    assert removed
    assert min(removed) >= shared


def test_a_resend_truncates_nothing(cluster):
    """D1: entries that a follower already has leave its log as it is."""
    node = cluster.followers[0]
    for _ in range(3):
        cluster.post(node)
        cluster.run(0.1)
    journal, raft = cluster.journals[node], cluster.engines[node].raft
    before = list(journal[:])
    resent = AppendEntries(
        term=raft.term, commit_index=1, prev_index=1, prev_term=0, stamp=0,
        entries=tuple(before[1:3]),
    )  # fmt: skip
    raft.receive(cluster.leader, resent)
    assert list(journal[:]) == before


def test_an_acknowledgement_of_another_term_does_not_count(cluster):
    """D3: a late answer to an older leadership changes nothing in this one."""
    leader = cluster.leader
    raft = cluster.engines[leader].raft
    peer = cluster.followers[0]
    cluster.slow.update(cluster.followers)
    heard = cluster.post(leader)
    cluster.run(0.1)
    late = NextIndex(
        term=raft.term - 1,
        next_index=10**6,
        success=True,
        reset=False,
        stamp=0,
        roster=0,
        whole=True,
    )
    for name in cluster.followers:
        raft.receive(name, late)
    cluster.run(0.1)
    assert raft.acked(peer) < 10**6
    assert not heard


def test_a_wiped_node_is_a_learner_until_it_has_everything(cluster):
    """D8: it forgot its votes, so it gives none before a committed entry readmits it."""
    wiped, other = cluster.followers
    for _ in range(5):
        cluster.post(other)
        cluster.run(0.1)
    cluster.crash(wiped)
    cluster.wipe(wiped)
    cluster.start(wiped)
    cluster.run(0.1)
    assert cluster.engines[wiped].role == "learner"
    cluster.converge()
    assert cluster.engines[wiped].role == "follower"
    assert (
        cluster.engines[wiped].ledger.members[wiped].journal_id
        == cluster.journals[wiped].journal_id
    )


def test_two_wiped_nodes_of_three_do_not_elect_each_other(cluster):
    cluster.post(cluster.leader)
    cluster.run(0.3)
    for name in cluster.names:
        cluster.crash(name)
    for name in ("b", "c"):
        cluster.wipe(name)
    cluster.start().run(20)
    assert cluster.leader is None
    assert {cluster.engines[name].role for name in ("b", "c")} == {"learner"}


def test_a_stopping_leader_hands_over_and_loses_no_request(cluster):
    leader = cluster.leader
    stopped = []
    heard = [cluster.post(name) for name in cluster.names]
    cluster.engines[leader].stopService().addBoth(stopped.append)
    refused = cluster.post(leader)
    assert isinstance(failure(refused), DrainingError)
    cluster.run(1)
    assert stopped == [None]
    assert all(isinstance(outcome, int) for [outcome] in heard)
    assert cluster.leader not in {None, leader}


def test_d13_a_leader_appends_nothing_that_could_not_be_applied(cluster):
    """Its own commands are checked like those of others: an entry would end every node."""
    engine = cluster.engines[cluster.leader]
    before = cluster.journals[cluster.leader].last_index
    with pytest.raises(MalformedError):
        engine.propose(Demote(name="b", after=0))
    cluster.run(0.5)
    assert cluster.journals[cluster.leader].last_index == before
    cluster.converge()


def test_a_leader_hands_over_all_that_it_proposed_last(cluster):
    """A stopping node settles its last outcomes: the heir needs them in its log to be elected."""
    leader, stopped = cluster.leader, []
    term = cluster.engines[leader].raft.term
    assert cluster.engines[leader].propose(Settle(ConsumerId(1), ((1, 1),)))
    cluster.engines[leader].stopService().addBoth(stopped.append)
    cluster.run(0.4)
    assert stopped == [None]
    assert cluster.leader not in {None, leader}
    assert cluster.engines[cluster.leader].raft.term == term + 1  # at the first attempt


def test_a_leader_that_hands_over_lets_others_speak_last(cluster):
    """Delivery says what it knows before another leads, and the heir has it in its log."""
    leader = cluster.leader
    engine, said = cluster.engines[leader], []
    command = Control(ConsumerId(1), "pause")
    engine.leaving_hooks.append(lambda: said.append(engine.propose(command)))
    follower = next(name for name in cluster.names if name != leader)
    cluster.engines[follower].leaving_hooks.append(lambda: said.append("who follows has no say"))
    engine.stopService()
    cluster.run(1)
    assert said == [True]
    heir = cluster.engines[cluster.leader]
    assert cluster.leader != leader
    assert heir.ledger.consumers[ConsumerId(1)].paused


def test_a_leader_that_hands_over_does_not_lead_again(cluster):
    """Should its heir fail to be elected, the others decide, and not the one that leaves."""
    leader = cluster.leader
    engine, stopped = cluster.engines[leader], []
    engine.stopService().addBoth(stopped.append)
    assert not engine.may_stand()


def test_a_dead_leaders_followers_elect_within_a_second(cluster):
    """Its broken links tell them; they need not wait for a whole election timeout."""
    cluster.crash(cluster.leader)
    cluster.run(0.9)
    assert cluster.leader


def test_i4_an_elected_leader_waits_out_the_lease_of_the_one_before(cluster):
    """Its links may be what failed: it goes on for half a second, and delivers, unknowing."""
    engines = [cluster.engines[name] for name in cluster.followers]
    cluster.wires.partition(cluster.leader)
    cluster.run_until(lambda: any(engine.raft.leads_fully for engine in engines))
    (elected,) = (engine for engine in engines if engine.raft.leads_fully)
    elected_s = elected.raft.led_since_s
    cluster.run_until(elected.may_attempt)
    assert cluster.clock.seconds() - elected_s >= LEASE_S > FENCE_S


def test_who_was_handed_the_lead_delivers_at_once(cluster):
    """The one before has stopped already."""
    leader, others = cluster.leader, cluster.followers
    cluster.engines[leader].stopService()
    cluster.run_until(lambda: any(cluster.engines[name].raft.is_leader for name in others))
    cluster.run(0.1)
    assert cluster.leader in others


def test_i4_who_asked_for_an_heir_in_vain_leads_no_more(cluster):
    """The one that was asked may be late, and deliver at once."""
    leader = cluster.leader
    engine, term = cluster.engines[leader], cluster.engines[leader].raft.term
    send = cluster.wires.send

    def without_the_heir(one, two, message):
        return None if isinstance(message, TimeoutNow) else send(one, two, message)

    cluster.wires.send = without_the_heir
    engine._step_down()
    cluster.run_until(lambda: not engine.raft.is_leader)
    cluster.run(3)
    assert cluster.engines[cluster.leader].raft.term > term


def test_a_partitioned_follower_does_not_disturb_the_leader(cluster):
    """L5: pre-vote keeps the term where it is."""
    leader, term = cluster.leader, cluster.engines[cluster.leader].raft.term
    cluster.wires.partition(cluster.followers[0])
    cluster.run(5)
    cluster.wires.heal()
    cluster.converge()
    assert (cluster.leader, cluster.engines[leader].raft.term) == (leader, term)


def test_i7_a_full_disk_closes_the_door_and_space_opens_it(cluster):
    cluster.space = Space(free_bytes=100 << 20, total_bytes=200 << 30)
    cluster.run(1)
    assert isinstance(failure(cluster.post("a")), BacklogFullError)
    cluster.space = Space(free_bytes=100 << 30, total_bytes=200 << 30)
    cluster.run(1)
    heard = cluster.post("a")
    cluster.run(0.3)
    assert heard == [1]


def test_i7_a_full_consumer_closes_its_routes_on_every_node_until_it_has_room(cluster):
    engine, names = cluster.engines[cluster.leader], list(cluster.engines)
    other = msgspec.structs.replace(LEADS, path="/other")
    small = msgspec.structs.replace(REST_API, routes=("/leads",), backlog_bytes=5)
    engine.propose(Define(cluster.leader, bytes(32), (other,), (small,)))
    cluster.run(0.3)
    heard = cluster.post("a", b"x" * 5)
    cluster.run(1)
    assert heard == [1]
    for name in names:
        error = failure(cluster.post(name))
        assert isinstance(error, BacklogFullError)
        assert "rest-api" in error.reason
    open_still = [cluster.post(name, route=2) for name in names]
    engine.propose(Skip(1, 1))
    cluster.run(1)
    heard = [cluster.post(name) for name in names]
    cluster.run(0.3)
    assert sorted(outcome for [outcome] in open_still + heard) == [2, 3, 4, 5, 6, 7]


def test_i7_the_door_closes_with_the_entry_that_fills_a_backlog(cluster):
    """Not half a second later, when thousands more may have come."""
    leader = cluster.leader
    small = msgspec.structs.replace(REST_API, routes=(), backlog_messages=10)
    cluster.engines[leader].propose(Define(leader, bytes(32), (), (small,)))
    cluster.run(0.3)
    outcomes = []
    for _ in range(100):
        outcomes.append(cluster.post(leader))
        cluster.run(0.01)
    cluster.run(0.3)
    errors = [failure(each) for each in outcomes if not isinstance(each[0], int)]
    assert 10 <= len(outcomes) - len(errors) <= 14, "at most what was under way"
    assert {type(error) for error in errors} == {BacklogFullError}
    waits = {error.retry_after_s for error in errors}
    assert waits == {1, 2}, "nothing is known yet of how fast it drains"


def test_an_offer_that_is_no_command_never_enters_the_log(cluster):
    """D13: the leader ends the link to its sender and goes on."""
    leader, peer = cluster.leader, cluster.followers[0]
    before = cluster.journals[leader].last_index
    cluster.engines[leader].peer_message(peer, Offer(command=b"\xff\x00garbage"))
    assert frozenset((leader, peer)) not in cluster.wires.up
    assert cluster.journals[leader].last_index == before
    cluster.converge()


@pytest.mark.parametrize("seed", range(25))
def test_kills_partitions_and_slow_disks_lose_nothing(seed):
    """I1, I2, I5 over a seeded minute of faults; every position acknowledged is there at the end."""
    cluster = Cluster(seed=seed).start().run(4)
    chance, acknowledged = cluster.chance, []
    for turn in range(150):
        fault = chance.random()
        if fault < 0.06 and len(cluster.engines) == 3:
            cluster.crash(chance.choice(sorted(cluster.engines)))
        elif fault < 0.12:
            down = [name for name in cluster.names if name not in cluster.engines]
            if down:
                cluster.start(*down)
        elif fault < 0.18:
            cluster.wires.partition(chance.choice(cluster.names))
        elif fault < 0.28:
            cluster.wires.heal()
        elif fault < 0.36:
            cluster.slow = {chance.choice(cluster.names)}
        elif fault < 0.42:
            cluster.slow.clear()
        for name in sorted(cluster.engines):
            for _ in range(chance.randrange(3)):
                body = b"%d-%s-%d" % (turn, name.encode(), len(acknowledged))
                acknowledged.append((body, cluster.post(name, body)))
        cluster.run(chance.choice([0.02, 0.1, 0.4]), step=0.01)
    cluster.slow.clear()
    cluster.wires.heal()
    down = [name for name in cluster.names if name not in cluster.engines]
    if down:
        cluster.start(*down)
    cluster.converge(10)
    engine = cluster.engines[cluster.leader]
    seen = set()
    for body, heard in acknowledged:
        if heard and isinstance(heard[0], int):
            place = engine.ledger.place(heard[0])
            assert engine.messages(place.index)[place.offset] == body
            assert heard[0] not in seen
            seen.add(heard[0])
    assert seen
