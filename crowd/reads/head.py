"""The heads of a read and of its answer, as they are passed on. Pure.

Decides which fields of either travel (all that are end-to-end, in their order and case) and
what this hop adds: to the request what a delivery gets, too, and the list ``Crowd-Through``; to
the answer ``Via``; and whether OPTIONS may go further. Decides as well what of an answer's framing
is acceptable. Leaves how the answer is framed on the way out to whoever sends it.

RFC 9110 sections 7.6 (forwarding), 7.6.2 (Max-Forwards) and 7.6.3 (Via); RFC 9112 section 6 (framing).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from crowd.delivery.request import passed_on
from crowd.reads.failure import ReadFailedError, ReadFailure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crowd.delivery.request import Destination
    from crowd.message import Message

Field = tuple[bytes, bytes]

HEAD_BYTES_MAX: Final = 64 << 10
"""An answer's head: twice what a request's may be, as cookies and policies are set there."""

FIELDS_MAX: Final = 256
"""An answer's fields: twice a request's, for the same reason."""

THROUGH: Final = b"Crowd-Through"
"""The field that lists the nodes which a read has come through."""

_THROUGH: Final = THROUGH.lower()
_VIA: Final = b"1.1 crowd"
_MAX_FORWARDS: Final = b"max-forwards"
_HOPS_DIGITS: Final = 9
_HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te",
    b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
"""Trailers are not passed on, so what announces them would not be true."""

_PHRASE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
"""A reason phrase (RFC 9112, 4). llhttp takes any bytes but the line's end."""

_NEVER_NAMED: Final = frozenset({b"close", b"keep-alive", b"content-length", b"via"})
"""What Connection may say beside names of fields, and the fields that stand if it names them."""


def came_through(headers: Iterable[Field]) -> list[bytes]:
    """Return the nodes that a read has come through, by its ``Crowd-Through``."""
    return [
        node.strip()
        for name, value in headers
        if name.lower() == _THROUGH
        for node in value.split(b",")
        if node.strip()
    ]


def one_hop_less(headers: Iterable[Field]) -> tuple[Field, ...] | None:
    """Return the fields of OPTIONS for the next hop; None if whoever has it now is to answer.

    Max-Forwards counts the hops that are left (RFC 9110, 7.6.2): at most 999 999 999 here, as the
    field may be of any length. One that is no number, or stands there twice, travels as it came.
    """
    fields = tuple(headers)
    places = [place for place, (name, _) in enumerate(fields) if name.lower() == _MAX_FORWARDS]
    if len(places) != 1 or not fields[places[0]][1].isdigit():
        return fields
    place = places[0]
    name, value = fields[place]
    digits = value.lstrip(b"0")
    if not digits:
        return None
    left = int(digits) - 1 if len(digits) <= _HOPS_DIGITS else 10**_HOPS_DIGITS - 1
    return (*fields[:place], (name, b"%d" % left), *fields[place + 1 :])


def read_head(read: Message, destination: Destination, through: Iterable[bytes]) -> bytes:
    """Return the head of the request for a read, up to and with its empty line.

    `through` are the nodes that it has come through, this one the last.
    """
    lines = passed_on(read, destination, sized=False)
    lines.append(b"%b: %b\r\n\r\n" % (THROUGH, b", ".join(through)))
    return b"\r\n".join(lines)


class AnswerHead(msgspec.Struct, frozen=True):
    """An answer's head as it is passed on, without what frames it in transit.

    `phrase` is empty if the answer has none, or one that is no text.
    `fields` hold the Content-Length if there is one, and `length` its value. `bodiless`: no
    body follows, whatever the length says. `dated`: there is a Date among the fields.
    """

    status: int
    phrase: bytes
    fields: list[Field]
    length: int | None
    bodiless: bool
    dated: bool


def answer_head(
    status: int, phrase: bytes, version: str, headers: list[Field], *, asked_head: bool
) -> AnswerHead:
    """Return an answer's head as it is passed on; `asked_head`: it answers HEAD.

    Raises ReadFailedError for one that cannot be: another version than 1.x, a transfer coding
    beside ``chunked``, whose effect on the body would be lost, or a head over its bounds.
    """
    if version not in {"1.1", "1.0"}:
        raise ReadFailedError(ReadFailure.MALFORMED, f"found HTTP/{version}; expected 1.1 or 1.0")
    size = sum(len(name) + len(value) + 4 for name, value in headers)
    if size > HEAD_BYTES_MAX or len(headers) > FIELDS_MAX:
        words = f"a head of {size} bytes in {len(headers)} fields"
        raise ReadFailedError(ReadFailure.LARGE, words)
    lowered = [(name.lower(), value) for name, value in headers]
    codings = [value.strip().lower() for name, value in lowered if name == b"transfer-encoding"]
    if codings not in ([], [b"chunked"]):
        words = f"found {len(codings)} transfer codings; expected chunked or none"
        raise ReadFailedError(ReadFailure.MALFORMED, words)
    bodiless = asked_head or status in {204, 304}
    dropped = _HOP_BY_HOP | _named(lowered)
    if status == 204:
        dropped |= {b"content-length"}  # which RFC 9110, 8.6, forbids there
    fields: list[Field] = []
    length, dated, via = None, False, -1
    for (name, value), (low, _) in zip(headers, lowered, strict=True):
        if low in dropped:
            continue
        if low == b"content-length":
            length = int(value)
        elif low == b"date":
            dated = True
        elif low == b"via":
            via = len(fields)
        fields.append((name, value))
    if via < 0:
        fields.append((b"Via", _VIA))
    else:
        name, value = fields[via]
        fields[via] = (name, b"%b, %b" % (value, _VIA) if value else _VIA)
    if not _PHRASE.match(phrase):
        phrase = b""
    return AnswerHead(status, phrase, fields, length, bodiless, dated)


def _named(lowered: list[Field]) -> frozenset[bytes]:
    """Return the fields that Connection names, in lower case."""
    values = [value for name, value in lowered if name == b"connection"]
    names = {token.strip().lower() for value in values for token in value.split(b",")}
    return frozenset(names) - _NEVER_NAMED
