r"""One connection to one peer, from the handshake to its end.

Decides the order: the peer's identity first, then its hello, then messages; and what is
held back while the peer reads slowly. Leaves to ``links`` whom to connect to, which
connection counts, and the time: a link is told when half a second has passed (`tick`) and
counts such ticks. A process that was stopped and woken gets one tick and not six, so it
reads what has come meanwhile before it calls anyone dead.

    SECURING --handshake, identity--> GREETING --hello--> OPEN
        \___________________________________\______________\__ anything else --> CLOSED
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from zope.interface import implementer

from crowd.errors import MalformedFrameError, PeerRejectedError
from crowd.raft.frames import FRAME_BYTES_MAX, KEEP_ALIVE, FrameDecoder, encode_frame
from crowd.raft.wire import Hello, PeerMessage, decode_hello, decode_peer_message, encode_hello

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress
    from twisted.python.failure import Failure

TICK_S: Final = 0.5

HELLO_TICKS_MAX: Final = 10
"""5 s from the connection to the hello: three round trips, on any network worth the name."""

SILENT_TICKS_MAX: Final = 6
"""3 s without a byte, while a peer sends at least one a second: the link is dead."""

QUIET_TICKS_MAX: Final = 2
"""After 1 s in which nothing was sent, a keep-alive is: two may be late before the 3 s."""

CLOSING_TICKS_MAX: Final = 2
"""1 s for the peer to take what was sent and to close; then the connection is aborted."""

HELLO_BYTES_MAX: Final = 64 * 1024
"""A hello's bounded fields need 20 KiB at most."""


class LinkState(Enum):
    """What a link waits for."""

    SECURING = auto()
    GREETING = auto()
    OPEN = auto()
    CLOSED = auto()


class LinkKeeper(Protocol):
    """Whom a link asks and tells. Every call is made in the reactor."""

    def identify(self, link: Link) -> str:
        """Return the proved name of the peer at the other end; raise PeerRejectedError."""

    def hello(self) -> Hello:
        """Return this node's hello, as of now."""

    def link_made(self, link: Link) -> None:
        """Note that a connection was made; nothing is known of the other end. May call `link.abort()`."""

    def link_greeted(self, link: Link, hello: Hello) -> None:
        """Judge the peer's hello: call `link.open()`, or `link.close()` with the objection."""

    def link_message(self, link: Link, message: PeerMessage) -> None:
        """Take the `message` that an open link's peer sent."""

    def link_closed(self, link: Link) -> None:
        """Note that the link closes for `link.why`: it neither sends nor receives any more."""

    def link_lost(self, link: Link) -> None:
        """Note that the connection is gone for `link.why`. Comes once, after link_closed if that came."""


@implementer(IHandshakeListener, IPushProducer)
class Link(TwistedProtocol):
    """A connection to a peer: the one `called`, or whoever called this node."""

    def __init__(self, keeper: LinkKeeper, *, called: str | None = None) -> None:
        self.called = called
        """The peer that this node called; None on the accepting side."""
        self.address: IAddress | None = None
        """Where the other end is, for a log line."""
        self.name: str | None = None
        """The peer's name, once its certificate proved it."""
        self.greeting: Hello | None = None
        """The peer's hello, once it was said."""
        self.why = ""
        """Why the link closed, for a log line."""
        self.state = LinkState.SECURING
        self.queued_bytes = 0
        """What waits here for the transport to take more; that holds 128 KiB itself at most."""
        self._keeper = keeper
        self._decoder = FrameDecoder(FRAME_BYTES_MAX, first_bytes_max=HELLO_BYTES_MAX)
        self._queue: deque[bytes] = deque()
        self._paused = False
        self._waiting_ticks = 0  # since the connection, or since closing began
        self._silent_ticks = 0  # since a byte came
        self._quiet_ticks = 0  # since a frame was sent

    @property
    def _wire(self) -> Any:
        # Twisted's ITransport does not name what its TCP and TLS transports have in common.
        return self.transport

    # --- From the transport -------------------------------------------------------------

    def connectionMade(self) -> None:  # noqa: D102, N802 - Twisted's
        # An answer of 30 bytes must not wait for the acknowledgement of the one before.
        self._wire.setTcpNoDelay(True)
        self._keeper.link_made(self)

    def handshakeCompleted(self) -> None:  # noqa: N802 - Twisted's
        """Check who is there and greet him. Called before any data of his is handed on."""
        if self.state is not LinkState.SECURING:
            return
        try:
            self.name = self._keeper.identify(self)
        except PeerRejectedError as error:
            self.abort(str(error))
            return
        self.state = LinkState.GREETING
        self._wire.registerProducer(self, True)
        self.write(encode_frame(encode_hello(self._keeper.hello())))

    def dataReceived(self, data: bytes) -> None:  # noqa: D102, N802 - Twisted's
        self._silent_ticks = 0
        if self.state not in (LinkState.GREETING, LinkState.OPEN):
            return
        try:
            for frame in self._decoder.feed(data):
                self._frame_received(frame)
        except (MalformedFrameError, PeerRejectedError) as error:
            self.close(str(error))

    def _frame_received(self, frame: bytes) -> None:
        # Asked anew for each frame: the answer to one may have closed the link.
        if self.state is LinkState.OPEN:
            if frame:  # else a keep-alive
                self._keeper.link_message(self, decode_peer_message(frame))
        elif self.state is LinkState.GREETING:
            self.greeting = decode_hello(frame)
            self._keeper.link_greeted(self, self.greeting)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: D102, N802 - Twisted's
        self._end(reason.getErrorMessage())
        self._keeper.link_lost(self)

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's
        """Hold frames back: the transport's own buffer is full (64 KiB)."""
        self._paused = True

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's
        """Hand on what was held back, until the transport is full again."""
        self._paused = False
        while self._queue and not self._paused:
            frame = self._queue.popleft()
            self.queued_bytes -= len(frame)
            self._wire.write(frame)

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's
        """Nothing: the connection is being lost, and connectionLost follows."""

    # --- From the keeper ----------------------------------------------------------------

    def open(self) -> None:
        """Messages may pass now. The peer's hello was found good."""
        assert self.state is LinkState.GREETING, self.state
        self.state = LinkState.OPEN
        self._silent_ticks = 0

    def write(self, frame: bytes) -> None:
        """Send `frame` after all that were written before. A closed link drops it."""
        if self.state is LinkState.CLOSED:
            return
        self._quiet_ticks = 0
        if self._paused:
            self._queue.append(frame)
            self.queued_bytes += len(frame)
        else:
            self._wire.write(frame)

    def close(self, why: str) -> None:
        """End the link after what the transport holds was sent: its hello tells the peer why."""
        if self._end(why):
            self._wire.unregisterProducer()  # TLS would wait for a producer to finish
            self._wire.loseConnection()

    def abort(self, why: str) -> None:
        """End the link at once."""
        self._end(why)
        self._wire.abortConnection()

    def tick(self) -> None:
        """Half a second has passed. May close the link, never opens one."""
        self._waiting_ticks += 1
        self._silent_ticks += 1
        self._quiet_ticks += 1
        if self.state is LinkState.OPEN:
            if self._silent_ticks > SILENT_TICKS_MAX:
                self.abort(f"nothing heard for {SILENT_TICKS_MAX * TICK_S:g} s")
            elif self._quiet_ticks >= QUIET_TICKS_MAX and not self._queue:
                self.write(KEEP_ALIVE)
        elif self.state is LinkState.CLOSED:
            if self._waiting_ticks > CLOSING_TICKS_MAX:
                self._wire.abortConnection()
        elif self._waiting_ticks > HELLO_TICKS_MAX:
            waited_for = "handshake" if self.state is LinkState.SECURING else "hello"
            self.abort(f"no {waited_for} within {HELLO_TICKS_MAX * TICK_S:g} s")

    def _end(self, why: str) -> bool:
        """Note the first reason, and tell the keeper once; return whether this was it."""
        if self.state is LinkState.CLOSED:
            return False
        self.state = LinkState.CLOSED
        self.why = why
        self._waiting_ticks = 0
        self._queue.clear()
        self.queued_bytes = 0
        self._keeper.link_closed(self)
        return True
