"""The links of one node to all its peers.

Decides when a peer is dialled, which connection to it counts, whose hello is refused, and how
much may wait for a slow peer. Leaves one connection's course to ``link``, calling again to
``dialer``, proof of identity to a `Security` (``tls``), and who dials whom and all meaning to
the engine.

There is one connection to each peer. Both may be told to dial, as neither may know what the
other one knows: so nobody dials while a link is open, whoever made it. A newer connection of
the same peer replaces the older one, which that peer has given up already.

Who the peers are may change at any time (`follow`): members come and go in the log. A node
that is no peer yet may call too, as its members may know more than this node: its certificate
proves that it is of this cluster, and the hellos then tell which of the two is behind.

Order: one link carries messages in the order of their `send`. Between two links of one
peer the listener always hears `peer_disconnected` first. It hears nothing from inside
`send`, `disconnect` or `follow`, so an engine is never entered twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from crowd.errors import FatalError, PeerRejectedError
from crowd.raft.dialer import Dialer, Nowhere
from crowd.raft.frames import encode_frame
from crowd.raft.link import TICK_S, Link, LinkState
from crowd.raft.wire import (
    AppendEntries,
    AwaitEnded,
    Fetched,
    Hello,
    LetterFetched,
    Offer,
    PeerMessage,
    SnapshotPiece,
    encode_peer_message,
    objection,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from twisted.internet.interfaces import IAddress

    from crowd.clock import Clock
    from crowd.raft.dialer import ClientEndpoint

BULK_BYTES_MAX: Final = 4 * 1024 * 1024
"""Entries, offers, letters and pieces of snapshots wait with the sender above this: half a second at
10 MB/s."""

QUEUED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Nothing waits above this: one frame over BULK_BYTES_MAX, and 8 MiB of votes and heartbeats."""

UNOPENED_MAX: Final = 64
"""Connections accepted that did not come to a good hello; more are closed at once. Two for each
of the 31 peers that a cluster can have."""

SERVED_S: Final = 1.0
"""A link that was open for less did not serve: calls of a peer that refuses us grow rarer."""

REPEAT_S: Final = 60.0
"""The same complaint about the same peer is a warning once a minute, else a debug line."""

COMPLAINTS_MAX: Final = 64
"""Whose complaints are remembered, the newest: every peer's, and as many nodes' that are none."""


class LinkListener(Protocol):
    """What the engine hears of its peers. Called in the reactor; must not raise."""

    def peer_connected(self, name: str, hello: Hello) -> None:
        """`name` proved itself and said `hello`; messages may pass in both directions."""

    def peer_disconnected(self, name: str, why: str) -> None:
        """Note that the link to `name` is gone. What was sent last may or may not have arrived."""

    def peer_message(self, name: str, message: PeerMessage) -> None:
        """`name` sent `message`."""


class ServerEndpoint(Protocol):
    """What is used of Twisted's IStreamServerEndpoint."""

    def listen(self, protocolFactory: Any, /) -> Deferred[Any]:  # noqa: N803
        """Listen, and return the port. Answers before it returns, as Twisted's own do."""


class Security(Protocol):
    """How peers are proved to each other; ``tls.MutualTLS`` is the real one."""

    def accepting(self, factory: Any) -> Any:
        """Return `factory` wrapped for the accepting side."""

    def dialling(self, endpoint: ClientEndpoint) -> ClientEndpoint:
        """Return `endpoint` wrapped for the connecting side."""

    def identify(self, transport: Any, candidates: Iterable[str]) -> str:
        """Return which candidate is at the other end; raise PeerRejectedError if none is.

        Asked when the handshake is complete, which the wrapped transport tells a protocol
        by IHandshakeListener, before any data.
        """

    def identify_member(self, transport: Any) -> str:
        """Return which node of this cluster is at the other end, whether it is known or not.

        Raises PeerRejectedError if it is none, or proves to be more than one. Asked when
        `identify` is.
        """


class PeerLinks(Service):
    """Connects this node to its peers while it runs.

    `hello` returns this node's hello as of now. `dial` returns the way to an address,
    ``host:port``, without TLS; it raises ValueError for what is no address. `accept` is where
    peers are listened for. `chance` returns a random number in [0, 1). There are no peers
    until `follow` names them.
    """

    log = Logger()

    def __init__(
        self,
        clock: Clock,
        *,
        name: str,
        hello: Callable[[], Hello],
        dial: Callable[[str], ClientEndpoint],
        accept: ServerEndpoint,
        security: Security,
        listener: LinkListener,
        chance: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._name = name
        self._dial = dial
        self._chance = chance
        self._security = security
        self._listener = listener
        self._accept = accept
        self._port: Any = None
        self.hello = hello
        self._peers: dict[str, str] = {}  # addresses by name
        self._dialers: dict[str, Dialer] = {}  # of the peers that this node is to dial
        self._links: dict[Link, None] = {}  # all whose connection is not lost, oldest first
        self._open: dict[str, Link] = {}  # the one that counts, by the peer's name
        self._opened_at_s: dict[Link, float] = {}
        self._said: dict[str, tuple[str, float]] = {}
        self._ticker = LoopingCall(self._tick)
        self._ticker.clock = clock  # type: ignore[assignment]  # of the interface's type
        self._emptied: Deferred[None] | None = None
        self._encoded: tuple[PeerMessage | None, bytes] = (None, b"")  # the last one sent

    def _dialer(self, peer: str, address: str) -> Dialer:
        try:
            endpoint = self._dial(address)
        except ValueError as error:
            endpoint = Nowhere(ValueError(f"{address!r} is no address: {error}"))
        return Dialer(
            self._clock,
            self._security.dialling(endpoint),
            _PeerConnections(lambda: Link(self, called=peer)),
            failed=lambda words: self._complain(peer, f"cannot connect: {words}"),
            chance=self._chance,
        )

    # --- Service ------------------------------------------------------------------------

    def startService(self) -> None:  # noqa: N802 - Twisted's
        """Listen and dial. Raises FatalError if the address cannot be listened on."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        self._emptied = None
        factory = _PeerConnections(lambda: Link(self))
        results: list[Any] = []
        self._accept.listen(self._security.accepting(factory)).addBoth(results.append)
        # Twisted's endpoints listen before they return; the failure is then known here.
        port = results[0] if results else "it answers later"
        if not hasattr(port, "stopListening"):
            words = port.getErrorMessage() if hasattr(port, "getErrorMessage") else port
            raise FatalError(f"cannot listen for peers: {words}")
        self._port = port
        self._ticker.start(TICK_S, now=False)
        for dialer in self._dialers.values():
            dialer.start()

    def stopService(self) -> Deferred[None]:  # noqa: N802 - Twisted's
        """Close everything; the result comes when every connection is gone, in 1.5 s at most.

        What was sent and taken by the transport still goes out.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        for dialer in self._dialers.values():
            dialer.stop()
        waits: list[Deferred[Any]] = []
        if self._port is not None:
            waits.append(maybeDeferred(self._port.stopListening))
            self._port = None
        self._emptied = Deferred()
        waits.append(self._emptied)
        for link in list(self._links):
            link.close("this node stops")
        self._stop_if_empty()
        return gatherResults(waits, consumeErrors=True).addCallback(lambda _: None)

    def _stop_if_empty(self) -> None:
        # The ticker runs until then: it aborts connections whose peers do not close them.
        if self._emptied is not None and not self._links:
            if self._ticker.running:
                self._ticker.stop()
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    # --- What the engine asks -----------------------------------------------------------

    @property
    def address(self) -> Any:
        """Where this node listens for its peers, while it does."""
        return None if self._port is None else self._port.getHost()

    @property
    def connected(self) -> dict[str, Hello]:
        """The peers that messages can be sent to now, by name, and their hellos."""
        return {
            name: link.greeting
            for name, link in self._open.items()
            if link.state is LinkState.OPEN and link.greeting is not None
        }

    def follow(self, peers: Mapping[str, str], dialled: Collection[str]) -> None:
        """Have links with `peers` from now on: their ``host:port`` by name.

        Those of them that are in `dialled` are dialled, at once if this service runs and no
        link with them is open; a dialled peer that moved is dialled anew. For the others this
        node waits; a link that it made itself while it dialled them stays.

        Links with those that were peers and are none any more end, after what the transport
        holds was sent; `peer_disconnected` follows in a later turn. A link with a node that
        was no peer, opened because its hello was good, stays. This node's own name means
        nothing in either. To be called in the reactor, at any time, also by the listener while
        it hears something.
        """
        before = self._peers
        self._peers = {name: peers[name] for name in sorted(peers) if name != self._name}
        calls = {name: address for name, address in self._peers.items() if name in dialled}
        ends = {name: "is no member any more" for name in before if name not in self._peers}
        for name in self._dialers:
            if name in calls and calls[name] != before[name]:
                ends[name] = f"its address is {calls[name]} now"
        for name in ends:
            self._said.pop(name, None)
        for name in [name for name in self._dialers if name in ends or name not in calls]:
            self._dialers.pop(name).stop()
        for link in list(self._links):
            name = link.name or link.called or ""
            if name in ends:
                link.close(ends[name])
        for name, address in calls.items():
            if name not in self._dialers:
                dialer = self._dialers[name] = self._dialer(name, address)
                if self.running:
                    dialer.start(linked=self._linked(name))

    def _linked(self, peer: str) -> bool:
        """Return whether a link with `peer` is open, or one that this node made is to be."""
        return any(
            link.called == peer or self._open.get(peer) is link
            for link in self._links
            if link.state is not LinkState.CLOSED
        )

    def queued_bytes(self, name: str) -> int:
        """Return how much waits here for `name` to read; 0 if it is not connected."""
        link = self._open.get(name)
        return 0 if link is None else link.queued_bytes

    def writable(self, name: str) -> bool:
        """Return whether entries, offers and pieces of snapshots for `name` would be taken now."""
        link = self._open.get(name)
        return (
            link is not None and link.state is LinkState.OPEN and link.queued_bytes < BULK_BYTES_MAX
        )

    def send(self, name: str, message: PeerMessage) -> bool:
        """Send `message` to `name`, after all that was sent before; return whether it was taken.

        It is not when `name` is not connected, nor, for entries, offers and pieces of
        snapshots, when BULK_BYTES_MAX or more wait already. Votes and heartbeats always pass, until
        QUEUED_BYTES_MAX: then the link is ended. True promises nothing about arrival.
        Raises ValueError if the message is larger than a frame may be.
        """
        link = self._open.get(name)
        if link is None or link.state is not LinkState.OPEN:
            return False
        if link.queued_bytes >= BULK_BYTES_MAX and _is_bulk(message):
            return False
        if message is not self._encoded[0]:  # the same entries go to every follower
            self._encoded = message, encode_frame(encode_peer_message(message))
        link.write(self._encoded[1])
        if link.queued_bytes > QUEUED_BYTES_MAX:
            link.abort(f"{link.queued_bytes} bytes wait for it to read")
            return False
        return True

    def disconnect(self, name: str, why: str) -> None:
        """End the link to `name`; a dialled peer is called again. `peer_disconnected` follows.

        One that is being made ends, too: this node said its hello there, as of before.
        """
        for link in list(self._links):
            if link.name == name and link.state is not LinkState.CLOSED:
                link.abort(why)

    # --- What links tell (link.LinkKeeper) -----------------------------------------------

    def identify(self, link: Link) -> str:
        """Return whose end the other is: the peer that was called, or a node of this cluster."""
        if link.called is not None:
            return self._security.identify(link.transport, (link.called,))
        name = self._security.identify_member(link.transport)
        if name == self._name:
            raise PeerRejectedError(f"found this node's own name {name}; expected another one's")
        return name

    def link_made(self, link: Link) -> None:
        """Take a new connection; close it if too many came to nothing yet, or the node stops."""
        self._links[link] = None
        if not self.running:
            link.abort("this node stops")
        elif link.called is None:
            unopened = sum(
                one.called is None and one not in self._opened_at_s for one in self._links
            )
            if unopened > UNOPENED_MAX:
                link.abort(f"{unopened} connections without a good hello yet")

    def link_greeted(self, link: Link, hello: Hello) -> None:
        """Open the link, or refuse its peer; an older link of that peer is replaced."""
        name = link.name
        assert name is not None, "greeted before it was proved"
        refusal = objection(self.hello(), hello, name)
        if refusal is not None:
            link.close(refusal)
            return
        older = self._open.get(name)
        if older is not None:
            older.abort("replaced by a newer connection")
            self._forget(older)
            if link.state is LinkState.CLOSED:
                return  # by what the listener did when it heard of the older one
        self._open[name] = link
        self._opened_at_s[link] = self._clock.seconds()
        self._said.pop(name, None)
        link.open()
        dialer = self._dialers.get(name)
        if dialer is not None:
            dialer.rest()  # if the peer made the link
        self.log.info("connected to peer {peer}", peer=name, dialled=link.called is not None)
        self._listener.peer_connected(name, hello)

    def link_message(self, link: Link, message: PeerMessage) -> None:
        """Hand the message on. Plain calls: there are thousands a second."""
        assert link.name is not None, "a message before a name"
        self._listener.peer_message(link.name, message)

    def link_closed(self, link: Link) -> None:
        """Forget the link in a turn of its own: this may be inside `send`."""
        self._clock.callLater(0, self._forget, link)

    def link_lost(self, link: Link) -> None:
        """Forget the link, and call its peer if that is this node's to do and no other is there."""
        self._forget(link)
        opened_at_s = self._opened_at_s.pop(link, None)
        served = opened_at_s is not None and self._clock.seconds() - opened_at_s >= SERVED_S
        del self._links[link]
        if opened_at_s is None:
            who = link.name or link.called or "a stranger"
            self._complain(who, link.why, _at(link.address))
        # The dialer of now: the one that made the link may have been stopped, or none made it.
        peer = link.called or link.name or ""
        dialer = self._dialers.get(peer)
        if dialer is not None and not self._linked(peer):
            dialer.ended(served=served)
        self._stop_if_empty()

    def _forget(self, link: Link) -> None:
        """Tell the listener that an open link is gone; once, and only if it is the one."""
        name = link.name
        if name is not None and self._open.get(name) is link:
            del self._open[name]
            self.log.info("lost peer {peer}: {why}", peer=name, why=link.why)
            self._listener.peer_disconnected(name, link.why)

    def _complain(self, who: str, words: str, at: str = "") -> None:
        """Log why there is no link with `who`; one word of it repeated is not news."""
        now_s = self._clock.seconds()
        said, at_s = self._said.get(who, ("", 0.0))
        news = said != words or now_s - at_s >= REPEAT_S
        if news:
            self._said.pop(who, None)
            self._said[who] = (words, now_s)
            if len(self._said) > COMPLAINTS_MAX:
                del self._said[next(iter(self._said))]
        log = self.log.warn if news else self.log.debug
        log("no link with {peer}{at}: {why}", peer=who, at=at, why=words)

    def _tick(self) -> None:
        for link in list(self._links):
            link.tick()


class _PeerConnections(Factory):
    """Makes links."""

    noisy = False

    def __init__(self, make: Callable[[], Link]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> Link:  # noqa: N802 - Twisted's
        link = self._make()
        link.address = addr
        return link


def _at(address: Any) -> str:
    """Return where a connection came from or went to, for a log line."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return "" if host is None else f" at {host}:{port}"


def _is_bulk(message: PeerMessage) -> bool:
    if isinstance(message, AppendEntries):
        return bool(message.entries)
    return isinstance(message, Offer | SnapshotPiece | Fetched | LetterFetched | AwaitEnded)
