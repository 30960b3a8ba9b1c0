"""Definitions of routes and consumers, as configuration files and operators have them in the log.

Decides which fields there are, their bounds and what stands where none is named. Leaves how a
file says them to ``config``, and what comes of them to ``crowd/ledger``, ``crowd/delivery`` and
``crowd/web``. The bytes are drawn in docs/reference/log-format.md.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from crowd.idempotency import KEYS_MAX
from crowd.quantity import time_us
from crowd.value import INTEGER_MAX, Amount, Counted, Name, Text, Value

DEFINITIONS_MAX: Final = 1_024
"""Routes, and consumers, in one `Define`: one node's configuration file."""

SCHEDULE_MAX: Final = 64
"""Waits in a retry schedule."""

SECRETS_MAX: Final = 8
"""Secrets of one consumer: the present one, and older or newer ones while they change."""

NETWORKS_MAX: Final = 64
"""Networks that a consumer's host may, or may not, be in."""

_Factor = Annotated[float, Meta(ge=1, le=1_000)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Status = Annotated[str, Meta(pattern="^[3-5]([0-9][0-9]|xx)$", max_length=3)]
_Statuses = Annotated[tuple[_Status, ...], Meta(max_length=303)]
_From = Annotated[str, Meta(min_length=1, max_length=32)]
_Networks = Annotated[tuple[Name, ...], Meta(max_length=NETWORKS_MAX)]


def _make_floats(value: msgspec.Struct, *names: str) -> None:
    for name in names:
        msgspec.structs.force_setattr(value, name, float(getattr(value, name)))


class Proof(Value, frozen=True):
    """What TLS with a consumer, or an upstream, rests on: paths of files that every node has, or None.

    Without an ``authority`` it is the system's; ``certificate`` and ``private_key`` are ours.
    """

    authority: Text | None = None
    certificate: Text | None = None
    private_key: Text | None = None


class Reach(Value, frozen=True):
    """Which addresses a consumer's, or an upstream's, host may be at: networks, ``"10.0.0.0/8"``.

    Any may be that ``allow`` names; without it, any that ``deny`` does not.
    """

    allow: _Networks = ()
    deny: _Networks = (
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "fe80::/10",
        "fd00:ec2::254/128",  # metadata: AWS
        "fd20:ce::254/128",  # Google Cloud
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle Cloud
    )


class RouteDefinition(Value, frozen=True):
    """Which requests are accepted, and how. Its identity is its ``path`` (Klein's rule syntax).

    ``reads`` says what happens to GET, HEAD and OPTIONS; ``upstream`` is where they are passed
    on to. It has ``timeout_us`` for an answer's head, and for each piece of its body.
    """

    path: Text
    methods: Annotated[tuple[Name, ...], Meta(max_length=DEFINITIONS_MAX)]
    reads: Literal["proxy", "refuse"]
    upstream: Text | None
    timeout_us: Counted = 60_000_000
    reach: Reach = Reach()
    proof: Proof = Proof()


class Retry(Value, frozen=True):
    """How attempts follow one another. Times in microseconds; ``for_us`` is the whole span.

    At most ``attempts`` attempts, 0 for any number. ``jitter`` is the share of a wait that is
    drawn by chance, 1 for all of it. A ``schedule_us`` names each wait and takes the place of
    ``first_us``, ``factor`` and ``most_us``. ``asked_most_us`` caps a consumer's Retry-After.
    """

    first_us: Amount
    factor: _Factor
    most_us: Amount
    for_us: Amount
    attempts: Amount = 0
    jitter: _Share = 1.0
    schedule_us: Annotated[tuple[Amount, ...], Meta(max_length=SCHEDULE_MAX)] = ()
    asked_most_us: Amount = 3_600_000_000

    def __post_init__(self) -> None:
        """Make numbers that may be whole floats, so that 2 and 2.0 are the same bytes."""
        _make_floats(self, "factor", "jitter")


class Answers(Value, frozen=True):
    """Which statuses have the message retried, the consumer held, or the message dead.

    Each is a status as text, ``"404"``, or all of a hundred, ``"4xx"``; the exact one decides
    before the class. Statuses that none names go by the table of ``crowd/delivery/outcome.py``.
    """

    retry: _Statuses = ()
    hold: _Statuses = ()
    dead: _Statuses = ()


class Breaker(Value, frozen=True):
    """When attempts stop for a while: after so many failures in a row, or by their share.

    ``ratio`` is the share of failures among the last attempts, from ``failures`` of them on;
    above 1 for never. The waits before probes double from ``first_us`` to ``most_us``.
    """

    failures: Counted = 10
    ratio: Annotated[float, Meta(ge=0, le=2)] = 0.9
    first_us: Counted = 1_000_000
    most_us: Counted = 60_000_000

    def __post_init__(self) -> None:
        """Make ``ratio`` a float."""
        _make_floats(self, "ratio")


class Batch(Value, frozen=True):
    """Many messages in one request: at most ``count``, and ``bytes_max`` of bodies.

    A batch that is not full waits ``linger_us`` for more.
    """

    form: Literal["ndjson", "json", "cloudevents", "bulk"]
    count: Annotated[int, Meta(ge=1, le=10_000)] = 500
    bytes_max: Counted = 1 << 20
    linger_us: Amount = 100_000


class Dead(Value, frozen=True):
    """How long, and how many bytes of, a consumer's dead letters are kept."""

    for_us: Amount = 30 * 86_400_000_000
    bytes_max: Amount = 1 << 30


_AT_POSITION: Final = re.compile(r"position:([1-9][0-9]{0,18})\Z")


class Start(msgspec.Struct, frozen=True, gc=False):
    """Where a new consumer begins: ``value`` is a position, a time in microseconds, or 0."""

    at: Literal["now", "beginning", "position", "time"]
    value: int = 0


def read_start(text: str) -> Start:
    """Return where `text`, a consumer's ``from``, says that it begins.

    ``now``, ``beginning``, ``position:123`` (the first message that it takes, from 1 on), or a
    time as `crowd.quantity.time_us` reads it. Raises ValueError.
    """
    if text == "now":
        return Start("now")
    if text == "beginning":
        return Start("beginning")
    match = _AT_POSITION.match(text)
    if match is None:
        return Start("time", time_us(text))
    if int(match[1]) > INTEGER_MAX:
        raise ValueError(f"{text!r} is beyond any position")
    return Start("position", int(match[1]))


class ConsumerDefinition(Value, frozen=True):
    """Who is delivered to, and how. Its identity is its ``name``.

    ``routes`` are paths of routes, and none means all. ``from_`` says where a consumer that
    is new begins, as `read_start` reads it. ``rate`` and ``order`` are texts in the configuration's syntax, which
    ``crowd/config.py`` has checked. ``path`` is None to keep each message's own target.
    ``on_dead`` says what a dead letter does to its key. ``secrets`` are references,
    ``"file:/path"`` or ``"env:NAME"``, and never the secrets themselves.
    """

    name: Name
    url: Text
    path: Text | None
    routes: Annotated[tuple[Text, ...], Meta(max_length=DEFINITIONS_MAX)]
    concurrency: Counted
    rate: Name | None
    timeout_us: Counted
    order: Name
    from_: _From
    retry: Retry
    backlog_bytes: Amount
    when_full: Literal["refuse", "skip"]
    on_dead: Literal["release", "hold"] = "release"
    adaptive: bool = True
    answers: Answers = Answers()
    breaker: Breaker = Breaker()
    form: Literal["request", "cloudevents-binary", "cloudevents-structured"] = "request"
    batch: Batch | None = None
    gzip: bool = False
    secrets: Annotated[tuple[Text, ...], Meta(max_length=SECRETS_MAX)] = ()
    proof: Proof = Proof()
    reach: Reach = Reach()
    dead: Dead = Dead()
    backlog_messages: Amount = 20_000_000

    def __post_init__(self) -> None:
        """Refuse a beginning that is none; a ValueError is a refusal to msgspec."""
        read_start(self.from_)


class KeyBounds(Value, frozen=True):
    """For how long idempotency keys are remembered at least, and how many at most.

    ``count_max`` of 0 is none: keys are not looked at.
    """

    window_us: Counted = 86_400_000_000
    count_max: Annotated[int, Meta(ge=0, le=KEYS_MAX)] = 500_000
