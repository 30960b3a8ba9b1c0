"""Consumers over the admin port: shown, added or changed, paused, skipped, removed.

Decides which body asks for which change, and how it is answered. Leaves who may ask to
``gate``, to `Consumers` whether a change can be, and to the log whether it is. What a consumer's
table means is read as from a file (`crowd.config`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol

import msgspec
from msgspec import Meta
from twisted.logger import Logger

from crowd.value import INTEGER_MAX
from crowd.web.gate import answered, told, wrong
from crowd.web.problems import NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.web.gate import Gate
    from crowd.web.reply import Reply

_TABLE: Final = '{"name": "audit", "url": "http://127.0.0.1:8080"}'


class Consumers(Protocol):
    """Who knows and changes the consumers. All calls in the reactor's thread.

    The changes return once they are asked for, which promises nothing: whether one is made
    shows in `describe`. All raise ChangeRefusedError for one that cannot be as things are, and
    UnknownConsumerError for a consumer that is none.
    """

    def describe(self) -> list[dict[str, Any]]:
        """Return every consumer, ready for JSON."""

    def apply(self, table: dict[str, Any]) -> str:
        """Add a consumer or change one, as a ``[[consumer]]`` table says; return its name.

        Raises ConfigurationError with every problem in the table.
        """

    def control(self, name: str, action: Literal["pause", "resume"]) -> None:
        """Have attempts stop, or go on."""

    def skip(self, name: str, through: int | None) -> int:
        """Give up its messages up to a position, by default all there are; return it."""

    def remove(self, name: str, *, drop: bool) -> None:
        """Have a consumer go. Raises BacklogLeftError if it has messages left, unless `drop`."""


class Skipping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /api/consumers/NAME/skip``."""

    through: Annotated[int, Meta(ge=1, le=INTEGER_MAX)] | None = None


class Removal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /api/consumers/NAME/remove``."""

    backlog: Literal["drop"] | None = None


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a change that needs no words."""


class ConsumerPages:
    """Answers ``/api/consumers``. Who changes something must pass the `gate`."""

    _log = Logger()

    def __init__(self, consumers: Consumers, gate: Gate) -> None:
        self._consumers = consumers
        self._gate = gate
        self._changes: dict[str, Callable[[Any, str], dict[str, Any]]] = {
            "pause": self._pause,
            "resume": self._resume,
            "skip": self._skip,
            "remove": self._remove,
        }

    def show(self, _: Any) -> Reply:
        """Answer ``GET /api/consumers``."""
        return told(200, {"consumers": self._consumers.describe()})

    def apply(self, request: Any) -> Reply:
        """Answer ``POST /api/consumers``."""
        return self._answer("apply", lambda: self._apply(request))

    def change(self, request: Any, name: str, change: str) -> Reply:
        """Answer ``POST /api/consumers/NAME/CHANGE``."""
        make = self._changes.get(change)
        if make is None:
            known = ", ".join(self._changes)
            return wrong(NOT_FOUND, f"found no such change; expected one of {known}").reply
        return self._answer(change, lambda: {"name": name, **make(request, name)})

    def _apply(self, request: Any) -> dict[str, Any]:
        table = self._gate.body(request, dict[str, Any], _TABLE)
        return {"name": self._consumers.apply(table)}

    def _pause(self, request: Any, name: str) -> dict[str, Any]:
        self._gate.words(request, Nothing)
        self._consumers.control(name, "pause")
        return {}

    def _resume(self, request: Any, name: str) -> dict[str, Any]:
        self._gate.words(request, Nothing)
        self._consumers.control(name, "resume")
        return {}

    def _skip(self, request: Any, name: str) -> dict[str, Any]:
        wanted = self._gate.words(request, Skipping)
        return {"through": self._consumers.skip(name, wanted.through)}

    def _remove(self, request: Any, name: str) -> dict[str, Any]:
        wanted = self._gate.words(request, Removal)
        self._consumers.remove(name, drop=wanted.backlog == "drop")
        return {} if wanted.backlog is None else {"backlog": wanted.backlog}

    def _answer(self, change: str, make: Callable[[], dict[str, Any]]) -> Reply:
        """Ask for a change and say that it was, or what is against it."""

        def ask() -> Reply:
            asked = make()
            self._log.info("an operator asks: {change} {asked}", change=change, asked=asked)
            return told(202, {"asked": change, **asked})

        return answered(ask)
