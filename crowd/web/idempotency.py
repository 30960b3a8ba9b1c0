"""``Idempotency-Key``: what a producer calls a request, and the digests that the log knows it by.

Decides which values are a key, and which requests are the same one. Leaves to the ledger
whether a key is known (``crowd/ledger/keys``). Pure.

The field is draft-ietf-httpapi-idempotency-key-header's: a string of RFC 9651 (section 3.3.3),
in quotes. As many producers send it without, a bare value of that RFC's token characters is
taken too, whatever it begins with, and is the same key as the one in quotes. Parameters are
not defined for it, and refused.

A key is known by SHA-256 over the CBOR array of the route's path, the credential's name and the
key; an array frames what is in it, so that no two triples are the same bytes. A request is
known by SHA-256 over the CBOR array of method and target, and then the body; one that is many
messages has their count in the array, too.

An event that is its own key is known by the array of path, credential, source and id, which is
longer than any other key's, and for no request: it is the same event, whatever it says.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from crowd.codec import head_of_bytes, pack
from crowd.idempotency import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY_CHARACTERS_MAX: Final = 255
"""As long as in the interfaces that producers know this field from; an UUID has 36."""

_STRING: Final = re.compile(rb'"((?:[ !#-\[\]-~]++|\\["\\])*+)"\Z')
_BARE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z:/-]+\Z")
_ESCAPED: Final = re.compile(rb"\\(.)")


def read_key(values: Sequence[bytes]) -> bytes:
    """Return the key that the fields of a request say. Raises ValueError, with words, if none.

    `values` are the values of all fields of that name, white space around them cut away.
    """
    if len(values) != 1:
        raise ValueError(f"found {len(values)} fields; expected one")
    quoted = _STRING.match(values[0])
    if quoted is not None:
        key = quoted[1]
        if b"\\" in key:
            key = _ESCAPED.sub(rb"\1", key)
    elif _BARE.match(values[0]):
        key = values[0]
    else:
        raise ValueError('expected a string in quotes, such as "8e03978e-40d5", or its bare text')
    if not 0 < len(key) <= KEY_CHARACTERS_MAX:
        raise ValueError(f"found {len(key)} characters; expected 1 to {KEY_CHARACTERS_MAX}")
    return key


def digests_of(
    path: str,
    credential: str,
    key: bytes,
    method: bytes,
    target: bytes,
    body: bytes,
    count: int = 0,
) -> bytes:
    """Return the digests of a key and of its request, one after the other.

    `path` is the route's, `credential` the name of what the producer proved itself with, empty
    on an open route: other producers' keys, and another route's, are other keys. `count` is that
    of its messages, 0 if it is one itself: what a node splits otherwise is another request.
    """
    request = sha256(_request_stem(method, target, count))
    request.update(body)
    of_key = sha256(b"".join((_key_stem(path, credential), head_of_bytes(len(key)), key)))
    return of_key.digest()[:DIGEST_BYTES] + request.digest()[:DIGEST_BYTES]


@lru_cache(maxsize=256)  # Producers post to few targets; a bound for others.
def _request_stem(method: bytes, target: bytes, count: int) -> bytes:
    """Return what stands before a request's body in what it is known by."""
    return pack((method, target, count) if count else (method, target))


@lru_cache(maxsize=256)  # Routes and credentials are the configuration's, and few.
def _key_stem(path: str, credential: str) -> bytes:
    """Return the array of path, credential and a key up to the key."""
    return b"".join((b"\x83", pack(path), pack(credential)))


def digests_of_event(path: str, credential: str, source: bytes, event: bytes) -> bytes:
    """Return the digests of an event by its source and id, with `path` and `credential` as above."""
    of_key = sha256(pack((path, credential, source, event))).digest()
    return of_key[:DIGEST_BYTES] + bytes(DIGEST_BYTES)
