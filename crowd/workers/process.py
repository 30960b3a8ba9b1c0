"""A worker's process: what it is given, what it says, and its end.

Decides the descriptors that a worker begins with: its link at `LINK_FD`, and the listening
sockets from `LISTENING_FD` on, in the order of `node.http`. Lines that it writes are log lines
(``crowd/logs``), which appear in the node's own log with the worker's number. Leaves when to
start one to ``crew``.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import InvalidLogLevelError, Logger, LogLevel
from twisted.protocols.basic import LineReceiver

import crowd
from crowd.workers.link import OneLink, WorkerLink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.python.failure import Failure

    from crowd.workers.worker import Worker

LINK_FD: Final = 3
LISTENING_FD: Final = 4

LINE_BYTES_MAX: Final = 64 * 1024
"""A log line with a traceback in it; a longer one is cut."""


class Spawner:
    """Starts workers of the node that is named so: `crowd.workers.crew.Spawns`."""

    def __init__(self, reactor: Any, node: str) -> None:
        self._reactor = reactor
        self._node = node

    def __call__(
        self, worker: Worker, number: int, listening: Sequence[int], ended: Callable[[str], None]
    ) -> WorkerProcess:
        """Start one, connected to `worker`. Raises OSError if there can be no process now."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                process = WorkerProcess(number, ended)
                given: dict[int, int | str] = {0: nothing, 1: "r", 2: "r", LINK_FD: theirs.fileno()}
                given |= {LISTENING_FD + place: fd for place, fd in enumerate(listening)}
                self._reactor.spawnProcess(
                    process, sys.executable, self._words(number, len(listening)),
                    env=_environment(), childFDs=given,
                )  # fmt: skip
            finally:
                os.close(nothing)
            worker.link = WorkerLink(worker)
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, OneLink(worker.link))
        return process

    def _words(self, number: int, sockets: int) -> list[str]:
        # -P: what lies in the directory where the node was started is not imported.
        return [
            sys.executable, "-P", "-m", "crowd.workers",
            "--node", self._node, "--number", str(number), "--sockets", str(sockets),
        ]  # fmt: skip


def _environment() -> dict[str, str]:
    """Return this process's environment, with the way to this very package in it."""
    root = str(Path(crowd.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


class WorkerProcess(ProcessProtocol):
    """A worker's process, while it runs."""

    def __init__(self, number: int, ended: Callable[[str], None]) -> None:
        self.pid = 0
        self._lines = _Lines(number)
        self._ended = ended

    def kill(self) -> None:
        """End it at once (SIGKILL); nothing happens if it has ended."""
        transport: Any = self.transport  # Twisted's, without good types
        with suppress(ProcessExitedAlready):  # then `processEnded` is on its way
            transport.signalProcess("KILL")

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's
        """Note its number with the system."""
        self.pid = self.transport.pid  # type: ignore[union-attr]  # connected by now

    def outReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's
        """Log what it says."""
        self._lines.dataReceived(data)  # type: ignore[no-untyped-call]  # Twisted's

    errReceived = outReceived  # noqa: N815 - Twisted's

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 - Twisted's
        """Say how it ended, in words."""
        error = reason.value
        if isinstance(error, ProcessTerminated) and error.signal is not None:
            how = f"signal {error.signal}"
        elif isinstance(error, ProcessDone | ProcessTerminated):
            how = f"exit status {error.exitCode or 0}"
        else:
            how = reason.getErrorMessage()
        self._ended(how)


class _Line(msgspec.Struct):
    """What is used of a log line."""

    level: str
    source: str
    message: str
    failure: str = ""


class _Lines(LineReceiver):
    """Has a worker's lines in this process's log."""

    delimiter = b"\n"
    MAX_LENGTH = LINE_BYTES_MAX
    _log = Logger()

    def __init__(self, number: int) -> None:
        self._number = number

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 - Twisted's
        try:
            said = msgspec.json.decode(line, type=_Line)
            level = LogLevel.levelWithName(said.level)
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidLogLevelError):
            # Not of its logger: the interpreter itself, which has something to complain about.
            text = line.decode("utf-8", "replace")
            self._log.warn("worker {worker}: {text}", worker=self._number, text=text)
            return
        text = "\n".join(filter(None, [said.message, said.failure]))
        self._log.emit(
            level, "worker {worker}: {text}", worker=self._number, text=text, said_by=said.source
        )

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 - Twisted's
        self.lineReceived(line[:LINE_BYTES_MAX])
