"""From bytes to requests, on llhttp: the one place that names httptools.

Decides what is refused before a handler sees it. Leaves to ``channel`` when there is more to
read, how long that may take, and the answers. No I/O and no clock: bytes in, calls out.

`Intake.stage` moves with llhttp's callbacks:

    BETWEEN -> HEAD -> BODY -> BETWEEN   a request was read
    BODY -> ENDED                        it was the connection's last one; the rest is dropped
    any -> REFUSED                       what came is refused; the rest is dropped

In its strict mode llhttp refuses what smuggles requests past proxies: Content-Length beside
Transfer-Encoding, a second Content-Length, folded fields, bare CR and LF, NUL, bad chunk sizes
(RFC 9112 sections 5 to 7 and 11.2). What it leaves open is refused in `on_headers_complete`: its
laxity with the blanks of a request line, its other protocols, what Host may be, and more.

Two readers frame the input: ``framing`` cuts it where a head or a body ends, and llhttp reads piece
by piece. Where the two do not end a head at the same byte, the request is refused.

A connection's requests mostly have the head of the one before, byte for byte or but for the value of
their Idempotency-Key. llhttp would find in it what it found then, so it is not asked again: such a
request, if all of it is there, is taken by `_take_known`.

Invariant: at most one slice of input is looked at past any bound.

This is the hot path: llhttp's callbacks cost about 0.1 us each, so there is one attribute
write in most of them, and whatever ordinary requests do not have is checked off that path.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any, Final, Never, Protocol

import httptools
from twisted.logger import Logger
from twisted.python.failure import Failure

from crowd.web import problems
from crowd.web.fields import sort_fields, sort_next, with_key
from crowd.web.framing import (
    EMPTY_LINE,
    END,
    LINE_EXPECTED,
    after_end,
    is_head,
    may_be_head,
    misplaced,
)
from crowd.web.limits import SLICE_BYTES
from crowd.web.target import from_absolute

if TYPE_CHECKING:
    from crowd.web.fields import Field, Fields
    from crowd.web.limits import WebLimits
    from crowd.web.reply import Reply

_FRAMING_FACTOR: Final = 8
"""A chunk of one byte takes six: a body in tiny chunks passes, endless extensions do not."""

KNOWN_BYTES_MAX: Final = 4096
"""A longer head is read anew each time: up to three of its size would be held for every connection."""

_PLAIN_VALUE: Final = re.compile(rb"[!-~]+\Z")
"""Values of a header field that are what they are wherever they stand: visible, and no blanks."""


class Stage(enum.Enum):
    """Where in a request the input stands."""

    BETWEEN = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    ENDED = enum.auto()
    REFUSED = enum.auto()


class Receiver(Protocol):
    """Whom an intake tells. Called from within `Intake.feed` and `Intake.refuse` only."""

    def head(
        self, body_bytes: int, method: bytes, target: bytes, fields: Fields, *, expects: bool
    ) -> Reply | None:
        """Take note of a head; its body has `body_bytes`, or as many at most if chunked.

        `expects`: the producer waits for 100 (Continue) before it sends the body. Returns the
        answer to a request whose body need not be read.
        """

    def request(
        self, method: bytes, target: bytes, headers: list[Field], fields: Fields,
        body: bytes, alive: bool,  # noqa: FBT001 - the hot path passes it by position
    ) -> None:  # fmt: skip
        """Take a complete request. `alive`: another one may follow."""

    def refused(self, reply: Reply) -> None:
        """Send `reply` after the answers that are still due; there will be no more calls."""


class _StopError(Exception):
    """Stops llhttp within its input; why is in the intake already."""


class _Nobody:
    """Whom an intake tells once it is closed."""

    def head(self, *_: object, **__: object) -> None:
        pass

    def request(self, *_: object) -> None:
        pass

    def refused(self, _: Reply) -> None:
        pass


_NOBODY: Final = _Nobody()
_NO_FIELDS: Final = sort_fields(())


class Intake:
    """One connection's requests, one after the other."""

    log = Logger()

    def __init__(self, limits: WebLimits, receiver: Receiver) -> None:
        self.stage = Stage.BETWEEN
        self.old_version = False
        """Whether the request that was read last came as HTTP/1.0."""
        self.is_full = False
        """Set by the receiver: nothing is taken behind the request that it is given, for now."""
        self._limits = limits
        self._receiver = receiver
        self._parser: Any = httptools.HttpRequestParser(self)
        self._always_measure = limits.head_bytes_max < SLICE_BYTES
        self._refusal: Reply | None = None
        self._method = b"POST"
        self._headers: list[Field] = []  # of the head, or the trailers, that are being read
        self._head: list[Field] = []
        self._sorted: list[Field] = []
        self._fields = sort_fields(self._sorted)
        self._body = b""  # of the request that is being read: its first piece
        self._grown: bytearray | None = None  # all of its pieces, if there are more
        self._raw = b""  # the head that is being read, as it came
        self._head_seen = b""  # the last one that was found to be a head
        self._known = b""  # that of the last request, if llhttp need not read it again
        self._around_key: tuple[bytes, bytes, int] | None = None  # see `_split`
        self._tail = b""  # the last three bytes of a chunked body, which may begin its end
        self._grown_bytes = 0  # what a chunked body had when it last grew
        self._still_from = 0  # what had come by then
        self.on_message_begin()
        self.stage = Stage.BETWEEN

    def feed(self, data: bytes) -> int:
        """Take at most `SLICE_BYTES` of input, and tell the receiver what they complete.

        Returns how many bytes were taken or dropped: all of them, unless the receiver `is_full`.
        Never raises: what is wrong with the bytes becomes one call of ``receiver.refused``.
        """
        start, size = 0, len(data)
        while start < size and not self.is_full:
            stage = self.stage
            if stage is Stage.BODY:
                piece = self._body_piece(data, start)
            elif stage is Stage.BETWEEN and not self._raw:
                # Mostly this is a whole head; `_raw` is then the piece, without a copy.
                end = data.find(END, start)
                piece = data[start : end + 4] if end >= 0 else data[start:]
                if self._known and (taken := self._take_known(piece, data, start + len(piece))):
                    start = taken
                    continue
                self._raw = piece
            elif stage is Stage.BETWEEN or stage is Stage.HEAD:
                piece = data[start : after_end(self._raw[-3:], data, start)]
                self._raw += piece
            else:
                return size
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                self._after_upgrade()
            except httptools.HttpParserError as error:
                self._stopped(error)
            start += len(piece)
            if self._raw or (self.stage is Stage.BODY and self._fields.transfer is not None):
                self._count(len(piece))
        return start

    def _take_known(self, head: bytes, data: bytes, start: int) -> int:
        """Take a request whose head says what the last one's said, with its body from `start` on.

        Returns where in `data` it ends; 0 if llhttp has to read it, or to wait for the rest of it.
        """
        length = self._fields.length or 0
        end = start + length
        if end > len(data):
            return 0
        try:
            if head != self._known and not self._knows(head):
                return 0
            method, target, fields = self._method, self._target, self._fields
            reply = self._receiver.head(length, method, target, fields, expects=False)
            if reply is not None:
                self.refuse(reply)
            else:
                body = data[start:end]
                self._receiver.request(method, target, self._head, fields, body, True)
        except Exception as error:  # noqa: BLE001 - loses this connection, as within llhttp's calls
            self._failed(error)
        return end

    def _knows(self, head: bytes) -> bool:
        """Tell whether `head` differs from the known one in its key alone, which is then noted."""
        fields = self._fields
        if fields.key_place < 0 or self._always_measure or len(head) > KNOWN_BYTES_MAX:
            return False
        around = self._around_key
        if around is None:
            around = self._around_key = self._split()
        before, behind, place = around
        if not (head.startswith(before) and head.endswith(behind)):
            return False
        value = head[len(before) : len(head) - len(behind)]
        if _PLAIN_VALUE.match(value) is None:
            return False
        field = (self._head[place][0], value)
        self._sorted = self._head = headers = self._head.copy()
        headers[place] = field
        self._fields = with_key(fields, field)
        self._known = head
        return True

    def _split(self) -> tuple[bytes, bytes, int]:
        """Return what the known head has before and behind its key, and which field that is.

        The name stands at the beginning of one line alone: a value has no line ends, and another
        field of that name would be another key.
        """
        fields, known = self._fields, self._known
        field = name, value = fields.kept[fields.key_place]
        start = known.find(b"\r\n%s:" % name) + len(name) + 3
        start += len(known[start:]) - len(known[start:].lstrip(b" \t"))
        assert known.startswith(value, start), "a value stands behind its name"
        return known[:start], known[start + len(value) :], self._head.index(field)

    def _body_piece(self, data: bytes, start: int) -> bytes:
        """Return what of `data` belongs to the body that is being read, or may end it."""
        fields = self._fields
        if fields.transfer is not None:
            piece = data[start : after_end(self._tail, data, start)]
            self._tail = (self._tail + piece)[-3:]
            return piece
        piece = data[start : start + (fields.length or 0) - self._body_bytes]
        assert piece, "llhttp ends a body that has all its bytes"
        return piece

    def refuse(self, reply: Reply) -> None:
        """Take nothing more, and have `reply` sent. Nothing happens after the first time."""
        if self.stage is not Stage.REFUSED:
            self.stage = Stage.REFUSED
            self._body, self._grown = b"", None  # nobody counts it any more
            self._receiver.refused(reply)

    @property
    def asked(self) -> tuple[bytes, bytes, list[Field]]:
        """What is known of the last request, for its refusal: method, target and header fields.

        Before the end of its head the method is HEAD, whose answer has no body, or else POST: that
        is what browsers send.
        """
        if not self._raw:
            return self._method, self._target, self._head
        bodiless = self._raw.removeprefix(EMPTY_LINE).startswith(b"HEAD ")
        return b"HEAD" if bodiless else b"POST", self._target, self._headers

    def end(self) -> None:
        """Take nothing more."""
        if self.stage is not Stage.REFUSED:
            self.stage = Stage.ENDED

    def close(self) -> None:
        """Let go of all that came, of the parser and of the receiver; there is nothing more to do.

        Those two hold this object, too. Such cycles are searched for too seldom to wait for it.
        """
        self.stage = Stage.REFUSED
        self._parser = None
        self._receiver = _NOBODY
        self._refusal = self._around_key = self._grown = None
        self._body = self._raw = self._head_seen = self._known = b""
        self._head, self._headers, self._sorted = [], [], []
        self._fields = _NO_FIELDS

    # --- llhttp's calls ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a request."""
        if self.stage is Stage.ENDED:
            raise _StopError
        self.stage = Stage.HEAD
        self._target = b""
        self._headers = []
        self._head = []
        self._body_bytes = 0
        self._seen_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Add a part of the request-target."""
        self._target += url
        if len(self._target) > self._limits.target_bytes_max:
            self._stop(problems.TARGET_TOO_LONG, f"over {self._limits.target_bytes_max} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field, or a trailer to a list that goes nowhere."""
        self._headers.append((name, value.rstrip()))

    def on_headers_complete(self) -> None:
        """Check what llhttp does not, and announce the body."""
        parser = self._parser
        headers = self._head = self._headers
        self._method = method = parser.get_method()
        self._headers = []
        self.stage = Stage.BODY
        raw, self._raw = self._raw, b""
        if raw != self._head_seen:
            if not is_head(raw):
                self._stop_line(raw)
            self._head_seen = raw
        if self._seen_bytes or self._always_measure or len(headers) > self._limits.headers_max:
            self._measure(headers)
        self._seen_bytes = 0
        if self._target[:1] != b"/":
            old = parser.get_http_version() == "1.0"
            self._target, self._head = from_absolute(self._target, headers, adds_host=old)
            headers = self._head
        if headers != self._sorted:  # a connection's requests mostly have the same fields
            self._fields = sort_next(self._fields, self._sorted, headers)
            self._sorted = headers
        fields = self._fields
        self._alive = alive = parser.should_keep_alive()
        self._upgrading = False
        expects = self.old_version = False
        self._known = raw if len(raw) <= KNOWN_BYTES_MAX else b""
        self._around_key = None
        if not alive or fields.hosts != 1 or fields.unusual or method == b"CONNECT":
            expects = self._check_unusual(method, fields)
            if expects or fields.transfer is not None:
                self._known = b""
        length = fields.length or 0
        if fields.transfer is not None:
            length = self._limits.body_bytes_max
        elif length > self._limits.body_bytes_max:
            self._stop(problems.BODY_TOO_LARGE, f"over {self._limits.body_bytes_max} bytes")
        reply = self._receiver.head(length, method, self._target, fields, expects=expects)
        if reply is not None:
            self._refusal = reply
            raise _StopError

    def on_body(self, data: bytes) -> None:
        """Add a part of the body; most bodies come in one.

        Not one object for each part: of two bytes, which a chunk may have, it would take 40 times
        what is counted of it.
        """
        if self._grown is not None:
            self._grown += data
        elif self._body:
            self._grown = bytearray(self._body)
            self._grown += data
            self._body = b""
        else:
            self._body = data
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes_max:
            self._stop(problems.BODY_TOO_LARGE, f"over {self._limits.body_bytes_max} bytes")

    def on_message_complete(self) -> None:
        """Hand the request on."""
        if self._upgrading:
            return  # llhttp skips the body of an upgrade; `_after_upgrade` reads it after all
        if self._headers:
            self._check_trailers(self._headers)
        self.stage = Stage.BETWEEN if self._alive else Stage.ENDED
        body, self._body = self._body, b""  # the receiver's alone: not counted once it is answered
        if self._grown is not None:
            body, self._grown = bytes(self._grown), None
        self._receiver.request(
            self._method, self._target, self._head, self._fields, body, self._alive
        )

    # --- Off the hot path ----------------------------------------------------------------------

    def _stop_line(self, raw: bytes) -> Never:
        version = self._parser.get_http_version()
        if version == "0.9" and may_be_head(raw):  # which has none in its line
            self._stop(problems.VERSION, f"found {version}")
        self._stop(problems.BAD_REQUEST, LINE_EXPECTED)

    def _check_unusual(self, method: bytes, fields: Fields) -> bool:
        """Refuse what llhttp lets pass; return whether 100 (Continue) is expected."""
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._stop(problems.VERSION, f"found {version}")
        self.old_version = version == "1.0"
        if fields.flaw:
            self._stop(problems.BAD_REQUEST, fields.flaw)
        if fields.hosts > 1 or (version == "1.1" and not fields.hosts):
            self._stop(problems.BAD_REQUEST, f"{fields.hosts} Host fields; expected 1")
        if fields.transfer is not None:
            self._tail, self._grown_bytes, self._still_from = b"", 0, 0
            if version == "1.0":  # RFC 9112 section 6.1: its framing is faulty
                self._stop(problems.BAD_REQUEST, "Transfer-Encoding in an HTTP/1.0 request")
            if fields.transfer.lower() != b"chunked":
                self._stop(problems.CODING)
        if method == b"CONNECT":
            self._alive = False
        if method == b"CONNECT" or (fields.upgrade and self._parser.should_upgrade()):
            # RFC 9110 section 7.8: an upgrade may be ignored. Clients that would like HTTP/2
            # (curl, Java's) offer it with their first request, its body included. What CONNECT
            # frames is read likewise, so that its framing is held to the same rules.
            self._upgrading = bool(fields.length) or fields.transfer is not None
        if fields.expect is None or version == "1.0":
            return False
        if fields.expect.lower() != b"100-continue":
            self._stop(problems.EXPECTATION)
        return bool(fields.length) or fields.transfer is not None

    def _measure(self, headers: list[Field]) -> None:
        """Refuse a head over its bounds, measured as it stood on the wire."""
        head_bytes = sum(len(name) + len(value) + 4 for name, value in headers)
        if head_bytes + len(self._target) > self._limits.head_bytes_max:
            self._stop(problems.HEAD_TOO_LARGE, f"over {self._limits.head_bytes_max} bytes")
        if len(headers) > self._limits.headers_max:
            self._stop(problems.HEAD_TOO_LARGE, f"over {self._limits.headers_max} fields")

    def _check_trailers(self, trailers: list[Field]) -> None:
        if misplaced(trailers):
            self._stop(problems.BAD_REQUEST, "a trailer that belongs before the content")
        if len(trailers) > self._limits.headers_max:
            self._stop(problems.HEAD_TOO_LARGE, "too many trailers")

    def _count(self, fed_bytes: int) -> None:
        """Bound what a request that is not complete has taken of the input."""
        self._seen_bytes += fed_bytes
        seen_max = self._limits.head_bytes_max + SLICE_BYTES
        if self._raw:
            if self._seen_bytes > seen_max:
                self.refuse(_too_large(self._limits.head_bytes_max))
            elif not may_be_head(self._raw) or self._raw.endswith(END):
                self.refuse(problems.problem_reply(problems.BAD_REQUEST, LINE_EXPECTED))
        elif self._fields.transfer is not None:
            self._count_chunked(seen_max)

    def _count_chunked(self, seen_max: int) -> None:
        """Bound the framing of a chunked body: all of it, and what comes behind the last chunk."""
        body_bytes = self._body_bytes
        if self._grown_bytes != body_bytes:
            self._grown_bytes = body_bytes
            self._still_from = self._seen_bytes
        still_bytes = self._seen_bytes - self._still_from
        if len(self._headers) > self._limits.headers_max:
            self.refuse(problems.problem_reply(problems.HEAD_TOO_LARGE, "too many trailers"))
        elif self._seen_bytes > seen_max + _FRAMING_FACTOR * body_bytes or still_bytes > seen_max:
            self.refuse(problems.problem_reply(problems.BAD_REQUEST, "more framing than body"))

    def _stop(self, problem: problems.Problem, detail: str = "") -> Never:
        """Refuse from within one of llhttp's calls."""
        self._refusal = problems.problem_reply(problem, detail)
        raise _StopError

    def _stopped(self, error: httptools.HttpParserError) -> None:
        if self.stage is Stage.ENDED:
            return
        if self._raw and not may_be_head(self._raw):  # the first flaw, however the rest was cut
            self.refuse(problems.problem_reply(problems.BAD_REQUEST, LINE_EXPECTED))
        elif self._refusal is not None:
            self.refuse(self._refusal)
        elif isinstance(error, httptools.HttpParserCallbackError):
            self._failed(error)
        elif str(error) == "Invalid HTTP version":
            self.refuse(problems.problem_reply(problems.VERSION))
        else:
            self.refuse(problems.problem_reply(problems.BAD_REQUEST, str(error)))

    def _failed(self, error: Exception) -> None:
        """Say that there is a defect here, for which no producer can help; lose this connection."""
        failure = Failure(error)  # type: ignore[no-untyped-call]  # Twisted's
        self.log.failure("reading a request failed", failure=failure)
        self.refuse(problems.problem_reply(problems.INTERNAL))

    def _after_upgrade(self) -> None:
        """Go on behind the head of a request to upgrade, which is answered as if it were none.

        llhttp expects another protocol there. A new parser is told of a head with the same
        framing, of which nothing reaches the receiver, and then reads what follows.
        """
        if not self._upgrading:
            self._parser = httptools.HttpRequestParser(self)
            return
        self._upgrading = False
        self._parser = httptools.HttpRequestParser(_AfterHead(self))
        if self._fields.transfer is not None:
            framing = b"Transfer-Encoding: chunked"
        else:
            framing = b"Content-Length: %d" % (self._fields.length or 0)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n\r\n" % framing)


def _too_large(bytes_max: int) -> Reply:
    return problems.problem_reply(problems.HEAD_TOO_LARGE, f"over {bytes_max} bytes")


class _AfterHead:
    """llhttp's calls for a request whose head is known already, and for all that follow it."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._known = True
        self.on_body = intake.on_body
        self.on_message_complete = intake.on_message_complete

    def on_message_begin(self) -> None:
        if not self._known:
            self._intake.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._known:
            self._intake.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._known:
            self._intake.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._known:
            self._intake.on_headers_complete()
        self._known = False
