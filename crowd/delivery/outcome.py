"""What an attempt came to, and what that means.

Decides which answers deliver a message and which show that a consumer lives at all. Pure.
Leaves when to try again to ``backoff`` and ``plan``, and how an answer is got to ``courier``.

Status codes are read as RFC 9110, section 15, means them; Retry-After as its section 10.2.3.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from enum import Enum, StrEnum
from typing import Final, TypeAlias

import msgspec

RETRY_AFTER_DIGITS_MAX: Final = 9
"""A Retry-After of ten digits asks for more than thirty years; it is not taken seriously."""


class Outcome(Enum):
    """What an attempt means for its message.

    UNKNOWN is not failed: the consumer may have done its work. It is tried again, as RETRY
    is, because a message is delivered at least once (I4); it is counted apart. DEAD is for
    answers after which no attempt can succeed; the table names none yet.
    """

    DELIVERED = "delivered"
    RETRY = "retry"
    DEAD = "dead"
    UNKNOWN = "unknown"


class FailureKind(StrEnum):
    """Why an attempt ended without an answer."""

    CONNECT = "connect"
    """No connection came about: refused, unreachable, no such name, or not in time."""
    TLS = "tls"
    """The consumer did not prove who it is, or speaks no TLS."""
    TIMEOUT = "timeout"
    """The request was sent, and the answer was not whole in time."""
    BROKEN = "broken"
    """The connection ended before the answer was whole."""
    MALFORMED = "malformed"
    """What came back is no HTTP answer."""
    FENCED = "fenced"
    """Not sent at all: this node may no longer lead."""
    STOPPED = "stopped"
    """Abandoned, because this node stops or leads no more."""
    UNSIGNED = "unsigned"
    """Not sent: a secret that is to sign it cannot be read on this node."""
    UNDELIVERABLE = "undeliverable"
    """The stored message cannot be made a request."""


class Answered(msgspec.Struct, frozen=True, gc=False):
    """A whole answer. ``retry_after_s`` is what it asked for, in seconds, if anything.

    ``piece`` is the beginning of its body, 1 024 bytes at most, and none after a 2xx.
    """

    status: int
    retry_after_s: float | None = None
    piece: bytes = b""


class Failed(msgspec.Struct, frozen=True, gc=False):
    """No answer, and why, for a person too."""

    kind: FailureKind
    words: str


Answer: TypeAlias = Answered | Failed

_MAY_HAVE_ARRIVED: Final = frozenset(
    {FailureKind.TIMEOUT, FailureKind.BROKEN, FailureKind.MALFORMED, FailureKind.STOPPED}
)
_LIFELESS: Final = frozenset({408, 429})  # Request Timeout, Too Many Requests: "not now"


def outcome_of(answer: Answer) -> Outcome:
    """Return what an answer means for the message: only a 2xx delivers it."""
    if isinstance(answer, Answered):
        return Outcome.DELIVERED if 200 <= answer.status <= 299 else Outcome.RETRY
    return Outcome.UNKNOWN if answer.kind in _MAY_HAVE_ARRIVED else Outcome.RETRY


def shows_life(answer: Answer) -> bool:
    """Return whether the consumer as a whole works, whatever it says of this message.

    A 4xx does: it is about the message. A 5xx, 408, 429 or no answer do not.
    """
    if isinstance(answer, Answered):
        return answer.status < 500 and answer.status not in _LIFELESS
    return answer.kind is FailureKind.UNDELIVERABLE


def retry_after_s(value: bytes | None, date: bytes | None) -> float | None:
    """Return the seconds that a Retry-After asks for; None if it is absent or makes no sense.

    An HTTP date is measured against the same answer's own Date, so that no clock of ours,
    and no difference between two clocks, comes into it.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isdigit():
        return float(value) if len(value) <= RETRY_AFTER_DIGITS_MAX else None
    if date is None:
        return None
    try:
        then = parsedate_to_datetime(value.decode("ascii"))
        now = parsedate_to_datetime(date.decode("ascii"))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, or only one of them has a zone
        return None
