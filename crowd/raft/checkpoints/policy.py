"""Which checkpoints are kept, and which of them is the floor. Pure.

Three have a use: the newest (a restart begins there), the floor (the log may be cut below
it, and it is what a follower is sent that is behind the log), and the next floor: the oldest
one above the floor. That one stays until it is released; were it replaced by each newer one,
a backlog that never drains wholly would always be younger than the last checkpoint's
successor, and the floor would never move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT_MAX: Final = 3
"""Floor, next floor, newest."""


def next_floor(indices: Sequence[int], floor: int | None, released: int) -> int | None:
    """Return the index that the floor should move to, or None if it should stay.

    That is the newest one at or below `released`, if it is above `floor`.
    """
    below = [index for index in indices if index <= released]
    if not below or (floor is not None and max(below) <= floor):
        return None
    return max(below)


def superfluous(indices: Sequence[int], floor: int | None) -> tuple[int, ...]:
    """Return the indices of those to remove: what is left are at most `KEPT_MAX`."""
    above = sorted(index for index in indices if floor is None or index > floor)
    kept = {floor, *above[:1], *above[-1:]}
    return tuple(index for index in sorted(indices) if index not in kept)
