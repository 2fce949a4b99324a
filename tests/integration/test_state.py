"""The state's tools on a real Kafka and Redis, beside a real worker: what is lost comes back."""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from app import state_status, state_tools
from app.adapters.redis import RedisStore
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
from tests.integration.test_worker import PARTITIONS, World, unused_port

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
    world.flush()
    world.wait_committed()
    with pytest.raises(ConfigError, match="is owned by the worker"):
        state_tools.rebuild(settings, [], None, from_log=False)
    worker.stop()
    before = in_redis(settings)
    assert state_tools.verify(settings, [], as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert [each["next_offset"][0] for each in report["partitions"]] == [150] * PARTITIONS
    began = [Path(each["began_with"]).name for each in report["partitions"]]
    assert began == [f"p{p}.0-0.snapshot" for p in range(PARTITIONS)]
    assert state_status.run(settings, as_json=False) == 0
    assert "wants" not in capsys.readouterr().out

    lose(settings)
    assert state_status.run(settings, as_json=True) == 1
    assert "no state though" in capsys.readouterr().out
    worker = world.worker(snapshot_dir=kept).wait_ready()
    worker.stop()
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
    worker.stop()
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
    world.workers[-1].stop()
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
    world.worker().wait_ready().stop()
    assert in_redis(settings) == expected
    assert len(world.scores()) == 480
    with pytest.raises(ConfigError, match="fits partition 3"):
        state_tools.rebuild(settings, [3], tmp_path, from_log=False)
