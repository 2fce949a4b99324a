"""Transactions in doubt on a real Kafka: an EndTxn is held back and arrives in the next one.

KAFKA-17754: our clients and the broker speak a protocol in which a late EndTxn ends whatever
transaction its producer has open when it arrives.
"""

import json
import os
import signal
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from app.adapters.admin import create_topics
from app.adapters.transport import open_source, open_transactor
from app.chaos.proxy import Proxy
from app.config import Settings, load_settings
from app.demo.cluster import Kafka
from app.demo.process import free_ports
from app.errors import BrokerUnavailable, GroupMoved
from app.ports import Transactor
from app.records import Columns, Outbound, Ragged
from tests.integration.test_transport import Listener
from tests.integration.world import PARTITIONS, Worker, World, avro

Proxied = tuple[Kafka, Proxy]
ROLES = ("TRANSACTIONS", "LABELS", "SCORES", "ALERTS", "DEAD_LETTERS", "WATERMARKS")
TWICE = ("connection reset", "timed out")
"""librdkafka sends the commit again and reports success."""
LOST = (*TWICE, "no answer")
IN_DOUBT = "a transaction is in doubt; going on from what Kafka has"
OPTIONS = '{"socket.timeout.ms": "1000"}'
FENCED = {47, 90}
"""INVALID_PRODUCER_EPOCH and PRODUCER_FENCED."""
ROUNDS = int(os.environ.get("RISKWIRE_TEST_ROUNDS", "3"))
LIMIT_S = 90.0
both = pytest.mark.parametrize("transport", ["native", "objects"])


def until(met: Callable[[], bool], what: str = "") -> None:
    """Wait for a condition, not for ever."""
    end = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def code(answer: bytes) -> int:
    """The error code in an answer to EndTxn: length, correlation id, throttle time, code."""
    found: tuple[int] = struct.unpack(">h", answer[12:14])
    return found[0]


@pytest.fixture
def settings(proxied: Proxied) -> Settings:
    """Clients of the proxy, which do not wait long for an answer."""
    broker, proxy = proxied
    topic = f"out-{uuid.uuid4().hex[:8]}"
    create_topics(broker.bootstrap, {topic: 1}, {})
    return load_settings(
        bootstrap_servers=f"127.0.0.1:{proxy.port}",
        topic_scores=topic,
        group_id=topic,
        producer_options={"socket.timeout.ms": "1000"},
    )


def visible(broker: Kafka, topic: str) -> list[bytes | None]:
    """What a read_committed reader sees of a topic's partition 0."""
    options = {"isolation.level": "read_committed", "enable.partition.eof": "true"}
    with closing(
        Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "r", **options})
    ) as reader:
        reader.assign([TopicPartition(topic, 0, 0)])
        found = []
        while (message := reader.poll(10)) is not None and not message.error():
            found.append(message.value())
        return found


@both
@pytest.mark.parametrize("lost", TWICE)
def test_a_commit_that_librdkafka_sent_twice_is_in_doubt(
    proxied: Proxied, settings: Settings, transport: str, lost: str
) -> None:
    """Though it reports success, and rightly: the first one may still arrive, at any time."""
    broker, proxy = proxied
    topic = settings.topic("scores")
    with ExitStack() as stack:
        source = stack.enter_context(closing(open_source(settings, transport, Listener())))
        source.poll(1, 100, 0)

        def transact(transactor: Transactor, value: bytes) -> None:
            columns = Columns(topic, np.zeros(1, np.int32), Ragged.of([b"k"]), Ragged.of([value]))
            outbound = Outbound((columns,), (), topic)
            transactor.transact([outbound], {(topic, 0): 1}, source.group_metadata())

        transactor = open_transactor(settings, transport, f"{topic}.w1.a")
        stack.callback(transactor.close, 0)
        transact(transactor, b"first")
        assert not transactor.is_troubled()
        proxy.hold_end_txn()
        if lost == "connection reset":
            threading.Thread(target=_hang_up_once_held, args=(proxy,), daemon=True).start()
        with pytest.raises(BrokerUnavailable, match="in a transaction"):
            transact(transactor, b"twice")
        assert transactor.is_troubled()
        assert visible(broker, topic) == [b"first", b"twice"]
        open_transactor(settings, transport, f"{topic}.w1.a").close(0)
        assert {code(answer) for answer in proxy.release()} <= FENCED


def _hang_up_once_held(proxy: Proxy) -> None:
    until(lambda: proxy.held == 1)
    proxy.hang_up()


@contextmanager
def closing_at_once(transactor: Transactor) -> Iterator[Transactor]:
    """Close it afterwards, without waiting for anything."""
    try:
        yield transactor
    finally:
        transactor.close(0)


@both
def test_offsets_of_a_generation_that_is_over_are_no_doubt(kafka: Kafka, transport: str) -> None:
    """They are refused before any end was asked for: opened again, the id commits the same."""
    name = f"moved-{uuid.uuid4().hex[:8]}"
    topics = {f"{name}-{role}": 2 for role in ("transactions", "labels", "scores")}
    create_topics(kafka.bootstrap, topics, {})
    settings = load_settings(
        bootstrap_servers=kafka.bootstrap, group_id=name, topic_prefix=f"{name}-"
    )
    topic, read = settings.topic("scores"), (settings.topic("transactions"), 0)
    columns = Columns(topic, np.zeros(1, np.int32), Ragged.of([b"k"]), Ragged.of([b"v"]))
    with ExitStack() as stack:
        one = stack.enter_context(closing(open_source(settings, transport, Listener())))
        until(lambda: not one.poll(1, 50, 0) and len(one.assignment()) == 4)
        over = one.group_metadata()
        two = stack.enter_context(closing(open_source(settings, transport, Listener())))
        until(lambda: not one.poll(1, 50, 0) and not two.poll(1, 50, 0) and bool(two.assignment()))

        def transact(group: object) -> bool:
            with closing_at_once(open_transactor(settings, transport, f"{name}.w1.a")) as its:
                its.transact([Outbound((columns,), (), topic)], {read: 1}, group)
            return True

        def again() -> bool:
            one.poll(1, 50, 0), two.poll(1, 50, 0)
            with suppress(GroupMoved):  # it may not have heard of the last rebalance yet
                return transact(one.group_metadata())
            return False

        with pytest.raises(GroupMoved):
            transact(over)
        until(again)
        until(lambda: not one.poll(1, 50, 0) and one.committed([read]) == {read: 1})
        assert visible(kafka, topic) == [b"v"]


class Gate:
    """Steers the faults of `faulty`."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch) -> None:
        self.place, self._patch = place, patch
        patch.setenv("FAULTS_PLACE", str(place))

    def faults(self, names: str) -> None:
        """What workers have that are started from now on."""
        self._patch.setenv("MODULE", "tests.integration.faulty" if names else "app.cli")
        self._patch.setenv("FAULTS", names)

    def close(self) -> None:
        """Stop the next transaction before its offsets."""
        (self.place / "closed").touch()

    @property
    def is_reached(self) -> bool:
        """Whether a transaction is stopped."""
        return (self.place / "waiting").exists()

    def arm(self) -> None:
        """Let one worker die before its next commit."""
        (self.place / "armed").touch()

    def open(self) -> None:
        """Let it go on."""
        (self.place / "closed").unlink()
        (self.place / "waiting").unlink()


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """An open one."""
    return Gate(tmp_path, monkeypatch)


def has_coordinator(world: World) -> bool:
    """Whether the broker, which may have just started, knows where offsets are kept."""
    try:
        world.committed()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.NOT_COORDINATOR:
            raise
        return False
    return True


@contextmanager
def opened(bootstrap: str, redis_url: str, directory: Path) -> Iterator[World]:
    """Fresh topics on a broker; workers on them, with faults put in, are ended with the test."""
    names = {role: f"{role.lower()}-{uuid.uuid4().hex[:8]}" for role in ROLES}
    appended = {"message.timestamp.type": "LogAppendTime"}
    create_topics(bootstrap, {names[role]: PARTITIONS for role in ROLES[:2]}, appended)
    create_topics(bootstrap, {names[role]: PARTITIONS for role in ROLES[2:]}, {})
    world = World(bootstrap, redis_url, names, directory, lambda: free_ports(1)[0])
    until(lambda: has_coordinator(world))
    yield world
    for worker in world.workers:
        if worker.is_running():
            worker.kill()


def send(world: World, count: int) -> None:
    """Send valid transactions, some of which are alerts."""
    for i in range(world.sent, world.sent + count):
        world.send_good(i, amount_minor=90_000 if i % 10 == 3 else 1999)
    world.flush()


def outputs(world: World) -> dict[str, list[tuple[int, int, str]]]:
    """All that a read_committed reader sees: source partition, source offset and decision."""
    names = {"SCORES": "risk_score", "ALERTS": "risk_alert", "DEAD_LETTERS": ""}
    roles = {world.names[role]: role for role in names}
    found: dict[str, list[tuple[int, int, str]]] = {role: [] for role in names}
    options = {"isolation.level": "read_committed", "enable.partition.eof": "true"}
    reader = Consumer({"bootstrap.servers": world.bootstrap, "group.id": "r", **options})
    with closing(reader):
        every = [TopicPartition(topic, p, 0) for topic in roles for p in range(PARTITIONS)]
        reader.assign(every)
        ended = 0
        while ended < len(every):
            message = reader.poll(LIMIT_S)
            assert message is not None
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF
                ended += 1
                continue
            role = roles[message.topic() or ""]
            record = avro(names[role], message.value()) if names[role] else {}
            at = record.get("source_partition", -1), record.get("source_offset", -1)
            found[role].append((*at, record.get("decision", "")))
    return found


def check_exact(world: World) -> None:
    """One score for each transaction, in order, and one alert for each that wants one."""
    world.wait_committed(timeout_s=LIMIT_S)
    found = outputs(world)
    assert not found["DEAD_LETTERS"]
    assert len(found["SCORES"]) == world.sent
    for p in range(PARTITIONS):
        offsets = [offset for at, offset, _ in found["SCORES"] if at == p]
        assert offsets == [*range(len(offsets))]
    wanted = sorted(score for score in found["SCORES"] if score[2] != "APPROVE")
    assert wanted
    assert sorted(found["ALERTS"]) == wanted


def said(worker: Worker) -> list[dict[str, Any]]:
    """A worker's log, without a line that is being written."""
    return [json.loads(line) for line in worker.log.read_text().split("\n")[:-1]]


def events(worker: Worker, event: str) -> list[float]:
    """When a worker's log said so, in s."""
    its = [line["timestamp"] for line in said(worker) if line["event"] == event]
    return [datetime.fromisoformat(at).timestamp() for at in its]


@pytest.fixture
def world(proxied: Proxied, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """On the broker behind the proxy."""
    with opened(proxied[0].bootstrap, redis_url, tmp_path) as world:
        yield world


def start(world: World, proxy: Proxy, transport: str) -> Worker:
    """A worker behind the proxy, in work."""
    worker = world.worker(
        bootstrap_servers=f"127.0.0.1:{proxy.port}", transport=transport, producer_options=OPTIONS
    )
    send(world, 100)
    world.wait_committed()
    return worker


def a_late_end_txn(world: World, worker: Worker, proxy: Proxy, gate: Gate, lost: str) -> list[int]:
    """Let an EndTxn arrive when the next transaction has sent its records and not its offsets.

    Returns what the broker answers to it, and to those that were sent after it.
    """
    doubts = len(events(worker, IN_DOUBT))
    proxy.hold_end_txn(1 if lost in TWICE else 1000)
    send(world, 100)
    until(lambda: proxy.held > 0)
    gate.close()
    if lost == "connection reset":
        proxy.hang_up()
    elif lost == "no answer":
        until(lambda: len(events(worker, IN_DOUBT)) > doubts)
        proxy.heal()
    send(world, 100)
    until(lambda: gate.is_reached)
    return [code(answer) for answer in proxy.release()]


@both
def test_nothing_is_torn_by_a_late_end_txn(
    proxied: Proxied, world: World, transport: str, gate: Gate, figure: Callable[[str], None]
) -> None:
    """Whether the commit was sent again, or given up: it is fenced and its transaction decided."""
    _, proxy = proxied
    gate.faults("impatient,gate")
    worker = start(world, proxy, transport)
    for i in range(ROUNDS):
        answers = a_late_end_txn(world, worker, proxy, gate, LOST[i % len(LOST)])
        assert answers
        assert set(answers) <= FENCED
        assert len(outputs(world)["SCORES"]) == world.committed()
        gate.open()
        world.wait_committed()
    check_exact(world)
    doubts, goes_on = events(worker, IN_DOUBT), events(worker, "partitions are read")
    assert len(doubts) == ROUNDS
    took_s = [min(at for at in goes_on if at > doubt) - doubt for doubt in doubts]
    figure(f"doubt, {transport}: read on after {max(took_s):.2f} s at most")
    assert max(took_s) < 20
    assert worker.metrics()['riskwire_commits_total{result="failed"}'] == ROUNDS
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(LIMIT_S) == 0


def test_without_the_rule_a_late_end_txn_tears_a_transaction(
    proxied: Proxied, world: World, gate: Gate
) -> None:
    """The control: the next transaction's records are visible without its offsets, for ever."""
    _, proxy = proxied
    gate.faults("deaf,gate")
    worker = start(world, proxy, "native")
    assert a_late_end_txn(world, worker, proxy, gate, "connection reset") == [0]
    assert len(outputs(world)["SCORES"]) > world.committed()
    worker.kill()
    gate.open()
    start(world, proxy, "native")
    with pytest.raises(AssertionError):
        check_exact(world)
