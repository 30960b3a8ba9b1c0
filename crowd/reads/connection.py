# ruff: noqa: N802 - Twisted's names
"""One HTTP/1.1 connection to an upstream, on llhttp (httptools), for answers of any length.

Decides when an answer's head is whole, what of its body is passed on, when it ends, and
whether the connection can carry another read. Leaves connecting, deadlines and reuse to
``pool``. RFC 9112, sections 6.3 (where a message ends) and 9.3 (persistence).

Invariant: what is held of an answer is its head, within its bound, the body's pieces of one read
of the transport, which is paused while nobody takes them, and a field of its trailer, within the
same bound as the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import httptools
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from zope.interface import implementer

from crowd.delivery.tls import words_of
from crowd.reads.answer import UpstreamAnswer
from crowd.reads.failure import ReadFailedError, ReadFailure
from crowd.reads.head import HEAD_BYTES_MAX, answer_head

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from crowd.reads.head import Field

SENT_BYTES_MAX: Final = 64 << 10
"""A longer request is its connection's last: its answer may come before all of it went out, and the
next one would wait behind the rest. As much is in the buffers of the systems at either end, which on
Linux begin with 16 and 64 KiB."""

_INF = float("inf")
_TRANSFER: Final = b"transfer-encoding"
_FRAMING: Final = frozenset({b"content-length", _TRANSFER})


class Read:
    """One read on its way. Times are the clock's, in seconds.

    `answered` is None once it has fired. `reused` and `resent` say on which connection it is.
    """

    __slots__ = (
        "answered", "asks_head", "body", "connect_until_s", "head", "head_until_s", "resent", "reused",
    )  # fmt: skip

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body
        self.asks_head = head.startswith(b"HEAD ")
        self.connect_until_s = _INF
        self.head_until_s = _INF
        self.reused = False
        self.resent = False
        self.answered: Deferred[Any] | None = None


class Reading(Protocol):
    """Who owns connections: told what becomes of them."""

    def ready(self, connection: UpstreamConnection) -> None:
        """Take a connection that is open, its upstream having proved who it is if it must."""

    def began(self, read: Read, answer: UpstreamAnswer) -> None:
        """Take an answer, of which the head is whole."""

    def released(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer is whole."""

    def broken(
        self, connection: UpstreamConnection, read: Read, error: ReadFailedError,
        *, untouched: bool,
    ) -> None:  # fmt: skip
        """Take note that no answer will come; `untouched`: not a byte of one had."""

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget a connection that is gone, or that nobody wants any more."""

    def progress_until_s(self) -> float:
        """Return when the next piece of a body is to be there."""


@implementer(IHandshakeListener)
class UpstreamConnection(TwistedProtocol):
    """A connection; `read` is what it carries now, and `due_s` when that takes too long.

    It is `proven` once requests may be written to it, and `gone` once it has ended. The
    methods ``on_...`` are llhttp's callbacks. They only take notes.
    """

    transport: Any  # an ITCPTransport, which zope says and types do not

    def __init__(self, owner: Reading, first: Read, *, secure: bool) -> None:
        """Make a connection that is opened for `first`."""
        self.read: Read | None = first
        self.due_s = _INF
        self.proven = False
        self.gone = False
        self._owner = owner
        self._secure = secure
        self._answer: UpstreamAnswer | None = None
        self._paused = False
        self._sent = False
        self._forget()

    def _forget(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._answer = None
        self._received = 0
        self._bodiless = 0  # bytes since the last piece of the body
        self._flaw: str | None = None
        self._status = 0
        self._phrase = b""
        self._version = ""
        self._headers: list[Field] = []
        self._head_whole = False
        self._framed = False
        self._whole = False
        self._excess = False
        self._keeps_alive = False
        self._pieces: list[bytes] = []
        self._asked_head = False
        self._is_large = False

    # --- The transport's side -------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Be ready, if nothing has to be proved first."""
        self.transport.setTcpNoDelay(True)
        if not self._secure:
            self.proven = True
            self._owner.ready(self)

    def handshakeCompleted(self) -> None:
        """Be ready: the upstream's certificate was found good."""
        self.proven = True
        self._owner.ready(self)

    def send(self, read: Read) -> None:
        """Write a read's request; this connection is ready and carries none."""
        self._forget()
        self._asked_head = read.asks_head
        self._is_large = len(read.head) + len(read.body) > SENT_BYTES_MAX
        self.read = read
        self.due_s = read.head_until_s
        self._sent = True
        self.transport.writeSequence((read.head, read.body))

    def dataReceived(self, data: bytes) -> None:
        """Take a piece of the answer."""
        read = self.read
        if read is None or not self._sent:
            # It speaks without having been asked, or after nobody listens.
            self._owner.lost(self)
            self.abort()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._flaw = self._flaw or f"no HTTP answer: {error}"
            self._excess = True
        if read.asks_head and self._head_whole and not self._whole:
            # llhttp knows nothing of the request, and would wait for a body.
            self._whole = True
            self._excess |= not data.endswith(b"\r\n\r\n")
        answer = self._answer
        if answer is None:
            self._first(read)
        else:
            self._count(len(data))
            self._further(answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Say what the end of the connection means for the read."""
        self.gone = True
        read, answer = self.read, self._answer
        self.read = self._answer = None
        self._parser = None  # which holds this object's methods: a cycle
        self._owner.lost(self)
        if answer is not None:
            if not self._framed and isinstance(reason.value, ConnectionDone):
                answer.ended(None)  # a body that ends with the connection (RFC 9112, 6.3)
            else:
                answer.ended(ReadFailedError(ReadFailure.BROKEN, _words(reason)))
        elif read is not None:
            kind = ReadFailure.BROKEN if self.proven else ReadFailure.UNREACHABLE
            error = ReadFailedError(kind, _words(reason))
            self._owner.broken(self, read, error, untouched=self._received == 0)

    def abort(self) -> None:
        """End the connection at once."""
        if self.transport is not None:
            self.transport.abortConnection()

    # --- An answer's side (`answer.Flow`) -------------------------------------------------------

    def pause(self) -> None:
        """Read nothing more; nothing is due meanwhile, as the upstream is not who is slow."""
        self.due_s = _INF
        self._paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        self.due_s = self._owner.progress_until_s()
        self._paused = False
        self.transport.resumeProducing()

    def stop(self) -> None:
        """End the connection: nobody wants the rest of what it brings."""
        self.read = self._answer = None
        self._owner.lost(self)
        self.abort()

    def cut(self, error: ReadFailedError) -> None:
        """End the connection, and say why to whoever waits for something of it."""
        read, answer = self.read, self._answer
        self.stop()
        if answer is not None:
            answer.ended(error)
        elif read is not None:
            self._owner.broken(self, read, error, untouched=False)

    # --- llhttp's side --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin another head; or note an answer too many, which takes nothing from the one before."""
        if self._head_whole:
            self._excess = True
            return
        self._phrase = b""
        self._headers = []

    def on_status(self, phrase: bytes) -> None:
        """Take a part of the reason phrase."""
        if not self._head_whole:
            self._phrase += phrase

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; a trailer goes nowhere."""
        if not self._head_whole:
            self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Note the head; 1xx only announce the answer (RFC 9110, 15.2), and have no body.

        llhttp reads one all the same where it is framed: it would stand before the answer's own.
        """
        if self._head_whole or self._flaw is not None:
            return
        status = self._parser.get_status_code()
        framing = [(name, value) for name, value in self._headers if name.lower() in _FRAMING]
        if status >= 200:
            self._status = status
            self._version = self._parser.get_http_version()
            self._keeps_alive = self._parser.should_keep_alive()
            self._head_whole = True
            self._framed = bool(framing)
        elif status < 100:
            self._flaw = f"found status {status}; expected 100 to 999"
        elif any(value.strip(b"0") or name.lower() == _TRANSFER for name, value in framing):
            self._flaw = f"found a body in an answer of status {status}; expected none"

    def on_chunk_header(self) -> None:
        """Note a body where there must be none."""
        self._excess |= self._asked_head

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body, unless there must be none."""
        self._excess |= self._asked_head
        if self._head_whole and not (self._whole or self._asked_head):
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Note that the answer is whole."""
        if self._head_whole and not self._whole:
            self._whole = True
            self._keeps_alive = self._parser.should_keep_alive()

    # --- What follows from the notes ------------------------------------------------------------

    def _count(self, size: int) -> None:
        """Bound what is no body: chunks' extensions, and a trailer, which httptools joins field by field."""
        self._bodiless = 0 if self._pieces else self._bodiless + size
        if self._bodiless > HEAD_BYTES_MAX and self._flaw is None:
            self._flaw = f"no more of the body, and no end, within {HEAD_BYTES_MAX} bytes"

    def _first(self, read: Read) -> None:
        """Hand the head on if it is whole, with what came of the body."""
        if not self._head_whole:
            if self._flaw is not None:
                self.cut(ReadFailedError(ReadFailure.MALFORMED, self._flaw))
            elif self._received > HEAD_BYTES_MAX:
                words = f"no end of the answer's head within {HEAD_BYTES_MAX} bytes"
                self.cut(ReadFailedError(ReadFailure.LARGE, words))
            return
        try:
            head = answer_head(
                self._status, self._phrase, self._version, self._headers, asked_head=read.asks_head
            )
        except ReadFailedError as error:
            self.cut(error)
            return
        answer = self._answer = UpstreamAnswer(head, self)
        if not self._whole and self._flaw is None:
            self.pause()
        self._further(answer)
        self._owner.began(read, answer)

    def _further(self, answer: UpstreamAnswer) -> None:
        """Hand on what came of the body, and its end."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            if not answer.paused:
                self.due_s = self._owner.progress_until_s()
            answer.took(b"".join(pieces) if len(pieces) > 1 else pieces[0])
            if self._answer is not answer:
                return  # whoever took it wants no more
        if self._whole:
            self.read = self._answer = None
            self._sent = False
            if self._paused:
                self.resume()  # what TLS had read already came all the same
            self.due_s = _INF
            self._owner.released(self)
            answer.ended(None)
        elif self._flaw is not None:
            self.cut(ReadFailedError(ReadFailure.MALFORMED, self._flaw))

    @property
    def reusable(self) -> bool:
        """Whether, after a whole answer, another read can follow."""
        kept = self._whole and self._keeps_alive and not self._is_large
        return kept and not self._excess and not self.gone


def _words(reason: Failure) -> str:
    return words_of(reason.value) or reason.getErrorMessage()
