"""Stage 5, emit: a scored micro-batch to outbound records.

In: transactions with scores and decisions, reasons for the alerted rows, rejects. Out: one
`Outbound`: a score for each transaction, an alert for each decision above APPROVE, a dead letter
for each reject, all to the partition of their input. Pure: nothing is sent here.
"""

import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import fastavro
import numpy as np

import schemas
from app.decide import DECISIONS
from app.encode import encode_scores, encode_string
from app.latency import Instants
from app.ledger import next_offsets
from app.letters import letters_of
from app.records import (
    STRING_FIELDS,
    Columns,
    Float32s,
    Int8s,
    Int64s,
    Letter,
    Outbound,
    Ragged,
    Reason,
    RecordBatch,
    Reject,
    Transactions,
)
from features.state import Flags

_ALERTS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:riskwire:alert")


@dataclass(frozen=True, slots=True)
class Route:
    """Where outputs go, the framing header in front of each value, and how long a letter may be.

    `score_features`: scores carry the feature vector.
    """

    scores: str
    alerts: str
    dead_letters: str
    letter_bytes_max: int = 4_190_208
    score_header: bytes = field(default=schemas.load("risk_score").single_object_header)
    alert_header: bytes = field(default=schemas.load("risk_alert").single_object_header)
    score_features: bool = False


@dataclass(frozen=True, slots=True)
class Provenance:
    """What scored a batch."""

    model_id: str
    feature_contract_id: str
    provider: str

    def fields(self, *, provisional: bool, degraded: bool = False) -> dict[str, object]:
        """As fields of RiskScore and RiskAlert."""
        return {
            "model_id": self.model_id,
            "feature_contract_id": self.feature_contract_id,
            "degraded": degraded,
            "provisional": provisional,
            "provider": self.provider,
        }

    def encoded(self, *, provisional: bool, degraded: bool) -> bytes:
        """The same fields as they follow each other in an encoded RiskScore."""
        return b"".join(
            encode_string(value) if isinstance(value, str) else bytes([bool(value)])
            for value in self.fields(provisional=provisional, degraded=degraded).values()
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What the stages before gave for n transactions.

    matrix float32 (n, features), scores float32 (n,), decisions int8 (n,) as indexes of DECISIONS,
    vector_hash uint64 (n,), provisional bool (n,), thresholds float32 (3,) by decision. `alerted`
    int64 are the rows above APPROVE; `reasons` one tuple each. `degraded` bool (n,), and
    `shed` the batch's level of `app.shed`.
    """

    transactions: Transactions
    matrix: Float32s
    scores: Float32s
    decisions: Int8s
    vector_hash: Any
    provisional: Flags
    thresholds: Float32s
    alerted: Int64s
    reasons: Sequence[Sequence[Reason]]
    instants: Instants
    degraded: Flags
    shed: int = 0


def emit(
    records: RecordBatch,
    scored: Scored,
    rejects: Sequence[Reject],
    provenance: Provenance,
    route: Route,
) -> Outbound:
    """All outbound records of a micro-batch."""
    transactions = scored.transactions
    # In the order of `kinds`: not provisional and provisional, then the same degraded.
    constants = [
        provenance.encoded(provisional=provisional, degraded=degraded)
        for degraded in (False, True)
        for provisional in (False, True)
    ]
    kinds = scored.provisional.astype(np.int8) + 2 * scored.degraded.astype(np.int8)
    columns = [
        Columns(
            route.scores,
            transactions.partition,
            transactions.strings("customer_id"),
            encode_scores(
                route.score_header, transactions, scored.scores, scored.decisions,
                scored.vector_hash, kinds, constants, scored.instants,
                scored.matrix if route.score_features else None, scored.shed,
            ),
        )
    ]  # fmt: skip
    if len(scored.alerted):
        columns.append(_alerts(records.topic, scored, provenance, route))
    dead = letters(records, rejects, route)
    return replace(dead, columns=tuple(columns))


def letters(records: RecordBatch, rejects: Sequence[Reject], route: Route) -> Outbound:
    """The dead letters of a micro-batch of any topic, without anything else."""
    dead: Sequence[Letter] = ()
    if rejects:
        dead = letters_of(records, rejects, route.dead_letters, route.letter_bytes_max)
    return Outbound((), dead, records.topic, next_offsets(records))


def alert_id(topic: str, partition: int, offset: int) -> str:
    """UUIDv5 of the source record's position: scoring it again gives the same id."""
    return str(uuid.uuid5(_ALERTS, f"{topic}/{partition}/{offset}"))


def _alerts(topic: str, scored: Scored, provenance: Provenance, route: Route) -> Columns:
    transactions = scored.transactions
    values = [
        route.alert_header + _encode_alert(_alert(topic, scored, int(row), reasons, provenance))
        for row, reasons in zip(scored.alerted, scored.reasons, strict=True)
    ]
    return Columns(
        route.alerts,
        transactions.partition[scored.alerted],
        transactions.strings("customer_id").take(scored.alerted),
        Ragged.of(values),
    )


def _alert(
    topic: str, scored: Scored, row: int, reasons: Sequence[Reason], provenance: Provenance
) -> dict[str, object]:
    t, at = scored.transactions, scored.instants
    partition, offset = int(t.partition[row]), int(t.offset[row])
    decision = int(scored.decisions[row])
    return {
        "alert_id": alert_id(topic, partition, offset),
        "transaction": transaction_fields(t, row),
        "score": float(scored.scores[row]),
        "threshold": float(scored.thresholds[decision]),
        "decision": DECISIONS[decision],
        "reasons": [
            {"code": r.code, "feature": r.feature, "value": r.value, "contribution": r.contribution}
            for r in reasons
        ],
        "features": scored.matrix[row].tolist(),
        **provenance.fields(
            provisional=bool(scored.provisional[row]), degraded=bool(scored.degraded[row])
        ),
        "vector_hash": int(scored.vector_hash[row]).to_bytes(8, "big"),
        "source_topic": topic,
        "source_partition": partition,
        "source_offset": offset,
        "latency": {
            "event_time": int(t.event_time_us[row]),
            "append_time": int(t.append_time_us[row]),
            "append_time_type": TIMESTAMP_TYPES[int(t.append_time_type[row])],
            "polled": at.polled_us,
            "decoded": at.decoded_us,
            "enriched": at.enriched_us,
            "scored": at.scored_us,
            "emitted": at.emitted_us,
        },
        "shed": scored.shed,
    }


TIMESTAMP_TYPES = ("NOT_AVAILABLE", "CREATE_TIME", "LOG_APPEND_TIME")
_CHANNELS = next(
    field["type"]["symbols"]
    for field in schemas.load("transaction").parsed["fields"]
    if field["name"] == "channel"
)


def transaction_fields(transactions: Transactions, row: int) -> dict[str, object]:
    """One transaction as the fields of its Avro schema."""
    strings = {name: transactions.strings(name).text(row) for name in STRING_FIELDS}
    return {
        **strings,
        "event_time": int(transactions.event_time_us[row]),
        "amount_minor": int(transactions.amount_minor[row]),
        "channel": _CHANNELS[int(transactions.channel[row])],
    }


def _encode_alert(alert: Mapping[str, object]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schemas.load("risk_alert").parsed, alert)
    return out.getvalue()
