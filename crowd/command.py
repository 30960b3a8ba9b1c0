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

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NewType, TypeAlias, get_args

import msgspec
from msgspec import Meta

from crowd.codec import pack, unpack
from crowd.definition import DEFINITIONS_MAX, ConsumerDefinition, KeyBounds, RouteDefinition
from crowd.errors import MalformedCommandError, MalformedError, NeedsNewerCrowdError
from crowd.idempotency import KEYED_BYTES, is_keyed
from crowd.message import ConsumerId, Position, RouteId
from crowd.value import INTEGER_MAX, Amount, Bytes16, Bytes32, Counted, Name, Value

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

MESSAGES_MAX: Final = 16_384
"""Messages in one `Accept`. An entry of 1 MiB holds fewer of any real size (64 bytes each)."""

PROPOSALS_MAX: Final = 1_024
"""How far `Accept.number` may be above `Accept.low`. A node has a few proposals in flight;
this bounds what a ledger remembers of one session, whatever its proposer does."""

RANGES_MAX: Final = 16_384
"""Ranges in one `Settle`. The dispatcher settles about 500 outcomes at a time."""

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
_Address = Annotated[str, Meta(max_length=255)]
_Tag = Annotated[str, Meta(pattern="^[0-9a-f]{8}$", max_length=8)]
_Range = tuple[_Position, _Position]


class Member(Value, frozen=True):
    """A voting member. ``journal_id`` (16 bytes) was drawn when its directory was made.

    ``address`` is where its peers find it, as ``host:port``; empty for a node without peers.
    """

    name: Name
    address: _Address
    journal_id: Bytes16


class Birth(Value, frozen=True, tag=1):
    """The first command of a cluster's log: who it is. ``tag`` is in every message's id."""

    cluster: Name
    tag: _Tag
    members: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]
    format: Counted


class OpenSession(Value, frozen=True, tag=2):
    """Open a proposal session for a node and close its older ones.

    The session's id is this entry's index. ``nonce`` (16 random bytes) makes a repeated
    proposal of the same opening recognisable.
    """

    node: Name
    nonce: Bytes16


class Accept(Value, frozen=True, tag=3):
    """Accept a batch: messages in their stored form, with one route each.

    ``number`` counts a session's proposals from 1. ``low`` is the lowest number whose fate
    its proposer still wants to know; ``low <= number < low + PROPOSALS_MAX``. ``keys`` says
    which messages have an idempotency key, packed as in ``crowd/idempotency``.
    """

    session: _SessionId
    number: Counted
    low: Counted
    routes: Annotated[tuple[_RouteId, ...], Meta(min_length=1, max_length=MESSAGES_MAX)]
    messages: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=MESSAGES_MAX)]
    keys: Annotated[bytes, Meta(max_length=KEYED_BYTES * MESSAGES_MAX)] = b""


class Settle(Value, frozen=True, tag=4):
    """These messages are done with for this consumer: inclusive ranges, rising and disjoint."""

    consumer: _ConsumerId
    ranges: Annotated[tuple[_Range, ...], Meta(min_length=1, max_length=RANGES_MAX)]


NO_FILE: Final = bytes(32)
"""In place of a file's hash: an operator's own definitions, which stand in no file."""


class Define(Value, frozen=True, tag=5):
    """One node's configuration file: its routes, consumers and bounds, and their SHA-256.

    ``keys`` of None leave the bounds of idempotency keys as they are. With `NO_FILE` as its hash
    it is an operator's order: what `node`'s file last brought stays remembered, so that a node
    that starts again with that file undoes nothing.
    """

    node: Name
    file_hash: Bytes32
    routes: Annotated[tuple[RouteDefinition, ...], Meta(max_length=DEFINITIONS_MAX)]
    consumers: Annotated[tuple[ConsumerDefinition, ...], Meta(max_length=DEFINITIONS_MAX)]
    keys: KeyBounds | None = None


class Promote(Value, frozen=True, tag=6):
    """A learner that has everything votes from here on, with this journal.

    ``after``, here and in the next three, is the index of the change of members that the
    proposer saw last: a change that another one overtook has no effect.
    """

    name: Name
    journal_id: Bytes16
    after: _Index


class Control(Value, frozen=True, tag=7):
    """An operator's order about one consumer."""

    consumer: _ConsumerId
    action: Literal["pause", "resume"]


class RaiseFormat(Value, frozen=True, tag=8):
    """From here on the ledger's state has this version; every member's hello supports it."""

    version: Counted


class Enroll(Value, frozen=True, tag=9):
    """A new member, as a learner; or another address for one that is there."""

    name: Name
    address: _Address
    after: _Index


class Demote(Value, frozen=True, tag=10):
    """A voter is a learner from here on: its journal is gone, and with it what it promised."""

    name: Name
    after: _Index


class Expel(Value, frozen=True, tag=11):
    """A member is none any more."""

    name: Name
    after: _Index


class Release(Value, frozen=True, tag=12):
    """Entries up to ``floor`` may leave every node's log: no consumer needs them any more."""

    floor: _Index


class Burial(Value, frozen=True):
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
    attempts: Amount
    first_us: Amount
    last_us: Amount
    message: Annotated[bytes, Meta(min_length=1)]


class Bury(Value, frozen=True, tag=13):
    """Messages of one consumer become letters: settled for it, kept with their bytes.

    Those of them that are letters already waited for ``target``, which gives them up; 0 stands
    for ``consumer`` itself.
    """

    consumer: _ConsumerId
    letters: Annotated[tuple[Burial, ...], Meta(min_length=1, max_length=LETTERS_MAX)]
    target: Amount = 0


class Conclude(Value, frozen=True, tag=14):
    """These letters were delivered to `consumer`: rising numbers, which the ledger gave them.

    Those that wait for another one by now go on waiting.
    """

    consumer: _ConsumerId
    letters: Annotated[tuple[Counted, ...], Meta(min_length=1, max_length=LETTERS_MAX)]


class Replay(Value, frozen=True, tag=15):
    """These letters are to be delivered again, to `consumer`: rising numbers."""

    consumer: _ConsumerId
    letters: Annotated[tuple[Counted, ...], Meta(min_length=1, max_length=LETTERS_MAX)]


class Purge(Value, frozen=True, tag=16):
    """These letters are given up for good: rising numbers. ``reason`` is told of them."""

    reason: Literal["operator", "age"]
    letters: Annotated[tuple[Counted, ...], Meta(min_length=1, max_length=LETTERS_MAX)]


class Trial(Value, frozen=True):
    """A message that failed and waits: its ``attempts`` so far, and when the next one is due.

    ``letter`` is a letter's number, or 0 for the message at ``position``. ``spared`` of the
    attempts do not count towards a bound. ``aged_us`` is what the consumer's own was at the
    first attempt: the message's age is the difference.
    """

    position: _Position
    letter: Amount
    attempts: Counted
    first_us: Amount
    due_us: Amount
    spared: Amount = 0
    aged_us: Amount = 0


class Remember(Value, frozen=True, tag=17):
    """What the leader knows of one consumer's delivery, in place of what it said before.

    ``opened`` counts the breaker's waits in a row, 0 while it is closed; attempts begin again
    at ``held_until_us``. ``aged_us`` is how long the consumer answered, of all the time since
    it began. Times are the log's. Trials rise by position and letter.
    """

    consumer: _ConsumerId
    opened: Amount
    held_until_us: Amount
    aged_us: Amount
    trials: Annotated[tuple[Trial, ...], Meta(max_length=TRIALS_MAX)]


class Dismiss(Value, frozen=True, tag=18):
    """A consumer is none any more.

    ``backlog`` says what happens to what it was not delivered: ``drop`` counts it as dropped,
    ``refuse`` has no effect while there is any. Its letters stay.
    """

    consumer: _ConsumerId
    backlog: Literal["drop", "refuse"]


class Skip(Value, frozen=True, tag=19):
    """All of a consumer's messages up to ``through`` are settled: skipped, and counted so."""

    consumer: _ConsumerId
    through: _Position


class Once(Value, frozen=True, tag=20):
    """An operator's order: what it asks for has its effect the first time only.

    ``order`` is its name, 16 random bytes. It may be offered, and be in the log, any number of times.
    """

    order: Bytes16
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
_KINDS: Final[dict[object, type[Command]]] = {
    kind.__struct_config__.tag: kind for kind in get_args(Command)
}
_KIND_MAX: Final = len(_KINDS)

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
        # By its kind: msgspec looks at all of a union anew each time, which takes 35 us.
        command = msgspec.convert(fields, _KINDS[kind])
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
        if command.keys and not is_keyed(command.keys, len(command.messages)):
            raise MalformedCommandError("keys of a batch that are not those of its messages")
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


def stamp(log_time_us: int) -> bytes:
    """Return what stands before a command's bytes in an entry: the leader's log time (µs since 1970)."""
    return _STAMP_HEAD + log_time_us.to_bytes(8, "big")


def open_entry(entry: bytes, start: int = 0) -> tuple[int, bytes]:
    """Return an entry's log time (µs since 1970) and its command's bytes, not decoded.

    Both begin at `start`. Raises MalformedCommandError if there is no stamped command.
    """
    begin = start + _STAMP_BYTES
    if len(entry) <= begin or not entry.startswith(_STAMP_HEAD, start):
        raise MalformedCommandError("an entry is not a log time and a command")
    log_time_us = int.from_bytes(entry[start + len(_STAMP_HEAD) : begin], "big")
    if log_time_us > INTEGER_MAX:
        raise MalformedCommandError(f"an entry's log time is {log_time_us}")
    return log_time_us, entry[begin:]
