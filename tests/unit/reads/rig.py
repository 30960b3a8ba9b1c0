"""An upstream in memory: connections that a test opens, answers and loses by hand."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.python.failure import Failure


class UpstreamSide:
    """One connection, seen from the upstream's side. `paused`: nothing that it says is read."""

    def __init__(self):
        self.protocol = None
        self.written = b""
        self.aborted = False
        self.paused = False
        self.lost = False

    def writeSequence(self, parts):  # noqa: N802
        self.written += b"".join(parts)

    def setTcpNoDelay(self, enabled):  # noqa: N802
        pass

    def abortConnection(self):  # noqa: N802
        self.aborted = True

    def pauseProducing(self):  # noqa: N802
        self.paused = True

    def resumeProducing(self):  # noqa: N802
        self.paused = False

    def says(self, data):
        """Have data arrive, as TCP would: not while nobody reads."""
        assert not self.paused, "nobody reads"
        self.protocol.dataReceived(data)

    def taken(self):
        """Return the requests that came since the last call."""
        written, self.written = self.written, b""
        return written

    def lose(self, error=None):
        self.lost = True
        self.protocol.connectionLost(Failure(error or ConnectionDone()))


class Endpoint:
    """Connects when the test says."""

    def __init__(self):
        self.asked = []
        self.cancelled = 0

    def connect(self, factory):
        def cancel(_):
            self.cancelled += 1

        connecting = Deferred(cancel)
        self.asked.append((factory, connecting))
        return connecting

    def succeed(self):
        """Open the connection that was asked for first."""
        factory, connecting = self.asked.pop(0)
        side = UpstreamSide()
        side.protocol = factory.buildProtocol(None)
        side.protocol.transport = side
        side.protocol.connectionMade()
        connecting.callback(side.protocol)
        return side

    def fail(self):
        self.asked.pop(0)[1].errback(Failure(ConnectError()))
