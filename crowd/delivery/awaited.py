"""Answers of consumers that somebody waits for, on the leader. Pure: times are arguments.

Decides who is told how a message ended and when, what is kept of the answer, and for how long.
Leaves to ``lane`` which messages are awaited, to the ledger what it shows, and to whoever asks what
an answer is good for.

A message says itself that its answer is awaited (`crowd.message.wait_mark`), so an attempt keeps the
answer before anybody has asked: a follower applies what the leader delivers already. Who asks late
finds it here for `KEPT_S`; who asks early is told. All others hear what the ledger shows.

Invariant: ``dead`` is said once the ledger shows it. The next leader of one that said so before would
know nothing of it, attempt the message again, and may deliver it. What was delivered stays delivered.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from crowd.message import ConsumerId, Position

Field = tuple[bytes, bytes]
State: TypeAlias = Literal["delivered", "dead", "settled", "unknown"]

BODY_BYTES_MAX: Final = 64 << 10
"""What is kept of an answer's body. A larger one is the consumer's to be asked for again."""

FIELDS_MAX: Final = 256
HEAD_BYTES_MAX: Final = 32 << 10
"""And of its head; both as of answers to reads, or half of it."""

KEPT_S: Final = 5.0
"""How long an answer is kept that nobody has asked for: a follower asks within a commit's time,
and after a stall of its own."""

KEPT_MAX: Final = 512
KEPT_BYTES_MAX: Final = 16 << 20
"""Bound what is kept; the oldest go first. At a thousand a second, half a second's answers."""

ASKED_MAX: Final = 4_096
"""Who may be told: the waits of four nodes at their bound (`crowd.waits.WAITS_MAX`)."""

LOOK_EVERY_S: Final = 0.1
"""How often the ledger is looked at for all that is asked of a consumer: a millisecond for the most of
them. Mostly their attempts tell them first."""

_HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te",
    b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
_OURS: Final = frozenset({b"content-length", b"date", b"idempotent-replayed"})
"""What the answer that is sent says of itself."""


class Ending(msgspec.Struct, frozen=True, gc=False):
    """How a message ended for its consumer, and the answer if it can be passed back.

    Without one ``status`` is 0. ``settled`` is said where it is not kept why no attempt follows,
    ``unknown`` where nobody can tell (any more).
    """

    state: State
    status: int = 0
    headers: tuple[Field, ...] = ()
    body: bytes = b""

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


UNKNOWN: Final = Ending("unknown")


class Ends(Protocol):
    """What is asked of the ledger."""

    def settled_of(
        self, consumer: ConsumerId, positions: Collection[Position]
    ) -> Sequence[Position]:
        """Return those of some positions, at least one, that are settled."""

    def ended_as(
        self, consumer: ConsumerId, position: Position
    ) -> Literal["delivered", "dead", "settled"] | None:
        """Return how a message ended for a consumer, as far as that is kept; None if it did not."""


class _Asking(NamedTuple):
    until_s: float
    tell: Callable[[Ending], None]


class _Kept(NamedTuple):
    until_s: float
    ending: Ending
    is_certain: bool  # else the ledger is to show it first


class _OfConsumer:
    """What is asked of one consumer, by position and node, and what died and is no letter yet.

    As much may have died as `crowd.delivery.endings` bounds.
    """

    __slots__ = ("asked", "dying", "is_passed_over", "look_s")

    def __init__(self) -> None:
        self.asked: dict[Position, dict[str, _Asking]] = {}
        self.dying: set[Position] = set()
        self.look_s = float("-inf")
        self.is_passed_over = False


class Awaited:
    """What is asked for, and what is kept. In the reactor's thread."""

    def __init__(self) -> None:
        self._of: dict[ConsumerId, _OfConsumer] = {}
        self._asked_count = 0
        self._kept: OrderedDict[tuple[ConsumerId, Position], _Kept] = OrderedDict()
        self._kept_bytes = 0

    @property
    def asked(self) -> int:
        """How many wait to be told; some of them perhaps no more."""
        return self._asked_count

    @property
    def kept(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    def asks(self, consumer: ConsumerId, position: Position) -> bool:
        """Return whether anybody waits for this message, whoever was to when it was posted."""
        of = self._of.get(consumer)
        return of is not None and position in of.asked

    # --- Told by those who wait -------------------------------------------------------------------

    def ask(
        self, consumer: ConsumerId, position: Position, who: str, tell: Callable[[Ending], None],
        now_s: float, until_s: float, end: State | None,
    ) -> None:  # fmt: skip
        """Have `tell` called once, now or when the message ends; perhaps never after `until_s`.

        `who` is the node that asks: it is told once, for all of its producers that wait. `end` is
        what the ledger shows, None for nothing yet.
        """
        self._forget(now_s)
        kept = self._kept.get((consumer, position))
        if kept is not None and (kept.is_certain or kept.ending.state == end):
            tell(kept.ending)
            return
        if end is not None:
            tell(Ending(end))
            return
        if self._is_full(now_s):
            tell(UNKNOWN)
            return
        asking = self._of.setdefault(consumer, _OfConsumer()).asked.setdefault(position, {})
        before = asking.get(who)
        if before is None:
            self._asked_count += 1
        else:
            until_s = max(until_s, before.until_s)
        asking[who] = _Asking(until_s, tell)

    def leave(self, consumer: ConsumerId, position: Position, who: str) -> None:
        """Forget that a node asked: none of its producers waits any more."""
        of = self._of.get(consumer)
        asking = {} if of is None else of.asked.get(position, {})
        if of is not None and asking.pop(who, None) is not None:
            self._asked_count -= 1
            if not asking:
                del of.asked[position]

    # --- Told by lanes ----------------------------------------------------------------------------

    def delivered(
        self, consumer: ConsumerId, position: Position, ending: Ending, now_s: float
    ) -> None:
        """Tell who waits for this message, and keep the answer for who asks late."""
        self._keep(consumer, position, ending, now_s, is_certain=True)
        self._tell(consumer, position, ending)

    def died(
        self, consumer: ConsumerId, position: Position, ending: Ending, now_s: float
    ) -> None:  # fmt: skip
        """Keep the answer until the ledger shows that the message is a dead letter."""
        self._keep(consumer, position, ending, now_s, is_certain=False)
        self._of.setdefault(consumer, _OfConsumer()).dying.add(position)

    def look(self, consumer: ConsumerId, ledger: Ends, now_s: float) -> None:
        """Tell who waits for what the ledger shows to have ended, by whatever.

        At once for what died; for all others now and then, and `due_s` says when next.
        """
        of = self._of.get(consumer)
        if of is None:
            return
        wanted = of.dying
        of.is_passed_over = bool(of.asked) and now_s < of.look_s
        if of.asked and not of.is_passed_over:
            of.look_s = now_s + LOOK_EVERY_S
            wanted = of.dying | of.asked.keys()
        for position in ledger.settled_of(consumer, wanted) if wanted else ():
            end = ledger.ended_as(consumer, position)
            if end is not None:
                self._shown(consumer, position, end)

    def due_s(self, consumer: ConsumerId) -> float | None:
        """Return when `look` is to be called next, or None if only an entry asks for it."""
        of = self._of.get(consumer)
        return of.look_s if of is not None and of.is_passed_over else None

    def gone(self, consumer: ConsumerId) -> None:
        """Tell all that wait for a consumer that it is there no more."""
        of = self._of.pop(consumer, None)
        if of is not None:
            for position in list(of.asked):
                self._tell_all(of.asked.pop(position, {}), UNKNOWN)

    def clear(self) -> None:
        """Tell all that nobody can tell here any more, and keep nothing."""
        self._kept.clear()
        self._kept_bytes = 0
        for consumer in list(self._of):
            self.gone(consumer)

    # --- Within -----------------------------------------------------------------------------------

    def _shown(self, consumer: ConsumerId, position: Position, end: State) -> None:
        self._of[consumer].dying.discard(position)
        kept, ending = self._kept.get((consumer, position)), Ending(end)
        if kept is not None and kept.ending.state == end:
            ending = kept.ending
            self._kept[consumer, position] = kept._replace(is_certain=True)
        self._tell(consumer, position, ending)

    def _tell(self, consumer: ConsumerId, position: Position, ending: Ending) -> None:
        of = self._of.get(consumer)
        if of is not None:
            of.dying.discard(position)
            self._tell_all(of.asked.pop(position, {}), ending)

    def _tell_all(self, asking: dict[str, _Asking], ending: Ending) -> None:
        self._asked_count -= len(asking)
        for each in asking.values():
            each.tell(ending)

    def _keep(
        self, consumer: ConsumerId, position: Position, ending: Ending, now_s: float,
        *, is_certain: bool,
    ) -> None:  # fmt: skip
        self._forget(now_s)
        before = self._kept.pop((consumer, position), None)
        if before is not None:
            self._kept_bytes -= before.ending.size_bytes
        self._kept[consumer, position] = _Kept(now_s + KEPT_S, ending, is_certain)
        self._kept_bytes += ending.size_bytes
        while len(self._kept) > KEPT_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            self._drop_oldest()

    def _forget(self, now_s: float) -> None:
        while self._kept and next(iter(self._kept.values())).until_s <= now_s:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, kept = self._kept.popitem(last=False)
        self._kept_bytes -= kept.ending.size_bytes

    def _is_full(self, now_s: float) -> bool:
        """Return whether nobody more can wait, having let go of those whose time is over."""
        if self._asked_count >= ASKED_MAX:
            over = [
                (consumer, position, who)
                for consumer, of in self._of.items()
                for position, asking in of.asked.items()
                for who, each in asking.items()
                if each.until_s <= now_s
            ]
            for consumer, position, who in over:
                self.leave(consumer, position, who)
        return self._asked_count >= ASKED_MAX


def ending_of(state: State, status: int, headers: Iterable[Field], body: bytes) -> Ending:
    """Return the ending with a consumer's whole answer, as far as it is passed back.

    All end-to-end fields are, in their order and case, and ``Via`` is added; not what frames the
    answer, nor what only crowd says. An answer over the bounds is left out; so is one in a transfer
    coding beside ``chunked``, which nobody could read without that field.
    """
    lowered = [(name.lower(), name, value) for name, value in headers]
    codings = [value.strip().lower() for low, _, value in lowered if low == b"transfer-encoding"]
    if codings not in ([], [b"chunked"]):
        return Ending(state)
    dropped = _HOP_BY_HOP | _OURS
    for low, _, value in lowered:
        if low == b"connection":
            dropped |= {token.strip().lower() for token in value.split(b",")}
    kept = [
        (name, value)
        for low, name, value in lowered
        if low not in dropped and not low.startswith(b"crowd-")
    ]
    kept.append((b"Via", b"1.1 crowd"))
    size = sum(len(name) + len(value) for name, value in kept)
    if len(kept) > FIELDS_MAX or size > HEAD_BYTES_MAX or len(body) > BODY_BYTES_MAX:
        return Ending(state)
    return Ending(state, status, tuple(kept), body)
