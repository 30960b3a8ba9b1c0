"""Opens a journal: takes the directory, reads it, mends what a crash may leave.

Decides what is checked before a node may use its directory, and what is written before the
first entry. Blocks the reactor: nothing is served before the journal is known to be good.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

import msgspec
from twisted.logger import Logger

from crowd.errors import DamagedError, DirectoryError, StorageFailedError
from crowd.raft.journal.appender import SUFFIX, Appender, Batch, segment_name
from crowd.raft.journal.journal import Journal
from crowd.raft.journal.memory import FILE_NAME, Memory, MemoryFile, create_memory, open_memory
from crowd.raft.journal.places import Segment
from crowd.raft.journal.recovery import Found, recover
from crowd.raft.journal.shape import SEGMENT_HEADER_BYTES, SegmentHeader, encode_segment_header
from crowd.raft.journal.spare import NO_SPACE
from crowd.raft.journal.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.raft.journal.ports import File, FileSystem, Writer

SEGMENT_BYTES: Final = 64 << 20
"""A disk writes it in a second; 20 GiB of backlog are 320 files."""
CACHE_BYTES: Final = 8 << 20
"""A second of entries at full load: what followers and consumers that keep up ask for."""
JOURNAL_ID_BYTES: Final = 16
LOCK_NAME: Final = "lock"
FIRST_ENTRY: Final = (b"\x01", 1, 0)
"""What every log begins with: pysyncobj's no-op, as it would add it itself."""

_log = Logger()


def open_journal(  # noqa: PLR0913  its ports and sizes, by name
    directory: str,
    *,
    cluster: str,
    node: str,
    filesystem: FileSystem,
    writer: Writer,
    background: Writer | None = None,
    checkpoint_index: Callable[[], int] = lambda: 0,
    segment_bytes: int = SEGMENT_BYTES,
    cache_bytes: int = CACHE_BYTES,
    seconds: Callable[[], float] = time.perf_counter,
    draw: Callable[[int], bytes] = secrets.token_bytes,
) -> Journal:
    """Return the journal in `directory`, made if there is none.

    All of it is verified, but for segments whose entries are all at or below
    `checkpoint_index` and whose index files are good. It is asked once this process has the
    directory's lock; 0 says that there is no checkpoint.
    `background` does what may take long, the scrub and index files; without one the `writer`
    does it. The journal closes both.

    `seconds` is a clock that does not go back, for the counters; `draw` gives random bytes.
    Every entry that is returned is durable, also one that a killed process left unsynced.

    Raises DirectoryError if another process uses the directory or it belongs to another node
    or cluster; DamagedError with file, offset and index if anything but a torn last batch is
    bad (the log is left as it is then); StorageFailedError if the disk fails. Blocks.
    """
    try:
        filesystem.make_directory(directory)
        lock = filesystem.lock(f"{directory}/{LOCK_NAME}")
    except OSError as error:
        raise DirectoryError(f"{directory}: cannot be used: {error}") from error
    try:
        memory_file = _open_memory(filesystem, directory, cluster, node, draw)
        found = recover(filesystem, directory, memory_file.memory, checkpoint_index())
        file = _mend(filesystem, directory, found)
        if found.terms.last > memory_file.memory.term:
            # An entry of a later term became durable before that term itself did. No vote of
            # that term was given away, as a vote leaves only when it is durable.
            later = {"term": found.terms.last, "vote": None}
            memory_file.write(msgspec.structs.replace(memory_file.memory, **later))
        appender = Appender(
            filesystem, directory, memory_file, found.tail, file,
            segment_bytes=segment_bytes, seconds=seconds, draw=draw,
        )  # fmt: skip
        if found.tail.batch == 1:
            _begin(found, appender)
        # The last start's was removed with what a crash may have left.
        appender.reserve()
    except OSError as error:
        lock.close()
        raise StorageFailedError(f"{directory}: could not open the journal: {error}") from error
    except BaseException:
        lock.close()
        raise
    return Journal(
        found, memory_file.memory, appender, writer, background or writer, lock, filesystem,
        directory, cache_bytes=cache_bytes,
    )  # fmt: skip


def _open_memory(
    filesystem: FileSystem,
    directory: str,
    cluster: str,
    node: str,
    draw: Callable[[int], bytes],
) -> MemoryFile:
    try:
        memory_file, mended = open_memory(filesystem, directory)
    except FileNotFoundError:
        return _new_memory(filesystem, directory, Memory(draw(JOURNAL_ID_BYTES), cluster, node))
    if mended:
        _log.warn("{directory}: one copy of term and vote was bad; mended", directory=directory)
    memory = memory_file.memory
    if (memory.cluster, memory.node) != (cluster, node):
        memory_file.close()
        raise DirectoryError(
            f"{directory}: found the journal of node {memory.node!r} of cluster "
            f"{memory.cluster!r}; expected node {node!r} of cluster {cluster!r}"
        )
    return memory_file


def _new_memory(filesystem: FileSystem, directory: str, memory: Memory) -> MemoryFile:
    """Make the memory of a new journal. It comes first: segments alone are no journal."""
    if any(name.endswith(SUFFIX) for name in filesystem.names(directory)):
        raise DamagedError(
            "a log without its term and vote", place=f"{directory}/{FILE_NAME}, offset 0"
        )
    return create_memory(filesystem, directory, memory)


def _mend(filesystem: FileSystem, directory: str, found: Found) -> File | None:
    """Remove what a crash left; return the last segment's file, ready to be appended to."""
    for name in found.stray:
        filesystem.remove(f"{directory}/{name}")
    for header in found.bad_headers:
        _mend_header(filesystem, directory, header)
    # The last segment's name: a process that was killed may not have come to this, and
    # entries in that segment are about to be called durable.
    filesystem.sync_directory(directory)
    if not found.places.segments:
        return None
    segment = found.places.segments[-1]
    file = filesystem.open(f"{directory}/{segment.name}")
    if found.torn_bytes:
        size_bytes = file.size()
        file.truncate(segment.used_bytes)
        try:
            file.allocate(size_bytes)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            # Without room kept the next append finds out for itself whether there is some.
            _log.warn("{name}: no space to keep for it: {error}", name=segment.name, error=error)
        # The cut is durable before anything is appended after it: with half of the old batch
        # behind a new one, the next start might find what no crash can leave.
        file.sync()
        _log.warn(
            "{directory}: cut a torn write of {name} at offset {offset}, after index {index}",
            directory=directory,
            name=segment.name,
            offset=segment.used_bytes,
            index=found.tail.next_index - 1,
        )
    return file


def _mend_header(filesystem: FileSystem, directory: str, header: SegmentHeader) -> None:
    """Write a segment's header again from its index file, durably."""
    name = segment_name(header.number)
    file = filesystem.open(f"{directory}/{name}")
    try:
        file.write(encode_segment_header(header), 0)
        file.sync()
    finally:
        file.close()
    _log.warn("{directory}: mended the header of {name}", directory=directory, name=name)


def _begin(found: Found, appender: Appender) -> None:
    """Write the first entry of a new log, or of one whose making a crash cut short."""
    places = found.places
    if not places.segments:
        appender.prepare(wholly=True)  # nobody waits yet; later segments are prepared in pieces
    appended = appender.append(Batch(None, [FIRST_ENTRY], 1))
    for begun in appended.begun:
        places.add_segment(
            Segment(begun.header, begun.name, Summary(begun.header, SEGMENT_HEADER_BYTES))
        )
    summary = places.segments[-1].summary
    assert summary is not None
    summary.take(appended.start, appended.end, 1, None, appended.offsets, [FIRST_ENTRY])
    places.extend(1, appended.end)
    found.last_start = appended.start
    found.terms.add(1, 0)
    found.confirmed = False
