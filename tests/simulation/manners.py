"""Consumers' manners: how a simulated consumer is defined, drawn from the seed.

Decides the bounds of what is drawn: small enough that within a run messages die, windows fill
and breakers open, and quick enough that all of it is over soon after the faults end. A *plain*
consumer has none of that: no order, and retries without a bound.

A `bent` says what is drawn more often than not, for profiles that look for one kind of thing.
"""

from __future__ import annotations

import msgspec

from crowd.definition import Batch, Breaker, ConsumerDefinition, Dead, Retry

PLAIN_RETRY = Retry(50_000, 2.0, 500_000, 10**12)
BATCHES = 0.3
"""The share of consumers that take many messages in one request."""
MANNERLY = 0.6
"""The share of consumers that are not plain, where no bent says otherwise."""
KEYS = 7
"""Values of the header, and of the body's field, by which some consumers order."""
TIMEOUT_US = 300_000
ASKED_MOST_US = 1_500_000
DEAD_FOR_US = 1_500_000
ORDERS = ("all", "path", "header:X-Key", "json:/key")


def host_of(definition):
    """Return the host that a definition's url names."""
    return definition.url.removeprefix("http://").partition(".")[0]


def plain(name, routes, chance, own):
    """Return a consumer without manners; some take batches."""
    batch = Batch("ndjson", own.choice((1, 3, 20)), linger_us=own.choice((0, 20_000)))
    return ConsumerDefinition(
        name=name, url=f"http://{name}.example/", path=None, routes=routes,
        concurrency=chance.randrange(1, 8), rate=None, timeout_us=TIMEOUT_US, order="none",
        from_="beginning", retry=PLAIN_RETRY, backlog_bytes=1 << 30, when_full="refuse",
        batch=batch if own.random() < BATCHES else None,
    )  # fmt: skip


def draw(plain_one, chance, *, bent="", messages, body_bytes):
    """Return a definition with manners, made from a plain one.

    `messages` of `body_bytes` at most are posted in the run, about: rates and bounds of bytes
    are measured by them.
    """
    batch = plain_one.batch
    if batch is not None and chance.random() < 0.5:
        batch = msgspec.structs.replace(batch, form="bulk")
    if bent in {"orders", "straggling"} and chance.random() < 0.7:
        batch = None
    orderly = {"orders": 0.95, "straggling": 0.05, "trials": 0.2}.get(bent, 0.45)
    order = chance.choice(ORDERS) if chance.random() < orderly else "none"
    holds = order != "none" and chance.random() < 0.4
    small = messages * (body_bytes // 2 + 150) // 8
    is_small = chance.random() < (0.5 if bent == "straggling" else 0.15)
    rate = f"{max(15, messages // 5)}/s" if chance.random() < 0.25 else None
    return msgspec.structs.replace(
        plain_one,
        batch=batch,
        order=order,
        on_dead="hold" if holds else "release",
        from_=chance.choice(("beginning", "beginning", "now", "position:20")),
        retry=_retry(chance, bent),
        breaker=_breaker(chance, bent),
        adaptive=chance.random() < 0.5,
        rate=rate,
        backlog_bytes=small if is_small else 1 << 30,
        when_full=chance.choice(("refuse", "skip", "skip")),
        dead=_dead(chance, small, bent),
    )


def _retry(chance, bent):
    if bent == "straggling":  # what waits is to be waited for
        return Retry(
            200_000, 1.0, 400_000, 10**12, chance.choice((0, 30)), chance.choice((0.0, 0.5)),
            asked_most_us=ASKED_MOST_US,
        )  # fmt: skip
    attempts = chance.choice((0, 2, 3, 6)) if bent != "letters" else chance.choice((1, 2, 3))
    for_us = chance.choice((10**12, 10**12, 400_000, 800_000, 2_000_000))
    schedule = chance.choice(((), (), (40_000, 150_000, 300_000), (100_000,)))
    return Retry(
        chance.choice((20_000, 60_000, 150_000)), chance.choice((1.0, 2.0)), 600_000, for_us,
        attempts, chance.choice((1.0, 0.3, 0.0)), schedule, ASKED_MOST_US,
    )  # fmt: skip


def _breaker(chance, bent):
    failures = chance.choice((2, 4, 10)) if bent != "straggling" else 40
    ratio = chance.choice((0.5, 0.9, 2.0)) if bent != "straggling" else 2.0
    first_us = chance.choice((60_000, 200_000, 500_000))
    return Breaker(failures, ratio, first_us, chance.choice((600_000, 1_500_000)))


def _dead(chance, small, bent):
    share = 0.3 if bent == "letters" else 0.15
    for_us = DEAD_FOR_US if chance.random() < share else 30 * 86_400_000_000
    return Dead(for_us, small // 4 if chance.random() < share else 1 << 30)


def redrawn(definition, chance):
    """Return a definition with another pace, and the same order."""
    return msgspec.structs.replace(
        definition,
        concurrency=chance.randrange(1, 8),
        adaptive=chance.random() < 0.5,
        breaker=_breaker(chance, ""),
        rate=chance.choice((None, definition.rate, "40/s")),
    )


def reordered(definition, chance):
    """Return a definition with another order, or with another `on_dead` in the same."""
    orders = ORDERS if definition.order == "none" else ("none", *ORDERS)
    order = chance.choice(orders)
    on_dead = "release" if order == "none" else chance.choice(("release", "hold"))
    if order == definition.order:
        on_dead = "release" if definition.on_dead == "hold" else "hold"
    return msgspec.structs.replace(definition, order=order, on_dead=on_dead)


def moved(definition):
    """Return a definition whose url names the other one of a consumer's two hosts."""
    host = host_of(definition)
    host = host.removesuffix("-b") if host.endswith("-b") else f"{host}-b"
    return msgspec.structs.replace(definition, url=f"http://{host}.example/")
