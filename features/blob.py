"""How Redis keeps a customer and a terminal's share: one blob each, and the keys they lie under.

A contract: what is written here is read by other workers, today or after a restart. Numbers are
little-endian, unsigned unless said otherwise; times are microseconds since 1970-01-01 UTC.

    header    magic 4 ("RWC2" a customer, "RWS2" a share), layout digest 4, XXH64 of the rest 8
    customer  events 2, tiles 2, base 8, first tile 4
              an event:    time - base 6, amount 5
              a tile:      tile - first tile 2, count 4, sum 8, seen - the tile's start 5
    share     events 2, tiles 2, frauds 2, fraud tiles 2, base 8, fraud base 8, first tile 4,
              first fraud tile 4
              an event:    time - base 6, seen - time 7
              a fraud:     time - fraud base 6, seen - time 7, tag 4, sign 1 (1, or 255 for -1)
              a tile:      tile - first tile 2, count 4, seen - the tile's start 7
              a fraud tile: the same, its count signed

A base is the time of the oldest event; tiles are numbered from 1970-01-01 (a customer's have
CUSTOMER_TILE_DAYS, a share's one day). The digest stands for this layout, the bounds of
`features.state` and KERNEL_VERSION. What follows from the rest is not stored: `c_sorted`, `head`;
nor are marks, which belong to a partition. A row comes back as it was, with two exceptions
that no window notices: what is seen 2^56 us (2283 years) after it happened, or later, is stored as
just so late, and what was known before it happened as seen then.

Nothing raises on stored data. A blob that is short, foreign, altered or against a row's rules is
damaged: its row is as empty as a missing one, and counted. A row counts only after its bounds, its
order and its times were checked, so no bytes can lead the kernel outside its arrays.
`blob_plain.describe` says the same readably. Pure: no I/O, no clock.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from features import state as bounds
from features.blob_loops import (
    CUSTOMER_EVENT,
    CUSTOMER_FIXED,
    CUSTOMER_TILE,
    HEADER_BYTES,
    SHARE_EVENT,
    SHARE_FIXED,
    SHARE_FRAUD,
    SHARE_TILE,
    Bounds,
    Bytes,
    read_customers,
    read_shares,
    write_customers,
    write_shares,
)
from features.contract import DAY_US, KERNEL_VERSION
from features.state import Int32s, Int64s, State

BLOB_BYTES_MAX = 4096
CUSTOMER_MAGIC, SHARE_MAGIC = b"RWC2", b"RWS2"

CUSTOMER_BOUNDS: Bounds = (
    bounds.CUSTOMER_EVENTS,
    bounds.CUSTOMER_TILES,
    bounds.CUSTOMER_TILE_DAYS * DAY_US,
    bounds.CUSTOMER_KEEP_US,
)
SHARE_BOUNDS: Bounds = (
    bounds.SHARE_EVENTS,
    bounds.SHARE_FRAUDS,
    bounds.SHARE_TILES,
    bounds.SHARE_KEEP_US,
)


def _head(magic: bytes, layout: str, limits: Bounds) -> bytes:
    text = repr((KERNEL_VERSION, layout, limits))
    return magic + hashlib.sha256(text.encode()).digest()[:4]


CUSTOMER_HEAD = _head(
    CUSTOMER_MAGIC,
    "events 2, tiles 2, base 8, first 4; time 6, amount 5; tile 2, count 4, sum 8, seen 5",
    CUSTOMER_BOUNDS,
)
SHARE_HEAD = _head(
    SHARE_MAGIC,
    "events 2, tiles 2, frauds 2, tiles 2, base 8, base 8, first 4, first 4;"
    " time 6, seen 7; time 6, seen 7, tag 4, sign 1; tile 2, count 4, seen 7",
    SHARE_BOUNDS,
)
"""The first eight bytes of a blob."""

CUSTOMER_BYTES_MAX = (
    HEADER_BYTES
    + CUSTOMER_FIXED
    + CUSTOMER_EVENT * bounds.CUSTOMER_EVENTS
    + CUSTOMER_TILE * bounds.CUSTOMER_TILES
)
SHARE_BYTES_MAX = (
    HEADER_BYTES
    + SHARE_FIXED
    + SHARE_EVENT * bounds.SHARE_EVENTS
    + SHARE_FRAUD * bounds.SHARE_FRAUDS
    + SHARE_TILE * 2 * bounds.SHARE_TILES
)
if max(CUSTOMER_BYTES_MAX, SHARE_BYTES_MAX) > BLOB_BYTES_MAX:
    raise AssertionError(CUSTOMER_BYTES_MAX, SHARE_BYTES_MAX)


def customer_key(contract_id: str, partition: int, token: bytes) -> bytes:
    """Redis key of a customer: `rw:{p<partition>}:<contract id>:c:<token>`."""
    return b"rw:{p%d}:%b:c:%b" % (partition, contract_id.encode(), token)


def share_key(contract_id: str, partition: int, token: bytes) -> bytes:
    """Redis key of a terminal's share of a partition: `rw:{p<partition>}:<contract id>:t:<token>`.

    The hash tag keeps all keys of a partition in one slot of a Redis Cluster.
    """
    return b"rw:{p%d}:%b:t:%b" % (partition, contract_id.encode(), token)


def meta_key(contract_id: str, partition: int) -> bytes:
    """Redis key of what is said of a partition: `rw:{p<partition>}:<contract id>:meta`."""
    return b"rw:{p%d}:%b:meta" % (partition, contract_id.encode())


def pack_customers(state: State, rows: Int32s) -> list[bytes]:
    """One blob for each of the customers `rows`, int32 (k,). Rows are not checked.

    Amounts are below 2^40, and times from 1970 on, as decoded records' are.
    """
    count, tiles = state.c_count[rows].astype(np.int64), state.c_tiles[rows]
    size = HEADER_BYTES + CUSTOMER_FIXED + CUSTOMER_EVENT * count + CUSTOMER_TILE * tiles
    out, start = np.empty(int(size.sum()), np.uint8), np.cumsum(size) - size
    head = np.frombuffer(CUSTOMER_HEAD, np.uint8)
    write_customers(state, rows, head, CUSTOMER_BOUNDS, out, start)
    return _cut(out, start, size)


def pack_shares(state: State, rows: Int32s) -> list[bytes]:
    """One blob for each of the shares `rows`, int32 (k,). Rows are not checked.

    Tags are below 2^32.
    """
    events, frauds = state.s_count[rows].astype(np.int64), state.f_count[rows]
    size = HEADER_BYTES + SHARE_FIXED + SHARE_EVENT * events + SHARE_FRAUD * frauds
    size += SHARE_TILE * (state.s_tiles[rows] + state.f_tiles[rows])
    out, start = np.empty(int(size.sum()), np.uint8), np.cumsum(size) - size
    write_shares(state, rows, np.frombuffer(SHARE_HEAD, np.uint8), out, start)
    return _cut(out, start, size)


def unpack_customers(state: State, rows: Int32s, blobs: Sequence[bytes | None]) -> int:
    """Let the customers `rows`, int32 (k,), be what their k blobs say; how many were damaged.

    None (nothing stored) and damage make a customer unknown. Raises ValueError where rows and
    blobs differ in number.
    """
    head = np.frombuffer(CUSTOMER_HEAD, np.uint8)
    return int(read_customers(state, rows, head, CUSTOMER_BOUNDS, *_joined(blobs, len(rows))))


def unpack_shares(state: State, rows: Int32s, blobs: Sequence[bytes | None]) -> int:
    """Let the shares `rows`, int32 (k,), be what their k blobs say; how many were damaged.

    None (nothing stored) and damage make a share empty; its marks are left to the caller. Raises
    ValueError where rows and blobs differ in number.
    """
    head = np.frombuffer(SHARE_HEAD, np.uint8)
    return int(read_shares(state, rows, head, SHARE_BOUNDS, *_joined(blobs, len(rows))))


def _cut(data: Bytes, start: Int64s, size: Int64s) -> list[bytes]:
    whole = memoryview(data)  # type: ignore[arg-type]  # an array is a buffer
    ends = (start + size).tolist()
    return [bytes(whole[at:end]) for at, end in zip(start.tolist(), ends, strict=True)]


def _joined(blobs: Sequence[bytes | None], wanted: int) -> tuple[Bytes, Int64s, Int64s]:
    """The blobs in one buffer, where each begins and its length: -1 for none, 0 for a large one."""
    if len(blobs) != wanted:
        raise ValueError(f"{len(blobs)} blobs for {wanted} rows")
    kept = [each if each and len(each) <= BLOB_BYTES_MAX else b"" for each in blobs]
    size = np.array([len(each) for each in kept], np.int64)
    missing = np.array([each is None for each in blobs], np.bool_)
    data = np.frombuffer(b"".join(kept), np.uint8)
    return data, np.cumsum(size) - size, np.where(missing, -1, size)
