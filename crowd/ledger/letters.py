"""Letters: messages that left their consumer's backlog with their bytes.

Decides which letters there are, what became of each, and which of them wait to be delivered.
Leaves their bytes to the node's letter store, which is told what came and what went
(`take_changes`); when a message is buried, to ``crowd/delivery``; and how records are held,
to ``records``.

A letter's states:

    dead -> replay -> (concluded)        an operator has it delivered again, by any consumer
    parked -> (concluded)                it is still tried, and would have pinned the log
    parked, replay -> dead               it was given up; it is a new letter then
    dead, parked, replay -> (purged)     an operator gave it up, or, of a dead one, its age

Which letters are in which state is kept apart from their records, as sets of numbers. So a
replay of all dead letters, or the end of a consumer for which many wait, costs a few ranges.

Invariant: a number is given once, rising with log time. Every letter is in exactly one set,
and at most one letter is of one consumer's position, which is settled for that consumer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from crowd.errors import MalformedError
from crowd.ledger.head import expect
from crowd.ledger.ranges import RangeSet
from crowd.ledger.records import Record, Records
from crowd.message import ConsumerId, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from crowd.command import Burial, Bury
    from crowd.ledger.consumers import Consumer
    from crowd.ledger.head import Head
    from crowd.ledger.rows import Rows

State: TypeAlias = Literal["dead", "parked", "replay"]

NOBODY: Final = ConsumerId(0)
"""The target of a letter that waits for no consumer."""


class Letter(msgspec.Struct, frozen=True, gc=False):
    """A letter. Times are the log's, in microseconds since 1970; ``size`` is in bytes.

    ``consumer`` is whose message at ``position`` it was, ``target`` who it waits for: `NOBODY`
    if it is dead. ``size`` and ``sha256`` are of the message's stored bytes; the rest is as
    `crowd.command.Burial` has it.
    """

    number: int
    consumer: ConsumerId
    position: Position
    state: State
    target: ConsumerId
    reason: str
    status: int
    words: str
    attempts: int
    first_us: int
    last_us: int
    buried_us: int
    size: int
    sha256: bytes


class Tally(msgspec.Struct):
    """What all letters of one consumer came to, since it began.

    ``dead`` and ``parked`` were buried so; ``again`` of them died after they had waited.
    ``expired`` were purged for their age, ``purged`` by an operator.
    """

    dead: int = 0
    parked: int = 0
    again: int = 0
    concluded: int = 0
    purged: int = 0
    expired: int = 0

    @property
    def held(self) -> int:
        """The letters that there are now."""
        return self.dead + self.parked - self.concluded - self.purged - self.expired


class _Kept:
    """One consumer's letters: numbers by position, their bytes, and a set for each state."""

    __slots__ = ("numbers", "sets", "size", "tally")

    def __init__(self) -> None:
        self.numbers: dict[Position, int] = {}
        self.sets: dict[tuple[State, ConsumerId], RangeSet] = {}
        self.size = 0
        self.tally = Tally()

    def state_of(self, number: int) -> tuple[State, ConsumerId]:
        """Return a letter's state and target."""
        for standing, numbers in self.sets.items():
            if number in numbers:
                return standing
        raise AssertionError(f"letter {number} is in no set")

    def put(self, number: int, state: State, target: ConsumerId) -> None:
        """Put a letter that is in no set into this one."""
        self.sets.setdefault((state, target), RangeSet()).add(number, number)

    def take(self, number: int) -> None:
        """Take a letter out of its set."""
        standing = self.state_of(number)
        numbers = self.sets[standing]
        numbers.discard(number, number)
        if not numbers:
            del self.sets[standing]


class Letters(Mapping[int, Letter]):
    """All letters by their numbers, rising. Only the ledger changes them."""

    def __init__(self) -> None:
        self.last = 0
        """The number that was given last."""
        self._records = Records()
        self._kept: dict[ConsumerId, _Kept] = {}
        # Not state: what the letter store was not told yet.
        self._came: list[tuple[int, bytes]] = []
        self._went: list[int] = []

    # --- What commands do -------------------------------------------------------------------------

    def bury(self, command: Bury, consumer: Consumer | None, rows: Rows, log_time_us: int) -> None:
        """Make letters of this consumer's messages that are not settled, and settle them.

        One that is a letter already, waits for the command's target, and is buried as dead, dies
        under a new number; this alone also holds for a consumer that was dismissed, for which
        `consumer` is None. Other burials are ignored, and so are those for which there is no room.
        """
        if consumer is None and command.consumer not in self._kept:
            return
        kept = self._kept.setdefault(command.consumer, _Kept())
        target = command.target or command.consumer
        taken: list[tuple[Burial, Record]] = []
        died: list[int] = []
        words_bytes = 0
        for burial in command.letters:
            words_bytes += len(burial.words.encode())
            if not self._records.has_room(len(taken) + 1, words_bytes):
                break
            older = kept.numbers.get(burial.position)
            if older is None:
                if consumer is None or consumer.is_settled(burial.position, rows):
                    continue
            elif burial.state == "parked" or kept.state_of(older)[1] != target:
                continue
            else:
                died.append(older)
            self.last += 1
            taken.append((burial, _record(self.last, command.consumer, burial, log_time_us)))
        self._remove(list(self._found(sorted(died))))
        self._add(kept, taken)
        kept.tally.dead -= len(died)
        kept.tally.again += len(died)
        if consumer is not None:
            consumer.settle(_ranges(record.position for _, record in taken), rows)

    def _add(self, kept: _Kept, taken: Sequence[tuple[Burial, Record]]) -> None:
        self._records.add([record for _, record in taken])
        for burial, record in taken:
            kept.numbers[record.position] = record.number
            kept.size += record.size
            if burial.state == "dead":
                kept.tally.dead += 1
                kept.put(record.number, "dead", NOBODY)
            else:
                kept.tally.parked += 1
                kept.put(record.number, "parked", record.consumer)
            self._came.append((record.number, burial.message))

    def _remove(self, records: Sequence[Record]) -> None:
        for record in records:
            kept = self._kept[record.consumer]
            kept.take(record.number)
            kept.size -= record.size
            del kept.numbers[record.position]
        numbers = [record.number for record in records]
        self._records.remove(numbers)
        self._went.extend(numbers)

    def conclude(self, target: ConsumerId, numbers: Iterable[int]) -> None:
        """Let go of letters that `target` was delivered: of those of `numbers` that wait for it.

        One that was ordered elsewhere meanwhile stays. One that was ordered back goes: the
        consumer that is to have it has had it.
        """
        gone = [record for record in self._found(numbers) if self._target_of(record) == target]
        self._remove(gone)
        for record in gone:
            self._kept[record.consumer].tally.concluded += 1

    def replay(self, target: ConsumerId, numbers: Iterable[int]) -> None:
        """Have `target` wait for these, which are dead or wait to be replayed."""
        for record in self._found(numbers):
            if self._state_of(record) != "parked":
                kept = self._kept[record.consumer]
                kept.take(record.number)
                kept.put(record.number, "replay", target)

    def purge(self, numbers: Iterable[int]) -> None:
        """Give letters up, whatever their state."""
        gone = list(self._found(numbers))
        self._remove(gone)
        for record in gone:
            self._kept[record.consumer].tally.purged += 1

    def expire(self, numbers: Iterable[int], until_us: Callable[[ConsumerId], int]) -> None:
        """Give up those of `numbers` that are dead and old enough.

        `until_us` says of a consumer up to which log time its letters were buried then.
        """
        gone = [
            record
            for record in self._found(numbers)
            if record.buried_us <= until_us(record.consumer) and self._state_of(record) == "dead"
        ]
        self._remove(gone)
        for record in gone:
            self._kept[record.consumer].tally.expired += 1

    def dismiss(self, consumer: ConsumerId) -> None:
        """Nothing waits for this consumer any more: what did is dead."""
        for kept in self._kept.values():
            for standing in [standing for standing in kept.sets if standing[1] == consumer]:
                kept.sets.setdefault(("dead", NOBODY), RangeSet()).unite(kept.sets.pop(standing))

    def forget_consumer(self, consumer: ConsumerId) -> None:
        """Forget the tally of a consumer without letters."""
        kept = self._kept.pop(consumer, None)
        assert kept is None or not kept.numbers

    # --- Asking -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._records.count

    def __iter__(self) -> Iterator[int]:
        return self._records.numbers()

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and number in self._records

    def __getitem__(self, number: int) -> Letter:
        """Return a letter; KeyError if there is none. Costs some ten microseconds."""
        record = self._records.get(number)
        if record is None:
            raise KeyError(number)
        state, target = self._kept[record.consumer].state_of(number)
        number, consumer, position, *rest = msgspec.structs.astuple(record)
        return Letter(number, consumer, position, state, target, *rest)

    def has_room(self, count: int, words_bytes: int) -> bool:
        """Return whether `count` more lie within the bounds, which have such words together."""
        return self._records.has_room(count, words_bytes)

    def after(self, number: int, limit: int) -> list[int]:
        """Return the next letters above `number`, rising, at most `limit`."""
        return self._records.after(number, limit)

    def number_of(self, consumer: ConsumerId, position: Position) -> int | None:
        """Return the number of the letter of this consumer's position, or None."""
        kept = self._kept.get(consumer)
        return None if kept is None else kept.numbers.get(position)

    def due(self, target: ConsumerId, after: int, limit: int) -> list[int]:
        """Return the next letters that wait for `target`, above `after` and rising."""
        found: list[int] = []
        for kept in self._kept.values():
            for (_, whom), numbers in kept.sets.items():
                if whom == target:
                    found.extend(numbers.values(after, limit))
        return sorted(found)[:limit]

    def of(self, consumer: ConsumerId, after: int, limit: int) -> list[int]:
        """Return the next letters of this consumer's messages, above `after` and rising."""
        kept = self._kept.get(consumer)
        found: list[int] = []
        for numbers in () if kept is None else kept.sets.values():
            found.extend(numbers.values(after, limit))
        return sorted(found)[:limit]

    def expired(self, until_us: Callable[[ConsumerId], int], limit: int) -> list[int]:
        """Return dead letters that are old enough to go, rising, at most `limit`."""
        found: list[int] = []
        for consumer, kept in self._kept.items():
            dead = kept.sets.get(("dead", NOBODY))
            if dead is None:
                continue
            # Numbers rise with the time of burial: behind the first that is young all are.
            for record in self._found(dead.values(0, limit)):
                if record.buried_us > until_us(consumer):
                    break
                found.append(record.number)
        return sorted(found)[:limit]

    def size_of(self, consumer: ConsumerId) -> int:
        """Return the bytes of this consumer's letters, whatever their state."""
        kept = self._kept.get(consumer)
        return 0 if kept is None else kept.size

    def tally_of(self, consumer: ConsumerId) -> Tally:
        """Return what this consumer's letters came to."""
        kept = self._kept.get(consumer)
        return Tally() if kept is None else msgspec.structs.replace(kept.tally)

    def counts_of(self, consumer: ConsumerId) -> dict[State, int]:
        """Return how many letters of this consumer's there are in each state."""
        counts: dict[State, int] = {"dead": 0, "parked": 0, "replay": 0}
        kept = self._kept.get(consumer)
        for (state, _), numbers in () if kept is None else kept.sets.items():
            counts[state] += numbers.count()
        return counts

    def take_changes(self) -> tuple[list[tuple[int, bytes]], list[int]]:
        """Return what came, with its bytes, and what went, since this was asked last."""
        changes = self._came, self._went
        self._came, self._went = [], []
        return changes

    def _found(self, numbers: Iterable[int]) -> Iterator[Record]:
        """Yield the records of those of `numbers` that are letters."""
        for number in numbers:
            record = self._records.get(number)
            if record is not None:
                yield record

    def _state_of(self, record: Record) -> State:
        return self._kept[record.consumer].state_of(record.number)[0]

    def _target_of(self, record: Record) -> ConsumerId:
        return self._kept[record.consumer].state_of(record.number)[1]

    # --- Captured and restored --------------------------------------------------------------------

    def sections(self) -> list[bytes]:
        """Return the records' sections, which were made before."""
        return self._records.sections()

    def state(self) -> list[Any]:
        """Return all but the records as values that CBOR can say, and those as a hash."""
        kept = sorted(self._kept.items())
        return [
            self.last,
            len(self._records.sections()),
            self._records.digest(),
            [
                [consumer, *msgspec.structs.astuple(one.tally)]
                for consumer, one in kept
                if one.tally != Tally()
            ],
            [
                [consumer, state, target, numbers.to_bytes()]
                for consumer, one in kept
                for (state, target), numbers in sorted(one.sets.items())
            ],
        ]

    def restore(
        self, head: Head, sections: Sequence[bytes], consumers: Mapping[ConsumerId, Consumer],
        gone: Iterable[ConsumerId],
    ) -> None:  # fmt: skip
        """Become, from empty, the letters whose state `head` holds and which `sections` are of.

        Raises MalformedError if they cannot be: this object is of no use then. What is said
        here twice is compared with the head by the caller.
        """
        self.last = head.letters.last
        known = {*consumers, *gone}
        for consumer, *tally in head.letters.tallies:
            expect(consumer in known, what="letters' tallies")
            self._kept.setdefault(consumer, _Kept()).tally = Tally(*tally)
        for consumer, state, target, ranges in head.letters.sets:
            expect(
                consumer in self._kept,
                (target == NOBODY) if state == "dead" else target in consumers,
                bool(ranges),
                state != "parked" or target == consumer,
                what="letters' states",
            )
            try:
                self._kept[consumer].sets[state, target] = RangeSet.from_bytes(ranges)
            except ValueError as error:
                raise MalformedError(f"letters' states: {error}") from error
        before_us = 0
        for record in self._records.restore(sections):
            kept = self._kept.get(record.consumer)
            living = consumers.get(record.consumer)
            expect(
                kept is not None,
                before_us <= record.buried_us <= head.applied.log_time_us,
                record.number <= self.last,
                record.position <= head.accepted.tip,
                living is None or living.has_settled(record.position),
                what="letters",
            )
            assert kept is not None
            before_us = record.buried_us
            expect(record.position not in kept.numbers, what="letters of one position")
            kept.numbers[record.position] = record.number
            kept.size += record.size
            expect(
                sum(record.number in numbers for numbers in kept.sets.values()) == 1,
                what="letters' states",
            )
        for kept in self._kept.values():
            count = sum(numbers.count() for numbers in kept.sets.values())
            expect(count == len(kept.numbers) == kept.tally.held, what="letters")


def _record(number: int, consumer: ConsumerId, burial: Burial, log_time_us: int) -> Record:
    return Record(
        number, consumer, burial.position, burial.reason, burial.status, burial.words,
        burial.attempts, burial.first_us, burial.last_us, log_time_us, len(burial.message),
        hashlib.sha256(burial.message).digest(),
    )  # fmt: skip


def _ranges(positions: Iterable[Position]) -> list[tuple[Position, Position]]:
    """Return rising positions as inclusive ranges."""
    ranges: list[tuple[Position, Position]] = []
    for position in positions:
        if ranges and ranges[-1][1] == position - 1:
            ranges[-1] = (ranges[-1][0], position)
        else:
            ranges.append((position, position))
    return ranges
