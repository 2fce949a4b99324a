"""What the demo, the tests and the benchmarks ask of a cluster: is it there, make topics, fill one.

Takes bootstrap addresses and plain values, gives plain values. Foreign errors leave as
BrokerUnavailable. Nothing here is on a worker's way.
"""

import contextlib
import time
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.adapters.topics import translated
from app.errors import BrokerUnavailable

REQUEST_S = 30.0
BATCH_RECORDS = 10_000


def answers(bootstrap: str, timeout_s: float = 2.0) -> bool:
    """Whether a broker answers a metadata request and names itself."""
    with contextlib.suppress(KafkaException):
        return bool(_client(bootstrap).list_topics(timeout=timeout_s).brokers)
    return False


def create_topics(
    bootstrap: str, partitions: Mapping[str, int], config: Mapping[str, str] | None = None
) -> None:
    """Make topics with these partition counts and wait until they can be used; existing ones stay.

    The mock cluster ignores this request: use its own `create_topic`.
    """
    admin = _client(bootstrap)
    wanted = [
        NewTopic(name, count, 1, config=dict(config or {})) for name, count in partitions.items()
    ]
    for name, future in admin.create_topics(wanted, request_timeout=REQUEST_S).items():
        try:
            future.result(REQUEST_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translated(error, f"topic {name}") from None
    end = time.monotonic() + REQUEST_S
    while any(_partitions(admin, name) < count for name, count in partitions.items()):
        if time.monotonic() > end:
            raise BrokerUnavailable(f"topics {sorted(partitions)} did not appear")
        time.sleep(0.02)


def delete_topics(bootstrap: str, names: Iterable[str]) -> None:
    """Remove topics; one that is gone already is no error."""
    admin = _client(bootstrap)
    for name, future in admin.delete_topics(list(names), request_timeout=REQUEST_S).items():
        try:
            future.result(REQUEST_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise translated(error, f"topic {name}") from None


def fill(
    bootstrap: str,
    topic: str,
    records: Iterable[tuple[bytes, bytes]],
    options: Mapping[str, str] | None = None,
) -> int:
    """Produce (key, value) records by Java's partitioner and wait for all of them; the count."""
    failed: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "queue.buffering.max.messages": 500_000,
            "log_level": 2,
            **(options or {}),
        }
    )

    def reported(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failed.append(error.str())

    count = 0
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=reported)
                break
            except BufferError:
                producer.poll(0.05)
        count += 1
        if count % BATCH_RECORDS == 0:
            producer.poll(0)
    left = producer.flush(60)
    if left or failed:
        raise BrokerUnavailable(f"{topic}: {left} records not sent, {len(failed)} refused")
    return count


def _client(bootstrap: str) -> AdminClient:
    # Level 2: a broker that is not up yet, or just went, is expected here and is no news.
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})


def _partitions(admin: AdminClient, topic: str) -> int:
    try:
        found = admin.list_topics(topic, timeout=REQUEST_S).topics[topic]
    except KafkaException as error:
        raise translated(error, f"topic {topic}") from None
    leaders = [p for p in found.partitions.values() if p.leader >= 0 and p.error is None]
    return len(leaders) if found.error is None else 0
