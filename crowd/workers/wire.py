"""What a worker and the engine's process say to each other: typed frames.

Decides the kinds, their fields and bounds. Leaves framing to ``crowd/raft/frames``, the
connection to ``link``, and what follows from a frame to ``station`` (in the worker) and
``worker`` (in the engine's process). A frame is one CBOR array ``[kind, field, ...]`` and each
side takes only the other one's kinds; anything else is refused whole (I6). Both processes run
the same build, as one starts the other, so there is no version.

Messages pass in their stored form. Neither side looks into it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias, get_args

import msgspec
from msgspec import Meta

from crowd.codec import pack, unpack
from crowd.config import Configuration
from crowd.errors import (
    BacklogFullError,
    DrainingError,
    MalformedError,
    MalformedFrameError,
    NoQuorumError,
    OutcomeUnknownError,
    RefusedError,
)
from crowd.kinds import WORKERS_MAX
from crowd.message import Position, RouteId

NUMBER_MAX: Final = 2**63 - 1
OFFER_MESSAGES_MAX: Final = 4096
"""As many as the proposer puts into one entry: decoding them is some 5 ms of its turn."""

REASON_LENGTH_MAX: Final = 1024
"""What a refusal says to a producer; the longest names every consumer of a route."""

SAMPLES_MAX: Final = 256
"""Samples in one tally. The door counts a handful of things."""

COMPLAINT_LENGTH_MAX: Final = 160
"""A decoder's complaint may repeat what was received; more of it than this is in no log line."""

Number = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
_Counted = Annotated[int, Meta(ge=1, le=NUMBER_MAX)]
_Place = Annotated[int, Meta(ge=0, lt=OFFER_MESSAGES_MAX)]
_Count = Annotated[int, Meta(ge=1, le=OFFER_MESSAGES_MAX)]
_RouteId = Annotated[RouteId, Meta(ge=1, le=NUMBER_MAX)]


class Offer(
    msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True, gc=False
):
    """From a worker: messages for the log, with one route each.

    ``batch`` counts its offers from 1. The messages waited for ``waited_us`` in the worker.
    """

    batch: _Counted
    waited_us: Number
    routes: Annotated[tuple[_RouteId, ...], Meta(min_length=1, max_length=OFFER_MESSAGES_MAX)]
    messages: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=OFFER_MESSAGES_MAX)]


class Tally(
    msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True, gc=False
):
    """From a worker, once a second: its door's metrics, by their samples' names.

    The first one says that it takes requests now.
    """

    samples: Annotated[
        tuple[tuple[Annotated[str, Meta(max_length=256)], Annotated[float, Meta(ge=0)]], ...],
        Meta(max_length=SAMPLES_MAX),
    ]


class Configure(
    msgspec.Struct, frozen=True, array_like=True, tag=16, forbid_unknown_fields=True, gc=False
):
    """To a worker: the node's configuration, first of all and whenever it changes.

    The worker is one of ``workers``, which share the node's bounds. See `configuration_of`.
    """

    workers: Annotated[int, Meta(ge=1, le=WORKERS_MAX)]
    configuration: bytes


class Refusal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """An error that a producer is to hear; ``kind`` is its class's number in `ERRORS`."""

    kind: Number
    reason: Annotated[str, Meta(max_length=REASON_LENGTH_MAX)]
    retry_after_s: Number


class State(
    msgspec.Struct, frozen=True, array_like=True, tag=17, forbid_unknown_fields=True, gc=False
):
    """To a worker, when it changes: what of the engine's state a door needs.

    The ids of those routes that the ledger has, by path; and what is refused now, on all
    routes or on some. The engine decides again about what is offered.
    """

    cluster_tag: str | None
    routes: tuple[tuple[str, _RouteId], ...]
    refusal: Refusal | None
    refusals: tuple[tuple[_RouteId, Refusal], ...]


class Accepted(
    msgspec.Struct, frozen=True, array_like=True, tag=18, forbid_unknown_fields=True, gc=False
):
    """To a worker: ``count`` messages of a batch, from ``place`` on, are safe (I1).

    Their positions are ``position`` and those that follow it.
    """

    batch: _Counted
    place: _Place
    count: _Count
    position: Annotated[Position, Meta(ge=1, le=NUMBER_MAX)]


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


FromWorker: TypeAlias = Offer | Tally
ToWorker: TypeAlias = Configure | State | Accepted | Refused | Drain

ERRORS: Final[tuple[type[RefusedError | OutcomeUnknownError], ...]] = (
    RefusedError, NoQuorumError, BacklogFullError, DrainingError, OutcomeUnknownError,
)  # fmt: skip
"""The errors that pass, by their numbers here."""

_PLAIN: Final = (bytes,)  # byte strings: they pass as they are, not as base64 text
_KINDS_FROM: Final[dict[Any, Any]] = {k.__struct_config__.tag: k for k in get_args(FromWorker)}
_KINDS_TO: Final[dict[Any, Any]] = {k.__struct_config__.tag: k for k in get_args(ToWorker)}


def encode(frame: FromWorker | ToWorker) -> bytes:
    """Return the frame's CBOR. It must be one that the other side would take."""
    return pack(msgspec.to_builtins(frame, builtin_types=_PLAIN))


def decode_from_worker(data: bytes) -> FromWorker:
    """Return what a worker said; raise MalformedFrameError if it is anything else."""
    frame: FromWorker = _decode(data, _KINDS_FROM)
    if type(frame) is Offer and len(frame.routes) != len(frame.messages):
        raise MalformedFrameError(f"{len(frame.routes)} routes for {len(frame.messages)} messages")
    return frame


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
    """Return what of an error passes. One that is not of `ERRORS` leaves the outcome unknown.

    The special classes stand behind the general ones there, so the last that fits decides.
    """
    for kind, known in reversed(list(enumerate(ERRORS))):
        if isinstance(error, known):
            return Refusal(kind, error.reason[:REASON_LENGTH_MAX], error.retry_after_s)
    unknown = "the engine failed; its log says how. The message may be stored"
    return Refusal(ERRORS.index(OutcomeUnknownError), unknown, 1)


def error_of(refusal: Refusal) -> RefusedError | OutcomeUnknownError:
    """Return the error that passed; raise MalformedFrameError if there is no such kind."""
    if refusal.kind >= len(ERRORS):
        raise MalformedFrameError(f"found an error of kind {refusal.kind}; expected a known one")
    return ERRORS[refusal.kind](refusal.reason, retry_after_s=refusal.retry_after_s)


def configure(configuration: Configuration, workers: int) -> Configure:
    """Return the frame that brings `configuration` to one of so many workers."""
    return Configure(workers, msgspec.json.encode(configuration))


def configuration_of(frame: Configure) -> Configuration:
    """Return the configuration in a frame; raise MalformedFrameError if there is none.

    JSON, as it has a table in it, which the codec does not take. The engine's process has
    checked it already; secrets are named in it, and not held.
    """
    try:
        return msgspec.json.decode(frame.configuration, type=Configuration)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedFrameError(f"no configuration: {_bounded(error)}") from error
