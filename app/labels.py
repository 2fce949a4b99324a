"""Stage 1 for outcomes: the bytes of a micro-batch of the labels topic become columns.

In: a `RecordBatch`, the known writers of labels, limits. Out: `DecodedLabels`, in which every
record is a row of `Labels` or one `Reject`; if registry ids turn up that `Writers` has not heard
of, only their set. As strict as `decode`. Never raises on data, does no I/O, reads no clock.

A Numba loop takes the records that are as they should be: framed by the bundled schema or by one
that is written alike, identifiers in ASCII, everything in its bounds. It gives no verdicts: what it
leaves, good or bad, `decode_twin` reads with fastavro. `decode_plainly` leaves everything to it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

import schemas
from app.avro_plan import compile_plan
from app.decode_twin import (
    EVENT_TIME_MIN_US,
    FUTURE_US_MAX,
    ID_BYTES_MAX,
    Fault,
    Fields,
    Limits,
    append_times,
    is_id,
    read_rows,
)
from app.errors import RejectCode
from app.records import Bytes, Int8s, Int32s, Int64s, Ragged, RecordBatch, Rejects
from app.writers import Writers
from features.compiled import compiled
from features.xxh64 import hash_bytes

SCHEMA = schemas.load("fraud_label")
PLAN = compile_plan(SCHEMA.parsed, SCHEMA.parsed)
[SOURCES] = [len(e["type"]["symbols"]) for e in SCHEMA.parsed["fields"] if e["name"] == "source"]
TAG_MASK = 0xFFFF_FFFF
NOWHERE = -1
LONG_BYTES_MAX = 9
"""What is longer, a number beyond 63 bits, is left by the loop."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The accepted outcomes of a batch; n rows in the order of the records.

    row int64 (n,) is the index in the RecordBatch. `event_time_us` is the transaction's,
    `known_at_us` when the outcome was known. fraud int8 (n,) is 1 or 0. tag int64 (n,) are the low
    32 bits of the transaction id's XXH64: with the event time they tell a terminal's transactions
    apart.
    """

    row: Int64s
    partition: Int32s
    offset: Int64s
    event_time_us: Int64s
    known_at_us: Int64s
    fraud: Int8s
    tag: Int64s
    terminals: Ragged

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedLabels:
    """Every record once, as an outcome or as a reject, in the records' order.

    With `unresolved` the rest is empty: look these registry ids up, tell `Writers`, decode again.
    """

    labels: Labels
    rejects: Rejects
    unresolved: frozenset[int]


class _Columns(NamedTuple):
    """One place for every record, filled where `accepted` says so; the text is the terminal's."""

    accepted: NDArray[np.bool_]
    event_time_us: Int64s
    known_at_us: Int64s
    fraud: Int8s
    tag: Int64s
    start: Int64s
    length: Int32s

    @classmethod
    def of(cls, n: int) -> Self:
        """Nothing is accepted yet."""
        i8 = np.int64
        return cls(
            np.zeros(n, np.bool_), np.empty(n, i8), np.empty(n, i8), np.empty(n, np.int8),
            np.empty(n, i8), np.empty(n, i8), np.empty(n, np.int32),
        )  # fmt: skip


def label_writers() -> Writers:
    """The writers of labels known so far: the bundled schema."""
    return Writers(name=SCHEMA.name)


def decode_labels(records: RecordBatch, writers: Writers, limits: Limits) -> DecodedLabels:
    """Decode and validate a batch of labels; never raises on data."""
    columns = _Columns.of(len(records))
    bounds = (
        limits.value_bytes_max,
        # So few bytes of headers, eight of which are lengths in each, can break neither limit.
        min(limits.header_bytes_max, 8 * limits.headers_max),
        min(limits.future_us_max, FUTURE_US_MAX),
        EVENT_TIME_MIN_US,
        ID_BYTES_MAX,
        SOURCES,
    )
    _read_rows(
        _parts(records.values), _parts(records.keys), records.headers.length,
        append_times(records), _alike(writers), bounds, columns,
    )  # fmt: skip
    return _rest(records, writers, limits, columns)


def decode_plainly(records: RecordBatch, writers: Writers, limits: Limits) -> DecodedLabels:
    """The same without the loop."""
    return _rest(records, writers, limits, _Columns.of(len(records)))


def _parts(column: Ragged) -> tuple[Any, Any, Any]:
    # Buffers come writable or not: one kind for all spares the loop a second compilation.
    data = column.data.view()
    data.flags.writeable = False
    return data, column.start, column.length


def _alike(writers: Writers) -> tuple[Int64s, Int64s]:
    """Registry ids and fingerprints of the writers that write as the bundled schema does."""
    program = writers.program

    def same(base: int) -> bool:
        return np.array_equal(program.code[base : base + len(PLAN)], PLAN)

    def known(keys: Int64s, bases: Int64s) -> Int64s:
        rows = np.flatnonzero(bases >= 0)
        return keys[[row for row in rows.tolist() if same(int(bases[row]))]]

    return (
        known(program.ids, program.id_bases),
        known(program.fingerprints, program.fingerprint_bases),
    )


def _rest(
    records: RecordBatch, writers: Writers, limits: Limits, columns: _Columns
) -> DecodedLabels:
    """Read what the loop left, and put all together."""
    left = np.flatnonzero(~columns.accepted).tolist()
    found, rejects, unresolved = read_rows(records, left, writers, limits, _validate)
    text = _fill_in(columns, records.values.data, found) if found else records.values.data
    rows = np.flatnonzero(columns.accepted)[: 0 if unresolved else None]
    labels = Labels(
        row=rows,
        partition=records.partition[rows],
        offset=records.offset[rows],
        event_time_us=columns.event_time_us[rows],
        known_at_us=columns.known_at_us[rows],
        fraud=columns.fraud[rows],
        tag=columns.tag[rows],
        terminals=Ragged(text, columns.start[rows], columns.length[rows]),
    )
    return DecodedLabels(labels, Rejects.of(rejects), unresolved)


def _fill_in(columns: _Columns, text: Bytes, found: dict[int, Fields]) -> Bytes:
    """Put rows that the twin read where they belong; the text with their terminals behind it."""
    rows, each = np.fromiter(found, np.int64, len(found)), list(found.values())
    terminals = Ragged.of([fields["terminal_id"].encode() for fields in each])
    columns.accepted[rows] = True
    columns.event_time_us[rows] = [fields["event_time"] for fields in each]
    columns.known_at_us[rows] = [fields["known_at"] for fields in each]
    columns.fraud[rows] = [fields["fraud"] for fields in each]
    columns.tag[rows] = [_tag(fields["transaction_id"].encode()) for fields in each]
    columns.start[rows] = len(text) + terminals.start
    columns.length[rows] = terminals.length
    both = np.concatenate([text, terminals.data])
    both.flags.writeable = False
    return both


def _tag(transaction_id: bytes) -> int:
    data = np.frombuffer(transaction_id, np.uint8)
    return int(hash_bytes(data, 0, len(data))) & TAG_MASK


def _validate(fields: Fields, key: bytes | None, append_us: int, limits: Limits) -> None:
    if not all(is_id(fields[name]) for name in ("transaction_id", "customer_id", "terminal_id")):
        raise Fault(RejectCode.BAD_ID)
    if key != fields["customer_id"].encode():
        raise Fault(RejectCode.BAD_KEY)
    until_us = append_us + min(limits.future_us_max, FUTURE_US_MAX)
    if not EVENT_TIME_MIN_US <= fields["event_time"] <= fields["known_at"] <= until_us:
        raise Fault(RejectCode.BAD_TIME)


@compiled
def _read_rows(
    values: Any, keys: Any, header_length: Any, append_us: Any, alike: Any, bounds: Any,
    columns: Any,
) -> None:  # fmt: skip
    """Fill in the rows of the records that are as they should be."""
    data, start, length = values
    key_data, key_start, key_length = keys
    bytes_max, header_bytes_max, future_us_max, since_us, id_bytes_max, sources = bounds
    for i in range(len(start)):
        if not 0 < length[i] <= bytes_max or header_length[i] > header_bytes_max:
            continue
        end = start[i] + length[i]
        at = _body(data, start[i], end, alike)
        transaction, transaction_bytes, at = _id(data, at, end, id_bytes_max)
        customer, customer_bytes, at = _id(data, at, end, id_bytes_max)
        terminal, terminal_bytes, at = _id(data, at, end, id_bytes_max)
        event_us, at = _long(data, at, end)
        known_us, at = _long(data, at, end)
        fraud, at = (data[at], at + 1) if 0 <= at < end else (data[start[i]], NOWHERE)
        source, at = _long(data, at, end)
        good = at == end and fraud <= 1 and 0 <= source < sources
        good &= since_us <= event_us <= known_us <= append_us[i] + future_us_max
        if good and customer_bytes == key_length[i]:
            for k in range(customer_bytes):
                good &= data[customer + k] == key_data[key_start[i] + k]
            tag = hash_bytes(data, transaction, transaction_bytes) & np.uint64(TAG_MASK)
            columns.event_time_us[i], columns.known_at_us[i] = event_us, known_us
            columns.fraud[i], columns.tag[i] = fraud, np.int64(tag)
            columns.start[i], columns.length[i] = terminal, terminal_bytes
            columns.accepted[i] = good


@compiled
def _body(data: Any, at: int, end: int, alike: Any) -> int:
    """Where the body begins of a value by one of these writers; NOWHERE for another."""
    ids, fingerprints = alike
    key = np.int64(0)
    if data[at] == 0x00 and end - at >= 5:
        for k in range(1, 5):
            key = key << 8 | np.int64(data[at + k])
        for known in ids:
            if known == key:
                return at + 5
    elif data[at] == 0xC3 and end - at >= 10 and data[at + 1] == 0x01:
        for k in range(9, 1, -1):
            key = key << 8 | np.int64(data[at + k])
        for known in fingerprints:
            if known == key:
                return at + 10
    return NOWHERE


@compiled
def _long(data: Any, at: int, end: int) -> Any:
    """A zigzag varint in its shortest form, and what follows: NOWHERE for another, or from it."""
    number, shift, byte = np.uint64(0), np.uint64(0), np.uint64(0x80)
    first = at
    while byte >= np.uint64(0x80) and 0 <= at < end and at - first < LONG_BYTES_MAX:
        byte = np.uint64(data[at])
        number |= (byte & np.uint64(0x7F)) << shift
        shift += np.uint64(7)
        at += 1
    if byte >= np.uint64(0x80) or (byte == np.uint64(0) and at - first > 1):
        at = NOWHERE
    return np.int64(number >> np.uint64(1)) ^ -np.int64(number & np.uint64(1)), at


@compiled
def _id(data: Any, at: int, end: int, bytes_max: int) -> Any:
    """Start and length of an identifier of plain ASCII, and what follows: NOWHERE for another."""
    size, at = _long(data, at, end)
    if at < 0 or not 1 <= size <= min(bytes_max, end - at):
        return at, 0, NOWHERE
    plain = True
    for k in range(size):
        plain &= 0x20 <= data[at + k] < 0x7F
    return at, size, at + size if plain else NOWHERE
