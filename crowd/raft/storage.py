"""A node's directory: its journal, its checkpoints and its letters, opened so that they fit together.

Decides what of the log must be read at start (what lies above the newest whole checkpoint), and
which checkpoint the ledger is restored from. Leaves their bytes to ``journal`` and
``checkpoints``. Mends D4 and D5 (docs/explanation/engine-defects.md).

The journal's lock is taken first: nothing of a directory is touched that another process uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from twisted.logger import Logger

from crowd.errors import DamagedError, FatalError
from crowd.raft.checkpoints import PIECE_BYTES, open_store
from crowd.raft.journal import open_journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.raft.checkpoints import Checkpoint, CheckpointStore, Loaded
    from crowd.raft.journal import Journal
    from crowd.raft.journal.ports import FileSystem, Writer
    from crowd.raft.letters import LetterStore

_log = Logger()


class Storage(NamedTuple):
    """What a node has on its disk. `restored` is the checkpoint to begin from, if there is one."""

    journal: Journal
    store: CheckpointStore
    letters: LetterStore
    restored: tuple[Checkpoint, Loaded] | None


def open_storage(
    directory: str,
    *,
    cluster: str,
    node: str,
    filesystem: FileSystem,
    writer: Writer,
    background: Writer,
    letters: Callable[[], LetterStore],
    piece_bytes: int = PIECE_BYTES,
    **sizes: object,
) -> Storage:
    """Open a node's directory, made if there is none. Blocks.

    `writer` is the log's own thread, `background` does what can wait; `letters` opens the
    letters. `sizes` go to the journal, `piece_bytes` to the checkpoints. A snapshot that was received whole but not installed when the node ended is
    installed now. Raises as `open_journal` and `letters`; DamagedError too if the log ends below
    its own checkpoint, or begins above every one that is whole.
    """
    opened: list[tuple[CheckpointStore, tuple[Checkpoint, Loaded] | None]] = []

    def covered() -> int:
        store = open_store(
            directory, cluster=cluster, filesystem=filesystem, background=background,
            piece_bytes=piece_bytes,
        )  # fmt: skip
        found = _newest_whole(store)
        opened.append((store, found))
        return found[0].index if found is not None else 0

    journal = open_journal(
        directory, cluster=cluster, node=node, filesystem=filesystem, writer=writer,
        background=background, checkpoint_index=covered, **sizes,  # type: ignore[arg-type]
    )  # fmt: skip
    ((store, restored),) = opened
    if store.received is not None and (restored is None or restored[0] != store.received):
        store.discard()  # overtaken: the log went on before it was installed
    try:
        _fit(directory, journal, store, restored)
        kept = letters()
    except FatalError:
        journal.close()
        raise
    return Storage(journal, store, kept, restored)


def _newest_whole(store: CheckpointStore) -> tuple[Checkpoint, Loaded] | None:
    """Return the newest checkpoint whose every byte is good, with what it holds."""
    received = () if store.received is None else (store.received,)
    for checkpoint in sorted(
        (*store.checkpoints, *received), key=lambda found: found.index, reverse=True
    ):
        try:
            return checkpoint, store.load(checkpoint)
        except DamagedError as error:
            _log.error("a checkpoint is not used: {error}", error=error)
    return None


def _fit(
    directory: str,
    journal: Journal,
    store: CheckpointStore,
    restored: tuple[Checkpoint, Loaded] | None,
) -> None:
    """Have the log hold the checkpoint's entry, or say why that cannot be."""
    if restored is None:
        if journal.first_index > 1:
            raise DamagedError(
                f"a log that begins at index {journal.first_index}, and no whole checkpoint",
                place=f"{directory}: {', '.join(store.damaged) or 'no checkpoint'}",
            )
        return
    checkpoint, loaded = restored
    index, term = checkpoint.index, checkpoint.term
    within = journal.first_index <= index <= journal.last_index
    if within and journal.term_at(index) == term:
        return
    if not checkpoint.installed:
        # The node ended between the snapshot's last byte and the log's new beginning.
        journal.clear()
        journal.add(*loaded.entry)
        return
    raise DamagedError(
        f"a checkpoint at index {index} of term {term}, and a log from {journal.first_index} "
        f"to {journal.last_index} without that entry",
        place=directory,
    )
