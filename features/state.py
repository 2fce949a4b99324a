"""What is remembered of customers and terminals: arrays that the kernel runs on.

A customer is a row of its recent transactions. A terminal is one share for each source partition,
so that workers of different partitions never write the same thing: a row of recent transactions
and a row of frauds, each by its own log only. Rows are sorted by event time and are a function of
the set of records, not of their order. Every row has a bound; beyond it the oldest events go into
tiles of a day (a customer's: of three), which windows then count as a whole. What is older than
the longest window can reach is dropped, by whole tiles before the row's newest event. The numbers
below belong to the blobs' format. Arrays of zeros take memory only where they are used. Pure: no
I/O, no clock.
"""

import math
import mmap
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from features.contract import DAY_US, LABEL_DELAY_DAYS, LONGEST_DAYS, MEDIAN_LAST, Timing

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]
Int8s = NDArray[np.int8]
Flags = NDArray[np.bool_]

NEVER = -(2**62)
ALWAYS = 2**62
TRANSACTIONS, LABELS = 0, 1
"""A partition's two logs: places in `newest_us`, `quiet_us` and `mark_us`."""

CUSTOMER_EVENTS = 256
CUSTOMER_ROW = CUSTOMER_EVENTS + 64
CUSTOMER_TILE_DAYS = 3
CUSTOMER_KEEP_US = (LONGEST_DAYS + CUSTOMER_TILE_DAYS) * DAY_US
CUSTOMER_TILES = LONGEST_DAYS // CUSTOMER_TILE_DAYS + 3
SHARE_EVENTS = 128
SHARE_ROW = SHARE_EVENTS + 32
SHARE_FRAUDS = 64
SHARE_DAYS = LABEL_DELAY_DAYS + 30
SHARE_KEEP_US = (SHARE_DAYS + LABEL_DELAY_DAYS + 1) * DAY_US
"""A log may run ahead of another by the delay: so much more is kept than the windows reach."""
SHARE_TILES = SHARE_DAYS + LABEL_DELAY_DAYS + 3
SCRATCH = 128
WINDOWS = 6
"""Windows of a terminal, each counted once."""


def _zeros(shape: tuple[int, int], dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros that take memory where they are used, in pages of the usual size.

    NumPy asks for huge ones, which cost more than twice the time when rows are used first (the
    system looks for 2 MB side by side while the worker waits), and gained nothing afterwards.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


class State(NamedTuple):
    """The arrays, one row a customer (c_), a share (s_: its transactions, f_: its frauds).

    A row of events begins at `head` and has `count` of them; `c_sorted` are the amounts of its
    last MEDIAN_LAST in ascending order, `c_sum` the running sums of the row's amounts, `s_late` the
    times of the oldest and the newest event that was visible late, 0 for none. A tile is a day, or
    some, with the number of its events, their sum, and the time from which all of them are visible.
    `f_sign` is 1 for a fraud, -1 where a later label took it back. `mark_us` are the watermarks
    that came with a share of a partition that is not ours. By log and partition: `newest_us` the
    running maximum of the own times, `quiet_us` the time up to which a log read to its end is
    declared complete, `held_us` the time of a record that waits to be applied. `timing` is lateness
    and skew; `scratch` and `counts` are the kernel's desk.
    """

    c_time: Int64s
    c_amount: Int64s
    c_sorted: Int64s
    c_sum: Int64s
    c_head: Int32s
    c_count: Int32s
    c_tiles: Int32s
    c_tile_day: Int32s
    c_tile_count: Int32s
    c_tile_sum: Int64s
    c_tile_seen: Int64s
    s_time: Int64s
    s_seen: Int64s
    s_head: Int32s
    s_count: Int32s
    s_tiles: Int32s
    s_late: Int64s
    s_tile_day: Int32s
    s_tile_count: Int32s
    s_tile_seen: Int64s
    f_time: Int64s
    f_seen: Int64s
    f_tag: Int64s
    f_sign: Int8s
    f_count: Int32s
    f_tiles: Int32s
    f_tile_day: Int32s
    f_tile_count: Int32s
    f_tile_seen: Int64s
    mark_us: Int64s
    newest_us: Int64s
    quiet_us: Int64s
    held_us: Int64s
    owned: Flags
    timing: Int64s
    scratch: Int64s
    counts: Int64s

    @classmethod
    def empty(cls, customers: int, shares: int, partitions: int, timing: Timing) -> Self:
        """Nothing known yet, room for so many; no partition is owned."""
        c, s = customers, shares
        i4, i8 = np.int32, np.int64
        return cls(
            _zeros((c, CUSTOMER_ROW), i8), _zeros((c, CUSTOMER_ROW), i8),
            _zeros((c, MEDIAN_LAST), i8), _zeros((c, CUSTOMER_ROW), i8),
            np.zeros(c, i4), np.zeros(c, i4), np.zeros(c, i4),
            _zeros((c, CUSTOMER_TILES), i4), _zeros((c, CUSTOMER_TILES), i4),
            _zeros((c, CUSTOMER_TILES), i8), _zeros((c, CUSTOMER_TILES), i8),
            _zeros((s, SHARE_ROW), i8), _zeros((s, SHARE_ROW), i8),
            np.zeros(s, i4), np.zeros(s, i4), np.zeros(s, i4), _zeros((s, 2), i8),
            _zeros((s, SHARE_TILES), i4), _zeros((s, SHARE_TILES), i4),
            _zeros((s, SHARE_TILES), i8),
            _zeros((s, SHARE_FRAUDS), i8), _zeros((s, SHARE_FRAUDS), i8),
            _zeros((s, SHARE_FRAUDS), i8), _zeros((s, SHARE_FRAUDS), np.int8),
            np.zeros(s, i4), np.zeros(s, i4),
            _zeros((s, SHARE_TILES), i4), _zeros((s, SHARE_TILES), i4),
            _zeros((s, SHARE_TILES), i8),
            _zeros((s, 2), i8),
            np.full((2, partitions), NEVER), np.full((2, partitions), NEVER),
            np.full((2, partitions), NEVER), np.zeros(partitions, np.bool_),
            np.array([timing.lateness_us, timing.skew_us], i8),
            np.zeros(max(SCRATCH, partitions), i8), np.zeros((2, WINDOWS), i8),
        )  # fmt: skip

    def watermarks(self) -> Int64s:
        """Each partition's watermarks, int64 (2, partitions): all before is read and visible."""
        newest = np.maximum(self.newest_us, self.held_us)
        marks: Int64s = np.maximum(newest - self.timing[0], self.quiet_us)
        return marks

    def forget_customers(self, rows: Int32s) -> None:
        """Make these customers unknown."""
        self.c_count[rows] = self.c_head[rows] = self.c_tiles[rows] = 0

    def forget_shares(self, rows: Int32s) -> None:
        """Make these shares empty, with nothing known of their partition's logs."""
        for column in (
            self.s_count,
            self.s_head,
            self.s_tiles,
            self.f_count,
            self.f_tiles,
            self.s_late,
        ):
            column[rows] = 0
        self.mark_us[rows] = NEVER

    def forget_partition(self, partition: int) -> None:
        """Know nothing of a partition's logs."""
        for column in (self.newest_us, self.quiet_us, self.held_us):
            column[:, partition] = NEVER
