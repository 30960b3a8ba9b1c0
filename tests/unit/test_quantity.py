"""Sizes, durations and rates: what is written is what is meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.quantity import (
    DURATION_UNITS,
    SIZE_UNITS,
    duration_us,
    rate_per_s,
    size_bytes,
    time_us,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1 MiB", 1_048_576), ("64MiB", 67_108_864), ("1.5 kB", 1_500), ("500_000 B", 500_000)],
)
def test_sizes(text, expected):
    assert size_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5 s", 5_000_000), ("50ms", 50_000), ("24 h", 86_400_000_000), ("0.1 s", 100_000)],
)
def test_durations(text, expected):
    assert duration_us(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("200/s", 200), ("30/min", 0.5), ("36 / h", 0.01)])
def test_rates(text, expected):
    assert rate_per_s(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "5", "s", "-1 s", "1e3 s", "5  s", "5 S", "5 s\n", "٣ s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"no|not"):
        duration_us(text)


@pytest.mark.parametrize("text", ["", "0/s", "200", "200/d", "1/", "/s", "-1/s"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="no rate"):
        rate_per_s(text)


@given(st.integers(0, 253_402_300_799_999_999))
def test_times_are_those_of_the_calendar(since_us):
    """From 1970 to the end of 9999."""
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=since_us)
    assert time_us(f"{time:%Y-%m-%dT%H:%M:%S.%fZ}") == since_us
    assert time_us(f"{time:%Y-%m-%dT%H:%M:%SZ}") == since_us // 10**6 * 10**6


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-11-24", "2026-11-24T12:00Z", "2026-11-24T12:00:00", "2026-11-24T12:00:00+01:00",
        "2026-13-24T12:00:00Z", "2026-00-24T12:00:00Z", "2026-11-31T12:00:00Z",
        "2026-11-00T12:00:00Z", "2026-02-29T12:00:00Z", "2026-11-24T24:00:00Z",
        "2026-11-24T12:60:00Z", "2026-11-24T12:00:60Z", "1969-12-31T23:59:59Z",
        "2026-11-24T12:00:00.Z", "2026-11-24T12:00:00.1234567Z", "2026-11-24T12:00:00Z\n",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="no time"):
        time_us(text)


@given(st.text())
def test_any_text_is_a_quantity_or_a_value_error(text):
    for read in (size_bytes, duration_us, rate_per_s, time_us):
        try:
            assert read(text) >= 0
        except ValueError:
            pass


@given(st.integers(0, 10**12), st.sampled_from([*SIZE_UNITS.items()]))
def test_a_whole_number_of_units_is_exact(number, unit):
    assert size_bytes(f"{number} {unit[0]}") == number * unit[1]


@given(st.integers(0, 10**12), st.sampled_from([*DURATION_UNITS.items()]))
def test_a_whole_number_of_times_is_exact(number, unit):
    assert duration_us(f"{number}{unit[0]}") == number * unit[1]
