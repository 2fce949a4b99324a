"""Every metric of Riskwire: its name, its unit, its labels and when it moves.

In come counts and histograms, a micro-batch at a time; out goes what /metrics shows. Names follow
Prometheus: base units, `_total` for counters, no identifier as a label. No record leaves uncounted:
records finished = riskwire_records_total over both outcomes. Latencies lie in fine log buckets; the
coarse ones of Prometheus are made of them when somebody scrapes. Nothing here does I/O;
`app.adapters.http` serves the registry.
"""

import time
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.ages import Ages
from app.errors import RejectCode
from app.histogram import LatencyHistogram
from app.latency import PARTS
from app.shed import RULE, WITHOUT_TERMINAL

__all__ = ["STAGES", "LatencyHistogram", "Metrics"]

STAGES: Final = PARTS

# Upper bounds shown to Prometheus, in us. Each is the edge of a fine bucket, so that the coarse
# counts are exact: 1000 us = 512 us * (1 + 122/128).
EVENT_BOUNDS_US: Final = tuple(250.0 * 2**k for k in range(19))
STAGE_BOUNDS_US: Final = (16.0, *(62.5 * 4**k for k in range(11)))
STORE_BOUNDS_S: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """All metrics of one process, in a registry of their own; each method says what it moves.

    `ages`, `event_latency` and `stages` are filled directly: `stages["wait"].add(values_us)` for a
    value a transaction, `stages["model"].add_one(us, n)` for one that n transactions share.
    `closed_by` is the batch policy's own count, read when somebody scrapes: riskwire_batches_total.
    """

    def __init__(self) -> None:
        # Prometheus' `_created` twin of every series doubles the page and is used by nothing here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.event_latency = LatencyHistogram()
        self.stages: dict[str, LatencyHistogram] = {stage: LatencyHistogram() for stage in STAGES}
        self.closed_by: Mapping[str, int] = {}
        self.ages = Ages()
        registry.register(_AtScrape(self))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

        def counter(name: str, doc: str, *labels: str) -> Counter:
            return Counter(f"riskwire_{name}_total", doc, labels, registry=registry)

        def gauge(name: str, doc: str, *labels: str) -> Gauge:
            return Gauge(f"riskwire_{name}", doc, labels, registry=registry)

        self._records = counter("records", "Records finished, by outcome.", "outcome")
        self._rejects = counter("rejects", "Records that became dead letters.", "code")
        self._alerts = counter("alerts", "Alerts emitted.", "decision")
        self._degraded = counter("degraded", "Scores that rest on defaults: the store was away.")
        self._shed = counter("shed", "Scores made with less, by level.", "level")
        self._rebalances = counter("rebalances", "Changes of the assignment.", "change")
        self._provisional = counter("provisional", "Scores that a recomputation may change.")
        self._labels = counter("labels", "Outcomes that the state took in.")
        self._entities = gauge("state_entities", "Entities in memory.", "entity")
        self._damaged = gauge("state_damaged", "Blobs of Redis that could not be read.")
        self._freshness = gauge(
            "feature_freshness_seconds",
            "Age of the newest record in the views of an entity.",
            "entity",
            "log",
        )
        self._flushed = counter("state_flushed_entities", "Entities written to Redis.")
        self._commits = counter("commits", "Offset commits.", "result")
        self._lag = gauge("consumer_lag_records", "Records not yet polled.", "topic", "partition")
        self._behind = gauge(
            "state_behind_records",
            "Answered records that a partition's state has still to catch up with.",
            "log",
            "partition",
        )
        self._incomplete = gauge(
            "state_incomplete",
            "1 where records that a window reaches were gone from the log.",
            "partition",
        )
        self._snapshots = counter("snapshots", "Snapshots of partitions.", "result")
        self._breaker = gauge("breaker_open", "1 while rejects pause the intake.", "topic")
        self._unreadable = gauge(
            "partitions_unreadable", "Partitions that stand still: their next batch is damaged."
        )
        self._ready = gauge("ready", "1 while the worker is ready.")
        self._info = Info("riskwire", "What runs.", registry=registry)
        self._store = Histogram(
            "riskwire_store_fetch_seconds",
            "One fetch of state from Redis.",
            buckets=STORE_BOUNDS_S,
            registry=registry,
        )
        self._flush = Histogram(
            "riskwire_state_flush_seconds",
            "One flush of changed state, the wait for the commit included.",
            buckets=STORE_BOUNDS_S,
            registry=registry,
        )
        self._show_zeros()

    def _show_zeros(self) -> None:
        """Show the series of closed label sets from the start: a rate sees their first step."""
        for outcome in ("scored", "rejected"):
            self._records.labels(outcome)
        for code in RejectCode:
            self._rejects.labels(code.value)
        for decision in ("REVIEW", "DECLINE"):
            self._alerts.labels(decision)
        for result in ("ok", "failed"):
            self._commits.labels(result)
            self._snapshots.labels(result)
        for level in (WITHOUT_TERMINAL, RULE):
            self._shed.labels(str(level))
        for change in ("assigned", "revoked", "lost"):
            self._rebalances.labels(change)

    def batch(self, *, scored: int, rejects: Iterable[RejectCode] = ()) -> None:
        """A micro-batch is finished: riskwire_records_total and _rejects_total."""
        codes = Tally(rejects)
        self._records.labels("scored").inc(scored)
        if codes:
            self._records.labels("rejected").inc(codes.total())
        for code, count in codes.items():
            self._rejects.labels(code.value).inc(count)

    def alerts(self, decision: str, count: int = 1) -> None:
        """Alerts were emitted: riskwire_alerts_total."""
        self._alerts.labels(decision).inc(count)

    def degraded(self, count: int) -> None:
        """Scores rest on default features: riskwire_degraded_total."""
        self._degraded.inc(count)

    def shed(self, level: int, count: int) -> None:
        """Scores were made at a level of shedding above 0: riskwire_shed_total."""
        self._shed.labels(str(level)).inc(count)

    def rebalance(self, change: str) -> None:
        """Partitions were assigned, revoked or lost: riskwire_rebalances_total."""
        self._rebalances.labels(change).inc()

    def provisional(self, count: int) -> None:
        """Scores may change in a recomputation: riskwire_provisional_total."""
        self._provisional.inc(count)

    def labels(self, count: int) -> None:
        """Outcomes were taken in: riskwire_labels_total."""
        self._labels.inc(count)

    def state(self, entities: Mapping[str, int], damaged: int) -> None:
        """Set riskwire_state_entities and riskwire_state_damaged."""
        for entity, count in entities.items():
            self._entities.labels(entity).set(count)
        self._damaged.set(damaged)

    def freshness(self, ages_s: Mapping[tuple[str, str], float]) -> None:
        """Set riskwire_feature_freshness_seconds by entity and log."""
        for (entity, log), age_s in ages_s.items():
            self._freshness.labels(entity, log).set(age_s)

    def flushed(self, seconds: float, entities: int) -> None:
        """Write changed state to Redis: riskwire_state_flush_seconds, _flushed_entities_total."""
        self._flush.observe(seconds)
        self._flushed.inc(entities)

    def store_fetch(self, seconds: float) -> None:
        """Redis answered a fetch: riskwire_store_fetch_seconds."""
        self._store.observe(seconds)

    def commit(self, *, ok: bool) -> None:
        """Offsets were committed or refused: riskwire_commits_total."""
        self._commits.labels("ok" if ok else "failed").inc()

    def lag(self, lags: Mapping[tuple[str, int], int]) -> None:
        """Set riskwire_consumer_lag_records of the owned partitions; the series of others go."""
        self._lag.clear()
        for (topic, partition), records in lags.items():
            self._lag.labels(topic, str(partition)).set(records)

    def progress(
        self, behind: Mapping[int, tuple[int, int]], incomplete: Mapping[int, bool]
    ) -> None:
        """Set riskwire_state_behind_records and _state_incomplete of the owned partitions."""
        self._behind.clear()
        self._incomplete.clear()
        for partition, lacking in incomplete.items():
            self._incomplete.labels(str(partition)).set(int(lacking))
            transactions, labels = behind.get(partition, (0, 0))
            self._behind.labels("transactions", str(partition)).set(transactions)
            self._behind.labels("labels", str(partition)).set(labels)

    def snapshot(self, *, ok: bool) -> None:
        """A snapshot was taken or not: riskwire_snapshots_total."""
        self._snapshots.labels("ok" if ok else "failed").inc()

    def breaker(self, topic: str, *, is_open: bool) -> None:
        """Set riskwire_breaker_open of an input topic."""
        self._breaker.labels(topic).set(int(is_open))

    def unreadable(self, partitions: int) -> None:
        """Set riskwire_partitions_unreadable."""
        self._unreadable.set(partitions)

    def ready(self, *, ready: bool) -> None:
        """Set riskwire_ready."""
        self._ready.set(int(ready))

    def info(
        self,
        *,
        version: str,
        model_id: str,
        feature_contract_id: str,
        provider: str,
        transport: str,
    ) -> None:
        """Set the labels of riskwire_info."""
        self._info.info(
            {
                "version": version,
                "model_id": model_id,
                "feature_contract_id": feature_contract_id,
                "provider": provider,
                "transport": transport,
            },
        )


class _AtScrape(Collector):
    """The families that are made of plain counts when somebody scrapes."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield latencies as Prometheus' histograms, and what the batch policy counts."""
        total, stages = self.metrics.event_latency, self.metrics.stages
        event = HistogramMetricFamily(
            "riskwire_event_latency_seconds", "From event time to emit, a transaction."
        )
        event.add_metric([], _coarse(total, EVENT_BOUNDS_US), total.sum_us / 1e6)
        yield event
        each = HistogramMetricFamily(
            "riskwire_stage_seconds", "Time in a stage, a transaction.", labels=["stage"]
        )
        for stage, histogram in stages.items():
            seconds = histogram.sum_us / 1e6
            each.add_metric([stage], _coarse(histogram, STAGE_BOUNDS_US), seconds)
        yield each
        yield _counters(
            "negative_durations",
            "Durations below zero, because clocks differ.",
            "stage",
            {"event": total.negative, **{stage: h.negative for stage, h in stages.items()}},
        )
        oldest = GaugeMetricFamily(
            "riskwire_oldest_record_age_seconds",
            "Age of the oldest record that is not scored yet.",
            labels=["topic", "partition"],
        )
        for (topic, partition), age_us in self.metrics.ages.ages_us(time.time_ns() // 1000).items():
            oldest.add_metric([topic, str(partition)], age_us / 1e6)
        yield oldest
        closed_by = self.metrics.closed_by
        yield _counters("batches", "Micro-batches, by what closed them.", "closed_by", closed_by)


def _counters(name: str, doc: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"riskwire_{name}", doc, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _coarse(histogram: LatencyHistogram, bounds_us: Iterable[float]) -> list[tuple[str, float]]:
    """Cumulated buckets as prometheus_client wants them: the bound in seconds as text."""
    *finite, (_, total) = histogram.cumulated(bounds_us)
    return [*((repr(bound / 1e6), float(count)) for bound, count in finite), ("+Inf", float(total))]
