"""Peer: a hand-written loop on confluent-kafka, batch by batch, at least once.

It takes what is there up to its batch and never waits for company, sends a batch in one call, and
every 100 ms it flushes and commits.
"""

import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from app.bench.lanes.lane import CONSUMER_OPTIONS, Meter, Task, task
from app.bench.peers.peer import PRODUCER_OPTIONS, Work, finish

COMMIT_S = 0.1


def main(wanted: Task) -> None:
    """Score until the count is reached."""
    work, meter = Work(wanted), Meter(wanted.n, wanted.warm)
    brokers = {"bootstrap.servers": wanted.bootstrap}
    consumer = Consumer({**CONSUMER_OPTIONS, **brokers, "group.id": wanted.group})
    consumer.subscribe([wanted.topic])
    producer = Producer({**PRODUCER_OPTIONS, **brokers, "delivery.report.only.error": True})
    next_offset: dict[Any, int] = {}
    committed_s, done = time.monotonic(), False
    while not done:
        first = consumer.poll(COMMIT_S)
        if first is not None:
            messages = [first, *consumer.consume(wanted.batch - 1, 0)]
            scored = work([message.value() or b"" for message in messages])
            out: list[Any] = [{"key": key, "value": value} for key, value in scored]
            if producer.produce_batch(wanted.scores, out, on_delivery=refused) != len(out):
                raise SystemExit("the producer's queue is full")
            producer.poll(0)
            next_offset |= {m.partition(): (m.offset() or 0) + 1 for m in messages}
            done = meter.count(len(messages))
        if next_offset and (done or time.monotonic() - committed_s > COMMIT_S):
            producer.flush()
            offsets = [TopicPartition(wanted.topic, p, at) for p, at in next_offset.items()]
            consumer.commit(offsets=offsets, asynchronous=False)
            next_offset.clear()
            committed_s = time.monotonic()
    finish(meter)


def refused(error: KafkaError | None, _message: Message) -> None:
    """Delivery report; only failures are reported."""
    raise SystemExit(f"a score could not be delivered: {error}")


if __name__ == "__main__":
    main(task())
