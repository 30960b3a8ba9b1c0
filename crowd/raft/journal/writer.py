"""A thread that does one job after the other: the journal's writer, and the background.

Decides how a job leaves the reactor and how its result comes back. One thread and one
queue: jobs are done in the order in which they were submitted, which is what makes a
truncation durable before the entries that come after it.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Reactor(Protocol):
    """What this needs of Twisted's reactor, by Twisted's names."""

    def callLater(self, delay: float, call: Callable[..., Any], /, *args: object) -> object:  # noqa: N802
        """Call it in the reactor after `delay` seconds."""

    def callFromThread(self, call: Callable[..., Any], /, *args: object) -> object:  # noqa: N802
        """Call it in the reactor; may be called from any thread."""


class ThreadWriter:
    """A `ports.Writer` with a thread of its own, started at the first job.

    Not before: ``twistd`` forks between making a service and starting it, and a thread does
    not survive a fork. The queue has no bound of its own; the journal has at most one append,
    one change of its memory and one removal under way.
    """

    def __init__(self, reactor: Reactor, name: str = "crowd-journal") -> None:
        """Make a writer; `name` is its thread's."""
        self._reactor = reactor
        self._name = name
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None]
        self._jobs = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        """Do `job` in the thread, then call `done` in the reactor with its result or error."""
        if self._closed:
            raise RuntimeError("a job for a closed writer")
        if self._thread is None:
            # A daemon: a process that must end at once (I8) does not wait for a stuck disk.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((job, done))

    def soon(self, call: Callable[[], object]) -> None:
        """Call this in the reactor's next turn."""
        self._reactor.callLater(0, call)

    def close(self) -> None:
        """Wait for the jobs submitted so far; what they report may still reach the reactor."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (work := self._jobs.get()) is not None:
            job, done = work
            result: Any
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001  it is handed on: nothing may end this thread unseen
                result = error
            self._reactor.callFromThread(done, result)
            del work, job, done, result  # hold no batch while waiting for the next
