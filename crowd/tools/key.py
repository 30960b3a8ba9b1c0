"""`crowd key`: makes a producer's key, and what stands in the configuration for it.

Decides what a key is: 32 random bytes, as text that needs no quoting anywhere, behind a prefix
by which scanners of repositories and logs can know it. The key itself is kept nowhere.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Final

from crowd import kinds
from crowd.table import show

PREFIX: Final = "crowd_"
KEY_BYTES: Final = 32
"""Nobody guesses it, however fast its hash is: 2 to the 256th tries."""


def make_key() -> str:
    """Return a new key."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def key_lines(name: str, key: str) -> list[str]:
    """Return the lines that say what is to be done with a key of the producer `name`.

    Raises ValueError for a name that no producer can have.
    """
    try:
        kinds.NAME.parse(name)
    except ValueError:
        raise ValueError(f"found {show(name)}; expected {kinds.NAME.expected}") from None
    return [
        key,
        "",
        "[[route.key]]",
        f"name = {show(name)}",
        f"sha256 = [{show(sha256(key.encode('ascii')).hexdigest())}]",
    ]
