"""Workers as processes on a real Kafka and a real Redis, and what they are given and write."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, cast

import fastavro
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

import schemas
from app.demo.cluster import Kafka
from tests.integration.conftest import MakeTopic

Output = tuple[int, int | None, bytes | None, bytes | None, dict[str, bytes]]
"""Partition, offset, key, value and headers."""

HEADER = schemas.load("transaction").single_object_header
GOOD = {
    "terminal_id": "t1",
    "amount_minor": 1999,
    "currency": "EUR",
    "channel": "CHIP",
}
PARTITIONS = 4


class Worker:
    """One `riskwire worker` process."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.environment, self.log = environment, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, once started."""
        assert self._process is not None
        return self._process

    def start(self) -> Self:
        """Start it; it is not ready yet."""
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.environment.get("MODULE", "app.cli"), "worker"],
                env=self.environment,
                stdout=out,
                stderr=out,
            )
        return self

    def wait_ready(self, timeout_s: float = 60) -> Self:
        """Wait until it says that it is ready."""
        end = time.monotonic() + timeout_s
        while not self.is_ready():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.05)
        return self

    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether it says that it is ready."""
        return self._get("/readyz") is not None

    def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels."""
        lines = (self._get("/metrics") or "").splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def _get(self, path: str) -> str | None:
        url = f"http://127.0.0.1:{self.environment['RISKWIRE_HTTP_PORT']}{path}"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                body: bytes = answer.read()
                return body.decode()
        except OSError:
            return None

    def kill(self) -> None:
        """SIGKILL, at once."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """SIGTERM: it must end by itself within 5 s, and well."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(5) == 0


@pytest.fixture
def world(
    kafka: Kafka,
    topic: MakeTopic,
    redis_url: str,
    tmp_path: Path,
    unused_port: Callable[[], int],
) -> "Iterator[World]":
    """Fresh topics, and workers on them that are ended with the test."""
    names = {
        "TRANSACTIONS": topic("in", PARTITIONS, message_timestamp_type="LogAppendTime"),
        "LABELS": topic("labels", PARTITIONS, message_timestamp_type="LogAppendTime"),
        "SCORES": topic("scores", PARTITIONS),
        "ALERTS": topic("alerts", PARTITIONS),
        "DEAD_LETTERS": topic("dead", PARTITIONS, max_message_bytes="4194304"),
        "WATERMARKS": topic("watermarks", PARTITIONS),
    }
    world = World(kafka.bootstrap, redis_url, names, tmp_path, unused_port)
    yield world
    for worker in world.workers:
        if worker.is_running():
            worker.kill()


@pytest.fixture
def unused_port() -> Callable[[], int]:
    """Gives ports that nobody listens on."""

    def port() -> int:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return int(s.getsockname()[1])

    return port


class World:
    """Topics, and what was sent to and came out of them."""

    def __init__(
        self,
        bootstrap: str,
        redis_url: str,
        names: dict[str, str],
        directory: Path,
        port: Callable[[], int],
    ) -> None:
        self.bootstrap, self.redis_url, self.names = bootstrap, redis_url, names
        self.directory, self.port = directory, port
        self.group = f"worker-{uuid.uuid4().hex[:12]}"
        self.workers: list[Worker] = []
        self.sent = 0
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "message.max.bytes": "2000000",
                "enable.idempotence": "true",
            }
        )

    def worker(self, **settings: object) -> Worker:
        """Start a worker on these topics, with more settings."""
        environment = {
            **os.environ,
            "RISKWIRE_BOOTSTRAP_SERVERS": self.bootstrap,
            "RISKWIRE_REDIS_URL": self.redis_url,
            "RISKWIRE_GROUP_ID": self.group,
            "RISKWIRE_STATE_NAMESPACE": self.group,
            "RISKWIRE_HTTP_PORT": str(self.port()),
            "RISKWIRE_LOG_FORMAT": "json",
            **{f"RISKWIRE_TOPIC_{role}": name for role, name in self.names.items()},
            **{f"RISKWIRE_{key.upper()}": str(value) for key, value in settings.items()},
        }
        worker = Worker(environment, self.directory / f"worker-{len(self.workers)}.log")
        self.workers.append(worker)
        return worker.start()

    def send(
        self,
        value: bytes | None,
        key: bytes,
        partition: int = 0,
        headers: list[tuple[str, str | bytes | None]] | None = None,
    ) -> None:
        """Send a record to the input topic."""
        while True:
            try:
                self._producer.produce(
                    self.names["TRANSACTIONS"], value, key, partition, headers=headers
                )
                break
            except BufferError:
                self._producer.poll(0.1)
        self.sent += 1

    def send_good(self, i: int, partition: int | None = None, **fields: object) -> None:
        """Send a valid transaction."""
        customer = str(fields.get("customer_id", f"c{i % 97}"))
        stream = io.BytesIO()
        record = {
            **GOOD,
            "transaction_id": f"x{i}",
            "customer_id": customer,
            "event_time": time.time_ns() // 1000,
            **fields,
        }
        fastavro.schemaless_writer(stream, schemas.load("transaction").parsed, record)
        at = i % PARTITIONS if partition is None else partition
        self.send(HEADER + stream.getvalue(), customer.encode(), at)

    def flush(self) -> None:
        """Wait until all that was sent is with the broker."""
        assert self._producer.flush(30) == 0

    def read(self, role: str, isolation: str = "read_committed") -> list[Output]:
        """All committed records of an output topic: (partition, offset, key, value, headers)."""
        options = {"isolation.level": isolation, "enable.partition.eof": "true"}
        at = {"bootstrap.servers": self.bootstrap, "group.id": "reader"}
        consumer = Consumer({**at, **options})
        consumer.assign([TopicPartition(self.names[role], p, 0) for p in range(PARTITIONS)])
        rows: list[Output] = []
        ended: set[int | None] = set()
        while len(ended) < PARTITIONS:
            for m in consumer.consume(10_000, 1.0):
                if (error := m.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF
                    ended.add(m.partition())
                    continue
                headers = cast("list[tuple[str, bytes]]", m.headers() or [])
                rows.append(
                    (m.partition() or 0, m.offset() or 0, m.key(), m.value(), dict(headers))
                )
        consumer.close()
        return sorted(rows, key=lambda row: row[:2])

    def scores(self) -> list[dict[str, Any]]:
        """All scores as read by fastavro, each with its own partition."""
        return [avro("risk_score", row[3]) | {"_partition": row[0]} for row in self.read("SCORES")]

    def committed(self) -> int:
        """How many input records are committed."""
        name = self.names["TRANSACTIONS"]
        options = {"bootstrap.servers": self.bootstrap, "group.id": self.group}
        consumer = Consumer(options)
        found = consumer.committed([TopicPartition(name, p) for p in range(PARTITIONS)], 10)
        consumer.close()
        return sum(max(0, p.offset) for p in found)

    def wait_committed(self, count: int | None = None, timeout_s: float = 60) -> None:
        """Wait until that many input records (all that were sent) are committed, and no more."""
        count, end = self.sent if count is None else count, time.monotonic() + timeout_s
        while (at := self.committed()) < count:
            logs = "\n".join(w.log.read_text()[-1500:] for w in self.workers)
            assert time.monotonic() < end, f"committed {at} of {count}\n{logs}"
            time.sleep(0.1)
        assert at == count

    def check_complete(self, *, duplicates: bool) -> tuple[int, int]:
        """Every input offset has a score or a dead letter, in order; returns both counts."""
        end_s = time.monotonic() + 10
        while True:
            scores = [(s["source_partition"], s["source_offset"]) for s in self.scores()]
            letters = [
                (
                    int(row[4]["riskwire.error.source.partition"]),
                    int(row[4]["riskwire.error.source.offset"]),
                )
                for row in self.read("DEAD_LETTERS")
            ]
            both = set(scores) | set(letters)
            # A transaction's offsets may be there a moment before its records can be read.
            if len(both) >= self.sent or time.monotonic() > end_s:
                break
            time.sleep(0.2)
        assert not set(scores) & set(letters)
        assert len(both) == self.sent, self._missing(both)
        if not duplicates:
            assert len(scores) + len(letters) == self.sent
            for p in range(PARTITIONS):
                mine = [offset for at, offset in scores if at == p]
                assert mine == sorted(mine)
        return len(set(scores)), len(set(letters))

    def _missing(self, found: set[tuple[int, int]]) -> str:
        """Which inputs lack an output, and whether one is there that is not committed."""
        values = (avro("risk_score", row[3]) for row in self.read("SCORES", "read_uncommitted"))
        written = {(s["source_partition"], s["source_offset"]) for s in values}
        open_ones = sorted(written - found)
        return f"{len(found)} of {self.sent}; written, but not committed: {open_ones[:20]}"


def avro(name: str, value: bytes | None) -> dict[str, Any]:
    """The fields of a value in single-object encoding."""
    schema = schemas.load(name)
    assert value is not None
    assert value[:10] == schema.single_object_header
    record: Any = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema.parsed)
    fields: dict[str, Any] = record
    return fields


BROKEN: dict[str, tuple[bytes | None, bytes]] = {
    "NULL_VALUE": (None, b"c0"),
    "EMPTY_VALUE": (b"", b"c0"),
    "BAD_MAGIC": (b"{json}", b"c0"),
    "UNKNOWN_SCHEMA": (b"\x00\x00\x00\x00\x63rest", b"c0"),
    "TRUNCATED": (HEADER + b"\x02x", b"c0"),
    "VALUE_TOO_LARGE": (HEADER + b"\x00" * 1_000_000, b"c0"),
}
