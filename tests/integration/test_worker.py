"""The worker as a process, on a real Kafka and a real Redis: whatever happens, nothing is lost."""

import io
import json
import random
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

import schemas
from app.adapters.admin import create_topics
from app.bench import load
from app.decide import DECISIONS
from app.demo.cluster import OwnKafka
from app.demo.redis_local import RedisServer
from app.demo.traffic import encoded
from tests.integration.conftest import MakeTopic
from tests.integration.world import (
    BROKEN,
    HEADER,
    PARTITIONS,
    Output,
    World,
    avro,
    unused_port,
    world,
)

__all__ = ["unused_port", "world"]


@pytest.mark.parametrize("transport", ["native", "objects"])
def test_every_record_is_scored_or_dead_lettered(world: World, transport: str) -> None:
    """Good and broken records together: one score or one dead letter each, to their partition."""
    for i in range(2000):
        world.send_good(i)
    for value, key in BROKEN.values():
        world.send(value, key, 1, headers=[("trace", b"7")])
    for i in range(2000, 2500):
        world.send_good(i)
    world.flush()
    worker = world.worker(transport=transport).wait_ready()
    world.wait_committed()
    assert world.check_complete(duplicates=False) == (2500, len(BROKEN))
    letters = world.read("DEAD_LETTERS")
    assert {row[4]["riskwire.error.code"].decode() for row in letters} == set(BROKEN)
    for partition, _, kept_key, kept, headers in letters:
        assert (kept, kept_key) == BROKEN[headers["riskwire.error.code"].decode()]
        assert partition == 1
        assert headers["trace"] == b"7"
    scores = world.scores()
    assert all(s["_partition"] == s["source_partition"] for s in scores)
    assert all(s["decision"] in DECISIONS and 0 <= s["score"] <= 1 for s in scores)
    assert all(s["latency"]["append_time_type"] == "LOG_APPEND_TIME" for s in scores)
    metrics = worker.metrics()
    assert metrics['riskwire_records_total{outcome="scored"}'] == 2500
    assert metrics['riskwire_records_total{outcome="rejected"}'] == len(BROKEN)
    worker.stop()


def test_both_transports_write_the_same_bytes(world: World, topic: MakeTopic) -> None:
    """The same input through native and objects: equal outputs apart from their times."""
    for key, value in encoded(load.load(3000).coming, "tx", 0, HEADER):
        world.send(value, key, world.sent % PARTITIONS)
    for broken, key in BROKEN.values():
        world.send(broken, key, 2)
    world.flush()
    outputs: list[list[Output]] = []
    for transport in ("native", "objects"):
        world.group = f"{transport}-{uuid.uuid4().hex[:8]}"
        for role in ("SCORES", "ALERTS", "DEAD_LETTERS"):
            name = role.lower().replace("_", "-")
            world.names[role] = topic(name, PARTITIONS, max_message_bytes="4194304")
        worker = world.worker(transport=transport).wait_ready()
        world.wait_committed()
        worker.stop()
        rows = [world.read(role) for role in ("SCORES", "ALERTS", "DEAD_LETTERS")]
        named = zip(_NAMES, rows, strict=True)
        outputs.append([_timeless(name, row) for name, part in named for row in part])
    assert len(outputs[0]) > 3000
    assert outputs[0] == outputs[1]


_NAMES = ("risk_score", "risk_alert", None)


def _timeless(name: str | None, row: Output) -> Output:
    """A record without its times and its offset: transactions' marks take offsets too."""
    partition, _, key, value, headers = row
    headers = {k: v for k, v in headers.items() if k != "riskwire.error.first_seen"}
    if name is not None:
        record = avro(name, value)
        for instant in ("polled", "decoded", "enriched", "scored", "emitted"):
            record["latency"][instant] = 0
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schemas.load(name).parsed, record)
        value = stream.getvalue()
    return partition, 0, key, value, headers


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("transport", ["native", "objects"])
def test_kill_9_at_random_moments_loses_nothing(
    world: World, transport: str, delivery: str
) -> None:
    """Kills under load: in the end every input offset has a score or a dead letter; or just one.

    `riskwire chaos` does many more.
    """
    kills = 3 if transport == "native" else 1
    rng = random.Random(20)  # noqa: S311 -- repeatable
    # A static member comes back at once; a dynamic one waits for its predecessor's session to end.
    static = json.dumps({"group.instance.id": "one", "session.timeout.ms": "6000"})
    settings = {"transport": transport, "delivery": delivery, "consumer_options": static}
    worker, i = world.worker(**settings), 0
    for _ in range(kills):
        worker.wait_ready()
        end = time.monotonic() + rng.uniform(0.05, 1.0)
        while time.monotonic() < end:
            for _ in range(200):
                world.send_good(i)
                i += 1
            if rng.random() < 0.3:
                world.send(b"broken", b"k", rng.randrange(PARTITIONS))
            world._producer.poll(0)
        worker.kill()
        worker = world.worker(**settings)
    world.flush()
    world.wait_committed(timeout_s=90)
    scored, _ = world.check_complete(duplicates=delivery == "at_least_once")
    assert scored == i
    repeated: dict[tuple[int, int], dict[str, Any]] = {}
    for score in world.scores():
        at = score["source_partition"], score["source_offset"]
        same = {k: v for k, v in score.items() if k != "latency"}
        assert repeated.setdefault(at, same) == same


@pytest.mark.parametrize("transport", ["native", "objects"])
def test_a_rebalance_loses_nothing(world: World, transport: str) -> None:
    """A second worker joins under load, the first leaves: nothing is lost, nothing comes twice.

    Whoever stays goes on without doubt.
    """
    one = world.worker(transport=transport).wait_ready()
    for i in range(3000):
        world.send_good(i)
    two = world.worker(transport=transport).wait_ready()
    for i in range(3000, 9000):
        world.send_good(i)
        if i % 1000 == 0:
            world.flush()
            time.sleep(0.3)
    world.flush()
    one.stop()
    for i in range(9000, 12_000):
        world.send_good(i)
    world.flush()
    world.wait_committed()
    two.stop()
    assert world.check_complete(duplicates=False) == (12_000, 0)
    for worker in (one, two):
        log = worker.log.read_text()
        assert not [word for word in ("in doubt", "with work in hand") if word in log]


def test_redis_away_means_waiting(world: World, own_redis: RedisServer) -> None:
    """While Redis is down nothing is scored, nothing lost; the log says so; then all is scored."""
    world.redis_url = own_redis.url
    worker = world.worker(redis_timeout_ms=200).wait_ready()
    own_redis.stop()
    for i in range(300):
        world.send_good(i)
    world.flush()
    end = time.monotonic() + 20
    while "Redis is away" not in worker.log.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not worker.is_ready()
    assert worker.process.poll() is None
    assert world.committed() == 0
    own_redis.start()
    world.wait_committed()
    assert world.check_complete(duplicates=False) == (300, 0)
    assert "Redis is back" in worker.log.read_text()
    said = worker.log.read_text().count("Redis is away")
    own_redis.stop()
    for i in range(300, 400):
        world.send_good(i, customer_id=f"new{i}")
    world.flush()
    while worker.log.read_text().count("Redis is away") == said:
        assert time.monotonic() < end + 60
        time.sleep(0.05)
    worker.stop()


def test_the_broker_away_means_waiting(
    own_kafka: OwnKafka, redis_url: str, tmp_path: Path, unused_port: Callable[[], int]
) -> None:
    """The broker is killed and comes back: the worker lives, and every record is scored."""
    roles = ("TRANSACTIONS", "SCORES", "ALERTS", "DEAD_LETTERS", "WATERMARKS")
    names = {role: role.lower().replace("_", "-") for role in roles}
    create_topics(own_kafka.bootstrap, dict.fromkeys(names.values(), PARTITIONS), {})
    world = World(own_kafka.bootstrap, redis_url, names, tmp_path, unused_port)
    worker = world.worker().wait_ready()
    try:
        for i in range(500):
            world.send_good(i)
        world.flush()
        world.wait_committed()
        for i in range(500, 800):
            world.send_good(i)
        own_kafka.kill()  # with some of these sent, scored, in a transaction, and some not
        for i in range(800, 1000):
            world.send_good(i)
        time.sleep(2)
        assert worker.process.poll() is None
        own_kafka.start()
        world.flush()
        world.wait_committed(timeout_s=90)
        assert world.check_complete(duplicates=False) == (1000, 0)
        own_kafka.kill()
        worker.stop()
    finally:
        if worker.process.poll() is None:
            worker.kill()


def test_logs_are_json_and_name_no_payload(world: World) -> None:
    """Every log line of a worker is one JSON object; no bytes of a record are in it."""
    world.send(b"\x00secret-in-a-record", b"c0")
    world.send_good(1, transaction_id="secret-id")
    world.flush()
    worker = world.worker(log_level="DEBUG").wait_ready()
    world.wait_committed()
    worker.stop()
    lines = worker.log.read_text().splitlines()
    assert all("event" in json.loads(line) for line in lines)
    assert "secret" not in worker.log.read_text()
