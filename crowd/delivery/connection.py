"""One HTTP/1.1 connection to a consumer, on llhttp (httptools).

Decides when an answer is whole, when it is none, and whether the connection can carry
another request. Leaves connecting, deadlines and reuse to ``agent``. Only here, in delivery,
is llhttp named. RFC 9112, sections 6.3 (where a message ends) and 9.3 (persistence).

Requests are not pipelined: each `Exchange` that is begun ends with one call of its agent's
`ended` or `broken`, and only then another one can begin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import httptools
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from zope.interface import implementer

from crowd.delivery.outcome import FailureKind
from crowd.delivery.tls import refuses_us, words_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

ANSWER_BYTES_MAX: Final = 64 << 10
"""How much of an answer is read. Its status decides; the rest is for nobody."""

PIECE_BYTES_MAX: Final = 1_024
"""How much is kept of the body of an answer that is not 2xx: enough to say what was wrong."""

_KEPT: Final = frozenset({b"retry-after", b"date"})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class Exchange:
    """One request and its answer. `reused` and `resent` say on which connection it is.

    Of the answer's body `body_max` bytes are kept, whatever its status; 0 for a piece, and
    only if the status is not 2xx. `awaited`: all its headers are, too.
    """

    __slots__ = (
        "answered", "awaited", "body", "body_max", "connect_until_s", "deadline_s", "head", "resent",
        "reused",
    )  # fmt: skip

    def __init__(
        self, head: bytes, body: bytes, deadline_s: float, body_max: int = 0,
        *, awaited: bool = False,
    ) -> None:  # fmt: skip
        self.awaited = awaited
        self.head = head
        self.body = body
        self.body_max = body_max
        self.deadline_s = deadline_s
        self.connect_until_s = deadline_s
        self.reused = False
        self.resent = False
        self.answered: Deferred[Any]


class Heard:
    """What is kept of an answer: its status, some headers, and the beginning of its body.

    `headers` are those that matter here, in lower case; `fields` are all, as they came, of one
    that is awaited. `whole`: `body` is all of it.
    """

    __slots__ = ("body", "fields", "headers", "status", "whole")

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, whole: bool,
        fields: list[tuple[bytes, bytes]] | None = None,
    ) -> None:  # fmt: skip
        self.fields = fields
        self.status = status
        self.headers = headers
        self.body = body
        self.whole = whole


class Exchanges(Protocol):
    """Who owns connections: told what becomes of them."""

    def ready(self, connection: ConsumerConnection) -> None:
        """Take a connection that is open, its consumer having proved who it is if it must."""

    def ended(self, connection: ConsumerConnection, exchange: Exchange, answer: Heard) -> None:
        """Take an answer."""

    def broken(
        self, connection: ConsumerConnection, exchange: Exchange, kind: FailureKind, words: str,
        *, untouched: bool,
    ) -> None:  # fmt: skip
        """Take note that no answer will come; `untouched`: not a byte of one had."""

    def lost(self, connection: ConsumerConnection) -> None:
        """Forget a connection that is gone."""


@implementer(IHandshakeListener)
class ConsumerConnection(TwistedProtocol):
    """A connection; `exchange` is what it carries now, if anything.

    It is `proven` once requests may be written to it, and `gone` once it has ended.

    The methods ``on_...`` are llhttp's callbacks. They only take notes: what follows from
    the notes is done once llhttp has returned.
    """

    transport: Any  # an ITCPTransport, which zope says and types do not

    def __init__(
        self, owner: Exchanges, first: Exchange, seconds: Callable[[], float],
        spent: Callable[[float], None], *, secure: bool,
    ) -> None:  # fmt: skip
        """Make a connection that is opened for `first`. `spent` hears of time worked."""
        self.exchange: Exchange | None = first
        self.idle_until_s = 0.0
        self.proven = False
        self.gone = False
        self._owner = owner
        self._seconds = seconds
        self._spent = spent
        self._secure = secure
        self._sent = False
        self._write: Any = None  # the transport's writeSomeData, while everything went out
        self._parser = httptools.HttpResponseParser(self)
        self._forget()

    def _forget(self) -> None:
        self._received = 0
        self._status = 0
        self._whole = False
        self._head_whole = False
        self._framed = False
        self._excess = False
        self._flaw = ""
        self._keeps_alive = False
        self._kept: list[tuple[bytes, bytes]] = []
        self._fields: list[tuple[bytes, bytes]] | None = None  # all of them, if wanted
        self._body = b""
        self._body_max = 0
        self._body_cut = False

    # --- The transport's side -------------------------------------------------------------------

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        """Be ready, if nothing has to be proved first."""
        self.transport.setTcpNoDelay(True)
        if not self._secure:
            self._write = getattr(self.transport, "writeSomeData", None)
            self.proven = True
            self._owner.ready(self)

    def handshakeCompleted(self) -> None:  # noqa: N802  Twisted's name
        """Be ready: the consumer's certificate was found good."""
        self.proven = True
        self._owner.ready(self)

    def send(self, exchange: Exchange, *, at_once: bool = False) -> None:
        """Write a request; this connection is ready and carries none.

        Either in the reactor's next turn, or `at_once` where the transport can. What does not go out
        then, and all after it, goes through the transport's buffer.
        """
        self.exchange = exchange
        self._sent = True
        self._forget()
        if exchange.awaited:
            self._fields = []
        if self._write is None or not at_once:
            self.transport.writeSequence((exchange.head, exchange.body))
            return
        request = exchange.head + exchange.body
        sent = self._write(request)
        if sent != len(request):
            self._write = None
            self.transport.write(request[sent:] if isinstance(sent, int) else request)

    def abort(self) -> None:
        """End the connection at once."""
        if self.transport is not None:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take a piece of the answer."""
        started_s = self._seconds()
        exchange = self.exchange
        if exchange is None or not self._sent:
            # It speaks without having been asked: nothing after this can be trusted.
            self._owner.lost(self)
            self.abort()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.abort()
            if not self._whole:
                words = f"no HTTP answer: {error}"
                self._break(exchange, FailureKind.MALFORMED, words)
                return
            self._excess = True
        if self._whole:
            self._end(exchange)
        elif self._flaw:
            self.abort()
            self._break(exchange, FailureKind.MALFORMED, self._flaw)
        elif self._received > ANSWER_BYTES_MAX + exchange.body_max:
            self.abort()
            self._body_cut = True
            if self._head_whole:
                self._end(exchange)
            else:
                words = f"no end of the answer's head within {ANSWER_BYTES_MAX} bytes"
                self._break(exchange, FailureKind.MALFORMED, words)
        self._spent(self._seconds() - started_s)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802  Twisted's name
        """Say what the end of the connection means for the exchange."""
        self.gone = True
        exchange = self.exchange
        if exchange is not None:
            words = words_of(reason.value) or reason.getErrorMessage()
            refused = self._received == 0 and refuses_us(reason.value)
            if not self.proven or refused:
                self._break(exchange, FailureKind.TLS, f"no TLS: {words}")
            elif self._head_whole and not self._framed and isinstance(reason.value, ConnectionDone):
                self._end(exchange)  # a body that ends with the connection (RFC 9112, 6.3)
            else:
                self._break(exchange, FailureKind.BROKEN, words)
        self._owner.lost(self)

    # --- llhttp's side ----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Note an answer too many."""
        if self._whole:
            self._excess = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the few headers that decide anything; a trailer's, or another answer's, are none."""
        if self._head_whole:
            return
        lowered = name.lower()
        if lowered in _FRAMING:
            self._framed = True
        elif lowered in _KEPT:
            self._kept.append((lowered, value))
        if self._fields is not None:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Note the status; 1xx only announce the answer (RFC 9110, 15.2)."""
        if not (self._whole or self._flaw):
            self._status = self._parser.get_status_code()
            self._head_whole = self._status >= 200
            if self._status < 100:
                self._flaw = f"found status {self._status}; expected 100 to 999"
            exchange = self.exchange
            if exchange is not None and exchange.body_max:
                self._body_max = exchange.body_max
            elif self._status >= 300:
                self._body_max = PIECE_BYTES_MAX

    def on_body(self, data: bytes) -> None:
        """Keep the beginning of the body, if any of it is wanted."""
        if self._whole:
            return  # of an answer too many
        if not self._head_whole:
            # llhttp reads one where it is framed: it would stand before the answer's own.
            self._flaw = f"found a body in an answer of status {self._status}; expected none"
            return
        room = self._body_max - len(self._body)
        if room < len(data):
            self._body_cut = True
        if room > 0:
            self._body += data[:room]

    def on_message_complete(self) -> None:
        """Note that the answer is whole."""
        if self._head_whole:
            self._whole = True
            self._keeps_alive = self._parser.should_keep_alive()  # llhttp forgets it after this
        else:
            self._kept = []
            self._framed = False
            if self._fields is not None:
                self._fields = []

    # --- Ends -------------------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether, after a whole answer, another request can follow."""
        return self._whole and self._keeps_alive and not self._excess

    def _end(self, exchange: Exchange) -> None:
        self.exchange = None
        self._sent = False
        heard = Heard(
            self._status, self._kept, self._body, whole=not self._body_cut, fields=self._fields
        )
        self._owner.ended(self, exchange, heard)

    def _break(self, exchange: Exchange, kind: FailureKind, words: str) -> None:
        self.exchange = None
        self._owner.broken(self, exchange, kind, words, untouched=self._received == 0)
