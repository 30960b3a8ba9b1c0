"""One proposal, and who waits for it: which producer hears what, once the log has said.

Decides whose messages stand where in a batch, and what becomes of each. Leaves to ``proposer``
when a proposal is made, offered and given up.

Whoever waits does so for one message, or for a group: all messages of one request, which are
never in two entries. A group costs one Deferred, whatever its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from crowd.command import encode_command
from crowd.errors import KeyReusedError, OutcomeUnknownError, RefusedError
from crowd.idempotency import MISMATCH, Grouped, Replayed, left_out_spans, without_first
from crowd.message import Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.command import Accept
    from crowd.message import RouteId

Outcome = Position | Replayed | Grouped
"""What is heard of a message: its position, or the first one's under its key. Or of a group."""


class Waiter(Protocol):
    """Who waits for the fate of a message, or of a group. One of the two is called, and once.

    A Deferred is one.
    """

    def callback(self, outcome: Outcome, /) -> object:
        """Hear what became of what is safe now, or was before (I1)."""

    def errback(self, error: RefusedError | OutcomeUnknownError | KeyReusedError, /) -> object:
        """Hear that it is certainly not stored, or that nobody knows."""


Due = tuple[Waiter, float, int]
"""An answer that is to come: who waits, its deadline in seconds, a group's messages or 0."""

Wanted = tuple["RouteId", "bytes | Sequence[bytes]", bytes, Waiter]
"""A message or a group that comes with who waits: its route, its stored form or forms, and its digests
or its keys."""

Offered = tuple["RouteId", "bytes | Sequence[bytes]", Waiter, float, bytes, int, int]
"""A message or a group, not in a proposal yet: its route, its stored form or forms, who waits, its
deadline in seconds, its digests or its keys, its bytes in an entry; a group's messages, or 0."""

MESSAGE_OVERHEAD_BYTES: Final = 16
"""What a message takes of an entry beside its own bytes: its route and two lengths, at most."""


def group_bytes(stored: Sequence[bytes], keys: bytes) -> int:
    """Return what a group takes of an entry."""
    return sum(map(len, stored)) + len(stored) * MESSAGE_OVERHEAD_BYTES + len(keys)


class Proposal:
    """A batch and its `waiters`, in the order of their messages; the first `heard` were answered."""

    __slots__ = ("command", "encoded", "heard", "offered", "offered_s", "waiters")

    def __init__(self, command: Accept, waiters: list[Due]) -> None:
        self.command = command
        self.encoded = encode_command(command)
        self.waiters = waiters
        self.heard = 0
        self.offered = False
        self.offered_s = float("-inf")

    def forget_heard(self) -> None:
        """Take out the messages of those who heard that they are not stored: nobody has them."""
        assert not self.offered
        gone = sum([count or 1 for _, _, count in self.waiters[: self.heard]])
        command = self.command
        self.command = msgspec.structs.replace(
            command,
            routes=command.routes[gone:],
            messages=command.messages[gone:],
            keys=without_first(command.keys, gone),
        )
        self.encoded = encode_command(self.command)
        self.waiters = self.waiters[self.heard :]
        self.heard = 0

    def answer(self, first: int, left_out: bytes) -> None:
        """Answer those who have heard nothing yet; the first message stored is at `first`.

        `left_out` says which took no position, as `crowd.idempotency` packs it.
        """
        if left_out:
            self._answer_around(first, list(left_out_spans(left_out)))
            return
        for number, (accepted, _, count) in enumerate(self.waiters):
            if number >= self.heard:
                accepted.callback(
                    Grouped(Position(first), count) if count else Position(first)
                )  # fmt: skip
            first += count or 1

    def _answer_around(self, first: int, spans: Sequence[tuple[int, int, int]]) -> None:
        place = at = 0
        for number, (accepted, _, count) in enumerate(self.waiters):
            begin, end = at, place + (count or 1)
            while at < len(spans) and spans[at][0] < end:
                at += 1
            own = spans[begin:at]
            outcome = _outcome(first, place, count, own)
            first += end - place - sum([size for _, size, _ in own])
            place = end
            if number < self.heard:
                continue
            _tell(accepted, outcome)


def answer_known(waiter: Waiter, count: int, left_out: bytes) -> None:
    """Answer one for whose message, or group of `count`, nothing is stored, as all of it is known.

    `left_out` is of every message of it, as `crowd.idempotency` packs it.
    """
    spans = list(left_out_spans(left_out))
    first = spans[0][2]  # of those that are stored, which are none: any one does
    _tell(waiter, _outcome(first, 0, count, spans))


def _tell(waiter: Waiter, outcome: Outcome | None) -> None:
    if outcome is None:
        waiter.errback(KeyReusedError("this key came with another request before"))
    else:
        waiter.callback(outcome)


def _outcome(
    first: int, place: int, count: int, own: Sequence[tuple[int, int, int]]
) -> Outcome | None:
    """Return what is heard of a message, or a group, at `place`; None for a refusal.

    `own` are its spans of those that were left out; what is stored of it begins at `first`.
    """
    if any(position == MISMATCH for _, _, position in own):
        return None
    if count:
        replayed = tuple((at - place, size, position) for at, size, position in own)
        return Grouped(Position(first), count, replayed)
    return Replayed(Position(own[0][2])) if own else Position(first)
