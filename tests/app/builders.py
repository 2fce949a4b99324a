"""Small builders of record batches and transactions for tests."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.ledger import Ledger
from app.ports import Commits
from app.records import STRING_FIELDS, Ragged, RecordBatch, Transactions, pack_headers

Rows = Sequence[tuple[int, int, bytes | None, bytes | None]]
Scalar = TypeVar("Scalar", bound=np.generic)
T0 = 1_700_000_000_000_000


def record_batch(
    rows: Rows,
    *,
    topic: str = "transactions",
    headers: Sequence[Sequence[tuple[str, bytes | None]]] | None = None,
    generation: int = 0,
    polled_us: int = T0 + 5000,
) -> RecordBatch:
    """A batch of (partition, offset, key, value) rows, appended a second after the epoch T0."""
    n = len(rows)
    return RecordBatch(
        topic,
        np.array([r[0] for r in rows], np.int32),
        np.array([r[1] for r in rows], np.int64),
        np.full(n, T0 // 1000 + 1, np.int64),
        np.full(n, 2, np.int8),
        Ragged.of([r[2] for r in rows]),
        Ragged.of([r[3] for r in rows]),
        Ragged.of([pack_headers(h) for h in headers or [()] * n]),
        polled_us,
        generation,
    )


class Nobody:
    """An owner of no state: reading begins at the committed offsets, or where a test says."""

    def __init__(self) -> None:
        self.refuses, self.claims = False, 0
        self.fenced: list[int] = []
        self.starts: dict[tuple[str, int], int] = {}
        self.lacking: dict[tuple[str, int], int] = {}
        self.released: list[tuple[list[int], bool]] = []

    def start(self, commits: Commits) -> None:
        """See `StateOwner.start`."""

    def fence(self, partitions: Sequence[int]) -> bool:
        """See `StateOwner.fence`."""
        self.fenced = list(partitions)
        return True

    def claim(
        self, partitions: Sequence[int], committed: Mapping[tuple[str, int], int]
    ) -> Mapping[tuple[str, int], int] | None:
        """See `StateOwner.claim`."""
        self.claims += bool(partitions)
        return None if self.refuses else {**committed, **self.starts}

    def lacks(self, gone: Mapping[tuple[str, int], int]) -> None:
        """See `StateOwner.lacks`."""
        self.lacking = dict(gone)

    def release(self, partitions: Sequence[int], *, lost: bool) -> None:
        """See `StateOwner.release`."""
        self.released.append((list(partitions), lost))


def begin(ledger: Ledger, batch: RecordBatch) -> tuple[int, RecordBatch]:
    """Admit a batch that has records of owned partitions: its ticket and those records."""
    admitted = ledger.admit(batch)
    assert admitted is not None
    return admitted


def transactions(rows: Sequence[Mapping[str, object]]) -> Transactions:
    """Transactions of field dicts; what is missing takes a plain value."""
    plain = {
        "transaction_id": "t1",
        "customer_id": "c1",
        "terminal_id": "m1",
        "currency": "EUR",
        "merchant_category": None,
        "country": None,
        "device_id": None,
    }
    full = [{**plain, **row} for row in rows]
    texts = [
        Ragged.of([None if r[name] is None else str(r[name]).encode() for r in full])
        for name in STRING_FIELDS
    ]
    data = np.concatenate([t.data for t in texts])
    data.flags.writeable = False
    base = np.cumsum([0, *(len(t.data) for t in texts)])[:-1]

    def column(name: str, default: int, dtype: type[Scalar]) -> NDArray[Scalar]:
        return np.array([r.get(name, default) for r in full], dtype)

    return Transactions(
        np.arange(len(full), dtype=np.int64),
        column("partition", 0, np.int32),
        np.array([r.get("offset", i) for i, r in enumerate(full)], np.int64),
        column("append_time_us", T0 + 1000, np.int64),
        column("append_time_type", 2, np.int8),
        column("event_time_us", T0, np.int64),
        column("amount_minor", 1234, np.int64),
        column("channel", 0, np.int8),
        data,
        np.stack([t.start + b for t, b in zip(texts, base, strict=True)]),
        np.stack([t.length for t in texts]),
    )
