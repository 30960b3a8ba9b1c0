"""Consumers, as operators see and change them: what stands between ``crowd/web`` and the log.

Decides which changes are refused before the log is asked, and what is shown of a consumer.
Leaves what a change does to the ledger, and deliveries to the dispatcher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from crowd.command import NO_FILE, Control, Define, Dismiss, Skip
from crowd.config import read_consumer
from crowd.errors import BacklogLeftError, ChangeRefusedError, UnknownConsumerError
from crowd.ledger.head import CONSUMERS_MAX
from crowd.message import ConsumerId, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crowd.archive import Archive
    from crowd.delivery.dispatcher import Progress
    from crowd.ledger import Consumer
    from crowd.wishes import Wishes

SOURCE: Final = "the body"
"""What a problem in a table names as its place, in a file's stead."""


class EngineConsumers:
    """The engine as `crowd.web.consumers.Consumers` asks for it. In the reactor only."""

    def __init__(
        self,
        wishes: Wishes,
        node: str,
        archive: Archive,
        progress: Callable[[], Iterable[Progress]],
    ) -> None:
        """Ask through `wishes` for the `node` of this name; `progress` is the dispatcher's."""
        self._wishes = wishes
        self._node = node
        self._archive = archive
        self._progress = progress

    def describe(self) -> list[dict[str, Any]]:
        """Return every consumer, ready for JSON."""
        delivering = {progress.consumer: progress for progress in self._progress()}
        return [
            self._described(consumer, delivering.get(consumer.id))
            for consumer in self._wishes.ledger.consumers.values()
        ]

    def _described(self, consumer: Consumer, progress: Progress | None) -> dict[str, Any]:
        return {
            "name": consumer.definition.name,
            "url": consumer.definition.url,
            "watermark": consumer.watermark,
            "backlog": consumer.backlog,
            "paused": consumer.paused,
            "letters": self._archive.counts(consumer.id),
            "delivery": None if progress is None else msgspec.to_builtins(progress),
            "definition": plain(consumer.definition),
        }

    def apply(self, table: dict[str, Any]) -> str:
        """Add a consumer or change one; return its name.

        Raises ConfigurationError and ChangeRefusedError.
        """
        known = self._wishes.consumers
        definition = read_consumer(table, SOURCE, self._wishes.ledger.routes)
        name = definition.name
        if self._wishes.ledger.consumer_id(name) is None and len(known) >= CONSUMERS_MAX:
            raise ChangeRefusedError(f"found {len(known)} consumers; expected fewer, to add one")
        command = Define(node=self._node, file_hash=NO_FILE, routes=(), consumers=(definition,))
        self._wishes.ask(f"definition of {name}", command)
        return name

    def control(self, name: str, action: Literal["pause", "resume"]) -> None:
        """Have attempts stop, or go on. Raises UnknownConsumerError."""
        consumer = self._consumer(name).id
        self._wishes.ask(f"control of {name}", Control(consumer=consumer, action=action))

    def skip(self, name: str, through: int | None) -> int:
        """Give up messages up to a position; return it. Raises ChangeRefusedError."""
        consumer = self._consumer(name)
        tip: int = self._wishes.ledger.tip
        last = tip if through is None else through
        if last > tip:
            raise ChangeRefusedError(f"found position {last}; expected {tip} at most")
        if last <= consumer.watermark:
            raise ChangeRefusedError(
                f"found nothing to skip: {name} needs no message up to {consumer.watermark}"
            )
        self._wishes.ask(f"skip of {name}", Skip(consumer=consumer.id, through=Position(last)))
        return last

    def remove(self, name: str, *, drop: bool) -> None:
        """Have a consumer go. Raises UnknownConsumerError and BacklogLeftError."""
        consumer = self._consumer(name)
        if not drop and consumer.backlog:
            raise BacklogLeftError(
                f"found {consumer.backlog} messages that {name} has not been delivered; expected "
                'none, or "backlog": "drop"',
                backlog=consumer.backlog,
            )
        # What comes meanwhile is no less the operator's to decide about: `refuse` looks again.
        command = Dismiss(consumer=consumer.id, backlog="drop" if drop else "refuse")
        self._wishes.ask(f"removal of {name}", command)

    def _consumer(self, name: str) -> Consumer:
        known = self._wishes.consumers
        return known[consumer_of(self._wishes.ledger, name)]


def consumer_of(ledger: Any, name: str) -> ConsumerId:
    """Return the id of the consumer called `name`; raise UnknownConsumerError if none is."""
    found: ConsumerId | None = ledger.consumer_id(name)
    if found is None:
        names = ", ".join(consumer.definition.name for consumer in ledger.consumers.values())
        raise UnknownConsumerError(
            f"found no consumer {name[:80]!a}; expected one of {names or 'none'}"
        )
    return found


def plain(value: Any) -> Any:
    """Return a definition with its fields by their names, ready for JSON."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.asdict(value)
        return {name.rstrip("_"): plain(inner) for name, inner in fields.items()}
    return [plain(inner) for inner in value] if isinstance(value, tuple) else value
