"""The clock, as crowd uses it: seconds that never step back, and calls to come.

Decides nothing. Twisted's reactor is one (``service.py`` gives it the monotonic clock, as
its own follows the wall clock), and so is ``twisted.internet.task.Clock`` in tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer(Protocol):
    """A call to come."""

    def active(self) -> bool:
        """Tell whether the call is still to come."""

    def cancel(self) -> None:
        """Call it off; raises if it was made already."""


class Clock(Protocol):
    """What is used of Twisted's IReactorTime, which is not typed well enough to be used."""

    def seconds(self) -> float:
        """Return the time in seconds since some moment; it never steps back."""

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any) -> Timer:  # noqa: A002, N802
        """Call after `delay` seconds; return what can be called off."""
