"""Lane: Riskwire's own worker, the same that `riskwire worker` runs, with everything on.

It claims the state that Redis has and writes back what changes, as ever. A record counts as done
when every output of its batch is acknowledged by the broker. Offsets are committed every 100 ms
meanwhile; the last of these commits is not waited for.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from app import logs, pipeline
from app.adapters.faust import create_app
from app.bench.lanes.lane import PARTITIONS, Meter, Task, task
from app.config import Settings, load_settings
from app.decide import Reasons
from app.delivery import Deliverer
from app.histogram import LatencyHistogram
from app.intake import Intake
from app.ledger import Ledger
from app.metrics import Metrics
from app.records import Int64s, RecordBatch
from app.warm_up import warm_up
from app.wiring import build
from app.worker import Worker


class MeteredLedger(Ledger):
    """Counts what becomes committable; its topic begins at offset 0 and has no gaps."""

    def __init__(self, meter: Meter) -> None:
        """Count into `meter`."""
        super().__init__()
        self._meter, self._done_at = meter, dict[tuple[str, int], int]()
        self.finished = asyncio.Event()

    def done(self, tickets: Iterable[int]) -> None:
        """See `Ledger.done`."""
        with self._lock:  # the intake's thread takes what is committable away
            super().done(tickets)
            self._done_at |= self._committable
        if self._meter.count(sum(self._done_at.values()) - self._meter.read):
            self.finished.set()


class Metered(Protocol):
    """What a worker has that its lane uses."""

    intake: Intake
    delivery: Deliverer

    async def handle(self, batch: RecordBatch) -> None:
        """Process one batch; the agent's body."""

    async def drain(self) -> None:
        """Let what is in hand finish and commit."""


def settings_of(wanted: Task) -> Settings:
    """The settings of a worker that does the lane's work."""
    return load_settings(
        bootstrap_servers=wanted.bootstrap,
        group_id=wanted.group,
        transport=wanted.transport,
        delivery=wanted.delivery,
        partitions=PARTITIONS,
        topic_transactions=wanted.topic,
        topic_labels=f"{wanted.scores}-labels",
        topic_scores=wanted.scores,
        topic_alerts=f"{wanted.scores}-alerts",
        topic_dead_letters=f"{wanted.scores}-dead-letters",
        topic_watermarks=f"{wanted.scores}-watermarks",
        redis_url=wanted.redis,
        log_level="WARNING",
    )


async def main(wanted: Task) -> None:
    """Run the worker until the count is reached."""
    settings, meter = settings_of(wanted), Meter(wanted.n, wanted.warm)
    logs.configure(settings)
    worker = build(settings, Metrics())
    if wanted.variant:
        WITHOUT[wanted.variant](worker)
    await warm_up(worker.parts)
    await metered(worker, wanted, meter)


def _no_reasons(_worker: Worker) -> None:
    vars(pipeline)["reasons"] = lambda _matrix, rows, _explainer: Reasons.none(len(rows))


def _no_histograms(worker: Worker) -> None:
    nothing = NoHistogram()
    worker.metrics.event_latency = nothing
    worker.metrics.stages = dict.fromkeys(worker.metrics.stages, nothing)


def _no_metrics(worker: Worker) -> None:
    vars(worker)["_count"] = lambda _processed: None


class NoHistogram(LatencyHistogram):
    """Counts nothing."""

    def add(self, values_us: Int64s, times: int = 1) -> None:
        """See `LatencyHistogram.add`."""

    def add_one(self, value_us: int, times: int = 1) -> None:
        """See `LatencyHistogram.add_one`."""


WITHOUT: dict[str, Callable[[Worker], None]] = {
    "no_reasons": _no_reasons,
    "no_latency": _no_histograms,
    "no_metrics": _no_metrics,
}
"""Luxuries that a lane does without (`app.bench.luxuries`)."""


async def metered(worker: Metered, wanted: Task, meter: Meter) -> None:
    """Run what is wired like a worker until the count is reached, and report."""
    ledger = worker.intake.ledger = MeteredLedger(meter)
    app = create_app(
        wanted.group, wanted.bootstrap, wanted.topic, worker.intake, worker.handle, worker.drain
    )
    worker.delivery.open()
    await app.start()
    await ledger.finished.wait()
    meter.report()
    await app.stop()


if __name__ == "__main__":
    asyncio.run(main(task()))
