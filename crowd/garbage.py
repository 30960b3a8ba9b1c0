"""When the interpreter looks for cycles of objects, in every process that takes requests."""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (50_000, 20, 100)
"""A request makes few cycles; the default thresholds would look for some 30 times a second."""


def settle() -> None:
    """Keep what there is by now out of every later search. Once the process is built."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
