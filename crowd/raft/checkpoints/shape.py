"""A checkpoint's bytes. Pure.

Decides how they are laid out and what makes them valid;
``docs/reference/checkpoint-format.md`` draws them. Leaves to others what the sections say
(``crowd/ledger``), where the file stands and when it is durable.

A file is a header, the command of the entry at the checkpoint's index, the ledger's
sections, and the SHA-256 of all that. Everything has a checksum of its own beside that one,
so that a flaw has a place. All integers are little-endian; the short checksums are CRC-32C.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from typing import TYPE_CHECKING, Final

import msgspec
from google_crc32c import extend as crc32c

from crowd.errors import DamagedError, NeedsNewerCrowdError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAGIC: Final = b"\x89crowdC\n"
"""Not text, and changed by a transfer that believes it is, as the journal's are."""
FORMAT: Final = 1
CLUSTER_BYTES: Final = 64
"""A cluster's name is a DNS label of at most 63 bytes; zeros follow it."""

# magic, format, sections, index, term, tip, log time, size, cluster
_HEADER: Final = struct.Struct(f"<8sIIQQQQQ{CLUSTER_BYTES}s")
_CRC: Final = struct.Struct("<I")
_LENGTH: Final = struct.Struct("<Q")
HEADER_BYTES: Final = _HEADER.size + _CRC.size
SECTION_OVERHEAD_BYTES: Final = _LENGTH.size + _CRC.size
DIGEST_BYTES: Final = 32
SIZE_BYTES_MIN: Final = HEADER_BYTES + SECTION_OVERHEAD_BYTES + DIGEST_BYTES
"""An empty command and no section."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """What a ledger says of itself when it is captured.

    ``index`` and ``term`` are those of the last entry applied, ``tip`` is the last position
    given, ``log_time_us`` the log's time in microseconds since 1970.
    """

    index: int
    term: int
    tip: int
    log_time_us: int


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """A durable copy of the ledger at `index`, known by `digest`.

    ``size_bytes`` is the file's length; ``digest`` the SHA-256 that the file ends with.
    ``installed`` is False for one that was received and verified, but that the node has not
    begun to use.
    """

    index: int
    term: int
    tip: int
    log_time_us: int
    size_bytes: int
    digest: bytes
    installed: bool = True


class Header(msgspec.Struct, frozen=True, gc=False):
    """What a file's first bytes say. ``sections`` does not count the entry's command."""

    head: Head
    sections: int
    size_bytes: int
    cluster: str


def encode_header(header: Header) -> bytes:
    """Return the first `HEADER_BYTES` of a checkpoint."""
    head = header.head
    data = _HEADER.pack(
        MAGIC, FORMAT, header.sections, head.index, head.term, head.tip, head.log_time_us,
        header.size_bytes, header.cluster.encode("ascii"),
    )  # fmt: skip
    return data + _CRC.pack(crc32c(0, data))


def decode_header(data: bytes) -> Header | str:
    """Return the header that `data` begins with, or what is wrong with it.

    Raises NeedsNewerCrowdError if it is a good header of another format.
    """
    if len(data) < HEADER_BYTES:
        return f"a checkpoint of {len(data)} bytes; expected at least {SIZE_BYTES_MIN}"
    magic, version, sections, index, term, tip, time_us, size, cluster = _HEADER.unpack_from(data)
    if magic != MAGIC:
        return "no checkpoint (its first eight bytes are wrong)"
    if crc32c(0, data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        return "a checkpoint's header does not match its checksum"
    if version != FORMAT:
        raise NeedsNewerCrowdError(f"found a checkpoint of format {version}; expected {FORMAT}")
    if size < SIZE_BYTES_MIN:
        return f"a checkpoint that claims {size} bytes; expected at least {SIZE_BYTES_MIN}"
    name = cluster.rstrip(b"\0").decode("ascii", "replace")
    return Header(Head(index, term, tip, time_us), sections, size, name)


class Encoding:
    """One checkpoint's bytes, in pieces; no more than two pieces are ever copied.

    Iterate once. ``size_bytes`` is known from the start, ``digest`` when all pieces are out.
    """

    def __init__(
        self,
        head: Head,
        cluster: str,
        command: bytes,
        sections: Sequence[bytes],
        *,
        piece_bytes: int,
    ) -> None:
        self._bodies = (command, *sections)
        self._piece_bytes = piece_bytes
        bodies_bytes = sum(len(body) + SECTION_OVERHEAD_BYTES for body in self._bodies)
        self.size_bytes = HEADER_BYTES + bodies_bytes + DIGEST_BYTES
        self._header = encode_header(Header(head, len(sections), self.size_bytes, cluster))
        self.digest = b""

    def __iter__(self) -> Iterator[bytes]:
        sha = hashlib.sha256()
        waiting: list[bytes | memoryview] = []
        room = self._piece_bytes
        for part in self._parts():
            view = memoryview(part)
            while len(view) >= room:
                piece = b"".join((*waiting, view[:room]))
                view = view[room:]
                waiting.clear()
                room = self._piece_bytes
                sha.update(piece)
                yield piece
            if view:
                waiting.append(view)
                room -= len(view)
        rest = b"".join(waiting)
        sha.update(rest)
        self.digest = sha.digest()
        rest += self.digest
        for start in range(0, len(rest), self._piece_bytes):
            yield rest[start : start + self._piece_bytes]

    def _parts(self) -> Iterator[bytes]:
        yield self._header
        for body in self._bodies:
            length = _LENGTH.pack(len(body))
            yield length
            # The checksum stands behind the bytes, so that one pass over them is enough, and
            # no step of it is longer than a piece.
            crc = crc32c(0, length)
            for start in range(0, len(body), self._piece_bytes):
                part = body[start : start + self._piece_bytes]
                crc = crc32c(crc, part)
                yield part
            yield _CRC.pack(crc)


class _Next(enum.Enum):
    """What the verifier expects now, with the name of the state after the bytes of it."""

    HEADER = enum.auto()
    LENGTH = enum.auto()
    BODY = enum.auto()
    CRC = enum.auto()
    DIGEST = enum.auto()
    NOTHING = enum.auto()


_FIXED_BYTES: Final = {
    _Next.HEADER: HEADER_BYTES,
    _Next.LENGTH: _LENGTH.size,
    _Next.CRC: _CRC.size,
    _Next.DIGEST: DIGEST_BYTES,
}


class Verifier:
    """Reads one checkpoint's bytes as they come and raises at the first that is not good.

    `path` is for the errors. With `keep` the command and the sections are kept, in ``bodies``;
    otherwise memory stays at a few bytes. Takes about a millisecond for a MiB.
    """

    def __init__(self, path: str, cluster: str, *, keep: bool = False) -> None:
        self._path, self._cluster, self._keep = path, cluster, keep
        self._next = _Next.HEADER
        self._small = bytearray()
        self._offset = 0
        self._sha = hashlib.sha256()
        self._header: Header | None = None
        self._bodies_left = 0
        self._body_bytes_left = 0
        self._crc = 0
        self._parts: list[bytes] = []
        self._digest = b""
        self.bodies: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises DamagedError with the offset of what is wrong, and NeedsNewerCrowdError.
        """
        view = memoryview(data)
        while view:
            if self._next is _Next.NOTHING:
                raise self._damaged("bytes after the end", self._offset)
            if self._next is _Next.BODY:
                part = view[: self._body_bytes_left]
                self._take_body(bytes(part))
            else:
                part = view[: _FIXED_BYTES[self._next] - len(self._small)]
                self._take_fixed(part)
            view = view[len(part) :]

    def end(self) -> Checkpoint:
        """Return what all of it was. Raises DamagedError if there should have been more."""
        header = self._header
        if self._next is not _Next.NOTHING or header is None:
            raise self._damaged("a checkpoint that is cut short", self._offset)
        head = header.head
        return Checkpoint(
            head.index, head.term, head.tip, head.log_time_us, header.size_bytes, self._digest
        )

    def _take_body(self, part: bytes) -> None:
        self._sha.update(part)
        self._crc = crc32c(self._crc, part)
        if self._keep:
            self._parts.append(part)
        self._offset += len(part)
        self._body_bytes_left -= len(part)
        if not self._body_bytes_left:
            self._next = _Next.CRC

    def _take_fixed(self, part: memoryview) -> None:
        self._small += part
        self._offset += len(part)
        if len(self._small) < _FIXED_BYTES[self._next]:
            return
        data = bytes(self._small)
        self._small.clear()
        if self._next is not _Next.DIGEST:
            self._sha.update(data)
        start = self._offset - len(data)
        if self._next is _Next.HEADER:
            self._take_header(data)
        elif self._next is _Next.LENGTH:
            self._take_length(data, start)
        elif self._next is _Next.CRC:
            if _CRC.unpack(data)[0] != self._crc:
                raise self._damaged("a section does not match its checksum", start)
            self._end_body()
        else:
            self._digest = data
            if data != self._sha.digest():
                raise self._damaged("a checkpoint does not match its SHA-256", start)
            self._next = _Next.NOTHING

    def _take_header(self, data: bytes) -> None:
        header = decode_header(data)
        if isinstance(header, str):
            raise self._damaged(header, 0)
        if header.cluster != self._cluster:
            raise self._damaged(
                f"a checkpoint of cluster {header.cluster!r}; expected {self._cluster!r}", 0
            )
        self._header = header
        self._bodies_left = header.sections + 1
        self._next = _Next.LENGTH

    def _take_length(self, data: bytes, start: int) -> None:
        assert self._header is not None
        self._body_bytes_left = _LENGTH.unpack(data)[0]
        if (
            self._offset + self._body_bytes_left + _CRC.size
            > self._header.size_bytes - DIGEST_BYTES
        ):
            # Before a byte of it is kept: a wrong length must not cost memory.
            raise self._damaged("a section is longer than its checkpoint", start)
        self._crc = crc32c(0, data)
        self._next = _Next.BODY if self._body_bytes_left else _Next.CRC

    def _end_body(self) -> None:
        assert self._header is not None
        if self._keep:
            self.bodies.append(b"".join(self._parts))
            self._parts.clear()
        self._bodies_left -= 1
        self._next = _Next.LENGTH if self._bodies_left else _Next.DIGEST
        if not self._bodies_left and self._offset != self._header.size_bytes - DIGEST_BYTES:
            raise self._damaged("a checkpoint is longer than its sections", self._offset)

    def _damaged(self, what: str, offset: int) -> DamagedError:
        return DamagedError(what, place=f"{self._path}, offset {offset}")
