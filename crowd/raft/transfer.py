"""A snapshot's way from a leader to a follower that is behind the leader's log.

Decides which pieces are under way, when one is sent again, and what a follower makes of
those that come. Leaves the bytes to ``checkpoints``, the messages to ``wire``, and to the
engine when a transfer begins, who the leader is, and what becomes of what was received.

What is sent is the file of the leader's floor, known by its digest. Links keep the order of
messages, but may drop some, and end; a receiver may be out of space, or find that what came
is not what was announced. All of that is one case: the receiver says which offset it wants,
and the sender goes on from there (Raft, section 7, with an offset that the receiver names).

Time is passed in, in seconds, by a clock that does not go back. In the reactor only.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from twisted.logger import Logger

from crowd.errors import MalformedError, NoSpaceError
from crowd.raft.wire import SNAPSHOT_PIECE_BYTES_MAX, SnapshotPiece, SnapshotWanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.raft.checkpoints import Checkpoint, Incoming

PIECES_UNDER_WAY_MAX: Final = 4
"""1 MiB: a round trip of 10 ms at 100 MiB/s; and what a receiver keeps in memory."""
RESEND_S: Final = 1.0
"""A piece takes milliseconds; after a second of silence it did not come."""
PROBE_S: Final = 5.0
"""All was sent and the receiver verifies it: this often it is asked whether it still does."""
GIVE_UP_S: Final = 30.0
"""A receiver that says nothing for so long is gone, and must not hold the leader's log."""

_Announced = tuple[int, int, int, bytes, int]


class Source(Protocol):
    """What a sender asks of the checkpoints' store."""

    def pin(self, checkpoint: Checkpoint) -> None:
        """Keep it, and the log above it."""

    def unpin(self, checkpoint: Checkpoint) -> None:
        """Let go of it."""

    def read(self, checkpoint: Checkpoint, offset: int, size_bytes: int) -> bytes:
        """Return bytes of a pinned one."""


class Target(Protocol):
    """What a receiver asks of the checkpoints' store."""

    def receive(self, digest: bytes, total_bytes: int) -> Incoming:
        """Begin to receive; raises MalformedError."""

    def discard(self) -> None:
        """Remove what was received."""


class Sending:
    """One checkpoint on its way to one follower, from a leader of `term`.

    ``offset`` is what the follower said it has. ``refusals`` counts how often it began anew
    after it had all: it found that what came was not what was announced, so the leader's own
    copy may be damaged, and deserves a scrub.
    """

    def __init__(
        self,
        source: Source,
        checkpoint: Checkpoint,
        term: int,
        *,
        piece_bytes: int = SNAPSHOT_PIECE_BYTES_MAX,
    ) -> None:
        self._source = source
        self.checkpoint = checkpoint
        self.term = term
        self._piece_bytes = piece_bytes
        self.offset = 0
        self.refusals = 0
        self._next_offset = 0
        self._pinned = False
        self._heard = True
        self._sent_s = self._heard_s = 0.0

    @property
    def complete(self) -> bool:
        """Whether the follower has all of it; it verifies and installs it then."""
        return self.offset == self.checkpoint.size_bytes

    def start(self) -> None:
        """Begin from the first byte: with a new link too, as that forgot what was under way.

        Raises StorageFailedError if the checkpoint cannot be read.
        """
        if not self._pinned:
            self._source.pin(self.checkpoint)
            self._pinned = True
        self.offset = self._next_offset = 0
        self._heard = True

    def stop(self) -> None:
        """Let go of the checkpoint: it came to its end, or the follower or the office went."""
        if self._pinned:
            self._pinned = False
            self._source.unpin(self.checkpoint)

    def wanted(self, message: SnapshotWanted) -> None:
        """Take the follower's answer; one about another checkpoint or term is ignored."""
        checkpoint = self.checkpoint
        if (message.term, message.digest) != (self.term, checkpoint.digest):
            return
        if message.offset > checkpoint.size_bytes:
            return
        self._heard = True
        if message.offset < self.offset:
            # It lost what it had: found it to be wrong, was out of space, or started again.
            self.refusals += self.complete
            self._next_offset = message.offset
        self.offset = message.offset
        self._next_offset = max(self._next_offset, self.offset)

    def pieces_due(self, now_s: float) -> list[tuple[int, int]]:
        """Return (offset, size) of the pieces to send now, in their order.

        Call it after `start` and `wanted`, and every tenth of a second or so.
        """
        if not self._pinned:
            return []
        if self._heard:
            self._heard = False
            self._heard_s = self._sent_s = now_s
        total = self.checkpoint.size_bytes
        if now_s - self._sent_s >= (PROBE_S if self.complete else RESEND_S):
            # From what it wants; or the last piece again, which it has, to hear of it.
            self._next_offset = min(
                self.offset, (total - 1) // self._piece_bytes * self._piece_bytes
            )
        due = []
        end = min(total, self.offset + PIECES_UNDER_WAY_MAX * self._piece_bytes)
        while self._next_offset < end:
            size_bytes = min(self._piece_bytes, total - self._next_offset)
            due.append((self._next_offset, size_bytes))
            self._next_offset += size_bytes
        if due:
            self._sent_s = now_s
        return due

    def piece(self, offset: int, size_bytes: int) -> SnapshotPiece:
        """Return the message for a piece that is due. Raises StorageFailedError. Reads the disk."""
        checkpoint = self.checkpoint
        return SnapshotPiece(
            self.term, checkpoint.index, checkpoint.term, checkpoint.digest,
            checkpoint.size_bytes, offset, self._source.read(checkpoint, offset, size_bytes),
        )  # fmt: skip

    def given_up(self, now_s: float) -> bool:
        """Whether the follower was silent for so long that the transfer should be stopped."""
        return not self._heard and now_s - self._heard_s >= GIVE_UP_S


class Receiving:
    """The checkpoint that this node is being sent, if any.

    The engine hands it pieces of the leader that it follows only, and calls `cancel` when
    that link ends or the leader is another one. `send` sends an answer to that leader;
    `on_complete` hears of a checkpoint that is verified and durable. In the same term it is
    not received again.
    """

    _log = Logger()

    def __init__(
        self,
        target: Target,
        *,
        send: Callable[[SnapshotWanted], object],
        on_complete: Callable[[Checkpoint], object],
    ) -> None:
        self._target = target
        self._send = send
        self._on_complete = on_complete
        self._incoming: Incoming | None = None
        self._first: SnapshotPiece | None = None  # without its data: what is being received
        self._finishing = False
        self._completed: _Announced | None = None

    @property
    def active(self) -> bool:
        """Whether a transfer is under way."""
        return self._incoming is not None

    def cancel(self) -> None:
        """Forget what came."""
        if self._incoming is not None:
            self._incoming.cancel()
        self._incoming = self._first = None
        self._finishing = False

    def take(self, message: SnapshotPiece) -> None:
        """Take a piece, and answer what is wanted next, at once or when it is written.

        A piece of another checkpoint or a later term ends what was under way; one of an
        older term is ignored.
        """
        if self._first is not None:
            if message.term < self._first.term:
                return
            if _announced(message) != _announced(self._first):
                self.cancel()
        if self._incoming is None:
            if _announced(message) == self._completed:
                self._answer(message, message.total)
                return
            if message.offset:
                self._answer(message, 0)
                return
            if not self._begin(message):
                return
        incoming = self._incoming
        assert incoming is not None
        if message.offset != incoming.offset:
            # Not `incoming.offset`: these answers must not be ahead of those in `_written`.
            self._answer(message, incoming.written)
            return
        try:
            incoming.add(message.offset, message.data, partial(self._written, incoming, message))
        except MalformedError as error:
            self._refuse(message, error)

    def _begin(self, message: SnapshotPiece) -> bool:
        try:
            self._incoming = self._target.receive(message.digest, message.total)
        except MalformedError as error:
            self._log.warn("refused a snapshot: {error}", error=error)
            return False
        self._first = SnapshotPiece(*_announced(message), 0, b"")
        return True

    def _written(
        self, incoming: Incoming, message: SnapshotPiece, result: int | NoSpaceError
    ) -> None:
        if incoming is not self._incoming:
            return
        if isinstance(result, NoSpaceError):
            # Not answered: the sender comes again in a second, and maybe there is room then.
            self._log.error("no snapshot: {error}", error=result)
            self.cancel()
            return
        self._answer(message, result)
        if result == incoming.total_bytes and not self._finishing:
            self._finishing = True
            incoming.finish(partial(self._finished, incoming, message))

    def _finished(
        self,
        incoming: Incoming,
        message: SnapshotPiece,
        result: Checkpoint | MalformedError | NoSpaceError,
    ) -> None:
        if incoming is not self._incoming:
            return
        if isinstance(result, NoSpaceError):
            self._log.error("no snapshot: {error}", error=result)
            self.cancel()
        elif isinstance(result, MalformedError):
            self._refuse(message, result)
        elif (result.index, result.term) != (message.index, message.index_term):
            self._target.discard()
            self._refuse(message, MalformedError(f"received a checkpoint at {result.index}"))
        else:
            self._completed = _announced(message)
            self.cancel()
            self._on_complete(result)

    def _refuse(self, message: SnapshotPiece, error: MalformedError) -> None:
        self._log.warn("refused a snapshot: {error}", error=error)
        self.cancel()
        self._answer(message, 0)

    def _answer(self, message: SnapshotPiece, offset: int) -> None:
        self._send(SnapshotWanted(message.term, message.digest, offset))


def _announced(message: SnapshotPiece) -> _Announced:
    """Return what all pieces of a transfer have in common."""
    return message.term, message.index, message.index_term, message.digest, message.total
