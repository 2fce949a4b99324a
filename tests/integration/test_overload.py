"""Redis away under load, and records of any size: nothing lost or doubled, vectors bit for bit."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from app.adapters.watermarks import declare
from app.config import load_settings
from app.demo.cluster import Kafka
from app.demo.redis_local import RedisServer
from app.watermarks import Watermark
from features.contract import LIVE
from features.offline import Log, vectors
from features.state import LABELS
from features.xxh64 import vector_hash
from tests.app.streams import random_log
from tests.integration.conftest import MakeTopic
from tests.integration.test_transport import (
    Listener,
    MakeSource,
    _fill,
    _options,
    both_sources,
    group,
)
from tests.integration.world import PARTITIONS, Worker, World, unused_port, world

__all__ = ["group", "unused_port", "world"]
THIRD = 600
FOREVER_US = 4_000_000_000_000_000


def unlabelled(seed: int = 2) -> Log:
    """Payments of 45 days of many customers at some terminals, of which no outcome is known."""
    log = random_log(seed, 3 * THIRD, PARTITIONS, LIVE, people=300, places=30)
    return replace(log, fraud=np.full(len(log), -1, np.int8))


def send(world: World, log: Log, rows: range) -> None:
    """Send payments, of which the number is in the id."""
    for i in rows:
        world.send_good(
            i,
            int(log.partition[i]),
            customer_id=f"c{log.customer[i]}",
            terminal_id=f"t{log.terminal[i]}",
            event_time=int(log.event_time_us[i]),
            amount_minor=int(log.amount_minor[i]),
        )
        if i % 50 == 0:
            world.flush()
    world.flush()


def wait(condition: Callable[[], object], worker: Worker, timeout_s: float = 60) -> None:
    """Wait until it holds, or show the worker's log."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, worker.log.read_text()[-3000:]
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("redis_away", "how"), [("hold", "killed"), ("degrade", "killed"), ("degrade", "stopped")]
)
def test_redis_away_under_load(
    world: World, own_redis: RedisServer, redis_away: str, how: str
) -> None:
    """A worker that knows nobody yet meets a Redis that is killed (and forgets), or hangs.

    `hold` waits; `degrade` scores, and says of which scores something is missing. Either way every
    payment has one score, and every vector that lacks nothing is that of the offline run.
    """
    log, world.redis_url = unlabelled(), own_redis.url
    settings = load_settings(
        bootstrap_servers=world.bootstrap,
        group_id=world.group,
        topic_watermarks=world.names["WATERMARKS"],
    )
    marks = [(p, Watermark(LABELS, 0, FOREVER_US)) for p in range(PARTITIONS)]
    declare(settings, marks)  # that no outcome will come, so that scores can be final
    limits = {"redis_timeout_ms": 300, "degrade_after_ms": 100, "state_flush_ms": 200}
    first = world.worker(redis_away=redis_away, **limits).wait_ready()
    send(world, log, range(THIRD))
    world.wait_committed()
    first.process.terminate()
    assert first.process.wait(30) == 0
    worker = world.worker(redis_away=redis_away, **limits).wait_ready()
    pid = own_redis.pid
    if how == "killed":
        own_redis.kill()
    else:
        os.kill(pid, signal.SIGSTOP)
    try:
        send(world, log, range(THIRD, 2 * THIRD))
        wait(lambda: "Redis is away" in worker.log.read_text(), worker)
        if redis_away == "hold":
            assert world.committed() < 2 * THIRD
        else:
            world.wait_committed()
    finally:
        if how == "killed":
            own_redis.start()
        else:
            os.kill(pid, signal.SIGCONT)
    wait(worker.is_ready, worker)
    world.wait_committed()
    if redis_away == "degrade":
        wait(lambda: worker.log.read_text().count("partitions are read") == 2, worker)
    send(world, log, range(2 * THIRD, 3 * THIRD))
    world.wait_committed()
    assert world.check_complete(duplicates=False) == (3 * THIRD, 0)
    compare(world, log, redis_away)
    degraded = worker.metrics()["riskwire_degraded_total"]
    assert (degraded > 0) == (redis_away == "degrade")


def compare(world: World, log: Log, redis_away: str) -> None:
    """Which vectors are the offline ones, and which may be others."""
    expected = vector_hash(vectors(log, LIVE))
    compared, degraded = [], []
    for score in world.scores():
        i = int(score["transaction_id"][1:])
        if score["degraded"]:
            degraded.append(i)
        elif not score["provisional"]:
            compared.append(i)
            assert int.from_bytes(score["vector_hash"], "big") == int(expected[i]), i
    assert set(degraded) <= set(range(THIRD, 2 * THIRD))
    assert bool(degraded) == (redis_away == "degrade")
    assert sum(i >= 2 * THIRD for i in compared) > THIRD // 2


@both_sources
def test_a_batch_ends_by_bytes(
    kafka: Kafka, topic: MakeTopic, group: str, make: MakeSource
) -> None:
    """Records of 900 kB with headers: a few a batch, whatever the bound in records is."""
    name, value = topic("large", 2), bytes(800_000)
    _fill(kafka, name, [(i % 2, b"k", value, [("h", bytes(100_000))]) for i in range(40)])
    options = _options(kafka, group, queued_max_messages_kbytes="8192", fetch_max_bytes="4194304")
    sizes: list[int] = []
    offsets: list[tuple[int, int]] = []
    with closing(make(options, [name], Listener(), 2048, (), 4 << 20)) as source:
        end = time.monotonic() + 30
        while len(offsets) < 40:
            assert time.monotonic() < end
            for batch in source.poll(2048, 200, 100):
                sizes.append(batch.nbytes)
                offsets += [*zip(batch.partition.tolist(), batch.offset.tolist(), strict=True)]
    assert sorted(offsets) == [(p, o) for p in range(2) for o in range(20)]
    assert max(sizes) < (4 << 20) + 1_000_000
    assert len(sizes) >= 8
