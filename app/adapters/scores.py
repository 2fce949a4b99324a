"""Read the scores topic as an outsider, fast: what a benchmark compares, in columns.

Committed records only, no group. Takes scores that Riskwire wrote in its own framing (Avro's
single-object encoding) for transactions whose ids are numbers. Raises BrokerUnavailable,
ConfigError where the topic is missing, ValueError for a value that is no such score.
"""

from dataclasses import dataclass
from typing import Any, Self

import numba as nb
import numpy as np
from confluent_kafka import TopicPartition
from numpy.typing import NDArray

import schemas
from app.adapters.topics import outsider
from app.config import Settings
from app.errors import BrokerUnavailable
from app.records import Bytes, Float32s, Int32s, Int64s, Ragged

RECORDS_MAX = 20_000
HEADER = 10
FIELDS = 7  # transaction, partition, offset, decision, provisional, degraded, shed


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """n scores in the order read: int64 `transaction` and `offset`, int32 `partition`, `decision`.

    `score` float32, `provisional` and `degraded` bool, `vector_hash` uint64, `shed` int8, all (n,).
    """

    transaction: Int64s
    partition: Int32s
    offset: Int64s
    score: Float32s
    decision: Int32s
    provisional: NDArray[np.bool_]
    vector_hash: NDArray[np.uint64]
    degraded: NDArray[np.bool_]
    shed: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.transaction)


class ScoresReader:
    """Reads every partition from its beginning."""

    def __init__(self, settings: Settings) -> None:
        """Begin; the topic has as many partitions as the settings say."""
        topic = settings.topic("scores")
        self._consumer = outsider(settings, "scores")
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(settings.partitions)])

    def poll(self, timeout_s: float) -> Scores | None:
        """What is there within the time-out; None if nothing is."""
        messages = self._consumer.consume(RECORDS_MAX, timeout_s)
        for message in messages:
            if (error := message.error()) is not None:
                raise BrokerUnavailable(f"cannot read scores: {error.str()}")
        return parse(Ragged.of([message.value() for message in messages])) if messages else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


def parse(values: Ragged) -> Scores:
    """Take scores apart; raises ValueError for a value that is none."""
    head = schemas.load("risk_score").single_object_header
    n = len(values)
    found, hashes = np.zeros((FIELDS, n), np.int64), np.zeros(n, np.uint64)
    score = np.zeros(n, np.float32)
    data = values.data
    if n and any(values.data[at : at + HEADER].tobytes() != head for at in values.start[[0, -1]]):
        raise ValueError("a value has not the framing and fingerprint of RiskScore")
    _parse(data, values.start, values.length, found, score.view(np.uint8), hashes)
    transaction, partition, offset, decision, provisional, degraded, shed = found
    return Scores(
        transaction,
        partition.astype(np.int32),
        offset,
        score,
        decision.astype(np.int32),
        provisional.astype(np.bool_),
        hashes,
        degraded.astype(np.bool_),
        shed.astype(np.int8),
    )


@nb.njit(nogil=True, cache=True)
def _long(data: Any, at: Any) -> Any:
    value = byte = np.int64(data[at])
    value &= 0x7F
    shift = 7
    while byte >= 0x80:
        at += 1
        byte = np.int64(data[at])
        value |= (byte & 0x7F) << shift
        shift += 7
    return (value >> 1) ^ -(value & 1), at + 1


@nb.njit(nogil=True, cache=True)
def _parse(
    data: Bytes, start: Int64s, length: Int32s, found: Int64s, score: Bytes, hashes: Any
) -> None:
    for i in range(len(start)):
        size, at = _long(data, start[i] + HEADER)
        for k in range(size):
            found[0, i] = 10 * found[0, i] + data[at + k] - 48
        size, at = _long(data, at + size)  # customer_id
        found[1, i], at = _long(data, at + size)
        found[2, i], at = _long(data, at)
        for k in range(4):
            score[4 * i + k] = data[at + k]
        found[3, i], at = _long(data, at + 4)
        size, at = _long(data, at)  # model_id
        size, at = _long(data, at + size)  # feature_contract_id
        found[5, i] = data[at + size]
        at += size + 1
        found[4, i] = data[at]
        size, at = _long(data, at + 1)  # provider
        at += size
        for k in range(8):
            hashes[i] = (hashes[i] << np.uint64(8)) | np.uint64(data[at + k])
        found[6, i] = data[start[i] + length[i] - 1] >> 1  # the last field, of one byte
