"""What is small in a simulated cluster, so that few and short messages meet every bound.

Decides no behaviour: each of these is a size or a pace, of which crowd's own value suits real
disks and networks, and at which a run of twenty seconds would never arrive.
"""

from __future__ import annotations

from crowd.raft import engine, replication
from crowd.raft.checkpoints import open_store
from crowd.raft.transfer import Sending


def install():
    """Make them small, in this process."""
    replication.BATCH_BYTES_MAX = 4096  # so that what a follower lacks takes several messages
    replication.WINDOW_BYTES = 16 * 1024  # so that a follower can be too slow
    replication.WINDOW_MESSAGES = 8
    Sending.__init__.__kwdefaults__["piece_bytes"] = 512  # so that a snapshot has many pieces
    open_store.__kwdefaults__["piece_bytes"] = 512  # so that a checkpoint has, at a crash
    engine.CHECKPOINTS_EVERY = 4  # so that a checkpoint is verified every two seconds
