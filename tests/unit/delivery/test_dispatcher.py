"""Delivery on the leader: a ledger, consumers in memory, a clock that tests advance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from crowd.command import (
    Accept,
    Bury,
    Conclude,
    Control,
    Dismiss,
    Purge,
    Remember,
    Replay,
    Settle,
    Skip,
)
from crowd.definition import Answers, Batch, Breaker, Dead, Retry
from crowd.delivery.dispatcher import DRAIN_S, EXPIRE_MAX, FENCED_S, SLICE_S
from crowd.delivery.endings import LETTER_ENDS_S
from crowd.delivery.lane import HOLDING_MAX, LEASE_S
from crowd.delivery.outcome import Answered
from crowd.delivery.reports import (
    BURY_BYTES_MAX,
    REMEMBER_EVERY_S,
    SETTLE_AT,
    SETTLE_EVERY_S,
    SETTLE_PROPOSED_MAX,
)
from crowd.errors import DamagedEntryError, DamagedError
from crowd.message import Position, RouteId, message_id
from tests.unit.delivery.rig import DOWN, OK, RETRY, Cluster, Node, consumer, stored

BAD = Answered(400)


def test_accepted_messages_reach_the_consumer_and_are_settled():
    """What was accepted is delivered once, and the log says so."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"one", b"two")
    cluster.accept(b"three")
    node.pass_s(1)
    assert node.bodies("c") == [b"one", b"two", b"three"]
    assert [naming.id for _, _, naming in node.attempts] == [
        message_id("0123abcd", Position(n)) for n in (1, 2, 3)
    ]
    assert cluster.settled("c") == [(1, 3)]
    assert cluster.ledger.backlog(cluster.ledger.consumer_id("c")) == 0


def test_only_the_leader_delivers():
    """A follower's dispatcher does nothing, whatever is applied."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: OK)
    cluster.accept(b"one")
    node.pass_s(1)
    assert node.attempts == []
    assert node.dispatcher.progress()[0].backlog == 1


def test_nothing_runs_while_there_is_nothing_to_do():
    """An idle leader has no timer: delivery does not poll."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    assert cluster.clock.getDelayedCalls() == []


def test_a_closed_fence_starts_no_attempt():
    """A leader that no majority has answered for half a second attempts nothing."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: OK)
    cluster.quorum = False
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(5)
    assert node.attempts == []
    cluster.quorum = True
    node.pass_s(FENCED_S + 0.02)
    assert node.bodies("c") == [b"one"]


def test_the_fence_is_asked_before_every_attempt():
    """A process that was stopped in the middle of its work and woken starts nothing more."""
    cluster = Cluster(consumer("c", concurrency=10))
    asked = []

    def may_attempt():
        asked.append(True)
        return len(asked) <= 3

    node = Node(cluster)
    node.dispatcher.lead()
    cluster.may_attempt = may_attempt
    cluster.accept(*[b"x"] * 10)
    node.pass_s(0.02)
    assert len(node.attempts) == 3


def test_i4_a_leader_change_repeats_only_what_the_log_did_not_have():
    """The next leader attempts what was in flight or not yet settled, under the same ids."""
    cluster = Cluster(consumer("c", concurrency=2))
    first = Node(cluster)
    first.dispatcher.lead()
    cluster.accept(*[b"%d" % n for n in range(1, 7)])
    first.pass_s(0.02)
    first.end()
    first.pass_s(SETTLE_EVERY_S + 0.05)  # 1 and 2 are settled, 3 and 4 in flight
    assert cluster.settled("c") == [(1, 2)]
    cluster.leads = False
    first.dispatcher.unlead()
    first.end()  # 3 and 4 were delivered, and nobody can say so any more
    cluster.leads = True
    second = Node(cluster, answer=lambda *_: OK)
    second.dispatcher.lead()
    second.pass_s(1)
    assert second.bodies("c") == [b"3", b"4", b"5", b"6"]
    ids = {naming.position: naming.id for _, _, naming in first.attempts}
    assert all(ids.get(n.position, n.id) == n.id for _, _, n in second.attempts)
    assert cluster.ledger.backlog(cluster.ledger.consumer_id("c")) == 0


def test_a_dead_consumer_slows_no_other():
    """A consumer that is down for an hour costs the other one nothing."""
    cluster = Cluster(consumer("dead"), consumer("live"))
    node = Node(cluster, answer=lambda name, *_: OK if name == "live" else DOWN)
    node.dispatcher.lead()
    for n in range(40):
        cluster.accept(*[b"%d" % n] * 5)
        node.pass_s(0.05)
    assert len(node.bodies("live")) == 200
    assert len(node.bodies("dead")) < 20
    dead, live = node.dispatcher.progress()
    assert (dead.breaker, live.breaker) == ("open", "closed")
    assert dead.held == "connect: refused"
    assert 0 < dead.held_for_s <= 2
    assert dead.waiting < 20
    assert dead.last_problem == "connect: refused"
    node.answer = lambda *_: OK
    node.pass_s(4)
    assert cluster.ledger.lowest_watermark == 200


def test_a_rate_holds_for_attempts_and_retries():
    """A consumer with `rate = "20/s"` gets no more, though half of its answers are failures."""
    refused = Answers(retry=("422",))
    cluster = Cluster(consumer("c", rate="20/s", concurrency=100, answers=refused))
    node = Node(cluster, answer=lambda _c, _m, naming: Answered(422) if naming.attempt == 1 else OK)
    node.dispatcher.lead()
    cluster.accept(*[b"x"] * 500)
    node.pass_s(10)
    assert 190 <= len(node.started_s) <= 20 * 10 + 2
    for first, later in zip(node.started_s, node.started_s[20:], strict=False):
        assert later - first > (20 - 2) / 20 - 1e-6, "a burst is two at 20/s"


def test_waiting_for_a_rate_takes_no_turn_from_others():
    """A lane that waits for its rate has nothing in flight, one timer, and slows nobody."""
    cluster = Cluster(consumer("slow", rate="30/min", concurrency=1), consumer("live"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(*[b"x"] * 100)
    node.pass_s(1)
    assert (len(node.bodies("slow")), len(node.bodies("live"))) == (1, 100)
    slow, _ = node.dispatcher.progress()
    assert slow.in_flight == 0
    (timer,) = cluster.clock.getDelayedCalls()
    assert timer.getTime() == pytest.approx(2.0, abs=0.02)
    node.pass_s(9.5)
    assert len(node.bodies("slow")) == 6


def test_a_changed_rate_is_followed_and_an_unchanged_one_kept():
    """Another `concurrency` gives no second burst; a better rate counts at once."""
    cluster = Cluster(consumer("c", rate="1/h"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(*[b"x"] * 50)
    node.pass_s(1)
    cluster.define(consumer("c", rate="1/h", concurrency=9))
    node.pass_s(1)
    assert len(node.attempts) == 1
    cluster.define(consumer("c", rate="10/s"))
    node.pass_s(1)
    assert 10 <= len(node.attempts) <= 12
    cluster.define(consumer("c"))
    node.pass_s(1)
    assert len(node.attempts) == 50


def test_a_rate_that_is_none_is_reported_and_nothing_is_attempted():
    """A text that this version cannot read is no licence to attempt without bound."""
    cluster = Cluster(consumer("c", rate="often"), consumer("d"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    assert (node.bodies("c"), node.bodies("d")) == ([], [b"one"])
    assert "'often' is no rate" in node.dispatcher.progress()[0].last_problem
    assert node.fatal == []


def test_a_consumer_gets_its_routes_only():
    """A message of another route is none of its business."""
    cluster = Cluster(consumer("c", routes=("/b",)))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"not", route=1)
    cluster.accept(b"yes", route=2)
    cluster.accept(b"not", route=1)
    node.pass_s(1)
    assert node.bodies("c") == [b"yes"]


def test_a_paused_consumer_waits():
    """Pause holds a consumer; resume goes on where it was."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    identity = cluster.ledger.consumer_id("c")
    cluster.append(Control(identity, "pause"))
    cluster.accept(b"one")
    node.pass_s(2)
    assert node.attempts == []
    assert node.dispatcher.progress()[0].paused
    cluster.append(Control(identity, "resume"))
    node.pass_s(0.1)
    assert node.bodies("c") == [b"one"]


def test_outcomes_are_settled_in_batches():
    """A thousand deliveries are a few entries, not a thousand."""
    cluster = Cluster(consumer("c", concurrency=50))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(*[b"x"] * 2_000)
    node.pass_s(2)
    settles = [command for command in cluster.log.values() if isinstance(command, Settle)]
    assert cluster.ledger.lowest_watermark == 2_000
    assert len(settles) <= 2_000 // SETTLE_AT + 1


def test_outcomes_wait_while_nothing_commits():
    """Without a quorum a bounded number of proposals is under way, and none is lost."""
    cluster = Cluster(consumer("c", concurrency=50))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.held = True
    cluster.accept(*[b"x"] * 10_000)
    node.pass_s(3)
    assert len(cluster.pending) <= SETTLE_PROPOSED_MAX
    assert len(node.attempts) == 10_000
    cluster.commit()
    node.pass_s(3)
    assert cluster.ledger.lowest_watermark == 10_000
    assert len(node.attempts) == 10_000


def test_an_entry_is_read_once():
    """A batch is read from the log once for all its messages and consumers."""
    cluster = Cluster(consumer("c"), consumer("d"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(*[b"x"] * 100)
    node.pass_s(1)
    assert len(node.attempts) == 200
    assert cluster.reads == 1


def test_a_new_consumer_is_served_at_once():
    """A consumer that a file adds gets its messages without a restart."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    cluster.define(consumer("c"), consumer("late"))
    node.pass_s(1)
    assert node.bodies("late") == [b"one"]


def test_a_changed_consumer_is_followed():
    """Attempts go to the new address; those under way end as they began."""
    cluster = Cluster(consumer("c", concurrency=1))
    node = Node(cluster)
    node.dispatcher.lead()
    cluster.accept(b"one", b"two", b"three")
    node.pass_s(0.02)
    cluster.define(consumer("c", concurrency=2, url="http://127.0.0.1:2"))
    assert node.closed == [("close", "http://127.0.0.1:1")]
    node.pass_s(0.02)
    assert len(node.attempts) == 2
    node.end()
    node.end()
    node.pass_s(1)
    assert sorted(node.bodies("c")) == [b"one", b"three", b"two"]
    assert cluster.ledger.lowest_watermark == 3


def test_an_address_that_is_none_is_reported_and_mended():
    """One consumer's mistake stops no other, and a better file puts it right."""
    cluster = Cluster(consumer("c", url="nowhere"), consumer("d"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    assert node.bodies("d") == [b"one"]
    assert node.dispatcher.progress()[0].last_problem == "cannot be attempted: no address"
    cluster.define(consumer("c"), consumer("d"))
    node.pass_s(1)
    assert node.bodies("c") == [b"one"]


def test_a_message_that_does_not_decode_is_kept_and_stops_nothing():
    """What cannot be made a request becomes a letter; what follows is delivered."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.number += 1
    cluster.append(Accept(cluster.session, 1, 1, (RouteId(1),) * 2, (b"\xff", stored(b"good"))))
    node.pass_s(1)
    assert node.bodies("c") == [b"good"]
    progress = node.dispatcher.progress()[0]
    assert (progress.backlog, progress.waiting, progress.dead) == (0, 0, 1)
    (letter,) = cluster.ledger.letters.values()
    assert (letter.reason, cluster.letter_bytes) == ("undeliverable", {letter.number: b"\xff"})
    assert node.fatal == []


def test_i8_damage_ends_the_node():
    """Bytes in the log that fail their checksum are not delivered and not passed over."""
    cluster = Cluster(consumer("c"))

    def damaged(index):
        raise DamagedError("a bad checksum", place=f"entry {index}")

    cluster.messages = damaged
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    assert [str(error) for error in node.fatal] == ["a bad checksum at entry 5"]
    assert cluster.clock.getDelayedCalls() == []


def test_stopping_waits_for_attempts_and_settles_them():
    """A node that is stopped leaves nothing for the next leader to repeat."""
    cluster = Cluster(consumer("c", concurrency=2))
    node = Node(cluster)
    node.dispatcher.lead()
    cluster.accept(b"one", b"two", b"three")
    node.pass_s(0.02)
    stopped = []
    node.dispatcher.stopService().addCallback(stopped.append)
    node.pass_s(0.5)
    assert stopped == []
    node.end()
    node.pass_s(0.05)
    assert stopped == [None]
    assert len(node.attempts) == 2
    assert cluster.settled("c") == [(1, 2)]


def test_stopping_has_an_end():
    """A consumer that does not answer holds up no stop for more than three seconds."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(0.02)
    stopped = []
    node.dispatcher.stopService().addCallback(stopped.append)
    node.pass_s(DRAIN_S + 0.1)
    assert stopped == [None]
    assert node.closed == [("abort", "http://127.0.0.1:1")]
    assert cluster.clock.getDelayedCalls() == []


def proposed(cluster, kind):
    return [command for command in cluster.log.values() if isinstance(command, kind)]


def test_the_dead_go_into_the_log_with_their_bytes():
    """A refused message is settled and kept, with what its consumer said of it."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: Answered(422, None, b"no such shop"))
    node.dispatcher.lead()
    cluster.accept(b"one", b"two", b"three")
    node.pass_s(1)
    (bury,) = proposed(cluster, Bury)
    assert [letter.position for letter in bury.letters] == [1, 2, 3]
    letter = bury.letters[1]
    assert (letter.state, letter.reason, letter.status) == ("dead", "answer", 422)
    assert (letter.words, letter.attempts, letter.message) == ("no such shop", 1, stored(b"two"))
    assert letter.first_us <= letter.last_us <= cluster.log_time_us()
    assert cluster.ledger.lowest_watermark == 3
    assert node.dispatcher.progress()[0].dead == 3


def test_a_burial_is_no_larger_than_an_entry_should_be():
    """Large messages die in several entries, and one that is larger than that alone."""
    cluster = Cluster(consumer("c", concurrency=50))
    node = Node(cluster, answer=lambda *_: Answered(400))
    node.dispatcher.lead()
    sizes = [1_000, 200_000, 200_000, 200_000, 2 * BURY_BYTES_MAX, 10]
    cluster.accept(*[b"x" * size for size in sizes])
    node.pass_s(1)
    burials = [[len(each.message) for each in bury.letters] for bury in proposed(cluster, Bury)]
    assert [len(burial) for burial in burials] == [3, 1, 1, 1]
    assert all(len(burial) == 1 or sum(burial) <= BURY_BYTES_MAX for burial in burials)


def test_at_the_bound_of_dead_letters_an_alarm_is_seen():
    """Nothing is evicted: the consumer is held, status says so, and raising the bound helps."""
    cluster = Cluster(consumer("c", dead=Dead(bytes_max=200)))
    node = Node(cluster, answer=lambda *_: Answered(400))
    node.dispatcher.lead()
    cluster.accept(*[b"x" * 50] * 20)
    node.pass_s(5)
    (progress,) = node.dispatcher.progress()
    assert (progress.alarm, progress.held) == (True, "its dead letters are at their bound")
    assert len(cluster.ledger.letters) == 2
    cluster.accept(*[b"x" * 50] * 5)
    node.pass_s(60)
    assert len(node.attempts) == 20
    cluster.define(consumer("c", dead=Dead(bytes_max=10_000)))
    node.pass_s(5)
    assert len(cluster.ledger.letters) == 25
    assert not node.dispatcher.progress()[0].alarm


@pytest.mark.parametrize("batch", [None, Batch("ndjson", 10, 1 << 20, 0)])
@pytest.mark.parametrize("breaker", [Breaker(), Breaker(failures=1)])
def test_at_the_bound_of_dead_letters_a_replay_makes_room(batch, breaker):
    """Held, a consumer gets no new message; but letters ordered for it, for they have room already."""
    cluster = Cluster(consumer("c", dead=Dead(bytes_max=200), batch=batch, breaker=breaker))
    node = Node(cluster, answer=lambda *_: Answered(400))
    node.dispatcher.lead()
    cluster.accept(*[b"x" * 50] * 3)
    node.pass_s(5)
    assert node.dispatcher.progress()[0].alarm
    assert dict(cluster.ledger.letters).keys() == {1, 2}
    cluster.accept(b"new")
    order = Replay(cluster.ledger.consumer_id("c"), (1, 2))
    cluster.append(order)
    node.pass_s(5)
    assert node.bodies("c").count(b"new") == 0
    again = dict(cluster.ledger.letters)
    assert {letter.state for letter in again.values()} == {"dead"}, "refused again, and kept"
    assert node.dispatcher.progress()[0].alarm
    node.answer = lambda *_: OK
    cluster.append(Replay(order.consumer, tuple(again)))
    node.pass_s(5)
    assert not node.dispatcher.progress()[0].alarm
    assert [letter.state for letter in cluster.ledger.letters.values()] == ["dead"]
    assert node.bodies("c")[-1] == b"new"
    assert cluster.ledger.watermark(order.consumer) == 4


def test_what_waits_is_told_once_a_second_and_only_if_it_changed():
    """A consumer that fails costs the log an entry a second, and one that works none."""
    cluster = Cluster(consumer("bad"), consumer("good"))
    refused = Answered(500)
    answer = lambda name, _m, naming: refused if name == "bad" and naming.position % 3 == 0 else OK  # noqa: E731
    node = Node(cluster, answer=answer)
    node.dispatcher.lead()
    for _ in range(100):
        cluster.accept(*[b"x"] * 5)
        node.pass_s(0.1)
    told = proposed(cluster, Remember)
    assert {command.consumer for command in told} == {cluster.ledger.consumer_id("bad")}
    assert 8 <= len(told) <= 10.2 / REMEMBER_EVERY_S
    assert all(trial.position % 3 == 0 for command in told for trial in command.trials)
    node.answer = lambda *_: OK
    node.pass_s(400, step=0.5)
    assert proposed(cluster, Remember)[-1].trials == ()
    assert cluster.clock.getDelayedCalls() == []


def test_what_ended_after_it_was_told_is_told_no_more():
    """It would stand in the place of what waits, of which no more than some are told."""
    retry = Retry(60_000_000, 1.0, 60_000_000, 10**12, jitter=0.0)
    cluster = Cluster(consumer("c", retry=retry))
    node = Node(cluster, answer=lambda *_: DOWN)
    node.dispatcher.lead()
    cluster.accept(b"one", b"two")
    node.pass_s(2)
    node.dispatcher.unlead()
    told = proposed(cluster, Remember)[-1]
    assert [trial.position for trial in told.trials] == [1, 2]
    cluster.append(Settle(told.consumer, ((1, 1),)))
    heir = Node(cluster, answer=lambda *_: DOWN)
    heir.dispatcher.lead()
    cluster.accept(b"three")
    heir.pass_s(2)
    assert [trial.position for trial in proposed(cluster, Remember)[-1].trials] == [2, 3]


def test_stopping_tells_the_next_leader_what_waits():
    """A restart resets no backoff."""
    cluster = Cluster(consumer("c", retry=Retry(60_000_000, 1.0, 60_000_000, 10**12, jitter=0.0)))
    node = Node(cluster, answer=lambda *_: DOWN)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(0.5)
    cluster.accept(b"two")
    node.pass_s(0.2)
    node.dispatcher.stopService()
    node.pass_s(0.1)
    assert [trial.position for trial in proposed(cluster, Remember)[-1].trials] == [1, 2]
    heir = Node(cluster, answer=lambda *_: OK)
    heir.dispatcher.lead()
    heir.pass_s(58)
    assert heir.attempts == []
    heir.pass_s(3)
    assert [(n.position, n.attempt) for _, _, n in heir.attempts] == [(1, 2), (2, 2)]


def test_a_letter_whose_bytes_are_not_here_yet_waits_for_them():
    """A node fetches what it lacks; delivery of the others goes on."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda _c, message, _n: OK if message.body == b"ok" else BAD)
    node.dispatcher.lead()
    cluster.accept(b"bad", b"ok")
    node.pass_s(1)
    here = cluster.letter
    cluster.letter = lambda _: None
    node.answer = lambda *_: OK
    cluster.append(Replay(cluster.ledger.consumer_id("c"), (1,)))
    node.pass_s(5)
    assert len(node.attempts) == 2
    cluster.letter = here
    node.pass_s(2)
    _, message, naming = node.attempts[-1]
    assert (message.body, naming.position, naming.replay) == (b"bad", 1, True)
    node.pass_s(1)
    assert proposed(cluster, Conclude) == [Conclude(1, (1,))]
    assert dict(cluster.ledger.letters) == {}


def test_letters_are_attempted_as_soon_as_their_bytes_come():
    """Each of many that are read from the disk one by one, and not only when it is its time."""
    cluster = Cluster(consumer("c", concurrency=1))
    node = Node(cluster, answer=lambda *_: BAD)
    node.dispatcher.lead()
    cluster.accept(*[b"bad"] * 40)
    node.pass_s(2)
    asked, read, here = [], set(), cluster.letter

    def letter(number):
        if number in read:
            return here(number)
        if number not in asked:
            asked.append(number)
        return None

    cluster.letter = letter
    node.answer = lambda *_: OK
    node.attempts.clear()
    cluster.append(Replay(cluster.ledger.consumer_id("c"), tuple(range(1, 41))))
    node.pass_s(0.2)
    assert (len(asked), node.attempts) == (40, [])
    for number in asked:
        read.add(number)
        node.dispatcher.letters_came()
        node.pass_s(0.02)
    assert {naming.position for _, _, naming in node.attempts} == set(range(1, 41))
    node.dispatcher.unlead()
    node.dispatcher.letters_came()
    assert cluster.clock.getDelayedCalls() == []


def test_a_replayed_letter_that_is_refused_again_is_dead_again():
    """Replayed to another consumer too: it is a letter of who had it first, with a new number."""
    cluster = Cluster(consumer("c", routes=("/a",)), consumer("other", routes=("/b",)))
    node = Node(cluster, answer=lambda name, *_: BAD if name == "c" else Answered(410))
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    cluster.append(Replay(cluster.ledger.consumer_id("other"), (1,)))
    node.pass_s(1)
    assert [name for name, _, _ in node.attempts] == ["c", "other"]
    (letter,) = cluster.ledger.letters.values()
    first = cluster.ledger.consumer_id("c")
    assert (letter.number, letter.state, letter.status) == (2, "dead", 410)
    assert letter.consumer == first
    node.answer = lambda *_: OK
    cluster.append(Replay(first, (2,)))
    node.pass_s(1)
    assert dict(cluster.ledger.letters) == {}


def letter_to_each(retry=RETRY):
    """Return a cluster with one letter, replayed to c, whose attempt is under way; a node; ids."""
    cluster = Cluster(consumer("c", routes=("/a",), retry=retry), consumer("other", routes=("/b",)))
    node = Node(cluster, answer=lambda *_: BAD)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    node.answer = None
    ids = [cluster.ledger.consumer_id(name) for name in ("c", "other")]
    cluster.append(Replay(ids[0], (1,)))
    node.pass_s(0.2)
    assert len(node.open) == 1
    return cluster, node, *ids


@pytest.mark.parametrize("said", [OK, BAD])
def test_a_letter_that_is_ordered_elsewhere_while_it_is_delivered_gets_there_too(said):
    """Whatever the consumer that was to have it before answers: the order given last counts."""
    cluster, node, _, other = letter_to_each()
    node.end(said)
    cluster.append(Replay(other, (1,)))
    node.pass_s(1)
    assert [name for name, _, _ in node.attempts] == ["c", "c", "other"]
    assert dict(cluster.ledger.letters).keys() == {1}
    node.end(OK)
    node.pass_s(1)
    assert dict(cluster.ledger.letters) == {}


@pytest.mark.parametrize("said", [OK, BAD])
def test_a_letter_that_is_ordered_elsewhere_and_back_is_not_forgotten(said):
    """Though what was proposed in between had no effect, and nobody saw it gone."""
    cluster, node, first, other = letter_to_each()
    cluster.held = True
    node.end(said)
    node.pass_s(0.2)
    with cluster.one_turn():
        cluster.append(Replay(other, (1,)))
        cluster.commit()
        cluster.append(Replay(first, (1,)))
    node.answer = lambda *_: OK
    node.pass_s(LETTER_ENDS_S + 1)
    assert [name for name, _, _ in node.attempts] == ["c", "c", "c"]
    assert dict(cluster.ledger.letters) == {}


def test_a_letter_that_is_ordered_elsewhere_while_it_waits_is_attempted_there_alone():
    """From when the ledger shows it: also between two looks at the letters."""
    cluster, node, first, other = letter_to_each(retry=Retry(10_000, 1.0, 10_000, 10**12))
    with cluster.one_turn():
        cluster.append(Replay(other, (1,)))
        node.end(Answered(503))
    node.pass_s(0.05)
    assert [name for name, _, _ in node.attempts].count("c") == 2
    with cluster.one_turn():
        cluster.append(Replay(first, (1,)))
        node.end(Answered(503))
    node.pass_s(0.2)
    assert [name for name, _, _ in node.attempts].count("c") == 3


def test_a_consumer_goes_on_once_what_found_no_room_is_purged():
    """Held for want of room for a letter that an operator then gives up."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster, answer=lambda *_: BAD)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    cluster.ledger.has_room_for_letters = lambda *_: False
    cluster.append(Replay(cluster.ledger.consumer_id("c"), (1,)))
    node.pass_s(1)
    assert node.dispatcher.progress()[0].held == "the cluster's letters are at their bound"
    node.answer = lambda *_: OK
    cluster.append(Purge("operator", (1,)))
    cluster.accept(b"two")
    node.pass_s(1)
    assert node.bodies("c") == [b"one", b"one", b"two"]


def test_what_an_operator_skips_is_attempted_no_more():
    """Neither what waits nor what was taken and is new."""
    cluster = Cluster(consumer("c", concurrency=1))
    node = Node(cluster, answer=lambda *_: Answered(500))
    node.dispatcher.lead()
    cluster.accept(*[b"%d" % n for n in range(1, 9)])
    node.pass_s(0.02)
    node.answer = lambda *_: OK
    cluster.append(Skip(cluster.ledger.consumer_id("c"), Position(6)))
    tried = len(node.attempts)
    node.pass_s(30)
    assert node.bodies("c")[tried:] == [b"7", b"8"]
    assert node.dispatcher.progress()[0].waiting == 0


@pytest.mark.parametrize("ended", ["before", "after"])
def test_what_an_operator_skips_is_not_reported(ended):
    """What was delivered before it was skipped, or is after: the ledger shows it settled."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster)
    node.dispatcher.lead()
    cluster.accept(b"1", b"2", b"3")
    node.pass_s(0.02)
    skip = Skip(cluster.ledger.consumer_id("c"), Position(2))
    if ended == "after":
        cluster.append(skip)
    for _, answered, _ in node.open:
        answered.callback(OK)
    if ended == "before":
        cluster.append(skip)
    node.pass_s(1)
    assert cluster.settled("c") == [(3, 3)]


@pytest.mark.parametrize("order", ["none", "all", "path"])
@pytest.mark.parametrize("batch", [None, Batch("ndjson", 4, linger_us=10_000_000)])
def test_i7_what_an_operator_skips_takes_no_more_memory(order, batch):
    """The plan lets go of it as soon as the ledger shows it, though the consumer is held."""
    cluster = Cluster(consumer("c", concurrency=2, order=order, batch=batch))
    node = Node(cluster, answer=lambda *_: DOWN)
    node.dispatcher.lead()
    cluster.accept(*[stored(b"%d" % n, b"/%d" % (n % 3)) for n in range(1, 201)])
    node.pass_s(20)
    plan = node.dispatcher._lanes[cluster.ledger.consumer_id("c")].plan
    backlog = plan.backlog

    def held():
        return len(backlog.fresh) + plan.waiting + plan.in_line + getattr(plan, "gathered", 0)

    assert held() > 1
    cluster.append(Skip(cluster.ledger.consumer_id("c"), Position(500)))
    node.pass_s(0.01)
    assert (held(), plan.in_flight) == (0, 0)
    assert backlog.lines is None or len(backlog.lines) == 0
    node.answer = lambda *_: OK
    cluster.accept(b"next")
    node.pass_s(90)
    assert node.bodies("c")[-1] == b"next"
    assert cluster.ledger.watermark(cluster.ledger.consumer_id("c")) == 201


def test_a_skip_makes_room_for_what_found_none():
    """Held because its dead letters are at their bound: what would die is skipped instead."""
    cluster = Cluster(consumer("c", dead=Dead(bytes_max=1)))
    node = Node(cluster, answer=lambda *_: BAD)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    assert node.dispatcher.progress()[0].alarm
    cluster.append(Skip(cluster.ledger.consumer_id("c"), Position(1)))
    node.answer = lambda *_: OK
    cluster.accept(b"two")
    node.pass_s(1)
    assert node.bodies("c") == [b"one", b"two"]
    assert not node.dispatcher.progress()[0].alarm


def test_a_consumer_that_is_dismissed_is_attempted_no_more():
    """Its lane ends, whatever it held; the others go on."""
    cluster = Cluster(consumer("c"), consumer("d"))
    node = Node(cluster, answer=lambda name, *_: OK if name == "d" else DOWN)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(1)
    cluster.append(Dismiss(cluster.ledger.consumer_id("c"), "drop"))
    tried = len(node.bodies("c"))
    cluster.accept(b"two")
    node.pass_s(30)
    assert len(node.bodies("c")) == tried
    assert node.bodies("d") == [b"one", b"two"]
    assert [progress.name for progress in node.dispatcher.progress()] == ["d"]
    assert node.fatal == []


def test_dead_letters_are_given_up_at_their_age():
    """With `dead.for = "1 h"` a letter is there for an hour, and gone soon after."""
    cluster = Cluster(consumer("c", dead=Dead(for_us=3_600_000_000)))
    node = Node(cluster, answer=lambda _c, message, _n: BAD if message.body == b"bad" else OK)
    node.dispatcher.lead()
    cluster.accept(*[b"bad"] * (EXPIRE_MAX + 5))
    node.pass_s(3_500, step=5)
    cluster.accept(b"good")
    node.pass_s(1)
    assert len(cluster.ledger.letters) == EXPIRE_MAX + 5
    node.pass_s(120, step=5)
    for _ in range(3):
        cluster.accept(b"good")
        node.pass_s(2)
    assert len(cluster.ledger.letters) == 0
    assert cluster.ledger.letter_tally(cluster.ledger.consumer_id("c")).expired == EXPIRE_MAX + 5


def test_keys_of_damaged_messages_wait_until_they_are_mended():
    """What cannot be read has no key yet, and nothing behind it is attempted before it."""
    cluster = Cluster(consumer("c", order="path"))
    here, asked, is_damaged = cluster.messages, [], True

    def messages(index):
        if is_damaged:
            raise DamagedEntryError("a bad checksum", index=index, place=f"entry {index}")
        return here(index)

    cluster.messages, cluster.damaged = messages, asked.append
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"one", b"two")
    node.pass_s(LEASE_S + 1)
    assert node.attempts == []
    assert 5 <= len(asked) <= 12
    is_damaged = False
    node.pass_s(1)
    assert node.bodies("c") == [b"one", b"two"]


def test_another_order_is_followed():
    """A definition with another order takes over once what was under way can be told apart."""
    cluster = Cluster(consumer("c"))
    node = Node(cluster)
    node.dispatcher.lead()
    cluster.accept(b"one", b"two")
    node.pass_s(0.02)
    cluster.define(consumer("c", order="all"))
    node.pass_s(LEASE_S - 0.1)
    assert len(node.attempts) == 2
    node.open.clear()
    node.pass_s(0.2)
    assert node.bodies("c") == [b"one", b"two", b"one"]
    assert node.dispatcher.progress()[0].in_flight == 1


def test_another_order_forgets_no_failure():
    """What the lane before it saw is known at once, though the log does not have it yet."""
    tried = {"retry": Retry(10_000, 1.0, 10_000, 10**12, attempts=20), "breaker": Breaker(50, 2.0)}
    cluster = Cluster(consumer("c", **tried))
    node = Node(cluster, answer=lambda *_: Answered(500))
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(0.1)
    cluster.define(consumer("c", order="all", **tried))
    node.pass_s(LEASE_S + 5)
    assert [naming.attempt for _, _, naming in node.attempts] == list(range(1, 21))
    assert [letter.attempts for letter in cluster.ledger.letters.values()] == [20]


def test_an_order_that_is_none_is_reported_and_nothing_is_attempted():
    """A text that this version cannot read is no licence to attempt in any order."""
    cluster = Cluster(consumer("c", order="by weight"), consumer("d"))
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()
    cluster.accept(b"one")
    node.pass_s(3)
    assert (node.bodies("c"), node.bodies("d")) == ([], [b"one"])
    assert "'by weight' is no order" in node.dispatcher.progress()[0].last_problem
    cluster.define(consumer("c"), consumer("d"))
    node.pass_s(3)
    assert node.bodies("c") == [b"one"]


def test_what_died_just_before_another_order_holds_its_key_in_it():
    """The lane before proposes its burials as it ends: they are applied once the next has begun."""
    cluster = Cluster(consumer("c", order="all"))
    node = Node(cluster)
    node.dispatcher.lead()
    cluster.accept(stored(b"1", b"/a"), stored(b"2", b"/a"), stored(b"3", b"/b"))
    node.pass_s(LEASE_S + 0.1)
    cluster.held = True
    node.end(BAD)
    assert Bury not in map(type, cluster.pending)
    cluster.define(consumer("c", order="path", on_dead="hold"))
    node.pass_s(3 * LEASE_S)
    assert Bury in map(type, cluster.pending)
    assert node.dispatcher.progress()[0].held == "cannot tell yet what its letters hold"
    cluster.commit()
    node.pass_s(2 * LEASE_S)
    assert node.bodies("c") == [b"1", b"3"]


def test_letters_from_before_hold_their_keys_once_a_definition_says_hold():
    cluster = Cluster(consumer("c", order="path"))
    node = Node(cluster, answer=lambda *_: BAD)
    node.dispatcher.lead()
    cluster.accept(stored(b"1", b"/a"))
    node.pass_s(LEASE_S + 1)
    node.answer = lambda *_: OK
    cluster.define(consumer("c", order="path", on_dead="hold"))
    cluster.accept(stored(b"2", b"/a"), stored(b"3", b"/b"))
    node.pass_s(LEASE_S + 1)
    assert node.bodies("c") == [b"1", b"3"]
    cluster.append(Purge("operator", (1,)))
    node.pass_s(1)
    assert node.bodies("c") == [b"1", b"3", b"2"]


def test_without_an_order_nothing_begins_to_hold_and_attempts_go_on():
    cluster = Cluster(consumer("c"))
    node = Node(cluster)
    node.dispatcher.lead()
    cluster.accept(b"1")
    node.pass_s(0.1)
    cluster.define(consumer("c", on_dead="hold"))
    node.pass_s(0.1)
    node.end()
    node.pass_s(LEASE_S + 1)
    assert node.bodies("c") == [b"1"]
    assert cluster.settled("c") == [(1, 1)]


def test_more_dead_letters_than_can_be_read_hold_an_ordered_consumer():
    """A leader that does not know which keys are held attempts none of them."""
    cluster = Cluster(consumer("c", order="path", on_dead="hold"))
    first = Node(cluster, answer=lambda *_: BAD)
    first.dispatcher.lead()
    cluster.accept(*[stored(b"%d" % n, b"/%d" % n) for n in range(HOLDING_MAX + 1)])
    first.pass_s(5)
    assert len(cluster.ledger.letters) == HOLDING_MAX + 1
    first.dispatcher.unlead()
    second = Node(cluster, answer=lambda *_: OK)
    second.dispatcher.lead()
    cluster.accept(stored(b"next", b"/next"))
    second.pass_s(5)
    assert second.attempts == []
    assert second.dispatcher.progress()[0].held == "cannot tell yet what its letters hold"
    cluster.append(Purge("operator", (1,)))
    second.pass_s(5)
    assert second.bodies("c") == [b"next"]


class Worked(Clock):
    """A clock on which every look costs 20 µs, as work does; it knows how long calls took."""

    cost_s = 0.0

    def __init__(self, look_s=0.00002):
        super().__init__()
        self.look_s = look_s
        self.took_s = []

    def seconds(self):
        self.rightNow += self.cost_s
        return self.rightNow

    def callLater(self, when, what, *args):  # noqa: N802
        return super().callLater(when, self._timed, what, *args)

    def _timed(self, what, *args):
        before_s, self.cost_s = self.rightNow, self.look_s
        what(*args)
        self.took_s.append(self.rightNow - before_s)
        self.cost_s = 0.0


@pytest.mark.parametrize(
    ("wait", "others", "least", "most", "slice_s"),
    [
        (False, 0.01, 0.8, 1.0, 0.006),
        (True, 0.01, 0.05, 0.4, 0.003),
        (True, 0.001, 0.6, 1.0, 0.003),
    ],
)
def test_producers_that_wait_come_first(wait, others, least, most, slice_s):
    """While producers wait, delivery has its share of the reactor, and what they leave of it.

    `others` is how much other work, in seconds, the reactor has between two slices.
    """
    cluster = Cluster(consumer("c", concurrency=1_000))
    clock = cluster.clock = Worked()
    node = Node(
        cluster,
        producers_wait=lambda: wait,
        answer=lambda *_: OK,
        worked_s=lambda: len(clock.took_s) * others,
    )
    node.dispatcher.lead()
    cluster.accept(*[b"x"] * 20_000)
    clock.pump([0.0005] * 400)
    assert least < sum(clock.took_s) / clock.rightNow <= most
    assert max(clock.took_s) <= slice_s


def test_each_consumer_has_its_turn_and_then_who_keeps_up():
    """Where slices are short, all are attempted in each, and most is of the smallest backlog."""
    cluster = Cluster(
        consumer("behind", concurrency=10_000), consumer("keeps-up", concurrency=10_000, routes=("/b",))
    )  # fmt: skip
    clock = cluster.clock = Worked()
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()

    def accept():
        with cluster.one_turn():
            cluster.accept(*[b"x"] * 4_000, route=2)
            cluster.accept(*[b"x"] * 4_000)

    clock.callLater(0, accept)
    clock.advance(0.0005)
    # The first slices, before a lane has attempted all that it has read.
    names = [name for name, _, _ in node.attempts[:200]]
    assert sum(clock.took_s) / len(node.attempts) * 200 > 2 * SLICE_S
    assert 2 <= names.count("behind") < 20


def test_slices_that_are_too_short_for_all_pass_none_over():
    """Where a slice has time for one or two consumers, those that are behind have their turn too."""
    keep_up = [consumer(name, concurrency=1_000, routes=("/b",)) for name in ("a", "b", "c")]
    cluster = Cluster(*keep_up, consumer("behind", concurrency=1_000))
    clock = cluster.clock = Worked(look_s=SLICE_S / 3)
    node = Node(cluster, answer=lambda *_: OK)
    node.dispatcher.lead()

    def accept():
        with cluster.one_turn():
            cluster.accept(*[b"x"] * 500)
            cluster.accept(*[b"x"] * 500, route=2)

    clock.callLater(0, accept)
    clock.advance(0.0005)
    names = [name for name, _, _ in node.attempts[:40]]
    assert all(names.count(name) >= 5 for name in ("a", "b", "c", "behind")), names


@given(data=st.data())
def test_i3_whatever_consumers_answer_everything_is_settled_in_the_end(data):
    """Through failures, leader changes and lost proposals no accepted message is left behind."""
    answers = st.sampled_from([OK, OK, DOWN, Answered(500), Answered(422, 3.0)])
    cluster = Cluster(consumer("c", concurrency=3), consumer("b", routes=("/b",)))
    random_answer = lambda *_: data.draw(answers)  # noqa: E731
    node = Node(cluster, answer=random_answer)
    node.dispatcher.lead()
    for _ in range(data.draw(st.integers(1, 5))):
        cluster.accept(*[b"x"] * data.draw(st.integers(1, 10)), route=data.draw(st.integers(1, 2)))
        node.pass_s(data.draw(st.sampled_from([0.01, 0.2])))
        if data.draw(st.booleans()):
            node.dispatcher.unlead()
            cluster.pending.clear()  # the new leader's log never had them
            node = Node(cluster, answer=random_answer)
            node.dispatcher.lead()
    node.answer = lambda *_: OK
    node.pass_s(700, step=0.5)
    assert cluster.ledger.lowest_watermark == cluster.ledger.tip
    assert node.fatal == []
