"""The whole way of a micro-batch: decode → enrich → score → decide → emit.

Every stage is a pure function of a file of its name; what they need from outside (online store,
registry, model, clock) comes in as ports. Everything that is awaited here waits with back-off while
the outside is away, so a batch is late but never lost. Sending and committing are the worker's.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import structlog

from app.backoff import Backoff
from app.decide import DECISIONS, Policy, decide, reasons
from app.decode import Decoded, Limits, Writers
from app.emit import Provenance, Route, Scored, emit
from app.enrich import Caches, join, lookup
from app.errors import RejectCode, SchemaError
from app.latency import Instants
from app.ports import Clock, ProfileStore, Scorer, WriterSchemas
from app.records import Float32s, Outbound, RecordBatch, Reject, Transactions
from app.score import score
from features.xxh64 import vector_hash

log = structlog.get_logger("riskwire.pipeline")


class Decode(Protocol):
    """`app.decode.decode` or its fastavro twin."""

    def __call__(self, records: RecordBatch, writers: Writers, limits: Limits) -> Decoded:
        """Decode and validate a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What the pipeline works with; one object for the life of a worker."""

    decode: Decode
    writers: Writers
    limits: Limits
    registry: WriterSchemas
    caches: Caches
    store: ProfileStore
    scorer: Scorer
    policy: Policy
    usual: Float32s
    route: Route
    clock: Clock
    backoff: Backoff


@dataclass(frozen=True, slots=True, eq=False)
class Processed:
    """The outbound records of a batch, and what the metrics want to know."""

    outbound: Outbound
    transactions: Transactions
    rejects: Counter[RejectCode]
    alerts: Counter[str]
    instants: Instants


async def process(records: RecordBatch, parts: Parts) -> Processed:
    """Carry one micro-batch from bytes to outbound records; every record in is counted out."""
    transactions, rejects = await decoded(records, parts)
    decoded_us = parts.clock()
    matrix = await enriched(transactions, parts)
    enriched_us = parts.clock()
    scores = score(matrix, parts.scorer)
    scored_us = parts.clock()
    decisions = decide(scores, parts.policy)
    alerted = np.flatnonzero(decisions)
    why = reasons(matrix, alerted, scores, parts.scorer, parts.usual)
    instants = Instants(records.polled_us, decoded_us, enriched_us, scored_us, parts.clock())
    scored = Scored(
        transactions, matrix, scores, decisions, vector_hash(matrix), parts.policy.thresholds,
        alerted, why, instants,
    )  # fmt: skip
    scorer = parts.scorer
    provenance = Provenance(scorer.model_id, scorer.feature_contract_id, scorer.provider)
    outbound = emit(records, scored, rejects, provenance, parts.route)
    counted = len(transactions) + len(rejects)
    assert counted == len(records), "a record was not counted out"  # noqa: S101 -- invariant
    alerts = Counter(DECISIONS[d] for d in decisions[alerted].tolist())
    causes = Counter(reject.code for reject in rejects)
    return Processed(outbound, transactions, causes, alerts, instants)


async def decoded(records: RecordBatch, parts: Parts) -> tuple[Transactions, list[Reject]]:
    """Decode, asking the registry for writer schemas not seen before."""
    while True:
        result = parts.decode(records, parts.writers, parts.limits)
        if not result.unresolved:
            return result.transactions, result.rejects
        ids = sorted(result.unresolved)
        found = await parts.backoff.until_available("schema registry", parts.registry.resolve, ids)
        for schema_id, text in found.items():
            learn(parts.writers, schema_id, text)


def learn(writers: Writers, schema_id: int, text: str | None) -> None:
    """Know a writer schema from now on.

    Its records are rejected if there is none or it cannot be used.
    """
    try:
        if text is not None:
            writers.add_id(schema_id, text)
            return
    except SchemaError as error:
        log.warning("writer schema cannot be used", schema_id=schema_id, error=str(error))
    writers.mark_unknown(schema_id)


async def enriched(transactions: Transactions, parts: Parts) -> Float32s:
    """Join with cached features; what the near cache lacks comes from the online store at once."""
    now_us = parts.clock()
    pending = lookup(transactions, parts.caches, now_us)
    blobs: list[bytes | None] = []
    if pending.keys:
        blobs = await parts.backoff.until_available("Redis", parts.store.fetch, pending.keys)
    return join(transactions, pending, blobs, parts.caches, now_us)
