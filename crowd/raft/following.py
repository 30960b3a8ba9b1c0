"""The follower's side of replication: where a leader's entries join, and what is taken of them.

Decides what a message proves about the log, and what of the log has to go. Pure, but for the
log that it appends to and truncates. Figure 2 of the Raft paper, AppendEntries, with the first
index of a conflicting term as an answer (section 5.3). Mends D1 and L2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crowd.errors import FatalError, PeerRejectedError
from crowd.raft.wire import AppendEntries, PreVote, RequestVote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.raft.ports import Log
    from crowd.raft.wire import PeerMessage

TERM_STEP_MAX: Final = 1 << 32
"""A term further ahead than any number of elections can bring it is refused: it would leave
no terms to elect leaders in."""


def check_terms(message: PeerMessage, term: int) -> None:
    """Raise PeerRejectedError for terms that contradict themselves or cannot be.

    `term` is this member's own.
    """
    claimed = getattr(message, "term", 0)
    if claimed > term + TERM_STEP_MAX:
        raise PeerRejectedError(f"it speaks of term {claimed}; this is term {term}")
    earlier = 0
    if isinstance(message, RequestVote):
        earlier = message.last_term
    elif isinstance(message, PreVote):
        earlier = message.last_term + 1  # the term that it asks for is above its log's
    elif isinstance(message, AppendEntries):
        earlier = message.prev_term
        if message.entries and message.entries[0][2] < message.prev_term:
            _, index, entry_term = message.entries[0]
            raise PeerRejectedError(
                f"its entry {index} of term {entry_term} follows one of term {message.prev_term}"
            )
    if earlier > claimed:
        raise PeerRejectedError(f"its log has term {earlier}, which is after its own, {claimed}")


def where_to_join(log: Log, commit_index: int, prev_index: int, prev_term: int) -> int:
    """Return 0 if the log has that entry, else the index from which to send (L2).

    Raises FatalError if the leader contradicts what is committed here.
    """
    last = log.last_index
    if prev_index > last:
        return last + 1
    if prev_index < log.first_index:
        return 0  # compacted here, so committed, so the same everywhere
    term = log.term_at(prev_index)
    if term == prev_term:
        return 0
    if prev_index <= commit_index:
        raise _contradiction(prev_index, prev_term, term)
    index = prev_index
    while index - 1 > commit_index and log.term_at(index - 1) == term:
        index -= 1
    return max(commit_index + 1, index)


def take(log: Log, commit_index: int, entries: Sequence[tuple[bytes, int, int]]) -> None:
    """Append what the log lacks; truncate only at the first real conflict (D1).

    Raises FatalError if the leader contradicts what is committed here; the log is as it was.
    """
    for place, (_, index, term) in enumerate(entries):
        if index <= commit_index and index < log.first_index:
            continue
        if index <= log.last_index:
            here = log.term_at(index)
            if here == term:
                continue
            if index <= commit_index:
                raise _contradiction(index, term, here)
            log.deleteEntriesFrom(index - log.first_index)
        for entry in entries[place:]:
            log.add(*entry)
        return


def _contradiction(index: int, term: int, here: int) -> FatalError:
    return FatalError(
        f"the leader's entry {index} has term {term}, the committed one here has {here}: "
        "one of the two logs is wrong"
    )
