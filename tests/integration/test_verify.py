"""The checker on a real Kafka and Redis: nothing wrong with a worker's traffic, much with Faust's.

Faults are put into the evidence here; `tests/verify` puts them into the worker.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

import verify
from app.demo.cluster import Kafka
from app.watermarks import Watermark
from features.contract import DAY_US
from features.state import LABELS, TRANSACTIONS
from models.manifest import read
from tests.integration.conftest import MakeTopic
from tests.integration.world import (  # noqa: F401 -- fixtures
    BROKEN,
    PARTITIONS,
    World,
    unused_port,
    world,
)
from tests.verify.worlds import encoded
from verify.settings import ROLES, Settings
from verify.watch import Watch
from verify.watch import read as read_seen

MODEL_ID = read().manifest.model_id
YEAR_US = 365 * DAY_US
FAUST_PARTITIONS = 2


def fill(its: World, n: int) -> None:
    """Payments of the last 20 days and their outcomes; watermarks say that this is all."""
    rng, now_us = np.random.default_rng(3), time.time_ns() // 1000
    counts = np.zeros((2, PARTITIONS), np.int64)
    for i, t in enumerate(np.sort(now_us - rng.integers(10**7, 20 * DAY_US, n)).tolist()):
        customer, terminal = int(rng.integers(0, 40)), f"t{int(rng.integers(0, 20))}"
        p, key = customer % PARTITIONS, b"c%d" % customer
        its.send_good(
            i, p, customer_id=key.decode(), terminal_id=terminal, event_time=t,
            amount_minor=int(rng.integers(1, 50_000)),
        )  # fmt: skip
        counts[TRANSACTIONS, p] += 1
        if i % 3 == 0:
            known = min(t + int(rng.integers(0, 6 * DAY_US)), now_us)
            value = encoded("fraud_label", {
                "transaction_id": f"x{i}", "customer_id": key.decode(), "terminal_id": terminal,
                "event_time": t, "known_at": known, "fraud": i % 2 == 0, "source": "ANALYST",
            })  # fmt: skip
            its._producer.produce(its.names["LABELS"], value, key, p)
            counts[LABELS, p] += 1
    for broken, its_key in BROKEN.values():
        its.send(broken, its_key, 1, headers=[("trace", b"7")])
        counts[TRANSACTIONS, 1] += 1
    for log in (TRANSACTIONS, LABELS):
        for p in range(PARTITIONS):
            mark = Watermark(log, int(counts[log, p]), now_us + YEAR_US)
            its._producer.produce(its.names["WATERMARKS"], mark.encode(its.group), partition=p)
    its.flush()


def test_a_workers_traffic(world: World, tmp_path: Path) -> None:  # noqa: F811 -- a fixture
    """Nothing is violated, most vectors are recomputed; then a fault at a time is found."""
    fill(world, 1500)
    worker = world.worker(alignment="wait")
    environ = worker.environment
    watch = Watch(Settings.of(environ), tmp_path / "seen").start()
    worker.wait_ready()
    world.wait_committed()
    worker.process.terminate()
    worker.process.wait(60)
    watch.stop()

    def found() -> verify.Report:
        seen = read_seen(tmp_path / "seen")
        return verify.run(world.bootstrap, world.redis_url, environ=environ, seen=seen)

    report = found()
    assert report.holds, "\n".join(report.lines())
    assert report.checked["C7"] > 1000
    assert all(report.checked.values())
    assert len(report.checked) == 11

    client = redis.Redis.from_url(world.redis_url)
    key = next(client.scan_iter(match=f"rw:*.{world.group}:c:*", count=10_000))
    client.setrange(key, 30, b"\x7f")
    client.close()
    assert set(found().violated) == {"C6"}

    scores = world.read("SCORES")
    partition, _, name, value, _ = scores[-1]
    producer = Producer({"bootstrap.servers": world.bootstrap, "transactional.id": world.group})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(world.names["SCORES"], value, name, partition)
    producer.commit_transaction(30)
    assert set(found().violated) == {"C2", "C6"}

    producer.begin_transaction()
    producer.produce(world.names["ALERTS"], b"open", None, 0)
    assert producer.flush(30) == 0
    command = [sys.executable, "-m", "app.cli", "verify", "--json", "--drained"]
    done = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=120)
    producer.abort_transaction(30)
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert {law for law, its in said["laws"].items() if its["violated"]} == {"C2", "C6", "C10"}


def test_the_checker_says_what_it_cannot_reach() -> None:
    """Status 2 for settings that make no sense, 3 where nobody answers."""
    command = [sys.executable, "-m", "verify", "--bootstrap", "127.0.0.1:1"]
    for variable, status in (("three", 2), ("1", 3)):
        environ = {"RISKWIRE_PARTITIONS": variable, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=60)
        assert done.returncode == status, done.stderr
        assert done.stderr.startswith(b"riskwire verify: ")


class StockFaust:
    """A Faust app with topics of its own, and transactions for it."""

    def __init__(self, kafka: Kafka, topic: MakeTopic, directory: Path) -> None:
        roles = [role.upper() for role in ROLES]
        stamp = {"message_timestamp_type": "LogAppendTime"}
        self.names = {role: topic(role.lower(), FAUST_PARTITIONS, **stamp) for role in roles}
        name = f"stock-{self.names['SCORES'][-12:]}"
        self.bootstrap, self.sent = kafka.bootstrap, 0
        self.log = directory / "faust.log"
        self.environ = {
            "RISKWIRE_GROUP_ID": name,
            "RISKWIRE_STATE_NAMESPACE": name,
            "RISKWIRE_PARTITIONS": str(FAUST_PARTITIONS),
            **{f"RISKWIRE_TOPIC_{role}": its for role, its in self.names.items()},
        }
        self.command = [
            sys.executable, "-m", "tests.integration.stock_faust", kafka.bootstrap, name,
            self.names["TRANSACTIONS"], self.names["SCORES"], str(FAUST_PARTITIONS), MODEL_ID,
            str(directory),
        ]  # fmt: skip
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap})
        self._reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "reader"})

    def send(self, count: int) -> None:
        """Send transactions to all partitions."""
        for i in range(self.sent, self.sent + count):
            p = i % FAUST_PARTITIONS
            its = {
                "transaction_id": f"x{i}", "customer_id": f"c{p}", "terminal_id": "t",
                "event_time": time.time_ns() // 1000, "amount_minor": 100, "currency": "EUR",
            }  # fmt: skip
            value = encoded("transaction", its)
            self._producer.produce(self.names["TRANSACTIONS"], value, b"c%d" % p, p)
        self.sent += count
        assert self._producer.flush(30) == 0

    def sends(self) -> int:
        """How far its scores have come, committed or not."""
        topic, found = self.names["SCORES"], 0
        for p in range(FAUST_PARTITIONS):
            ends: Any = self._reader.get_watermark_offsets(TopicPartition(topic, p), timeout=10)
            found += ends[1]
        return found

    def close(self) -> None:
        """Let go of the connection."""
        self._reader.close()

    def run_and_kill(self) -> None:
        """Let it run until it has sent more, and kill it at once."""
        before, until = self.sends(), time.monotonic() + 60
        with self.log.open("ab") as out:
            process = subprocess.Popen(self.command, stdout=out, stderr=out)
        try:
            while self.sends() < before + 200:
                assert process.poll() is None, self.log.read_text()[-3000:]
                assert time.monotonic() < until, self.log.read_text()[-3000:]
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait(10)


def test_stock_faust_with_exactly_once_fails(
    kafka: Kafka, topic: MakeTopic, redis_url: str, tmp_path: Path
) -> None:
    """Killed and started again, Faust's own `exactly_once` doubles, loses or reorders scores."""
    faust = StockFaust(kafka, topic, tmp_path)
    faust.send(4000)
    for _ in range(3):
        faust.run_and_kill()
    faust.close()
    report = verify.run(kafka.bootstrap, redis_url, environ=faust.environ, drained=False)
    assert report.counts["scores"] > 0, faust.log.read_text()[-3000:]
    assert {"C1", "C2", "C3"} & set(report.violated), "\n".join(report.lines())
