"""What a hostile case is: bytes, and what a strict server makes of them.

The tables beside this one are written from RFC 9110, 9112 and 3986 and from what is published
of request smuggling. ``test_hostile.py`` sends each case over a socket, whole and byte by byte.
"""

from __future__ import annotations

from typing import NamedTuple

LEADS = b"POST /leads HTTP/1.1\r\n"
HEAD = LEADS + b"Host: a.test\r\n"
LENGTH = HEAD + b"Content-Length: 3\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = LEADS + b"Host: a.test\r\nContent-Length: 4\r\n\r\nnext"
"""A request that follows, in plain sight or as what an attacker hides."""


class Case(NamedTuple):
    """`answers` are all statuses in their order, `stored` the bodies of those accepted.

    `closes`: the connection ends with the last answer, and what follows is not looked at.
    `waits`: there is more to come by right, so there is no answer to the rest yet.
    """

    name: str
    data: bytes
    answers: tuple[int, ...]
    stored: tuple[bytes, ...]
    closes: bool
    waits: bool = False


def taken(name: str, data: bytes, *bodies: bytes, closes: bool = False) -> Case:
    """Return a case of which every request is accepted."""
    return Case(name, data, (200,) * len(bodies), bodies, closes)


def refused(name: str, data: bytes, status: int = 400, *before: bytes) -> Case:
    """Return a case that ends the connection; `before` are bodies accepted ahead of it."""
    return Case(name, data, (200,) * len(before) + (status,), before, closes=True)


def declined(name: str, data: bytes, status: int) -> Case:
    """Return a case that is well framed and not for this server: the connection goes on."""
    return Case(name, data, (status,), (), closes=False)


def waits(name: str, data: bytes, *before: bytes) -> Case:
    """Return a case whose last request is not complete."""
    return Case(name, data, (200,) * len(before), before, closes=False, waits=True)
