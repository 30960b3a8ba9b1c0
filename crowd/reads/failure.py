"""Why a read got no answer, or not all of it. Pure."""

from __future__ import annotations

from enum import StrEnum

from crowd.errors import CrowdError


class ReadFailure(StrEnum):
    """Why; also the values of the label ``why`` of ``crowd_read_failures_total``."""

    UNREACHABLE = "unreachable"
    """No connection came about, or not in time; or the upstream did not prove who it is."""
    SLOW = "slow"
    """The answer's head, or the next piece of its body, did not come in time."""
    BROKEN = "broken"
    """The connection ended before the answer was whole."""
    MALFORMED = "malformed"
    """What came is no HTTP/1.x answer that can be passed on."""
    LARGE = "large"
    """The answer's head is over its bound."""
    BUSY = "busy"
    """Not asked: too many reads are under way."""
    LOOP = "loop"
    """Not asked: the read has come through this node before."""
    GONE = "gone"
    """Whoever asked went away, or did not take the answer in time."""
    STOPPED = "stopped"
    """Given up, because this node stops."""


class ReadFailedError(CrowdError):
    """A read has no answer, or not all of it. ``words`` are for the log: they tell addresses."""

    def __init__(self, kind: ReadFailure, words: str) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words
