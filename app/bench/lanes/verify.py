"""Not a lane but their judge: counts an output topic and hashes what the first scores say.

Reads committed records, as a consumer downstream would. Prints one line of JSON: `records`;
`complete`, true where each partition's last score is of the input offset that its count says, so
none is missing or doubled; and by partition `digests` of its first scores (input position, score,
decision, vector hash), which two lanes that computed the same have in common. A partition of which
a lane read less has none.
"""

import argparse
import hashlib
import io
import json
import sys
from typing import Any

import fastavro
from confluent_kafka import Consumer, TopicPartition

import schemas
from app.adapters.topics import AT_END

HASHED_PER_PARTITION = 1000
FRAMING_BYTES = 10
SAME = ("source_partition", "source_offset", "score", "decision", "vector_hash")
OPTIONS: dict[str, str | int | bool] = {
    "group.id": "verify",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
}


def main(bootstrap: str, topic: str) -> None:
    """Read the topic to its end."""
    consumer = Consumer({**OPTIONS, "bootstrap.servers": bootstrap})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    open_ones = set(partitions)
    count: dict[Any, int] = dict.fromkeys(partitions, 0)
    last: dict[Any, bytes | None] = {}
    first: dict[Any, list[tuple[Any, ...]]] = {p: [] for p in partitions}
    while open_ones:
        for message in consumer.consume(10_000, 0.2):
            partition = message.partition()
            error = message.error()
            if error is None:
                count[partition] += 1
                last[partition] = value = message.value()
                if len(first[partition]) < HASHED_PER_PARTITION:
                    first[partition].append(says(value))
            elif error.code() == AT_END:
                open_ones.discard(partition)
    consumer.close()
    digests = {
        str(partition): hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()[:16]
        for partition, rows in sorted(first.items())
        if len(rows) == HASHED_PER_PARTITION
    }
    line = {
        "records": sum(count.values()),
        "complete": all(says(value)[1] == count[p] - 1 for p, value in last.items()),
        "digests": digests,
    }
    sys.stdout.write(json.dumps(line) + "\n")


def says(value: bytes | None) -> tuple[Any, ...]:
    """What a score says, without who said it and when; ValueError for what is no score."""
    stream = io.BytesIO(value or b"")
    if stream.read(FRAMING_BYTES) != schemas.load("risk_score").single_object_header:
        raise ValueError("a value has not the framing and fingerprint of RiskScore")
    score: Any = fastavro.schemaless_reader(stream, schemas.load("risk_score").parsed, None)
    return tuple(score[name] for name in SAME)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    wanted = parser.parse_args()
    main(wanted.bootstrap, wanted.topic)
