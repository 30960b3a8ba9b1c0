"""`crowd load`: sends requests, at a rate or as fast as answers come, and measures.

Decides when each request leaves and what its latency is. With a rate the loop is open:
request n is due at n/rate, whether or not earlier ones were answered, and its latency counts
from then ("coordinated omission" hides a pause otherwise). With rate 0 each connection sends
its next request when the last was answered.

A request fails if it was sent and got no answer, or one other than 2xx. A connection that is
refused fails no request: it is tried again ten times a second, and requests go elsewhere.
Nothing is sent twice; what became of a request that failed is not known.
"""

from __future__ import annotations

import time
from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from crowd.tools.lane import Lane
from crowd.tools.lines import LineFile
from crowd.tools.tally import Answer, Report, Tally

if TYPE_CHECKING:
    from crowd.tools.loop import Loop

BODY_DEFAULT: Final = b'{"message":"this is a lead message", "shop": "a23m07b23"}'

_SWEEP_S: Final = 0.5
"""How often the requests in flight are looked through for one that waited too long."""


class Target(msgspec.Struct, frozen=True):
    """Where requests go: resolved once, so that no name is looked up while measuring."""

    url: str
    host: str
    port: int
    authority: str
    path: str


class LoadPlan(msgspec.Struct, frozen=True):
    """What to send. ``rate`` is in requests a second over all targets, 0 for a closed loop.

    It ends after ``seconds``, or after ``requests`` if that is not None and comes first.
    With ``numbered`` each request carries its number from 1 in ``X-Load-Number``.
    """

    targets: tuple[Target, ...]
    rate: float = 500.0
    seconds: float = 30.0
    requests: int | None = None
    connections: int = 64
    body: bytes = BODY_DEFAULT
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"
    timeout_s: float = 30.0
    numbered: bool = False


def parse_target(url: str) -> Target:
    """Return the target that an http URL names; raise ValueError if it names none."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not url.isascii() or " " in url:
        raise ValueError(f"found {url!r}; expected a URL such as 'http://127.0.0.1:2104/leads'")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(url, parts.hostname, parts.port or 80, parts.netloc, path)


def request_parts(plan: LoadPlan, target: Target) -> tuple[bytes, bytes]:
    """Return what stands before and after a request's number.

    All of a request is in the first part where requests are not numbered.
    """
    headers = {"Host": target.authority, "Content-Type": "application/json"}
    given = {name.lower() for name, _ in plan.headers}
    lines = [f"{name}: {value}" for name, value in headers.items() if name.lower() not in given]
    lines += [f"{name}: {value}" for name, value in plan.headers]
    lines.append(f"Content-Length: {len(plan.body)}")
    head = "\r\n".join([f"{plan.method} {target.path} HTTP/1.1", *lines])
    if plan.numbered:
        return f"{head}\r\nX-Load-Number: ".encode(), b"\r\n\r\n" + plan.body
    return f"{head}\r\n\r\n".encode() + plan.body, b""


class Load:
    """One run of a plan. ``start`` it in a loop that runs; it stops the loop when done."""

    def __init__(self, loop: Loop, plan: LoadPlan, *, log: str | None = None) -> None:
        self._loop = loop
        self._plan = plan
        self._lines = LineFile(log, loop) if log is not None else None
        self._idle: deque[Lane] = deque()
        self._sent = 0
        self._open = True
        self.tally = Tally([target.url for target in plan.targets])
        self._lanes = [
            Lane(loop, self, number % len(plan.targets), plan.targets[number % len(plan.targets)],
                 naming=log is not None)
            for number in range(plan.connections)
        ]  # fmt: skip
        self._parts = [request_parts(plan, target) for target in plan.targets]

    def start(self) -> None:
        """Connect and begin."""
        self._start_s = self._loop.now_s()
        self._end_s = self._start_s + self._plan.seconds
        self._wall_s = time.time() - self._start_s
        self.tally.begin(self._start_s)
        for lane in self._lanes:
            lane.connect()
        if self._plan.rate:
            self._due()
        self._sweep()

    def finish(self) -> Report:
        """Close everything; return what was measured up to now."""
        for lane in self._lanes:
            lane.close()
        if self._lines is not None:
            self._lines.close()
        return self.tally.report(self._loop.now_s())

    # --- a lane calls these --------------------------------------------------------------

    def ready(self, lane: Lane) -> None:
        """Use a lane that is connected and has nothing in flight."""
        if not self._plan.rate:
            now_s = self._loop.now_s()
            if self._may_send(now_s):
                self._send(lane, now_s)
            return
        self._idle.append(lane)
        self._send_due()

    def answered(self, lane: Lane, answer: Answer) -> None:
        """Take in one request's fate; the lane calls `ready` behind it if it still can."""
        self.tally.add(lane.number, answer)
        if self._lines is not None:
            url = self._plan.targets[lane.number].url
            self._lines.add(answer.line(self._wall_s, url))
        if not self._open and self._nothing_in_flight():
            self._loop.stop()

    # --- when requests leave -----------------------------------------------------------------

    def _due(self) -> None:
        self._send_due()
        if self._open:
            next_s = self._start_s + self._sent / self._plan.rate
            # With no lane idle the next answer sends; this only looks whether time is up.
            wait_s = next_s if self._idle else max(next_s, self._loop.now_s() + 0.01)
            self._loop.call_at(wait_s, self._due)

    def _send_due(self) -> None:
        now_s = self._loop.now_s()
        idle, rate = self._idle, self._plan.rate
        while idle:
            due_s = self._start_s + self._sent / rate
            if due_s > now_s or not self._may_send(due_s):
                return
            lane = idle.popleft()
            if lane.usable:
                self._send(lane, due_s)

    def _send(self, lane: Lane, due_s: float) -> None:
        self._sent += 1
        head, rest = self._parts[lane.number]
        lane.send(head + b"%d" % self._sent + rest if rest else head, due_s)

    def _may_send(self, due_s: float) -> bool:
        requests = self._plan.requests
        if due_s < self._end_s and (requests is None or self._sent < requests):
            return True
        self._close_door()
        return False

    def _close_door(self) -> None:
        if self._open:
            self._open = False
            self.tally.end(min(self._loop.now_s(), self._end_s))
            if self._nothing_in_flight():
                self._loop.stop()

    def _nothing_in_flight(self) -> bool:
        return not any(lane.busy for lane in self._lanes)

    def _sweep(self) -> None:
        now_s = self._loop.now_s()
        # What was due before the end in an open loop may still leave late, but not for ever, and
        # not where nobody listens.
        connected = not all(lane.trouble for lane in self._lanes)
        grace_s = self._plan.timeout_s if self._plan.rate and connected else 0.0
        if now_s >= self._end_s + grace_s:
            self._count_unsent()
            self._close_door()
        for lane in self._lanes:
            lane.check_time(now_s - self._plan.timeout_s)
        self._loop.call_at(now_s + _SWEEP_S, self._sweep)

    def _count_unsent(self) -> None:
        """Count as failed what was due in an open loop and found no connection in time."""
        if self._open and self._plan.rate:
            due = ceil(self._plan.rate * self._plan.seconds)
            if self._plan.requests is not None:
                due = min(due, self._plan.requests)
            self.tally.unsent = max(0, due - self._sent)
            self.tally.troubles = tuple(sorted({lane.trouble for lane in self._lanes} - {""}))
