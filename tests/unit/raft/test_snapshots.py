"""A follower that is behind its leader's log: a snapshot, then the log, whatever breaks between."""

import pytest

from crowd.raft.wire import AppendEntries, SnapshotPiece, SnapshotWanted
from tests.unit.raft.cluster import BRISK, Cluster


@pytest.fixture
def cluster():
    """Three members whose logs begin above 1, with a checkpoint below and above them."""
    return Cluster(pace=BRISK).start().run(4).compact()


def leave_behind(cluster, *, wiped=False):
    """Have a follower be away until the others' logs no longer have what it needs."""
    away = cluster.followers[0]
    has = cluster.journals[away].last_index
    cluster.crash(away)
    if wiped:
        cluster.wipe(away)
    while cluster.journals[cluster.leader].first_index <= has:
        cluster.fill(12).settle().run(1.5)
    return away


def pieces(cluster):
    return [m for _, _, m in cluster.wires.sent if isinstance(m, SnapshotPiece)]


def hold(cluster, kind, *, after=0):
    """Have the wires lose messages of a kind, after so many; return the list of those lost."""
    send, passed, lost = cluster.wires.send, [], []

    def holding(one, two, message):
        if isinstance(message, kind):
            (passed if len(passed) < after else lost).append(message)
            if lost:
                return True
        return send(one, two, message)

    cluster.wires.send = holding
    return lost


def release(cluster):
    """Have the wires carry everything again."""
    del cluster.wires.send


@pytest.mark.parametrize("wiped", [False, True], ids=["with a log", "empty"])
def test_a_follower_behind_the_log_gets_a_snapshot_and_the_log(cluster, wiped):
    away = leave_behind(cluster, wiped=wiped)
    cluster.fill(5)
    cluster.start(away).converge()
    journal = cluster.journals[away]
    assert pieces(cluster)
    assert journal.first_index == pieces(cluster)[0].index
    assert cluster.engines[away].store.floor.index == journal.first_index
    assert cluster.engines[away].role == "follower"


def test_who_is_behind_but_not_below_the_floor_gets_the_log_alone(cluster):
    away = cluster.followers[0]
    cluster.crash(away)
    cluster.fill(30)
    cluster.start(away).converge()
    assert pieces(cluster) == []


def test_the_follower_answers_producers_and_survives_a_restart_afterwards(cluster):
    away = leave_behind(cluster)
    cluster.start(away).converge()
    heard = cluster.post(away)
    cluster.run(0.5)
    assert isinstance(heard[0], int)
    cluster.crash(away)
    cluster.start(away).converge()


def test_d11_the_leaders_death_in_the_middle_costs_nothing(cluster):
    """The next leader has a floor of its own, and sends that."""
    away = leave_behind(cluster)
    leader = cluster.leader
    lost = hold(cluster, SnapshotPiece)
    cluster.start(away).run_until(lambda: lost)
    release(cluster)
    cluster.crash(leader)
    cluster.run_until(lambda: cluster.engines[away].raft.applied_index > lost[0].index)
    cluster.start(leader).converge()


@pytest.mark.parametrize("kind", [SnapshotPiece, SnapshotWanted])
def test_d11_a_link_that_breaks_in_the_middle_costs_nothing(cluster, kind):
    """What was under way on the old link is forgotten; the transfer begins anew."""
    away = leave_behind(cluster)
    lost = hold(cluster, kind)
    cluster.start(away).run_until(lambda: lost)
    release(cluster)
    cluster.wires.partition(away)
    cluster.run(1)
    cluster.wires.heal()
    cluster.converge()


@pytest.mark.parametrize("kind", [SnapshotPiece, SnapshotWanted])
def test_a_lost_message_is_sent_again(cluster, kind):
    away = leave_behind(cluster)
    lost = hold(cluster, kind)
    cluster.start(away).run_until(lambda: lost)
    release(cluster)
    cluster.converge()
    assert cluster.journals[away].first_index > 1


def test_d5_a_crash_between_the_snapshots_last_byte_and_the_logs_beginning(cluster):
    """The node finds it whole at its next start, and begins from it."""
    away = leave_behind(cluster)
    cluster.start(away)
    engine = cluster.engines[away]
    cluster.run_until(lambda: cluster.engines[away].store.received, step=0.001)
    index = engine.store.received.index
    assert engine.journal.durable_index < index
    cluster.crash(away)
    sent = len(pieces(cluster))
    cluster.start(away)
    assert cluster.engines[away].ledger.applied_index == index
    cluster.converge()
    assert len(pieces(cluster)) == sent


def test_d5_a_crash_between_the_logs_beginning_and_the_snapshots_name(cluster):
    """The next start finds both: it waits for no further write before it takes another one."""
    away = leave_behind(cluster)
    cluster.start(away)
    cluster.run_until(lambda: cluster.engines[away].store.received, step=0.001)
    index = cluster.engines[away].store.received.index
    cluster.slow.add(away)
    while cluster.engines[away].journal.durable_index < index:
        cluster.run(0.001)
        cluster.writers[away][0].finish()  # the log's own disk work, and nothing behind it
    cluster.crash(away)
    cluster.slow.clear()
    cluster.wires.partition(away)
    cluster.start(away)
    engine = cluster.engines[away]
    assert engine.store.received.index == index
    assert engine.journal.durable_index >= index
    cluster.run(2)  # cut off: nothing becomes durable
    assert engine.store.received is None
    assert engine.store.floor.index == index
    cluster.wires.heal()
    cluster.converge()


@pytest.mark.parametrize("seed", range(12))
def test_d5_a_crash_of_the_follower_at_any_step(seed):
    """At each step of a transfer the power may go; what is found then leads to one history."""
    cluster = Cluster(seed=seed, pace=BRISK).start().run(4).compact()
    away = leave_behind(cluster, wiped=seed % 2 == 0)
    for _ in range(6):
        cluster.start(away)
        for _ in range(cluster.chance.randrange(40)):
            cluster.wires.connect()
            cluster.wires.deliver()
            for name, writers in cluster.writers.items():
                for writer in writers:
                    writer.turn()
                    if name != away:
                        writer.finish()
                    elif writer.waiting and cluster.chance.random() < 0.5:
                        writer.work()
            cluster.clock.advance(0.01)
        assert not cluster.fatal
        cluster.crash(away)
    cluster.start(away).converge()


def test_heartbeats_go_on_during_a_transfer(cluster):
    """The follower starts no election, and the leader goes on to hear of it."""
    away = leave_behind(cluster)
    leader, term = cluster.leader, cluster.engines[cluster.leader].raft.term
    lost = hold(cluster, SnapshotPiece)
    cluster.start(away).run(5)
    assert lost
    before = len(cluster.wires.sent)
    cluster.run(1)
    beats = [
        m for one, two, m in cluster.wires.sent[before:]
        if (one, two) == (leader, away) and isinstance(m, AppendEntries)
    ]  # fmt: skip
    assert len(beats) >= 8
    assert (cluster.leader, cluster.engines[leader].raft.term) == (leader, term)
    assert cluster.engines[away].raft.leader == leader
    release(cluster)
    cluster.converge()


def test_i3_the_floor_stays_while_it_is_sent_and_moves_on_afterwards(cluster):
    away = leave_behind(cluster)
    leader = cluster.engines[cluster.leader]
    lost = hold(cluster, SnapshotPiece)
    cluster.start(away).run_until(lambda: lost)
    floor, first = leader.store.floor.index, leader.journal.first_index
    for _ in range(2):
        cluster.fill(12).settle(wait=False).run(1)
    assert (leader.store.floor.index, leader.journal.first_index) == (floor, first)
    release(cluster)
    cluster.run(5).settle().fill(12).settle().run(3)
    assert leader.store.floor.index > floor
    cluster.converge()


def test_d10_a_snapshot_that_the_log_reaches_beyond_keeps_what_is_behind_it():
    """A follower that has applied more than the snapshot holds takes nothing of it."""
    cluster = Cluster(pace=BRISK).start().run(4).compact()
    away = leave_behind(cluster)
    cluster.start(away).converge()
    engine, leader = cluster.engines[away], cluster.engines[cluster.leader]
    old = pieces(cluster)[0]
    before = (engine.journal.first_index, engine.journal.last_index, engine.raft.applied_index)
    again = SnapshotPiece(
        leader.raft.term, old.index, old.index_term, old.digest, old.total, 0, old.data
    )
    cluster.fill(3)
    engine.peer_message(cluster.leader, again)
    cluster.run(1)
    assert engine.journal.first_index == before[0]
    assert engine.raft.applied_index > before[2]
    cluster.converge()


def test_a_leader_whose_floor_is_damaged_leaves_the_lead_to_one_that_has_it(cluster):
    """A follower that needs a snapshot gets a whole one, and no bad byte is installed."""
    away = leave_behind(cluster)
    leader = cluster.leader
    engine, disk = cluster.engines[leader], cluster.disks[leader]
    (path,) = [path for path in disk.inodes if path.endswith(".floor")]
    disk.flip(path, 8 * 150)
    cluster.run_until(lambda: engine.store.floor is None, seconds=60)
    cluster.start(away).run(5)
    assert cluster.leader not in {leader, away}
    assert cluster.journals[away].first_index > 1
    cluster.converge()


def test_a_snapshot_that_is_damaged_on_the_leaders_disk_is_never_installed(cluster):
    """The follower finds it, the leader looks at its copy, and another one is sent."""
    away = leave_behind(cluster)
    disk = cluster.disks[cluster.leader]
    (path,) = [path for path in disk.inodes if path.endswith(".floor")]
    disk.flip(path, 8 * 150)
    cluster.start(away).run(20).converge()
    assert cluster.journals[away].first_index > 1


def test_a_snapshot_of_who_does_not_lead_is_ignored(cluster):
    away = leave_behind(cluster)
    lost = hold(cluster, SnapshotPiece)
    cluster.start(away).run_until(lambda: lost)
    engine, other = cluster.engines[away], next(n for n in cluster.followers if n != away)
    for piece in lost:
        engine.peer_message(other, piece)
    cluster.run(0.5)
    assert not engine.snapshots._receiving.active
    release(cluster)
    cluster.converge()
