"""The simulated world's time: one heap of events, one trace, one source of chance.

Decides what happens next, and nothing of what it means. An event belongs to the world or to
a process. A process's events happen only while it lives; while it is stopped (SIGSTOP) they
wait, and then happen at once, late, in their order.

Time is in seconds from an arbitrary start, as a monotonic clock's. Each process sees it
through its own `ProcessClock`: a little time passes with every look at it, as on a real
machine, so that work bounded by time is cut into slices here too; and a process that is
stopped in the middle of a turn sees time jump.

One seed decides everything: no other clock, no other chance, no order of a hash table is
used, so the trace of a seed is the same to the byte in any process.
"""

from __future__ import annotations

import hashlib
import random
from heapq import heappop, heappush

START_S = 1000.0
WALL_AT_START_US = 1_700_000_000_000_000
LOOK_S = 20e-6
"""What passes between two looks at the clock: about what an applied entry takes."""


class ViolationError(AssertionError):
    """An invariant does not hold. `check` names it."""

    def __init__(self, check: str, words: str) -> None:
        super().__init__(f"{check}: {words}")
        self.check = check
        self.words = words


class ProcessEndedError(BaseException):
    """A simulated process ended within its turn. Nothing of crowd's may catch it."""


class Event:
    """A call to come; Twisted's IDelayedCall as far as crowd uses it."""

    __slots__ = ("args", "call", "owner", "state", "time_s")

    def __init__(self, time_s, owner, call, args):
        self.time_s = time_s
        self.owner = owner
        self.call = call
        self.args = args
        self.state = 0  # 0: to come, 1: made, 2: called off

    def active(self):
        return self.state == 0

    def cancel(self):
        if self.state:
            raise RuntimeError("this call was made, or called off, already")
        self.state = 2

    def getTime(self):  # noqa: N802  Twisted's name
        return self.time_s


class World:
    """Time, chance and trace. `run` makes events happen."""

    def __init__(self, seed, *, keep_trace=False):
        self.now = START_S
        self.chance = random.Random(f"{seed} world")
        self.guard_chance = random.Random(f"{seed} guard")
        self.current = None
        """The process whose turn it is, if any."""
        self.violation = None
        self.events = 0
        self._heap = []
        self._count = 0
        self._keep = keep_trace
        self._lines = []
        self._hash = hashlib.sha256()

    # --- Time -----------------------------------------------------------------------------------

    def seconds(self):
        """Return the time as who runs now sees it; this is what pysyncobj is given."""
        current = self.current
        return self.now if current is None else current.clock.seconds()

    def at(self, time_s, call, *args, owner=None):
        """Make a call at this time; those of the same time in the order of asking."""
        event = Event(time_s, owner, call, args)
        self._count += 1
        heappush(self._heap, (time_s, time_s, self._count, event))
        return event

    def after(self, delay_s, call, *args, owner=None):
        return self.at(self.now + delay_s, call, *args, owner=owner)

    def run(self, until_s):
        """Let time pass. Ends early at a violation."""
        heap = self._heap
        while heap and self.violation is None:
            time_s, due_s, count, event = heap[0]
            if time_s > until_s:
                break
            heappop(heap)
            if event.state:
                continue
            owner = event.owner
            if owner is None:
                self.now = time_s
                event.state = 1
                event.call(*event.args)
            elif owner.alive:
                if owner.stopped_until_s > time_s:
                    # It keeps its place among those that wait.
                    heappush(heap, (owner.stopped_until_s, due_s, count, event))
                    continue
                self.now = time_s
                event.state = 1
                self.events += 1
                owner.turn(event.call, event.args)
        if self.violation is None:
            self.now = max(self.now, until_s)

    # --- What is seen of it ---------------------------------------------------------------------

    def trace(self, line):
        """Note what happened. The digest of all lines is what two runs must agree in."""
        text = f"{self.now - START_S:.6f} {line}\n"
        self._lines.append(text)
        if len(self._lines) >= 4096 and not self._keep:
            self._fold()

    def _fold(self):
        self._hash.update("".join(self._lines).encode())
        self._lines.clear()

    @property
    def trace_text(self):
        return "".join(self._lines)

    def digest(self):
        """Return the trace's SHA-256, in hexadecimal."""
        whole = self._hash.copy()
        whole.update("".join(self._lines).encode())
        return whole.hexdigest()

    def fail(self, check, words):
        """Note a violation, the first one, which ends the run."""
        if self.violation is None:
            self.violation = ViolationError(check, words)
            self.trace(f"VIOLATION {check}: {words}")


class ProcessClock:
    """Time and calls to come, as one process has them; Twisted's reactor as far as it is used."""

    __slots__ = ("_process", "_seen_s", "_world")

    def __init__(self, world, process):
        self._world = world
        self._process = process
        self._seen_s = world.now

    def seconds(self):
        """Return the time; it never goes back, and a little passes with each look."""
        now_s = self._world.now
        seen_s = self._seen_s
        if self._world.current is not self._process:  # who watches takes no time
            return max(seen_s, now_s)
        seen_s = max(seen_s, now_s) + LOOK_S
        self._seen_s = seen_s
        return seen_s

    def look(self):
        """Return the time without any passing: when what the process does now is done."""
        return max(self._world.now, self._seen_s)

    def jump(self, to_s):
        """Be stopped here until then."""
        self._seen_s = max(self._seen_s, to_s)

    def callLater(self, delay, call, *args):  # noqa: N802  Twisted's name
        assert delay >= 0, delay
        return self._world.at(self.look() + delay, call, *args, owner=self._process)

    def callFromThread(self, call, *args):  # noqa: N802  Twisted's name
        self._world.at(self.look(), call, *args, owner=self._process)
