"""Topics read beside the subscribed one: who owns transactions-N reads labels-N too.

librdkafka's cooperative assignor places every partition by itself, so companions are not subscribed
to: inside the rebalance that gives or takes a partition of the leading topic, the sources assign or
give up the same number of each companion. Only partitions that exist join; nothing here raises.
"""

from collections.abc import Callable, Collection, Sequence

import structlog

from app.errors import BrokerUnavailable

log = structlog.get_logger("riskwire.kafka")
Position = tuple[str, int]


class Companions:
    """Which partitions come and go together with those of the leading topic."""

    def __init__(self, leader: str, topics: Sequence[str], count: Callable[[str], int]) -> None:
        """`count` asks the broker for a topic's partitions (0: no topic), or BrokerUnavailable."""
        self._leader, self._topics, self._count = leader, topics, count
        self._known: dict[str, int] = {}

    def joining(self, assigned: Sequence[Position]) -> list[Position]:
        """What is to be assigned besides; a companion that lacks partitions is said in the log."""
        wanted = [partition for topic, partition in assigned if topic == self._leader]
        return [(topic, p) for topic in self._topics for p in self._there(topic, wanted)]

    def leaving(self, revoked: Sequence[Position], owned: Collection[Position]) -> list[Position]:
        """What is to be given up besides, of what is owned."""
        gone = [partition for topic, partition in revoked if topic == self._leader]
        return [(topic, p) for topic in self._topics for p in gone if (topic, p) in owned]

    def _there(self, topic: str, wanted: list[int]) -> list[int]:
        if max(wanted, default=-1) < self._known.get(topic, 0):  # partitions are never taken away
            return wanted
        try:
            count = self._known[topic] = self._count(topic)
        except BrokerUnavailable as error:
            # Assigned all the same: librdkafka fetches those that are there once it can.
            log.warning("a companion topic cannot be looked up", topic=topic, error=str(error))
            return wanted
        if missing := [partition for partition in wanted if partition >= count]:
            log.warning(
                "companion topic lacks partitions, which are not read;"
                " run `riskwire topics apply` and start the workers again",
                topic=topic,
                partitions=missing,
            )
        return [partition for partition in wanted if partition < count]
