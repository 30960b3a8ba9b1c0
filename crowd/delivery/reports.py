"""What a leader has the log know of one consumer's delivery.

Decides when outcomes, dead messages, delivered letters and the state of what is tried go into
the log, and how much of them at once. Leaves what they are to ``plan``, and what they do to
``crowd/ledger``.

All of it is proposed, and may be lost with the leadership: then the next leader finds the same
messages pending, and attempts them again (I4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from crowd.command import LETTERS_MAX, Burial, Bury, Conclude, Remember, Settle
from crowd.command import Trial as RememberedTrial
from crowd.delivery.trial import Remembered, Trial, letter_number, letter_place
from crowd.message import ConsumerId

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.command import Command
    from crowd.delivery.plan import Plan
    from crowd.delivery.ports import Leadership, LedgerView
    from crowd.delivery.trial import Dead
    from crowd.message import Position

SETTLE_EVERY_S: Final = 0.1
"""Outcomes wait this long for others: at most ten entries a second for each consumer, and a
leader's death repeats no more than a tenth of a second's deliveries."""

BURY_AWAITED_S: Final = 0.01
"""The dead of which a producer waits to hear wait no longer: as long as two slices. Such producers
are few (`crowd.waits.WAITS_MAX`), and an entry has the deaths of all."""

SETTLE_AT: Final = 500
"""Outcomes that do not wait longer: about 5 000 deliveries a second make an entry each 0.1 s."""

SETTLE_PROPOSED_MAX: Final = 8
"""Proposals of one lane under way. While commits stand still, outcomes gather instead."""

BURY_BYTES_MAX: Final = 512 << 10
"""Bytes of messages in one `Bury`, half of what an entry usually holds; a larger message goes
alone."""

PARKED_MAX: Final = 16
"""Messages that make room in the window at once. Each may be in an entry that is to be read."""

REMEMBER_EVERY_S: Final = 1.0
"""Between two reports of what waits: a leader's death forgets a second of failures at most."""


BURIED_S: Final = 5.0
"""A `Bury` without effect so long after it was proposed is proposed anew, if there is room: others
may have taken its room meanwhile. Twice does no harm. A commit takes milliseconds."""


class _UnderWay(NamedTuple):
    """A `Bury` under way: the last position in it, what it adds, and when it was proposed."""

    position: Position
    letters: int
    words_bytes: int
    message_bytes: int
    since_s: float


class Reports:
    """One lane's proposals. `stored` reads a position's message, or says None for later."""

    def __init__(
        self,
        consumer: ConsumerId,
        plan: Plan,
        ledger: LedgerView,
        leadership: Leadership,
        stored: Callable[[Position], bytes | None],
    ) -> None:
        self._consumer = consumer
        self._plan = plan
        self._ledger = ledger
        self._leadership = leadership
        self._stored = stored
        self._due_s: float | None = None
        self._told_revision = plan.revision
        self._tell_s = float("-inf")
        self._burials: list[_UnderWay] = []
        self.dead_bytes_max = 0
        self.no_room = ""
        """Which bound leaves no room for the next letter, for people."""

    def heard(self, now_s: float, within_s: float = SETTLE_EVERY_S) -> None:
        """Have an outcome proposed within `within_s`; others may come with it."""
        if self._due_s is None or self._due_s > now_s + within_s:
            self._due_s = now_s + within_s

    def due_s(self) -> float | None:
        """Return when `send` has something to do, or None if only an event brings it."""
        due_s = self._due_s
        if self._plan.endings.proposed >= SETTLE_PROPOSED_MAX or self._plan.full:
            due_s = None
        if self._burials:
            again_s = self._burials[0].since_s + BURIED_S
            due_s = again_s if due_s is None else min(due_s, again_s)
        if self._plan.revision == self._told_revision:
            return due_s
        return self._tell_s if due_s is None else min(due_s, self._tell_s)

    def send(self, now_s: float, *, at_once: bool = False) -> None:
        """Propose what is due, enough of it, or to go `at_once`."""
        plan = self._plan
        plan.park(now_s, PARKED_MAX)
        if self._burials:
            self._look_at_burials(now_s)
        if plan.endings.dead:
            self.heard(now_s)
        if self._due_s is not None:
            due = at_once or self._due_s <= now_s
            if (
                due
                or plan.full
                or len(plan.endings.delivered) + len(plan.endings.dead) >= SETTLE_AT
            ):
                all_gone = (self._settle(), self._bury(now_s), self._conclude(now_s))
                self._due_s = None if all(all_gone) else now_s + SETTLE_EVERY_S
        if plan.revision != self._told_revision and (at_once or self._tell_s <= now_s):
            self._remember(now_s)

    def _propose(self, command: Command) -> bool:
        """Propose a command; False if this node leads no more: the lane is closed soon."""
        return self._leadership.propose(command)

    def _settle(self) -> bool:
        """Propose deliveries; return whether none is left."""
        plan = self._plan
        while plan.endings.delivered and plan.endings.proposed < SETTLE_PROPOSED_MAX:
            if not self._propose(Settle(self._consumer, plan.endings.to_settle())):
                return False
            plan.endings.settle_proposed()
        return not plan.endings.delivered

    def _conclude(self, now_s: float) -> bool:
        """Propose what became of letters; return whether none is left."""
        concluded = self._plan.endings.concluded[:LETTERS_MAX]
        if not concluded:
            return True
        if not self._propose(Conclude(self._consumer, tuple(sorted(concluded)))):
            return False
        self._plan.endings.conclude_proposed(len(concluded), now_s)
        return not self._plan.endings.concluded

    # --- The dead -----------------------------------------------------------------------------------

    def _bury(self, now_s: float) -> bool:
        """Propose that dead messages become letters; return whether none is left to be tried.

        What finds no room stays, and the consumer is held: nothing is thrown away, and nothing
        more can die.
        """
        plan = self._plan
        while plan.endings.dead and plan.endings.proposed < SETTLE_PROPOSED_MAX:
            plan.endings.forget_dead_letters(self._waits)
            if not plan.endings.dead:
                break
            burials = self._next_burials(now_s)
            plan.set_full(now_s, full=burials is None, why=self.no_room)
            if burials is None:
                return True  # the ledger says when there is room: its news wake the lane
            if not burials:
                return False
            ordered = tuple(sorted(burials, key=lambda burial: burial.position))
            owner = self._owner(plan.endings.dead[0])
            target = ConsumerId(0) if owner == self._consumer else self._consumer
            if not self._propose(Bury(owner, ordered, target)):
                return False
            if plan.endings.dead[0].position > 0:
                words_bytes = sum(_words_bytes(burial) for burial in burials)
                message_bytes = sum(len(burial.message) for burial in burials)
                last = ordered[-1].position
                self._burials.append(
                    _UnderWay(last, len(burials), words_bytes, message_bytes, now_s)
                )
            plan.endings.bury_proposed(len(burials), now_s)
        if plan.full and not plan.endings.dead:
            plan.set_full(now_s, full=False)  # what found no room was purged, or is not ours now
        return not plan.endings.dead

    def _waits(self, number: int) -> bool:
        """Return whether a letter is there, and waits for this consumer."""
        letter = self._ledger.letters.get(number)
        return letter is not None and letter.target == self._consumer

    def _owner(self, dead: Dead) -> ConsumerId:
        """Return whose message it is: a letter may have been replayed to another consumer."""
        if dead.position > 0:
            return self._consumer
        return self._ledger.letters[letter_number(dead.position)].consumer

    def _look_at_burials(self, now_s: float) -> None:
        """Forget those that took effect; have one that took none for long be proposed again."""
        plan, ledger = self._plan, self._ledger
        self._burials = [each for each in self._burials if plan.endings.buries(each.position)]
        if self._burials and self._burials[0].since_s + BURIED_S <= now_s:
            plan.bury_again(lambda position: ledger.is_settled(self._consumer, position))
            self._burials = [
                each._replace(since_s=now_s)
                for each in self._burials
                if plan.endings.buries(each.position)
            ]

    def _next_burials(self, now_s: float) -> list[Burial] | None:
        """Return the next letters; None if the first one finds no room, which `no_room` tells.

        None at all if its bytes cannot be read now.
        """
        ledger, under_way = self._ledger, self._burials
        kept_bytes = ledger.dead_bytes(self._consumer)
        kept_bytes += sum(each.message_bytes for each in under_way)
        words_bytes = sum(each.words_bytes for each in under_way)
        count = sum(each.letters for each in under_way)
        burials: list[Burial] = []
        entry_bytes = 0
        for dead in self._plan.endings.dead[:LETTERS_MAX]:
            is_letter = dead.position < 0
            if burials and is_letter:
                break  # it goes alone: it may be another consumer's
            stored = self._stored(dead.position)
            if stored is None:
                break
            entry_bytes += len(stored) + len(dead.words.encode())
            if burials and entry_bytes > BURY_BYTES_MAX:
                break
            burial = self._burial(dead, stored, now_s)
            count += 1
            words_bytes += _words_bytes(burial)
            if not ledger.has_room_for_letters(count, words_bytes):
                self.no_room = "the cluster's letters are at their bound"
                return burials or None
            if is_letter:
                return [burial]  # its bytes are kept already
            kept_bytes += len(stored)
            if kept_bytes > self.dead_bytes_max:
                self.no_room = "its dead letters are at their bound"
                return burials or None
            burials.append(burial)
        return burials

    def _burial(self, dead: Dead, stored: bytes, now_s: float) -> Burial:
        first_us, last_us = self._log_us(dead.first_s, now_s), self._log_us(dead.last_s, now_s)
        state: Literal["dead", "parked"] = "parked" if dead.reason == "window" else "dead"
        position = dead.position
        if position < 0:
            position = self._ledger.letters[letter_number(position)].position
        return Burial(
            position, state, dead.reason, dead.status, dead.words, dead.attempts, first_us, last_us,
            stored,
        )  # fmt: skip

    def _log_us(self, at_s: float, now_s: float) -> int:
        """Return a time of the lane's clock as one of the log's."""
        return max(0, self._leadership.log_time_us() + round((at_s - now_s) * 1e6))

    # --- For the next leader ------------------------------------------------------------------------

    def _remember(self, now_s: float) -> None:
        told, log_us = self._plan.remember(now_s), self._log_us(now_s, now_s)
        trials = []
        for trial in told.trials:
            position, letter = trial.position, 0
            if position < 0:
                letter = letter_number(position)
                known = self._ledger.letters.get(letter)
                if known is None:
                    continue
                position = known.position
            trials.append(
                RememberedTrial(
                    position,
                    letter,
                    trial.attempts,
                    max(0, log_us + round((trial.first_s - now_s) * 1e6)),
                    max(0, log_us + round((trial.due_s - now_s) * 1e6)),
                    trial.spared,
                    round(trial.aged_s * 1e6),
                )
            )
        trials.sort(key=lambda trial: (trial.position, trial.letter))
        held_s = told.held_until_s - now_s
        held_until_us = max(0, log_us + round(held_s * 1e6)) if held_s > 0 else 0
        aged_us = round(told.aged_s * 1e6)
        command = Remember(self._consumer, told.opened, held_until_us, aged_us, tuple(trials))
        if self._propose(command):
            self._told_revision = self._plan.revision
        self._tell_s = now_s + REMEMBER_EVERY_S


def _words_bytes(burial: Burial) -> int:
    return len(burial.words.encode())


def remembered_of(command: Remember | None, now_s: float, log_time_us: int) -> Remembered | None:
    """Return what a leader before this one said, in times of this one's clock.

    `now_s` and `log_time_us` are the same moment.
    """
    if command is None:
        return None

    def at_s(time_us: int) -> float:
        return now_s + (time_us - log_time_us) / 1e6

    trials = tuple(
        Trial(
            at_s(trial.due_us),
            letter_place(trial.letter) if trial.letter else trial.position,
            trial.attempts,
            trial.spared,
            at_s(trial.first_us),
            trial.aged_us / 1e6,
        )
        for trial in command.trials
    )
    return Remembered(command.opened, at_s(command.held_until_us), command.aged_us / 1e6, trials)
