"""Keeps calling one peer until it answers, and again when it is lost.

Decides when the next call is due; leaves what is said to ``link``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from twisted.internet.defer import Deferred, fail

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from crowd.clock import Clock

DELAY_FIRST_S: Final = 0.05
"""A restarted peer is back within a second; the first calls are to meet it early."""

DELAY_MOST_S: Final = 1.0
"""Calling a dead peer costs one packet a second; longer would delay its return."""

CONNECT_WITHIN_S: Final = 5.0
"""For name lookup and TCP's handshake, with one lost packet of it sent again."""


class ClientEndpoint(Protocol):
    """What is used of Twisted's IStreamClientEndpoint."""

    def connect(self, protocolFactory: Any, /) -> Deferred[Any]:  # noqa: N803
        """Connect, and return the protocol that the factory built."""


class Nowhere:
    """The way to an address that is none: like a peer that never answers, with the reason."""

    def __init__(self, error: ValueError) -> None:
        self._error = error

    def connect(self, _: Any, /) -> Deferred[Any]:
        """Fail."""
        return fail(self._error)


def delay_s(failures: int, chance: float) -> float:
    """Return how long to wait after `failures` (>= 1) calls in a row that came to nothing.

    Doubles from 50 ms to 1 s; `chance` in [0, 1) takes off up to half, so that two nodes
    that lost a third one do not call it in step.
    """
    longest_s = min(DELAY_MOST_S, DELAY_FIRST_S * 2.0 ** min(failures - 1, 10))
    return longest_s * (1.0 - chance / 2.0)


class Dialer:
    """Calls `endpoint` from `start` until `stop`, one connection at a time.

    Whoever owns the connection that came about says `ended` when it is over, and `rest` when
    one came about otherwise. `failed` is told in words why a call came to nothing; `chance`
    returns a random number in [0, 1).
    """

    def __init__(
        self,
        clock: Clock,
        endpoint: ClientEndpoint,
        factory: Any,
        *,
        failed: Callable[[str], None],
        chance: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._factory = factory
        self._failed = failed
        self._chance = chance
        self._failures = 0
        self._running = False
        self._connecting: Deferred[Any] | None = None
        self._due: Any = None

    def start(self, *, linked: bool = False) -> None:
        """Call now; or, if `linked` says that a connection is there already, when it `ended`."""
        self._running = True
        if not linked:
            self._call()

    def stop(self) -> None:
        """Call no more, and give up a call under way. A connection stays as it is."""
        self._running = False
        self.rest()

    def rest(self) -> None:
        """Give up a call under way or due: there is a connection, and `ended` will be said."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()

    def ended(self, *, served: bool) -> None:
        """Note that a connection is over; `served` says that it had been of use, so call again soon."""
        if served:
            self._failures = 0
        self._again()

    def _call(self) -> None:
        self._due = None
        connecting = self._connecting = self._endpoint.connect(self._factory)
        connecting.addTimeout(CONNECT_WITHIN_S, cast("Any", self._clock))
        connecting.addCallbacks(self._answered, self._unanswered)

    def _answered(self, _: object) -> None:
        self._connecting = None

    def _unanswered(self, failure: Failure) -> None:
        if self._connecting is not None:  # else the failure is that of giving up
            self._connecting = None
            self._failed(failure.getErrorMessage() or type(failure.value).__name__)
            self._again()

    def _again(self) -> None:
        if self._running and self._due is None and self._connecting is None:
            self._failures += 1
            self._due = self._clock.callLater(delay_s(self._failures, self._chance()), self._call)
