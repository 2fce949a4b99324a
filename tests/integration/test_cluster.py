"""The real Kafka and Redis that the tests and the benchmark use."""

import redis
from confluent_kafka import Consumer, TopicPartition

from app.adapters.admin import answers, create_topics, fill
from app.demo.cluster import Kafka, OwnKafka
from app.demo.redis_local import RedisServer
from tests.integration.conftest import MakeTopic

RECORDS = [(b"alice", b"1"), (b"bob", b"2"), (b"carol", b"3")]


def _read(bootstrap: str, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """All records of a topic with one partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 2})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(len(RECORDS), timeout=20)
        return [(message.key(), message.value()) for message in messages]
    finally:
        consumer.close()


def test_broker_gives_records_back(kafka: Kafka, topic: MakeTopic) -> None:
    """What is produced is consumed, in order, with its keys."""
    name = topic(partitions=1)
    assert fill(kafka.bootstrap, name, RECORDS) == len(RECORDS)
    assert _read(kafka.bootstrap, name) == RECORDS


def test_topics_are_made_as_asked(kafka: Kafka, topic: MakeTopic) -> None:
    """Making a topic that is there already changes nothing and is no error."""
    name = topic(partitions=2, message_timestamp_type="LogAppendTime")
    create_topics(kafka.bootstrap, {name: 2})


def test_broker_keeps_its_data_over_stop_and_kill(own_kafka: OwnKafka) -> None:
    """Stopped or killed it is away; started again it has the same address and the same records."""
    create_topics(own_kafka.bootstrap, {"kept": 1})
    fill(own_kafka.bootstrap, "kept", RECORDS)
    for end in (own_kafka.stop, own_kafka.kill):
        end()
        assert not answers(own_kafka.bootstrap, timeout_s=0.5)
        own_kafka.start()
        assert _read(own_kafka.bootstrap, "kept") == RECORDS


def test_real_redis_answers(redis_url: str, own_redis: RedisServer) -> None:
    """The shared Redis and one of our own are real ones and two different ones."""
    with redis.Redis.from_url(redis_url) as shared, redis.Redis.from_url(own_redis.url) as own:
        run_ids = {client.info("server")["run_id"] for client in (shared, own)}
    assert len(run_ids) == 2
