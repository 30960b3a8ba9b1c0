"""From a request to its Klein handler, with the match remembered.

Decides which handler a method and path belong to, by the Klein app's own rules, and calls it
through ``Klein.execute_endpoint``. Werkzeug's match costs 10-20 us, so matches are kept, the
least recently used of 1 024 going first: paths are the producers' to choose. What does not
match is never kept.

A path that a consumer might take for one of another route, or of none, belongs to nobody: see
``paths``. And where the names under which the node is reached are known, all others are refused
(RFC 9110 section 15.5.20), so that a page whose name was pointed here posts nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from klein import Response
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException

from crowd.web.fields import host_name
from crowd.web.paths import BadPathError
from crowd.web.problems import (
    BAD_TARGET,
    UNKNOWN_HOST,
    failure_value,
    problem_reply,
    reply_to_error,
)
from crowd.web.reply import Reply, make_reply
from crowd.web.rules import match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from klein import Klein

    from crowd.web.entrance import Entrance
    from crowd.web.fields import Field, Fields
    from crowd.web.request import Connection, Request

ROUTES_KEPT: Final = 1024
Shown: TypeAlias = "Callable[[bytes, bytes, Sequence[Field]], tuple[Field, ...]]"


class Router:
    """Calls the handlers of `app`. In the reactor's thread.

    `hosts` are the names that it answers to, in lower case; any, where there are none. `at_head`
    and `shown` are None unless a route has a door in `entrance`: see `_at_head` and
    `Entrance.shown`.
    """

    log = Logger()

    def __init__(
        self, app: Klein, hosts: Iterable[bytes] = (), entrance: Entrance | None = None
    ) -> None:
        self._hosts = frozenset(hosts)
        self.at_head = self._at_head if entrance else None
        self.shown: Shown | None = entrance.shown if entrance else None
        self._entrance = entrance
        self._execute: Callable[..., Any] = app.execute_endpoint
        self._url_map = app.url_map
        self._match = lru_cache(maxsize=ROUTES_KEPT)(self._find)

    def handle(self, request: Request) -> None:
        """Have `request` answered, now or later. Never raises: a failure is an answer, too."""
        if self._hosts and host_name(request.fields.host) not in self._hosts:
            request.reply(problem_reply(UNKNOWN_HOST))
            return
        try:
            endpoint, arguments = self._match(request.method, request.path)
            result = self._execute(endpoint, request, **arguments)
            if not (request.answers_itself or request.finished):
                self._render(request, result)
        except Exception as error:  # noqa: BLE001 - any error of a handler is an answer
            self._failed(request, error)

    def refusal(self, method: bytes, target: bytes, host: bytes) -> Reply | None:
        """Return the answer that a request is certain to get before its body is read."""
        if self._hosts and host_name(host) not in self._hosts:
            return problem_reply(UNKNOWN_HOST)
        try:
            self._match(method, target.partition(b"?")[0])
        except BadPathError as error:
            return problem_reply(BAD_TARGET, f"found {error}")
        except HTTPException as error:
            return reply_to_error(error)
        return None

    def _at_head(
        self, connection: Connection, method: bytes, target: bytes, fields: Fields,
        *, waits: bool,
    ) -> Reply | None:  # fmt: skip
        """Return the answer that a request's door has for it before its body is read, or None."""
        entrance = self._entrance
        assert entrance is not None, "there is a door"
        hurried = waits or fields.transfer is not None
        if not hurried and (fields.length or 0) <= entrance.unhurried_bytes:
            return None
        try:
            endpoint, _ = self._match(method, target.partition(b"?")[0])
        except (BadPathError, HTTPException):
            return None  # that is answered once the request is here
        return entrance.at_head(endpoint, connection, method, fields, waits=waits)

    def _find(self, method: bytes, path: bytes) -> tuple[str, dict[str, Any]]:
        return match(self._url_map, method, path)

    def _render(self, request: Request, result: Any) -> None:
        """Send what a handler returned, of the kinds that Klein takes."""
        if isinstance(result, Deferred):
            result.addCallback(self._rendered, request)
            result.addErrback(self._late, request)
        elif not request.finished:
            self._rendered(result, request)

    def _rendered(self, result: Any, request: Request) -> None:
        if request.finished:
            return
        if isinstance(result, Response):
            request.reply(_from_klein(result))
            return
        if isinstance(result, str):
            result = result.encode("utf-8")
        if isinstance(result, bytes):
            request.write(result)
        elif result is not None:
            raise TypeError(f"a handler returned {type(result)}; expected bytes, str or None")
        request.finish()

    def _late(self, failure: Failure, request: Request) -> None:
        self._failed(request, failure_value(failure))

    def _failed(self, request: Request, error: BaseException) -> None:
        if isinstance(error, BadPathError):
            reply = problem_reply(BAD_TARGET, f"found {error}")
        else:
            reply = reply_to_error(error)
        if reply.status == 500:
            self.log.failure("a handler failed", failure=Failure(error))  # type: ignore[no-untyped-call]  # Twisted's
        if not request.finished:
            shown = self.shown
            target, headers = request.uri, request.fields.kept
            request.reply(reply, () if shown is None else shown(request.method, target, headers))


def _from_klein(response: Response) -> Reply:
    headers: list[Field] = []
    for name, values in response.headers.items():
        several = [values] if isinstance(values, str | bytes) else values
        headers += [(_octets(name), _octets(value)) for value in several]
    return make_reply(response.code, tuple(headers), _octets(response.body))


def _octets(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text
