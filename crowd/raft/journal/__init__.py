"""The journal: what makes an acknowledgement true (invariant I1).

``journal`` is what the engine holds; ``appender`` puts bytes on the disk, ``recovery`` reads
them back after a crash, ``shape`` says what they are. ``summary`` is what a segment does to
the log, ``sidecar`` its file; ``upkeep`` has old segments verified (``scrub``) and mended
(``rewrite``). ``ports`` names what is asked of the
world, ``filesystem`` and ``writer`` are the world. docs/reference/journal-format.md has the
format and the crash states; docs/decisions/0001-segmented-journal.md has the reasons.
"""

from crowd.raft.journal.describe import describe
from crowd.raft.journal.filesystem import DiskFileSystem
from crowd.raft.journal.journal import Journal
from crowd.raft.journal.opening import open_journal
from crowd.raft.journal.scrub import Flaw
from crowd.raft.journal.upkeep import ScrubResult
from crowd.raft.journal.writer import ThreadWriter

__all__ = [
    "DiskFileSystem",
    "Flaw",
    "Journal",
    "ScrubResult",
    "ThreadWriter",
    "describe",
    "open_journal",
]
