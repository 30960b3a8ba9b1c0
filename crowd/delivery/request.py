"""The request that a consumer gets, byte for byte (I9).

Decides how a stored message becomes an HTTP/1.1 request: the original method, target, end-
to-end headers in their order and case, and body; the consumer's Host; the body's length; and
what docs/explanation/delivery.md lists as added. Pure. Leaves to the door what a message may
hold, and to ``agent`` how the bytes are sent.

RFC 9110 for Via (7.6.3) and Host (7.2), RFC 7239 for Forwarded; X-Forwarded-* by custom.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from crowd.message import WAIT_FIELD

if TYPE_CHECKING:
    from crowd.message import Message, Position

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_PATH = re.compile(r"[\x21-\x7e]*\Z")  # visible ASCII: what may stand in a request line
_AUTHORITY = re.compile(rb"[^/?]*://[^/?]*")
_PORTS: Final = {"http": 80, "https": 443}

# Framing is made anew for the body that is sent; Host is the consumer's.
# What says that a producer waits is for crowd alone.
_OURS: Final = frozenset({
    b"host", b"content-length", b"transfer-encoding", WAIT_FIELD.lower()
})  # fmt: skip
# Lists to whose end a proxy adds itself; the last occurrence is the end of the list.
_LISTS: Final = frozenset({b"x-forwarded-for", b"forwarded", b"via"})
# Kept as they came if they came: the outermost proxy saw the producer itself.
_FIRST_HAND: Final = frozenset({b"x-forwarded-host", b"x-forwarded-proto"})
_ADDED: Final = _LISTS | _FIRST_HAND
_WATCHED: Final = _OURS | _ADDED


class Destination(msgspec.Struct, frozen=True):
    """Where a consumer is. ``authority`` is what its Host header says.

    ``prefix`` goes before a message's own target. ``path``, if there is one, replaces that
    target's path; and its query too if ``path`` has one of its own.
    """

    scheme: str
    host: str
    port: int
    authority: bytes
    prefix: bytes
    path: bytes | None


class Naming(msgspec.Struct, frozen=True, gc=False):
    """What tells a consumer which message this is: the same id at every attempt (I4).

    ``replay`` says that an operator had it delivered again, ``awaited`` that a producer waits for
    the answer, which is to be kept.
    """

    id: str
    position: Position
    attempt: int
    replay: bool = False
    awaited: bool = False


def parse_destination(url: str, path: str | None) -> Destination:
    """Return where `url` points; raise ValueError, saying why, if that is no HTTP consumer."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError(f"{url!r}: expected http:// or https://")
    if not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"{url!r}: expected a host, and no user")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r}: expected no query and no fragment")
    for text in (parts.netloc, parts.path, path or ""):
        if not _PATH.match(text):
            raise ValueError(f"{url!r}: expected visible ASCII characters only, found {text!r}")
    if path is not None and not path.startswith("/"):
        raise ValueError(f"path {path!r}: expected a slash at its start")
    return Destination(
        parts.scheme,
        parts.hostname,
        parts.port or _PORTS[parts.scheme],
        parts.netloc.encode("ascii"),
        parts.path.rstrip("/").encode("ascii"),
        None if path is None else path.encode("ascii"),
    )


def origin_form(target: bytes) -> bytes:
    """Return path and query of a message's own `target`, which begin with a slash."""
    if target.startswith(b"/"):
        return target
    # Absolute form (RFC 9112, 3.2.2): what follows the authority is the origin form.
    origin = _AUTHORITY.sub(b"", target, count=1)
    return origin if origin.startswith(b"/") else b"/" + origin


def target_at(destination: Destination, target: bytes) -> bytes:
    """Return the request-target at the consumer for a message's own `target`."""
    target = origin_form(target)
    if destination.path is None:
        return destination.prefix + target
    query = target.partition(b"?")
    if b"?" in destination.path:
        return destination.prefix + destination.path
    return destination.prefix + destination.path + query[1] + query[2]


def request_head(message: Message, destination: Destination, naming: Naming) -> bytes:
    """Return the head of the request for one attempt, up to and with its empty line.

    Every header of the message's own stands where it stood; what is added follows.
    """
    lines = passed_on(message, destination)
    if naming.replay:
        lines.append(b"Crowd-Replay: 1")
    lines.append(
        b"Crowd-Message-Id: %b\r\nCrowd-Position: %d\r\nCrowd-Attempt: %d\r\n\r\n"
        % (naming.id.encode("ascii"), naming.position, naming.attempt)
    )
    return b"\r\n".join(lines)


def passed_on(message: Message, destination: Destination, *, sized: bool = True) -> list[bytes]:
    """Return the lines of a request's head as they are passed on, the request line first.

    With `sized` it says its body's length even if that is 0 and the message did not say it; a
    read without a body does not (RFC 9110, 8.6).
    """
    host = b""
    lines = [
        b"%b %b HTTP/1.1" % (message.method, target_at(destination, message.target)),
        b"Host: " + destination.authority,
    ]
    seen: dict[bytes, int] = {}
    for name, value in message.headers:
        lowered = name.lower()
        if lowered in _WATCHED:
            if lowered in _OURS:
                if lowered == b"host":
                    host = value
                if lowered != b"content-length" or lowered in seen:
                    continue
                value = b"%d" % len(message.body)  # noqa: PLW2901  in its place, and true
            seen[lowered] = len(lines)
        lines.append(b"%b: %b" % (name, value))
    if b"content-length" not in seen and (sized or message.body):
        lines.append(b"Content-Length: %d" % len(message.body))
    _add_path(lines, seen, message, host)
    return lines


def _add_path(lines: list[bytes], seen: dict[bytes, int], message: Message, host: bytes) -> None:
    """Say where the message came from: appended to lists that exist, as headers otherwise."""
    client = message.client or b"unknown"
    hops = (
        (b"X-Forwarded-For", client),
        (b"Forwarded", _forwarded(client, host, message.scheme)),
        (b"Via", b"1.1 crowd"),
    )
    for name, element in hops:
        at = seen.get(name.lower())
        if at is None:
            lines.append(b"%b: %b" % (name, element))
        elif lines[at].endswith(b": "):  # an empty list
            lines[at] += element
        else:
            lines[at] += b", " + element
    if b"x-forwarded-host" not in seen and host:
        lines.append(b"X-Forwarded-Host: " + host)
    if b"x-forwarded-proto" not in seen:
        lines.append(b"X-Forwarded-Proto: " + message.scheme)


def _forwarded(client: bytes, host: bytes, scheme: bytes) -> bytes:
    """Return this hop's element of Forwarded (RFC 7239, section 4)."""
    node = b"[%b]" % client if b":" in client else client
    pairs = [b"for=" + _quoted(node)]
    if host:
        pairs.append(b"host=" + _quoted(host))
    pairs.append(b"proto=" + _quoted(scheme))
    return b";".join(pairs)


def _quoted(value: bytes) -> bytes:
    if _TOKEN.match(value):
        return value
    return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
