"""Profiles: what history says about a customer or a terminal, and how Redis keeps it.

A profile is a row of float32 whose columns a `Layout` names. In Redis it is one blob: magic and
version (4 bytes), layout (4), XXH64 of the payload (8), then the row in little-endian float32. A
blob that is short, of another layout, altered or not finite counts as damaged and is read as the
defaults, as a missing one is: history may be rebuilt by backfill, a payment may not wait for it.
Nothing here raises on stored data. Imports no client library, no clock.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.xxh64 import vector_hash

Entity = Literal["customer", "terminal"]

MAGIC = b"RWP1"
LAYOUT_BYTES = 4
HEADER_BYTES = len(MAGIC) + LAYOUT_BYTES + 8
BLOB_BYTES_MAX = 4096

FRAUD_RATE_PRIOR = 0.005
"""Share of frauds assumed of a terminal without labels, and where smoothed rates start from."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a profile: its value where nothing is known, and what it says (with unit)."""

    name: str
    default: float
    doc: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of an entity's profile. `version` rises when the meaning of a column changes."""

    entity: Entity
    version: int
    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.columns)

    @property
    def digest(self) -> bytes:
        """LAYOUT_BYTES bytes that stand for entity, version, names and defaults."""
        named = [(column.name, column.default) for column in self.columns]
        text = repr((self.entity, self.version, named))
        return hashlib.sha256(text.encode()).digest()[:LAYOUT_BYTES]

    @property
    def id(self) -> str:
        """The digest in hexadecimal; part of every Redis key."""
        return self.digest.hex()

    @property
    def defaults(self) -> NDArray[np.float32]:
        """The row of an entity without history, float32 (width,)."""
        return np.array([column.default for column in self.columns], np.float32)


CUSTOMER_PROFILE = Layout(
    "customer",
    1,
    (
        Column("known", 0.0, "1 where there is history, else 0"),
        Column("count_log2", 0.0, "log2(1 + transactions in the window)"),
        Column("tx_per_day", 0.0, "transactions a day since the first one in the window"),
        Column("amount_mean", 0.0, "mean amount, minor units"),
        Column("amount_std", 0.0, "standard deviation of the amount, minor units"),
        Column("amount_mean_log2", 0.0, "log2(1 + amount_mean)"),
        Column("amount_max_log2", 0.0, "log2(1 + largest amount in minor units)"),
        Column("night_share", 0.0, "share of transactions between 0 and 6 h UTC"),
        Column("ecommerce_share", 0.0, "share of transactions by e-commerce"),
        Column("hour_sin", 0.0, "mean sine of the hour's angle on a 24-hour dial"),
        Column("hour_cos", 0.0, "mean cosine of that angle"),
        Column("country", 0.0, "code of the most frequent country (see country_codes), 0 unknown"),
    ),
)

TERMINAL_PROFILE = Layout(
    "terminal",
    1,
    (
        Column("known", 0.0, "1 where there is history, else 0"),
        Column("count_log2", 0.0, "log2(1 + transactions in the window)"),
        Column("tx_per_day", 0.0, "transactions a day since the first one in the window"),
        Column("amount_mean_log2", 0.0, "log2(1 + mean amount in minor units)"),
        Column("fraud_rate", FRAUD_RATE_PRIOR, "smoothed share of frauds among labelled ones"),
        Column("fraud_rate_recent", FRAUD_RATE_PRIOR, "the same over the last labelled days"),
    ),
)

LAYOUTS: dict[Entity, Layout] = {"customer": CUSTOMER_PROFILE, "terminal": TERMINAL_PROFILE}
_KEY_PREFIX: dict[Entity, bytes] = {
    entity: f"rw:{layout.id}:{entity[0]}:".encode() for entity, layout in LAYOUTS.items()
}


def key(entity: Entity, token: bytes) -> bytes:
    """Redis key of an entity's profile: `rw:<layout id>:<c|t>:<token>`."""
    return _KEY_PREFIX[entity] + token


def encode(layout: Layout, profiles: NDArray[np.float32]) -> list[bytes]:
    """One blob for each row of `profiles`, float32 (n, width); ValueError on another shape."""
    rows = np.ascontiguousarray(profiles, "<f4")
    if rows.ndim != 2 or rows.shape[1] != layout.width:
        msg = f"a {layout.entity} profile has {layout.width} columns; got shape {rows.shape}"
        raise ValueError(msg)
    head = MAGIC + layout.digest
    sums = vector_hash(rows).astype("<u8")
    return [head + sums[i].tobytes() + rows[i].tobytes() for i in range(len(rows))]


def decode(layout: Layout, blobs: Sequence[bytes | None]) -> tuple[NDArray[np.float32], int]:
    """Rows of the blobs, float32 (n, width), and how many blobs were damaged.

    Missing (None) and damaged blobs give the layout's defaults.
    """
    out = np.tile(layout.defaults, (len(blobs), 1))
    size = HEADER_BYTES + 4 * layout.width
    rows = [i for i, blob in enumerate(blobs) if blob is not None and len(blob) == size]
    present = len(blobs) - blobs.count(None)
    if not rows:
        return out, present
    raw = np.frombuffer(b"".join(blobs[i] or b"" for i in rows), np.uint8).reshape(-1, size)
    head = np.frombuffer(MAGIC + layout.digest, np.uint8)
    sums = np.ascontiguousarray(raw[:, len(head) : HEADER_BYTES]).view("<u8")[:, 0]
    values = np.ascontiguousarray(raw[:, HEADER_BYTES:]).view("<f4")
    good = (raw[:, : len(head)] == head).all(axis=1)
    good &= vector_hash(values) == sums
    good &= np.isfinite(values).all(axis=1)
    out[np.array(rows)[good]] = values[good]
    return out, present - int(good.sum())


for _layout in LAYOUTS.values():
    if HEADER_BYTES + 4 * _layout.width > BLOB_BYTES_MAX:
        raise AssertionError(_layout)
