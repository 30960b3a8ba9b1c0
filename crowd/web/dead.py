"""Dead letters over the admin port: listed, shown with their bytes, replayed, purged.

Decides which query or body asks for which letters, and how a letter is shown. Leaves who may
ask to ``gate`` (a letter holds what a producer sent and what a consumer answered, so reading
needs the token, too), and to `Letters` which letters there are and how they are worked through.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol, TypeAlias, get_args

import msgspec
from msgspec import Meta
from twisted.logger import Logger

from crowd.command import LETTERS_MAX
from crowd.errors import MalformedMessageError, UnknownLetterError
from crowd.message import WAIT_FIELD, decode_message
from crowd.quantity import rate_per_s
from crowd.value import INTEGER_MAX
from crowd.web.gate import AskedWrongError, answered, shown, told, wrong
from crowd.web.problems import BAD_QUERY, NOT_HERE

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from crowd.web.gate import Gate
    from crowd.web.reply import Reply

PAGE_MAX: Final = 1_000
"""Letters in one answer: half a megabyte of JSON at most, made in a few milliseconds."""
PAGE_DEFAULT: Final = 100
BODY_SHOWN_MAX: Final = 1 << 20
"""Bytes of a body that are shown. A whole one has up to 16 MiB, and more than twice that as JSON."""
RATE_MAX: Final = 1_000_000.0
"""Letters a second; faster than any log takes them, so there is no need to say more."""

Reason: TypeAlias = Literal["answer", "attempts", "age", "undeliverable", "operator", "window"]
State: TypeAlias = Literal["dead", "parked", "replay"]
_EXAMPLE: Final = '{"letters": [7]} or {"consumer": "rest-api", "all": true}'
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Selection(msgspec.Struct, frozen=True):
    """Which letters are meant: those for which all that is given is true.

    Times are the log's, in microseconds since 1970: buried at or after ``since_us`` and before
    ``until_us``.
    """

    consumer: str | None = None
    reason: Reason | None = None
    state: State | None = None
    since_us: int = 0
    until_us: int = INTEGER_MAX


class Letters(Protocol):
    """Who knows and changes the letters. All calls in the reactor's thread.

    Letters are meant by their numbers or by a selection of one consumer's. A change is an
    *order*: it is worked through in slices, and its number is returned at once. It raises
    ChangeRefusedError if it cannot be as things are, UnknownConsumerError and, for numbers,
    UnknownLetterError.
    """

    def page(
        self, wanted: Selection, after: int, limit: int
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Return letters with numbers above `after`, rising, at most `limit`, ready for JSON.

        And the number to go on after, or None if that was all. Fewer than `limit`, even none,
        may come with a number to go on after. Raises UnknownConsumerError.
        """

    def show(self, number: int) -> dict[str, Any]:
        """Return one letter, ready for JSON. Raises UnknownLetterError."""

    def message(self, number: int) -> Deferred[bytes | None]:
        """Fire with a letter's message in its stored form, or None if this node lacks it.

        It may have to be read from the disk or fetched from a peer, which takes a while.
        """

    def replay(
        self, letters: tuple[int, ...] | Selection, *, to: str | None, rate: float | None
    ) -> int:
        """Have letters delivered again, to their consumer or another one; `rate` is per second."""

    def purge(self, letters: tuple[int, ...] | Selection, *, rate: float | None) -> int:
        """Give letters up for good."""

    def orders(self) -> list[dict[str, Any]]:
        """Return this node's orders, the newest last, ready for JSON."""

    def stop(self, order: int) -> None:
        """Have an order end where it is. Raises UnknownOrderError."""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /api/dead/purge``, and of ``replay`` but for ``to``."""

    letters: (
        Annotated[
            tuple[Annotated[int, Meta(ge=1, le=INTEGER_MAX)], ...],
            Meta(min_length=1, max_length=LETTERS_MAX),
        ]
        | None
    ) = None
    consumer: str | None = None
    all: bool = False
    reason: Reason | None = None
    state: State | None = None
    since: str | None = None
    until: str | None = None
    rate: str | None = None
    to: str | None = None


class DeadPages:
    """Answers ``/api/dead``, to who passes the `gate`."""

    _log = Logger()

    def __init__(self, letters: Letters, gate: Gate) -> None:
        self._letters = letters
        self._gate = gate

    def listing(self, request: Any) -> Reply:
        """Answer ``GET /api/dead``."""
        return answered(lambda: told(200, self._page(request)), BAD_QUERY)

    def show(self, request: Any, number: int) -> Reply | Deferred[Reply]:
        """Answer ``GET /api/dead/N``."""

        def letter() -> dict[str, Any]:
            self._gate.check(request)
            return self._letters.show(number)

        def show(stored: bytes | None) -> Reply:
            return answered(lambda: _whole(letter(), stored))

        try:
            letter()
        except (AskedWrongError, UnknownLetterError):
            return show(None)
        return self._letters.message(number).addCallback(show)

    def orders(self, request: Any) -> Reply:
        """Answer ``GET /api/dead/orders``."""

        def show() -> Reply:
            self._gate.check(request)
            return told(200, {"orders": self._letters.orders()})

        return answered(show)

    def stop(self, request: Any, order: int) -> Reply:
        """Answer ``DELETE /api/dead/orders/N``."""

        def stop() -> Reply:
            self._gate.check(request)
            self._letters.stop(order)
            self._log.info("an operator stops order {order}", order=order)
            return told(202, {"asked": "stop", "order": order})

        return answered(stop)

    def replay(self, request: Any) -> Reply:
        """Answer ``POST /api/dead/replay``."""
        return answered(lambda: self._order(request, "replay"))

    def purge(self, request: Any) -> Reply:
        """Answer ``POST /api/dead/purge``."""
        return answered(lambda: self._order(request, "purge"))

    def _page(self, request: Any) -> dict[str, Any]:
        self._gate.check(request)
        asked = _Query(request.args)
        wanted = Selection(
            consumer=asked.text("consumer"),
            reason=asked.one_of("reason", get_args(Reason)),
            state=asked.one_of("state", get_args(State)),
            since_us=_time_us("since", asked.text("since"), 0),
            until_us=_time_us("until", asked.text("until"), INTEGER_MAX),
        )
        after = asked.number("after", 0, 0, INTEGER_MAX)
        limit = asked.number("limit", PAGE_DEFAULT, 1, PAGE_MAX)
        asked.close()
        letters, following = self._letters.page(wanted, after, limit)
        return {"letters": letters, "next": following}

    def _order(self, request: Any, kind: str) -> Reply:
        wanted = self._gate.body(request, Wanted, _EXAMPLE)
        letters = _meant(wanted)
        rate = None if wanted.rate is None else rate_per_s(wanted.rate)
        if rate is not None and rate > RATE_MAX:
            raise ValueError(f"rate: found {shown(wanted.rate or '')}; expected 1000000/s at most")
        if kind == "replay":
            order = self._letters.replay(letters, to=wanted.to, rate=rate)
        elif wanted.to is not None:
            raise ValueError("to: found it; expected it with a replay alone")
        else:
            order = self._letters.purge(letters, rate=rate)
        self._log.info(
            "an operator asks: {kind}, order {order}, {letters}",
            kind=kind, order=order, letters=_told(letters),
        )  # fmt: skip
        return told(202, {"asked": kind, "order": order})


def _whole(letter: dict[str, Any], stored: bytes | None) -> Reply:
    """Return a letter with its message; raise AskedWrongError where that cannot be."""
    if stored is None:
        raise wrong(
            NOT_HERE, f"found no copy of letter {letter['number']} on this node yet; try again"
        )
    try:
        return told(200, {"letter": letter, "message": shown_message(stored)})
    except MalformedMessageError as error:
        raise wrong(NOT_HERE, f"{error}; ask another node") from None


def shown_message(stored: bytes) -> dict[str, Any]:
    """Return a stored message, ready for JSON; raise MalformedMessageError if it is none.

    The body is base64, at most `BODY_SHOWN_MAX` bytes of it, and beside that ``text`` if it is
    printable UTF-8; ``body_bytes`` is how many it has. Octets of heads stand as the characters
    of the same number. That the producer waited is no field of its own (`crowd.message.wait_mark`).
    """
    message = decode_message(stored)
    fields = [field for field in message.headers if field[0] != WAIT_FIELD]
    body = message.body[:BODY_SHOWN_MAX]
    fact: dict[str, Any] = {
        "method": message.method.decode("latin-1"),
        "target": message.target.decode("latin-1"),
        "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in fields],
        "received_us": message.received_us,
        "client": message.client.decode("latin-1"),
        "scheme": message.scheme.decode("latin-1"),
        "body_bytes": len(message.body),
        "body": base64.b64encode(body).decode("ascii"),
    }
    text = _printable(message.body) if len(message.body) <= BODY_SHOWN_MAX else None
    return fact if text is None else fact | {"text": text}


def _printable(body: bytes) -> str | None:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.translate({9: None, 10: None, 13: None}).isprintable() else None


def _meant(wanted: Wanted) -> tuple[int, ...] | Selection:
    """Return which letters a body means; raise ValueError if that is not clear."""
    filters = (wanted.consumer, wanted.reason, wanted.state, wanted.since, wanted.until)
    if wanted.letters is not None:
        if wanted.all or any(each is not None for each in filters):
            raise ValueError("found numbers and a selection; expected one of the two")
        return tuple(sorted(set(wanted.letters)))
    if not wanted.all or wanted.consumer is None:
        raise ValueError(f"found no letters; expected {_EXAMPLE}")
    return Selection(
        consumer=wanted.consumer,
        reason=wanted.reason,
        state=wanted.state,
        since_us=_time_us("since", wanted.since, 0),
        until_us=_time_us("until", wanted.until, INTEGER_MAX),
    )


def _time_us(key: str, text: str | None, default: int) -> int:
    """Return a time as microseconds since 1970; raise ValueError if it is none."""
    if text is None:
        return default
    try:
        # Taking one without a zone from one that has it is a TypeError.
        moment_us = (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            f"{key}: found {shown(text)}; expected a time with its zone such as "
            "'2026-11-24T12:00:00Z'"
        ) from None
    return max(0, moment_us)


def _told(letters: tuple[int, ...] | Selection) -> str:
    """Return which letters are meant, for one line of the log."""
    return f"{len(letters)} letters" if isinstance(letters, tuple) else str(letters)


class _Query:
    """A query's values, each once; ``close`` it when all are read: what is left is unknown."""

    def __init__(self, values: dict[bytes, list[bytes]]) -> None:
        self._values = dict(values)
        self._known: list[str] = []

    def text(self, key: str) -> str | None:
        """Return a value, or None if it was left out; raise ValueError if it stands twice."""
        self._known.append(key)
        values = self._values.pop(key.encode("ascii"), [])
        if len(values) > 1:
            raise ValueError(f"{key}: found {len(values)} of them; expected 1")
        return values[0].decode("utf-8", "replace") if values else None

    def one_of(self, key: str, known: tuple[str, ...]) -> Any:
        """Return a value that must be among `known`."""
        text = self.text(key)
        if text is not None and text not in known:
            raise ValueError(f"{key}: found {shown(text)}; expected one of {', '.join(known)}")
        return text

    def number(self, key: str, default: int, least: int, most: int) -> int:
        """Return a whole number from `least` to `most`."""
        text = self.text(key)
        if text is None:
            return default
        # The length first: Python refuses to read numbers of thousands of digits, in its words.
        good = text.isascii() and text.isdecimal() and len(text) <= 19
        if not good or not least <= int(text) <= most:
            raise ValueError(f"{key}: found {shown(text)}; expected from {least} to {most}")
        return int(text)

    def close(self) -> None:
        """Raise ValueError for a key that nothing has asked for."""
        for key in self._values:
            known = ", ".join(self._known)
            raise ValueError(f"{shown(key)}: found an unknown key; expected one of {known}")
