"""The logs of a simulation, and what must come of them.

Few customers and terminals, payments of some days with their outcomes, in two partitions; some
values cannot be read, and some offsets hold no record. `expected` runs the plain state over whole
logs: each payment's vector is a function of these (and of what was declared of quiet logs), however
often workers died over it.
"""

import io
import random
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import fastavro
import numpy as np

import schemas
from app import decode
from app.adapters.memory import MemoryStore
from app.backoff import Backoff
from app.enrich import Enrich
from app.labels import decode_labels, label_writers
from app.ledger import Position
from app.live import Live
from app.meta import Meta, Pair
from app.records import Ragged, RecordBatch
from app.simulation.concurrency import EPOCH_US
from app.watermarks import Watermark
from features.blob import meta_key
from features.contract import DAY_US, Timing
from features.state import LABELS, TRANSACTIONS
from features.xxh64 import vector_hash

TOPICS = ("transactions", "labels")
SCORES, ALERTS, LETTERS, WATERMARKS = "scores", "alerts", "dead-letters", "watermarks"
PARTITIONS = 2
TIMING = Timing(1_000_000, 2_000_000)
"""Short, so that logs become quiet, and are declared so, within a simulation."""
LIMITS = decode.Limits(1 << 16, 16, 1 << 12, 10 * 365 * DAY_US)
POOL = 48
WRITERS, LABEL_WRITERS = decode.Writers(), label_writers()
"""Nobody adds to them: there is no registry."""
HOLES, POISON = 0.06, 0.06
T = TypeVar("T")

Rows = list[tuple[bytes, bytes] | None]
"""By offset, key and value; None for a hole."""


@dataclass(slots=True, eq=False)
class Data:
    """What is produced: by topic and partition, rows in order; `expected` without declarations."""

    rows: dict[Position, Rows] = field(default_factory=dict)

    def count(self, at: Position) -> int:
        """How many offsets a log has."""
        return len(self.rows[at])


@dataclass(slots=True, eq=False)
class Expected:
    """By topic and partition: offsets that are rejected; by partition and offset: vector hashes."""

    rejects: dict[Position, set[int]]
    hashes: dict[tuple[int, int], int]


@lru_cache(POOL)
def data(number: int) -> Data:
    """One of POOL logs."""
    rng = random.Random(number)  # noqa: S311 -- to be drawn again
    found = Data({(topic, p): [] for topic in TOPICS for p in range(PARTITIONS)})
    t = EPOCH_US - 14 * DAY_US
    outcomes: dict[int, list[tuple[int, tuple[bytes, bytes]]]] = {p: [] for p in range(PARTITIONS)}
    for i in range(rng.randint(16, 28)):
        t += int(rng.random() * DAY_US)
        when = t - int(rng.random() < 0.1) * rng.randrange(DAY_US // 10)
        customer = rng.randrange(6)
        p, key = customer % PARTITIONS, b"c%d" % customer
        ids = {"transaction_id": f"x{i}", "customer_id": key.decode()}
        ids["terminal_id"] = f"t{rng.randrange(3)}"
        paid = ids | {"event_time": when, "amount_minor": rng.randrange(1, 90_000)}
        _append(rng, found.rows[TOPICS[0], p], key, _encoded("transaction", paid))
        if rng.random() < 0.6:
            known_us = when + int(rng.random() * 3 * DAY_US)
            label = ids | {"event_time": when, "known_at": known_us, "fraud": rng.random() < 0.5}
            outcomes[p].append((known_us, (key, _encoded("fraud_label", label))))
    for p, its in outcomes.items():
        for _, (key, value) in sorted(its):
            _append(rng, found.rows[TOPICS[1], p], key, value)
    return found


def _append(rng: random.Random, rows: Rows, key: bytes, value: bytes) -> None:
    if rng.random() < HOLES:
        rows.append(None)
    rows.append((key, b"broken" if rng.random() < POISON else value))


def _encoded(name: str, fields: dict[str, Any]) -> bytes:
    schema, value = schemas.load(name), io.BytesIO()
    fields = {"currency": "EUR", **fields} if name == "transaction" else fields
    fastavro.schemaless_writer(value, schema.parsed, fields)
    return schema.single_object_header + value.getvalue()


def batch(
    topic: str, rows: Sequence[tuple[int, int, tuple[bytes, bytes]]], now: int
) -> RecordBatch:
    """Records by (partition, offset, (key, value)), polled now."""
    n = len(rows)
    return RecordBatch(
        topic,
        np.array([p for p, _, _ in rows], np.int32),
        np.array([offset for _, offset, _ in rows], np.int64),
        np.full(n, now // 1000, np.int64),
        np.full(n, 2, np.int8),
        Ragged.of([key for _, _, (key, _) in rows]),
        Ragged.of([value for _, _, (_, value) in rows]),
        Ragged.of([b""] * n),
        now,
    )


Marks = tuple[tuple[int, Watermark], ...]
"""What was declared of partitions."""


@lru_cache(4 * POOL)
def expected(number: int, marks: Marks) -> Expected:
    """What must come of logs, where these watermarks were declared."""
    its = data(number)
    found = Expected({at: set() for at in its.rows}, {})
    for p in range(PARTITIONS):
        _, enrich = _whole(marks)
        for other in range(PARTITIONS):
            found.rejects[TOPICS[LABELS], other] = _learn(enrich, its, other)
        # Of its own partition a payment sees what came before it, of the others all.
        for other in [*(q for q in range(PARTITIONS) if q != p), p]:
            rejects, hashes = _pay(enrich, its, other)
        found.rejects[TOPICS[TRANSACTIONS], p] = rejects
        found.hashes |= hashes
    return found


@lru_cache(4 * POOL)
def blobs(number: int, marks: Marks, partition: int, ends: Pair) -> Mapping[bytes, bytes]:
    """What Redis holds of a partition once its logs are in the state up to these offsets."""
    live, enrich = _whole(marks)
    _learn(enrich, data(number), partition, ends[LABELS])
    _pay(enrich, data(number), partition, ends[TRANSACTIONS])
    [image] = live.freeze([partition])
    return dict(image.pairs)


def _whole(marks: Marks) -> tuple[Live, Enrich]:
    """A state that owns all partitions, and knows all that was declared of them."""
    live, store = Live(TIMING, PARTITIONS, 64, 64 * PARTITIONS), MemoryStore()
    for p in range(PARTITIONS):
        live.adopt(p, Meta(PARTITIONS), (0, 0))
        store.blobs[meta_key(live.namespace, p)] = Meta(PARTITIONS).encode()
    for p, mark in marks:
        live.declare(p, mark)

    async def flush() -> None:
        """There is room."""

    return live, Enrich(live, store, lambda: EPOCH_US, Backoff(), flush)


def _records(its: Data, topic: str, p: int, end: int | None) -> RecordBatch | None:
    rows = [(p, i, row) for i, row in enumerate(its.rows[topic, p][:end]) if row is not None]
    return batch(topic, rows, EPOCH_US) if rows else None


def _learn(enrich: Enrich, its: Data, p: int, end: int | None = None) -> set[int]:
    if (records := _records(its, TOPICS[LABELS], p, end)) is None:
        return set()
    found = decode_labels(records, LABEL_WRITERS, LIMITS)
    _without_waiting(enrich.learn(records, found.labels))
    return {int(records.offset[reject.row]) for reject in found.rejects}


def _pay(
    enrich: Enrich, its: Data, p: int, end: int | None = None
) -> tuple[set[int], dict[tuple[int, int], int]]:
    if (records := _records(its, TOPICS[TRANSACTIONS], p, end)) is None:
        return set(), {}
    found = decode.decode(records, WRITERS, LIMITS)
    matrix, _, _ = _without_waiting(enrich.vectors(records, found.transactions))
    places = [(p, offset) for offset in found.transactions.offset.tolist()]
    rejects = {int(records.offset[reject.row]) for reject in found.rejects}
    return rejects, dict(zip(places, vector_hash(matrix).tolist(), strict=True))


def _without_waiting(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        while True:
            work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result


def namespace() -> str:
    """What stands in front of the keys of the state."""
    return Live(TIMING, PARTITIONS, 1, PARTITIONS).namespace
