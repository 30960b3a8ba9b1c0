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
from crowd.raft.journal.scrub import Scrubbed, Scrubber, Target
from crowd.raft.journal.shape import SEGMENT_HEADER_BYTES, Kind, decode_segment_header
from crowd.raft.journal.sidecar import load_index, open_index, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crowd.raft.journal.ports import FileSystem
    from crowd.raft.journal.recovery import FoundBatch
    from crowd.raft.journal.shape import SegmentHeader


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
            yield from _segment(filesystem, directory, name, is_last=name == names[-1])
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


def _segment(filesystem: FileSystem, directory: str, name: str, *, is_last: bool) -> Iterator[str]:
    file = filesystem.open(f"{directory}/{name}")
    try:
        header = decode_segment_header(file.read(SEGMENT_HEADER_BYTES, 0))
        if isinstance(header, str):
            yield f"{name}: {header}"
            file_header = _known_header(filesystem, directory, int(name[:16]))
            if is_last or file_header is None:
                return
            yield f"{name}: its index file has it, the next start writes it anew"
            header = file_header
        said = _index(filesystem, directory, header, is_last=is_last)
        yield f"{name}: {file.size()} bytes, from batch {header.first_batch}; {said}"
        for batch in batches(file, header.salt, header.first_batch):
            yield f"  {_batch(batch)}"
    finally:
        file.close()
    if not is_last:
        yield from _flaws(filesystem, directory, name, header)


def _known_header(filesystem: FileSystem, directory: str, number: int) -> SegmentHeader | None:
    file = open_index(filesystem, directory, number)
    if file is None:
        return None
    try:
        head = read_head(file)
    finally:
        file.close()
    return head.header if head is not None else None


def _index(filesystem: FileSystem, directory: str, header: SegmentHeader, *, is_last: bool) -> str:
    if is_last:
        return "still written to"
    if load_index(filesystem, directory, header) is not None:
        return "its index file is good"
    return "its index file is missing or bad, the next start makes it"


def _flaws(
    filesystem: FileSystem, directory: str, name: str, header: SegmentHeader
) -> Iterator[str]:
    """Tell all that is bad in a segment, where its index file says what belongs there."""
    summary = load_index(filesystem, directory, header)
    if summary is None:
        return  # what is said of the whole log names the first flaw
    scrubber = Scrubber(filesystem, directory)
    result = Scrubbed()
    try:
        while not result.finished:
            result = scrubber.step(Target(name, header, summary))
            for flaw in result.flaws:
                entries = range(flaw.first_index, flaw.last_index + 1)
                what = f"entry {entries[0]}" if entries else "what is no entry of the log"
                yield f"  bad: {what} at {flaw.place}; a running node mends it from its peers"
            for rewrite in result.rewrites:
                yield f"  bad: a header at offset {rewrite.start}; a running node mends it"
    finally:
        scrubber.close()


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
