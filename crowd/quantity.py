"""Sizes, durations, rates and times as people write them: ``"1 MiB"``, ``"5 s"``, ``"200/s"``.

Decides the units and their exact meaning. Leaves bounds to who asks. A number without a
unit is refused: whether 30 was seconds or milliseconds is not for a program to guess.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

SIZE_UNITS: Final = {
    "B": 1,
    "kB": 1_000,
    "KiB": 2**10,
    "MB": 1_000_000,
    "MiB": 2**20,
    "GB": 1_000_000_000,
    "GiB": 2**30,
    "TB": 1_000_000_000_000,
    "TiB": 2**40,
}
"""IEC 80000-13's binary prefixes beside SI's decimal ones; bytes."""

DURATION_UNITS: Final = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
"""Microseconds; a day has 24 hours."""

RATE_UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3_600.0}
"""Seconds."""

_AMOUNT = re.compile(r"([0-9][0-9_]{0,17}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)\Z")
_RATE = re.compile(r"([0-9][0-9_]{0,17}(?:\.[0-9]{1,9})?) ?/ ?([a-z]+)\Z")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?Z\Z"
)
_MONTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DAYS_TO_1970: Final = 719_162
"""From 1 January of the year 1, in the calendar of today."""


def size_bytes(text: str) -> int:
    """Return the bytes that `text` means; raise ValueError if it is no size."""
    return _amount(text, SIZE_UNITS, "a size such as")


def duration_us(text: str) -> int:
    """Return the microseconds that `text` means; raise ValueError if it is no duration."""
    return _amount(text, DURATION_UNITS, "a duration such as")


def rate_per_s(text: str) -> float:
    """Return how often a second `text` means, above 0; raise ValueError if it is no rate."""
    match = _RATE.match(text)
    if match is None or match[2] not in RATE_UNITS or not (count := Decimal(match[1])):
        raise ValueError(f'{text!r} is no rate such as "200/s", "30/min" or "10/h"')
    return float(count) / RATE_UNITS[match[2]]


def time_us(text: str) -> int:
    """Return the microseconds since 1970 that `text`, such as ``"2026-11-24T12:00:00Z"``, means.

    RFC 3339 in UTC, with up to six digits behind the second, from 1970 on. Raises ValueError.
    """
    match = _TIME.match(text)
    if match is not None:
        year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        last = _MONTHS[month - 1] + (leap and month == 2) if 1 <= month <= 12 else 0
        if year >= 1970 and 1 <= day <= last and hour < 24 and minute < 60 and second < 60:
            before = year - 1
            days = before * 365 + before // 4 - before // 100 + before // 400 - _DAYS_TO_1970
            days += sum(_MONTHS[: month - 1]) + (leap and month > 2) + day - 1
            seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
            return seconds * 1_000_000 + int((match[7] or "").ljust(6, "0"))
    raise ValueError(f'{text!r} is no time such as "2026-11-24T12:00:00Z"')


def _amount(text: str, units: dict[str, int], what: str) -> int:
    match = _AMOUNT.match(text)
    if match is None or match[2] not in units:
        names = ", ".join(units)
        raise ValueError(f"{text!r} is not {what} a number and one of {names}")
    return int(Decimal(match[1]) * units[match[2]])
