"""The doors of a node's routes, as requests meet them: the verdict becomes an answer.

Decides which door a request meets and what is counted. Leaves the verdict to ``crowd/door``.
A route without a policy has no door, and none of this is called for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from crowd.door.asked import Asked, Reason, Refused
from crowd.web import problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from crowd.door.door import Door
    from crowd.web.fields import Fields
    from crowd.web.reply import Reply

_PROBLEMS: Final = {
    Reason.NO_CREDENTIAL: problems.NO_CREDENTIAL,
    Reason.UNKNOWN_CREDENTIAL: problems.UNKNOWN_CREDENTIAL,
}


class Tally:
    """How many requests were refused, by reason. Outlives the doors, which a reload replaces."""

    def __init__(self) -> None:
        self.refused = dict.fromkeys(Reason, 0)


class Entrance:
    """The doors by their routes' paths. `seconds` is monotonic. In the reactor's thread."""

    def __init__(
        self,
        doors: Mapping[str, Door],
        wall_us: Callable[[], int],
        seconds: Callable[[], float],
        tally: Tally | None = None,
    ) -> None:
        self._doors = dict(doors)
        self._wall_us = wall_us
        self._seconds = seconds
        self._tally = tally or Tally()

    def __bool__(self) -> bool:
        return bool(self._doors)

    def door(self, path: str) -> Door | None:
        """Return the door of the route at `path`, or None if it stands open."""
        return self._doors.get(path)

    def asked(self, method: bytes, fields: Fields, body: bytes, client: bytes) -> Asked:
        """Return what a request shows."""
        return Asked(method, fields.kept, body, client, self._wall_us() / 1e6, self._seconds())

    def at_head(
        self, path: str, connection: Any, method: bytes, fields: Fields, *, waits: bool, bytes_max: int
    ) -> Reply | None:  # fmt: skip
        """Return the answer that a request gets before its body is read, or None.

        `bytes_max` is what a body may have whose length is not told.
        """
        door = self._doors.get(path)
        if door is None:
            return None
        length = fields.length or 0 if fields.transfer is None else bytes_max
        asked = self.asked(method, fields, b"", connection.client)
        refused = door.at_head(asked, length, waits=waits)
        return None if refused is None else self.refusal(refused)

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


def endpoints(path: str) -> Sequence[str]:
    """Return the names under which a route's rules stand in the Klein app."""
    front, converter, _ = path.rpartition("<path:")
    if converter and front.endswith("/") and path.endswith(">"):
        # "all below" includes the top itself, which Werkzeug's converter leaves out.
        return (path, f"{path} itself")
    return (path,)
