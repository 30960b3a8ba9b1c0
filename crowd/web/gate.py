"""The gate of the admin port: who may change something there, and what a body must be.

Decides what a request must show before anything is asked of the cluster. A web page reaches
loopback, too, so a token is needed that no page can know, in a header that no page can send
elsewhere without being allowed to; and an Origin that is not the port's own is refused
whatever it shows. The same token is asked of who reads what producers sent. Leaves to each
page what its body means.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from crowd.errors import (
    BacklogLeftError,
    ChangeRefusedError,
    ConfigurationError,
    UnknownConsumerError,
    UnknownLetterError,
    UnknownMemberError,
    UnknownOrderError,
)
from crowd.web.problems import (
    BACKLOG_LEFT,
    BAD_CHANGE,
    CHANGE_REFUSED,
    FOREIGN_ORIGIN,
    NO_TOKEN,
    NOT_JSON,
    UNKNOWN_CONSUMER,
    UNKNOWN_LETTER,
    UNKNOWN_MEMBER,
    UNKNOWN_ORDER,
    Problem,
    problem_reply,
)
from crowd.web.reply import Reply, make_reply

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

JSON: Final = b"application/json"
_HEADERS: Final = (
    (b"Content-Type", JSON + b";charset=UTF-8"),
    (b"Cache-Control", b"no-store"),
)
_SHOWN_MAX: Final = 80
"""Characters of what came from outside that an answer repeats: it stays one line."""


_OF_ERRORS: Final[tuple[tuple[type[ChangeRefusedError], Problem], ...]] = (
    (UnknownMemberError, UNKNOWN_MEMBER),
    (UnknownConsumerError, UNKNOWN_CONSUMER),
    (UnknownLetterError, UNKNOWN_LETTER),
    (UnknownOrderError, UNKNOWN_ORDER),
    (BacklogLeftError, BACKLOG_LEFT),
    (ChangeRefusedError, CHANGE_REFUSED),
)
"""The first class that fits decides."""


class AskedWrongError(Exception):
    """A request that cannot be taken, with the answer to it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Gate:
    """Lets requests pass that show `token`. Without a token nobody passes."""

    def __init__(self, token: str) -> None:
        self._token = token

    def check(self, request: Any) -> None:
        """Let a request pass; raise AskedWrongError with the answer to one that may not."""
        origins = request.requestHeaders.getRawHeaders(b"Origin", [])
        own = b"http://" + (request.getHeader(b"Host") or b"").lower()
        for origin in origins:
            if origin.lower() != own:
                raise wrong(FOREIGN_ORIGIN, f"found Origin {shown(origin)}")
        given = request.requestHeaders.getRawHeaders(b"Authorization", [])
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        # In constant time: how long it takes must not tell how much of a guess is right.
        known = hmac.compare_digest(token.strip(), self._token.encode("ascii"))
        if not self._token or scheme.lower() != b"bearer" or not known:
            found = "another one" if given else "none"
            raise wrong(
                NO_TOKEN,
                f"found {found}; expected 'Authorization: Bearer' and what is in the file "
                "`token` of the node's directory",
            )

    def body(self, request: Any, kind: type[T], example: str) -> T:
        """Return what the JSON body of a request that may pass means.

        Raises AskedWrongError with the answer to one that may not pass, or has another body
        than `kind` describes; `example` shows a good one.
        """
        self.check(request)
        return _decoded(request, request.content.read(), kind, example)

    def words(self, request: Any, kind: type[T]) -> T:
        """Return what `body` does; a request without a body, of any type, means ``{}``."""
        self.check(request)
        text = request.content.read()
        if not text:
            return msgspec.convert({}, kind)
        return _decoded(request, text, kind, "{}")


def wrong(problem: Problem, detail: str, **facts: int) -> AskedWrongError:
    """Return what to raise for a request whose answer is `problem`."""
    return AskedWrongError(problem_reply(problem, detail, facts=tuple(facts.items())))


def answered(make: Callable[[], Reply], problem: Problem = BAD_CHANGE) -> Reply:
    """Return what `make` answers, or what is against it; `problem` is a wrong value's."""
    try:
        return make()
    except AskedWrongError as error:
        return error.reply
    except ConfigurationError as error:
        return wrong(problem, "; ".join(error.problems)).reply
    except ValueError as error:
        return wrong(problem, str(error)).reply
    except ChangeRefusedError as error:
        kind = next(kind for known, kind in _OF_ERRORS if isinstance(error, known))
        facts = {"backlog": error.backlog} if isinstance(error, BacklogLeftError) else {}
        return wrong(kind, str(error), **facts).reply


def told(status: int, value: Any) -> Reply:
    """Return the answer that says `value`."""
    return make_reply(status, _HEADERS, json.dumps(value).encode("ascii") + b"\n")


def shown(value: str | bytes) -> str:
    """Return a value that came from outside as a line may hold it."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return ascii(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…")


def _decoded(request: Any, text: bytes, kind: type[T], example: str) -> T:
    named = (request.getHeader(b"Content-Type") or b"").partition(b";")[0].strip().lower()
    if named != JSON:
        raise wrong(NOT_JSON, f"found Content-Type {shown(named)}; expected {JSON.decode()}")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        words = str(error) or "found too many brackets"
        raise wrong(BAD_CHANGE, f"{words}; expected an object such as {example}") from None
