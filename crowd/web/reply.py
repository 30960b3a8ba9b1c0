"""An answer as a value: made once where it is constant, sent with one join. Pure.

Decides the bytes of an answer's head. Leaves to ``request`` and ``channel`` when they go out,
and to whoever sends it the ``Date``.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from crowd.web.fields import Field


NO_CONTENT: Final = 204

LENGTHLESS: Final = frozenset({NO_CONTENT, 304})
"""They have no body, and say no length: RFC 9110, 8.6, forbids it to the one, and what the other would
say is not that of the nothing that it sends."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A whole answer. ``head`` is its status line and header fields as they go out."""

    status: int
    headers: tuple[Field, ...]
    body: bytes
    head: bytes


def phrase(status: int) -> bytes:
    """Return the reason phrase of a status, empty for one without a name."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def make_reply(status: int, headers: tuple[Field, ...], body: bytes) -> Reply:
    """Return the answer of `status` with `headers` and `body`; its length is added.

    But to those that are `LENGTHLESS`.
    """
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, phrase(status))]
    lines += [b"%s: %s\r\n" % field for field in headers]
    if status not in LENGTHLESS:
        lines.append(b"Content-Length: %d\r\n" % len(body))
    return Reply(status, headers, body, b"".join(lines))
