"""Transactions in doubt on a real Kafka: an EndTxn is held back and arrives in the next one.

KAFKA-17754: our clients and the broker speak a protocol in which a late EndTxn ends whatever
transaction its producer has open when it arrives.
"""

import struct
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from app.adapters.admin import create_topics
from app.adapters.transport import open_source, open_transactor
from app.chaos.proxy import Proxy
from app.config import Settings, load_settings
from app.demo.cluster import Kafka
from app.errors import BrokerUnavailable
from app.ports import Transactor
from app.records import Columns, Outbound, Ragged
from tests.integration.test_transport import Listener

Proxied = tuple[Kafka, Proxy]
ROLES = ("TRANSACTIONS", "LABELS", "SCORES", "ALERTS", "DEAD_LETTERS", "WATERMARKS")
OPTIONS = '{"socket.timeout.ms": "1000"}'
FENCED = ([47], [90])
"""INVALID_PRODUCER_EPOCH and PRODUCER_FENCED."""
ROUNDS = 3
LIMIT_S = 30.0
both = pytest.mark.parametrize("transport", ["native", "objects"])


def until(met: Callable[[], bool], what: str = "") -> None:
    """Wait for a condition, not for ever."""
    end = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def code(answer: bytes) -> int:
    """The error code in an answer to EndTxn: length, correlation id, throttle time, code."""
    found: tuple[int] = struct.unpack(">h", answer[12:14])
    return found[0]


@pytest.fixture
def settings(proxied: Proxied) -> Settings:
    """Clients of the proxy, which do not wait long for an answer."""
    broker, proxy = proxied
    topic = f"out-{uuid.uuid4().hex[:8]}"
    create_topics(broker.bootstrap, {topic: 1}, {})
    return load_settings(
        bootstrap_servers=f"127.0.0.1:{proxy.port}",
        topic_scores=topic,
        group_id=topic,
        producer_options={"socket.timeout.ms": "1000"},
    )


def visible(broker: Kafka, topic: str) -> list[bytes | None]:
    """What a read_committed reader sees of a topic's partition 0."""
    options = {"isolation.level": "read_committed", "enable.partition.eof": "true"}
    with closing(
        Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "r", **options})
    ) as reader:
        reader.assign([TopicPartition(topic, 0, 0)])
        found = []
        while (message := reader.poll(10)) is not None and not message.error():
            found.append(message.value())
        return found


@both
@pytest.mark.parametrize("lost", ["timed out", "connection reset"])
def test_a_commit_that_librdkafka_sent_twice_is_in_doubt(
    proxied: Proxied, settings: Settings, transport: str, lost: str
) -> None:
    """Though it reports success, and rightly: the first one may still arrive, at any time."""
    broker, proxy = proxied
    topic = settings.topic("scores")
    with ExitStack() as stack:
        source = stack.enter_context(closing(open_source(settings, transport, Listener())))
        source.poll(1, 100, 0)

        def transact(transactor: Transactor, value: bytes) -> None:
            columns = Columns(topic, np.zeros(1, np.int32), Ragged.of([b"k"]), Ragged.of([value]))
            outbound = Outbound((columns,), (), topic)
            transactor.transact([outbound], {(topic, 0): 1}, source.group_metadata())

        transactor = open_transactor(settings, transport, f"{topic}.w1.a")
        stack.callback(transactor.close, 0)
        transact(transactor, b"first")
        assert not transactor.is_troubled()
        proxy.hold_end_txn()
        if lost == "connection reset":
            threading.Thread(target=_hang_up_once_held, args=(proxy,), daemon=True).start()
        with pytest.raises(BrokerUnavailable, match="in a transaction"):
            transact(transactor, b"twice")
        assert transactor.is_troubled()
        assert visible(broker, topic) == [b"first", b"twice"]
        open_transactor(settings, transport, f"{topic}.w1.a").close(0)
        assert [code(answer) for answer in proxy.release()] in FENCED


def _hang_up_once_held(proxy: Proxy) -> None:
    until(lambda: proxy.held == 1)
    proxy.hang_up()
