"""Opens the checkpoints of a directory: what is there, and what of it is used.

Decides what a start believes: a good header and the right length. All the rest of a file is
verified when it is loaded, and by the scrub. Blocks the reactor for a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from crowd.errors import StorageFailedError
from crowd.raft.checkpoints.files import FLOOR, NAME, PART, RECEIVED, Files
from crowd.raft.checkpoints.shape import (
    CLUSTER_BYTES,
    DIGEST_BYTES,
    HEADER_BYTES,
    Checkpoint,
    decode_header,
)
from crowd.raft.checkpoints.store import CheckpointStore, Found

if TYPE_CHECKING:
    from crowd.raft.journal.ports import FileSystem, Writer

PIECE_BYTES: Final = 256 << 10
"""Half a millisecond of a processor and one of a disk."""


def open_store(
    directory: str,
    *,
    cluster: str,
    filesystem: FileSystem,
    background: Writer,
    piece_bytes: int = PIECE_BYTES,
) -> CheckpointStore:
    """Return the checkpoints in `directory`, which must exist and be locked by its journal.

    `background` is the writer of all this, in pieces of at most `piece_bytes`. Files that a
    crash left behind are removed, and checkpoints that are of no more use. A checkpoint with
    a bad header or length is not used; ``damaged`` of what is returned names it.

    Raises NeedsNewerCrowdError if one has a later format, StorageFailedError. Blocks.
    """
    assert len(cluster) < CLUSTER_BYTES, "a cluster's name is a DNS label"
    files = Files(filesystem, directory, cluster, piece_bytes)
    try:
        found = _find(files)
        # A killed process may have left names that are not durable. They must be before
        # anything rests on them.
        filesystem.sync_directory(directory)
    except OSError as error:
        raise StorageFailedError(f"{directory}: could not open checkpoints: {error}") from error
    return CheckpointStore(files, background, found)


def _find(files: Files) -> Found:
    found = Found([], None, None, [], [])
    kept: dict[int, Checkpoint] = {}
    received: list[Checkpoint] = []
    stray = []
    for name in files.filesystem.names(files.directory):
        if name.endswith(PART):
            stray.append(name)
        if (match := NAME.fullmatch(name)) is None:
            continue
        checkpoint = _read(files, name, int(match[1]))
        if isinstance(checkpoint, str):
            found.damaged.append(checkpoint)
            found.condemned.append(name)
        elif match[2] == RECEIVED:
            received.append(checkpoint)
        else:
            kept[checkpoint.index] = checkpoint
            if match[2] == FLOOR and (found.floor is None or found.floor.index < checkpoint.index):
                found.floor = checkpoint
    found.kept = [kept[index] for index in sorted(kept)]
    if received:
        received.sort(key=lambda checkpoint: checkpoint.index)
        newest = received.pop()
        # One that is not ahead of the node's own was overtaken while it came.
        if not found.kept or newest.index > found.kept[-1].index:
            found.received = msgspec.structs.replace(newest, installed=False)
        else:
            received.append(newest)
    stray += [f"{checkpoint.index:016d}{RECEIVED}" for checkpoint in received]
    files.remove(stray)
    return found


def _read(files: Files, name: str, index: int) -> Checkpoint | str:
    """Return what a file says it is, or where it is bad."""
    path = f"{files.directory}/{name}"
    file = files.filesystem.open(path)
    try:
        size_bytes = file.size()
        header = decode_header(file.read(HEADER_BYTES, 0))
        if isinstance(header, str):
            return f"{header} at {path}, offset 0"
        if header.cluster != files.cluster:
            what = f"a checkpoint of cluster {header.cluster!r}; expected {files.cluster!r}"
            return f"{what} at {path}, offset 0"
        head = header.head
        if head.index != index:
            return f"a checkpoint of index {head.index} at {path}, offset 0"
        if header.size_bytes != size_bytes:
            what = f"a checkpoint of {size_bytes} bytes; expected {header.size_bytes}"
            return f"{what} at {path}, offset {min(size_bytes, header.size_bytes)}"
        digest = file.read(DIGEST_BYTES, size_bytes - DIGEST_BYTES)
    finally:
        file.close()
    return Checkpoint(head.index, head.term, head.tip, head.log_time_us, size_bytes, digest)
