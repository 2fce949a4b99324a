"""Avro RiskScore and RiskAlert values for a whole micro-batch, each in one buffer by a Numba loop.

What is the same in all records of a batch (model, contract, provider, the later instants) is
encoded once and copied. The result is byte-equal to fastavro's, which `tests/app/test_emit.py`
checks.
"""

from collections.abc import Sequence
from typing import Any

import numba as nb
import numpy as np

from app.decide import Reasons
from app.latency import Instants
from app.records import STRING_FIELDS, Bytes, Float32s, Int8s, Ragged, Transactions
from features.contract import FEATURES

_RECORD_BYTES = 5 + 10 + 4 + 1 + 8 + 10 + 10 + 1  # of the fields between the strings, at most
_STRING_BYTES = 2 + 64
_ALERT_BYTES = 1 + 8 * 10 + 3 * 5 + 4 * 2 + 8 + 2 * 4  # of the fields besides, at most
_KINDS = 4  # of a row: provisional or not, degraded or not
_IDS = 2  # transaction_id and customer_id lead STRING_FIELDS
_TOKENS, _CURRENCY = 3, 3  # with terminal_id three; then the currency, and those that may be null


def encode_long(value: int) -> bytes:
    """Avro's zigzag varint of a 64-bit integer."""
    zigzag, out = (value << 1) ^ (value >> 63), bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def encode_string(text: str) -> bytes:
    """Avro's string: length and UTF-8 bytes."""
    raw = text.encode()
    return encode_long(len(raw)) + raw


_REASONS = Ragged.of([encode_string(f.reason) + encode_string(f.name) for f in FEATURES])
"""Code and name of a feature as a reason has them."""


@nb.njit(nogil=True, cache=True, inline="always")
def put_long(out: Any, p: Any, value: Any) -> Any:
    """Write Avro's varint of an integer at p; where it ends."""
    u = np.uint64((value << 1) ^ (value >> 63))
    while u > np.uint64(0x7F):
        out[p] = np.uint8((u & np.uint64(0x7F)) | np.uint64(0x80))
        u >>= np.uint64(7)
        p += 1
    out[p] = np.uint8(u)
    return p + 1


@nb.njit(nogil=True, cache=True, inline="always")
def put_bytes(out: Any, p: Any, data: Any, start: Any, length: Any) -> Any:
    """Copy bytes to p; where they end."""
    for j in range(length):
        out[p + j] = data[start + j]
    return p + length


@nb.njit(nogil=True, cache=True, inline="always")
def _put_hash(out: Any, p: Any, value: Any) -> Any:
    for j in range(8):
        out[p + j] = np.uint8((value >> np.uint64(56 - 8 * j)) & np.uint64(0xFF))
    return p + 8


@nb.njit(nogil=True, cache=True, inline="always")
def _put_times(
    out: Any, p: Any, event_time: Any, append_time: Any, append_type: Any, tail: Any
) -> Any:
    """The latency record: what is a row's own, and the rest of it, encoded, which the batch has."""
    p = put_long(out, put_long(out, p, event_time), append_time)
    p = put_long(out, p, np.int64(append_type))
    return put_bytes(out, p, tail, 0, tail.shape[0])


@nb.njit(nogil=True, cache=True)
def _encode(header: Any, middles: Any, tail: Any, text: Any, text_start: Any, text_length: Any,
            partition: Any, offset: Any, score: Any, decision: Any, vector_hash: Any,
            kind: Any, event_time: Any, append_time: Any, append_type: Any,
            vectors: Any, end: Any, out: Any, start: Any, length: Any) -> Any:  # fmt: skip
    p = 0
    score_bytes = score.view(np.uint8)
    size_middle = middles.shape[0] // _KINDS
    for i in range(partition.shape[0]):
        first = p
        p = put_bytes(out, p, header, 0, header.shape[0])
        for k in range(text_start.shape[0]):
            size = text_length[k, i]
            p = put_bytes(out, put_long(out, p, np.int64(size)), text, text_start[k, i], size)
        p = put_long(out, p, np.int64(partition[i]))
        p = put_long(out, p, offset[i])
        p = put_bytes(out, p, score_bytes, 4 * i, 4)
        p = put_long(out, p, np.int64(decision[i]))
        p = put_bytes(out, p, middles, size_middle * kind[i], size_middle)
        p = _put_hash(out, p, vector_hash[i])
        p = _put_times(out, p, event_time[i], append_time[i], append_type[i], tail)
        p = put_bytes(out, p, vectors[i], 0, vectors.shape[1])
        p = put_bytes(out, p, end, 0, end.shape[0])
        start[i], length[i] = first, p - first
    return p


def encode_scores(
    header: bytes,
    transactions: Transactions,
    scores: Float32s,
    decisions: Int8s,
    vector_hash: Any,
    kinds: Int8s,
    constants: Sequence[bytes],
    instants: Instants,
    features: Float32s | None = None,
    shed: int = 0,
) -> Ragged:
    """Encode n RiskScore values, each behind the framing `header`.

    scores float32 (n,), decisions int8 (n,), vector_hash uint64 (n,), kinds int8 (n,). `constants`
    are the encoded fields from model_id to provider by kind of row: four of one length.
    `features` float32 (n, width), C-contiguous, None: null. `shed` is the batch's level.
    """
    n = len(transactions)
    # The branch of the union and the count of the array's one block are the same in all records.
    branch = encode_long(0) if features is None else encode_long(1) + encode_long(features.shape[1])
    vectors = np.empty((n, 0), np.uint8) if features is None else features.view(np.uint8)
    # An array without items is only its end.
    end = (encode_long(0) if vectors.shape[1] else b"") + encode_long(shed)
    tail = _times(instants) + branch
    size = (
        len(header) + _IDS * _STRING_BYTES + _RECORD_BYTES + len(constants[0])
        + len(tail) + vectors.shape[1] + len(end)
    )  # fmt: skip
    out, start, length = np.empty(n * size, np.uint8), np.empty(n, np.int64), np.empty(n, np.int32)
    _encode(
        _bytes(header), _bytes(b"".join(constants)), _bytes(tail), transactions.text,
        np.ascontiguousarray(transactions.text_start[:_IDS]),
        np.ascontiguousarray(transactions.text_length[:_IDS]),
        transactions.partition, transactions.offset, scores, decisions, vector_hash,
        kinds, transactions.event_time_us, transactions.append_time_us,
        transactions.append_time_type, vectors, _bytes(end), out, start, length,
    )  # fmt: skip
    out.flags.writeable = False
    return Ragged(out, start, length)


@nb.njit(nogil=True, cache=True)
def _encode_alerts(heads: Any, text: Any, payment: Any, said: Any, reasons: Any, names: Any,
                   vectors: Any, same: Any, out: Any, start: Any, length: Any) -> Any:  # fmt: skip
    header, ids = heads
    data, text_start, text_length = text
    partition, offset, event_time, append_time, append_type, amount, channel = payment
    score, threshold, decision, vector_hash, kind = said
    feature, value, gain, count = reasons
    name_data, name_start, name_length = names
    middles, topic, tail, width = same
    p, size_middle = 0, middles.shape[0] // _KINDS
    scores, thresholds = score.view(np.uint8), threshold.view(np.uint8)
    for i in range(partition.shape[0]):
        first = p
        p = put_bytes(out, p, header, 0, header.shape[0])
        p = put_bytes(out, put_long(out, p, ids.shape[1]), ids[i], 0, ids.shape[1])
        for k in range(_TOKENS):
            size = np.int64(text_length[k, i])
            p = put_bytes(out, put_long(out, p, size), data, text_start[k, i], size)
        p = put_long(out, put_long(out, p, event_time[i]), amount[i])
        for k in range(_CURRENCY, text_start.shape[0]):
            size = np.int64(text_length[k, i])
            if k > _CURRENCY:
                p = put_long(out, p, np.int64(size >= 0))
            if size >= 0:
                p = put_bytes(out, put_long(out, p, size), data, text_start[k, i], size)
            if k == _CURRENCY:
                p = put_long(out, p, np.int64(channel[i]))
        p = put_bytes(out, p, scores, 4 * i, 4)
        p = put_bytes(out, p, thresholds, 4 * i, 4)
        p = put_long(out, p, np.int64(decision[i]))
        if count[i]:
            p = put_long(out, p, np.int64(count[i]))
            for k in range(count[i]):
                j = feature[i, k]
                p = put_bytes(out, p, name_data, name_start[j], name_length[j])
                p = put_bytes(out, p, value[i], 4 * k, 4)
                p = put_bytes(out, p, gain[i], 4 * k, 4)
        p = put_long(out, p, 0)
        p = put_bytes(out, p, width, 0, width.shape[0])
        p = put_bytes(out, p, vectors[i], 0, vectors.shape[1])
        p = put_long(out, p, 0)
        p = put_bytes(out, p, middles, size_middle * kind[i], size_middle)
        p = _put_hash(out, p, vector_hash[i])
        p = put_bytes(out, p, topic, 0, topic.shape[0])
        p = put_long(out, put_long(out, p, np.int64(partition[i])), offset[i])
        p = _put_times(out, p, event_time[i], append_time[i], append_type[i], tail)
        start[i], length[i] = first, p - first
    return p


def encode_alerts(
    header: bytes,
    ids: bytes,
    topic: str,
    transactions: Transactions,
    scores: Float32s,
    thresholds: Float32s,
    decisions: Int8s,
    reasons: Reasons,
    features: Float32s,
    vector_hash: Any,
    kinds: Int8s,
    constants: Sequence[bytes],
    instants: Instants,
    shed: int,
) -> Ragged:
    """Encode k RiskAlert values, each behind the framing `header`.

    All columns are those of the alerted transactions alone: `thresholds` float32 (k,) what each has
    reached, `features` float32 (k, width); `ids` holds the k alert ids, of one length, one after
    the other, and `topic` is where the transactions came from. The rest as in `encode_scores`.
    """
    k, t = len(transactions), transactions
    vectors = np.ascontiguousarray(features).view(np.uint8)
    # An array without items is only its end.
    width = encode_long(features.shape[1]) if vectors.shape[1] else b""
    tail = _times(instants) + encode_long(shed)
    size = k * (
        len(header) + _ALERT_BYTES + len(ids) // max(k, 1)
        + len(STRING_FIELDS) * 3 + reasons.feature.shape[1] * (8 + int(_REASONS.length.max()))
        + vectors.shape[1] + len(constants[0]) + len(topic) * 4 + len(tail)
    ) + int(np.maximum(t.text_length, 0).sum())  # fmt: skip
    out, start, length = np.empty(size, np.uint8), np.empty(k, np.int64), np.empty(k, np.int32)
    _encode_alerts(
        (_bytes(header), _bytes(ids).reshape(k, -1)),
        (t.text, t.text_start, t.text_length),
        (t.partition, t.offset, t.event_time_us, t.append_time_us, t.append_time_type,
         t.amount_minor, t.channel),
        (scores, thresholds, decisions, vector_hash, kinds),
        (reasons.feature, reasons.value.view(np.uint8),
         reasons.contribution.astype(np.float32).view(np.uint8), reasons.counts),
        (_REASONS.data, _REASONS.start, _REASONS.length),
        vectors,
        (_bytes(b"".join(constants)), _bytes(encode_string(topic)), _bytes(tail), _bytes(width)),
        out, start, length,
    )  # fmt: skip
    out.flags.writeable = False
    return Ragged(out, start, length)


def _times(instants: Instants) -> bytes:
    """The instants of a batch as they follow each other in a latency record."""
    times = (
        instants.polled_us,
        instants.decoded_us,
        instants.enriched_us,
        instants.scored_us,
        instants.emitted_us,
    )
    return b"".join(map(encode_long, times))


def _bytes(raw: bytes) -> Bytes:
    return np.frombuffer(raw, np.uint8)
