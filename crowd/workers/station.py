"""A worker's own end: its ingress, and what the engine's process tells it.

Decides when the ingress opens (with the first state, after the configuration), what a new
configuration changes, and when the worker ends: drained when it was told to, and at once when
the engine's process is gone, as nobody would take a message any more. Leaves messages to
``acceptor``, what else is asked to ``questions``, requests to ``crowd.ingress``, and the process to
``__main__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from crowd.errors import ConfigurationError, MalformedFrameError
from crowd.ingress import Behind, OwnIngress, utc_now
from crowd.web.tls import ProducerTLS
from crowd.workers.acceptor import LinkAcceptor
from crowd.workers.link import WorkerLink
from crowd.workers.questions import LinkQuestions
from crowd.workers.wire import (
    Accepted,
    Configure,
    Drain,
    Ended,
    Found,
    Known,
    Refused,
    Renew,
    State,
    Tally,
    Together,
    configuration_of,
    decode_to_worker,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crowd.clock import Clock
    from crowd.config import Configuration

TALLY_S: Final = 1.0

LEAVE_S: Final = 1.0
"""For the last answers to go out when the engine's process is gone."""


class Station:
    """A worker between its producers and its engine: `crowd.workers.link.LinkKeeper`.

    `endpoints` are where producers come, in the order of `node.http`. `ended` is called once,
    when there is nothing left to do.
    """

    _log = Logger()

    def __init__(self, clock: Clock, endpoints: Sequence[Any], ended: Callable[[], None]) -> None:
        self.link = WorkerLink(self)
        self._clock = clock
        self._endpoints = endpoints
        self._ended = ended
        self._questions = LinkQuestions(self.link)
        self._acceptor: LinkAcceptor | None = None
        self._ingress: OwnIngress | None = None
        self._files: dict[str, bytes] = {}
        self._is_open = False
        self._leaving = False
        self._drained = False
        self._counting = LoopingCall(self._count)
        self._counting.clock = clock  # type: ignore[assignment]  # of the interface's type

    def drain(self) -> None:
        """Take no more, answer what is under way, and end. Nothing happens after the first time."""
        if not self._leaving:
            self._leaving = True
            Deferred.fromCoroutine(self._drain()).addErrback(self._failed)

    # --- The link's calls ------------------------------------------------------------------------

    def link_frame(self, data: bytes) -> None:
        """Do what the engine's process says. Raises MalformedFrameError."""
        frame = decode_to_worker(data)
        if isinstance(frame, Configure):
            self._configure(frame)
        elif self._acceptor is None:
            raise MalformedFrameError(f"found {type(frame).__name__}; expected Configure first")
        elif isinstance(frame, Renew):
            self._renew(frame)
        elif isinstance(frame, Accepted):
            self._acceptor.accepted(frame)
        elif isinstance(frame, Known):
            self._acceptor.known(frame)
        elif isinstance(frame, Together):
            self._acceptor.together(frame)
        elif isinstance(frame, Refused):
            self._acceptor.refused(frame)
        elif isinstance(frame, Found):
            self._questions.found(frame)
        elif isinstance(frame, Ended):
            self._questions.ended(frame)
        elif isinstance(frame, State):
            self._questions.state(frame)
            self._acceptor.state(frame)
            self._open()
        elif isinstance(frame, Drain):
            self.drain()

    def link_writable(self) -> None:
        """Offer what gathered meanwhile."""
        if self._acceptor is not None:
            self._acceptor.resume()

    def link_lost(self, why: str) -> None:
        """End: producers hear what is known of their messages."""
        if self._acceptor is not None:
            self._acceptor.end("the node's engine is gone")
        self._questions.end("the node's engine is gone")
        if self._drained:
            self._ended()
        elif not self._leaving:
            self._leaving = True
            self._log.error("the engine's process is gone: {why}", why=why)
            Deferred.fromCoroutine(self._leave()).addErrback(self._failed)

    # --- Life ------------------------------------------------------------------------------------

    def _configure(self, frame: Configure) -> None:
        configuration = configuration_of(frame)
        try:
            if self._ingress is None:
                self._files = dict(frame.files)
                self._begin(configuration, frame)
            else:
                self._ingress.use(configuration)
        except ConfigurationError as error:  # the engine's process had looked at it
            raise MalformedFrameError(str(error)) from None

    def _renew(self, frame: Renew) -> None:
        self._files = dict(frame.files)
        if self._ingress is not None:
            self._ingress.again()

    def _begin(self, configuration: Configuration, frame: Configure) -> None:
        self._acceptor = LinkAcceptor(
            self._clock, self.link, configuration.limits.acknowledge_within_s, frame.workers
        )
        files = configuration.node.tls
        # The engine's process has read them, perhaps as another user: here they come from it.
        tls = (
            None
            if files is None
            else ProducerTLS(files, utc_now, lambda path: self._files.get(path, b""))
        )
        self._ingress = OwnIngress(
            self._clock,
            configuration,
            Behind(self._acceptor, self._questions, self._questions),
            self._endpoints,
            frame.through,
            tls,
            share=frame.workers,
        )

    def _open(self) -> None:
        if self._is_open or self._leaving or self._ingress is None:
            return
        self._is_open = True
        self._ingress.startService()
        self._counting.start(TALLY_S)

    def _count(self) -> None:
        if self._ingress is not None and self.link.writable:
            counters = self._ingress.counters()
            if self._acceptor is not None:
                counters["crowd_refused_requests_total"] = self._acceptor.refused_count
            samples = tuple((sample, float(value)) for sample, value in counters.items())
            self.link.write([Tally(samples)])

    async def _drain(self) -> None:
        if self._ingress is not None and self._is_open:
            await self._ingress.stopService()
            self._counting.stop()
            self._count()
        if self.link.open:
            self._drained = True
            self.link.finish()  # and `link_lost` follows
        else:
            self._ended()

    async def _leave(self) -> None:
        if self._ingress is not None and self._is_open:
            self._counting.stop()
            await self._ingress.leave(LEAVE_S)
        self._ended()

    def _failed(self, failure: Any) -> None:
        self._log.failure("the worker ends badly", failure=failure)
        self._ended()
