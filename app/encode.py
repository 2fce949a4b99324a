"""Avro RiskScore values for a whole micro-batch, in one buffer, by one Numba loop.

What is the same in all records of a batch (model, contract, provider, the later instants) is
encoded once and copied. The result is byte-equal to fastavro's, which `tests/app/test_emit.py`
checks.
"""

from collections.abc import Sequence
from typing import Any

import numba as nb
import numpy as np

from app.latency import Instants
from app.records import Bytes, Float32s, Int8s, Ragged, Transactions

_RECORD_BYTES = 5 + 10 + 4 + 1 + 8 + 10 + 10 + 1  # of the fields between the strings, at most
_STRING_BYTES = 2 + 64
_KINDS = 4  # of a row: provisional or not, degraded or not
_IDS = 2  # transaction_id and customer_id lead STRING_FIELDS


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
        for j in range(8):
            out[p + j] = np.uint8((vector_hash[i] >> np.uint64(56 - 8 * j)) & np.uint64(0xFF))
        p = put_long(out, p + 8, event_time[i])
        p = put_long(out, p, append_time[i])
        p = put_long(out, p, np.int64(append_type[i]))
        p = put_bytes(out, p, tail, 0, tail.shape[0])
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
    times = (
        instants.polled_us,
        instants.decoded_us,
        instants.enriched_us,
        instants.scored_us,
        instants.emitted_us,
    )
    n = len(transactions)
    # The branch of the union and the count of the array's one block are the same in all records.
    branch = encode_long(0) if features is None else encode_long(1) + encode_long(features.shape[1])
    vectors = np.empty((n, 0), np.uint8) if features is None else features.view(np.uint8)
    # An array without items is only its end.
    end = (encode_long(0) if vectors.shape[1] else b"") + encode_long(shed)
    tail = b"".join((*map(encode_long, times), branch))
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


def _bytes(raw: bytes) -> Bytes:
    return np.frombuffer(raw, np.uint8)
