"""Lane: a good hand-written loop on confluent-kafka that does Riskwire's work, at least once.

The strongest plain Python that we could write for it: batches of 2,048; fastavro for each record,
with the logical types taken off so that no datetime is made; one MGET of a batch's distinct
profiles, joined by `np.frombuffer`; the same feature kernel, model and schema as Riskwire; one
`produce_batch` a batch, one flush and commit every 100 ms. It trusts its input (no validation, no
dead letters) and raises no alerts. Ends with a message where a score cannot be delivered.
"""

import io
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import fastavro
import numpy as np
import redis
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

import schemas
from app.adapters.onnx import OnnxScorer, load_scorer
from app.bench.lanes.lane import BATCH_RECORDS, CONSUMER_OPTIONS, Meter, Task, task
from app.records import Float32s
from features import profile
from features.contract import CHANNELS
from features.vectorize import country_code, vectorize
from features.xxh64 import vector_hash

COMMIT_S = 0.1
FRAMING_BYTES = 10
PRODUCER_OPTIONS: dict[str, str | int | bool] = {
    "acks": "all",
    "enable.idempotence": True,
    # `produce_batch` takes no partition a record; this one gives that of the input.
    "partitioner": "murmur2_random",
    "linger.ms": 5,
    "batch.num.messages": 20_000,
    "queue.buffering.max.messages": 500_000,
    "delivery.report.only.error": True,
}
DECISIONS = ("APPROVE", "REVIEW", "DECLINE")
TIMESTAMP_TYPES = ("NOT_AVAILABLE", "CREATE_TIME", "LOG_APPEND_TIME")
CHANNEL_CODES = {name: code for code, name in enumerate(CHANNELS)}


def now_us() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def plain(schema: Any) -> Any:
    """The schema without logical types: the same bytes, as integers."""
    if isinstance(schema, dict):
        return {k: plain(v) for k, v in schema.items() if k != "logicalType"}
    return [plain(part) for part in schema] if isinstance(schema, list) else schema


def parsed(name: str) -> Any:
    """A schema for fastavro, without logical types."""
    return fastavro.parse_schema(plain(schemas.load(name).parsed), {})


class Work:
    """Everything between a batch of messages and the encoded scores."""

    def __init__(self, url: str, scorer: OnnxScorer) -> None:
        """Connect to Redis."""
        self._redis = redis.Redis.from_url(url)
        self._scorer = scorer
        self._reader, self._writer = parsed("transaction"), parsed("risk_score")
        self._header = schemas.load("risk_score").single_object_header
        self._same = {
            "model_id": scorer.model_id,
            "feature_contract_id": scorer.feature_contract_id,
            "degraded": False,
            "provisional": False,
            "provider": scorer.provider,
        }

    def __call__(self, messages: Sequence[Message]) -> list[bytes]:
        """The score of each message, encoded."""
        polled = now_us()
        transactions = [self._decode(message.value()) for message in messages]
        decoded = now_us()
        matrix = self._join(transactions)
        enriched = now_us()
        scores = self._scorer.score_many(matrix)
        scored = now_us()
        decisions = np.searchsorted(self._scorer.policy.thresholds[1:], scores, "right").tolist()
        hashes = vector_hash(matrix).byteswap().tobytes()
        latency = {
            "polled": polled,
            "decoded": decoded,
            "enriched": enriched,
            "scored": scored,
            "emitted": now_us(),
        }
        rows = zip(messages, transactions, scores.tolist(), decisions, strict=True)
        return [
            self._encode(message, transaction, score, decision, hashes[8 * i : 8 * i + 8], latency)
            for i, (message, transaction, score, decision) in enumerate(rows)
        ]

    def _decode(self, value: bytes | None) -> dict[str, Any]:
        stream = io.BytesIO(value or b"")
        stream.seek(FRAMING_BYTES)
        return fastavro.schemaless_reader(stream, self._reader, None)  # type: ignore[return-value]

    def _encode(
        self,
        message: Message,
        transaction: dict[str, Any],
        score: float,
        decision: int,
        digest: bytes,
        latency: dict[str, int],
    ) -> bytes:
        kind, append_ms = message.timestamp()
        record = {
            "transaction_id": transaction["transaction_id"],
            "customer_id": transaction["customer_id"],
            "source_partition": message.partition(),
            "source_offset": message.offset(),
            "score": score,
            "decision": DECISIONS[decision],
            "vector_hash": digest,
            "latency": {
                "event_time": transaction["event_time"],
                "append_time": append_ms * 1000,
                "append_time_type": TIMESTAMP_TYPES[kind],
                **latency,
            },
            **self._same,
        }
        out = io.BytesIO()
        out.write(self._header)
        fastavro.schemaless_writer(out, self._writer, record)
        return out.getvalue()

    def _join(self, transactions: Sequence[dict[str, Any]]) -> Float32s:
        n = len(transactions)
        keys = [profile.key("customer", t["customer_id"].encode()) for t in transactions]
        keys += [profile.key("terminal", t["terminal_id"].encode()) for t in transactions]
        wanted = list(dict.fromkeys(keys))
        found: Any = self._redis.mget(wanted)
        blob_of = dict(zip(wanted, found, strict=True))
        blobs = [blob_of[key] for key in keys]
        return vectorize(
            np.array([t["event_time"] for t in transactions], np.int64),
            np.array([t["amount_minor"] for t in transactions], np.int64),
            np.array([CHANNEL_CODES[t["channel"]] for t in transactions], np.int8),
            np.array([country_code(t["country"]) for t in transactions], np.int32),
            rows("customer", blobs[:n]),
            rows("terminal", blobs[n:]),
        )


def rows(entity: profile.Entity, blobs: Sequence[bytes | None]) -> Float32s:
    """Profiles of packed blobs, float32 (n, width); defaults where there is none."""
    layout = profile.LAYOUTS[entity]
    usual = bytes(profile.HEADER_BYTES) + layout.defaults.tobytes()
    table = np.frombuffer(b"".join([blob or usual for blob in blobs]), "<f4")
    return np.ascontiguousarray(table.reshape(len(blobs), -1)[:, profile.HEADER_BYTES // 4 :])


def main(wanted: Task) -> None:
    """Score until the count is reached."""
    work, meter = Work(wanted.redis, load_scorer(None)), Meter(wanted.n, wanted.warm)
    brokers = {"bootstrap.servers": wanted.bootstrap}
    consumer = Consumer({**CONSUMER_OPTIONS, **brokers, "group.id": wanted.group})
    consumer.subscribe([wanted.topic])
    failed: list[str] = []
    producer = Producer({**PRODUCER_OPTIONS, **brokers})
    reported = partial(note_failure, failed)
    next_offset: dict[Any, Any] = {}
    committed_s, done = time.monotonic(), False
    while not done:
        messages = consumer.consume(BATCH_RECORDS, 0.1)
        if messages:
            out: list[Any] = [
                {"value": value, "key": message.key()}
                for message, value in zip(messages, work(messages), strict=True)
            ]
            if producer.produce_batch(wanted.scores, out, on_delivery=reported) != len(out):
                raise SystemExit("the producer's queue is full")
            producer.poll(0)
            next_offset |= {m.partition(): (m.offset() or 0) + 1 for m in messages}
        done = meter.count(len(messages))
        if done or time.monotonic() - committed_s > COMMIT_S:
            commit(wanted.topic, consumer, producer, next_offset, failed)
            committed_s = time.monotonic()
    meter.report()
    consumer.close()


def note_failure(failed: list[str], error: KafkaError | None, _message: Message) -> None:
    """Delivery report; only failures are reported."""
    failed.append(str(error))


def commit(
    topic: str,
    consumer: Consumer,
    producer: Producer,
    next_offset: dict[Any, int],
    failed: Sequence[str],
) -> None:
    """Wait for every score, then commit what they came from."""
    if producer.flush(30) or failed:
        raise SystemExit(f"scores could not be delivered: {failed[:1]}")
    offsets = [TopicPartition(topic, p, at) for p, at in next_offset.items()]
    if offsets:
        consumer.commit(offsets=offsets, asynchronous=False)
        next_offset.clear()


if __name__ == "__main__":
    main(task())
