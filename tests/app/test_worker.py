"""The worker over memory adapters: when offsets may be committed, what a failed delivery does."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from app.adapters.memory import MemorySink, MemorySource, MemoryStore, MemoryWatermarks
from app.batching import BatchPolicy
from app.config import load_settings
from app.delivery import Announcements, Delivery
from app.enrich import Enrich
from app.intake import Intake, IntakeLimits
from app.labels import label_writers
from app.ledger import Ledger
from app.live import Live
from app.meta import Meta
from app.metrics import Metrics
from app.ownership import Ownership
from app.pipeline import LabelParts
from app.ports import RebalanceListener, Sink, Source
from app.watermarks import parse
from app.wiring import _wire_formats
from app.worker import Worker
from features.blob import meta_key
from features.contract import LIVE
from features.state import LABELS, NEVER, TRANSACTIONS
from tests.app.builders import record_batch
from tests.app.test_intake import until
from tests.app.test_pipeline import parts, value

TOPICS = ("transactions", "labels")
AT, LABELS_AT = ("transactions", 0), ("labels", 0)


class Bench:
    """A worker whose Kafka is in memory, driven as Faust's agent would."""

    def __init__(self) -> None:
        self.sinks: list[MemorySink] = []
        self.skipped_us = 0
        self.fenced: list[str] = []
        self._opened: MemorySource | None = None
        metrics = Metrics()
        limits = IntakeLimits(queue_batches_max=2, commit_interval_ms=1, drain_timeout_s=1.0)
        its = parts()
        live, self.store = Live(LIVE, 1, 4096, 4096), MemoryStore()
        owner = Ownership(
            live,
            self.store,
            TOPICS,
            "w1",
            "here",
            metrics,
            lambda: its.clock() + self.skipped_us,
            flush_s=0.05,
            marks=MemoryWatermarks(),
            fencer=self.fenced.append,
        )
        enrich = Enrich(live, self.store, its.clock, owner.backoff, owner.make_room)
        intake = Intake(self._open, Ledger(), BatchPolicy(100, 3), limits, metrics, owner)
        self.worker = Worker(
            dataclasses.replace(its, enrich=enrich, backoff=owner.backoff), metrics, intake, owner,
            LabelParts(TOPICS[1], label_writers()), Delivery(self._sink, intake),
        )  # fmt: skip

    @property
    def source(self) -> MemorySource:
        """The consumer, once the intake has opened it."""
        assert self._opened is not None
        return self._opened

    def _open(self, listener: RebalanceListener) -> Source:
        self._opened = MemorySource(listener, [AT, LABELS_AT])
        return self._opened

    def is_assigned(self) -> bool:
        """Whether the consumer is open and owns its partition."""
        return self.worker.intake.is_assigned

    def _sink(self) -> Sink:
        self.sinks.append(MemorySink())
        return self.sinks[-1]

    def add(self, first: int, count: int) -> None:
        """Let a batch of good records come whose offsets begin with `first`."""
        rows = ((first + i, *value(first + i)) for i in range(count))
        self.source.add(record_batch([(0, at, key, raw) for at, raw, key in rows]))

    async def run(self) -> None:
        """Hand each batch to the worker."""
        while True:
            await self.worker.handle(await self.worker.intake.get())


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A running worker, drained at the end."""
    bench = Bench()
    bench.worker.delivery.open()
    bench.worker.intake.start()
    agent = asyncio.create_task(bench.run())
    await until(bench.is_assigned)
    yield bench
    await bench.worker.drain()
    agent.cancel()
    assert bench.source.closed
    assert all(sink.closed for sink in bench.sinks)


async def test_nothing_is_committed_before_the_outputs_are_acknowledged(bench: Bench) -> None:
    """While the sink holds its acknowledgements back no offset moves; then it does."""
    bench.sinks[0].holding = True
    bench.add(0, 5)
    await until(lambda: bench.sinks[0].sent)
    await asyncio.sleep(0.05)
    assert bench.source.commits == {}
    bench.sinks[0].holding = False
    await until(lambda: bench.source.commits == {AT: 5})


async def test_a_failed_delivery_goes_back_with_a_new_producer(bench: Bench) -> None:
    """The sink that failed is closed, reading goes back to the commit, nothing is skipped."""
    bench.add(0, 3)
    await until(lambda: bench.source.commits == {AT: 3})
    await until(lambda: bench.worker.ownership.live.owned[0].next_offset[0] == 3)  # flushed
    bench.sinks[0].failing = True
    bench.add(3, 2)
    await until(lambda: not bench.worker.readiness()[0])
    await until(lambda: bench.source.sought[1:] == [{AT: 3, LABELS_AT: 0}])
    assert bench.sinks[0].closed
    assert bench.source.commits == {AT: 3}
    bench.add(3, 2)
    await until(lambda: bench.source.commits == {AT: 5})
    assert len(bench.sinks) == 2
    assert bench.worker.readiness() == (True, [])


async def test_a_failure_while_waiting_for_room_goes_back_too(bench: Bench) -> None:
    """A full send queue whose records then fail: the waiting batch is dropped and read again."""
    bench.sinks[0].full = True
    bench.add(0, 2)
    await asyncio.sleep(0.05)
    assert bench.sinks[0].sent == []
    bench.sinks[0].failing = True
    await until(lambda: bench.source.sought[1:] == [{AT: 0, LABELS_AT: 0}])
    bench.add(0, 2)
    await until(lambda: bench.source.commits == {AT: 2})
    assert [len(sink.sent) for sink in bench.sinks] == [0, 1]


async def test_going_back_waits_for_a_broker_that_is_away(bench: Bench) -> None:
    """Committed offsets that cannot be read are asked for again; nothing is sent meanwhile."""
    bench.source.away = True
    bench.sinks[0].failing = True
    bench.add(0, 2)
    await until(lambda: bench.sinks[0].closed)
    await asyncio.sleep(0.8)
    assert len(bench.sinks) == 1
    assert len(bench.source.sought) == 1
    bench.source.away = False
    await until(lambda: bench.source.sought[1:] == [{AT: 0, LABELS_AT: 0}])
    bench.add(0, 2)
    await until(lambda: bench.source.commits == {AT: 2})


@pytest.mark.parametrize("carry", [False, True])
def test_scores_carry_features_by_setting(*, carry: bool) -> None:
    """The setting reaches the route of the outputs."""
    _, route = _wire_formats(load_settings(scores_carry_features=carry))
    assert route.score_features is carry


async def test_a_quiet_log_is_declared_complete_once_and_then_written(bench: Bench) -> None:
    """In its partition, from the next offset on; the state is written when Kafka has it."""
    owner = bench.worker.ownership
    bench.add(0, 3)
    await until(lambda: bench.source.commits == {AT: 3})
    owner.announcer = Announcements(
        bench.worker.delivery, bench.worker.intake, "watermarks", "us", TOPICS
    )
    await asyncio.sleep(0.2)  # it was seen how far the logs are
    bench.sinks[0].holding = True
    bench.skipped_us += 100_000_000
    await until(lambda: any(out.source_topic == "watermarks" for _, out in bench.sinks[0].sent))
    [columns] = bench.sinks[0].sent[-1][1].columns
    marks = [parse(columns.values[i], "us") for i in range(len(columns))]
    assert columns.topic == "watermarks"
    assert [(m.log, m.position) for m in marks if m] == [(TRANSACTIONS, 3), (LABELS, 0)]
    assert owner.live.state.watermarks().min() == min(m.until_us for m in marks if m)
    await asyncio.sleep(0.2)
    key = meta_key(owner.live.namespace, 0)
    written = Meta.parse(bench.store.blobs[key])
    assert written is not None
    assert written.quiet_us == (NEVER, NEVER), "Kafka has not acknowledged it yet"
    bench.sinks[0].holding = False
    await until(lambda: bench.store.blobs[key] == owner.live.owned[0].encode() != written.encode())
    assert owner.live.owned[0].quiet_us == tuple(m.until_us for m in marks if m)
    await asyncio.sleep(0.2)
    assert sum(out.source_topic == "watermarks" for _, out in bench.sinks[0].sent) == 1


async def test_metrics_add_up(bench: Bench) -> None:
    """Records out of the pipeline are in the counters, once each."""
    bench.add(0, 4)
    bench.source.add(record_batch([(0, 4, b"c", b"junk")]))
    await until(lambda: bench.source.commits == {AT: 5})
    registry = bench.worker.metrics.registry
    count = registry.get_sample_value
    assert count("riskwire_records_total", {"outcome": "scored"}) == 4
    assert count("riskwire_records_total", {"outcome": "rejected"}) == 1
    assert count("riskwire_rejects_total", {"code": "BAD_MAGIC"}) == 1
    assert bench.worker.metrics.event_latency.count == 4
    assert (count("riskwire_commits_total", {"result": "ok"}) or 0) >= 1
