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
from typing import TYPE_CHECKING, Any, Final

from klein import Response
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException

from crowd.web.fields import host_name
from crowd.web.paths import BadPathError, readings
from crowd.web.problems import (
    BAD_TARGET,
    UNKNOWN_HOST,
    failure_value,
    problem_reply,
    reply_to_error,
)
from crowd.web.reply import Reply, make_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from klein import Klein

    from crowd.web.fields import Field
    from crowd.web.request import Request

ROUTES_KEPT: Final = 1024

ITSELF: Final = " itself"
"""Ends the endpoint of a route's second rule, for the top of what it takes."""


class Router:
    """Calls the handlers of `app`. In the reactor's thread.

    `hosts` are the names that it answers to, in lower case; any, where there are none.
    """

    log = Logger()

    def __init__(self, app: Klein, hosts: Iterable[bytes] = ()) -> None:
        self._hosts = frozenset(hosts)
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

    def _find(self, method: bytes, path: bytes) -> tuple[str, dict[str, Any]]:
        # Only the match sees the decoded path. One that is not UTF-8 is delivered as it came,
        # if a route takes it (I9); Klein's own resource would refuse it.
        text, *others = readings(path)
        endpoint, arguments = self._rule(method, text)
        for other in others:
            try:
                route = self._rule(method, other)[0]
            except HTTPException:
                route = ""
            if route.removesuffix(ITSELF) != endpoint.removesuffix(ITSELF):
                raise BadPathError(
                    "a path that is another route's, or nobody's, once it is resolved"
                )
        return endpoint, arguments

    def _rule(self, method: bytes, path: str) -> tuple[str, dict[str, Any]]:
        adapter = self._url_map.bind("", path_info=path)
        rule, arguments = adapter.match(method=method.decode("ascii"), return_rule=True)
        return rule.endpoint, dict(arguments)

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
            request.reply(reply)


def _from_klein(response: Response) -> Reply:
    headers: list[Field] = []
    for name, values in response.headers.items():
        several = [values] if isinstance(values, str | bytes) else values
        headers += [(_octets(name), _octets(value)) for value in several]
    return make_reply(response.code, tuple(headers), _octets(response.body))


def _octets(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text
