"""Checkpoints: what lets a restart be short, a log be cut and a far-behind follower come back.

``store`` is what the engine holds; ``files`` puts bytes on the disk in the background,
``shape`` says what they are, ``policy`` which are kept. docs/reference/checkpoint-format.md
has the format and the crash states; docs/decisions/0008-checkpoints.md has the reasons.
"""

from crowd.raft.checkpoints.incoming import Incoming
from crowd.raft.checkpoints.opening import PIECE_BYTES, open_store
from crowd.raft.checkpoints.shape import Checkpoint, Head
from crowd.raft.checkpoints.store import CheckpointStore, Loaded

__all__ = [
    "PIECE_BYTES",
    "Checkpoint",
    "CheckpointStore",
    "Head",
    "Incoming",
    "Loaded",
    "open_store",
]
