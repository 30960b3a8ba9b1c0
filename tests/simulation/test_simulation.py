"""The simulation in the test suite: a few seeds, its own promises, two guards taken out.

The long run and the whole table of guards are commands: docs/how-to/simulation.md.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys

import msgspec
import pytest

from tests.simulation import sizes
from tests.simulation.cluster import Cluster
from tests.simulation.mutate import ROOT, main, try_one
from tests.simulation.mutations import MUTATIONS
from tests.simulation.plans import KINDS, PROFILES, make_plan
from tests.simulation.postings import TRY, Postings
from tests.simulation.run import run_plan, run_seeds, summary
from tests.simulation.wait_checks import WaitsAreTrue
from tests.simulation.world import START_S, World

KEY_FIGURES = ("replayed", "reused", "evicted", "expired")
SEEDS = range(40)
"""About fifteen seconds."""


@pytest.fixture(autouse=True, scope="module")
def own_sizes():
    """Leave crowd's sizes to other tests as they were."""
    yield
    sizes.put_back()


def trace_of(seed, hash_seed):
    """Return a seed's trace, from a process of its own."""
    command = [sys.executable, "-m", "tests.simulation.run", "--seed", str(seed), "--trace"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.partition(b"\n{\n")[0]


def test_nothing_is_violated():
    """I1 to I5, I7 and I8 hold, and every cluster comes back, in the first seeds."""
    figures = list(run_seeds(SEEDS))
    found = summary(figures, 0.0)
    assert [(one.seed, one.violation) for one in figures if one.violation] == []
    assert found["acknowledged"] + found["reused"] == found["posted"] > 0


def test_a_seed_is_the_same_in_any_process():
    """Two processes with different hash seeds write the same trace, byte for byte."""
    one, other = trace_of(3, "0"), trace_of(3, "4711")
    assert one == other
    assert one.count(b"\n") > 20


def test_a_seed_is_the_same_after_another_one():
    """Nothing of a run is left to the next one in its process."""
    first = run_plan(make_plan(5))[0].trace_sha256
    run_plan(make_plan(6))
    assert run_plan(make_plan(5))[0].trace_sha256 == first


def test_a_plan_is_made_before_the_run():
    """A plan is plain values: without its faults it is a quiet run of the same load."""
    plan = make_plan(8, profile="storm", size=3)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=type(plan)) == plan
    quiet = msgspec.structs.replace(plan, faults=())
    figures, _ = run_plan(quiet)
    assert figures.violation is None
    assert figures.faults == {}
    assert figures.acknowledged + figures.reused == figures.posted == plan.messages


def test_every_kind_of_fault_is_drawn():
    """No kind is forgotten by the generator, and each can be carried out."""
    drawn = {fault.kind for seed in range(300) for fault in make_plan(seed).faults}
    assert drawn == set(KINDS)
    assert {make_plan(seed).profile for seed in range(300)} == set(PROFILES)


def test_keys_are_replayed_refused_and_forgotten():
    """The hunt for keys meets what it is for: replays, refusals, the bound and the window."""
    plans = [make_plan(seed, profile="keys") for seed in range(8)]
    figures = [run_plan(plan)[0] for plan in plans]
    assert [one.violation for one in figures] == [None] * len(plans)
    assert min(sum(getattr(one, name) for one in figures) for name in KEY_FIGURES) > 0
    assert any(plan.are_apart for plan in plans)


def test_producers_that_wait_are_told_of_every_end():
    """The hunt for waits meets what it is for: deliveries, deaths, and what was ended otherwise."""
    told = {}
    for seed in range(8):
        cluster = Cluster(make_plan(seed, profile="waiting"))
        assert cluster.run().violation is None
        for state, count in cluster.checks.one(WaitsAreTrue).counts.items():
            told[state] = told.get(state, 0) + count
    assert told.keys() == {"delivered", "dead", "settled"}


def test_a_request_is_the_same_each_time_and_its_try_is_not():
    """What a producer posts again is the same to a digest; checks tell the tries apart."""
    postings = Postings(random.Random(1), 0.5)
    drawn = [postings.draw(number, (b"Host", b"h"), 60) for number in range(200)]
    assert all(posting.target and TRY not in dict(posting.headers) for posting in drawn)
    keys = [named for posting in drawn for named in posting.keys if named.request]
    names = {named.name for named in keys}
    assert len(keys) > len(names), "some keys come with another request"
    assert len({text for _, _, text in names}) < len(names), "and some texts at another route"


def test_events_happen_in_order_and_wait_for_who_is_stopped():
    """A stopped process's events happen late, at once, and in their order."""

    class Process:
        alive = True
        stopped_until_s = START_S + 5

        def turn(self, call, args):
            call(*args)

    world, seen = World(1), []
    process = Process()
    for at_s in (2, 1, 3):
        world.at(START_S + at_s, seen.append, at_s, owner=process)
    world.at(START_S + 4, seen.append, "the world's")
    world.run(START_S + 10)
    assert seen == ["the world's", 1, 2, 3]
    assert world.now == START_S + 10


def test_a_violation_ends_the_run_and_is_in_the_trace():
    """What fails is named with its check, and so is the run."""
    cluster = Cluster(make_plan(1, profile="quiet"), keep_trace=True)
    cluster.world.after(2.0, cluster.world.fail, "Planted", "for this test")
    figures = cluster.run()
    assert figures.violation == "Planted: for this test"
    assert "VIOLATION Planted" in cluster.world.trace_text
    assert figures.simulated_s == pytest.approx(2.0)


def test_every_mutation_names_a_text_that_is_there_once():
    """A guard whose text changed is looked for anew, instead of being tried on nothing."""
    assert main(["--list"]) == 0
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("no sync of a batch", "FailedSyncIsTheEnd"),
        ("I1 own disk", "DurableThenAcknowledged"),
    ],
)
def test_a_missing_guard_is_noticed(name, check):
    """Two guards whose absence the first few seeds show; `mutate` tries them all."""
    (mutation,) = (mutation for mutation in MUTATIONS if mutation.name == name)
    seeds, words, _ = try_one(mutation, 1, frozenset())
    assert seeds is not None
    assert words.startswith(check)
