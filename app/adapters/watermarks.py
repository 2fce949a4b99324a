"""The topic `watermarks`: read to its end when the owner asks, and written by who replays logs.

Committed records only, no group. Values that are no watermarks are passed over. Raises
BrokerUnavailable where Kafka does not answer in time, or has no such topic (yet).
"""

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from app.adapters.topics import AT_END, outsider, translated
from app.config import Settings
from app.errors import BrokerUnavailable
from app.watermarks import Watermark, parse

SILENT_S_MAX = 4.0
_RECORDS_MAX = 10_000
_POLL_S = 0.2


class KafkaWatermarks:
    """Implements `WatermarkLog`; one read at a time."""

    def __init__(self, settings: Settings) -> None:
        """Connect at the first read."""
        self._topic, self._settings = settings.topic("watermarks"), settings
        self._consumer: Consumer | None = None
        self._lock, self._partitions = threading.Lock(), 0

    async def read(self, starts: Mapping[int, int]) -> dict[int, tuple[list[Watermark], int]]:
        """See `WatermarkLog.read`."""
        return await asyncio.to_thread(self._read, dict(starts))

    def _read(self, starts: dict[int, int]) -> dict[int, tuple[list[Watermark], int]]:
        found: dict[int, tuple[list[Watermark], int]] = {p: ([], at) for p, at in starts.items()}
        with self._lock:
            consumer = self._consumer = self._consumer or self._open()
            try:
                self._check(consumer, max(starts, default=-1))
                consumer.assign([TopicPartition(self._topic, p, at) for p, at in starts.items()])
                self._collect(consumer, found)
            except KafkaException as error:
                raise translated(error, self._topic) from None
            finally:
                consumer.unassign()
        return found

    def _check(self, consumer: Consumer, partition: int) -> None:
        """Raise where there is no such partition: librdkafka would wait for it."""
        if partition < self._partitions:
            return
        found = consumer.list_topics(self._topic, timeout=SILENT_S_MAX)
        self._partitions = len(found.topics[self._topic].partitions)
        if partition >= self._partitions:
            raise BrokerUnavailable(
                f"topic {self._topic} lacks partition {partition}: run `riskwire topics apply`"
            )

    def _collect(self, consumer: Consumer, found: dict[int, tuple[list[Watermark], int]]) -> None:
        unread, heard_s = set(found), time.monotonic()
        while unread:
            first = consumer.poll(_POLL_S)
            if first is not None:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > SILENT_S_MAX:
                raise BrokerUnavailable(f"{self._topic}: nothing is heard of its end")
            else:
                continue
            for message in (first, *consumer.consume(_RECORDS_MAX, 0)):
                partition, error = message.partition(), message.error()
                if partition is None or partition not in found:
                    continue
                marks, next_ = found[partition]
                if error is None:
                    mark = parse(message.value(), self._settings.group_id)
                    marks += [mark] if mark else []
                    found[partition] = marks, (message.offset() or 0) + 1
                elif error.code() == AT_END:
                    unread.discard(partition)
                    found[partition] = marks, max(next_, message.offset() or 0)
                elif error.fatal():
                    raise KafkaException(error)

    def close(self) -> None:
        """See `WatermarkLog.close`."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None

    def _open(self) -> Consumer:
        return outsider(
            self._settings,
            "watermarks",
            enable_partition_eof="true",
            auto_offset_reset="earliest",
            fetch_wait_max_ms="10",
        )


def declare(settings: Settings, marks: Iterable[tuple[int, Watermark]]) -> None:
    """Send watermarks of partitions and wait for all of them; raises BrokerUnavailable."""
    topic, failed = settings.topic("watermarks"), list[str]()
    options = {**settings.client_options(), "enable.idempotence": "true", "log_level": 0}
    producer = Producer(options)
    for partition, mark in marks:
        producer.produce(
            topic,
            mark.encode(settings.group_id),
            mark.key(settings.group_id),
            partition=partition,
            on_delivery=lambda error, _: failed.append(error.str()) if error else None,
        )
    if producer.flush(SILENT_S_MAX) or failed:
        raise BrokerUnavailable(f"{topic}: {failed[0] if failed else 'no answer in time'}")
