"""A stopped node's journal, told to a person; `crowd journal` prints it.

Changes nothing: it mends, cuts and locks nothing, so it may be used on a copy of a damaged
directory, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crowd.errors import DamagedError, StorageFailedError
from crowd.raft.journal.filesystem import DiskFileSystem
from crowd.raft.journal.memory import FILE_NAME, Memory, read_slots
from crowd.raft.journal.recovery import batches, recover, segments_expected
from crowd.raft.journal.shape import SEGMENT_HEADER_BYTES, Kind, decode_segment_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crowd.raft.journal.ports import FileSystem
    from crowd.raft.journal.recovery import FoundBatch


def describe(directory: str, filesystem: FileSystem | None = None) -> Iterator[str]:
    """Yield lines about the journal in `directory`: whose it is, each batch, and its state.

    The last line begins with "good" or "damaged". Raises StorageFailedError if a file cannot
    be read.
    """
    filesystem = filesystem or DiskFileSystem()
    try:
        memory = _memory(filesystem, directory)
        yield f"journal {memory.journal_id.hex()} of node {memory.node} of cluster {memory.cluster}"
        yield f"term {memory.term}, vote {memory.vote or 'none'}"
        names, stray = segments_expected(filesystem, directory, memory)
        for name in stray:
            yield f"{name}: no part of the log; the next start removes it"
        for name in names:
            yield from _segment(filesystem, directory, name)
        yield from _state(filesystem, directory, memory)
    except DamagedError as error:
        yield f"damaged: {error}"
    except OSError as error:
        raise StorageFailedError(f"{directory}: could not read the journal: {error}") from error


def _memory(filesystem: FileSystem, directory: str) -> Memory:
    path = f"{directory}/{FILE_NAME}"
    file = filesystem.open(path)
    try:
        good = [slot for slot in read_slots(file) if slot is not None]
    finally:
        file.close()
    if not good:
        raise DamagedError("neither copy of term and vote is whole", place=f"{path}, offset 0")
    return max(good, key=lambda slot: slot[0])[1]


def _segment(filesystem: FileSystem, directory: str, name: str) -> Iterator[str]:
    file = filesystem.open(f"{directory}/{name}")
    try:
        header = decode_segment_header(file.read(SEGMENT_HEADER_BYTES, 0))
        if isinstance(header, str):
            yield f"{name}: {header}"
            return
        yield f"{name}: {file.size()} bytes, from batch {header.first_batch}"
        for batch in batches(file, header.salt, header.first_batch):
            yield f"  {_batch(batch)}"
    finally:
        file.close()


def _batch(batch: FoundBatch) -> str:
    said = []
    entries = [record for record in batch.records if record[0] == Kind.ENTRY]
    for kind, index, _, _ in batch.records[:1]:
        if kind == Kind.CUT:
            said.append(f"entries above {index} cut")
        elif kind == Kind.RESET:
            said.append(f"all entries gone, {index} is next")
    if entries:
        (_, first, first_term, _), (_, last, last_term, _) = entries[0], entries[-1]
        terms = f"term {first_term}" + (f" to {last_term}" if last_term != first_term else "")
        said.append(f"entries {first} to {last}, {terms}")
    return (
        f"batch {batch.header.number} at {batch.start}, {batch.end - batch.start} bytes: "
        f"{', '.join(said) or 'confirmation'}; committed {batch.header.commit_index}"
    )


def _state(filesystem: FileSystem, directory: str, memory: Memory) -> Iterator[str]:
    found = recover(filesystem, directory, memory)
    last_index = found.tail.next_index - 1
    if found.torn_bytes:
        yield f"a torn write after entry {last_index}; the next start cuts it"
    if found.places.segments and last_index >= found.places.first_index:
        yield (
            f"good: entries {found.places.first_index} to {last_index}, "
            f"committed at least to {found.commit_index}"
        )
    else:
        yield "good: no entries"
