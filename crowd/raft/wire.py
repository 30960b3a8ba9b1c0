"""What peers say to each other: typed messages, and the hello that comes before them.

Decides the kinds, their fields and bounds, and whether two hellos fit. Leaves framing to
``frames``, connections to ``links``, and the meaning of Raft's messages to the engine. A
message is one CBOR array ``[kind, field, ...]``; what does not decode to exactly one of
the kinds below is refused whole, so nothing past this module looks at raw values (I6).

The first five kinds are those of the Raft paper (figure 2, and section 3.10 of Ongaro's
dissertation for ``TimeoutNow``) in the shape that pysyncobj gives them; pre-vote is
section 9.6 of the dissertation. ``docs/reference/peer-protocol.md`` has every field.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from crowd.codec import pack, unpack
from crowd.errors import MalformedError, MalformedFrameError, PeerRejectedError

PROTOCOL: Final = 1
"""The version of everything in this module; two versions do not talk to each other."""

MAGIC: Final = "crowd-peer"
"""A hello's first field, so that a connection to the wrong port says so."""

NUMBER_MAX: Final = 2**63 - 1
"""No term, index or stamp is larger: an index is 8 bytes in the journal, and stays signed."""

JOURNAL_ID_BYTES: Final = 16
ROSTER_MEMBERS_MAX: Final = 32
"""Raft clusters have 3 to 7 members; learners and a margin fit in 32."""

NAME_LENGTH_MAX: Final = 63
"""A node's name is a DNS label (RFC 1035, 2.3.4), as it stands in its certificate."""

FOUNDING_BYTES_MAX: Final = 16 * 1024
"""32 members of 63 + 16 bytes need 3 KiB."""

SNAPSHOT_PIECE_BYTES_MAX: Final = 256 * 1024
"""A piece is a millisecond of a disk, and four of them are under way at most."""

WITHIN_MS_MAX: Final = 60_000
"""The longest that a producer may wait for a consumer's answer (`crowd.policy_kinds.WAIT`)."""

ANSWER_FIELDS_MAX: Final = 256
ANSWER_BYTES_MAX: Final = 64 << 10
"""What is passed back of a consumer's answer (`crowd.delivery.awaited`)."""

REASON_LENGTH_MAX: Final = 160
"""A decoder's complaint may repeat what a peer sent; more of it than this is in no log line."""

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Number = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)]


class AppendEntries(
    msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True, gc=False
):
    """The leader's entries after (`prev_index`, `prev_term`), or its heartbeat without any.

    Each entry is (command, index, term); indices follow `prev_index` without a gap and
    terms never fall. `stamp` is the leader's, and comes back in the answer.
    """

    term: Number
    commit_index: Number
    prev_index: Number
    prev_term: Number
    stamp: Number
    entries: tuple[tuple[bytes, Number, Number], ...]


class NextIndex(
    msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True, gc=False
):
    """A follower's answer to AppendEntries: where the leader should go on, and its `stamp`.

    `roster` is the index of the last change of members that is on the follower's disk, and
    `whole` says that it has the bytes of every letter of its ledger.
    """

    term: Number
    next_index: Number
    success: bool
    reset: bool
    stamp: Number
    roster: Number
    whole: bool


class RequestVote(
    msgspec.Struct, frozen=True, array_like=True, tag=3, forbid_unknown_fields=True, gc=False
):
    """A candidate asks for a vote in `term`; its log ends at (`last_index`, `last_term`).

    `roster` is the index of the last change of members that it counts by.
    """

    term: Number
    last_index: Number
    last_term: Number
    roster: Number


class ResponseVote(
    msgspec.Struct, frozen=True, array_like=True, tag=4, forbid_unknown_fields=True, gc=False
):
    """A vote given in `term`. A vote refused is not sent, as in pysyncobj."""

    term: Number


class TimeoutNow(
    msgspec.Struct, frozen=True, array_like=True, tag=5, forbid_unknown_fields=True, gc=False
):
    """The leader of `term` hands over: the receiver stands for election at once."""

    term: Number


class PreVote(
    msgspec.Struct, frozen=True, array_like=True, tag=6, forbid_unknown_fields=True, gc=False
):
    """Would the receiver vote for the sender in `term`? Changes nothing on either side."""

    term: Number
    last_index: Number
    last_term: Number
    roster: Number


class PreVoteAnswer(
    msgspec.Struct, frozen=True, array_like=True, tag=7, forbid_unknown_fields=True, gc=False
):
    """The answer to a PreVote for `term`.

    All up to the entry (`commit_index`, `commit_term`) is committed: one whose log has that
    entry may believe it, and so learns of a change of members that it has not applied yet.
    """

    term: Number
    granted: bool
    commit_index: Number
    commit_term: Number


class Offer(
    msgspec.Struct, frozen=True, array_like=True, tag=8, forbid_unknown_fields=True, gc=False
):
    """A node offers the leader a command for the log. No answer: the ledger is the answer."""

    command: bytes


class SnapshotPiece(
    msgspec.Struct, frozen=True, array_like=True, tag=16, forbid_unknown_fields=True, gc=False
):
    """A piece of the leader's checkpoint at (`index`, `index_term`), for one too far behind.

    The checkpoint is known by `digest`, the SHA-256 that its `total` bytes end with; `data`
    stands at `offset` in them, and does not reach beyond them.
    """

    term: Number
    index: Number
    index_term: Number
    digest: Digest
    total: Number
    offset: Number
    data: Annotated[bytes, Meta(min_length=1, max_length=SNAPSHOT_PIECE_BYTES_MAX)]


class SnapshotWanted(
    msgspec.Struct, frozen=True, array_like=True, tag=17, forbid_unknown_fields=True, gc=False
):
    """What the receiver of a snapshot has up to `offset`, on its disk or on the way there."""

    term: Number
    digest: Digest
    offset: Number


class Fetch(
    msgspec.Struct, frozen=True, array_like=True, tag=18, forbid_unknown_fields=True, gc=False
):
    """A request for the receiver's copy of a committed entry; the sender's own is damaged."""

    index: Number


class Fetched(
    msgspec.Struct, frozen=True, array_like=True, tag=19, forbid_unknown_fields=True, gc=False
):
    """The committed entry at `index` that was asked for."""

    command: bytes
    index: Number
    term: Number


class FetchLetter(
    msgspec.Struct, frozen=True, array_like=True, tag=20, forbid_unknown_fields=True, gc=False
):
    """A request for the bytes of a letter, which the sender lacks; `sha256` is their hash."""

    number: Number
    sha256: Digest


class LetterFetched(
    msgspec.Struct, frozen=True, array_like=True, tag=21, forbid_unknown_fields=True, gc=False
):
    """The bytes of the letter that was asked for; none if the sender does not have them."""

    number: Number
    message: bytes


class Await(
    msgspec.Struct, frozen=True, array_like=True, tag=32, forbid_unknown_fields=True, gc=False
):
    """A producer of the sender's waits for what `consumer` answers to the message at `position`.

    For `within_ms` from now on. Clocks differ, so it is no time of day. With 0 none waits any more.
    """

    position: Number
    consumer: Number
    within_ms: Annotated[int, Meta(ge=0, le=WITHIN_MS_MAX)]


class AwaitEnded(
    msgspec.Struct, frozen=True, array_like=True, tag=33, forbid_unknown_fields=True, gc=False
):
    """How the message that was asked for ended: ``delivered``, ``dead``, ``settled``, or ``unknown``.

    `status` is 0 where no answer of the consumer's is passed back, and the rest is empty then.
    """

    position: Number
    consumer: Number
    state: Literal["delivered", "dead", "settled", "unknown"]
    status: Annotated[int, Meta(ge=0, le=999)]
    headers: Annotated[tuple[tuple[bytes, bytes], ...], Meta(max_length=ANSWER_FIELDS_MAX)]
    body: Annotated[bytes, Meta(max_length=ANSWER_BYTES_MAX)]


PeerMessage = (
    AppendEntries
    | NextIndex
    | RequestVote
    | ResponseVote
    | TimeoutNow
    | PreVote
    | PreVoteAnswer
    | Offer
    | SnapshotPiece
    | SnapshotWanted
    | Fetch
    | Fetched
    | FetchLetter
    | LetterFetched
    | Await
    | AwaitEnded
)
"""Every kind of message between two peers that said hello."""

_KINDS: Final[dict[Any, type[PeerMessage]]] = {
    kind.__struct_config__.tag: kind for kind in get_args(PeerMessage)
}


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first frame in each direction: who the sender is, and what it knows of the cluster.

    `format` is the newest ledger format that the sender can apply. `roster` holds the
    sorted names of all members, the sender among them, as of the change of members at index
    `roster_index`; before birth that is 0, and they are the configured ones. `founding` is
    the sender's durable record of the members, opaque here, ``b""`` while there is none.
    `empty` says that its journal holds nothing yet.
    """

    protocol: Number
    format: Number
    cluster: Name
    node: Name
    journal_id: Annotated[bytes, Meta(min_length=JOURNAL_ID_BYTES, max_length=JOURNAL_ID_BYTES)]
    roster: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=ROSTER_MEMBERS_MAX)]
    roster_index: Number
    founding: Annotated[bytes, Meta(max_length=FOUNDING_BYTES_MAX)]
    empty: bool


_PLAIN = (bytes,)  # CBOR has byte strings: they pass as they are, not as base64 text


def encode_peer_message(message: PeerMessage) -> bytes:
    """Return the message's CBOR. It must be one that `decode_peer_message` would take."""
    return pack(msgspec.to_builtins(message, builtin_types=_PLAIN))


def decode_peer_message(data: bytes) -> PeerMessage:
    """Return the message in `data`; raise MalformedFrameError if it is anything else.

    The error says in words what is wrong, for a log line.
    """
    try:
        value: Any = unpack(data)
        # The kind is looked up here: msgspec takes 6 us more a message to do it by a union.
        kind = _KINDS[value[0]]
        message = msgspec.convert(value, kind, builtin_types=_PLAIN)
    except MalformedError as error:
        raise MalformedFrameError(f"not a peer's message: {_bounded(error)}") from error
    except msgspec.ValidationError as error:
        raise MalformedFrameError(f"no {kind.__name__}: {_bounded(error)}") from error
    except (LookupError, TypeError):
        raise MalformedFrameError(f"not a peer's message: {_unknown(value)}") from None
    if type(message) is AppendEntries:
        _check_entries(message)
    elif type(message) is SnapshotPiece and message.offset + len(message.data) > message.total:
        end = message.offset + len(message.data)
        raise MalformedFrameError(f"a piece of a snapshot up to {end} of its {message.total} bytes")
    return message


def _bounded(error: Exception) -> str:
    return str(error)[:REASON_LENGTH_MAX]


def _unknown(value: Any) -> str:
    """Say what `value`, which is no message of a known kind, is instead."""
    if type(value) is not tuple:
        return f"{type(value).__name__} where an array with a kind belongs"
    if not value:
        return "an empty array"
    kind = value[0]
    if type(kind) is str:
        # Most likely a hello where none belongs: its first field is worth seeing.
        return f"found kind {kind[:NAME_LENGTH_MAX]!r}; expected a number"
    if type(kind) is int:
        return f"found kind {kind}; expected a known one"
    return f"a kind of {type(kind).__name__}; expected a number"


def _check_entries(message: AppendEntries) -> None:
    """Raise MalformedFrameError unless indices follow one another and terms never fall."""
    index, term = message.prev_index, 0
    for _, entry_index, entry_term in message.entries:
        index += 1
        if entry_index != index:
            raise MalformedFrameError(f"entry {entry_index} where {index} belongs")
        if not term <= entry_term <= message.term:
            raise MalformedFrameError(
                f"entry {index} has term {entry_term}, expected {term} to {message.term}"
            )
        term = entry_term


def encode_hello(hello: Hello) -> bytes:
    """Return the hello's CBOR: the magic, then its fields."""
    return pack([MAGIC, *msgspec.to_builtins(hello, builtin_types=_PLAIN)])


def decode_hello(data: bytes) -> Hello:
    """Return the hello in `data`.

    Raises MalformedFrameError if it is none, and PeerRejectedError if it is one of another
    protocol version, whose other fields may be anything.
    """
    try:
        value: Any = unpack(data)
    except MalformedError as error:
        raise MalformedFrameError(f"not a hello: {_bounded(error)}") from error
    if type(value) is not tuple or value[:1] != (MAGIC,):
        raise MalformedFrameError(f"not a hello: it does not begin with {MAGIC!r}")
    if type(version := value[1] if len(value) > 1 else None) is int and version != PROTOCOL:
        raise PeerRejectedError(f"found protocol version {version}; expected {PROTOCOL}")
    try:
        return msgspec.convert(value[1:], Hello, builtin_types=_PLAIN)
    except msgspec.ValidationError as error:
        raise MalformedFrameError(f"not a hello: {_bounded(error)}") from error


def objection(own: Hello, found: Hello, name: str) -> str | None:
    """Return why a node with hello `own` must not talk to `found`, or None.

    `name` is the peer's name, proved by its certificate. Both sides decide alike, as the
    comparison is symmetric, so both logs say why. The members may differ only while one of
    the two has not heard of the last change of them, and is still a member itself. The other
    one need not be: in a cluster of two, who was expelled is the only one that can tell the
    last member so. Differing formats, journal ids and foundings are no objection here: the
    engine decides what follows from them.
    """
    checks = (
        ("node name", found.node, name),
        ("cluster", found.cluster, own.cluster),
        ("protocol version", found.protocol, own.protocol),
    )
    for what, theirs, ours in checks:
        if theirs != ours:
            return f"found {what} {theirs!r}; expected {ours!r}"
    if found.roster_index == own.roster_index:
        if found.roster != own.roster:
            return f"found roster {' '.join(found.roster)!r}; expected {' '.join(own.roster)!r}"
        members, asked = own.roster, tuple(sorted((own.node, found.node)))
    elif found.roster_index > own.roster_index:
        members, asked = found.roster, (own.node,)
    else:
        members, asked = own.roster, (found.node,)
    for node in asked:
        if node not in members:
            return f"{node} is not among the members {' '.join(members)!r}"
    return None
