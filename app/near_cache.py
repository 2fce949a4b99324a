"""A bounded cache of profiles in the worker's memory, in front of Redis: one for each entity.

Set-associative: a token's XXH64 names a set of WAYS slots, and the token's own bytes, kept in the
slot, decide. So a hash collision costs a comparison, never a wrong profile. Slots are NumPy arrays
and the loops are compiled and free of the GIL; a batch is looked up in one call. Time is an
argument, in us. An entry older than the time to live is a miss; a full set gives up its least
recently used entry. Entities that the store does not know are kept too, as their defaults. One
thread at a time may use a cache. Pure: a miss is returned, and the caller fetches. Raises
ValueError on shapes that do not fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from app.records import Bytes, Float32s, Int32s, Int64s, Ragged
from features.xxh64 import UInt64s, hash_bytes

WAYS = 8
TOKEN_BYTES_MAX = 64

# Cells of the counters' array.
_TICK, _HITS, _MISSES, _EVICTIONS = range(4)


class _Slots(NamedTuple):
    """The cache's arrays, one entry a slot; WAYS neighbours are a set. Numba takes it as it is.

    `tag` is the token's hash, `length` its number of bytes (0: the slot is empty), `token` its
    bytes; `used` the tick of the last hit or put.
    """

    tag: UInt64s
    length: Int32s
    token: Bytes
    written_us: Int64s
    used: Int64s
    profile: Float32s
    counts: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class Misses:
    """What a lookup did not find: each missing token once, in order of first appearance.

    `index` int32 (n,) is the token's place in `tokens` for a row that missed, -1 for a hit.
    """

    tokens: list[bytes]
    index: Int32s

    def fill(self, out: Float32s, profiles: Float32s) -> None:
        """Write the profiles (len(tokens), width) into the rows of `out` that missed."""
        if self.tokens:
            rows = np.flatnonzero(self.index >= 0)
            out[rows] = profiles[self.index[rows]]


class NearCache:
    """Profiles (float32 rows of `width`) by token; `entries` rounds up to a power of two."""

    def __init__(self, entries: int, width: int, ttl_us: int) -> None:
        """Make an empty cache of at least WAYS slots; an entry lives `ttl_us` after its put."""
        self.entries = max(WAYS, 1 << (entries - 1).bit_length())
        self.width = width
        self.ttl_us = ttl_us
        self._slots = _Slots(
            np.zeros(self.entries, np.uint64),
            np.zeros(self.entries, np.int32),
            np.zeros((self.entries, TOKEN_BYTES_MAX), np.uint8),
            np.zeros(self.entries, np.int64),
            np.zeros(self.entries, np.int64),
            np.zeros((self.entries, width), np.float32),
            np.zeros(4, np.int64),
        )

    def __len__(self) -> int:
        """Slots in use, entries past their time included."""
        return int(np.count_nonzero(self._slots.length))

    @property
    def hits(self) -> int:
        """Rows answered from memory."""
        return int(self._slots.counts[_HITS])

    @property
    def misses(self) -> int:
        """Rows not answered; several may share one missing token."""
        return int(self._slots.counts[_MISSES])

    @property
    def evictions(self) -> int:
        """Entries given up within their time to live."""
        return int(self._slots.counts[_EVICTIONS])

    def lookup(self, tokens: Ragged, now_us: int, out: Float32s) -> Misses:
        """Copy the profiles of `tokens` into the rows of `out`, float32 (n, width).

        Rows that miss are left as they are. Raises ValueError if `out` has another shape.
        """
        if out.shape != (len(tokens), self.width):
            msg = f"{len(tokens)} profiles of {self.width} do not fit into {out.shape}"
            raise ValueError(msg)
        index = np.full(len(tokens), -1, np.int32)
        stale_us = now_us - self.ttl_us
        missed = _lookup(
            tokens.data, tokens.start, tokens.length, stale_us, self._slots, out, index
        )
        # Misses are few once the cache is warm, so Python's dict may tell their tokens apart.
        missing: dict[bytes, int] = {}
        if missed:
            for row in np.flatnonzero(index >= 0).tolist():
                index[row] = missing.setdefault(tokens[row] or b"", len(missing))
        return Misses(list(missing), index)

    def put(self, tokens: Sequence[bytes], profiles: Float32s, now_us: int) -> None:
        """Keep one profile, a row of float32 (n, width), for each token; the last of equals wins.

        A token of no bytes or of more than TOKEN_BYTES_MAX is not kept. Raises ValueError if
        the shapes differ.
        """
        if profiles.shape != (len(tokens), self.width):
            msg = f"{profiles.shape} is not {len(tokens)} profiles of {self.width}"
            raise ValueError(msg)
        column = Ragged.of(tokens)
        stale_us = now_us - self.ttl_us
        _put(column.data, column.start, column.length, now_us, stale_us, self._slots, profiles)


@njit(nogil=True, cache=True)
def _find(slots: _Slots, tag: np.uint64, data: Bytes, start: int, size: int) -> int:
    """Slot that holds the token, or -1."""
    first = _first(slots, tag)
    for slot in range(first, first + WAYS):
        if slots.tag[slot] == tag and slots.length[slot] == size:
            same = True
            for k in range(size):
                same &= slots.token[slot, k] == data[start + k]
            if same:
                return slot
    return -1


@njit(nogil=True, cache=True)
def _victim(slots: _Slots, tag: np.uint64, stale_us: int) -> int:
    """Slot to write over: one empty or past its time, else the least recently used."""
    first = _first(slots, tag)
    oldest = first
    for slot in range(first, first + WAYS):
        if slots.length[slot] == 0 or slots.written_us[slot] <= stale_us:
            return slot
        if slots.used[slot] < slots.used[oldest]:
            oldest = slot
    return oldest


@njit(inline="always")
def _first(slots: _Slots, tag: np.uint64) -> int:
    """First slot of the token's set; the number of sets is a power of two."""
    return int(np.int64(tag & np.uint64(len(slots.tag) // WAYS - 1))) * WAYS


@njit(nogil=True, cache=True)
def _lookup(
    data: Bytes,
    start: Int64s,
    length: Int32s,
    stale_us: int,
    slots: _Slots,
    out: Float32s,
    index: Int32s,
) -> int:
    """Serve every row; mark a miss by 0 in `index`; return the number of misses."""
    missed = 0
    for i in range(len(index)):
        slot = -1
        if 0 < length[i] <= TOKEN_BYTES_MAX:
            tag = hash_bytes(data, start[i], length[i])
            slot = _find(slots, tag, data, start[i], length[i])
        if slot < 0 or slots.written_us[slot] <= stale_us:
            index[i] = 0
            missed += 1
            continue
        slots.counts[_TICK] += 1
        slots.used[slot] = slots.counts[_TICK]
        for k in range(out.shape[1]):
            out[i, k] = slots.profile[slot, k]
    slots.counts[_HITS] += len(index) - missed
    slots.counts[_MISSES] += missed
    return missed


@njit(nogil=True, cache=True)
def _put(
    data: Bytes,
    start: Int64s,
    length: Int32s,
    now_us: int,
    stale_us: int,
    slots: _Slots,
    rows: Float32s,
) -> None:
    for i in range(len(length)):
        if not 0 < length[i] <= TOKEN_BYTES_MAX:
            continue
        tag = hash_bytes(data, start[i], length[i])
        slot = _find(slots, tag, data, start[i], length[i])
        if slot < 0:
            slot = _victim(slots, tag, stale_us)
            live = slots.length[slot] > 0 and slots.written_us[slot] > stale_us
            slots.counts[_EVICTIONS] += live
            slots.tag[slot], slots.length[slot] = tag, length[i]
            for k in range(length[i]):
                slots.token[slot, k] = data[start[i] + k]
        slots.counts[_TICK] += 1
        slots.used[slot] = slots.counts[_TICK]
        slots.written_us[slot] = now_us
        for k in range(rows.shape[1]):
            slots.profile[slot, k] = rows[i, k]
