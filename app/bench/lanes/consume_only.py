"""Lane: confluent-kafka's batch consume and nothing else, the floor of every Python consumer.

It prints its result and commits nothing.
"""

from confluent_kafka import Consumer

from app.bench.lanes.lane import BATCH_RECORDS, CONSUMER_OPTIONS, Meter, Task, task


def main(wanted: Task) -> None:
    """Read until the count is reached."""
    meter = Meter(wanted.n, wanted.warm)
    options = {"bootstrap.servers": wanted.bootstrap, "group.id": wanted.group}
    consumer = Consumer({**CONSUMER_OPTIONS, **options})
    consumer.subscribe([wanted.topic])
    while not meter.count(len(consumer.consume(BATCH_RECORDS, 0.1))):
        pass
    meter.report()
    consumer.close()


if __name__ == "__main__":
    main(task())
