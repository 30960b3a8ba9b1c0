"""Waits for consumers' answers: what a producer that waits is told, on whichever node it asked.

Decides how many wait, who is asked, and when a wait is over. Leaves to ``crowd/delivery/awaited``
what the leader keeps and whom it tells, and to ``crowd/web/waiting`` what a producer hears.

Messages are delivered by the leader. So a node asks it: itself, or over the peers' link
(`crowd.raft.wire.Await`). A wait changes nothing about its message, which is accepted by then: where
the leader changes, a link breaks or time is over, the wait alone ends.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from twisted.internet.defer import Deferred, succeed

from crowd.delivery.awaited import UNKNOWN, Ending
from crowd.message import ConsumerId, Position
from crowd.raft.wire import Await, AwaitEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crowd.clock import Clock, Timer
    from crowd.delivery.awaited import Awaited, State
    from crowd.message import RouteId

WAITS_MAX: Final = 1_024
"""Producers of one node that wait at once. Each holds a connection, and no body: 1 KiB or so."""

_Asked = tuple[Position, ConsumerId]
"""What is waited for: who repeats a key may wait for another consumer than the first one did."""

_HERE: Final = ""
"""This node, among those that ask: a peer's name is none."""


class Cluster(Protocol):
    """What is used of the engine."""

    ledger: Any
    raft: Any
    leader_hooks: list[Callable[[], None]]
    await_hooks: list[Callable[[str, Await | AwaitEnded], None]]

    def send(self, name: str, message: Await | AwaitEnded) -> bool:
        """Send to a peer, if it is connected."""


class Tally(msgspec.Struct):
    """How waits ended: ``late`` for want of time, ``unknown`` as nobody could tell.

    Of those that are ``gone`` the producer was, before the end.
    """

    delivered: int = 0
    dead: int = 0
    settled: int = 0
    late: int = 0
    unknown: int = 0
    gone: int = 0


class EngineWaits:
    """The engine and the dispatcher as `crowd.web.waiting.Waits` asks for them. In the reactor.

    `first` are the names of consumers in the order of the configuration; others come behind.
    """

    def __init__(self, clock: Clock, engine: Cluster, awaited: Awaited) -> None:
        self.first: Sequence[str] = ()
        self.tally = Tally()
        self._clock = clock
        self._engine = engine
        self._awaited = awaited
        self._waiting: dict[_Asked, dict[Deferred[Ending | None], Timer]] = {}
        self._count = 0
        self._turning = False
        self._closed = False
        engine.await_hooks.append(self._said)
        engine.leader_hooks.append(self._leader_changed)

    @property
    def in_flight(self) -> int:
        """How many wait now."""
        return self._count

    def consumer_of(self, route: RouteId) -> ConsumerId | None:
        """Return the first consumer that takes a route's messages now, or None if none does."""
        ledger = self._engine.ledger
        named = (ledger.consumer_id(name) for name in self.first)
        for consumer in (*named, *ledger.consumers):
            if consumer is not None and ledger.consumers[consumer].routes >> route & 1:
                found: ConsumerId = consumer
                return found
        return None

    def wait(
        self, position: Position, consumer: ConsumerId, within_s: float
    ) -> Deferred[Ending | None]:
        """Fire with how the message ended for `consumer`; None if that is not known in time."""
        leader = self._engine.raft.leader
        if self._closed or self._count >= WAITS_MAX or leader is None:
            self.tally.unknown += 1
            return succeed(None)
        ended: Deferred[Ending | None] = Deferred()
        asked = (position, consumer)
        timer = self._clock.callLater(within_s, self._late, asked, ended)
        self._waiting.setdefault(asked, {})[ended] = timer
        self._count += 1
        if self._engine.raft.is_leader:
            self._ask(position, consumer, within_s, _HERE, partial(self._ended, asked))
        elif not self._engine.send(leader, Await(position, consumer, int(within_s * 1000))):
            self._ended(asked, UNKNOWN)
        return ended

    def leave(
        self, position: Position, consumer: ConsumerId, ended: Deferred[Ending | None]
    ) -> None:
        """End a wait whose producer is gone: `ended`, of `wait`, does not fire (any more)."""
        asked = (position, consumer)
        timer = self._waiting.get(asked, {}).pop(ended, None)
        if timer is None:
            return
        timer.cancel()
        self._count -= 1
        self.tally.gone += 1
        if self._waiting[asked]:
            return
        del self._waiting[asked]
        leader = self._engine.raft.leader
        if self._engine.raft.is_leader:
            self._awaited.leave(consumer, position, _HERE)
        elif leader is not None:
            self._engine.send(leader, Await(position, consumer, 0))

    def close(self) -> None:
        """End all waits, and take no more: this node stops."""
        self._closed = True
        self._end_all()

    def _ask(
        self, position: Position, consumer: ConsumerId, within_s: float, who: str,
        tell: Callable[[Ending], None],
    ) -> None:  # fmt: skip
        """Ask on this node, which leads.

        Its ledger may not have the message yet: a follower can apply an entry before it does.
        """
        ledger, now_s = self._engine.ledger, self._clock.seconds()
        is_there = consumer in ledger.consumers
        end: State | None = ledger.ended_as(consumer, position) if is_there else "unknown"
        self._awaited.ask(consumer, position, who, tell, now_s, now_s + within_s, end)

    # --- What peers say -----------------------------------------------------------------------------

    def _said(self, name: str, message: Await | AwaitEnded) -> None:
        position, consumer = Position(message.position), ConsumerId(message.consumer)
        if isinstance(message, AwaitEnded):
            ending = Ending(message.state, message.status, message.headers, message.body)
            self._ended((position, consumer), ending)
            return

        def tell(ending: Ending) -> None:
            told = (ending.state, ending.status, ending.headers, ending.body)
            self._engine.send(name, AwaitEnded(position, consumer, *told))

        if not self._engine.raft.is_leader:
            tell(UNKNOWN)
            return
        if message.within_ms:
            self._ask(position, consumer, message.within_ms / 1000, name, tell)
        else:
            self._awaited.leave(consumer, position, name)

    # --- Ends ---------------------------------------------------------------------------------------

    def _ended(self, asked: _Asked, ending: Ending) -> None:
        """Tell all that wait for a message. What comes late, or unasked, is for nobody."""
        waiting = self._waiting.pop(asked, {})
        self._count -= len(waiting)
        for ended, timer in waiting.items():
            timer.cancel()
            setattr(self.tally, ending.state, getattr(self.tally, ending.state) + 1)
            ended.callback(None if ending.state == "unknown" else ending)

    def _late(self, asked: _Asked, late: Deferred[Ending | None]) -> None:
        del self._waiting[asked][late]
        if not self._waiting[asked]:
            del self._waiting[asked]
        self._count -= 1
        self.tally.late += 1
        late.callback(None)

    def _leader_changed(self) -> None:
        """End all waits in a turn of its own: producers that are answered may post again."""
        if self._waiting and not self._turning:
            self._turning = True
            self._clock.callLater(0, self._end_all)

    def _end_all(self) -> None:
        self._turning = False
        for asked in list(self._waiting):
            self._ended(asked, UNKNOWN)
