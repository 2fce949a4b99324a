"""Which writer schemas are taken, which are refused and why, and that refusing is cheap."""

import json
import re
import time
from typing import Any

import numpy as np
import pytest

import schemas
from app import avro_plan
from app import writers as writers_module
from app.avro_plan import Op, PlanGap, compile_plan
from app.decode import decode
from app.decode_twin import decode as twin
from app.errors import ConfigError, RejectCode, SchemaError
from app.writers import SLOW, UNKNOWN, Writers
from tests.strategies import (
    LIMITS,
    SCHEMA,
    SLOW_ONE,
    SLOW_READER,
    TRANSACTION,
    batch,
    confluent,
    encode_bytes,
    enum,
    fields_of,
    pieces,
    variant,
)


def record(name: str, *types: Any) -> dict[str, Any]:
    """A nested record of fields f0, f1, ..."""
    fields = [{"name": f"f{k}", "type": kind} for k, kind in enumerate(types)]
    return {"type": "record", "name": name, "fields": fields}


def nested(kind: Any, depth: int) -> Any:
    """Arrays in arrays."""
    for _ in range(depth):
        kind = {"type": "array", "items": kind}
    return kind


def bomb() -> dict[str, Any]:
    """Seven records, each of sixteen of the one before: 16^7 types by seven definitions."""
    inner = record("R0", *["null"] * 16)
    for k in range(1, 7):
        inner = record(f"R{k}", inner, *[f"riskwire.R{k - 1}"] * 15)
    return inner


def refused_nothing() -> dict[str, Any]:
    """A fixed of no bytes."""
    return {"type": "fixed", "name": "Nothing", "size": 0}


REFUSED: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "no Avro schema"),
    "no schema": ('{"a": 1}', "no Avro schema"),
    "no type of Avro": (variant(extra="decimal"), "no Avro schema"),
    "a reference that is not there": (variant(extra="other.Type"), "UnknownType"),
    "text too long": (variant(extra="int") + " " * 300_000, "text is longer"),
    "nested beyond any stack": ("[" * 100_000, "no Avro schema"),
    "JSON that claims to be parsed": (
        json.dumps({"type": "record", "__fastavro_parsed": True, "__named_schemas": {}}),
        "no Avro schema",
    ),
    "no record": ('"string"', "not the reader's record"),
    "another record": (SCHEMA.text.replace('"Transaction"', '"Payment"'), "riskwire.Payment"),
    "recursive": (
        variant(extra=record("Node", ["null", "riskwire.Node"])),
        "record riskwire.Node is recursive",
    ),
    "recursive through an array": (
        variant(extra=record("Node", {"type": "array", "items": "Node"})),
        "recursive",
    ),
    "array of null": (variant(extra={"type": "array", "items": "null"}), "zero bytes"),
    "array of empty record": (variant(extra={"type": "array", "items": record("E")}), "zero bytes"),
    "array of records of nothing": (
        variant(extra={"type": "array", "items": record("E", "null", refused_nothing())}),
        "zero bytes",
    ),
    "array of empty fixed": (
        variant(extra={"type": "array", "items": refused_nothing()}),
        "zero bytes",
    ),
    "map of null": (variant(extra={"type": "map", "values": "null"}), "zero bytes"),
    "65 fields": (variant(**{f"x{k}": "int" for k in range(55)}), "more than 64 fields"),
    "65 fields in a record": (variant(extra=record("Big", *["int"] * 65)), "more than 64 fields"),
    "nested deeper than 8": (variant(extra=nested("int", 8)), "deeper than 8"),
    "many types by few definitions": (variant(extra=bomb()), "more than 1024 types"),
    "empty union": (variant(extra=[]), "union is empty"),
    "union in a union": (variant(extra=["null", ["int"]]), "union"),
    "two fields of one name": (
        variant(extra=record("Twice", "int") | {"fields": [{"name": "a", "type": "int"}] * 2}),
        "two fields of one name",
    ),
    "fixed of negative size": (
        variant(extra={"type": "fixed", "name": "Less", "size": -1}),
        "no usable size",
    ),
    "required field missing": (variant(currency=None), "currency: the writer lacks this field"),
    "int for string": (variant(currency="int"), "currency: the writer's int"),
    "string for long": (variant(amount_minor="string"), "amount_minor: the writer's string"),
    "double for long": (variant(amount_minor="double"), "amount_minor: the writer's double"),
    "string for enum": (variant(channel="string"), "channel: the writer's string"),
    "another enum": (variant(channel=enum("A") | {"name": "Way"}), "riskwire.Way"),
    "null for required": (variant(currency="null"), "currency: the writer's null"),
    "union of nothing that fits": (variant(currency=["null", "int"]), "currency"),
    "milliseconds": (
        variant(event_time={"type": "long", "logicalType": "timestamp-millis"}),
        "timestamp-millis is not the reader's timestamp-micros",
    ),
    "milliseconds in a union": (
        variant(event_time=["int", {"type": "long", "logicalType": "timestamp-millis"}]),
        "timestamp-millis",
    ),
    "decimal for text": (
        variant(currency={"type": "bytes", "logicalType": "decimal", "precision": 4}),
        "decimal is not the reader's string",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """Schemas that are unsafe or do not resolve raise SchemaError that says why, and at once."""
    text, why = REFUSED[case]
    writers, began = Writers(), time.perf_counter()
    with pytest.raises(SchemaError, match=re.escape(why)) as caught:
        writers.add_id(1, text)
    assert time.perf_counter() - began < 1
    assert isinstance(caught.value, ConfigError)
    assert 1 not in writers.program.ids


@pytest.mark.parametrize("text", [variant(**{f"x{k}": "int" for k in range(54)}), SCHEMA.text])
def test_the_largest_are_taken(text: str) -> None:
    """64 fields pass."""
    Writers().add_id(1, text)


def test_whatever_the_linter_lets_pass_has_a_plan() -> None:
    """The slow path is for readers of another kind: by the bundled one no record can take it."""
    for depth in range(8):
        plan = compile_plan(
            schemas.parse(variant(extra=nested("int", depth))).parsed, SCHEMA.parsed
        )
        assert plan.any()
    with pytest.raises(PlanGap):
        compile_plan(schemas.parse(variant(currency=None)).parsed, SLOW_READER.parsed)


def test_each_instruction_lies_within_its_plan() -> None:
    """Every place that a plan refers to is inside it, and every slot is one there is."""
    parsed = schemas.parse(
        variant(extra=record("All", nested("int", 4), {"type": "map", "values": ["null", "long"]}))
    ).parsed
    plan = compile_plan(parsed, SCHEMA.parsed)
    seen, todo = set(), [int(plan[0])]
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        op, a, b, then = plan[place : place + 4].tolist()
        todo.append(then or avro_plan.END_AT)
        if op == Op.UNION:
            todo += plan[a : a + b].tolist()
        if op in (Op.BLOCK, Op.NEXT):
            todo.append(b)
        if op in (Op.LONG, Op.INT, Op.STRING, Op.BLOCK, Op.NEXT, Op.NULL):
            assert 0 <= a < avro_plan.SLOTS - 1
    assert len(seen) > 20
    assert avro_plan.END_AT in seen


READER = json.loads(SCHEMA.text)


def reader(**changes: dict[str, Any]) -> schemas.Schema:
    """The reader's schema with its fields changed."""
    fields = [each | changes.get(each["name"], {}) for each in READER["fields"]]
    return schemas.parse(json.dumps({**READER, "fields": fields}))


def test_aliases_of_fields_and_records() -> None:
    """What the reader knows under another name is read from a writer that still uses it."""
    renamed = schemas.parse(
        json.dumps(
            {
                **json.loads(reader(terminal_id={"aliases": ["shop", "till"]}).text),
                "aliases": ["Payment", "old.Sale"],
            }
        )
    )
    writers, body = Writers(renamed), pieces()
    old = SCHEMA.text.replace('"terminal_id"', '"till"')
    writers.add_id(1, old.replace('"Transaction"', '"Payment"'))
    writers.add_id(
        2, old.replace('"Transaction"', '"old.Sale"').replace('"Channel"', '"riskwire.Channel"')
    )
    records = batch([confluent(body, 1), confluent(body, 2)])
    for each in (decode, twin):
        assert fields_of(each(records, writers, LIMITS).transactions) == [TRANSACTION] * 2
    twice = json.loads(old)
    twice["fields"].append({"name": "shop", "type": "string"})
    twice["name"] = "Payment"
    with pytest.raises(SchemaError, match="under several names"):
        writers.add_id(3, json.dumps(twice))


def test_a_default_that_is_no_null_is_left_to_the_twin() -> None:
    """Defaults of strings and numbers are rare enough for the slow path, and right there."""
    writers = Writers(reader(currency={"default": "EUR"}, amount_minor={"default": 7}))
    writers.add_id(1, variant(currency=None, amount_minor=None))
    assert writers.program.id_bases.tolist() == [SLOW]
    records = batch([confluent(pieces(currency=b"", amount_minor=b""), 1)])
    expected = {**TRANSACTION, "amount_minor": 7}
    assert fields_of(decode(records, writers, LIMITS).transactions) == [expected]


def test_a_symbol_without_default_is_the_records_fault() -> None:
    """Where the reader's enum has no default, only records with the new symbol are rejected."""
    channel = {k: v for k, v in READER["fields"][6]["type"].items() if k != "default"}
    writers = Writers(reader(channel={"type": channel}))
    writers.add_id(1, variant(channel=enum("ATM", "IMPLANT")))
    records = batch([confluent(pieces(channel=symbol), 1) for symbol in (b"\0", b"\2")])
    for each in (decode, twin):
        result = each(records, writers, LIMITS)
        assert result.transactions.row.tolist() == [0]
        assert [reject.code for reject in result.rejects] == [RejectCode.BAD_BRANCH]


@pytest.mark.parametrize(
    "text",
    [
        reader(amount_minor={"type": ["null", "long"]}).text,
        reader(currency={"type": "bytes"}).text,
        variant(extra="int"),
        variant(country=None),
        '"string"',
    ],
)
def test_a_reader_that_is_not_the_columns(text: str) -> None:
    """A reader's schema with other fields or types than the columns have is refused."""
    with pytest.raises(SchemaError):
        Writers(schemas.parse(text))


def test_top_level_union() -> None:
    """A writer of null or a transaction is read; its null is the record's fault."""
    writers = Writers()
    writers.add_id(1, f'["null", {SCHEMA.text}]')
    records = batch([confluent(b"\2" + pieces(), 1), confluent(b"\0", 1)])
    for each in (decode, twin):
        result = each(records, writers, LIMITS)
        assert fields_of(result.transactions) == [TRANSACTION]
        assert [reject.code for reject in result.rejects] == [RejectCode.BAD_BRANCH]


def test_plans_lie_behind_each_other() -> None:
    """Many writers, added and changed in any order, are each read by their own plan."""
    writers, values = Writers(), []
    for k in range(40):
        kinds = ["string", ["null", "string"], nested("string", k % 5 + 1), enum(*"AB")]
        extra = kinds[k % 4] if k % 4 < 3 else enum("A", "B") | {"name": "Letter"}
        text = encode_bytes(b"x")
        raw = [text, b"\2" + text, b"\2" * (k % 5 + 1) + text + b"\0" * (k % 5 + 1), b"\2"][k % 4]
        writers.add_id(1000 - 7 * k, variant(extra=extra))
        values.append(confluent(pieces() + raw, 1000 - 7 * k))
    result = decode(batch(values), writers, LIMITS)
    assert fields_of(result.transactions) == [TRANSACTION] * 40
    assert (np.diff(writers.program.ids) > 0).all()


def test_marks_are_bounded_and_cleared() -> None:
    """Unknown ids are kept up to a bound, oldest first out; a schema that comes late clears one."""
    writers = Writers(SLOW_READER)
    for schema_id in range(writers_module.UNKNOWN_IDS_MAX + 5):
        writers.mark_unknown(schema_id)
    assert len(writers.program.ids) == writers_module.UNKNOWN_IDS_MAX
    assert writers.program.ids[0] == 5
    with pytest.raises(KeyError):
        writers.find(writers_module.CONFLUENT, 4)
    assert writers.find(writers_module.CONFLUENT, 5) is None
    writers.add_id(5, variant(currency=None))
    writers.add_id(6, SCHEMA.text)
    assert writers.program.id_bases[:3].tolist()[::2] == [SLOW, UNKNOWN]
    writers.mark_unknown(6)
    assert writers.program.id_bases[:3].tolist() == [SLOW, UNKNOWN, UNKNOWN]
    writers.mark_refused(8)
    assert writers.program.id_bases[3] == writers_module.REFUSED
    writers.forget_unknown()
    assert writers.program.id_bases.tolist() == [SLOW, writers_module.REFUSED]
    value = confluent(SLOW_ONE, 5)
    assert len(decode(batch([value]), writers, LIMITS).transactions) == 1
