"""What a request shows to a door, and what the door says to it, as values."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crowd.door.elements import Elements

Field = tuple[bytes, bytes]


def _no_certificate() -> None:
    return None


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A request at the door. ``headers`` are those that would travel on, in their order.

    ``client`` is the producer's address. ``certificate`` returns the names in the certificate
    that its connection showed (`crowd.web.proof`), or None without one. ``wall_s`` is the wall clock since 1970, which
    producers' timestamps are compared with; ``now_s`` is monotonic. ``found`` outlives the request:
    a connection's next ones have it too while their header fields are the same but for the value
    of an Idempotency-Key. Who looks at nothing else may keep there what it found, under itself and
    alone.
    """

    method: bytes
    headers: list[Field]
    body: bytes
    client: bytes
    wall_s: float
    now_s: float
    certificate: Callable[[], Sequence[str] | None] = _no_certificate
    found: dict[object, Any] = {}

    def values(self, lowered: bytes) -> list[bytes]:
        """Return the values of the fields with a name, given in lower case."""
        return [value for name, value in self.headers if name.lower() == lowered]

    def media_type(self) -> bytes:
        """Return the body's type in small letters, without parameters; empty if it is not one."""
        values = self.values(b"content-type")
        return values[0].partition(b";")[0].strip().lower() if len(values) == 1 else b""


class Reason(enum.Enum):
    """Why a request may not pass. The value is its problem's name, and its metric's label."""

    NO_CREDENTIAL = "no-credential"
    UNKNOWN_CREDENTIAL = "unknown-credential"
    FOREIGN_PAGE = "foreign-page"
    BODY = "body-too-large"
    HEAD = "head-too-large"
    TYPE = "unsupported-type"
    CODING = "unsupported-coding"
    MALFORMED = "malformed-body"
    SCHEMA = "schema-mismatch"
    RATE = "too-many-requests"
    SIGNATURE = "wrong-signature"
    CERTIFICATE = "wrong-certificate"
    UNCHECKED = "unchecked"


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A request may not pass.

    ``detail`` helps who made a mistake; nothing in it tells one wrong guess from another.
    ``facts`` are the problem's further members, ``headers`` the answer's further fields.
    ``absent``: no proof of that kind was shown at all.
    """

    reason: Reason
    detail: str = ""
    headers: tuple[Field, ...] = ()
    facts: tuple[tuple[str, int | str], ...] = ()
    retry_after_s: int | None = None
    absent: bool = False


class Known(msgspec.Struct, frozen=True, gc=False):
    """Who posts, by what it showed: ``name``, and the ``headers`` without what was meant for us."""

    name: str
    headers: list[Field]


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """A request may pass. ``credential`` is the name of who posts, empty where nobody asks.

    ``headers`` are those that travel on; ``answer`` are further fields of whatever is answered.
    ``elements`` are its messages, if it is many. ``events`` are the sources and ids of the events
    that it is, one for each message, where those are their idempotency keys.
    """

    credential: str
    headers: list[Field]
    answer: tuple[Field, ...] = ()
    elements: Elements | None = None
    events: Sequence[tuple[bytes, bytes]] = ()


Verdict = Admitted | Refused
