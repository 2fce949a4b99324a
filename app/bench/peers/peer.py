"""The peers' work as a good Python programmer writes it: what every Python peer runs a batch.

Bytes of transactions in, key and value of their scores out: fastavro for each record, one MGET and
one `session.run` a batch. In a peer's own environment `app` and `schemas` are on the path and
nothing else of Riskwire's, so this file and the peers import no more of them than they show here.
"""

import io
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import fastavro
import numpy as np
import onnxruntime
import redis

import schemas
from app.bench.lanes.lane import Meter, Task

FRAMING_BYTES = 10
ZEROS = bytes(4 * 32)
# As text, which Pathway and Bytewax insist on.
FETCH_OPTIONS = {"fetch.wait.max.ms": "10", "fetch.queue.backoff.ms": "5"}
PRODUCER_OPTIONS = {
    "acks": "all",
    "enable.idempotence": "true",
    "partitioner": "murmur2_random",
    "linger.ms": "5",
    "batch.num.messages": "20000",
    "queue.buffering.max.messages": "500000",
}
SCORE = fastavro.parse_schema(
    {
        "type": "record",
        "name": "PeerScore",
        "fields": [
            {"name": "transaction_id", "type": "string"},
            {"name": "score", "type": "float"},
            {"name": "event_time", "type": "long"},
            {"name": "emitted", "type": "long"},
        ],
    }
)
Fields = dict[str, Any]


class Work:
    """Model, store and schemas of one peer."""

    def __init__(self, wanted: Task) -> None:
        """Load the model; Redis is connected at first use."""
        self.redis: Any = redis.Redis.from_url(wanted.redis)
        self._session = session(Path(wanted.model).read_bytes())
        self._reader = schemas.without_logical_types(schemas.load("transaction").text)

    def __call__(self, values: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """Key and value of the score of each transaction."""
        transactions = [self.decode(value) for value in values]
        return encoded(transactions, self.scores(self.redis.mget(keys(transactions))))

    def decode(self, value: bytes) -> Fields:
        """One transaction."""
        stream = io.BytesIO(value)
        stream.seek(FRAMING_BYTES)
        return fastavro.schemaless_reader(stream, self._reader, None)  # type: ignore[return-value]

    def scores(self, blobs: Sequence[bytes | None]) -> list[float]:
        """The scores of what `keys` asked for."""
        vectors = np.frombuffer(b"".join([blob or ZEROS for blob in blobs]), np.float32)
        (found,) = self._session.run(["score"], {"x": vectors.reshape(-1, 64)})
        scores: list[float] = found.ravel().tolist()
        return scores


def session(model: bytes) -> Any:
    """An ONNX Runtime session on one thread that never spins."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def keys(transactions: Iterable[Fields]) -> list[str]:
    """Redis' keys of customer and terminal, one behind the other."""
    return [
        key
        for fields in transactions
        for key in ("c:" + fields["customer_id"], "t:" + fields["terminal_id"])
    ]


def encoded(transactions: Sequence[Fields], scores: Sequence[float]) -> list[tuple[bytes, bytes]]:
    """Key and value of each score, emitted now."""
    emitted = time.time_ns() // 1000
    out = []
    for fields, score in zip(transactions, scores, strict=True):
        stream = io.BytesIO()
        record = {
            "transaction_id": fields["transaction_id"],
            "score": score,
            "event_time": fields["event_time"],
            "emitted": emitted,
        }
        fastavro.schemaless_writer(stream, SCORE, record)
        out.append((fields["customer_id"].encode(), stream.getvalue()))
    return out


def finish(meter: Meter) -> NoReturn:
    """Say what was measured and end at once: a framework's way out is not part of the figures."""
    meter.report()
    os._exit(0)
