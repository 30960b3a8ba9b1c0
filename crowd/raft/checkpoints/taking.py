"""A checkpoint that is being taken.

Decides what comes before it counts: all its bytes are durable, and so are the log's entries
that made it; then its name. A ledger that a restart finds is never ahead of its log. In the
reactor only; ``files`` does the work in the background.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from crowd.raft.checkpoints.files import CHECKPOINT
from crowd.raft.checkpoints.shape import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.errors import NoSpaceError
    from crowd.raft.checkpoints.background import Background
    from crowd.raft.checkpoints.files import Files
    from crowd.raft.checkpoints.shape import Encoding, Head


class Taking:
    """One checkpoint, from its first byte to its name. `done` is called once, unless abandoned."""

    def __init__(
        self,
        files: Files,
        background: Background,
        head: Head,
        encoding: Encoding,
        *,
        durable: Callable[[], bool],
        done: Callable[[Checkpoint | NoSpaceError], None],
    ) -> None:
        self._files, self._background = files, background
        self._head, self._encoding = head, encoding
        self._durable, self._done = durable, done
        self._part = files.new_part()
        self._written = self._naming = self._abandoned = False
        self._work = background.run(
            "write a checkpoint", files.write(self._part, encoding), self._wrote
        )

    @property
    def name(self) -> str:
        """The name that its file gets."""
        return f"{self._head.index:016d}{CHECKPOINT}"

    def poke(self) -> None:
        """Give it its name, if it is written and the log's entries are durable by now."""
        if not self._written or self._naming or not self._durable():
            return
        self._naming = True
        self._background.do(
            "name a checkpoint",
            partial(self._files.publish, self._part, f"{self._files.directory}/{self.name}"),
            self._named,
        )

    def abandon(self) -> None:
        """Leave nothing of it, and call nothing any more."""
        self._abandoned = True
        if self._naming:
            return  # and `_named` removes it
        if self._written:
            self._remove(self._part.rpartition("/")[2])
        else:
            self._work.stop()  # and `_wrote` removes it

    def _wrote(self, result: NoSpaceError | None) -> None:
        if self._abandoned:
            self._remove(self._part.rpartition("/")[2])
        elif result is not None:
            self._done(result)
        else:
            self._written = True
            self.poke()

    def _named(self, result: NoSpaceError | None) -> None:
        if self._abandoned:
            self._remove(self.name)
        elif result is not None:
            self._done(result)
        else:
            head, encoding = self._head, self._encoding
            self._done(
                Checkpoint(
                    head.index, head.term, head.tip, head.log_time_us, encoding.size_bytes,
                    encoding.digest,
                )
            )  # fmt: skip

    def _remove(self, name: str) -> None:
        job = partial(self._files.remove, (name,))
        self._background.do("remove a checkpoint", job, lambda _: None)
