"""A listening socket that processes share, as one of them accepts from it.

Decides how many connections one turn takes: few, so that they spread over all workers. A
worker that takes all that are queued, as Twisted's own port does (up to a hundred), would get
most of those producers who keep their connections, and keep them.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, succeed

if TYPE_CHECKING:
    import socket

ACCEPTS_MAX: Final = 2
"""In one turn. A turn of an idle worker is 100 us, so this many is still 20 000 a second."""

REST_S: Final = 0.1
"""How long nothing is accepted when the process has no descriptor or memory left."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class SharedEndpoint:
    """Where a worker listens: what is used of Twisted's IStreamServerEndpoint."""

    def __init__(self, reactor: Any, listening: socket.socket) -> None:
        self._reactor = reactor
        self._socket = listening

    def listen(self, factory: Any) -> Deferred[SharedPort]:
        """Accept connections for `factory` from now on."""
        port = SharedPort(self._reactor, self._socket, factory)
        port.start()
        return succeed(port)


class SharedPort(FileDescriptor):
    """Accepts from a socket that others accept from, too."""

    def __init__(self, reactor: Any, listening: socket.socket, factory: Any) -> None:
        super().__init__(reactor)
        # Not `socket`: its backlog, which a port that stops makes smaller, is all workers'.
        self._socket = listening
        self._factory = factory
        self._closed = False
        self._resting = False
        self._paused = False

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once it is closed."""
        return self._socket.fileno()

    def start(self) -> None:
        """Accept from now on."""
        self._read_or_not()

    def stopReading(self) -> None:  # noqa: N802 - Twisted's
        """Accept no more for now: the others do, or the system queues who connects."""
        self._paused = True
        self._read_or_not()

    def startReading(self) -> None:  # noqa: N802 - Twisted's
        """Accept again."""
        self._paused = False
        self._read_or_not()

    def _read_or_not(self) -> None:
        reader: Any = super()  # Twisted's, without types
        if self._closed or self._paused or self._resting:
            reader.stopReading()
        else:
            reader.startReading()

    def doRead(self) -> None:  # noqa: N802 - Twisted's
        """Accept a few of those that are queued."""
        for _ in range(ACCEPTS_MAX):
            try:
                accepted, _address = self._socket.accept()
            except BlockingIOError:
                return  # another worker was faster
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._resting = True
                    self._read_or_not()
                    cast("Any", self.reactor).callLater(REST_S, self._rested)
                return  # else it was this connection's: it is gone
            with accepted:
                accepted.setblocking(False)
                try:
                    cast("Any", self.reactor).adoptStreamConnection(
                        accepted.fileno(), accepted.family, self._factory
                    )
                except OSError:
                    continue  # it was reset already

    def _rested(self) -> None:
        self._resting = False
        if not self._closed:
            self._read_or_not()

    def stopListening(self) -> Deferred[None]:  # noqa: N802 - Twisted's
        """Close this process's descriptor of the socket."""
        if not self._closed:
            self._closed = True
            self._read_or_not()
            self._socket.close()
        return succeed(None)
