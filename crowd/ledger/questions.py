"""What a ledger can be asked: the state that entries add up to, and nothing that changes it.

Decides how each question is answered, and what an answer costs. Leaves what entries change to
``ledger``, which is asked through these methods.

Invariant: no question changes the state. What is kept only for speed is never part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from crowd.command import Index, SessionId, Term
from crowd.idempotency import left_out_places
from crowd.ledger.chunk import CHUNK_ROWS
from crowd.ledger.definitions import Definitions, Gone, Route
from crowd.ledger.heard import Heard
from crowd.ledger.keys import Keys, KeyTally
from crowd.ledger.letters import Letter, Letters, State, Tally
from crowd.ledger.marks import Marks
from crowd.ledger.members import Members, MemberState
from crowd.ledger.memories import Memories
from crowd.ledger.rows import Place, Rows, Run
from crowd.ledger.sessions import Sessions
from crowd.message import ConsumerId, Position, RouteId

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from crowd.command import Remember
    from crowd.definition import KeyBounds
    from crowd.ledger.consumers import Consumer


End: TypeAlias = Literal["delivered", "dead", "settled"]


class Questions:
    """A ledger's state, and every question about it.

    `chunk_rows`, at most `CHUNK_ROWS`, is for tests that want many chunks of a short history.
    """

    def __init__(self, *, chunk_rows: int = CHUNK_ROWS) -> None:
        self._chunk_rows = chunk_rows
        self.applied_index = Index(0)
        self.applied_term = Term(0)
        self.log_time_us = 0
        """The newest log time applied, in microseconds since 1970. It never goes back."""
        self.format = 0
        """The version of this state's shape; 0 before birth."""
        self.cluster: str | None = None
        self.tag: str | None = None
        self.refused = 0
        """Proposals refused so far: repeats, and those of closed sessions."""
        self.released_index = Index(0)
        """Entries up to here, inclusive, may leave every node's log."""
        self.beginning = Position(0)
        """The last position in those entries: the first that is kept stands behind it."""
        self.digests: dict[Index, bytes] = {}
        """The newest `DIGESTS_KEPT` digests at multiples of `DIGEST_EVERY`, rising."""
        self._members = Members()
        self._definitions = Definitions()
        self._sessions = Sessions()
        self._rows = Rows(chunk_rows=chunk_rows)
        self._letters = Letters()
        self._memories = Memories()
        self._marks = Marks()
        self._heard = Heard()
        self._keys = Keys()
        self._history = bytes(32)  # a hash chain over every accepted batch
        self._bytes_below = (Position(0), 0)  # not state: a watermark and the bytes up to it

    # --- Asking: who, and which proposals ----------------------------------------------------------

    @property
    def members(self) -> Mapping[str, MemberState]:
        """Every member, voters and learners, by its name."""
        return self._members.states

    @property
    def members_index(self) -> Index:
        """The index of the last change of members that had an effect; Birth's is the first."""
        return self._members.index

    @property
    def tip(self) -> Position:
        """The position of the message accepted last; 0 if there is none."""
        return self._rows.last

    def session_of(self, node: str, nonce: bytes) -> SessionId | None:
        """Return the id of the open session that `node` opened with `nonce`.

        None if it was not opened yet, or was closed by a newer one of the same node; a
        closed nonce never opens again.
        """
        session = self._sessions.of(node, nonce)
        return None if session is None else session.id

    def session_is_open(self, session: SessionId) -> bool:
        """Return whether proposals of this session can still be accepted."""
        known = self._sessions.get(session)
        return known is not None and known.is_open

    def acceptance(self, session: SessionId, number: int) -> Position | None:
        """Return the first position of the batch proposed as `number`, if it was accepted.

        Known while `number` is at or above the session's low mark, and, for a session that
        was closed, until its node opens one more. None from a closed session means that it
        never will be accepted; None from an open one, that it was not yet.
        """
        known = self._sessions.get(session)
        return None if known is None else known.accepted.get(number)

    def left_out(self, session: SessionId, number: int) -> bytes:
        """Return which messages of an accepted batch took no position, as their key was known.

        As `crowd.idempotency.left_out_places` reads it: nothing, nearly always. Known for as long as
        `acceptance` is.
        """
        known = self._sessions.get(session)
        return b"" if known is None else known.left_out.get(number, b"")

    def known(self, keys: bytes, messages: int) -> bytes:
        """Return what is left out of so many messages with these keys, if that is all of them.

        As `left_out` does; nothing if any of them would be stored now. What it says holds on every
        node, as their first ones are committed; that nothing is known holds for this one alone.
        Costs a few microseconds a key.
        """
        left_out = self._keys.known(keys, self.log_time_us)
        return left_out if len(left_out_places(left_out)) == messages else b""

    @property
    def keys_held(self) -> int:
        """How many idempotency keys are known."""
        return self._keys.held

    @property
    def key_bounds(self) -> KeyBounds:
        """For how long, and how many, idempotency keys are remembered: the newest file's words."""
        return self._keys.bounds

    @property
    def key_tally(self) -> KeyTally:
        """What idempotency keys came to since the cluster began."""
        return self._keys.tally

    # --- Asking: routes, consumers, messages -------------------------------------------------------

    @property
    def routes(self) -> Mapping[str, Route]:
        """Every route by its path, in the order of their ids."""
        return self._definitions.routes

    @property
    def consumers(self) -> Mapping[ConsumerId, Consumer]:
        """Every consumer by its id, rising."""
        return self._definitions.consumers

    @property
    def file_hashes(self) -> Mapping[str, bytes]:
        """The hash of the configuration file that each node last had applied, by its name."""
        return self._definitions.file_hashes

    def route_id(self, path: str) -> RouteId | None:
        """Return the id of the route defined with `path`, or None if none is."""
        route = self._definitions.routes.get(path)
        return None if route is None else route.id

    def consumer_id(self, name: str) -> ConsumerId | None:
        """Return the id of the consumer called `name`, or None if none is."""
        return self._definitions.consumer_ids.get(name)

    def place(self, position: Position) -> Place:
        """Return where the message at `position` is in the log.

        Raises LookupError above `tip`, and where rows were forgotten.
        """
        return self._rows.place(position)

    def run(self, position: Position) -> Run:
        """Return the messages around one that are beside it in its entry. LookupError as `place`."""
        return self._rows.run(position)

    def pending(self, consumer: ConsumerId, after: Position, limit: int) -> list[Position]:
        """Return the consumer's next unsettled positions above `after`, rising.

        At most `limit`, which is at least 1. An empty list means that there is none now.
        Fewer than `limit` do not mean that there are no more: one call looks at most
        `consumers.SPAN_MAX` positions beyond the first that it found. Costs microseconds for
        each position, and a few milliseconds at most for an unlucky consumer among others'
        messages. KeyError if there is no such consumer.
        """
        return self.consumers[consumer].pending(after, limit, self._rows)

    def is_settled(self, consumer: ConsumerId, position: Position) -> bool:
        """Return whether `position` needs no attempt: it is settled, or not this consumer's."""
        return self.consumers[consumer].is_settled(position, self._rows)

    def ended_as(self, consumer: ConsumerId, position: Position) -> End | None:
        """Return how a message ended for a consumer; None if it did not, or is not here yet.

        A ledger keeps that a message is settled, not why. So what is settled and no letter was
        ``delivered``, unless an operator had this consumer skip messages or gave letters of its
        up, or their age did: then it is ``settled``, and no more is claimed; nor of a message that
        was released, or is not the consumer's, or may not have been as it took other routes.
        KeyError if there is no such consumer. Costs some microseconds.
        """
        if position > self.tip:
            return None
        number = self.letter_at(consumer, position)
        if number is not None:
            return "dead" if self._letters[number].state == "dead" else None
        known = self.consumers[consumer]
        if not known.is_settled(position, self._rows):
            return None
        if position <= known.routes_known_after:
            return "settled"
        try:
            is_own = known.owns(position, self._rows)
        except LookupError:
            return "settled"
        tally = self.letter_tally(consumer)
        surely = is_own and not (known.skipped or tally.purged or tally.expired)
        return "delivered" if surely else "settled"

    def settled_of(
        self, consumer: ConsumerId, positions: Collection[Position]
    ) -> Sequence[Position]:
        """Return those of `positions`, at least one, that are settled; all were pending once."""
        return self.consumers[consumer].settled_of(positions)

    def is_own(self, consumer: ConsumerId, position: Position) -> bool:
        """Return whether a message is this consumer's, settled or not. LookupError as `place`."""
        return self.consumers[consumer].owns(position, self._rows)

    def watermark(self, consumer: ConsumerId) -> Position:
        """Return the highest position up to which (inclusive) this consumer needs no message."""
        return self.consumers[consumer].watermark

    def backlog(self, consumer: ConsumerId) -> int:
        """Return how many of this consumer's messages are not settled."""
        return self.consumers[consumer].backlog

    @property
    def lowest_watermark(self) -> Position:
        """The position up to which (inclusive) no consumer needs a message.

        While there is no consumer, all is kept that was not released: one may come for it.
        """
        if not self.consumers:
            return self.beginning
        return min(consumer.watermark for consumer in self.consumers.values())

    @property
    def backlog_bytes(self) -> int:
        """Bytes of the messages above the lowest watermark, which the log has to keep.

        Exact where that watermark is at the end of an entry's run of one route; otherwise
        that run's bytes count as spread evenly.
        """
        lowest = self.lowest_watermark
        if self._bytes_below[0] != lowest:
            self._bytes_below = (lowest, self._rows.bytes_through(lowest))
        return self._rows.bytes_total - self._bytes_below[1]

    @property
    def backlog_messages(self) -> int:
        """The number of the messages above the lowest watermark."""
        return self.tip - self.lowest_watermark

    @property
    def passed_bytes(self) -> int:
        """Bytes of the messages up to the lowest watermark: what the backlog has lost so far."""
        return self._rows.bytes_total - self.backlog_bytes

    @property
    def live_rows(self) -> int:
        """How many rows are held: runs of messages of one route in one entry, not forgotten."""
        return self._rows.held

    # --- Asking: letters, and what else delivery goes by ------------------------------------------

    @property
    def letters(self) -> Mapping[int, Letter]:
        """Every letter by its number, rising. Looking at one costs some ten microseconds."""
        return self._letters

    def letters_after(self, number: int, limit: int) -> list[int]:
        """Return the next letters' numbers above `number`, rising, at most `limit`.

        Whosever they are and in whatever state. Costs microseconds and what it returns.
        """
        return self._letters.after(number, limit)

    def is_letter(self, consumer: ConsumerId, position: Position) -> bool:
        """Return whether this consumer's message at `position` is a letter now."""
        return self._letters.number_of(consumer, position) is not None

    def letter_at(self, consumer: ConsumerId, position: Position) -> int | None:
        """Return the number of the letter that `is_letter` tells of, or None."""
        return self._letters.number_of(consumer, position)

    def letters_due(self, consumer: ConsumerId, after: int, limit: int) -> list[int]:
        """Return the next letters that wait for `consumer`: above `after`, rising, to `limit`.

        Parked ones of its own, and those replayed to it, whosever they were.
        """
        return self._letters.due(consumer, after, limit)

    def letters_of(self, consumer: ConsumerId, after: int, limit: int) -> list[int]:
        """Return the next letters of this consumer's messages, in whatever state.

        Above `after`, rising, at most `limit`.
        """
        return self._letters.of(consumer, after, limit)

    def expired(self, log_time_us: int, limit: int) -> list[int]:
        """Return dead letters, rising, that are past their age at this log time (µs).

        At most `limit`; a leader proposes to purge them, as nothing goes by itself.
        """
        return self._letters.expired(self._buried_until_us(log_time_us), limit)

    def has_room_for_letters(self, count: int, words_bytes: int) -> bool:
        """Return whether so many more letters find room, with words of so many bytes together.

        What has no room is not buried: it stays its consumer's. The bounds are the cluster's, of
        `crowd.ledger.records`.
        """
        return self._letters.has_room(count, words_bytes)

    def dead_bytes(self, consumer: ConsumerId) -> int:
        """Return the bytes of this consumer's letters, dead ones and those that wait."""
        return self._letters.size_of(consumer)

    def letter_counts(self, consumer: ConsumerId) -> dict[State, int]:
        """Return how many letters of this consumer's there are, in each state."""
        return self._letters.counts_of(consumer)

    def letter_tally(self, consumer: ConsumerId) -> Tally:
        """Return what all letters of this consumer's came to, a dismissed one's too."""
        return self._letters.tally_of(consumer)

    def take_letter_changes(self) -> tuple[list[tuple[int, bytes]], list[int]]:
        """Return the letters that came, with their bytes, and those that went, since last asked.

        A number that is in both came and went. Not part of the state: `restore` leaves nothing
        to take, and whoever keeps the bytes compares with `letters` then. To be asked after
        every entry, which bounds what waits here to one entry's bytes.
        """
        return self._letters.take_changes()

    def remembered(self, consumer: ConsumerId) -> Remember | None:
        """Return what a leader last said of this consumer's delivery, or None.

        Costs some microseconds for each trial in it.
        """
        return self._memories.of(consumer)

    @property
    def gone(self) -> Mapping[ConsumerId, Gone]:
        """The consumers that were dismissed, in the order of that, as far as remembered."""
        return self._definitions.gone

    def has_heard(self, order: bytes) -> bool:
        """Return whether an operator's order had its effect, if it could have one."""
        return order in self._heard

    def full_routes(self) -> dict[RouteId, list[str]]:
        """Return the routes that a full consumer takes which refuses, each with their names.

        What a node's door asks a few times a second. A batch under way may still be accepted,
        so a backlog passes its bound by what was offered meanwhile.
        """
        full: dict[RouteId, list[str]] = {}
        for consumer in self.consumers.values():
            if consumer.is_full and consumer.definition.when_full == "refuse":
                for route in self.routes.values():
                    if consumer.routes >> route.id & 1:
                        full.setdefault(route.id, []).append(consumer.definition.name)
        return full

    def full_consumers(self, route: RouteId) -> list[str]:
        """Return the names of the full consumers for which this route is refused."""
        return self.full_routes().get(route, [])

    def _buried_until_us(self, log_time_us: int) -> Callable[[ConsumerId], int]:
        """Return how to tell up to when a consumer's letters were buried that are to go now."""

        def until_us(consumer: ConsumerId) -> int:
            known = self.consumers.get(consumer)
            if known is not None:
                return log_time_us - known.definition.dead.for_us
            return log_time_us - self._definitions.gone[consumer].dead_for_us

        return until_us
