"""Stage 5: what goes out, byte for byte."""

import dataclasses
import io
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from app import encode
from app.adapters.scores import parse
from app.decide import DECISIONS, Reasons
from app.emit import Provenance, Route, Scored, emit
from app.errors import RejectCode
from app.latency import PARTS, Instants, total_us, wait_us
from app.records import STRING_FIELDS, Float32s, Outbound, RecordBatch, Reject, Transactions
from features.contract import FEATURES
from tests.app.builders import T0, record_batch, transactions
from verify.outputs import ALERTS

ROUTE = Route("scores", "alerts", "dead-letters")
CARRYING = dataclasses.replace(ROUTE, score_features=True)
SOURCE = Provenance("mlp-1-abc", "contract-1", "CPUExecutionProvider")
INSTANTS = Instants(T0 + 5000, T0 + 5100, T0 + 5230, T0 + 5400, T0 + 5444)

TIMESTAMP_TYPES = ("NOT_AVAILABLE", "CREATE_TIME", "LOG_APPEND_TIME")
CHANNELS = ("UNKNOWN", "CHIP", "CONTACTLESS", "MAGSTRIPE", "ECOMMERCE", "ATM", "TRANSFER")


def _scored(columns: Transactions, decisions: Sequence[int], scores: Sequence[float]) -> Scored:
    n = len(columns)
    alerted = np.flatnonzero(decisions)
    return Scored(
        columns,
        np.arange(3 * n, dtype=np.float32).reshape(n, 3),
        np.array(scores, np.float32),
        np.array(decisions, np.int8),
        np.arange(n, dtype=np.uint64) * np.uint64(0x0123456789ABCDEF),
        np.arange(n) % 2 == 1,
        np.array([0, 0.5, 0.9], np.float32),
        alerted,
        _reasons(len(alerted)),
        INSTANTS,
        np.zeros(n, np.bool_),
    )


def _reasons(k: int) -> Reasons:
    """None for the first alert, one for the second, up to three."""
    feature = np.arange(3 * k, dtype=np.int32).reshape(k, 3) % len(FEATURES)
    values, gains = feature.astype(np.float32) + 0.5, feature / 8
    return Reasons(feature, values, gains, (np.arange(k) % 4).astype(np.int8))


def _emit(
    rows: Sequence[Mapping[str, object]],
    decisions: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
    rejects: Sequence[Reject] = (),
    records: RecordBatch | None = None,
    vectors: Float32s | None = None,
    shed: int = 0,
) -> Outbound:
    """Where there are `vectors`, scores carry them."""
    columns = transactions(rows)
    n = len(rows)
    decisions = [0] * n if decisions is None else decisions
    scored = _scored(columns, decisions, [0.125] * n if scores is None else scores)
    scored = dataclasses.replace(scored, degraded=np.arange(n) % 3 == 1, shed=shed)
    if vectors is not None:
        scored = dataclasses.replace(scored, matrix=vectors)
    keys = [(0, i, b"c1", b"v") for i in range(max(n, 1))]
    route = ROUTE if vectors is None else CARRYING
    return emit(records or record_batch(keys), scored, rejects, SOURCE, route)


def _read(name: str, value: bytes | None) -> dict[str, Any]:
    schema = schemas.load(name)
    assert value is not None
    assert value[:10] == schema.single_object_header
    stream = io.BytesIO(value[10:])
    record: Any = fastavro.schemaless_reader(stream, schema.parsed)
    assert stream.read() == b""
    fields: dict[str, Any] = record
    return fields


def _micros(record: dict[str, Any], name: str) -> int:
    seconds: float = record["latency"][name].timestamp()
    return round(seconds * 1e6)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "transaction_id": st.text(min_size=1, max_size=16),
                "customer_id": st.text(min_size=1, max_size=16),
                "partition": st.integers(0, 2**31 - 1),
                "offset": st.integers(0, 2**63 - 1),
                "event_time_us": st.integers(-(2**40), 2**52),
                "append_time_us": st.integers(0, 2**52),
                "append_time_type": st.integers(0, 2),
            }
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 2),
    st.floats(0, 1, width=32),
    st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=70),
    st.integers(0, 2),
)
def test_scores_are_byte_equal_to_fastavro(
    rows: list[dict[str, Any]], decision: int, score: float, vector: list[float] | None, shed: int
) -> None:
    """The compiled encoder and fastavro write the same bytes for any values."""
    columns = transactions(rows)
    n = len(rows)
    vectors = None
    if vector is not None:
        vectors = np.array([np.roll(vector, i) for i in range(n)], np.float32)
    out = _emit(rows, [decision] * n, [score] * n, vectors=vectors, shed=shed).columns[0]
    for i, row in enumerate(rows):
        expected = io.BytesIO()
        latency = _latency_of(row)
        record = {
            "transaction_id": row["transaction_id"],
            "customer_id": row["customer_id"],
            "source_partition": row["partition"],
            "source_offset": row["offset"],
            "score": score,
            "decision": DECISIONS[decision],
            **SOURCE.fields(provisional=i % 2 == 1, degraded=i % 3 == 1),
            "vector_hash": (i * 0x0123456789ABCDEF).to_bytes(8, "big"),
            "latency": latency,
            "features": None if vectors is None else vectors[i].tolist(),
            "shed": shed,
        }
        schema = schemas.load("risk_score")
        fastavro.schemaless_writer(expected, schema.parsed, record)
        assert schema.single_object_header + expected.getvalue() == out.values[i]
        assert columns.strings("customer_id")[i] == out.keys[i]


def test_scores_carry_features_only_where_asked() -> None:
    """Null takes a byte; a vector four a feature, its count and its end; the rest is the same."""
    rows = [{"transaction_id": f"t{i}"} for i in range(3)]
    vectors = np.arange(210, dtype=np.float32).reshape(3, 70)  # 70: a count of two bytes
    without, with_ = (_emit(rows, vectors=v).columns[0].values for v in (None, vectors))
    for i in range(3):
        a, b = (_read("risk_score", values[i]) for values in (without, with_))
        assert a.pop("features") is None
        assert b.pop("features") == vectors[i].tolist()
        assert a == b
    assert (with_.length - without.length).tolist() == [2 + 4 * 70 + 1] * 3


@pytest.mark.parametrize("vectors", [None, np.ones((3, 26), np.float32)], ids=["null", "carried"])
def test_the_fast_reader_takes_scores_apart(vectors: Float32s | None) -> None:
    """What a replay compares is read from the bytes alike, with a vector behind it or none."""
    rows = [{"transaction_id": str(100 + i), "partition": 3, "offset": 7 + i} for i in range(3)]
    out = _emit(rows, [0, 1, 2], [0.25, 0.5, 1], vectors=vectors, shed=2)
    found = parse(out.columns[0].values)
    assert found.transaction.tolist() == [100, 101, 102]
    assert (found.partition.tolist(), found.offset.tolist()) == ([3, 3, 3], [7, 8, 9])
    assert (found.score.tolist(), found.decision.tolist()) == ([0.25, 0.5, 1], [0, 1, 2])
    assert found.provisional.tolist() == [False, True, False]
    assert (found.degraded.tolist(), found.shed.tolist()) == ([False, True, False], [2] * 3)
    assert found.vector_hash.tolist() == [i * 0x0123456789ABCDEF for i in range(3)]


def test_the_encoder_is_compiled_once() -> None:
    """With a vector, without, with no rows: one specialisation, compiled at start."""
    for n in (0, 1):
        for vectors in (None, np.zeros((n, 3), np.float32)):
            _emit([{}] * n, vectors=vectors)
            _emit([{}] * n, [1] * n, vectors=vectors)
    assert len(encode._encode.signatures) == 1
    assert len(encode._encode_alerts.signatures) == 1


def test_the_parts_of_the_latency_record_add_up() -> None:
    """Event time to emitted is exactly the sum of the parts, negative parts included."""
    early = T0 + 9000  # the event's clock is ahead of ours
    rows = [{"event_time_us": T0}, {"event_time_us": early}]
    columns = transactions(rows)
    shared = sum(INSTANTS.stage_us().values())
    assert list(INSTANTS.stage_us()) == list(PARTS[1:])
    total = total_us(columns, INSTANTS)
    assert (wait_us(columns, INSTANTS) + shared == total).all()
    assert total[1] < 0


_TOKENS = st.text(min_size=1, max_size=16)
_CODES = st.none() | st.text(max_size=16)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                **dict.fromkeys(STRING_FIELDS[:4], _TOKENS),
                **dict.fromkeys(STRING_FIELDS[4:], _CODES),
                "partition": st.integers(0, 2**31 - 1),
                "offset": st.integers(0, 2**63 - 1),
                "event_time_us": st.integers(-(2**40), 2**52),
                "append_time_us": st.integers(0, 2**52),
                "append_time_type": st.integers(0, 2),
                "amount_minor": st.integers(0, 2**63 - 1),
                "channel": st.integers(0, 6),
            }
        ),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.floats(width=32, allow_nan=False), max_size=70),
    st.integers(0, 2),
)
def test_alerts_are_byte_equal_to_fastavro(
    rows: list[dict[str, Any]], vector: list[float], shed: int
) -> None:
    """The compiled encoder and fastavro write the same bytes for any values."""
    n = len(rows)
    decisions = [i % 3 for i in range(n)]
    vectors = np.array([np.roll(vector, i) for i in range(n)], np.float32)
    out = _emit(rows, decisions, [i / 8 for i in range(n)], vectors=vectors, shed=shed).columns
    alerted = [i for i in range(n) if decisions[i]]
    assert len(out) == 1 + bool(alerted)
    schema = schemas.load("risk_alert")
    why = _reasons(len(alerted))
    for k, i in enumerate(alerted):
        row = rows[i]
        strings = {name: row[name] for name in STRING_FIELDS}
        record = {
            "alert_id": _alert_id(row["partition"], row["offset"]),
            "transaction": {
                **strings,
                "event_time": row["event_time_us"],
                "amount_minor": row["amount_minor"],
                "channel": CHANNELS[row["channel"]],
            },
            "score": i / 8,
            "threshold": [0, 0.5, np.float32(0.9)][decisions[i]],
            "decision": DECISIONS[decisions[i]],
            "reasons": [dataclasses.asdict(reason) for reason in why[k]],
            "features": vectors[i].tolist(),
            **SOURCE.fields(provisional=i % 2 == 1, degraded=i % 3 == 1),
            "vector_hash": (i * 0x0123456789ABCDEF).to_bytes(8, "big"),
            "source_topic": "transactions",
            "source_partition": row["partition"],
            "source_offset": row["offset"],
            "latency": _latency_of(row),
            "shed": shed,
        }
        expected = io.BytesIO()
        fastavro.schemaless_writer(expected, schema.parsed, record)
        assert schema.single_object_header + expected.getvalue() == out[1].values[k]


def _latency_of(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "event_time": row["event_time_us"],
        "append_time": row["append_time_us"],
        "append_time_type": TIMESTAMP_TYPES[row["append_time_type"]],
        "polled": INSTANTS.polled_us,
        "decoded": INSTANTS.decoded_us,
        "enriched": INSTANTS.enriched_us,
        "scored": INSTANTS.scored_us,
        "emitted": INSTANTS.emitted_us,
    }


def _alert_id(partition: int, offset: int) -> str:
    return str(uuid.uuid5(ALERTS, f"transactions/{partition}/{offset}"))


def test_an_alert_is_sent_for_review_and_decline_only() -> None:
    """APPROVE gives a score; REVIEW and DECLINE give an alert too, with everything in it."""
    rows = [{"transaction_id": f"t{i}", "partition": 3, "offset": 40 + i} for i in range(3)]
    out = _emit(rows, [0, 1, 2], [0.1, 0.5, 0.95])
    scores, alerts = out.columns
    assert len(scores) == 3
    first, second = (_read("risk_alert", alerts.values[i]) for i in range(2))
    assert [first["decision"], second["decision"]] == ["REVIEW", "DECLINE"]
    assert first["threshold"] == 0.5
    assert first["alert_id"] == _alert_id(3, 41)
    assert first["transaction"]["transaction_id"] == "t1"
    assert first["features"] == [3.0, 4.0, 5.0]
    assert (first["reasons"], second["reasons"][0]["code"]) == ([], FEATURES[3].reason)
    assert (first["source_topic"], first["source_partition"], first["source_offset"]) == (
        "transactions",
        3,
        41,
    )
    score = _read("risk_score", scores.values[1])
    for name in ("score", "model_id", "provider", "vector_hash", "latency"):
        assert score[name] == first[name]
    assert alerts.partition.tolist() == [3, 3]


def test_a_record_scored_twice_gives_the_same_bytes_apart_from_its_times() -> None:
    """Everything but the latency record repeats, the alert's id included."""
    rows = [{"transaction_id": "t9"}]
    one, two = (_emit(rows, [2], [0.99]) for _ in range(2))
    for a, b in zip(one.columns, two.columns, strict=True):
        assert a.values[0] == b.values[0]


def test_a_dead_letter_carries_the_record_as_received() -> None:
    """Key, value and headers as they came, the cause in headers, no payload text in it."""
    value = b"\x00secret-payload"
    records = record_batch(
        [(5, 77, b"\xff\xfe", value)], headers=[[("trace", b"1"), ("trace", None)]]
    )
    out = _emit([], rejects=[Reject(0, RejectCode.BAD_UTF8, "decode")], records=records)
    (letter,) = out.letters
    assert (letter.topic, letter.partition) == ("dead-letters", 5)
    assert (letter.key, letter.value) == (b"\xff\xfe", value)
    assert letter.headers[:2] == (("trace", b"1"), ("trace", None))
    causes = dict(letter.headers[2:])
    assert causes["riskwire.error.code"] == b"BAD_UTF8"
    assert causes["riskwire.error.stage"] == b"decode"
    assert causes["riskwire.error.source.topic"] == b"transactions"
    assert causes["riskwire.error.source.partition"] == b"5"
    assert causes["riskwire.error.source.offset"] == b"77"
    assert causes["riskwire.envelope"] == b"plain"
    first_seen = causes["riskwire.error.first_seen"]
    assert first_seen is not None
    assert int(first_seen) == records.polled_us
    assert not any(b"secret" in (v or b"") for _, v in letter.headers)


def test_a_dead_letter_rejected_again_keeps_its_first_time() -> None:
    """Our own headers are replaced, not repeated; the first rejection's time stays."""
    headers = [("riskwire.error.first_seen", b"12"), ("riskwire.error.code", b"BAD_KEY")]
    records = record_batch([(0, 1, None, b"")], headers=[headers])
    out = _emit([], rejects=[Reject(0, RejectCode.EMPTY_VALUE, "decode")], records=records)
    names = [name for name, _ in out.letters[0].headers]
    assert len(names) == len(set(names))
    assert dict(out.letters[0].headers)["riskwire.error.first_seen"] == b"12"
    assert dict(out.letters[0].headers)["riskwire.error.code"] == b"EMPTY_VALUE"


def test_a_letter_beyond_the_limit_leaves_its_bytes_at_the_source() -> None:
    """What no broker would take is counted out all the same, with its source and its size."""
    records = record_batch([(2, 9, b"k", b"x" * 5000)], headers=[[("trace", b"1")]])
    route = Route("scores", "alerts", "dead-letters", letter_bytes_max=4000)
    reject = Reject(0, RejectCode.VALUE_TOO_LARGE, "decode")
    (letter,) = emit(records, _scored(transactions([]), [], []), [reject], SOURCE, route).letters
    assert (letter.key, letter.value) == (None, None)
    causes = dict(letter.headers)
    assert causes["riskwire.error.source.offset"] == b"9"
    assert b" bytes" in (causes["riskwire.error.omitted"] or b"")


@pytest.mark.parametrize("code", list(RejectCode))
def test_every_cause_has_a_message(code: RejectCode) -> None:
    """The closed list of causes is explained, code by code."""
    records = record_batch([(0, 0, None, b"x")])
    out = _emit([], rejects=[Reject(0, code, "decode")], records=records)
    message = dict(out.letters[0].headers)["riskwire.error.message"]
    assert message is not None
    assert len(message) > 20


def test_latency_times_are_microseconds() -> None:
    """An instant survives the round trip through Avro to the microsecond."""
    out = _emit([{}])
    score = _read("risk_score", out.columns[0].values[0])
    assert _micros(score, "emitted") == INSTANTS.emitted_us


@pytest.mark.parametrize("name", ["risk_score", "risk_alert"])
def test_shed_may_be_missing_on_either_side(name: str) -> None:
    """The last field, with a default: who writes or reads without it still understands."""
    new = schemas.load(name)
    fields = json.loads(new.text)
    assert fields["fields"].pop()["name"] == "shed"
    old = schemas.parse(json.dumps(fields))
    columns = _emit([{}], [1], [0.75], shed=2).columns[["risk_score", "risk_alert"].index(name)]
    value = (columns.values[0] or b"")[10:]
    read: Any = fastavro.schemaless_reader(io.BytesIO(value), new.parsed, old.parsed)
    assert "shed" not in read
    assert read["degraded"] is False
    out = io.BytesIO()
    fastavro.schemaless_writer(out, old.parsed, read)
    again: Any = fastavro.schemaless_reader(io.BytesIO(out.getvalue()), old.parsed, new.parsed)
    assert again["shed"] == 0
