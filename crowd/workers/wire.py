"""What a worker and the engine's process say to each other: typed frames.

Decides the kinds, their fields and bounds. Leaves framing to ``crowd/raft/frames``, the
connection to ``link``, and what follows from a frame to ``station`` (in the worker) and
``worker`` (in the engine's process). A frame is one CBOR array ``[kind, field, ...]`` and each
side takes only the other one's kinds; anything else is refused whole (I6). Both processes run
the same build, as one starts the other, so there is no version.

Messages pass in their stored form, and keys as digests. Neither side looks into them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from crowd.codec import pack, unpack
from crowd.config import Configuration
from crowd.errors import (
    BacklogFullError,
    ConfigurationError,
    DrainingError,
    KeyReusedError,
    MalformedError,
    MalformedFrameError,
    NoQuorumError,
    OutcomeUnknownError,
    RefusedError,
)
from crowd.idempotency import DIGESTS_BYTES, is_keyed
from crowd.kinds import WORKERS_MAX
from crowd.message import ConsumerId, Position, RouteId
from crowd.raft.frames import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

NUMBER_MAX: Final = 2**63 - 1
OFFER_MESSAGES_MAX: Final = 4096
"""As many as the proposer puts into one entry: decoding them is some 5 ms of its turn."""

REASON_LENGTH_MAX: Final = 1024
"""What a refusal says to a producer; the longest names every consumer of a route."""

SAMPLES_MAX: Final = 256
"""Samples in one tally. An ingress counts some fifty."""

WITHIN_MS_MAX: Final = 3_600_000
"""Far above what a route lets a producer wait."""

CONFIGURATION_BYTES_MAX: Final = FRAME_BYTES_MAX - (1 << 20)
"""What one frame holds, with room for the rest of it."""

FILES_MAX: Final = 3
"""A certificate, its key, and an authority."""

COMPLAINT_LENGTH_MAX: Final = 160
"""A decoder's complaint may repeat what was received; more of it than this is in no log line."""

Number = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
_Counted = Annotated[int, Meta(ge=1, le=NUMBER_MAX)]
_Place = Annotated[int, Meta(ge=0, lt=OFFER_MESSAGES_MAX)]
_Count = Annotated[int, Meta(ge=1, le=OFFER_MESSAGES_MAX)]
_Position = Annotated[Position, Meta(ge=1, le=NUMBER_MAX)]
_RouteId = Annotated[RouteId, Meta(ge=1, le=NUMBER_MAX)]


class Offer(
    msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True, gc=False
):
    """From a worker: messages for the log, each with its route, and groups of them.

    ``batch`` counts its offers from 1. What is in it waited for ``waited_us`` in the worker.

    A place is one message, or one group: ``counts`` has each place's messages, 0 for one that is no
    group, and is empty if all are none. ``keys`` has a message's digests or a group's keys, as
    `crowd.idempotency` packs them, and is empty if nothing has a key.
    """

    batch: _Counted
    waited_us: Number
    routes: Annotated[tuple[_RouteId, ...], Meta(min_length=1, max_length=OFFER_MESSAGES_MAX)]
    messages: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=OFFER_MESSAGES_MAX)]
    counts: tuple[Annotated[int, Meta(ge=0, le=OFFER_MESSAGES_MAX)], ...] = ()
    keys: tuple[bytes, ...] = ()


class Look(
    msgspec.Struct, frozen=True, array_like=True, tag=3, forbid_unknown_fields=True, gc=False
):
    """From a worker: where does the message at ``position`` stand? Answered by `Found`.

    ``number`` counts a worker's questions, of both kinds, from 1.
    """

    number: _Counted
    position: _Position


class Await(
    msgspec.Struct, frozen=True, array_like=True, tag=4, forbid_unknown_fields=True, gc=False
):
    """From a worker: what does ``consumer`` say to the message at ``position``? `Ended` answers."""

    number: _Counted
    position: _Position
    consumer: Annotated[ConsumerId, Meta(ge=1, le=NUMBER_MAX)]
    within_ms: Annotated[int, Meta(ge=0, le=WITHIN_MS_MAX)]


class Leave(
    msgspec.Struct, frozen=True, array_like=True, tag=5, forbid_unknown_fields=True, gc=False
):
    """From a worker: whoever waited with the `Await` of this ``number`` is gone. Nothing answers."""

    number: _Counted


class Tally(
    msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True, gc=False
):
    """From a worker, once a second: its ingress's metrics, by their samples' names.

    The first one says that it takes requests now.
    """

    samples: Annotated[
        tuple[tuple[Annotated[str, Meta(max_length=256)], Annotated[float, Meta(ge=0)]], ...],
        Meta(max_length=SAMPLES_MAX),
    ]


_Files = Annotated[tuple[tuple[str, bytes], ...], Meta(max_length=FILES_MAX)]


class Configure(
    msgspec.Struct, frozen=True, array_like=True, tag=16, forbid_unknown_fields=True, gc=False
):
    """To a worker: the node's configuration, first of all and whenever it is read again.

    The worker is one of ``workers``, which share the node's bounds, and the node's name in reads
    that pass through is ``through``. ``files`` are as those of `Renew`. See `configuration_of`.
    """

    workers: Annotated[int, Meta(ge=1, le=WORKERS_MAX)]
    through: Annotated[bytes, Meta(max_length=64)]
    configuration: bytes
    files: _Files = ()

    def __repr__(self) -> str:
        return "Configure(...)"  # not the key


class Renew(
    msgspec.Struct, frozen=True, array_like=True, tag=25, forbid_unknown_fields=True, gc=False
):
    """To a worker: other files of producers' TLS are in use now, each with its path.

    A private key is among them.
    """

    files: _Files

    def __repr__(self) -> str:
        return "Renew(...)"


class Refusal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """An error that a producer is to hear; ``kind`` is its class's number in `ERRORS`."""

    kind: Number
    reason: Annotated[str, Meta(max_length=REASON_LENGTH_MAX)]
    retry_after_s: Number


class State(
    msgspec.Struct, frozen=True, array_like=True, tag=17, forbid_unknown_fields=True, gc=False
):
    """To a worker, when it changes: what of the engine's state an ingress needs.

    Of those routes that the ledger has: path, id, and the consumer that its producers may wait
    for, 0 if there is none; and what is refused now, on all routes or on some. The engine decides
    again about what is offered.
    """

    cluster_tag: str | None
    routes: tuple[tuple[str, _RouteId, Number], ...]
    refusal: Refusal | None
    refusals: tuple[tuple[_RouteId, Refusal], ...]


class Accepted(
    msgspec.Struct, frozen=True, array_like=True, tag=18, forbid_unknown_fields=True, gc=False
):
    """To a worker: ``count`` messages of a batch, from ``place`` on, are safe (I1).

    None of them is a group. Their positions are ``position`` and those that follow it.
    """

    batch: _Counted
    place: _Place
    count: _Count
    position: _Position


class Known(
    msgspec.Struct, frozen=True, array_like=True, tag=21, forbid_unknown_fields=True, gc=False
):
    """To a worker: the message at ``place`` was not stored, as its key's first is at ``position``."""

    batch: _Counted
    place: _Place
    position: _Position


class Together(
    msgspec.Struct, frozen=True, array_like=True, tag=22, forbid_unknown_fields=True, gc=False
):
    """To a worker: what became of the group at ``place``, as `crowd.idempotency.Grouped` says it."""

    batch: _Counted
    place: _Place
    first: _Position
    count: _Count
    replayed: Annotated[
        tuple[tuple[_Place, _Count, _Position], ...], Meta(max_length=OFFER_MESSAGES_MAX)
    ]


class Refused(
    msgspec.Struct, frozen=True, array_like=True, tag=19, forbid_unknown_fields=True, gc=False
):
    """To a worker: ``count`` messages of a batch, from ``place`` on, got an error."""

    batch: _Counted
    place: _Place
    count: _Count
    refusal: Refusal


class Drain(
    msgspec.Struct, frozen=True, array_like=True, tag=20, forbid_unknown_fields=True, gc=False
):
    """To a worker: take no more, answer what is under way, and end."""


class Found(
    msgspec.Struct, frozen=True, array_like=True, tag=23, forbid_unknown_fields=True, gc=False
):
    """To a worker: where the message stands that it asked for with ``number``.

    ``consumers`` are names, states and failed attempts. Without a route the message was not found,
    and ``state`` says why, as a `crowd.web.messages.Absence`.
    """

    number: _Counted
    route: str | None
    state: str
    consumers: tuple[tuple[str, str, Number], ...]


class Ended(
    msgspec.Struct, frozen=True, array_like=True, tag=24, forbid_unknown_fields=True, gc=False
):
    """To a worker: how the wait ended that it asked for with ``number``.

    It is an answer as `crowd.delivery.awaited.Ending` has it; ``unknown`` is none in time.
    """

    number: _Counted
    state: Literal["delivered", "dead", "settled", "unknown"]
    status: Annotated[int, Meta(ge=0, le=999)]
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


FromWorker: TypeAlias = Offer | Tally | Look | Await | Leave
ToWorker: TypeAlias = (
    Configure | Renew | State | Accepted | Known | Together | Refused | Drain | Found | Ended
)

PassingError: TypeAlias = RefusedError | OutcomeUnknownError | KeyReusedError

ERRORS: Final[tuple[type[RefusedError | OutcomeUnknownError], ...]] = (
    RefusedError, NoQuorumError, BacklogFullError, DrainingError, OutcomeUnknownError,
)  # fmt: skip
"""The errors that pass, by their numbers here."""

KEY_REUSED: Final = len(ERRORS)
"""The number of `KeyReusedError`, which passes too and is not to be tried again."""

_PLAIN: Final = (bytes,)  # byte strings: they pass as they are, not as base64 text
_KINDS_FROM: Final[dict[Any, Any]] = {k.__struct_config__.tag: k for k in get_args(FromWorker)}
_KINDS_TO: Final[dict[Any, Any]] = {k.__struct_config__.tag: k for k in get_args(ToWorker)}


def encode(frame: FromWorker | ToWorker) -> bytes:
    """Return the frame's CBOR. It must be one that the other side would take."""
    return pack(msgspec.to_builtins(frame, builtin_types=_PLAIN))


def decode_from_worker(data: bytes) -> FromWorker:
    """Return what a worker said; raise MalformedFrameError if it is anything else."""
    frame: FromWorker = _decode(data, _KINDS_FROM)
    if type(frame) is Offer:
        _check(frame)
    return frame


def _check(offer: Offer) -> None:
    """Raise MalformedFrameError if what an offer says of its places does not fit together."""
    places, counts, keys = len(offer.routes), offer.counts, offer.keys
    if len(counts) not in (0, places) or len(keys) not in (0, places):
        raise MalformedFrameError(f"{len(counts)} counts and {len(keys)} keys for {places} places")
    messages = sum([count or 1 for count in counts]) if counts else places
    if messages != len(offer.messages):
        raise MalformedFrameError(f"found {len(offer.messages)} messages; expected {messages}")
    for place, packed in enumerate(keys):
        if not packed:
            continue
        count = counts[place] if counts else 0
        is_sound = is_keyed(packed, count) if count else len(packed) == DIGESTS_BYTES
        if not is_sound:
            raise MalformedFrameError("keys that are none")


def decode_to_worker(data: bytes) -> ToWorker:
    """Return what the engine's process said; raise MalformedFrameError if it is anything else."""
    frame: ToWorker = _decode(data, _KINDS_TO)
    return frame


def _decode(data: bytes, kinds: dict[Any, Any]) -> Any:
    try:
        value: Any = unpack(data)
        kind = kinds[value[0]]
        return msgspec.convert(value, kind, builtin_types=_PLAIN)
    except MalformedError as error:
        raise MalformedFrameError(f"not a frame: {_bounded(error)}") from error
    except msgspec.ValidationError as error:
        raise MalformedFrameError(f"no {kind.__name__}: {_bounded(error)}") from error
    except (LookupError, TypeError):
        raise MalformedFrameError("not a frame of a known kind") from None


def _bounded(error: Exception) -> str:
    return str(error)[:COMPLAINT_LENGTH_MAX]


def refusal_of(error: BaseException) -> Refusal:
    """Return what of an error passes. One that is none of these leaves the outcome unknown.

    The special classes stand behind the general ones there, so the last that fits decides.
    """
    if isinstance(error, KeyReusedError):
        return Refusal(KEY_REUSED, str(error)[:REASON_LENGTH_MAX], 0)
    for kind, known in reversed(list(enumerate(ERRORS))):
        if isinstance(error, known):
            return Refusal(kind, error.reason[:REASON_LENGTH_MAX], error.retry_after_s)
    unknown = "the engine failed; its log says how. The message may be stored"
    return Refusal(ERRORS.index(OutcomeUnknownError), unknown, 1)


def error_of(refusal: Refusal) -> PassingError:
    """Return the error that passed; raise MalformedFrameError if there is no such kind."""
    if refusal.kind == KEY_REUSED:
        return KeyReusedError(refusal.reason)
    if refusal.kind >= len(ERRORS):
        raise MalformedFrameError(f"found an error of kind {refusal.kind}; expected a known one")
    return ERRORS[refusal.kind](refusal.reason, retry_after_s=refusal.retry_after_s)


def configure(
    configuration: Configuration, workers: int, through: bytes, files: Mapping[str, bytes]
) -> Configure:
    """Return the frame that brings `configuration` to one of so many workers.

    Raises ConfigurationError for one that no frame holds.
    """
    frame = Configure(
        workers, through, msgspec.json.encode(configuration), tuple(sorted(files.items()))
    )
    size_bytes = len(frame.configuration) + sum(map(len, files.values()))
    if size_bytes > CONFIGURATION_BYTES_MAX:
        words = f"found {size_bytes} bytes of it, schemas included; expected"
        bound = f"{words} {CONFIGURATION_BYTES_MAX} at most, as workers are told all of it"
        raise ConfigurationError((f"node.workers: {bound}",))
    return frame


def configuration_of(frame: Configure) -> Configuration:
    """Return the configuration in a frame; raise MalformedFrameError if there is none.

    JSON, as it has a table in it, which the codec does not take. The engine's process has
    checked it already; secrets are named in it, and not held.
    """
    try:
        return msgspec.json.decode(frame.configuration, type=Configuration)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedFrameError(f"no configuration: {_bounded(error)}") from error
