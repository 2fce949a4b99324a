"""Peer: Pathway, a UDF that is given batches.

It reads without a committed offset of its own (persistence is off). Its Kafka writer says nothing
of acknowledgements, so the end of the output topic is asked for once all is scored.
"""

import threading
import time

import pathway as pw
from confluent_kafka import Consumer, TopicPartition

from app.bench.lanes.lane import PARTITIONS, Meter, Task, task
from app.bench.peers.peer import FETCH_OPTIONS, PRODUCER_OPTIONS, Work, finish

LOOK_S = 0.005


def wait(wanted: Task, scored: threading.Event, meter: Meter) -> None:
    """Finish when the output topic holds what was scored."""
    scored.wait()
    consumer = Consumer({"bootstrap.servers": wanted.bootstrap, "group.id": wanted.group})
    ends = [TopicPartition(wanted.scores, partition) for partition in range(PARTITIONS)]
    while sum(consumer.get_watermark_offsets(end)[1] for end in ends) < meter.read:
        time.sleep(LOOK_S)
    finish(meter)


def main(wanted: Task) -> None:
    """Run the graph until the count is reached."""
    work, meter, done = Work(wanted), Meter(wanted.n, wanted.warm), threading.Event()
    threading.Thread(target=wait, args=(wanted, done, meter)).start()

    @pw.udf(max_batch_size=wanted.batch, deterministic=True)  # type: ignore[untyped-decorator]
    def score(values: list[bytes]) -> list[bytes]:
        scored = [value for _, value in work(values)]
        if meter.count(len(values)):
            done.set()
        return scored

    brokers = {"bootstrap.servers": wanted.bootstrap}
    start = {"group.id": wanted.group, "auto.offset.reset": "earliest"}
    reading = {**brokers, **FETCH_OPTIONS, **start}
    writing = {**brokers, **PRODUCER_OPTIONS}
    table = pw.io.kafka.read(
        reading, wanted.topic, format="raw", autocommit_duration_ms=wanted.linger_ms
    )
    scores = table.select(table.key, value=score(table.data))
    pw.io.kafka.write(
        scores, writing, wanted.scores, format="raw", key=scores.key, value=scores.value
    )
    pw.run(monitoring_level=pw.MonitoringLevel.NONE, default_logging=False)


if __name__ == "__main__":
    main(task())
