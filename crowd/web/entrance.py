"""The doors of a node's routes, as requests meet them: the verdict becomes an answer.

Decides which door a request meets and what is counted. Leaves the verdict to ``crowd/door``.
A route without a policy has no door, and none of this is called for it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from werkzeug.exceptions import HTTPException

from crowd.door.asked import Asked, Reason, Refused
from crowd.web import problems
from crowd.web.paths import BadPathError
from crowd.web.proof import certificate_names
from crowd.web.reply import NO_CONTENT, make_reply
from crowd.web.rules import ITSELF, match

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from werkzeug.routing import Map

    from crowd.door.door import Door
    from crowd.door.proxies import Proxies
    from crowd.web.fields import Field, Fields
    from crowd.web.reply import Reply

_PROBLEMS: Final = {
    Reason.NO_CREDENTIAL: problems.NO_CREDENTIAL,
    Reason.UNKNOWN_CREDENTIAL: problems.UNKNOWN_CREDENTIAL,
    Reason.FOREIGN_PAGE: problems.FOREIGN_PAGE,
    Reason.BODY: problems.BODY_TOO_LARGE,
    Reason.HEAD: problems.HEAD_TOO_LARGE,
    Reason.TYPE: problems.UNSUPPORTED_TYPE,
    Reason.CODING: problems.UNSUPPORTED_CODING,
    Reason.MALFORMED: problems.MALFORMED_BODY,
    Reason.SCHEMA: problems.SCHEMA_MISMATCH,
    Reason.RATE: problems.TOO_MANY,
    Reason.SIGNATURE: problems.WRONG_SIGNATURE,
    Reason.CERTIFICATE: problems.WRONG_CERTIFICATE,
    Reason.UNCHECKED: problems.UNCHECKED,
}
_NOTHING: Final[tuple[Field, ...]] = ()
_ASKS_FIRST: Final = b"access-control-request-method"


class Tally:
    """How many requests were refused, by reason. Outlives the doors, which a reload replaces."""

    def __init__(self) -> None:
        self.refused = dict.fromkeys(Reason, 0)


class Entrance:
    """The doors by their routes' paths. `seconds` is monotonic. In the reactor's thread.

    What `proxies`, if there are some, say of a producer's address is believed.
    """

    def __init__(
        self,
        doors: Mapping[str, Door],
        wall_us: Callable[[], int],
        seconds: Callable[[], float],
        tally: Tally | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._doors = dict(doors)
        self._proxies = proxies
        # Small bodies come with their head: no door is asked twice for them, or even looked for.
        self.unhurried_bytes = min([each.unhurried_bytes for each in doors.values()], default=0)
        self._wall_us = wall_us
        self._seconds = seconds
        self._tally = tally or Tally()
        self._url_map: Map | None = None

    def stand_at(self, url_map: Map) -> None:
        """Have requests find their doors by the rules of the routes."""
        self._url_map = url_map

    def __bool__(self) -> bool:
        return bool(self._doors)

    def door(self, path: str) -> Door | None:
        """Return the door of the route at `path`, or None if it stands open."""
        return self._doors.get(path)

    def asked(
        self, method: bytes, fields: Fields, body: bytes, client: bytes, transport: Any
    ) -> Asked:
        """Return what a request shows that came over `transport`."""
        return Asked(
            method, fields.kept, body, client, self._wall_us() / 1e6, self._seconds(),
            partial(certificate_names, transport), fields.found,
        )  # fmt: skip

    def at_head(
        self, endpoint: str, connection: Any, method: bytes, fields: Fields, *, waits: bool
    ) -> Reply | None:  # fmt: skip
        """Return the answer that a request gets before its body is read, or None."""
        door = self._doors.get(endpoint.removesuffix(ITSELF))
        if door is None:
            return None
        length = fields.length or 0 if fields.transfer is None else None
        client = connection.client
        if self._proxies is not None:
            client = self._proxies.client(client, fields.kept)
        asked = self.asked(method, fields, b"", client, connection.transport)
        refused = door.at_head(asked, length, waits=waits)
        return None if refused is None else self.refusal(refused)

    def preflight(self, target: bytes, headers: Sequence[Field]) -> Reply:
        """Return the answer to OPTIONS: to a browser that asks first, or to whoever asks.

        It is that of the route which would take the request; its log is not touched.
        """
        methods = [value for name, value in headers if name.lower() == _ASKS_FIRST]
        if not methods:
            allowed = ", ".join(self._allowed(target)).encode("ascii")
            return make_reply(NO_CONTENT, ((b"Allow", allowed),), b"")
        door = self._find(methods[0], target)
        if door is None:
            return problems.problem_reply(problems.NOT_ALLOWED, allow=self._allowed(target))
        fields = door.preflight(headers)
        if isinstance(fields, Refused):
            return self.refusal(fields)
        return make_reply(NO_CONTENT, fields, b"")

    def shown(self, method: bytes, target: bytes, headers: Sequence[Field]) -> tuple[Field, ...]:
        """Return the fields with which a browser shows an error's answer to the page that asked."""
        if not any(name.lower() == b"origin" for name, _ in headers):
            return _NOTHING
        door = self._find(method, target)
        for other in self._allowed(target) if door is None else ():
            door = door or self._find(other.encode("ascii"), target)
        return _NOTHING if door is None else door.shown(headers)

    def _find(self, method: bytes, target: bytes) -> Door | None:
        """Return the door that a request would meet."""
        assert self._url_map is not None, "the routes are there before their requests"
        try:
            endpoint, _ = match(self._url_map, method, target.partition(b"?")[0])
        except (BadPathError, HTTPException, UnicodeDecodeError):
            return None
        return self._doors.get(endpoint.removesuffix(ITSELF))

    def _allowed(self, target: bytes) -> tuple[str, ...]:
        """Return the methods that the routes of a path take."""
        assert self._url_map is not None, "the routes are there before their requests"
        text = unquote_to_bytes(target.partition(b"?")[0]).decode("utf-8", "replace")
        return tuple(sorted(self._url_map.bind("", path_info=text).allowed_methods()))

    def refusal(self, refused: Refused) -> Reply:
        """Return the answer to a request that may not pass, and count it."""
        self._tally.refused[refused.reason] += 1
        return problems.problem_reply(
            _PROBLEMS[refused.reason],
            refused.detail,
            retry_after_s=refused.retry_after_s,
            facts=refused.facts,
            headers=refused.headers,
        )
