"""Peer: Quix Streams, event by event (`event`) or with a batch a checkpoint (`sink`).

A sink is the way in which Quix hands user code many records: this one scores what was added since
the last checkpoint, across partitions, and sends it with a producer of its own. Offsets are
committed at each checkpoint.
"""

from collections.abc import Callable
from typing import Any

from confluent_kafka import Producer
from quixstreams import Application
from quixstreams.sinks import BaseSink

from app.bench.lanes.lane import Meter, Task, task
from app.bench.peers.peer import FETCH_OPTIONS, PRODUCER_OPTIONS, Work, finish

COMMIT_S = 5.0
"""Quix's own default, where a commit is no batch."""


class ScoreSink(BaseSink):  # type: ignore[misc]  # not installed here
    """Scores a checkpoint's records together."""

    def __init__(self, wanted: Task, meter: Meter, stop: Callable[[], None]) -> None:
        super().__init__()
        self._stop = stop
        self._work, self._meter, self._scores = Work(wanted), meter, wanted.scores
        self._producer = Producer({**PRODUCER_OPTIONS, "bootstrap.servers": wanted.bootstrap})
        self._values: list[bytes] = []

    def add(self, value: bytes, *_: Any, **__: Any) -> None:
        """See Quix Streams."""
        self._values.append(value)

    def flush(self) -> None:
        """See Quix Streams."""
        values, self._values = self._values, []
        if values:
            out = [{"key": key, "value": value} for key, value in self._work(values)]
            self._producer.produce_batch(self._scores, out)
            self._producer.flush()
            if self._meter.count(len(values)):
                self._stop()


def main(wanted: Task) -> None:
    """Run the application until the count is reached."""
    meter, is_sink = Meter(wanted.n, wanted.warm), wanted.variant == "sink"
    app = Application(
        wanted.bootstrap,
        consumer_group=wanted.group,
        auto_offset_reset="earliest",
        commit_every=wanted.batch if is_sink else 0,
        commit_interval=wanted.linger_ms / 1000 if is_sink else COMMIT_S,
        consumer_poll_timeout=wanted.linger_ms / 1000,
        consumer_extra_config=FETCH_OPTIONS,
        producer_extra_config=PRODUCER_OPTIONS,
        auto_create_topics=False,
        loglevel="ERROR",
    )
    raw = {"key_deserializer": "bytes", "value_deserializer": "bytes"}
    stream = app.dataframe(app.topic(wanted.topic, **raw))
    if is_sink:
        stream.sink(ScoreSink(wanted, meter, app.stop))
    else:
        work = Work(wanted)

        def score(value: bytes) -> bytes:
            [(_, scored)] = work([value])
            if meter.count(1):
                app.stop()  # after this record's checkpoint
            return scored

        out = app.topic(wanted.scores, key_serializer="bytes", value_serializer="bytes")
        stream.apply(score).to_topic(out)
    app.run()
    finish(meter)


if __name__ == "__main__":
    main(task())
