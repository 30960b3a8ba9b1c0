"""What delivery asks of others: small protocols, declared by who uses them.

Everything here runs in the reactor's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from twisted.internet.defer import Deferred

    from crowd.command import Command, Index, Remember
    from crowd.definition import ConsumerDefinition
    from crowd.delivery.outcome import Answer
    from crowd.delivery.request import Naming
    from crowd.errors import DamagedEntryError
    from crowd.message import ConsumerId, Message, Position


class ClientEndpoint(Protocol):
    """What is used of Twisted's IStreamClientEndpoint."""

    def connect(self, protocolFactory: Any, /) -> Deferred[Any]:  # noqa: N803  Twisted's name
        """Connect, and return the protocol that the factory built."""


class RunView(Protocol):
    """Messages that are one behind the other in one entry."""

    @property
    def first(self) -> Position:
        """The first one's position."""

    @property
    def last(self) -> Position:
        """The last one's position."""

    @property
    def index(self) -> Index:
        """The entry's index."""

    @property
    def offset(self) -> int:
        """The first one's place in the entry, from 0."""


class ConsumerView(Protocol):
    """A consumer as the ledger knows it."""

    @property
    def definition(self) -> ConsumerDefinition:
        """How it is delivered to; another object once it was redefined."""

    @property
    def paused(self) -> bool:
        """Whether an operator holds it."""

    @property
    def backlog(self) -> int:
        """How many of its messages are not settled."""

    @property
    def passed(self) -> Position:
        """Through which position an operator last skipped: all up to it are settled."""


class LetterView(Protocol):
    """A message that the ledger keeps outside its consumer's backlog."""

    @property
    def consumer(self) -> ConsumerId:
        """Whose message it was; another one may be to have it now."""

    @property
    def position(self) -> Position:
        """The message's position, which names it."""

    @property
    def state(self) -> str:
        """``dead``, ``parked`` or ``replay``."""

    @property
    def target(self) -> ConsumerId:
        """Who is to have it, if it waits."""


class LedgerView(Protocol):
    """What the dispatcher reads of the ledger, and never changes."""

    tag: str | None
    applied_index: Index

    @property
    def consumers(self) -> Mapping[ConsumerId, ConsumerView]:
        """Every consumer that was ever defined."""

    def pending(self, consumer: ConsumerId, after: Position, limit: int) -> list[Position]:
        """Return the next unsettled positions above `after`, rising; none only if none are."""

    def is_settled(self, consumer: ConsumerId, position: Position) -> bool:
        """Return whether a position needs no attempt."""

    def ended_as(
        self, consumer: ConsumerId, position: Position
    ) -> Literal["delivered", "dead", "settled"] | None:
        """Return how a message ended for a consumer, as far as that is kept; None if it did not."""

    def settled_of(
        self, consumer: ConsumerId, positions: Collection[Position]
    ) -> Sequence[Position]:
        """Return those of some positions, at least one, that are settled; all were pending once."""

    def watermark(self, consumer: ConsumerId) -> Position:
        """Return the position up to which, inclusive, nothing needs an attempt."""

    def run(self, position: Position) -> RunView:
        """Return where a message, and those beside it in its entry, are in the log."""

    @property
    def letters(self) -> Mapping[int, LetterView]:
        """Every letter by its number."""

    def letters_due(self, consumer: ConsumerId, after: int, limit: int) -> Sequence[int]:
        """Return the next letters that are to be attempted: above `after`, rising, to `limit`.

        Those are its parked ones, and those replayed to it, whosever they were.
        """

    def letters_of(self, consumer: ConsumerId, after: int, limit: int) -> Sequence[int]:
        """Return the next letters of a consumer's messages, in whatever state, likewise."""

    def expired(self, log_time_us: int, limit: int) -> Sequence[int]:
        """Return dead letters, rising, at most `limit`, that are past their age at a log time."""

    def is_letter(self, consumer: ConsumerId, position: Position) -> bool:
        """Return whether a consumer has a letter of this position, in whatever state."""

    def has_room_for_letters(self, count: int, words_bytes: int) -> bool:
        """Return whether the cluster may keep so many more letters, with words of so many bytes."""

    def dead_bytes(self, consumer: ConsumerId) -> int:
        """Return how many bytes of a consumer's letters are kept."""

    def remembered(self, consumer: ConsumerId) -> Remember | None:
        """Return what a leader last said of its delivery to a consumer, if any did."""


class Leadership(Protocol):
    """What only a leader can do. The engine is one."""

    def may_attempt(self) -> bool:
        """Return whether this node surely leads right now; asked before every attempt."""

    def messages(self, index: int) -> tuple[bytes, ...]:
        """Return the stored messages of an accepted entry, in their order.

        May read the disk. Raises DamagedEntryError if the bytes there are damaged.
        """

    def letter(self, number: int) -> bytes | None:
        """Return a letter's stored message, or None if it is not here (yet)."""

    def log_time_us(self) -> int:
        """Return the log's time now, in microseconds since 1970."""

    def damaged(self, error: DamagedEntryError) -> None:
        """Have a damaged entry mended; it can be read once it is."""

    def proposed_index(self) -> Index:
        """Return the index of the last command that was proposed; a ledger that is there knows it."""

    def propose(self, command: Command) -> bool:
        """Append a command to the log; False if this node does not lead (any more).

        Nothing is durable when it returns. An appended command takes effect in the order of
        proposals, or this node stops leading and the dispatcher is told.
        """


class Courier(Protocol):
    """Brings messages to one consumer."""

    def attempt(self, message: Message, naming: Naming) -> Deferred[Answer]:
        """Make one attempt. The Deferred fires once, in bounded time, and never fails."""

    def attempt_batch(self, items: Sequence[tuple[Message, Naming]]) -> Deferred[list[Answer]]:
        """Make one attempt with many messages, at least one; the consumer takes batches.

        The Deferred fires once, in bounded time, with an Answer for each message in their
        order, and never fails. Where the request's answer is everyone's, it is the same object
        (`forms.batch.is_shared`).
        """

    def close(self) -> None:
        """Let attempts under way end, and start no more."""

    def abort(self) -> None:
        """End attempts under way at once."""


class CourierFactory(Protocol):
    """Makes the courier that fits a consumer's definition."""

    def __call__(self, definition: ConsumerDefinition) -> Courier:
        """Return a courier; ValueError if the definition's address is none."""
