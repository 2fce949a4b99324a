"""The composition root: settings in, a running worker out.

Opens the adapters, wires them to the pipeline and lets Faust run it. Raises ConfigError for what an
operator must mend.
"""

import asyncio
import dataclasses
import gc
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version

import structlog

import schemas
from app import decode, logs
from app.adapters.faust import create_app, run_app
from app.adapters.http import HttpServer
from app.adapters.memory import MemoryRegistry
from app.adapters.onnx import load_scorer
from app.adapters.records import oldest_append_us
from app.adapters.redis import RedisStore
from app.adapters.transport import (
    choose_transport,
    open_sink,
    open_source,
    open_transactor,
)
from app.adapters.watermarks import KafkaWatermarks
from app.align import Alignment
from app.backoff import Backoff
from app.batching import BatchPolicy
from app.breaker import Breaker
from app.config import Settings
from app.delivery import Announcements, Deliverer, Delivery
from app.emit import Route
from app.enrich import Enrich
from app.intake import Intake, IntakeLimits
from app.labels import label_writers
from app.ledger import Ledger
from app.live import Live
from app.metrics import Metrics
from app.outage import Outage
from app.ownership import Ownership
from app.pipeline import LabelParts, Parts
from app.ports import StateOwner, StateStore, WriterSchemas
from app.shed import Shedding
from app.snapshots import Snapshots
from app.transactions import TransactionalDelivery
from app.warm_up import warm_up
from app.worker import Worker

log = structlog.get_logger("riskwire.worker")
_DEGRADED_RETRY_S = 0.5  # what waits for Redis must not wait much longer than what does not
_ENVELOPE_BYTES = 4096  # Kafka's own bytes around a record, generously


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
    ownership = _ownership(settings, transport, live, store, topics, metrics)
    backoff = ownership.backoff
    outage = _outage(settings, store, backoff)
    parts = Parts(
        decode=decode.decode,
        writers=decode.Writers(),
        limits=limits_of(settings),
        registry=registry,
        enrich=Enrich(live, store, now_us, backoff, ownership.make_room, outage),
        scorer=scorer,
        policy=scorer.policy,
        explainer=scorer.explainer,
        route=route,
        clock=now_us,
        backoff=backoff,
        shedding=_shedding(settings),
        ages=metrics.ages,
    )
    intake = intake_of(settings, transport, topics, metrics, ownership)
    if outage is not None:
        outage.returned = lambda: intake.go_back() if live.lacking.partitions else None
    metrics.info(
        version=version("riskwire"),
        model_id=scorer.model_id,
        feature_contract_id=scorer.feature_contract_id,
        provider=scorer.provider,
        transport=transport,
    )
    labels = LabelParts(topics[1], label_writers())
    delivery = delivery_of(settings, transport, intake, ownership.begin)
    if isinstance(delivery, TransactionalDelivery):
        ownership.renew = delivery.renew
    worker = Worker(parts, metrics, intake, ownership, labels, delivery)
    if settings.alignment == "wait":
        worker.alignment = Alignment(live, intake.ledger.admits)
    else:
        ownership.announcer = Announcements(
            delivery, intake, settings.topic("watermarks"), settings.group_id, topics
        )
    return worker


def _ownership(
    settings: Settings,
    transport: str,
    live: Live,
    store: TimedStore,
    topics: tuple[str, str],
    metrics: Metrics,
) -> Ownership:
    source = settings.source
    return Ownership(
        live,
        store,
        topics,
        settings.worker_name(),
        source,
        metrics,
        now_us,
        flush_s=settings.state_flush_ms / 1000,
        marks=KafkaWatermarks(settings),
        fencer=partial(_fence, settings, transport),
        snapshots=Snapshots(
            settings.snapshot_dir,
            live.namespace,
            settings.partitions,
            source,
            settings.snapshot_every_s,
        ),
        append_time=partial(oldest_append_us, settings),
    )


def intake_of(
    settings: Settings,
    transport: str,
    topics: Sequence[str],
    metrics: Metrics,
    owner: StateOwner,
) -> Intake:
    """The consumer's side; a topic of `topics` has a breaker."""

    def breaker(topic: str) -> Breaker:
        metrics.breaker(topic, is_open=False)
        return Breaker(
            settings.reject_share_max, settings.reject_records_min, settings.breaker_pause_s
        )

    return Intake(
        partial(open_source, settings, transport),
        Ledger(),
        BatchPolicy(settings.batch_records_max, settings.linger_ms()),
        IntakeLimits(
            settings.queue_batches_max,
            settings.commit_interval_ms,
            settings.drain_timeout_s,
            commits_itself=settings.delivery == "at_least_once",
        ),
        metrics,
        owner,
        {topic: breaker(topic) for topic in topics},
    )


def _outage(settings: Settings, store: StateStore, backoff: Backoff) -> Outage | None:
    if settings.redis_away == "hold" or settings.alignment == "wait":
        return None
    backoff.longest_s = _DEGRADED_RETRY_S
    return Outage(store, backoff, settings.degrade_after_ms / 1000)


def _shedding(settings: Settings) -> Shedding:
    # A replay is exact, however long it takes.
    after_ms = settings.shed_after_ms if settings.alignment == "mark" else 0
    return Shedding(1000 * after_ms, settings.shed_amount_minor)


def delivery_of(
    settings: Settings, transport: str, intake: Intake, began: Callable[[str], None]
) -> Deliverer:
    """The way out by the settings' guarantee; `began`: see `TransactionalDelivery`."""
    if settings.delivery == "at_least_once":
        return Delivery(partial(open_sink, settings, transport), intake)
    return TransactionalDelivery(
        partial(open_transactor, settings, transport),
        intake,
        f"{settings.group_id}.{settings.worker_name()}",
        began,
        settings.inflight_records_max,
        settings.inflight_bytes_max,
    )


def _fence(settings: Settings, transport: str, transactional_id: str) -> None:
    open_transactor(settings, transport, transactional_id).close(0)


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
    gc.freeze()
    gc.enable()
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


def limits_of(settings: Settings) -> decode.Limits:
    """What a record may be, by the settings."""
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
