"""One connection of `crowd load`: sends a request, waits for its answer, and reconnects."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from crowd.tools.loop import READ, WRITE
from crowd.tools.tally import Answer

if TYPE_CHECKING:
    from crowd.tools.load import Target
    from crowd.tools.loop import Loop

_AGAIN_S: Final = 0.1
"""Between attempts to connect: a node that is started again is found at once."""

_READ_BYTES: Final = 1 << 16


class LaneOwner(Protocol):
    """Who uses a lane. Both are called in the loop's turn, never from inside `Lane.send`."""

    def ready(self, lane: Lane) -> None:
        """Use the lane: it is connected and has nothing in flight."""

    def answered(self, lane: Lane, answer: Answer) -> None:
        """Take in the fate of the request that was in flight."""


class Lane:
    """One request at a time over a connection that is kept open."""

    def __init__(
        self, loop: Loop, owner: LaneOwner, number: int, target: Target, *, naming: bool
    ) -> None:
        self._loop = loop
        self._owner = owner
        self.number = number
        self._target = target
        self._callbacks = _NamingCallbacks(self) if naming else _Callbacks(self)
        self._socket: socket.socket | None = None
        self._rest = b""
        self._due_s = 0.0
        self.busy = False
        self.usable = False
        self.trouble = ""
        """Why it is not connected, in words; empty while it is, or is not known yet."""
        self._closed = False
        self.complete = False
        self.keeps_alive = False
        self.message_id: str | None = None

    def connect(self) -> None:
        """Connect, now and after every loss."""
        if self._closed:
            return
        family = socket.AF_INET6 if ":" in self._target.host else socket.AF_INET
        self._socket = connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = connection.connect_ex((self._target.host, self._target.port))
        if result not in {0, errno.EINPROGRESS}:
            self._lost(os.strerror(result))
            return
        self._loop.watch(connection.fileno(), WRITE, self._connected)

    def send(self, request: bytes, due_s: float) -> None:
        """Send a request that was due at `due_s` (the loop's seconds). The lane is usable."""
        assert self._socket is not None
        self.busy, self.usable, self._due_s = True, False, due_s
        try:
            sent = self._socket.send(request)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            return  # the loop reports it as readable at once, and the request fails there
        if sent < len(request):
            self._rest = request[sent:]
            self._loop.watch(self._socket.fileno(), READ | WRITE, self._ready)

    def check_time(self, before_s: float) -> None:
        """Fail the request in flight if it was due before `before_s`."""
        if self.busy and self._due_s < before_s:
            self._lost("no answer in time")

    def close(self) -> None:
        """Close for good."""
        self._closed = True
        self._drop()

    def _connected(self, _: int) -> None:
        assert self._socket is not None
        failure = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self._lost(os.strerror(failure))
            return
        self._parser = self._callbacks.parser = HttpResponseParser(self._callbacks)
        self._loop.watch(self._socket.fileno(), READ, self._ready)
        self.usable, self.trouble = True, ""
        self._owner.ready(self)

    def _ready(self, events: int) -> None:
        assert self._socket is not None
        try:
            if self._rest and events & WRITE:
                self._rest = self._rest[self._socket.send(self._rest) :]
                if not self._rest:
                    self._loop.watch(self._socket.fileno(), READ, self._ready)
                return
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or "connection lost")
            return
        if not data:
            self._lost("connection closed")
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._lost("an answer that is not HTTP")
            return
        if self.complete:
            self._finish()

    def _finish(self) -> None:
        self.complete = False
        status = self._parser.get_status_code()
        if status == 100:
            return
        if not self.busy:
            self._lost("an answer to no request")
            return
        keep = self.keeps_alive and not self._rest
        self.busy = False
        now_s = self._loop.now_s()
        answer = Answer(now_s, now_s - self._due_s, status, self.message_id, None)
        self.message_id = None
        if not keep:
            self._drop()
            self._owner.answered(self, answer)
            self.connect()
            return
        self.usable = True
        self._owner.answered(self, answer)
        self._owner.ready(self)

    def _lost(self, why: str) -> None:
        """End the connection, fail what was in flight, and connect again a little later."""
        was_busy, self.busy = self.busy, False
        self.trouble = why
        self._drop()
        now_s = self._loop.now_s()
        self._loop.call_at(now_s + _AGAIN_S, self.connect)
        if was_busy:
            self._owner.answered(self, Answer(now_s, now_s - self._due_s, 0, None, why))

    def _drop(self) -> None:
        self.usable = False
        self.complete = False
        self._rest = b""
        connection, self._socket = self._socket, None
        if connection is not None:
            self._loop.unwatch(connection.fileno())
            connection.close()


class _Callbacks:
    """llhttp's callbacks: only the end of an answer matters."""

    parser: HttpResponseParser

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def on_message_complete(self) -> None:
        self._lane.complete = True
        self._lane.keeps_alive = self.parser.should_keep_alive()  # llhttp forgets it after this


class _NamingCallbacks(_Callbacks):
    """The same with the message's id, for the log."""

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 16 and name.lower() == b"crowd-message-id":
            self._lane.message_id = value.decode("latin-1")
