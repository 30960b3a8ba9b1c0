"""What an attempt came to, and what that means.

Decides which answers deliver a message, which are tried again, which hold the whole consumer,
which end a message, and which show that a consumer lives at all. Pure. Leaves when to try again
to ``backoff``, ``breaker`` and ``plan``, and how an answer is got to ``courier``.

Status codes are read as RFC 9110, section 15, means them; Retry-After as its section 10.2.3.
The table stands in docs/explanation/delivery.md.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from enum import Enum, StrEnum
from typing import Final, TypeAlias

import msgspec

from crowd.command import WORDS_MAX
from crowd.definition import Answers

RETRY_AFTER_DIGITS_MAX: Final = 9
"""A Retry-After of ten digits asks for more than thirty years; it is not taken seriously."""


class Outcome(Enum):
    """What an attempt means for its message.

    UNKNOWN is not failed: the consumer may have done its work. It is tried again, as RETRY
    is, because a message is delivered at least once (I4); it is counted apart, as it may be
    had twice. HOLD is tried again too, and nothing else is attempted meanwhile: the consumer's
    configuration is probably wrong. DEAD is for answers after which no attempt can succeed.
    """

    DELIVERED = "delivered"
    RETRY = "retry"
    HOLD = "hold"
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

    ``piece`` is the beginning of its body, 1 024 bytes at most, and none after a 2xx. ``whole`` is
    all of it, headers and body, where a producer waits for it and it is not too large.
    """

    status: int
    retry_after_s: float | None = None
    piece: bytes = b""
    whole: tuple[tuple[tuple[bytes, bytes], ...], bytes] | None = None


class Failed(msgspec.Struct, frozen=True, gc=False):
    """No answer, and why, for a person too."""

    kind: FailureKind
    words: str


Answer: TypeAlias = Answered | Failed

_MAY_HAVE_ARRIVED: Final = frozenset(
    {FailureKind.TIMEOUT, FailureKind.BROKEN, FailureKind.MALFORMED, FailureKind.STOPPED}
)
_OURS: Final = frozenset({FailureKind.FENCED, FailureKind.STOPPED, FailureKind.UNDELIVERABLE})
_NOT_NOW: Final = frozenset({408, 425, 429})  # Request Timeout, Too Early, Too Many Requests
_NOT_SO: Final = frozenset({401, 403, 404, 407})  # who asks, or where, is wrong: for any message
_TOO_MUCH: Final = frozenset({429, 503})
_NOT_THERE: Final = _NOT_NOW | {502, 503, 504}  # and what a proxy says of who is gone
_BY_TABLE: Final = Answers()


def outcome_of(answer: Answer, answers: Answers = _BY_TABLE) -> Outcome:
    """Return what an answer means for the message: only a 2xx delivers it.

    `answers` are the consumer's own rules, which go before the table; none is about a 2xx.
    """
    if isinstance(answer, Answered):
        if 200 <= answer.status <= 299:
            return Outcome.DELIVERED
        return _named(answer.status, answers) or _by_table(answer.status)
    if answer.kind is FailureKind.UNDELIVERABLE:
        return Outcome.DEAD
    if answer.kind is FailureKind.UNSIGNED:
        return Outcome.HOLD  # what is wrong is here, with every message alike
    return Outcome.UNKNOWN if answer.kind in _MAY_HAVE_ARRIVED else Outcome.RETRY


def _named(status: int, answers: Answers) -> Outcome | None:
    """Return what a consumer's own rules say of a status: the exact one before its class."""
    if answers is _BY_TABLE:
        return None
    exact = str(status)
    for text in (exact, exact[0] + "xx"):
        if text in answers.retry:
            return Outcome.RETRY
        if text in answers.hold:
            return Outcome.HOLD
        if text in answers.dead:
            return Outcome.DEAD
    return None


def _by_table(status: int) -> Outcome:
    if 300 <= status <= 399 or status in _NOT_SO:
        return Outcome.HOLD
    if 400 <= status <= 499 and status not in _NOT_NOW:
        return Outcome.DEAD
    return Outcome.RETRY  # and what HTTP does not know, 600 and above: nothing is thrown away


def shows_life(answer: Answer, outcome: Outcome) -> bool | None:
    """Return whether the consumer as a whole works, whatever it says of this message.

    An answer that ends the message does, and a 4xx that has it tried again. A 5xx, 408, 425,
    429, one that holds the consumer, or no answer do not. None for what is no word of its own.
    """
    if isinstance(answer, Failed):
        return None if answer.kind in _OURS else False
    if outcome is Outcome.RETRY:
        return answer.status < 500 and answer.status not in _NOT_NOW
    return outcome is not Outcome.HOLD


def is_overload(answer: Answer) -> bool:
    """Return whether the consumer says, or shows, that it has too much to do."""
    if isinstance(answer, Answered):
        return answer.status in _TOO_MUCH
    return answer.kind is FailureKind.TIMEOUT


def asks_for_less(answer: Answer) -> bool:
    """Return whether it says so for its own part: 429, or a 503 with the time to come back.

    A 503 without, or no answer in time, may have other reasons.
    """
    return isinstance(answer, Answered) and (
        answer.status == 429 or (answer.status == 503 and answer.retry_after_s is not None)
    )


def is_there(answer: Answer) -> bool:
    """Return whether the consumer itself answered, and neither a proxy for it nor "not now".

    Any other failure is the same for every message while the consumer is gone.
    """
    return isinstance(answer, Answered) and answer.status not in _NOT_THERE


def is_of_content(answer: Answer) -> bool:
    """Return whether another message might have had another answer.

    Not after one that says "not now", and not if nothing arrived: those are for all alike.
    """
    if isinstance(answer, Answered):
        return answer.status not in _NOT_NOW and answer.status not in _TOO_MUCH
    return answer.kind in _MAY_HAVE_ARRIVED


def in_words(answer: Answer) -> str:
    """Return what came of an attempt for people: one short line."""
    if isinstance(answer, Answered):
        return f"answered {answer.status}"
    return printable(f"{answer.kind}: {answer.words}")


def last_words(answer: Answer) -> str:
    """Return what a dead letter says of its last answer, beside the status: printable text.

    A piece of its body, or why there was none; at most `WORDS_MAX` characters.
    """
    if isinstance(answer, Answered):
        return printable(answer.piece.decode("utf-8", "replace"))
    return in_words(answer)


def printable(text: str) -> str:
    """Return `text` on one line, without what a terminal or a page could take for more than text.

    Each run of white space and of characters that do not print becomes one space; at most
    `WORDS_MAX` characters are left.
    """
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:WORDS_MAX]


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
