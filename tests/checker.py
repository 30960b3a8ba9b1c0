"""Holds a run's records against each other: what was acknowledged, what arrived, what is kept.

    python -m tests.checker --load LOAD.jsonl ... --sink SINK.jsonl [--directory DIR]

`--load` are logs of ``crowd load``, `--sink` those of ``crowd sink``; with `--directory` the
ledgers of the cluster there are compared too. Exit status 0 only if nothing is missing, no id
stands for two messages, and the ledgers agree.

A line of `--load` may also say what was posted, as ``sha256``: then that is what has to arrive
under its id.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crowd.message import parse_message_id
from crowd.tools.status import admin_addresses, gather

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CLOCKS_S = 0.1
"""How far the times of two logs may be apart: they are of one clock, taken in two processes."""


@dataclass(frozen=True)
class Outage:
    """When a node could not answer, and which answers that excuses.

    ``url`` is what the node's URLs begin with; every node is meant if it is empty. Times are
    in seconds since 1970. Without ``statuses`` any failure is excused, otherwise those alone.
    """

    url: str
    since: float
    until: float
    statuses: frozenset[int] | None = None

    def excuses(self, answer: dict[str, Any]) -> bool:
        """Say whether a failed request met this outage between when it was due and its end."""
        return (
            answer["url"].startswith(self.url)
            and answer["time"] - answer["latency"] <= self.until + CLOCKS_S
            and answer["time"] >= self.since - CLOCKS_S
            and (self.statuses is None or answer["status"] in self.statuses)
        )


def failures_on_the_living(load: Iterable[str], outages: Sequence[Outage]) -> list[dict[str, Any]]:
    """Return the failed requests that no outage explains."""
    return [
        answer
        for answer in lines(load)
        if not 200 <= answer["status"] < 300 and not any(one.excuses(answer) for one in outages)
    ]


def longest_pause_s(load: Iterable[str]) -> float:
    """Return the longest time between two acknowledgements that follow each other."""
    times = sorted(answer["time"] for answer in lines(load) if 200 <= answer["status"] < 300)
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


def lines(paths: Iterable[str]) -> Any:
    """Yield each line's object; the last line of a killed process may be cut short."""
    for path in paths:
        with Path(path).open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def check_deliveries(load: list[str], sink: list[str]) -> dict[str, int]:
    """Compare acknowledged ids with those that the consumer answered 2xx."""
    acknowledged: set[str] = set()
    bodies: dict[str, str] = {}
    doubled = unanswered = 0
    for answer in lines(load):
        if 200 <= answer["status"] < 300:
            doubled += answer["id"] in acknowledged
            acknowledged.add(answer["id"])
            if "sha256" in answer:
                bodies[answer["id"]] = answer["sha256"]
        else:
            unanswered += 1
    arrived: Counter[str] = Counter()
    changed = 0
    for request in lines(sink):
        if 200 <= request["status"] < 300:
            arrived[request["id"]] += 1
            changed += bodies.setdefault(request["id"], request["sha256"]) != request["sha256"]
    return {
        "acknowledged": len(acknowledged),
        "delivered": len(arrived),
        "missing": len(acknowledged - arrived.keys()),
        "duplicates": sum(arrived.values()) - len(arrived),
        "not_acknowledged": unanswered,
        "delivered_without_acknowledgement": len(arrived.keys() - acknowledged),
        "ids_given_twice": doubled,
        "same_id_other_body": changed,
        "highest_position": max((parse_message_id(i)[1] for i in acknowledged), default=0),
    }


def check_ledgers(directory: str) -> dict[str, Any]:
    """Compare the nodes' ledgers at the index that all of them have applied."""
    addresses = admin_addresses(Path(directory))
    for _ in range(100):
        status = gather(addresses)
        now = {(node["now"]["index"], node["now"]["sha256"]) for node in status["nodes"]}
        if len(now) == 1:
            break
    positions = {node["name"]: node["position"] for node in status["nodes"]}
    return {
        "nodes": len(status["nodes"]),
        "ledgers_agree": len(now) == 1,
        "index": max(index for index, _ in now),
        "positions": positions,
    }


def verdict(deliveries: dict[str, int], ledgers: dict[str, Any] | None) -> list[str]:
    """Return what is wrong; nothing, if all is well."""
    wrong = [
        f"{deliveries[key]} {words}"
        for key, words in (
            ("missing", "acknowledged messages never reached the consumer"),
            ("ids_given_twice", "ids were given to two messages"),
            ("same_id_other_body", "ids arrived with two bodies"),
        )
        if deliveries[key]
    ]
    if ledgers is not None:
        if not ledgers["ledgers_agree"]:
            wrong.append("the ledgers differ")
        short = [n for n, p in ledgers["positions"].items() if p < deliveries["highest_position"]]
        wrong += [f"{name}'s ledger lacks acknowledged positions" for name in short]
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Check and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--load", nargs="+", required=True)
    parser.add_argument("--sink", nargs="+", required=True)
    parser.add_argument("--directory")
    options = parser.parse_args(arguments)
    deliveries = check_deliveries(options.load, options.sink)
    ledgers = check_ledgers(options.directory) if options.directory else None
    print(json.dumps(deliveries | (ledgers or {}), indent=1))
    wrong = verdict(deliveries, ledgers)
    print("\n".join(wrong) or "all is well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
