"""One fault's stage: a fresh cluster under load, and the account at its end.

Decides what a row of the table says and what has to hold whatever was done: nothing that was
acknowledged is missing, no id stands for two messages, no node that was alive and had a
majority failed a request, and in the end all nodes hold the same ledger.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.checker import verdict
from tests.faults.nodes import Cluster, Ground
from tests.faults.traffic import Traffic
from tests.faults.waiting import FaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RATE = 150.0
"""Requests a second: every round has hundreds, and two cores carry three nodes besides."""

DELIVERED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Fault:
    """A kind of fault: how its stage is made, and how its rounds are played.

    ``lack`` says what this machine lacks for it, or None. ``play`` is handed the running
    stage and the number of rounds; it counts those it has finished in ``stage.rounds``.
    """

    name: str
    rounds: int
    play: Callable[[Stage, int], None]
    ground: Callable[[Path], Ground] = Ground
    lack: Callable[[], str | None] = lambda: None
    extra: dict[str, Any] | None = None
    body_bytes: int | None = None
    must_lose: bool = False
    """The check of the check: well only if messages are found to be missing."""


@dataclass
class Row:
    """What became of one fault."""

    fault: str
    rounds: int = 0
    acknowledged: int = 0
    missing: int = 0
    duplicates: int = 0
    failed_on_the_living: int = 0
    longest_pause_s: float = 0.0
    seconds: float = 0.0
    skipped: str | None = None
    wrong: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


class Stage:
    """A cluster, its traffic, and what a round needs to know."""

    def __init__(self, ground: Ground, fault: Fault, seed: int) -> None:
        self.ground = ground
        self.fault = fault
        self.chance = random.Random(f"{fault.name}:{seed}")
        self.cluster = Cluster(ground, extra=fault.extra)
        self.traffic = Traffic(ground.directory, ground.sink_host, ground.sink_port)
        self.rounds = 0
        self.notes: dict[str, Any] = {}
        self._posted = 0

    @property
    def names(self) -> list[str]:
        return list(self.cluster.nodes)

    def url(self, name: str) -> str:
        """Return where a node takes requests."""
        return self.cluster.nodes[name].http

    def post(self, name: str) -> tuple[int, dict[str, str]]:
        """Post a message like no other to a node; return status and headers."""
        self._posted += 1
        return self.traffic.post(self.url(name), f'{{"post": {self._posted}}}'.encode())

    def note(self, name: str, count: float = 1) -> None:
        """Add to a figure that is shown with the row."""
        self.notes[name] = self.notes.get(name, 0) + count

    def others(self, *names: str) -> list[str]:
        """Return the nodes but these."""
        return [name for name in self.names if name not in names]

    def pause(self, least_s: float, most_s: float) -> None:
        """Let the load run for a while."""
        time.sleep(self.chance.uniform(least_s, most_s))

    @contextmanager
    def held_every_other(self, number: int) -> Iterator[None]:
        """Hold the consumer in rounds with an odd number: what is acknowledged is kept, or lost."""
        with self.traffic.held() if number % 2 else nullcontext():
            yield

    @contextmanager
    def down(self, *names: str) -> Iterator[None]:
        """Excuse these nodes until they are ready again; all nodes, if a majority is away."""
        lone = 2 * len(names) < len(self.names)
        with self.traffic.outage(*([self.url(name) for name in names] if lone else [])):
            yield
            self.cluster.wait_ready()

    def _load(self, urls: list[str]) -> None:
        size_bytes = self.fault.body_bytes
        if size_bytes is None:
            self.traffic.load(urls, rate=RATE)
            return
        file = self.ground.directory / "body.json"
        file.write_text(f'{{"pad": "{self.chance.randbytes(size_bytes // 2).hex()}"}}')
        self.traffic.load_body(urls, file, rate=RATE)

    def begin(self) -> None:
        """Start the nodes, the consumer and the load."""
        self.cluster.start()
        self.traffic.sink()
        self.cluster.wait_ready()
        urls = [node.http for node in self.cluster.nodes.values()]
        self._load(urls)
        self.traffic.wait_acknowledged(20)

    def account(self, row: Row, *, within_s: float = DELIVERED_WITHIN_S) -> None:
        """Wait until the cluster is itself again, and fill in the row."""
        self.traffic.end_loads()
        figures = self.traffic.wait_delivered(within_s)
        row.wrong += verdict(figures, None)
        try:
            position = self.cluster.same_ledgers()["position"]
            if position < figures["highest_position"]:
                row.wrong.append("the ledgers lack acknowledged positions")
        except FaultError as error:
            row.wrong.append(str(error))
        failed = self.traffic.failed_on_the_living()
        if failed:
            shown = {(one["url"], one["status"], one.get("error")) for one in failed[:20]}
            row.wrong.append(
                f"{len(failed)} requests failed on live nodes: {sorted(map(str, shown))}"
            )
        foreign = self.traffic.foreign_bodies()
        if foreign:
            row.wrong.append(f"{foreign} bodies arrived that nobody sent")
        if not figures["acknowledged"]:
            row.wrong.append("nothing was acknowledged")
        row.acknowledged = figures["acknowledged"]
        row.missing = figures["missing"]
        row.duplicates = figures["duplicates"]
        row.failed_on_the_living = len(failed)
        row.longest_pause_s = round(self.traffic.longest_pause_s(), 2)


def play(fault: Fault, rounds: int, directory: Path, seed: int) -> Row:
    """Play one fault on a stage of its own; return its row. Nothing of it is left running."""
    row = Row(fault.name, skipped=fault.lack())
    if row.skipped is not None:
        return row
    begun_s = time.monotonic()
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        ground = fault.ground(directory)
        stack.callback(ground.close)
        stage = Stage(ground, fault, seed)
        stack.callback(stage.cluster.close)
        stack.callback(stage.traffic.close)
        try:
            stage.begin()
            fault.play(stage, rounds)
        except FaultError as error:
            row.wrong.append(f"round {stage.rounds + 1}: {error}")
        row.rounds, row.notes = stage.rounds, stage.notes
        if fault.must_lose:
            stage.account(row, within_s=5.0)
            found = "; ".join(row.wrong)
            row.notes["found"] = found
            row.wrong = [] if row.missing else [f"found no loss: {found or 'nothing is wrong'}"]
        else:
            stage.account(row)
    row.seconds = round(time.monotonic() - begun_s, 1)
    return row
