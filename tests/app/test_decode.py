"""What the decoder accepts: one table for the loop and its twin, random writers, and the edges."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from app import avro_plan, decode_twin
from app import decode as loop
from app import writers as writers_module
from app.decode import Limits, Writers
from app.errors import RejectCode
from app.records import STRING_FIELDS, Ragged, Reject
from tests.strategies import (
    BOTH,
    DEEP,
    DEEP_ONE,
    LIMITS,
    NOW_US,
    SCHEMA,
    SLOW,
    SLOW_ONE,
    SLOW_READER,
    SYMBOLS,
    TRANSACTION,
    Decode,
    Written,
    batch,
    confluent,
    encode_bytes,
    encode_long,
    enum,
    fields_of,
    origins_of,
    pieces,
    single_object,
    variant,
    written,
)

STRING = encode_bytes(b"x")
CASES: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "bundled": (SCHEMA.text, pieces(), {}),
    "every option null": (
        SCHEMA.text,
        pieces(merchant_category=b"\0", country=b"\0", device_id=b"\0"),
        {"merchant_category": None, "country": None, "device_id": None},
    ),
    "text beyond ASCII": (
        SCHEMA.text,
        pieces(device_id=b"\2" + encode_bytes("ключ-鍵-🔑".encode())),
        {"device_id": "ключ-鍵-🔑"},
    ),
    "ids of 64 bytes": (
        SCHEMA.text,
        pieces(transaction_id=encode_bytes(b"t" * 64), device_id=b"\2" + encode_bytes(b"d" * 64)),
        {"transaction_id": "t" * 64, "device_id": "d" * 64},
    ),
    "amount zero": (SCHEMA.text, pieces(amount_minor=b"\0"), {"amount_minor": 0}),
    "amount at its most": (
        SCHEMA.text,
        pieces(amount_minor=encode_long(10**12)),
        {"amount_minor": 10**12},
    ),
    "last symbol": (SCHEMA.text, pieces(channel=encode_long(6)), {"channel": "TRANSFER"}),
    "earliest time": (
        SCHEMA.text,
        pieces(event_time=encode_long(946_684_800_000_000)),
        {"event_time": 946_684_800_000_000},
    ),
    "latest time": (
        SCHEMA.text,
        pieces(event_time=encode_long(NOW_US + LIMITS.future_us_max)),
        {"event_time": NOW_US + LIMITS.future_us_max},
    ),
    "int for long": (variant(amount_minor="int"), pieces(), {}),
    "time without logical type": (variant(event_time="long"), pieces(), {}),
    "bytes for string": (variant(customer_id="bytes", currency="bytes"), pieces(), {}),
    "uuid for string": (
        variant(transaction_id={"type": "string", "logicalType": "uuid"}),
        pieces(),
        {},
    ),
    "string for option": (
        variant(country="string"),
        pieces(country=encode_bytes(b"FR")),
        {"country": "FR"},
    ),
    "null for option": (variant(country="null"), pieces(country=b""), {"country": None}),
    "option the other way round": (
        variant(country=["string", "null"]),
        pieces(country=b"\0" + encode_bytes(b"FR")),
        {"country": "FR"},
    ),
    "option for required": (
        variant(currency=["null", "string"]),
        pieces(currency=b"\2" + encode_bytes(b"USD")),
        {"currency": "USD"},
    ),
    "wide union, branch that fits": (
        variant(amount_minor=["double", "null", "long"]),
        pieces(amount_minor=b"\4" + encode_long(5)),
        {"amount_minor": 5},
    ),
    "options missing": (
        variant(channel=None, merchant_category=None, country=None, device_id=None),
        pieces(channel=b"", merchant_category=b"", country=b"", device_id=b""),
        {"channel": "UNKNOWN", "merchant_category": None, "country": None, "device_id": None},
    ),
    "symbols in another order": (
        variant(channel=enum("ATM", "CHIP")),
        pieces(channel=b"\0"),
        {"channel": "ATM"},
    ),
    "symbol of tomorrow": (
        variant(channel=enum("ATM", "IMPLANT")),
        pieces(channel=b"\2"),
        {"channel": "UNKNOWN"},
    ),
    "symbol in a union": (
        variant(channel=["null", enum("ATM", "CHIP")]),
        pieces(channel=b"\2\0"),
        {"channel": "ATM"},
    ),
    "extra array in blocks with and without size": (
        variant(extra={"type": "array", "items": "string"}),
        pieces() + encode_long(1) + STRING + encode_long(-2) + encode_long(4) + STRING * 2 + b"\0",
        {},
    ),
    "extra map": (
        variant(extra={"type": "map", "values": ["null", "double"]}),
        pieces() + encode_long(2) + STRING + b"\0" + STRING + b"\2" + bytes(8) + b"\0",
        {},
    ),
    "extra of every simple kind": (
        variant(a="null", b="boolean", c="int", d="long", e="float", f="double", g="bytes"),
        pieces() + b"\1" + encode_long(-(2**31)) + encode_long(-(2**63)) + bytes(12) + b"\2\xff",
        {},
    ),
    "extra named types, used twice": (
        variant(
            a={"type": "fixed", "name": "Two", "size": 2},
            b="riskwire.Two",
            c={"type": "record", "name": "Pair", "fields": [{"name": "p", "type": "Two"}]},
            d={"type": "array", "items": "riskwire.Pair"},
            e=enum("A", "B") | {"name": "Letter"},
            f={"type": "fixed", "name": "Nothing", "size": 0},
        ),
        pieces() + b"aabbcc" + b"\2dd\0" + b"\2",
        {},
    ),
    "as deep as may be": (DEEP, pieces() + DEEP_ONE, {}),
}


@BOTH
@pytest.mark.parametrize("framing", ["confluent", "single object"])
@pytest.mark.parametrize("case", CASES)
def test_valid_values(decode: Decode, framing: str, case: str) -> None:
    """A legal value by a legal writer decodes to exactly these fields, in either framing."""
    text, body, changed = CASES[case]
    writers = Writers()
    if framing == "confluent":
        writers.add_id(7, text)
        value = confluent(body, 7)
    else:
        schema = schemas.parse(text)
        writers.add_fingerprint(schema)
        value = single_object(body, schema)
    result = decode(batch([value]), writers, LIMITS)
    assert result.rejects == []
    assert fields_of(result.transactions) == [{**TRANSACTION, **changed}]


@settings(max_examples=300)
@given(st.lists(written(), min_size=1, max_size=4), st.sampled_from([confluent, single_object]))
def test_random_writers_read_the_same_by_both(several: list[Written], framing: Any) -> None:
    """Random transactions by random compatible writers come out as they went in, by both."""
    writers, values = Writers(), []
    for schema_id, each in enumerate(several):
        schema = schemas.parse(each.text)
        writers.add_id(schema_id, each.text)
        writers.add_fingerprint(schema)
        values.append(framing(each.body, schema_id if framing is confluent else schema))
    records = batch(values, [each.expected["customer_id"].encode() for each in several])
    fast = loop.decode(records, writers, LIMITS)
    slow = decode_twin.decode(records, writers, LIMITS)
    assert fast.rejects == slow.rejects == []
    expected = [each.expected for each in several]
    assert fields_of(fast.transactions) == fields_of(slow.transactions) == expected
    assert origins_of(fast.transactions) == origins_of(slow.transactions)


def test_the_loops_numbers_are_those_of_other_files() -> None:
    """The constants that the compiled loop holds are the ones that others define."""
    for op in avro_plan.Op:
        assert getattr(loop, op.name) == op
    for place, code in enumerate(RejectCode):
        assert code is RejectCode.UNDECODABLE or getattr(loop, code.name) == place
    framings = writers_module.CONFLUENT, writers_module.SINGLE_OBJECT
    assert framings == (loop.CONFLUENT, loop.SINGLE_OBJECT)
    assert (loop.SLOW, loop.UNKNOWN_BASE) == (writers_module.SLOW, writers_module.UNKNOWN)
    longs = {"event_time": loop.EVENT_TIME, "amount_minor": loop.AMOUNT}
    assert (longs, loop.CHANNEL_SLOT) == (avro_plan.LONG_SLOTS, avro_plan.CHANNEL_SLOT)
    names = [
        "TRANSACTION_ID",
        "CUSTOMER_ID",
        "TERMINAL_ID",
        "CURRENCY",
        "CATEGORY",
        "COUNTRY",
        "DEVICE_ID",
    ]
    slots = [getattr(loop, name) for name in names]
    assert slots == list(avro_plan.STRING_SLOTS.values())
    assert slots[0] == loop.FIRST_STRING
    assert slots[-1] + 2 == avro_plan.SKIP_SLOT
    channel = next(each for each in SCHEMA.parsed["fields"] if each["name"] == "channel")
    assert tuple(channel["type"]["symbols"]) == SYMBOLS


def test_the_loop_is_compiled_once_for_all_buffers() -> None:
    """Writable and read-only buffers, full and empty batches share one compiled loop."""
    records = batch([single_object(pieces())] * 3)
    writable = Ragged(records.values.data.copy(), records.values.start, records.values.length)
    for each in (records, dataclasses.replace(records, values=writable), batch([])):
        result = loop.decode(each, Writers(), LIMITS)
        assert len(result.transactions) == len(each)
    assert len(loop._decode_rows.signatures) == 1  # type: ignore[attr-defined]


@BOTH
def test_columns_are_contiguous_and_typed(decode: Decode) -> None:
    """Also where rows were rejected, columns have the documented types and lie without gaps."""
    result = decode(
        batch([single_object(pieces()), b"", single_object(pieces())]), Writers(), LIMITS
    )
    rows = result.transactions
    int64 = (rows.row, rows.offset, rows.append_time_us, rows.event_time_us, rows.amount_minor)
    assert {each.dtype for each in int64} == {np.dtype(np.int64)}
    assert {each.dtype for each in (rows.append_time_type, rows.channel)} == {np.dtype(np.int8)}
    assert [rows.partition.dtype.name, rows.text.dtype.name] == ["int32", "uint8"]
    assert [rows.text_start.dtype.name, rows.text_length.dtype.name] == ["int64", "int32"]
    assert rows.text_start.shape == rows.text_length.shape == (len(STRING_FIELDS), 2)
    assert rows.text_start.flags.c_contiguous
    assert rows.text_length.flags.c_contiguous
    assert origins_of(rows) == [(0, 0, 100, NOW_US, 2), (2, 2, 102, NOW_US, 2)]


@BOTH
def test_ids_not_heard_of_come_back_as_a_question(decode: Decode) -> None:
    """Registry ids that are neither known nor marked end in `unresolved`, and nothing else does."""
    writers, good = Writers(), single_object(pieces())
    records = batch([good, confluent(pieces(), 8), b"", confluent(pieces(), 9), confluent(b"", -1)])
    asked = decode(records, writers, LIMITS)
    assert asked.unresolved == {8, 9}
    assert (len(asked.transactions), list(asked.rejects)) == (0, [])
    writers.add_id(8, SCHEMA.text)
    writers.mark_unknown(9)
    answered = decode(records, writers, LIMITS)
    assert answered.unresolved == frozenset()
    assert answered.transactions.row.tolist() == [0, 1]
    assert answered.rejects == [
        Reject(2, RejectCode.EMPTY_VALUE, "decode"),
        Reject(3, RejectCode.UNKNOWN_SCHEMA, "decode"),
        Reject(4, RejectCode.UNKNOWN_SCHEMA, "decode"),
    ]
    writers.forget_unknown()
    assert decode(records, writers, LIMITS).unresolved == {9}
    writers.add_id(9, SCHEMA.text)
    assert decode(records, writers, LIMITS).transactions.row.tolist() == [0, 1, 3]


@BOTH
def test_rejected_before_the_schema_is_asked_for(decode: Decode) -> None:
    """A value that is too large costs no question to the registry."""
    result = decode(batch([confluent(bytes(LIMITS.value_bytes_max), 8)]), Writers(), LIMITS)
    assert result.unresolved == frozenset()
    assert [each.code for each in result.rejects] == [RejectCode.VALUE_TOO_LARGE]


def test_schemas_beyond_the_loop_keep_their_place() -> None:
    """Rows that only the twin reads stand between the others in the records' order."""
    writers = Writers(SLOW_READER)
    writers.add_id(7, SLOW)
    assert writers_module.SLOW in writers.program.id_bases
    slow, fast = confluent(SLOW_ONE, 7), single_object(pieces())
    records = batch([slow, fast, b"", slow[:-1], fast, slow])
    by_loop = loop.decode(records, writers, LIMITS)
    by_twin = decode_twin.decode(records, writers, LIMITS)
    assert by_loop.rejects == by_twin.rejects
    assert origins_of(by_loop.transactions) == origins_of(by_twin.transactions)
    assert fields_of(by_loop.transactions) == fields_of(by_twin.transactions) == [TRANSACTION] * 4
    assert by_loop.transactions.row.tolist() == [0, 1, 4, 5]


@BOTH
@pytest.mark.parametrize(
    ("kind", "stamp_ms", "append_us"),
    [
        (0, 5, NOW_US),
        (1, 1_700_000_000_123, 1_700_000_000_123_000),
        (2, NOW_US // 1000 - 1, NOW_US - 1000),
        (1, 2**63 - 1, 9 * 10**18),
    ],
)
def test_append_time(decode: Decode, kind: int, stamp_ms: int, append_us: int) -> None:
    """The record's timestamp in µs, the time of polling where it has none, never out of range."""
    records = batch(
        [single_object(pieces(event_time=encode_long(1_600_000_000_000_000)))],
        timestamp_ms=np.array([stamp_ms]),
        timestamp_type=np.array([kind], np.int8),
    )
    rows = decode(records, Writers(), LIMITS).transactions
    assert rows.append_time_us.tolist() == [append_us]
    assert rows.append_time_type.tolist() == [kind]


@BOTH
@pytest.mark.parametrize("future_us", [0, 10**17, 2**62])
def test_least_append_time_rejects_instead_of_overflowing(decode: Decode, future_us: int) -> None:
    """A hostile timestamp makes every event time too late, whatever the limit."""
    records = batch([single_object(pieces())], timestamp_ms=np.array([-(2**63)]))
    limits = dataclasses.replace(LIMITS, future_us_max=future_us)
    result = decode(records, Writers(), limits)
    assert result.rejects == [Reject(0, RejectCode.BAD_TIME, "validate")]


@BOTH
def test_limits_are_inclusive(decode: Decode) -> None:
    """A value and headers of exactly the largest size pass; one more does not."""
    value = single_object(pieces())
    headers = {0: [("n", b"12")] * 2 + [("n", None)]}
    limits = Limits(len(value), 3, 7, LIMITS.future_us_max)
    assert len(decode(batch([value], headers=headers), Writers(), limits).transactions) == 1
    for name, code in {
        "value_bytes_max": RejectCode.VALUE_TOO_LARGE,
        "headers_max": RejectCode.HEADERS_TOO_LARGE,
        "header_bytes_max": RejectCode.HEADERS_TOO_LARGE,
    }.items():
        tighter = dataclasses.replace(limits, **{name: getattr(limits, name) - 1})
        result = decode(batch([value], headers=headers), Writers(), tighter)
        assert [each.code for each in result.rejects] == [code]


@BOTH
def test_an_empty_batch(decode: Decode) -> None:
    """No records: no rows, no rejects."""
    result = decode(batch([]), Writers(), LIMITS)
    assert (len(result.transactions), len(result.rejects)) == (0, 0)
    assert result.unresolved == frozenset()
