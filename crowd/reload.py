"""SIGHUP: a node reads its file again.

Decides what of a changed file can be used while the node runs, and says what cannot. Leaves
how it is used to who runs the node. A file with a problem changes nothing.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.logger import Logger

from crowd.config import load_file
from crowd.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crowd.config import Configuration

PARTS: Final = ("node", "cluster", "limits")
"""What a node is built of: it takes a start to change it."""


class Reload:
    """Reads a file again when the process is told to. In the reactor's thread.

    `path` is absolute, as a daemon changes its directory. `use` is called with a new
    configuration whose `PARTS` are those that the node began with; it may raise
    ConfigurationError, and has changed nothing then. `files` has files read again that the configuration
    names, whether or not it changed.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        path: Path,
        configuration: Configuration,
        use: Callable[[Configuration], None],
        files: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._configuration = configuration
        self._use = use
        self._files = files
        self._before: Any = None
        self._asked = False

    def start(self) -> None:
        """Listen to SIGHUP. To be called in the main thread."""
        self._before = signal.signal(signal.SIGHUP, self._hangup)

    def stop(self) -> None:
        """Listen no more."""
        if self._before is not None:
            signal.signal(signal.SIGHUP, self._before)
            self._before = None

    def _hangup(self, *_: object) -> None:
        # Between any two steps of the reactor: nothing may be done here but to ask it for a
        # turn, as Twisted's own handlers do. Many signals make one turn.
        if not self._asked:
            self._asked = True
            self._reactor.callFromThread(self.look)

    def look(self) -> None:
        """Read the file again, and use what can be used of it."""
        self._asked = False
        self._files()
        old = self._configuration
        try:
            read = load_file(self._path)
            used = msgspec.structs.replace(read, **{part: getattr(old, part) for part in PARTS})
            # Secrets stand in files of their own, which may have changed alone.
            signed = any(policy.signature is not None for policy in read.policies)
            if read.file_hash != old.file_hash or signed:
                self._use(used)
        except ConfigurationError as error:
            for problem in error.problems:
                self._log.error("configuration not read again: {problem}", problem=problem)
            return
        self._configuration = used
        for key in fixed(old, read):
            self._log.warn(
                "configuration read again: {key} differs from what the node runs with; "
                "that takes a restart",
                key=key,
            )
        for path in opened(old, read):
            self._log.warn(
                "configuration read again: route {path} does not ask who posts any more", path=path
            )
        self._log.info(
            "configuration read again: {words}", words="; ".join(changes(old, read)) or "no change"
        )


def fixed(old: Configuration, new: Configuration) -> Iterator[str]:
    """Yield each key that differs and that takes a restart."""
    for part in PARTS:
        before, after = getattr(old, part), getattr(new, part)
        if before is None or after is None:
            if before is not after:
                yield part
            continue
        for field in msgspec.structs.fields(before):
            if getattr(before, field.name) != getattr(after, field.name):
                yield f"{part}.{_KEYS.get(field.name, field.name)}"


def opened(old: Configuration, new: Configuration) -> Iterator[str]:
    """Yield the paths of routes that asked who posts, and do not now: a careless edit can do that."""
    asks = {each.path for each in new.policies if each.asks_who}
    yield from (each.path for each in old.policies if each.asks_who and each.path not in asks)


_KEYS: Final = {
    "body_bytes": "body",
    "in_flight_bytes": "in_flight",
    "backlog_bytes": "backlog",
    "retention_us": "retention",
    "acknowledge_within_s": "acknowledge_within",
}
"""Fields that are called otherwise than their keys."""


def changes(old: Configuration, new: Configuration) -> Iterator[str]:
    """Yield what becomes of routes, their policies, consumers and bounds, in words."""
    asked, asks = ({each.path: each for each in one.policies} for one in (old, new))
    for path in (*asks, *(asked.keys() - asks.keys())):
        if asks.get(path) != asked.get(path):
            yield f"route {path} has another policy"
    if old.idempotency != new.idempotency:
        yield "limits.idempotency_window and limits.idempotency_keys are changed"
    for what, key in (("route", "path"), ("consumer", "name")):
        before = {getattr(each, key): each for each in getattr(old, f"{what}s")}
        after = {getattr(each, key): each for each in getattr(new, f"{what}s")}
        for name, each in after.items():
            if name not in before:
                yield f"{what} {name} is new"
            elif before[name] != each:
                yield f"{what} {name} is changed"
        for name in sorted(before.keys() - after.keys()):
            if what == "route":
                yield f"route {name} is taken here no more"
            else:
                yield f"consumer {name} stays: `crowd consumer remove` has it go"
