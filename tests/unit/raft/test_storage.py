"""A node's directory at its start: journal and checkpoints fit together, or it says where not."""

import pytest

from crowd.errors import DamagedError
from tests.unit.raft.cluster import BRISK, Cluster


@pytest.fixture
def cluster():
    """Three members with checkpoints, whose logs are cut."""
    return Cluster(pace=BRISK).start().run(4).compact().fill(15).run(1)


def files(cluster, name, *suffixes):
    """Return the paths of a member's files of a kind, by rising index."""
    folder = f"/{name}"
    names = cluster.disks[name].names(folder)
    return [f"{folder}/{file}" for file in names if file.endswith(suffixes)]


def checkpoints(cluster, name):
    return files(cluster, name, ".checkpoint", ".floor")


def applied_since_start(cluster, name):
    """Have a member note which entries it applies from now on."""
    engine, seen = cluster.engines[name], []
    apply = engine.apply
    engine.apply = lambda index, term, command: (seen.append(index), apply(index, term, command))
    return seen


def test_a_restart_applies_only_what_is_above_the_checkpoint(cluster):
    name = cluster.followers[0]
    engine = cluster.engines[name]
    newest, last = engine.store.newest.index, engine.raft.applied_index
    assert last - newest > 3
    cluster.crash(name)
    cluster.start(name)
    seen = applied_since_start(cluster, name)
    assert cluster.engines[name].ledger.applied_index == newest
    cluster.run(1)
    assert seen[: last - newest] == list(range(newest + 1, last + 1))
    cluster.converge()


def test_i5_a_restart_with_a_checkpoint_gives_the_same_ledger_as_without():
    """The same log, read from its beginning, and from a checkpoint on."""
    cluster = Cluster(pace=BRISK).start().run(4).fill(40).converge()
    with_one, without = cluster.followers
    for name in (with_one, without):
        cluster.crash(name)
    for path in checkpoints(cluster, without):
        cluster.disks[without].remove(path)
    cluster.start(with_one, without)
    assert cluster.engines[with_one].ledger.applied_index > 20
    assert cluster.engines[without].ledger.applied_index == 1
    cluster.converge()


def test_a_bad_newest_checkpoint_costs_a_longer_start(cluster):
    """The one before it, and the log, bring the same ledger back."""
    name = cluster.followers[0]
    older, newest = [one.index for one in cluster.engines[name].store.checkpoints][-2:]
    cluster.crash(name)
    cluster.disks[name].flip(checkpoints(cluster, name)[-1], 8 * 100)
    cluster.start(name)
    engine = cluster.engines[name]
    assert engine.ledger.applied_index == older
    assert engine.store.damaged
    cluster.converge()
    assert engine.raft.applied_index > newest


def test_without_a_whole_checkpoint_a_cut_log_is_damage(cluster):
    """The node says where, and does not serve with half of its history."""
    name = cluster.followers[0]
    cluster.crash(name)
    for path in checkpoints(cluster, name):
        cluster.disks[name].flip(path, 8 * 100)
    with pytest.raises(DamagedError, match=r"no whole checkpoint.*\.floor, offset"):
        cluster.start(name)
    cluster.converge()


def test_without_any_checkpoint_a_cut_log_is_damage(cluster):
    name = cluster.followers[0]
    cluster.crash(name)
    for path in checkpoints(cluster, name):
        cluster.disks[name].remove(path)
    with pytest.raises(DamagedError, match="no whole checkpoint"):
        cluster.start(name)


def test_without_a_whole_checkpoint_a_whole_log_is_enough():
    cluster = Cluster(pace=BRISK).start().run(4).fill(40)
    name = cluster.followers[0]
    assert cluster.journals[name].first_index == 1
    cluster.crash(name)
    for path in checkpoints(cluster, name):
        cluster.disks[name].flip(path, 8 * 100)
    cluster.start(name).converge()


def test_a_log_that_ends_below_its_checkpoint_is_damage():
    """What a checkpoint covers was durable before it was one: so entries are gone."""
    cluster = Cluster(pace=BRISK, segment_bytes=1 << 20).start().run(4).fill(5)
    name = cluster.followers[0]
    (path,) = files(cluster, name, ".segment")
    early = bytes(cluster.disks[name].inodes[path].disk)
    cluster.fill(40).run(1)
    cluster.crash(name)
    cluster.disks[name].damage(path, 0, early)
    with pytest.raises(DamagedError, match=r"a checkpoint at index \d+ .* without that entry"):
        cluster.start(name)


def test_a_directory_that_was_refused_is_let_go_of(cluster):
    """It can be opened again, by `crowd repair` or when it was put right."""
    name = cluster.followers[0]
    cluster.crash(name)
    paths = checkpoints(cluster, name)
    for path in paths:
        cluster.disks[name].flip(path, 8 * 100)
    with pytest.raises(DamagedError):
        cluster.start(name)
    for path in paths:
        cluster.disks[name].flip(path, 8 * 100)
    cluster.start(name).converge()


def test_two_starts_in_a_row_find_the_same(cluster):
    """To open changes nothing that a second start would miss."""
    name = cluster.followers[0]
    cluster.crash(name)
    found = []
    for _ in range(2):
        cluster.start(name)
        found.append((cluster.digests()[name], cluster.journals[name].last_index))
        cluster.crash(name)
    assert found[0] == found[1]
    cluster.start(name).converge()


def test_all_members_restart_from_their_checkpoints(cluster):
    tip = cluster.engines[cluster.leader].ledger.tip
    cluster.crash(*cluster.engines)
    cluster.start()
    assert all(engine.ledger.applied_index > 1 for engine in cluster.engines.values())
    cluster.run(4).converge()
    assert cluster.engines[cluster.leader].ledger.tip == tip
    cluster.fill(3)


@pytest.mark.parametrize("seed", range(10))
def test_the_power_may_go_at_any_step_of_checkpoints_and_cuts(seed):
    """I1, I5: at each step of taking, releasing and cutting, what is on the disk is enough."""
    cluster = Cluster(seed=seed, pace=BRISK).start().run(4)
    chance = cluster.chance
    for _ in range(12):
        cluster.fill(8).settle().run(chance.choice([0.1, 0.6]))
        victims = chance.sample(sorted(cluster.engines), chance.randrange(1, 4))
        for name in victims:
            cluster.slow.add(name)
        cluster.run(0.05)
        for name in victims:
            for writer in cluster.writers[name]:
                for _ in range(chance.randrange(6)):
                    writer.turn()
                    if writer.waiting:
                        writer.work()
        cluster.crash(*victims)
        cluster.slow.clear()
        cluster.start(*victims).run_until(lambda: cluster.leader)
        cluster.run(1)
        assert not cluster.fatal
    cluster.converge()
