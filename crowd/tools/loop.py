"""A loop over sockets and timers for the two measuring tools, `crowd load` and `crowd sink`.

They share a machine with the nodes they measure, so what they cost is taken from those. An
answer is read and the next request sent with two system calls in one turn; a reactor's write
would be a second turn and two changes to what is polled. The nodes never use this module.

Everything runs in the thread that calls `Loop.run`.
"""

from __future__ import annotations

import heapq
import select
import signal
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT

_WAIT_MAX_S: Final = 0.1
"""A signal is noticed this late at most; ten empty turns a second cost nothing."""

_COARSE_S: Final = 0.02
"""epoll counts whole milliseconds. A timer nearer than this is waited for with select, which
counts microseconds: half a millisecond of lateness would be measured as a node's latency."""


class Loop:
    """Calls what is ready: `watch` for sockets, `call_at` for times."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._running = True

    now_s = staticmethod(time.monotonic)
    """Seconds, never going back; what `call_at` counts in."""

    def watch(self, fd: int, events: int, ready: Callable[[int], None]) -> None:
        """Call `ready` with what happened (epoll's bits) whenever one of `events` is there."""
        if fd in self._ready:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._ready[fd] = ready

    def unwatch(self, fd: int) -> None:
        """Forget a socket, before it is closed; one that was never watched is fine."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, at_s: float, call: Callable[[], None]) -> None:
        """Call `call` once, when `now_s` has reached `at_s`."""
        self._count += 1  # a tie goes to the earlier call; functions have no order
        heapq.heappush(self._timers, (at_s, self._count, call))

    def stop(self) -> None:
        """Leave `run` after the present turn."""
        self._running = False

    def stop_at_signals(self) -> None:
        """Make SIGINT and SIGTERM stop the loop in good order."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.stop())

    def run(self) -> None:
        """Turn until `stop`."""
        self._running = True
        ready, timers, poll = self._ready, self._timers, self._epoll.poll
        while self._running:
            wait_s = min(timers[0][0] - time.monotonic(), _WAIT_MAX_S) if timers else _WAIT_MAX_S
            if 0 < wait_s < _COARSE_S:
                select.select((self._epoll,), (), (), wait_s)
                wait_s = 0
            for fd, events in poll(max(wait_s, 0)):
                call = ready.get(fd)
                if call is not None:  # else: closed earlier in this turn
                    call(events)
            if timers:
                now_s = time.monotonic()
                while timers and timers[0][0] <= now_s:
                    heapq.heappop(timers)[2]()

    def close(self) -> None:
        """Release the loop's own descriptor."""
        self._epoll.close()
