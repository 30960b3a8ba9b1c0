"""Whether more connections are accepted: not faster than they are served (invariant I7). Pure.

Who connects to a node that is full, or late with all it does, waits in the system's queue, or
tries again, and those who are there are served. Accepting him to close him at once would
cost him a request, and accepting him to make everybody wait longer would cost all of them theirs.
"""

from __future__ import annotations

from typing import Final

LATE_S: Final = 0.5
"""The reactor came so much later than it should have: some 10 000 requests wait in it."""


class Acceptance:
    """Decides between `connections_max` connections and none. Times in seconds.

    Invariant: `goes_on` changes only in `count` and `came`.
    """

    def __init__(self, connections_max: int) -> None:
        self._stop_at = connections_max
        # Not at each end of a connection: that would be two system calls for every one.
        self._resume_at = connections_max - max(1, connections_max // 20)
        self._is_full = False
        self._is_late = False
        self.pauses = 0
        """How often it stopped, for the metrics."""
        self.goes_on = True

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as may be."""
        return self._is_full

    def count(self, connections: int) -> bool:
        """Take note of how many there are; return whether that changes anything."""
        if connections >= self._stop_at:
            self._is_full = True
        elif connections <= self._resume_at:
            self._is_full = False
        return self._decide()

    def came(self, late_s: float) -> bool:
        """Take note of how late the reactor came; return whether that changes anything."""
        self._is_late = late_s > LATE_S
        return self._decide()

    def _decide(self) -> bool:
        before, self.goes_on = self.goes_on, not (self._is_full or self._is_late)
        self.pauses += before and not self.goes_on
        return before is not self.goes_on
