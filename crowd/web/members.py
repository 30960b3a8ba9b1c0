"""Changes of members over the admin port: what is asked, and how it is answered.

Decides which body asks for which change. Leaves who may ask to ``gate``, to `Changes` whether
a change can be, and to the log whether it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from twisted.logger import Logger

from crowd.kinds import NAME, split_address
from crowd.web.gate import answered, shown, told

if TYPE_CHECKING:
    from crowd.web.gate import Gate
    from crowd.web.reply import Reply

ADDRESS_CHARACTERS_MAX: Final = 255
"""What a command in the log may hold (`crowd.command`); a DNS name has at most 253."""

_EXAMPLE: Final = '{"name": "d", "address": "10.0.0.4:2105"}'


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
    """Answers ``/api/members``, to who passes the `gate`."""

    _log = Logger()

    def __init__(self, changes: Changes, gate: Gate) -> None:
        self._changes = changes
        self._gate = gate

    def add(self, request: Any) -> Reply:
        """Answer ``POST /api/members``."""

        def add() -> Reply:
            wanted = self._gate.body(request, Enrollment, _EXAMPLE)
            _check(wanted)
            return self._ask("enroll", wanted.name, wanted.address)

        return answered(add)

    def remove(self, request: Any, name: str) -> Reply:
        """Answer ``DELETE /api/members/NAME``."""

        def remove() -> Reply:
            self._gate.check(request)
            return self._ask("expel", name)

        return answered(remove)

    def _ask(self, change: str, name: str, *address: str) -> Reply:
        getattr(self._changes, change)(name, *address)
        self._log.info(
            "an operator asks to {change} {name} {address}",
            change=change, name=name, address=" ".join(address),
        )  # fmt: skip
        asked = {"asked": change, "name": name, **({"address": address[0]} if address else {})}
        return told(202, asked)


def _check(wanted: Enrollment) -> None:
    """Raise ValueError with what was found and expected."""
    try:
        NAME.parse(wanted.name)
    except ValueError:
        raise ValueError(f"name: found {shown(wanted.name)}; expected {NAME.expected}") from None
    if not _is_address(wanted.address):
        raise ValueError(
            f"address: found {shown(wanted.address)}; expected host:port, at most "
            f"{ADDRESS_CHARACTERS_MAX} characters"
        )


def _is_address(text: str) -> bool:
    try:
        split_address(text)
    except ValueError:
        return False
    return len(text) <= ADDRESS_CHARACTERS_MAX
