"""A worker's life: batches from Faust's agent through `pipeline` to the way out.

A batch goes from `Intake` through `pipeline.decided` to a `Deliverer`; once all its outputs are
acknowledged, or committed with it, the ledger lets its offsets be committed. `app/wiring.py` makes
one.
"""

import asyncio
import time

import structlog

from app.align import Alignment, too_many
from app.delivery import Deliverer, Output
from app.enrich import Dropped
from app.errors import RejectCode
from app.intake import Intake
from app.latency import total_us, wait_us
from app.metrics import Metrics
from app.ownership import Ownership
from app.pipeline import (
    Decided,
    LabelParts,
    Parts,
    Processed,
    decided,
    emitted,
    event_times,
    known_at,
    learn,
)
from app.records import Outbound, RecordBatch
from features.state import LABELS, TRANSACTIONS

log = structlog.get_logger("riskwire.worker")
_ASK_AGAIN_S = 30.0
_LOOK_S = 1.0
_FOLLOW_S = 0.02
HELD_RECORDS_MAX = 20_000


class Worker:
    """One of the group: takes batches from Faust's agent through the pipeline to the sink."""

    def __init__(
        self,
        parts: Parts,
        metrics: Metrics,
        intake: Intake,
        ownership: Ownership,
        labels: LabelParts,
        delivery: Deliverer,
    ) -> None:
        """Nothing is opened before `delivery.open`."""
        self.parts, self.metrics, self.intake = parts, metrics, intake
        self.ownership, self.labels = ownership, labels
        self.delivery = delivery
        self.alignment: Alignment | None = None
        self._following: asyncio.Task[None] | None = None
        self._aligning, self._went_on = asyncio.Lock(), 0
        self._ask_again_at = self._looked_at = 0.0

    async def handle(self, batch: RecordBatch) -> None:
        """Process one batch and queue its outputs; the agent's body."""
        self.intake.taken()
        self.ownership.check()
        if self.alignment is None:
            await self._admit(batch)
            return
        if self._following is None:
            self._following = asyncio.create_task(self._follow_others(self.alignment))
            self._following.add_done_callback(self.intake.ended)
        if batch.topic == self.labels.topic:
            log_, times = LABELS, await known_at(batch, self.labels, self.parts)
        else:
            log_, times = TRANSACTIONS, await event_times(batch, self.parts)
        async with self._aligning:
            self.alignment.add(log_, batch, times)
            await self._go_on(self.alignment)

    async def _go_on(self, alignment: Alignment) -> None:
        """Admit what needs to wait no longer."""
        while (records := alignment.ready()) is not None:
            self._went_on += 1
            await self._admit(records)
        self.intake.hold(too_many(alignment.waiting(), self.ownership.topics, HELD_RECORDS_MAX))

    async def _follow_others(self, alignment: Alignment) -> None:
        """Tell the owners of other partitions how far ours are, and go on as theirs do."""
        live = self.parts.enrich.live
        while True:
            before = self._went_on
            await asyncio.sleep(_FOLLOW_S)
            if not live.is_everywhere and live.is_ahead():
                await self.ownership.flush()
            if alignment.waiting() and self._went_on == before:
                await self.ownership.marks.hear_others()
                async with self._aligning:
                    await self._go_on(alignment)

    async def _admit(self, batch: RecordBatch) -> None:
        ticket = 0
        try:
            async with self.ownership.lock:
                # Under the lock, so that tickets are in the order in which the state was changed.
                admitted = self.intake.ledger.admit(batch)
                if admitted is None:
                    return
                ticket, records = admitted
                if not self.parts.enrich.live.owns(records.partition):
                    raise Dropped  # noqa: TRY301 -- the same as while waiting for room
                if records.topic == self.labels.topic:
                    output = Output.of(await self._learn(records))
                else:
                    output = self._output(await decided(records, self.parts))
                self.metrics.ages.scored(records)
        except Dropped:
            if self.intake.ledger.is_open(ticket):
                self.intake.go_back()  # some of its partitions were not claimed anew
            return
        await self.delivery.send(output, ticket)

    def _output(self, its: Decided) -> Output:
        """What a batch sends; it is counted when it is sent."""
        self._now_and_then(its)
        self._judge(its.records.topic, len(its.scored.transactions), len(its.rejects))
        done: list[Processed] = []

        def encode() -> Outbound:
            done[:] = [emitted(its, self.parts)]  # a transaction that is tried again does it again
            return done[0].outbound

        return Output(its.count, encode, lambda: self._count(done[0]), nbytes=its.nbytes)

    async def _learn(self, records: RecordBatch) -> Outbound:
        """Let the state know a batch of outcomes; its outputs are dead letters."""
        learned = await learn(records, self.labels, self.parts)
        self.metrics.labels(learned.labels)
        self.metrics.batch(scored=0, rejects=learned.rejects)
        self._judge(self.labels.topic, learned.labels, learned.rejects.total())
        return learned.outbound

    def _judge(self, topic: str, good: int, rejects: int) -> None:
        """Let the topic's breaker know, and say so where it opens, waits on or closes."""
        breaker = self.intake.breakers.get(topic)
        if breaker is None:
            return
        before = breaker.reason
        breaker.count(good + rejects, rejects, time.monotonic())
        if breaker.reason != before:
            self.metrics.breaker(topic, is_open=bool(breaker.reason))
            if breaker.reason:
                log.error("too many rejects: intake is paused", topic=topic, why=breaker.reason)
            else:
                log.info("intake goes on", topic=topic)

    async def drain(self) -> None:
        """Stop intake, let what is in hand finish and commit, close the producer."""
        await self.intake.stop()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self.parts.enrich.outage is not None:
            await self.parts.enrich.outage.close()
        await self.ownership.close()
        await self.delivery.close()

    def _now_and_then(self, its: Decided) -> None:
        if time.monotonic() > self._looked_at:
            self._looked_at = time.monotonic() + _LOOK_S
            self._look_at_state()
        unknown = RejectCode.UNKNOWN_SCHEMA in its.rejects.counts()
        if unknown and time.monotonic() > self._ask_again_at:
            # A schema may be registered late: ask for its id again, but not for every batch.
            self.parts.writers.forget_unknown()
            self._ask_again_at = time.monotonic() + _ASK_AGAIN_S

    def _look_at_state(self) -> None:
        live = self.parts.enrich.live
        entities = {"customer": len(live.customers), "terminal": len(live.terminals)}
        self.metrics.state(entities, live.damaged)
        self.metrics.freshness(live.ages_s(self.parts.clock()))

    def readiness(self) -> tuple[bool, list[str]]:
        """Whether batches flow: the group answered, Redis and registry too, outputs go out.

        And all of what was answered before is in the state of each partition.
        """
        reasons = [f"{name} is away: {error}" for name, error in self.parts.backoff.away.items()]
        if not self.intake.is_assigned:
            reasons.append("no partitions assigned yet")
        if claiming := self.intake.claiming:
            reasons.append(
                f"the state of partitions {', '.join(map(str, claiming))} is not ours yet"
            )
        reasons += self.ownership.progress.reasons(self.parts.clock())
        for (topic, partition), why in self.intake.unreadable.items():
            reasons.append(f"{topic}-{partition} cannot be read: {why}")
        if self.delivery.failing:
            reasons.append(self.delivery.failing)
        reasons += [
            f"intake of {topic} is paused: {breaker.reason}"
            for topic, breaker in self.intake.breakers.items()
            if breaker.reason
        ]
        self.metrics.ready(ready=not reasons)
        return not reasons, reasons

    def liveness(self) -> tuple[bool, list[str]]:
        """Whether the threads that must run do; what is away outside does not count."""
        reasons = ["the consumer's thread has ended"] if self.intake.has_ended else []
        if self.ownership.has_ended:
            reasons.append("the state is not written any more")
        if self.delivery.is_stuck:
            reasons.append("a transaction does not end")
        if self._following is not None and self._following.done():
            reasons.append("nobody hears of other workers any more")
        return not reasons, reasons

    def _count(self, processed: Processed) -> None:
        metrics, transactions = self.metrics, processed.transactions
        n = len(transactions)
        metrics.batch(scored=n, rejects=processed.rejects)
        for decision, count in processed.alerts.items():
            metrics.alerts(decision, count)
        metrics.provisional(processed.provisional)
        metrics.degraded(processed.degraded)
        if processed.shed:
            metrics.shed(processed.shed, n)
        if n:
            metrics.stages["wait"].add(wait_us(transactions, processed.instants))
            metrics.event_latency.add(total_us(transactions, processed.instants))
            for stage, us in processed.instants.stage_us().items():
                metrics.stages[stage].add_one(us, n)
