"""The objects transport: the same ports on confluent-kafka's own calls.

The readable twin and the fallback. It makes an object a record and copies it into columns.
Behaviour is that of `native_source` and `native_sink`, which one set of tests checks on both.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from app.adapters.companions import Companions
from app.adapters.topics import AT_END
from app.adapters.transport import BYTES_MAX, queue_limits
from app.adapters.unreadable import UNREADABLE, Unreadable
from app.batching import ByteBound
from app.errors import BrokerUnavailable, ConfigError
from app.ports import RebalanceListener
from app.records import Columns, Letter, Outbound, Ragged, RecordBatch, pack_headers

log = structlog.get_logger("riskwire.kafka")
_REQUEST_S = 10.0
Partitions = Sequence[tuple[str, int]]


def _create(make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        return make({"logger": logging.getLogger("riskwire.librdkafka"), **options})
    except KafkaException as error:
        raise ConfigError(f"librdkafka: {error.args[0].str()}") from error


def call(doing: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call of the library gives; raises BrokerUnavailable for its error."""
    try:
        return function(*args, **kwargs)
    except KafkaException as error:
        cause = error.args[0]
        raise BrokerUnavailable(f"{doing}: {cause.str()}", cause.code()) from error


def columns(topic: str, messages: Sequence[Message], polled_us: int) -> RecordBatch:
    """A batch of messages of one topic."""
    stamps = [message.timestamp() for message in messages]
    return RecordBatch(
        topic,
        np.array([message.partition() for message in messages], np.int32),
        np.array([message.offset() for message in messages], np.int64),
        np.array([ms for _, ms in stamps], np.int64),
        np.array([kind for kind, _ in stamps], np.int8),
        Ragged.of([message.key() for message in messages]),
        Ragged.of([message.value() for message in messages]),
        Ragged.of([_headers(message) for message in messages]),
        polled_us,
    )


def _headers(message: Message) -> bytes:
    # The declared type is that of what a producer may be given; what was read is always a list.
    # A name that is not UTF-8 ends the process in here (confluent-kafka 2.16): one more reason why
    # this transport is the fallback.
    found = cast("list[tuple[str, bytes | None]] | None", message.headers())
    return pack_headers(found or ())


def _weigh(messages: Sequence[Message]) -> tuple[int, int]:
    """Bytes of keys, values and headers together, and of the largest."""
    sizes = [
        len(message.key() or b"")
        + len(message.value() or b"")
        + (0 if message.error() else len(_headers(message)))
        for message in messages
    ]
    return sum(sizes), max(sizes)


def _utf8(name: str) -> str:
    # A name with other bytes would end the process in confluent-kafka's produce.
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class ObjectSource:
    """A member of a consumer group on `confluent_kafka.Consumer`."""

    def __init__(
        self,
        options: Mapping[str, str],
        topics: Sequence[str],
        listener: RebalanceListener,
        records_max: int,  # noqa: ARG002 -- the native twin needs it to make its buffer
        companions: Sequence[str] = (),
        bytes_max: int = 1 << 23,
    ) -> None:
        """Connect and subscribe; raises ConfigError.

        A batch ends at about `bytes_max` of keys, values and headers.
        Of each companion, the partitions with the numbers of our first topic's are read too.
        """
        self._companions = Companions(topics[0], companions, self._partition_count)
        self._options, self._listener = options, listener
        self._failure: BaseException | None = None
        self._bound = ByteBound(bytes_max)
        self._owned: set[tuple[str, int]] = set()
        self._group: object = None
        self._unreadable = Unreadable()
        self._reached: dict[tuple[str, int], int] = {}
        self._consumer = _create(Consumer, {**options, "error_cb": self._error})
        self._cooperative = options.get("partition.assignment.strategy") == "cooperative-sticky"
        self._consumer.subscribe(
            list(topics),
            on_assign=self._assigned,
            on_revoke=partial(self._revoked, lost=False),
            on_lost=partial(self._revoked, lost=True),
        )

    def poll(self, records_max: int, wait_ms: int, linger_ms: int) -> list[RecordBatch]:
        """See `Source.poll`."""
        messages = self._consumer.consume(1, wait_ms / 1000)
        if messages:
            self._fill(messages, records_max, linger_ms)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._group is None:
            self._hear_of_group()
        polled_us = time.time_ns() // 1000
        topics: dict[str, list[Message]] = {}
        for message in messages:
            if (error := message.error()) is not None:
                self._consume_error(error, message)
            else:
                topics.setdefault(message.topic(), []).append(message)
        batches = [columns(topic, its, polled_us) for topic, its in topics.items()]
        self._unreadable.came(batches)
        return batches

    def _fill(self, messages: list[Message], records_max: int, linger_ms: int) -> None:
        """Add to the first message what comes, as far as the bounds go."""
        came, end_s = messages, time.monotonic() + linger_ms / 1000
        self._bound.begin()
        while wanted := self._bound.more(*_weigh(came), records_max - len(messages)):
            came = self._consumer.consume(wanted, max(0.0, end_s - time.monotonic()))
            messages += came
            if len(came) < wanted:
                break

    def _consume_error(self, error: KafkaError, message: Message) -> None:
        if error.code() in UNREADABLE:
            self._unreadable.failed(message.topic() or "", message.partition() or 0, error.str())
            return
        if error.code() == AT_END:
            self._reached[message.topic() or "", message.partition() or 0] = message.offset() or 0
            return
        if error.fatal():
            raise BrokerUnavailable(f"consumer: {error.str()}")
        log.warning("consumer error", code=error.name(), detail=error.str())

    def _error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = BrokerUnavailable(f"consumer: {error.str()}")
        else:
            log.warning("broker trouble", code=error.name(), detail=error.str())

    def _partition_count(self, topic: str) -> int:
        # By a client of its own: after the consumer's list_topics within a callback, the next
        # callback of the same poll ends the process (confluent-kafka 2.16).
        asker = _create(Consumer, self._options)
        try:
            topics = call("read metadata", asker.list_topics, topic, _REQUEST_S).topics
        except RuntimeError:  # a name that no topic can have
            return 0
        finally:
            asker.close()
        if (found := topics.get(topic)) is None:
            return 0
        if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise BrokerUnavailable(f"read metadata of {topic}: {found.error.str()}")
        return len(found.partitions)

    def _hear_of_group(self) -> None:
        # At a rebalance, before the listener waits for transactions that need it; and on this
        # thread: on another the call waits for a pause in this one's, with the GIL.
        self._group = self._consumer.consumer_group_metadata()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._hear_of_group()
        at = [(p.topic, p.partition) for p in partitions]
        besides = self._companions.joining(at)
        at += besides
        self._owned |= set(at)
        self._listener.assigned(at)
        # No offset: where the group stands.
        every = [*partitions, *(TopicPartition(*its) for its in besides)]
        (consumer.incremental_assign if self._cooperative else consumer.assign)(every)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition], *, lost: bool) -> None:
        if not lost:  # else the group knows us no longer, and refuses what goes by the old one
            self._hear_of_group()
        at = [(p.topic, p.partition) for p in partitions]
        besides = self._companions.leaving(at, self._owned)
        at += besides
        try:
            self._listener.revoked(at, lost=lost)
        except Exception as failure:  # noqa: BLE001 -- raised by the poll around this call
            self._failure = failure
        self._owned -= set(at)
        self._unreadable.left(at)
        if self._cooperative:
            consumer.incremental_unassign([*partitions, *(TopicPartition(*its) for its in besides)])
        else:
            consumer.unassign()

    def assignment(self) -> set[tuple[str, int]]:
        """See `Source.assignment`."""
        return set(self._owned)

    def commit(self, offsets: Mapping[tuple[str, int], int], *, wait: bool) -> None:
        """See `Source.commit`."""
        mine = [TopicPartition(*at, offset) for at, offset in offsets.items() if at in self._owned]
        if mine:
            call("commit offsets", self._consumer.commit, offsets=mine, asynchronous=not wait)

    def committed(self, partitions: Partitions) -> dict[tuple[str, int], int]:
        """See `Source.committed`."""
        wanted = [TopicPartition(*at) for at in partitions]
        found = call("read committed offsets", self._consumer.committed, wanted, _REQUEST_S)
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def seek(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """See `Source.seek`."""
        for at, offset in offsets.items():
            self._reached.pop(at, None)
            call("seek", self._consumer.seek, TopicPartition(*at, offset))

    def ends(self) -> dict[tuple[str, int], int]:
        """See `Source.ends`."""
        cached = partial(self._consumer.get_watermark_offsets, cached=True)
        found = {at: cached(TopicPartition(*at)) for at in self._owned}
        return {at: marks[1] for at, marks in found.items() if marks and marks[1] >= 0}

    def reached(self) -> Mapping[tuple[str, int], int]:
        """See `Source.reached`."""
        return self._reached

    def unreadable(self) -> Mapping[tuple[str, int], str]:
        """See `Source.unreadable`."""
        return self._unreadable.why

    def group_metadata(self) -> object:
        """See `Source.group_metadata`."""
        return self._group

    def beginnings(self) -> dict[tuple[str, int], int]:
        """See `Source.beginnings`."""
        ask = partial(
            call, "read the log's begin", self._consumer.get_watermark_offsets, timeout=_REQUEST_S
        )
        found = {at: ask(TopicPartition(*at)) for at in self._owned}
        if late := [at for at, marks in found.items() if marks is None]:
            raise BrokerUnavailable(f"read the log's begin of {late[0]}: timed out")
        return {at: low for at, (low, _) in found.items()}

    def pause(self, partitions: Partitions) -> None:
        """See `Source.pause`."""
        call("pause", self._consumer.pause, [TopicPartition(*at) for at in partitions])

    def resume(self, partitions: Partitions) -> None:
        """See `Source.resume`."""
        call("resume", self._consumer.resume, [TopicPartition(*at) for at in partitions])

    def close(self) -> None:
        """See `Source.close`."""
        self._consumer.close()


class ObjectSink:
    """A producer on `confluent_kafka.Producer`, acknowledged batch by batch."""

    def __init__(
        self, options: Mapping[str, Any], records_max: int, bytes_max: int = BYTES_MAX
    ) -> None:
        """Create the producer; raises ConfigError. It connects by itself."""
        self._failure: str = ""
        self._records_max, self._bytes_max = records_max, bytes_max
        self._remaining: dict[int, int] = {}
        self._bytes: deque[int] = deque()
        self._producer = _create(
            Producer, {**options, **queue_limits(records_max), "error_cb": self._error}
        )

    def room(self, records: int) -> bool:
        """See `Sink.room`."""
        waiting = len(self._producer)
        fits = waiting == 0 or waiting + records <= self._records_max
        return fits and sum(self._bytes) < self._bytes_max

    def send(self, outbound: Outbound, ticket: int) -> None:
        """See `Sink.send`; raises BrokerUnavailable if librdkafka refuses a record."""
        self._remaining[ticket] = len(outbound)
        self._bytes.append(outbound.nbytes)
        reported = partial(self._reported, ticket)
        for columns in outbound.columns:
            self._send_columns(columns, reported)
        for letter in outbound.letters:
            self._send_letter(letter, reported)

    def _send_columns(self, columns: Columns, reported: Callable[..., None]) -> None:
        for i, partition in enumerate(columns.partition.tolist()):
            call(
                f"produce to {columns.topic}",
                self._producer.produce,
                columns.topic,
                columns.values[i],
                columns.keys[i],
                partition,
                reported,
            )

    def _send_letter(self, letter: Letter, reported: Callable[..., None]) -> None:
        call(
            f"produce to {letter.topic}",
            self._producer.produce,
            letter.topic,
            letter.value,
            letter.key,
            letter.partition,
            reported,
            headers=[(_utf8(header.name), header.value) for header in letter.headers],
        )

    def _reported(self, ticket: int, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failure = self._failure or f"deliver: {error.str()}"
        self._remaining[ticket] -= 1

    def _error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = f"producer: {error.str()}"
        else:
            log.warning("broker trouble", code=error.name(), detail=error.str())

    def poll(self, wait_ms: int) -> list[int]:
        """See `Sink.poll`."""
        self._producer.poll(wait_ms / 1000)
        if self._failure:
            raise BrokerUnavailable(self._failure)
        done = []
        for ticket, remaining in self._remaining.items():
            if remaining:
                break
            done.append(ticket)
        for ticket in done:
            del self._remaining[ticket]
            self._bytes.popleft()
        return done

    def close(self, timeout_ms: int) -> None:
        """See `Sink.close`."""
        with suppress(KafkaException):  # of a producer that was fenced, say
            self._producer.flush(timeout_ms / 1000)
        self._producer.purge()
