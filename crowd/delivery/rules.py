"""What of a consumer's definition decides which message is attempted when.

Decides nothing: it puts a definition's texts and microseconds into the terms of ``plan`` and
the modules that this asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from crowd.command import Answers
from crowd.command import Breaker as BreakerDefinition
from crowd.delivery.backoff import Backoff
from crowd.delivery.order import Order

if TYPE_CHECKING:
    from crowd.command import ConsumerDefinition


class Rules(msgspec.Struct, frozen=True):
    """A definition, as a plan goes by it. ``holds_dead``: a dead letter keeps its key."""

    backoff: Backoff
    concurrency: int
    adaptive: bool = False
    breaker: BreakerDefinition = BreakerDefinition()
    answers: Answers = Answers()
    order: Order = Order()
    holds_dead: bool = False

    @classmethod
    def from_definition(cls, definition: ConsumerDefinition) -> Rules:
        """Return a definition's rules; ValueError for an order that is none."""
        return cls(
            Backoff.from_definition(definition.retry),
            definition.concurrency,
            definition.adaptive,
            definition.breaker,
            definition.answers,
            Order.from_text(definition.order),
            definition.on_dead == "hold",
        )
