"""Commands: what the log's entries say to the ledger, one command an entry.

Decides the shape of every command, its bounds and its bytes. Leaves what a command does to
``crowd/ledger``, and when one is proposed to ``crowd/raft`` and ``crowd/delivery``.

A command is one CBOR array (RFC 8949) that starts with its kind. An entry's payload puts
the leader's log time before it, in a form of fixed length, so that a leader stamps what a
follower encoded without reading it: ``[log_time_us, command]``. The bytes are drawn in
docs/reference/log-format.md.

Invariant: a command has exactly one byte form; any other is refused at decoding. So equal
commands are equal bytes, and a digest over the one is a digest over the other.

Invariant: what `decode_command` returns lies within every bound named here. Code behind it
trusts that and checks nothing again.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NewType, TypeAlias

import msgspec
from msgspec import Meta

from crowd.codec import pack, unpack
from crowd.errors import MalformedCommandError, MalformedError, NeedsNewerCrowdError
from crowd.message import ConsumerId, Position, RouteId
from crowd.quantity import time_us

if TYPE_CHECKING:
    from collections.abc import Sequence

Index = NewType("Index", int)
"""An entry's number in the log, from 1 without gaps (Raft paper, section 5.3)."""

Term = NewType("Term", int)
"""A Raft term. The first entry of any log, a no-op, has term 0."""

SessionId = NewType("SessionId", int)
"""A proposal session's id: the index of the entry that opened it."""

FORMAT: Final = 1
"""The newest version of the ledger's state and of its commands that this code knows."""

INTEGER_MAX: Final = 2**63 - 1
"""No integer in a command is larger, so each fits 64 bits, signed or not, everywhere."""

MESSAGES_MAX: Final = 16_384
"""Messages in one `Accept`. An entry of 1 MiB holds fewer of any real size (64 bytes each)."""

PROPOSALS_MAX: Final = 1_024
"""How far `Accept.number` may be above `Accept.low`. A node has a few proposals in flight;
this bounds what a ledger remembers of one session, whatever its proposer does."""

RANGES_MAX: Final = 16_384
"""Ranges in one `Settle`. The dispatcher settles about 500 outcomes at a time."""

DEFINITIONS_MAX: Final = 1_024
"""Routes, and consumers, in one `Define`: one node's configuration file."""

SCHEDULE_MAX: Final = 64
"""Waits in a retry schedule."""

SECRETS_MAX: Final = 8
"""Secrets of one consumer: the present one, and older or newer ones while they change."""

NETWORKS_MAX: Final = 64
"""Networks that a consumer's host may, or may not, be in."""

LETTERS_MAX: Final = 1_024
"""Letters in one command; with bytes, an entry of 1 MiB holds fewer of any real size."""

TRIALS_MAX: Final = 10_000
"""Waiting messages whose attempts are remembered. Of more, the leader says some."""

WORDS_MAX: Final = 1_024
"""Characters kept of a last answer's body, or of a failure's words."""

MEMBERS_MAX: Final = 32
"""Members of a cluster. Raft with more than about nine is slow, long before this."""

_Index = Annotated[Index, Meta(ge=1, le=INTEGER_MAX)]
_SessionId = Annotated[SessionId, Meta(ge=1, le=INTEGER_MAX)]
_Position = Annotated[Position, Meta(ge=1, le=INTEGER_MAX)]
_RouteId = Annotated[RouteId, Meta(ge=1, le=INTEGER_MAX)]
_ConsumerId = Annotated[ConsumerId, Meta(ge=1, le=INTEGER_MAX)]
_Counted = Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
_Amount = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
_Factor = Annotated[float, Meta(ge=1, le=1_000)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Text = Annotated[str, Meta(min_length=1, max_length=4_096)]
_Status = Annotated[str, Meta(pattern="^[3-5]([0-9][0-9]|xx)$", max_length=3)]
_Statuses = Annotated[tuple[_Status, ...], Meta(max_length=303)]
_From = Annotated[str, Meta(min_length=1, max_length=32)]
_Networks = Annotated[tuple[_Name, ...], Meta(max_length=NETWORKS_MAX)]
_Address = Annotated[str, Meta(max_length=255)]
_Tag = Annotated[str, Meta(pattern="^[0-9a-f]{8}$", max_length=8)]
_Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Range = tuple[_Position, _Position]


class _Value(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """The shape of all below: in CBOR an array of the fields in their order.

    Each repeats ``frozen=True``, as type checkers do not inherit it.
    """


def _make_floats(value: msgspec.Struct, *names: str) -> None:
    for name in names:
        msgspec.structs.force_setattr(value, name, float(getattr(value, name)))


class Member(_Value, frozen=True):
    """A voting member. ``journal_id`` (16 bytes) was drawn when its directory was made.

    ``address`` is where its peers find it, as ``host:port``; empty for a node without peers.
    """

    name: _Name
    address: _Address
    journal_id: _Bytes16


class RouteDefinition(_Value, frozen=True):
    """Which requests are accepted, and how. Its identity is its ``path`` (Klein's rule syntax).

    ``reads`` says what happens to GET and HEAD; ``upstream`` is where they are proxied to.
    """

    path: _Text
    methods: Annotated[tuple[_Name, ...], Meta(max_length=DEFINITIONS_MAX)]
    reads: Literal["proxy", "refuse"]
    upstream: _Text | None


class Retry(_Value, frozen=True):
    """How attempts follow one another. Times in microseconds; ``for_us`` is the whole span.

    At most ``attempts`` attempts, 0 for any number. ``jitter`` is the share of a wait that is
    drawn by chance, 1 for all of it. A ``schedule_us`` names each wait and takes the place of
    ``first_us``, ``factor`` and ``most_us``. ``asked_most_us`` caps a consumer's Retry-After.
    """

    first_us: _Amount
    factor: _Factor
    most_us: _Amount
    for_us: _Amount
    attempts: _Amount = 0
    jitter: _Share = 1.0
    schedule_us: Annotated[tuple[_Amount, ...], Meta(max_length=SCHEDULE_MAX)] = ()
    asked_most_us: _Amount = 3_600_000_000

    def __post_init__(self) -> None:
        """Make numbers that may be whole floats, so that 2 and 2.0 are the same bytes."""
        _make_floats(self, "factor", "jitter")


class Answers(_Value, frozen=True):
    """Which statuses have the message retried, the consumer held, or the message dead.

    Each is a status as text, ``"404"``, or all of a hundred, ``"4xx"``; the exact one decides
    before the class. Statuses that none names go by the table of ``crowd/delivery/outcome.py``.
    """

    retry: _Statuses = ()
    hold: _Statuses = ()
    dead: _Statuses = ()


class Breaker(_Value, frozen=True):
    """When attempts stop for a while: after so many failures in a row, or by their share.

    ``ratio`` is the share of failures among the last attempts, from ``failures`` of them on;
    above 1 for never. The waits before probes double from ``first_us`` to ``most_us``.
    """

    failures: _Counted = 10
    ratio: Annotated[float, Meta(ge=0, le=2)] = 0.9
    first_us: _Counted = 1_000_000
    most_us: _Counted = 60_000_000

    def __post_init__(self) -> None:
        """Make ``ratio`` a float."""
        _make_floats(self, "ratio")


class Batch(_Value, frozen=True):
    """Many messages in one request: at most ``count``, and ``bytes_max`` of bodies.

    A batch that is not full waits ``linger_us`` for more.
    """

    form: Literal["ndjson", "json", "cloudevents", "bulk"]
    count: Annotated[int, Meta(ge=1, le=10_000)] = 500
    bytes_max: _Counted = 1 << 20
    linger_us: _Amount = 100_000


class Proof(_Value, frozen=True):
    """What TLS with a consumer rests on: paths of files that every node has, or None.

    Without an ``authority`` it is the system's; ``certificate`` and ``private_key`` are ours.
    """

    authority: _Text | None = None
    certificate: _Text | None = None
    private_key: _Text | None = None


class Reach(_Value, frozen=True):
    """Which addresses a consumer's host may be at: networks, ``"10.0.0.0/8"``.

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


class Dead(_Value, frozen=True):
    """How long, and how many bytes of, a consumer's dead letters are kept."""

    for_us: _Amount = 30 * 86_400_000_000
    bytes_max: _Amount = 1 << 30


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


class ConsumerDefinition(_Value, frozen=True):
    """Who is delivered to, and how. Its identity is its ``name``.

    ``routes`` are paths of routes, and none means all. ``from_`` says where a consumer that
    is new begins, as `read_start` reads it. ``rate`` and ``order`` are texts in the configuration's syntax, which
    ``crowd/config.py`` has checked. ``path`` is None to keep each message's own target.
    ``on_dead`` says what a dead letter does to its key. ``secrets`` are references,
    ``"file:/path"`` or ``"env:NAME"``, and never the secrets themselves.
    """

    name: _Name
    url: _Text
    path: _Text | None
    routes: Annotated[tuple[_Text, ...], Meta(max_length=DEFINITIONS_MAX)]
    concurrency: _Counted
    rate: _Name | None
    timeout_us: _Counted
    order: _Name
    from_: _From
    retry: Retry
    backlog_bytes: _Amount
    when_full: Literal["refuse", "skip"]
    on_dead: Literal["release", "hold"] = "release"
    adaptive: bool = True
    answers: Answers = Answers()
    breaker: Breaker = Breaker()
    form: Literal["request", "cloudevents-binary", "cloudevents-structured"] = "request"
    batch: Batch | None = None
    gzip: bool = False
    secrets: Annotated[tuple[_Text, ...], Meta(max_length=SECRETS_MAX)] = ()
    proof: Proof = Proof()
    reach: Reach = Reach()
    dead: Dead = Dead()

    def __post_init__(self) -> None:
        """Refuse a beginning that is none; a ValueError is a refusal to msgspec."""
        read_start(self.from_)


class Birth(_Value, frozen=True, tag=1):
    """The first command of a cluster's log: who it is. ``tag`` is in every message's id."""

    cluster: _Name
    tag: _Tag
    members: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]
    format: _Counted


class OpenSession(_Value, frozen=True, tag=2):
    """Open a proposal session for a node and close its older ones.

    The session's id is this entry's index. ``nonce`` (16 random bytes) makes a repeated
    proposal of the same opening recognisable.
    """

    node: _Name
    nonce: _Bytes16


class Accept(_Value, frozen=True, tag=3):
    """Accept a batch: messages in their stored form, with one route each.

    ``number`` counts a session's proposals from 1. ``low`` is the lowest number whose fate
    its proposer still wants to know; ``low <= number < low + PROPOSALS_MAX``.
    """

    session: _SessionId
    number: _Counted
    low: _Counted
    routes: Annotated[tuple[_RouteId, ...], Meta(min_length=1, max_length=MESSAGES_MAX)]
    messages: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=MESSAGES_MAX)]


class Settle(_Value, frozen=True, tag=4):
    """These messages are done with for this consumer: inclusive ranges, rising and disjoint."""

    consumer: _ConsumerId
    ranges: Annotated[tuple[_Range, ...], Meta(min_length=1, max_length=RANGES_MAX)]


NO_FILE: Final = bytes(32)
"""In place of a file's hash: an operator's own definitions, which stand in no file."""


class Define(_Value, frozen=True, tag=5):
    """One node's configuration file: its routes and consumers, and their SHA-256.

    With `NO_FILE` as its hash it is an operator's order: what `node`'s file last brought stays
    remembered, so that a node that starts again with that file undoes nothing.
    """

    node: _Name
    file_hash: _Bytes32
    routes: Annotated[tuple[RouteDefinition, ...], Meta(max_length=DEFINITIONS_MAX)]
    consumers: Annotated[tuple[ConsumerDefinition, ...], Meta(max_length=DEFINITIONS_MAX)]


class Promote(_Value, frozen=True, tag=6):
    """A learner that has everything votes from here on, with this journal.

    ``after``, here and in the next three, is the index of the change of members that the
    proposer saw last: a change that another one overtook has no effect.
    """

    name: _Name
    journal_id: _Bytes16
    after: _Index


class Control(_Value, frozen=True, tag=7):
    """An operator's order about one consumer."""

    consumer: _ConsumerId
    action: Literal["pause", "resume"]


class RaiseFormat(_Value, frozen=True, tag=8):
    """From here on the ledger's state has this version; every member's hello supports it."""

    version: _Counted


class Enroll(_Value, frozen=True, tag=9):
    """A new member, as a learner; or another address for one that is there."""

    name: _Name
    address: _Address
    after: _Index


class Demote(_Value, frozen=True, tag=10):
    """A voter is a learner from here on: its journal is gone, and with it what it promised."""

    name: _Name
    after: _Index


class Expel(_Value, frozen=True, tag=11):
    """A member is none any more."""

    name: _Name
    after: _Index


class Release(_Value, frozen=True, tag=12):
    """Entries up to ``floor`` may leave every node's log: no consumer needs them any more."""

    floor: _Index


class Burial(_Value, frozen=True):
    """A message that leaves its consumer's backlog, with its stored bytes.

    ``state`` is ``dead``, or ``parked`` for one that is still tried and would pin the log.
    ``reason`` says why in a word, ``status`` the last answer's (0 for none), ``words`` the rest:
    a failure's words, or a sanitised piece of the answer's body. Times are the log's, in
    microseconds since 1970: of its first attempt and of its last one.
    """

    position: _Position
    state: Literal["dead", "parked"]
    reason: Literal["answer", "attempts", "age", "undeliverable", "operator", "window"]
    status: Annotated[int, Meta(ge=0, le=999)]
    words: Annotated[str, Meta(max_length=WORDS_MAX)]
    attempts: _Amount
    first_us: _Amount
    last_us: _Amount
    message: Annotated[bytes, Meta(min_length=1)]


class Bury(_Value, frozen=True, tag=13):
    """Messages of one consumer become letters: settled for it, kept with their bytes.

    Those of them that are letters already waited for ``target``, which gives them up; 0 stands
    for ``consumer`` itself.
    """

    consumer: _ConsumerId
    letters: Annotated[tuple[Burial, ...], Meta(min_length=1, max_length=LETTERS_MAX)]
    target: _Amount = 0


class Conclude(_Value, frozen=True, tag=14):
    """These letters were delivered to `consumer`: rising numbers, which the ledger gave them.

    Those that wait for another one by now go on waiting.
    """

    consumer: _ConsumerId
    letters: Annotated[tuple[_Counted, ...], Meta(min_length=1, max_length=LETTERS_MAX)]


class Replay(_Value, frozen=True, tag=15):
    """These letters are to be delivered again, to `consumer`: rising numbers."""

    consumer: _ConsumerId
    letters: Annotated[tuple[_Counted, ...], Meta(min_length=1, max_length=LETTERS_MAX)]


class Purge(_Value, frozen=True, tag=16):
    """These letters are given up for good: rising numbers. ``reason`` is told of them."""

    reason: Literal["operator", "age"]
    letters: Annotated[tuple[_Counted, ...], Meta(min_length=1, max_length=LETTERS_MAX)]


class Trial(_Value, frozen=True):
    """A message that failed and waits: its ``attempts`` so far, and when the next one is due.

    ``letter`` is a letter's number, or 0 for the message at ``position``. ``spared`` of the
    attempts do not count towards a bound. ``aged_us`` is what the consumer's own was at the
    first attempt: the message's age is the difference.
    """

    position: _Position
    letter: _Amount
    attempts: _Counted
    first_us: _Amount
    due_us: _Amount
    spared: _Amount = 0
    aged_us: _Amount = 0


class Remember(_Value, frozen=True, tag=17):
    """What the leader knows of one consumer's delivery, in place of what it said before.

    ``opened`` counts the breaker's waits in a row, 0 while it is closed; attempts begin again
    at ``held_until_us``. ``aged_us`` is how long the consumer answered, of all the time since
    it began. Times are the log's. Trials rise by position and letter.
    """

    consumer: _ConsumerId
    opened: _Amount
    held_until_us: _Amount
    aged_us: _Amount
    trials: Annotated[tuple[Trial, ...], Meta(max_length=TRIALS_MAX)]


class Dismiss(_Value, frozen=True, tag=18):
    """A consumer is none any more.

    ``backlog`` says what happens to what it was not delivered: ``drop`` counts it as dropped,
    ``refuse`` has no effect while there is any. Its letters stay.
    """

    consumer: _ConsumerId
    backlog: Literal["drop", "refuse"]


class Skip(_Value, frozen=True, tag=19):
    """All of a consumer's messages up to ``through`` are settled: skipped, and counted so."""

    consumer: _ConsumerId
    through: _Position


class Once(_Value, frozen=True, tag=20):
    """An operator's order: what it asks for has its effect the first time only.

    ``order`` is its name, 16 random bytes. It may be offered, and be in the log, any number of times.
    """

    order: _Bytes16
    command: Define | Control | Replay | Purge | Dismiss | Skip


Command: TypeAlias = (
    Birth
    | OpenSession
    | Accept
    | Settle
    | Define
    | Promote
    | Control
    | RaiseFormat
    | Enroll
    | Demote
    | Expel
    | Release
    | Bury
    | Conclude
    | Replay
    | Purge
    | Remember
    | Dismiss
    | Skip
    | Once
)
_KIND_MAX: Final = 20

_STAMP_HEAD: Final = b"\x82\x1b"  # an array of two; an unsigned integer in eight bytes
_STAMP_BYTES: Final = len(_STAMP_HEAD) + 8


def encode_command(command: Command) -> bytes:
    """Return a command's bytes. That it lies within its bounds is the caller's care."""
    return pack(msgspec.to_builtins(command, builtin_types=(bytes,)))


def decode_command(data: bytes) -> Command:
    """Return the command that `data` holds, whoever it is from.

    Raises MalformedCommandError if it holds none, or holds it in another than its one byte
    form, and NeedsNewerCrowdError if it is of a kind that this version does not know. A leader
    that was offered such bytes refuses them; nothing else enters the log.
    """
    command = read_command(data)
    if encode_command(command) != data:
        raise MalformedCommandError(f"a command of kind {data[1]} is not in its one byte form")
    return command


def read_command(data: bytes) -> Command:
    """Return the command that a log entry's `data` holds.

    The leader checked the byte form with `decode_command` before it appended the entry, and
    checksums guard it since, so encoding it again would prove nothing: it is a third of the
    cost. Raises as `decode_command`; at apply that is fatal.
    """
    try:
        fields = unpack(data)
    except MalformedError as error:
        raise MalformedCommandError(f"a command is {error}") from error
    kind = fields[0] if type(fields) is tuple and fields else None
    if type(kind) is not int or kind < 1:
        raise MalformedCommandError("a command does not start with its kind")
    if kind > _KIND_MAX:
        raise NeedsNewerCrowdError(f"a command of kind {kind}; this version knows 1-{_KIND_MAX}")
    try:
        command: Command = msgspec.convert(fields, Command)
    except msgspec.ValidationError as error:
        raise MalformedCommandError(f"a command of kind {kind}: {error}") from error
    _check(command)
    return command


def _check(command: Command) -> None:
    """Raise MalformedCommandError for what no single field's bounds can say."""
    if isinstance(command, Once):
        command = command.command
    if isinstance(command, Accept):
        if len(command.routes) != len(command.messages):
            raise MalformedCommandError(
                f"{len(command.routes)} routes for {len(command.messages)} messages"
            )
        if not command.low <= command.number < command.low + PROPOSALS_MAX:
            raise MalformedCommandError(f"number {command.number} with low {command.low}")
    elif isinstance(command, Settle):
        before = 0
        for first, last in command.ranges:
            if not before < first <= last:
                raise MalformedCommandError(f"range {first}-{last} after {before}")
            before = last
    elif isinstance(command, Conclude | Replay | Purge):
        _check_rising(command.letters, "letter")
    elif isinstance(command, Bury):
        _check_rising([letter.position for letter in command.letters], "position")
        if command.target == command.consumer:
            raise MalformedCommandError("a consumer is named as its own target; 0 stands for it")
    elif isinstance(command, Remember):
        _check_rising([(trial.position, trial.letter) for trial in command.trials], "trial")


def _check_rising(values: Sequence[Any], what: str) -> None:
    if not all(one < other for one, other in pairwise(values)):
        raise MalformedCommandError(f"{what}s of a command do not rise")


def stamp(log_time_us: int, command: bytes) -> bytes:
    """Return an entry's payload: `command`'s bytes under the leader's log time (µs since 1970)."""
    return _STAMP_HEAD + log_time_us.to_bytes(8, "big") + command


def open_entry(payload: bytes) -> tuple[int, bytes]:
    """Return an entry's log time (µs since 1970) and its command's bytes, not decoded.

    Raises MalformedCommandError if `payload` is no stamped command.
    """
    if len(payload) <= _STAMP_BYTES or not payload.startswith(_STAMP_HEAD):
        raise MalformedCommandError("an entry is not a log time and a command")
    log_time_us = int.from_bytes(payload[len(_STAMP_HEAD) : _STAMP_BYTES], "big")
    if log_time_us > INTEGER_MAX:
        raise MalformedCommandError(f"an entry's log time is {log_time_us}")
    return log_time_us, payload[_STAMP_BYTES:]
