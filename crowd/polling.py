"""What is ready is called directly, in every process that takes requests.

Twisted's reactor puts a context around each call of a reader or a writer, for the sake of log lines
that do not say whose they are. crowd's say so, and what the context costs, two frames and a dictionary,
is a twentieth of a request's processor time (decision 20).

A reactor's private names are used for it: of one that lacks them, or is another, nothing is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

if TYPE_CHECKING:
    from collections.abc import Callable

_USED: Final = ("_poller", "_selectables", "_doReadOrWrite")
_log = Logger()


def call_directly(reactor: Any) -> bool:
    """Have `reactor` do without the context; return whether it does."""
    try:
        from twisted.internet import epollreactor  # noqa: PLC0415  not all systems have it
    except ImportError:
        return False
    known: Any = epollreactor.EPollReactor
    if type(reactor) is not known or not all(hasattr(reactor, name) for name in _USED):
        return False
    reactor.doIteration = _iteration(
        reactor._poller.poll,  # noqa: SLF001
        reactor._selectables,  # noqa: SLF001
        reactor._doReadOrWrite,  # noqa: SLF001
    )
    return True


def _iteration(
    poll: Callable[..., list[tuple[int, int]]],
    selectables: dict[int, Any],
    call: Callable[[Any, int, int], None],
) -> Callable[[float | None], None]:
    """Return what waits, for so many seconds, and calls what is ready then."""

    def iteration(timeout: float | None) -> None:
        for descriptor, event in poll(-1 if timeout is None else timeout, len(selectables)):
            selectable = selectables.get(descriptor)
            if selectable is None:
                continue  # one that was called before it has taken it out
            try:
                call(selectable, descriptor, event)
            except Exception:  # noqa: BLE001  logged, as Twisted does: it ends nobody else's turn
                _log.failure("what was ready failed")

    return iteration
