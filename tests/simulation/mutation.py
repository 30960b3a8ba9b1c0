"""A guard taken out of crowd, as a value."""

from __future__ import annotations

import msgspec


class Mutation(msgspec.Struct, frozen=True):
    """A guard taken out: in `file`, `old` becomes `new`. At most `seeds` runs look for it.

    They begin with seed `first`: for what is rare, the seed that once found it.

    `also` are further (file, old, new): what stands behind the guard, taken out with it.
    """

    name: str
    guard: str
    file: str
    old: str
    new: str
    profile: str | None = None
    size: int | None = None
    seeds: int = 200
    first: int = 0
    alone: str = ""
    also: tuple[tuple[str, str, str], ...] = ()
