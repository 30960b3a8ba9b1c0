"""Where one message stands with each of its consumers, as far as a ledger knows it.

Decides what is said of a message from what is kept: whether it is settled, whether it is a letter,
and what the leader last had remembered of its trials. Leaves who may hear it to ``crowd/web``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from crowd.ledger.questions import Questions
    from crowd.message import ConsumerId, Position

State: TypeAlias = Literal["accepted", "delivered", "retrying", "dead", "settled"]

_WORST_FIRST: Final[tuple[State, ...]] = ("dead", "retrying", "accepted", "settled")


class WithConsumer(msgspec.Struct, frozen=True):
    """Where a message stands with one consumer. ``attempts`` are those known to have failed."""

    name: str
    state: State
    attempts: int = 0


class Standing(msgspec.Struct, frozen=True):
    """Where a message of ``route`` stands: as a whole the worst of what its consumers say.

    One that no consumer takes is ``settled``.
    """

    position: Position
    route: str
    state: State
    consumers: tuple[WithConsumer, ...]


def standing_of(ledger: Questions, position: Position) -> Standing:
    """Return where the message at `position` stands.

    Raises LookupError above the tip and where the message was released. Costs some microseconds
    for each consumer, and for each trial that is remembered of one that has not settled it.
    """
    route_id = ledger.place(position).route
    route = next(path for path, known in ledger.routes.items() if known.id == route_id)
    consumers = tuple(
        _with_consumer(ledger, consumer, position)
        for consumer in ledger.consumers
        if ledger.is_own(consumer, position)
    )
    found = {each.state for each in consumers}
    state: State = "delivered" if consumers else "settled"
    state = next((each for each in _WORST_FIRST if each in found), state)
    return Standing(position, route, state, consumers)


def _with_consumer(ledger: Questions, consumer: ConsumerId, position: Position) -> WithConsumer:
    name = ledger.consumers[consumer].definition.name
    end = ledger.ended_as(consumer, position)
    number = ledger.letter_at(consumer, position)
    if number is not None:
        return WithConsumer(name, end or "retrying", ledger.letters[number].attempts)
    if end is not None:
        return WithConsumer(name, end)
    memory = ledger.remembered(consumer)
    for trial in () if memory is None else memory.trials:
        if trial.position == position and not trial.letter:
            return WithConsumer(name, "retrying", trial.attempts)
    return WithConsumer(name, "accepted")
