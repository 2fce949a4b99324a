"""Simulated traffic: good records score, each broken one comes back with its code, on time."""

import io
import time
from collections import Counter
from dataclasses import replace

import fastavro
import numpy as np
import pytest

import schemas
from app import decode, decode_twin
from app.adapters.follow import Follower
from app.adapters.mock_cluster import PRODUCE_REQUEST, MockCluster
from app.adapters.traffic import Sent, send
from app.config import load_settings
from app.demo import traffic
from app.demo.traffic import (
    BLOCK_RECORDS,
    BROKEN,
    HISTORY_DAYS,
    Due,
    divided,
    encoded,
    number_of,
    payments,
    with_broken,
)
from app.errors import BrokerUnavailable, RejectCode
from app.partitioner import partition_of
from app.pipeline import Decode
from app.records import RecordBatch
from app.writers import Writers
from models.handbook import DAY_US, Payments, World, simulate
from tests.app.builders import record_batch
from tests.app.test_follow import drained
from tests.strategies import LIMITS

TOPIC_AUTHORIZATION_FAILED = 29
HEADER = schemas.load("transaction").single_object_header
START_US = 1_690_000_000_000_000
WORLD = World(3, customers=60, terminals=400)
PAST, COMING = divided(WORLD, 500, START_US)
COLUMNS = ("customer", "terminal", "amount_minor", "fraud", "scenario")


def batch(records: list[Due]) -> RecordBatch:
    """Return the records as they come from Kafka."""
    return record_batch([(0, i, r.key, r.value) for i, r in enumerate(records)])


def same(a: Payments, b: Payments) -> bool:
    """Whether these payments are the same but for their times."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS)


def test_the_past_ends_now_and_what_comes_follows_it() -> None:
    """The cut is a midnight of the world, moved to now, and no payment is left out there."""
    assert START_US - DAY_US < PAST.event_time_us[-1] < START_US <= COMING.event_time_us[0]
    assert PAST.event_time_us[0] >= START_US - HISTORY_DAYS * DAY_US
    assert len(COMING) == 500
    whole, _ = simulate(replace(WORLD, days=100))
    assert same(whole.take(slice(len(PAST))), PAST)
    assert same(whole.take(slice(len(PAST), len(PAST) + 500)), COMING)
    assert COMING.fraud.sum() > 0


def test_the_past_does_not_depend_on_how_much_follows() -> None:
    """One program fills the store, another sends: with the same seed they share one world."""
    past, coming = divided(replace(WORLD, days=7), 2_000, 0)
    assert same(past, PAST)
    assert same(coming.take(slice(500)), COMING)


def test_a_quiet_world_is_simulated_for_longer() -> None:
    """What was asked for is there, even where customers pay less often than most."""
    world = World(3, customers=8, terminals=400)
    _, coming = divided(world, 400, 0)
    assert len(coming) == 400
    assert coming.event_time_us[-1] > 400 / (traffic.PAYMENTS_A_DAY * 8) * DAY_US


def test_the_payments_come_again_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be longer than what is simulated; ids and times go on."""
    monkeypatch.setattr(traffic, "ROUND_RECORDS", 100)
    monkeypatch.setattr(traffic, "BLOCK_RECORDS", 64)
    _, coming = divided(WORLD, 250, 0)
    assert len(coming) == 100
    records = list(payments(coming, START_US, 250, 1000.0, HEADER))
    decoded = decode.decode(batch(records), Writers(), LIMITS).transactions
    ids = [decoded.strings("transaction_id").text(i) or "" for i in range(250)]
    assert [number_of(i) for i in ids] == list(range(250))
    assert len(set(ids)) == 250
    assert np.array_equal(decoded.amount_minor[:100], decoded.amount_minor[100:200])
    assert np.array_equal(decoded.amount_minor[:50], decoded.amount_minor[200:])


def test_the_encoding_is_fastavros() -> None:
    """The hand-made encoding is byte for byte fastavro's, and the key is the customer."""
    schema = schemas.load("transaction")
    for i, (key, value) in enumerate(encoded(COMING, "tx", 7, HEADER)):
        record = {
            "transaction_id": f"tx{7 + i}",
            "customer_id": str(COMING.customer[i]),
            "terminal_id": str(COMING.terminal[i]),
            "event_time": int(COMING.event_time_us[i]),
            "amount_minor": int(COMING.amount_minor[i]),
            "currency": "EUR",
            "channel": "CHIP",
        }
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema.parsed, record)
        assert value == HEADER + out.getvalue()
        assert key.decode() == record["customer_id"]


@pytest.mark.parametrize("decoder", [decode.decode, decode_twin.decode])
def test_payments_decode(decoder: Decode) -> None:
    """Every simulated payment is accepted, its event time being the instant at which it is due."""
    records = list(payments(COMING, START_US, 300, 1000.0, HEADER))
    decoded = decoder(batch(records), Writers(), LIMITS)
    assert decoded.rejects == []
    assert decoded.transactions.event_time_us.tolist() == [r.due_us for r in records]
    assert np.array_equal(decoded.transactions.amount_minor, COMING.amount_minor[:300])
    assert [int(r.key or b"") for r in records] == COMING.customer[:300].tolist()


@pytest.mark.parametrize("decoder", [decode.decode, decode_twin.decode])
def test_broken_records_come_back_with_their_code(decoder: Decode) -> None:
    """Each way to break a record gives the reject code that it names."""
    [good] = payments(COMING, START_US, 1, 1000.0, HEADER)
    records = [broken.breaks(good, HEADER) for broken in BROKEN]
    decoded = decoder(batch(records), Writers(), LIMITS)
    assert [r.code for r in decoded.rejects] == [broken.code for broken in BROKEN]


def test_due_times_are_evenly_spaced() -> None:
    """The load is open loop: one record each interval, whatever happens, over block borders too."""
    count = BLOCK_RECORDS + 3
    due = np.array([r.due_us for r in payments(COMING, START_US, count, 10_000.0, HEADER)])
    assert due[0] == START_US
    assert set(np.diff(due)) == {100}


@pytest.mark.parametrize(("count", "broken"), [(100, 9), (5, 20), (10, 0)])
def test_broken_ones_are_spread(count: int, broken: int) -> None:
    """All that was asked for is there, good ones in order, all kinds in turn."""
    good = list(payments(COMING, START_US, count, 1000.0, HEADER))
    mixed = list(with_broken(iter(good), count, broken, HEADER))
    assert len(mixed) == count + broken
    assert [r for r in mixed if r in good] == good
    codes = Counter(r.code for r in decode.decode(batch(mixed), Writers(), LIMITS).rejects)
    assert codes.total() == broken
    assert max(codes.values(), default=0) - min(codes.values(), default=0) <= 1


def test_send_delivers_to_javas_partition_on_time() -> None:
    """Every record arrives once, on the partition of Java's murmur2, not before it is due."""
    cluster = MockCluster({"transactions": 4})
    settings = load_settings(bootstrap_servers=cluster.bootstrap)
    start_us = time.time_ns() // 1000 + 200_000
    records = list(payments(COMING, start_us, 200, 1000.0, HEADER))
    calls: list[Sent] = []
    sent = send(settings, records, calls.append)
    assert time.time_ns() // 1000 >= records[-1].due_us
    assert sent.records == 200
    assert sent.refused == 0
    assert 0 <= sent.late_us_max < 5_000_000
    assert calls
    with Follower(settings, ["transactions"], from_beginning=True) as follower:
        seen = drained(follower, 200)
    assert Counter(r.value for r in seen) == Counter(r.value for r in records)
    assert all(r.partition == partition_of(r.key or b"", 4) for r in seen)
    cluster.stop()


def test_refused_records_are_an_error() -> None:
    """Records that Kafka refuses for good are BrokerUnavailable, with their number."""
    cluster = MockCluster({"transactions": 1})
    settings = load_settings(bootstrap_servers=cluster.bootstrap)
    cluster.refuse(PRODUCE_REQUEST, *[TOPIC_AUTHORIZATION_FAILED] * 10)
    records = list(payments(COMING, time.time_ns() // 1000, 3, 1000.0, HEADER))
    with pytest.raises(BrokerUnavailable, match="3 of 3 records were not delivered"):
        send(settings, records)
    cluster.stop()


def test_every_kind_of_broken_record_has_another_code() -> None:
    """The demo shows as many causes as there are kinds."""
    assert len({broken.code for broken in BROKEN}) == len(BROKEN)
    assert RejectCode.NULL_VALUE not in {broken.code for broken in BROKEN}
