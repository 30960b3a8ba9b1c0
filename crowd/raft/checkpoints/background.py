"""Work off the reactor, a step at a time.

Decides how long one job holds the thread (a step), what may come between two steps (steps
of other work, and a stop), and that an error nobody foresaw is the end. Leaves to others
what a step does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from crowd.errors import StorageFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from crowd.raft.journal.ports import File, Writer

T = TypeVar("T")


class _Ended(msgspec.Struct, Generic[T], frozen=True):
    value: T


def sync(file: File) -> None:
    """Make a file durable. Raises StorageFailedError, whatever the system's reason.

    Even "no space" is no way out here: the pages that were not written may be gone (I8).
    """
    try:
        file.sync()
    except OSError as error:
        raise StorageFailedError(f"fsync: {error}") from error


class Background:
    """A writer, for jobs whose unforeseen errors go to `fail`. After that nothing is done.

    `fail` is called once, in the reactor. ``closed`` says that no job is begun any more and
    nothing is reported.
    """

    def __init__(self, writer: Writer, fail: Callable[[StorageFailedError], None]) -> None:
        self._writer = writer
        self._fail = fail
        self.closed = False

    def do(self, what: str, job: Callable[[], T], done: Callable[[T], None]) -> None:
        """Do `job` off the reactor; then call `done` in the reactor with what it returned."""

        def wrapped() -> _Ended[T]:
            return _Ended(job())  # so that an error that is its result is not one that it raised

        def report(result: _Ended[T] | BaseException) -> None:
            if self.closed:
                return
            if isinstance(result, BaseException):
                self.closed = True
                fatal = StorageFailedError(f"could not {what}: {str(result) or repr(result)}")
                fatal.__cause__ = result
                self._fail(fatal)
            else:
                done(result.value)

        if not self.closed:
            self._writer.submit(wrapped, report)

    def soon(self, call: Callable[[], object]) -> None:
        """Call this in the reactor after what runs now."""
        self._writer.soon(call)

    def run(
        self, what: str, steps: Generator[None, None, T], done: Callable[[T | None], None]
    ) -> Work[T]:
        """Do `steps`, one job for each; then call `done` with what they return."""
        return Work(self, what, steps, done)


class Work(Generic[T]):
    """Steps under way. `done` is called once: with their result, or None if they were stopped."""

    def __init__(
        self,
        background: Background,
        what: str,
        steps: Generator[None, None, T],
        done: Callable[[T | None], None],
    ) -> None:
        self._background, self._what, self._steps, self._done = background, what, steps, done
        self._stopped = False
        self._go_on()

    def stop(self) -> None:
        """Do no further step. The one that is being done may be the last, and have a result."""
        self._stopped = True

    def _go_on(self) -> None:
        self._background.do(self._what, self._step, self._stepped)

    def _step(self) -> _Ended[T] | None:
        try:
            next(self._steps)
        except StopIteration as end:
            return _Ended(end.value)
        return None

    def _stepped(self, ended: _Ended[T] | None) -> None:
        if ended is not None:
            self._done(ended.value)
        elif self._stopped:
            # In the thread, as what it closes is the thread's.
            self._background.do(self._what, self._steps.close, self._closed)
        else:
            self._go_on()

    def _closed(self, _: None) -> None:
        self._done(None)
