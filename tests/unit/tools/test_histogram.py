"""Percentiles are within a thousandth of what sorting every latency would give."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.tools.histogram import Histogram


@given(
    st.lists(st.integers(0, 2**33), min_size=1, max_size=200),
    st.sampled_from([0.1, 50, 90, 99, 99.9, 100]),
)
def test_a_percentile_is_that_of_the_sorted_latencies(latencies, percent):
    histogram = Histogram()
    for latency in latencies:
        histogram.record(latency)
    exact = sorted(latencies)[max(1, math.ceil(len(latencies) * percent / 100)) - 1]
    assert histogram.percentile_us(percent) == pytest.approx(exact, rel=0.001)
    assert histogram.max_us == max(latencies)
    assert histogram.mean_us == pytest.approx(sum(latencies) / len(latencies))


def test_nothing_counted_is_zero():
    histogram = Histogram()
    assert (histogram.mean_us, histogram.percentile_us(99), histogram.max_us) == (0, 0, 0)


def test_what_is_out_of_range_counts_at_the_edge():
    histogram = Histogram()
    histogram.record(-5)
    histogram.record(2**60)
    assert histogram.percentile_us(50) == 0
    assert histogram.max_us == 2**34 - 1
