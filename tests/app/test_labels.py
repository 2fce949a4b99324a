"""Outcomes: what is accepted, what is refused, and that the loop and the plain reader agree."""

import dataclasses
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from app import decode_twin, labels
from app.avro_plan import LABEL_KINDS
from app.decode_twin import Limits
from app.errors import RejectCode, SchemaError
from app.labels import SCHEMA, DecodedLabels, Labels, decode_labels, decode_plainly, label_writers
from app.records import Ragged, RecordBatch, Reject
from app.writers import Writers
from tests.strategies import (
    LIMITS,
    NESTED,
    NOW_US,
    batch,
    confluent,
    encode,
    encode_bytes,
    encode_long,
    tokens,
)

Decode = Callable[[RecordBatch, Writers, Limits], DecodedLabels]
BOTH = pytest.mark.parametrize("decode", [decode_labels, decode_plainly], ids=["loop", "plain"])
C = RejectCode
LATEST_US = NOW_US + LIMITS.future_us_max
LABEL: dict[str, Any] = {
    "transaction_id": "tx-0001",
    "customer_id": "customer-1",
    "terminal_id": "terminal-1",
    "event_time": NOW_US - 86_400_000_000,
    "known_at": NOW_US - 1_000_000,
    "fraud": True,
    "source": "CHARGEBACK",
}
FIELDS = {each["name"]: each for each in json.loads(SCHEMA.text)["fields"]}


def pieces(label: Mapping[str, Any] = LABEL, /, **raw: bytes) -> bytes:
    """Encode by the bundled schema; `raw` puts other bytes in a field's place."""
    unused = random.Random(0)  # noqa: S311 -- there is nothing to choose
    parts = {name: encode(each["type"], label[name], unused) for name, each in FIELDS.items()}
    return b"".join((parts | raw).values())


def value(label: Mapping[str, Any] = LABEL, /, **raw: bytes) -> bytes:
    """A label as its value."""
    return SCHEMA.single_object_header + pieces(label, **raw)


def variant(order: Sequence[str] = tuple(FIELDS), **types: Any) -> str:
    """The bundled schema's text in another order of fields, or with other types of some."""
    fields = [
        {**FIELDS.get(name, {"name": name}), **({"type": types[name]} if name in types else {})}
        for name in (*order, *(name for name in types if name not in FIELDS))
    ]
    return json.dumps({**json.loads(SCHEMA.text), "fields": fields})


def fields_of(rows: Labels) -> list[tuple[Any, ...]]:
    """The rows as plain values, for comparing."""
    columns = (rows.row, rows.partition, rows.offset, rows.event_time_us, rows.known_at_us,
               rows.fraud, rows.tag)  # fmt: skip
    plain = zip(*(column.tolist() for column in columns), strict=True)
    return [(*each, rows.terminals.text(i)) for i, each in enumerate(plain)]


def wanted(row: int, label: Mapping[str, Any]) -> tuple[Any, ...]:
    """What `fields_of` must give for a label at a row."""
    tag = xxhash.xxh64_intdigest(label["transaction_id"].encode()) & 0xFFFFFFFF
    times = (label["event_time"], label["known_at"])
    return (row, row % 3, 100 + row, *times, int(label["fraud"]), tag, label["terminal_id"])


SWAPPED = (*list(FIELDS)[:3], "known_at", "event_time", "fraud", "source")
CASES: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "bundled": (SCHEMA.text, pieces(), {}),
    "no fraud": (SCHEMA.text, pieces(fraud=b"\0"), {"fraud": False}),
    "text beyond ASCII": (
        SCHEMA.text,
        pieces(terminal_id=encode_bytes("ключ-鍵-🔑".encode())),
        {"terminal_id": "ключ-鍵-🔑"},
    ),
    "ids of 64 bytes": (
        SCHEMA.text,
        pieces(transaction_id=encode_bytes(b"t" * 64), terminal_id=encode_bytes(b"m" * 64)),
        {"transaction_id": "t" * 64, "terminal_id": "m" * 64},
    ),
    "long past, as in a replay": (
        SCHEMA.text,
        pieces(event_time=encode_long(946_684_800_000_000), known_at=encode_long(1 << 50)),
        {"event_time": 946_684_800_000_000, "known_at": 1 << 50},
    ),
    "known at once, as late as may be": (
        SCHEMA.text,
        pieces(event_time=encode_long(LATEST_US), known_at=encode_long(LATEST_US)),
        {"event_time": LATEST_US, "known_at": LATEST_US},
    ),
    "times in another order": (
        variant(SWAPPED),
        pieces(
            event_time=encode_long(LABEL["known_at"]), known_at=encode_long(LABEL["event_time"])
        ),
        {},
    ),
    "bytes for string": (variant(terminal_id="bytes"), pieces(), {}),
    "option for required": (
        variant(fraud=["null", "boolean"]),
        pieces(fraud=b"\2\0"),
        {"fraud": False},
    ),
    "no source": (variant(list(FIELDS)[:-1]), pieces(source=b""), {}),
    "source of tomorrow": (
        variant(source={"type": "enum", "name": "LabelSource", "symbols": ["ORACLE"]}),
        pieces(source=b"\0"),
        {},
    ),
    "more fields": (
        variant(flag="boolean", note=["null", "string"]),
        pieces() + b"\0\2" + encode_bytes(b"x"),
        {},
    ),
    "too deep for a plan": (variant(extra=NESTED), pieces() + b"\0", {}),
}


@BOTH
@pytest.mark.parametrize("framing", ["confluent", "single object"])
@pytest.mark.parametrize("case", CASES)
def test_valid_values(decode: Decode, framing: str, case: str) -> None:
    """A legal value by a legal writer decodes to exactly these fields, in either framing."""
    text, body, changed = CASES[case]
    writers = label_writers()
    if framing == "confluent":
        writers.add_id(7, text)
        framed = confluent(body, 7)
    else:
        schema = schemas.parse(text)
        writers.add_fingerprint(schema)
        framed = schema.single_object_header + body
    result = decode(batch([value(), framed, value()]), writers, LIMITS)
    assert result.rejects == []
    expected = [LABEL, {**LABEL, **changed}, LABEL]
    assert fields_of(result.labels) == [wanted(row, each) for row, each in enumerate(expected)]


def test_the_loop_takes_what_is_written_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bundled schema or its like nothing is left to the plain reader, and the rest is."""
    left: list[int] = []
    reader = decode_twin.read_rows

    def spy(records: RecordBatch, rows: list[int], *others: Any) -> Any:
        left.extend(rows)
        return reader(records, rows, *others)

    monkeypatch.setattr(labels, "read_rows", spy)
    writers = label_writers()
    writers.add_id(5, SCHEMA.text.replace("The outcome", "An outcome"))
    writers.add_id(6, variant(SWAPPED))
    writers.add_id(7, variant(extra=NESTED))
    writers.mark_unknown(8)
    headers = {2: [("trace", b"0123456789")]}
    values = [value(), confluent(pieces(), 5), value(fraud=b"\0"), confluent(pieces(), 6)]
    values += [confluent(pieces() + b"\0", 7), confluent(pieces(), 8)]
    result = decode_labels(batch(values, headers=headers), writers, LIMITS)
    assert left == [3, 4, 5]
    assert [each.row for each in result.rejects] == [3, 5]  # swapped: known before it happened
    assert result.labels.row.tolist() == [0, 1, 2, 4]


def test_the_loop_is_compiled_once_for_all_buffers() -> None:
    """Writable and read-only buffers, full and empty batches share one compiled loop."""
    records = batch([value()] * 3)
    writable = Ragged(records.values.data.copy(), records.values.start, records.values.length)
    for each in (records, dataclasses.replace(records, values=writable), batch([])):
        assert len(decode_labels(each, label_writers(), LIMITS).labels) == len(each)
    assert len(labels._read_rows.signatures) == 1  # type: ignore[attr-defined]


def test_the_loops_numbers_are_those_of_the_schema() -> None:
    """The loop reads the bundled schema's fields in their order, and knows as many symbols."""
    kinds = {
        name: each["type"] if isinstance(each["type"], str) else each["type"]["type"]
        for name, each in FIELDS.items()
    }
    assert kinds == LABEL_KINDS
    assert list(kinds) == list(LABEL)
    assert len(FIELDS["source"]["type"]["symbols"]) == labels.SOURCES


@BOTH
def test_columns_are_contiguous_and_typed(decode: Decode) -> None:
    """Also where rows were rejected, columns have the documented types."""
    rows = decode(batch([value(), b"", value()]), label_writers(), LIMITS).labels
    int64 = (rows.row, rows.offset, rows.event_time_us, rows.known_at_us, rows.tag)
    assert {each.dtype.name for each in (*int64, rows.terminals.start)} == {"int64"}
    assert [rows.partition.dtype.name, rows.fraud.dtype.name] == ["int32", "int8"]
    assert rows.terminals.length.dtype.name == "int32"
    assert rows.row.tolist() == [0, 2]
    assert len(rows.terminals) == len(rows) == 2


ID = encode_bytes(b"terminal-1")
FAULTS: dict[str, tuple[bytes | None, RejectCode]] = {
    "null value": (None, C.NULL_VALUE),
    "empty value": (b"", C.EMPTY_VALUE),
    "value over the limit": (value() + bytes(LIMITS.value_bytes_max), C.VALUE_TOO_LARGE),
    "foreign magic": (b"\x01" + value()[1:], C.BAD_MAGIC),
    "unknown schema id": (confluent(pieces(), 8), C.UNKNOWN_SCHEMA),
    "negative schema id": (confluent(pieces(), -3), C.UNKNOWN_SCHEMA),
    "a transaction's fingerprint": (
        schemas.load("transaction").single_object_header + pieces(),
        C.UNKNOWN_SCHEMA,
    ),
    "header alone": (value()[:10], C.TRUNCATED),
    "trailing byte": (value() + b"\0", C.TRAILING_BYTES),
    "trailing record": (value() + value(), C.TRAILING_BYTES),
    "boolean 7": (value(fraud=b"\7"), C.BAD_BOOLEAN),
    "symbol out of range": (value(source=b"\x08"), C.BAD_BRANCH),
    "symbol negative": (value(source=b"\1"), C.BAD_BRANCH),
    "varint of 11 bytes": (value(known_at=b"\x80" * 10 + b"\1"), C.BAD_VARINT),
    "varint with a needless byte": (value(source=b"\x82\0"), C.BAD_VARINT),
    "length negative": (value(terminal_id=encode_long(-1) + b"abc"), C.BAD_LENGTH),
    "length too long": (value(terminal_id=encode_long(2**40) + b"abc"), C.BAD_LENGTH),
    "text not UTF-8": (value(terminal_id=encode_bytes(b"abc\xff")), C.BAD_UTF8),
    "transaction_id empty": (value(transaction_id=b"\0"), C.BAD_ID),
    "terminal_id of 65 bytes": (value(terminal_id=encode_bytes(b"m" * 65)), C.BAD_ID),
    "terminal_id of 33 letters of 2 bytes": (
        value(terminal_id=encode_bytes("ü".encode() * 33)),
        C.BAD_ID,
    ),
    "another customer's key": (value(customer_id=encode_bytes(b"customer-2")), C.BAD_KEY),
    "a key that goes on": (value(customer_id=encode_bytes(b"customer")), C.BAD_KEY),
    "event before 2000": (value(event_time=encode_long(946_684_799_999_999)), C.BAD_TIME),
    "known before it happened": (
        value(known_at=encode_long(LABEL["event_time"] - 1)),
        C.BAD_TIME,
    ),
    "known after append time": (value(known_at=encode_long(LATEST_US + 1)), C.BAD_TIME),
    "known in the year 300000": (value(known_at=encode_long(2**63 - 1)), C.BAD_TIME),
    "event at int64 min": (value(event_time=encode_long(-(2**63))), C.BAD_TIME),
}


@BOTH
@pytest.mark.parametrize("fault", FAULTS)
def test_faults(decode: Decode, fault: str) -> None:
    """Each is exactly one reject with its code, and harms no neighbour."""
    bad, code = FAULTS[fault]
    writers = label_writers()
    writers.mark_unknown(8)
    result = decode(batch([value(), bad, value()]), writers, LIMITS)
    stage = "validate" if code in (C.BAD_ID, C.BAD_KEY, C.BAD_TIME) else "decode"
    assert result.rejects == [Reject(1, code, stage)]
    assert fields_of(result.labels) == [wanted(0, LABEL), wanted(2, LABEL)]


@BOTH
@pytest.mark.parametrize("key", [None, b"", b"customer-2", b"customer-1\0"])
def test_a_key_that_is_not_the_customer(decode: Decode, key: bytes | None) -> None:
    """A record under a null or another key is rejected as BAD_KEY, alone."""
    keys = [b"customer-1", key, b"customer-1"]
    result = decode(batch([value()] * 3, keys), label_writers(), LIMITS)
    assert result.rejects == [Reject(1, C.BAD_KEY, "validate")]
    assert result.labels.row.tolist() == [0, 2]


@BOTH
def test_ids_not_heard_of_come_back_as_a_question(decode: Decode) -> None:
    """Registry ids that are neither known nor marked end in `unresolved`, and nothing else does."""
    writers = label_writers()
    records = batch([value(), confluent(pieces(), 8), b"", confluent(pieces(), 9)])
    asked = decode(records, writers, LIMITS)
    assert asked.unresolved == {8, 9}
    assert (len(asked.labels), list(asked.rejects)) == (0, [])
    writers.add_id(8, SCHEMA.text)
    writers.mark_unknown(9)
    answered = decode(records, writers, LIMITS)
    assert answered.unresolved == frozenset()
    assert answered.labels.row.tolist() == [0, 1]
    assert [each.code for each in answered.rejects] == [C.EMPTY_VALUE, C.UNKNOWN_SCHEMA]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (variant(known_at={"type": "long", "logicalType": "timestamp-millis"}), "timestamp-millis"),
        (variant(fraud="int"), "fraud"),
        (variant(list(FIELDS)[:-2]), "fraud"),
        (schemas.load("transaction").text, "Transaction"),
    ],
)
def test_writers_that_do_not_resolve_are_refused(text: str, says: str) -> None:
    """What no record can be read by rightly is said when the schema is added."""
    with pytest.raises(SchemaError, match=says):
        label_writers().add_id(1, text)


@BOTH
def test_append_time_bounds_what_is_known(decode: Decode) -> None:
    """The record's timestamp counts, the time of polling where it has none; hostile ones too."""
    records = batch(
        [value()] * 4,
        timestamp_ms=np.array([5, NOW_US // 1000 - 10**6, 2**63 - 1, -(2**63)]),
        timestamp_type=np.array([0, 1, 2, 1], np.int8),
    )
    result = decode(records, label_writers(), LIMITS)
    assert result.labels.row.tolist() == [0, 2]
    assert [each.code for each in result.rejects] == [C.BAD_TIME] * 2


@BOTH
def test_limits_are_inclusive(decode: Decode) -> None:
    """A value and headers of exactly the largest size pass; one more does not."""
    headers = {0: [("n", b"12")] * 2 + [("n", None)]}
    limits = Limits(len(value()), 3, 7, LIMITS.future_us_max)
    records = batch([value()], headers=headers)
    assert len(decode(records, label_writers(), limits).labels) == 1
    for name, code in {
        "value_bytes_max": C.VALUE_TOO_LARGE,
        "headers_max": C.HEADERS_TOO_LARGE,
        "header_bytes_max": C.HEADERS_TOO_LARGE,
    }.items():
        tighter = dataclasses.replace(limits, **{name: getattr(limits, name) - 1})
        assert [each.code for each in decode(records, label_writers(), tighter).rejects] == [code]


@BOTH
def test_every_prefix_is_rejected(decode: Decode) -> None:
    """However short a value is cut, it is one reject, and what stands beside it does not help."""
    whole = value()
    cut = [whole[:size] for size in range(len(whole))]
    result = decode(batch([*cut, whole]), label_writers(), LIMITS)
    assert result.labels.row.tolist() == [len(whole)]
    codes = [each.code for each in result.rejects]
    assert codes[0] is C.EMPTY_VALUE
    assert set(codes[1:]) <= {C.TRUNCATED, C.BAD_LENGTH}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "transaction_id": tokens,
                "customer_id": tokens,
                "terminal_id": tokens,
                "event_time": st.integers(946_684_800_000_000, NOW_US),
                "known_at": st.integers(NOW_US, LATEST_US),
                "fraud": st.booleans(),
                "source": st.sampled_from(FIELDS["source"]["type"]["symbols"]),
            }
        ),
        max_size=5,
    )
)
def test_random_labels_come_out_as_they_went_in(several: list[dict[str, Any]]) -> None:
    """By both, whatever the identifiers are made of."""
    keys = [each["customer_id"].encode() for each in several]
    records = batch([value(each) for each in several], keys)
    for decode in (decode_labels, decode_plainly):
        result = decode(records, label_writers(), LIMITS)
        assert fields_of(result.labels) == [wanted(i, each) for i, each in enumerate(several)]


def mutants(choose: random.Random) -> Iterator[bytes]:
    """Valid values damaged once or twice, most behind a whole header."""
    good = [value(), confluent(pieces(), 5), value(fraud=b"\0"), value(terminal_id=b"\x04\xc3\xbc")]
    while True:
        data = bytearray(choose.choice(good))
        for _ in range(choose.randrange(1, 3)):
            at = choose.randrange(choose.choice((0, 10)), len(data))
            match choose.randrange(4):
                case 0:
                    data[at] ^= 1 << choose.randrange(8)
                case 1:
                    del data[at : at + choose.randrange(1, 6)]
                case 2:
                    data[at:at] = choose.choice((b"\xff", b"\x80", b"\0")) * choose.randrange(1, 11)
                case _:
                    data[at] = choose.randrange(256)
            data = data if len(data) > 10 else bytearray(good[0])
        yield bytes(data)


@pytest.mark.parametrize("filler", [b"", b"\0", b"\xff"])
def test_fuzz_agrees_with_the_plain_reader(filler: bytes) -> None:
    """Of 4,000 damaged values each is one row or one reject, the same by both; nothing is raised.

    What lies around a value in the buffer does not matter.
    """
    values = list(itertools.islice(mutants(random.Random(3)), 4000))  # noqa: S311 -- repeatable
    gap = filler * 16
    data = np.frombuffer(gap + gap.join(values) + gap, np.uint8)
    plain = batch(values)
    start = plain.values.start + len(gap) * np.arange(1, len(values) + 1)
    spread = dataclasses.replace(plain, values=Ragged(data, start, plain.values.length))
    writers = label_writers()
    writers.add_id(5, SCHEMA.text)
    while unresolved := decode_labels(spread, writers, LIMITS).unresolved:
        for schema_id in unresolved:
            writers.mark_unknown(schema_id)
    fast, slow = decode_labels(spread, writers, LIMITS), decode_plainly(plain, writers, LIMITS)
    assert fast.rejects == slow.rejects
    assert fields_of(fast.labels) == fields_of(slow.labels)
    assert 200 < len(fast.labels) < 3800
    assert len(fast.labels) + len(fast.rejects) == len(values)
