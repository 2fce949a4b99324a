"""Partitions whose next batch the client cannot read: damaged, or too large once decompressed.

librdkafka asks for such a batch again and again, so its partition stands still until somebody moves
the group's offset beyond it; all others go on. That must not pass unseen.
"""

from collections.abc import Iterable

import structlog

from app.records import RecordBatch

UNREADABLE = frozenset({-199, -198, 2, 10})
"""librdkafka's and Kafka's codes: a wrong checksum (two), no decompression, too large."""

log = structlog.get_logger("riskwire.kafka")


class Unreadable:
    """What a consumer could not read, until it can."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.why: dict[tuple[str, int], str] = {}

    def failed(self, topic: str, partition: int, why: str) -> None:
        """Remember why a partition cannot be read, and say so once."""
        if (topic, partition) not in self.why:
            log.error("a partition cannot be read", topic=topic, partition=partition, why=why)
        self.why[topic, partition] = why

    def came(self, batches: Iterable[RecordBatch]) -> None:
        """Forget partitions of which records came."""
        if self.why:
            for batch in batches:
                for partition in set(batch.partition.tolist()):
                    self.why.pop((batch.topic, partition), None)

    def left(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Forget partitions that are somebody else's now."""
        for at in partitions:
            self.why.pop(at, None)
