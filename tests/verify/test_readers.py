"""The checker's own readers, hashes and bounds against the libraries and the worker's."""

import io
import json
from collections.abc import Sequence
from typing import Any

import fastavro
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import schemas
from app import decode
from app.currencies import CODES
from app.labels import decode_labels, label_writers
from features import blob
from tests.app.test_pipeline import value
from tests.verify.worlds import SETTINGS, batch, encoded
from verify import Record, recompute, rules
from verify.avro import Fault, Writers
from verify.laws import schema
from verify.xxh64 import hash_bytes, hash_rows

LIMITS = decode.Limits(16_384, 32, 8192, 300_000_000)
GOOD, KEY = value(3)
LABEL = encoded("fraud_label", {
    "transaction_id": "x", "customer_id": "c", "terminal_id": "t", "event_time": 10**15,
    "known_at": 10**15 + 5, "fraud": True, "source": "ANALYST",
})  # fmt: skip


@pytest.mark.parametrize("name", schemas.NAMES)
def test_fingerprints_are_fastavros(name: str) -> None:
    """CRC-64-AVRO of the parsing canonical form, once more."""
    assert schema(name).fingerprint == schemas.load(name).fingerprint


@given(st.binary(max_size=200))
def test_hashes_are_the_xxhash_packages(data: bytes) -> None:
    """Of bytes of any length, and of the rows of a matrix."""
    assert hash_bytes(data) == xxhash.xxh64_intdigest(data)
    row = np.frombuffer(data.ljust(208, b"\x01")[:104], np.float32)[np.newaxis]
    assert int(hash_rows(row)[0]) == xxhash.xxh64_intdigest(row.tobytes())


def test_copied_facts_are_the_workers() -> None:
    """Currencies and the layout of blobs stand twice; they must stay the same."""
    assert rules.CURRENCIES == CODES
    assert recompute.CUSTOMER_HEAD == blob.CUSTOMER_HEAD
    assert recompute.SHARE_HEAD == blob.SHARE_HEAD


mutations = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3)


@given(mutations, st.integers(-1, 3))
def test_verdicts_on_transactions_are_the_decoders(
    changes: list[tuple[int, int]], more: int
) -> None:
    """Altered, cut and lengthened values: accepted by both, or rejected for the same cause."""
    record = Record(0, KEY, _altered(GOOD, changes, more), (), 1_700_000_000_000)
    found = decode.decode(batch("transactions", 0, [record]), decode.Writers(), LIMITS)
    if not found.unresolved:
        assert _verdict(rules.transaction, record, "transaction") == _code(found.rejects)


@given(mutations, st.integers(-1, 3))
def test_verdicts_on_labels_are_the_decoders(changes: list[tuple[int, int]], more: int) -> None:
    """The same of labels."""
    record = Record(0, b"c", _altered(LABEL, changes, more), (), 1_700_000_000_000)
    found = decode_labels(batch("labels", 0, [record]), label_writers(), LIMITS)
    if not found.unresolved:
        assert _verdict(rules.label, record, "fraud_label") == _code(found.rejects)


def _altered(value: bytes, changes: list[tuple[int, int]], more: int) -> bytes:
    out = bytearray(value)
    for at, byte in changes:
        out[at % len(out)] = byte
    return bytes(out) + bytes(max(more, 0)) if more >= 0 else bytes(out[:-1])


def _verdict(rule: Any, record: Record, name: str) -> str:
    try:
        rule(record, Writers(schema(name), lambda _: None), SETTINGS)
    except Fault as fault:
        return fault.code
    return ""


def _code(rejects: Sequence[Any]) -> str:
    return str(rejects[0].code) if rejects else ""


def test_a_registrys_writer_is_read_by_name() -> None:
    """A field more is passed over, one less takes its default; an id unknown is a fault."""
    fields = [
        {"name": name, "type": "string"}
        for name in ("extra", "transaction_id", "customer_id", "terminal_id", "currency")
    ]
    fields += [{"name": name, "type": "long"} for name in ("event_time", "amount_minor")]
    theirs = {"type": "record", "name": "Transaction", "fields": fields}
    out = io.BytesIO()
    its: dict[str, Any] = {each["name"]: "EUR" for each in fields[:5]}
    its |= {"event_time": 5, "amount_minor": 7}
    fastavro.schemaless_writer(out, fastavro.parse_schema(theirs), its)
    writers = Writers(schema("transaction"), {7: json.dumps(theirs)}.get)
    read = writers.read(b"\x00\x00\x00\x00\x07" + out.getvalue())
    assert read["amount_minor"] == 7
    assert read["channel"] == "UNKNOWN"
    assert "extra" not in read
    with pytest.raises(Fault, match="UNKNOWN_SCHEMA"):
        writers.read(b"\x00\x00\x00\x00\x08" + out.getvalue())
