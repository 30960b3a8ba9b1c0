"""Producers that wait for what the consumer says: ``Prefer: wait=N`` (RFC 7240, section 4.3).

Decides who may wait and for how long, and what a producer hears in the end: the consumer's own
answer, or the usual one with the place to ask. Leaves whether a message is accepted, which a wait
never changes, to `ingest`; and the waiting to `Waits`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from crowd.message import ConsumerId, wait_mark
from crowd.web.messages import MESSAGES
from crowd.web.prefer import read_wait
from crowd.web.reply import make_reply
from crowd.web.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.defer import Deferred

    from crowd.clock import Clock
    from crowd.message import Position, RouteId
    from crowd.web.fields import Field
    from crowd.web.reply import Reply

_STATE: Final = b"Crowd-State"
_CORS: Final = b"access-control-"
"""What a consumer says to browsers is dropped where the route's door says it."""

GONE_S: Final = 3.0
"""How long a producer waits on who sends no more: as long as a read's reader (`WebLimits.gone_s`)."""

_RESET: Final = 205
"""Its answer has no content (RFC 9110, 15.3.6), whatever a consumer sends."""


class Ending(Protocol):
    """How a message ended for the consumer that is waited for."""

    @property
    def state(self) -> str:
        """``delivered``, ``dead`` or ``settled``."""

    @property
    def status(self) -> int:
        """Of the answer that is passed back; 0 if none is."""

    @property
    def headers(self) -> tuple[Field, ...]:
        """Its end-to-end fields, without its length."""

    @property
    def body(self) -> bytes:
        """Its body."""


class Waits(Protocol):
    """Who knows what consumers answer. All calls in the reactor's thread."""

    def consumer_of(self, route: RouteId) -> ConsumerId | None:
        """Return the consumer that is waited for on a route, or None without any."""

    def wait(self, position: Position, consumer: ConsumerId, within_s: float) -> Deferred[Any]:
        """Fire with the message's `Ending`, or None if that is not known in time. Never fails."""

    def leave(self, position: Position, consumer: ConsumerId, ended: Deferred[Any]) -> None:
        """End a wait whose producer is gone. `ended`, of `wait`, does not fire any more."""


class Wait(NamedTuple):
    """One producer's wait: for whom (nobody, if no consumer takes the route), and how long."""

    consumer: ConsumerId | None
    within_s: int


class Producer:
    """Whether the producer of a request is still there. To be made before anything is awaited.

    A wait of one that is gone would keep its place among the others until its time is over. Who closes
    his connection, and who only sends no more, look alike: his wait ends soon, and he is answered.
    """

    __slots__ = ("_clock", "_ended", "_leave", "is_gone")

    def __init__(self, request: Any, clock: Clock) -> None:
        self.is_gone = False
        self._clock = clock
        self._ended: Deferred[Any] | None = None
        self._leave: Callable[[Deferred[Any]], None] | None = None
        request.notifyFinish().addErrback(self._lost)
        if type(request) is Request:
            request.half_closed = self._half_closed

    def begin(self, ended: Deferred[Any], leave: Callable[[Deferred[Any]], None]) -> None:
        """Take note of the wait that `ended` ends, or `leave`, after which it does not fire."""
        self._ended, self._leave = ended, leave

    def _lost(self, _: object = None) -> bool:
        self.is_gone = True
        if self._ended is None or self._leave is None or self._ended.called:
            return False
        self._leave(self._ended)
        return True

    def _half_closed(self) -> None:
        self._clock.callLater(GONE_S, self._give_up)

    def _give_up(self) -> None:
        if self._lost() and self._ended is not None:
            self._ended.callback(None)


class Waiting:
    """The waits on a node's routes: `within_s` are the longest ones, by the routes' paths."""

    def __init__(self, waits: Waits, within_s: Mapping[str, float], clock: Clock) -> None:
        self._clock = clock
        self._waits = waits
        self._within_s = within_s

    def begin(
        self, path: str, route: RouteId, kept: list[Field]
    ) -> tuple[Wait | None, list[Field]]:
        """Return what the producer would wait for, and the fields that are stored of its request.

        On a route without waits all travels on as it came.
        """
        longest_s = self._within_s.get(path)
        if longest_s is None:
            return None, kept
        asked_s, rest = read_wait(kept)
        if asked_s is None:
            return None, kept
        within_s = min(asked_s, int(longest_s))
        consumer = self._waits.consumer_of(route) if within_s else None
        if consumer is not None:
            rest.append(wait_mark(consumer))
        return Wait(consumer, within_s), rest

    def usual(self, ending: Ending | None, wait: Wait, name: bytes) -> tuple[Field, ...]:
        """Return the fields of the usual answer to a producer that waited; `name` is the id."""
        state = "accepted" if ending is None else ending.state
        return (
            (_STATE, state.encode("ascii")),
            (b"Preference-Applied", b"wait=%d" % wait.within_s),
            (b"Location", MESSAGES.encode("ascii") + name),
        )

    def producer(self, request: Any) -> Producer:
        """Return whose request it is, as `wait` wants to know."""
        return Producer(request, self._clock)

    def wait(
        self, wait: Wait, position: Position, request: Any, producer: Producer
    ) -> Deferred[Any] | None:
        """Wait for the consumer; None if there is nothing to wait for, or nobody who waits.

        The message is stored, so the request need not hold its body any longer. The Deferred does
        not fire once the producer is gone.
        """
        if wait.consumer is None or producer.is_gone:
            return None
        if type(request) is Request:
            request.connection.release(request)
            request.held, request.body = 0, b""
        ended = self._waits.wait(position, wait.consumer, wait.within_s)
        producer.begin(ended, partial(self._waits.leave, position, wait.consumer))
        return ended


def passed_back(ending: Ending, wait: Wait, *, for_browsers: bool) -> Reply:
    """Return a consumer's answer as its producer hears it.

    `for_browsers`: the route's door says itself what browsers are to know.
    """
    headers = [
        field
        for field in ending.headers
        if not (for_browsers and field[0].lower().startswith(_CORS))
    ]
    headers.append((b"Preference-Applied", b"wait=%d" % wait.within_s))
    headers.append((_STATE, ending.state.encode("ascii")))
    body = b"" if ending.status == _RESET else ending.body
    return make_reply(ending.status, tuple(headers), body)
