"""The whole way of a micro-batch: decode → enrich → score → decide → emit.

Every stage is in a file of its name; what they need from outside (online store, registry, model,
clock) comes in as ports. Records that a former owner has answered already, but whose state it had
not written yet, go as far as enrich. Everything that is awaited here waits with back-off while
the outside is away, so a batch is late but never lost. Sending and committing are the worker's.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import structlog

from app.ages import Ages
from app.backoff import Backoff
from app.decide import DECISIONS, Policy, Reasons, decide, reasons
from app.decode import Decoded, Limits, Writers
from app.emit import Provenance, Route, Scored, emit, letters
from app.enrich import Enrich
from app.errors import RejectCode, SchemaError
from app.labels import DecodedLabels, decode_labels
from app.latency import Instants
from app.ports import Clock, Explainer, Scorer, WriterSchemas
from app.records import Int64s, Outbound, RecordBatch, Rejects, Transactions
from app.score import score
from app.shed import FULL, RULE, RULE_PROVIDER, Shedding
from features.state import LABELS, NEVER, TRANSACTIONS
from features.xxh64 import vector_hash

log = structlog.get_logger("riskwire.pipeline")
OUTPUT_BYTES = 512
"""A score with its vector; most alerts. A dead letter is as long as its record."""


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
    enrich: Enrich
    scorer: Scorer
    policy: Policy
    explainer: Explainer
    route: Route
    clock: Clock
    backoff: Backoff
    shedding: Shedding = field(default_factory=Shedding)
    ages: Ages = field(default_factory=Ages)


@dataclass(frozen=True, slots=True, eq=False)
class Processed:
    """The outbound records of a batch, and what the metrics want to know."""

    outbound: Outbound
    transactions: Transactions
    rejects: Counter[RejectCode]
    alerts: Counter[str]
    provisional: int
    degraded: int
    shed: int
    instants: Instants


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """A batch that is decided on, and still to be emitted; `instants` lack that."""

    records: RecordBatch
    scored: Scored
    rejects: Rejects

    @property
    def count(self) -> int:
        """How many outbound records there will be."""
        return len(self.scored.transactions) + len(self.scored.alerted) + len(self.rejects)

    @property
    def nbytes(self) -> int:
        """What it keeps in memory, and what will go out, about."""
        return self.records.nbytes + self.count * OUTPUT_BYTES


async def process(records: RecordBatch, parts: Parts) -> Processed:
    """Carry one micro-batch from bytes to outbound records; every record in is counted out."""
    return emitted(await decided(records, parts), parts)


async def decided(records: RecordBatch, parts: Parts) -> Decided:
    """Carry one micro-batch from bytes to decisions."""
    transactions, rejects = await decoded(records, parts)
    decoded_us = parts.clock()
    silent = parts.enrich.live.silent(TRANSACTIONS, records.partition, records.offset)
    sheds = parts.shedding.after_us > 0
    age_us = parts.ages.oldest_us(decoded_us, records.topic) if sheds else 0
    # Where nothing is answered, only the state is wanted.
    level = RULE if silent.all() else parts.shedding.at(age_us)
    vectors = await parts.enrich.vectors(records, transactions, level)
    counted = len(transactions) + len(rejects)
    assert counted == len(records), "a record was not counted out"  # noqa: S101 -- invariant
    if silent.any():
        rejects = rejects.take(~silent[rejects.row])
        rows = np.flatnonzero(~silent[transactions.row])
        transactions, vectors = transactions.take(rows), vectors.take(rows)
    matrix, enriched_us = vectors.matrix, parts.clock()
    if level < RULE:
        scores = score(matrix, parts.scorer)
    else:
        scores = parts.shedding.scores(transactions.amount_minor, parts.policy.thresholds)
    scored_us = parts.clock()
    decisions = decide(scores, parts.policy)
    alerted = np.flatnonzero(decisions)
    why = reasons(matrix, alerted, parts.explainer) if level == FULL else Reasons.none(len(alerted))
    scored = Scored(
        transactions, matrix, scores, decisions, vector_hash(matrix), vectors.provisional,
        parts.policy.thresholds, alerted, why,
        Instants(records.polled_us, decoded_us, enriched_us, scored_us, scored_us),
        vectors.degraded, level,
    )  # fmt: skip
    return Decided(records, scored, rejects)


def emitted(its: Decided, parts: Parts) -> Processed:
    """The outbound records of a batch that leaves now."""
    instants = replace(its.scored.instants, emitted_us=parts.clock())
    scored, scorer = replace(its.scored, instants=instants), parts.scorer
    provider = scorer.provider if scored.shed < RULE else RULE_PROVIDER
    provenance = Provenance(scorer.model_id, scorer.feature_contract_id, provider)
    outbound = emit(its.records, scored, its.rejects, provenance, parts.route)
    alerts = Counter(DECISIONS[d] for d in scored.decisions[scored.alerted].tolist())
    causes = its.rejects.counts()
    provisional = int(scored.provisional.sum())
    degraded = int(scored.degraded.sum())
    return Processed(
        outbound, scored.transactions, causes, alerts, provisional, degraded, scored.shed, instants
    )


@dataclass(frozen=True, slots=True, eq=False)
class LabelParts:
    """What outcomes need besides: their topic, and the writer schemas known of it."""

    topic: str
    writers: Writers


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """The dead letters of a batch of outcomes, and what the metrics want to know."""

    outbound: Outbound
    labels: int
    rejects: Counter[RejectCode]


async def learn(records: RecordBatch, its: LabelParts, parts: Parts) -> Learned:
    """Let the state know a micro-batch of outcomes; what cannot be read becomes a dead letter."""
    found = await _labels(records, its, parts)
    await parts.enrich.learn(records, found.labels)
    silent = parts.enrich.live.silent(LABELS, records.partition, records.offset)
    rejects = found.rejects.take(~silent[found.rejects.row])
    outbound = letters(records, rejects, parts.route)
    return Learned(outbound, len(found.labels), rejects.counts())


async def event_times(records: RecordBatch, parts: Parts) -> Int64s:
    """Each record's event time, int64 (n,); NEVER for one that cannot be read."""
    transactions, _ = await decoded(records, parts)
    times = np.full(len(records), NEVER)
    times[transactions.row] = transactions.event_time_us
    return times


async def known_at(records: RecordBatch, its: LabelParts, parts: Parts) -> Int64s:
    """When each outcome became known, int64 (n,); NEVER for one that cannot be read."""
    labels = (await _labels(records, its, parts)).labels
    times = np.full(len(records), NEVER)
    times[labels.row] = labels.known_at_us
    return times


async def _labels(records: RecordBatch, its: LabelParts, parts: Parts) -> DecodedLabels:
    while (found := decode_labels(records, its.writers, parts.limits)).unresolved:
        await resolved(found.unresolved, its.writers, parts)
    return found


async def decoded(records: RecordBatch, parts: Parts) -> tuple[Transactions, Rejects]:
    """Decode, asking the registry for writer schemas not seen before."""
    while True:
        result = parts.decode(records, parts.writers, parts.limits)
        if not result.unresolved:
            return result.transactions, result.rejects
        await resolved(result.unresolved, parts.writers, parts)


async def resolved(unresolved: Collection[int], writers: Writers, parts: Parts) -> None:
    """Ask the registry for writer schemas, and know them from now on."""
    ids = sorted(unresolved)
    found = await parts.backoff.until_available("schema registry", parts.registry.resolve, ids)
    for schema_id, text in found.items():
        know(writers, schema_id, text)


def know(writers: Writers, schema_id: int, text: str | None) -> None:
    """Know a writer schema from now on.

    Its records are rejected if there is none (UNKNOWN_SCHEMA) or it is refused (REFUSED_SCHEMA).
    """
    if text is None:
        writers.mark_unknown(schema_id)
        return
    try:
        writers.add_id(schema_id, text)
    except SchemaError as error:
        log.warning("writer schema is refused", schema_id=schema_id, error=str(error))
        writers.mark_refused(schema_id)
