"""Takes one guard after the other out of crowd and looks whether the simulation notices.

Decides how a mutation is tried: a copy of the package in a directory of its own, one text in
it replaced, seeds run until one violates something. A guard that no run misses is not shown to
be needed, or to work; the table says so, and `mutations` says why where a reason is known.

A seed that fails without any mutation proves nothing, so the unchanged package runs first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.simulation.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]
PARTS = ("crowd", "tests/simulation", "tests/unit/journal", "tests/unit/letters")
KNOWN_SEEDS = 100
"""Seeds for a guard of which it is known why nothing misses it."""
WITHIN_S = 900.0
"""A mutation may make a run endless; that is noticed, too."""


def copy_tree(directory):
    """Copy what the simulation needs."""
    for part in PARTS:
        shutil.copytree(ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))


def apply(mutation, directory):
    """Take the guard out. Raises ValueError if a text of it is not there exactly once."""
    for file, old, new in ((mutation.file, mutation.old, mutation.new), *mutation.also):
        path = directory / file
        text = path.read_text("utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{mutation.name}: its text is {text.count(old)} times in {file}")
        path.write_text(text.replace(old, new), "utf-8")


def run(directory, seeds, *, first=0, profile=None, size=None, jobs=1, until_violation=True):
    """Run seeds from `first` on, on the package in a directory; return {seed: violation}, and whether it ended."""
    command = [sys.executable, "-m", "tests.simulation.run", "--json", "--jobs", str(jobs)]
    command += ["--seeds", f"{first}:{first + seeds}"]
    command += ["--profile", profile] if profile else []
    command += ["--size", str(size)] if size else []
    command += ["--until-violation"] if until_violation else []
    try:
        ended = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {0: f"Endless: no end within {WITHIN_S:g} s"}
    if ended.returncode not in (0, 1) or not ended.stdout:
        return {0: f"Crashed: {ended.stderr.strip().splitlines()[-1:]}"}
    violated = json.loads(ended.stdout.splitlines()[-1])["violated"]
    return {int(seed): words for seed, words in violated.items()}


def seeds_for(mutation):
    """Return how many seeds are tried at most."""
    return min(mutation.seeds, KNOWN_SEEDS) if mutation.alone else mutation.seeds


def try_one(mutation, jobs, unchanged):
    """Return (seeds until it was noticed or None, what was violated, seconds)."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crowd-mutation-") as name:
        directory = Path(name)
        copy_tree(directory)
        apply(mutation, directory)
        violated = run(
            directory, seeds_for(mutation), first=mutation.first, profile=mutation.profile,
            size=mutation.size, jobs=jobs,
            until_violation=not unchanged,
        )  # fmt: skip
    told = sorted(seed for seed in violated if seed not in unchanged)
    took_s = time.monotonic() - began_s
    return (told[0] + 1 - mutation.first, violated[told[0]], took_s) if told else (None, "", took_s)


def baseline(chosen, jobs):
    """Return, by (profile, size), the seeds that fail without any mutation."""
    failing = {}
    for mutation in chosen:
        group = (mutation.profile, mutation.size)
        failing[group] = max(failing.get(group, 0), seeds_for(mutation))
    for (profile, size), seeds in failing.items():
        violated = run(ROOT, seeds, profile=profile, size=size, jobs=jobs, until_violation=False)
        failing[profile, size] = frozenset(violated)
        for seed, words in violated.items():
            print(f"without any mutation, seed {seed} of {profile or 'mixed'}: {words}", flush=True)
    return failing


def main(arguments=None):
    """Run as a command; the status is 1 if a guard without a known reason was not missed."""
    parser = argparse.ArgumentParser(
        prog="tests/simulation/mutate", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", help="only mutations whose name contains one of these")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="name them, and check their texts")
    parser.add_argument("--no-baseline", action="store_true", help="believe that no seed fails")
    options = parser.parse_args(arguments)
    chosen = [
        mutation
        for mutation in MUTATIONS
        if not options.names or any(name in mutation.name for name in options.names)
    ]
    if options.list:
        return _list(chosen)
    failing = {} if options.no_baseline else baseline(chosen, options.jobs)
    missed = 0
    print("| taken out | guard | seeds until noticed | by |\n|---|---|---|---|", flush=True)
    for mutation in chosen:
        unchanged = failing.get((mutation.profile, mutation.size), frozenset())
        seeds, words, _ = try_one(mutation, options.jobs, unchanged)
        where = f" ({mutation.profile})" if mutation.profile else ""
        if seeds is None:
            missed += not mutation.alone
            result = f"not in {seeds_for(mutation)}{where}"
            by = mutation.alone or "**nothing**"
        else:
            where += f" (from {mutation.first})" if mutation.first else ""
            result, by = (
                f"{seeds}{where}",
                words if words.startswith("Crashed") else words.partition(":")[0],
            )
        print(f"| {mutation.name} | {mutation.guard} | {result} | {by} |", flush=True)
    print(f"\n{len(chosen)} guards; {missed} taken out unnoticed, and without a known reason")
    return 1 if missed else 0


def _list(chosen):
    wrong = 0
    for mutation in chosen:
        texts = ((mutation.file, mutation.old), *((file, old) for file, old, _ in mutation.also))
        found = max(abs((ROOT / f).read_text("utf-8").count(old) - 1) for f, old in texts) + 1
        wrong += found != 1
        print(f"{mutation.name}: {mutation.guard}" + (f"  FOUND {found} TIMES" * (found != 1)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
