"""Request-targets (RFC 9112 section 3.2). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crowd.web.fields import is_host

if TYPE_CHECKING:
    from crowd.web.fields import Field


def from_absolute(
    target: bytes, headers: list[Field], *, adds_host: bool = False
) -> tuple[bytes, list[Field]]:
    """Return an absolute target as a path and query, and `headers` with its authority as Host.

    A server must accept the absolute form, and then believe it rather than Host (section
    3.2.2). A Host that is none stays, to be refused: the request is invalid all the same (section
    3.2). `adds_host`: where there is no Host, as in HTTP/1.0, it gets one. Any other target comes
    back as it is, and one that is no URL of a host: with a user in it (RFC 9110 section 4.2.4),
    or without a host. Nobody delivers those.
    """
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        return target, headers
    ends = [end for end in (rest.find(b"/"), rest.find(b"?")) if end >= 0]
    end = min(ends, default=len(rest))
    authority, path = rest[:end], rest[end:]
    if not authority or b"@" in authority:
        return target, headers
    renamed = [
        (name, authority if name.lower() == b"host" and is_host(value) else value)
        for name, value in headers
    ]
    if adds_host and all(name.lower() != b"host" for name, _ in headers):
        renamed.insert(0, (b"Host", authority))
    return path if path[:1] == b"/" else b"/" + path, renamed


def is_deliverable(target: bytes) -> bool:
    """Tell whether `target` can stand in the request line to a consumer.

    A fragment cannot (RFC 9110 section 4.2.5 keeps it from ever being sent), nor can ``*`` or
    an authority: they name no path.
    """
    return target[:1] == b"/" and b"#" not in target
