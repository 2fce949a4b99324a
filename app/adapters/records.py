"""Parts of a log as record batches, for an outsider: no group, no commits, committed records only.

Raises BrokerUnavailable where Kafka does not answer in time.
"""

import time
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaException, TopicPartition

from app.adapters.confluent import columns
from app.adapters.topics import AT_END, REQUEST_S, outsider, translated
from app.config import Settings
from app.errors import BrokerUnavailable
from app.records import RecordBatch

SILENT_S_MAX = 15.0
_POLL_S = 0.2


def read(
    settings: Settings, topic: str, partition: int, start: int, stop: int
) -> Iterator[RecordBatch]:
    """The records of a partition from offset `start` until before `stop`, or to its end."""
    if start >= stop:
        return
    consumer = outsider(
        settings, "state", enable_partition_eof="true", auto_offset_reset="earliest"
    )
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        yield from _batches(consumer, topic, stop, settings.batch_records_max)
    except KafkaException as error:
        raise translated(error, topic) from None
    finally:
        consumer.close()


def _batches(consumer: Consumer, topic: str, stop: int, records_max: int) -> Iterator[RecordBatch]:
    heard_s, ended = time.monotonic(), False
    while not ended:
        messages = consumer.consume(records_max, _POLL_S)
        if messages:
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s > SILENT_S_MAX:
            raise BrokerUnavailable(f"{topic}: nothing is heard of it")
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            elif error.code() == AT_END:
                ended = True
            elif error.fatal():
                raise KafkaException(error)
        kept = [message for message in good if (message.offset() or 0) < stop]
        ended |= len(kept) < len(good) or (bool(good) and (good[-1].offset() or 0) + 1 >= stop)
        if kept:
            yield columns(topic, kept, time.time_ns() // 1000)


def oldest_append_us(settings: Settings, topic: str, partition: int) -> int:
    """When the oldest record of a partition was appended; now where there is none."""
    consumer = outsider(settings, "state")
    try:
        at = TopicPartition(topic, partition)
        first, end = consumer.get_watermark_offsets(at, timeout=REQUEST_S)
    except KafkaException as error:
        raise translated(error, topic) from None
    finally:
        consumer.close()
    for batch in read(settings, topic, partition, first, end):
        return int(batch.timestamp_ms[0]) * 1000
    return time.time_ns() // 1000
