"""Changes of members over the admin port: who may ask, and how.

Decides what a request must show before anything is asked of the cluster. A web page reaches
loopback, too, so a token is needed that no page can know, in a header that no page can send
elsewhere without being allowed to; and an Origin that is not the port's own is refused
whatever it shows. Leaves to `Changes` whether a change can be, and to the log whether it is.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from twisted.logger import Logger

from crowd.errors import ChangeRefusedError, UnknownMemberError
from crowd.kinds import NAME, split_address
from crowd.web.problems import (
    BAD_CHANGE,
    CHANGE_REFUSED,
    FOREIGN_ORIGIN,
    NO_TOKEN,
    NOT_JSON,
    UNKNOWN_MEMBER,
    problem_reply,
)
from crowd.web.reply import make_reply

if TYPE_CHECKING:
    from crowd.web.reply import Reply

ADDRESS_CHARACTERS_MAX: Final = 255
"""What a command in the log may hold (`crowd.command`); a DNS name has at most 253."""

_JSON: Final = b"application/json"


class Changes(Protocol):
    """Who changes the members. All calls in the reactor's thread.

    Both return once the change is asked for, which promises nothing: whether it is made shows
    in the members. Both raise ChangeRefusedError for one that cannot be as things are.
    """

    def enroll(self, name: str, address: str) -> None:
        """Have a new member join, as a learner until it has everything; or move to an address."""

    def expel(self, name: str) -> None:
        """Have a member leave for good. Raises UnknownMemberError."""


class Enrollment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /api/members``."""

    name: str
    address: str


class MemberPages:
    """Answers ``/api/members``. Without a `token` nobody may change anything."""

    _log = Logger()

    def __init__(self, changes: Changes, token: str) -> None:
        self._changes = changes
        self._token = token

    def add(self, request: Any) -> Reply:
        """Answer ``POST /api/members``."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        kind = (request.getHeader(b"Content-Type") or b"").partition(b";")[0].strip().lower()
        if kind != _JSON:
            return problem_reply(NOT_JSON, f"found Content-Type {_shown(kind)}; expected {_JSON!r}")
        try:
            wanted = _enrollment(request.content.read())
        except ValueError as error:
            return problem_reply(BAD_CHANGE, str(error))
        return self._ask("enroll", wanted.name, wanted.address)

    def remove(self, request: Any, name: str) -> Reply:
        """Answer ``DELETE /api/members/NAME``."""
        refusal = self._refusal(request)
        return self._ask("expel", name) if refusal is None else refusal

    def _ask(self, change: str, name: str, *address: str) -> Reply:
        try:
            getattr(self._changes, change)(name, *address)
        except UnknownMemberError as error:
            return problem_reply(UNKNOWN_MEMBER, str(error))
        except ChangeRefusedError as error:
            return problem_reply(CHANGE_REFUSED, str(error))
        self._log.info(
            "an operator asks to {change} {name} {address}",
            change=change, name=name, address=" ".join(address),
        )  # fmt: skip
        asked = {"asked": change, "name": name, **({"address": address[0]} if address else {})}
        headers = ((b"Content-Type", _JSON + b";charset=UTF-8"), (b"Cache-Control", b"no-store"))
        return make_reply(202, headers, json.dumps(asked).encode("ascii") + b"\n")

    def _refusal(self, request: Any) -> Reply | None:
        """Return the answer to who may change nothing, or None."""
        origins = request.requestHeaders.getRawHeaders(b"Origin", [])
        own = b"http://" + (request.getHeader(b"Host") or b"").lower()
        for origin in origins:
            if origin.lower() != own:
                return problem_reply(FOREIGN_ORIGIN, f"found Origin {_shown(origin)}")
        given = request.requestHeaders.getRawHeaders(b"Authorization", [])
        scheme, _, shown = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        # In constant time: how long it takes must not tell how much of a guess is right.
        known = hmac.compare_digest(shown.strip(), self._token.encode("ascii"))
        if not self._token or scheme.lower() != b"bearer" or not known:
            found = "another one" if given else "none"
            return problem_reply(
                NO_TOKEN,
                f"found {found}; expected 'Authorization: Bearer' and what is in the file "
                "`token` of the node's directory",
            )
        return None


def _enrollment(body: bytes) -> Enrollment:
    """Return what a body asks for; raise ValueError with what was found and expected."""
    try:
        wanted = msgspec.json.decode(body, type=Enrollment)
    except msgspec.MsgspecError as error:
        raise ValueError(
            f'{error}; expected an object such as {{"name": "d", "address": "10.0.0.4:2105"}}'
        ) from None
    try:
        NAME.parse(wanted.name)
    except ValueError:
        raise ValueError(f"name: found {_shown(wanted.name)}; expected {NAME.expected}") from None
    if not _is_address(wanted.address):
        raise ValueError(
            f"address: found {_shown(wanted.address)}; expected host:port, at most "
            f"{ADDRESS_CHARACTERS_MAX} characters"
        )
    return wanted


def _is_address(text: str) -> bool:
    try:
        split_address(text)
    except ValueError:
        return False
    return len(text) <= ADDRESS_CHARACTERS_MAX


def _shown(value: str | bytes) -> str:
    """Return a value that came from outside as a line may hold it."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return ascii(text if len(text) <= 80 else text[:80] + "…")
