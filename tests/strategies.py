"""Shared test data: valid transactions, writers of every legal kind, and batches made of them.

`encode` is an Avro encoder of its own: unlike fastavro's it also splits arrays and maps into
several blocks, with and without sizes, which every reader must accept.
"""

import copy
import itertools
import json
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

import schemas
from app import decode as loop
from app import decode_twin
from app.currencies import CODES
from app.decode import Decoded, Limits, Writers
from app.records import STRING_FIELDS, Ragged, RecordBatch, Transactions, pack_headers

NOW_US = 1_790_000_000_000_000
LIMITS = Limits(
    value_bytes_max=16_384, headers_max=32, header_bytes_max=8192, future_us_max=300_000_000
)
SCHEMA = schemas.load("transaction")
SYMBOLS = ("UNKNOWN", "CHIP", "CONTACTLESS", "MAGSTRIPE", "ECOMMERCE", "ATM", "TRANSFER")
TRANSACTION: dict[str, Any] = {
    "transaction_id": "tx-0001",
    "customer_id": "customer-1",
    "terminal_id": "terminal-1",
    "event_time": NOW_US - 1_000_000,
    "amount_minor": 12_345,
    "currency": "EUR",
    "channel": "CHIP",
    "merchant_category": "5411",
    "country": "DE",
    "device_id": "device-1",
}

Decode = Callable[[RecordBatch, Writers, Limits], Decoded]
BOTH = pytest.mark.parametrize("decode", [loop.decode, decode_twin.decode], ids=["loop", "twin"])
"""The stage, for tests on both of its implementations."""

tokens = st.text(
    st.characters(codec="utf-8", exclude_characters="".join(decode_twin.HIDING)),
    min_size=1,
    max_size=16,
)
"""Identifiers: at most 64 bytes in UTF-8, any script."""

transactions: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "transaction_id": tokens,
        "customer_id": tokens,
        "terminal_id": tokens,
        "event_time": st.integers(946_684_800_000_000, NOW_US + LIMITS.future_us_max),
        "amount_minor": st.integers(0, 10**12),
        "currency": st.sampled_from(sorted(CODES)),
        "channel": st.sampled_from(SYMBOLS),
        "merchant_category": st.none() | st.from_regex(r"[0-9]{4}", fullmatch=True),
        "country": st.none() | st.from_regex(r"[A-Z]{2}", fullmatch=True),
        "device_id": st.none() | tokens,
    }
)
"""Valid transactions, as dicts of the reader's fields."""


def encode_long(number: int) -> bytes:
    """Avro's zigzag varint; any width, so that tests can leave the range."""
    number = number << 1 if number >= 0 else (-number << 1) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def encode_bytes(raw: bytes) -> bytes:
    """Avro's bytes, and its string if they are UTF-8."""
    return encode_long(len(raw)) + raw


def encode(schema: Any, value: Any, choose: random.Random) -> bytes:  # noqa: C901, PLR0911
    """Encode a value; one of a union is a pair of branch and value."""
    if isinstance(schema, list):
        branch, inner = value
        return encode_long(branch) + encode(schema[branch], inner, choose)
    match schema["type"] if isinstance(schema, dict) else schema:
        case "null":
            return b""
        case "boolean":
            return bytes([value])
        case "int" | "long":
            return encode_long(value)
        case "float" | "double" as kind:
            return struct.pack("<f" if kind == "float" else "<d", value)
        case "bytes":
            return encode_bytes(value)
        case "string":
            return encode_bytes(value.encode())
        case "fixed":
            return bytes(value)
        case "enum":
            return encode_long(schema["symbols"].index(value))
        case "record":
            fields = schema["fields"]
            return b"".join(encode(each["type"], value[each["name"]], choose) for each in fields)
        case "array":
            return _blocks([encode(schema["items"], each, choose) for each in value], choose)
        case "map":
            pairs = [
                encode_bytes(key.encode()) + encode(schema["values"], each, choose)
                for key, each in value.items()
            ]
            return _blocks(pairs, choose)
    raise AssertionError(schema)


def _blocks(items: list[bytes], choose: random.Random) -> bytes:
    out = b""
    while items:
        count = choose.randint(1, len(items))
        block = b"".join(items[:count])
        if choose.random() < 0.5:
            out += encode_long(count) + block
        else:
            out += encode_long(-count) + encode_long(len(block)) + block
        items = items[count:]
    return out + encode_long(0)


def pieces(transaction: Mapping[str, Any] = TRANSACTION, /, **raw: bytes) -> bytes:
    """Encode by the bundled schema, field by field; `raw` puts other bytes in a field's place."""
    parts, unused = {}, random.Random(0)  # noqa: S311 -- there is nothing to choose
    for each in json.loads(SCHEMA.text)["fields"]:
        value = transaction[each["name"]]
        if isinstance(each["type"], list):
            value = (0, None) if value is None else (1, value)
        parts[each["name"]] = encode(each["type"], value, unused)
    return b"".join((parts | raw).values())


def single_object(body: bytes, schema: schemas.Schema = SCHEMA) -> bytes:
    """Put Avro's single-object header in front."""
    return schema.single_object_header + body


def confluent(body: bytes, schema_id: int) -> bytes:
    """Put Confluent's header in front."""
    return b"\x00" + schema_id.to_bytes(4, "big", signed=True) + body


def variant(**types: Any) -> str:
    """The bundled schema's text with other types of some fields; None leaves a field out."""
    raw = json.loads(SCHEMA.text)
    kept = [each for each in raw["fields"] if each["name"] not in types]
    known = [each["name"] for each in raw["fields"]]
    changed = [{"name": name, "type": kind} for name, kind in types.items() if kind is not None]
    fields = sorted(kept + changed, key=lambda each: (*known, each["name"]).index(each["name"]))
    return json.dumps({**raw, "fields": fields})


def enum(*symbols: str, **other: str) -> dict[str, Any]:
    """A writer's channel."""
    return {"type": "enum", "name": "Channel", "symbols": symbols, **other}


NESTED: Any = "int"
for _ in range(7):
    NESTED = {"type": "array", "items": NESTED}
DEEP = variant(extra=NESTED)
"""As deep as the linter lets pass."""
DEEP_ONE = b"".join(encode_long(1) for _ in range(7)) + encode_long(7) + bytes(7)

SLOW_READER = schemas.parse(
    json.dumps(
        {**json.loads(SCHEMA.text), "fields": [
            each | ({"default": "EUR"} if each["name"] == "currency" else {})
            for each in json.loads(SCHEMA.text)["fields"]
        ]}
    )
)  # fmt: skip
SLOW = variant(currency=None)
"""Legal for this reader, but the loop knows no such default: only the twin reads it."""
SLOW_ONE = pieces(currency=b"")


def batch(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | bytes | None = b"customer-1",
    headers: Mapping[int, Sequence[tuple[str, bytes | None]]] | None = None,
    **columns: Any,
) -> RecordBatch:
    """Make records of values; one key for all, or one each; headers by row."""
    n = len(values)
    all_keys = list(keys) if isinstance(keys, list | tuple) else [keys] * n
    packed = [pack_headers((headers or {}).get(row, ())) for row in range(n)]
    return RecordBatch(
        topic="transactions",
        partition=np.arange(n, dtype=np.int32) % 3,
        offset=np.arange(100, 100 + n),
        timestamp_ms=columns.get("timestamp_ms", np.full(n, NOW_US // 1000)),
        timestamp_type=columns.get("timestamp_type", np.full(n, 2, np.int8)),
        keys=Ragged.of(all_keys),  # type: ignore[arg-type]
        values=Ragged.of(values),
        headers=Ragged.of(packed),
        polled_us=columns.get("polled_us", NOW_US),
    )


def fields_of(rows: Transactions) -> list[dict[str, Any]]:
    """The rows as dicts of the reader's fields, for comparing."""
    strings = {name: rows.strings(name) for name in STRING_FIELDS}
    return [
        {name: column.text(i) for name, column in strings.items()}
        | {
            "event_time": int(rows.event_time_us[i]),
            "amount_minor": int(rows.amount_minor[i]),
            "channel": SYMBOLS[rows.channel[i]],
        }
        for i in range(len(rows))
    ]


def origins_of(rows: Transactions) -> list[tuple[int, ...]]:
    """Row, partition, offset, append time and its type of each row, for comparing."""
    columns = (
        rows.row,
        rows.partition,
        rows.offset,
        rows.append_time_us,
        rows.append_time_type,
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))


class Written(NamedTuple):
    """A writer schema and one transaction in its encoding, with what a reader must see."""

    text: str
    body: bytes
    expected: dict[str, Any]


_ints = st.integers(-(2**31), 2**31 - 1)
_longs = st.integers(-(2**63), 2**63 - 1)


@st.composite
def _skipped(draw: st.DrawFn, names: Any, depth: int) -> tuple[Any, Any]:
    """A type that the reader does not know, and a value of it."""
    kinds = ["null", "boolean", "int", "long", "float", "double", "bytes", "string", "fixed"]
    kinds += ["enum"] + ["array", "map", "record", "union"] * (depth > 0)
    kind = draw(st.sampled_from(kinds))
    name = f"{kind.capitalize()}{next(names)}"
    match kind:
        case "fixed":
            size = draw(st.integers(0, 9))
            raw = draw(st.binary(min_size=size, max_size=size))
            return {"type": "fixed", "name": name, "size": size}, raw
        case "enum":
            symbols = ["A", "B", "C"]
            return {"type": "enum", "name": name, "symbols": symbols}, draw(
                st.sampled_from(symbols)
            )
        case "array" | "map":
            return draw(_repeated(kind, names, depth))
        case "record":
            fields = draw(st.lists(_skipped(names, depth - 1), max_size=3))
            types = [{"name": f"f{k}", "type": each} for k, (each, _) in enumerate(fields)]
            values = {f"f{k}": value for k, (_, value) in enumerate(fields)}
            return {"type": "record", "name": name, "fields": types}, values
        case "union":
            inner, value = draw(_skipped(names, 0))
            other = "null" if inner != "null" else "string"
            pair = [other, inner] if draw(st.booleans()) else [inner, other]
            return pair, (pair.index(inner), value)
    return kind, draw(_PRIMITIVES[kind])


_PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": _ints,
    "long": _longs,
    "float": st.floats(width=32),
    "double": st.floats(),
    "bytes": st.binary(max_size=20),
    "string": st.text(st.characters(codec="utf-8"), max_size=12),
}


@st.composite
def _repeated(draw: st.DrawFn, kind: str, names: Any, depth: int) -> tuple[Any, Any]:
    item, value = draw(_skipped(names, depth - 1).filter(lambda each: not _may_be_empty(each[0])))
    count = draw(st.integers(0, 5))
    if kind == "array":
        return {"type": "array", "items": item}, [value] * count
    return {"type": "map", "values": item}, {f"k{i}": value for i in range(count)}


def _may_be_empty(schema: Any) -> bool:
    if isinstance(schema, dict) and schema["type"] == "record":
        return all(_may_be_empty(each["type"]) for each in schema["fields"])
    return schema == "null" or (isinstance(schema, dict) and schema.get("size") == 0)


@st.composite
def _string(draw: st.DrawFn, value: str | None) -> tuple[Any, Any]:
    """A type that the reader takes as string (or, for a value of None, as null), and the value."""
    kind = draw(st.sampled_from(["string", "bytes", {"type": "string", "logicalType": "uuid"}]))
    raw = value if value is None or kind != "bytes" else value.encode()
    if value is not None and draw(st.booleans()):
        return kind, raw
    union = draw(st.permutations(["null", kind, "int"][: draw(st.integers(2, 3))]))
    branch = union.index("null" if value is None else kind)
    return union, (branch, raw)


@st.composite
def _channel(draw: st.DrawFn, symbol: str) -> tuple[Any, Any, str]:
    """The channel as another enum writes it, and what the reader sees."""
    added = draw(st.lists(st.sampled_from(["CRYPTO", "PIGEON"]), unique=True))
    symbols = draw(st.permutations([*{symbol, *added, "ATM"}]))
    written = draw(st.sampled_from([symbol, *added]))
    enum = {"type": "enum", "name": "riskwire.Channel", "symbols": symbols}
    seen = written if written in SYMBOLS else "UNKNOWN"
    return (enum, written, seen) if draw(st.booleans()) else ([enum, "null"], (0, written), seen)


@st.composite
def _number(draw: st.DrawFn, name: str, value: int) -> tuple[Any, Any]:
    kinds: list[Any] = ["long", ["long", "string"]]
    if name == "event_time":
        kinds.append({"type": "long", "logicalType": "timestamp-micros"})
    if value < 2**31:
        kinds.append("int")
    kind = draw(st.sampled_from(kinds))
    return kind, (0, value) if isinstance(kind, list) else value


@st.composite
def written(draw: st.DrawFn, depth: int = 3) -> Written:
    """A random transaction by a random writer that the reader must understand."""
    expected: dict[str, Any] = dict(draw(transactions))
    names, fields, value = itertools.count(), [], {}
    for name, seen in list(expected.items()):
        optional = name in ("channel", "merchant_category", "country", "device_id")
        if optional and draw(st.integers(0, 3)) == 0:
            expected[name] = "UNKNOWN" if name == "channel" else None
            continue
        if name == "channel":
            kind, value[name], expected[name] = draw(_channel(seen))
        elif name in ("event_time", "amount_minor"):
            kind, value[name] = draw(_number(name, seen))
        else:
            kind, value[name] = draw(_string(seen))
        fields.append({"name": name, "type": kind})
    for k in range(draw(st.integers(0, 3))):
        kind, value[f"x{k}"] = draw(_skipped(names, depth))
        fields.append({"name": f"x{k}", "type": kind})
    record = {
        "type": "record",
        "name": draw(st.sampled_from(["Transaction", "riskwire.Transaction", "old.Transaction"])),
        "fields": copy.deepcopy(draw(st.permutations(fields))),
    }
    choose = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311 -- splits blocks
    return Written(json.dumps(record), encode(record, value, choose), expected)
