"""The benchmark's load: a topic full of valid transactions, and the state that they meet.

The payments that follow 45 days of a simulated world of 5,000 customers and 10,000 terminals,
produced once; every lane then reads the same bytes and begins with the same state, its windows
full. Their times end now and span six days at most, closer together than they happened where there
are many: a transaction counts at its terminal after a week only, so that no vector depends on how
far another partition has been read, and lanes that read at their own pace can be compared. The
same seed and end give the same records. Raises BrokerUnavailable, StoreUnavailable or ModelError.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from pydantic import SecretStr

import schemas
from app.adapters.admin import fill
from app.adapters.memory import MemoryStore
from app.adapters.redis import RedisStore
from app.backfill import backfill
from app.bench.lanes.lane import PARTITIONS
from app.demo.traffic import HISTORY_DAYS, divided, encoded, past_log
from features.blob import meta_key
from features.contract import DAY_US, LABEL_DELAY_DAYS, Timing, contract_id
from models.handbook import Payments, World
from models.manifest import read

WORLD = World(seed=11)
SPAN_US = (LABEL_DELAY_DAYS - 1) * DAY_US
STATE = f"{HISTORY_DAYS} days of {WORLD.customers:,} customers and {WORLD.terminals:,} terminals"
TIMEOUT_MS = 10_000


class Load(NamedTuple):
    """What happened before and what is to be scored; it ends at `now_us`."""

    past: Payments
    coming: Payments
    now_us: int


def load(n: int) -> Load:
    """`n` payments that end now, so that none lies in the future, and the past before them."""
    now_us = time.time_ns() // 1000
    past, coming = divided(WORLD, n, 0)
    rounds, place = np.divmod(np.arange(n), len(coming))
    times_us = coming.event_time_us[place] + rounds * coming.event_time_us[-1]
    pace = min(1.0, SPAN_US / int(times_us[-1]))
    begin_us = now_us - int(times_us[-1] * pace)
    coming = replace(
        coming.take(place), event_time_us=begin_us + (times_us * pace).astype(np.int64)
    )
    past = replace(past, event_time_us=past.event_time_us + begin_us)
    return Load(past, coming, now_us)


def fill_topic(bootstrap: str, topic: str, coming: Payments) -> int:
    """Produce the payments; the count."""
    header = schemas.load("transaction").single_object_header
    return fill(bootstrap, topic, encoded(coming, "tx", 0, header))


def state_of(its: Load) -> tuple[Timing, dict[bytes, bytes]]:
    """The shipped model's timing, and the state as Redis is to have it, by key.

    It stands at `now_us`: the labels log is complete up to there.
    """
    timing, store = read().manifest.timing, MemoryStore()
    log = past_log(its.past, timing)
    asyncio.run(backfill(store, log, its.now_us, timing, PARTITIONS))
    return timing, store.blobs


def write_state(redis_url: str, timing: Timing, blobs: Mapping[bytes, bytes]) -> None:
    """Let Redis have this state of all partitions and no other, nobody owning it."""
    asyncio.run(_write(redis_url, timing, blobs))


async def _write(redis_url: str, timing: Timing, blobs: Mapping[bytes, bytes]) -> None:
    store = RedisStore(SecretStr(redis_url), TIMEOUT_MS)
    try:
        for partition in range(PARTITIONS):
            await store.delete(meta_key(contract_id(timing), partition).removesuffix(b"meta"))
        await store.write(list(blobs.items()))
    finally:
        await store.close()
