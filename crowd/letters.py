"""Letters, as operators see and change them: what stands between ``crowd/web`` and the log.

Decides which letters a selection means, and which changes are refused before the log is asked.
Leaves how an order is worked through to ``orders``, and what a change does to the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from twisted.internet.defer import Deferred, succeed

from crowd.command import Purge, Replay
from crowd.consumers import consumer_of
from crowd.errors import ChangeRefusedError, UnknownLetterError
from crowd.message import message_id
from crowd.web.dead import Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from crowd.archive import Archive
    from crowd.clock import Clock
    from crowd.ledger.letters import Letter
    from crowd.message import ConsumerId
    from crowd.orders import Orders, Slice
    from crowd.wishes import Wishes

LOOKED_MAX: Final = 1_000
"""Letters that are looked at for one answer: one costs some ten microseconds."""

FETCH_S: Final = 3.0
"""How long an answer waits for a letter's bytes, from the disk or from a peer."""


WAITING_MAX: Final = 64
"""Answers that wait so at once: operators are few, and each holds no more than a letter."""


class EngineLetters:
    """The engine as `crowd.web.dead.Letters` asks for it. In the reactor only."""

    def __init__(self, clock: Clock, wishes: Wishes, archive: Archive, orders: Orders) -> None:
        self._clock = clock
        self._wishes = wishes
        self._archive = archive
        self._orders = orders
        self._waiting: list[Callable[[], None]] = []
        archive.on_messages(self._arrived)

    # --- What is there ------------------------------------------------------------------------

    def page(
        self, wanted: Selection, after: int, limit: int
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Return letters, and the number to go on after. Raises UnknownConsumerError."""
        fits = self._fitting(wanted)
        found: list[dict[str, Any]] = []
        numbers = self._archive.after(after, LOOKED_MAX)
        for number in numbers:
            letter = self._archive.letter(number)
            if letter is not None and fits(letter):
                found.append(self._described(letter))
                if len(found) == limit:
                    return found, number
        return found, numbers[-1] if len(numbers) == LOOKED_MAX else None

    def show(self, number: int) -> dict[str, Any]:
        """Return one letter. Raises UnknownLetterError."""
        return self._described(self._letter(number))

    def message(self, number: int) -> Deferred[bytes | None]:
        """Return a letter's stored message, within `FETCH_S`; None if it did not come."""
        stored = self._archive.message(number)
        if stored is not None or len(self._waiting) >= WAITING_MAX:
            return succeed(stored)
        came: Deferred[bytes | None] = Deferred()

        def look() -> None:
            message = self._archive.message(number)
            if message is not None or self._clock.seconds() >= until_s:
                self._waiting.remove(look)
                if timer.active():
                    timer.cancel()
                came.callback(message)

        until_s = self._clock.seconds() + FETCH_S
        self._waiting.append(look)
        timer = self._clock.callLater(FETCH_S, look)
        return came

    def _arrived(self) -> None:
        for look in list(self._waiting):
            look()

    def _described(self, letter: Letter) -> dict[str, Any]:
        ledger = self._wishes.ledger
        return {
            "number": letter.number,
            "consumer": self._name(letter.consumer),
            "id": message_id(ledger.tag, letter.position),
            "position": letter.position,
            "state": letter.state,
            "target": self._name(letter.target) if letter.target else None,
            "reason": letter.reason,
            "status": letter.status or None,
            "words": letter.words,
            "attempts": letter.attempts,
            "first_us": letter.first_us,
            "last_us": letter.last_us,
            "buried_us": letter.buried_us,
            "size": letter.size,
            "sha256": letter.sha256.hex(),
        }

    def _name(self, consumer: ConsumerId) -> str:
        known = self._wishes.ledger.consumers.get(consumer)
        if known is not None:
            name: str = known.definition.name
            return name
        return self._archive.gone().get(consumer, f"consumer {consumer}, removed")

    def _letter(self, number: int) -> Letter:
        letter = self._archive.letter(number)
        if letter is None:
            raise UnknownLetterError(
                f"found no letter {number}; expected one that was not delivered or purged"
            )
        return letter

    # --- What is meant ------------------------------------------------------------------------

    def _fitting(self, wanted: Selection) -> Callable[[Letter], bool]:
        """Return whether a letter is meant. Raises UnknownConsumerError."""
        whose = None if wanted.consumer is None else self._ids(wanted.consumer)

        def fits(letter: Letter) -> bool:
            return (
                (whose is None or letter.consumer in whose)
                and wanted.reason in {None, letter.reason}
                and wanted.state in {None, letter.state}
                and wanted.since_us <= letter.buried_us < wanted.until_us
            )

        return fits

    def _ids(self, name: str) -> AbstractSet[ConsumerId]:
        """Return the consumers of this name, those that were removed among them."""
        ids = {consumer for consumer, known in self._archive.gone().items() if known == name}
        there = self._wishes.ledger.consumer_id(name)
        if there is None and not ids:
            consumer_of(self._wishes.ledger, name)  # says which there are
        return ids if there is None else ids | {there}

    # --- Orders -------------------------------------------------------------------------------

    def replay(
        self, letters: tuple[int, ...] | Selection, *, to: str | None, rate: float | None
    ) -> int:
        """Have letters delivered again; return the order's number. Raises ChangeRefusedError."""
        consumers = self._wishes.consumers
        target = None if to is None else consumer_of(self._wishes.ledger, to)
        if isinstance(letters, Selection):
            if target is None:
                self._check_name(letters)
        else:
            for number in letters:
                self._check_replay(self._letter(number), target, consumers)
        work = _Replaying(self._source(letters), self._archive, self._wishes, target)
        return self._orders.begin("replay", work, rate=rate)

    def purge(self, letters: tuple[int, ...] | Selection, *, rate: float | None) -> int:
        """Give letters up; return the order's number. Raises ChangeRefusedError."""
        _ = self._wishes.consumers  # refuses before the cluster is born
        if not isinstance(letters, Selection):
            for number in letters:
                self._letter(number)
        work = _Purging(self._source(letters), self._archive)
        return self._orders.begin("purge", work, rate=rate)

    def orders(self) -> list[dict[str, Any]]:
        """Return this node's orders."""
        return self._orders.describe()

    def stop(self, order: int) -> None:
        """Have an order end where it is. Raises UnknownOrderError."""
        self._orders.stop(order)

    def _check_replay(
        self, letter: Letter, target: ConsumerId | None, consumers: Mapping[ConsumerId, object]
    ) -> None:
        """Refuse to replay what is still tried, or what nobody would get."""
        if letter.state == "parked":
            raise ChangeRefusedError(
                f"found letter {letter.number} parked, which is still tried; expected a dead one"
            )
        if target is None and letter.consumer not in consumers:
            raise ChangeRefusedError(
                f"found letter {letter.number} of {self._name(letter.consumer)}, which was "
                'removed; expected "to" with another consumer'
            )

    def _check_name(self, wanted: Selection) -> None:
        """Refuse to replay to a consumer that is gone."""
        assert wanted.consumer is not None
        self._ids(wanted.consumer)
        if self._wishes.ledger.consumer_id(wanted.consumer) is None:
            raise ChangeRefusedError(
                f'found {wanted.consumer} removed; expected "to" with another consumer'
            )

    def _source(self, letters: tuple[int, ...] | Selection) -> _Source:
        if isinstance(letters, Selection):
            # Where no state is said: those that are still to be delivered are not meant.
            wanted = msgspec.structs.replace(letters, state=letters.state or "dead")
            return _Selected(self._archive, self._fitting(wanted), self._wishes.ledger.log_time_us)
        return _Named(self._archive, letters)


class _Source(Protocol):
    """Letters that an order means; as `crowd.orders.Work` has it."""

    def slice(self, after: int, limit: int) -> tuple[Slice, int | None]: ...


class _Named:
    """Letters by their numbers, which rise."""

    def __init__(self, archive: Archive, numbers: tuple[int, ...]) -> None:
        self._archive = archive
        self._numbers = numbers

    def slice(self, after: int, limit: int) -> tuple[Slice, int | None]:
        """Return the next letters."""
        left = [number for number in self._numbers if number > after]
        following = left[limit - 1] if len(left) > limit else None
        return _there(self._archive, left[:limit]), following


class _Selected:
    """Letters that fit and were there when the order began: those that come later are not meant.

    So an order ends, even if what it replays dies again.
    """

    def __init__(self, archive: Archive, fits: Callable[[Letter], bool], begun_us: int) -> None:
        self._archive = archive
        self._fits = fits
        self._begun_us = begun_us

    def slice(self, after: int, limit: int) -> tuple[Slice, int | None]:
        """Return the next letters."""
        numbers = self._archive.after(after, limit)
        there = _there(self._archive, numbers)
        old = {n: letter for n, letter in there.items() if letter.buried_us <= self._begun_us}
        meant = {n: letter for n, letter in old.items() if self._fits(letter)}
        # Numbers rise with the time of burial: behind one that came later all did.
        return meant, numbers[-1] if len(numbers) == limit and len(old) == len(there) else None


class _Replaying:
    """Letters are delivered again, to `target` or to their own consumer."""

    def __init__(
        self,
        source: _Source,
        archive: Archive,
        wishes: Wishes,
        target: ConsumerId | None,
    ) -> None:
        self.slice = source.slice
        self._archive = archive
        self._wishes = wishes
        self._target = target

    def commands(self, part: Slice) -> list[Replay]:
        """Return one command for each consumer; parked letters are still tried anyway."""
        aims: dict[ConsumerId, list[int]] = {}
        for number, letter in part.items():
            aim = letter.consumer if self._target is None else self._target
            if letter.state != "parked" and aim in self._wishes.ledger.consumers:
                aims.setdefault(aim, []).append(number)
        return [Replay(consumer=aim, letters=tuple(numbers)) for aim, numbers in aims.items()]

    def is_done(self, command: Replay | Purge, number: int) -> bool:
        """Return whether a letter waits for the consumer, or is gone: delivered, or died anew."""
        assert isinstance(command, Replay)
        letter = self._archive.letter(number)
        if letter is None or command.consumer not in self._wishes.ledger.consumers:
            return True
        return letter.state == "replay" and letter.target == command.consumer


class _Purging:
    """Letters are given up for good."""

    def __init__(self, source: _Source, archive: Archive) -> None:
        self.slice = source.slice
        self._archive = archive

    def commands(self, part: Slice) -> list[Purge]:
        """Return one command for all."""
        return [Purge(reason="operator", letters=tuple(part))] if part else []

    def is_done(self, command: Replay | Purge, number: int) -> bool:
        """Return whether a letter is gone."""
        del command
        return self._archive.letter(number) is None


def _there(archive: Archive, numbers: Sequence[int]) -> Slice:
    found = ((number, archive.letter(number)) for number in numbers)
    return {number: letter for number, letter in found if letter is not None}
