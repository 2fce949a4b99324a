"""Kafka's topics as an operator sees them: what should be, what is, and how far consumers lag.

`apply_topics` makes what is missing and sets what differs, as often as it is called, but never
changes a partition count: that would move keys to other partitions, away from their history.
Foreign errors leave as BrokerUnavailable (try again) or ConfigError (Kafka refuses; says what).
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic

from app.config import Settings
from app.errors import BrokerUnavailable, ConfigError, RiskwireError

REQUEST_S = 15.0
TIMESTAMP_TYPE = "message.timestamp.type"
MESSAGE_BYTES = "max.message.bytes"
RETENTION = "retention.ms"
CLEANUP = "cleanup.policy"
RETENTION_BYTES = "retention.bytes"
DESCRIBED = (TIMESTAMP_TYPE, MESSAGE_BYTES, RETENTION, RETENTION_BYTES, CLEANUP)
AT_END = KafkaError._PARTITION_EOF  # noqa: SLF001 -- librdkafka's own codes are named so
"""The error that says that a partition was read to its end; see `enable.partition.eof`."""
REFUSALS = frozenset(
    {
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.POLICY_VIOLATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._AUTHENTICATION,  # noqa: SLF001 -- librdkafka's own codes are named so
    }
)
SETTLING = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it should be, or as it is. `config` holds the settings that Riskwire cares for."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What was done with one topic. `differs`: nothing, somebody must decide."""

    topic: str
    action: Literal["created", "altered", "unchanged", "differs", "registered"]
    detail: str


def wanted_topics(settings: Settings) -> list[Topic]:
    """Return the seven topics as the settings want them, transactions first."""
    # Broker time on the way in: the wait in the broker can be told from the wait before it, and
    # replayed events are not deleted for their age.
    arrival = {TIMESTAMP_TYPE: "LogAppendTime"}
    # A dead letter carries any value that came in, and headers on top.
    letters = {MESSAGE_BYTES: str(settings.message_bytes_max)}
    count, copies = settings.partitions, settings.replication
    return [
        Topic(settings.topic("transactions"), count, copies, arrival),
        Topic(settings.topic("labels"), count, copies, arrival),
        Topic(settings.topic("scores"), count, copies),
        Topic(settings.topic("alerts"), count, copies),
        Topic(settings.topic("dead_letters"), count, copies, letters),
        # Of each position the latest, for as long as the inputs may be read again.
        Topic(settings.topic("watermarks"), count, copies, {CLEANUP: "compact"}),
        # Of each source position one, for as long as its dead letter may lie there: for ever.
        Topic(settings.topic("replays"), count, copies, {CLEANUP: "compact"}),
    ]


def apply_topics(settings: Settings) -> list[Change]:
    """Make the topics so; what was done, a change or more a topic."""
    admin = client(settings)
    wanted = wanted_topics(settings)
    names = [topic.name for topic in wanted]
    found = _describe(admin, names)
    made = _create(admin, [topic for topic in wanted if topic.name not in found])
    if len(found) < len(wanted):
        found = _await(admin, names)
    changes = []
    for topic in wanted:
        if topic.name in made:
            changes.append(Change(topic.name, "created", f"{topic.partitions} partitions"))
        else:
            changes += _adjust(admin, topic, found[topic.name])
    return changes


def describe_topics(settings: Settings) -> dict[str, Topic]:
    """Return the topics that exist of those that the settings name, by name."""
    return _describe(client(settings), [topic.name for topic in wanted_topics(settings)])


def watermarks(settings: Settings, topic: str) -> dict[int, tuple[int, int]]:
    """By partition, the first offset there is and the next one to be written."""
    with _asking(settings, topic) as (consumer, partitions):
        return _marks(consumer, partitions)


def lag(settings: Settings, topic: str) -> dict[int, int]:
    """By partition, how many records the workers' group has not committed."""
    with _asking(settings, topic) as (consumer, partitions):
        committed = _committed(consumer, partitions)
        marks = _marks(consumer, partitions)
    # A group that never committed has a negative offset: all there is lies before it.
    return {p: high - max(committed[p], low) for p, (low, high) in marks.items()}


def positions(settings: Settings, topic: str) -> dict[int, tuple[int, int, int]]:
    """By partition, what the workers' group has committed (negative: nothing), begin and end."""
    with _asking(settings, topic) as (consumer, partitions):
        committed = _committed(consumer, partitions)
        return {p: (committed[p], *at) for p, at in _marks(consumer, partitions).items()}


def brokers(settings: Settings, timeout_s: float = REQUEST_S) -> list[str]:
    """Return the brokers' addresses; raises BrokerUnavailable, with the cause, if none answers."""
    causes: list[str] = []
    admin = client(settings, lambda error: causes.append(error.str()))
    try:
        found = admin.list_topics(timeout=timeout_s).brokers.values()
    except KafkaException as error:
        admin.poll(0)  # serves `on_error`
        raise BrokerUnavailable(causes[0] if causes else error.args[0].str()) from None
    return sorted(f"{broker.host}:{broker.port}" for broker in found)


def client(
    settings: Settings, on_error: Callable[[KafkaError], None] = lambda _error: None
) -> AdminClient:
    """Connect an admin client; librdkafka writes no lines of its own, errors go to `on_error`."""
    options: dict[str, Any] = {**settings.client_options(), "log_level": 0, "error_cb": on_error}
    try:
        return AdminClient(options)
    except KafkaException as error:
        raise ConfigError(f"RISKWIRE_KAFKA_OPTIONS: {error.args[0].str()}") from None


def _describe(admin: AdminClient, names: Collection[str]) -> dict[str, Topic]:
    try:
        there = admin.list_topics(timeout=REQUEST_S).topics
    except KafkaException as error:
        raise translated(error, "metadata") from None
    present = [name for name in names if name in there and there[name].partitions]
    if not present:
        return {}
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in present]
    futures = admin.describe_configs(resources, request_timeout=REQUEST_S)
    topics = {}
    for resource, entries in _results(futures, "topic configuration").items():
        config = {name: entries[name].value for name in DESCRIBED}
        partitions = there[resource.name].partitions
        replication = max(len(p.replicas) for p in partitions.values())
        topics[resource.name] = Topic(resource.name, len(partitions), replication, config)
    return topics


def _create(admin: AdminClient, topics: Sequence[Topic]) -> set[str]:
    """Make topics; the names of those that nobody else made at the same time."""
    if not topics:
        return set()
    new = [NewTopic(t.name, t.partitions, t.replication, config=dict(t.config)) for t in topics]
    futures = admin.create_topics(new, request_timeout=REQUEST_S)
    wait(futures.values(), REQUEST_S + 1)
    made = set()
    for name, future in futures.items():
        try:
            future.result(0)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translated(error, f"topic {name}") from None
        else:
            made.add(name)
    return made


def _await(admin: AdminClient, names: Collection[str]) -> dict[str, Topic]:
    """Wait until every broker that is asked knows new topics, which takes it a moment."""
    end_s = time.monotonic() + REQUEST_S
    while time.monotonic() < end_s:
        with suppress(BrokerUnavailable):
            found = _describe(admin, names)
            if len(found) == len(names):
                return found
        time.sleep(0.05)
    raise BrokerUnavailable(f"topics {', '.join(names)} do not appear")


def _adjust(admin: AdminClient, wanted: Topic, found: Topic) -> list[Change]:
    """Set what may be set; report what may not."""
    changes = []
    for what in ("partitions", "replication"):
        is_now, should_be = getattr(found, what), getattr(wanted, what)
        if is_now != should_be:
            changes.append(Change(wanted.name, "differs", f"{what}: {is_now}, wanted {should_be}"))
    wrong = {k: v for k, v in wanted.config.items() if found.config[k] != v}
    if wrong:
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in wrong.items()
        ]
        resource = ConfigResource(
            ConfigResource.Type.TOPIC, wanted.name, incremental_configs=entries
        )
        futures = admin.incremental_alter_configs([resource], request_timeout=REQUEST_S)
        _results(futures, "topic configuration")
        detail = ", ".join(f"{k}: {found.config[k]} -> {v}" for k, v in wrong.items())
        changes.append(Change(wanted.name, "altered", detail))
    return changes or [Change(wanted.name, "unchanged", f"{found.partitions} partitions")]


def outsider(settings: Settings, name: str, **options: str) -> Consumer:
    """Make a consumer of committed records that joins no group; raises ConfigError.

    Underscores in the names of `options` stand for dots.
    """
    try:
        return Consumer(
            {
                **settings.client_options(),
                "group.id": f"riskwire-{name}",  # librdkafka wants one; nothing joins it
                "enable.auto.commit": "false",
                "isolation.level": "read_committed",
                "log_level": "0",
                **{key.replace("_", "."): value for key, value in options.items()},
            }
        )
    except KafkaException as error:
        raise ConfigError(f"RISKWIRE_KAFKA_OPTIONS: {error.args[0].str()}") from None


@contextmanager
def _asking(settings: Settings, topic: str) -> Iterator[tuple[Consumer, list[TopicPartition]]]:
    """Give a consumer that only asks for offsets, in the workers' group without joining it."""
    options = {**settings.client_options(), "group.id": settings.group_id, "log_level": 0}
    consumer = Consumer(options)
    try:
        found = consumer.list_topics(topic, timeout=REQUEST_S).topics[topic]
        if found.error is not None:
            raise ConfigError(f"topic {topic}: {found.error.str()}; see `riskwire topics apply`")
        yield consumer, [TopicPartition(topic, p) for p in sorted(found.partitions)]
    except KafkaException as error:
        raise translated(error, f"topic {topic}") from None
    finally:
        consumer.close()


def _committed(consumer: Consumer, partitions: list[TopicPartition]) -> dict[int, int]:
    """Committed offsets, negative where there is none; waits while the coordinator settles."""
    end_s = time.monotonic() + REQUEST_S
    while True:
        try:
            answers = consumer.committed(partitions, timeout=REQUEST_S)
        except KafkaException as error:
            if error.args[0].code() not in SETTLING or time.monotonic() > end_s:
                raise
            time.sleep(0.1)
        else:
            return {tp.partition: tp.offset for tp in answers}


def _marks(consumer: Consumer, partitions: Iterable[TopicPartition]) -> dict[int, tuple[int, int]]:
    # AdminClient.list_offsets would ask for all at once, but fails where a leader is not known yet.
    return {
        tp.partition: consumer.get_watermark_offsets(tp, timeout=REQUEST_S) for tp in partitions
    }


def _results(futures: "Mapping[K, Future[T]]", what: str) -> dict[K, T]:
    """Wait for all answers, then give them or raise the first error."""
    wait(futures.values(), REQUEST_S + 1)
    try:
        return {key: future.result(0) for key, future in futures.items()}
    except KafkaException as error:
        raise translated(error, what) from None


def translated(error: KafkaException, what: str) -> RiskwireError:
    """Return ours for Kafka's: ConfigError where another try would meet the same refusal."""
    cause: KafkaError = error.args[0]
    kind = ConfigError if cause.code() in REFUSALS else BrokerUnavailable
    return kind(f"{what}: {cause.str()}")
