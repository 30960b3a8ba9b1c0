"""What must hold of a consumer's pace: how many attempts, how fast, and when none at all.

Decides whether what is seen is allowed, as ``checks`` says. Rates and waits are counted here
anew, from when attempts begin and what is answered; of a leader's own account the breaker's
state is taken, and held against the answers that must have moved it.
"""

from __future__ import annotations

from collections import deque

from crowd.delivery.breaker import BreakerState
from crowd.delivery.outcome import Answered, FailureKind
from crowd.quantity import rate_per_s
from tests.simulation.check import Check

TOLERANCE_S = 0.001
WINDOWS = 64
"""Attempts back to which windows of a rate reach."""
NO_LIFE = frozenset({408, 425, 429, 401, 403, 404, 407})


def shows_life(answer):
    """Tell whether an answer shows that the consumer as a whole works; None: it says nothing."""
    if not isinstance(answer, Answered):
        return None if answer.kind in {FailureKind.FENCED, FailureKind.STOPPED} else False
    return answer.status < 500 and answer.status not in NO_LIFE


class _Pace:
    """What one lane did."""

    def __init__(self):
        self.flying = {}
        """Requests under way, and when each began."""
        self.starts = deque(maxlen=WINDOWS)
        self.rate = None
        self.run = 0
        """Failures of the consumer as a whole since the last sign of life."""
        self.asked_until_s = 0.0
        self.successes = None
        """Successes since the breaker closed; None before it ever opened."""
        self.waits = []
        """When probes began since the breaker opened."""
        self.opened_s = 0.0


class PaceKept(Check):
    """No more at once than `concurrency`, no more in any window than `rate`, none while asked to wait.

    After an outage it begins with one at once, and each success allows one more.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._paces = {}

    def attempted(self, request):
        pace = self._paces.setdefault(request.lane, _Pace())
        definition, name = request.definition, request.definition.name
        pace.flying[request] = request.started_s
        if len(pace.flying) > definition.concurrency:
            self.fail(
                f"{len(pace.flying)} attempts at once at {name}; at most {definition.concurrency}"
            )
        if pace.successes is not None and len(pace.flying) > pace.successes + 1:
            self.fail(
                f"{len(pace.flying)} attempts at once at {name} after an outage and "
                f"{pace.successes} successes"
            )
        if request.started_s < pace.asked_until_s - TOLERANCE_S:
            self.fail(
                f"{name} is attempted {pace.asked_until_s - request.started_s:.3f} s before the "
                "time that it asked for"
            )
        self._rate(pace, request)

    def _rate(self, pace, request):
        rate = request.definition.rate
        if rate != pace.rate:
            pace.starts.clear()
            pace.rate = rate
        if rate is None:
            return
        batch = request.definition.batch
        company = batch.count - 1 if batch is not None else 0
        per_s = rate_per_s(rate)
        burst = max(1, int(per_s / 10))
        count = len(request.items)
        pace.starts.append((request.started_s, count))
        seen = 0
        for started_s, some in reversed(pace.starts):
            seen += some
            window_s = request.started_s - started_s + TOLERANCE_S
            if seen > per_s * window_s + burst + company:
                self.fail(
                    f"{seen} messages in {window_s:.3f} s at {request.definition.name}: {rate}"
                )
                return

    def answering(self, request, answers):
        pace = self._paces[request.lane]
        pace.flying.pop(request, None)

    def heard(self, request, answers):
        pace = self._paces[request.lane]
        if request.lane._closed:
            return
        answer = answers[0]
        asked_most_s = request.definition.retry.asked_most_us / 1e6
        for answer in answers:
            if isinstance(answer, Answered) and answer.retry_after_s and answer.status == 503:
                until_s = self.world.now + min(answer.retry_after_s, asked_most_s)
                pace.asked_until_s = max(pace.asked_until_s, until_s)
        is_closed = request.lane.plan.breaker.closed
        if request.probe and is_closed:
            pace.successes = int(is_delivered(answers[0]))
        elif pace.successes is not None and any(map(is_delivered, answers)):
            pace.successes += 1
            if pace.successes >= 2 * request.definition.concurrency:
                pace.successes = None


def is_delivered(answer):
    return isinstance(answer, Answered) and answer.status // 100 == 2


class BreakerOpens(Check):
    """So many failures in a row, or one answer that holds, and attempts stop but for probes.

    There is one probe at a time; each waits twice as long as the one before, up to the most; and
    only a probe's sign of life has attempts go on.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._paces = {}
        self._terms = {}
        """By consumer: the term of its newest leader."""

    def attempted(self, request):
        self._begin(request)
        pace = self._paces.setdefault(request.lane, _Pace())
        state = request.lane.plan.breaker.state
        name = request.definition.name
        if state is BreakerState.OPEN:
            self.fail(f"{name} is attempted while its breaker is open")
        elif state is BreakerState.PROBING:
            self._probe(pace, request, name)

    def _begin(self, request):
        """A new leader's first attempt is a probe where the log says that the breaker is open."""
        if request.term <= self._terms.get(request.consumer, 0):
            return
        self._terms[request.consumer] = request.term
        remembered = self._told(request).remembered
        if remembered is not None and remembered.opened and not request.probe:
            self.fail(
                f"{request.process.name} begins to attempt {request.definition.name}, whose "
                "breaker the leader before left open"
            )

    def _probe(self, pace, request, name):
        if len(request.items) > 1:
            self.fail(f"{name} is probed with {len(request.items)} messages")
        if pace.flying:
            self.fail(f"{name} is probed while a probe is under way")
        pace.flying[request] = request.started_s
        breaker = request.definition.breaker
        wait_s = min(breaker.most_us, breaker.first_us * 2 ** len(pace.waits)) / 1e6
        changed = len({d.breaker for _, d in self._told(request).defined}) > 1
        if (
            pace.opened_s
            and not changed
            and request.started_s < pace.opened_s + wait_s - TOLERANCE_S
        ):
            self.fail(f"{name} is probed {request.started_s - pace.opened_s:.3f} s after it failed")
        pace.waits.append(request.started_s)

    def _told(self, request):
        return self.truth.story.consumers[request.consumer]

    def answering(self, request, answers):
        """Note the state before the lane hears of it."""
        request.closed = request.lane.plan.breaker.closed

    def heard(self, request, answers):
        lane = request.lane
        if lane._closed:
            return
        pace = self._paces[lane]
        pace.flying.pop(request, None)
        is_closed = lane.plan.breaker.closed
        lives = [shows_life(answer) for answer in answers]
        if request.closed:
            if any(lives):
                pace.run = 0
            elif lives[0] is False:
                pace.run += 1
                # By the bound of now: a smaller one than before is looked at with the next failure.
                if is_closed and pace.run >= lane.definition.breaker.failures:
                    self.fail(f"{lane.definition.name} is well after {pace.run} failures in a row")
            holding = {401, 403, 404, 407}
            holds = not any(lives) and any(getattr(a, "status", 0) in holding for a in answers)
            if is_closed and holds:
                self.fail(f"{lane.definition.name} answered so as to be held, and is not")
            if not is_closed:
                pace.opened_s, pace.waits = self.world.now, []
        elif request.probe:
            if is_closed and not any(lives):
                self.fail(f"{lane.definition.name} is back after a probe that failed")
            pace.run = 0
            if not is_closed and lives[0] is False:
                pace.opened_s = self.world.now
            elif not is_closed:
                pace.waits = pace.waits[:-1]
        elif is_closed:
            self.fail(f"{lane.definition.name} is back after what was no probe")
