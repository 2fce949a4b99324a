"""A made-up transaction through every stage: all loops are compiled before the first real one.

Compiled code is cached on disk (beside the source, or in NUMBA_CACHE_DIR where that is read-only):
the first start of an installation takes about half a minute, later ones a second or two.
"""

import dataclasses
import io
from typing import Any

import fastavro
import numpy as np

import schemas
from app.adapters.memory import MemoryStore
from app.decide import Policy
from app.labels import label_writers
from app.live import Live
from app.meta import Meta
from app.pipeline import LabelParts, Parts, learn, process
from app.records import Ragged, RecordBatch
from app.shed import FULL, RULE, Shedding
from features.blob import meta_key
from features.contract import LIVE

_ALERT_ALWAYS = Policy(1e-30, 1e-30)
_CUSTOMER = b"warm-up"
_TRANSACTION = {
    "transaction_id": "warm-up",
    "customer_id": _CUSTOMER.decode(),
    "terminal_id": "warm-up",
    "amount_minor": 1,
    "currency": "EUR",
}


async def warm_up(parts: Parts) -> None:
    """Run the pipeline on a throw-away state and an empty store; nothing leaves."""
    now_us, store = parts.clock(), MemoryStore()
    good = _encoded("transaction", {**_TRANSACTION, "event_time": now_us})
    label = {name: _TRANSACTION[name] for name in ("transaction_id", "customer_id", "terminal_id")}
    label |= {"event_time": now_us, "known_at": now_us, "fraud": True}
    its = LabelParts("warm-up-labels", label_writers())
    for first, level in ((0, FULL), (2, FULL), (4, RULE)):  # each reads what was written before
        live = Live(LIVE, 1, 4096, 4096)
        meta = Meta(1, next_offset=(first, first))
        store.blobs[meta_key(live.namespace, 0)] = meta.encode()
        live.adopt(0, meta, (0, 0))
        enrich = dataclasses.replace(parts.enrich, live=live, store=store, outage=None)
        now = dataclasses.replace(
            parts, enrich=enrich, shedding=Shedding(1, level=level), policy=_ALERT_ALWAYS
        )
        await process(_records("warm-up", [good, b"broken"], first, now_us), now)
        outcomes = [_encoded("fraud_label", label), b"broken"]
        await learn(_records(its.topic, outcomes, first, now_us), its, now)
        [frozen] = live.freeze()
        store.blobs |= dict(frozen.pairs)


def _encoded(name: str, fields: dict[str, Any]) -> bytes:
    schema, value = schemas.load(name), io.BytesIO()
    fastavro.schemaless_writer(value, schema.parsed, fields)
    return schema.single_object_header + value.getvalue()


def _records(topic: str, values: list[bytes], first: int, now_us: int) -> RecordBatch:
    n = len(values)
    return RecordBatch(
        topic,
        np.zeros(n, np.int32),
        np.arange(first, first + n),
        np.full(n, now_us // 1000),
        np.ones(n, np.int8),
        Ragged.of([_CUSTOMER] * n),
        Ragged.of(values),
        Ragged.of([b""] * n),
        now_us,
    )
