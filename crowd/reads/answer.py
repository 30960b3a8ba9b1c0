# ruff: noqa: N802 - Twisted's names
"""An upstream's answer as it arrives, with back-pressure.

Decides where pieces of a body wait until somebody takes them: at most what one read of the
connection brought, as it is not read before `UpstreamAnswer.deliverBody`, nor while whoever
takes the pieces has it paused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import implementer

from crowd.delivery.agent import NO_HEADERS

if TYPE_CHECKING:
    from crowd.reads.failure import ReadFailedError
    from crowd.reads.head import AnswerHead


class Flow(Protocol):
    """What brings an answer's body, as long as it is not whole."""

    def pause(self) -> None:
        """Bring nothing for now."""

    def resume(self) -> None:
        """Go on."""

    def stop(self) -> None:
        """End it: nobody wants the rest."""


@implementer(IResponse, IPushProducer)
class UpstreamAnswer:
    """An answer, whose body goes to one protocol, and to that as its transport.

    The protocol hears ``connectionLost`` with ResponseDone once the body was whole, and
    otherwise with the ReadFailedError that cut it short.
    """

    version = (b"HTTP", 1, 1)
    headers = NO_HEADERS  # so that nothing between here and there looks into them
    length = UNKNOWN_LENGTH
    request = None
    previousResponse = None  # noqa: N815  Twisted's name

    def __init__(self, head: AnswerHead, flow: Flow) -> None:
        self.head = head
        self.code = head.status
        self.phrase = head.phrase
        self._flow: Flow | None = flow
        self._held: list[bytes] = []
        self._end: Failure | None = None
        self._paused = True  # until there is somebody to take the body
        self._protocol: Any = None

    # --- The connection's side ------------------------------------------------------------------

    def took(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self._protocol is None:
            self._held.append(data)
        else:
            self._protocol.dataReceived(data)

    def ended(self, error: ReadFailedError | None) -> None:
        """Take note that the body is whole, or else why it never will be."""
        self._flow = None
        done: Any = ResponseDone() if error is None else error
        self._end = Failure(done)  # type: ignore[no-untyped-call]  # Twisted's
        if self._protocol is not None:
            self._protocol.connectionLost(self._end)

    @property
    def paused(self) -> bool:
        """Whether the connection is not read for this."""
        return self._paused

    # --- The taker's side -----------------------------------------------------------------------

    def deliverBody(self, protocol: Any) -> None:
        """Deliver what is there of the body, and the rest when it comes."""
        self._protocol = protocol
        self._paused = False
        protocol.makeConnection(self)
        held, self._held = b"".join(self._held), []
        if held:
            protocol.dataReceived(held)
        if self._end is not None:
            protocol.connectionLost(self._end)
        elif not self._paused and self._flow is not None:
            self._flow.resume()

    def pauseProducing(self) -> None:
        """Stop reading; the body may be whole already."""
        self._paused = True
        if self._flow is not None:
            self._flow.pause()

    def resumeProducing(self) -> None:
        """Read again."""
        self._paused = False
        if self._flow is not None:
            self._flow.resume()

    def stopProducing(self) -> None:
        """End the connection: nobody wants the rest."""
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.stop()

    loseConnection = stopProducing  # noqa: N815  Twisted's name

    def setPreviousResponse(self, response: IResponse) -> None:
        """Refuse: nothing here follows redirects."""
        raise NotImplementedError("no redirect is followed")
