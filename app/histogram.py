"""Durations in fine log buckets: at most 0.4 % off, a few nanoseconds a value.

In come int64 arrays of microseconds, a micro-batch at a time; out come percentiles, and the counts
below the bounds that Prometheus shows. No Python call is made for a value.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np

from app.records import Int64s

# 128 buckets an octave: the seven highest bits of a float64's mantissa. A bucket is at most 1/128
# of its value wide and its middle is given, so a percentile is 0.4 % off at most.
SUB_BITS: Final = 7
OCTAVES: Final = 48
BUCKETS: Final = OCTAVES << SUB_BITS
SHIFT: Final = 52 - SUB_BITS
# Bucket 0 is for 0 us and below. The next one that is used is that of 1 us: 0.5 less is 0.5, whose
# float64 has the biased exponent 1022, an octave above.
FIRST: Final = 1021 << SUB_BITS


class LatencyHistogram:
    """Counts durations; one thread adds, another may read.

    Negative durations (clocks that differ) are counted in `negative` and in the lowest bucket;
    `sum_us` leaves them out so that it never falls, as Prometheus wants. `min_us` and `max_us` are
    exact, and meaningless while `count` is 0.
    """

    __slots__ = ("counts", "max_us", "min_us", "negative", "sum_us")

    def __init__(self) -> None:
        self.counts = np.zeros(BUCKETS, np.int64)
        self.negative = 0
        self.sum_us = 0
        self.min_us = 2**63 - 1
        self.max_us = -(2**63)

    @property
    def count(self) -> int:
        """How many durations were added."""
        return int(self.counts.sum())

    def add(self, values_us: Int64s, times: int = 1) -> None:
        """Count int64 microseconds (n,), each of them `times` times."""
        if values_us.size == 0 or times == 0:
            return
        low, high = int(values_us.min()), int(values_us.max())
        self.min_us, self.max_us = min(low, self.min_us), max(high, self.max_us)
        np.add.at(self.counts, _bucket(values_us), times)
        if low < 0:
            self.negative += times * int((values_us < 0).sum())
            values_us = np.maximum(values_us, 0)
        self.sum_us += times * int(values_us.sum())

    def add_one(self, value_us: int, times: int = 1) -> None:
        """Count one duration `times` times: what all records of a batch share."""
        self.add(np.array([value_us], np.int64), times)

    def merge(self, other: "LatencyHistogram") -> None:
        """Count all that another histogram counted."""
        self.min_us, self.max_us = min(self.min_us, other.min_us), max(self.max_us, other.max_us)
        self.counts += other.counts
        self.negative += other.negative
        self.sum_us += other.sum_us

    def percentile(self, percent: float) -> float:
        """The duration in us that `percent` % of all do not exceed; nan where none was added.

        Where that lies among the negative ones, it is the smallest of them.
        """
        cumulated = np.cumsum(self.counts)
        total = int(cumulated[-1])
        if total == 0:
            return float("nan")
        rank = max(1, -int(-total * percent // 100))
        if rank <= self.negative:
            return float(self.min_us)
        value = _middle(int(np.searchsorted(cumulated, rank)))
        return float(min(max(value, self.min_us), self.max_us))

    def cumulated(self, bounds_us: Iterable[float]) -> list[tuple[float, int]]:
        """How many durations do not exceed each bound, then (inf, all).

        Exact where a bound is the edge of a bucket; otherwise to the edge below it.
        """
        total = np.cumsum(self.counts)
        below = [(b, int(total[_bucket(np.array([b + 0.5]))[0] - 1])) for b in bounds_us]
        return [*below, (float("inf"), int(total[-1]))]


def _bucket(values: Int64s | np.typing.NDArray[np.float64]) -> Int64s:
    """Bucket of each value: exponent and high mantissa bits of `value - 0.5`.

    The half makes a bucket's upper edge inclusive for integers, as Prometheus' `le` is.
    """
    index: Int64s = (values - 0.5).view(np.int64)
    index >>= SHIFT
    index -= FIRST
    np.maximum(index, 0, out=index)
    np.minimum(index, BUCKETS - 1, out=index)
    return index


def _middle(bucket: int) -> float:
    """The value that stands for a bucket: its only integer, or its middle."""
    if bucket == 0:
        return 0.0
    edges = (np.array([bucket, bucket + 1], np.int64) + FIRST) << SHIFT
    low, high = (float(edge) for edge in edges.view(np.float64))
    return float(np.ceil(low + 0.5)) if high - low < 1 else (low + high) / 2 + 0.5
