"""Letters' bytes in a cluster: on every member, before the log lets them go, whatever breaks."""

import pytest

from crowd.command import Purge
from crowd.errors import StorageFailedError
from crowd.raft.letters.ports import Row
from crowd.raft.wire import LetterFetched, NextIndex
from tests.unit.raft.alone import Member
from tests.unit.raft.cluster import BRISK, Cluster

BODY = b"letter" * 50


@pytest.fixture
def cluster():
    """Three members with short times between checkpoints."""
    return Cluster(pace=BRISK).start().run(4)


def hold(cluster, kind=LetterFetched):
    """Have the wires lose messages of a kind until `del cluster.wires.send`; return those lost."""
    send, lost = cluster.wires.send, []

    def holding(one, two, message):
        if isinstance(message, kind):
            lost.append((one, two, message))
            return True
        return send(one, two, message)

    cluster.wires.send = holding
    return lost


def release(cluster):
    del cluster.wires.send


def leave_behind(cluster, *, wiped=False, letters=3):
    """Have a follower be away while letters are made whose entries then leave the others' logs."""
    away = cluster.followers[0]
    has = cluster.journals[away].last_index
    cluster.crash(away)
    if wiped:
        cluster.wipe(away)
    numbers = cluster.bury_new(letters)
    while cluster.journals[cluster.leader].first_index <= has + 2 * letters:
        cluster.fill(12).settle().run(1.5)
    return away, numbers


# --- Kept -----------------------------------------------------------------------------------------


def test_every_member_keeps_the_bytes_of_a_letter(cluster):
    numbers = cluster.bury_new(3)
    for name in cluster.names:
        assert sorted(cluster.disks[name].letters) == numbers
        assert cluster.engines[name].letters.whole
        assert BODY in cluster.read(name, numbers[1])


def test_the_bytes_are_there_when_the_log_has_lost_them(cluster):
    numbers = cluster.bury_new(3)
    cluster.settle().compact()
    cluster.crash(*cluster.names)
    cluster.start().run(4)
    assert BODY in cluster.read(cluster.leader, numbers[0])
    assert all(engine.letters.whole for engine in cluster.engines.values())


def test_a_letter_that_is_gone_leaves_the_disk(cluster):
    first, second = cluster.bury_new(2)
    cluster.engines[cluster.leader].propose(Purge(reason="operator", letters=(first,)))
    cluster.run(1)
    assert {tuple(disk.letters) for disk in cluster.disks.values()} == {(second,)}
    assert cluster.engines[cluster.leader].letter(first) is None


def test_what_was_not_durable_when_the_power_went_is_applied_again(cluster):
    slow = cluster.followers[0]
    cluster.slow_letters.add(slow)
    numbers = cluster.bury_new(3)
    cluster.fill(30).run(1)
    cluster.crash(slow)
    assert cluster.disks[slow].letters == {}
    cluster.slow_letters.clear()
    lost = hold(cluster)
    cluster.start(slow).run(4)
    assert sorted(cluster.disks[slow].letters) == numbers
    assert lost == []  # from its own log: nobody was asked


def test_a_checkpoint_waits_for_the_letters_of_the_entries_that_it_covers(cluster):
    slow = cluster.followers[0]
    cluster.slow_letters.add(slow)
    before = cluster.engines[slow].store.newest
    index = cluster.engines[slow].ledger.applied_index
    cluster.bury_new(1)
    cluster.fill(40).run(1)
    engine = cluster.engines[slow]
    assert engine.raft.applied_index > index + 40
    assert engine.store.newest == before or engine.store.newest.index <= index + 1
    cluster.slow_letters.clear()
    cluster.run(1)
    assert engine.store.newest.index > index + 1


# --- Fetched --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiped", [False, True], ids=["with a log", "empty"])
def test_who_gets_a_snapshot_fetches_the_letters_that_its_log_skips(cluster, wiped):
    away, numbers = leave_behind(cluster, wiped=wiped)
    assert cluster.disks[away].letters == {}
    cluster.start(away).converge()
    engine = cluster.engines[away]
    assert engine.letters.whole
    assert engine.letters.fetched_letters == len(numbers)
    assert sorted(cluster.disks[away].letters) == numbers
    assert engine.role == "follower"
    assert BODY in cluster.read(away, numbers[0])


def test_i3_a_learner_that_lacks_letters_is_not_promoted(cluster):
    """Else letters could be lost with one more disk, as nobody would know that they are rare."""
    away, numbers = leave_behind(cluster, wiped=True)
    lost = hold(cluster)
    cluster.start(away).run(6)
    engine = cluster.engines[away]
    assert lost
    assert engine.raft.applied_index == cluster.engines[cluster.leader].raft.applied_index
    assert (engine.role, engine.letters.whole) == ("learner", False)
    assert engine.letters.lacking == len(numbers)
    release(cluster)
    cluster.run(6)
    assert engine.letters.whole
    assert engine.role == "follower"


def test_i3_nothing_is_released_while_only_a_minority_has_the_letters(cluster):
    away, _ = leave_behind(cluster)
    leader = cluster.leader
    hold(cluster)
    cluster.start(away).run(2)
    assert not cluster.engines[away].letters.whole
    cluster.crash(next(name for name in cluster.followers if name != away))
    released = cluster.engines[leader].ledger.released_index
    for _ in range(4):
        cluster.fill(12).settle().run(1.5)
    assert cluster.engines[leader].ledger.released_index == released
    release(cluster)
    cluster.run(5)
    for _ in range(2):
        cluster.fill(12).settle().run(1.5)
    assert cluster.engines[leader].ledger.released_index > released


def test_a_crash_between_snapshot_and_letters_costs_nothing(cluster):
    away, numbers = leave_behind(cluster)
    hold(cluster)
    cluster.start(away).run(2)
    assert cluster.engines[away].letters.lacking
    cluster.crash(away)
    release(cluster)
    cluster.start(away).converge()
    assert sorted(cluster.disks[away].letters) == numbers


def test_the_one_that_is_asked_may_die(cluster):
    away, numbers = leave_behind(cluster)
    hold(cluster)
    cluster.start(away).run(2)
    release(cluster)
    cluster.crash(next(name for name in cluster.followers if name != away))
    cluster.run_until(lambda: cluster.engines[away].letters.whole)
    assert sorted(cluster.disks[away].letters) == numbers


def test_a_letter_that_is_gone_meanwhile_is_not_waited_for(cluster):
    """The snapshot's ledger has it, nobody has its bytes any more, and the log says so soon."""
    away, numbers = leave_behind(cluster)
    floor = cluster.engines[cluster.leader].store.floor.index
    cluster.engines[cluster.leader].propose(Purge(reason="operator", letters=tuple(numbers)))
    cluster.run(1)
    assert cluster.engines[cluster.leader].store.floor.index == floor
    cluster.start(away).converge()
    assert cluster.engines[away].letters.whole
    assert cluster.disks[away].letters == {}


def test_a_leader_fetches_what_it_lacks_itself(cluster):
    numbers = cluster.bury_new(3)
    leader = cluster.leader
    sha256, message = cluster.disks[leader].letters[numbers[0]]
    cluster.disks[leader].letters[numbers[0]] = Row(sha256, message[:-1] + b"!")
    cluster.engines[leader].letter(numbers[0])
    cluster.work()
    assert cluster.engines[leader].letter(numbers[0]) is None
    assert not cluster.engines[leader].letters.whole
    assert cluster.read(leader, numbers[0]) == message
    assert cluster.disks[leader].letters[numbers[0]] == Row(sha256, message)


def test_a_damaged_table_is_fetched_as_a_whole(cluster):
    numbers = cluster.bury_new(3)
    damaged = cluster.followers[0]
    cluster.disks[damaged].letters_damaged = True
    cluster.engines[damaged].letter(numbers[0])
    cluster.run(2)
    assert sorted(cluster.disks[damaged].letters) == numbers
    assert cluster.engines[damaged].letters.whole
    cluster.converge()


def test_a_single_node_serves_no_bad_letter_and_still_cuts_its_log():
    cluster = Cluster(1, pace=BRISK).start("a", peers=["a"]).run(2)
    (number,) = cluster.bury_new(1)
    sha256, message = cluster.disks["a"].letters[number]
    cluster.disks["a"].letters[number] = Row(sha256, message[:-1] + b"!")
    cluster.engines["a"].letter(number)
    cluster.run(3)
    assert cluster.engines["a"].letter(number) is None
    assert cluster.engines["a"].letters.lacking == 1
    cluster.settle().compact()


# --- Too much, too slow, broken -------------------------------------------------------------------


def test_i7_nothing_more_is_applied_while_too_much_waits_for_the_disk(cluster):
    slow = cluster.followers[0]
    engine = cluster.engines[slow]
    engine._letter_store._pending_bytes_max = 1000
    cluster.slow_letters.add(slow)
    cluster.bury_new(9, bytes(300))
    assert engine.letters.holds
    held = engine.raft.applied_index
    cluster.fill(20).run(1)
    assert engine.raft.applied_index == held < engine.raft.commit_index
    cluster.slow_letters.clear()
    cluster.converge()


def test_a_leader_whose_letters_find_no_space_makes_way_and_loses_none(cluster):
    leader = cluster.leader
    engine = cluster.engines[leader]
    engine._letter_store._pending_bytes_max = 1000
    cluster.disks[leader].full = True
    first = cluster.engines[leader].ledger.tip + 1
    cluster.fill(5, bytes(300)).bury(*range(first, first + 5))
    cluster.run(4)
    assert engine.letters.stuck
    assert cluster.leader not in {None, leader}
    cluster.fill(5)
    cluster.disks[leader].full = False
    cluster.converge()
    assert len(cluster.disks[leader].letters) == 5


def test_i8_a_disk_that_fails_under_the_letters_ends_the_node(cluster):
    broken = cluster.followers[0]
    cluster.disks[broken].fail("letters", 5)
    cluster.bury_new(1)
    assert [type(error) for error in cluster.fatal] == [StorageFailedError]


# --- The guard ------------------------------------------------------------------------------------


def entry(index):
    return b"\x00e%d" % index, index, 5


def test_a_host_that_cannot_take_more_is_given_none():
    member = Member()
    member.applies = False
    member.append(entry(2), entry(3), commit=3)
    assert not member.raft.tick()  # it asks for no tick either, until the host says so
    assert member.applied == []
    member.applies = True
    member.raft.tick()
    assert member.applied == [2, 3]


@pytest.mark.parametrize("has", [False, True])
def test_an_answer_says_whether_the_sender_has_all_letters(has):
    member = Member()
    member.letters = has
    member.append(entry(2)).sync()
    assert {answer.whole for _, answer in member.take(NextIndex)} == {has}
