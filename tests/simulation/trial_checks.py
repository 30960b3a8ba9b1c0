"""What must hold of a message that fails: how long it waits, how often it is tried, and who knows.

Decides whether what is seen is allowed, as ``checks`` says. Failures are counted here anew, from
what is answered; of a leader's own account only the breaker's state is taken, which says whether
the consumer as a whole answered.
"""

from __future__ import annotations

from crowd.delivery.outcome import Answered, FailureKind
from tests.simulation.check import Check

TOLD_S = 1.2
"""A leader tells what waits once a second; with the turns until then."""
TOLERANCE_S = 0.001
HOLDING = frozenset({401, 403, 404, 407})
ENDING = frozenset({400, 410, 422})
APPENDS_KEPT = 4096


class _Trial:
    """One message's failures at one consumer, since it began or became a letter."""

    def __init__(self):
        self.failed = []
        """Each attempt that failed: (term, when)."""
        self.counted = []
        """Those of them that count towards a bound."""
        self.spent = None
        """Why and when it was tried for the last time, if so: (lane, when, why)."""
        self.lane = None
        self.last_s = 0.0
        self.recalled = False
        self.shared = False
        """It was in a request with others, which may be to blame."""


class TrialsBounded(Check):
    """A message is tried no oftener than its consumer says, whoever leads, and then it is dead.

    What is in the log is never forgotten: failures that a leader saw more than `TOLD_S` before an
    entry that it appended and that was committed. So a leader's death may cost an attempt for
    each failure of its last second, and resets nothing.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._trials = {}
        self._appends = {}
        self._told_s = {}
        """By term: until when the log knows what its leader saw."""

    # --- What the log knows -----------------------------------------------------------------------

    def appended(self, process, index, term, command):
        if process.leads and term == process.term:
            self._appends[index, term] = self.world.now
            if len(self._appends) > APPENDS_KEPT:
                del self._appends[next(iter(self._appends))]

    def reached(self, process, index):
        """Take that an entry is committed: all that its leader told before it is, too."""
        term = self.truth.entries[index][0]
        at_s = self._appends.pop((index, term), None)
        if at_s is not None:
            self._told_s[term] = at_s - TOLD_S

    def _is_told(self, seen):
        """Tell whether the log knows what was seen in a term at a time."""
        term, at_s = seen
        return at_s <= self._told_s.get(term, float("-inf"))

    def buried(self, letter, burial, older):
        """A letter begins anew; one that is parked goes on as it was."""
        self._trials.pop((letter.consumer, 0, letter.position), None)
        if older is not None:
            for key in [key for key in self._trials if key[1] == older.number]:
                del self._trials[key]

    def let_go(self, letter):
        for key in [key for key in self._trials if key[1] == letter.number]:
            del self._trials[key]

    # --- What is seen -----------------------------------------------------------------------------

    def _key(self, request, naming):
        return request.consumer, request.letter, naming.position

    def attempted(self, request):
        for _, naming in request.items:
            trial = self._trials.get(self._key(request, naming))
            if trial is not None:
                self._number(request, naming, trial)
                self._spent(request, naming, trial)
                self._wait(request, naming, trial)

    def _number(self, request, naming, trial):
        """Its number says how often it was tried: all that this lane or the log knows of."""
        is_same = trial.lane is request.lane
        known = sum(is_same or self._is_told(seen) for seen in trial.failed)
        if naming.attempt <= known and not self._has_changed(request):
            self.fail(
                f"{request.process.name} attempts {naming.position} of {request.definition.name} "
                f"for the {naming.attempt}th time, and {known} failures of it are known"
            )

    def _spent(self, request, naming, trial):
        if trial.spent is None or request.letter:
            return
        lane, seen, why = trial.spent
        if lane is request.lane or self._is_told(seen):
            self.fail(
                f"{request.process.name} attempts {naming.position} of {request.definition.name}, "
                f"which is dead: {why}"
            )

    def _wait(self, request, naming, trial):
        """It waits as long as its consumer says, but that one sign of life calls all back."""
        if request.probe or trial.lane is not request.lane or trial.recalled or trial.shared:
            return
        definition = request.definition
        retry, counted = definition.retry, max(1, len(trial.counted))
        if retry.schedule_us:
            ceiling_us = retry.schedule_us[min(counted, len(retry.schedule_us)) - 1]
        else:
            ceiling_us = min(retry.most_us, retry.first_us * retry.factor ** (counted - 1))
        least_s = ceiling_us * (1 - retry.jitter) / 1e6
        waited_s = request.started_s - trial.last_s
        if waited_s < least_s - TOLERANCE_S and not self._has_changed(request):
            self.fail(
                f"{request.process.name} attempts {naming.position} of {definition.name} "
                f"{waited_s:.3f} s after it failed for the {counted}th time; not before {least_s:g}"
            )

    def _has_changed(self, request):
        return len(self.truth.story.consumers[request.consumer].defined) > 1

    def heard(self, request, answers):
        """Count what failed, as it stood when the lane heard of it."""
        lane = request.lane
        if lane._closed:
            return
        was_closed, is_closed = request.closed, lane.plan.breaker.closed
        now_s = self.world.now
        for (_, naming), answer in zip(request.items, answers, strict=True):
            key = self._key(request, naming)
            if isinstance(answer, Answered) and answer.status // 100 == 2:
                self._trials.pop(key, None)
                continue
            if not isinstance(answer, Answered) and answer.kind in {
                FailureKind.FENCED, FailureKind.STOPPED,
            }:  # fmt: skip
                continue
            trial = self._trials.setdefault(key, _Trial())
            if trial.lane is not lane:
                # What the log did not know when this lane began, it never learns.
                trial.failed = list(filter(self._is_told, trial.failed))
                trial.counted = list(filter(self._is_told, trial.counted))
            trial.lane, trial.last_s, trial.recalled = lane, now_s, False
            trial.shared = trial.shared or len(request.items) > 1
            seen = request.term, now_s
            trial.failed.append(seen)
            self._count(request, trial, answer, was_closed, seen)
        if request.probe and is_closed:
            for trial in self._trials.values():
                if trial.lane is lane:
                    trial.recalled = True

    def _count(self, request, trial, answer, was_closed, seen):
        status = answer.status if isinstance(answer, Answered) else 0
        if status in ENDING and not trial.shared:
            trial.spent = request.lane, seen, f"answered {status}"
            return
        if not was_closed or status in HOLDING:
            return
        trial.counted.append(seen)
        retry = request.definition.retry
        bounds = [retry.attempts] if retry.attempts else []
        if retry.schedule_us:
            bounds.append(len(retry.schedule_us) + 1)
        if bounds and len(trial.counted) >= min(bounds) and not trial.shared:
            trial.spent = request.lane, seen, f"{len(trial.counted)} attempts"
