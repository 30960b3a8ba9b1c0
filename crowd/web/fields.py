"""What the header fields of a producer's request mean to a proxy. Pure.

Decides which fields travel on to consumers (invariant I9: all that are end-to-end, as they
came) and which end here: the hop-by-hop ones of RFC 9110 section 7.6.1, those that
``Connection`` names, and ``Crowd-*``, which only crowd may say, in whatever spelling a
consumer might take for it. Leaves framing to llhttp.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd.message import pack_around, pack_headers, pack_value

if TYPE_CHECKING:
    from collections.abc import Iterable

Field = tuple[bytes, bytes]


class Kind(enum.Enum):
    """What a field is to us."""

    PLAIN = 0
    DROPPED = 1
    HOST = 2
    LENGTH = 3
    ENCODINGS = 4
    CONNECTION = 5
    TRANSFER = 6
    EXPECT = 7
    UPGRADE = 8
    TWIN = 9
    IDEMPOTENCY = 10
    PREFER = 11
    PROXY = 12


# An enumeration's member takes three times as long to look up as a module's name.
_PLAIN, _DROPPED, _HOST, _LENGTH = Kind.PLAIN, Kind.DROPPED, Kind.HOST, Kind.LENGTH
_ENCODINGS, _IDEMPOTENCY, _PREFER = Kind.ENCODINGS, Kind.IDEMPOTENCY, Kind.PREFER

_KINDS: Final = {
    b"host": Kind.HOST,
    b"content-length": Kind.LENGTH,
    b"accept-encoding": Kind.ENCODINGS,
    b"connection": Kind.CONNECTION,
    b"transfer-encoding": Kind.TRANSFER,
    b"expect": Kind.EXPECT,
    b"upgrade": Kind.UPGRADE,
    b"idempotency-key": Kind.IDEMPOTENCY,
    b"prefer": Kind.PREFER,
    # llhttp keeps a connection alive for it, whatever the version: `intake` is to look at that.
    b"proxy-connection": Kind.PROXY,
    b"keep-alive": Kind.DROPPED,
    b"te": Kind.DROPPED,
    # Trailers are not kept, so what announces them would not be true any more.
    b"trailer": Kind.DROPPED,
    # RFC 9110 section 11.7.2: for the proxy that it reached, which is this one.
    b"proxy-authorization": Kind.DROPPED,
}

# Many consumers see Crowd_Position, or Crowd.Position, as Crowd-Position: CGI's rule (RFC 3875,
# section 4.1.18) has one letter for all that is none in a variable's name.
_CROWDS: Final = re.compile(rb"crowd[^a-z0-9]")

# The same servers would frame a message by these, and llhttp would not.
_FRAMING: Final = re.compile(rb"(?:content[^a-z0-9-]length|transfer[^a-z0-9-]encoding)\Z")

_HOST_VALUE: Final = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?\Z")
"""RFC 9110 section 7.2, without what no name in DNS has: percent signs and sub-delims."""

# A Content-Length or a Host that Connection names still stands: consumers get their own.
_NEVER_NAMED: Final = frozenset((b"close", b"keep-alive", b"host", b"content-length"))


@lru_cache(maxsize=2048)  # Producers send the same few names over and over; a bound for others.
def kind_of(name: bytes) -> Kind:
    """Return what the field called `name` is, in whatever case."""
    lowered = name.lower()
    if _CROWDS.match(lowered):
        return Kind.DROPPED
    if _FRAMING.match(lowered):
        return Kind.TWIN
    return _KINDS.get(lowered, Kind.PLAIN)


PACKED_BYTES_MAX: Final = 2048
"""More than this is packed anew for each request: it would be held for every idle connection."""


class Fields(msgspec.Struct, gc=False):
    """A request's header fields, sorted once.

    ``kept`` are those that travel on, in their order. ``length`` is the Content-Length, and
    ``transfer`` the Transfer-Encoding, if the request has one. ``hosts`` counts Host fields,
    ``host`` is the value of the last one.
    ``encodings`` is the value of Accept-Encoding. ``idempotency`` are the values of Idempotency-Key,
    which travels on as well, and so does Prefer, if ``prefers``. ``unusual``: any of the fields below it, or Proxy-Connection.
    ``flaw`` says why a request with these fields is none, and is empty where nothing is wrong.

    A connection's requests share one of these while they have the same fields. ``key_place`` is
    where the one Idempotency-Key stands among those kept, -1 if there is none, or several.
    """

    kept: list[Field]
    hosts: int = 0
    host: bytes = b""
    length: int | None = None
    encodings: bytes = b""
    idempotency: tuple[bytes, ...] = ()
    prefers: bool = False
    unusual: bool = False
    connection: bytes | None = None
    transfer: bytes | None = None
    expect: bytes | None = None
    upgrade: bool = False
    flaw: str = ""
    key_place: int = -1
    found: dict[object, Any] = {}
    """What a door found in them, by what found it: one at most (see `crowd.door.asked.Asked`)."""
    _packed_of: list[Field] | None = None
    _packed: bytes = b""
    _behind_key: bytes = b""
    """What stands behind the key's value; `_packed` is then what stands before it."""

    def packed(self, headers: list[Field]) -> bytes:
        """Return `pack_headers` of what travels on of these: mostly the same, but for a key's value."""
        before = self._packed_of
        if self.key_place >= 0:
            return self._packed_with_key(headers, before)
        if headers is before:
            return self._packed
        packed = pack_headers(headers)
        if len(packed) <= PACKED_BYTES_MAX:
            self._packed, self._packed_of = packed, headers
        return packed

    def _packed_with_key(self, headers: list[Field], before: list[Field] | None) -> bytes:
        """Return the same where one of `headers` is a key, unless a door has taken that away."""
        field = self.kept[self.key_place]
        if field not in headers:
            return pack_headers(headers)
        place = headers.index(field)
        if before is None or not _differs_at_most(before, headers, place):
            ahead, behind = pack_around(headers, place)
            if len(ahead) + len(behind) <= PACKED_BYTES_MAX:
                self._packed, self._behind_key, self._packed_of = ahead, behind, headers
        else:
            ahead, behind = self._packed, self._behind_key
        return b"".join((ahead, pack_value(field[1]), behind))


def sort_fields(headers: Iterable[Field]) -> Fields:
    """Return what `headers` say. A Content-Length that is no number raises ValueError."""
    kept: list[Field] = []
    fields = Fields(kept)
    kinds = kind_of
    for field in headers:
        kind = kinds(field[0])
        if kind is _PLAIN:
            kept.append(field)
        elif kind is _HOST:
            fields.hosts += 1
            fields.host = field[1]
            if not is_host(field[1]):
                fields.unusual, fields.flaw = True, "Host is no name or address with a port"
            kept.append(field)
        elif kind is _LENGTH:
            # Without the zeros before it: there may be any number, and int() has a bound on digits.
            fields.length = int(field[1].lstrip(b"0") or field[1][-1:])
            kept.append(field)
        elif kind is _ENCODINGS:
            fields.encodings = _joined(fields.encodings or None, field[1])
            kept.append(field)
        elif kind is _IDEMPOTENCY:
            fields.key_place = -1 if fields.idempotency else len(kept)
            fields.idempotency = (*fields.idempotency, field[1])
            kept.append(field)
        elif kind is _PREFER:
            fields.prefers = True
            kept.append(field)
        elif kind is not _DROPPED:
            _note(fields, kind, field[1])
    if fields.connection is not None:
        _drop_named(fields, fields.connection)
    return fields


def sort_next(last: Fields, before: list[Field], headers: list[Field]) -> Fields:
    """Return what `headers` say, where `before`, of the request before them, said `last`.

    A producer with idempotency keys sends the same fields each time but for that one's value, on
    which nothing else here depends.
    """
    if last.key_place < 0:
        return sort_fields(headers)
    place = before.index(last.kept[last.key_place])
    if not _differs_at_most(before, headers, place):
        return sort_fields(headers)
    return with_key(last, headers[place])


def with_key(last: Fields, field: Field) -> Fields:
    """Return what `last`, which has a key, says with `field` in that one's place."""
    kept = last.kept.copy()
    kept[last.key_place] = field
    return msgspec.structs.replace(last, kept=kept, idempotency=(field[1],))


def _differs_at_most(before: list[Field], headers: list[Field], place: int) -> bool:
    """Tell whether two lists of fields are the same but for the value of the one at `place`."""
    if len(headers) != len(before) or headers[place][0] != before[place][0]:
        return False
    expected = before.copy()
    expected[place] = headers[place]
    return headers == expected


def _note(fields: Fields, kind: Kind, value: bytes) -> None:
    fields.unusual = True
    if kind is Kind.CONNECTION:
        fields.connection = _joined(fields.connection, value)
    elif kind is Kind.TRANSFER:
        fields.transfer = _joined(fields.transfer, value)
    elif kind is Kind.EXPECT:
        fields.expect = _joined(fields.expect, value)
    elif kind is Kind.TWIN:
        fields.flaw = "a field that some servers take for Content-Length or Transfer-Encoding"
    elif kind is Kind.UPGRADE:
        fields.upgrade = True


def _joined(before: bytes | None, value: bytes) -> bytes:
    return value if before is None else b"%s, %s" % (before, value)


def _drop_named(fields: Fields, connection: bytes) -> None:
    named = {token.strip().lower() for token in connection.split(b",")} - _NEVER_NAMED
    if named:
        fields.kept = [field for field in fields.kept if field[0].lower() not in named]
        fields.key_place = -1


@lru_cache(maxsize=256)  # Few values are in use; a bound for inventive producers.
def is_host(value: bytes) -> bool:
    """Tell whether `value` can be a Host: a name or an address, and perhaps a port."""
    match = _HOST_VALUE.match(value)
    if match is None or int(match[2] or 0) >= 2**16:
        return False
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1].decode("ascii"))
        except ValueError:
            return False
    return True


@lru_cache(maxsize=256)  # As above.
def host_name(value: bytes) -> bytes:
    """Return the name in a Host, in lower case, without its port and a dot at its end."""
    name = value if value[-1:] == b"]" else re.sub(rb":[0-9]*\Z", b"", value)
    return name.lower().rstrip(b".")


@lru_cache(maxsize=256)  # As above.
def accepts_gzip(encodings: bytes) -> bool:
    """Tell whether an Accept-Encoding allows gzip (RFC 9110 section 12.5.3), q=0 respected."""
    verdicts: dict[bytes, bool] = {}
    for part in encodings.lower().split(b","):
        coding, *parameters = (piece.strip() for piece in part.split(b";"))
        verdicts[coding] = not any(_is_zero_weight(parameter) for parameter in parameters)
    for coding in (b"gzip", b"x-gzip", b"*"):
        if coding in verdicts:
            return verdicts[coding]
    return False


def _is_zero_weight(parameter: bytes) -> bool:
    name, _, value = parameter.partition(b"=")
    return name.strip() == b"q" and value.strip() in (b"0", b"0.", b"0.0", b"0.00", b"0.000")
