"""Letters' bytes on this node: kept, read, compared with the ledger, fetched from peers.

Decides nothing here: see ``letters`` for the whole, ``store`` for what is durable when,
``audit`` for what is lacking, ``fetching`` for whom to ask, ``sqlite`` for the file. Why it is
so stands in docs/decisions/0011-letters.md.
"""

from crowd.raft.letters.letters import Letters
from crowd.raft.letters.sqlite import FILE_NAME, SqliteShelf
from crowd.raft.letters.store import PENDING_BYTES_MAX, LetterStore

__all__ = ["FILE_NAME", "PENDING_BYTES_MAX", "LetterStore", "Letters", "SqliteShelf"]
