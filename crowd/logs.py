"""Structured logs: ``twistd --logger crowd.logs.json_lines -n crowd …``.

Decides how an event of Twisted's logger looks as one line of JSON: ``time`` (RFC 3339, UTC),
``level``, ``source``, ``message``, and the event's own named fields. No message's body and
no secret is ever logged, so none can be in a line.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.logger import formatEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from twisted.logger import LogEvent

_NOT_SHOWN = {"time", "system", "message", "isError", "format", "printed", "why", "failure"}


def line(event: LogEvent) -> str:
    """Return an event as one line of JSON, without its end."""
    shown: dict[str, Any] = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": event["log_level"].name if event.get("log_level") is not None else "info",
        "source": event.get("log_namespace", event.get("system", "-")),
        "message": formatEvent(event),
    }
    failure = event.get("log_failure")
    if failure is not None:
        shown["failure"] = failure.getTraceback()
    for key, value in event.items():
        if not key.startswith("log_") and key not in _NOT_SHOWN and key not in shown:
            plain = isinstance(value, (str, int, float, bool, type(None)))
            shown[key] = value if plain else str(value)
    return msgspec.json.encode(shown).decode()


def json_lines(stream: TextIO | None = None) -> Callable[[LogEvent], None]:
    """Return an observer that writes each event to `stream`, standard output by default."""
    out = sys.stdout if stream is None else stream

    def observe(event: LogEvent) -> None:
        out.write(line(event) + "\n")
        out.flush()

    return observe
