"""Blobs as a person reads them: `describe` takes one apart in plain Python.

For `riskwire features get`, and the other side of the tests of `blob_loops`: it refuses exactly
what these call damaged. Raises ValueError that names the fault. Pure.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.blob import (
    BLOB_BYTES_MAX,
    CUSTOMER_BOUNDS,
    CUSTOMER_HEAD,
    SHARE_BOUNDS,
    SHARE_HEAD,
)
from features.blob_loops import HEADER_BYTES, TIME_US_MAX
from features.contract import DAY_US
from features.xxh64 import hash_bytes

Item = dict[str, Any]


@dataclass(slots=True)
class _Reader:
    data: bytes
    at: int = HEADER_BYTES

    def take(self, size: int, *, signed: bool = False) -> int:
        """The next number; raises ValueError at the end."""
        raw = self.data[self.at : self.at + size]
        _need(len(raw) == size, "the blob is too short")
        self.at += size
        return int.from_bytes(raw, "little", signed=signed)


def describe(blob: bytes) -> Item:
    """What a blob says: `kind`, `events`, `tiles`, and of a share `frauds` and `fraud_tiles`.

    Times are ISO 8601 in UTC, amounts minor units. Raises ValueError where it is damaged.
    """
    _need(len(blob) <= BLOB_BYTES_MAX, "the blob is too long")
    _need(blob[:8] in (CUSTOMER_HEAD, SHARE_HEAD), "no blob of this version")
    payload = np.frombuffer(blob[HEADER_BYTES:], np.uint8)
    found = int(hash_bytes(payload, 0, len(payload)))
    _need(found.to_bytes(8, "little") == blob[8:HEADER_BYTES], "the checksum is wrong")
    reader = _Reader(blob)
    described = _customer(reader) if blob[:8] == CUSTOMER_HEAD else _share(reader)
    _need(reader.at == len(blob), "bytes follow after the last tile")
    return described


def _customer(reader: _Reader) -> Item:
    events_max, tiles_max, tile_us, keep_us = CUSTOMER_BOUNDS
    n, tiles = reader.take(2), reader.take(2)
    base, first = reader.take(8), reader.take(4)
    _check_counts(n, events_max, tiles, tiles_max, base)
    events = [(base + reader.take(6), reader.take(5)) for _ in range(n)]
    _need(events == sorted(events), "events are out of order")
    found = [
        (first + reader.take(2), reader.take(4, signed=True), reader.take(8, signed=True),
         reader.take(5))
        for _ in range(tiles)
    ]  # fmt: skip
    _check_tiles([tile for tile, *_ in found], events[-1][0] if n else 0, tile_us, keep_us)
    _need(all(count > 0 and total >= 0 for _, count, total, _ in found), "a tile holds nothing")
    return {
        "kind": "customer",
        "events": [{"time": _iso(t), "amount_minor": amount} for t, amount in events],
        "tiles": [
            _tile(tile * tile_us, tile_us, count, late) | {"sum_minor": total}
            for tile, count, total, late in found
        ],
    }


def _share(reader: _Reader) -> Item:
    events_max, frauds_max, tiles_max, keep_us = SHARE_BOUNDS
    n, tiles, frauds, fraud_tiles = (reader.take(2) for _ in range(4))
    base, fraud_base = reader.take(8), reader.take(8)
    first, first_fraud = reader.take(4), reader.take(4)
    _check_counts(n, events_max, tiles, tiles_max, base)
    _check_counts(frauds, frauds_max, fraud_tiles, tiles_max, fraud_base)
    events = [(base + reader.take(6), reader.take(7)) for _ in range(n)]
    _need(events == sorted(events), "events are out of order")
    said = [
        (fraud_base + reader.take(6), reader.take(7), reader.take(4), reader.take(1, signed=True))
        for _ in range(frauds)
    ]
    keys = [(t, tag) for t, _, tag, _ in said]
    _need(keys == sorted(keys), "frauds are out of order")
    _need(all(sign in (1, -1) for *_, sign in said), "a fraud is neither said nor taken back")
    of_events = _share_tiles(reader, tiles, first, events[-1][0] if n else 0, keep_us)
    of_frauds = _share_tiles(
        reader, fraud_tiles, first_fraud, said[-1][0] if frauds else 0, keep_us
    )
    _need(all(tile["count"] > 0 for tile in of_events), "a tile holds nothing")
    return {
        "kind": "share",
        "events": [{"time": _iso(t), "seen": _iso(t + late)} for t, late in events],
        "tiles": of_events,
        "frauds": [
            {"time": _iso(t), "seen": _iso(t + late), "tag": tag, "sign": sign}
            for t, late, tag, sign in said
        ],
        "fraud_tiles": of_frauds,
    }


def _share_tiles(reader: _Reader, n: int, first: int, newest: int, keep_us: int) -> list[Item]:
    found = [
        (first + reader.take(2), reader.take(4, signed=True), reader.take(7)) for _ in range(n)
    ]
    _check_tiles([day for day, *_ in found], newest, DAY_US, keep_us)
    return [_tile(day * DAY_US, DAY_US, count, late) for day, count, late in found]


def _tile(begin_us: int, length_us: int, count: int, late_us: int) -> Item:
    return {
        "from": _iso(begin_us), "days": length_us // DAY_US, "count": count,
        "seen": _iso(begin_us + late_us),
    }  # fmt: skip


def _check_counts(n: int, most: int, tiles: int, tiles_max: int, base: int) -> None:
    _need(n <= most and tiles <= tiles_max, "it holds more than a row does")
    _need(n > 0 or tiles == 0, "there are tiles without an event")
    _need(base <= TIME_US_MAX, "a time is out of range")


def _check_tiles(tiles: list[int], newest: int, tile_us: int, keep_us: int) -> None:
    _need(tiles == sorted(set(tiles)), "tiles are out of order")
    kept = (t * tile_us <= newest and (t + 1) * tile_us > newest - keep_us for t in tiles)
    _need(all(kept), "a tile is out of the row's reach")


def _need(good: bool, fault: str) -> None:  # noqa: FBT001 -- a condition, as assert takes
    if not good:
        raise ValueError(fault)


def _iso(time_us: int) -> str:
    return f"{np.datetime64(time_us, 'us')}Z"
