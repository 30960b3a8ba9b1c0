"""What of a consumer's definition decides which message is attempted when.

Decides nothing: it puts a definition's texts and microseconds into the terms of ``plan`` and
the modules that this asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from crowd.definition import Answers, Batch
from crowd.definition import Breaker as BreakerDefinition
from crowd.delivery.backoff import Backoff
from crowd.delivery.order import Order

if TYPE_CHECKING:
    from crowd.definition import ConsumerDefinition


class Rules(msgspec.Struct, frozen=True):
    """A definition, as a plan goes by it. ``holds_dead``: a dead letter keeps its key.

    ``batch`` says how many messages go in one request, None that each goes in one of its own. Where
    all is in order it has them go one by one, in the form of a batch: of two in one request, the
    later would be attempted before the earlier is done.
    """

    backoff: Backoff
    concurrency: int
    adaptive: bool = False
    breaker: BreakerDefinition = BreakerDefinition()
    answers: Answers = Answers()
    order: Order = Order()
    holds_dead: bool = False
    batch: Batch | None = None

    @classmethod
    def from_definition(cls, definition: ConsumerDefinition) -> Rules:
        """Return a definition's rules; ValueError for an order that is none."""
        order, batch = Order.from_text(definition.order), definition.batch
        if batch is not None and order.by == "all":
            batch = replace(batch, count=1)
        return cls(
            Backoff.from_definition(definition.retry),
            definition.concurrency,
            definition.adaptive,
            definition.breaker,
            definition.answers,
            order,
            definition.on_dead == "hold",
            batch,
        )
