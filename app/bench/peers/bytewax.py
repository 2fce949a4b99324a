"""Peer: Bytewax, its Kafka source's batches taken whole (`flat_map`) or its own (`collect`).

`collect` waits for a full batch or its time-out; `flat_map` takes what the source has. The source
reads without a group and its recovery is not switched on, so no offset is committed. The sink
flushes every batch that it writes, so what it has written is acknowledged.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main

from app.bench.lanes.lane import Meter, Task, task
from app.bench.peers.peer import FETCH_OPTIONS, PRODUCER_OPTIONS, Work, finish


class MeteredPart(StatelessSinkPartition[Any]):  # type: ignore[misc]  # not installed here
    """Counts what its inner part has written."""

    def __init__(self, inner: Any, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def write_batch(self, items: list[Any]) -> None:
        """See Bytewax."""
        self._inner.write_batch(items)
        if self._meter.count(len(items)):
            finish(self._meter)


class MeteredSink(DynamicSink[Any]):  # type: ignore[misc]
    """Bytewax's Kafka sink, metered."""

    def __init__(self, wanted: Task) -> None:
        self._inner = KafkaSink([wanted.bootstrap], wanted.scores, add_config=PRODUCER_OPTIONS)
        self._meter = Meter(wanted.n, wanted.warm)

    def build(self, step_id: str, worker_index: int, worker_count: int) -> MeteredPart:
        """See Bytewax."""
        return MeteredPart(self._inner.build(step_id, worker_index, worker_count), self._meter)


def flow_of(wanted: Task) -> Any:
    """The dataflow."""
    work, flow = Work(wanted), Dataflow("peer")

    def scored(messages: Iterable[Any]) -> list[Any]:
        found = work([message.value for message in messages])
        return [KafkaSinkMessage(key, value) for key, value in found]

    options = {**FETCH_OPTIONS, "log_level": "3"}  # its admin client refuses them, and says so
    source = KafkaSource(
        [wanted.bootstrap], [wanted.topic], batch_size=wanted.batch, add_config=options
    )
    stream = op.input("in", flow, source)
    if wanted.variant == "collect":
        keyed = op.key_on("one key", stream, lambda _message: "")
        wait = timedelta(milliseconds=wanted.linger_ms)
        batches = op.collect("batch", keyed, timeout=wait, max_size=wanted.batch)
        stream = op.flat_map("score", batches, lambda batch: scored(batch[1]))
    else:
        stream = op.flat_map_batch("score", stream, scored)
    op.output("out", stream, MeteredSink(wanted))
    return flow


if __name__ == "__main__":
    cli_main(flow_of(task()))
