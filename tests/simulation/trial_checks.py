"""What must hold of a message that fails: how long it waits, how often it is tried, and who knows.

Decides whether what is seen is allowed, as ``checks`` says. Failures are counted here anew, from
what is answered; of a leader's own account only the breaker's state is taken, which says whether
the consumer as a whole answered.
"""

from __future__ import annotations

import math

from crowd.delivery.outcome import Answered, FailureKind
from crowd.delivery.reports import SETTLE_PROPOSED_MAX
from tests.simulation.check import Check
from tests.simulation.pace_checks import shows_life

TOLD_S = 1.2
"""A leader tells what waits once a second; with the turns until then."""
TOLERANCE_S = 0.001
HOLDING = frozenset({401, 403, 404, 407})
ENDING = frozenset({400, 410, 422})
NOT_THERE = frozenset({408, 425, 429, 502, 503, 504})
"""What a proxy says, or "not now": not the consumer's own word about the message."""
BLAMED_AT = 10
"""Probes of one message alone that failed, after which it is to blame for an open breaker."""
APPENDS_KEPT = 4096


def _bound_of(retry):
    """Return how many attempts a message has at most; infinitely many, if nothing says so."""
    bounds = [retry.attempts] if retry.attempts else []
    if retry.schedule_us:
        bounds.append(len(retry.schedule_us) + 1)
    return min(bounds, default=math.inf)


class _Trial:
    """One message's failures at one consumer, since it began or became a letter."""

    def __init__(self, began_s):
        self.began_s = began_s
        """When the first attempt began that failed."""
        self.aged_s = None
        """What its lane said of the consumer's answering time then; None on another lane."""
        self.total = 0
        """How many ever counted, whoever knows of them."""
        self.probes = 0
        """How many of the failed were probes."""
        self.lives = None
        """The consumer's signs of life to its lane when it failed last; None on another lane."""
        self.refused = False
        """It was answered that no attempt can succeed."""
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
        self._cut_off_s = {}
        """When those began that were cut off in their first attempt, and tried no more so far."""
        self._lives = {}
        """By lane: signs of life."""
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
        """Look whether it is due; a letter begins anew."""
        if older is None:
            key = letter.consumer, 0, letter.position
        else:
            key = older.target, older.number, letter.position
        trial = self._trials.pop(key, None)
        self._cut_off_s.pop(key, None)
        whose = self.truth.story.consumers[key[0]]
        due = trial is not None and self._is_due(burial.reason, trial, whose)
        if not due and burial.reason != "window":
            self.fail(
                f"position {letter.position} of {whose.name} dies of {burial.reason} after "
                f"{trial.total if trial else 0} attempts that count"
            )

    def _is_due(self, reason, trial, told):
        """Tell whether a message may have died of this, by any definition of its consumer's."""
        if reason == "attempts":
            bounds = [_bound_of(definition.retry) for _, definition in told.defined]
            return trial.total >= min(bounds)
        if reason == "age":
            for_us = min(definition.retry.for_us for _, definition in told.defined)
            return trial.last_s - trial.began_s >= for_us / 1e6 - TOLERANCE_S
        return trial.refused

    def let_go(self, letter):
        if letter.fate != "again":
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
        if lane is not request.lane and self._buries_late(lane, naming.position):
            return  # only who led then knew that it was dead
        if lane is request.lane or self._is_told(seen):
            self.fail(
                f"{request.process.name} attempts {naming.position} of {request.definition.name}, "
                f"which is dead: {why}"
            )

    def _buries_late(self, lane, position):
        """Tell whether its letter found no room, waited for those before it, or was just proposed.

        What was proposed stands behind all that the log took: it had waited for one of the others.
        """
        endings = lane.plan.endings
        waits = any(dead.position == position for dead in endings.dead)
        waits = waits and endings.proposed >= SETTLE_PROPOSED_MAX
        return lane.plan.full or waits or endings.buries(position)

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
        self._lives[lane] = self._lives.get(lane, 0) + any(map(shows_life, answers))
        for (_, naming), answer in zip(request.items, answers, strict=True):
            key = self._key(request, naming)
            if isinstance(answer, Answered) and answer.status // 100 == 2:
                self._trials.pop(key, None)
                self._cut_off_s.pop(key, None)
                continue
            if not isinstance(answer, Answered) and answer.kind is FailureKind.FENCED:
                continue
            if not isinstance(answer, Answered) and answer.kind is FailureKind.STOPPED:
                self._cut_off_s.setdefault(key, request.started_s)  # it ages from then on
                continue
            trial = self._trials.get(key)
            if trial is None:
                began_s = self._cut_off_s.pop(key, request.started_s)
                trial = self._trials[key] = _Trial(began_s)
                trial.aged_s = request.aged_s
            elif trial.lane is not lane:
                trial.aged_s = trial.lives = None
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
        """Count a failure: towards what it may have died of, and what it must have died of."""
        status = answer.status if isinstance(answer, Answered) else 0
        is_there = status and status not in NOT_THERE
        has_lived = trial.lives is not None and self._lives.get(request.lane, 0) > trial.lives
        trial.lives = self._lives.get(request.lane, 0)
        trial.refused = trial.refused or status in ENDING
        trial.probes += request.probe
        if status in ENDING:
            if not trial.shared:
                trial.spent = request.lane, seen, f"answered {status}"
            return
        if status in HOLDING or not (was_closed or trial.probes >= BLAMED_AT):
            return
        trial.total += 1
        if not was_closed or not (is_there or has_lived):
            return  # an outage, perhaps
        trial.counted.append(seen)
        retry = request.definition.retry
        if trial.shared:
            return
        if len(trial.counted) >= _bound_of(retry):
            trial.spent = request.lane, seen, f"{len(trial.counted)} attempts"
        elif trial.aged_s is not None:
            age_s = request.lane.plan.aged_s(seen[1]) - trial.aged_s
            if age_s >= retry.for_us / 1e6:
                trial.spent = request.lane, seen, f"{age_s:.3f} s old"
