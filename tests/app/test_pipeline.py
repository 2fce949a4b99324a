"""The pipeline over memory adapters: the laws that hold whatever the batch."""

import asyncio
import io
import itertools
from collections.abc import Sequence
from typing import Any

import fastavro
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import schemas
from app import decode, decode_twin
from app.adapters.memory import LinearExplainer, LinearScorer, MemoryRegistry, MemoryStore
from app.backoff import Backoff
from app.decide import Policy
from app.emit import Route
from app.enrich import Enrich
from app.errors import RejectCode
from app.live import Live, StateError
from app.meta import Meta
from app.pipeline import Parts, Processed, process
from app.records import Header, RecordBatch
from features.blob import meta_key
from features.contract import CONTRACT_ID, LIVE, WIDTH
from tests.app.builders import T0, record_batch
from tests.app.streams import quiet

SCHEMA = schemas.load("transaction")
CUSTOMERS = [b"c%d" % i for i in range(7)]
Value = tuple[bytes | None, bytes | None]
Row = tuple[str, int, bytes | None, dict[str, Any]]
Rejected = tuple[bytes | None, bytes | None, list[Header]]


def parts(**changes: Any) -> Parts:
    """A pipeline in memory that owns two partitions; its clock ticks 10 µs a call."""
    ticks = itertools.count(T0 + 10_000, 10)
    weights = np.linspace(-0.03, 0.03, WIDTH, dtype=np.float32)
    live = Live(LIVE, 2, 4096, 8192)
    store = MemoryStore({meta_key(live.namespace, p): Meta(2).encode() for p in range(2)})
    for partition in range(2):
        live.adopt(partition, Meta(2), (0, 0))
    backoff = Backoff()

    def clock() -> int:
        return next(ticks)

    async def full() -> None:
        raise AssertionError("the state is never full here")

    plain: dict[str, Any] = {
        "decode": decode.decode,
        "writers": decode.Writers(),
        "limits": decode.Limits(16_384, 32, 8192, 300_000_000),
        "registry": MemoryRegistry(),
        "enrich": Enrich(live, store, clock, backoff, full),
        "scorer": LinearScorer(weights, "linear-1", CONTRACT_ID),
        "policy": Policy(0.5, 0.9),
        "explainer": LinearExplainer(weights),
        "route": Route("scores", "alerts", "dead-letters"),
        "clock": clock,
        "backoff": backoff,
    }
    return Parts(**{**plain, **changes})


def value(
    i: int, header: bytes = SCHEMA.single_object_header, **fields: object
) -> tuple[bytes, bytes]:
    """An encoded transaction and its key."""
    record: dict[str, Any] = {
        "transaction_id": f"t{i}",
        "customer_id": CUSTOMERS[i % 7].decode(),
        "terminal_id": f"m{i % 3}",
        "event_time": T0 + i,
        "amount_minor": 100 * i + 1,
        "currency": "EUR",
        **fields,
    }
    out = io.BytesIO()
    fastavro.schemaless_writer(out, SCHEMA.parsed, record)
    customer: str = record["customer_id"]
    return header + out.getvalue(), customer.encode()


def batch(values: Sequence[Value], partitions: int = 2, first: int = 0) -> RecordBatch:
    """A batch of (value, key) pairs over some partitions; offsets count from `first`."""
    at = itertools.count(first)
    rows = [(i % partitions, next(at), key, raw) for i, (raw, key) in enumerate(values)]
    return record_batch(rows)


def run(records: RecordBatch, with_: Parts) -> Processed:
    """Process a batch by itself."""
    return asyncio.run(process(records, with_))


def timeless(processed: Processed) -> tuple[list[Row], list[Rejected]]:
    """Scores without their latency record, alerts likewise, and the dead letters."""
    out: list[Row] = []
    names = ("risk_score", "risk_alert")
    for columns, name in zip(processed.outbound.columns, names, strict=False):
        for i in range(len(columns)):
            raw = columns.values[i]
            assert raw is not None
            stream = io.BytesIO(raw[10:])
            record: Any = fastavro.schemaless_reader(stream, schemas.load(name).parsed)
            record.pop("latency")
            out.append((columns.topic, int(columns.partition[i]), columns.keys[i], record))
    letters = [
        (letter.value, letter.key, [h for h in letter.headers if "first_seen" not in h.name])
        for letter in processed.outbound.letters
    ]
    return out, letters


broken = st.sampled_from(
    [(b"", b"c0"), (None, b"c0"), (b"\x00\x00", b"c0"), (b"junk", None), (value(3)[0], b"other")]
)
good = st.integers(0, 400).map(value)


@given(st.lists(good | broken, min_size=1, max_size=40))
def test_every_record_is_counted_out(values: list[Value]) -> None:
    """Scores and dead letters together are the records, each source offset once."""
    processed = run(batch(values), parts())
    scored, letters = len(processed.transactions), len(processed.outbound.letters)
    assert scored + letters == len(values)
    assert processed.rejects.total() == letters
    offsets = set(processed.transactions.offset.tolist())
    for letter in processed.outbound.letters:
        at = dict(letter.headers)["riskwire.error.source.offset"]
        assert at is not None
        offsets.add(int(at))
    assert offsets == set(range(len(values)))


@given(st.lists(good | broken, min_size=2, max_size=30), st.data())
def test_a_batch_cut_in_two_gives_the_same_outputs(
    values: list[Value], data: st.DataObject
) -> None:
    """Where a micro-batch ends changes nothing that goes out, apart from times."""
    whole = timeless(run(batch(values), parts()))
    records, cut = batch(values), data.draw(st.integers(1, len(values) - 1))
    with_ = parts()
    halves = [
        timeless(run(records.take(np.arange(*ends)), with_))
        for ends in ((0, cut), (cut, len(values)))
    ]
    assert sorted(map(repr, whole[0])) == sorted(map(repr, halves[0][0] + halves[1][0]))
    assert whole[1] == halves[0][1] + halves[1][1]


@given(st.lists(good, min_size=1, max_size=10), broken, st.integers(0, 10))
def test_a_broken_neighbour_changes_no_score(values: list[Value], bad: Value, at: int) -> None:
    """Scores with a broken record in between are those without it, bit for bit."""
    alone, _ = timeless(run(batch(values, 1), parts()))
    mixed = [*values[:at], bad, *values[at:]]
    beside, _ = timeless(run(batch(mixed, 1), parts()))

    def essence(rows: list[Row]) -> list[tuple[bytes | None, float, bytes]]:
        return [(k, r["score"], r["vector_hash"]) for topic, _, k, r in rows if topic == "scores"]

    assert essence(alone) == essence(beside)


@given(st.lists(good | broken, min_size=1, max_size=20))
def test_both_decoders_give_the_same_outputs(values: list[Value]) -> None:
    """The compiled decoder and the fastavro twin: equal apart from times."""
    one = timeless(run(batch(values), parts()))
    two = timeless(run(batch(values), parts(decode=decode_twin.decode)))
    assert one == two


def test_the_second_batch_needs_no_store() -> None:
    """Entities of the first batch are in memory, unknown ones included."""
    with_ = parts()
    store = with_.enrich.store
    assert isinstance(store, MemoryStore)
    values = [value(i) for i in range(20)]
    run(batch(values, 1), with_)
    assert len(store.fetches) == 1
    shares = 3 * 2
    metas = 2
    assert len(store.fetches[0]) == len(set(store.fetches[0])) == 7 + shares + metas
    run(batch(values, 1, 20), with_)
    assert len(store.fetches) == 1


def test_records_answered_before_make_state_and_no_output() -> None:
    """A new owner reads from where the stored state ends; what lies below the commit is silent."""
    values = [value(i) for i in range(20)]
    whole, _ = timeless(run(batch([*values, (b"junk", b"c")], 1), parts()))
    with_ = parts()
    with_.enrich.live.adopt(0, Meta(2), (12, 0))
    processed = run(batch([*values, (b"junk", b"c")], 1), with_)
    scores = [row for row in whole if row[0] == "scores"]
    assert [row for row in timeless(processed)[0] if row[0] == "scores"] == scores[12:]
    assert len(processed.outbound.letters) == 1
    assert processed.outbound.next_offset == {0: 21}


def test_the_same_offset_twice_is_refused() -> None:
    """State may never count a record twice: the worker stops instead."""
    with_ = parts()
    run(batch([value(1)], 1), with_)
    with pytest.raises(StateError, match="already"):
        run(batch([value(1)], 1), with_)


def test_a_carried_vector_is_the_one_that_was_hashed_and_alerted() -> None:
    """The hash of a score is that of the vector in it, which its alert has too."""
    route = Route("scores", "alerts", "dead-letters", score_features=True)
    with_ = parts(route=route, policy=Policy(1e-9, 0.9))  # so that every score has an alert
    rows, _ = timeless(run(batch([value(i) for i in range(40)]), with_))
    scores, alerts = ([row[3] for row in rows if row[0] == topic] for topic in ("scores", "alerts"))
    assert len(scores) == len(alerts) == 40
    for score, alert in zip(scores, alerts, strict=True):
        vector = np.array(score["features"], "<f4")
        assert vector.shape == (WIDTH,)
        assert xxhash.xxh64_digest(vector.tobytes()) == score["vector_hash"]
        assert score["features"] == alert["features"]


def test_scores_are_provisional_until_every_log_is_read() -> None:
    """No outcome was ever read: each score says so; once the logs are declared complete, none."""
    with_ = parts()
    assert run(batch([value(1)], 1), with_).provisional == 1
    for log, partition in itertools.product((0, 1), (0, 1)):
        quiet(with_.enrich.live, log, partition, T0)
    rows, _ = timeless(run(batch([value(2)], 1, 1), with_))
    assert [row[3]["provisional"] for row in rows] == [False]


async def test_a_store_that_is_away_is_waited_for() -> None:
    """The batch is late, not lost; what is away is named for readiness; then it is scored."""
    with_ = parts()
    store = with_.enrich.store
    assert isinstance(store, MemoryStore)
    store.away = True
    task = asyncio.create_task(process(batch([value(1)]), with_))
    await asyncio.sleep(0.1)
    assert not task.done()
    assert list(with_.backoff.away) == ["Redis"]
    store.away = False
    assert len((await asyncio.wait_for(task, 5)).transactions) == 1
    assert with_.backoff.away == {}


def _confluent(schema_id: int) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big")


def test_a_registry_id_is_resolved_once() -> None:
    """Records of an unseen id are decoded after the registry gave their schema."""
    registry = MemoryRegistry({7: SCHEMA.text})
    with_ = parts(registry=registry)
    processed = run(batch([value(1, _confluent(7)), value(2), value(3, _confluent(7))]), with_)
    assert len(processed.transactions) == 3
    registry.away = True
    assert len(run(batch([value(4, _confluent(7))], 2, 3), with_).transactions) == 1


@pytest.mark.parametrize(
    "text", [None, '"string"', "no schema", '{"type": "array", "items": "null"}']
)
def test_an_id_without_a_usable_schema_is_rejected(text: str | None) -> None:
    """An id that the registry does not know is UNKNOWN_SCHEMA, an unusable one REFUSED_SCHEMA."""
    registry = MemoryRegistry({} if text is None else {9: text})
    processed = run(batch([value(1, _confluent(9)), value(2)]), parts(registry=registry))
    assert len(processed.transactions) == 1
    code = RejectCode.UNKNOWN_SCHEMA if text is None else RejectCode.REFUSED_SCHEMA
    assert processed.rejects == {code: 1}


async def test_a_registry_that_is_away_is_waited_for() -> None:
    """Down is not unknown: the batch waits and nothing becomes a dead letter."""
    registry = MemoryRegistry({7: SCHEMA.text})
    registry.away = True
    task = asyncio.create_task(process(batch([value(1, _confluent(7))]), parts(registry=registry)))
    await asyncio.sleep(0.1)
    assert not task.done()
    registry.away = False
    assert len((await asyncio.wait_for(task, 5)).transactions) == 1
