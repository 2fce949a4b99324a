"""The evidence where it lies: Kafka's topics as a read_committed reader has them, and Redis."""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from redis import Redis
from redis.exceptions import RedisError

from verify.evidence import CannotDecide, CannotReach, Ends, Record
from verify.settings import ROLES, Settings

REQUEST_S = 15.0
CONNECT_S = 5.0
STILL_S = 1.0
RECORDS_AT_ONCE = 10_000
KEYS_AT_ONCE = 1000
AT_END = KafkaError._PARTITION_EOF  # noqa: SLF001 -- librdkafka's own codes are named so
_SPECS: Any = OffsetSpec  # its types lack these two
EARLIEST, LATEST = _SPECS.earliest(), _SPECS.latest()
MOVING = ("transactions", "labels", "scores", "alerts", "dead_letters")
"""Roles that must stand still; workers at rest go on to declare watermarks."""


class Consumers:
    """Makes readers of committed records that belong to no group and commit nothing."""

    def __init__(self, settings: Settings) -> None:
        self.options: dict[str, Any] = {
            **(settings.kafka_options or {}),
            "bootstrap.servers": settings.bootstrap,
            "client.id": "riskwire-verify",
            "log_level": 0,  # what matters is raised
        }

    def open(self, group: str = "riskwire-verify", **more: Any) -> Consumer:
        """A consumer that has not been assigned anything."""
        fixed = {
            "group.id": group, "enable.auto.commit": False, "isolation.level": "read_committed",
            "auto.offset.reset": "error", "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,  # the end of every partition is waited for
        }  # fmt: skip
        return Consumer({**self.options, **fixed, **more})


class KafkaEvidence:
    """What is in Kafka and Redis, once it stands still for a moment.

    Every method raises CannotReach; making one CannotDecide where a topic is not as it is said.
    """

    def __init__(self, settings: Settings, wait_s: float = 30.0) -> None:
        """Wait for the topics to stand still, at most so long."""
        self.settings = settings
        self._consumers = Consumers(settings)
        self._reader = self._consumers.open()
        self._redis = Redis.from_url(settings.redis_url, socket_timeout=REQUEST_S)
        until = time.monotonic() + wait_s
        before = self._taken()
        while True:
            time.sleep(STILL_S)
            now = self._taken()
            if _still(before) == _still(now):
                break
            if time.monotonic() > until:
                raise CannotReach("the topics still move: let the workers finish first")
            before = now
        self._blobs = self._scan()
        # After Redis: a state that is flushed meanwhile has its offsets committed before.
        self._ends, self._committed = self._taken()

    def close(self) -> None:
        """Let go of the connections."""
        self._reader.close()
        self._redis.close()

    def check_still(self) -> None:
        """Raise CannotReach if anything has moved since."""
        if _still((self._ends, self._committed)) != _still(self._taken()):
            raise CannotReach("the topics moved while they were read: let the workers finish first")

    def ends(self, role: str, partition: int) -> Ends:
        """See `Evidence.ends`."""
        return self._ends[role, partition]

    def committed(self, role: str, partition: int) -> int:
        """See `Evidence.committed`."""
        return self._committed[role, partition]

    def blobs(self, prefix: bytes) -> Mapping[bytes, bytes]:
        """See `Evidence.blobs`."""
        return {key: value for key, value in self._blobs.items() if key.startswith(prefix)}

    def records(self, role: str, partition: int) -> Iterable[Record]:
        """See `Evidence.records`."""
        end = self._ends[role, partition].stable
        return _read(self._reader, self.settings.topics[role], partition, end) if end else ()

    def schema_text(self, schema_id: int) -> str | None:
        """An Avro schema of the registry, None where there is none or no registry."""
        if not self.settings.registry_url:
            return None
        url = f"{self.settings.registry_url.rstrip('/')}/schemas/ids/{schema_id}"
        request = urllib.request.Request(url)  # noqa: S310 -- the operator's own setting
        if self.settings.registry_auth:
            coded = base64.b64encode(self.settings.registry_auth.encode()).decode()
            request.add_header("Authorization", f"Basic {coded}")
        try:
            with urllib.request.build_opener().open(request, timeout=REQUEST_S) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise CannotReach(f"the schema registry answers {error.code}") from None
        except (OSError, ValueError) as error:
            raise CannotReach(f"the schema registry does not answer: {error}") from None
        return str(found["schema"]) if found.get("schemaType", "AVRO") == "AVRO" else None

    def _scan(self) -> dict[bytes, bytes]:
        try:
            keys = list(self._redis.scan_iter(match=b"rw:*", count=KEYS_AT_ONCE))
            found: dict[bytes, bytes] = {}
            for first in range(0, len(keys), KEYS_AT_ONCE):
                some = keys[first : first + KEYS_AT_ONCE]
                values = self._redis.mget(some)
                found |= {k: v for k, v in zip(some, values, strict=True) if v is not None}
        except RedisError as error:
            raise CannotReach(f"Redis does not answer: {error}") from None
        return found

    def _check_topics(self, admin: AdminClient) -> None:
        try:
            found = admin.list_topics(timeout=CONNECT_S).topics
        except KafkaException as error:
            raise CannotReach(f"Kafka does not answer: {error}") from None
        for name in self.settings.topics.values():
            count = len(found[name].partitions) if name in found else 0
            if count != self.settings.partitions:
                raise CannotDecide(
                    f"topic {name} has {count} partitions, RISKWIRE_PARTITIONS says"
                    f" {self.settings.partitions}"
                )

    def _taken(self) -> tuple[dict[tuple[str, int], Ends], dict[tuple[str, int], int]]:
        """Ends of all partitions, and the group's offsets."""
        names, count = self.settings.topics, range(self.settings.partitions)
        at = {(role, p): TopicPartition(names[role], p) for role in ROLES for p in count}
        admin = AdminClient(self._consumers.options)
        self._check_topics(admin)
        committed = IsolationLevel.READ_COMMITTED
        try:
            first, stable, end = (
                {k: f.result(REQUEST_S).offset for k, f in asked.items()}
                for asked in [
                    admin.list_offsets(
                        dict.fromkeys(at.values(), spec), isolation_level=level,
                        request_timeout=REQUEST_S,
                    )
                    for spec, level in (
                        (EARLIEST, committed),
                        (LATEST, committed),
                        (LATEST, IsolationLevel.READ_UNCOMMITTED),
                    )
                ]
            )  # fmt: skip
            reader = self._consumers.open(self.settings.group)
            inputs = [key for key in at if key[0] in ("transactions", "labels")]
            asked = reader.committed([at[key] for key in inputs], REQUEST_S)
            reader.close()
        except (KafkaException, TimeoutError) as error:
            raise CannotReach(f"Kafka does not answer: {error}") from None
        ends = {key: Ends(first[its], stable[its], end[its]) for key, its in at.items()}
        offsets = zip(inputs, asked, strict=True)
        return ends, {key: max(its.offset, -1) for key, its in offsets}


def _still(taken: tuple[dict[tuple[str, int], Ends], dict[tuple[str, int], int]]) -> Any:
    ends, committed = taken
    return {key: its for key, its in ends.items() if key[0] in MOVING}, committed


def _read(consumer: Consumer, topic: str, partition: int, end: int) -> Iterator[Record]:
    """A partition's committed records below `end`; the consumer reads nothing else meanwhile."""
    consumer.assign([TopicPartition(topic, partition, 0)])
    while True:
        first = consumer.poll(REQUEST_S)
        if first is None:
            raise CannotReach(f"Kafka does not answer: {topic}/{partition} ends before {end}")
        for message in (first, *consumer.consume(RECORDS_AT_ONCE, 0)):
            error = message.error()
            if error is not None and error.code() != AT_END:
                raise CannotReach(f"{topic}/{partition} cannot be read: {error}")
            if error is not None or (message.offset() or 0) >= end:
                return
            yield record_of(message)


def record_of(message: Message) -> Record:
    """A message of a consumer as a record."""
    kind, stamp_ms = message.timestamp()
    headers: Any = message.headers() or []  # pairs, whatever its types say
    return Record(
        message.offset() or 0,
        _bytes(message.key()),
        _bytes(message.value()),
        tuple((name, _bytes(value)) for name, value in headers),
        stamp_ms,
        kind,
    )


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
