"""Waits for real processes, which report to nobody: every wait here has an end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LOOK_EVERY_S = 0.02


class FaultError(Exception):
    """What was expected of the cluster did not happen; the words are for the table."""


def eventually(
    what: str, condition: Callable[[], T], within_s: float, *, every_s: float = LOOK_EVERY_S
) -> T:
    """Return the condition's first true value; raise FaultError after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline_s:
            raise FaultError(f"not within {within_s:g} s: {what}")
        time.sleep(every_s)
