"""Runs seeds, replays one, shrinks one that fails: ``tests/simulation/run --help``.

Decides what is printed and the exit status: 0 if nothing was violated. A seed that violates
an invariant is named with the command that replays it, to the byte of its trace.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from collections import Counter

import msgspec

from tests.simulation import plans
from tests.simulation.cluster import Cluster, Figures
from tests.simulation.plans import make_plan

COMMAND = "tests/simulation/run"


def run_plan(plan, *, keep_trace=False, raise_errors=False):
    """Run a plan; return its figures and, if it was kept, its trace."""
    cluster = Cluster(plan, keep_trace=keep_trace, raise_errors=raise_errors)
    return cluster.run(), cluster.world.trace_text if keep_trace else ""


def run_seed(work):
    """Run one seed, in whatever process; what goes wrong in the simulation is a failure, too."""
    seed, profile, size = work
    plan = make_plan(seed, profile=profile, size=size)
    try:
        return run_plan(plan)[0]
    except Exception as error:  # noqa: BLE001  it must not end the other seeds
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = f"Crashed: {error!r} at {last.filename}:{last.lineno}"
        return Figures(seed=seed, profile=plan.profile, size=plan.size, violation=words)


def run_seeds(seeds, *, jobs=1, profile=None, size=None):
    """Yield the figures of seeds in their order, on so many processors."""
    work = [(seed, profile, size) for seed in seeds]
    if jobs == 1:
        yield from map(run_seed, work)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap(run_seed, work, chunksize=4)


def summary(figures, elapsed_s):
    """Return what many runs came to, as one value."""
    kinds = Counter()
    for one in figures:
        kinds.update(one.faults)
    count = max(1, len(figures))
    return {
        "seeds": len(figures),
        "violations": sum(one.violation is not None for one in figures),
        "simulated_hours": round(sum(one.simulated_s for one in figures) / 3600, 3),
        "clusters": dict(sorted(Counter(str(one.size) for one in figures).items())),
        "profiles": dict(sorted(Counter(one.profile for one in figures).items())),
        "faults": sum(kinds.values()),
        "faults_by_kind": {kind: kinds[kind] for kind in plans.KINDS if kinds[kind]},
        "posted": sum(one.posted for one in figures),
        "acknowledged": sum(one.acknowledged for one in figures),
        "reused": sum(one.reused for one in figures),
        "replayed": sum(one.replayed for one in figures),
        "keys_evicted": sum(one.evicted for one in figures),
        "keys_expired": sum(one.expired for one in figures),
        "deliveries": sum(one.deliveries for one in figures),
        "duplicates": sum(one.duplicates for one in figures),
        "entries": sum(one.entries for one in figures),
        "elections": sum(one.elections for one in figures),
        "longest_unavailability_s": max((one.longest_wait_s for one in figures), default=0.0),
        "longest_healing_s": max((one.healed_s for one in figures), default=0.0),
        "cpu_s_a_seed": round(sum(one.cpu_s for one in figures) / count, 3),
        "elapsed_s": round(elapsed_s, 1),
    }


def report(one, out=sys.stdout):
    """Print a violation, and what replays it."""
    out.write(
        f"seed {one.seed} ({one.profile}, {one.size} nodes): {one.violation}\n"
        f"  trace sha256 {one.trace_sha256}; replay: {COMMAND} --seed {one.seed} --trace\n"
    )
    out.flush()


def shrink(plan):
    """Return the plan with as few faults as still violate the same check, and their places."""
    violation = run_plan(plan)[0].violation
    if violation is None:
        return None, []
    check = violation.partition(":")[0]
    kept = list(range(len(plan.faults)))

    def fails(places):
        smaller = msgspec.structs.replace(plan, faults=tuple(plan.faults[p] for p in places))
        found = run_plan(smaller)[0].violation
        return found is not None and found.startswith(check)

    size = max(1, len(kept) // 2)
    while size:
        start = 0
        while start < len(kept):
            fewer = kept[:start] + kept[start + size :]
            if fails(fewer):
                kept = fewer
            else:
                start += size
        size //= 2
    return msgspec.structs.replace(plan, faults=tuple(plan.faults[p] for p in kept)), kept


def _places(text):
    return [int(place) for place in text.split(",") if place]


def _span(text):
    first, _, last = text.partition(":")
    return range(int(first), int(last))


def _one(options):
    """Replay one seed."""
    plan = make_plan(options.seed, profile=options.profile, size=options.size)
    if options.keep is not None:
        kept = tuple(plan.faults[place] for place in options.keep)
        plan = msgspec.structs.replace(plan, faults=kept)
    one, trace = run_plan(plan, keep_trace=options.trace, raise_errors=options.trace)
    sys.stdout.write(trace)
    print(json.dumps(msgspec.to_builtins(one), indent=1))
    return 0 if one.violation is None else 1


def _shrink(options):
    plan = make_plan(options.shrink, profile=options.profile, size=options.size)
    smaller, kept = shrink(plan)
    if smaller is None:
        print(f"seed {options.shrink} violates nothing")
        return 0
    one = run_plan(smaller)[0]
    print(one.violation)
    for place, fault in zip(kept, smaller.faults, strict=True):
        print(f"  {place}: {fault}")
    places = ",".join(map(str, kept))
    print(f"replay: {COMMAND} --seed {options.shrink} --keep '{places}' --trace")
    return 1


def _many(options):
    began_s = time.monotonic()
    done = []
    runs = run_seeds(options.seeds, jobs=options.jobs, profile=options.profile, size=options.size)
    for one in runs:
        done.append(one)
        if one.violation is not None:
            report(one, sys.stderr if options.json else sys.stdout)
            if options.until_violation:
                break
        if len(done) % 500 == 0:
            sys.stderr.write(f"{len(done)} of {len(options.seeds)} seeds\n")
    found = summary(done, time.monotonic() - began_s)
    if options.json:
        found["violated"] = {str(one.seed): one.violation for one in done if one.violation}
        print(json.dumps(found))
    else:
        for name, value in found.items():
            counts = value.items() if isinstance(value, dict) else ()
            words = ", ".join(f"{key} {count}" for key, count in counts) or value
            print(f"{name:26} {words}")
    return 1 if found["violations"] else 0


def main(arguments=None):
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", type=_span, metavar="FIRST:LAST", help="run these; LAST excluded")
    what.add_argument("--seed", type=int, metavar="N", help="run one seed")
    what.add_argument("--shrink", type=int, metavar="N", help="find the faults that it takes")
    parser.add_argument("--jobs", type=int, default=1, help="processes for --seeds")
    parser.add_argument("--trace", action="store_true", help="print what happens, with --seed")
    parser.add_argument("--keep", type=_places, help="with --seed: only these faults, by place")
    parser.add_argument(
        "--profile", choices=(*plans.PROFILES, *plans.HUNTS), help="instead of the seed's own"
    )
    parser.add_argument("--size", type=int, choices=(1, 3, 5), help="instead of the seed's own")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--until-violation", action="store_true", help="stop at the first one")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options)
    return _shrink(options) if options.shrink is not None else _many(options)


if __name__ == "__main__":
    sys.exit(main())
