"""The state's tools on a real Kafka and Redis, beside a real worker: what is lost comes back."""

import asyncio
import dataclasses
import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fastavro
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

import schemas
from app import state_status, state_tools
from app.adapters.admin import fill
from app.adapters.records import oldest_append_us, read
from app.adapters.redis import RedisStore
from app.adapters.topics import positions
from app.backfill import backfill, with_store
from app.config import Settings, load_settings
from app.demo.cluster import Kafka
from app.demo.redis_local import RedisServer
from app.demo.traffic import divided, past_log
from app.errors import ConfigError
from app.meta import Meta, namespace
from app.snapshots import found
from features.blob import meta_key
from features.contract import DAY_US, contract_id
from models import manifest
from models.handbook import World as People
from tests.integration.conftest import MakeTopic
from tests.integration.world import PARTITIONS, Worker, World, unused_port

__all__ = ["unused_port"]
TIMING = manifest.read(None).manifest.timing


@pytest.fixture
def world(
    kafka: Kafka,
    topic: MakeTopic,
    own_redis: RedisServer,
    tmp_path: Path,
    unused_port: Callable[[], int],
) -> Iterator[World]:
    """Fresh topics, a Redis of the test's own, workers that are ended with the test."""
    arriving = {"message_timestamp_type": "LogAppendTime"}
    names = {
        "TRANSACTIONS": topic("in", PARTITIONS, **arriving),
        "LABELS": topic("labels", PARTITIONS, **arriving),
        **{role: topic(role.lower(), PARTITIONS) for role in ("SCORES", "ALERTS", "WATERMARKS")},
        "DEAD_LETTERS": topic("dead", PARTITIONS, max_message_bytes="4194304"),
    }
    world = World(kafka.bootstrap, own_redis.url, names, tmp_path, unused_port)
    yield world
    for worker in world.workers:
        if worker.is_running():
            worker.kill()


def settings_of(world: World, snapshot_dir: Path | None = None) -> Settings:
    """Those of the world's workers."""
    topics = {f"topic_{role.lower()}": name for role, name in world.names.items()}
    return load_settings(
        bootstrap_servers=world.bootstrap,
        redis_url=SecretStr(world.redis_url),
        group_id=world.group,
        state_namespace=world.group,
        snapshot_dir=snapshot_dir,
        **topics,
    )


def in_redis(settings: Settings) -> dict[bytes, bytes]:
    """All blobs, and of each partition what is said of it but for whose it is."""

    async def read(store: RedisStore) -> dict[bytes, bytes]:
        keys = [key async for key in store.scan(b"rw:")]
        return {
            key: _bare(blob) if key.endswith(b":meta") else blob
            for key, blob in zip(keys, await store.fetch(keys), strict=True)
            if blob is not None
        }

    return asyncio.run(with_store(settings, read))


def _bare(value: bytes) -> bytes:
    meta = Meta.parse(value)
    assert meta is not None
    nobody = {"epoch": 0, "owner": "", "transactional_id": "", "next_mark": 0}
    return dataclasses.replace(meta, quiet_us=(0, 0), **nobody).encode()  # type: ignore[arg-type]


def lose(settings: Settings) -> None:
    """FLUSHALL."""

    async def flush(store: RedisStore) -> None:
        await store._client.flushall()

    asyncio.run(with_store(settings, flush))


def stop(worker: Worker) -> None:
    """SIGTERM, and wait until it has ended well, however busy this machine is."""
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0


def send_labels(world: World, count: int) -> None:
    """Outcomes of some days ago on every partition, one of them broken, and wait for their end."""
    schema, producer = schemas.load("fraud_label"), Producer({"bootstrap.servers": world.bootstrap})
    now_us = time.time_ns() // 1000
    for i in range(count):
        stream = io.BytesIO()
        record = {
            "transaction_id": f"x{i}", "customer_id": f"new{i % 50}", "terminal_id": f"t{i % 3}",
            "event_time": now_us - 10 * DAY_US - i, "known_at": now_us - i, "fraud": i % 3 > 0,
            "source": schema.parsed["fields"][-1]["type"]["symbols"][0],
        }  # fmt: skip
        fastavro.schemaless_writer(stream, schema.parsed, record)
        value = schema.single_object_header + stream.getvalue()
        key = f"new{i % 50}".encode() if i else b"another"
        producer.produce(world.names["LABELS"], value, key, i % PARTITIONS)
    assert producer.flush(30) == 0
    settings, end_s = settings_of(world), time.monotonic() + 60
    while sum(at for at, *_ in positions(settings, world.names["LABELS"]).values()) < count:
        assert time.monotonic() < end_s
        time.sleep(0.1)


def test_a_backfilled_past_survives_the_loss_of_redis(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost, restored from the backfill's snapshot and caught up: bit for bit as it was.

    `verify` says so of what is there, and names a blob that was changed; `status` says nothing
    wants attention, and what does where there is no snapshot.
    """
    kept = tmp_path / "snapshots"
    settings = settings_of(world, kept)
    people, until_us = People(3, customers=60, terminals=40, radius=30.0), 20_000 * DAY_US
    past = past_log(divided(people, 0, until_us, 30)[0], TIMING)

    async def fill(store: RedisStore) -> None:
        its = (past, until_us, TIMING, PARTITIONS)
        await backfill(store, *its, name=world.group, snapshot_dir=kept)

    asyncio.run(with_store(settings, fill))
    worker = world.worker(snapshot_dir=kept).wait_ready()
    tokens = [token.decode() for token in past.customer_tokens[:20]]
    for i in range(600):
        world.send_good(i, customer_id=tokens[i % 20] if i % 2 else f"new{i % 50}")
    world.send(b"broken", b"c1", 2)
    world.flush()
    world.wait_committed()
    send_labels(world, 100)
    with pytest.raises(ConfigError, match="is owned by the worker"):
        state_tools.rebuild(settings, [], None, from_log=False)
    stop(worker)
    before = in_redis(settings)
    assert state_tools.verify(settings, [], as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert [each["next_offset"] for each in report["partitions"]] == [
        [150 + (p == 2), 25] for p in range(PARTITIONS)
    ]
    began = [Path(each["began_with"]).name for each in report["partitions"]]
    assert began == [f"p{p}.0-0.snapshot" for p in range(PARTITIONS)]
    assert state_status.run(settings, as_json=False) == 0
    assert "wants" not in capsys.readouterr().out

    lose(settings)
    assert state_status.run(settings, as_json=True) == 1
    assert "no state though" in capsys.readouterr().out
    worker = world.worker(snapshot_dir=kept).wait_ready()
    stop(worker)
    assert "restored from a snapshot" in worker.log.read_text()
    after = in_redis(settings)
    assert after.keys() == before.keys()
    assert after == before

    spoilt = next(key for key in after if b":c:new" in key)
    guard = spoilt.split(b":c:")[0] + b":meta"

    async def spoil(store: RedisStore) -> None:
        [value] = await store.fetch([guard])
        assert await store.flush(guard, value, value or b"", [(spoilt, after[spoilt] + b"x")])

    asyncio.run(with_store(settings, spoil))
    assert state_tools.verify(settings, [], as_json=False) == 1
    page = capsys.readouterr().out
    assert f"different: {spoilt.decode()}" in page
    assert page.count("as the logs say") == PARTITIONS - 1
    assert state_tools.verify(settings_of(world), [], as_json=False) == 1
    assert "goes on from a backfilled past" in capsys.readouterr().out
    assert state_status.run(settings_of(world), as_json=False) == 1
    assert "the backfilled past is lost with it" in capsys.readouterr().out


def test_snapshot_and_rebuild(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Taken beside a worker at work; the next owner goes on from it, or from the oldest records."""
    kept = tmp_path / "snapshots"
    settings = settings_of(world, kept)
    worker = world.worker(state_flush_ms=10_000).wait_ready()
    for i in range(400):
        world.send_good(i)
    world.flush()
    world.wait_committed()
    state_tools.snapshot(settings, None, [0, 1])
    stop(worker)
    before = in_redis(settings)
    state_tools.snapshot(settings, None, [])
    space = namespace(contract_id(TIMING), world.group)
    newest = [found(kept, space, p)[0].meta.next_offset for p in range(PARTITIONS)]
    assert newest == [(100, 0)] * PARTITIONS
    for i in range(400, 480):
        world.send_good(i)
    world.flush()
    world.worker().wait_ready()
    world.wait_committed()
    stop(world.workers[-1])
    expected = in_redis(settings)
    state_tools.rebuild(settings, [0, 2], None, from_log=False)
    state_tools.rebuild(settings, [1], None, from_log=True)
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert ["restored" in line for line in lines] == [True, True, False]
    back = in_redis(settings)
    assert {key: back[key] for key in back if b"{p0}" in key} == {
        key: before[key] for key in before if b"{p0}" in key
    }
    assert [key for key in back if b"{p1}" in key] == [meta_key(space, 1)]
    assert state_tools.verify(settings, [], as_json=False) == 0
    stop(world.worker().wait_ready())
    assert in_redis(settings) == expected
    assert len(world.scores()) == 480
    with pytest.raises(ConfigError, match="fits partition 3"):
        state_tools.rebuild(settings, [3], tmp_path, from_log=False)


def test_a_part_of_a_log(kafka: Kafka, topic: MakeTopic) -> None:
    """From an offset until before another or the end, whatever is gone or holds no record."""
    name = topic("part", 1, message_timestamp_type="LogAppendTime")
    settings = load_settings(bootstrap_servers=kafka.bootstrap, batch_records_max=16)
    began_us = time.time_ns() // 1000
    fill(kafka.bootstrap, name, [(b"k", b"%d" % i) for i in range(100)])
    writer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": name})
    writer.init_transactions(30)
    writer.begin_transaction()
    writer.produce(name, b"aborted", b"k", 0)
    writer.flush(30)
    writer.abort_transaction(30)

    def offsets(start: int, stop: int) -> list[int]:
        batches = list(read(settings, name, 0, start, stop))
        assert all(0 < len(batch) <= 16 for batch in batches)
        return [int(offset) for batch in batches for offset in batch.offset]

    assert offsets(5, 40) == list(range(5, 40))
    assert offsets(90, 102) == list(range(90, 100)), "the rest was aborted"
    assert offsets(7, 7) == []
    assert -1_000 < oldest_append_us(settings, name, 0) - began_us < 60_000_000
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    [done] = admin.delete_records([TopicPartition(name, 0, 30)]).values()
    done.result(30)
    assert offsets(30, 50) == list(range(30, 50))
    assert oldest_append_us(settings, name, 0) - began_us < 60_000_000
