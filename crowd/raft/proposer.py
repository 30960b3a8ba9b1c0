"""From messages to answers: batches, sessions, and completion by application (I1, I2).

Decides which messages make one entry, when it is proposed again, and what a producer hears.
Leaves to others how a command reaches the leader (`offer`) and what the log made of it
(`ledger`).

A proposal is known by (session, number). It is offered, and offered again under the same
number after a leader change or a silence, until this node's own ledger says that the number
was accepted: only then are its producers answered. No reply is relied on, so none can be
lost (D12, L6). When `acknowledge_within_s` has passed, a producer whose message was never
offered hears that it is not stored; any other one hears that this is unknown, because an
entry that was offered may still commit.

Each message of an accepted batch has an outcome of its own: a position, or, where its
idempotency key was known, the position of the first message under it, or a refusal. The ledger
says which, and says the same of a proposal that was offered again. The messages of one request,
a group, are in one proposal and have one answer.

While nothing may be accepted, what is known to be stored is answered all the same, from this
node's own ledger: its first one is committed, so no log has to be asked. What is not known there
is refused, as another node's may be under way.

Everything here runs in the reactor's thread. `accept` is on the hot path: plain calls, one
Deferred and one tuple for a message, or for a group. `accept_many` takes what a worker gathered, and
spares the Deferred.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from crowd.command import Accept, OpenSession, encode_command
from crowd.errors import (
    BacklogFullError,
    DrainingError,
    NoQuorumError,
    OutcomeUnknownError,
    RefusedError,
)
from crowd.idempotency import NO_KEY, keyed, moved
from crowd.raft.drain import in_turn
from crowd.raft.proposal import MESSAGE_OVERHEAD_BYTES, Proposal, answer_known, group_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from crowd.clock import Clock, Timer
    from crowd.command import Command, SessionId
    from crowd.idempotency import Grouped, Replayed
    from crowd.message import Position, RouteId
    from crowd.raft.proposal import Due, Offered, Waiter, Wanted

IN_FLIGHT_MAX: Final = 4
"""Proposals under way: so that one who posts now and then need not wait for another's."""
BATCH_BYTES_MAX: Final = (1 << 20) - (1 << 14)
"""An entry stays below 1 MiB, unless one message alone is larger."""
BATCH_MESSAGES_MAX: Final = 4096
"""Bounds the work of one entry: answering 4 096 producers takes about 40 ms in all."""
GROUPS_BYTES_MAX: Final = 64 << 20
"""Of groups that are not in a proposal yet. A request's messages take more than its body did, as
each has the request's header fields, so that a bound of bodies alone would not hold them."""
TOO_MANY: Final = "too many messages wait to be proposed"
GATHER_S: Final = 0.001
"""How long a message waits at most for others to share its entry (see `accept`)."""
WAVE_MIN: Final = 8
"""Batches so large mean that producers come in waves, and that sharing an entry pays."""
SECOND_MIN: Final = 128
"""A batch so large leaves at once, and beside another one: splitting it costs little."""
SECOND_BYTES: Final = 1 << 18
"""So many bytes of groups are as large."""
OFFER_AGAIN_S: Final = 1.0
"""Silence after which a proposal is offered again; a leader change does so at once."""
LATE_S: Final = 5
"""When to try again after `acknowledge_within`: no election takes that long by default, so that some
node must come back first, which takes seconds. Producers hear it as they came, not all at once."""
CHECK_S: Final = 0.05
"""How often deadlines are looked at while anything waits."""


class Acceptances(Protocol):
    """What the proposer asks of the ledger."""

    def session_of(self, node: str, nonce: bytes) -> SessionId | None:
        """Return the session that was opened with `nonce`."""

    def session_is_open(self, session: SessionId) -> bool:
        """Tell whether a session still takes proposals."""

    def acceptance(self, session: SessionId, number: int) -> Position | None:
        """Return the first position of an accepted proposal."""

    def left_out(self, session: SessionId, number: int) -> bytes:
        """Return what of it took no position, as `crowd.idempotency.left_out_places` reads it."""

    def known(self, keys: bytes, messages: int) -> bytes:
        """Return the same of so many messages, if their keys are known, all of them; else nothing."""


class Proposer:
    """This node's proposals, from the messages to the producers' answers."""

    _log = Logger()

    def __init__(
        self,
        node: str,
        clock: Clock,
        offer: Callable[[Command, bytes], bool],
        nonce: Callable[[], bytes],
        *,
        acknowledge_within_s: float,
    ) -> None:
        """Make a proposer; `nonce` draws 16 random bytes, `offer` says whether it could send."""
        self._node = node
        self._clock = clock
        self._offer = offer
        self._draw = nonce
        self._within_s = acknowledge_within_s
        self._ledger: Acceptances | None = None
        self._nonce = b""
        self._session: SessionId | None = None
        self._number = 0
        self._waiting = 0
        self._expected = 0
        self._open: deque[Offered] = deque()
        self._groups_bytes = 0
        self._in_flight: dict[int, Proposal] = {}
        self._flushing: Timer | None = None
        self._checking: Timer | None = None
        self._session_offered_s = float("-inf")
        self._drained: Deferred[None] | None = None
        self.refusal: RefusedError | None = None
        """Set by the engine while nothing may be accepted; raised to every producer of something new."""
        self.refusals: Mapping[RouteId, RefusedError] = {}
        """The same for single routes, those that a full consumer takes."""
        self.refused = 0
        """Requests refused by either since the start."""

    @property
    def waiting(self) -> bool:
        """Does any producer wait for an answer."""
        return bool(self._open or self._in_flight)

    @property
    def waiting_count(self) -> int:
        """How many producers wait."""
        return self._waiting

    @property
    def retry_after_s(self) -> int:
        """In how many seconds a producer who is refused now is to come back at the earliest.

        0 where none is refused; the longest, where routes differ.
        """
        if self.refusal is not None:
            return self.refusal.retry_after_s
        return max((each.retry_after_s for each in self.refusals.values()), default=0)

    @property
    def has_session(self) -> bool:
        """Whether the log has opened this node's session."""
        return self._session is not None

    def start(self, ledger: Acceptances) -> None:
        """Ask for a session: from now on `applied` and `leader_changed` are called."""
        self._ledger = ledger
        self._nonce = self._draw()
        self._check()

    def accept(
        self, route: RouteId, stored: bytes, digests: bytes = NO_KEY
    ) -> Deferred[Position | Replayed]:
        """Take a message; the Deferred fires with its position once it is safe (I1).

        `digests` are of its idempotency key and of its request, if it has a key. Where that is
        known, the Deferred fires with `Replayed`, or fails with KeyReusedError: at once, if it
        would be refused otherwise.

        Fails with a RefusedError if it is certainly not stored, with OutcomeUnknownError if
        it may be. One of all these comes by `acknowledge_within_s`.
        """
        if self.refusal is not None:
            return self._refuse(self.refusal, digests)
        if self.refusals and route in self.refusals:
            return self._refuse(self.refusals[route], digests)
        accepted: Deferred[Any] = Deferred()
        deadline_s = self._clock.seconds() + self._within_s
        size = len(stored) + len(digests) + MESSAGE_OVERHEAD_BYTES
        self._open.append((route, stored, accepted, deadline_s, digests, size, 0))
        self._take()
        return accepted

    def accept_group(
        self, route: RouteId, stored: Sequence[bytes], keys: bytes = NO_KEY
    ) -> Deferred[Grouped]:
        """Take the messages of one request: all of them are stored in one entry, or none is.

        `keys` are their idempotency keys, packed as in `crowd.idempotency`; places count from
        the group's first message. `stored` are 1 to `BATCH_MESSAGES_MAX` and, unless it is one
        alone, `group_bytes` of them at most `BATCH_BYTES_MAX`.

        The Deferred fires with what became of them. It fails as that of `accept` does; with
        KeyReusedError if a key of theirs came with another request, and with a RefusedError
        as well if `GROUPS_BYTES_MAX` wait already.
        """
        if self.refusal is not None:
            return self._refuse(self.refusal, keys, len(stored))
        if self.refusals and route in self.refusals:
            return self._refuse(self.refusals[route], keys, len(stored))
        count, size = len(stored), group_bytes(stored, keys)
        assert 0 < count <= BATCH_MESSAGES_MAX, "a group that no entry holds"
        assert size <= BATCH_BYTES_MAX or count == 1, "a group that no entry holds"
        if self._is_too_much(size):
            return self._refuse(RefusedError(TOO_MANY, retry_after_s=1), keys, count)
        accepted: Deferred[Any] = Deferred()
        deadline_s = self._clock.seconds() + self._within_s
        self._open.append((route, stored, accepted, deadline_s, keys, size, count))
        self._groups_bytes += size
        self._take()
        return accepted

    def accept_many(self, wanted: Iterable[Wanted], waited_s: float = 0.0) -> None:
        """Take messages and groups as `accept` and `accept_group` do, each with who waits for it.

        They waited for `waited_s` already, which counts. Deadlines of what is open never fall,
        so one may come later than that by as much as the messages before it may still wait.
        """
        deadline_s = self._clock.seconds() + self._within_s - waited_s
        if self._open:
            deadline_s = max(deadline_s, self._open[-1][3])
        refusals, before = self.refusals, len(self._open)
        for route, stored, keys, waiter in wanted:
            refusal = self.refusal
            if refusal is None and refusals:
                refusal = refusals.get(route)
            if isinstance(stored, bytes):
                size, count = len(stored) + len(keys) + MESSAGE_OVERHEAD_BYTES, 0
            else:
                size, count = group_bytes(stored, keys), len(stored)
                if refusal is None and self._is_too_much(size):
                    refusal = RefusedError(TOO_MANY, retry_after_s=1)
            if refusal is not None:
                self._decline(waiter, refusal, keys, count)
                continue
            if count:
                self._groups_bytes += size
            self._open.append((route, stored, waiter, deadline_s, keys, size, count))
        came = len(self._open) - before
        if came:
            self._take(came)

    def _is_too_much(self, group_size: int) -> bool:
        """Tell whether another group has to come again later; one alone always gets in."""
        return bool(self._groups_bytes) and self._groups_bytes + group_size > GROUPS_BYTES_MAX

    def _refuse(self, error: RefusedError, keys: bytes, count: int = 0) -> Deferred[Any]:
        refused: Deferred[Any] = Deferred()
        self._decline(refused, error, keys, count)
        return refused

    def _decline(self, waiter: Waiter, error: RefusedError, keys: bytes, count: int) -> None:
        """Refuse a message, or a group of `count`, that is not known to be stored; count that.

        Those who hear it together are to come back one after the other.
        """
        if keys and self._ledger is not None:
            left_out = self._ledger.known(keys if count else keyed(0, keys), count or 1)
            if left_out:
                answer_known(waiter, count, left_out)
                return
        self.refused += 1
        if isinstance(error, BacklogFullError):
            error = error.at(in_turn(error.retry_after_s, self.refused))
        waiter.errback(error)

    def _take(self, came: int = 1) -> None:
        self._waiting += came
        if self._checking is None:
            self._checking = self._clock.callLater(CHECK_S, self._check)
        if len(self._in_flight) < IN_FLIGHT_MAX:
            self._gather()

    def applied(self) -> None:
        """Answer what the ledger now holds, and propose what gathered meanwhile."""
        if self._ledger is None:
            return
        if self._session is None:
            self._session = self._ledger.session_of(self._node, self._nonce)
            if self._session is None:
                return
        elif not self._ledger.session_is_open(self._session):
            self._reopen()
            return
        for number in list(self._in_flight):
            position = self._ledger.acceptance(self._session, number)
            if position is not None:
                batch = self._in_flight.pop(number)
                self._waiting -= len(batch.waiters) - batch.heard
                self._expected = len(batch.waiters)
                batch.answer(position, self._ledger.left_out(self._session, number))
        if self._open and len(self._in_flight) < IN_FLIGHT_MAX:
            self._gather()
        elif self._drained is not None:
            self._flush()

    def leader_changed(self) -> None:
        """Offer everything again: what an old leader had may be lost."""
        self._session_offered_s = float("-inf")
        for batch in self._in_flight.values():
            batch.offered_s = float("-inf")
        self._offer_due()

    def drain(self) -> Deferred[None]:
        """Refuse new messages; fire when every producer has been answered."""
        self.refusal = DrainingError("this node is stopping")
        if not self.waiting:
            return succeed(None)
        self._drained = Deferred()
        return self._drained

    def stop(self) -> None:
        """Let go of the timers; whoever still waits hears what is known."""
        for timer in (self._flushing, self._checking):
            if timer is not None and timer.active():
                timer.cancel()
        self._flushing = self._checking = None
        self.refusal = DrainingError("this node is stopping")
        while self._open:
            self._waiting -= 1
            self._next()[2].errback(DrainingError("this node is stopping"))
        for number in list(self._in_flight):
            self._give_up(number, float("inf"), "this node is stopping")

    def _gather(self) -> None:
        """Propose now, at the end of this turn, or a moment later; there is room for it.

        An entry costs three nodes some 0.5 ms of work whatever it holds. While few producers
        post, each message leaves with its turn, beside those under way. When many do, they
        come in waves, as those who were answered together post again together: a batch then
        waits, for `GATHER_S` at most, until it is as large as the one before, and a second one
        is under way only if it is large.
        """
        count = len(self._open)
        if count >= SECOND_MIN or self._groups_bytes >= SECOND_BYTES:
            self._flush()
        elif self._expected < WAVE_MIN or (not self._in_flight and count >= self._expected):
            self._flush_in(0)
        elif not self._in_flight and self._flushing is None:
            self._flush_in(GATHER_S)

    def _flush_in(self, delay_s: float) -> None:
        if self._flushing is not None and self._flushing.active():
            self._flushing.cancel()
        self._flushing = self._clock.callLater(delay_s, self._flush)

    def _flush(self) -> None:
        """Propose what gathered, as far as there is room."""
        if self._flushing is not None:
            if self._flushing.active():
                self._flushing.cancel()
            self._flushing = None
        while self._open and self._session is not None and len(self._in_flight) < IN_FLIGHT_MAX:
            self._seal(self._session)
        self._offer_due()
        if self._drained is not None and not self.waiting:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _seal(self, session: SessionId) -> None:
        """Make one proposal of the oldest messages, within the bounds of an entry."""
        routes: list[RouteId] = []
        messages: list[bytes] = []
        waiters: list[Due] = []
        keys: list[bytes] = []
        size = 0
        while self._open and len(messages) < BATCH_MESSAGES_MAX:
            size += self._open[0][5]
            is_full = (
                size > BATCH_BYTES_MAX or len(messages) + self._open[0][6] > BATCH_MESSAGES_MAX
            )
            if messages and is_full:
                break
            route, stored, accepted, deadline_s, key, _, count = self._next()
            if key:
                place = len(messages)
                keys.append(moved(key, place) if count else keyed(place, key))
            if isinstance(stored, bytes):
                routes.append(route)
                messages.append(stored)
            else:
                routes += [route] * count
                messages += stored
            waiters.append((accepted, deadline_s, count))
        self._number += 1
        accept = Accept(
            session=session,
            number=self._number,
            low=min(self._in_flight, default=self._number),
            routes=tuple(routes),
            messages=tuple(messages),
            keys=b"".join(keys),
        )
        self._in_flight[self._number] = Proposal(accept, waiters)

    def _next(self) -> Offered:
        """Take the oldest out of what gathered."""
        offered = self._open.popleft()
        if offered[6]:
            self._groups_bytes -= offered[5]
        return offered

    def _offer_due(self) -> None:
        now = self._clock.seconds()
        if self._session is None:
            if self._nonce and now - self._session_offered_s >= OFFER_AGAIN_S:
                opening = OpenSession(node=self._node, nonce=self._nonce)
                if self._offer(opening, encode_command(opening)):
                    self._session_offered_s = now
            return
        for batch in self._in_flight.values():
            if now - batch.offered_s >= OFFER_AGAIN_S and self._offer(batch.command, batch.encoded):
                batch.offered = True
                batch.offered_s = now

    def _check(self) -> None:
        """Look at the deadlines, and at what has been silent for too long."""
        self._checking = None
        now = self._clock.seconds()
        while self._open and self._open[0][3] <= now:
            self._waiting -= 1
            words = f"no quorum within {self._within_s:g} s; the message was not stored"
            self._next()[2].errback(NoQuorumError(words, retry_after_s=LATE_S))
        for number in list(self._in_flight):
            words = f"no acknowledgement within {self._within_s:g} s"
            self._give_up(number, now, words, LATE_S)
        self._flush()
        if self._session is None or self.waiting:
            self._checking = self._clock.callLater(CHECK_S, self._check)

    def _give_up(self, number: int, until_s: float, words: str, retry_after_s: int = 1) -> None:
        """Answer what is known to those whose deadline is at or before `until_s`.

        A proposal that nobody waits for any more is dropped: its number is never used again,
        and `low` passes it.
        """
        batch = self._in_flight[number]
        while batch.heard < len(batch.waiters) and batch.waiters[batch.heard][1] <= until_s:
            accepted = batch.waiters[batch.heard][0]
            batch.heard += 1
            self._waiting -= 1
            error: NoQuorumError | OutcomeUnknownError = NoQuorumError(
                f"{words}; the message was not stored", retry_after_s=retry_after_s
            )
            if batch.offered:
                error = OutcomeUnknownError(
                    f"{words}; the message may be stored", retry_after_s=retry_after_s
                )
            accepted.errback(error)
        if batch.heard == len(batch.waiters):
            del self._in_flight[number]
        elif batch.heard and not batch.offered:
            batch.forget_heard()

    def _reopen(self) -> None:
        """Begin anew: another process of this name opened a session, and closed this one."""
        self._log.warn("session {session} was closed by another one", session=self._session)
        for number in list(self._in_flight):
            self._give_up(number, float("inf"), "this node's session was closed")
        self._session = None
        self._nonce = self._draw()
        self._number = 0
        self._session_offered_s = float("-inf")
        if self._checking is None:
            self._checking = self._clock.callLater(CHECK_S, self._check)
