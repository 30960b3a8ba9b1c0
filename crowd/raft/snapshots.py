"""Snapshots on their way: those that this node sends as a leader, and the one that it receives.

Decides which checkpoint a follower is sent, and when a transfer ends. Leaves the pieces to
``transfer``, who needs one to ``replication``, and what is done with a received one to the
engine. Section 7 of the Raft paper. Mends D10 and D11 (docs/explanation/engine-defects.md).

In the reactor only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from crowd.errors import PeerRejectedError
from crowd.raft.transfer import Receiving, Sending

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.clock import Clock
    from crowd.raft.checkpoints import Checkpoint, CheckpointStore
    from crowd.raft.wire import PeerMessage, SnapshotPiece, SnapshotWanted

INSTALL_S: Final = 10.0
"""How long a follower that has all of a snapshot may take to answer as one that has it; then it
is sent again."""
COMPLAIN_EVERY_S: Final = 10.0


class Snapshots:
    """Transfers to and from this node. `received` is told of one that is whole and durable."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        store: CheckpointStore,
        send: Callable[[str, PeerMessage], bool],
        writable: Callable[[str], bool],
        received: Callable[[Checkpoint], None],
        *,
        piece_bytes: int,
    ) -> None:
        self._clock = clock
        self._store = store
        self._send = send
        self._writable = writable
        self._piece_bytes = piece_bytes
        self._sending: dict[str, Sending] = {}
        self._complete_s: dict[str, float] = {}
        self._source = ""
        self._receiving = Receiving(store, send=self._answer, on_complete=received)
        self._complained_s = float("-inf")
        self.sent_bytes = 0

    # --- As a leader ----------------------------------------------------------------------------

    @property
    def doubtful(self) -> bool:
        """Whether a follower found that what it was sent is not whole: this copy may be bad."""
        return any(sending.refusals for sending in self._sending.values())

    def wanted_by(self, name: str, term: int) -> bool:
        """Send a follower the floor, if that is not under way; it needs what the log lacks.

        False if there is no floor: then somebody else has to lead who has one.
        """
        now_s = self._clock.seconds()
        sending = self._sending.get(name)
        if sending is not None:
            if not sending.complete or now_s - self._complete_s.setdefault(name, now_s) < INSTALL_S:
                return True
            self.left(name)
        floor = self._store.floor
        if floor is None:
            if now_s - self._complained_s < COMPLAIN_EVERY_S:
                return True
            self._complained_s = now_s
            self._log.warn("{peer} needs a snapshot, and there is none here", peer=name)
            return False
        self._log.info("sends {peer} its ledger at {index}", peer=name, index=floor.index)
        sending = self._sending[name] = Sending(
            self._store, floor, term, piece_bytes=self._piece_bytes
        )
        sending.start()
        self._pump(name, sending)
        return True

    def wanted(self, name: str, message: SnapshotWanted) -> None:
        """Go on as a follower asks. Raises PeerRejectedError for an offset that cannot be."""
        sending = self._sending.get(name)
        if sending is None:
            return
        size_bytes = sending.checkpoint.size_bytes
        if message.digest == sending.checkpoint.digest and message.offset > size_bytes:
            raise PeerRejectedError(f"it has {message.offset} bytes of a snapshot of {size_bytes}")
        sending.wanted(message)
        self._pump(name, sending)

    def send_due(self, acked: Callable[[str], int]) -> None:
        """Send again what seems lost, and give up on who is silent. Ten times a second or so.

        A follower whose acknowledgement, `acked`, has come to the snapshot has it: it is let go.
        """
        for name, sending in list(self._sending.items()):
            if acked(name) >= sending.checkpoint.index:
                self._stop(name)
            elif sending.checkpoint not in self._store.checkpoints:
                self._stop(name)  # it was found damaged meanwhile
            elif sending.given_up(self._clock.seconds()):
                self._log.warn("{peer} takes no snapshot", peer=name)
                self._stop(name)
            else:
                self._pump(name, sending)

    def _pump(self, name: str, sending: Sending) -> None:
        if not self._writable(name):
            return
        for offset, size_bytes in sending.pieces_due(self._clock.seconds()):
            self.sent_bytes += size_bytes
            self._send(name, sending.piece(offset, size_bytes))

    def _stop(self, name: str) -> None:
        self._sending.pop(name).stop()
        self._complete_s.pop(name, None)

    # --- As a follower --------------------------------------------------------------------------

    def piece(self, name: str, message: SnapshotPiece) -> None:
        """Take a piece from the leader that this node follows."""
        self._source = name
        self._receiving.take(message)

    def _answer(self, message: SnapshotWanted) -> None:
        self._send(self._source, message)

    # --- Both -----------------------------------------------------------------------------------

    def left(self, name: str) -> None:
        """Forget what was under way with a peer: its link is gone."""
        if name in self._sending:
            self._stop(name)
        if name == self._source:
            self._receiving.cancel()

    def reset(self) -> None:
        """Forget everything under way: term, role or leader changed."""
        for name in list(self._sending):
            self._stop(name)
        self._receiving.cancel()
