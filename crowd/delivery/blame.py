"""Whether a failure says that the message is bad, or only that the consumer does not work.

Decides which failures count towards a message's bounds, and which message is to blame for a breaker
that stays open. Pure. Leaves the bounds to ``backoff``, and whether a single answer shows life to
``outcome``.

Where nobody answered, a failure counts if there was a sign of life since the message's failure
before, so that nothing ends in an outage, however late the breaker sees it. Where the consumer
itself answered, it counts while the breaker is closed.

While it is open nothing counts, but for a message to *blame*: it alone was probed again and again,
with others in line behind it and none beside it, and each time the consumer itself answered that it
failed. Then no other message can show whether the consumer works, and none is delivered before
this one has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crowd.delivery.outcome import is_there
from crowd.message import Position

if TYPE_CHECKING:
    from crowd.delivery.outcome import Answer
    from crowd.delivery.trial import Flight, Trial

BLAMED_AT: Final = 10
"""Probes in a row after which a message is to blame: some five minutes with the usual waits. A
consumer that restarts, or whose database does, is back by then."""

_NOBODY: Final = Position(0)


class Blame:
    """What was heard of one consumer, as far as it clears or blames a message."""

    def __init__(self) -> None:
        self.lives = 0
        """Signs of life so far."""
        self._suspect = _NOBODY
        self._probes = 0

    @property
    def blamed(self) -> Position | None:
        """The message that is to blame for an open breaker, or None."""
        return self._suspect if self._probes >= BLAMED_AT else None

    def probed(self, position: Position, *, suspicious: bool) -> None:
        """Take a probe's answer.

        `suspicious` says that the consumer itself answered a failure, with others in line behind
        the message and none beside it.
        """
        again = position == self._suspect
        self._suspect = position
        self._probes = 0 if not suspicious else self._probes + 1 if again else 1

    def acquit(self) -> None:
        """Blame nobody any more."""
        self._suspect, self._probes = _NOBODY, 0

    def counts(self, flight: Flight, trial: Trial, answer: Answer, *, in_time: bool) -> bool:
        """Return whether a failure counts; `in_time` says that the breaker was closed until then."""
        if trial.position == self.blamed:
            return True
        lives = trial.lives if trial.attempts else flight.lives
        return in_time and (is_there(answer) or self.lives > lives)
