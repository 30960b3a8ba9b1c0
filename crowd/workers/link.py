"""One end of the socket between a worker and the engine's process: frames in and out.

Decides when the other end is gone, and whether it takes more now. Leaves what frames say to
``wire``, and what follows to the keeper. The socket is one of a pair that the engine's process
made before it started the worker: it has no name, so nobody else can reach it.

What is written while the other end does not read gathers in the transport. Both sides bound
it by what they have under way: a worker offers no more while `writable` is false, and the
engine's process only answers what was offered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from zope.interface import implementer

from crowd.errors import MalformedFrameError
from crowd.raft.frames import FrameDecoder, encode_frame
from crowd.workers.wire import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IAddress
    from twisted.python.failure import Failure

    from crowd.workers.wire import FromWorker, ToWorker


class LinkKeeper(Protocol):
    """Whom a link tells. Every call is made in the reactor."""

    def link_frame(self, data: bytes) -> None:
        """Take a frame; raise MalformedFrameError if it is none, which ends the link."""

    def link_writable(self) -> None:
        """Note that the other end reads again."""

    def link_lost(self, why: str) -> None:
        """Note that the link is gone. Comes once; nothing follows."""


@implementer(IPushProducer)
class WorkerLink(TwistedProtocol):
    """One end. `writable` says whether the other one keeps up with what is written."""

    _log = Logger()
    transport: Any

    def __init__(self, keeper: LinkKeeper) -> None:
        self.writable = True
        self.open = True
        self._keeper = keeper
        self._decoder = FrameDecoder()
        self._why = ""
        self._reading = True

    def write(self, frames: Iterable[FromWorker | ToWorker]) -> None:
        """Send frames after all that were written before. A link that is gone drops them.

        Raises ValueError if a frame is over its bound.
        """
        if self.open:
            self.transport.write(b"".join([encode_frame(encode(frame)) for frame in frames]))

    def read(self, wanted: bool) -> None:  # noqa: FBT001 - it sets a state
        """Read on, or not for now."""
        if self.open and wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def close(self, why: str) -> None:
        """End the link at once; `link_lost` follows in a later turn."""
        if self.open:
            self.open = self.writable = False
            self._why = why
            self.transport.abortConnection()

    def finish(self) -> None:
        """End the link after what was written went out; `link_lost` follows."""
        if self.open:
            self.open = self.writable = False
            self._why = "this end is done"
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    # --- The transport's calls ------------------------------------------------------------------

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's
        """Hear when the other end does not read."""
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's
        """Take what came."""
        if not self.open:
            return
        try:
            for frame in self._decoder.feed(data):
                if not self.open:
                    return
                self._keeper.link_frame(frame)
        except MalformedFrameError as error:
            # The other end only sees the connection end, and a worker ends with it.
            self._log.error("the link is closed: {why}", why=str(error))
            self.close(str(error))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's
        """Tell the keeper."""
        self.open = self.writable = False
        self._keeper.link_lost(self._why or reason.getErrorMessage())

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's
        """Note that the transport is full (64 KiB)."""
        self.writable = False

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's
        """Note that everything went out."""
        self.writable = self.open
        if self.open:
            self._keeper.link_writable()

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's
        """Nothing: connectionLost follows."""


class OneLink(Factory):
    """Gives the one connection of a socket pair its protocol."""

    noisy = False

    def __init__(self, link: WorkerLink) -> None:
        self._link = link

    def buildProtocol(self, addr: IAddress | None) -> WorkerLink:  # noqa: N802 - Twisted's
        """Return the link."""
        del addr
        return self._link
