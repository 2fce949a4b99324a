"""Lane: a good hand-written loop on confluent-kafka that does Riskwire's work, at least once.

The strongest plain Python that we could write for it: batches of 2,048; fastavro for each record,
with the logical types taken off so that no datetime is made; one `produce_batch` a batch, one flush
and commit every 100 ms. Nobody writes sliding windows by hand that agree to the last bit, so the
features are Riskwire's by a library call (`app.live`): state in memory, one MGET of what a batch
misses; model, vector hash and schema are the same too. It trusts its input (no validation, no dead
letters), raises no alerts and never writes its state back: after a crash it would be wrong. Ends
with a message where a score cannot be delivered.
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
from app.bench.lanes.lane import BATCH_RECORDS, CONSUMER_OPTIONS, PARTITIONS, Meter, Task, task
from app.config import Settings
from app.live import Live
from app.meta import Meta
from app.records import STRING_FIELDS, Float32s, Ragged, Transactions
from features.blob import meta_key
from features.state import Flags
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
CUSTOMER, TERMINAL = STRING_FIELDS.index("customer_id"), STRING_FIELDS.index("terminal_id")


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
        """Connect to Redis and begin with what it says of the partitions."""
        self._redis = redis.Redis.from_url(url)
        self._scorer = scorer
        self._live = self._claimed()
        self._reader, self._writer = parsed("transaction"), parsed("risk_score")
        self._header = schemas.load("risk_score").single_object_header
        self._same = {
            "model_id": scorer.model_id,
            "feature_contract_id": scorer.feature_contract_id,
            "degraded": False,
            "provider": scorer.provider,
        }

    def __call__(self, messages: Sequence[Message]) -> list[bytes]:
        """The score of each message, encoded."""
        polled = now_us()
        transactions = [self._decode(message.value()) for message in messages]
        decoded = now_us()
        matrix, provisional = self._features(messages, transactions)
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
        rows = zip(
            messages, transactions, scores.tolist(), decisions, provisional.tolist(), strict=True
        )
        return [
            self._encode(message, transaction, said, hashes[8 * i : 8 * i + 8], latency)
            for i, (message, transaction, *said) in enumerate(rows)
        ]

    def _decode(self, value: bytes | None) -> dict[str, Any]:
        stream = io.BytesIO(value or b"")
        stream.seek(FRAMING_BYTES)
        return fastavro.schemaless_reader(stream, self._reader, None)  # type: ignore[return-value]

    def _encode(
        self,
        message: Message,
        transaction: dict[str, Any],
        said: list[Any],
        digest: bytes,
        latency: dict[str, int],
    ) -> bytes:
        kind, append_ms = message.timestamp()
        score, decision, provisional = said
        record = {
            "transaction_id": transaction["transaction_id"],
            "customer_id": transaction["customer_id"],
            "source_partition": message.partition(),
            "source_offset": message.offset(),
            "score": score,
            "decision": DECISIONS[decision],
            "provisional": provisional,
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

    def _claimed(self) -> Live:
        room = Settings.model_fields
        live = Live(
            self._scorer.timing,
            PARTITIONS,
            room["state_customers_max"].default,
            room["state_shares_max"].default,
        )
        for partition in range(PARTITIONS):
            value: Any = self._redis.get(meta_key(live.namespace, partition))
            meta = Meta.parse(value)
            if meta is None:
                raise SystemExit(f"Redis has no state of partition {partition}")
            live.adopt(partition, meta, (0, 0))
        return live

    def _features(
        self, messages: Sequence[Message], transactions: Sequence[dict[str, Any]]
    ) -> tuple[Float32s, Flags]:
        columns = columns_of(messages, transactions)
        pending = self._live.lookup(columns, now_us())
        blobs: Any = self._redis.mget(pending.keys) if pending.keys else []
        self._live.take(pending, blobs)
        return self._live.advance(columns, pending)


def columns_of(messages: Sequence[Message], transactions: Sequence[dict[str, Any]]) -> Transactions:
    """What the features need of decoded transactions, in columns."""
    n = len(transactions)
    tokens = [t["customer_id"].encode() for t in transactions]
    tokens += [t["terminal_id"].encode() for t in transactions]
    text = Ragged.of(tokens)
    start = np.zeros((len(STRING_FIELDS), n), np.int64)
    length = np.full((len(STRING_FIELDS), n), -1, np.int32)
    for field, rows in ((CUSTOMER, slice(n)), (TERMINAL, slice(n, None))):
        start[field], length[field] = text.start[rows], text.length[rows]
    unused = np.zeros(n, np.int64)
    return Transactions(
        np.arange(n),
        np.array([message.partition() for message in messages], np.int32),
        unused,
        unused,
        unused.astype(np.int8),
        np.array([t["event_time"] for t in transactions], np.int64),
        np.array([t["amount_minor"] for t in transactions], np.int64),
        unused.astype(np.int8),
        text.data,
        start,
        length,
    )


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
