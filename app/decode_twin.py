"""Stage 1 as it reads best: record by record, fastavro and plain Python.

In and out are those of `decode.decode`, which is the same stage in one compiled loop. This twin
is the other side of its tests, its slow path for schemas that the loop does not cover, and can
replace it. What both share is here: limits, bounds, the result. Never raises on data: each record
becomes a row of `Transactions` or a `Reject`, unless `unresolved` names registry ids to look up.

fastavro lets much pass that no writer produces (negative indexes, a boolean 7, trailing bytes), so
`_end` walks the value strictly by the writer schema first; fastavro then resolves and converts.
"""

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
from fastavro.read import SchemaResolutionError

from app.avro_plan import ENUM_FIELD
from app.currencies import CODES
from app.errors import SEMANTIC, RejectCode
from app.records import (
    STRING_FIELDS,
    Int64s,
    Ragged,
    RecordBatch,
    Reject,
    Rejects,
    Transactions,
    unpack_headers,
)
from app.writers import CONFLUENT, SINGLE_OBJECT, Writers, WriterSchema
from schemas import SINGLE_OBJECT_MAGIC

ID_BYTES_MAX = 64
AMOUNT_MINOR_MAX = 10**12
HIDING = frozenset(
    map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F),
              *range(0x2066, 0x206A)))
)  # fmt: skip
"""Control characters, and those that turn the direction of text: no identifier has them."""
EVENT_TIME_MIN_US = 946_684_800_000_000
"""2000-01-01."""
APPEND_TIME_MS_MAX = 9 * 10**15
FUTURE_US_MAX = 10**17
"""Times of records are held within these two, so that no sum of them leaves 64 bits."""

COLUMNS = tuple(each.name for each in dataclasses.fields(Transactions) if each.name != "text")
"""The arrays of `Transactions` with one entry a row, along their last axis."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a record may measure, and how far event_time may lie after its append time."""

    value_bytes_max: int
    headers_max: int
    header_bytes_max: int
    future_us_max: int


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Every record once, as a transaction or as a reject, in the records' order.

    With `unresolved` the rest is empty: look these registry ids up, tell `Writers`, decode again.
    """

    transactions: Transactions
    rejects: Rejects
    unresolved: frozenset[int]


Fields = Mapping[str, Any]
Validate = Callable[[Fields, bytes | None, int, Limits], None]
"""Raises Fault unless fields, key and append time in us make sense."""


class Fault(Exception):  # noqa: N818 -- no error of the program: a verdict on a record
    """A record is to be rejected; does not leave the twins."""

    def __init__(self, code: RejectCode) -> None:
        super().__init__(code)
        self.code = code


class _UnresolvedId(Exception):  # noqa: N818 -- no error: the caller has to ask the registry
    def __init__(self, schema_id: int) -> None:
        super().__init__(schema_id)
        self.schema_id = schema_id


def reject(row: int, code: RejectCode) -> Reject:
    """A reject that names the stage its code belongs to."""
    return Reject(row, code, "validate" if code in SEMANTIC else "decode")


def decode(records: RecordBatch, writers: Writers, limits: Limits) -> Decoded:
    """Decode and validate a batch; never raises on data."""
    accepted, rejects, unresolved = read_rows(
        records, range(len(records)), writers, limits, _validate
    )
    return Decoded(_columns(records, accepted, writers), Rejects.of(rejects), unresolved)


def read_rows(
    records: RecordBatch, rows: Iterable[int], writers: Writers, limits: Limits, validate: Validate
) -> tuple[dict[int, Fields], list[Reject], frozenset[int]]:
    """The reader's fields of each of the rows that is accepted, rejects, and unresolved ids.

    With unresolved ids the rest is empty. `validate` looks at what decoded and raises Fault.
    """
    append_us = append_times(records).tolist()
    accepted: dict[int, Fields] = {}
    rejects, unresolved = [], set()
    for row in rows:
        try:
            fields = _decode_one(records, row, writers, limits)
            validate(fields, records.keys[row], append_us[row], limits)
        except Fault as fault:
            rejects.append(reject(row, fault.code))
        except _UnresolvedId as unknown:
            unresolved.add(unknown.schema_id)
        else:
            accepted[row] = fields
    if unresolved:
        accepted, rejects = {}, []
    return accepted, rejects, frozenset(unresolved)


def fill_in(
    decoded: Decoded, records: RecordBatch, left: Int64s, writers: Writers, limits: Limits
) -> Decoded:
    """Decode the rows `left` of a batch and put them where they belong; the texts join."""
    added = decode(records.take(left), writers, limits)
    ours, theirs = decoded.transactions, added.transactions
    columns = {
        name: np.concatenate([getattr(ours, name), getattr(theirs, name)], axis=-1)
        for name in COLUMNS
    }
    columns["row"][len(ours) :] = left[theirs.row]
    columns["text_start"][:, len(ours) :] += len(ours.text)
    order = np.argsort(columns["row"])
    transactions = Transactions(
        text=np.concatenate([ours.text, theirs.text]),
        **{name: column[..., order] for name, column in columns.items()},
    )
    return Decoded(transactions, decoded.rejects.merged(added.rejects, left), frozenset())


def append_times(records: RecordBatch) -> Int64s:
    """When each record was appended in us: its timestamp, of polling where it has none."""
    stamp_us = 1000 * np.clip(records.timestamp_ms, -APPEND_TIME_MS_MAX, APPEND_TIME_MS_MAX)
    return np.where(records.timestamp_type != 0, stamp_us, records.polled_us)


def _decode_one(records: RecordBatch, row: int, writers: Writers, limits: Limits) -> Fields:
    value = records.values[row]
    if value is None:
        raise Fault(RejectCode.NULL_VALUE)
    if not value:
        raise Fault(RejectCode.EMPTY_VALUE)
    if len(value) > limits.value_bytes_max:
        raise Fault(RejectCode.VALUE_TOO_LARGE)
    _check_headers(records.headers[row] or b"", limits)
    framing, key, at = _framing(value)
    try:
        writer = writers.find(framing, key)
    except KeyError:
        raise _UnresolvedId(key) from None
    if writer is None:
        refused = writers.is_refused(framing, key)
        raise Fault(RejectCode.REFUSED_SCHEMA if refused else RejectCode.UNKNOWN_SCHEMA)
    return _fields(value, at, writer, writers)


def _check_headers(packed: bytes, limits: Limits) -> None:
    headers = unpack_headers(packed)
    size = len(packed) - 8 * len(headers)
    if len(headers) > limits.headers_max or size > limits.header_bytes_max:
        raise Fault(RejectCode.HEADERS_TOO_LARGE)


def _framing(value: bytes) -> tuple[int, int, int]:
    """Framing, registry id or fingerprint, and where the body begins."""
    if value[0] == 0:
        framing, start, end = CONFLUENT, 1, 5
    elif SINGLE_OBJECT_MAGIC.startswith(value[:2]):
        framing, start, end = SINGLE_OBJECT, 2, 10
    else:
        raise Fault(RejectCode.BAD_MAGIC)
    if len(value) < end:
        raise Fault(RejectCode.TRUNCATED)
    if framing == CONFLUENT:
        return framing, int.from_bytes(value[start:end], "big", signed=True), end
    return framing, int.from_bytes(value[start:end], "little"), end


def _fields(value: bytes, at: int, writer: WriterSchema, writers: Writers) -> Fields:
    """The reader's fields of a value; strings as str, an enum as its symbol."""
    if _end(writer.bare, writer.names, value, at) != len(value):
        raise Fault(RejectCode.TRAILING_BYTES)
    body = io.BytesIO(value[at:])
    try:
        fields = fastavro.schemaless_reader(body, writer.bare, writers.reader_bare)
    except SchemaResolutionError:
        raise Fault(RejectCode.BAD_BRANCH) from None
    except UnicodeDecodeError:
        raise Fault(RejectCode.BAD_UTF8) from None
    except Exception:  # noqa: BLE001 -- fastavro fails on data in many ways
        raise Fault(RejectCode.UNDECODABLE) from None
    if not isinstance(fields, dict):
        raise Fault(RejectCode.UNDECODABLE)
    return fields


def spans(value: bytes, writers: Writers) -> Iterator[tuple[str, int, int]]:
    """Each field of the writer's: its name, and where in the value it begins and ends.

    Raises Fault where the first wrong field should begin, and for what no writer is known for.
    """
    framing, key, at = _framing(value)
    try:
        writer = writers.find(framing, key)
    except KeyError:
        writer = None
    if writer is None:
        raise Fault(RejectCode.UNKNOWN_SCHEMA)
    for each in writer.bare["fields"]:
        start, at = at, _end(each["type"], writer.names, value, at)
        yield each["name"], start, at
    if at != len(value):
        raise Fault(RejectCode.TRAILING_BYTES)


def _take(value: bytes, at: int, size: int) -> int:
    if size > len(value) - at:
        raise Fault(RejectCode.TRUNCATED)
    return at + size


def _long(value: bytes, at: int, bits: int = 64) -> tuple[int, int]:
    """A zigzag varint in its shortest form and within its type's range; it and what follows."""
    first, number = at, 0
    while True:
        end = _take(value, at, 1)
        number |= (value[at] & 0x7F) << 7 * (at - first)
        if value[at] < 0x80:
            break
        if end - first == 10:
            raise Fault(RejectCode.BAD_VARINT)
        at = end
    if number >> bits or (value[at] == 0 and at > first):
        raise Fault(RejectCode.BAD_VARINT)
    return number >> 1 ^ -(number & 1), end


def _length(value: bytes, at: int) -> tuple[int, int]:
    size, at = _long(value, at)
    if not 0 <= size <= len(value) - at:
        raise Fault(RejectCode.BAD_LENGTH)
    return size, at


def _index(value: bytes, at: int, branches: int) -> tuple[int, int]:
    index, at = _long(value, at)
    if not 0 <= index < branches:
        raise Fault(RejectCode.BAD_BRANCH)
    return index, at


_FIXED_BYTES = {"null": 0, "float": 4, "double": 8}


def _end(schema: Any, names: Mapping[str, Any], value: bytes, at: int) -> int:
    """Where a value ends that begins at `at`; raises Fault unless it is encoded strictly."""
    if isinstance(schema, list):
        branch, at = _index(value, at, len(schema))
        return _end(schema[branch], names, value, at)
    if isinstance(schema, str) and schema in names:
        schema = names[schema]
    match schema["type"] if isinstance(schema, dict) else schema:
        case "record":
            for each in schema["fields"]:
                at = _end(each["type"], names, value, at)
        case "array" | "map":
            at = _blocks_end(schema, names, value, at)
        case "enum":
            _, at = _index(value, at, len(schema["symbols"]))
        case "fixed":
            at = _take(value, at, schema["size"])
        case primitive:
            at = _primitive_end(primitive, value, at)
    return at


def _primitive_end(kind: str, value: bytes, at: int) -> int:
    match kind:
        case "int":
            return _long(value, at, 32)[1]
        case "long":
            return _long(value, at)[1]
        case "boolean":
            return _boolean_end(value, at)
        case "bytes":
            return sum(_length(value, at))
        case "string":
            return _string_end(value, at)
    return _take(value, at, _FIXED_BYTES[kind])


def _boolean_end(value: bytes, at: int) -> int:
    end = _take(value, at, 1)
    if value[at] > 1:
        raise Fault(RejectCode.BAD_BOOLEAN)
    return end


def _string_end(value: bytes, at: int) -> int:
    size, at = _length(value, at)
    try:
        value[at : at + size].decode()
    except UnicodeDecodeError:
        raise Fault(RejectCode.BAD_UTF8) from None
    return at + size


def _blocks_end(schema: Any, names: Mapping[str, Any], value: bytes, at: int) -> int:
    """Where an array or map ends: blocks of a count, if negative also a size, and items."""
    while True:
        count, at = _long(value, at)
        if count == 0:
            return at
        block_end = None
        if count < 0:
            size, at = _length(value, at)
            block_end = at + size
        if abs(count) > len(value) - at:
            raise Fault(RejectCode.BAD_LENGTH)
        for _ in range(abs(count)):
            if schema["type"] == "map":
                at = _string_end(value, at)
            at = _end(schema.get("items", schema.get("values")), names, value, at)
        if block_end not in (None, at):
            raise Fault(RejectCode.BAD_LENGTH)


def _validate(fields: Fields, key: bytes | None, append_us: int, limits: Limits) -> None:
    ids = (fields["transaction_id"], fields["customer_id"], fields["terminal_id"])
    device, category, country = (
        fields[name] for name in ("device_id", "merchant_category", "country")
    )
    good_ids = all(is_id(each) for each in (*ids, device) if each is not None)
    good_category = category is None or (len(category) == 4 and _only("09", category))
    good_country = country is None or (len(country) == 2 and _only("AZ", country))
    future_us = min(limits.future_us_max, FUTURE_US_MAX)
    if not (good_ids and good_category and good_country):
        raise Fault(RejectCode.BAD_ID)
    if key != fields["customer_id"].encode():
        raise Fault(RejectCode.BAD_KEY)
    if not 0 <= fields["amount_minor"] <= AMOUNT_MINOR_MAX:
        raise Fault(RejectCode.BAD_AMOUNT)
    if fields["currency"] not in CODES:
        raise Fault(RejectCode.BAD_CURRENCY)
    if not EVENT_TIME_MIN_US <= fields["event_time"] <= append_us + future_us:
        raise Fault(RejectCode.BAD_TIME)


def is_id(text: str) -> bool:
    """Whether an identifier has 1 to ID_BYTES_MAX bytes and no character that hides others."""
    return 1 <= len(text.encode()) <= ID_BYTES_MAX and not HIDING & {*text}


def _only(span: str, text: str) -> bool:
    return all(span[0] <= letter <= span[1] for letter in text)


def _columns(
    records: RecordBatch, accepted: Mapping[int, Fields], writers: Writers
) -> Transactions:
    row = np.fromiter(accepted, np.int64, len(accepted))
    rows = list(accepted.values())
    texts = [fields[name] for name in STRING_FIELDS for fields in rows]
    text = Ragged.of([None if each is None else each.encode() for each in texts])
    symbols = next(
        each["type"]["symbols"]
        for each in writers.reader_bare["fields"]
        if each["name"] == ENUM_FIELD
    )
    return Transactions(
        row=row,
        partition=records.partition[row],
        offset=records.offset[row],
        append_time_us=append_times(records)[row],
        append_time_type=records.timestamp_type[row],
        event_time_us=np.array([fields["event_time"] for fields in rows], np.int64),
        amount_minor=np.array([fields["amount_minor"] for fields in rows], np.int64),
        channel=np.array([symbols.index(fields[ENUM_FIELD]) for fields in rows], np.int8),
        text=text.data,
        text_start=text.start.reshape(len(STRING_FIELDS), -1),
        text_length=text.length.reshape(len(STRING_FIELDS), -1),
    )
