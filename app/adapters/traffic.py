"""Send simulated traffic, open loop: every record at its own time, however the cluster does.

In: records with the instant at which each is due. Out: how many were sent and how late the worst
one left; a sender that cannot keep up is late, it never thins out the load. Raises
BrokerUnavailable where not all could be delivered, ConfigError for options that librdkafka refuses
and for a topic that is not there.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from app.adapters.topics import REQUEST_S, translated
from app.config import Settings
from app.demo.traffic import Due
from app.errors import BrokerUnavailable, ConfigError

FLUSH_S = 30.0
# No shorter, or the sender burns a core: records that come due in one nap leave together.
NAP_S_MIN = 0.0003
NAP_S_MAX = 0.005
QUEUE_FULL_WAIT_S = 0.01


@dataclass(slots=True)
class Sent:
    """What became of the traffic so far.

    `late_us_max` is the longest time from due to handed over, `spent_s` the time from the first
    record's due time to the last acknowledgement.
    """

    records: int = 0
    refused: int = 0
    late_us_max: int = 0
    spent_s: float = 0.0


def send(
    settings: Settings,
    traffic: Iterable[Due],
    on_progress: Callable[[Sent], None] = lambda _sent: None,
    role: Literal["transactions", "labels"] = "transactions",
) -> Sent:
    """Send to an input topic until the traffic ends; waiting, call `on_progress`."""
    sent = Sent()
    causes: list[str] = []

    def reported(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            sent.refused += 1
            causes.append(error.str())

    producer = _producer(settings)
    topic = settings.topic(role)
    _connect(producer, topic)
    first_us = 0
    for record in traffic:
        first_us = first_us or record.due_us
        _wait(producer, record.due_us, sent, on_progress)
        sent.late_us_max = max(sent.late_us_max, _now_us() - record.due_us)
        _produce(producer, topic, record, reported)
        sent.records += 1
    left = producer.flush(FLUSH_S)
    if left or sent.refused:
        cause = f": {causes[0]}" if causes else ""
        raise BrokerUnavailable(
            f"{topic}: {left + sent.refused} of {sent.records} records were not delivered{cause}"
        )
    sent.spent_s = (_now_us() - first_us) / 1e6
    on_progress(sent)
    return sent


def _producer(settings: Settings) -> Producer:
    options: dict[str, str | bool] = {
        "acks": "all",
        "enable.idempotence": "true",
        "linger.ms": "1",
        "queue.buffering.max.messages": "500000",
        "delivery.report.only.error": True,
        "log_level": "0",
        **settings.client_options(),
        **settings.producer_options,
        # The partition decides whose history a payment meets: not for the options to change.
        "partitioner": "murmur2_random",
    }
    try:
        return Producer(options)
    except KafkaException as error:
        raise ConfigError(f"RISKWIRE_PRODUCER_OPTIONS: {error.args[0].str()}") from None


def _connect(producer: Producer, topic: str) -> None:
    """Find the topic before the first record is due; raises ConfigError where there is none."""
    try:
        found = producer.list_topics(topic, timeout=REQUEST_S).topics[topic]
    except KafkaException as error:
        raise translated(error, topic) from None
    if found.error is not None:
        raise ConfigError(f"topic {topic}: {found.error.str()}; see `riskwire topics apply`")


def _wait(producer: Producer, due_us: int, sent: Sent, on_progress: Callable[[Sent], None]) -> None:
    while (ahead_s := (due_us - _now_us()) / 1e6) > 0:
        on_progress(sent)
        producer.poll(0)
        time.sleep(min(max(ahead_s, NAP_S_MIN), NAP_S_MAX))


def _produce(
    producer: Producer,
    topic: str,
    record: Due,
    reported: Callable[[KafkaError | None, Message], None],
) -> None:
    while True:
        try:
            producer.produce(topic, record.value, record.key, on_delivery=reported)
        except BufferError:
            producer.poll(QUEUE_FULL_WAIT_S)
        else:
            return


def _now_us() -> int:
    return time.time_ns() // 1000
