"""What a worker asks of the engine's process besides taking messages: where one stands, and waits.

Decides how many questions are open, and what is heard when no answer comes. Implements
`crowd.web.messages.Standings` and `crowd.web.waiting.Waits`; leaves the socket to ``link``. In the
reactor only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.defer import Deferred, fail, succeed

from crowd.delivery.awaited import Ending
from crowd.errors import DrainingError, MalformedFrameError, RefusedError
from crowd.ledger.standings import Standing, WithConsumer
from crowd.message import ConsumerId
from crowd.web.messages import Absence
from crowd.workers.wire import NUMBER_MAX, Await, Ended, Found, Leave, Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.message import Position, RouteId
    from crowd.workers.wire import State

QUESTIONS_MAX: Final = 4_096
"""Open at once, of both kinds: four times what a node lets wait (`crowd.waits.WAITS_MAX`). The engine's
process answers all others within a turn."""


class Link(Protocol):
    """Where questions go: ``link.WorkerLink`` is one."""

    def write(self, frames: Sequence[Look | Await | Leave]) -> None:
        """Send questions."""


class LinkQuestions:
    """The engine's process as a worker's pages and waits ask it, at the other end of `link`."""

    def __init__(self, link: Link) -> None:
        self.tag: str | None = None
        self._link = link
        self._number = 0
        self._consumers: dict[RouteId, ConsumerId] = {}
        self._looks: dict[int, tuple[Position, Deferred[Standing | Absence]]] = {}
        self._waits: dict[int, Deferred[Ending | None]] = {}
        self._numbers: dict[Deferred[Ending | None], int] = {}  # of those
        self._ended: DrainingError | None = None

    # --- What the web asks -----------------------------------------------------------------------

    def find(self, position: Position) -> Deferred[Standing | Absence]:
        """Fire with where a message stands; fail with a RefusedError if nobody can say now.

        Whatever stands in an id may be asked for. What no message is at needs no question, and no
        frame holds it.
        """
        if not 1 <= position <= NUMBER_MAX:
            return succeed(Absence.UNKNOWN)
        if self._ended is not None:
            return fail(self._ended)
        if self._is_full:
            return fail(RefusedError("too many ask for messages", retry_after_s=1))
        found: Deferred[Standing | Absence] = Deferred()
        self._number += 1
        self._looks[self._number] = (position, found)
        self._link.write([Look(self._number, position)])
        return found

    def consumer_of(self, route: RouteId) -> ConsumerId | None:
        """Return the consumer that is waited for on a route, or None without any."""
        return self._consumers.get(route)

    def wait(
        self, position: Position, consumer: ConsumerId, within_s: float
    ) -> Deferred[Ending | None]:
        """Fire with how the message ended for `consumer`; None if that is not known in time.

        The engine's process has the clock: it answers each question by its time.
        """
        if self._ended is not None or self._is_full:
            return succeed(None)
        ended: Deferred[Ending | None] = Deferred()
        self._number += 1
        self._waits[self._number] = ended
        self._numbers[ended] = self._number
        self._link.write([Await(self._number, position, consumer, int(within_s * 1000))])
        return ended

    def leave(
        self, position: Position, consumer: ConsumerId, ended: Deferred[Ending | None]
    ) -> None:
        """End a wait whose producer is gone: `ended`, of `wait`, does not fire (any more)."""
        del position, consumer  # its number says it all
        number = self._numbers.pop(ended, None)
        if number is not None:
            del self._waits[number]
            self._link.write([Leave(number)])

    @property
    def _is_full(self) -> bool:
        return len(self._looks) + len(self._waits) >= QUESTIONS_MAX

    # --- What the engine's process says -------------------------------------------------------------

    def state(self, state: State) -> None:
        """Go by the engine's state from here on."""
        self.tag = state.cluster_tag
        self._consumers = {
            route: ConsumerId(consumer) for _, route, consumer in state.routes if consumer
        }

    def found(self, answer: Found) -> None:
        """Tell who asked where a message stands. Raises MalformedFrameError."""
        asked = self._looks.pop(answer.number, None)
        if asked is None:
            return
        position, found = asked
        if answer.route is None:
            found.callback(_absence(answer.state))
            return
        state: Any = answer.state  # of this very build's kinds, as are the consumers'
        consumers = tuple(WithConsumer(*each) for each in answer.consumers)  # type: ignore[arg-type]
        found.callback(Standing(position, answer.route, state, consumers))

    def ended(self, answer: Ended) -> None:
        """Tell who waits how the wait ended."""
        ended = self._waits.pop(answer.number, None)
        if ended is not None:
            del self._numbers[ended]
            known = Ending(answer.state, answer.status, answer.headers, answer.body)
            ended.callback(None if answer.state == "unknown" else known)

    def end(self, words: str) -> None:
        """End all questions, and take no more: the engine is gone."""
        self._ended = DrainingError(words)
        looks, self._looks = self._looks, {}
        waits, self._waits = self._waits, {}
        self._numbers.clear()
        for _, found in looks.values():
            found.errback(self._ended)
        for ended in waits.values():
            ended.callback(None)


def _absence(state: str) -> Absence:
    try:
        return Absence(state)
    except ValueError:
        raise MalformedFrameError("no reason for a message not to be found") from None
