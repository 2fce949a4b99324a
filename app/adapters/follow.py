"""Follow topics as an outsider: no group, no commits, committed records only.

In: topics and where to begin. Out: `Seen` records as they come, and their values by fields
(`Decoder`), whoever framed them. Times stay microseconds. Raises BrokerUnavailable where Kafka does
not answer, ConfigError where a topic is missing. What a value holds is never an error: it decodes,
or it does not and the fields are None.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import fastavro
from confluent_kafka import OFFSET_BEGINNING, KafkaException, Message, TopicPartition

import schemas
from app.adapters.topics import REQUEST_S, outsider, translated
from app.config import Settings
from app.errors import BrokerUnavailable, ConfigError, RiskwireError

RECORDS_MAX = 1000
SAMPLE_QUIET_S, LEADER_S = 0.5, 0.1
CONFLUENT_MAGIC = 0
CONFLUENT_BYTES = 5
SINGLE_OBJECT_BYTES = 10

Fields = dict[str, Any]


class Seen(NamedTuple):
    """A record as it lies in Kafka."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes | None]


class Follower:
    """Reads all partitions of some topics, from now on or from their beginning."""

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[str],
        *,
        from_beginning: bool = False,
        back: int = 0,
    ) -> None:
        """Find the partitions and begin, `back` records before their ends.

        Raises ConfigError or BrokerUnavailable.
        """
        self._consumer = outsider(settings, "follow", fetch_wait_max_ms="50")
        try:
            at = [(topic, p) for topic in topics for p in self._partitions(topic)]
            begin = [OFFSET_BEGINNING if from_beginning else self._end(*each, back) for each in at]
            self._consumer.assign(
                [TopicPartition(*each, first) for each, first in zip(at, begin, strict=True)]
            )
        except KafkaException as error:
            self.close()
            raise translated(error, "cannot follow") from None
        except RiskwireError:
            self.close()
            raise

    def _partitions(self, topic: str) -> list[int]:
        found = self._consumer.list_topics(topic, timeout=REQUEST_S).topics[topic]
        if found.error is not None:
            raise ConfigError(f"topic {topic}: {found.error.str()}; see `riskwire topics apply`")
        return sorted(found.partitions)

    def _end(self, topic: str, partition: int, back: int) -> int:
        """Its end as it is now, less `back`.

        "From the end" would be looked up at the first fetch: what comes until then would be missed.
        A broker that does not know yet, or no more, that it leads the partition is asked again.
        """
        at, until_s = TopicPartition(topic, partition), time.monotonic() + REQUEST_S
        while True:
            try:
                first, end = self._consumer.get_watermark_offsets(at, timeout=REQUEST_S)
            except KafkaException as error:
                why = translated(error, "cannot follow")
                if isinstance(why, ConfigError) or time.monotonic() > until_s:
                    raise why from None
                time.sleep(LEADER_S)
            else:
                return max(first, end - back)

    def poll(self, timeout_s: float) -> list[Seen]:
        """Wait for the first record, then give what is there; raises BrokerUnavailable."""
        try:
            first = self._consumer.poll(timeout_s)
            if first is None:
                return []
            messages = [first, *self._consumer.consume(RECORDS_MAX - 1, 0)]
        except KafkaException as error:
            raise translated(error, "cannot follow") from None
        return list(_seen(messages))

    def close(self) -> None:
        """Let go of the connections."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sample(settings: Settings, topic: str, records_max: int) -> list[Seen]:
    """Return some of the last records of each partition, about that many of a busy topic."""
    taken: list[Seen] = []
    with Follower(settings, [topic], back=records_max) as follower:
        while len(taken) < records_max and (records := follower.poll(SAMPLE_QUIET_S)):
            taken += records
    return taken


def _seen(messages: Sequence[Message]) -> Iterator[Seen]:
    for message in messages:
        error = message.error()
        if error is not None:
            if error.fatal():
                raise BrokerUnavailable(f"cannot follow: {error.str()}")
            continue  # librdkafka says what it is doing about a broker that went
        yield Seen(
            message.topic() or "",
            message.partition() or 0,
            message.offset() or 0,
            message.timestamp()[1],
            message.key(),
            message.value(),
            {name: _bytes(held) for name, held in dict(message.headers() or ()).items()},
        )


def _bytes(held: str | bytes | None) -> bytes | None:
    return held.encode() if isinstance(held, str) else held


class Decoder:
    """Values of one kind of output, `risk_score` or `risk_alert`, by any writer schema."""

    def __init__(self, name: str, by_id: Callable[[int], str | None] = lambda _id: None) -> None:
        """`by_id` gives the text of a registry's schema; it is asked once for each id."""
        schema = schemas.load(name)
        self._own = schema.single_object_header
        self._reader = schemas.without_logical_types(schema.text)
        self._by_id = by_id
        self._writers: dict[int, Any] = {}

    def __call__(self, value: bytes | None) -> Fields | None:
        """Return the fields, or None for a value of another kind."""
        if not value:
            return None
        if value.startswith(self._own):
            return self._read(value, SINGLE_OBJECT_BYTES, self._reader)
        if value[0] == CONFLUENT_MAGIC and len(value) > CONFLUENT_BYTES:
            writer = self._writer(int.from_bytes(value[1:CONFLUENT_BYTES], "big"))
            return None if writer is None else self._read(value, CONFLUENT_BYTES, writer)
        return None

    def _writer(self, schema_id: int) -> Any:
        if schema_id not in self._writers:
            text = self._by_id(schema_id)
            self._writers[schema_id] = None if text is None else schemas.without_logical_types(text)
        return self._writers[schema_id]

    def _read(self, value: bytes, start: int, writer: Any) -> Fields | None:
        try:
            read = fastavro.schemaless_reader(io.BytesIO(value[start:]), writer, self._reader)
        except Exception:  # noqa: BLE001 -- fastavro raises many kinds on foreign bytes
            return None
        return read if isinstance(read, dict) else None
