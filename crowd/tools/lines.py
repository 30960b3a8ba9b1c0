"""A log file of lines, written in large pieces: one write for hundreds of requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crowd.tools.loop import Loop

FLUSH_EVERY_S: Final = 0.1
"""How far the file may be behind; a person or a script that follows it sees no delay."""

_LINES_MAX: Final = 1_000
"""Lines held back at most: some hundred kilobytes."""


class LineFile:
    """Appends to the file at `path`; `loop` brings the lines there at least ten times a second."""

    def __init__(self, path: str | Path, loop: Loop) -> None:
        self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 - as long as the tool runs
        self._loop = loop
        self._lines: list[bytes] = []
        self._tick()

    def add(self, line: bytes) -> None:
        """Write a line; its end is added."""
        self._lines.append(line)
        if len(self._lines) >= _LINES_MAX:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._file.close()

    def _tick(self) -> None:
        if not self._file.closed:
            self._flush()
            self._loop.call_at(self._loop.now_s() + FLUSH_EVERY_S, self._tick)

    def _flush(self) -> None:
        if self._lines:
            self._lines.append(b"")
            rest = memoryview(b"\n".join(self._lines))
            self._lines.clear()
            while rest:
                rest = rest[self._file.write(rest) :]
