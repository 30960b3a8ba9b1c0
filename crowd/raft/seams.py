"""What an engine is built upon: its identity, its bounds, its disk, its links.

Decides nothing. ``service`` fills these in for a real node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from crowd.raft.compaction import Pace
from crowd.raft.replication import Window
from crowd.raft.wire import SNAPSHOT_PIECE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from twisted.internet.defer import Deferred

    from crowd.errors import FatalError
    from crowd.raft.engine import Engine
    from crowd.raft.storage import Storage
    from crowd.raft.wire import Hello, PeerMessage


class Links(Protocol):
    """The links to the peers; a Service."""

    def send(self, name: str, message: PeerMessage) -> bool:
        """Queue a message to a peer; False if it is not connected or lags too far."""

    def writable(self, name: str) -> bool:
        """Tell whether the peer keeps up."""

    def disconnect(self, name: str, why: str) -> None:
        """End the link; it is dialled again."""

    def follow(self, peers: Mapping[str, str], dialled: Collection[str]) -> None:
        """Keep a link with each of these, by name and address; call the ones in `dialled`."""

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Listen and dial."""

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Close all links; fire when that is done."""


class Space(NamedTuple):
    """A file system's size and what is free of it, in bytes."""

    free_bytes: int
    total_bytes: int


class Bounds(NamedTuple):
    """What ends waiting (`acknowledge_within_s`) and acceptance (I7), and what the log keeps.

    A settled message stays in the log for `retention_us` of log time; `checkpoints` says how
    far the log grows between two of them. `window` and `piece_bytes` bound what is under way to
    a follower, of entries and of a snapshot. Between two pieces of a checkpoint the scrub
    verifies `checkpoints_every` pieces of the log: one checkpoint in about a minute. The backlog is
    bounded in bytes and in messages; a bound of 0 is none.
    """

    acknowledge_within_s: float
    backlog_bytes: int
    retention_us: int = 0
    free_bytes_min: int = 256 << 20
    free_share_min: float = 0.02
    checkpoints: Pace = Pace()
    window: Window = Window()
    piece_bytes: int = SNAPSHOT_PIECE_BYTES_MAX
    checkpoints_every: int = 120
    backlog_messages: int = 0

    def floor(self, space: Space) -> int:
        """Return how many bytes must stay free on this file system."""
        return max(self.free_bytes_min, int(space.total_bytes * self.free_share_min))


class Identity(NamedTuple):
    """Who this member is: its name, its cluster's, and its file's members with addresses.

    `peers` is empty for a node without peers, else it holds this node too.
    """

    node: str
    cluster: str
    peers: Mapping[str, str]


class Seams(NamedTuple):
    """What the engine is built upon, and whom it tells of its end.

    `open_storage` opens the node's directory; `make_links` is None for a node without peers;
    `space` looks at the journal's file system; `on_fatal` is called once when the node must
    end (I8).
    """

    open_storage: Callable[[], Storage]
    make_links: Callable[[Engine, Callable[[], Hello]], Links] | None
    space: Callable[[], Space]
    on_fatal: Callable[[FatalError], None]
