"""Idempotency keys: which ones are known, for which request, and what it became.

Decides whether a message is the first under its key, for how long that is remembered, and how
it is held: in segments by time, as the bytes that a capture takes. Leaves where a key stands
to ``key_index``, what a message without a position means to ``ledger``, and digests to the
node that took the request (``crowd/web/idempotency``).

A key is remembered for the window at least, by the log's own time, and at most for a sixteenth
of that longer, as a segment goes whole. There are at most so many: where there would be more,
the oldest segment goes early, which is counted. Segments go with entries that accept.

Invariant: positions rise from record to record and from segment to segment; so do log times.
Invariant: a key is in one record.
Invariant: what goes when is a function of the entries applied, bounds among them.
"""

from __future__ import annotations

import hashlib
from collections import deque
from itertools import chain, pairwise
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crowd.definition import KeyBounds
from crowd.idempotency import (
    DIGEST_BYTES,
    DIGESTS_BYTES,
    KEYED_BYTES,
    MISMATCH,
    keyed_messages,
    pack_left_out,
)
from crowd.ledger.head import KEY_SEGMENTS_MAX, expect
from crowd.ledger.key_index import NUMBERS, RECORD_BYTES, KeyIndex, keys_of
from crowd.value import INTEGER_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crowd.ledger.head import Head

SEGMENT_KEYS_MAX: Final = 4_096
"""Keys in a segment: 160 KiB, sealed in some hundred microseconds and dropped in a few
milliseconds at most. So half a million keys are 123 segments."""

SHARES: Final = 16
"""A segment takes the keys of a sixteenth of the window, and of the bound, at most."""

DROPPED_MAX: Final = SEGMENT_KEYS_MAX
"""Keys after which no more segments go with one entry, beside as many as came with it: a few
milliseconds. What is due beyond them, after a silence or with a lower bound, goes with the next
entries; until then it is known."""


_POSITIONS: Final = Struct(f">{DIGESTS_BYTES}xQ")


class KeyTally(msgspec.Struct, frozen=True, gc=False):
    """What keys came to since the cluster began: the same on every node.

    ``replays`` and ``mismatches`` are messages that were not stored. ``evicted`` keys went
    before the window was over, the last ones at the log time ``evicted_us``, 0 for never.
    """

    replays: int = 0
    mismatches: int = 0
    evicted: int = 0
    evicted_us: int = 0


class _Segment(msgspec.Struct, frozen=True, gc=False):
    """A sealed segment. Its newest key came at ``last_us``."""

    number: int
    last_us: int
    section: bytes
    sha256: bytes

    @property
    def count(self) -> int:
        """How many keys it has."""
        return len(self.section) // RECORD_BYTES


class Keys:
    """All keys that are known. Only the ledger changes them."""

    def __init__(self) -> None:
        self.bounds = KeyBounds()
        self.tally = KeyTally()
        self.due_us = INTEGER_MAX
        """The log time from which on `tidy` has something to do."""
        self._index = KeyIndex()
        self._room = _room(self.bounds)
        self._sealed: deque[_Segment] = deque()
        self._sealed_keys = 0
        self._open = bytearray()
        self._open_number = 0
        self._may_drop = 0  # keys that may still go with this entry; set where one begins
        self._since_us = 0  # of the open segment's first key
        self._last_us = 0  # and of its newest

    @property
    def held(self) -> int:
        """How many keys are known."""
        return self._sealed_keys + len(self._open) // RECORD_BYTES

    # --- What entries do --------------------------------------------------------------------------

    def bound(self, bounds: KeyBounds, log_time_us: int) -> None:
        """Hold to `bounds` from now on. What they leave no room for goes with the next entries."""
        self.bounds, self._room = bounds, _room(bounds)
        self._may_drop = DROPPED_MAX
        if len(self._open) >= self._room * RECORD_BYTES:
            self._seal(log_time_us)
        self._look()

    def tidy(self, log_time_us: int) -> None:
        """Seal what is due to be sealed, and drop what is over: not all at once, if it is much.

        To be called before a batch is accepted, when it is `due_us`.
        """
        self._may_drop = DROPPED_MAX
        if self._open and self._since_us + self._span_us <= log_time_us:
            self._seal(log_time_us)
        else:
            self._drop(log_time_us)
        self._look()

    def take(self, packed: bytes, first: int, log_time_us: int) -> bytes:
        """Look at a batch's keys, and remember those that are new; return what is left out.

        The batch's first message that is stored gets the position `first`, and those behind it
        the next. A key that is of a group is known by its first message's position: the others
        stand behind that, and a request of other messages has another digest. Costs a few
        microseconds a key.
        """
        if not self.bounds.count_max:
            return b""
        self._may_drop = DROPPED_MAX + len(packed) // KEYED_BYTES
        left_out: list[tuple[int, int, int]] = []
        without = mismatches = 0
        for place, count, key, request in keyed_messages(packed):
            record = self._index.find(key)
            if record is None:
                self._remember(key, request, first + place - without, log_time_us)
                continue
            without += count
            position = _first_of(record, request)
            left_out.append((place, count, position))
            if position == MISMATCH:
                mismatches += count
        self._look()
        if not left_out:
            return b""
        self.tally = msgspec.structs.replace(
            self.tally,
            replays=self.tally.replays + without - mismatches,
            mismatches=self.tally.mismatches + mismatches,
        )
        return pack_left_out(left_out)

    def known(self, packed: bytes, log_time_us: int) -> bytes:
        """Return what a batch with such keys would be left out of, if all of them are known; else nothing.

        As `take` says it, but nothing changes. A key that is past the window by this log time is
        not known, though it is held until the next batch.
        """
        past = self._past_through(log_time_us)
        spans: list[tuple[int, int, int]] = []
        for place, count, key, request in keyed_messages(packed):
            record = self._index.find(key) if self.bounds.count_max else None
            if record is None or _position_of(record) <= past:
                return b""
            spans.append((place, count, _first_of(record, request)))
        return pack_left_out(spans)

    def _past_through(self, log_time_us: int) -> int:
        """Return the last position under a key that is past the window; 0 if there is none."""
        through, since_us = 0, log_time_us - self.bounds.window_us
        for segment in self._sealed:
            if segment.last_us > since_us:
                return through
            through = _position_of(segment.section[-RECORD_BYTES:])
        if self._open and self._last_us <= since_us:
            through = _position_of(self._open[-RECORD_BYTES:])
        return through

    def _remember(self, key: bytes, request: bytes, position: int, log_time_us: int) -> None:
        opened = self._open
        if not opened:
            self._since_us = log_time_us
            self._index.segments[self._open_number] = opened
        self._last_us = log_time_us
        self._index.add(key, self._open_number, len(opened) // RECORD_BYTES)
        opened += key
        opened += request
        opened += position.to_bytes(8, "big")
        if len(opened) >= self._room * RECORD_BYTES:
            self._seal(log_time_us)

    def _seal(self, log_time_us: int) -> None:
        """Make the open segment's bytes immutable, and make room for the next one."""
        self._put(self._last_us, bytes(self._open))
        self._open = bytearray()
        self._since_us = self._last_us = 0
        self._drop(log_time_us)

    def _put(self, last_us: int, section: bytes) -> None:
        segment = _Segment(
            self._open_number, last_us, section, hashlib.sha256(section).digest()
        )  # fmt: skip
        self._sealed.append(segment)
        self._sealed_keys += segment.count
        self._index.segments[segment.number] = section
        self._open_number = (self._open_number + 1) % NUMBERS

    def _drop(self, log_time_us: int) -> None:
        """Drop the oldest segments: past the window, or for lack of room for an open one."""
        while self._sealed and self._may_drop > 0:
            oldest = self._sealed[0]
            is_early = oldest.last_us + self.bounds.window_us > log_time_us
            if is_early and not self._is_over():
                break
            self._sealed.popleft()
            self._sealed_keys -= oldest.count
            self._index.drop(oldest.number)
            self._may_drop -= oldest.count
            if is_early:
                evicted = self.tally.evicted + oldest.count
                self.tally = msgspec.structs.replace(
                    self.tally, evicted=evicted, evicted_us=log_time_us
                )

    def _is_over(self) -> bool:
        """Return whether there is no room for an open segment within the bounds."""
        over = self._sealed_keys + self._room > self.bounds.count_max
        return over or len(self._sealed) >= KEY_SEGMENTS_MAX

    @property
    def _span_us(self) -> int:
        return max(1, self.bounds.window_us // SHARES)

    def _look(self) -> None:
        """Find when `tidy` is due: at once, if more is over than could be dropped."""
        due_us = self._since_us + self._span_us if self._open else INTEGER_MAX
        if self._sealed:
            due_us = min(due_us, self._sealed[0].last_us + self.bounds.window_us)
            if self._is_over():
                due_us = 0
        self.due_us = due_us

    # --- Captured and restored --------------------------------------------------------------------

    def sections(self) -> Iterator[bytes]:
        """Yield each sealed segment, oldest first: bytes that were made when it was sealed."""
        return (segment.section for segment in self._sealed)

    def state(self) -> list[Any]:
        """Return all but the sealed segments as values that CBOR can say, and those as hashes."""
        return [
            list(msgspec.structs.astuple(self.bounds)),
            list(msgspec.structs.astuple(self.tally)),
            [[segment.last_us, segment.sha256] for segment in self._sealed],
            [self._since_us, self._last_us, bytes(self._open)],
        ]

    def restore(self, head: Head, sections: Sequence[bytes]) -> None:
        """Become, from empty, the keys whose state `head` holds and which `sections` are of.

        Raises MalformedError if they cannot be: this object is of no use then. That hashes are
        the head's is for the caller to compare. Costs some two microseconds a key.
        """
        part = head.keys
        self.bounds, self._room = part.bounds, _room(part.bounds)
        self.tally = KeyTally(*msgspec.structs.astuple(part.tally))
        expect(self.tally.evicted_us <= head.applied.log_time_us, what="keys")
        before, before_us, known = 0, 0, set[bytes]()
        for (last_us, _), section in zip(part.segments, sections, strict=True):
            expect(section != b"", before_us <= last_us, what="segments of keys")
            before, before_us = _checked(section, before, known), last_us
            self._index.add_all(self._open_number, section)
            self._put(last_us, section)
        opened = part.open
        before = _checked(opened.records, before, known)
        if opened.records:
            expect(before_us <= opened.since_us, what="open keys")
            self._open = bytearray(opened.records)
            self._index.add_all(self._open_number, opened.records)
            self._index.segments[self._open_number] = self._open
        else:
            expect(opened.since_us == opened.last_us == 0, what="open keys")
        expect(
            opened.since_us <= opened.last_us,
            max(before_us, opened.last_us) <= head.applied.log_time_us,
            len(self._open) < self._room * RECORD_BYTES,
            before <= head.accepted.tip,
            what="keys",
        )
        self._since_us, self._last_us = opened.since_us, opened.last_us
        self._look()


def _position_of(record: bytes | bytearray) -> int:
    return int.from_bytes(record[DIGESTS_BYTES:], "big")


def _first_of(record: bytes | bytearray, request: bytes) -> int:
    """Return where the first message under a key stands, `MISMATCH` if that is another request."""
    if record[DIGEST_BYTES:DIGESTS_BYTES] == request:
        return _position_of(record)
    return MISMATCH


def _room(bounds: KeyBounds) -> int:
    """Return how many keys a segment takes."""
    return max(1, min(SEGMENT_KEYS_MAX, bounds.count_max // SHARES))


def _checked(records: bytes, before: int, known: set[bytes]) -> int:
    """Return the last position of a segment, or `before`, and add its keys to those `known`.

    Raises MalformedError if a key is known, or a position is not above the one before it.
    """
    count, rest = divmod(len(records), RECORD_BYTES)
    expect(rest == 0, count <= SEGMENT_KEYS_MAX, what="segment of keys")
    positions: list[int] = [before, *chain.from_iterable(_POSITIONS.iter_unpack(records))]
    expected = len(known) + count
    known.update(keys_of(records))
    expect(
        all(one < other for one, other in pairwise(positions)), len(known) == expected, what="keys"
    )
    return positions[-1]
