"""Log time: what the leader stamps on each entry.

Pure. Everything that expires, expires by log time, so that all nodes agree and that no wrong
clock, ahead or behind, expires anything by a jump.
"""

from __future__ import annotations

from typing import Final

STEP_US: Final = 1_000_000
"""How far one entry may go beyond the time that has passed: a lagging log catches up."""


class LogClock:
    """Stamps that never go back and that no single wrong clock can throw forward."""

    def __init__(self) -> None:
        self._last_us = 0
        self._at_s: float | None = None

    def follow(self, log_time_us: int) -> None:
        """Take over where an applied entry left off (a new leader begins there).

        One that another leader stamped has counted the time until then, too.
        """
        if log_time_us > self._last_us:
            self._last_us, self._at_s = log_time_us, None

    def stamp(self, wall_us: int, now_s: float) -> int:
        """Return the next entry's log time, from which those after it count on."""
        stamped = self.read(wall_us, now_s)
        self._last_us, self._at_s = stamped, now_s
        return stamped

    def read(self, wall_us: int, now_s: float) -> int:
        """Return what an entry would be stamped now, in microseconds since 1970.

        `wall_us` is the wall clock, believed only as far as `now_s`, the monotonic one, and
        `STEP_US` allow. A log's first stamp has nothing to hold on to and is the wall clock's.
        """
        if self._last_us == 0:
            return max(1, wall_us)
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        bound_us = self._last_us + int(passed_s * 1e6) + STEP_US
        return min(max(wall_us, self._last_us), bound_us)
