"""Both implementations of the transport, by one set of tests, on a real Kafka."""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import structlog
from confluent_kafka import Producer

from app.adapters import librdkafka
from app.adapters.confluent import ObjectSink, ObjectSource
from app.adapters.mock_cluster import MockCluster
from app.adapters.native_sink import NativeSink
from app.adapters.native_source import NativeSource
from app.adapters.transport import (
    CONSUMER_OPTIONS,
    PRODUCER_OPTIONS,
    choose_transport,
    open_sink,
    open_source,
)
from app.config import load_settings
from app.demo.cluster import Kafka
from app.errors import BrokerUnavailable, ConfigError, NativeTransportError
from app.ports import Sink, Source
from app.records import Columns, Header, Letter, Outbound, Ragged, RecordBatch, unpack_headers
from tests.integration.conftest import MakeTopic

MakeSource = Callable[..., Source]
MakeSink = Callable[..., Sink]
Headers = Sequence[tuple[str, bytes | None]]
Sent = tuple[int, bytes | None, bytes | None, Headers | None]
"""Partition, key, value and headers."""
Row = tuple[str, int, int, int, int, bytes | None, bytes | None, list[Header]]
"""Topic, partition, offset, time and its type, key, value and headers."""

SOURCES, SINKS = (NativeSource, ObjectSource), (NativeSink, ObjectSink)
both_sources = pytest.mark.parametrize("make", SOURCES, ids=["native", "objects"])
both_sinks = pytest.mark.parametrize("make", SINKS, ids=["native", "objects"])


class Listener:
    """Notes what a source tells it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[int]]] = []

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> None:
        """See `RebalanceListener.assigned`."""
        self.events.append(("assigned", sorted(p for _, p in partitions)))

    def revoked(self, partitions: Sequence[tuple[str, int]], *, lost: bool) -> None:
        """See `RebalanceListener.revoked`."""
        self.events.append(("lost" if lost else "revoked", sorted(p for _, p in partitions)))


def _options(kafka: Kafka, group: str, **more: str) -> dict[str, str]:
    return {
        **CONSUMER_OPTIONS,
        "bootstrap.servers": kafka.bootstrap,
        "group.id": group,
        **{key.replace("_", "."): value for key, value in more.items()},
    }


@pytest.fixture
def group() -> str:
    """A consumer group that nobody else uses."""
    return f"group-{uuid.uuid4().hex[:12]}"


def _fill(kafka: Kafka, topic: str, records: Sequence[Sent]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "message.max.bytes": "4194304"})
    for partition, key, value, headers in records:
        given: list[tuple[str, str | bytes | None]] | None = [*headers] if headers else None
        producer.produce(topic, value, key, partition, headers=given)
    assert producer.flush(20) == 0


def _read(source: Source, count: int, timeout_s: float = 30) -> list[Row]:
    rows: list[Row] = []
    end = time.monotonic() + timeout_s
    while len(rows) < count:
        assert time.monotonic() < end, f"{len(rows)} of {count} records came"
        for batch in source.poll(500, 200, 5):
            rows += [_row(batch, i) for i in range(len(batch))]
    return rows


def _row(batch: RecordBatch, i: int) -> Row:
    headers = batch.headers[i]
    assert headers is not None
    return (
        batch.topic,
        int(batch.partition[i]),
        int(batch.offset[i]),
        int(batch.timestamp_ms[i]),
        int(batch.timestamp_type[i]),
        batch.keys[i],
        batch.values[i],
        unpack_headers(headers),
    )


RECORDS: list[Sent] = [
    (0, b"key", b"value", None),
    (1, None, b"no key", None),
    (1, b"", b"empty key", [("a", b"1"), ("a", None), ("b", b"")]),
    (2, b"null value", None, None),
    (2, b"empty value", b"", [("only", b"header")]),
    (3, b"\xff\x00", bytes(range(256)) * 300, [("n\u00e4me", b"\x00" * 9000)]),
    *((0, b"k%d" % i, b"v%d" % i, None) for i in range(600)),
]


@both_sources
def test_records_arrive_as_they_were_sent(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """Null and empty keys and values, headers, offsets, timestamps: all as the broker has them."""
    name = topic("records", partitions=4, message_timestamp_type="LogAppendTime")
    _fill(kafka, name, RECORDS)
    source = make(_options(kafka, group), [name], Listener(), 500)
    rows = _read(source, len(RECORDS))
    source.close()
    for partition in range(4):
        mine = [r for r in rows if r[1] == partition]
        assert [r[2] for r in mine] == list(range(len(mine)))
        sent = [r for r in RECORDS if r[0] == partition]
        assert [(r[5], r[6]) for r in mine] == [(key, value) for _, key, value, _ in sent]
        assert [r[7] for r in mine] == [[Header(*h) for h in headers or ()] for *_, headers in sent]
    assert {r[0] for r in rows} == {name}
    assert {r[4] for r in rows} == {2}
    assert all(abs(r[3] / 1000 - time.time()) < 120 for r in rows)


def test_both_sources_give_the_same_rows(kafka: Kafka, topic: MakeTopic, group: str) -> None:
    """The fast twin and the readable twin deliver equal columns."""
    name = topic("twins", partitions=4)
    _fill(kafka, name, RECORDS)
    rows: list[list[Row]] = []
    for make in SOURCES:
        source = make(_options(kafka, group + make.__name__), [name], Listener(), 2048)
        rows.append(sorted(_read(source, len(RECORDS))))
        source.close()
    assert rows[0] == rows[1]


@both_sources
def test_a_consumer_that_closes_commits_nothing(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """What was read and not committed is read again by the next member, at once."""
    name = topic("close", partitions=1)
    _fill(kafka, name, [(0, None, b"%d" % i, None) for i in range(5)])
    for _ in range(2):
        source = make(_options(kafka, group), [name], Listener(), 500)
        assert [r[2] for r in _read(source, 5)] == [0, 1, 2, 3, 4]
        source.close()


def test_a_header_name_that_is_no_text_stops_nothing(
    kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """A name of any bytes: the native source reads it, and both sinks send such a letter on."""
    name = topic("names", partitions=1)
    odd = Letter(name, 0, None, b"odd", (Header("n\udcff", b"1"),))
    makes: tuple[MakeSink, ...] = SINKS
    for ticket, make in enumerate(makes, 1):
        sink = _sink(make, kafka)
        sink.send(Outbound((), (odd, Letter(name, 0, None, b"good", ())), name), ticket)
        assert _collect(sink, 1) == [ticket]
        sink.close(0)
    source = NativeSource(_options(kafka, group), [name], Listener(), 500)
    rows = _read(source, 4)
    source.close()
    assert [r[6] for r in rows] == [b"odd", b"good"] * 2
    assert [r[7] for r in rows] == [list(odd.headers), [], [Header("n\ufffd", b"1")], []]


@both_sources
def test_several_topics_come_as_batches_of_one_topic_each(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """A poll over two topics gives one batch a topic, each in its order."""
    names = [topic("two", partitions=1) for _ in range(2)]
    for name in names:
        _fill(kafka, name, [(0, None, b"%d" % i, None) for i in range(50)])
    source = make(_options(kafka, group), names, Listener(), 500)
    rows = _read(source, 100)
    source.close()
    for name in names:
        assert [r[2] for r in rows if r[0] == name] == list(range(50))


@both_sources
def test_commit_seek_pause_and_resume(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """A successor starts at the committed offset; seek goes back; what is paused is silent."""
    name = topic("seek", partitions=1)
    at = (name, 0)
    _fill(kafka, name, [(0, None, b"%d" % i, None) for i in range(20)])
    source = make(_options(kafka, group), [name], Listener(), 500)
    _read(source, 20)
    assert source.assignment() == {at}
    assert source.committed([at]) == {}
    source.commit({at: 12, (name, 5): 3}, wait=True)
    assert source.committed([at]) == {at: 12}
    source.seek({at: 15})
    assert [r[2] for r in _read(source, 5)] == [15, 16, 17, 18, 19]
    source.pause([at])
    _fill(kafka, name, [(0, None, b"later", None)])
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert source.poll(500, 100, 0) == []
    source.resume([at])
    assert [r[6] for r in _read(source, 1)] == [b"later"]
    source.close()
    successor = make(_options(kafka, group), [name], Listener(), 500)
    assert _read(successor, 1)[0][2] == 12
    successor.close()


@both_sources
def test_a_cooperative_rebalance_moves_only_some_partitions(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """A second member takes a share; the first keeps the rest and gets all back when it leaves."""
    name = topic("rebalance", partitions=4)
    one_told, two_told = Listener(), Listener()
    one = make(_options(kafka, group), [name], one_told, 500)
    _poll_until([one], lambda: len(one.assignment()) == 4)
    two = make(_options(kafka, group), [name], two_told, 500)
    _poll_until([one, two], lambda: len(one.assignment()) == 2 == len(two.assignment()))
    assert one.assignment() | two.assignment() == {(name, p) for p in range(4)}
    revoked = [p for kind, ps in one_told.events if kind == "revoked" for p in ps]
    assert len(revoked) == 2
    two.close()
    _poll_until([one], lambda: len(one.assignment()) == 4)
    one.close()


def _poll_until(
    sources: Sequence[Source], condition: Callable[[], bool], rows: list[Row] | None = None
) -> None:
    """Poll in turn; what is read goes to `rows`, if given."""
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end, "the group did not settle"
        for source in sources:
            for batch in source.poll(10, 50, 0):
                if rows is not None:
                    rows += [_row(batch, i) for i in range(len(batch))]


@both_sources
def test_an_error_on_the_listener_reaches_the_poll(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """An exception inside the rebalance callback is raised by poll, not swallowed in C."""

    class Broken(Listener):
        def assigned(self, partitions: Sequence[tuple[str, int]]) -> None:  # noqa: ARG002 -- theirs
            raise ZeroDivisionError

    name = topic("broken", partitions=1)
    source = make(_options(kafka, group), [name], Broken(), 500)
    with pytest.raises(ZeroDivisionError):
        _poll_until([source], lambda: False)
    source.close()


@both_sources
def test_error_messages_among_records_lose_no_record(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """End-of-partition messages come as errors among the records; every record is delivered."""
    name = topic("eof", partitions=3)
    _fill(kafka, name, [(i % 3, None, b"%d" % i, None) for i in range(90)])
    source = make(_options(kafka, group, enable_partition_eof="true"), [name], Listener(), 500)
    assert sorted(int(r[6] or b"") for r in _read(source, 90)) == list(range(90))
    assert source.poll(500, 200, 0) == []
    source.close()


@both_sources
def test_an_error_message_is_logged_and_reading_goes_on(
    make: MakeSource, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """A topic that is not there is said in the log; the other topic is read."""
    name = topic("there", partitions=1)
    with structlog.testing.capture_logs() as logs:
        source = make(_options(kafka, group), [name, f"{name}-missing"], Listener(), 500)
        _fill(kafka, name, [(0, None, b"%d" % i, None) for i in range(5)])
        assert len(_read(source, 5)) == 5
        _poll_until([source], lambda: any(line["event"] == "consumer error" for line in logs))
        source.close()


def _collect(sink: Sink, tickets: int, timeout_s: float = 20) -> list[int]:
    done: list[int] = []
    end = time.monotonic() + timeout_s
    while len(done) < tickets:
        assert time.monotonic() < end, f"{done} of {tickets} tickets came back"
        done += sink.poll(50)
    return done


def _sink(make: MakeSink, kafka: Kafka, **more: str) -> Sink:
    options = {**PRODUCER_OPTIONS, "bootstrap.servers": kafka.bootstrap, **more}
    return make({**options, "message.max.bytes": "4194304"}, 100_000)


def _outbound(name: str, n: int = 300, letters: Sequence[Letter] = ()) -> Outbound:
    keys = Ragged.of([(b"k%d" % i, None, b"")[i % 3] for i in range(n)])
    values = Ragged.of([(b"v%d" % i, None, b"")[(i // 3) % 3] for i in range(n)])
    columns = Columns(name, (np.arange(n) % 2).astype(np.int32), keys, values)
    return Outbound((columns,), tuple(letters), name)


@both_sinks
def test_a_batch_is_sent_whole_and_its_ticket_comes_back(
    make: MakeSink, kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """Columns and letters arrive in order, bytes and headers as given; one ticket a batch."""
    name = topic("sink", partitions=2)
    headers = (Header("a", b"1"), Header("a", None), Header("\u00fc", b"\x00\xff"))
    letters = [Letter(name, 1, None, b"z" * 1_000_000, headers), Letter(name, 0, b"k", None, ())]
    sink = _sink(make, kafka)
    sent = _outbound(name, letters=letters)
    assert sink.room(len(sent))
    sink.send(sent, 41)
    sink.send(_outbound(name, n=10), 42)
    assert _collect(sink, 2) == [41, 42]
    sink.close(1000)
    source = NativeSource(_options(kafka, group), [name], Listener(), 500)
    rows = _read(source, 312)
    source.close()
    for p in range(2):
        mine = [(r[5], r[6]) for r in rows if r[1] == p]
        columns = sent.columns[0]
        assert mine[:150] == [(columns.keys[i], columns.values[i]) for i in range(p, 300, 2)]
    big = next(r for r in rows if r[6] and len(r[6]) == 1_000_000)
    assert big[5] is None
    assert tuple(big[7]) == headers


class _Mock(MockCluster):
    close = MockCluster.stop


def _mock(topic: str) -> _Mock:
    return _Mock({topic: 2})


@both_sinks
def test_a_refused_record_is_never_acknowledged(make: MakeSink) -> None:
    """One failed produce request: its ticket does not come back, BrokerUnavailable does."""
    with closing(_mock("refused")) as mock:
        sink = _sink(make, mock)
        mock.refuse(0, *[10] * 40)  # MESSAGE_SIZE_TOO_LARGE: librdkafka does not retry it
        sink.send(_outbound("refused", n=20), 1)
        with pytest.raises(BrokerUnavailable):
            _collect(sink, 1)
        sink.close(0)


@both_sinks
def test_a_broker_that_is_away_is_waited_for(make: MakeSink) -> None:
    """While the broker is down nothing is acknowledged and nothing fails; then all is delivered."""
    with closing(_mock("away")) as mock:
        sink = _sink(make, mock)
        sink.send(_outbound("away", n=20), 1)
        assert _collect(sink, 1) == [1]
        mock.set_down()
        sink.send(_outbound("away", n=20), 2)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert sink.poll(100) == []
        mock.set_up()
        assert _collect(sink, 1) == [2]
        sink.close(1000)


@both_sinks
def test_room_bounds_what_is_in_flight(make: MakeSink) -> None:
    """With the broker away the sink takes no more than its bound."""
    with closing(_mock("full")) as mock:
        options = {**PRODUCER_OPTIONS, "bootstrap.servers": mock.bootstrap}
        sink = make(options, 1000)
        mock.set_down()
        assert sink.room(600)
        sink.send(_outbound("full", n=600), 1)
        assert not sink.room(600)
        sink.close(0)


@pytest.mark.parametrize("make", [*SOURCES, *SINKS], ids=lambda m: m.__name__)
def test_a_wrong_option_is_named(make: MakeSource | MakeSink) -> None:
    """A misspelt librdkafka option is the operator's error and says which."""
    options = {"bootstrap.servers": "127.0.0.1:1", "sasl.nonsense": "x", "group.id": "g"}
    arguments: list[Any] = [["t"], Listener(), 10] if make in SOURCES else [1000]
    with pytest.raises(ConfigError, match=r"sasl\.nonsense"):
        make(options, *arguments)


def test_a_version_outside_the_tested_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another librdkafka is refused before a pointer is used, and the message says what to do."""
    monkeypatch.setattr(librdkafka, "VERSION_TESTED", (0x7F000000, 0x7FFFFFFF))
    with pytest.raises(NativeTransportError, match="RISKWIRE_TRANSPORT=objects"):
        librdkafka.check()


def test_where_native_refuses_objects_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on with the other transport, and the log says why."""
    assert choose_transport(load_settings()) == "native"
    monkeypatch.setattr(librdkafka, "VERSION_TESTED", (0x7F000000, 0x7FFFFFFF))
    with structlog.testing.capture_logs() as logs:
        assert choose_transport(load_settings()) == "objects"
    assert "outside the tested range" in logs[0]["reason"]


@pytest.mark.parametrize("option", ["enable.auto.commit", "acks", "enable.idempotence"])
def test_an_option_that_the_guarantee_rests_on_is_refused(option: str) -> None:
    """Options pass through, but none that would lose records; the message names it."""
    settings = load_settings(kafka_options={option: "x"})
    with pytest.raises(ConfigError, match=option):
        open_source(settings, "native", Listener())
    with pytest.raises(ConfigError, match=option):
        open_sink(settings, "objects")


def test_another_struct_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a struct of another size."""
    monkeypatch.setattr(librdkafka, "MESSAGE_BYTES", 80)
    with pytest.raises(NativeTransportError, match="layout"):
        librdkafka.check()


def test_one_thread_may_poll_while_another_sends(
    kafka: Kafka, topic: MakeTopic, group: str
) -> None:
    """Source and sink of one process work side by side on their own threads."""
    name = topic("threads", partitions=2)
    source = NativeSource(_options(kafka, group), [name], Listener(), 500)
    rows: list[Row] = []
    reader = threading.Thread(target=lambda: rows.extend(_read(source, 3000)))
    reader.start()
    sink = _sink(NativeSink, kafka)
    for ticket in range(1, 11):
        sink.send(_outbound(name), ticket)
    assert _collect(sink, 10) == list(range(1, 11))
    reader.join(40)
    assert len(rows) == 3000
    sink.close(1000)
    source.close()
