"""The leader's side of replication: what it knows of each follower, and what it sends next.

Decides, for each follower, between probing, sending entries and having a snapshot sent, and
how much may be under way (L1 to L4, L10). Leaves to ``guard`` what counts as committed, and to
``snapshots`` how a snapshot is sent. Figure 2 of the Raft paper has the rules for leaders; the
two states are those of etcd's raft, ``tracker/progress.go``.

Everything here runs in the reactor's thread.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from crowd.errors import DamagedEntryError, PeerRejectedError
from crowd.raft.wire import AppendEntries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crowd.raft.ports import Host, Log, Outbox
    from crowd.raft.wire import NextIndex

BATCH_BYTES_MAX: Final = 1 << 20
"""Entries in one message, beyond the first: a message stays near 1 MiB."""
WINDOW_MESSAGES: Final = 64
WINDOW_BYTES: Final = 8 << 20
"""Entries under way to one follower (L3): enough for a slow fsync, little for a dead link."""


class Window(NamedTuple):
    """What one message holds beyond its first entry, and what is under way to one follower."""

    batch_bytes: int = BATCH_BYTES_MAX
    messages: int = WINDOW_MESSAGES
    size_bytes: int = WINDOW_BYTES


WINDOW: Final = Window()


class Progress:
    """What a leader knows of one follower.

    Invariant: acked < next. Probing, nothing but one empty message is under way, and `next`
    only falls; replicating, `next` only rises (L1).
    """

    __slots__ = (
        "acked", "awaiting", "commit_sent", "next", "probing", "roster", "stamp", "under_way",
        "whole",
    )  # fmt: skip

    def __init__(self, next_index: int) -> None:
        self.next = next_index
        self.acked = 0
        self.probing = True
        self.awaiting = False
        self.commit_sent = 0
        self.stamp = 0
        self.roster = 0
        self.whole = False
        self.under_way: deque[tuple[int, int]] = deque()

    def probe(self, next_index: int) -> None:
        """Ask anew where the follower's log joins this one, from `next_index` downwards."""
        self.next = max(self.acked + 1, next_index)
        self.probing = True
        self.awaiting = False
        self.under_way.clear()

    @property
    def bytes_under_way(self) -> int:
        """Entries' bytes sent and not yet acknowledged."""
        return sum(size for _, size in self.under_way)


class Replication:
    """All followers of a leader. `now` is the monotonic clock in seconds."""

    def __init__(
        self, log: Log, outbox: Outbox, host: Host, now: Callable[[], float], window: Window
    ) -> None:
        self._log = log
        self._outbox = outbox
        self._host = host
        self._now = now
        self._window = window
        self._connected: set[str] = set()
        self._made: AppendEntries
        self._made_of: tuple[int, ...] = ()
        self.term = 0
        """The term that is led."""
        self.commit_index = 0
        self.followers: dict[str, Progress] = {}

    def begin(self, term: int) -> None:
        """Lead `term`: nothing is known of anybody yet."""
        self.term = term
        self.followers = {}
        self.follow(self._host.followers())

    def follow(self, names: Iterable[str]) -> None:
        """Replicate to these members, and to no others."""
        known = self.followers
        for name in sorted(known.keys() - set(names)):
            self._send_to(name, heartbeat=True)  # that it is none any more is committed
        self.followers = {
            name: known.get(name) or Progress(self._log.last_index + 1) for name in sorted(names)
        }

    def connected(self, name: str) -> None:
        """Note a link to a peer (again): nothing sent on the last one may be relied on."""
        self._connected.add(name)
        if name in self.followers:
            self.followers[name] = Progress(self._log.last_index + 1)

    def disconnected(self, name: str) -> None:
        """Note a lost link."""
        self._connected.discard(name)

    def is_connected(self, name: str) -> bool:
        """Tell whether there is a link to a peer."""
        return name in self._connected

    def answered(self, name: str, message: NextIndex) -> bool:
        """Take a follower's answer of this term; return whether more of its log may count.

        Raises PeerRejectedError if it claims what the log does not have; nothing changed then.
        """
        progress = self.followers.get(name)
        if progress is None:
            return False
        if message.success and message.next_index > self._log.last_index + 1:
            raise PeerRejectedError(
                f"it acknowledges entry {message.next_index - 1} of a log that ends at "
                f"{self._log.last_index}"
            )
        progress.roster = max(progress.roster, message.roster)
        progress.whole = message.whole
        if message.stamp:
            progress.stamp = max(progress.stamp, message.stamp)
            progress.awaiting = False
        if not message.success:
            if message.next_index > progress.acked:  # D10: never below what it acknowledged
                progress.probe(min(message.next_index, progress.next))
            return False
        if message.stamp:
            progress.probing = False
        progress.acked = max(progress.acked, message.next_index - 1)
        progress.next = max(progress.next, message.next_index)
        while progress.under_way and progress.under_way[0][0] <= progress.acked:
            progress.under_way.popleft()
        return True

    def has_more_for(self, name: str) -> bool:
        """Tell whether a follower waits for entries, or for a probe."""
        progress = self.followers.get(name)
        return progress is not None and (progress.next <= self._log.last_index or progress.probing)

    def heartbeat(self) -> None:
        """Send to all, entries or none."""
        for name in self.followers:
            self._send_to(name, heartbeat=True)

    def replicate(self) -> None:
        """Send at once what followers lack: entries, or a commit index that moved (L7)."""
        for name in self.followers:
            self._send_to(name, heartbeat=False)

    def _send_to(self, name: str, *, heartbeat: bool) -> None:
        progress = self.followers[name]
        if name not in self._connected:
            return
        stamp = int(self._now() * 1e6) if heartbeat else 0
        if progress.next <= self._log.first_index:
            # What comes next was compacted away. Heartbeats go on from where the log begins;
            # the follower answers that it is not that far, until it has the snapshot.
            self._host.wants_snapshot(name)
            if heartbeat:
                self._append(name, progress, self._log.first_index, stamp)
            return
        if progress.probing:
            if heartbeat or not progress.awaiting:
                progress.awaiting = True
                stamp = stamp or int(self._now() * 1e6)
                self._append(name, progress, progress.next - 1, stamp)
            return
        sent = False
        while (
            progress.next <= self._log.last_index
            and len(progress.under_way) < self._window.messages
            and progress.bytes_under_way < self._window.size_bytes
            and self._outbox.writable(name)
        ):
            try:
                self._append(name, progress, progress.next - 1, stamp, self._log.last_index)
            except DamagedEntryError as error:
                self._host.damaged(error)  # sent once it is mended
                break
            stamp, sent = 0, True
        if not sent and (
            stamp
            or (
                progress.commit_sent < self.commit_index
                and self._host.waits(name, progress.commit_sent)
            )
        ):
            self._append(name, progress, progress.next - 1, stamp)

    def _append(
        self, name: str, progress: Progress, prev_index: int, stamp: int, last_index: int = 0
    ) -> None:
        """Send the entries behind `prev_index`, up to `last_index` as far as they fit; or none."""
        message = self._message(prev_index, stamp, last_index)
        if self._outbox.send(name, message):
            progress.commit_sent = self.commit_index
            entries = message.entries
            if entries:
                progress.next = entries[-1][1] + 1
                size = sum(len(entry[0]) for entry in entries)
                progress.under_way.append((progress.next - 1, size))

    def _message(self, prev_index: int, stamp: int, last_index: int) -> AppendEntries:
        """Return the message, the same one to each follower that is sent the same.

        Within a term a leader's log only grows, and what was made of it stays true.
        """
        made_of = (self.term, self.commit_index, prev_index, stamp, last_index)
        if made_of != self._made_of:
            entries: Iterable[tuple[bytes, int, int]] = ()
            if last_index:
                entries = self._log.entries(prev_index + 1, self._window.batch_bytes)
            self._made = AppendEntries(
                term=self.term,
                commit_index=self.commit_index,
                prev_index=prev_index,
                prev_term=self._log.term_at(prev_index),
                stamp=stamp,
                entries=tuple(entries),
            )
            self._made_of = made_of
        return self._made
