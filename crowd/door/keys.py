"""Keys that producers show: which field they stand in, and whose they are. Pure.

A key is 32 random bytes that `crowd key` made. The file holds its SHA-256: whoever reads the
file cannot post with it, and nobody guesses a key from its hash, so a slow hash would protect
nothing and cost every request (docs/decisions/0013-the-door.md). A shown key is hashed and looked
up by its digest. How long that takes tells a guesser something of the digest of a guess, and
nothing of a key.
"""

from __future__ import annotations

import binascii
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from crowd.door.asked import Known, Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crowd.door.asked import Asked, Field
    from crowd.policy import KeyPolicy

_AUTHORIZATION: Final = b"authorization"
_IDEMPOTENCY: Final = b"idempotency-key"


class Keys:
    """The keys of one route."""

    def __init__(self, policies: Iterable[KeyPolicy], places: Sequence[str]) -> None:
        self._names = {
            bytes.fromhex(each): policy.name for policy in policies for each in policy.sha256
        }
        self._bearer = "bearer" in places
        self._basic = "basic" in places
        fields = [place[7:].encode("ascii") for place in places if place.startswith("header:")]
        self._watched = frozenset(
            [*fields, *([_AUTHORIZATION] if self._bearer or self._basic else [])]
        )
        self._missing = Refused(
            Reason.NO_CREDENTIAL, f"found no key; expected {_expected(places)}", _challenge(places),
            absent=True,
        )  # fmt: skip
        self._several = Refused(
            Reason.UNKNOWN_CREDENTIAL, "found more than one key; expected one", _challenge(places)
        )
        self._unknown = Refused(
            Reason.UNKNOWN_CREDENTIAL, "the key is not one of this route's", _challenge(places)
        )

    def known(self, asked: Asked) -> Known | Refused:
        """Return whose key a request shows. The key travels no further."""
        headers, found = asked.headers, asked.found
        return self.remembered(headers, found) or self._look(headers, found)

    def remembered(self, headers: list[Field], found: dict[object, Any]) -> Known | None:
        """Return the same if it is in `found`, as ``asked.found`` is."""
        remembered = found.get(self)
        if remembered is None:
            return None
        before, known, place = remembered
        return known if headers is before else Known(known.name, _without(headers, place))

    def without_keys(self, headers: list[Field]) -> list[Field]:
        """Return the fields that no key was looked for in: what travels on when another proof holds."""
        return [field for field in headers if self._read(*field) is None]

    def _look(self, headers: list[Field], found: dict[object, Any]) -> Known | Refused:
        """Return the same of fields that are new, and remember it in `found`."""
        shown = [
            (n, read) for n, field in enumerate(headers) if (read := self._read(*field)) is not None
        ]
        if len(shown) != 1:
            return self._several if shown else self._missing
        place, (user, key) = shown[0]
        name = self._names.get(sha256(key).digest()) if key else None
        if name is None or user not in (None, name):
            return self._unknown
        known = Known(name, _without(headers, place))
        if _IDEMPOTENCY not in self._watched:
            found.clear()  # of what keys had found that a reload replaced
            found[self] = headers, known, place
        return known

    def _read(self, field: bytes, value: bytes) -> tuple[str | None, bytes] | None:
        """Return a shown key and its user, whom Basic alone names; None for a field for others."""
        field = field.lower()
        if field not in self._watched:
            return None
        if field != _AUTHORIZATION:
            return None, value
        scheme, _, rest = value.partition(b" ")
        scheme = scheme.lower()
        if scheme == b"bearer" and self._bearer:
            return None, rest.strip()
        if scheme == b"basic" and self._basic:
            return _user_and_key(rest.strip())
        return None


def _without(headers: list[Field], place: int) -> list[Field]:
    return headers[:place] + headers[place + 1 :]


def _user_and_key(encoded: bytes) -> tuple[str, bytes]:
    """Return what RFC 7617 puts behind ``Basic``; what is not so is nobody's."""
    try:
        user, colon, key = binascii.a2b_base64(encoded, strict_mode=True).partition(b":")
    except binascii.Error:
        return "", b""
    return (user.decode("ascii", "replace"), key) if colon else ("", b"")


def _challenge(places: Sequence[str]) -> tuple[Field, ...]:
    """Return the fields that RFC 9110 (section 11.6.1) wants with 401."""
    schemes = {"basic": b'Basic realm="crowd", charset="UTF-8"', "bearer": b'Bearer realm="crowd"'}
    named = [schemes[place] for place in places if place in schemes]
    # For a key in a field of its own no scheme is registered; Bearer's is what comes nearest.
    return tuple((b"WWW-Authenticate", each) for each in named or [schemes["bearer"]])


def _expected(places: Sequence[str]) -> str:
    words = {"bearer": "'Authorization: Bearer KEY'", "basic": "'Authorization: Basic' with a key"}
    return " or ".join(words.get(place, f"a key in {place[7:]}") for place in places)
