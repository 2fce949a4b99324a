"""The composition root: settings in, a running worker out.

Opens the adapters, wires them to the pipeline and lets Faust run it. A batch goes from `Intake`
through `pipeline.process` to `Delivery`; once all its outputs are acknowledged the ledger lets its
offsets be committed. Raises ConfigError for what an operator must mend.
"""

import asyncio
import dataclasses
import logging
import os
import socket
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

import structlog

import schemas
from app import decode, logs
from app.adapters.faust import create_app, run_app
from app.adapters.http import HttpServer
from app.adapters.memory import MemoryRegistry
from app.adapters.onnx import load_scorer
from app.adapters.redis import RedisStore
from app.adapters.transport import (
    choose_transport,
    open_sink,
    open_source,
    open_transactor,
)
from app.adapters.watermarks import KafkaWatermarks
from app.align import Alignment, too_many
from app.backoff import Backoff
from app.batching import BatchPolicy
from app.config import Settings
from app.delivery import Announcements, Deliverer, Delivery, Output
from app.emit import Route
from app.enrich import Dropped, Enrich
from app.errors import RejectCode
from app.intake import Intake, IntakeLimits
from app.labels import label_writers
from app.latency import total_us, wait_us
from app.ledger import Ledger
from app.live import Live
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
from app.ports import WriterSchemas
from app.records import Outbound, RecordBatch
from app.transactions import TransactionalDelivery
from app.warm_up import warm_up
from features.state import LABELS, TRANSACTIONS

log = structlog.get_logger("riskwire.worker")
_ASK_AGAIN_S = 30.0
_LOOK_S = 1.0
_FOLLOW_S = 0.02
HELD_RECORDS_MAX = 20_000
_ENVELOPE_BYTES = 4096  # Kafka's own bytes around a record, generously


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
                await self.ownership.hear_others()
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
        except Dropped:
            if self.intake.ledger.is_open(ticket):
                self.intake.go_back()  # some of its partitions were not claimed anew
            return
        await self.delivery.send(output, ticket)

    def _output(self, its: Decided) -> Output:
        """What a batch sends; it is counted when it is sent."""
        self._now_and_then(its)
        done: list[Processed] = []

        def encode() -> Outbound:
            done.append(emitted(its, self.parts))
            return done[-1].outbound

        return Output(its.count, encode, lambda: self._count(done[-1]))

    async def _learn(self, records: RecordBatch) -> Outbound:
        """Let the state know a batch of outcomes; its outputs are dead letters."""
        learned = await learn(records, self.labels, self.parts)
        self.metrics.labels(learned.labels)
        self.metrics.batch(scored=0, rejects=learned.rejects)
        return learned.outbound

    async def drain(self) -> None:
        """Stop intake, let what is in hand finish and commit, close the producer."""
        await self.intake.stop()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self.ownership.close()
        await self.delivery.close()

    def _now_and_then(self, its: Decided) -> None:
        if time.monotonic() > self._looked_at:
            self._looked_at = time.monotonic() + _LOOK_S
            self._look_at_state()
        unknown = any(reject.code is RejectCode.UNKNOWN_SCHEMA for reject in its.rejects)
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
        """Whether batches flow: the group answered, Redis and registry too, outputs go out."""
        reasons = [f"{name} is away: {error}" for name, error in self.parts.backoff.away.items()]
        if not self.intake.is_assigned:
            reasons.append("no partitions assigned yet")
        if self.delivery.failing:
            reasons.append(self.delivery.failing)
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
        if n:
            metrics.stages["wait"].add(wait_us(transactions, processed.instants))
            metrics.event_latency.add(total_us(transactions, processed.instants))
            for stage, us in processed.instants.stage_us().items():
                metrics.stages[stage].add_one(us, n)


class TimedStore(RedisStore):
    """The online store, whose fetches are timed."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """See `RedisStore`."""
        super().__init__(settings.redis_url, settings.redis_timeout_ms)
        self._metrics = metrics

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `StateStore.fetch`."""
        began = time.perf_counter()
        blobs = await super().fetch(keys)
        self._metrics.store_fetch(time.perf_counter() - began)
        return blobs


def build(settings: Settings, metrics: Metrics) -> Worker:
    """Open what a worker needs and wire it; raises ConfigError for what an operator must mend."""
    transport = choose_transport(settings)
    scorer = load_scorer(settings.model, settings.providers)
    registry, route = _wire_formats(settings)
    live = Live(
        scorer.timing,
        settings.partitions,
        settings.state_customers_max,
        settings.state_shares_max,
        settings.state_namespace,
    )
    store = TimedStore(settings, metrics)
    topics = (settings.topic("transactions"), settings.topic("labels"))
    ownership = Ownership(
        live,
        store,
        topics,
        _worker_id(settings),
        f"group {settings.group_id}, topic {topics[0]}",
        metrics,
        now_us,
        flush_s=settings.state_flush_ms / 1000,
        marks=KafkaWatermarks(settings),
        fencer=partial(_fence, settings, transport),
    )
    backoff = ownership.backoff
    parts = Parts(
        decode=decode.decode,
        writers=decode.Writers(),
        limits=_limits(settings),
        registry=registry,
        enrich=Enrich(live, store, now_us, backoff, ownership.make_room),
        scorer=scorer,
        policy=scorer.policy,
        explainer=scorer.explainer,
        route=route,
        clock=now_us,
        backoff=backoff,
    )
    intake = Intake(
        partial(open_source, settings, transport),
        Ledger(),
        BatchPolicy(settings.batch_records_max, settings.linger_ms_max),
        IntakeLimits(
            settings.queue_batches_max,
            settings.commit_interval_ms,
            settings.drain_timeout_s,
            commits_itself=settings.delivery == "at_least_once",
        ),
        metrics,
        ownership,
    )
    metrics.info(
        version=version("riskwire"),
        model_id=scorer.model_id,
        feature_contract_id=scorer.feature_contract_id,
        provider=scorer.provider,
        transport=transport,
    )
    labels = LabelParts(topics[1], label_writers())
    delivery = _delivery(settings, transport, intake, ownership)
    worker = Worker(parts, metrics, intake, ownership, labels, delivery)
    if settings.alignment == "wait":
        worker.alignment = Alignment(live, intake.ledger.admits)
    else:
        ownership.announcer = Announcements(
            delivery, intake, settings.topic("watermarks"), settings.group_id, topics
        )
    return worker


def _delivery(
    settings: Settings, transport: str, intake: Intake, ownership: Ownership
) -> Deliverer:
    if settings.delivery == "at_least_once":
        return Delivery(partial(open_sink, settings, transport), intake)

    def began(transactional_id: str) -> None:
        ownership.transactional_id = transactional_id

    return TransactionalDelivery(
        partial(open_transactor, settings, transport),
        intake,
        f"{settings.group_id}.{_worker_id(settings)}",
        began,
        settings.inflight_records_max,
    )


def _fence(settings: Settings, transport: str, transactional_id: str) -> None:
    open_transactor(settings, transport, transactional_id).close(0)


def _worker_id(settings: Settings) -> str:
    return settings.worker_id or socket.gethostname()


def compile_all(settings: Settings) -> None:
    """Compile every loop of a worker into Numba's cache on disk; talks to nobody."""
    if choose_transport(settings) == "native":
        from app.adapters.native_loops import compile_loops  # noqa: PLC0415 -- may refuse to load

        compile_loops()
    asyncio.run(warm_up(build(settings, Metrics()).parts))


def run(settings: Settings) -> int:
    """Run a worker until it is told to stop; the exit status."""
    logs.configure(settings)
    metrics = Metrics()
    worker = build(settings, metrics)
    asyncio.run(warm_up(worker.parts))
    worker.delivery.open()
    app = create_app(
        settings.group_id,
        settings.bootstrap_servers,
        settings.topic("transactions"),
        worker.intake,
        worker.handle,
        worker.drain,
    )
    http = HttpServer(
        settings.http_host, settings.http_port, metrics.registry, worker.readiness, worker.liveness
    )
    log.info("worker starts", model=worker.parts.scorer.model_id, http_port=http.port)
    try:
        status = run_app(app, settings.log_level, logs.dict_config(settings))
    finally:
        http.close()
        asyncio.run(worker.delivery.close())  # open still where the app did not come up
    if worker.intake.is_running:
        # Kafka is away and its client waits for it: nothing is left to do that may be waited for.
        logging.shutdown()
        os._exit(status)
    return status


def _limits(settings: Settings) -> decode.Limits:
    return decode.Limits(
        value_bytes_max=settings.value_bytes_max,
        headers_max=settings.headers_max,
        header_bytes_max=settings.header_bytes_max,
        future_us_max=settings.future_s_max * 1_000_000,
    )


def _wire_formats(settings: Settings) -> tuple[WriterSchemas, Route]:
    """Where writer schemas come from, and the framing of the outputs."""
    route = Route(
        scores=settings.topic("scores"),
        alerts=settings.topic("alerts"),
        dead_letters=settings.topic("dead_letters"),
        letter_bytes_max=settings.message_bytes_max - _ENVELOPE_BYTES,
        score_features=settings.scores_carry_features,
    )
    if not settings.schema_registry_url:
        return MemoryRegistry(), route
    from app.adapters.registry import SchemaRegistry  # noqa: PLC0415 -- needed by few, slow

    registry = SchemaRegistry(settings)

    async def header(topic_and_name: tuple[str, str]) -> bytes:
        topic, name = topic_and_name
        return registry.header(f"{topic}-value", schemas.load(name).text)

    def wait(topic: str, name: str) -> bytes:
        return asyncio.run(Backoff().until_available("schema registry", header, (topic, name)))

    return registry, dataclasses.replace(
        route,
        score_header=wait(route.scores, "risk_score"),
        alert_header=wait(route.alerts, "risk_alert"),
    )


def now_us() -> int:
    """The wall clock: µs since 1970-01-01 UTC."""
    return time.time_ns() // 1000
