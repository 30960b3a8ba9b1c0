"""Plans: all that is decided of a run before it begins, drawn from its seed.

Plain values, so that a failing run can be shrunk by taking faults away. A fault whose condition
does not hold when its time comes does nothing: the generator knows no leader yet. What each kind
of fault does is in ``faults`` and ``operators``; how consumers are defined, in ``manners``.
"""

from __future__ import annotations

import random

import msgspec

from tests.simulation.manners import MANNERLY

FAULTS_S = 11.0
"""How long faults occur. Elections take about a second, so many follow one another."""
BEGIN_S = 0.3


class Fault(msgspec.Struct, frozen=True):
    """What happens when, where, for how long, and how much of it.

    `node` is a name, or ``leader``: whoever leads then. `other` is a second node or the name
    of a consumer. `count` is the n of an n-th step; `power`: the machine loses power, too.
    """

    at_s: float
    kind: str
    node: str = ""
    other: str = ""
    for_s: float = 0.0
    count: int = 0
    power: bool = False
    chance: float = 0.0


class KeyPlan(msgspec.Struct, frozen=True):
    """How producers use idempotency keys, and how many are remembered for how long.

    Of the requests a `share` has keys or is a group; of those, `groups` are many messages. `bounds`
    are a window in microseconds and a count; a node that starts again may have `later` ones.
    """

    share: float
    groups: float
    bounds: tuple[int, int]
    later: tuple[int, int] | None


class Plan(msgspec.Struct, frozen=True):
    """All that is decided of a run before it begins."""

    seed: int
    profile: str
    size: int
    faults: tuple[Fault, ...]
    latency_s: float = 0.001
    disk_s: tuple[float, float] = (0.0005, 0.003)
    segment_bytes: int = 8192
    cache_bytes: int = 4096
    consumers: int = 2
    messages: int = 200
    body_bytes: int = 200
    within_s: float = 2.0
    patience_s: float = 2.5
    retention_us: int = 0
    checkpoint_entries: int = 60
    window: int = 100_000
    mannerly: float = MANNERLY
    """The share of consumers that have manners (``manners``)."""
    bent: str = ""
    keys: KeyPlan | None = None
    """Without it nobody has a key."""
    waits: bool = False
    """Whether producers wait for consumers."""
    are_apart: bool = False
    """Whether the nodes' wall clocks are up to a year off."""


NETWORK = (
    "partition", "one-way", "bridge", "cut-off", "slow-link", "half-open", "reset", "slow-network",
)  # fmt: skip
DISK = (
    "slow-disk", "failed-sync", "failed-write", "full-disk", "bit-rot", "memory-rot", "tail-rot",
    "letters-rot", "slow-letters",
)  # fmt: skip
MEMBERS = ("add-member", "remove-member", "replace-member", "replace-disk")
NODES = (
    "kill", "power", "kill-all", "power-all", "trap-step", "trap-sync", "trap-write", "trap-send",
    "trap-commit", "restart", "restart-all", "pause", "pause-in-turn", "pause-cut-off",
    "clock-jump",
)  # fmt: skip
CONSUMERS = (
    "consumer-slow", "consumer-failing", "consumer-mute", "consumer-gone", "consumer-refusing",
    "consumer-barring", "consumer-far", "consumer-poison",
)  # fmt: skip
OPERATORS = (
    "consumer-pause", "consumer-resume", "consumer-skip", "consumer-remove", "consumer-add",
    "consumer-order", "consumer-pace", "consumer-target", "letter-replay", "letters-replay",
    "letters-elsewhere", "letters-purge",
)  # fmt: skip
KINDS = (*NETWORK, *DISK, *NODES, *MEMBERS, *CONSUMERS, *OPERATORS)
FAMILIES = {
    "network": NETWORK,
    "disk": DISK,
    "nodes": NODES,
    "members": (*MEMBERS, "kill", "power", "power-all", "cut-off", "partition", "slow-disk"),
    "torn": ("trap-step", "trap-sync", "trap-write", "power", "power-all", "cut-off", "slow-disk"),
    "rotten": ("bit-rot", "memory-rot", "tail-rot", "restart", "kill", "cut-off"),
    "deposed": ("cut-off", "one-way", "partition", "slow-disk", "pause", "slow-link", "kill"),
    "relapse": ("failed-sync", "failed-sync", "failed-write", "kill", "power", "cut-off"),
    "backlog": ("consumer-gone", "consumer-failing", "kill", "cut-off", "power", "replace-disk"),
    "birth": ("kill", "power", "partition", "one-way", "slow-network", "slow-disk", "trap-step"),
    "room": ("full-disk", "full-disk", "full-disk", "restart", "slow-link"),
    "woken": ("pause-cut-off", "pause-cut-off", "pause-in-turn", "consumer-slow"),
    "snapshots": ("replace-disk", "add-member", "trap-step", "trap-sync", "power", "slow-disk"),
    "operators": (
        *OPERATORS, "consumer-poison", "consumer-refusing", "consumer-failing", "kill", "cut-off",
        "restart", "slow-disk", "slow-disk",
    ),
    "letters": (
        "consumer-refusing", "consumer-refusing", "consumer-poison", "consumer-gone",
        "consumer-remove", "letters-replay", "letters-elsewhere", "letters-elsewhere",
        "letters-purge", "letters-rot", "letters-rot", "letters-rot", "replace-disk", "add-member",
        "cut-off", "kill", "power", "slow-network", "slow-disk", "slow-letters",
    ),
    "orders": (
        "consumer-failing", "consumer-poison", "consumer-mute", "consumer-far", "consumer-far",
        "consumer-refusing", "consumer-order", "consumer-skip", "letters-replay", "letters-purge",
        "kill", "cut-off", "restart",
    ),
    "trials": (
        "consumer-failing", "consumer-gone", "consumer-barring", "consumer-poison",
        "consumer-slow", "kill", "cut-off", "restart",
    ),
    "straggling": (
        "consumer-poison", "consumer-poison", "consumer-failing", "consumer-slow",
        "consumer-gone", "letters-replay", "kill", "cut-off", "power",
    ),
    "waiting": (
        "consumer-refusing", "consumer-refusing", "consumer-poison", "consumer-failing",
        "consumer-skip", "letters-replay", "letters-elsewhere", "letters-purge", "cut-off",
        "kill", "half-open", "slow-network", "slow-disk", "slow-disk",
    ),
    "keys": (
        "cut-off", "cut-off", "partition", "one-way", "half-open", "slow-network", "kill", "power",
        "restart", "pause-cut-off", "slow-disk", "slow-disk", "clock-jump", "replace-disk",
        "add-member",
    ),
}  # fmt: skip
ALONE = frozenset((*DISK, *NODES, *CONSUMERS, *OPERATORS)) - {
    "bit-rot", "tail-rot", "letters-rot", "pause-cut-off",
}  # fmt: skip
"""What can happen to a cluster of one."""

PROFILES = (
    "quiet", "single", "few", "mixed", "network", "disk", "nodes", "members", "storm", "operators",
)  # fmt: skip
WEIGHTS = (1, 4, 5, 8, 4, 5, 6, 4, 4, 5)
BENTS = ("letters", "orders", "trials", "straggling")
"""Hunts that draw most consumers with one kind of manner, too."""
HUNTS = (
    "torn", "rotten", "deposed", "relapse", "backlog", "birth", "room", "woken", "snapshots",
    "keys", "waiting", *BENTS,
)  # fmt: skip
"""Profiles that no seed draws by itself: each looks for what a certain guard keeps away."""
BIRTH_S = 1.5
DAY_US = 86_400 * 10**6


def make_plan(seed, *, profile=None, size=None):
    """Return the plan that a seed stands for."""
    chance = random.Random(f"{seed} plan")
    drawn = chance.choices(PROFILES, WEIGHTS)[0]
    profile = profile or drawn
    drawn_size = chance.choices((1, 3, 5), (2, 16, 3))[0]
    size = size or drawn_size
    names = names_of(size)
    kinds = [kind for kind in KINDS if size > 1 or kind in ALONE]
    count = 0
    if profile == "single":
        kinds, count = [chance.choice(kinds)], chance.randrange(1, 6)
    elif profile == "few":
        kinds, count = chance.sample(kinds, 3), chance.randrange(4, 12)
    elif profile == "mixed":
        count = chance.randrange(4, 14)
    elif profile in FAMILIES:
        kinds = [kind for kind in kinds if kind in FAMILIES[profile]] or kinds
        count = chance.randrange(4, 14)
    elif profile == "storm":
        count = chance.randrange(15, 35)
    moments = _moments(chance, count)
    if profile == "birth":
        moments = [chance.uniform(0.0, BIRTH_S) for _ in moments]
    elif profile in HUNTS:
        moments = [*moments, *_moments(chance, count)]
    faults = [_draw(chance, chance.choice(kinds), names, at_s) for at_s in moments]
    return Plan(
        seed=seed,
        profile=profile,
        size=size,
        faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
        latency_s=chance.choice((0.0003, 0.001, 0.005, 0.02)),
        disk_s=chance.choice(((0.0002, 0.001), (0.0005, 0.003), (0.002, 0.02))),
        segment_bytes=chance.choice((4096, 8192, 16384)),
        cache_bytes=chance.choice((0, 2048, 65536)),
        consumers=chance.randrange(1, 4),
        messages=chance.randrange(60, 320) * 3 // (2 + size // 2),
        body_bytes=chance.choice((40, 200, 2000)),
        within_s=chance.choice((0.5, 2.0, 2.0, 4.0)),
        patience_s=chance.choice((0.7, 2.5, 5.0)),
        retention_us=chance.choice((0, 0, 1_000_000)),
        checkpoint_entries=20
        if profile in {"snapshots", "letters"}
        else chance.choice((20, 60, 60, 10_000)),
        window=_window(profile, chance),
        mannerly=1.0 if profile in BENTS or profile == "waiting" else MANNERLY,
        bent=profile if profile in BENTS else "letters" if profile == "waiting" else "",
        waits=_waits(seed, profile),
        **_keys(seed, profile),
    )


def _keys(seed, profile):
    """Return how keys are used: in half of the seeds, and where a hunt is for them."""
    chance = random.Random(f"{seed} keys")
    is_hunted = profile == "keys"
    if not is_hunted and (profile in HUNTS or chance.random() < 0.5):
        return {}
    bounds, later = _bounds(chance), _bounds(chance)
    return {
        "keys": KeyPlan(
            share=chance.choice((0.3, 0.6, 0.9)),
            groups=chance.choice((0.1, 0.3)),
            bounds=bounds,
            later=later if chance.random() < 0.3 else None,
        ),
        "are_apart": chance.random() < 0.5,
    }


def _waits(seed, profile):
    """Return whether producers wait: in a quarter of the seeds, and where a hunt is for them."""
    if profile in HUNTS:
        return profile == "waiting"
    return random.Random(f"{seed} waits").random() < 0.25


def _bounds(chance):
    """Return for how long keys are remembered, in log time, and how many."""
    window_us = chance.choice((400_000, 2_000_000, 20_000_000, DAY_US, DAY_US))
    count_max = chance.choice((3, 16, 40, 160, 100_000)) if chance.random() > 0.05 else 0
    return window_us, count_max


def _window(profile, chance):
    """Return how far cursors run ahead of watermarks."""
    small, large = chance.randrange(10, 60), 100_000
    if profile in {"straggling", "waiting"}:
        return small
    return small if chance.random() < 0.25 else large


def names_of(size):
    return tuple("abcde"[:size])


def _moments(chance, count):
    """Return when faults occur: spread evenly, or a few at a time and then quiet."""
    if chance.random() < 0.6:
        return [chance.uniform(BEGIN_S, FAULTS_S) for _ in range(count)]
    centres = [chance.uniform(BEGIN_S, FAULTS_S - 2.0) for _ in range(1 + count // 6)]
    return [min(FAULTS_S, chance.choice(centres) + chance.expovariate(1.5)) for _ in range(count)]


def _draw(chance, kind, names, at_s):
    node = chance.choice((*names, "leader"))
    for_s = chance.choice((0.05, 0.3, 1.0, 2.5, 5.0)) * (0.5 + chance.random())
    return Fault(
        at_s=round(at_s, 4),
        kind=kind,
        node=node,
        other=chance.choice(names) if len(names) > 1 else "",
        for_s=round(for_s, 4),
        count=chance.choice((1, 2, 3, chance.randrange(1, 40))),
        power=chance.random() < 0.5,
        chance=round(chance.random(), 6),
    )
