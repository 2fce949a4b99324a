"""The loops behind `blob`: rows of the state to bytes and back, a batch in one call.

`blob` describes the format. The writers fill a buffer whose places the caller computed; the readers
let a row count only after its bounds, its order and its times were checked. Nothing raises, nothing
is allocated, no clock.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.remember import find_late, sort_amounts, sum_amounts
from features.state import Int32s, Int64s, State
from features.xxh64 import hash_bytes

Bytes = NDArray[np.uint8]
Bounds = tuple[int, int, int, int]
"""Of a customer: events, tiles, a tile's and the row's length in us. Of a share: events, frauds,
tiles, the row's length in us."""

HEADER_BYTES = 16
CUSTOMER_FIXED, CUSTOMER_EVENT, CUSTOMER_TILE = 16, 11, 19
SHARE_FIXED, SHARE_EVENT, SHARE_FRAUD, SHARE_TILE = 32, 13, 18, 13
"""Bytes of a payload's fixed part and of each item."""
# A number, since a cached loop does not notice when a constant of another file changes.
DAY = 86_400_000_000
TIME_US_MAX = 915 * 10**16
"""Later than any record that decodes; sums with what a blob adds stay within 64 bits."""
SEEN_US_MAX = 2**56 - 1
COUNT_MIN = -(2**31)


@compiled
def _put(out: Bytes, at: int, size: int, value: np.int64 | int) -> int:
    """Write the low bytes of a number; what follows."""
    for k in range(size):
        out[at + k] = (value >> (8 * k)) & 0xFF
    return at + size


@compiled
def _get(data: Bytes, at: int, size: int) -> Any:
    value: Any = np.int64(0)
    for k in range(size):
        value |= np.int64(data[at + k]) << (8 * k)
    return value


@compiled
def _seal(out: Bytes, start: int, end: int, head: Bytes) -> None:
    """Write a blob's header before its payload."""
    for k in range(len(head)):
        out[start + k] = head[k]
    payload = start + HEADER_BYTES
    _put(out, start + len(head), 8, np.int64(hash_bytes(out, payload, end - payload)))


@compiled
def _is_sealed(data: Bytes, start: int, length: int, fixed: int, head: Bytes) -> bool:
    """Whether a blob has a header of this kind, at least the fixed part, and its checksum."""
    if length < HEADER_BYTES + fixed:
        return False
    for k in range(len(head)):
        if data[start + k] != head[k]:
            return False
    found = hash_bytes(data, start + HEADER_BYTES, length - HEADER_BYTES)
    same: bool = _get(data, start + len(head), 8) == np.int64(found)
    return same


@compiled
def write_customers(
    s: State, rows: Int32s, head: Bytes, limits: Bounds, out: Bytes, start: Int64s
) -> None:
    """Write the blobs of customers to the places `start`, int64 (k,), of a buffer."""
    for i in range(len(rows)):
        c = rows[i]
        first, n, tiles = s.c_head[c], s.c_count[c], s.c_tiles[c]
        base = s.c_time[c, first] if n > 0 else 0
        first_tile = s.c_tile_day[c, 0] if tiles > 0 else 0
        at = _put(out, start[i] + HEADER_BYTES, 2, n)
        at = _put(out, at, 2, tiles)
        at = _put(out, at, 8, base)
        at = _put(out, at, 4, first_tile)
        for k in range(first, first + n):
            at = _put(out, at, 6, s.c_time[c, k] - base)
            at = _put(out, at, 5, s.c_amount[c, k])
        for j in range(tiles):
            tile = s.c_tile_day[c, j]
            at = _put(out, at, 2, tile - first_tile)
            at = _put(out, at, 4, s.c_tile_count[c, j])
            at = _put(out, at, 8, s.c_tile_sum[c, j])
            at = _put(out, at, 5, s.c_tile_seen[c, j] - tile * limits[2])
        _seal(out, start[i], at, head)


@compiled
def write_shares(s: State, rows: Int32s, head: Bytes, out: Bytes, start: Int64s) -> None:
    """Write the blobs of shares to the places `start`, int64 (k,), of a buffer."""
    for i in range(len(rows)):
        r = rows[i]
        first, n, frauds = s.s_head[r], s.s_count[r], s.f_count[r]
        tiles, fraud_tiles = s.s_tiles[r], s.f_tiles[r]
        base = s.s_time[r, first] if n > 0 else 0
        fraud_base = s.f_time[r, 0] if frauds > 0 else 0
        at = _put(out, start[i] + HEADER_BYTES, 2, n)
        at = _put(out, at, 2, tiles)
        at = _put(out, at, 2, frauds)
        at = _put(out, at, 2, fraud_tiles)
        at = _put(out, at, 8, base)
        at = _put(out, at, 8, fraud_base)
        at = _put(out, at, 4, s.s_tile_day[r, 0] if tiles > 0 else 0)
        at = _put(out, at, 4, s.f_tile_day[r, 0] if fraud_tiles > 0 else 0)
        for k in range(first, first + n):
            at = _put(out, at, 6, s.s_time[r, k] - base)
            at = _put_seen(out, at, s.s_seen[r, k] - s.s_time[r, k])
        for k in range(frauds):
            at = _put(out, at, 6, s.f_time[r, k] - fraud_base)
            at = _put_seen(out, at, s.f_seen[r, k] - s.f_time[r, k])
            at = _put(out, at, 4, s.f_tag[r, k])
            at = _put(out, at, 1, s.f_sign[r, k])
        at = _put_tiles(out, at, s.s_tile_day, s.s_tile_count, s.s_tile_seen, r, tiles)
        at = _put_tiles(out, at, s.f_tile_day, s.f_tile_count, s.f_tile_seen, r, fraud_tiles)
        _seal(out, start[i], at, head)


@compiled
def _put_seen(out: Bytes, at: int, late: int) -> int:
    """Write how long after its time something is visible.

    Never before it: a fraud that was known before it happened counts no earlier either.
    """
    return _put(out, at, 7, min(max(late, 0), SEEN_US_MAX))


@compiled
def _put_tiles(
    out: Bytes, at: int, days: Int32s, counts: Int32s, seens: Int64s, r: int, tiles: int
) -> int:
    for j in range(tiles):
        at = _put(out, at, 2, days[r, j] - days[r, 0])
        at = _put(out, at, 4, counts[r, j])
        at = _put_seen(out, at, seens[r, j] - days[r, j] * DAY)
    return at


@compiled
def read_customers(
    s: State, rows: Int32s, head: Bytes, limits: Bounds,
    data: Bytes, start: Int64s, length: Int64s,
) -> int:  # fmt: skip
    """Read customers from the places of a buffer; length -1 where there is none. The damaged."""
    damaged = 0
    for i in range(len(rows)):
        c = rows[i]
        s.c_head[c] = s.c_count[c] = s.c_tiles[c] = 0
        if length[i] >= 0:
            good = _is_sealed(data, start[i], length[i], CUSTOMER_FIXED, head) and _read_customer(
                s, c, limits, data, start[i] + HEADER_BYTES, start[i] + length[i]
            )
            damaged += not good
    return damaged


@compiled
def _read_customer(s: State, c: int, limits: Bounds, data: Bytes, at: int, end: int) -> bool:
    """Read a payload into a row; it counts once all of it is good."""
    events_max, tiles_max, tile_us, keep_us = limits
    n, tiles = _get(data, at, 2), _get(data, at + 2, 2)
    base, first = _get(data, at + 4, 8), _get(data, at + 12, 4)
    at += CUSTOMER_FIXED
    if n > events_max or tiles > tiles_max or base < 0 or base > TIME_US_MAX:
        return False
    if end - at != n * CUSTOMER_EVENT + tiles * CUSTOMER_TILE or n == 0 < tiles:
        return False
    newest = base
    for k in range(n):
        t, amount = base + _get(data, at, 6), _get(data, at + 6, 5)
        if t < newest or (k > 0 and t == newest and amount < s.c_amount[c, k - 1]):
            return False
        s.c_time[c, k], s.c_amount[c, k] = t, amount
        newest = t
        at += CUSTOMER_EVENT
    for j in range(tiles):
        tile, count, total = first + _get(data, at, 2), _count(data, at + 2), _get(data, at + 6, 8)
        if not _is_kept(tile, newest, tile_us, keep_us) or count < 1 or total < 0:
            return False
        if j > 0 and tile <= s.c_tile_day[c, j - 1]:
            return False
        s.c_tile_day[c, j], s.c_tile_count[c, j], s.c_tile_sum[c, j] = tile, count, total
        s.c_tile_seen[c, j] = tile * tile_us + _get(data, at + 14, 5)
        at += CUSTOMER_TILE
    s.c_count[c], s.c_tiles[c] = n, tiles
    sort_amounts(s, c)
    sum_amounts(s, c, 0)
    return True


@compiled
def _count(data: Bytes, at: int) -> int:
    """A signed number of four bytes."""
    value: int = _get(data, at, 4)
    return value - ((value >> 31) << 32)


@compiled
def _is_kept(tile: int, newest: int, tile_us: int, keep_us: int) -> bool:
    """Whether the kernel keeps a tile beside an event that new."""
    return tile <= newest // tile_us and (tile + 1) * tile_us > newest - keep_us


@compiled
def read_shares(
    s: State, rows: Int32s, head: Bytes, limits: Bounds,
    data: Bytes, start: Int64s, length: Int64s,
) -> int:  # fmt: skip
    """Read shares from the places of a buffer; length -1 where there is none. The damaged."""
    damaged = 0
    for i in range(len(rows)):
        r = rows[i]
        s.s_head[r] = s.s_count[r] = s.s_tiles[r] = s.f_count[r] = s.f_tiles[r] = 0
        if length[i] >= 0:
            good = _is_sealed(data, start[i], length[i], SHARE_FIXED, head) and _read_share(
                s, r, limits, data, start[i] + HEADER_BYTES, start[i] + length[i]
            )
            damaged += not good
    return damaged


@compiled
def _read_share(s: State, r: int, limits: Bounds, data: Bytes, at: int, end: int) -> bool:
    """Read a payload into a row; it counts once all of it is good."""
    events_max, frauds_max, tiles_max, keep_us = limits
    n, tiles = _get(data, at, 2), _get(data, at + 2, 2)
    frauds, fraud_tiles = _get(data, at + 4, 2), _get(data, at + 6, 2)
    base, fraud_base = _get(data, at + 8, 8), _get(data, at + 16, 8)
    first, first_fraud = _get(data, at + 24, 4), _get(data, at + 28, 4)
    at += SHARE_FIXED
    if n > events_max or frauds > frauds_max or max(tiles, fraud_tiles) > tiles_max:
        return False
    if min(base, fraud_base) < 0 or max(base, fraud_base) > TIME_US_MAX:
        return False
    frauds_at = at + n * SHARE_EVENT
    tiles_at = frauds_at + frauds * SHARE_FRAUD
    fraud_tiles_at = tiles_at + tiles * SHARE_TILE
    if end != fraud_tiles_at + fraud_tiles * SHARE_TILE:
        return False
    if n == 0 < tiles or frauds == 0 < fraud_tiles:
        return False
    newest = _read_events(s, r, n, base, data, at)
    newest_fraud = _read_frauds(s, r, frauds, fraud_base, data, frauds_at)
    if (
        newest >= 0
        and newest_fraud >= 0
        and _read_tiles(s.s_tile_day, s.s_tile_count, s.s_tile_seen, r, tiles,
                        first, newest, keep_us, 1, data, tiles_at)
        and _read_tiles(s.f_tile_day, s.f_tile_count, s.f_tile_seen, r, fraud_tiles,
                        first_fraud, newest_fraud, keep_us, COUNT_MIN, data, fraud_tiles_at)
    ):  # fmt: skip
        s.s_count[r], s.s_tiles[r], s.f_count[r], s.f_tiles[r] = n, tiles, frauds, fraud_tiles
        find_late(s, r)
        return True
    return False


@compiled
def _read_events(s: State, r: int, n: int, base: int, data: Bytes, at: int) -> int:
    """Read a share's events; the newest one's time, -1 where they are not in order."""
    newest = base
    for k in range(n):
        t = base + _get(data, at, 6)
        seen = t + _get(data, at + 6, 7)
        if t < newest or (k > 0 and t == newest and seen < s.s_seen[r, k - 1]):
            return -1
        s.s_time[r, k], s.s_seen[r, k] = t, seen
        newest = t
        at += SHARE_EVENT
    return newest


@compiled
def _read_frauds(s: State, r: int, n: int, base: int, data: Bytes, at: int) -> int:
    """Read a share's frauds; the newest one's time, -1 where they are not in order."""
    newest = base
    for k in range(n):
        t, tag, sign = base + _get(data, at, 6), _get(data, at + 13, 4), _get(data, at + 17, 1)
        if t < newest or (k > 0 and t == newest and tag < s.f_tag[r, k - 1]):
            return -1
        if sign not in (1, 255):
            return -1
        s.f_time[r, k], s.f_seen[r, k] = t, t + _get(data, at + 6, 7)
        s.f_tag[r, k], s.f_sign[r, k] = tag, 1 if sign == 1 else -1
        newest = t
        at += SHARE_FRAUD
    return newest


@compiled
def _read_tiles(
    days: Int32s, counts: Int32s, seens: Int64s, r: int, tiles: int, first: int, newest: int,
    keep_us: int, count_min: int, data: Bytes, at: int,
) -> bool:  # fmt: skip
    """Read a share's tiles of days; whether these are in order, and kept beside the newest."""
    for j in range(tiles):
        day, count = first + _get(data, at, 2), _count(data, at + 2)
        if not _is_kept(day, newest, DAY, keep_us) or count < count_min:
            return False
        if j > 0 and day <= days[r, j - 1]:
            return False
        days[r, j], counts[r, j] = day, count
        seens[r, j] = day * DAY + _get(data, at + 6, 7)
        at += SHARE_TILE
    return True
