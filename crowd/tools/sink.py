"""`crowd sink`: a consumer for trying things out, that records every request it gets.

Decides how requests are answered: after a delay, with a status, some of them failing. Each
is one JSON object a line in the log, with the body's SHA-256 in place of the body. Nothing
of a request is kept, so a sink may run for days.
"""

from __future__ import annotations

import hashlib
import random
import socket
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from crowd.tools.lines import LineFile
from crowd.tools.loop import READ, WRITE, Loop

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER_BYTES_MAX: Final = 1 << 20
"""Of one request; a node allows far less, this only bounds the sink's memory."""

_READ_BYTES: Final = 1 << 18


class SinkPlan(msgspec.Struct, frozen=True):
    """How to answer: ``status`` after ``delay_s``, but ``failed`` for the share ``fail`` (0 to 1)."""

    status: int = 200
    fail: float = 0.0
    delay_s: float = 0.0
    failed: int = 500


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """One line of the log. ``time`` is in seconds since 1970, ``status`` the answer given."""

    time: float
    id: str | None
    method: str
    target: str
    headers: list[tuple[str, str]]
    sha256: str
    status: int


class Exchange:
    """One connection's requests, without the connection: bytes in, whole requests out.

    `answered` is called for each request that is complete, with its record (None where
    `recording` is off, which saves most of the cost) and whether the connection stays open.
    """

    def __init__(
        self, choose: Callable[[], int], answered: Callable[[int, bool, Recorded | None], None],
        *, recording: bool,
    ) -> None:  # fmt: skip
        self._choose = choose
        self._answered = answered
        self._parser = HttpRequestParser(_Recording(self) if recording else _Counting(self))

    def feed(self, data: bytes) -> bool:
        """Take in bytes; say False if they are no HTTP and the connection has to end."""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            return False
        return True

    def complete(self, target: bytes, headers: list[tuple[bytes, bytes]], digest: str) -> None:
        """Record and answer a request (called by the recording parser's end)."""
        status = self._choose()
        named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        ids = (value for name, value in named if name.lower() == "crowd-message-id")
        record = Recorded(
            time.time(), next(ids, None), self._parser.get_method().decode("latin-1"),
            target.decode("latin-1"), named, digest, status,
        )  # fmt: skip
        self._answered(status, self._parser.should_keep_alive(), record)

    def count(self) -> None:
        """Answer a request that is not recorded."""
        self._answered(self._choose(), self._parser.should_keep_alive(), None)


class _Counting:
    """llhttp's callbacks where only the end of a request matters."""

    def __init__(self, exchange: Exchange) -> None:
        self.on_message_complete = exchange.count


class _Recording:
    """llhttp's callbacks where everything is recorded."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._hash = hashlib.sha256()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            raise ValueError("headers too large")
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._hash.update(body)

    def on_message_complete(self) -> None:
        self._exchange.complete(self._target, self._headers, self._hash.hexdigest())


def answer_bytes(status: int, *, keep_alive: bool) -> bytes:
    """Return the whole answer: a status and no body."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    close = "" if keep_alive else "Connection: close\r\n"
    return f"HTTP/1.1 {status} {phrase}\r\nContent-Length: 0\r\n{close}\r\n".encode()


class Sink:
    """Listens, answers by `plan` and records in the file `log`, if one is given."""

    def __init__(
        self, loop: Loop, plan: SinkPlan, *, host: str = "127.0.0.1", port: int = 0,
        log: str | None = None, chance: random.Random | None = None,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.plan = plan
        self.statuses: dict[int, int] = {}
        self._chance = chance or random.Random()  # noqa: S311 - which requests fail is no secret
        self._lines = LineFile(log, loop) if log is not None else None
        self._encode = msgspec.json.Encoder().encode
        self._answers: dict[tuple[int, bool], bytes] = {}
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server((host, port), backlog=1_024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        loop.watch(self._listener.fileno(), READ, self._accept)

    def close(self) -> None:
        """Close every socket and write the log's rest."""
        for connection in list(self._connections):
            connection.close()
        self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        if self._lines is not None:
            self._lines.close()

    def exchange(self, answered: Callable[[int, bool, Recorded | None], None]) -> Exchange:
        """Return the reader for a new connection."""
        return Exchange(self._choose, answered, recording=self._lines is not None)

    def answer(self, status: int, keep_alive: bool, record: Recorded | None) -> bytes:  # noqa: FBT001 - a callback
        """Count and record one request; return its answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if record is not None and self._lines is not None:
            self._lines.add(self._encode(record))
        answer = self._answers.get((status, keep_alive))
        if answer is None:
            answer = self._answers[status, keep_alive] = answer_bytes(status, keep_alive=keep_alive)
        return answer

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that closed."""
        self._connections.discard(connection)

    def _choose(self) -> int:
        if self.plan.fail and self._chance.random() < self.plan.fail:
            return self.plan.failed
        return self.plan.status

    def _accept(self, _: int) -> None:
        try:
            while True:
                accepted, _address = self._listener.accept()
                accepted.setblocking(False)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.add(_Connection(self, accepted))
        except BlockingIOError:
            return  # all that were waiting are in


class _Connection:
    """A producer's socket. Answers keep the order of requests: all wait equally long."""

    def __init__(self, sink: Sink, accepted: socket.socket) -> None:
        self._sink = sink
        self._socket = accepted
        self._fd = accepted.fileno()
        self._exchange = sink.exchange(self._answered)
        self._out = bytearray()
        self._closing = False
        self._events = READ
        sink.loop.watch(self._fd, READ, self._ready)

    def close(self) -> None:
        if self._fd >= 0:
            self._sink.loop.unwatch(self._fd)
            self._fd = -1
            self._socket.close()
            self._sink.forget(self)

    def _ready(self, events: int) -> None:
        try:
            if events & WRITE:
                self._send()
                return
            data = self._socket.recv(_READ_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            self.close()
        elif not self._exchange.feed(data):
            self._closing = True
            self._write(answer_bytes(400, keep_alive=False))
        elif self._out:
            self._send()

    def _answered(self, status: int, keep_alive: bool, record: Recorded | None) -> None:  # noqa: FBT001 - a callback
        answer = self._sink.answer(status, keep_alive, record)
        delay_s = self._sink.plan.delay_s
        if delay_s:
            due_s = self._sink.loop.now_s() + delay_s
            self._sink.loop.call_at(due_s, lambda: self._late(answer, keep_alive=keep_alive))
        else:
            self._out += answer  # sent once, when the bytes at hand are all read
            self._closing = self._closing or not keep_alive

    def _late(self, answer: bytes, *, keep_alive: bool) -> None:
        if self._fd >= 0:
            self._closing = self._closing or not keep_alive
            self._write(answer)

    def _write(self, answer: bytes) -> None:
        self._out += answer
        self._send()

    def _send(self) -> None:
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            self.close()
            return
        del self._out[:sent]
        if not self._out and self._closing:
            self.close()
            return
        # While answers cannot leave, no more requests are read: nothing piles up.
        events = WRITE if self._out else READ
        if events != self._events:
            self._events = events
            self._sink.loop.watch(self._fd, events, self._ready)


def run_sink(
    plan: SinkPlan, *, host: str, port: int, log: str | None, say: Callable[[str], None]
) -> int:
    """Run a sink until SIGINT or SIGTERM; return the exit status."""
    loop = Loop()
    loop.stop_at_signals()
    try:
        sink = Sink(loop, plan, host=host, port=port, log=log)
    except OSError as error:
        place = f"{host}:{port}" if log is None else f"{host}:{port}, or write {log}"
        say(f"cannot listen on {place}: {error.strerror}")
        return 1
    say(f"sink listening on http://{host}:{sink.port}")
    loop.run()
    sink.close()
    loop.close()
    counts = ", ".join(f"{count} answered {status}" for status, count in sink.statuses.items())
    say(counts or "no request came")
    return 0
