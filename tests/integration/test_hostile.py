"""Input as an attack, on a real Kafka: a worker gets every named bomb, and goes on."""

import io
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
from confluent_kafka import Producer

import schemas
from app.bench import bombs
from app.bench.bombs import BOMBS, SCHEMAS
from app.errors import RejectCode
from tests.app.test_registry import Server, server
from tests.integration.world import World, unused_port, world

__all__ = ["server", "unused_port", "world"]

BAD, GOOD, BATCH = 1, 400, 24
FRAMING_BYTES = 5
Place = tuple[int, int]


@pytest.fixture
def registry(server: Server, world: World) -> Server:
    """A registry that has the bombs' schemas, good and bad, and takes those of the outputs."""
    for schema_id, text in SCHEMAS.items():
        server.answers[f"GET /schemas/ids/{schema_id}"] = (200, {"schema": text})
    outputs = (("SCORES", "risk_score", 501), ("ALERTS", "risk_alert", 502))
    for role, name, schema_id in outputs:
        subject = f"{world.names[role]}-value"
        found = {"subject": subject, "id": schema_id, "version": 1}
        found["schema"] = schemas.load(name).text
        server.answers[f"POST /subjects/{subject}"] = (200, found)
    return server


def send_all(world: World) -> dict[Place, str]:
    """The bombs among good records, and a compressed batch; each bomb's name by its place."""
    sent: Counter[int] = Counter()
    at: dict[Place, str] = {}

    def good(count: int) -> Iterator[None]:
        for i in range(count):
            world.send_good(i)
            sent[i % 4] += 1
            yield

    names = iter(BOMBS)
    for _ in good(GOOD):
        if (name := next(names, None)) is not None:
            bomb = BOMBS[name]
            world.send(bomb.value, bomb.key, BAD, list(bomb.headers))  # type: ignore[arg-type]
            at[BAD, sent[BAD]] = name
            sent[BAD] += 1
    assert next(names, None) is None
    world.flush()
    options = {"message.max.bytes": 1_000_000_000, "batch.size": 1_000_000_000, "linger.ms": 1000}
    packed = Producer({"bootstrap.servers": world.bootstrap, "compression.type": "gzip", **options})
    for _ in range(BATCH):
        packed.produce(world.names["TRANSACTIONS"], bytes(1_000_000), b"k", 2)
        at[2, sent[2]] = "compressed"
        sent[2] += 1
        world.sent += 1
    assert packed.flush(60) == 0
    for _ in good(GOOD):
        pass
    world.flush()
    return at


@pytest.mark.parametrize(
    ("transport", "delivery"),
    [("native", "exactly_once"), ("objects", "at_least_once")],
)
def test_every_bomb_comes_back_and_the_worker_goes_on(
    world: World, registry: Server, transport: str, delivery: str
) -> None:
    """Each bomb is one dead letter with its code and its bytes; every good record is scored."""
    worker = world.worker(
        transport=transport,
        delivery=delivery,
        schema_registry_url=registry.settings.schema_registry_url,
    )
    at = send_all(world)
    worker.wait_ready()
    world.wait_committed()
    assert worker.is_running()
    letters = world.read("DEAD_LETTERS")
    assert len(letters) == len(at) == len(BOMBS) + BATCH
    for _, _, key, value, headers in letters:
        partition, offset = (
            int(headers[f"riskwire.error.source.{name}"]) for name in ("partition", "offset")
        )
        name = at[partition, offset]
        if name == "compressed":
            bomb = bombs.Bomb(RejectCode.VALUE_TOO_LARGE, bytes(1_000_000), b"k")
        else:
            bomb = BOMBS[name]
        assert headers["riskwire.error.code"].decode() == bomb.code, name
        assert (key, value) == (bomb.key, bomb.value), name
        assert dict(bomb.headers).items() <= headers.items(), name
    scored = [score(row[3]) for row in world.read("SCORES")]
    assert len(set(scored)) == len(scored) == 2 * GOOD
    assert not set(scored) & at.keys()
    metrics = worker.metrics()
    assert metrics['riskwire_records_total{outcome="scored"}'] == 2 * GOOD
    codes = Counter(bomb.code for bomb in BOMBS.values())
    for code, count in (codes + Counter({RejectCode.VALUE_TOO_LARGE: BATCH})).items():
        assert metrics[f'riskwire_rejects_total{{code="{code}"}}'] == count
    log = worker.log.read_text()
    assert "writer schema is refused" in log
    assert "array items may take zero bytes" in log
    worker.stop()


def score(value: bytes | None) -> Place:
    """Which record a score is of."""
    assert value is not None
    stream = io.BytesIO(value[FRAMING_BYTES:])
    record: Any = fastavro.schemaless_reader(stream, schemas.load("risk_score").parsed, None)
    return record["source_partition"], record["source_offset"]


@pytest.mark.parametrize("transport", ["native", "objects"])
def test_a_batch_that_cannot_be_read_is_not_passed_in_silence(world: World, transport: str) -> None:
    """Librdkafka cannot unpack 4 KB of zstd into 90 MB: its partition stands still, and alarms."""
    options = {"message.max.bytes": 1_000_000_000, "batch.size": 1_000_000_000, "linger.ms": 1000}
    packed = Producer({"bootstrap.servers": world.bootstrap, "compression.type": "zstd", **options})
    for _ in range(90):
        packed.produce(world.names["TRANSACTIONS"], bytes(1_000_000), b"k", 2)
    assert packed.flush(60) == 0
    for i in range(400):
        world.send_good(i)
    world.flush()
    worker = world.worker(transport=transport)
    world.wait_committed(300)  # all partitions but one
    end = time.monotonic() + 60
    while worker.metrics().get("riskwire_partitions_unreadable") != 1:
        assert time.monotonic() < end, worker.log.read_text()[-3000:]
        time.sleep(0.2)
    assert not worker.is_ready()
    assert worker.is_running()
    assert worker.log.read_text().count("a partition cannot be read") == 1
    assert len(world.read("SCORES")) == 300
    worker.stop()
