"""Answers of consumers that somebody waits for, on the leader. Pure: times are arguments.

Decides who is told of an answer, what is kept of it, and for how long. Leaves to ``lane`` which
messages are awaited, and to whoever asks what an answer is good for.

A message says itself that its answer is awaited (`crowd.message.wait_mark`), so an attempt keeps the
answer before anybody has asked: a follower applies what the leader delivers already. Who asks late
finds it here for `KEPT_S`; who asks early is told.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crowd.message import Position

Field = tuple[bytes, bytes]
State: TypeAlias = Literal["delivered", "dead", "unknown"]

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

_HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te",
    b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
_OURS: Final = frozenset({b"content-length", b"date"})  # of the answer that is sent


class Ending(msgspec.Struct, frozen=True, gc=False):
    """How an attempt ended a message for its consumer, and the answer if it can be passed back.

    Without one ``status`` is 0. ``unknown`` is said where nobody can tell (any more).
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


class _Asking(NamedTuple):
    until_s: float
    tell: Callable[[Ending], None]


class Awaited:
    """What is asked for, and what is kept. In the reactor's thread."""

    def __init__(self) -> None:
        self._asked: dict[Position, list[_Asking]] = {}
        self._asked_count = 0
        self._kept: OrderedDict[Position, tuple[float, Ending]] = OrderedDict()
        self._kept_bytes = 0

    @property
    def asked(self) -> int:
        """How many wait to be told; some of them perhaps no more."""
        return self._asked_count

    @property
    def kept(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    def ask(
        self, position: Position, now_s: float, until_s: float, tell: Callable[[Ending], None],
        *, settled: bool,
    ) -> None:  # fmt: skip
        """Have `tell` called once, now or when the message ends; perhaps never after `until_s`.

        `settled` says that no attempt follows: what is not kept then is unknown.
        """
        self._forget(now_s)
        kept = self._kept.get(position)
        if kept is not None:
            tell(kept[1])
            return
        if settled or self._is_full(now_s):
            tell(UNKNOWN)
            return
        self._asked.setdefault(position, []).append(_Asking(until_s, tell))
        self._asked_count += 1

    def ended(self, position: Position, ending: Ending, now_s: float) -> None:
        """Tell who waits for this message, and keep the answer for who asks late."""
        self._forget(now_s)
        if position not in self._kept:
            self._kept[position] = (now_s + KEPT_S, ending)
            self._kept_bytes += ending.size_bytes
            while len(self._kept) > KEPT_MAX or self._kept_bytes > KEPT_BYTES_MAX:
                self._drop_oldest()
        asking = self._asked.pop(position, [])
        self._asked_count -= len(asking)
        for each in asking:
            each.tell(ending)

    def clear(self) -> None:
        """Tell all that nobody can tell here any more, and keep nothing."""
        self._kept.clear()
        self._kept_bytes = self._asked_count = 0
        asked, self._asked = self._asked, {}
        for asking in asked.values():
            for each in asking:
                each.tell(UNKNOWN)

    def _forget(self, now_s: float) -> None:
        while self._kept and next(iter(self._kept.values()))[0] <= now_s:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (_, ending) = self._kept.popitem(last=False)
        self._kept_bytes -= ending.size_bytes

    def _is_full(self, now_s: float) -> bool:
        """Return whether nobody more can wait, having let go of those whose time is over."""
        if self._asked_count >= ASKED_MAX:
            for position, asking in list(self._asked.items()):
                still = [each for each in asking if each.until_s > now_s]
                self._asked_count -= len(asking) - len(still)
                if still:
                    self._asked[position] = still
                else:
                    del self._asked[position]
        return self._asked_count >= ASKED_MAX


def ending_of(state: State, status: int, headers: Iterable[Field], body: bytes) -> Ending:
    """Return the ending with a consumer's whole answer, as far as it is passed back.

    All end-to-end fields are, in their order and case, and ``Via`` is added; not what frames the
    answer, nor what only crowd says. An answer over the bounds is left out.
    """
    lowered = [(name.lower(), name, value) for name, value in headers]
    dropped = _HOP_BY_HOP | _OURS
    for low, _, value in lowered:
        if low == b"connection":
            dropped |= {token.strip().lower() for token in value.split(b",")}
    kept = [
        (name, value)
        for low, name, value in lowered
        if low not in dropped and not low.startswith(b"crowd")
    ]
    kept.append((b"Via", b"1.1 crowd"))
    size = sum(len(name) + len(value) for name, value in kept)
    if len(kept) > FIELDS_MAX or size > HEAD_BYTES_MAX or len(body) > BODY_BYTES_MAX:
        return Ending(state)
    return Ending(state, status, tuple(kept), body)
