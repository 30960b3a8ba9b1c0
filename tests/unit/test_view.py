"""What an operator is told of a node, and which changes of members are refused at once."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from crowd.command import (
    FORMAT,
    Accept,
    Birth,
    Define,
    Enroll,
    Index,
    Member,
    OpenSession,
    Term,
)
from crowd.config import read_consumer
from crowd.definition import KeyBounds, RouteDefinition
from crowd.errors import ChangeRefusedError, UnknownMemberError
from crowd.idempotency import keyed
from crowd.ledger import Ledger
from crowd.metrics import METRICS, parse_sample
from crowd.raft.journal.upkeep import UpkeepCounters
from crowd.raft.membership import Standing
from crowd.reads.upstream import Tally
from crowd.view import Aside, EngineChanges, EngineView
from crowd.waits import Tally as Ended
from crowd.web.entrance import Tally as DoorTally
from tests.unit.archives import NoLetters

NOW = datetime(2026, 7, 1, tzinfo=UTC)
ENDS = NOW + timedelta(days=100)
ID = {name: name.encode() * 16 for name in "abcde"}


class Engine:
    """A member's state without the rest of it: a real ledger, and who is connected."""

    def __init__(self, *names, there="abcde", address="{}:2105"):
        self.ledger = Ledger()
        self.ledger.skip(Index(1), Term(0))
        if names:
            members = tuple(Member(name, address.format(name), ID[name[0]]) for name in names)
            self.apply(Birth(cluster="leads", tag="0123abcd", members=members, format=FORMAT))
        self.there = set(there)
        self.asked = []
        self.member = SimpleNamespace(cluster="leads", peers=dict.fromkeys(names, ""))
        self.membership = SimpleNamespace(is_voter=self.there.__contains__, standing=Standing.VOTER)
        self.changes = SimpleNamespace(
            enroll=lambda *change: self.asked.append(("enroll", *change)),
            expel=lambda *change: self.asked.append(("expel", *change)),
        )
        self.raft = SimpleNamespace(
            leader=None, term=3, is_leader=False, commit_index=9, applied_index=8
        )
        self.without_quorum_s = math.inf
        self.proposer = SimpleNamespace(
            has_session=True, refusal=None, refusals={}, waiting_count=2, refused=6, retry_after_s=0
        )
        self.journal = SimpleNamespace(
            full=False, first_index=4, last_index=10, durable_index=9, stored_bytes=4096,
            counters=SimpleNamespace(batches=1, written_bytes=2, write_s=0.5),
            upkeep_counters=UpkeepCounters(scrubbed_bytes=70, passes=2, flaws=3, mended=1),
        )  # fmt: skip
        self.store = SimpleNamespace(
            checkpoints=(1, 2), damaged=(), newest=SimpleNamespace(index=7, size_bytes=900)
        )
        self.repairs = SimpleNamespace(holes=0, mended_entries=5)
        self.snapshots = SimpleNamespace(sent_bytes=600)
        self.letters = SimpleNamespace(
            whole=True, lacking=0, stuck=False, fetched_letters=3, pending_bytes=50
        )

    def apply(self, command, log_time_us=0):
        self.ledger.apply(Index(self.ledger.applied_index + 1), Term(1), log_time_us, command)

    def enroll(self, name, address):
        after = self.ledger.members_index
        self.apply(Enroll(name=name, address=address, after=after))


class Producers:
    """The doors' counters."""

    draining = False
    connections = connections_refused = requests = 1
    budget = SimpleNamespace(used=7)
    tally = DoorTally()
    acceptance = SimpleNamespace(goes_on=True, pauses=1)


ASIDE = Aside(Tally(), SimpleNamespace(in_flight=3, tally=Ended(delivered=5)))


def view(engine):
    return EngineView(
        engine, SimpleNamespace(progress=list), Producers(), 5.0, NoLetters(), ASIDE,
        SimpleNamespace(expires=ENDS), lambda: NOW,
    )  # fmt: skip


def lines(engine):
    return {part: (well, words) for part, well, words in view(engine).readiness()}


# --- Changes of members ---------------------------------------------------------------------------


def test_a_change_that_can_be_is_asked_for():
    engine = Engine("a", "b", "c")
    changes = EngineChanges(engine)
    changes.enroll("d", "d:2105")
    changes.enroll("a", "10.0.0.1:2105")
    changes.enroll("a", "a:2105")
    changes.expel("c")
    assert engine.asked == [
        ("enroll", "d", "d:2105"),
        ("enroll", "a", "10.0.0.1:2105"),
        ("enroll", "a", "a:2105"),
        ("expel", "c"),
    ]


def test_there_are_at_most_32_members():
    engine = Engine("a")
    for number in range(31):
        engine.enroll(f"m{number}", f"m{number}:2105")
    with pytest.raises(ChangeRefusedError, match="found 32 members"):
        EngineChanges(engine).enroll("d", "d:2105")
    EngineChanges(engine).enroll("m7", "d:2105")
    assert engine.asked == [("enroll", "m7", "d:2105")]


def test_a_roster_that_no_node_could_remember_is_refused():
    """Every node keeps the members in a record of a fixed size; the log must not outgrow it."""
    engine = Engine("a")
    for number in range(18):
        engine.enroll(f"{number}" * 30, f"{number}" + "h" * 240 + ":2105")
    with pytest.raises(ChangeRefusedError, match="expected shorter ones"):
        EngineChanges(engine).enroll("d" * 63, "h" * 249 + ":2105")
    assert engine.asked == []


def test_no_two_members_are_at_one_address():
    engine = Engine("a", "b")
    with pytest.raises(ChangeRefusedError, match="found member b at b:2105"):
        EngineChanges(engine).enroll("d", "b:2105")


def test_the_last_voter_stays():
    engine = Engine("a")
    engine.enroll("d", "d:2105")
    with pytest.raises(ChangeRefusedError, match="found a to be the last voter"):
        EngineChanges(engine).expel("a")
    EngineChanges(engine).expel("d")
    assert engine.asked == [("expel", "d")]


def test_a_change_that_would_leave_no_majority_is_refused():
    """With c down, a and c could accept nothing; but c itself may leave."""
    engine = Engine("a", "b", "c", there="ab")
    with pytest.raises(ChangeRefusedError, match="found 1 of the 2 voters that would be left"):
        EngineChanges(engine).expel("b")
    EngineChanges(engine).expel("c")
    assert engine.asked == [("expel", "c")]


def test_who_is_no_member_cannot_leave():
    with pytest.raises(UnknownMemberError, match="found no member d; expected one of a, b"):
        EngineChanges(Engine("a", "b")).expel("d")


def test_a_node_on_its_own_and_an_unborn_cluster_have_no_members_to_change():
    alone = Engine("a")
    alone.member.peers = {}
    with pytest.raises(ChangeRefusedError, match=r"expected one with \[cluster\]"):
        EngineChanges(alone).enroll("d", "d:2105")
    unborn = Engine()
    unborn.member.peers = {"a": ""}
    with pytest.raises(ChangeRefusedError, match="not born yet"):
        EngineChanges(unborn).expel("a")


# --- What is shown --------------------------------------------------------------------------------


def test_a_learner_is_not_ready_and_damage_is_told_without_that():
    engine = Engine("a", "b")
    engine.enroll("d", "d:2105")
    engine.membership.standing = Standing.LEARNER
    engine.repairs.holes = 3
    engine.store.damaged = ("a bad header at /d/9.floor, offset 0",)
    told = lines(engine)
    assert told["member"][0] is False
    assert told["member"][1].startswith("learner")
    assert told["members"] == (True, "2 vote (a, b), 1 learn (d)")
    assert told["damage"] == (
        True, "3 damaged entries, asked of the others; a bad header at /d/9.floor, offset 0",
    )  # fmt: skip
    assert told["journal"] == (True, "entries 4 to 10, durable to 9")
    assert told["quorum"] == (False, "no leader since the start")


def test_a_member_that_is_well_says_so():
    engine = Engine("a", "b")
    engine.raft.leader, engine.without_quorum_s = "b", 0.0
    told = lines(engine)
    assert all(well for well, _ in told.values())
    assert told["damage"] == (True, "none known")
    engine.journal.full = True
    assert lines(engine)["journal"] == (
        False, "entries 4 to 10, durable to 9; no space: nothing more becomes durable",
    )  # fmt: skip


def test_every_metric_of_a_node_has_a_value():
    engine = Engine("a", "b")
    engine.enroll("d", "d:2105")
    values = view(engine).counters()
    assert values['crowd_members{role="voter"}'] == 2
    assert values['crowd_members{role="learner"}'] == 1
    assert values["crowd_scrub_read_bytes_total"] == 70
    assert values["crowd_checkpoint_index"] == 7
    named = {parse_sample(key)[0].name for key in values}
    assert named == {metric.name for metric in METRICS if "consumer" not in metric.labels}
    engine.store.newest = None
    assert "crowd_checkpoint_index" not in view(engine).counters()


@pytest.mark.parametrize(
    ("state", "well", "words"),
    [
        ({}, True, "all are here"),
        ({"whole": False}, True, "being compared with the ledger"),
        ({"whole": False, "lacking": 3}, True, "3 are lacking, asked of the others"),
        ({"stuck": True}, False, "no space: nothing more is applied"),
    ],
)
def test_letters_that_are_lacking_are_told_and_no_space_makes_a_node_unready(state, well, words):
    engine = Engine("a", "b")
    vars(engine.letters).update(state)
    assert lines(engine)["letters"] == (well, words)


class Archive(NoLetters):
    """Letters of one consumer, as `crowd.archive.Archive` counts them."""

    def counts(self, consumer):
        return {"dead": 2, "parked": 1, "replay": 0, "bytes": 9, "purged": 3, "expired": 4,
                "skipped": 5}  # fmt: skip


def test_consumers_letters_are_counted_by_state():
    engine = Engine("a")
    definition = read_consumer({"name": "audit", "url": "http://h"}, "t", None)
    engine.apply(Define("a", b"h" * 32, (), (definition,)))
    shown = EngineView(engine, SimpleNamespace(progress=list), Producers(), 5.0, Archive(), ASIDE)
    values = shown.counters()
    assert values['crowd_consumer_paused{consumer="audit"}'] == 0
    assert values['crowd_consumer_letters{consumer="audit",state="dead"}'] == 2
    assert values['crowd_consumer_letters{consumer="audit",state="parked"}'] == 1
    assert values['crowd_consumer_letters_bytes{consumer="audit"}'] == 9
    assert values['crowd_consumer_letters_purged_total{consumer="audit"}'] == 3
    assert values['crowd_consumer_letters_expired_total{consumer="audit"}'] == 4
    assert values['crowd_consumer_skipped_total{consumer="audit"}'] == 5
    for key in values:
        parse_sample(key)


# --- Idempotency keys -----------------------------------------------------------------------------


def test_keys_that_went_early_are_told_for_a_window_and_make_no_node_unready():
    engine = Engine("a")
    assert lines(engine)["idempotency"] == (True, "0 of 500000 keys are remembered")
    engine.apply(OpenSession("a", b"n" * 16))
    session = engine.ledger.applied_index
    route = RouteDefinition("/x", ("POST",), "refuse", None)
    engine.apply(Define("a", b"h" * 32, (route,), (), KeyBounds(3_600_000_000, 32)))
    keys = b"".join(keyed(n, b"%016d" % n * 2) for n in range(40))
    engine.apply(Accept(session, 1, 1, (1,) * 40, (b"m",) * 40, keys))
    words = "30 of 32 keys are remembered; some went early, within the last 1 h: 10 ever"
    assert lines(engine)["idempotency"] == (True, words)
    counters = view(engine).counters()
    assert counters["crowd_idempotency_keys"] == 30
    assert counters["crowd_idempotency_keys_max"] == 32
    assert counters["crowd_idempotency_evicted_total"] == 10
    late = Accept(session, 2, 2, (1,), (b"m",), keyed(0, b"%016d" % 39 * 2))
    engine.apply(late, log_time_us=3_600_000_000)
    assert view(engine).counters()["crowd_idempotency_replays_total"] == 0
    assert lines(engine)["idempotency"] == (True, "1 of 32 keys are remembered")


def test_with_a_bound_of_none_keys_are_said_not_to_be_looked_at():
    engine = Engine("a")
    engine.apply(Define("a", b"h" * 32, (), (), KeyBounds(3_600_000_000, 0)))
    assert "not looked at" in lines(engine)["idempotency"][1]


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=100), "ends in 100 days, on 2026-10-09"),
        (timedelta(days=13, hours=1), "WARNING: it ends in 13 days, on 2026-07-14"),
        (timedelta(0), "ENDED on 2026-07-01: producers refuse it"),
    ],
)
def test_readiness_says_when_the_certificate_ends(left, words):
    shown = EngineView(
        Engine("a"), SimpleNamespace(progress=list), Producers(), 5.0, NoLetters(), ASIDE,
        SimpleNamespace(expires=NOW + left), lambda: NOW,
    )  # fmt: skip
    assert ("certificate", True, words) in shown.readiness()
