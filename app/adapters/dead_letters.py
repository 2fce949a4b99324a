"""The dead-letters topic and the marks of replays, read as an outsider: committed records only.

`scan` reads a topic as it is when it begins, to its end and no further; it waits for transactions
that are open there, whose records may still become visible. Raises ConfigError where a topic is
missing, BrokerUnavailable where Kafka does not answer.
"""

from collections.abc import Iterator, Mapping
from typing import cast

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from app.adapters.topics import AT_END, REQUEST_S, outsider, translated
from app.config import Settings
from app.dead_letter import DeadLetter, Source
from app.errors import BrokerUnavailable, ConfigError
from app.records import Header

RECORDS_MAX = 500
POLL_S = 0.2
QUIET_S = 40.0
"""Longer than an open transaction of a worker that was killed may last."""


def letters(
    settings: Settings, partition: int | None = None, since_ms: int = 0
) -> Iterator[DeadLetter]:
    """Dead letters in the order of each partition, those of one or of all."""
    for message in scan(settings, settings.topic("dead_letters"), partition, since_ms):
        yield DeadLetter(
            message.partition() or 0,
            message.offset() or 0,
            message.timestamp()[1],
            message.key(),
            message.value(),
            _headers(message),
        )


def replayed(settings: Settings, partition: int | None = None) -> dict[tuple[str, int], set[int]]:
    """The source positions that were replayed: offsets by topic and partition."""
    found: dict[tuple[str, int], set[int]] = {}
    for message in scan(settings, settings.topic("replays"), partition):
        source = Source.parse((message.key() or b"").decode("utf-8", "replace"))
        if source is not None:
            found.setdefault((source.topic, source.partition), set()).add(source.offset)
    return found


def fetched(
    settings: Settings, source: Source
) -> tuple[bytes | None, bytes | None, tuple[Header, ...]] | None:
    """Key, value and headers of the record at a position, None where it is there no more."""
    at = TopicPartition(*source)
    consumer = outsider(settings, "dlq")
    try:
        low, high = consumer.get_watermark_offsets(at, timeout=REQUEST_S)
        if not low <= source.offset < high:
            return None
        consumer.assign([at])
        message = consumer.poll(QUIET_S)
    except KafkaException as error:
        raise translated(error, str(source)) from None
    finally:
        consumer.close()
    if message is None or message.error() is not None:
        raise BrokerUnavailable(f"{source} cannot be read")
    if message.offset() != source.offset:
        return None
    return message.key(), message.value(), _headers(message)


def scan(
    settings: Settings, topic: str, partition: int | None = None, since_ms: int = 0
) -> Iterator[Message]:
    """Committed records of a topic, from the first one of that time or later to its end as now."""
    options = {"enable_partition_eof": "true", "queued_max_messages_kbytes": "16384"}
    consumer = outsider(settings, "dlq", **options)
    try:
        starts = _starts(consumer, settings, topic, partition, since_ms)
        consumer.assign([TopicPartition(topic, p, first) for p, (first, _) in starts.items()])
        yield from _to_the_end(consumer, topic, {p: end for p, (_, end) in starts.items()})
    except KafkaException as error:
        raise translated(error, f"topic {topic}") from None
    finally:
        consumer.close()


def _starts(
    consumer: Consumer, settings: Settings, topic: str, partition: int | None, since_ms: int
) -> dict[int, tuple[int, int]]:
    """By partition that has any, the first offset to be read and the end as it is now."""
    found = consumer.list_topics(topic, timeout=REQUEST_S).topics[topic]
    if found.error is not None:
        raise ConfigError(f"topic {topic}: {found.error.str()}; see `riskwire topics apply`")
    if partition is not None and partition not in found.partitions:
        raise ConfigError(f"topic {topic} has no partition {partition}")
    # A reader of committed records would be told where the first open transaction begins.
    everything = outsider(settings, "dlq", isolation_level="read_uncommitted")
    starts = {}
    try:
        for p in sorted(found.partitions) if partition is None else [partition]:
            asked = TopicPartition(topic, p, since_ms)
            low, end = everything.get_watermark_offsets(asked, timeout=REQUEST_S)
            [at] = everything.offsets_for_times([asked], timeout=REQUEST_S) if since_ms else [None]
            first = low if at is None else at.offset if at.offset >= 0 else end
            if first < end:
                starts[p] = first, end
    finally:
        everything.close()
    return starts


def _to_the_end(consumer: Consumer, topic: str, ends: Mapping[int, int]) -> Iterator[Message]:
    left, waited_s = dict(ends), 0.0  # not the time that the caller takes for a record
    while left:
        if (first := consumer.poll(POLL_S)) is None:
            waited_s += POLL_S
            if waited_s > QUIET_S:
                raise BrokerUnavailable(f"topic {topic}: partitions {sorted(left)} do not end")
            continue
        for message in (first, *consumer.consume(RECORDS_MAX, 0)):
            p, offset, error = message.partition() or 0, message.offset() or 0, message.error()
            if p not in left:
                continue
            if error is None:
                waited_s = 0.0
                if offset < left[p]:
                    yield message
                offset += 1
            elif error.code() != AT_END:
                continue  # librdkafka goes on by itself
            if offset >= left[p]:
                del left[p]
                consumer.pause([TopicPartition(topic, p)])


def _headers(message: Message) -> tuple[Header, ...]:
    found = cast("list[tuple[str, bytes | None]] | None", message.headers())
    return tuple(Header(name, value) for name, value in found or ())
