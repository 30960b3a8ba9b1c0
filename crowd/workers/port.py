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
        self.socket = listening
        self._factory = factory
        self._closed = False

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once it is closed."""
        return self.socket.fileno()

    def start(self) -> None:
        """Accept from now on."""
        self._read(True)

    def _read(self, wanted: bool) -> None:  # noqa: FBT001 - it sets a state
        reader: Any = super()  # Twisted's, without types
        (reader.startReading if wanted else reader.stopReading)()

    def doRead(self) -> None:  # noqa: N802 - Twisted's
        """Accept a few of those that are queued."""
        for _ in range(ACCEPTS_MAX):
            try:
                accepted, _address = self.socket.accept()
            except BlockingIOError:
                return  # another worker was faster
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._read(False)
                    cast("Any", self.reactor).callLater(REST_S, self._read_again)
                return  # else it was this connection's: it is gone
            with accepted:
                accepted.setblocking(False)
                try:
                    cast("Any", self.reactor).adoptStreamConnection(
                        accepted.fileno(), accepted.family, self._factory
                    )
                except OSError:
                    continue  # it was reset already

    def _read_again(self) -> None:
        if not self._closed:
            self._read(True)

    def stopListening(self) -> Deferred[None]:  # noqa: N802 - Twisted's
        """Close this process's descriptor of the socket."""
        if not self._closed:
            self._closed = True
            self._read(False)
            self.socket.close()
        return succeed(None)
