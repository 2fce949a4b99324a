"""Which partitions of companion topics come and go with those of the leading one."""

import structlog

from app.adapters.companions import Companions
from app.errors import BrokerUnavailable


class Broker:
    """Counts partitions, and how often it was asked."""

    def __init__(self, **topics: int) -> None:
        self.topics, self.asked, self.away = topics, 0, False

    def count(self, topic: str) -> int:
        """See `Companions`."""
        self.asked += 1
        if self.away:
            raise BrokerUnavailable("away")
        return self.topics.get(topic, 0)


def test_the_same_numbers_of_every_companion_join_and_leave() -> None:
    """Only the leading topic's partitions count, and of what leaves only what is owned."""
    broker = Broker(b=4, c=4)
    companions = Companions("a", ["b", "c"], broker.count)
    assert companions.joining([("a", 2), ("other", 1), ("a", 0)]) == [
        ("b", 2), ("b", 0), ("c", 2), ("c", 0),
    ]  # fmt: skip
    owned = {("a", 2), ("b", 2), ("c", 0)}
    assert companions.leaving([("a", 2), ("other", 0)], owned) == [("b", 2)]


def test_a_topic_is_asked_for_once() -> None:
    """A rebalance costs no request once the topic is known to be long enough."""
    broker = Broker(b=4)
    companions = Companions("a", ["b"], broker.count)
    for partition in (0, 3, 1):
        assert companions.joining([("a", partition)]) == [("b", partition)]
    assert companions.joining([]) == []
    assert broker.asked == 1


def test_a_topic_too_short_is_asked_for_again() -> None:
    """What `topics apply` added meanwhile joins with the next assignment."""
    broker = Broker(b=2)
    companions = Companions("a", ["b"], broker.count)
    with structlog.testing.capture_logs() as logs:
        assert companions.joining([("a", 1), ("a", 2)]) == [("b", 1)]
    assert [(line["topic"], line["partitions"]) for line in logs] == [("b", [2])]
    assert "riskwire topics apply" in logs[0]["event"]
    broker.topics["b"] = 4
    assert companions.joining([("a", 2)]) == [("b", 2)]


def test_what_cannot_be_looked_up_joins_all_the_same() -> None:
    """A broker that does not answer in the middle of a rebalance raises nothing there."""
    broker = Broker(b=2)
    broker.away = True
    companions = Companions("a", ["b"], broker.count)
    with structlog.testing.capture_logs() as logs:
        assert companions.joining([("a", 1), ("a", 2)]) == [("b", 1), ("b", 2)]
    assert logs[0]["error"] == "away"


def test_without_companions_nothing_is_asked() -> None:
    """Nothing joins, nothing leaves."""
    broker = Broker()
    companions = Companions("a", [], broker.count)
    assert companions.joining([("a", 1)]) == [] == companions.leaving([("a", 1)], {("a", 1)})
    assert broker.asked == 0
