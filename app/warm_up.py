"""A made-up transaction through every stage: all loops are compiled before the first real one.

Compiled code is cached on disk (beside the source, or in NUMBA_CACHE_DIR where that is read-only):
the first start of an installation takes about half a minute, later ones a second or two.
"""

import dataclasses
import io

import fastavro
import numpy as np

import schemas
from app.adapters.memory import MemoryStore
from app.enrich import Caches
from app.pipeline import Parts, process
from app.records import Ragged, RecordBatch

_CUSTOMER = b"warm-up"
_TRANSACTION = {
    "transaction_id": "warm-up",
    "customer_id": _CUSTOMER.decode(),
    "terminal_id": "warm-up",
    "amount_minor": 1,
    "currency": "EUR",
}


async def warm_up(parts: Parts) -> None:
    """Run the pipeline on throw-away caches and an empty store; nothing leaves."""
    now_us = parts.clock()
    schema, value = schemas.load("transaction"), io.BytesIO()
    fastavro.schemaless_writer(value, schema.parsed, {**_TRANSACTION, "event_time": now_us})
    good = schema.single_object_header + value.getvalue()
    records = RecordBatch(
        "warm-up",
        np.zeros(2, np.int32),
        np.arange(2),
        np.full(2, now_us // 1000),
        np.ones(2, np.int8),
        Ragged.of([_CUSTOMER, None]),
        Ragged.of([good, b"broken"]),
        Ragged.of([b"", b""]),
        now_us,
    )
    for _ in range(2):  # the second time finds its entities in the near cache
        caches = Caches.of(1024, 1_000_000)
        await process(records, dataclasses.replace(parts, caches=caches, store=MemoryStore()))
