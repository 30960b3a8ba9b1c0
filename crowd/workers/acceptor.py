"""A worker's way to the log: messages are offered to the engine's process, and answered from there.

Decides what goes into one offer (all that gathered in a turn of the reactor, within bounds),
how much may be under way, and what a producer hears when no answer comes. Implements
`crowd.web.ingest.Acceptor`; leaves the socket to ``link``.

A message that was not offered when its time is over, or when the engine's process is gone, is
certainly not stored. One that was offered may be: then the engine's answer is waited for, a
moment longer than the engine takes to give one (`GRACE_S`), and after that its fate is unknown.
The engine's answer counts from when the message came to the worker.

The messages of one request, a group, are one place of one offer, and have one answer.

In the reactor only. `accept` is on the hot path: one Deferred and one tuple for a message.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.defer import Deferred, fail

from crowd.errors import (
    BacklogFullError,
    DrainingError,
    NoQuorumError,
    OutcomeUnknownError,
    RefusedError,
)
from crowd.idempotency import NO_KEY, Grouped, Replayed
from crowd.message import Position
from crowd.raft.drain import in_turn
from crowd.raft.proposal import MESSAGE_OVERHEAD_BYTES, group_bytes
from crowd.raft.proposer import (
    BATCH_BYTES_MAX,
    BATCH_MESSAGES_MAX,
    CHECK_S,
    GROUPS_BYTES_MAX,
    LATE_S,
    TOO_MANY,
)
from crowd.workers.wire import OFFER_MESSAGES_MAX, Accepted, Offer, error_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.clock import Clock, Timer
    from crowd.message import RouteId
    from crowd.raft.proposal import Outcome
    from crowd.workers.wire import Known, PassingError, Refused, State, Together

OFFER_BYTES_MAX: Final = BATCH_BYTES_MAX
"""As much as one entry of the log takes, unless one message alone is larger."""

assert OFFER_MESSAGES_MAX == BATCH_MESSAGES_MAX, "what an entry holds, an offer holds"

WINDOW_BYTES: Final = 8 << 20
"""Above this no more is offered until some is answered: twice what the engine's process has
under way of its own (four entries of 1 MiB), so it always has the next ones there."""

SPREAD_S: Final = 0.05
"""Messages of one offer came within this: they share the oldest one's deadline."""

GRACE_S: Final = 0.5
"""The engine looks at its deadlines every 50 ms and answers then, through a reactor that a slow
turn may hold up by some 100 ms."""

_Waiter = Deferred[Any]
_Gathered = tuple["RouteId", "bytes | Sequence[bytes]", bytes, _Waiter, float, int, int]
"""A message or a group: its route, stored form or forms, digests or keys, answer, deadline in
seconds, bytes, and a group's messages, or 0."""


class Link(Protocol):
    """Where offers go: ``link.WorkerLink`` is one."""

    writable: bool
    """Whether the other end keeps up."""

    def write(self, frames: Sequence[Offer]) -> None:
        """Send offers."""


class _Batch:
    """One offer under way. A waiter that was answered is None; `left` are not."""

    __slots__ = ("deadline_s", "left", "size_bytes", "waiters")

    def __init__(self, waiters: list[_Waiter | None], size_bytes: int, deadline_s: float) -> None:
        self.waiters = waiters
        self.left = len(waiters)
        self.size_bytes = size_bytes
        self.deadline_s = deadline_s


class LinkAcceptor:
    """The engine's process as a worker's handlers ask for it, at the other end of `link`."""

    def __init__(
        self, clock: Clock, link: Link, acknowledge_within_s: float, share: int = 1
    ) -> None:
        """Offer through `link`. It is one of `share` that keep the bound of groups together."""
        self._groups_bytes_max = GROUPS_BYTES_MAX // share
        self._groups_bytes = 0
        self._clock = clock
        self._link = link
        self._within_s = acknowledge_within_s
        self._tag: str | None = None
        self._routes: dict[str, RouteId] = {}
        self._refusal: PassingError | None = None
        self._refusals: dict[RouteId, PassingError] = {}
        self.refused_count = 0
        """Requests refused here, without asking."""
        self._ended: DrainingError | None = None
        self._open: deque[_Gathered] = deque()
        self._sent: dict[int, _Batch] = {}
        self._sent_bytes = 0
        self._batch = 0
        self._sending: Timer | None = None
        self._checking: Timer | None = None

    # --- What handlers ask (crowd.web.ingest.Acceptor) ----------------------------------------

    @property
    def tag(self) -> str:
        """The cluster's tag; there is one before any route is defined."""
        assert self._tag is not None
        return self._tag

    def route_id(self, path: str) -> RouteId | None:
        """Return a route's id, or None while the ledger does not have it."""
        return self._routes.get(path)

    def accept(
        self, route: RouteId, stored: bytes, digests: bytes = NO_KEY
    ) -> Deferred[Position | Replayed]:
        """Take a message; the Deferred fires with its position once it is safe (I1).

        With a key that is known it fires with `Replayed`, or fails with KeyReusedError. Else it
        fails with a RefusedError if it is certainly not stored, with OutcomeUnknownError if it
        may be. One of these comes by `acknowledge_within_s` and `GRACE_S`.
        """
        refusal = self._refusal_of(route, digests)
        if refusal is not None:
            return fail(refusal)
        return self._gather(
            route, stored, digests, len(stored) + len(digests) + MESSAGE_OVERHEAD_BYTES, 0
        )

    def accept_group(
        self, route: RouteId, stored: Sequence[bytes], keys: bytes = NO_KEY
    ) -> Deferred[Grouped]:
        """Take the messages of one request, as `Proposer.accept_group` does."""
        refusal = self._refusal_of(route, keys)
        size_bytes = group_bytes(stored, keys)
        if refusal is None and self._groups_bytes + size_bytes > self._groups_bytes_max:
            # One alone always gets in, however many share the bound.
            refusal = RefusedError(TOO_MANY, retry_after_s=1) if self._groups_bytes else None
        if refusal is not None:
            return fail(refusal)
        self._groups_bytes += size_bytes
        return self._gather(route, stored, keys, size_bytes, len(stored))

    def _refusal_of(self, route: RouteId, keys: bytes) -> Exception | None:
        """Return why a route takes nothing now, and count who hears it.

        Those who hear it together are to come back one after the other, as at the engine. What has
        a key is offered all the same, unless the node stops: it may be stored already, which only
        the engine's process knows.
        """
        refusal: PassingError | None = self._ended or self._refusal
        if refusal is None and self._refusals:
            refusal = self._refusals.get(route)
        if refusal is None or (keys and not isinstance(refusal, DrainingError)):
            return None
        self.refused_count += 1
        if isinstance(refusal, BacklogFullError):
            return refusal.at(in_turn(refusal.retry_after_s, self.refused_count))
        return refusal

    def _gather(
        self, route: RouteId, stored: bytes | Sequence[bytes], keys: bytes, size_bytes: int,
        count: int,
    ) -> _Waiter:  # fmt: skip
        accepted: _Waiter = Deferred()
        deadline_s = self._clock.seconds() + self._within_s
        self._open.append((route, stored, keys, accepted, deadline_s, size_bytes, count))
        if self._checking is None:
            self._checking = self._clock.callLater(CHECK_S, self._check)
        if self._sending is None:
            self._sending = self._clock.callLater(0, self._turn)
        return accepted

    @property
    def waiting(self) -> bool:
        """Whether any producer waits for an answer."""
        return bool(self._open or self._sent)

    # --- What the engine's process says --------------------------------------------------------

    def state(self, state: State) -> None:
        """Go by the engine's state from here on. Raises MalformedFrameError."""
        refusal = None if state.refusal is None else error_of(state.refusal)
        refusals: dict[RouteId, PassingError] = {
            route: error_of(refusal) for route, refusal in state.refusals
        }
        self._tag = state.cluster_tag
        self._routes = {path: route for path, route, _ in state.routes}
        self._refusal, self._refusals = refusal, refusals

    def accepted(self, answer: Accepted) -> None:
        """Tell producers that their messages are safe."""
        position = answer.position
        for waiter in self._answered(answer.batch, answer.place, answer.count):
            if waiter is not None:
                waiter.callback(position)
            position = Position(position + 1)

    def known(self, answer: Known) -> None:
        """Tell a producer that its key's message is safe, and where."""
        self._answer(answer.batch, answer.place, Replayed(answer.position))

    def together(self, answer: Together) -> None:
        """Tell a producer what became of the messages of its request."""
        self._answer(
            answer.batch, answer.place, Grouped(answer.first, answer.count, answer.replayed)
        )

    def _answer(self, batch: int, place: int, outcome: Outcome) -> None:
        for waiter in self._answered(batch, place, 1):
            if waiter is not None:
                waiter.callback(outcome)

    def refused(self, answer: Refused) -> None:
        """Tell producers what the engine said. Raises MalformedFrameError."""
        error = error_of(answer.refusal)
        for waiter in self._answered(answer.batch, answer.place, answer.count):
            if waiter is not None:
                waiter.errback(error)

    def resume(self) -> None:
        """Offer what gathered, as far as there is room."""
        while self._open and self._link.writable and self._sent_bytes < WINDOW_BYTES:
            self._link.write([self._seal()])

    def end(self, words: str) -> None:
        """Answer everyone with what is known, and refuse all from here on: the engine is gone."""
        self._ended = DrainingError(words)
        for timer in (self._sending, self._checking):
            if timer is not None and timer.active():
                timer.cancel()
        while self._open:
            self._next()[3].errback(NoQuorumError(f"{words}; the message was not stored"))
        for batch in list(self._sent):
            self._give_up(batch, f"{words}; the message may be stored")

    # --- Within ------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._sending = None
        self.resume()

    def _next(self) -> _Gathered:
        """Take the oldest out of what gathered."""
        gathered = self._open.popleft()
        if gathered[6]:
            self._groups_bytes -= gathered[5]
        return gathered

    def _seal(self) -> Offer:
        """Make an offer of the oldest messages, within its bounds."""
        first_s = self._open[0][4]
        routes: list[RouteId] = []
        messages: list[bytes] = []
        counts: list[int] = []
        keys: list[bytes] = []
        waiters: list[_Waiter | None] = []
        size_bytes = 0
        while self._open and len(messages) < OFFER_MESSAGES_MAX:
            _, _, _, _, deadline_s, more_bytes, count = self._open[0]
            if messages and (
                size_bytes + more_bytes > OFFER_BYTES_MAX
                or len(messages) + count > OFFER_MESSAGES_MAX
                or deadline_s > first_s + SPREAD_S
            ):
                break
            route, stored, packed, accepted, _, _, _ = self._next()
            size_bytes += more_bytes
            routes.append(route)
            counts.append(count)
            keys.append(packed)
            waiters.append(accepted)
            if isinstance(stored, bytes):
                messages.append(stored)
            else:
                messages += stored
        self._batch += 1
        self._sent[self._batch] = _Batch(waiters, size_bytes, first_s + GRACE_S)
        self._sent_bytes += size_bytes
        waited_s = self._clock.seconds() + self._within_s - first_s
        return Offer(
            self._batch, max(0, int(waited_s * 1e6)), tuple(routes), tuple(messages),
            tuple(counts) if any(counts) else (), tuple(keys) if any(keys) else (),
        )  # fmt: skip

    def _answered(self, number: int, place: int, count: int) -> list[_Waiter | None]:
        """Return who waits for these messages, None for who was answered already."""
        batch = self._sent.get(number)
        if batch is None:
            return []  # all of them were given up
        waiters = batch.waiters[place : place + count]
        batch.waiters[place : place + count] = [None] * len(waiters)
        batch.left -= len(waiters) - waiters.count(None)
        if not batch.left:
            del self._sent[number]
            self._sent_bytes -= batch.size_bytes
            if self._open and self._sending is None:
                self._sending = self._clock.callLater(0, self._turn)
        return waiters

    def _check(self) -> None:
        """Look at the deadlines."""
        self._checking = None
        now_s = self._clock.seconds()
        while self._open and self._open[0][4] <= now_s:
            words = f"no quorum within {self._within_s:g} s; the message was not stored"
            self._next()[3].errback(NoQuorumError(words, retry_after_s=LATE_S))
        for number in [n for n, batch in self._sent.items() if batch.deadline_s <= now_s]:
            self._give_up(
                number, f"no answer within {self._within_s:g} s; the message may be stored"
            )
        if self.waiting:
            self._checking = self._clock.callLater(CHECK_S, self._check)

    def _give_up(self, number: int, words: str) -> None:
        for waiter in self._answered(number, 0, len(self._sent[number].waiters)):
            if waiter is not None:
                waiter.errback(OutcomeUnknownError(words, retry_after_s=LATE_S))
