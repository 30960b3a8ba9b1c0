"""What commands say to a person, and what they ask.

Decides where a line goes, how a table looks and what a port is. Leaves the words to each command.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def port_number(text: str) -> int:
    """Return the port that an argument names, 0 for a free one; raise ArgumentTypeError."""
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a port, 0 to 65535")
    return int(text)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def complain(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr)


def confirmed(question: str) -> bool:
    """Ask at a terminal; without one the answer is no, and how to say yes is told."""
    if not sys.stdin.isatty():
        complain("found no terminal to ask at; expected --yes")
        return False
    try:
        return input(question).strip() == "yes"
    except EOFError:
        return False


def table_lines(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return rows under their heads, in columns; numbers stand on the right, None is a dash."""
    cells = [["-" if value is None else str(value) for value in row] for row in rows]
    wide = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    right = [
        bool(rows) and all(value is None or isinstance(value, int) for value in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(heads)
    return [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, wide, right, strict=True)
        ).rstrip()
        for line in (heads, *cells)
    ]
