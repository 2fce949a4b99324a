"""Fine log buckets: exact counts, percentiles within the stated error."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.histogram import LatencyHistogram

DURATIONS = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(-1000, 2**45))


def filled(values: list[int] | np.ndarray) -> LatencyHistogram:
    """Return a histogram of these."""
    histogram = LatencyHistogram()
    histogram.add(np.asarray(values, np.int64))
    return histogram


@given(DURATIONS, st.sampled_from([1.0, 50.0, 99.0, 99.9, 100.0]))
def test_percentile_is_within_half_a_percent(values: np.ndarray, percent: float) -> None:
    """A percentile is the value of that rank, 0.4 % off at most; below zero, the smallest."""
    rank = max(1, math.ceil(len(values) * percent / 100))
    exact = int(np.sort(values)[rank - 1])
    expected = exact if exact >= 0 else int(values.min())
    assert filled(values).percentile(percent) == pytest.approx(expected, rel=0.004, abs=0.5)


@given(DURATIONS, DURATIONS)
def test_merge_equals_adding_both(left: np.ndarray, right: np.ndarray) -> None:
    """Two merged histograms are the histogram of all values."""
    merged = filled(left)
    merged.merge(filled(right))
    both = filled(np.concatenate([left, right]))
    assert np.array_equal(merged.counts, both.counts)
    for name in ("negative", "sum_us", "min_us", "max_us"):
        assert getattr(merged, name) == getattr(both, name)


def test_small_durations_are_exact() -> None:
    """Below 128 us each integer has a bucket of its own."""
    for value in range(128):
        histogram = filled([value, 10**9])
        assert histogram.percentile(50) == value


def test_negative_durations_are_counted_not_clamped() -> None:
    """A negative duration is counted as one, stays the minimum, and leaves the sum alone."""
    histogram = filled([-250, -1, 0, 40])
    assert (histogram.count, histogram.negative, histogram.sum_us) == (4, 2, 40)
    assert histogram.percentile(50) == -250
    assert histogram.min_us == -250


def test_times_counts_a_shared_duration() -> None:
    """One duration of n transactions counts n times."""
    histogram = LatencyHistogram()
    histogram.add_one(70, 2048)
    histogram.add_one(-5, 2)
    assert (histogram.count, histogram.negative, histogram.sum_us) == (2050, 2, 70 * 2048)


def test_bounds_are_inclusive() -> None:
    """A duration equal to a bound counts below it, as Prometheus' `le` wants."""
    histogram = filled([999, 1000, 1001, -3])
    assert histogram.cumulated([1000.0, 2000.0]) == [(1000.0, 3), (2000.0, 4), (math.inf, 4)]


def test_empty_has_no_percentile() -> None:
    """No value, no percentile: nan, never zero."""
    histogram = filled([])
    assert histogram.count == 0
    assert math.isnan(histogram.percentile(99))
