"""Lane: the floor of latency, two hops and no work: what comes in goes out, with its key.

Under exactly once each batch and its offsets are a transaction, begun as soon as the last one is
over. Prints `{"ready": true}` when it reads, and ends when it has sent `--n` records.
"""

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from app.bench.lanes.lane import CONSUMER_OPTIONS, Task, task
from app.bench.lanes.paced import say

RECORDS_MAX = 2048
CALL_S = 30.0


def main(wanted: Task) -> None:
    """Read all partitions from their beginning and send what comes."""
    once = wanted.delivery == "exactly_once"
    at = {"bootstrap.servers": wanted.bootstrap}
    consumer = Consumer({**CONSUMER_OPTIONS, **at, "group.id": wanted.group})
    partitions = consumer.list_topics(wanted.topic, timeout=CALL_S).topics[wanted.topic].partitions
    consumer.assign([TopicPartition(wanted.topic, p, 0) for p in partitions])
    named = {"transactional.id": wanted.group} if once else {}
    producer = Producer({**at, **named, "acks": "all", "enable.idempotence": True, "linger.ms": 1})
    if once:
        producer.init_transactions(CALL_S)
    consumer.poll(0.5)
    say(ready=True)
    sent = 0
    while sent < wanted.n:
        if (first := consumer.poll(0.1)) is None:
            continue
        messages = [first, *consumer.consume(RECORDS_MAX - 1, 0)]
        if once:
            producer.begin_transaction()
        for message in messages:
            _send(producer, wanted.scores, message)
        producer.poll(0)
        if once:
            producer.flush(CALL_S)  # offsets beside records meet each other at the broker: 100 ms
            ends = {message.partition() or 0: message.offset() or 0 for message in messages}
            offsets = [TopicPartition(wanted.topic, p, last + 1) for p, last in ends.items()]
            group = consumer.consumer_group_metadata()
            producer.send_offsets_to_transaction(offsets, group, CALL_S)
            producer.commit_transaction(CALL_S)
        sent += len(messages)
    producer.flush(CALL_S)
    consumer.close()


def _send(producer: Producer, topic: str, message: Message) -> None:
    while True:
        try:
            producer.produce(topic, message.value(), message.key(), message.partition() or 0)
        except BufferError:
            producer.poll(0.01)
        else:
            return


if __name__ == "__main__":
    main(task())
