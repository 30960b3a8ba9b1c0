"""A slice of the log that is read when it is looked at.

A follower or consumer that is far behind asks for a million entries; the view costs three
numbers, and each entry is read as it is taken (pysyncobj's L10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crowd.raft.journal.shape import Entry


class EntryView:
    """Consecutive entries. It shows the log as it is when read, so use it at once."""

    __slots__ = ("_count", "_entry", "_first_index")

    def __init__(self, entry: Callable[[int], Entry], first_index: int, count: int) -> None:
        self._entry = entry
        self._first_index = first_index
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        for index in range(self._first_index, self._first_index + self._count):
            yield self._entry(index)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> EntryView: ...
    def __getitem__(self, place: int | slice) -> Entry | EntryView:
        if isinstance(place, slice):
            start, stop, step = place.indices(self._count)
            assert step == 1, "entries are taken in their order"
            return EntryView(self._entry, self._first_index + start, max(0, stop - start))
        if not -self._count <= place < self._count:
            raise IndexError(f"no entry at place {place} of {self._count}")
        return self._entry(self._first_index + place % self._count)
