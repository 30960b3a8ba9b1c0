"""What a path may mean to a consumer, which need not be what it means here. Pure.

A path is matched percent-decoded and delivered as it came (I9). Consumers, and the proxies before
them, may resolve its dot segments (RFC 3986 section 5.2.4), in whatever dress those come, and
may see one slash in two. So a request for ``/leads/%2e%2e/admin`` would be accepted by the rule of
``/leads/<path:rest>`` and be carried out as ``/admin``. Decides which other paths one might be
taken for; leaves to ``router`` whether the same route takes those, too.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

_NO_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PLAIN: Final = re.compile(r"(?:/(?![./])[^/\\;%\ufffd]*)*\Z")
"""Every consumer takes such a path for itself. (One slash at its end is plain, too.)"""

_OVERLONG: Final = re.compile(
    rb"(?:[\xc0\xc1]|\xe0[\x80\x81]|\xf0\x80[\x80\x81]|\xf8\x80\x80[\x80\x81]|\xfc\x80\x80\x80[\x80\x81])[\x80-\xbf]"
)
"""ASCII in two to six octets (RFC 3629 section 10): no UTF-8, and taken for it by old decoders."""


class BadPathError(ValueError):
    """No consumer can be trusted to see the path that was matched."""


def readings(path: bytes) -> tuple[str, ...]:
    """Return `path` decoded, and behind it each other path that a consumer might take it for.

    Those have no dot segments. Octets that are no UTF-8 become U+FFFD. Raises BadPathError for an escape
    that is none, a NUL, dot segments that climb above the root, and two slashes first: what follows
    them is a host to some (RFC 3986 section 4.2).
    """
    if b"%" in path:
        if _NO_ESCAPE.search(path):
            raise BadPathError("a percent sign without two hexadecimal digits")
        octets = unquote_to_bytes(path)
        if b"\0" in octets:
            raise BadPathError("a NUL")
    else:
        octets = path
    text = octets.decode("utf-8", "replace")
    if _PLAIN.match(text):
        return (text,)
    forms = dict.fromkeys(_forms(octets, text))
    if any(form[:2] == "//" for form in forms):
        raise BadPathError("two slashes first")
    found = dict.fromkeys(
        _resolved(form, merged=merged) for form in forms for merged in (False, True)
    )
    return (text, *(reading for reading in found if reading != text))


def _forms(octets: bytes, text: str) -> list[str]:
    """Return `text` as decoders and servers of several kinds would split it."""
    octets = _OVERLONG.sub(_shortest, octets)
    if b"\0" in octets:
        raise BadPathError("a NUL")
    meant = octets.decode("utf-8", "replace")
    forms = [text, meant, unquote(text), unquote(meant)]
    forms += [form.replace("\\", "/") for form in forms]
    # Parameters of a segment (RFC 3986 section 3.3): servlets cut them off before they resolve.
    return forms + ["/".join(part.partition(";")[0] for part in form.split("/")) for form in forms]


def _shortest(overlong: re.Match[bytes]) -> bytes:
    """Return the one octet that several mean: its seven bits are the lowest ones of the last two."""
    *_, before, last = overlong[0]
    return bytes(((before & 0x01) << 6 | last & 0x3F,))


def _resolved(text: str, *, merged: bool) -> str:
    """Return `text` without dot segments, two slashes seen as one if `merged`."""
    parts = text.split("/")[1:]
    kept: list[str] = []
    for part in parts:
        if part == "..":
            if not kept:
                raise BadPathError("dot segments that climb above the root")
            kept.pop()
        elif part != "." and (part or not merged):
            kept.append(part)
    ends = parts[-1:] in ([""], ["."], [".."])
    return "/" + "/".join(kept) + ("/" if ends and kept and kept[-1] else "")
