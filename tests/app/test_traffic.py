"""Simulated traffic: good records score, each broken one comes back with its code, on time."""

import time
from collections import Counter

import numpy as np
import pytest

import schemas
from app import decode, decode_twin
from app.adapters.follow import Follower
from app.adapters.mock_cluster import PRODUCE_REQUEST, MockCluster
from app.adapters.traffic import Sent, send
from app.avro_plan import Writers
from app.config import load_settings
from app.demo.traffic import BLOCK_RECORDS, BROKEN, Due, payments, with_broken
from app.errors import BrokerUnavailable, RejectCode
from app.partitioner import partition_of
from app.pipeline import Decode
from app.records import RecordBatch
from models.simulate import Population
from tests.app.builders import record_batch
from tests.app.test_follow import drained
from tests.strategies import LIMITS

TOPIC_AUTHORIZATION_FAILED = 29
HEADER = schemas.load("transaction").single_object_header
PEOPLE = Population(3, customers=50, terminals=200)
START_US = 1_690_000_000_000_000


def batch(records: list[Due]) -> RecordBatch:
    """Return the records as they come from Kafka."""
    return record_batch([(0, i, r.key, r.value) for i, r in enumerate(records)])


@pytest.mark.parametrize("decoder", [decode.decode, decode_twin.decode])
def test_payments_decode(decoder: Decode) -> None:
    """Every simulated payment is accepted, its event time being the instant at which it is due."""
    records = list(payments(PEOPLE, START_US, 300, 1000.0, HEADER))
    decoded = decoder(batch(records), Writers(), LIMITS)
    assert decoded.rejects == []
    assert decoded.transactions.event_time_us.tolist() == [r.due_us for r in records]
    assert {r.key for r in records} <= set(PEOPLE.customer_tokens)


@pytest.mark.parametrize("decoder", [decode.decode, decode_twin.decode])
def test_broken_records_come_back_with_their_code(decoder: Decode) -> None:
    """Each way to break a record gives the reject code that it names."""
    [good] = payments(PEOPLE, START_US, 1, 1000.0, HEADER)
    records = [broken.breaks(good, HEADER) for broken in BROKEN]
    decoded = decoder(batch(records), Writers(), LIMITS)
    assert [r.code for r in decoded.rejects] == [broken.code for broken in BROKEN]


def test_due_times_are_evenly_spaced() -> None:
    """The load is open loop: one record each interval, whatever happens, over block borders too."""
    count = BLOCK_RECORDS + 3
    due = np.array([r.due_us for r in payments(PEOPLE, START_US, count, 10_000.0, HEADER)])
    assert due[0] == START_US
    assert set(np.diff(due)) == {100}


@pytest.mark.parametrize(("count", "broken"), [(100, 9), (5, 20), (10, 0)])
def test_broken_ones_are_spread(count: int, broken: int) -> None:
    """All that was asked for is there, good ones in order, all kinds in turn."""
    good = list(payments(PEOPLE, START_US, count, 1000.0, HEADER))
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
    records = list(payments(PEOPLE, start_us, 200, 1000.0, HEADER))
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
    records = list(payments(PEOPLE, time.time_ns() // 1000, 3, 1000.0, HEADER))
    with pytest.raises(BrokerUnavailable, match="3 of 3 records were not delivered"):
        send(settings, records)
    cluster.stop()


def test_every_kind_of_broken_record_has_another_code() -> None:
    """The demo shows as many causes as there are kinds."""
    assert len({broken.code for broken in BROKEN}) == len(BROKEN)
    assert RejectCode.NULL_VALUE not in {broken.code for broken in BROKEN}
