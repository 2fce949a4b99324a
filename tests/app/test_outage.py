"""Redis away with `degrade`: scores go on, say so where they must, and the state comes right."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from app.adapters.memory import MemoryStore
from app.backoff import Backoff
from app.outage import Outage
from features.contract import LIVE
from features.state import TRANSACTIONS
from tests.app.streams import Stream, Worker, one_each, random_log
from tests.app.test_intake import until
from tests.app.test_worker import AT, Bench

BUDGET_S = 0.05
PARTITIONS = 2


class SlowStore(MemoryStore):
    """A store that may hang."""

    hangs = False

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `StateStore.fetch`."""
        if self.hangs:
            await asyncio.sleep(3600)
        return await super().fetch(keys)


def stream_of(n: int = 900, seed: int = 5, people: int = 60) -> Stream:
    """A log over two partitions whose labels come in time."""
    return Stream(random_log(seed, n, PARTITIONS, LIVE, people=people), PARTITIONS, LIVE)


def degrading(stream: Stream, name: str = "w", customers_max: int = 4096) -> Worker:
    """A worker that waits for no store."""
    worker = Worker(stream, name, customers_max, 4096 * PARTITIONS)
    outage = Outage(stream.store, Backoff(), BUDGET_S)
    worker.enrich = dataclasses.replace(worker.enrich, outage=outage)
    return worker


async def read(worker: Worker, batches: int = 1) -> int:
    """Read some; how many of it were degraded."""
    before = worker.stream.computed["degraded"]
    for _ in range(batches):
        await worker.read(30, 0)
    return worker.stream.computed["degraded"] - before


@pytest.mark.parametrize("away", ["refuses", "hangs"])
async def test_vectors_while_redis_is_away_and_after(away: str) -> None:
    """Who is in memory is scored exactly; the others get defaults, and all are exact again later.

    `Stream.check` compares each vector that is neither provisional nor degraded.
    """
    stream, store = stream_of(), SlowStore()
    stream.store = store
    first = degrading(stream, "w1")
    await first.claim(0, 1)
    await read(first, 8)
    await first.flush()
    worker = degrading(stream, "w2")  # knows nobody yet
    await worker.claim(0, 1)
    assert await read(worker) == 0
    flushed = {p: meta.next_offset for p, meta in worker.live.owned.items()}
    store.away, store.hangs = away == "refuses", away == "hangs"
    exact = stream.computed["final"]
    degraded = await read(worker, 6)
    assert 10 < degraded < 180
    assert stream.computed["final"] > exact  # others went on as ever
    assert worker.live.lacking.partitions == {0, 1}
    await worker.begin_flush()
    assert worker.late == []  # nothing wrong may be written
    store.away = store.hangs = False
    outage = worker.enrich.outage
    assert outage is not None
    await until(lambda: not outage.is_away)
    assert await read(worker) > 0  # still: what Redis has is older than what is in memory
    await worker.claim(0, 1)
    assert {p: meta.next_offset for p, meta in worker.live.owned.items()} == flushed
    assert worker.live.lacking.partitions == set()
    computed = stream.computed["final"]
    assert await read(worker, 30) == 0
    assert stream.computed["final"] > computed + 300


async def test_no_batch_waits_again_while_redis_is_away() -> None:
    """The budget is paid once; somebody asks meanwhile, and says when Redis is back."""
    store, backoff = SlowStore(), Backoff()
    outage = Outage(store, backoff, BUDGET_S)
    returned = asyncio.Event()
    outage.returned = returned.set
    assert await outage.fetch([b"k"]) == [None]
    store.hangs = True
    assert await outage.fetch([b"k"]) is None
    assert outage.is_away
    assert "Redis" in backoff.away
    store.hangs, store.away = False, True
    began = asyncio.get_running_loop().time()
    for _ in range(1000):
        assert await outage.fetch([b"k"]) is None
    assert asyncio.get_running_loop().time() - began < 1000 * BUDGET_S
    assert not returned.is_set()
    store.away = False
    await asyncio.wait_for(returned.wait(), 5)
    assert not outage.is_away
    assert backoff.away == {}
    assert await outage.fetch([b"k"]) == [None]


async def test_a_short_interruption_degrades_nothing() -> None:
    """Within the budget it is tried again."""
    store = SlowStore()
    outage = Outage(store, Backoff(), 5.0)
    store.away = True
    task = asyncio.create_task(outage.fetch([b"k"]))
    await asyncio.sleep(0.05)
    store.away = False
    assert await asyncio.wait_for(task, 5) == [None]
    assert not outage.is_away


async def test_a_full_state_while_redis_is_away_is_given_up() -> None:
    """Nothing can be flushed, so nothing could be evicted: the memory is emptied instead."""
    n = 4096 + 60
    stream = one_each(n, 1)
    worker = Worker(stream, "w", 4096, 4096)
    outage = Outage(stream.store, worker.enrich.backoff, BUDGET_S)

    async def flush() -> None:
        async def write(_: None) -> None:
            await worker.flush()

        await worker.enrich.backoff.until_available("Redis", write, None)

    worker.enrich = dataclasses.replace(worker.enrich, outage=outage, flush=flush)
    await worker.claim(0)
    for _ in range(3):
        await worker.read(1024, 0)
    stream.store.away = True
    await asyncio.wait_for(worker.read(1024, 0), 30)
    assert await asyncio.wait_for(worker.read(60, 0), 30) == 60
    assert stream.computed["degraded"] == 1024 + 60
    assert len(worker.live.customers) <= 1024 + 60
    assert worker.live.next_offset[TRANSACTIONS, 0] == n
    await outage.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A running worker that waits for no store."""
    bench = Bench()
    parts = bench.worker.parts
    outage = Outage(bench.store, parts.backoff, BUDGET_S)
    outage.returned = bench.worker.intake.go_back
    enrich = dataclasses.replace(parts.enrich, outage=outage)
    bench.worker.parts = dataclasses.replace(parts, enrich=enrich)
    bench.worker.delivery.open()
    bench.worker.intake.start()
    agent = asyncio.create_task(bench.run())
    await until(bench.is_assigned)
    yield bench
    await bench.worker.drain()
    agent.cancel()


def scored(bench: Bench) -> Callable[[], int]:
    """How many scores went out."""
    return lambda: sum(len(out.columns[0]) for _, out in bench.sinks[0].sent if out.columns)


async def test_a_worker_goes_on_and_goes_back_when_redis_is_back(bench: Bench) -> None:
    """Records are scored meanwhile, once each; then the state is made again, silently."""
    count = scored(bench)
    bench.add(0, 5)
    await until(lambda: bench.source.commits == {AT: 5})
    await until(lambda: bench.worker.ownership.live.owned[0].next_offset[0] == 5)  # flushed
    bench.store.away = True
    bench.add(5, 2)  # two customers that are not in memory
    await until(lambda: bench.source.commits == {AT: 7})
    assert count() == 7
    assert bench.worker.metrics.registry.get_sample_value("riskwire_degraded_total") == 2
    assert not bench.worker.readiness()[0]
    bench.store.away = False
    await until(lambda: len(bench.source.sought) == 2)
    assert bench.source.sought[-1][AT] == 5
    bench.add(5, 4)  # two again
    await until(lambda: bench.source.commits == {AT: 9})
    assert count() == 9
    assert bench.worker.metrics.registry.get_sample_value("riskwire_degraded_total") == 2
    await until(lambda: bench.worker.ownership.live.owned[0].next_offset[0] == 9)
    assert bench.worker.readiness() == (True, [])


async def test_partitions_given_up_meanwhile_are_not_written(bench: Bench) -> None:
    """What is in memory is not the state: the next owner goes on from what Redis has."""
    bench.add(0, 5)
    await until(lambda: bench.worker.ownership.live.owned[0].next_offset[0] == 5)
    before = dict(bench.store.blobs)
    bench.store.away = True
    bench.add(5, 2)
    await until(lambda: bench.source.commits == {AT: 7})
    assert bench.worker.ownership.live.lacking.partitions == {0}
    outage = bench.worker.parts.enrich.outage
    assert outage is not None
    outage.returned = lambda: None
    bench.store.away = False
    await asyncio.to_thread(bench.source.revoke)
    assert bench.store.blobs == before
