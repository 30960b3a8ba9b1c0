"""The head of a captured ledger: the shape of everything but what has sections of its own.

Decides which fields there are, their bounds, and how they are read from bytes that may be
anyone's. Leaves what must hold within a part to the module that it is restored in, which
checks its own invariants with `expect`, and the other sections to ``chunk``, ``keys``,
``records`` and ``memories``.

The head is one CBOR array, drawn in docs/reference/ledger.md. What stands before ``rows`` is
the state of which the digest is taken. Its shape goes by the ledger's format: a newer crowd
writes the older shape until an entry has raised the format.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from crowd.codec import unpack
from crowd.command import FORMAT, MEMBERS_MAX, Index, SessionId, Term
from crowd.definition import ConsumerDefinition, KeyBounds, RouteDefinition  # noqa: TC001  msgspec reads them
from crowd.errors import MalformedError, NeedsNewerCrowdError
from crowd.ledger.heard import HEARD_MAX, ORDER_BYTES
from crowd.message import ConsumerId, Position, RouteId
from crowd.value import INTEGER_MAX

ROUTES_MAX: Final = 1_024
"""Routes of a cluster, from all files. A chunk of rows keeps a bit for each."""

CONSUMERS_MAX: Final = 256
"""Consumers of a cluster. Every accepted batch costs a step for each."""

GONE_MAX: Final = 1_024
"""Dismissed consumers that are remembered. Of more, the oldest without letters is forgotten."""

MARKS_MAX: Final = 4_096
"""Marks of when the log had reached which position: 64 KiB, copied in microseconds."""

KEY_SEGMENTS_MAX: Final = 2_048
"""Sealed segments of keys. Five million keys are 1 221 of them, and a few more by time."""

DIGEST_EVERY: Final = 4_096
"""Entries between two digests that are remembered; a digest costs a few milliseconds."""

DIGESTS_KEPT: Final = 4
"""Remembered digests. Nodes within 12 288 entries of one another have one in common."""

_FROM_0: Final = Meta(ge=0, le=INTEGER_MAX)
_FROM_1: Final = Meta(ge=1, le=INTEGER_MAX)
_Amount = Annotated[int, _FROM_0]
_Index = Annotated[Index, _FROM_0]
_Position = Annotated[Position, _FROM_0]
_Id = Annotated[ConsumerId, _FROM_1]
_Target = Annotated[ConsumerId, _FROM_0]
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
# A bit for each route, those from 0 to ROUTES_MAX, in hexadecimal; "-1" is every route.
_Mask = Annotated[str, Meta(pattern="^(-1|[0-9a-f]+)$", max_length=ROUTES_MAX // 4 + 1)]


def expect(*conditions: bool, what: str) -> None:
    """Raise MalformedError, which says `what` is wrong, unless all `conditions` are true."""
    if not all(conditions):
        raise MalformedError(f"a captured ledger's {what} cannot be")


class _Part(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """The shape of all below: in CBOR an array of the fields in their order."""


class MemberPart(_Part, frozen=True):
    """``journal_id`` is empty for a learner, else 16 bytes."""

    name: _Name
    address: Annotated[str, Meta(max_length=255)]
    journal_id: Annotated[bytes, Meta(max_length=16)]
    since: _Index


class MembersPart(_Part, frozen=True):
    """``index`` is that of the last change of members."""

    index: _Index
    members: Annotated[tuple[MemberPart, ...], Meta(max_length=MEMBERS_MAX)]


class AppliedPart(_Part, frozen=True):
    """The entry applied last."""

    index: _Index
    term: Annotated[Term, _FROM_0]
    log_time_us: _Amount


class AcceptedPart(_Part, frozen=True):
    """What all accepted batches come to."""

    tip: _Position
    bytes_total: _Amount
    history: _Bytes32
    refused: _Amount


class ReleasedPart(_Part, frozen=True):
    """Which entries may leave the log, and the last position in them."""

    index: _Index
    beginning: _Position


class SessionPart(_Part, frozen=True):
    """``numbers`` alternate: a proposal's number, its batch's first position.

    ``left_out`` has what `crowd.idempotency.pack_left_out` made, by number, of batches of which
    something was left out.
    """

    id: Annotated[SessionId, _FROM_1]
    node: _Name
    nonce: _Bytes16
    is_open: bool
    low: Annotated[int, _FROM_1]
    numbers: tuple[Annotated[int, _FROM_1], ...]
    left_out: tuple[tuple[_Amount, bytes], ...]


class SessionsPart(_Part, frozen=True):
    """Sessions by rising id, and each node's newest nonces in their order."""

    sessions: Annotated[tuple[SessionPart, ...], Meta(max_length=2 * MEMBERS_MAX)]
    nonces: Annotated[tuple[tuple[_Name, tuple[_Bytes16, ...]], ...], Meta(max_length=MEMBERS_MAX)]


class RoutePart(_Part, frozen=True):
    """``accepted`` counts the messages ever accepted on this route."""

    id: Annotated[RouteId, _FROM_1]
    definition: RouteDefinition
    accepted: _Amount


class ConsumerPart(_Part, frozen=True):
    """``settled`` is `RangeSet.to_bytes`; ``epochs`` are pairs of `after` and a mask."""

    id: _Id
    definition: ConsumerDefinition
    from_position: _Position
    watermark: _Position
    settled: bytes
    paused: bool
    own: _Amount
    done: _Amount
    skipped: _Amount
    backlog_bytes: _Amount
    epochs: Annotated[tuple[tuple[_Amount, _Mask], ...], Meta(min_length=1)]


class GonePart(_Part, frozen=True):
    """A consumer that was dismissed."""

    id: _Id
    name: _Name
    index: _Index
    log_time_us: _Amount
    dropped: _Amount
    dead_for_us: _Amount


class GoneConsumersPart(_Part, frozen=True):
    """``last_consumer`` is the consumer id that was given last; then those that are gone."""

    last_consumer: _Amount
    consumers: Annotated[tuple[GonePart, ...], Meta(max_length=GONE_MAX)]


class LettersPart(_Part, frozen=True):
    """All letters but their records, of which ``digest`` is; those are in so many ``sections``.

    A tally is a consumer and its six counts, a set a consumer, the state of letters of its, the
    target, and the letters' numbers as `RangeSet.to_bytes`.
    """

    last: _Amount
    sections: _Amount
    digest: _Bytes32
    tallies: tuple[tuple[_Id, _Amount, _Amount, _Amount, _Amount, _Amount, _Amount], ...]
    sets: tuple[tuple[_Id, Literal["dead", "parked", "replay"], _Target, bytes], ...]


class KeyTallyPart(_Part, frozen=True):
    """What keys came to."""

    replays: _Amount
    mismatches: _Amount
    evicted: _Amount
    evicted_us: _Amount


class OpenKeysPart(_Part, frozen=True):
    """The segment that is not sealed yet: records, and when the first and the last one came."""

    since_us: _Amount
    last_us: _Amount
    records: bytes


class KeysPart(_Part, frozen=True):
    """All idempotency keys but the sealed segments, of which it has the last time and the hash."""

    bounds: KeyBounds
    tally: KeyTallyPart
    segments: Annotated[tuple[tuple[_Amount, _Bytes32], ...], Meta(max_length=KEY_SEGMENTS_MAX)]
    open: OpenKeysPart


class RowsPart(_Part, frozen=True):
    """``first`` is the lowest position that has a row; the columns are those still open."""

    first: Annotated[Position, _FROM_1]
    indexes: bytes
    firsts: bytes
    routes: bytes
    sizes: bytes
    gaps: bytes


class Head(_Part, frozen=True):
    """Everything but other sections. Strings, lists and numbers lie within their bounds."""

    format: _Amount
    cluster: _Name | None
    tag: Annotated[str, Meta(pattern="^[0-9a-f]{8}$", max_length=8)] | None
    members: MembersPart
    applied: AppliedPart
    accepted: AcceptedPart
    released: ReleasedPart
    sessions: SessionsPart
    routes: Annotated[tuple[RoutePart, ...], Meta(max_length=ROUTES_MAX)]
    consumers: Annotated[tuple[ConsumerPart, ...], Meta(max_length=CONSUMERS_MAX)]
    file_hashes: Annotated[tuple[tuple[_Name, _Bytes32], ...], Meta(max_length=MEMBERS_MAX)]
    gone: GoneConsumersPart
    letters: LettersPart
    memories: Annotated[tuple[tuple[_Id, _Bytes32], ...], Meta(max_length=CONSUMERS_MAX)]
    marks: Annotated[bytes, Meta(max_length=16 * MARKS_MAX)]
    heard: Annotated[bytes, Meta(max_length=ORDER_BYTES * HEARD_MAX)]
    keys: KeysPart
    rows: RowsPart
    digests: Annotated[tuple[tuple[_Index, _Bytes32], ...], Meta(max_length=DIGESTS_KEPT)]


def read_head(section: bytes) -> Head:
    """Return the head that `section` holds, whoever it is from.

    Raises MalformedError if it holds none, and NeedsNewerCrowdError if the ledger that it is
    of has a format that this version does not know.
    """
    fields = unpack(section)
    version = fields[0] if type(fields) is tuple and fields else None
    if type(version) is not int:
        raise MalformedError("a captured ledger does not start with its format")
    if version > FORMAT:
        raise NeedsNewerCrowdError(
            f"a captured ledger of format {version}; this version knows 1-{FORMAT}"
        )
    try:
        head = msgspec.convert(fields, Head)
    except msgspec.ValidationError as error:
        raise MalformedError(f"a captured ledger: {error}") from error
    _check(head)
    return head


def _check(head: Head) -> None:
    """Raise MalformedError for what belongs to no one part."""
    index, released = head.applied.index, head.released
    born = head.tag is not None
    expect(born == (head.cluster is not None) == (head.format > 0), what="birth")
    expect(head.members.index <= index, what="members")
    expect(
        released.index <= index,
        released.index > 0 or released.beginning == 0,
        head.rows.first - 1 <= released.beginning <= head.accepted.tip,
        what="release",
    )
    indexes = [at for at, _ in head.digests]
    expect(
        all(at % DIGEST_EVERY == 0 < at <= index for at in indexes),
        indexes == sorted(indexes),
        what="digests",
    )
