"""The journal: what makes an acknowledgement true (invariant I1).

``journal`` is what the engine holds; ``appender`` puts bytes on the disk, ``recovery`` reads
them back after a crash, ``shape`` says what they are. ``ports`` names what is asked of the
world, ``filesystem`` and ``writer`` are the world. docs/reference/journal-format.md has the
format and the crash states; docs/decisions/0001-segmented-journal.md has the reasons.
"""

from crowd.raft.journal.describe import describe
from crowd.raft.journal.filesystem import DiskFileSystem
from crowd.raft.journal.journal import Journal
from crowd.raft.journal.opening import open_journal
from crowd.raft.journal.writer import ThreadWriter

__all__ = ["DiskFileSystem", "Journal", "ThreadWriter", "describe", "open_journal"]
