"""Companion topics on a real Kafka: who owns a partition reads those that go with it."""

import contextlib
import time
import uuid
from collections.abc import Sequence
from contextlib import closing

import pytest
import structlog
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from app.demo.cluster import Kafka
from app.errors import BrokerUnavailable
from tests.integration.conftest import MakeTopic
from tests.integration.test_transport import (
    Listener,
    MakeSource,
    Row,
    _fill,
    _Mock,
    _options,
    _poll_until,
    _read,
    both_sources,
)


@pytest.fixture
def group() -> str:
    """A consumer group that nobody else uses."""
    return f"group-{uuid.uuid4().hex[:12]}"


def _both(names: Sequence[str], partitions: Sequence[int]) -> set[tuple[str, int]]:
    return {(name, p) for name in names for p in partitions}


@both_sources
@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_a_companion_goes_with_its_partition(
    make: MakeSource,
    kafka: Kafka,
    topic: MakeTopic,
    group: str,
    strategy: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Members join and leave: each reads the same numbers of both topics, from what is committed.

    No record is lost or read twice by the group, and librdkafka has nothing to complain of.
    """
    names = [topic("leader", partitions=4), topic("companion", partitions=5)]
    for name in names:
        _fill(kafka, name, [(p, None, b"%d" % i, None) for p in range(4) for i in range(10)])
    options = _options(kafka, group, partition_assignment_strategy=strategy)
    told = Listener(), Listener()
    with structlog.testing.capture_logs() as logs:
        one = make(options, names[:1], told[0], 500, names[1:])
        read = sorted((r[0], r[1], r[2]) for r in _read(one, 80))
        assert read == [(*at, i) for at in sorted(_both(names, range(4))) for i in range(10)]
        assert one.assignment() == _both(names, range(4))
        assert told[0].events == [("assigned", [0, 0, 1, 1, 2, 2, 3, 3])]
        one.commit(dict.fromkeys(one.assignment(), 7), wait=True)
        two = make(options, names[:1], told[1], 500, names[1:])
        rows: list[Row] = []
        _poll_until([two, one], lambda: len(two.assignment()) == 4 == len(one.assignment()), rows)
        assert one.assignment() | two.assignment() == _both(names, range(4))
        for source in (one, two):
            assert source.assignment() == _both(names, [p for _, p in source.assignment()])
        theirs = sorted(two.assignment())
        wanted = [(*at, i) for at in theirs for i in (7, 8, 9)]
        _poll_until([two, one], lambda: len([r for r in rows if r[:2] in theirs]) >= 12, rows)
        assert sorted(r[:3] for r in rows if r[:2] in theirs) == wanted
        assert two.committed(theirs) == dict.fromkeys(theirs, 7)
        two.commit(dict.fromkeys(theirs, 9), wait=True)
        two.close()
        assert two.assignment() == set()
        rows.clear()
        _poll_until([one], lambda: len(one.assignment()) == 8, rows)
        _poll_until([one], lambda: {r[:2] for r in rows} >= set(theirs), rows)
        assert {r[2] for r in rows if r[:2] in theirs} == {9}
        one.close()
    assert [line["event"] for line in logs if line["log_level"] in {"warning", "error"}] == []
    assert [r.message for r in caplog.records if r.name == "riskwire.librdkafka"] == []


@both_sources
def test_companions_take_part_in_every_call(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """Paused alone it is silent while the other flows; seek, ends and beginnings know it."""
    names = [topic("leader", partitions=1), topic("companion", partitions=1)]
    leader, companion = ((name, 0) for name in names)
    for name in names:
        _fill(kafka, name, [(0, None, b"%d" % i, None) for i in range(20)])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.delete_records([TopicPartition(*companion, 5)])[TopicPartition(*companion)].result(20)
    source = make(_options(kafka, group), names[:1], Listener(), 500, names[1:])
    assert source.beginnings() == {}
    assert len(_read(source, 35)) == 35
    assert source.beginnings() == {leader: 0, companion: 5}
    assert source.ends() == {leader: 20, companion: 20}
    source.pause([companion])
    source.seek({leader: 18, companion: 17})
    assert {r[:3] for r in _read(source, 2)} == {(*leader, 18), (*leader, 19)}
    assert source.poll(500, 500, 0) == []
    source.resume([companion])
    assert {r[:3] for r in _read(source, 3)} == {(*companion, i) for i in (17, 18, 19)}
    source.close()


@both_sources
def test_a_log_that_ends_in_a_transactions_marker_is_read_to_its_end(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """The consumer tells where it ended, behind the marker; not after a seek, nor before."""
    name = topic("leader", partitions=1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": group})
    producer.init_transactions(20)
    producer.begin_transaction()
    for i in range(3):
        producer.produce(name, b"%d" % i, partition=0)
    producer.commit_transaction(20)
    source = make(_options(kafka, group), [name], Listener(), 500)
    assert len(_read(source, 3)) == 3
    _poll_until([source], lambda: source.reached() == {(name, 0): 4} == source.ends())
    source.seek({(name, 0): 1})
    assert source.reached() == {}
    assert len(_read(source, 2)) == 2
    _poll_until([source], lambda: source.reached() == {(name, 0): 4})
    source.close()


@both_sources
def test_companions_come_back_to_a_member_that_was_thrown_out(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """One that did not poll in time loses both topics at once, and gets both again."""
    names = [topic("leader", partitions=2), topic("companion", partitions=2)]
    told = Listener()
    limits = {"session_timeout_ms": "6000", "max_poll_interval_ms": "6000"}
    source = make(_options(kafka, group, **limits), names[:1], told, 500, names[1:])
    _poll_until([source], lambda: len(source.assignment()) == 4)
    time.sleep(7.5)
    _poll_until([source], lambda: len(told.events) == 3)
    kinds = ["assigned", "lost", "assigned"]
    assert told.events == [(kind, [0, 0, 1, 1]) for kind in kinds]
    _fill(kafka, names[1], [(1, None, b"later", None)])
    assert _read(source, 1)[0][:3] == (names[1], 1, 0)
    source.close()


@both_sources
@pytest.mark.parametrize("partitions", [2, None], ids=["fewer", "none"])
def test_a_companion_that_lacks_partitions_is_said_in_the_log(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str, partitions: int | None
) -> None:
    """What is there is read, the leading topic in any case; asking does not create the topic."""
    names = [topic("leader", partitions=3)]
    names += [topic("companion", partitions=partitions) if partitions else f"{names[0]}-missing"]
    there = set(_both(names[:1], range(3)) | _both(names[1:], range(partitions or 0)))
    with structlog.testing.capture_logs() as logs:
        source = make(_options(kafka, group), names[:1], Listener(), 500, names[1:])
        _poll_until([source], lambda: source.assignment() == there)
        _fill(kafka, names[0], [(2, None, b"x", None)])
        assert len(_read(source, 1)) == 1
        assert set(source.beginnings()) == there
        source.close()
    warned = [line for line in logs if line["log_level"] == "warning"]
    assert [(line["topic"], line["partitions"]) for line in warned] == [
        (names[1], list(range(partitions or 0, 3)))
    ]
    assert "riskwire topics apply" in warned[0]["event"]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert (names[1] in admin.list_topics(timeout=20).topics) is bool(partitions)


@both_sources
def test_what_follows_a_rebalance_in_the_same_poll_is_heard(make: MakeSource, group: str) -> None:
    """Calls made within the callback do not break the callbacks after it."""
    mock = _Mock({"leader": 2, "companion": 2})
    with closing(mock), structlog.testing.capture_logs() as logs:

        class Slow(Listener):
            def assigned(self, partitions: Sequence[tuple[str, int]]) -> None:
                super().assigned(partitions)
                with contextlib.suppress(BrokerUnavailable):  # a coordinator that is not up yet
                    source.committed(list(partitions))
                    source.beginnings()
                mock.set_down()
                time.sleep(1)  # the errors of the lost broker queue up behind this callback

        source = make(_options(mock, group), ["leader"], Slow(), 500, ["companion"])
        with closing(source):
            _poll_until([source], lambda: any(line["event"] == "broker trouble" for line in logs))
            mock.set_up()
            assert len(source.assignment()) == 4


@both_sources
def test_beginnings_of_a_broker_that_is_away_are_refused(make: MakeSource, group: str) -> None:
    """It answers within the request's time-out, with the failure."""
    with closing(_Mock({"leader": 2, "companion": 2})) as mock:
        source = make(_options(mock, group), ["leader"], Listener(), 500, ["companion"])
        with closing(source):
            _poll_until([source], lambda: len(source.assignment()) == 4)
            assert source.beginnings() == dict.fromkeys(source.assignment(), 0)
            mock.set_down()
            with pytest.raises(BrokerUnavailable):
                source.beginnings()
            mock.set_up()


@both_sources
def test_a_companion_without_a_possible_name_is_not_there(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """A name that no topic can have is one that has no partitions: said, and no crash in C."""
    name = topic("leader", partitions=1)
    with structlog.testing.capture_logs() as logs:
        source = make(_options(kafka, group), [name], Listener(), 500, ["no name", "", "x" * 600])
        _poll_until([source], lambda: bool(source.assignment()))
        assert {at for at in source.assignment() if at[0] == name} == {(name, 0)}
        source.close()
    assert {line.get("topic") for line in logs} >= {"no name", "", "x" * 600}
