"""``Prefer: wait=N`` of a producer's request: how long it would wait for the consumer. Pure.

Decides what is read of the field (RFC 7240), and what of it travels on: all but ``wait``, which is
this hop's. Leaves to ``waiting`` what becomes of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crowd.web.fields import Field

_PREFER: Final = b"prefer"

_ELEMENT: Final = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
"""A preference with its parameters. A comma within quotes ends none."""

_WAIT: Final = re.compile(
    rb'wait[ \t]*=[ \t]*(?:"([0-9]+)"|([0-9]+))[ \t]*(?:;.*)?\Z', re.IGNORECASE | re.DOTALL
)
"""RFC 7240, sections 2 and 4.3: whole seconds."""

_DIGITS_MAX: Final = 9
SECONDS_MAX: Final = 10**_DIGITS_MAX - 1
"""Thirty years: more is as good as this. Thousands of digits would be no number to Python."""


def read_wait(headers: Iterable[Field]) -> tuple[int | None, list[Field]]:
    """Return the seconds of the first ``wait`` among `headers`, if any, and the fields without one.

    The seconds are `SECONDS_MAX` at most, whatever is asked for.
    What cannot be read is no wait, and stays as it came; so does a field that has none.
    """
    wait_s: int | None = None
    kept: list[Field] = []
    for name, value in headers:
        if name.lower() != _PREFER:
            kept.append((name, value))
            continue
        elements = [each.strip() for each in _ELEMENT.findall(value)]
        others = []
        for element in elements:
            found = _WAIT.match(element)
            if found is None:
                others.append(element)
            elif wait_s is None:  # of several, the first counts (section 2)
                digits = (found[1] or found[2]).lstrip(b"0")
                wait_s = int(digits or b"0") if len(digits) <= _DIGITS_MAX else SECONDS_MAX
        if len(others) == len(elements):
            kept.append((name, value))
        elif any(others):
            kept.append((name, b", ".join(filter(None, others))))
    return wait_s, kept
